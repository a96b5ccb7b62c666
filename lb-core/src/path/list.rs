//! Listing connections, a few places at a time, between two bursts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Path, expected};
use crate::conntrack::{self, Accounting, EXPECTATIONS, Labels, Status, Zones};
use crate::flow::template::{EXPECTED, is_signpost, templated};
use crate::flow::{Direction, Entry, FlowId, Method, Store, Tuple};
use crate::ids::ServerId;
use crate::ipvs::state;
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::time::{Tick, Timeout};

/// One connection or persistence template, as `ipvsadm -Lnc` lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowView {
    /// A persistence template: no connection.
    pub is_template: bool,
    /// Of no virtual service: [`ServerId::NONE`], and `server` is where it leaves to.
    pub is_tracked: bool,
    /// What rules and tracking know of it.
    pub known: Known,
    /// [`Protocol::ANY`] of a firewall mark's template.
    pub protocol: Protocol,
    pub client: (IpAddr, u16),
    /// Of a template by Call-ID: the [digest](crate::flow::template::of_call) that stands in the client's place.
    pub call: Option<(IpAddr, u16)>,
    pub virtual_: (IpAddr, u16),
    /// Of a connection past all real servers ([`ServerId::BYPASS`]) none: 0.0.0.0 or ::, port 0.
    pub server: (IpAddr, u16),
    /// Of a FullNAT connection: the address and port that the real server sees.
    pub local: Option<(IpAddr, u16)>,
    pub server_id: ServerId,
    pub method: Method,
    /// The kernel's word: `ESTABLISHED`, `UDP`, of a template `NONE` or `ASSURED` …
    pub state: &'static str,
    pub expires_in: Timeout,
}

/// What a connection has beside its entry: nothing, where neither rules nor tracking came by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Known {
    pub status: Status,
    pub mark: u32,
    pub labels: Labels,
    pub zones: Zones,
    /// Its helper's name; of an expectation that of the master's helper.
    pub helper: Option<&'static str>,
    /// No connection: one that is expected. The first packet of the connection that told of it.
    pub told_by: Option<Tuple>,
    /// The kind of what is expected, as its helper has them.
    pub class: u8,
    /// Of what is expected: it may begin again and again; not yet.
    pub is_permanent: bool,
    pub is_inactive: bool,
    /// `None`: its packets are not counted.
    pub accounting: Option<Accounting>,
}

impl FlowView {
    /// The tuple under which it is found: of the client's packets, or a template's own.
    pub fn original(&self) -> Tuple {
        let ((src, sport), (dst, dport)) = (self.call.unwrap_or(self.client), self.virtual_);
        Tuple { src, dst, sport, dport, protocol: self.protocol }
    }

    /// That of its answers. Where they take another way than through the director, they would be expected from the virtual service.
    pub fn reply(&self) -> Tuple {
        let (src, sport) = if self.method.is_one_way() { self.virtual_ } else { self.server };
        let (dst, dport) = self.local.unwrap_or(self.client);
        Tuple { src, dst, sport, dport, protocol: self.protocol }
    }
}

impl<P: Packet> Path<P> {
    /// Lists connections and, behind them, those that are expected, looking at up to `budget` places from `cursor` on (0 at first). Returns the
    /// next cursor, or `None` at the end.
    pub fn list(&self, cursor: u32, budget: u32, now: Tick, visit: &mut impl FnMut(FlowView)) -> Option<u32> {
        let end = cursor.saturating_add(budget);
        let is_shown = |&(_, entry): &(FlowId, &Entry)| !is_signpost(entry.protocol());
        for (id, entry) in self.flows.iter(cursor, end).filter(is_shown) {
            visit(self.view(id, entry, now));
        }
        let places = self.flows.places();
        if end > places && !self.expectations.is_empty() {
            let from = cursor.max(places);
            self.list_expected(from - places, end - from, now, visit);
        }
        let all = places + if self.expectations.is_empty() { 0 } else { u32::from(EXPECTATIONS) };
        (end < all).then_some(end)
    }

    /// Whether index, timers, free places and counts agree with the connections: see [`FlowTable::check`]. For tests; slow.
    ///
    /// # Errors
    /// The first thing that is wrong.
    ///
    /// [`FlowTable::check`]: crate::flow::FlowTable::check
    pub fn check_connections(&self) -> Result<(), String> {
        self.flows.check()
    }

    pub(super) fn view(&self, id: FlowId, entry: &Entry, now: Tick) -> FlowView {
        let mut view = view(&self.flows, id, entry, now);
        if view.is_template {
            view.state = self.template_state(id);
        }
        view
    }
}

/// All that [`FlowView::state`] can be, each once.
pub fn shown_states() -> Vec<&'static str> {
    let all = || 0..=u8::MAX;
    let of_ipvs = [Protocol::TCP, Protocol::SCTP, Protocol::UDP].into_iter();
    let of_ipvs = of_ipvs.flat_map(|protocol| all().map(move |state| state::name(protocol, state)));
    let tracked = [Protocol::TCP, Protocol::SCTP].into_iter();
    let tracked =
        tracked.flat_map(|protocol| all().filter_map(move |state| conntrack::name(protocol, state)));
    // Of templates, and of what has no states.
    let mut names: Vec<_> = of_ipvs.chain(tracked).chain(["NONE", "ASSURED"]).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// A connection, or a template whose state is still to be said.
pub(super) fn view(flows: &Store, id: FlowId, entry: &Entry, now: Tick) -> FlowView {
    let original = flows.tuple(id, Direction::Original);
    let reply = flows.tuple(id, Direction::Reply);
    let tracked = flows.tracked(id);
    // One that is expected is listed as by the kernel: with the client's port 0.
    let protocol = match entry.protocol() {
        EXPECTED => Protocol::TCP,
        protocol => templated(protocol).unwrap_or(protocol),
    };
    let is_template = entry.is_template();
    let ends = ((original.src, original.sport), (reply.dst, reply.dport));
    FlowView {
        is_template,
        is_tracked: entry.is_tracked(),
        known: Known {
            status: tracked.status,
            mark: tracked.mark,
            labels: flows.labels(id),
            zones: flows.zones(id),
            helper: expected::helper(flows, id).name(),
            told_by: expected::told_by(flows, id),
            accounting: flows.accounting(id).copied(),
            ..Known::default()
        },
        protocol,
        client: if is_template { ends.1 } else { ends.0 },
        call: (is_template && original.sport != 0).then_some(ends.0),
        virtual_: (original.dst, original.dport),
        server: if entry.server() == ServerId::BYPASS {
            (unspecified(reply.src), 0)
        } else {
            (reply.src, reply.sport)
        },
        local: (!is_template && flows.is_full_nat(id)).then_some(ends.1),
        server_id: entry.server(),
        method: entry.method(),
        state: if entry.is_tracked() {
            conntrack::name(entry.protocol(), entry.state()).unwrap_or("NONE")
        } else {
            state::name(protocol, entry.state())
        },
        expires_in: Timeout(entry.expires().since(now)),
    }
}
