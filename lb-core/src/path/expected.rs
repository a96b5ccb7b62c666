//! Data connections of FTP, which its control connection tells of: they go to the same real server.
//!
//! Passive (227, 229): the client will come from a port that nobody knows, to one of the service's address at which no service is. The
//! real server's port is offered under the service's address; what is expected stands at the worker that a hash of the
//! client's address names, as a persistence template does (docs/decisions/0010), and the first packet asks there. Active (PORT,
//! EPRT): both ends are known, so that the connection is entered at once, where it will be owned. Behind FullNAT a data connection has a local
//! endpoint of its control connection's address.
//!
//! The packet that tells waits for the worker that has to know ([`ftp`](super::ftp)).
//!
//! A control connection rests while its data is on its way. Its time does not end as long as one of its data connections, at whatever worker that is, or
//! somebody who is awaited is there ([`Uses`](crate::flow::template::Uses)); then it is given 60 s more again and again. One that is ended all the same
//! (its ports are used again, there is no room, somebody orders it) leaves them alone.
//!
//! To rules (`first_ruled.rs`) the packet that begins one is RELATED, with its control connection's mark; where it goes they are not asked. An active
//! one comes from the real server, so that tracking sees its directions the other way round until it is answered.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_ftp.c` and `ip_vs_conn.c`; RFC 959 §3.2.

use std::net::IpAddr;

use super::persistent::WITH_CONNECTIONS;
use super::{Io, Path, Steer, full_nat, rewrite};
use crate::conntrack::helper::HelperId;
use crate::conntrack::{Status, Told, Zones};
use crate::drop::DropReason;
use crate::flow::edit::FTP;
use crate::flow::template::{EXPECTED, TemplateId, Uses};
use crate::flow::{Direction, FlowId, FlowRef, Method, NewFlow, Store, Tuple};
use crate::hook::Hook;
use crate::ids::ServerId;
use crate::ipvs::state::TcpState;
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::time::{Tick, Timeout};
use crate::wire::parse::{Fragment, Headers};
use crate::wire::tcp::{ACK, RST, SYN};

/// How long the client may take to come.
const PATIENCE: Timeout = Timeout::from_secs(60);

/// A data connection that is expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expect {
    pub server: ServerId,
    pub client: (IpAddr, u16),
    /// The service's address, and the port that the client sees.
    pub virtual_: (IpAddr, u16),
    /// The real server's port.
    pub port: u16,
    /// Of a FullNAT connection: the local address that the real server sees. An active one's port, 0 while none is chosen.
    pub local: Option<(IpAddr, u16)>,
    /// The control connection's mark, and the ports of its client's packets: their addresses are those here.
    pub mark: u32,
    pub control: (u16, u16),
    /// Where the control connection is, which stays as long as this one.
    pub control_at: TemplateId,
}

/// What is known of an expected connection where its first packet asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Awaited {
    /// The real server that waits.
    pub server: ServerId,
    /// The local address that it sees, of FullNAT.
    pub local: Option<IpAddr>,
    /// The control connection's mark.
    pub mark: u32,
    /// Where it is.
    pub control_at: Option<TemplateId>,
}

impl Expect {
    /// The real server comes; else the client does, by what port nobody knows.
    pub(super) fn is_active(&self) -> bool {
        self.client.1 != 0
    }

    /// Its tuple, with the client's port 0 when that is not known yet.
    fn original(&self) -> Tuple {
        Tuple {
            src: self.client.0,
            dst: self.virtual_.0,
            sport: self.client.1,
            dport: self.virtual_.1,
            protocol: if self.is_active() { Protocol::TCP } else { EXPECTED },
        }
    }
}

impl<P: Packet> Path<P> {
    /// Enters what is expected, at a local port of this worker's if it is to have one. False: there is no room.
    pub(super) fn expect(&mut self, expect: &mut Expect, now: Tick) -> bool {
        let Some(server) = self.tables.services.server(expect.server) else { return false };
        let original = expect.original();
        let (src, sport) = expect.local.unwrap_or(expect.client);
        let mut after =
            Tuple { src, sport, dst: server.address, dport: expect.port, protocol: original.protocol };
        if let Some(at) = self.flows.find(&original) {
            let reply = self.flows.tuple(at.id(), Direction::Reply);
            let is_any = expect.local.is_some() && sport == 0;
            let is_same =
                reply == Tuple { dport: if is_any { reply.dport } else { sport }, ..after.reversed() };
            let is_its = self.flows.entry(at.id()).server() == expect.server;
            if is_same && !is_its && told_by(&self.flows, at.id()).is_some() {
                // At the same host another service's waits there now.
                self.end(at.id());
            } else if is_same {
                // Told once more.
                expect.local = expect.local.map(|(address, _)| (address, reply.dport));
                self.awaits_no_more(at.id());
                if original.protocol == EXPECTED {
                    self.count_bound(at.id(), expect.server, false);
                }
                self.flows.entry_mut(at.id()).touch(now);
                self.note_awaited(at.id(), expect);
                return true;
            }
        }
        // In the index once, where only the client's side is to be found.
        let mut method = if expect.is_active() { Method::Masq } else { Method::Direct };
        if let Some(local) = expect.local.as_mut().filter(|_| original.protocol == Protocol::TCP) {
            let chosen = self.local_ports.choose_at(&self.flows, &self.tables, after, now);
            let Some(chosen) = chosen else { return false };
            (after, method) = (chosen, full_nat::method(original.src, chosen.dst));
            *local = (after.src, after.sport);
        }
        let is_known = expect.is_active();
        let new = NewFlow {
            original,
            reply: after.reversed(),
            method,
            deltas: rewrite::deltas_both_ways(&original, &after),
            server: expect.server,
            state: TcpState::Listen as u8,
            timeout: if is_known { self.timeouts.tcp(TcpState::Listen) } else { PATIENCE },
            now,
            zones: Zones::NONE,
        };
        let Some(id) = self.insert(&new) else { return false };
        let is_looked_at = self.tables.looks_at_each() || self.tables.is_left_by_syn(expect.server);
        let entry = self.flows.entry_mut(id);
        entry.renew(self.tables.generation, is_looked_at);
        // The control connection's worker had older tables.
        if !self.tables.serves(entry.is_ipv6()) {
            entry.set_ipvs_off();
        }
        entry.set_inactive(true);
        self.count_bound(id, expect.server, false);
        self.mine.flows.inserted.add(1);
        if is_known {
            self.mine.server(expect.server).connections.add(1);
        }
        self.note_awaited(id, expect);
        true
    }

    fn note_awaited(&mut self, id: FlowId, expect: &Expect) {
        self.note_told_of(id, expect.mark);
        self.hold_control(id, expect.control_at);
        let tracked = self.flows.tracked_mut(id);
        tracked.set_masters_ports(expect.control);
        tracked.status.clear(Status::DYING);
        self.mine.flows.expect_create.add(1);
        self.tell(Told::EXPECT_NEW, id);
    }

    /// It has come, or is told of once more: who reads events hears that it was expected. What comes counts by itself.
    pub(super) fn awaits_no_more(&mut self, id: FlowId) {
        let was_awaited = is_awaited(&self.flows, id);
        if was_awaited {
            self.mine.flows.expect_delete.add(1);
            self.tell(Told::EXPECT_DESTROY, id);
        }
        if self.flows.entry(id).protocol() == EXPECTED {
            if was_awaited {
                self.count_unbound(id);
            }
            self.flows.tracked_mut(id).status.set(Status::DYING);
        }
    }

    /// As is ordered from outside. Returns whether a virtual service's client, or a server of its, was expected so.
    pub(super) fn forget_awaited(&mut self, original: &Tuple) -> bool {
        let protocol = if original.sport == 0 { EXPECTED } else { original.protocol };
        let found = self.flows.find(&Tuple { protocol, ..*original });
        let Some(at) = found.filter(|at| is_awaited(&self.flows, at.id())) else { return false };
        self.end(at.id());
        true
    }

    /// A control connection told of it.
    fn note_told_of(&mut self, id: FlowId, mark: u32) {
        let tracked = self.flows.tracked_mut(id);
        tracked.mark = mark;
        tracked.status.set(Status::EXPECTED);
        tracked.set_helper(HelperId::FTP);
    }

    /// The control connection that told of it stays as long as it does, like a persistence template; or was ended, and is kept by nobody.
    fn hold_control(&mut self, id: FlowId, control: TemplateId) {
        if held_control(&self.flows, id) == Some(control) || !self.uses.take(control) {
            return;
        }
        give_back_holder(&self.flows, id, &self.uses);
        self.flows.set_template(id, control.place());
        self.flows.tracked_mut(id).set_masters_age(control.age());
    }

    /// A packet of a control connection: it rests as long as its state says, also where only its data connections have kept it.
    pub(super) fn control_rests(&mut self, id: FlowId) {
        let entry = self.flows.entry(id);
        if entry.timeout() == WITH_CONNECTIONS {
            let timeout = self.timeouts.of(entry.protocol(), entry.state());
            self.flows.set_timeout(id, timeout);
        }
    }

    /// The way that a packet goes as tracking sees it: what a real server opens begins with what is an answer to IPVS.
    pub(super) fn tracked_direction(&self, at: FlowRef) -> Direction {
        let entry = self.flows.entry(at.id());
        let is_awaited = entry.protocol() == Protocol::TCP && entry.state() == TcpState::Listen as u8;
        if is_awaited { at.direction().opposite() } else { at.direction() }
    }

    /// Whether a first packet may be of a connection that is expected: it is for no service, or for one that takes whatever is left.
    #[inline]
    pub(super) fn may_be_expected(&self, original: &Tuple, headers: &Headers, now: Tick) -> bool {
        self.tables.services.has_ftp() && self.may_be_data_connection(original, headers, now)
    }

    #[inline(never)]
    fn may_be_data_connection(&self, original: &Tuple, headers: &Headers, now: Tick) -> bool {
        headers.protocol == Protocol::TCP
            && headers.tcp_flags & (SYN | RST | ACK) == SYN
            && headers.fragment == Fragment::None
            && !self.tables.settings.draining
            // Rules may have made an address of no host of ours the service's.
            && (self.is_for_services(original, now) || self.tables.rules.hide_owners())
            && self
                .tables
                .service_for(original, now)
                .is_none_or(|service| {
                    service.key.port == 0 && service.options.persistence.is_none()
                        || service.key.is_ftp() && service.key.port != original.dport
                })
    }

    /// The first packet of a connection that may be expected, at its owner.
    #[cold]
    pub(super) fn first_expected(
        &mut self,
        packet: P,
        headers: &Headers,
        original: Tuple,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let holder = self.owner_of(original.src, 0);
        if holder != self.worker {
            return io.hand_over(holder, packet, Steer::AskExpected);
        }
        let found = self.comes_expected(&original);
        self.first_asked(packet, headers, original, found, now, io);
    }

    /// The same, at the worker that would know.
    #[cold]
    pub(super) fn asked_expected(&mut self, packet: P, headers: &Headers, io: &mut impl Io<P>) {
        let original = Tuple::of_packet(packet.data(), headers);
        let owner = self.owner_of_flow(&original);
        let found = self.comes_expected(&original);
        io.hand_over(owner, packet, Steer::Expected(found));
    }

    /// The same, back at its owner.
    #[cold]
    pub(super) fn answered_expected(
        &mut self,
        packet: P,
        headers: &Headers,
        found: Option<Awaited>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let original = Tuple::of_packet(packet.data(), headers);
        // The client was impatient.
        if let Some(at) = self.flows.find(&original) {
            self.mine.flows.found.add(1);
            return self.begun(packet, headers, at, now, io);
        }
        self.first_asked(packet, headers, original, found, now, io);
    }

    /// The real server that waits at the port of this client's connection. It still does when this packet is lost.
    fn comes_expected(&mut self, original: &Tuple) -> Option<Awaited> {
        let at = self.flows.find(&Tuple { sport: 0, protocol: EXPECTED, ..*original })?;
        if is_awaited(&self.flows, at.id()) {
            self.mine.flows.expect_new.add(1);
            self.awaits_no_more(at.id());
        }
        let (entry, tracked) = (self.flows.entry(at.id()), self.flows.tracked(at.id()));
        let seen = self.flows.tuple(at.id(), Direction::Reply).dst;
        let local = (seen != original.src).then_some(seen);
        let control_at = held_control(&self.flows, at.id());
        Some(Awaited { server: entry.server(), local, mark: tracked.mark, control_at })
    }

    /// The same, once it is known whether it is expected.
    fn first_asked(
        &mut self,
        packet: P,
        headers: &Headers,
        original: Tuple,
        found: Option<Awaited>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        // It may have become a backup meanwhile.
        let serves = self.tables.serves(headers.is_ipv6);
        match (found.filter(|_| serves), self.tables.rules.are_active()) {
            (Some(awaited), false) => self.begin_awaited(packet, headers, &original, awaited, now, io),
            (Some(awaited), true) => self.first_awaited(packet, headers, &original, awaited, now, io),
            (None, false) if serves => self.unexpected(packet, headers, &original, now, io),
            (None, false) => self.route(packet, headers, now, io),
            (None, true) => self.first_unexpected(packet, headers, now, io),
        }
    }

    /// INPUT with IPVS, of a packet that begins what is expected.
    pub(super) fn begin_awaited(
        &mut self,
        packet: P,
        headers: &Headers,
        original: &Tuple,
        awaited: Awaited,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let Some(server) = self.tables.services.server(awaited.server) else {
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        };
        let (id, after) = (server.id, Tuple { dst: server.address, ..*original });
        let left = match awaited.local {
            None => Some((after, Method::Masq)),
            Some(src) => {
                let after = Tuple { src, sport: 0, ..after };
                let chosen = self.local_ports.choose_at(&self.flows, &self.tables, after, now);
                chosen.map(|after| (after, full_nat::method(original.src, after.dst)))
            }
        };
        let Some((after, method)) = left else { return self.drop(DropReason::NoLocalPort, Hook::Input) };
        let Some(at) = self.enter(original, &after, method, id, now) else {
            return self.drop(DropReason::FlowTableFull, Hook::Input);
        };
        self.note_told_of(at.id(), self.passed.map_or(awaited.mark, |passed| passed.connection_mark));
        if let Some(control) = awaited.control_at {
            self.hold_control(at.id(), control);
        }
        self.count_entered(at, Told::RELATED, self.asks_for_source(method, original, &after));
        self.begun(packet, headers, at, now, io);
    }
}

/// The control connection at which a data connection is counted.
pub(super) fn held_control(flows: &Store, id: FlowId) -> Option<TemplateId> {
    let place = flows.template(id)?;
    flows.tracked(id).masters_age().map(|age| place.of_age(age))
}

/// A connection is counted no more at its template, or its control connection.
pub(super) fn give_back_holder(flows: &Store, id: FlowId, uses: &Uses) {
    match (held_control(flows, id), flows.template(id)) {
        (Some(control), _) => uses.give_back_if_there(control),
        (None, Some(template)) => uses.give_back(template),
        (None, None) => {}
    }
}

/// Whether an entry stands for one that has not come.
pub(super) fn is_awaited(flows: &Store, id: FlowId) -> bool {
    told_by(flows, id).is_some() && !flows.tracked(id).status.has(Status::DYING)
}

/// Of an entry that stands for a connection which is expected: the first packet of the one that told of it. A passive one does so for a while after that
/// has come.
pub(super) fn told_by(flows: &Store, id: FlowId) -> Option<Tuple> {
    let entry = flows.entry(id);
    let is_active = || {
        let listens = entry.protocol() == Protocol::TCP && entry.state() == TcpState::Listen as u8;
        listens && !entry.is_tracked() && flows.tracked(id).status.has(Status::EXPECTED)
    };
    if entry.protocol() != EXPECTED && !is_active() {
        return None;
    }
    let (sport, dport) = flows.tracked(id).masters_ports();
    let Tuple { src, dst, .. } = flows.tuple(id, Direction::Original);
    Some(Tuple { src, dst, sport, dport, protocol: Protocol::TCP })
}

/// The helper that reads along in a connection, or has read of one that is expected.
pub(super) fn helper(flows: &Store, id: FlowId) -> HelperId {
    let is_services =
        || !flows.entry(id).is_tracked() && flows.edit(id).is_some_and(|edit| edit.wants & FTP != 0);
    if told_by(flows, id).is_some() || is_services() { HelperId::FTP } else { flows.tracked(id).helper() }
}
