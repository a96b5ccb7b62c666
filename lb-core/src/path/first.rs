//! A packet of no connection that is known: PREROUTING, the routing decision, and INPUT with its virtual services.

use std::sync::Arc;

use super::edited;
use super::expected::{give_back_holder, is_awaited};
use super::ipsec::is_ipsec;
use super::one_packet::Choice;
use super::persistent::WITH_CONNECTIONS;
use super::quic;
use super::rewrite;
use super::{Io, Passed, Path};
use crate::conntrack::{Told, Zones};
use crate::counters::WorkerCounters;
use crate::drop::DropReason;
use crate::flow::edit::FTP;
use crate::flow::template::{EXPECTED, Uses, is_signpost};
use crate::flow::{Direction, Entry, FlowId, FlowRef, InsertError, Method, NewFlow, Store, Tuple};
use crate::hook::{Function, Hook};
use crate::icmp;
use crate::ids::ServerId;
use crate::ipvs::scheduler::{Loads, Request, States};
use crate::ipvs::sctp::SctpState;
use crate::ipvs::state::TcpState;
use crate::packet::Packet;
use crate::tables::{Forward, Protocol, Server, Service, ServiceKey, SynCookies, Tables};
use crate::time::Tick;
use crate::trail::Step;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::sctp;
use crate::wire::tcp::{RST, SYN};

/// Where an FTP server's data connections come from. The kernel's IPVS schedules none from there, of any protocol, lest a
/// real server's own active data connection is taken for a client's.
pub(super) const FTP_DATA: u16 = 20;

/// Timers visited in one turn at most: some 20 µs of work.
const TIMERS_PER_TURN: usize = 256;

/// All workers' connections.
struct AllWorkers<'a>(&'a [Arc<WorkerCounters>]);

impl AllWorkers<'_> {
    fn all(&self, server: ServerId) -> u64 {
        self.active(server).wrapping_add(self.inactive(server))
    }
}

impl Loads for AllWorkers<'_> {
    fn active(&self, server: ServerId) -> u64 {
        self.0.iter().map(|worker| worker.server(server).active.get()).fold(0, u64::wrapping_add)
    }

    fn inactive(&self, server: ServerId) -> u64 {
        self.0.iter().map(|worker| worker.server(server).inactive.get()).fold(0, u64::wrapping_add)
    }

    fn is_shared(&self) -> bool {
        self.0.len() > 1
    }
}

impl<P: Packet> Path<P> {
    /// A packet of no known connection: its owner begins one, unless it is [behind](super::newcomers).
    #[inline(always)]
    pub(super) fn newcomer(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        if let Some(packet) = self.steer_first(packet, headers, now, io) {
            self.newcomer_at_owner(packet, headers, now, io);
        }
    }

    /// The same, at its owner.
    #[inline(always)]
    pub(super) fn newcomer_at_owner(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        if self.newcomers.give_way() && !self.lets_in(headers) {
            return self.drop(DropReason::WorkerBehind, Hook::Prerouting);
        }
        self.first_at_owner(packet, headers, now, io);
    }

    /// A packet behind the connection that it was of.
    pub(super) fn first(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        if let Some(packet) = self.steer_first(packet, headers, now, io) {
            self.first_at_owner(packet, headers, now, io);
        }
    }

    /// PREROUTING and, when the packet is for a virtual service on this host, INPUT with IPVS: schedules and binds.
    #[inline(never)]
    fn first_at_owner(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        self.mine.flows.missed.add(1);
        if headers.fragment == Fragment::Later && !self.may_be_zoned(headers) {
            return self.later_fragment(packet, headers, now, io);
        }
        if self.tables.rules.are_active() {
            return self.first_ruled(packet, headers, now, io);
        }
        if headers.is_from_link_local(packet.data()) || !self.tables.serves(headers.is_ipv6) {
            return self.route(packet, headers, now, io);
        }
        let original = Tuple::of_packet(packet.data(), headers);
        if self.tables.routes.is_local(original.src) {
            // What says that it comes from ourselves would be sent to ourselves (a "land" attack).
            return self.drop(DropReason::MartianAddress, Hook::Prerouting);
        }
        if self.may_be_expected(&original, headers, now) {
            return self.first_expected(packet, headers, original, now, io);
        }
        self.unexpected(packet, headers, &original, now, io);
    }

    /// What no helper expects: INPUT, if there is a virtual service for it; else it is routed.
    #[inline]
    pub(super) fn unexpected(
        &mut self,
        packet: P,
        headers: &Headers,
        original: &Tuple,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if self.tables.settings.sysctls.nat_icmp_send == 1 && self.is_orphan(&packet, headers, original) {
            let (problem, reason) = (icmp::Problem::PortUnreachable, DropReason::NoConnection);
            return self.answer(packet, headers, problem, (reason, Hook::Forward), None, now, io);
        }
        self.serve(packet, headers, original, original, now, io);
    }

    /// INPUT with IPVS: a virtual service that takes the packet schedules and binds it. It came as `original`; `seen` is what services
    /// see of it.
    #[inline(always)]
    pub(super) fn serve(
        &mut self,
        packet: P,
        headers: &Headers,
        original: &Tuple,
        seen: &Tuple,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let mut packet = packet;
        let mut service = service_of_first(&self.tables, self.passed, seen, now);
        let cookies = service.map(|service| (service.id, service.options.syn_cookies));
        if let Some(cookies) = cookies.filter(|&(_, when)| when != SynCookies::Off) {
            match self.by_cookie(packet, headers, (original, seen), cookies, now, io) {
                Some(back) => packet = back,
                None => return,
            }
            service = service_of_first(&self.tables, self.passed, seen, now);
        }
        let Some(service) = service.filter(|_| self.is_for_services(seen, now)) else {
            return self.route(packet, headers, now, io);
        };
        if self.watch.is_on()
            && let Some(mark) = self.mark_that_brought(seen, now)
        {
            self.watch.note(|| Step::ByMark(mark));
        }
        self.watch.note(|| Step::At { hook: Hook::Input, function: Function::RemoteRequest });
        self.watch.note(|| Step::Service(service.id));
        let sysctls = &self.tables.settings.sysctls;
        let is_beginning = match headers.protocol {
            Protocol::TCP => {
                headers.tcp_flags & RST == 0 && (headers.tcp_flags & SYN != 0 || sysctls.sloppy_tcp == 1)
            }
            Protocol::SCTP => sctp::chunk(packet.data(), headers)
                .is_some_and(|chunk| chunk == sctp::INIT || sysctls.sloppy_sctp == 1),
            protocol => !is_ipsec(protocol),
        };
        if !is_beginning || original.sport == FTP_DATA {
            if !is_beginning && service.is_stateless() && self.may_go_by_hash(service, headers, now) {
                let service = service.clone();
                return self.take_up(packet, headers, (original, seen), &service, now, io);
            }
            return self.not_begun(packet, headers, seen, now, io);
        }
        if self.tables.settings.draining {
            // Silently: the client sends its SYN again, perhaps to the director that takes over.
            return self.drop(DropReason::Draining, Hook::Input);
        }
        let free = self.places_left();
        if sysctls.drop_packet != 0 && self.shed.drops(sysctls, free) {
            return self.drop(DropReason::Shed, Hook::Input);
        }
        if let Some(limiter) = &service.limiter
            && let Some(limit) = self.exceeds(limiter, service.id, original.src, now)
        {
            return self.drop(limit.reason(), Hook::Input);
        }
        if let Some(quic) = &service.quic_lb
            && let Some(server) =
                quic::named(quic, service, packet.data(), headers, &self.mine, &mut self.watch)
        {
            let service = service.clone();
            return self.begin_held(packet, headers, (original, seen), &service, server, None, now, io);
        }
        if let Some(persistence) = service.options.persistence {
            let service = service.clone();
            return self.first_persistent(packet, headers, (original, seen), &service, persistence, now, io);
        }
        let is_one_packet = service.options.one_packet && original.protocol == Protocol::UDP;
        let (wants, service_id, key) = (edited::wants(&service.options), service.id, service.key);
        let may_hash = self.is_short && service.picks_alike();
        let picked = pick(&mut self.schedulers, service, seen, &self.counters, &self.mine, now);
        self.watch.note(|| Step::Server(picked.map(|server| server.id)));
        let Some(&Server { id, address, port, forward, .. }) = picked else {
            return self.without_server(packet, headers, (original, seen), (key, is_one_packet), now, io);
        };
        let after = Tuple { dst: address, dport: if port == 0 { seen.dport } else { port }, ..*seen };
        let (after, method) = if forward == Forward::FullNat {
            match self.local_ports.choose(&self.flows, &self.tables, service, after, now) {
                Some(chosen) => chosen,
                None => return self.drop(DropReason::NoLocalPort, Hook::Input),
            }
        } else {
            (after, forward.method())
        };
        if is_one_packet || may_hash && method.is_one_way() {
            let choice = Choice { original: *original, after, method, server: id };
            return match is_one_packet {
                true => self.one_packet(packet, headers, choice, now, io),
                false => self.go_by_hash(packet, headers, choice, service_id, now, io),
            };
        }
        match self.bind(original, &after, method, id, now) {
            Some(at) if self.begin_edits(at, wants, headers) => self.begun(packet, headers, at, now, io),
            Some(at) => self.refuse_unedited(at.id()),
            None => self.drop(DropReason::FlowTableFull, Hook::Input),
        }
    }

    /// As [`Path::serve`], for where few packets come by.
    #[inline(never)]
    pub(super) fn serve_rarely(
        &mut self,
        packet: P,
        headers: &Headers,
        original: &Tuple,
        seen: &Tuple,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.serve(packet, headers, original, seen, now, io);
    }

    /// Whether a masqueraded real server sent this packet of no connection, which does not say itself that there is none.
    #[cold]
    fn is_orphan(&self, packet: &P, headers: &Headers, original: &Tuple) -> bool {
        let source = ServiceKey::new(original.protocol, original.src, original.sport);
        let is_end = match headers.protocol {
            Protocol::TCP => headers.tcp_flags & RST != 0,
            Protocol::SCTP => sctp::chunk(packet.data(), headers) == Some(sctp::ABORT),
            _ => false,
        };
        !is_end && self.tables.services.sends_from(&source)
    }

    /// A connection that cannot be what its service says ends before it began: its real server would misread it.
    #[cold]
    pub(super) fn refuse_unedited(&mut self, id: FlowId) {
        let is_opened = self.passed.is_some_and(|passed| passed.opening.is_some());
        let is_proxied = is_opened && self.flows.entry(id).method() != Method::Masq;
        self.end(id);
        let reason = if is_proxied { DropReason::NotProxied } else { DropReason::EditTableFull };
        self.drop(reason, Hook::Input);
    }

    /// Enters a connection whose packets leave for `server`, which is the destination of `after`: as `after` when they are
    /// masqueraded. It counts for the real server. `None`: there is no room.
    pub(super) fn bind(
        &mut self,
        original: &Tuple,
        after: &Tuple,
        method: Method,
        server: ServerId,
        now: Tick,
    ) -> Option<FlowRef> {
        let at = self.enter(original, after, method, server, now)?;
        self.count_entered(at, Told::NEW, self.asks_for_source(method, original, after));
        Some(at)
    }

    /// What was entered counts for its real server, and is told, unless that is done once its source is known.
    #[inline(always)]
    pub(super) fn count_entered(&mut self, at: FlowRef, told: Told, asks_for_source: bool) {
        let entry = self.flows.entry_mut(at.id());
        let (server, is_tcp) = (entry.server(), entry.protocol() == Protocol::TCP);
        entry.set_inactive(!is_tcp);
        self.count_bound(at.id(), server, is_tcp);
        self.mine.server(server).connections.add(1);
        self.mine.flows.inserted.add(1);
        if !asks_for_source {
            self.tell(told, at.id());
        }
    }

    /// As [`Path::bind`], and it counts for nobody.
    #[inline(always)]
    pub(super) fn enter(
        &mut self,
        original: &Tuple,
        after: &Tuple,
        method: Method,
        server: ServerId,
        now: Tick,
    ) -> Option<FlowRef> {
        let reply = after.reversed();
        if !method.is_one_way() {
            // On its way while the rest is worked out.
            self.flows.prefetch_bucket(reply.hash(self.flows.hasher()));
        }
        let new = NewFlow {
            original: *original,
            reply,
            method,
            deltas: rewrite::deltas_both_ways(original, after),
            server,
            state: TcpState::None as u8,
            // As after this packet, a SYN or an INIT: the timer need not be armed twice.
            timeout: match original.protocol {
                Protocol::TCP => self.timeouts.tcp(TcpState::SynRecv),
                Protocol::SCTP => SctpState::Init1.timeout(),
                _ => self.timeouts.udp,
            },
            now,
            zones: Zones::NONE,
        };
        let id = self.insert(&new)?;
        let is_looked_at = self.tables.looks_at_each() || self.tables.is_left_by_syn(server);
        let entry = self.flows.entry_mut(id);
        entry.renew(self.tables.generation, is_looked_at);
        // Most go to a real server that others went to.
        if method != Method::Translated
            && let Some(hop) = self.known_hops.get(after.dst)
        {
            entry.set_hop(Direction::Original, hop);
        }
        self.counted.keep(id);
        if let Some(passed) = self.passed {
            self.flows.tracked_mut(id).mark = passed.connection_mark;
            self.label(id, passed.labels);
        }
        Some(FlowRef::new(id, Direction::Original))
    }

    /// A connection came to its real server.
    #[inline(always)]
    pub(super) fn count_bound(&mut self, flow: FlowId, id: ServerId, is_active: bool) {
        let cell = self.mine.server(id);
        if is_active { &cell.active } else { &cell.inactive }.add(1);
        if self.tables.services.have_limits() {
            self.count_towards_limits(flow);
        }
        if let Some(server) = self.tables.services.server(id)
            && !self.is_dry
        {
            server.after_bind(|| AllWorkers(&self.counters).all(id));
        }
        self.schedulers.touch(id);
    }

    /// What was bound to its real server stays here and counts no more.
    pub(super) fn count_unbound(&mut self, id: FlowId) {
        let entry = self.flows.entry(id);
        leave(entry, &self.mine, &self.counters, &self.tables.services, &mut self.schedulers);
    }

    /// Enters a connection. One that has a tuple in common goes: of two connections of a client that look the same
    /// to the real server, the newer one gets the answers, as in the kernel.
    #[inline]
    pub(super) fn insert(&mut self, new: &NewFlow) -> Option<FlowId> {
        match self.flows.insert(new) {
            Ok(id) => Some(id),
            Err(error) => self.insert_after(error, new),
        }
    }

    /// The same, when something was in the way.
    #[cold]
    fn insert_after(&mut self, mut error: InsertError, new: &NewFlow) -> Option<FlowId> {
        loop {
            match error {
                InsertError::Taken(older) => self.end(older),
                InsertError::Full if self.drop_early(new) => {}
                InsertError::Full => {
                    self.mine.flows.full.add(1);
                    return None;
                }
                InsertError::IndexFull => {
                    self.mine.flows.index_full.add(1);
                    return None;
                }
            }
            match self.flows.insert(new) {
                Ok(id) => return Some(id),
                Err(next) => error = next,
            }
        }
    }

    /// Ends a connection before its time.
    pub(super) fn end(&mut self, id: FlowId) {
        self.tell(Told::DESTROY, id);
        if is_held(&self.flows, id) {
            self.uses.abandon(self.worker, id.0);
        }
        unbind(
            &self.flows,
            id,
            &self.mine,
            &self.counters,
            &self.tables.services,
            &self.uses,
            &mut self.schedulers,
        );
        self.counted.release(id);
        self.limited.release(id);
        self.flows.remove(id);
    }

    /// Returns whether more timers may be due.
    pub(super) fn expire(&mut self, now: Tick) -> bool {
        let (mine, counters, services, uses) =
            (&self.mine, &self.counters, &self.tables.services, &self.uses);
        let events = &self.tables.events;
        let (schedulers, worker) = (&mut self.schedulers, self.worker);
        let (counted, limited) = (&mut self.counted, &mut self.limited);
        let visited = self.flows.expire(now, TIMERS_PER_TURN, |flows, id| {
            if is_held(flows, id) && !uses.end(worker, id.0) {
                return Some(WITH_CONNECTIONS);
            }
            events.tell(Told::DESTROY, flows, id, now);
            unbind(flows, id, mine, counters, services, uses, schedulers);
            counted.release(id);
            limited.release(id);
            mine.flows.expired.add(1);
            None
        });
        visited == TIMERS_PER_TURN
    }

    pub(super) fn count_fill(&self) {
        let (entries, ipv6) = self.flows.len();
        self.mine.flows.entries.set(entries.into());
        self.mine.flows.ipv6_entries.set(ipv6.into());
        self.mine.edits.entries.set(self.flows.edits().0.into());
        self.mine.turns.waiting.set((self.waiting.len() + self.fragments.waiting()) as u64);
    }
}

/// The virtual service for a first packet: by the mark that rules left it with, if they were asked.
#[inline]
pub(super) fn service_of_first<'t>(
    tables: &'t Tables,
    passed: Option<Passed>,
    seen: &Tuple,
    now: Tick,
) -> Option<&'t Arc<Service>> {
    match passed {
        Some(passed) => tables.service_with(seen, passed.mark),
        None => tables.service_for(seen, now),
    }
}

/// Which of the service's real servers gets a new connection.
#[inline]
pub(super) fn pick<'s>(
    schedulers: &mut States,
    service: &'s Service,
    original: &Tuple,
    counters: &[Arc<WorkerCounters>],
    mine: &WorkerCounters,
    now: Tick,
) -> Option<&'s Server> {
    let request =
        Request { client: (original.src, original.sport), virtual_: (original.dst, original.dport), now };
    let index = schedulers.pick(service, &AllWorkers(counters), &request)?;
    service.servers.get(index).filter(|server| server.id.index() < mine.server_capacity())
}

/// Whether others may keep it whose time is over: a template, a control connection of FTP.
#[inline]
pub(super) fn is_held(flows: &Store, id: FlowId) -> bool {
    let entry = flows.entry(id);
    entry.is_template() || entry.is_edited() && !entry.is_tracked() && is_read_by_ftp(flows, id)
}

#[cold]
fn is_read_by_ftp(flows: &Store, id: FlowId) -> bool {
    flows.edit(id).is_some_and(|edit| edit.wants & FTP != 0)
}

/// A connection leaves its real server, or a template goes.
fn unbind(
    flows: &Store,
    id: FlowId,
    mine: &WorkerCounters,
    all: &[Arc<WorkerCounters>],
    services: &crate::tables::Services,
    uses: &Uses,
    schedulers: &mut States,
) {
    let entry = flows.entry(id);
    if entry.is_template() {
        return mine.server(entry.server()).persistent.sub(1);
    }
    if is_signpost(entry.protocol()) {
        return;
    }
    give_back_holder(flows, id, uses);
    if entry.is_tracked() {
        return mine.flows.tracked.sub(1);
    }
    let is_awaited = is_awaited(flows, id);
    mine.flows.expect_delete.add(is_awaited.into());
    if is_awaited || entry.protocol() != EXPECTED {
        leave(entry, mine, all, services, schedulers);
    }
}

/// It counts no more for its real server.
fn leave(
    entry: &Entry,
    mine: &WorkerCounters,
    all: &[Arc<WorkerCounters>],
    services: &crate::tables::Services,
    schedulers: &mut States,
) {
    let cell = mine.server(entry.server());
    if entry.is_inactive() { &cell.inactive } else { &cell.active }.sub(1);
    if let Some(server) = services.server(entry.server()) {
        server.after_unbind(|| AllWorkers(all).all(server.id));
    }
    schedulers.touch(entry.server());
}
