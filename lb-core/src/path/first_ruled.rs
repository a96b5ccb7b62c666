//! A packet of no connection that is known, while there are rules: PREROUTING, the routing decision, INPUT or FORWARD, and the connection
//! that it begins.
//!
//! Before that it is sought at the worker of its other end, where a connection is that is only routed through us, and where destinations are exchanged at
//! all others ([0026](../../../docs/decisions/0026-translated-connections-are-sought.md)).

use super::ask::grown;
use super::expected::Awaited;
use super::fragment::ports;
use super::helped::Expected;
use super::host_alone::is_never_tracked;
use super::passage::{FORWARD, INPUT, POSTROUTING, PREROUTING, Passage, RAW, Stopped};
use super::tracked::{Begun, tuple_of};
use super::waiting::Going;
use super::{Io, Passed, Path, Steer, rewrite};
use crate::conntrack::helper::HelperId;
use crate::conntrack::{CtState, Zones};
use crate::drop::DropReason;
use crate::flow::Tuple;
use crate::hook::{Function, Hook};
use crate::ids::WorkerId;
use crate::nat::{Manip, Range};
use crate::packet::Packet;
use crate::rule::Verdict;
use crate::rule::counted::Ticket;
use crate::tables::{Protocol, Way};
use crate::time::Tick;
use crate::trail::Step;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::tcp::{self, ACK, FIN, RST, SYN};

impl<P: Packet> Path<P> {
    /// A packet of no known connection here.
    #[cold]
    pub(super) fn first_ruled(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        if self.tables.services.has_ftp() {
            let original = Tuple::of_packet(packet.data(), headers);
            if self.tables.serves(headers.is_ipv6) && self.may_be_expected(&original, headers, now) {
                return self.first_expected(packet, headers, original, now, io);
            }
        }
        self.first_unexpected(packet, headers, now, io);
    }

    /// One that no virtual service's helper expects.
    pub(super) fn first_unexpected(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        if self.zones_matter() {
            return self.first_zoned(packet, headers, now, io);
        }
        match self.other_worker(&packet, headers, now) {
            Some(other) => io.hand_over(other, packet, Steer::Elsewhere(ports(headers), None)),
            None => self.first_here(packet, headers, now, io),
        }
    }

    /// Where else a connection may be that a packet belongs to: first.
    pub(super) fn other_worker(&self, packet: &P, headers: &Headers, now: Tick) -> Option<WorkerId> {
        if self.counters.len() == 1 {
            return None;
        }
        let tuple = tuple_of(packet.data(), headers)?;
        if begins_connection(headers) && !self.may_be_expected_elsewhere(&tuple, Zones::NONE, now) {
            return None;
        }
        self.next_to_ask(&tuple)
    }

    /// The worker that is asked after this one whether it has the connection of a packet; `None`: its owner, who has asked already.
    ///
    /// A packet to this host, or translated to it, goes to the worker of its source. Others go to that of their destination: so does what
    /// answers a connection that is only routed through us, which began at its own source's, the *other end's*. What answers a
    /// connection whose destination was exchanged names neither: all are asked, as long as there was such a rule.
    pub(super) fn next_to_ask(&self, packet: &Tuple) -> Option<WorkerId> {
        self.asked_after(self.worker, packet)
    }

    /// The same of any worker.
    pub(super) fn asked_after(&self, worker: WorkerId, packet: &Tuple) -> Option<WorkerId> {
        let owner = self.owner_of_flow(packet);
        let is_ours = self.tables.routes.is_local(packet.dst);
        let other = Some(self.owner_of(packet.src, packet.sport)).filter(|&other| !is_ours && other != owner);
        let asks_all = self.tables.rules.hide_owners();
        let next = match other {
            Some(other) if worker == owner => return Some(other),
            Some(other) if worker == other => self.next_worker(owner),
            _ => self.next_worker(worker),
        };
        let next = if Some(next) == other { self.next_worker(next) } else { next };
        Some(next).filter(|&next| asks_all && next != owner)
    }

    pub(super) fn next_worker(&self, worker: WorkerId) -> WorkerId {
        let next = worker.index() + 1;
        if next < self.counters.len() { WorkerId(next as u16) } else { WorkerId(0) }
    }

    /// A packet that its owner knows no connection for, at another worker.
    pub(super) fn sought(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let tuple = tuple_of(packet.data(), headers).unwrap_or(Tuple::of_packet(packet.data(), headers));
        if let Some(at) = self.flows.find(&tuple) {
            return self.begun(packet, headers, at, now, io);
        }
        let owner = self.owner_of_flow(&tuple);
        // Its tables may be others than those of the worker that it comes from.
        if owner == self.worker || self.is_expected(&tuple, Zones::NONE, now) {
            return self.first_here(packet, headers, now, io);
        }
        match self.next_to_ask(&tuple) {
            Some(next) => io.hand_over(next, packet, Steer::Elsewhere(ports(headers), None)),
            None => io.hand_over(owner, packet, Steer::Nowhere(ports(headers), None)),
        }
    }

    /// It is at no worker, or was at none a moment ago.
    pub(super) fn found_nowhere(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        match tuple_of(packet.data(), headers).and_then(|tuple| self.flows.find(&tuple)) {
            Some(at) => self.begun(packet, headers, at, now, io),
            None if headers.fragment == Fragment::Later => {
                // Meanwhile the first one may have gone to the worker of its client.
                if let Some(packet) = self.follow_first(packet, headers, now, io) {
                    self.of_none(packet, headers, now, io);
                }
            }
            None => self.first_here(packet, headers, now, io),
        }
    }

    /// A packet of no known connection.
    pub(super) fn first_here(&mut self, mut packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let original = tuple_of(packet.data(), headers).filter(|_| headers.fragment != Fragment::Later);
        let Some(original) = original else { return self.of_none(packet, headers, now, io) };
        let mut passage = self.first_passage(&packet, headers, &original, now);
        if let Err(stopped) = self.pass(&RAW, &original, &mut packet, headers, &mut passage) {
            return self.stop(packet, headers, stopped, Some(&passage), now, io);
        }
        self.first_behind_raw(packet, headers, &mut passage, io);
    }

    /// A packet that no connection can have, and that begins none.
    pub(super) fn of_none(&mut self, mut packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let wire = Tuple::of_packet(packet.data(), headers);
        let mut passage = self.passage(packet.port(), headers, CtState::Invalid, now);
        if let Err(stopped) = self.pass(&RAW, &wire, &mut packet, headers, &mut passage) {
            return self.stop(packet, headers, stopped, Some(&passage), now, io);
        }
        passage.is_untracked |= is_never_tracked(headers);
        if passage.is_untracked {
            passage.state = CtState::Untracked;
        }
        self.pass_untracked(packet, headers, passage, io);
    }

    /// One of a connection that goes to a virtual service's real server, which awaits it.
    pub(super) fn first_awaited(
        &mut self,
        mut packet: P,
        headers: &Headers,
        original: &Tuple,
        awaited: Awaited,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let mut passage = self.first_passage(&packet, headers, original, now);
        if let Err(stopped) = self.pass(&RAW, original, &mut packet, headers, &mut passage) {
            return self.stop(packet, headers, stopped, Some(&passage), now, io);
        }
        passage.connection_mark = awaited.mark;
        passage.expected = Some(Expected {
            helper: HelperId::FTP,
            follows: None,
            source_port: 0,
            is_helped: false,
            awaited: Some(awaited),
        });
        self.first_behind_raw(packet, headers, &mut passage, io);
    }

    /// Of a packet that may begin a connection.
    pub(super) fn first_passage(
        &mut self,
        packet: &P,
        headers: &Headers,
        original: &Tuple,
        now: Tick,
    ) -> Passage {
        // Before any rule, so that rules see it and may exchange it.
        let mark = self.tables.marks.mark(original, &self.tables.sets, now).unwrap_or(0);
        let passage = self.passage(packet.port(), headers, CtState::New, now);
        Passage { original: Some(*original), mark, ..passage }
    }

    /// What is of no known connection, behind the table `raw`.
    pub(super) fn first_behind_raw(
        &mut self,
        mut packet: P,
        headers: &Headers,
        passage: &mut Passage,
        io: &mut impl Io<P>,
    ) {
        let now = passage.now;
        let original = passage.original.unwrap_or(Tuple::of_packet(packet.data(), headers));
        self.is_at(Hook::Prerouting, Function::Conntrack);
        passage.is_untracked |= self.assumed == Some(CtState::Untracked);
        let begun = match self.begins(packet.data(), headers, now) {
            // The first that is seen of its connection is in its middle.
            None if self.acknowledges_services(&packet, headers, &original, passage.mark, now) => {
                self.begins_loosely(packet.data(), headers, now)
            }
            begun => begun,
        };
        let begun = begun.filter(|_| !passage.is_untracked);
        let Some(begun) = begun.filter(|_| self.assumed != Some(CtState::Invalid)) else {
            passage.original = None;
            passage.state = if passage.is_untracked { CtState::Untracked } else { CtState::Invalid };
            return self.pass_untracked(packet, headers, *passage, io);
        };
        self.note_expected(&original, passage);
        match self.first_prerouting(&mut packet, headers, &original, passage) {
            Ok(seen) => self.first_routed(packet, headers, (original, seen), &begun, passage, io),
            Err(stopped) => self.stop(packet, headers, stopped, Some(passage), now, io),
        }
    }

    /// PREROUTING behind the table `raw`: what it is from there on.
    fn first_prerouting(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        original: &Tuple,
        passage: &mut Passage,
    ) -> Result<Tuple, Stopped> {
        self.pass(&PREROUTING, original, packet, headers, passage)?;
        let seen = passage.become_renumbered(*original);
        self.ask_nat(Hook::Prerouting, &seen, packet, headers, passage)
    }

    /// The routing decision for what begins a connection: `original` is how it came, `seen` what it is behind PREROUTING.
    fn first_routed(
        &mut self,
        mut packet: P,
        headers: &Headers,
        (original, mut seen): (Tuple, Tuple),
        begun: &Begun,
        passage: &mut Passage,
        io: &mut impl Io<P>,
    ) {
        let now = passage.now;
        if self.tables.routes.is_local(original.src) {
            return self.drop(DropReason::MartianAddress, Hook::Prerouting);
        }
        let awaited = passage.expected.and_then(|expected| expected.awaited);
        let headers = &passage.as_routed(headers);
        let is_by_mark = self.is_served_by_mark(&packet, headers, &seen, passage.mark);
        let way = match self.check_link(&packet, headers, seen.dst) {
            _ if awaited.is_some() || is_by_mark => Way::Local,
            Ok(way) => way,
            Err(refusal) => return self.refuse(packet, headers, refusal, Some(passage), now, io),
        };
        if is_by_mark {
            self.watch.note(|| Step::ByMark(passage.mark));
        }
        self.watch.note(|| Step::Routed(way));
        // A service's address may be one that Linux has a way to.
        let is_in =
            way == Way::Local || way == Way::Linux && self.is_served(&packet, headers, &seen, passage.mark);
        let roads: &[&[_]] = match is_in {
            true => &[&INPUT],
            false if self.is_refused_by_linux(way, passage) => &[],
            false => &[&FORWARD, &POSTROUTING],
        };
        passage.output = self.output(way);
        for road in roads {
            if let Err(stopped) = self.pass(road, &seen, &mut packet, headers, passage) {
                return self.stop(packet, headers, stopped, Some(passage), now, io);
            }
            seen = passage.become_renumbered(seen);
        }
        let headers = &passage.as_routed(headers);
        let headers = &if headers.tcp_flags & SYN != 0 { grown(&packet, headers) } else { *headers };
        if awaited.is_some() || is_in && self.is_served(&packet, headers, &seen, passage.mark) {
            let Some(awaited) = awaited else {
                return self.serve_passed(packet, headers, (original, seen), passage, is_by_mark, io);
            };
            let passed = passed(&seen, passage);
            return self.with_passed(Some(passed), |path| {
                let awaited = Awaited { mark: passed.connection_mark, ..awaited };
                path.begin_awaited(packet, headers, &original, awaited, now, io);
            });
        }
        if is_by_mark {
            // Rules at INPUT have given it another mark.
            return io.to_twin(packet.port(), packet);
        }
        let hook = if is_in { Hook::Input } else { Hook::Postrouting };
        let after = match way {
            Way::Linux => self.untranslated(&seen, hook, &original, passage),
            _ => self.ask_nat(hook, &seen, &mut packet, headers, passage),
        };
        let after = match after {
            Ok(after) => after,
            Err(stopped) => return self.stop(packet, headers, stopped, Some(passage), now, io),
        };
        // What Linux routes, Linux forbids.
        if !is_in && way != Way::Linux && !self.tables.settings.forwarding {
            return self.drop(DropReason::ForwardingOff, Hook::Forward);
        }
        match self.track(original, after, headers, begun, passage) {
            Ok(at) => {
                if !self.help(&packet, headers, at, now) {
                    return;
                }
                self.is_at(hook, Function::Confirm);
                // A datagram is edited from the first on, a stream has no words yet.
                if self.flows.entry(at.id()).is_edited() && headers.protocol == Protocol::UDP {
                    let edited = self.edit_request(packet, headers, at, None, now, io);
                    let Some((packet, headers)) = edited else { return };
                    return self.onward_tracked(packet, &headers, at, now, io);
                }
                self.onward_tracked(packet, headers, at, now, io);
            }
            Err(reason) => self.drop(reason, hook),
        }
    }

    /// IPVS takes what rules let pass: it came as `original`.
    fn serve_passed(
        &mut self,
        packet: P,
        headers: &Headers,
        (original, seen): (Tuple, Tuple),
        passage: &Passage,
        is_by_mark: bool,
        io: &mut impl Io<P>,
    ) {
        // A service's client keeps its address.
        let seen = Tuple { src: original.src, ..seen };
        let passed = passed(&seen, passage);
        if is_by_mark {
            return self.bring(packet, headers, &original, passed, passage.now, io);
        }
        self.with_passed(Some(passed), |path| {
            path.serve_rarely(packet, headers, &original, &seen, passage.now, io);
        });
    }

    /// What leaves by an interface of Linux, which takes its answers: it keeps its source, but for a port or identifier where another connection
    /// would be answered alike.
    fn untranslated(
        &mut self,
        seen: &Tuple,
        hook: Hook,
        original: &Tuple,
        passage: &Passage,
    ) -> Result<Tuple, Stopped> {
        let (manip, range) = (Manip::Source, Range::KEEP);
        let after = self.translated(seen, manip, &range, original, passage.zones);
        after.ok_or((Verdict::Nat(manip, range), hook))
    }

    /// Whether a virtual service takes a packet to this host.
    pub(super) fn is_served(&self, packet: &P, headers: &Headers, seen: &Tuple, mark: u32) -> bool {
        self.tables.serves(headers.is_ipv6)
            && seen.protocol.has_ports()
            && !headers.is_from_link_local(packet.data())
            && self.tables.service_with(seen, mark).is_some()
    }

    /// Does what is to be done with a first packet of which rules have made this.
    pub(super) fn with_passed(&mut self, passed: Option<Passed>, work: impl FnOnce(&mut Path<P>)) {
        self.passed = passed;
        work(self);
        self.passed = None;
    }

    /// A packet that conntrack makes no connection of, behind the table `raw`: it is not translated, and goes on as it is, but for prefixes that rules
    /// exchange. Its sender, who is told when it is refused, knows it as it came. A virtual service takes it all the same: IPVS asks conntrack nothing.
    pub(super) fn pass_untracked(
        &mut self,
        mut packet: P,
        headers: &Headers,
        mut passage: Passage,
        io: &mut impl Io<P>,
    ) {
        let now = passage.now;
        (passage.at, passage.of) = (None, None);
        if let Some(stopped) = self.stopped_before(packet.data(), headers, now) {
            return self.stop(packet, headers, stopped, Some(&passage), now, io);
        }
        if passage.state == CtState::Invalid {
            self.mine.flows.invalid.add(1);
        }
        let wire = Tuple::of_packet(packet.data(), headers);
        if let Err(stopped) = self.pass(&PREROUTING, &wire, &mut packet, headers, &mut passage) {
            rewrite::restore_ends(packet.data_mut(), headers, &wire);
            return self.stop(packet, headers, stopped, Some(&passage), now, io);
        }
        let seen = passage.become_renumbered(wire);
        let headers = &passage.as_routed(headers);
        let is_by_mark = headers.fragment != Fragment::Later
            && self.is_served_by_mark(&packet, headers, &seen, passage.mark);
        let way = match self.check_link(&packet, headers, seen.dst) {
            _ if is_by_mark => Way::Local,
            Ok(way) => way,
            Err(refusal) => {
                rewrite::restore_ends(packet.data_mut(), headers, &wire);
                return self.refuse(packet, headers, refusal, Some(&passage), now, io);
            }
        };
        if is_by_mark {
            self.watch.note(|| Step::ByMark(passage.mark));
        }
        self.watch.note(|| Step::Routed(way));
        let may_be_served = matches!(way, Way::Local | Way::Linux) && headers.fragment != Fragment::Later;
        let is_served = may_be_served && self.is_served(&packet, headers, &seen, passage.mark);
        let routed = if is_served { Way::Local } else { way };
        if let Err(stopped) = self.pass_routed(&mut packet, headers, &seen, routed, &mut passage) {
            rewrite::restore_ends(packet.data_mut(), headers, &wire);
            return self.stop(packet, headers, stopped, Some(&passage), now, io);
        }
        if may_be_served && self.is_served(&packet, headers, &seen, passage.mark) {
            if self.tables.routes.is_local(wire.src) {
                return self.drop(DropReason::MartianAddress, Hook::Prerouting);
            }
            let headers = &passage.as_routed(headers);
            return self.serve_passed(packet, headers, (wire, seen), &passage, is_by_mark, io);
        }
        if matches!(way, Way::Local | Way::Linux) {
            return io.to_twin(packet.port(), packet);
        }
        if !self.tables.settings.forwarding {
            return self.drop(DropReason::ForwardingOff, Hook::Forward);
        }
        rewrite::decrement_ttl(packet.data_mut(), headers);
        self.leave(packet, headers, seen.dst, Going::AsItIs, now, io);
    }

    /// A packet of no connection that has ports, and not about one.
    pub(super) fn other(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        if !self.tables.rules.are_active() {
            return self.route(packet, headers, now, io);
        }
        let at = tuple_of(packet.data(), headers).and_then(|tuple| self.flows.find(&tuple));
        match at {
            Some(at) => self.begun(packet, headers, at, now, io),
            None => self.first_ruled(packet, headers, now, io),
        }
    }
}

/// What rules let pass, as a virtual service sees it.
fn passed(seen: &Tuple, passage: &Passage) -> Passed {
    let &Passage { state, mark, connection_mark, labels, is_traced, .. } = passage;
    let (destination, ticket) = ((seen.dst, seen.dport), Ticket::NONE);
    let is_by_mark = false;
    Passed { destination, state, mark, connection_mark, labels, is_by_mark, is_traced, ticket, opening: None }
}

/// Whether a packet says that no connection has it yet. A SYN that is an end as well begins none, and what it is about may be another worker's.
pub(super) fn begins_connection(headers: &Headers) -> bool {
    headers.protocol == Protocol::TCP && headers.tcp_flags & (SYN | ACK | FIN | RST) == SYN
}

/// The sequence number behind a packet that begins a TCP connection, which takes one itself, and its data.
pub(super) fn syn_end(frame: &[u8], headers: &Headers) -> Option<u32> {
    let header = tcp::header(frame, headers.l4.into()).filter(|_| begins_connection(headers))?;
    let data = headers.l4_len().saturating_sub(tcp::header_len(header));
    Some(tcp::sequence(header).wrapping_add(1 + data as u32))
}
