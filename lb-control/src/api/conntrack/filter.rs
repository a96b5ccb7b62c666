//! Which connections a request is about.

use std::net::IpAddr;

use lb_core::flow::Direction;
use lb_core::path::{Sought, SoughtEnd, SoughtKind, state_named};
use lb_core::tables::Protocol;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::{Family, LabelBits, Masked, NatTo, Net, StatusBit, Statuses, Tracked};
use crate::api::query::query;

/// Which connections are meant: those that all that is given fits.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// `ipv4` or `ipv6`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub family: Option<Family>,
    /// the IP protocol's number
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// source of the original direction: an address, with `/24` or `/255.255.255.0` a network
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub src: Option<Net>,
    /// destination of the original direction
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub dst: Option<Net>,
    /// source of the reply direction
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub reply_src: Option<Net>,
    /// destination of the reply direction
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub reply_dst: Option<Net>,
    /// ports, of protocols that have some
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_sport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_dport: Option<u16>,
    /// of the question
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_id: Option<u16>,
    /// such as `ESTABLISHED`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// all of these, with commas between: `SEEN_REPLY,ASSURED`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub status: Option<Statuses>,
    /// a number, with `/` and a mask only those bits
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub mark: Option<Masked>,
    /// all of these, by number, with commas between: `5,127`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub labels: Option<LabelBits>,
    /// of both directions
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<u16>,
    /// of the original direction alone; 0: of those that have none of the kind
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orig_zone: Option<u16>,
    /// as `orig_zone`, of the reply direction
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_zone: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// `any`: whose source is translated; an address: to that
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub src_nat: Option<NatTo>,
    /// as `src_nat`, of the destination
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub dst_nat: Option<NatTo>,
    /// one of the two
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub any_nat: Option<NatTo>,
}

impl Filter {
    /// Whether it fits one that is known by its line.
    pub fn matches(&self, tracked: &Tracked) -> bool {
        let Tracked { original, reply, .. } = tracked;
        let is = |wanted: Option<u16>, has: u16| wanted.is_none_or(|wanted| wanted == has);
        let within = |wanted: &Option<Net>, address: IpAddr| wanted.is_none_or(|net| net.contains(address));
        self.protocol.is_none_or(|protocol| protocol == tracked.protocol)
            && self.family.is_none_or(|family| (family == Family::Ipv6) == tracked.is_ipv6())
            && within(&self.src, original.src)
            && within(&self.dst, original.dst)
            && within(&self.reply_src, reply.src)
            && within(&self.reply_dst, reply.dst)
            && is(self.sport, original.sport)
            && is(self.dport, original.dport)
            && is(self.reply_sport, reply.sport)
            && is(self.reply_dport, reply.dport)
            && self.matches_icmp(tracked)
            && self.state.as_ref().is_none_or(|state| tracked.state.as_ref() == Some(state))
            && self.status.as_ref().is_none_or(|all| all.0.iter().all(|&bit| tracked.has(bit)))
            && self.mark.is_none_or(|mark| tracked.mark & mark.mask == mark.value & mark.mask)
            && self.labels.is_none_or(|all| all.0.bits().all(|bit| tracked.labels.contains(&bit)))
            && is(self.zone, tracked.zone)
            && is(self.orig_zone, tracked.orig_zone)
            && is(self.reply_zone, tracked.reply_zone)
            && self.id.is_none_or(|id| id == tracked.id)
            && self.matches_nat(tracked)
    }

    fn matches_icmp(&self, tracked: &Tracked) -> bool {
        if (self.icmp_type, self.icmp_code, self.icmp_id) == (None, None, None) {
            return true;
        }
        let Some((kind, code, id)) = tracked.icmp(Direction::Original) else { return false };
        self.icmp_type.is_none_or(|wanted| wanted == kind)
            && self.icmp_code.is_none_or(|wanted| wanted == code)
            && self.icmp_id.is_none_or(|wanted| wanted == id)
    }

    fn matches_nat(&self, tracked: &Tracked) -> bool {
        let Tracked { original, reply, .. } = tracked;
        let is_source = (original.src, original.sport) != (reply.dst, reply.dport);
        let is_destination = (original.dst, original.dport) != (reply.src, reply.sport);
        let source = |to: NatTo| is_source && to.is(reply.dst);
        let destination = |to: NatTo| is_destination && to.is(reply.src);
        self.src_nat.is_none_or(source)
            && self.dst_nat.is_none_or(destination)
            && self.any_nat.is_none_or(|to| source(to) || destination(to))
    }

    /// The same as the workers compare it.
    pub fn sought(&self) -> Sought {
        let end = |net: Option<Net>, port| SoughtEnd { net: net.map(|net| (net.address, net.mask)), port };
        let mut sought = Sought {
            kind: SoughtKind::Connections,
            is_ipv6: self.family.map(|family| family == Family::Ipv6),
            protocol: self.protocol.map(Protocol),
            original: [end(self.src, self.sport), end(self.dst, self.dport)],
            reply: [end(self.reply_src, self.reply_sport), end(self.reply_dst, self.reply_dport)],
            mark: self.mark.map(|mark| (mark.value, mark.mask)),
            labels: self.labels.map(|all| all.0).unwrap_or_default(),
            zones: [self.zone, self.orig_zone, self.reply_zone],
            icmp: (self.icmp_type, self.icmp_code, self.icmp_id),
            nat: [self.src_nat, self.dst_nat, self.any_nat].map(|to| to.map(NatTo::sought)),
            id: self.id,
            ..Sought::default()
        };
        if let Some(name) = &self.state {
            sought.state = state_named(name);
            // No connection is in a state that there is not.
            if sought.state.is_none() {
                sought.kind = SoughtKind::Nothing;
            }
        }
        for bit in self.status.iter().flat_map(|all| &all.0) {
            match bit.of_netfilter() {
                Some(known) => sought.status.set(known),
                None if *bit == StatusBit::Unreplied => sought.is_unreplied = true,
                None => sought.kind = SoughtKind::Nothing,
            }
        }
        sought
    }

    /// As the query of an address: `?protocol=6&sport=80`; empty when all are meant.
    pub fn query(&self) -> String {
        query(self)
    }
}
