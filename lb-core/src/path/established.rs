//! A packet of a connection that is known: its entry holds the rewrite and the next hop.
//!
//! This is where nearly all packets go. The straight line is in `established`; whatever is not ordinary turns off it
//! into a function of its own.

use super::expected::{held_control, is_awaited};
use super::rewrite::{self, Offload, Outcome, Plain};
use super::waiting::Going;
use super::{Io, Path, ask};
use crate::conntrack::Told;
use crate::counters::{ServerCell, WorkerCounters};
use crate::drop::DropReason;
use crate::flow::{Deltas, Direction, Entry, FlowId, FlowRef, Method, Rewrite, Tuple};
use crate::hook::Hook;
use crate::ids::{PortId, ServerId};
use crate::ipvs::sctp::SctpState;
use crate::ipvs::state::{self, TcpState, Transitions};
use crate::packet::Packet;
use crate::tables::{HopId, NextHop, Protocol, Reachability, Way};
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::sctp::{self, INIT};
use crate::wire::tcp::SYN;

impl<P: Packet> Path<P> {
    /// A packet of a connection that is [current](Path::is_current).
    #[inline(always)]
    pub(super) fn established(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let entry = self.flows.entry(at.id());
        if entry.is_plain() {
            let hop = entry.hop_or_none(at.direction());
            self.straight_on(packet, headers, at, hop, now, io);
        } else if entry.is_only_ruled()
            && let Some((course, common)) = self.course(at, packet.port(), headers)
            && let Some(hop) = common.hop
            && !self.may_be_followed(headers)
        {
            self.count_on_course(at, course, &common, headers);
            self.straight_on(packet, headers, at, hop, now, io);
        } else if entry.is_only_one_way() {
            self.one_way(packet, headers, at, now, io);
        } else {
            self.turned_off(packet, headers, at, now, io);
        }
    }

    /// Something turns the connection's packets off the straight line, or some of them.
    #[inline(never)]
    fn turned_off(&mut self, packet: P, headers: &Headers, at: FlowRef, now: Tick, io: &mut impl Io<P>) {
        let entry = self.flows.entry(at.id());
        if entry.is_only_ruled_one_way()
            && at.direction() == Direction::Original
            && !self.may_be_followed(headers)
            && let Some((course, common)) = self.course(at, packet.port(), headers)
        {
            self.count_on_course(at, course, &common, headers);
            return self.one_way(packet, headers, at, now, io);
        }
        let entry = self.flows.entry(at.id());
        if entry.method().is_one_way() || entry.is_tracked() || self.turns_off(at, packet.port(), headers) {
            self.not_plain(packet, headers, at, now, io);
        } else {
            self.straight_on_rarely(packet, headers, at, now, io);
        }
    }

    /// Takes the connection's state from a packet of a masqueraded one, rewrites and sends it: all in one, of a packet as nearly all are to a next hop
    /// that is known.
    #[inline(always)]
    fn straight_on(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        hop: HopId,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let entry = self.flows.entry_mut(at.id());
        let hops = self.tables.neighbours.hops();
        // As `get`, whose `Option` would be asked a second time.
        if hop.index() >= hops.len() {
            return self.straight_on_rarely(packet, headers, at, now, io);
        }
        let next = &hops[hop.index()];
        let Some(mut plain) = Plain::of(packet.data_mut(), headers, next) else {
            return self.straight_on_rarely(packet, headers, at, now, io);
        };
        let is_written = match headers.protocol {
            Protocol::UDP => {
                let Rewrite { ports, deltas, .. } = entry.rewrite(at.direction());
                plain.udp(ports, deltas)
            }
            Protocol::TCP => {
                let (was, is) = states(entry, self.transitions, at.direction(), headers);
                if was != is {
                    return self.on_in_another_state(packet, headers, at, hop, (was, is), now, io);
                }
                let Rewrite { ports, deltas, .. } = entry.rewrite(at.direction());
                plain.tcp(ports, deltas)
            }
            _ => false,
        };
        if !is_written {
            return self.straight_on_rarely(packet, headers, at, now, io);
        }
        // Read when it is written: registers are few.
        let Rewrite { addresses, deltas, .. } = entry.rewrite(at.direction());
        plain.send_to(next, addresses, deltas);
        note(entry, &self.mine, at.direction(), headers, now);
        io.transmit(next.port, packet);
    }

    /// The same of a segment that brings its connection into another state.
    #[inline(never)]
    fn on_in_another_state(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        hop: HopId,
        (was, is): (TcpState, TcpState),
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if self.starts_anew(was, at, headers) {
            self.end(at.id());
            return self.first(packet, headers, now, io);
        }
        self.change_state(at.id(), is as u8);
        self.masquerade_to(packet, headers, at, hop, now, io);
    }

    /// As [`Path::straight_on`], of any packet.
    #[inline(never)]
    fn straight_on_rarely(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let entry = self.flows.entry_mut(at.id());
        if headers.protocol == Protocol::TCP && headers.fragment != Fragment::Later {
            let (was, is) = states(entry, self.transitions, at.direction(), headers);
            if was != is {
                let hop = entry.hop_or_none(at.direction());
                return self.on_in_another_state(packet, headers, at, hop, (was, is), now, io);
            }
        } else if headers.protocol == Protocol::SCTP {
            return self.sctp(packet, headers, at, now, io);
        }
        note(entry, &self.mine, at.direction(), headers, now);
        self.off_line(packet, headers, at, now, io);
    }

    /// Rewrites and sends a packet that has told the connection's state.
    #[inline(always)]
    pub(super) fn masquerade(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let hop = self.flows.entry(at.id()).hop_or_none(at.direction());
        self.masquerade_to(packet, headers, at, hop, now, io);
    }

    /// The same, to a next hop that may be none.
    #[inline(always)]
    pub(super) fn masquerade_to(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        hop: HopId,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let entry = self.flows.entry_mut(at.id());
        note(entry, &self.mine, at.direction(), headers, now);
        match self.tables.neighbours.get(hop) {
            Some(hop) if rewrite::plain(packet.data_mut(), headers, hop, entry.rewrite(at.direction())) => {
                io.transmit(hop.port, packet);
            }
            _ => self.off_line(packet, headers, at, now, io),
        }
    }

    /// Rewrites any packet, and sends it.
    #[inline(never)]
    fn rewrite_and_send(
        &self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        hop: &NextHop,
        io: &mut impl Io<P>,
    ) {
        let entry = self.flows.entry(at.id());
        let to = entry.rewrite(at.direction());
        let outcome = if entry.is_ipv6() {
            match self.flows.rewritten_ipv6(at) {
                Some(addresses) => rewrite::ipv6(packet.data_mut(), headers, addresses, to.ports, to.deltas),
                None => Outcome::Unreadable,
            }
        } else {
            rewrite::ipv4(packet.data_mut(), headers, &to)
        };
        match outcome {
            Outcome::Done => {}
            Outcome::NeedsUdpChecksum => {
                rewrite::fill_udp_checksum(&mut packet, headers, Offload::IfPossible)
            }
            Outcome::Unreadable => return self.drop(DropReason::Unsupported, Hook::Postrouting),
        }
        self.send(packet, headers, hop, io);
    }

    /// As [`Path::established`], for where few packets come by, and for those of a connection that need not be current.
    #[inline(never)]
    pub(super) fn begun(
        &mut self,
        packet: P,
        headers: &Headers,
        at: FlowRef,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if !self.is_current(at) && !self.goes_on(at) {
            return;
        }
        self.established(packet, headers, at, now, io);
    }

    /// Whether a packet of it came since the tables changed: then nothing that it keeps is from those before.
    #[inline(always)]
    pub(super) fn is_current(&self, at: FlowRef) -> bool {
        self.flows.entry(at.id()).generation() == self.tables.generation
    }

    /// The tables changed since the connection's last packet: what was cached is looked up again.
    #[cold]
    pub(super) fn renew(&mut self, id: FlowId) {
        let services = &self.tables.services;
        let entry = self.flows.entry_mut(id);
        let timeout = self.timeouts.of(entry.protocol(), entry.state());
        let is_looked_at = self.tables.looks_at_each() || self.tables.is_left_by_syn(entry.server());
        entry.renew(self.tables.generation, is_looked_at);
        if entry.is_tracked() {
            return;
        }
        if !self.tables.serves(entry.is_ipv6()) {
            entry.set_ipvs_off();
        } else if services.server(entry.server()).is_none() {
            entry.set_server_removed();
        }
        if entry.timeout() != timeout {
            self.flows.set_timeout(id, timeout);
        }
        if self.tables.services.have_limits() {
            self.count_towards_limits(id);
        }
    }

    /// The next hop of a packet that goes this way.
    #[inline(always)]
    pub(super) fn hop(&mut self, at: FlowRef) -> Option<HopId> {
        let kept = self.flows.entry(at.id()).hop(at.direction());
        if kept.is_some() { kept } else { self.find_hop(at) }
    }

    /// The first packet of a direction since the tables changed: its next hop is kept, if there is one. Or its course knows it.
    #[inline(never)]
    fn find_hop(&mut self, at: FlowRef) -> Option<HopId> {
        if self.flows.entry(at.id()).method() == Method::Translated {
            // The straight line is for what leaves in the family that it came in.
            return None;
        }
        if let Some(hop) = self.kept_hop(at) {
            return Some(hop);
        }
        let to = self.flows.tuple(at.id(), at.direction().opposite()).src;
        let hop = match self.known_hops.get(to) {
            Some(hop) => hop,
            None => {
                let Way::Hop(hop) = self.tables.way(to) else { return None };
                // Clients are many, and would drive the real servers out; so are destinations past them.
                let is_past = self.flows.entry(at.id()).server() == ServerId::BYPASS;
                if at.direction() == Direction::Original && !is_past {
                    self.known_hops.keep(to, hop);
                }
                hop
            }
        };
        self.flows.entry_mut(at.id()).set_hop(at.direction(), hop);
        Some(hop)
    }

    /// Whether a packet of a virtual service's masqueraded connection that is not plain leaves the straight line. One that rules have let pass before
    /// does not: it is counted.
    #[inline(never)]
    fn turns_off(&mut self, at: FlowRef, port: PortId, headers: &Headers) -> bool {
        let entry = self.flows.entry(at.id());
        let is_ruled = entry.is_ruled();
        entry.is_edited()
            || self.is_cut(at)
            || is_ruled && (self.may_be_followed(headers) || !self.follow_course(at, port, headers))
    }

    /// Whether its real server was removed, or IPVS is off, so that a packet of a masqueraded connection is not translated.
    fn is_cut(&mut self, at: FlowRef) -> bool {
        let entry = self.flows.entry(at.id());
        if entry.is_ipvs_off() || at.direction() == Direction::Original {
            return entry.is_ipvs_off() || entry.is_server_removed();
        }
        if entry.is_unanswered() {
            self.assure_template(at.id());
        }
        false
    }

    /// Rules look at it; direct routing or a tunnel; it is edited, its real server was removed, or IPVS is off; or it is of no real
    /// server.
    #[inline(never)]
    fn not_plain(&mut self, mut packet: P, headers: &Headers, at: FlowRef, now: Tick, io: &mut impl Io<P>) {
        let entry = self.flows.entry(at.id());
        if entry.is_tracked() {
            return match entry.is_edited() {
                true => self.tracked_edited(packet, headers, at, now, io),
                false => self.tracked(packet, headers, at, now, io),
            };
        }
        if entry.method().is_one_way() && at.direction() == Direction::Reply {
            // As in `one_way`, and rules have not seen it.
            return self.first(packet, headers, now, io);
        }
        let behind;
        let mut headers = headers;
        if entry.is_ruled() && self.may_be_followed(headers) && self.is_followed(&packet, headers, at) {
            // Rules look at it once, as at what begins a connection.
            self.end(at.id());
            return self.first(packet, headers, now, io);
        }
        if entry.is_ruled() && !self.follow_course(at, packet.port(), headers) {
            let Some((passed, ttl)) = self.ruled(packet, headers, at, now, io) else { return };
            packet = passed;
            if headers.tcp_flags & SYN != 0 || ttl != headers.ttl {
                behind = Headers { ttl, ..ask::grown(&packet, headers) };
                headers = &behind;
            }
        }
        let entry = self.flows.entry(at.id());
        if !entry.method().is_one_way() && !entry.is_edited() && !self.is_cut(at) {
            return self.straight_on_rarely(packet, headers, at, now, io);
        }
        let entry = self.flows.entry(at.id());
        if entry.is_ipvs_off() {
            self.route(packet, headers, now, io);
        } else if !entry.is_server_removed() || at.direction() == Direction::Reply {
            match entry.method().is_one_way() {
                true => self.one_way_rarely(packet, headers, at, now, io),
                false => self.edited(packet, headers, at, now, io),
            }
        } else if entry.server() == ServerId::BYPASS {
            self.go_past(packet, headers, at, now, io);
        } else if self.is_followed(&packet, headers, at) || self.ends_without_server(headers) {
            self.end(at.id());
            self.first(packet, headers, now, io);
        } else {
            // The kernel drops silently and lets the timer run, so that adding the server again resumes. What the
            // server still sends is still translated.
            self.drop(DropReason::ServerRemoved, Hook::Input);
        }
    }

    /// Not the straight line: the packet is not as nearly all are, or does not fit; the next hop is not kept yet or does not answer; or it leaves in
    /// the other family.
    #[inline(never)]
    fn off_line(&mut self, mut packet: P, headers: &Headers, at: FlowRef, now: Tick, io: &mut impl Io<P>) {
        if let Some(hop) = self.hop(at).and_then(|hop| self.tables.neighbours.get(hop)) {
            let to = self.flows.entry(at.id()).rewrite(at.direction());
            if rewrite::plain(packet.data_mut(), headers, hop, to) {
                return io.transmit(hop.port, packet);
            }
            if is_open(hop, headers) {
                return self.rewrite_and_send(packet, headers, at, hop, io);
            }
        }
        let after = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        let deltas = self.flows.entry(at.id()).deltas(at.direction());
        if self.flows.entry(at.id()).method() == Method::Translated {
            return self.translate(packet, headers, at, after, deltas, now, io);
        }
        let before = self.flows.tuple(at.id(), at.direction());
        self.rewrite_slowly(packet, headers, Some(at), before, after, deltas, now, io);
    }

    /// Sends a packet that is `before`, of the connection `of` if of any, as `after`, by whatever way that goes.
    pub(super) fn rewrite_slowly(
        &mut self,
        mut packet: P,
        headers: &Headers,
        of: Option<FlowRef>,
        before: Tuple,
        after: Tuple,
        deltas: Deltas,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        match self.check(headers, after.dst) {
            // A real server on this host or behind an interface that is Linux's: its packets would have to come back
            // by the twin.
            Ok(Way::Local | Way::Linux) => return self.drop(DropReason::Unsupported, Hook::Postrouting),
            Ok(_) => {}
            Err(refusal) => {
                if headers.ttl > 1 && of.is_none_or(|at| self.is_sent_on(at)) {
                    // The kernel's IPVS quotes the packet as it would have left.
                    rewrite::decrement_ttl(packet.data_mut(), headers);
                }
                return self.refuse_of(packet, headers, refusal, of, now, io);
            }
        }
        match rewrite::any(packet.data_mut(), headers, &after, deltas) {
            Outcome::Done => {}
            // Not by a port: the packet may yet become pieces, or an ICMP error.
            Outcome::NeedsUdpChecksum => rewrite::fill_udp_checksum(&mut packet, headers, Offload::No),
            Outcome::Unreadable => return self.drop(DropReason::Unsupported, Hook::Postrouting),
        }
        self.leave(packet, headers, after.dst, Going::Rewritten { before, deltas }, now, io);
    }

    /// Whether packets that go this way are sent on by a virtual service.
    pub(super) fn is_sent_on(&self, at: FlowRef) -> bool {
        at.direction() == Direction::Original && !self.flows.entry(at.id()).is_tracked()
    }

    /// Exchanges the connection's state, with what hangs on it: its timeout, what it counts as, and that other directors
    /// are to know.
    pub(super) fn change_state(&mut self, id: FlowId, state: u8) {
        let comes = is_awaited(&self.flows, id);
        if comes {
            self.mine.flows.expect_new.add(1);
            self.awaits_no_more(id);
        }
        self.set_state(id, state);
        let protocol = self.flows.entry(id).protocol();
        self.flows.set_timeout(id, self.timeouts.of(protocol, state));
        if state::is_established(protocol, state) {
            self.assure_template(id);
        }
        if self.tables.settings.is_sharing {
            self.note_change(id);
        }
        self.tell(if comes { Told::RELATED } else { Told::PROTOINFO }, id);
    }

    /// Exchanges the connection's state and what it counts as.
    #[inline]
    pub(super) fn set_state(&mut self, id: FlowId, state: u8) {
        let entry = self.flows.entry_mut(id);
        let protocol = entry.protocol();
        let was_over = state::is_over(protocol, entry.state());
        entry.set_state(state);
        let is_active = state::is_active(protocol, state);
        let cell = self.mine.server(entry.server());
        if is_active == entry.is_inactive() {
            entry.set_inactive(!is_active);
            let (from, to) =
                if is_active { (&cell.inactive, &cell.active) } else { (&cell.active, &cell.inactive) };
            // In this order, so that no reader ever sees neither.
            to.add(1);
            from.sub(1);
            self.schedulers.touch(entry.server());
        }
        if state::is_over(protocol, state) {
            self.counted.release(id);
            self.limited.release(id);
        } else if was_over && self.tables.services.have_limits() {
            self.count_towards_limits(id);
        }
    }

    /// Whether a packet may begin a connection where one is that is over.
    #[inline]
    fn may_be_followed(&self, headers: &Headers) -> bool {
        (headers.tcp_flags & SYN != 0) | (headers.protocol == Protocol::SCTP)
    }

    /// Whether a packet of a connection that is over, or whose real server is quiesced, begins the next one.
    fn is_followed(&self, packet: &P, headers: &Headers, at: FlowRef) -> bool {
        let state = self.flows.entry(at.id()).state();
        match headers.protocol {
            Protocol::TCP => {
                self.starts_anew(TcpState::from_u8(state), at, headers)
                    || headers.tcp_flags & SYN != 0 && self.is_left(at)
            }
            Protocol::SCTP => sctp::chunk(packet.data(), headers).is_some_and(|chunk| {
                self.is_reopened(SctpState::from_u8(state), at, chunk) || chunk == INIT && self.is_left(at)
            }),
            _ => false,
        }
    }

    /// Whether a client that begins anew leaves its real server, which is quiesced: with `expire_nodest_conn` 1. What an FTP session awaits does
    /// not; with the kernel it is lost.
    fn is_left(&self, at: FlowRef) -> bool {
        let entry = self.flows.entry(at.id());
        at.direction() == Direction::Original
            && !entry.is_ipvs_off()
            && self.tables.is_left_by_syn(entry.server())
            && held_control(&self.flows, at.id()).is_none()
    }

    /// A client's SYN for a connection that is over begins a new one; where a template or a control connection has it, only if it must
    /// (`is_new_conn_expected`).
    #[inline]
    pub(super) fn starts_anew(&self, was: TcpState, at: FlowRef, headers: &Headers) -> bool {
        if at.direction() != Direction::Original || headers.tcp_flags & SYN == 0 {
            return false;
        }
        let mode = self.tables.settings.sysctls.conn_reuse_mode;
        let is_free = !self.flows.entry(at.id()).is_counted();
        match was {
            TcpState::TimeWait | TcpState::Close => mode > 0 && is_free || self.is_told_anew(at.id()),
            TcpState::FinWait if self.flows.entry(at.id()).method().is_one_way() => mode > 1 && is_free,
            TcpState::FinWait | TcpState::CloseWait | TcpState::LastAck => self.is_told_anew(at.id()),
            _ => false,
        }
    }

    /// Whether a client's packet ends its connection, whose real server was removed.
    fn ends_without_server(&self, headers: &Headers) -> bool {
        let is_wanted = match self.tables.settings.sysctls.expire_nodest_conn {
            0 => false,
            1 => true,
            _ => headers.protocol == Protocol::UDP,
        };
        is_wanted && headers.fragment != Fragment::Later
    }
}

/// Whether a packet can go there as it is.
#[inline(always)]
pub(super) fn is_open(hop: &NextHop, headers: &Headers) -> bool {
    (headers.ttl > 1) & (headers.ip_len <= u32::from(hop.mtu)) & (hop.state == Reachability::Reachable)
}

/// Writes down that a packet of a connection came.
#[inline(always)]
fn note(entry: &mut Entry, mine: &WorkerCounters, direction: Direction, headers: &Headers, now: Tick) {
    entry.touch(now);
    count(mine.server(entry.server()), direction, headers);
}

/// The state that a TCP connection is in, and the one that a segment brings it into.
#[inline(always)]
fn states(
    entry: &Entry,
    transitions: &Transitions,
    direction: Direction,
    headers: &Headers,
) -> (TcpState, TcpState) {
    let was = TcpState::from_u8(entry.state());
    (was, was.next(transitions, side(direction), headers.tcp_flags))
}

/// Counts a packet of a connection for its real server.
#[inline(always)]
pub(super) fn count(cell: &ServerCell, direction: Direction, headers: &Headers) {
    let (packets, bytes) = match direction {
        Direction::Original => (&cell.in_packets, &cell.in_bytes),
        Direction::Reply => (&cell.out_packets, &cell.out_bytes),
    };
    packets.add(1);
    bytes.add(u64::from(headers.ip_len));
}

#[inline]
pub(super) fn side(direction: Direction) -> state::Direction {
    match direction {
        Direction::Original => state::Direction::Input,
        Direction::Reply => state::Direction::Output,
    }
}
