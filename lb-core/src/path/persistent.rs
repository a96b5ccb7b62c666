//! A new connection of a persistent service: its client keeps the real server that it has (`ipvsadm -p`).
//!
//! The client's template is at the worker that a hash of the client names, which need not be the owner of the connection. So a first
//! packet may go there and back, with the template's answer ([`Steer::Ask`], [`Steer::Answer`]); all others of the connection
//! go the straight line of any connection (docs/decisions/0010).
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_core.c` and `ip_vs_conn.c`, and recorded connections.

use std::sync::Arc;

use super::first::pick;
use super::fragment::ports;
use super::one_packet::Choice;
use super::{Io, Path, Steer};
use crate::conntrack::CtState;
use crate::drop::DropReason;
use crate::flow::template::{ASSURED, TemplateId, template_protocol};
use crate::flow::{FlowId, NewFlow, Tuple};
use crate::hook::Hook;
use crate::icmp;
use crate::ids::{ServerId, WorkerId};
use crate::packet::Packet;
use crate::tables::{Forward, Persistence, Protocol, Server, Service};
use crate::time::{Tick, Timeout};
use crate::trail::Step;
use crate::wire::parse::{Fragment, Headers};

/// How long a template stays whose time is over while a connection of its lives. It keeps this timeout.
pub(super) const WITH_CONNECTIONS: Timeout = Timeout::from_secs(60);

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
        original: Tuple,
        service: &Service,
        persistence: Persistence,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let key = template_of(service, persistence, &original);
        let holder = self.holder_of(&key);
        if holder != self.worker {
            return io.hand_over(holder, packet, Steer::Ask(ports(headers)));
        }
        match self.hold(key, service, persistence, &original, now) {
            Ok(Held { server, template }) => {
                self.begin_held(packet, headers, original, service, server, Some(template), now, io);
            }
            Err(reason) => self.hold_failed(packet, headers, reason, now, io),
        }
    }

    /// A later fragment of no connection, at its owner: the first one may have been scheduled for this datagram alone, or be on its
    /// way to the template and back.
    #[cold]
    pub(super) fn later_fragment(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        if let Some(choice) = self.choice_of(&packet, headers, now) {
            return self.follow(packet, headers, choice, now, io);
        }
        let original = Tuple::of_packet(packet.data(), headers);
        if self.tables.routes.is_local(original.dst)
            && let Some((service, persistence)) = self.persistent_service(&original, now)
        {
            let holder = self.holder_of(&template_of(&service, persistence, &original));
            if holder != self.worker {
                return io.hand_over(holder, packet, Steer::Ask(ports(headers)));
            }
        }
        if self.tables.rules.are_active() {
            let passage = self.passage(packet.port(), headers, CtState::Invalid);
            return self.pass_untracked(packet, headers, passage, now, io);
        }
        self.route(packet, headers, now, io);
    }

    /// The first packet of another worker's connection, whose template is here; or a fragment that follows on it.
    #[cold]
    pub(super) fn asked(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let original = Tuple::of_packet(packet.data(), headers);
        let owner = self.owner_of(original.src, original.sport);
        // Its tables may be others than ours: the template may have to be at yet another worker, by another mask.
        let held = self
            .persistent_service(&original, now)
            .filter(|_| headers.fragment != Fragment::Later)
            .map(|(service, persistence)| {
                (template_of(&service, persistence, &original), service, persistence)
            })
            .filter(|(key, ..)| self.holder_of(key) == self.worker);
        let Some((key, service, persistence)) = held else {
            return io.hand_over(owner, packet, Steer::Answer(ports(headers), None));
        };
        match self.hold(key, &service, persistence, &original, now) {
            Ok(held) => io.hand_over(owner, packet, Steer::Answer(ports(headers), Some(held))),
            Err(reason) => self.hold_failed(packet, headers, reason, now, io),
        }
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
        let original = Tuple::of_packet(packet.data(), headers);
        // The client was impatient, or began it by two packets.
        if let Some(at) = self.flows.find(&original) {
            self.mine.flows.found.add(1);
            return self.begun(packet, headers, at, now, io);
        }
        if headers.fragment == Fragment::Later {
            return match self.choice_of(&packet, headers, now) {
                Some(choice) => self.follow(packet, headers, choice, now, io),
                None => self.route(packet, headers, now, io),
            };
        }
        // Its tables may be others than ours: the service may be persistent there or here alone.
        let Some((service, _)) = self.persistent_service(&original, now) else {
            return self.first(packet, headers, now, io);
        };
        let (server, template) = match held {
            Some(Held { server, template }) => (server, Some(template)),
            None => match pick(&mut self.schedulers, &service, &original, &self.counters, &self.mine, now) {
                Some(server) => (server.id, None),
                None => return self.hold_failed(packet, headers, DropReason::NoServer, now, io),
            },
        };
        self.begin_held(packet, headers, original, &service, server, template, now, io);
    }

    fn persistent_service(&self, original: &Tuple, now: Tick) -> Option<(Arc<Service>, Persistence)> {
        let service = self.tables.service_for(original, now)?;
        Some((service.clone(), service.options.persistence?))
    }

    /// Finds the client's template or makes one.
    fn hold(
        &mut self,
        key: Tuple,
        service: &Service,
        persistence: Persistence,
        original: &Tuple,
        now: Tick,
    ) -> Result<Held, DropReason> {
        if let Some(at) = self.flows.find(&key) {
            let id = at.id();
            let is_assured = self.uses.is_assured(self.worker, id.0);
            let entry = self.flows.entry_mut(id);
            let server = entry.server();
            let leaves_quiesced = self.tables.settings.sysctls.expire_quiescent_template == 1;
            let stays = |server: &Server| server.weight > 0 || !leaves_quiesced;
            // A longer prefix may have been given a service since.
            if self.tables.services.server_of(service, server).is_some_and(stays) {
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
        let port = if original.dport == service.key.port { server.port } else { 0 };
        let new = NewFlow {
            original: key,
            reply: Tuple { src: server.address, sport: port, ..key.reversed() },
            method: server.forward.method(),
            deltas: Default::default(),
            server: server.id,
            state: 0,
            timeout: persistence.timeout,
            now,
        };
        let id = self.insert(&new).ok_or(DropReason::FlowTableFull)?;
        self.uses.begin(self.worker, id.0);
        self.mine.server(new.server).persistent.add(1);
        if self.tables.settings.is_sharing {
            self.note_change(id);
        }
        Ok(Held { server: new.server, template: self.uses.id(self.worker, id.0) })
    }

    fn hold_failed(
        &mut self,
        packet: P,
        headers: &Headers,
        reason: DropReason,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if reason == DropReason::NoServer {
            self.watch.note(|| Step::Server(None));
            return self.answer(
                packet,
                headers,
                icmp::Problem::PortUnreachable,
                reason,
                Hook::Input,
                now,
                io,
            );
        }
        self.drop(reason, Hook::Input);
    }

    /// Enters the connection as its template says: also with a server that takes no new ones.
    fn begin_held(
        &mut self,
        packet: P,
        headers: &Headers,
        original: Tuple,
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
        let (id, method, forward) = (server.id, server.forward.method(), server.forward);
        let is_its_port = original.dport == service.key.port && server.port != 0;
        let dport = if is_its_port { server.port } else { original.dport };
        let mut after = Tuple { dst: server.address, dport, ..original };
        if forward == Forward::FullNat {
            let Some(chosen) = self.local_ports.choose(&self.flows, &self.tables, service, after, now) else {
                return self.drop(DropReason::NoLocalPort, Hook::Input);
            };
            after = chosen;
        }
        if service.options.one_packet && original.protocol == Protocol::UDP {
            let choice = Choice { original, after, method, server: id };
            return self.one_packet(packet, headers, choice, now, io);
        }
        let Some(at) = self.bind(original, after, method, id, now) else {
            return self.drop(DropReason::FlowTableFull, Hook::Input);
        };
        if !self.begin_edits(at, &service.options, headers) {
            return self.refuse_unedited(at.id());
        }
        if let Some(template) = template.filter(|&template| self.uses.take(template)) {
            self.flows.set_template(at.id(), template.place());
            self.flows.entry_mut(at.id()).set_unanswered(original.protocol == Protocol::UDP);
        }
        self.begun(packet, headers, at, now, io);
    }

    /// The connection was answered: its template is one that lasts.
    pub(super) fn assure_template(&mut self, id: FlowId) {
        self.flows.entry_mut(id).set_unanswered(false);
        if let Some(template) = self.flows.template(id) {
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
        self.owner_of(template.src, 0)
    }
}

/// The tuple under which a client's template stands.
fn template_of(service: &Service, persistence: Persistence, original: &Tuple) -> Tuple {
    Tuple {
        src: persistence.mask.client(original.src),
        // Each address of a prefix is a service to its clients. A mark's name stands in the place of its addresses.
        dst: if service.key.mark().is_some() { service.key.address } else { original.dst },
        sport: 0,
        dport: service.key.port,
        protocol: template_protocol(service.key.protocol),
    }
}
