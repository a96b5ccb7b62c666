//! Rules on a packet's road: netfilter's five hooks, the tables at each in their order, and what becomes of a packet that
//! a rule stops.
//!
//! ```text
//! from a port ─→ PREROUTING ─→ route ─┬─→ INPUT ─┬─→ up the twin
//!                raw, mangle, nat     │          └─→ a virtual service ─→ OUTPUT ─→ POSTROUTING ─→
//!                                     └─→ FORWARD ─→ POSTROUTING ─→ out of a port, or up the twin, to another interface of Linux
//! from the host ─→ OUTPUT ─→ POSTROUTING ─→ out of a port
//! from another interface of Linux, by the twin ─→ PREROUTING ─→ FORWARD ─→ POSTROUTING ─→ out of a port
//! ```
//!
//! What the host alone may take has PREROUTING and INPUT in [`for_host_alone`](Path::for_host_alone).
//!
//! What the director itself answers passes OUTPUT and POSTROUTING too: [`answer`](super::answer).
//!
//! Nobody comes here while there is no rule. With rules a packet of a virtual service's connection comes by [`ruled`](Path::ruled), one of another by
//! [`tracked`](Path::tracked), unless it follows a course (`courses.rs`); one of none by [`first_ruled`](Path::first_ruled), one that the host sends by [`out`](Path::out). The table `nat` is asked once a connection,
//! and a packet that conntrack does not follow is never translated. For a virtual service's connection it is asked at PREROUTING, and by [`source_nat`](super::source_nat)
//! at POSTROUTING.
//!
//! The order is that of [`ORDER`](crate::hook::ORDER).

use std::net::IpAddr;

use super::output::Refusal as Refused;
use super::passage::{FORWARD, INPUT, ONWARD, OUTPUT, POSTROUTING, PREROUTING, Passage, RAW, Stop, Stopped};
use super::{Io, Path};
use crate::conntrack::{CtState, Status};
use crate::drop::DropReason;
use crate::flow::{Direction, FlowRef, Method, Tuple};
use crate::hook::{Function, Hook};
use crate::icmp;
use crate::packet::Packet;
use crate::rule::{Refusal, Verdict};
use crate::tables::{InterfaceId, Way};
use crate::time::Tick;
use crate::trail::Step;
use crate::wire::checksum;
use crate::wire::parse::{Fragment, Headers};

impl<P: Packet> Path<P> {
    /// A packet of a virtual service's connection, which is counted or which rules look at, and the TTL that they leave it to be routed with: `None`
    /// when one stopped it.
    #[inline(never)]
    pub(super) fn ruled(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<(P, u8)> {
        if !self.tables.rules.are_active() {
            self.account(at, headers);
            return Some((packet, headers.ttl));
        }
        let wire = self.flows.tuple(at.id(), at.direction());
        let leaves = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        let method = self.flows.entry(at.id()).method();
        let asks_for_source = self.asks_for_source(method, &wire, &leaves);
        // What is asked at POSTROUTING is among what is at OUTPUT.
        let is_asked = self.is_asked(&OUTPUT, headers) || self.is_asked(&FORWARD, headers);
        let output = match is_asked || asks_for_source {
            true => self.output(self.tables.way(leaves.dst)),
            false => None,
        };
        // What leaves in the other family is seen as it came: the rules are those of the family in which it did.
        let is_as_it_came = method == Method::Direct || leaves.dst.is_ipv6() != wire.dst.is_ipv6();
        let (inner, leaves) = if is_as_it_came {
            (wire, wire)
        } else {
            // IPVS translates a request behind INPUT, an answer behind FORWARD.
            (Tuple { dst: leaves.dst, dport: leaves.dport, ..wire }, leaves)
        };
        let passed = self.passed.take();
        let (direction, is_first) = (self.tracked_direction(at), passed.is_some());
        self.met.begin_anew();
        let state = self.flows.tracked(at.id()).is(direction);
        let mut passage = self.passage(packet.port(), headers, state, now);
        (passage.at, passage.of) = (Some(at), Some(at.id()));
        passage.mark = passed.map_or(0, |passed| passed.mark);
        passage.is_traced = passed.is_some_and(|passed| passed.is_traced);
        let mut outcome = Ok(());
        if !is_first {
            outcome = self.pass(&RAW, &wire, &mut packet, headers, &mut passage);
        } else if headers.fragment == Fragment::First {
            passage.walked = self.walked_before(packet.data(), headers, now);
        }
        if outcome.is_ok() {
            // Conntrack sees what table raw lets pass, and does not leave out.
            passage.state = match passed.map(|passed| passed.state) {
                Some(state) if !state.is_followed() => state,
                _ if passage.is_untracked => CtState::Untracked,
                _ => self.note_seen(at, headers, direction, is_first),
            };
            passage.is_untracked = passage.state == CtState::Untracked;
            let tuples = (&wire, &inner, &leaves);
            let refusal = |path: &Path<P>, headers: &Headers| path.refusal(headers, at);
            outcome =
                self.pass_service(&mut packet, headers, tuples, output, &mut passage, is_first, refusal);
        }
        if asks_for_source {
            if let Some(refusal) = self.refusal_of_first(&outcome, at, headers, &passage) {
                self.refuse_first(packet, headers, refusal, at, &passage, io);
                return None;
            }
            outcome = self.begin_with_source(outcome, at, &leaves, &mut packet, headers, &mut passage);
        }
        match outcome {
            Ok(()) => {
                if passed.is_none() {
                    self.keep_course(at, packet.port(), headers, passage.state, now);
                }
                Some((packet, passage.ttl))
            }
            Err(stopped) => {
                // One without its source has ended.
                if !asks_for_source && matches!(stopped.1, Hook::Output | Hook::Postrouting) {
                    self.note_stopped(&packet, headers, at, now);
                }
                self.stop(packet, headers, stopped, Some(&passage), now, io);
                None
            }
        }
    }

    /// Conntrack takes note of a packet of a virtual service's connection. Returns what the packet is to rules.
    fn note_seen(&mut self, at: FlowRef, headers: &Headers, direction: Direction, is_first: bool) -> CtState {
        self.account(at, headers);
        let tracked = self.flows.tracked_mut(at.id());
        if !is_first {
            tracked.status.set(Status::CONFIRMED);
        }
        if direction == Direction::Reply && !tracked.status.has(Status::SEEN_REPLY) {
            tracked.status.set(Status::SEEN_REPLY);
            // Its packets are NEW no more.
            self.flows.entry_mut(at.id()).forget_course(at.direction().opposite());
        }
        self.flows.tracked(at.id()).is(direction)
    }

    /// The road of a packet of a virtual service's connection behind the table `raw`: it comes as `wire`, is `inner` once it is routed, and
    /// `leaves`, by `output`, unless `refusal` says why it does not.
    fn pass_service(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        (wire, inner, leaves): (&Tuple, &Tuple, &Tuple),
        output: Option<InterfaceId>,
        passage: &mut Passage,
        is_first: bool,
        refusal: impl FnOnce(&Path<P>, &Headers) -> Option<Refused>,
    ) -> Result<(), Stopped> {
        if !is_first {
            self.pass(&PREROUTING, wire, packet, headers, passage)?;
        }
        let is_answer = passage.at.is_some_and(|at| at.direction() == Direction::Reply);
        if !is_answer && !is_first {
            self.pass(&INPUT, wire, packet, headers, passage)?;
            self.is_at(Hook::Input, Function::RemoteRequest);
        }
        passage.output = output;
        let onward: &[Stop] = if is_answer { &ONWARD } else { &OUTPUT };
        if self.is_refused_ahead(onward, headers, passage, refusal) {
            return Ok(());
        }
        if is_answer {
            self.pass(&FORWARD, inner, packet, headers, passage)?;
            self.is_at(Hook::Forward, Function::Reply);
            return self.pass(&POSTROUTING, leaves, packet, headers, passage);
        }
        (passage.input, passage.is_sent_on) = (None, true);
        self.pass(&OUTPUT, inner, packet, headers, passage)
    }

    /// PREROUTING behind the table `raw`, and the rest of the road, for a packet of a tracked connection that comes as `wire`. `inner` is between
    /// PREROUTING and POSTROUTING. One that is [refused](Passage::refused) passes no more.
    pub(super) fn pass_tracked(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        (wire, inner): (&Tuple, &Tuple),
        way: Way,
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        self.pass(&PREROUTING, wire, packet, headers, passage)?;
        let refusal = |path: &Path<P>, headers: &Headers| path.check_way(headers, way, inner.dst).err();
        let is_routed = way != Way::Local && self.tables.settings.forwarding;
        if is_routed && self.is_refused_ahead(&ONWARD, headers, passage, refusal) {
            return Ok(());
        }
        self.pass_routed(packet, headers, inner, way, passage)
    }

    /// The road behind PREROUTING.
    pub(super) fn pass_routed(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        inner: &Tuple,
        way: Way,
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        if way == Way::Local {
            return self.pass(&INPUT, inner, packet, headers, passage);
        }
        if self.is_refused_by_linux(way, passage) {
            return Ok(());
        }
        passage.output = self.output(way);
        self.pass(&FORWARD, inner, packet, headers, passage)?;
        self.pass(&POSTROUTING, inner, packet, headers, passage)
    }

    /// The table `raw` for an ICMP error about a packet of the connection `at`: as it is behind that.
    pub(super) fn raw_related(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
    ) -> Result<Passage, Stopped> {
        let wire = Tuple::of_packet(packet.data(), headers);
        let mut passage = self.passage(packet.port(), headers, CtState::Related, now);
        passage.of = Some(at.id());
        self.pass(&RAW, &wire, packet, headers, &mut passage)?;
        Ok(passage)
    }

    /// The rest of its road; it goes on to `to`. Returns the TTL that it is routed with.
    pub(super) fn pass_related(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        at: FlowRef,
        to: IpAddr,
        mut passage: Passage,
    ) -> Result<u8, Stopped> {
        let wire = Tuple::of_packet(packet.data(), headers);
        let inner = if to.is_ipv6() == headers.is_ipv6 { Tuple { dst: to, ..wire } } else { wire };
        (passage.at, passage.of) = (Some(at), Some(at.id()));
        let way = self.tables.way(to);
        if !self.flows.entry(at.id()).is_tracked() {
            let output = self.output(way);
            let is_one_way = self.flows.entry(at.id()).method().is_one_way();
            let refusal = |path: &Path<P>, headers: &Headers| match is_one_way {
                true => path.refusal(headers, at),
                false => path.check_way(headers, way, to).err(),
            };
            let tuples = (&wire, &inner, &inner);
            self.pass_service(packet, headers, tuples, output, &mut passage, false, refusal)?;
        } else {
            self.pass_tracked(packet, headers, (&wire, &inner), way, &mut passage)?;
        }
        Ok(passage.ttl)
    }

    /// Notes that a function which has no rules has the packet.
    #[inline]
    pub(super) fn is_at(&mut self, hook: Hook, function: Function) {
        self.watch.note(|| Step::At { hook, function });
    }

    /// A packet that a rule stops. `of` is its passage, if it has begun one.
    pub(super) fn stop(
        &mut self,
        packet: P,
        headers: &Headers,
        (verdict, hook): Stopped,
        of: Option<&Passage>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let rejects = (DropReason::RuleRejects, hook);
        match verdict {
            Verdict::Reject(refusal @ (Refusal::Icmp(..) | Refusal::Field(_))) => {
                // Whom it is from is not sure then.
                if checksum::is_wrong(packet.data(), headers) {
                    return self.drop(DropReason::RuleRejects, hook);
                }
                self.answer(packet, headers, problem(refusal), rejects, of, now, io);
            }
            Verdict::Reject(Refusal::TcpReset) => self.reset(packet, headers, rejects, of, now, io),
            Verdict::SynProxy(offer) => self.syn_proxy(packet, headers, (offer, hook), of, now, io),
            _ => self.drop(why(verdict), hook),
        }
    }
}

/// How a sender is told by ICMP; of a TCP reset, as that would be.
pub(super) fn problem(refusal: Refusal) -> icmp::Problem {
    match refusal {
        Refusal::Icmp(kind, code) => icmp::Problem::Told { kind, code },
        Refusal::Field(at) => icmp::Problem::Field { at },
        Refusal::TcpReset => icmp::Problem::PortUnreachable,
    }
}

/// As what a packet is counted that nobody is told of.
pub(super) const fn why(stopped: Verdict) -> DropReason {
    match stopped {
        Verdict::Nat(..) => DropReason::NoLocalPort,
        Verdict::Queue => DropReason::QueueUnread,
        _ => DropReason::Rule,
    }
}
