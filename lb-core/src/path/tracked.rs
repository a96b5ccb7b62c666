//! Connections that no virtual service takes: followed while there are rules, so that these know which packets belong together, and so that
//! the table `nat` is asked once.
//!
//! One is an entry like any other, of no real server. What the table `nat` decided is in its two tuples: they are
//! translated, in both directions, by what translates a masqueraded connection.

use super::ask::translation;
use super::passage::{Passage, RAW, Stopped};
use super::{Io, Path, rewrite};
use crate::conntrack::helper::HelperId;
use crate::conntrack::tcp::TcpState;
use crate::conntrack::{self, CtState, Facts, Invalid, Labels, Status, Step, Told, Tracked, Zones};
use crate::drop::DropReason;
use crate::flow::edit::Edit;
use crate::flow::template::templated;
use crate::flow::{Deltas, Direction, FlowId, FlowRef, FlowTable, Method, NewFlow, Tuple};
use crate::hook::{Function, Hook};
use crate::ids::ServerId;
use crate::nat::{self, Manip, Range};
use crate::packet::{Packet, RxChecksum};
use crate::rule::{Refusal, Verdict};
use crate::tables::{Protocol, Way};
use crate::time::{Tick, Timeout};
use crate::wire::checksum::Delta;
use crate::wire::icmp;
use crate::wire::ipv4::TTL_DECREMENT;
use crate::wire::parse::{Fragment, Headers, Parsed, parse};
use crate::wire::tcp::RST;

/// A connection that is about to begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    tracked: Tracked,
    step: Step,
}

impl<P: Packet> Path<P> {
    /// Enters a connection whose packets are `original` when they come and `after` when they leave.
    ///
    /// # Errors
    /// There is no room for it, or for what is to be edited of it.
    pub(super) fn track(
        &mut self,
        original: Tuple,
        after: Tuple,
        headers: &Headers,
        begun: &Begun,
        passage: &Passage,
    ) -> Result<FlowRef, DropReason> {
        let &Passage { connection_mark, labels, zones, untold, helper, expected, now, .. } = passage;
        let Begun { mut tracked, step } = *begun;
        tracked.mark = connection_mark;
        tracked.untold = untold;
        if passage.is_masqueraded {
            tracked.status.set(Status::MASQUERADED);
        }
        match expected {
            Some(expected) => {
                tracked.status.set(Status::EXPECTED);
                tracked.set_helper(expected.helper);
                if expected.is_helped {
                    tracked.status.set(Status::HELPER);
                }
            }
            None if helper != HelperId::NONE => {
                tracked.status.set(Status::HELPER);
                tracked.set_helper(helper);
            }
            None => {}
        }
        let timeout =
            step.timeout.unwrap_or(Timeout::from_secs(self.tables.settings.sysctls.conntrack.generic));
        let helper = tracked.helper().get();
        let edits = helper.map_or(0, |helper| helper.edits_of(original.protocol, original != after));
        let (used, capacity) = self.flows.edits();
        if edits != 0 && used == capacity {
            self.mine.edits.full.add(1);
            return Err(DropReason::EditTableFull);
        }
        let id = self
            .enter_tracked(original, after, zones, tracked, (step.state, timeout), now)
            .ok_or(DropReason::FlowTableFull)?;
        self.label(id, labels);
        let is_begun = edits == 0 || self.flows.begin_edit(id, Edit::new(edits));
        debug_assert!(is_begun, "there is room");
        self.account(FlowRef::new(id, Direction::Original), headers);
        self.tell(if expected.is_some() { Told::RELATED } else { Told::NEW }, id);
        Ok(FlowRef::new(id, Direction::Original))
    }

    /// A connection that was just entered has these labels, if there is room.
    pub(super) fn label(&mut self, id: FlowId, labels: Labels) {
        if labels != Labels::NONE && !self.flows.set_labels(id, labels) {
            self.mine.flows.unlabelled.add(1);
        }
    }

    /// The same, with state and timeout given; nobody is told.
    pub(super) fn enter_tracked(
        &mut self,
        original: Tuple,
        after: Tuple,
        zones: Zones,
        mut tracked: Tracked,
        (state, timeout): (u8, Timeout),
        now: Tick,
    ) -> Option<FlowId> {
        let reply = after.reversed();
        let new = NewFlow {
            original,
            reply,
            method: Method::Masq,
            deltas: rewrite::deltas_both_ways(&original, &after),
            server: ServerId::NONE,
            state,
            timeout,
            now,
            zones,
        };
        if !self.has_room_for_tracked() {
            self.mine.flows.full.add(1);
            return None;
        }
        let id = self.insert(&new)?;
        self.mine.flows.tracked.add(1);
        tracked.status.set(Status::CONFIRMED);
        tracked.status.set(translation(&original, &after));
        *self.flows.tracked_mut(id) = tracked;
        self.flows.entry_mut(id).renew(self.tables.generation, self.tables.looks_at_each());
        self.counted.keep(id);
        self.mine.flows.inserted.add(1);
        Some(id)
    }

    /// What a packet that no connection has begins. `None`: it is INVALID.
    pub(super) fn begins(&self, frame: &[u8], headers: &Headers, now: Tick) -> Option<Begun> {
        let settings = &self.tables.settings.sysctls.conntrack;
        let facts = Facts::read(frame, headers).ok()?;
        let (tracked, step) = conntrack::begin(&facts, now, settings).ok()?;
        Some(Begun { tracked, step })
    }

    /// As [`Path::begins`], also of a packet in the middle of a connection.
    #[cold]
    pub(super) fn begins_loosely(&self, frame: &[u8], headers: &Headers, now: Tick) -> Option<Begun> {
        let settings = conntrack::Settings { tcp_loose: 1, ..self.tables.settings.sysctls.conntrack };
        let facts = Facts::read(frame, headers).ok()?;
        let (tracked, step) = conntrack::begin(&facts, now, &settings).ok()?;
        Some(Begun { tracked, step })
    }

    /// What a packet is to its connection, whose state it takes on.
    #[inline(never)]
    pub(super) fn follows(&mut self, frame: &[u8], headers: &Headers, at: FlowRef, now: Tick) -> Step {
        let id = at.id();
        let (state, left) = (self.flows.entry(id).state(), self.flows.entry(id).expires().since(now));
        let settings = &self.tables.settings.sysctls.conntrack;
        let is_later = headers.fragment == Fragment::Later;
        let Ok(facts) = Facts::read(frame, headers) else {
            // A later fragment goes with its datagram's first one.
            let verdict = if is_later {
                conntrack::Verdict::Fine
            } else {
                conntrack::Verdict::Invalid(Invalid::Malformed)
            };
            let is = if is_later { self.flows.tracked(id).is(at.direction()) } else { CtState::Invalid };
            return Step { verdict, is, state, timeout: None, is_changed: false };
        };
        let tracked = self.flows.tracked_mut(id);
        let before = tracked.status;
        let step = conntrack::advance(tracked, state, at.direction(), &facts, Timeout(left), now, settings);
        if matches!(step.verdict, conntrack::Verdict::Fine | conntrack::Verdict::Ends) {
            self.flows.entry_mut(id).set_state(step.state);
            if let Some(timeout) = step.timeout.filter(|&timeout| timeout != self.flows.entry(id).timeout()) {
                self.flows.set_timeout(id, timeout);
            }
            if conntrack::is_over(self.flows.entry(id).protocol(), step.state) {
                self.counted.release(id);
            }
            if step.is_changed {
                let after = self.flows.tracked(id).status;
                self.tell(Told::of_change(before, after, state != step.state), id);
            }
        }
        step
    }

    /// What `tuple`, the tuple of the connection that comes as `original`, becomes by `range`.
    pub(super) fn translated(
        &mut self,
        tuple: &Tuple,
        manip: Manip,
        range: &Range,
        original: &Tuple,
        zones: Zones,
    ) -> Option<Tuple> {
        self.translated_past(tuple, manip, range, original, zones, |_, _| false)
    }

    /// The same of a SYN where all that was tried is taken: a port may be taken from a connection that is over, if the SYN with its data ends beyond
    /// all that this one sent, so that no segment of it that is still on its way is taken for one of the new one's (RFC 6191 §2; Linux: `nf_nat_used_tuple_harder`).
    #[cold]
    pub(super) fn translated_anew(
        &mut self,
        tuple: &Tuple,
        range: &Range,
        original: &Tuple,
        zones: Zones,
        end: u32,
    ) -> Option<Tuple> {
        let gives_way = |flows: &FlowTable, at: FlowRef| {
            let entry = flows.entry(at.id());
            at.direction() == Direction::Reply
                && entry.is_tracked()
                && conntrack::is_over(entry.protocol(), entry.state())
                && flows.tracked(at.id()).is_outrun_by(end)
        };
        let after = self.translated_past(tuple, Manip::Source, range, original, zones, gives_way)?;
        if let Some(at) = self.flows.find_by(&after.reversed(), zones.of(Direction::Reply)) {
            self.end(at.id());
        }
        Some(after)
    }

    /// `gives_way` says whether a connection that is found in the place gives it.
    fn translated_past(
        &mut self,
        tuple: &Tuple,
        manip: Manip,
        range: &Range,
        original: &Tuple,
        zones: Zones,
        gives_way: impl Fn(&FlowTable, FlowRef) -> bool,
    ) -> Option<Tuple> {
        let random = self.random();
        let flows = &self.flows;
        let workers = self.counters.len();
        // What goes to one destination may be several workers' where destinations are exchanged: each has ports of its own there. And where an
        // answer's port says whose it is.
        let may_be_anothers = workers > 1 && range.addresses.is_some();
        // Answers to it must be told from those to all others, and from packets that begin it.
        let is_taken = |leaving: &Tuple| {
            let answer = leaving.reversed();
            let is_anothers = may_be_anothers && self.is_anothers_port(leaving, &answer);
            let found = || flows.find_by(&answer, zones.of(Direction::Reply));
            is_anothers || answer == *original || found().is_some_and(|at| !gives_way(flows, at))
        };
        // A destination alone need not be free: the source may still be exchanged at POSTROUTING.
        match manip {
            Manip::Destination => nat::translate(tuple, manip, range, random, |_| false),
            Manip::Source => nat::translate(tuple, manip, range, random, is_taken),
        }
    }

    /// Whether another worker gives this source port: where rules hide whose answers are, each has its own at an address; where they may be answers to a
    /// service's connection too, those that bring them here.
    pub(super) fn is_anothers_port(&self, leaving: &Tuple, answer: &Tuple) -> bool {
        let hide_owners = self.tables.rules.hide_owners();
        let giver = match self.tables.routes.is_local(leaving.src) {
            true if hide_owners => self.owners.of_local(leaving.src, leaving.sport),
            _ if hide_owners || self.tables.may_be_of_server(answer) => self.owner_of_flow(answer),
            _ => return false,
        };
        leaving.sport != 0 && giver != self.worker
    }

    /// A packet of a tracked connection: rules look at it, its state follows it, and it goes on translated.
    #[inline(never)]
    pub(super) fn tracked(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let Some((packet, step, ttl)) = self.look_at_tracked(packet, headers, at, now, io) else { return };
        if ttl == headers.ttl {
            self.leave_tracked(packet, headers, at, &step, now, io);
        } else {
            self.leave_with_ttl(packet, &Headers { ttl, ..*headers }, at, &step, now, io);
        }
    }

    /// As [`Path::leave_tracked`], for the few whose TTL rules have written.
    #[cold]
    fn leave_with_ttl(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        step: &Step,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.leave_tracked(packet, headers, at, step, now, io);
    }

    /// Its state follows a packet, and rules look at it: `None` if it goes no further, or another way. With the TTL that it is routed with.
    #[inline(always)]
    pub(super) fn look_at_tracked(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<(P, Step, u8)> {
        let Some((course, common)) = self.course(at, packet.port(), headers) else {
            return self.look_and_walk(packet, headers, at, None, now, io);
        };
        let step = self.follows(packet.data(), headers, at, now);
        self.account_step(at, headers, &step);
        let is_fine = matches!(step.verdict, conntrack::Verdict::Fine | conntrack::Verdict::Ends);
        if is_fine && common.state == step.is {
            self.mine.courses.count(course.number(), headers.ip_len.into());
            if headers.protocol == Protocol::UDP {
                self.settle(at);
            }
            return Some((packet, step, headers.ttl));
        }
        self.look_and_walk(packet, headers, at, Some(step), now, io)
    }

    /// The same of a packet that follows no course. `followed`: its state did so already, and it is to its connection what the course was not for.
    #[inline(never)]
    fn look_and_walk(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        followed: Option<Step>,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<(P, Step, u8)> {
        let mut passage = self.passage(packet.port(), headers, CtState::Established, now);
        passage.of = Some(at.id());
        // The table `raw` does not ask what a packet is to its connection.
        passage.state = followed.map_or(passage.state, |step| step.is);
        let wire = self.flows.tuple(at.id(), at.direction());
        let is_walked = self.flows.entry(at.id()).is_ruled();
        self.met.begin_anew();
        if is_walked {
            if let Err(stopped) = self.pass(&RAW, &wire, &mut packet, headers, &mut passage) {
                self.stop(packet, headers, stopped, Some(&passage), now, io);
                return None;
            }
            if followed.is_none() && (passage.is_untracked || passage.zones != Zones::NONE) {
                self.behind_raw(packet, headers, passage, io);
                return None;
            }
        }
        self.is_at(Hook::Prerouting, Function::Conntrack);
        let step = match followed {
            Some(step) => step,
            None => {
                let step = self.follows(packet.data(), headers, at, now);
                self.account_step(at, headers, &step);
                step
            }
        };
        passage.state = step.is;
        match step.verdict {
            conntrack::Verdict::Fine | conntrack::Verdict::Ends => {}
            conntrack::Verdict::Invalid(_) => {
                self.pass_untracked(packet, headers, passage, io);
                return None;
            }
            conntrack::Verdict::Reopens => {
                self.end(at.id());
                (passage.state, passage.of, passage.original) = (CtState::New, None, Some(wire));
                self.first_behind_raw(packet, headers, &mut passage, io);
                return None;
            }
        }
        if is_walked {
            let walked = self.walk_tracked(&mut packet, headers, at, &wire, &mut passage);
            if walked.is_err() || passage.refused.is_some() {
                self.prolong(at, &step, now);
                self.stop_or_refuse(packet, headers, at, walked, &passage, io);
                self.end_with(at, &step);
                return None;
            }
            if !self.help(&packet, headers, at, now) {
                self.prolong(at, &step, now);
                return None;
            }
            self.keep_course(at, packet.port(), headers, step.is, now);
        }
        Some((packet, step, passage.ttl))
    }

    /// What rules stop, or what is [refused](Passage::refused) between two of them.
    #[cold]
    pub(super) fn stop_or_refuse(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        walked: Result<(), Stopped>,
        passage: &Passage,
        io: &mut impl Io<P>,
    ) {
        let now = passage.now;
        if let Err(stopped) = walked {
            self.close_reset(at, headers, stopped, now);
            self.stop(packet, headers, stopped, Some(passage), now, io);
        } else if let Some(refusal) = passage.refused {
            self.refuse(packet, headers, refusal, Some(passage), now, io);
        }
    }

    /// A connection of which a packet is answered with a reset is over, as at the end that it is told to (Linux: `nf_ct_set_closing`).
    fn close_reset(&mut self, at: FlowRef, headers: &Headers, (verdict, _): Stopped, now: Tick) {
        let is_reset = matches!(verdict, Verdict::Reject(Refusal::TcpReset)) && headers.tcp_flags & RST == 0;
        let (id, entry) = (at.id(), self.flows.entry(at.id()));
        let is_closed = entry.state() == TcpState::Close as u8;
        if !is_reset || entry.protocol() != Protocol::TCP || headers.fragment != Fragment::None || is_closed {
            return;
        }
        self.flows.entry_mut(id).set_state(TcpState::Close as u8);
        if !self.flows.tracked(id).status.has(Status::FIXED_TIMEOUT) {
            self.flows.entry_mut(id).touch(now);
            let seconds = self.tables.settings.sysctls.conntrack.tcp[TcpState::Close as usize];
            self.flows.set_timeout(id, Timeout::from_secs(seconds));
        }
        self.counted.release(id);
        self.tell(Told::PROTOINFO, id);
    }

    /// The road of a packet of a tracked connection behind conntrack.
    #[inline(always)]
    pub(super) fn walk_tracked(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        at: FlowRef,
        wire: &Tuple,
        passage: &mut Passage,
    ) -> Result<(), Stopped> {
        passage.at = Some(at);
        let leaves = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        let way = self.tables.way(leaves.dst);
        // Destinations are exchanged at PREROUTING, sources at POSTROUTING.
        let inner = Tuple { dst: leaves.dst, dport: leaves.dport, ..*wire };
        self.pass_tracked(packet, headers, (wire, &inner), way, passage)
    }

    /// Sends a packet on that has told its connection's state.
    #[inline(always)]
    pub(super) fn leave_tracked(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        step: &Step,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let seen = self.flows.entry(at.id()).seen();
        self.onward_tracked(packet, headers, at, now, io);
        self.close_step(at, step, seen);
    }

    /// What a packet that has gone on leaves of its connection, whose last packet was at `seen`.
    #[inline(always)]
    pub(super) fn close_step(&mut self, at: FlowRef, step: &Step, seen: Tick) {
        if step.timeout.is_none() {
            self.flows.entry_mut(at.id()).touch(seen);
        }
        self.end_with(at, step);
    }

    /// A packet that goes no further behind tracking, which has seen it, has its connection rest as long as any other.
    #[cold]
    pub(super) fn prolong(&mut self, at: FlowRef, step: &Step, now: Tick) {
        if step.timeout.is_some() {
            self.flows.entry_mut(at.id()).touch(now);
        }
    }

    /// A packet that refuses its connection ends it, whether rules let it pass or not.
    #[inline(always)]
    pub(super) fn end_with(&mut self, at: FlowRef, step: &Step) {
        if step.verdict == conntrack::Verdict::Ends {
            self.end(at.id());
        }
    }

    /// Sends a packet of a tracked connection on, which its rules let pass.
    pub(super) fn onward_tracked(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let kept = self.kept_hop(at);
        if kept.is_none() && self.leads_to_host(at) {
            self.deliver(packet, headers, at, now, io);
        } else if self.tables.settings.forwarding {
            let hop = kept.unwrap_or(self.flows.entry(at.id()).hop_or_none(at.direction()));
            self.masquerade_to(packet, headers, at, hop, now, io);
        } else {
            self.flows.entry_mut(at.id()).touch(now);
            self.drop(DropReason::ForwardingOff, Hook::Forward);
        }
    }

    /// Whether packets that go this way are for the host: those that have a next hop are not.
    #[inline(never)]
    pub(super) fn leads_to_host(&self, at: FlowRef) -> bool {
        let to = self.flows.tuple(at.id(), at.direction().opposite()).src;
        matches!(self.tables.way(to), Way::Local | Way::Linux)
    }

    /// Gives a packet of a tracked connection to the host.
    pub(super) fn deliver(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.flows.entry_mut(at.id()).touch(now);
        if !self.translate_in_place(&mut packet, headers, at) {
            return self.drop(DropReason::Unsupported, Hook::Input);
        }
        io.to_twin(packet.port(), packet);
    }

    /// Translates a packet that goes no hop further. False: its headers are not where the parser saw them (it never happens).
    pub(super) fn translate_in_place(&self, packet: &mut P, headers: &Headers, at: FlowRef) -> bool {
        let wire = self.flows.tuple(at.id(), at.direction());
        let out = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        if wire == out {
            return true;
        }
        let Deltas { ip, l4 } = self.flows.entry(at.id()).deltas(at.direction());
        // The rewrite lowers the TTL, and the difference says so.
        rewrite::raise_ttl(packet.data_mut(), headers);
        let ip = if headers.is_ipv6 { Delta(ip) } else { Delta(ip).and(TTL_DECREMENT.reversed()) };
        let outcome = rewrite::any(packet.data_mut(), headers, &out, Deltas { ip: ip.0, l4 });
        if outcome == rewrite::Outcome::NeedsUdpChecksum {
            rewrite::fill_udp_checksum(packet, headers, rewrite::Offload::No);
        }
        outcome != rewrite::Outcome::Unreadable
    }

    /// Counts a packet of a connection, where that is wanted.
    #[inline]
    pub(super) fn account(&mut self, at: FlowRef, headers: &Headers) {
        if self.counts_connections {
            self.count_piece_or_whole(at, headers);
        }
    }

    /// The same of a packet that tracking has looked at.
    #[inline]
    pub(super) fn account_step(&mut self, at: FlowRef, headers: &Headers, step: &Step) {
        if self.counts_connections {
            self.count_of_step(at, headers, step);
        }
    }

    /// What is INVALID, or passes without anything following from it, is none of the connection's packets: it prolongs nothing. A later fragment is
    /// one with its first one, and where no packet prolongs the connection all that fit it count.
    #[inline(never)]
    fn count_of_step(&mut self, at: FlowRef, headers: &Headers, step: &Step) {
        let is_fixed = self.flows.tracked(at.id()).status.has(Status::FIXED_TIMEOUT);
        let prolongs = step.timeout.is_some() || is_fixed || headers.fragment == Fragment::Later;
        if prolongs && matches!(step.verdict, conntrack::Verdict::Fine | conntrack::Verdict::Ends) {
            self.count_piece_or_whole(at, headers);
        }
    }

    /// A later fragment adds its data to its datagram, which is one packet.
    fn count_piece_or_whole(&mut self, at: FlowRef, headers: &Headers) {
        if headers.fragment != Fragment::Later {
            return self.count_of_connection(at, headers);
        }
        if let Some(accounting) = self.flows.accounting_mut(at.id()) {
            accounting.lengthen(at.direction(), headers.l4_len() as u32);
        }
    }

    #[inline(never)]
    pub(super) fn count_of_connection(&mut self, at: FlowRef, headers: &Headers) {
        match self.flows.accounting_mut(at.id()) {
            Some(accounting) => {
                accounting.count(at.direction(), headers.ip_len);
                let packets = accounting.packets[at.direction().index()];
                if self.tables.settings.is_sharing && at.direction() == Direction::Original {
                    self.note_packet(at.id(), packets);
                }
            }
            None => self.mine.flows.uncounted.add(1),
        }
    }

    /// A number that nobody outside can know, another one each time.
    pub(super) fn random(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(1);
        self.flows.hasher().random(self.chance ^ u64::from(self.worker.0) << 48)
    }
}

/// What a connection is known by that such a frame belongs to, or begins. `None`: none.
pub fn tuple_of_frame(frame: &[u8]) -> Option<Tuple> {
    match parse(frame, frame.len(), RxChecksum::Unknown) {
        Ok(Parsed::Ip(headers)) => tuple_of(frame, &headers),
        _ => None,
    }
}

/// What a connection that such a packet belongs to, or begins, is known by. ICMP echo has its identifier in the place of the port of the end that
/// asks, and type and code of the request in the other's, so that an answer's is a request's reversed. `None`: it is tracked in no connection.
pub(super) fn tuple_of(frame: &[u8], headers: &Headers) -> Option<Tuple> {
    let (src, dst) = (headers.source(frame), headers.destination(frame));
    let tuple = |sport, dport| Some(Tuple { src, dst, sport, dport, protocol: headers.protocol });
    match headers.protocol {
        protocol if protocol.has_ports() => tuple(headers.sport, headers.dport),
        // As the first fragment had it.
        Protocol::ICMP | Protocol::ICMPV6 if headers.fragment == Fragment::Later => {
            tuple(headers.sport, headers.dport).filter(|_| (headers.sport, headers.dport) != (0, 0))
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            let header = icmp::header(frame, headers.l4.into())?;
            let id = icmp::identifier(header);
            let query = icmp::Query::of(headers.is_ipv6, headers.icmp_type)?;
            let port = query.port(icmp::code(header));
            if query.is_answer { tuple(port, id) } else { tuple(id, port) }
        }
        // Those of templates, and that of a free entry.
        protocol if templated(protocol).is_some() || protocol == Protocol::ANY => None,
        _ => tuple(0, 0),
    }
}
