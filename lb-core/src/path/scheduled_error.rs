//! `schedule_icmp`: an ICMP error about a connection that nobody here knows, quoting what a virtual service sent, begins one as its client would.
//!
//! Several directors that choose a real server by hashes (sh, mh, maglev) choose the same one, so that an error that comes to the wrong director finds the
//! connection's real server all the same. What it begins lives three seconds, and on if packets follow. A service that keeps
//! its clients (`-p`), schedules each datagram (`-o`) or has FullNAT begins none: whom it chooses is known where the connection is.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_core.c` (`ip_vs_in_icmp`, `ip_vs_try_to_schedule`).

use super::Path;
use super::first::pick;
use super::passage::{INPUT, OUTPUT, PREROUTING, RAW, Stopped};
use super::related::answer_to;
use crate::conntrack::CtState;
use crate::drop::DropReason;
use crate::flow::{FlowId, FlowRef, Method, Tuple};
use crate::hook::{Function, Hook};
use crate::icmp::Embedded;
use crate::packet::Packet;
use crate::time::{Tick, Timeout};
use crate::trail::Step;
use crate::wire::parse::Headers;

/// What an error begins ends so long after it.
const ALONE: Timeout = Timeout::from_secs(3);

/// What becomes of an error about no known connection.
pub(super) enum Scheduled {
    /// It is none that begins one.
    Not,
    Stopped(Stopped),
    Dropped(DropReason),
    To(FlowRef),
}

impl<P: Packet> Path<P> {
    pub(super) fn schedule_error(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        embedded: &Embedded,
        now: Tick,
    ) -> Scheduled {
        let settings = &self.tables.settings;
        let original = answer_to(embedded);
        let may_begin = settings.sysctls.schedule_icmp == 1
            && !settings.draining
            && embedded.protocol.has_ports()
            && self.tables.serves(headers.is_ipv6)
            && self.is_for_services(&original, now)
            && !self.tables.routes.is_local(original.src);
        let service = may_begin.then(|| self.tables.service_for(&original, now)).flatten();
        let chooses_alike = |service: &&std::sync::Arc<crate::tables::Service>| {
            service.options.persistence.is_none() && !service.options.one_packet && !service.has_full_nat()
        };
        let Some(service) = service.filter(chooses_alike).cloned() else { return Scheduled::Not };
        // It is of no connection that tracking knows.
        let mut passage = self.passage(packet.port(), headers, CtState::Invalid, now);
        let wire = Tuple::of_packet(packet.data(), headers);
        if self.tables.rules.are_active() {
            self.mine.flows.invalid.add(1);
            for road in [&RAW[..], &PREROUTING, &INPUT] {
                if let Err(stopped) = self.pass(road, &wire, packet, headers, &mut passage) {
                    return Scheduled::Stopped(stopped);
                }
            }
        }
        self.watch.note(|| Step::At { hook: Hook::Input, function: Function::RemoteRequest });
        self.watch.note(|| Step::Service(service.id));
        let free = self.places_left();
        if self.shed.drops(&self.tables.settings.sysctls, free) {
            return Scheduled::Dropped(DropReason::Shed);
        }
        if let Some(limiter) = &service.limiter
            && let Some(limit) = self.exceeds(limiter, service.id, original.src, now)
        {
            return Scheduled::Dropped(limit.reason());
        }
        let picked = pick(&mut self.schedulers, &service, &original, &self.counters, &self.mine, now);
        self.watch.note(|| Step::Server(picked.map(|server| server.id)));
        let Some(server) = picked else { return Scheduled::Dropped(DropReason::NoServer) };
        let dport = if server.port == 0 { original.dport } else { server.port };
        let after = Tuple { dst: server.address, dport, ..original };
        let Some(at) = self.bind(&original, &after, server.forward.method(), server.id, now) else {
            return Scheduled::Dropped(DropReason::FlowTableFull);
        };
        self.flows.set_timeout(at.id(), ALONE);
        if self.tables.rules.are_active() {
            let way = self.tables.way(after.dst);
            (passage.input, passage.output, passage.at) = (None, self.output(way), Some(at));
            let inner = Tuple { dst: after.dst, ..wire };
            let refusal = |path: &Path<P>, headers: &Headers| match path.flows.entry(at.id()).method() {
                Method::Masq => path.check(headers, path.told_about(at, wire.dst)).err(),
                _ => path.refusal(headers, at),
            };
            if !self.is_refused_ahead(&OUTPUT, headers, &mut passage, refusal)
                && let Err(stopped) = self.pass(&OUTPUT, &inner, packet, headers, &mut passage)
            {
                self.wait_for_its_own(at.id());
                return Scheduled::Stopped(stopped);
            }
        }
        Scheduled::To(at)
    }

    /// What an error began has its own time from the next packet on, which finds that it is not current.
    pub(super) fn wait_for_its_own(&mut self, id: FlowId) {
        let before = self.tables.generation.wrapping_sub(1);
        self.flows.entry_mut(id).renew(before, self.tables.looks_at_each());
    }
}
