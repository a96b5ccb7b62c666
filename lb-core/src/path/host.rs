//! What the host sends by the twin of a port, while there are rules: OUTPUT, POSTROUTING, out of that port.
//!
//! What has a source that is not this host's came by another interface of Linux, which routed it: PREROUTING, FORWARD, POSTROUTING. By which one nobody here
//! knows: rules see none.

use std::net::IpAddr;

use super::error_of_host::answer_of_error;
use super::hooks::{problem, why};
use super::host_alone::{is_never_tracked, is_to_many};
use super::on_link::{is_on_link, off_link, on_link};
use super::passage::{Passage, Stop, Stopped};
use super::tracked::tuple_of;
use super::waiting::Going;
use super::{FromRaw, Io, Path, Steer, rewrite};
use crate::conntrack::{self, CtState, Expectation, Step, Zones};
use crate::drop::DropReason;
use crate::flow::{Direction, FlowRef, Tuple};
use crate::hook::{Function, Hook};
use crate::icmp;
use crate::ids::{PortId, WorkerId};
use crate::packet::Packet;
use crate::reset::make_reset;
use crate::rule::{Refusal, Table, Verdict};
use crate::tables::Way;
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers, Parsed, parse};

impl<P: Packet> Path<P> {
    /// A frame that the host sent by the twin of `port`, at the worker that serves this.
    #[cold]
    pub(super) fn sent_by_host(&mut self, port: PortId, packet: P, now: Tick, io: &mut impl Io<P>) {
        let to = known_by(&packet, port).map_or(self.worker, |wire| self.owner_of_host(&wire));
        if self.counters.len() == 1 || to == self.worker {
            return self.begun_by_host(port, packet, now, io);
        }
        io.hand_over(to, packet, Steer::FromHost(port));
    }

    /// The worker to which what answers such a packet of the host comes.
    pub(super) fn owner_of_host(&self, wire: &Tuple) -> WorkerId {
        match is_on_link(wire) || self.tables.routes.is_local(wire.src) {
            true => self.owner_of_flow(&wire.reversed()),
            // Also what answers what Linux routed, and what that answers, names this end.
            false => self.owner_of(wire.src, wire.sport),
        }
    }

    /// At the worker that is to have its connection. What answers one whose destination was exchanged may be of any worker's, as in
    /// [`next_to_ask`](Self::next_to_ask).
    pub(super) fn begun_by_host(&mut self, port: PortId, packet: P, now: Tick, io: &mut impl Io<P>) {
        let may_be_elsewhere = |wire: Tuple| self.flows.find(&wire).is_none();
        let is_first_asked = self.asks_all_for_host() && !self.zones_matter();
        if is_first_asked && known_by(&packet, port).is_some_and(may_be_elsewhere) {
            let next = self.next_worker(self.worker);
            return io.hand_over(next, packet, Steer::FromHostElsewhere(port, None));
        }
        self.out(port, packet, now, io);
    }

    /// Whether any worker may have the connection of what the host sends.
    fn asks_all_for_host(&self) -> bool {
        self.counters.len() > 1 && self.tables.rules.hide_owners()
    }

    /// At a worker that may have its connection, or at its own again: nobody has one.
    pub(super) fn sought_of_host(
        &mut self,
        port: PortId,
        packet: P,
        raw: Option<FromRaw>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let Some((headers, wire)) = read_host(&packet, port) else {
            return match answer_of_error(&packet, port) {
                Some(answer) => self.sought_error_of_host(port, packet, &answer, now, io),
                None => io.transmit(port, packet),
            };
        };
        let mut passage = self.passage_of_host(port, &headers, wire.src, now);
        raw.into_iter().for_each(|raw| raw.put(&mut passage));
        passage.of = self.flows.find_in(&wire, passage.zones).map(FlowRef::id);
        let is_here = passage.of.is_some()
            || self.owner_of_host(&wire) == self.worker
            || self.is_expected(&wire, passage.zones, now);
        match raw {
            _ if !is_here => {
                let next = self.next_worker(self.worker);
                io.hand_over(next, packet, Steer::FromHostElsewhere(port, raw));
            }
            None => self.out(port, packet, now, io),
            Some(_) => self.out_behind_raw(port, packet, &headers, wire, passage, io),
        }
    }

    pub(super) fn passage_of_host(
        &mut self,
        port: PortId,
        headers: &Headers,
        source: IpAddr,
        now: Tick,
    ) -> Passage {
        let mut passage = self.passage(port, headers, CtState::Established, now);
        passage.output = passage.input.take();
        // Nobody passes on what only one link is to hear.
        let is_own = headers.is_for_twin || is_ones_own(source) || is_never_tracked(headers);
        if is_own || self.tables.routes.is_local(source) {
            passage.begins_at = Hook::Output;
        }
        passage
    }

    /// OUTPUT, POSTROUTING, out of that port.
    #[cold]
    pub(super) fn out(&mut self, port: PortId, mut packet: P, now: Tick, io: &mut impl Io<P>) {
        let Some((headers, wire)) = read_host(&packet, port) else {
            return self.error_out(port, packet, now, io);
        };
        let headers = &headers;
        let mut passage = self.passage_of_host(port, headers, wire.src, now);
        passage.of = self.flows.find(&wire).map(FlowRef::id);
        let raw = [(Table::Raw, passage.begins_at)];
        if let Err(stopped) = self.pass(&raw, &wire, &mut packet, headers, &mut passage) {
            return self.stop_host(port, packet, headers, stopped, now, io);
        }
        if passage.zones != Zones::NONE {
            passage.of = self.flows.find_in(&wire, passage.zones).map(FlowRef::id);
        }
        let asks_all = self.zones_matter() && self.asks_all_for_host();
        if asks_all && !passage.is_untracked && passage.of.is_none() {
            let next = self.next_worker(self.worker);
            let raw = Some(FromRaw::of(&passage));
            return io.hand_over(next, packet, Steer::FromHostElsewhere(port, raw));
        }
        self.out_behind_raw(port, packet, headers, wire, passage, io);
    }

    /// OUTPUT behind the table `raw`, POSTROUTING, out of that port.
    fn out_behind_raw(
        &mut self,
        port: PortId,
        mut packet: P,
        headers: &Headers,
        wire: Tuple,
        mut passage: Passage,
        io: &mut impl Io<P>,
    ) {
        let now = passage.now;
        let (mut headers, mut told, mut opens) = (*headers, None, None);
        let is_edited = |at: &FlowRef| {
            let entry = self.flows.entry(at.id());
            let is_answer = at.direction() == Direction::Reply && !passage.is_untracked;
            is_answer && entry.is_tracked() && entry.is_edited()
        };
        if let Some(at) = self.flows.find_in(&wire, passage.zones).filter(is_edited) {
            match self.edited_of_host(packet, &headers, at, port, now, io) {
                Some(edited) => (packet, headers, told, opens) = edited,
                None => return,
            }
        }
        self.is_at(passage.begins_at, Function::Conntrack);
        let known = self.known_of_host(&packet, &headers, &wire, &mut passage, now);
        let seen = known.map(|(at, _)| self.flows.entry(at.id()).seen());
        let known_at = known.map(|(at, _)| at);
        self.out_behind_conntrack(port, packet, &headers, wire, known_at, (told, opens), passage, io);
        if let (Some((at, step)), Some(seen)) = (known, seen) {
            self.close_step(at, &step, seen);
        }
    }

    /// The same behind conntrack, which knows the connection or may know it from here on; a helper has `told` something of it, or the packet `opens` what
    /// is edited.
    fn out_behind_conntrack(
        &mut self,
        port: PortId,
        mut packet: P,
        headers: &Headers,
        wire: Tuple,
        known: Option<FlowRef>,
        (told, opens): (Option<Expectation>, Option<bool>),
        mut passage: Passage,
        io: &mut impl Io<P>,
    ) {
        let now = passage.now;
        let left = match known {
            Some(at) => self.pass_out(&mut packet, headers, &wire, at, &mut passage).map(Some),
            None => self.first_out(&mut packet, headers, wire, &mut passage),
        };
        let at = match left {
            Ok(Some(at)) => at,
            Ok(None) if headers.destination(packet.data()) == off_link(wire).dst => {
                return io.transmit(port, packet);
            }
            // Its destination's prefix was translated: that may be elsewhere.
            Ok(None) => {
                let to = headers.destination(packet.data());
                return match self.tables.way(to) {
                    Way::Local | Way::Linux => io.to_twin(port, packet),
                    _ => self.leave(packet, headers, to, Going::AsItIs, now, io),
                };
            }
            Err(stopped) => {
                known.into_iter().for_each(|at| self.flows.entry_mut(at.id()).touch(now));
                rewrite::restore_ends(packet.data_mut(), headers, &off_link(wire));
                return self.stop_host(port, packet, headers, stopped, now, io);
            }
        };
        if !self.help(&packet, headers, at, now) {
            return;
        }
        self.flows.entry_mut(at.id()).touch(now);
        if let Some(is_first) = opens {
            return self.opened(packet, headers, (at, is_first), port, now, io);
        }
        let edited = self.edit_request(packet, headers, at, told, now, io);
        let Some((mut packet, headers)) = edited else { return };
        let headers = &headers;
        let leaves = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        if !self.translate_in_place(&mut packet, headers, at) {
            return self.drop(DropReason::Unsupported, Hook::Output);
        }
        // Linux has chosen the way already, unless it goes elsewhere now.
        if leaves.dst == wire.dst {
            return io.transmit(port, packet);
        }
        match self.tables.way(leaves.dst) {
            Way::Local | Way::Linux => io.to_twin(port, packet),
            _ => self.leave(packet, headers, leaves.dst, Going::AsItIs, now, io),
        }
    }

    /// The tracked connection that a packet of the host is of; its state follows the packet.
    fn known_of_host(
        &mut self,
        packet: &P,
        headers: &Headers,
        wire: &Tuple,
        passage: &mut Passage,
        now: Tick,
    ) -> Option<(FlowRef, Step)> {
        let found = self.flows.find_in(wire, passage.zones);
        let at = found.filter(|at| self.flows.entry(at.id()).is_tracked())?;
        let at = Some(at).filter(|_| !passage.is_untracked)?;
        let step = self.follows(packet.data(), headers, at, now);
        self.account_step(at, headers, &step);
        passage.state = step.is;
        match step.verdict {
            conntrack::Verdict::Fine | conntrack::Verdict::Ends => Some((at, step)),
            conntrack::Verdict::Reopens => {
                self.end(at.id());
                None
            }
            conntrack::Verdict::Invalid(_) => None,
        }
    }

    /// OUTPUT behind the table `raw`, and POSTROUTING, for a packet of a known connection.
    fn pass_out(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        wire: &Tuple,
        at: FlowRef,
        passage: &mut Passage,
    ) -> Result<FlowRef, Stopped> {
        passage.at = Some(at);
        let leaves = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        let inner = Tuple { dst: leaves.dst, dport: leaves.dport, ..*wire };
        self.pass(&[(Table::Mangle, passage.begins_at)], wire, packet, headers, passage)?;
        if inner.dst != wire.dst {
            passage.output = self.output(self.tables.way(inner.dst));
        }
        self.pass(out_from(passage.begins_at), &inner, packet, headers, passage)?;
        Ok(at)
    }

    /// The same for what begins a connection of the host; `None`: none that is followed.
    pub(super) fn first_out(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        original: Tuple,
        passage: &mut Passage,
    ) -> Result<Option<FlowRef>, Stopped> {
        // The answer of a real server on this host to a client whose packets come by direct routing: others' answers are not from the service's address.
        let asked = self.flows.find(&original.reversed());
        let is_answer = asked.is_some_and(|at| {
            let entry = self.flows.entry(at.id());
            at.direction() == Direction::Original && !entry.is_tracked() && entry.method().is_one_way()
        });
        let is_known = self.flows.find_in(&original, passage.zones).is_some();
        passage.is_untracked |= self.assumed == Some(CtState::Untracked);
        let may_begin =
            !is_answer && !is_known && !passage.is_untracked && self.assumed != Some(CtState::Invalid);
        let begun = self.begins(packet.data(), headers, passage.now).filter(|_| may_begin);
        passage.state = match begun {
            _ if passage.is_untracked => CtState::Untracked,
            _ if is_answer => CtState::Established,
            Some(_) => CtState::New,
            None => CtState::Invalid,
        };
        if begun.is_some() {
            self.note_expected(&original, passage);
        }
        passage.original = begun.map(|_| original);
        let begins_at = passage.begins_at;
        self.pass(&[(Table::Mangle, begins_at)], &original, packet, headers, passage)?;
        let seen = passage.become_renumbered(original);
        let seen = self.ask_nat(begins_at, &seen, packet, headers, passage)?;
        if seen.dst != original.dst {
            passage.output = self.output(self.tables.way(seen.dst));
        }
        self.pass(out_from(begins_at), &seen, packet, headers, passage)?;
        let seen = passage.become_renumbered(seen);
        let Some(begun) = begun else { return Ok(None) };
        let after = self.ask_nat(Hook::Postrouting, &seen, packet, headers, passage)?;
        match self.track(original, after, headers, &begun, passage) {
            Ok(at) => {
                self.is_at(Hook::Postrouting, Function::Confirm);
                Ok(Some(at))
            }
            Err(_) => Err((Verdict::Drop, Hook::Postrouting)),
        }
    }

    /// A packet of the host that a rule stops: one that is rejected its sender is told of, through Linux, which takes no packet from itself.
    pub(super) fn stop_host(
        &mut self,
        port: PortId,
        mut packet: P,
        headers: &Headers,
        (verdict, hook): Stopped,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let Verdict::Reject(refusal) = verdict else { return self.drop(why(verdict), hook) };
        self.drop(DropReason::RuleRejects, hook);
        // Linux takes no packet that it has the source of.
        let source: IpAddr = headers.destination(packet.data());
        let is_told = match refusal {
            Refusal::TcpReset => make_reset(&mut packet, headers),
            Refusal::Icmp(..) | Refusal::Field(_) => {
                icmp::may_answer(packet.data(), headers)
                    && self.icmp_limit.allow(now)
                    && icmp::make_error(&mut packet, headers, problem(refusal), source).is_ok()
            }
        };
        if is_told {
            io.to_twin(port, packet);
        }
    }
}

/// What of the road is behind what `nat` translates at the hook where rules see a packet first.
pub(super) fn out_from(hook: Hook) -> &'static [Stop] {
    if hook == Hook::Output { &OUT } else { &THROUGH }
}

/// Addresses that are always the host's where it sends from them: of a link, and none yet.
fn is_ones_own(source: IpAddr) -> bool {
    source.is_unspecified() || matches!(source, IpAddr::V6(source) if source.is_unicast_link_local())
}

/// FORWARD and POSTROUTING.
const THROUGH: [Stop; 4] = [
    (Table::Mangle, Hook::Forward),
    (Table::Filter, Hook::Forward),
    (Table::Security, Hook::Forward),
    (Table::Mangle, Hook::Postrouting),
];

/// OUTPUT behind what `nat` translates, and POSTROUTING.
const OUT: [Stop; 3] =
    [(Table::Filter, Hook::Output), (Table::Security, Hook::Output), (Table::Mangle, Hook::Postrouting)];

/// What a packet of the connection looks like that one of the host is of, or that it is about.
fn known_by<P: Packet>(packet: &P, port: PortId) -> Option<Tuple> {
    read_host(packet, port).map(|(_, wire)| wire).or_else(|| answer_of_error(packet, port))
}

/// What the host sends that a connection can be made of.
fn read_host<P: Packet>(packet: &P, port: PortId) -> Option<(Headers, Tuple)> {
    let frame = packet.data();
    match parse(frame, packet.frame_len(), packet.rx_checksums().ip) {
        Ok(Parsed::Ip(headers)) if headers.fragment != Fragment::Later && !is_to_many(frame, &headers) => {
            tuple_of(frame, &headers).map(|wire| (headers, on_link(wire, port, headers.vlan)))
        }
        _ => None,
    }
}
