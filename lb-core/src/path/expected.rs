//! Data connections of FTP, which its control connection tells of: they go to the same real server.
//!
//! Passive (227, 229): the client will come from a port that nobody knows, to one of the service's address at which no service is. The
//! real server's port is offered under the service's address, in 227 in words; what is expected stands at the worker that a hash of the
//! client's address names, as a persistence template does (docs/decisions/0010), and the first packet asks there. Active (PORT,
//! EPRT): both ends are known, so that the connection is entered at once, where it will be owned.
//!
//! The packet that tells goes on from the worker that has to know: so what follows on it finds that worker told.
//!
//! To rules (`first_ruled.rs`) the packet that begins one is RELATED, with its control connection's mark; where it goes they are not asked. An active
//! one comes from the real server, so that tracking sees its directions the other way round until it is answered.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_ftp.c`; RFC 959 §3.2; RFC 2428.

use std::net::IpAddr;

use super::established::count;
use super::rewrite::{self, Outcome};
use super::waiting::Going;
use super::{Io, Path, Steer};
use crate::conntrack::helper::HelperId;
use crate::conntrack::{Status, Told, Zones};
use crate::drop::DropReason;
use crate::flow::template::EXPECTED;
use crate::flow::{Direction, FlowId, FlowRef, Method, NewFlow, Tuple};
use crate::hook::Hook;
use crate::ids::ServerId;
use crate::ipvs::state::TcpState;
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::time::{Tick, Timeout};
use crate::wire::ftp::{self, Form, Said};
use crate::wire::parse::{Fragment, Headers};
use crate::wire::segment::Segment;
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
    /// The control connection's mark.
    pub mark: u32,
}

/// What is known of an expected connection where its first packet asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Awaited {
    /// The real server that waits.
    pub server: ServerId,
    /// The control connection's mark.
    pub mark: u32,
}

impl Expect {
    /// Its tuple, with the client's port 0 when that is not known yet.
    fn original(&self) -> Tuple {
        Tuple {
            src: self.client.0,
            dst: self.virtual_.0,
            sport: self.client.1,
            dport: self.virtual_.1,
            protocol: if self.client.1 == 0 { EXPECTED } else { Protocol::TCP },
        }
    }
}

impl<P: Packet> Path<P> {
    /// Reads what a client says of itself.
    pub(super) fn active(&self, packet: &P, headers: &Headers, at: FlowRef) -> Option<Expect> {
        let segment = Segment::of(packet.data(), headers)?;
        let Said { address, port, .. } = ftp::active(segment.data_of(packet.data(), headers)?)?;
        let address = address?;
        let control = self.flows.tuple(at.id(), Direction::Original);
        let reply = self.flows.tuple(at.id(), Direction::Reply);
        // For nobody but itself (RFC 2577 §3), and no port that a service of its could have.
        let is_its_own = address == control.src && reply.dst == control.src && port >= 1024;
        is_its_own.then_some(Expect {
            server: self.flows.entry(at.id()).server(),
            client: (address, port),
            // RFC 959 §3.2: the port next to that of the control connection.
            virtual_: (control.dst, control.dport.wrapping_sub(1)),
            port: reply.sport.wrapping_sub(1),
            mark: self.flows.tracked(at.id()).mark,
        })
    }

    /// Reads where a server waits, and says so to its client in the service's name.
    ///
    /// # Errors
    /// Why the segment cannot go on now; the real server sends it again.
    pub(super) fn passive(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        segment: &Segment,
        at: FlowRef,
    ) -> Result<(Headers, Option<Expect>), DropReason> {
        let Some((said, _)) = self.said(packet, headers, segment, at)? else { return Ok((*headers, None)) };
        let control = self.flows.tuple(at.id(), Direction::Original);
        let server = self.flows.entry(at.id()).server();
        let (client, virtual_) = ((control.src, 0), (control.dst, said.port));
        let mark = self.flows.tracked(at.id()).mark;
        let expect = Expect { server, client, virtual_, port: said.port, mark };
        let headers = match (said.form, virtual_.0) {
            // The port is the same, and there is nothing to exchange.
            (Form::Port, _) => *headers,
            (_, IpAddr::V4(_)) => self.reword(packet, headers, segment, at, &said, virtual_)?,
            (_, IpAddr::V6(_)) => return Ok((*headers, None)),
        };
        if self.tables.settings.is_sharing && said.form != Form::Port {
            self.note_change(at.id());
        }
        Ok((headers, Some(expect)))
    }

    /// Sends a packet on that tells of a connection, once the worker knows of it that must.
    pub(super) fn expect(
        &mut self,
        mut packet: P,
        headers: &Headers,
        at: FlowRef,
        expect: Expect,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let owner = self.owner_of(expect.client.0, expect.client.1);
        if owner == self.worker {
            self.enter_expected(&expect, now);
            return self.masquerade(packet, headers, at, now, io);
        }
        let entry = self.flows.entry_mut(at.id());
        entry.touch(now);
        count(self.mine.server(entry.server()), at.direction(), headers);
        let after = self.flows.tuple(at.id(), at.direction().opposite()).reversed();
        let deltas = self.flows.entry(at.id()).deltas(at.direction());
        match rewrite::any(packet.data_mut(), headers, &after, deltas) {
            Outcome::Done => io.hand_over(owner, packet, Steer::Expect(expect)),
            Outcome::NeedsUdpChecksum | Outcome::Unreadable => {
                self.drop(DropReason::Unsupported, Hook::Postrouting)
            }
        }
    }

    /// As another worker asks for: what is expected is entered here, and the packet that told of it goes on.
    #[cold]
    pub(super) fn expect_for_another(
        &mut self,
        packet: P,
        headers: &Headers,
        expect: &Expect,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.enter_expected(expect, now);
        let to = headers.destination(packet.data());
        self.leave(packet, headers, to, Going::AsItIs, now, io);
    }

    fn enter_expected(&mut self, expect: &Expect, now: Tick) {
        let Some(server) = self.tables.services.server(expect.server) else { return };
        let original = expect.original();
        let after = Tuple { dst: server.address, dport: expect.port, ..original };
        let reply = after.reversed();
        if let Some(at) = self.flows.find(&original)
            && self.flows.tuple(at.id(), Direction::Reply) == reply
        {
            // Told once more.
            self.flows.tracked_mut(at.id()).mark = expect.mark;
            return self.flows.entry_mut(at.id()).touch(now);
        }
        let is_known = original.protocol == Protocol::TCP;
        let new = NewFlow {
            original,
            reply,
            // In the index once, where only the client's side is to be found.
            method: if is_known { Method::Masq } else { Method::Direct },
            deltas: rewrite::deltas_both_ways(&original, &after),
            server: expect.server,
            state: TcpState::Listen as u8,
            timeout: if is_known { self.timeouts.tcp(TcpState::Listen) } else { PATIENCE },
            now,
            zones: Zones::NONE,
        };
        let Some(id) = self.insert(&new) else { return };
        self.note_told_of(id, expect.mark);
        let entry = self.flows.entry_mut(id);
        entry.renew(self.tables.generation, self.tables.looks_at_each());
        entry.set_inactive(true);
        self.count_bound(expect.server, false);
        self.mine.flows.inserted.add(1);
        if is_known {
            self.mine.server(expect.server).connections.add(1);
        }
    }

    /// A control connection told of it.
    fn note_told_of(&mut self, id: FlowId, mark: u32) {
        let tracked = self.flows.tracked_mut(id);
        tracked.mark = mark;
        tracked.status.set(Status::EXPECTED);
        tracked.set_helper(HelperId::FTP);
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
            && (self.tables.routes.is_local(original.dst) || self.tables.rules.hide_owners())
            && self
                .tables
                .service_for(original, now)
                .is_none_or(|service| service.key.port == 0 && service.options.persistence.is_none())
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
        let found = self.expected_at(&original);
        self.first_asked(packet, headers, original, found, now, io);
    }

    /// The same, at the worker that would know.
    #[cold]
    pub(super) fn asked_expected(&mut self, packet: P, headers: &Headers, io: &mut impl Io<P>) {
        let original = Tuple::of_packet(packet.data(), headers);
        let owner = self.owner_of_flow(&original);
        let found = self.expected_at(&original);
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

    /// The real server that waits at the port of this client's connection.
    fn expected_at(&self, original: &Tuple) -> Option<Awaited> {
        let at = self.flows.find(&Tuple { sport: 0, protocol: EXPECTED, ..*original })?;
        let (entry, tracked) = (self.flows.entry(at.id()), self.flows.tracked(at.id()));
        Some(Awaited { server: entry.server(), mark: tracked.mark })
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
        match (found, self.tables.rules.are_active()) {
            (Some(awaited), false) => self.begin_awaited(packet, headers, &original, awaited, now, io),
            (Some(awaited), true) => self.first_awaited(packet, headers, &original, awaited, now, io),
            (None, false) => self.unexpected(packet, headers, &original, now, io),
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
        let Some(at) = self.enter(original, &after, Method::Masq, id, now) else {
            return self.drop(DropReason::FlowTableFull, Hook::Input);
        };
        self.note_told_of(at.id(), self.passed.map_or(awaited.mark, |passed| passed.connection_mark));
        self.count_entered(at, Told::RELATED, self.asks_for_source(Method::Masq, original, &after));
        self.begun(packet, headers, at, now, io);
    }
}
