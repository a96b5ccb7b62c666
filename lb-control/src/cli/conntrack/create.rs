//! The connection that `-I` and `-A` describe, from what was given. Which direction is taken from the other, and what of it is refused, is
//! recorded from conntrack 1.4.7.

use std::net::IpAddr;

use lb_core::conntrack::Labels;
use lb_core::tables::Protocol;

use super::Stop;
use super::options::Verb;
use crate::api::conntrack::{ConntrackNew, Ends, Filter, NatEnd, NatTo, Net, StatusBit, Statuses};

const DCCP: u8 = 33;

/// What was given beside what a [`Filter`] has.
#[derive(Clone, Default)]
pub(super) struct Beside {
    pub(super) timeout: Option<u32>,
    /// Behind the addresses of `-n` and `-g`.
    pub(super) ports: [Option<u16>; 2],
    pub(super) tags: [u32; 2],
    /// Labels that are set, and that are taken away.
    pub(super) label_add: Option<Labels>,
    pub(super) label_del: Option<Labels>,
}

/// What a command line describes; `None`: nothing that could be.
pub(super) fn read(filter: &Filter, beside: &Beside) -> Option<ConntrackNew> {
    let protocol = filter.protocol?;
    let (original, reply) = both_ends(filter, protocol)?;
    let zones = [filter.zone, filter.orig_zone, filter.reply_zone].map(Option::unwrap_or_default);
    if zones.iter().filter(|&&zone| zone != 0).count() > 1 {
        return None;
    }
    let nat = |to: Option<NatTo>, port| match to {
        Some(NatTo::Address(address)) => Some(NatEnd { address, port }),
        Some(NatTo::Any) | None => None,
    };
    let mut bits = filter.status.clone().map(|all| all.0).unwrap_or_default();
    // It is no bit that could be set.
    bits.retain(|&bit| bit != StatusBit::Unreplied);
    Some(ConntrackNew {
        protocol,
        original,
        reply,
        timeout: beside.timeout?,
        state: filter.state.clone().filter(|_| protocol != DCCP),
        status: (!bits.is_empty()).then_some(Statuses(bits)),
        mark: filter.mark.map_or(0, |mark| mark.value),
        labels: beside.label_add.unwrap_or_default().bits().collect(),
        zone: zones[0],
        orig_zone: zones[1],
        reply_zone: zones[2],
        src_nat: nat(filter.src_nat, beside.ports[0]),
        dst_nat: nat(filter.dst_nat, beside.ports[1]),
        tags: beside.tags,
    })
}

/// Both directions, or the original one alone, which the other follows from; of one of which the reply alone is given it is that reversed.
fn both_ends(filter: &Filter, protocol: u8) -> Option<(Ends, Option<Ends>)> {
    let address = |net: Option<Net>| net.map(|net| net.address);
    let original = (address(filter.src), address(filter.dst));
    let reply = (address(filter.reply_src), address(filter.reply_dst));
    let whole = |(src, dst): (Option<IpAddr>, Option<IpAddr>), sport, dport| {
        Some(Ends { src: src?, dst: dst?, sport, dport })
    };
    let has_original = original.0.is_some() || original.1.is_some();
    let has_reply = reply.0.is_some() || reply.1.is_some();
    let (sport, dport) = match Protocol(protocol) {
        Protocol::ICMP | Protocol::ICMPV6 => {
            let question = [filter.icmp_type?, filter.icmp_code.unwrap_or_default()];
            (filter.icmp_id.unwrap_or_default(), u16::from_be_bytes(question))
        }
        // As in Linux since 6.16, which knows DCCP's connections by their addresses.
        _ if protocol == DCCP => (0, 0),
        _ => (filter.sport.unwrap_or_default(), filter.dport.unwrap_or_default()),
    };
    let has_ports = filter.sport.is_some() || filter.dport.is_some();
    let (reply_sport, reply_dport) = match (filter.reply_sport, filter.reply_dport) {
        _ if protocol == DCCP => (0, 0),
        (Some(sport), Some(dport)) => (sport, dport),
        // What has no ports but those of its question.
        _ if !has_ports => (dport, sport),
        _ if !has_original || !has_reply => (0, 0),
        _ => return None,
    };
    if !has_original {
        let Ends { src, dst, sport, dport } = whole(reply, reply_sport, reply_dport)?;
        return Some((Ends { src: dst, dst: src, sport: dport, dport: sport }, None));
    }
    let original = whole(original, sport, dport)?;
    match has_reply {
        true => Some((original, Some(whole(reply, reply_sport, reply_dport)?))),
        false => Some((original, None)),
    }
}

/// Why `-I` and `-A` do nothing with what describes no connection.
pub(super) fn invalid(verb: Verb) -> Stop {
    Stop::failed(if verb == Verb::Add { "Invalid argument" } else { "invalid parameters" })
}
