//! A new connection of a persistent service: its client keeps the real server that it has (`ipvsadm -p`). With `--pe sip` each of a
//! client's calls does, by its Call-ID, and a datagram that names no call begins nothing.
//!
//! A service of FTP's port takes what may be its data connections too, so that they come to the control connection's real server also where answers, and
//! with them what the server says, go another way: by direct routing or a tunnel.
//!
//! The client's template is at the worker that a hash of the client, or call, names, which need not be the owner of the connection. So a first
//! packet may go there and back, with the template's answer ([`Steer::Ask`], [`Steer::Answer`]); all others of the connection
//! go the straight line of any connection (docs/decisions/0010).
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_core.c` and `ip_vs_conn.c`, and recorded connections.

use std::net::IpAddr;
use std::sync::Arc;

use super::early_drop::is_idle_template;
use super::edited;
use super::expected::held_control;
use super::first::{pick, service_of_first};
use super::fragment::{Recent, datagram, ports};
use super::one_packet::Choice;
use super::{Io, Passed, Path, Steer};
use crate::conntrack::Zones;
use crate::drop::DropReason;
use crate::flow::edit::FTP;
use crate::flow::template::{ASSURED, TemplateId, of_call, template_protocol};
use crate::flow::{FlowId, NewFlow, Tuple};
use crate::hook::Hook;
use crate::ids::{ServerId, WorkerId};
use crate::packet::Packet;
use crate::rule::counted::Ticket;
use crate::tables::{Engine, Forward, Persistence, Protocol, Server, Service, ServiceKey};
use crate::time::{Tick, Timeout};
use crate::trail::Step;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::{sip, udp};

/// How long a template stays whose time is over while a connection of its lives. It keeps this timeout.
pub(super) const WITH_CONNECTIONS: Timeout = Timeout::from_secs(60);

/// Sets of the datagrams that are known.
const SETS: usize = 64;

/// What rules made of a datagram's first fragment, and who has its template; or its connection, where its mark has brought it there. Later fragments are not asked again, and name no call.
pub(super) type Asking = Recent<(Option<Passed>, WorkerId), SETS>;

/// What a template says of a connection that begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    pub server: ServerId,
    pub template: TemplateId,
}

impl<P: Packet> Path<P> {
    /// The first packet of a connection, at its owner.
    #[cold]
    pub(super) fn first_persistent(
        &mut self,
        packet: P,
        headers: &Headers,
        (original, seen): (&Tuple, &Tuple),
        service: &Service,
        persistence: Persistence,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let Some(key) = template_of(service, persistence, seen, packet.data(), headers) else {
            return self.hold_failed(
                packet,
                headers,
                (original, seen),
                service,
                DropReason::NoCallId,
                now,
                io,
            );
        };
        let holder = self.holder_of(&key.tuple);
        if holder != self.worker {
            // Rules may have sent it here that was bound for another host: then its owner begins it, who knows no ticket of ours.
            let comes_back = self.owner_of(original.src, original.sport) == self.worker;
            if let Some(passed) = &mut self.passed {
                passed.ticket = if comes_back { self.counted.park() } else { Ticket::NONE };
            }
            let is_known_by_first = self.passed.is_some() || service.options.engine.is_some();
            if is_known_by_first && headers.fragment == Fragment::First {
                let datagram = datagram(packet.data(), headers);
                self.asking.remember(self.set_of(&datagram), datagram, (self.passed, holder), now);
            }
            return io.hand_over(holder, packet, Steer::Ask(ports(headers), self.passed));
        }
        match self.hold(key, service, persistence, seen, now) {
            Ok(Held { server, template }) => {
                let both = (original, seen);
                self.begin_held(packet, headers, both, service, server, Some(template), now, io);
            }
            Err(reason) => self.hold_failed(packet, headers, (original, seen), service, reason, now, io),
        }
    }

    /// A later fragment of no connection, at its owner: the first one may have been scheduled for this datagram alone, or be on its
    /// way to the template and back.
    #[cold]
    pub(super) fn later_fragment(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        if let Some(packet) = self.follow_first(packet, headers, now, io) {
            self.lost_fragment(packet, headers, now, io);
        }
    }

    /// Sends a later fragment after its first one, where that is known: else it is here still.
    pub(super) fn follow_first(
        &mut self,
        packet: P,
        headers: &Headers,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<P> {
        if let Some(choice) = self.choice_of(&packet, headers, now) {
            self.follow(packet, headers, choice, now, io);
        } else if let Some((passed, holder)) = self.holder_of_first(&packet, headers, now) {
            io.hand_over(holder, packet, Steer::Ask(ports(headers), passed));
        } else {
            return Some(packet);
        }
        None
    }

    /// Where a later fragment's first one has gone, which begins a connection of a persistent service, if that is another worker.
    fn holder_of_first(
        &self,
        packet: &P,
        headers: &Headers,
        now: Tick,
    ) -> Option<(Option<Passed>, WorkerId)> {
        let of_first = || {
            let datagram = datagram(packet.data(), headers);
            self.asking.recall(self.set_of(&datagram), &datagram, now)
        };
        if self.tables.rules.are_active() {
            return of_first();
        }
        let original = Tuple::of_packet(packet.data(), headers);
        let (service, persistence) =
            self.persistent_service(&original, now).filter(|_| self.is_for_services(&original, now))?;
        let Some(key) = template_of(&service, persistence, &original, packet.data(), headers) else {
            return of_first();
        };
        let holder = self.holder_of(&key.tuple);
        (holder != self.worker).then_some((None, holder))
    }

    /// A later fragment of no connection here; while there are rules, another worker may have it.
    pub(super) fn lost_fragment(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        if !self.tables.rules.are_active() {
            return self.route(packet, headers, now, io);
        }
        match self.other_worker(&packet, headers, now) {
            Some(other) => io.hand_over(other, packet, Steer::Elsewhere(ports(headers), None)),
            None => self.of_none(packet, headers, now, io),
        }
    }

    /// The first packet of another worker's connection, whose template is here; or a fragment that follows on it.
    #[cold]
    pub(super) fn asked(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let original = Tuple::of_packet(packet.data(), headers);
        let owner = self.owner_of(original.src, original.sport);
        if owner == self.worker && headers.fragment == Fragment::Later {
            return self.follow_brought(packet, headers, &original, now, io);
        }
        let (seen, passed) = (self.seen_by_services(original), self.passed);
        // Its tables may be others than ours: the template may have to be at yet another worker, by another mask.
        let held = self
            .persistent_service(&seen, now)
            .filter(|_| headers.fragment != Fragment::Later)
            .and_then(|(service, persistence)| {
                let key = template_of(&service, persistence, &seen, packet.data(), headers)?;
                Some((key, service, persistence))
            })
            .filter(|(key, ..)| self.holder_of(&key.tuple) == self.worker);
        let held = match held {
            None => None,
            Some((key, service, persistence)) => match self.hold(key, &service, persistence, &seen, now) {
                Ok(held) => Some(held),
                // Its owner has none for it either.
                Err(DropReason::NoServer) if self.may_go_past(&original, &seen, service.key) => None,
                Err(reason) => {
                    let both = (&original, &seen);
                    return self.hold_failed(packet, headers, both, &service, reason, now, io);
                }
            },
        };
        if owner == self.worker {
            return self.answered(packet, headers, held, now, io);
        }
        io.hand_over(owner, packet, Steer::Answer(ports(headers), passed, held));
    }

    /// The first packet of a connection is back from the worker with its template, or a fragment that follows on it.
    #[cold]
    pub(super) fn answered(
        &mut self,
        packet: P,
        headers: &Headers,
        held: Option<Held>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.counted.resume(self.passed.map_or(Ticket::NONE, |passed| passed.ticket));
        let original = Tuple::of_packet(packet.data(), headers);
        // The client was impatient, or began it by two packets.
        if let Some(at) = self.flows.find(&original) {
            self.mine.flows.found.add(1);
            return self.begun(packet, headers, at, now, io);
        }
        if headers.fragment == Fragment::Later {
            return match self.choice_of(&packet, headers, now) {
                Some(choice) => self.follow(packet, headers, choice, now, io),
                None => self.lost_fragment(packet, headers, now, io),
            };
        }
        if !self.tables.serves(headers.is_ipv6) {
            // It has become a backup meanwhile.
            return self.route(packet, headers, now, io);
        }
        if !self.counted.holds() {
            // Others have begun since rules let it pass: they are asked again about its next try.
            return self.drop(DropReason::Rule, Hook::Input);
        }
        let seen = self.seen_by_services(original);
        // Its tables may be others than ours: the service may be persistent there or here alone.
        let Some((service, _)) = self.persistent_service(&seen, now) else {
            return match self.passed {
                // Rules do not look at it once more.
                Some(_) => self.serve_rarely(packet, headers, &original, &seen, now, io),
                None => self.first(packet, headers, now, io),
            };
        };
        let (server, template) = match held {
            Some(Held { server, template }) => (server, Some(template)),
            None => match pick(&mut self.schedulers, &service, &seen, &self.counters, &self.mine, now) {
                Some(server) => (server.id, None),
                None => {
                    let (both, reason) = ((&original, &seen), DropReason::NoServer);
                    return self.hold_failed(packet, headers, both, &service, reason, now, io);
                }
            },
        };
        if let Some(limiter) = &service.limiter
            && let Some(limit) = self.is_full_by_now(limiter, service.id, original.src)
        {
            return self.drop(limit.reason(), Hook::Input);
        }
        self.begin_held(packet, headers, (&original, &seen), &service, server, template, now, io);
    }

    fn seen_by_services(&self, original: Tuple) -> Tuple {
        self.passed.map_or(original, |passed| passed.seen(original))
    }

    fn persistent_service(&self, seen: &Tuple, now: Tick) -> Option<(Arc<Service>, Persistence)> {
        let service = service_of_first(&self.tables, self.passed, seen, now)?;
        Some((service.clone(), service.options.persistence?))
    }

    /// Finds the client's template or makes one.
    fn hold(
        &mut self,
        Key { tuple: key, client }: Key,
        service: &Service,
        persistence: Persistence,
        original: &Tuple,
        now: Tick,
    ) -> Result<Held, DropReason> {
        if let Some(at) = self.flows.find(&key) {
            let id = at.id();
            let is_assured = self.uses.is_assured(self.worker, id.0);
            let server = self.flows.entry(id).server();
            let leaves_quiesced = self.tables.settings.sysctls.expire_quiescent_template == 1;
            let stays = |server: &Server| server.weight > 0 || !leaves_quiesced;
            // A longer prefix may have been given a service since.
            if self.server_held(service, server).is_some_and(stays) {
                let entry = self.flows.entry_mut(id);
                entry.touch(now);
                // Known at first hand, if another director told of it.
                entry.renew(self.tables.generation, false);
                // The next process reads it here.
                entry.set_state(if is_assured { ASSURED } else { 0 });
                return Ok(Held { server, template: self.uses.id(self.worker, id.0) });
            }
            self.flows.invalidate(id);
        }
        let picked = pick(&mut self.schedulers, service, original, &self.counters, &self.mine, now);
        let server = picked.ok_or(DropReason::NoServer)?;
        let is_its_port = original.dport == service.key.port && original.dport == service.key.template_port();
        let port = if is_its_port { server.port } else { 0 };
        let new = NewFlow {
            original: key,
            reply: Tuple { src: server.address, dst: client, sport: port, dport: 0, protocol: key.protocol },
            method: server.forward.method(),
            deltas: Default::default(),
            server: server.id,
            state: 0,
            timeout: persistence.timeout,
            now,
            zones: Zones::NONE,
        };
        let id = self.insert(&new).ok_or(DropReason::FlowTableFull)?;
        self.uses.begin(self.worker, id.0);
        self.mine.server(new.server).persistent.add(1);
        if self.tables.settings.is_sharing {
            self.note_change(id);
        }
        Ok(Held { server: new.server, template: self.uses.id(self.worker, id.0) })
    }

    /// A real server of the service, or of another one with the same templates: FTP's has those of every port of its address.
    fn server_held(&self, service: &Service, id: ServerId) -> Option<&Server> {
        let services = &self.tables.services;
        services.server_of(service, id).or_else(|| {
            let its = services.of_server(id)?.key;
            let is_alike = its == ServiceKey { port: its.port, ..service.key }
                && its.template_port() == service.key.template_port();
            is_alike.then(|| services.server(id)).flatten()
        })
    }

    fn hold_failed(
        &mut self,
        packet: P,
        headers: &Headers,
        both: (&Tuple, &Tuple),
        service: &Service,
        reason: DropReason,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if reason == DropReason::NoServer {
            self.watch.note(|| Step::Server(None));
            let is_one_packet = service.options.one_packet && both.0.protocol == Protocol::UDP;
            return self.without_server(packet, headers, both, (service.key, is_one_packet), now, io);
        }
        self.drop(reason, Hook::Input);
    }

    /// Enters the connection as its template says, or its QUIC connection ID: also with a server that takes no new ones.
    pub(super) fn begin_held(
        &mut self,
        packet: P,
        headers: &Headers,
        (original, seen): (&Tuple, &Tuple),
        service: &Service,
        server: ServerId,
        template: Option<TemplateId>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.watch.note(|| Step::Server(Some(server)));
        let Some(server) = self.tables.services.server(server) else {
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        };
        let is_one_packet = service.options.one_packet && original.protocol == Protocol::UDP;
        if is_one_packet && server.address.is_ipv6() != headers.is_ipv6 && server.forward == Forward::FullNat
        {
            // By the tables of whoever told of it the packet is of a service that keeps connections: without one nothing is translated.
            self.let_go(template);
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        }
        let (id, mut method, forward) = (server.id, server.forward.method(), server.forward);
        // With persistence a port that the service does not name stays; else the real server's own is the one, as for what is scheduled.
        let is_named = service.options.persistence.is_none() || seen.dport == service.key.port;
        let is_its_port = is_named && server.port != 0;
        let dport = if is_its_port { server.port } else { seen.dport };
        let mut after = Tuple { dst: server.address, dport, ..*seen };
        if forward == Forward::FullNat {
            let Some(chosen) = self.local_ports.choose(&self.flows, &self.tables, service, after, now) else {
                self.let_go(template);
                return self.drop(DropReason::NoLocalPort, Hook::Input);
            };
            (after, method) = chosen;
        }
        if is_one_packet {
            let choice = Choice { original: *original, after, method, server: id };
            return self.one_packet(packet, headers, choice, now, io);
        }
        // With a connection, so that it does not make room for that.
        let taken = template.filter(|&template| self.uses.take(template));
        let Some(at) = self.bind(original, &after, method, id, now) else {
            if let Some(taken) = taken {
                self.uses.give_back(taken.place());
            }
            self.let_go(template);
            return self.drop(DropReason::FlowTableFull, Hook::Input);
        };
        if let Some(taken) = taken {
            self.flows.set_template(at.id(), taken.place());
            self.flows.entry_mut(at.id()).set_unanswered(original.protocol == Protocol::UDP);
        }
        let mut wants = edited::wants(&service.options);
        if service.key.is_ftp() && seen.dport != service.key.port {
            // A data connection is not read.
            wants &= !FTP;
        }
        if !self.begin_edits(at, wants, headers) {
            self.refuse_unedited(at.id());
            return self.let_go(template);
        }
        if !self.tables.serves(headers.is_ipv6) {
            // Services were looked at when it left for its template, and are no more.
            self.flows.entry_mut(at.id()).set_ipvs_off();
        }
        self.begun(packet, headers, at, now, io);
    }

    /// A connection that its template was made for does not come to be: if the template is here and serves nobody, it ends.
    #[cold]
    fn let_go(&mut self, template: Option<TemplateId>) {
        let entry = template.and_then(|template| self.uses.entry_of(self.worker, template));
        let Some(id) = entry.map(FlowId) else { return };
        let entry = self.flows.entry(id);
        if is_idle_template(&self.uses, self.worker, id, entry) && self.uses.end(self.worker, id.0) {
            self.end(id);
        }
    }

    /// The connection was answered: its template is one that lasts.
    pub(super) fn assure_template(&mut self, id: FlowId) {
        self.flows.entry_mut(id).set_unanswered(false);
        // What a control connection told of is kept by that, which is no template.
        let is_told_of = || held_control(&self.flows, id).is_some();
        if let Some(template) = self.flows.template(id).filter(|_| !is_told_of()) {
            self.uses.assure(template);
        }
    }

    /// As `ipvsadm -Lnc` prints it.
    pub(super) fn template_state(&self, id: FlowId) -> &'static str {
        let is_assured = self.uses.is_assured(self.worker, id.0);
        if is_assured || self.flows.entry(id).state() & ASSURED != 0 { "ASSURED" } else { "NONE" }
    }

    /// The worker that has a template.
    pub(super) fn holder_of(&self, template: &Tuple) -> WorkerId {
        self.owner_of(template.src, template.sport)
    }
}

/// The tuple under which a template stands, and whose it is.
struct Key {
    tuple: Tuple,
    client: IpAddr,
}

/// Where the template of a packet's client stands; or its call's, `None` if it names none.
fn template_of(
    service: &Service,
    persistence: Persistence,
    original: &Tuple,
    frame: &[u8],
    headers: &Headers,
) -> Option<Key> {
    let client = persistence.mask.client(original.src);
    let (src, sport) = match service.options.engine {
        None => (client, 0),
        Some(Engine::Sip) if headers.protocol == Protocol::UDP && headers.fragment != Fragment::Later => {
            let data = frame.get(usize::from(headers.l4) + udp::LEN..headers.end())?;
            of_call(client, sip::call_id(data)?)
        }
        Some(Engine::Sip) => return None,
    };
    let tuple = Tuple {
        src,
        // Each address of a prefix is a service to its clients. A mark's name stands in the place of its addresses.
        dst: if service.key.mark().is_some() { service.key.address } else { original.dst },
        sport,
        dport: service.key.template_port(),
        protocol: template_protocol(service.key.protocol),
    };
    Some(Key { tuple, client })
}
