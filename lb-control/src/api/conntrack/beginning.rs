//! A connection that is to be, without a packet.

use std::net::IpAddr;

use lb_core::conntrack::{self, Status, Zones, icmp};
use lb_core::flow::{Direction, Tuple};
use lb_core::nat::Range;
use lb_core::path::Beginning;
use lb_core::tables::Protocol;
use lb_core::time::Timeout;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::change::settable;
use super::{Ends, Statuses, labels};

/// Body of `POST /v1/conntrack`: a connection of no virtual service that is to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConntrackNew {
    /// The IP protocol's number.
    pub protocol: u8,
    pub original: Ends,
    /// What answers look like. Not there: the original direction reversed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Ends>,
    /// Seconds until it ends if nothing comes, at most 2678400.
    pub timeout: u32,
    /// Of TCP and SCTP, by netfilter's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `SEEN_REPLY`, `ASSURED`, `FIXED_TIMEOUT`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub status: Option<Statuses>,
    #[serde(default)]
    pub mark: u32,
    /// Labels that it has, by number: 0 to 127.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<u8>,
    /// Of both directions. One of the three at most.
    #[serde(default)]
    pub zone: u16,
    /// Of the original direction alone.
    #[serde(default)]
    pub orig_zone: u16,
    /// Of the reply direction alone.
    #[serde(default)]
    pub reply_zone: u16,
    /// What the source becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_nat: Option<NatEnd>,
    /// What the destination becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst_nat: Option<NatEnd>,
    /// Of SCTP: the verification tags of packets of the original direction, and of the reply direction.
    #[serde(default)]
    pub tags: [u32; 2],
}

/// What an end is translated to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NatEnd {
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Not there: its own, or of a source another one if that is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ConntrackNew {
    /// What the workers are to enter: the original direction, its zones, and the rest.
    ///
    /// # Errors
    /// What cannot be.
    pub fn read(&self) -> Result<(Tuple, Zones, Beginning), String> {
        let ConntrackNew { original, mark, tags, .. } = *self;
        let protocol = Protocol(self.protocol);
        let reply = self.reply.unwrap_or(Ends {
            src: original.dst,
            dst: original.src,
            sport: original.dport,
            dport: original.sport,
        });
        let tuple = |Ends { src, dst, sport, dport }: Ends| Tuple { src, dst, sport, dport, protocol };
        self.check_ports(&[original, reply])?;
        if self.timeout > Timeout::MAX_SECS {
            return Err(format!("timeout {} is outside 0..={}", self.timeout, Timeout::MAX_SECS));
        }
        let state =
            conntrack::state_named(protocol, self.state.as_deref()).ok_or_else(|| match &self.state {
                Some(state) => format!("state {state}: protocol {} has none of that name", self.protocol),
                None => format!("a connection of protocol {} begins in a state", self.protocol),
            })?;
        let mut status = Status::NONE;
        for &bit in self.status.iter().flat_map(|all| &all.0) {
            let known = settable(bit);
            status.set(known.ok_or_else(|| {
                format!("status {bit} cannot be set; SEEN_REPLY, ASSURED and FIXED_TIMEOUT can")
            })?);
        }
        let nat = |to: Option<NatEnd>, end: &str| match to {
            Some(NatEnd { address, .. }) if address.is_ipv4() != original.src.is_ipv4() => {
                Err(format!("{end} {address} is of the other family"))
            }
            Some(NatEnd { address, port }) => {
                Ok(Some(Range { ports: port.map(|port| (port, port)), ..Range::to(address) }))
            }
            None => Ok(None),
        };
        let nat = [nat(self.dst_nat, "dst_nat")?, nat(self.src_nat, "src_nat")?];
        let timeout = Timeout::from_secs(self.timeout);
        let labels = labels(&self.labels)?;
        let beginning = Beginning { reply: tuple(reply), nat, state, tags, status, mark, labels, timeout };
        Ok((tuple(original), self.zones()?, beginning))
    }

    fn check_ports(&self, both: &[Ends; 2]) -> Result<(), String> {
        let [original, reply] = both;
        match Protocol(self.protocol) {
            protocol if protocol.has_ports() => Ok(()),
            protocol @ (Protocol::ICMP | Protocol::ICMPV6) => {
                let is_ipv6 = protocol == Protocol::ICMPV6;
                let [kind, _] = original.dport.to_be_bytes();
                let is_answer = (reply.sport, reply.dport) == (original.dport, original.sport);
                match icmp::is_question(is_ipv6, kind) && is_answer && original.src.is_ipv6() == is_ipv6 {
                    true => Ok(()),
                    false => Err(format!("ICMP type {kind}: no question that is answered so")),
                }
            }
            _ if [original, reply].iter().all(|ends| (ends.sport, ends.dport) == (0, 0)) => Ok(()),
            _ => Err(format!("connections of protocol {} are known by their addresses alone", self.protocol)),
        }
    }

    fn zones(&self) -> Result<Zones, String> {
        match (self.zone, self.orig_zone, self.reply_zone) {
            (zone, 0, 0) => Ok(Zones::new(zone, None)),
            (0, zone, 0) => Ok(Zones::new(zone, Some(Direction::Original))),
            (0, 0, zone) => Ok(Zones::new(zone, Some(Direction::Reply))),
            _ => Err("zone, orig_zone, reply_zone: a connection has one of them".to_owned()),
        }
    }
}
