//! Packets that nobody but the host may take, while there are rules: for multicast, broadcast and link-local destinations, and all that comes in a frame to many.
//!
//! ```text
//! PREROUTING ─→ INPUT ─→ up the twin
//! ```
//!
//! No route is asked and no virtual service. What goes to many begins no connection, as nothing answers it from the address that it was sent to: each packet
//! is NEW, at whatever worker it comes to. All else is followed like any packet to this host, at its connection's worker; one between link-local
//! addresses on its link (`on_link.rs`). Table `nat` is asked where a packet has a destination that others can have too: one of this host, in a
//! frame to many.
//!
//! Neighbour discovery and MLD are of no connection, whatever rules say.

use std::net::IpAddr;

use super::on_link::on_link;
use super::passage::{INPUT, PREROUTING, Passage, RAW, Stopped};
use super::related::answer_to;
use super::tracked::tuple_of;
use super::{Io, Path};
use crate::conntrack::{CtState, Verdict as Followed};
use crate::drop::DropReason;
use crate::flow::{FlowRef, Tuple};
use crate::hook::{Function, Hook};
use crate::icmp;
use crate::packet::Packet;
use crate::rule::{Refusal, Verdict};
use crate::tables::{Protocol, Way};
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};

impl<P: Packet> Path<P> {
    /// PREROUTING, INPUT, up the twin.
    #[cold]
    pub(super) fn for_host_alone(
        &mut self,
        mut packet: P,
        headers: &Headers,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if !self.sees_for_host(headers) {
            return io.to_twin(packet.port(), packet);
        }
        let original =
            tuple_of(packet.data(), headers).map(|tuple| on_link(tuple, packet.port(), headers.vlan));
        let known_by = self.known_by_for_host(&packet, headers);
        let wire = original.unwrap_or(Tuple::of_packet(packet.data(), headers));
        let mut passage = self.first_passage(&packet, headers, &wire, now);
        passage.original = original;
        passage.of = known_by.and_then(|tuple| self.flows.find(&tuple)).map(FlowRef::id);
        if let Err(stopped) = self.pass(&RAW, &wire, &mut packet, headers, &mut passage) {
            return self.stop_for_host(packet, headers, stopped, &passage, io);
        }
        self.is_at(Hook::Prerouting, Function::Conntrack);
        passage.is_untracked |= is_never_tracked(headers) || self.assumed == Some(CtState::Untracked);
        let known_by = known_by.filter(|_| !passage.is_untracked);
        let at = known_by.and_then(|tuple| self.flows.find_in(&tuple, passage.zones));
        passage.of = at.map(FlowRef::id);
        match at {
            Some(at) if is_whole_error(headers) => self.related_for_host(packet, headers, at, passage, io),
            Some(at) if self.flows.entry(at.id()).is_tracked() => {
                self.known_for_host(packet, headers, at, passage, io);
            }
            // It is of a virtual service's, which does not take it.
            Some(at) => {
                passage.at = Some(at);
                passage.state = self.flows.tracked(at.id()).is(at.direction());
                self.give_to_host(packet, headers, &wire, passage, io);
            }
            None => self.first_for_host(packet, headers, original, passage, io),
        }
    }

    /// Whether rules look at such a packet: at none that is not IP.
    fn sees_for_host(&self, headers: &Headers) -> bool {
        headers.l3 != 0 && self.tables.rules.are_active()
    }

    /// What its connection is known by; of an error, that of the packet that it quotes. `None`: it can have none.
    pub(super) fn known_by_for_host(&self, packet: &P, headers: &Headers) -> Option<Tuple> {
        let frame = packet.data();
        if !self.sees_for_host(headers) || is_to_many(frame, headers) {
            return None;
        }
        let tuple = match is_whole_error(headers) {
            true => answer_to(&icmp::embedded(frame, headers).ok()?),
            false => tuple_of(frame, headers)?,
        };
        Some(on_link(tuple, packet.port(), headers.vlan))
    }

    /// A packet of no connection: `original`, if it can begin one.
    fn first_for_host(
        &mut self,
        mut packet: P,
        headers: &Headers,
        original: Option<Tuple>,
        mut passage: Passage,
        io: &mut impl Io<P>,
    ) {
        let (now, as_sent) = (passage.now, Tuple::of_packet(packet.data(), headers));
        let original = original.filter(|_| !passage.is_untracked && self.assumed != Some(CtState::Invalid));
        let begun = original.and_then(|_| self.begins(packet.data(), headers, now));
        let is_to_many = is_to_many(packet.data(), headers);
        // A later fragment of what goes to many is as its first one was.
        let is_new = begun.is_some() || is_to_many && headers.fragment == Fragment::Later;
        passage.original = original.filter(|_| is_new);
        (passage.at, passage.state) = match passage.original {
            _ if passage.is_untracked => (None, CtState::Untracked),
            Some(_) => (None, CtState::New),
            None => (None, CtState::Invalid),
        };
        if passage.state == CtState::Invalid {
            self.mine.flows.invalid.add(1);
        }
        let is_kept = headers.is_for_twin || self.tables.routes.is_local(as_sent.dst);
        let Some((original, begun)) = original.zip(begun).filter(|_| is_kept && !is_to_many) else {
            let wire = original.unwrap_or(as_sent);
            return self.give_to_host(packet, headers, &wire, passage, io);
        };
        if self.tables.routes.is_local(as_sent.src) {
            return self.drop(DropReason::MartianAddress, Hook::Prerouting);
        }
        self.note_expected(&original, &mut passage);
        let after = match self.translated_for_host(&mut packet, headers, &original, &mut passage) {
            Ok(Some(after)) => after,
            Ok(None) => return self.drop(DropReason::OtherHost, Hook::Prerouting),
            Err(stopped) => return self.stop_for_host(packet, headers, stopped, &passage, io),
        };
        match self.track(original, after, headers, &begun, &passage) {
            Ok(at) => {
                if self.help(&packet, headers, at, now) {
                    self.is_at(Hook::Input, Function::Confirm);
                    self.deliver(packet, headers, at, now, io);
                }
            }
            Err(reason) => self.drop(reason, Hook::Input),
        }
    }

    /// The road of what begins a connection, behind the table `raw`: what it is at its end. `None`: another host's, who did not get this frame from us.
    fn translated_for_host(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        original: &Tuple,
        passage: &mut Passage,
    ) -> Result<Option<Tuple>, Stopped> {
        self.pass(&PREROUTING, original, packet, headers, passage)?;
        let seen = passage.become_renumbered(*original);
        let seen = self.ask_nat(Hook::Prerouting, &seen, packet, headers, passage)?;
        if seen.dst != original.dst && self.tables.way(seen.dst) != Way::Local {
            return Ok(None);
        }
        self.pass(&INPUT, &seen, packet, headers, passage)?;
        let seen = passage.become_renumbered(seen);
        self.ask_nat(Hook::Input, &seen, packet, headers, passage).map(Some)
    }

    /// A packet of a tracked connection.
    fn known_for_host(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        mut passage: Passage,
        io: &mut impl Io<P>,
    ) {
        let now = passage.now;
        let step = self.follows(packet.data(), headers, at, now);
        self.account_step(at, headers, &step);
        passage.state = step.is;
        match step.verdict {
            Followed::Fine | Followed::Ends => {}
            Followed::Invalid(_) => {
                passage.of = None;
                return self.first_for_host(packet, headers, None, passage, io);
            }
            Followed::Reopens => {
                let original = self.flows.tuple(at.id(), at.direction());
                self.end(at.id());
                passage.of = None;
                return self.first_for_host(packet, headers, Some(original), passage, io);
            }
        }
        let seen = self.flows.entry(at.id()).seen();
        self.onward_for_host(packet, headers, at, passage, io);
        self.close_step(at, &step, seen);
    }

    /// The same, whose state is known.
    fn onward_for_host(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        mut passage: Passage,
        io: &mut impl Io<P>,
    ) {
        let now = passage.now;
        let wire = self.flows.tuple(at.id(), at.direction());
        let leaves = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        passage.at = Some(at);
        let inner = Tuple { dst: leaves.dst, dport: leaves.dport, ..wire };
        if let Err(stopped) = self.walk_for_host(&mut packet, headers, (&wire, &inner), &mut passage) {
            self.flows.entry_mut(at.id()).touch(now);
            return self.stop_for_host(packet, headers, stopped, &passage, io);
        }
        if !self.help(&packet, headers, at, now) {
            return;
        }
        let is_for_host = headers.is_for_twin || self.leads_to_host(at);
        if !is_for_host || self.flows.entry(at.id()).is_edited() {
            // Nobody passes a frame to many on.
            self.drop(DropReason::OtherHost, Hook::Input);
        } else {
            self.deliver(packet, headers, at, now, io);
        }
    }

    /// An error about a packet of a connection.
    fn related_for_host(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        mut passage: Passage,
        io: &mut impl Io<P>,
    ) {
        let wire = Tuple::of_packet(packet.data(), headers);
        (passage.at, passage.original, passage.state) = (Some(at), None, CtState::Related);
        if let Err(stopped) = self.walk_for_host(&mut packet, headers, (&wire, &wire), &mut passage) {
            return self.stop_for_host(packet, headers, stopped, &passage, io);
        }
        if self.flows.entry(at.id()).is_tracked() {
            if self.told_about(at, wire.dst) != wire.dst {
                return self.drop(DropReason::OtherHost, Hook::Input);
            }
            if let Ok(embedded) = icmp::embedded(packet.data(), headers)
                && let Err(reason) = self.translate_about(&mut packet, headers, &embedded, at)
            {
                return self.drop(reason, Hook::Input);
            }
        }
        io.to_twin(packet.port(), packet);
    }

    /// The rest of the road of a packet that stays as it is.
    fn give_to_host(
        &mut self,
        mut packet: P,
        headers: &Headers,
        wire: &Tuple,
        mut passage: Passage,
        io: &mut impl Io<P>,
    ) {
        match self.walk_for_host(&mut packet, headers, (wire, wire), &mut passage) {
            Ok(()) => io.to_twin(packet.port(), packet),
            Err(stopped) => self.stop_for_host(packet, headers, stopped, &passage, io),
        }
    }

    /// The road behind conntrack of a packet that comes as `wire` and is `inner` behind PREROUTING.
    fn walk_for_host(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        (wire, inner): (&Tuple, &Tuple),
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        self.pass(&PREROUTING, wire, packet, headers, passage)?;
        self.pass(&INPUT, inner, packet, headers, passage)
    }

    /// One that a rule stops on its passage: nobody is told of what went to many.
    fn stop_for_host(
        &mut self,
        packet: P,
        headers: &Headers,
        stopped: Stopped,
        passage: &Passage,
        io: &mut impl Io<P>,
    ) {
        match stopped {
            (Verdict::Reject(Refusal::TcpReset), hook) if is_to_many(packet.data(), headers) => {
                self.drop(DropReason::RuleRejects, hook);
            }
            // Cookies are for those whom a route leads to.
            (Verdict::SynProxy(_), hook) => self.drop(DropReason::NotProxied, hook),
            stopped => self.stop(packet, headers, stopped, Some(passage), passage.now, io),
        }
    }
}

/// Whether a packet's destination is no one's own address: multicast or 255.255.255.255.
pub(super) fn is_to_many(frame: &[u8], headers: &Headers) -> bool {
    headers.is_for_twin
        && match headers.destination(frame) {
            IpAddr::V4(_) => true,
            IpAddr::V6(to) => to.is_multicast(),
        }
}

/// Neighbour discovery without redirects, and MLD, which netfilter tracks never (Linux, `nf_conntrack_proto_icmpv6.c`; RFC 4861 §4, RFC 2710 §3, RFC 3810 §5.2).
pub(super) fn is_never_tracked(headers: &Headers) -> bool {
    const LISTENERS: std::ops::RangeInclusive<u8> = 130..=132;
    const NEIGHBOURS: std::ops::RangeInclusive<u8> = 133..=136;
    const LISTENERS_V2: u8 = 143;
    let kind = headers.icmp_type;
    headers.is_ipv6
        && headers.protocol == Protocol::ICMPV6
        && headers.fragment != Fragment::Later
        && (LISTENERS.contains(&kind) || NEIGHBOURS.contains(&kind) || kind == LISTENERS_V2)
}

/// An error that quotes a packet of which there may be a connection.
pub(super) fn is_whole_error(headers: &Headers) -> bool {
    icmp::is_translatable(headers) && headers.fragment == Fragment::None
}
