//! What the director itself answers a packet with: ICMP errors, TCP resets, SYN cookies. While there are rules it passes OUTPUT and POSTROUTING, and it
//! leaves by the way that the packet came.
//!
//! An answer is attached to the connection of the packet that it answers: it is RELATED to it, a cookie ESTABLISHED, also where that packet was to begin the
//! connection and nothing is kept of it. Table `raw` sees it so already and says nothing of its tracking. What answers an INVALID or UNTRACKED packet is attached to
//! nothing and is INVALID, unless table `raw` says UNTRACKED; but if the former has come where a connection is known, an error is RELATED to that, and a segment what any
//! other of its sender would be.
//! Table `nat` is asked at POSTROUTING about a reset of what was to begin a connection, and nothing is made of what it says. Who rejects an answer tells nobody.
//!
//! Source of the facts: Linux, `net/netfilter/nf_conntrack_core.c`, `nf_synproxy_core.c`, `net/ipv4/icmp.c`, `net/ipv4/netfilter/nf_reject_ipv4.c`, and those of IPv6.

use std::net::IpAddr;

use super::hooks::why;
use super::on_link::on_link;
use super::passage::{OUTPUT, Passage, Stop, Stopped};
use super::tracked::tuple_of;
use super::waiting::Going;
use super::{Io, Path};
use crate::conntrack::{CtState, Labels, Step, Zones};
use crate::drop::DropReason;
use crate::flow::{FlowRef, Tuple};
use crate::hook::{Function, Hook};
use crate::icmp;
use crate::ids::PortId;
use crate::packet::{Packet, RxChecksum};
use crate::reset::make_reset;
use crate::rule::{Table, Verdict};
use crate::tables::{Protocol, Way};
use crate::time::Tick;
use crate::wire::parse::{Headers, Parsed, parse};

/// An answer on its road, before it is made of the packet that it answers.
pub(super) struct Answer {
    passage: Passage,
    /// To an INVALID packet: as that came, and in which zones.
    to: Option<(Tuple, Zones)>,
}

/// What rules let become of an answer.
pub(super) enum Leaves {
    AsItIs,
    /// It goes there; its headers, but for its ends.
    To(IpAddr, Headers),
    Not,
}

impl<P: Packet> Path<P> {
    /// Drops a packet and tells its sender why, unless enough were told already. One of our own has none. `of` is the packet's passage, if it
    /// has begun one.
    pub(super) fn answer(
        &mut self,
        mut packet: P,
        headers: &Headers,
        problem: icmp::Problem,
        (reason, hook): (DropReason, Hook),
        of: Option<&Passage>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.drop(reason, hook);
        if self.is_to_network(packet.data(), headers) {
            return;
        }
        let Some(source) = self.answers_from(packet.data(), packet.port(), headers) else { return };
        // What is not answered takes nothing from those that are.
        if !icmp::may_answer(packet.data(), headers) {
            return;
        }
        if !self.icmp_limit.allow(now) {
            self.mine.turns.icmp_suppressed.add(1);
            return;
        }
        let answer = self.answer_to(&packet, headers, CtState::Related, of, now);
        if icmp::make_error(&mut packet, headers, problem, source).is_ok() {
            self.mine.turns.icmp_sent.add(1);
            self.send_answer(packet, answer, now, io);
            self.last_drop.set(Some((reason, hook)));
        }
    }

    /// Drops a segment and refuses its connection, if there is a reset that answers it.
    pub(super) fn reset(
        &mut self,
        mut packet: P,
        headers: &Headers,
        dropped: (DropReason, Hook),
        of: Option<&Passage>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.drop(dropped.0, dropped.1);
        if self.is_to_network(packet.data(), headers) {
            return;
        }
        let answer = self.answer_to(&packet, headers, CtState::Related, of, now);
        if make_reset(&mut packet, headers) {
            self.send_answer(packet, answer, now, io);
            self.last_drop.set(Some(dropped));
        }
    }

    /// The address that an answer to this packet comes from: the one that it was sent to, when that is ours, else the
    /// interface's (RFC 1812 §4.3.2.4).
    fn answers_from(&self, frame: &[u8], port: PortId, headers: &Headers) -> Option<IpAddr> {
        let to = headers.destination(frame);
        if self.tables.routes.is_local(to) {
            return Some(to).filter(|_| port != PortId::NONE);
        }
        let interface = self.tables.interfaces.get(self.tables.interfaces.find(port, headers.vlan)?)?;
        if headers.is_ipv6 { interface.ipv6.map(IpAddr::V6) } else { interface.ipv4.map(IpAddr::V4) }
    }

    /// The answer to a packet, which is `state` to the packet's connection. `None`: no rule is asked about it.
    pub(super) fn answer_to(
        &mut self,
        packet: &P,
        headers: &Headers,
        state: CtState,
        of: Option<&Passage>,
        now: Tick,
    ) -> Option<Answer> {
        // A reset is followed whoever is asked about it.
        let may_follow = headers.protocol == Protocol::TCP && state == CtState::Related;
        if !(self.is_asked_of_answers(headers) || may_follow && self.tables.rules.are_active()) {
            return None;
        }
        let mut passage = self.passage(packet.port(), headers, CtState::Invalid, now);
        (passage.output, passage.begins_at) = (passage.input.take(), Hook::Output);
        let wire = tuple_of(packet.data(), headers).map(|wire| on_link(wire, packet.port(), headers.vlan));
        let (attached, begun) = match of {
            Some(of) if !of.state.is_followed() => (None, None),
            Some(of) => (of.at, of.original.filter(|_| !of.is_untracked)),
            None => {
                let begins = self.passed.is_some_and(|passed| passed.state.is_followed());
                (wire.and_then(|wire| self.flows.find(&wire)), wire.filter(|_| begins))
            }
        };
        if let Some(at) = attached.map(FlowRef::opposite) {
            (passage.state, passage.at, passage.of) = (state, Some(at), Some(at.id()));
            if !self.flows.is_live(at.id()) {
                passage.ended = Some(headers.ip_len);
                (passage.connection_mark, passage.labels) =
                    of.map_or((0, Labels::NONE), |of| (of.connection_mark, of.labels));
            }
        } else if let Some(original) = begun {
            (passage.state, passage.original, passage.answers) =
                (state, Some(original), Some(headers.ip_len));
            (passage.after, passage.connection_mark, passage.labels) = match (of, self.passed) {
                (Some(of), _) => (of.after, of.connection_mark, of.labels),
                (None, Some(passed)) => (Some(passed.seen(original)), passed.connection_mark, passed.labels),
                (None, None) => (None, 0, Labels::NONE),
            };
            passage.zones = of.map_or(Zones::NONE, |of| of.zones);
            passage.expected = of.and_then(|of| of.expected);
        }
        let to = of
            .filter(|of| of.state == CtState::Invalid && of.at.is_none())
            .and_then(|of| Some((wire?, of.zones)));
        Some(Answer { passage, to })
    }

    /// An error about a packet of a virtual service's connection, whose packets come as `at`: to their sender.
    pub(super) fn answer_about(&mut self, at: FlowRef, sender: IpAddr, now: Tick) -> Option<Answer> {
        let headers = Headers { is_ipv6: sender.is_ipv6(), ..Headers::NONE };
        if !self.is_asked_of_answers(&headers) {
            return None;
        }
        let mut passage = self.passage(PortId::NONE, &headers, CtState::Related, now);
        (passage.output, passage.begins_at) = (self.output(self.tables.way(sender)), Hook::Output);
        (passage.at, passage.of) = (Some(at.opposite()), Some(at.id()));
        Some(Answer { passage, to: None })
    }

    fn is_asked_of_answers(&self, headers: &Headers) -> bool {
        self.tables.rules.are_active() && self.is_asked(&ROAD, headers)
    }

    /// OUTPUT, POSTROUTING, and out by the port that the packet came from, unless a rule exchanges the prefix of its sender.
    pub(super) fn send_answer(
        &mut self,
        mut packet: P,
        answer: Option<Answer>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        match self.let_answer_pass(&mut packet, answer) {
            Leaves::AsItIs => io.transmit(packet.port(), packet),
            Leaves::To(to, headers) => match self.tables.way(to) {
                Way::Local | Way::Linux => io.to_twin(packet.port(), packet),
                _ => self.leave(packet, &headers, to, Going::AsItIs, now, io),
            },
            Leaves::Not => {}
        }
    }

    /// OUTPUT and POSTROUTING; one that they stop is counted.
    pub(super) fn let_answer_pass(&mut self, packet: &mut P, answer: Option<Answer>) -> Leaves {
        let Some(answer) = answer else { return Leaves::AsItIs };
        let Ok(Parsed::Ip(headers)) = parse(packet.data(), packet.frame_len(), RxChecksum::Good) else {
            return Leaves::AsItIs;
        };
        let wire = Tuple::of_packet(packet.data(), &headers);
        match self.pass_answer(packet, &headers, &wire, answer) {
            Ok(to) if to == wire.dst => Leaves::AsItIs,
            Ok(to) => Leaves::To(to, headers),
            Err((verdict, hook)) => {
                self.drop(why(verdict), hook);
                Leaves::Not
            }
        }
    }

    /// Returns where it goes.
    #[cold]
    fn pass_answer(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        wire: &Tuple,
        answer: Answer,
    ) -> Result<IpAddr, Stopped> {
        let Answer { mut passage, to } = answer;
        let (is_attached, zones) = (passage.state != CtState::Invalid, passage.zones);
        // In other zones it may be anybody's.
        let find = |path: &Self, zones: Zones| {
            let (tuple, _) = to.filter(|&(_, came_in)| came_in == zones)?;
            path.flows.find_in(&tuple, zones)
        };
        self.pass(&ROAD[..1], wire, packet, headers, &mut passage)?;
        self.is_at(Hook::Output, Function::Conntrack);
        let mut step = None;
        if is_attached {
            (passage.is_untracked, passage.zones) = (false, zones);
        } else if passage.is_untracked {
            passage.state = CtState::Untracked;
        } else if let Some(at) = find(self, passage.zones) {
            step = self.look_at_answer(packet, headers, at.opposite(), &mut passage);
        }
        let passed = self.pass_behind_conntrack(packet, headers, wire, &mut passage);
        if let (Some(at), Some(step)) = (passage.at, step) {
            self.end_with(at, &step);
        }
        passed
    }

    fn pass_behind_conntrack(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        wire: &Tuple,
        passage: &mut Passage,
    ) -> Result<IpAddr, Stopped> {
        let [_, mangle, others @ .., nat] = ROAD;
        self.pass(&[mangle], wire, packet, headers, passage)?;
        // One of a connection goes as that says.
        let is_of_one = passage.at.is_some() || passage.original.is_some();
        let seen = passage.renumbered.take().filter(|_| !is_of_one).unwrap_or(*wire);
        if seen.dst != wire.dst {
            passage.output = self.output(self.tables.way(seen.dst));
        }
        self.pass(&others, &seen, packet, headers, passage)?;
        if passage.answers.is_none() || headers.protocol != Protocol::TCP {
            return Ok(seen.dst);
        }
        // As table mangle has it by then.
        let last = passage.renumbered.take().unwrap_or(seen);
        match self.ask(nat.0, nat.1, &last, packet, headers, passage) {
            Verdict::Accept | Verdict::Nat(..) => Ok(seen.dst),
            verdict => Err((verdict, nat.1)),
        }
    }

    /// What an answer that was attached to nothing is to the connection `at`.
    fn look_at_answer(
        &mut self,
        packet: &P,
        headers: &Headers,
        at: FlowRef,
        passage: &mut Passage,
    ) -> Option<Step> {
        let entry = self.flows.entry(at.id());
        let is_followed = headers.protocol == Protocol::TCP && entry.is_tracked() && !entry.is_edited();
        let step = is_followed.then(|| self.follows(packet.data(), headers, at, passage.now));
        passage.state = match step {
            Some(step) => step.is,
            None if headers.protocol == Protocol::TCP => self.flows.tracked(at.id()).is(at.direction()),
            None => CtState::Related,
        };
        if let Some(step) = step {
            self.account_step(at, headers, &step);
            self.prolong(at, &step, passage.now);
        }
        if passage.state != CtState::Invalid {
            (passage.at, passage.of) = (Some(at), Some(at.id()));
        }
        step
    }
}

/// What is asked about an answer.
const ROAD: [Stop; 6] = {
    let [raw, mangle, filter, security, last] = OUTPUT;
    [raw, mangle, filter, security, last, (Table::Nat, Hook::Postrouting)]
};
