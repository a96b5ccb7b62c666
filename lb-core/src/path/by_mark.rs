//! Packets for other hosts that virtual services take because of their mark: a transparent cache's, say ([`crate::tables::MarkedRoutes`]).
//!
//! What comes to a service so is on its road as any other packet for this host: INPUT, and the connection is its client's owner's, to whom the answers come. Whose a
//! packet is follows from its ends ([`steer`](super::steer)), and a mark of the config does too. One that rules give is known behind PREROUTING alone, at the worker of
//! the destination: which hands the packet over then, with what rules made of it. What follows is sought there, as what is only routed through us is
//! ([0026](../../../docs/decisions/0026-translated-connections-are-sought.md)).
//!
//! What no service takes is routed by its destination: the host's own stack knows of no mark.

use super::fragment::{datagram, ports};
use super::{Io, Passed, Path, Steer};
use crate::drop::DropReason;
use crate::flow::Tuple;
use crate::hook::Hook;
use crate::packet::Packet;
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};

impl<P: Packet> Path<P> {
    /// Whether services are asked about a first packet: it is for this host.
    #[inline]
    pub(super) fn is_for_services(&self, seen: &Tuple, now: Tick) -> bool {
        self.tables.routes.is_local(seen.dst) || self.is_brought_by_mark(seen, now)
    }

    #[cold]
    fn is_brought_by_mark(&self, seen: &Tuple, now: Tick) -> bool {
        match self.passed {
            Some(passed) => passed.is_by_mark,
            None => self.tables.comes_by_mark(seen, now),
        }
    }

    /// Whether a virtual service takes a packet for another host that rules have left with this mark.
    pub(super) fn is_served_by_mark(&self, packet: &P, headers: &Headers, seen: &Tuple, mark: u32) -> bool {
        let routes = &self.tables.routes;
        routes.have_marked()
            && !routes.is_local(seen.dst)
            && routes.is_local_by_mark(seen.dst, mark)
            && self.is_served(packet, headers, seen, mark)
    }

    /// Whether packets for another host are their client's owner's, as those for this one are: by a mark of the config, where no rules make it another.
    #[cold]
    pub(super) fn are_clients_by_mark(&self, packet: &Tuple) -> bool {
        // All workers must say the same, whatever time it is for each.
        let now = Tick::default();
        !self.tables.rules.are_active()
            && self.tables.serves(packet.dst.is_ipv6())
            && self.tables.comes_by_mark(packet, now)
            && self.tables.service_for(packet, now).is_some()
    }

    /// IPVS takes what rules let pass and a mark has brought, at its client's worker.
    #[cold]
    pub(super) fn bring(
        &mut self,
        packet: P,
        headers: &Headers,
        original: &Tuple,
        passed: Passed,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let passed = Passed { is_by_mark: true, ..passed };
        let owner = self.owner_of(original.src, original.sport);
        if owner != self.worker {
            if headers.fragment == Fragment::First {
                let datagram = datagram(packet.data(), headers);
                self.asking.remember(self.set_of(&datagram), datagram, (Some(passed), owner), now);
            }
            return io.hand_over(owner, packet, Steer::Brought(ports(headers), passed));
        }
        self.with_passed(Some(passed), |path| {
            path.serve_rarely(packet, headers, original, &passed.seen(*original), now, io);
        });
    }

    /// A packet that rules let pass and a service takes by its mark, at its client's worker.
    #[cold]
    pub(super) fn brought(
        &mut self,
        packet: P,
        headers: &Headers,
        passed: Passed,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        // It was asked about at the other worker: what it was to count in there is not known here.
        self.counted.forget();
        let original = Tuple::of_packet(packet.data(), headers);
        self.with_passed(Some(passed), |path| match path.flows.find(&original) {
            Some(at) => {
                path.mine.flows.found.add(1);
                path.begun(packet, headers, at, now, io);
            }
            None if !path.tables.serves(headers.is_ipv6) => path.route(packet, headers, now, io),
            None => path.serve_rarely(packet, headers, &original, &passed.seen(original), now, io),
        });
    }

    /// A later fragment, at the worker that its first one was brought to.
    #[cold]
    pub(super) fn follow_brought(
        &mut self,
        packet: P,
        headers: &Headers,
        original: &Tuple,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        match self.flows.find(original) {
            Some(at) => self.begun(packet, headers, at, now, io),
            None => self.later_fragment(packet, headers, now, io),
        }
    }

    /// A packet of a service that is of no connection and begins none: the host's own stack answers, with an RST or an ABORT where one is due. That
    /// would send on what is bound for another host, so that this is answered here, and of SCTP dropped.
    pub(super) fn not_begun(
        &mut self,
        packet: P,
        headers: &Headers,
        seen: &Tuple,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if !self.tables.routes.have_marked() || self.tables.routes.is_local(seen.dst) {
            return io.to_twin(packet.port(), packet);
        }
        self.reset(packet, headers, (DropReason::NoConnection, Hook::Input), None, now, io);
    }

    /// The mark of the config that has brought a packet which services are asked about, if it was one: for those who ask why.
    #[cold]
    pub(super) fn mark_that_brought(&self, seen: &Tuple, now: Tick) -> Option<u32> {
        let is_brought = self.passed.is_none() && !self.tables.routes.is_local(seen.dst);
        is_brought.then(|| self.tables.marks.mark(seen, &self.tables.sets, now)).flatten()
    }
}
