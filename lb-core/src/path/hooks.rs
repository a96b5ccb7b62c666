//! Rules on a packet's road: netfilter's five hooks, the tables at each in their order, and what becomes of a packet that
//! a rule stops.
//!
//! ```text
//! from a port ─→ PREROUTING ─→ route ─┬─→ INPUT ─┬─→ up the twin
//!                raw, mangle, nat     │          └─→ a virtual service ─→ OUTPUT ─→ POSTROUTING ─→
//!                                     └─→ FORWARD ─→ POSTROUTING ─→ out of a port
//! from the host ─→ OUTPUT ─→ POSTROUTING ─→ out of a port
//! ```
//!
//! Nobody comes here while there is no rule. With rules a packet of a known connection comes by [`ruled`](Path::ruled), one of none by
//! [`first_ruled`](Path::first_ruled), one that the host sends by [`out`](Path::out). The table `nat` is asked once a connection,
//! and a packet that conntrack does not follow is never translated.
//!
//! Source of the order: Linux, `include/uapi/linux/netfilter_ipv4.h` (priorities), and IPVS's places in it
//! (`net/netfilter/ipvs/ip_vs_core.c`).

use std::net::IpAddr;

use super::fragment::ports;
use super::tracked::{Begun, tuple_of};
use super::waiting::Going;
use super::{Io, Path, Steer, rewrite};
use crate::conntrack::{self, CtState, Status};
use crate::drop::DropReason;
use crate::flow::{Direction, FlowRef, Tuple};
use crate::hook::Hook;
use crate::icmp;
use crate::ids::{PortId, WorkerId};
use crate::nat::{Manip, Range};
use crate::packet::Packet;
use crate::reset::make_reset;
use crate::rule::{Connection, Effects, Refusal, Service, Table, Verdict, View};
use crate::tables::{InterfaceId, Protocol, Way};
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers, Parsed, parse};
use crate::wire::tcp::{ACK, SYN};

/// What rules know of a packet besides its bytes, while it is on its road.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    pub(super) input: Option<InterfaceId>,
    pub(super) output: Option<InterfaceId>,
    pub(super) state: CtState,
    /// The connection that it is of.
    pub(super) at: Option<FlowRef>,
    /// Of what begins one: how it came.
    pub(super) original: Option<Tuple>,
    /// The packet's mark, and that of the connection that it begins.
    pub(super) mark: u32,
    pub(super) connection_mark: u32,
    /// A rule of table raw says that it is of no connection.
    pub(super) is_untracked: bool,
}

/// A table at a hook, and the packet as it is there.
pub(super) type Stop<'t> = (Table, Hook, &'t Tuple);

/// Why a packet goes no further, and where.
pub(super) type Stopped = (Verdict, Hook);

impl<P: Packet> Path<P> {
    /// A packet of a virtual service's connection: `None` when a rule stopped it.
    #[inline(never)]
    pub(super) fn ruled(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<P> {
        let wire = self.flows.tuple(at.id(), at.direction());
        let leaves = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        // IPVS translates a request behind INPUT, an answer behind FORWARD.
        let inner = Tuple { dst: leaves.dst, dport: leaves.dport, ..wire };
        let way = self.tables.way(leaves.dst);
        let is_first = std::mem::take(&mut self.has_passed_input);
        let tracked = self.flows.tracked_mut(at.id());
        if at.direction() == Direction::Reply {
            tracked.status.set(Status::SEEN_REPLY);
        }
        let state = tracked.is(at.direction());
        let mut passage = self.passage(packet.port(), headers, state);
        passage.at = Some(at);
        let passed =
            self.pass_service(&mut packet, headers, (&wire, &inner), way, &mut passage, is_first, now);
        match passed {
            Ok(()) => Some(packet),
            Err(stopped) => {
                self.stop(packet, headers, stopped, now, io);
                None
            }
        }
    }

    fn pass_service(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        (wire, inner): (&Tuple, &Tuple),
        way: Way,
        passage: &mut Passage,
        is_first: bool,
        now: Tick,
    ) -> Result<(), Stopped> {
        if !is_first {
            let road = [(Table::Raw, Hook::Prerouting, wire), (Table::Mangle, Hook::Prerouting, wire)];
            self.pass(&road, packet, headers, passage, now)?;
        }
        let is_answer = passage.at.is_some_and(|at| at.direction() == Direction::Reply);
        if !is_answer && !is_first {
            self.pass(&INPUT.map(|(table, hook)| (table, hook, wire)), packet, headers, passage, now)?;
        }
        passage.output = self.output(way);
        if is_answer {
            return self.pass(
                &FORWARD.map(|(table, hook)| (table, hook, inner)),
                packet,
                headers,
                passage,
                now,
            );
        }
        passage.input = None;
        self.pass(&OUTPUT.map(|(table, hook)| (table, hook, inner)), packet, headers, passage, now)
    }

    /// PREROUTING behind the table `raw`, and the rest of the road, for a packet of a tracked connection that comes as `wire`. `inner` is between
    /// PREROUTING and POSTROUTING.
    pub(super) fn pass_tracked(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        (wire, inner): (&Tuple, &Tuple),
        way: Way,
        passage: &mut Passage,
        now: Tick,
    ) -> Result<(), Stopped> {
        self.pass(&[(Table::Mangle, Hook::Prerouting, wire)], packet, headers, passage, now)?;
        if matches!(way, Way::Local | Way::Linux) {
            return self.pass(
                &INPUT.map(|(table, hook)| (table, hook, inner)),
                packet,
                headers,
                passage,
                now,
            );
        }
        passage.output = self.output(way);
        self.pass(&FORWARD.map(|(table, hook)| (table, hook, inner)), packet, headers, passage, now)
    }

    /// A packet of no known connection here.
    #[cold]
    pub(super) fn first_ruled(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        match self.other_worker(&packet, headers) {
            Some(other) => io.hand_over(other, packet, Steer::Elsewhere(ports(headers))),
            None => self.first_here(packet, headers, now, io),
        }
    }

    /// Where else a connection may be that a packet belongs to. A packet to this host, or translated to it, goes to the worker of its source. Others go
    /// to that of their destination: so does what answers a connection that is only routed through us, which began at its own source's.
    fn other_worker(&self, packet: &P, headers: &Headers) -> Option<WorkerId> {
        let is_syn = headers.protocol == Protocol::TCP && headers.tcp_flags & (SYN | ACK) == SYN;
        if self.counters.len() == 1 || is_syn {
            return None;
        }
        let (src, sport) = match tuple_of(packet.data(), headers) {
            Some(tuple) => (tuple.src, tuple.sport),
            None => return None,
        };
        let other = self.owner_of(src, sport);
        let is_ours = self.tables.routes.is_local(headers.destination(packet.data()));
        (!is_ours && other != self.worker).then_some(other)
    }

    /// A packet that its owner knows no connection for, at the worker of its other end.
    pub(super) fn sought(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let tuple = tuple_of(packet.data(), headers);
        match tuple.and_then(|tuple| self.flows.find(&tuple)) {
            Some(at) => self.begun(packet, headers, at, now, io),
            None => {
                let (to, dport) = tuple.map_or_else(
                    || (headers.destination(packet.data()), headers.dport),
                    |tuple| (tuple.dst, tuple.dport),
                );
                let owner = self.owner_of(to, dport);
                if owner == self.worker {
                    return self.first_here(packet, headers, now, io);
                }
                io.hand_over(owner, packet, Steer::Nowhere(ports(headers)));
            }
        }
    }

    /// It is at no worker, or was at none a moment ago.
    pub(super) fn found_nowhere(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        match tuple_of(packet.data(), headers).and_then(|tuple| self.flows.find(&tuple)) {
            Some(at) => self.begun(packet, headers, at, now, io),
            None => self.first_here(packet, headers, now, io),
        }
    }

    /// A packet of no known connection.
    fn first_here(&mut self, mut packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let mut passage = self.passage(packet.port(), headers, CtState::New);
        let original = tuple_of(packet.data(), headers).filter(|_| headers.fragment != Fragment::Later);
        let Some(original) = original else {
            passage.state = CtState::Invalid;
            return self.pass_untracked(packet, headers, passage, now, io);
        };
        passage.original = Some(original);
        let raw = [(Table::Raw, Hook::Prerouting, &original)];
        if let Err(stopped) = self.pass(&raw, &mut packet, headers, &mut passage, now) {
            return self.stop(packet, headers, stopped, now, io);
        }
        let begun = self.begins(packet.data(), headers, now).filter(|_| !passage.is_untracked);
        let Some(begun) = begun else {
            passage.original = None;
            passage.state = if passage.is_untracked { CtState::Untracked } else { CtState::Invalid };
            return self.pass_untracked(packet, headers, passage, now, io);
        };
        match self.first_prerouting(&mut packet, headers, &original, &mut passage, now) {
            Ok(seen) => self.first_routed(packet, headers, (original, seen), &begun, passage, now, io),
            Err(stopped) => self.stop(packet, headers, stopped, now, io),
        }
    }

    /// PREROUTING behind the table `raw`: what it is from there on.
    fn first_prerouting(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        original: &Tuple,
        passage: &mut Passage,
        now: Tick,
    ) -> Result<Tuple, Stopped> {
        self.pass(&[(Table::Mangle, Hook::Prerouting, original)], packet, headers, passage, now)?;
        self.ask_nat(Hook::Prerouting, original, original, packet, headers, passage, now)
    }

    /// The routing decision for what begins a connection: `original` is how it came, `seen` what it is behind PREROUTING.
    fn first_routed(
        &mut self,
        mut packet: P,
        headers: &Headers,
        (original, seen): (Tuple, Tuple),
        begun: &Begun,
        mut passage: Passage,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if self.tables.routes.is_local(original.src) {
            return self.drop(DropReason::MartianAddress, Hook::Prerouting);
        }
        let way = match self.check(headers, seen.dst) {
            Ok(way) => way,
            Err(refusal) => return self.refuse(packet, headers, refusal, now, io),
        };
        let is_in = matches!(way, Way::Local | Way::Linux);
        let road: &[_] = if is_in { &INPUT } else { &FORWARD };
        passage.output = self.output(way);
        for &(table, hook) in road {
            let passed = self.pass(&[(table, hook, &seen)], &mut packet, headers, &mut passage, now);
            if let Err(stopped) = passed {
                return self.stop(packet, headers, stopped, now, io);
            }
        }
        if is_in && self.is_served(&packet, headers, &seen, now) {
            self.has_passed_input = true;
            self.serve(packet, headers, original, seen, now, io);
            self.has_passed_input = false;
            return;
        }
        let hook = if is_in { Hook::Input } else { Hook::Postrouting };
        let after = match self.ask_nat(hook, &seen, &original, &mut packet, headers, &mut passage, now) {
            Ok(after) => after,
            Err(stopped) => return self.stop(packet, headers, stopped, now, io),
        };
        if !is_in && !self.tables.settings.forwarding {
            return self.drop(DropReason::ForwardingOff, Hook::Forward);
        }
        match self.track(original, after, begun, passage.connection_mark, now) {
            Some(at) => self.onward_tracked(packet, headers, at, now, io),
            None => self.drop(DropReason::FlowTableFull, hook),
        }
    }

    /// Whether a virtual service takes a packet to this host.
    fn is_served(&self, packet: &P, headers: &Headers, seen: &Tuple, now: Tick) -> bool {
        self.tables.services.is_active(headers.is_ipv6)
            && !headers.is_from_link_local(packet.data())
            && self.tables.service_for(seen, now).is_some()
    }

    /// An ICMP error about a packet of the connection `at`, which goes on to `to`.
    pub(super) fn pass_related(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        at: FlowRef,
        to: IpAddr,
        now: Tick,
    ) -> Result<(), Stopped> {
        let wire = wire(packet.data(), headers);
        let inner = Tuple { dst: to, ..wire };
        let mut passage = self.passage(packet.port(), headers, CtState::Related);
        passage.at = Some(at);
        self.pass(&[(Table::Raw, Hook::Prerouting, &wire)], packet, headers, &mut passage, now)?;
        self.pass_tracked(packet, headers, (&wire, &inner), self.tables.way(to), &mut passage, now)
    }

    /// A packet that no connection is made of, behind the table `raw`: it is not translated, and goes on as it is.
    pub(super) fn pass_untracked(
        &mut self,
        mut packet: P,
        headers: &Headers,
        mut passage: Passage,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        passage.at = None;
        let wire = wire(packet.data(), headers);
        let way = match self.check(headers, wire.dst) {
            Ok(way) => way,
            Err(refusal) => return self.refuse(packet, headers, refusal, now, io),
        };
        let passed = self.pass_tracked(&mut packet, headers, (&wire, &wire), way, &mut passage, now);
        if let Err(stopped) = passed {
            return self.stop(packet, headers, stopped, now, io);
        }
        if matches!(way, Way::Local | Way::Linux) {
            return io.to_twin(packet.port(), packet);
        }
        if !self.tables.settings.forwarding {
            return self.drop(DropReason::ForwardingOff, Hook::Forward);
        }
        rewrite::decrement_ttl(packet.data_mut(), headers);
        self.leave(packet, headers, wire.dst, Going::AsItIs, now, io);
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

    /// A frame that the host sent by the twin of `port`, at the worker that serves this.
    #[cold]
    pub(super) fn sent_by_host(&mut self, port: PortId, packet: P, now: Tick, io: &mut impl Io<P>) {
        let to = read_host(&packet).map_or(self.worker, |(_, wire)| self.owner_of(wire.dst, wire.dport));
        if self.counters.len() == 1 || to == self.worker {
            return self.out(port, packet, now, io);
        }
        io.hand_over(to, packet, Steer::FromHost(port));
    }

    /// OUTPUT, POSTROUTING, out of that port.
    #[cold]
    pub(super) fn out(&mut self, port: PortId, mut packet: P, now: Tick, io: &mut impl Io<P>) {
        let Some((headers, wire)) = read_host(&packet) else { return io.transmit(port, packet) };
        let headers = &headers;
        let mut passage = self.passage(port, headers, CtState::Established);
        passage.output = passage.input.take();
        let raw = [(Table::Raw, Hook::Output, &wire)];
        if let Err(stopped) = self.pass(&raw, &mut packet, headers, &mut passage, now) {
            return self.stop_host(port, packet, headers, stopped, now, io);
        }
        let left = match self.known_of_host(&packet, headers, &wire, &mut passage, now) {
            Some(at) => self.pass_out(&mut packet, headers, &wire, at, &mut passage, now).map(Some),
            None => self.first_out(&mut packet, headers, wire, &mut passage, now),
        };
        let at = match left {
            Ok(Some(at)) => at,
            Ok(None) => return io.transmit(port, packet),
            Err(stopped) => return self.stop_host(port, packet, headers, stopped, now, io),
        };
        self.flows.entry_mut(at.id()).touch(now);
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
    ) -> Option<FlowRef> {
        let at = self.flows.find(wire).filter(|at| self.flows.entry(at.id()).is_tracked())?;
        let at = Some(at).filter(|_| !passage.is_untracked)?;
        let step = self.follows(packet.data(), headers, at, now);
        passage.state = step.is;
        match step.verdict {
            conntrack::Verdict::Fine | conntrack::Verdict::Ends => Some(at),
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
        now: Tick,
    ) -> Result<FlowRef, Stopped> {
        passage.at = Some(at);
        let leaves = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        let inner = Tuple { dst: leaves.dst, dport: leaves.dport, ..*wire };
        self.pass(&[(Table::Mangle, Hook::Output, wire)], packet, headers, passage, now)?;
        self.pass(&OUT.map(|(table, hook)| (table, hook, &inner)), packet, headers, passage, now)?;
        Ok(at)
    }

    /// The same for what begins a connection of the host; `None`: none that is followed.
    fn first_out(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        original: Tuple,
        passage: &mut Passage,
        now: Tick,
    ) -> Result<Option<FlowRef>, Stopped> {
        // The answer of a real server on this host to a client whose packets come by direct routing.
        let is_answer = self.flows.find(&original.reversed()).is_some();
        let is_known = self.flows.find(&original).is_some();
        let begun = self.begins(packet.data(), headers, now);
        let begun = begun.filter(|_| !is_answer && !is_known && !passage.is_untracked);
        passage.state = match begun {
            _ if passage.is_untracked => CtState::Untracked,
            _ if is_answer => CtState::Established,
            Some(_) => CtState::New,
            None => CtState::Invalid,
        };
        passage.original = begun.map(|_| original);
        self.pass(&[(Table::Mangle, Hook::Output, &original)], packet, headers, passage, now)?;
        let seen = match begun {
            Some(_) => self.ask_nat(Hook::Output, &original, &original, packet, headers, passage, now)?,
            None => original,
        };
        if seen.dst != original.dst {
            passage.output = self.output(self.tables.way(seen.dst));
        }
        self.pass(&OUT.map(|(table, hook)| (table, hook, &seen)), packet, headers, passage, now)?;
        let Some(begun) = begun else { return Ok(None) };
        let after = self.ask_nat(Hook::Postrouting, &seen, &original, packet, headers, passage, now)?;
        match self.track(original, after, &begun, passage.connection_mark, now) {
            Some(at) => Ok(Some(at)),
            None => Err((Verdict::Drop, Hook::Postrouting)),
        }
    }

    pub(super) fn passage(&self, port: PortId, headers: &Headers, state: CtState) -> Passage {
        Passage {
            input: self.tables.interfaces.find(port, headers.vlan),
            output: None,
            state,
            at: None,
            original: None,
            mark: 0,
            connection_mark: 0,
            is_untracked: false,
        }
    }

    fn output(&self, way: Way) -> Option<InterfaceId> {
        match way {
            Way::Hop(hop) => self.tables.neighbours.get(hop).map(|hop| hop.interface),
            Way::Unresolved(interface, _) => Some(interface),
            _ => None,
        }
    }

    /// Asks tables one after the other, up to the first that stops the packet.
    pub(super) fn pass(
        &mut self,
        road: &[Stop<'_>],
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
        now: Tick,
    ) -> Result<(), Stopped> {
        for &(table, hook, tuple) in road {
            match self.ask(table, hook, tuple, packet, headers, passage, now) {
                Verdict::Accept | Verdict::Nat(..) => {}
                verdict => return Err((verdict, hook)),
            }
        }
        Ok(())
    }

    /// What the table `nat` makes of `tuple`, which came as `original`.
    fn ask_nat(
        &mut self,
        hook: Hook,
        tuple: &Tuple,
        original: &Tuple,
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
        now: Tick,
    ) -> Result<Tuple, Stopped> {
        let (manip, range) = match self.ask(Table::Nat, hook, tuple, packet, headers, passage, now) {
            Verdict::Nat(manip, range) => (manip, range),
            Verdict::Accept if matches!(hook, Hook::Prerouting | Hook::Output) => return Ok(*tuple),
            // Somebody else's translation may have taken what answers to it would be known by.
            Verdict::Accept => (Manip::Source, Range::KEEP),
            verdict => return Err((verdict, hook)),
        };
        self.translated(tuple, manip, &range, original).ok_or((Verdict::Drop, hook))
    }

    /// Asks one table, and does what it says besides its verdict.
    fn ask(
        &mut self,
        table: Table,
        hook: Hook,
        tuple: &Tuple,
        packet: &mut P,
        headers: &Headers,
        passage: &mut Passage,
        now: Tick,
    ) -> Verdict {
        let connection = self.connection(passage, now);
        let service = passage.at.and_then(|at| self.service_of(at));
        let mut headers = *headers;
        // A rule before may have written it.
        headers.ttl = ttl(packet.data(), &headers).unwrap_or(headers.ttl);
        let is_forwarded = passage.input.is_some() && matches!(hook, Hook::Forward | Hook::Postrouting);
        let booted = self.tables.settings.booted;
        let mut view = View {
            tables: &self.tables,
            frame: packet.data_mut(),
            headers: &mut headers,
            hook,
            tuple: *tuple,
            input: passage.input,
            output: passage.output,
            mark: passage.mark,
            connection,
            hops: is_forwarded.into(),
            is_untracked: passage.is_untracked,
            service,
            now,
            wall: booted + u64::from(now.0 / Tick::PER_SECOND),
            events: &self.tables.rules.events,
            effects: Effects::default(),
        };
        let verdict = self.tables.rules.run(table, hook, &mut view, &self.mine);
        let (effects, mark, connection) = (view.effects, view.mark, view.connection);
        if effects.has_mark {
            passage.mark = mark;
        }
        passage.is_untracked |= effects.untracked;
        if let Some(connection) = connection.filter(|_| effects.has_connection_mark) {
            passage.connection_mark = connection.mark;
            if let Some(at) = passage.at {
                self.flows.tracked_mut(at.id()).mark = connection.mark;
            }
        }
        verdict
    }

    /// What rules see of the packet's connection.
    fn connection(&self, passage: &Passage, now: Tick) -> Option<Connection> {
        if let Some(at) = passage.at {
            let (id, entry, tracked) = (at.id(), self.flows.entry(at.id()), self.flows.tracked(at.id()));
            return Some(Connection {
                state: passage.state,
                is_reply: at.direction() == Direction::Reply,
                status: tracked.status,
                original: self.flows.tuple(id, Direction::Original),
                reply: self.flows.tuple(id, Direction::Reply),
                mark: tracked.mark,
                zone: tracked.zone,
                expires: entry.expires().since(now) / Tick::PER_SECOND,
            });
        }
        let original = passage.original.filter(|_| !passage.is_untracked)?;
        Some(Connection {
            state: passage.state,
            is_reply: false,
            status: Status::NONE,
            original,
            reply: original.reversed(),
            mark: passage.connection_mark,
            zone: 0,
            expires: 0,
        })
    }

    /// What rules see of the virtual service that has a connection.
    fn service_of(&self, at: FlowRef) -> Option<Service> {
        let entry = self.flows.entry(at.id());
        let original = self.flows.tuple(at.id(), Direction::Original);
        (!entry.is_tracked()).then(|| Service {
            address: original.dst,
            port: original.dport,
            method: entry.method(),
        })
    }

    /// A packet that a rule stops.
    pub(super) fn stop(
        &mut self,
        mut packet: P,
        headers: &Headers,
        (verdict, hook): Stopped,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        match verdict {
            Verdict::Reject(Refusal::Icmp(kind, code)) => {
                let problem = icmp::Problem::Told { kind, code };
                self.answer(packet, headers, problem, DropReason::RuleRejects, hook, now, io);
            }
            Verdict::Reject(Refusal::TcpReset) => {
                self.drop(DropReason::RuleRejects, hook);
                if make_reset(&mut packet, headers) {
                    io.transmit(packet.port(), packet);
                }
            }
            _ => self.drop(DropReason::Rule, hook),
        }
    }

    /// A packet of the host that a rule stops: one that is rejected the host is told of.
    fn stop_host(
        &mut self,
        port: PortId,
        mut packet: P,
        headers: &Headers,
        (verdict, hook): Stopped,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let Verdict::Reject(refusal) = verdict else { return self.drop(DropReason::Rule, hook) };
        self.drop(DropReason::RuleRejects, hook);
        let source: IpAddr = headers.source(packet.data());
        let is_told = match refusal {
            Refusal::TcpReset => make_reset(&mut packet, headers),
            Refusal::Icmp(kind, code) => {
                self.icmp_limit.allow(now)
                    && icmp::make_error(&mut packet, headers, icmp::Problem::Told { kind, code }, source)
                        .is_ok()
            }
        };
        if is_told {
            io.to_twin(port, packet);
        }
    }
}

const INPUT: [(Table, Hook); 3] =
    [(Table::Mangle, Hook::Input), (Table::Filter, Hook::Input), (Table::Security, Hook::Input)];

/// With what of POSTROUTING each packet passes.
const FORWARD: [(Table, Hook); 4] = [
    (Table::Mangle, Hook::Forward),
    (Table::Filter, Hook::Forward),
    (Table::Security, Hook::Forward),
    (Table::Mangle, Hook::Postrouting),
];

/// The same for what a virtual service sends on.
const OUTPUT: [(Table, Hook); 5] = [
    (Table::Raw, Hook::Output),
    (Table::Mangle, Hook::Output),
    (Table::Filter, Hook::Output),
    (Table::Security, Hook::Output),
    (Table::Mangle, Hook::Postrouting),
];

/// OUTPUT behind what `nat` translates, and POSTROUTING.
const OUT: [(Table, Hook); 3] =
    [(Table::Filter, Hook::Output), (Table::Security, Hook::Output), (Table::Mangle, Hook::Postrouting)];

/// The packet as it came.
fn wire(frame: &[u8], headers: &Headers) -> Tuple {
    Tuple {
        src: headers.source(frame),
        dst: headers.destination(frame),
        sport: headers.sport,
        dport: headers.dport,
        protocol: headers.protocol,
    }
}

fn ttl(frame: &[u8], headers: &Headers) -> Option<u8> {
    frame.get(usize::from(headers.l3) + if headers.is_ipv6 { 7 } else { 8 }).copied()
}

/// What the host sends that a connection can be made of.
fn read_host<P: Packet>(packet: &P) -> Option<(Headers, Tuple)> {
    match parse(packet.data(), packet.frame_len(), packet.rx_checksums().ip) {
        Ok(Parsed::Ip(headers)) if headers.fragment != Fragment::Later && !headers.is_for_twin => {
            tuple_of(packet.data(), &headers).map(|wire| (headers, wire))
        }
        _ => None,
    }
}
