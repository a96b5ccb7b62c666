//! Packets whose road is written down: those of `explain` and `trace`.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::tracked::tuple_of;
use super::{BURST, Burst, Io, Path, Steer};
use crate::flow::Direction;
use crate::ids::{PortId, WorkerId};
use crate::packet::Packet;
use crate::tables::InterfaceId;
use crate::time::Tick;
use crate::trail::{ENDS, End, Glimpse, Known, Observed, Step};
use crate::wire::ethernet;
use crate::wire::parse::{Parsed, parse};

/// Passes on, and writes down what left.
struct Watching<'a, P> {
    io: &'a mut dyn Io<P>,
    ends: ArrayVec<End, ENDS>,
}

impl<P> Watching<'_, P> {
    /// Of a packet in many pieces only the first ones are told of.
    fn note(&mut self, end: End) {
        let _ = self.ends.try_push(end);
    }
}

impl<P: Packet> Io<P> for Watching<'_, P> {
    fn transmit(&mut self, port: PortId, packet: P) {
        self.note(End::Sent { port, to: ethernet::destination(packet.data()), is: glimpse(&packet) });
        self.io.transmit(port, packet);
    }

    fn to_twin(&mut self, port: PortId, packet: P) {
        self.note(End::ToTwin(port));
        self.io.to_twin(port, packet);
    }

    fn hand_over(&mut self, to: WorkerId, packet: P, steer: Steer) {
        self.note(End::HandedOver(to));
        self.io.hand_over(to, packet, steer);
    }

    fn allocate(&mut self) -> Option<P> {
        self.io.allocate()
    }

    fn resolve(&mut self, interface: InterfaceId, address: IpAddr) {
        self.note(End::Unresolved(interface, address));
        self.io.resolve(interface, address);
    }
}

impl<P: Packet> Path<P> {
    /// Takes one packet, from its port or from the host by the twin of that port, and says what it met and where it went.
    pub(super) fn watched(
        &mut self,
        packet: P,
        is_from_host: bool,
        now: Tick,
        io: &mut dyn Io<P>,
    ) -> Observed {
        let port = packet.port();
        self.watch(packet, (port, is_from_host), now, io, |path, packet, io| match is_from_host {
            true => path.receive_from_twin_unseen(port, packet, now, io),
            false => path.receive_unseen(&mut [packet].into_iter().collect(), now, io),
        })
    }

    /// As [`receive`](Path::receive) while there is a trace: packets that it wants go one by one and are written down.
    #[cold]
    pub(super) fn receive_traced(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        let Some(trace) = self.tables.trace.clone() else { return };
        let mut others = Burst::new();
        for packet in burst.drain(..) {
            if !trace.wants((packet.port(), false), glimpse(&packet).as_ref(), now) {
                others.push(packet);
                continue;
            }
            // Those before it first.
            self.receive_unseen(&mut others, now, io);
            trace.keep(self.watched(packet, false, now, io), now);
        }
        self.receive_unseen(&mut others, now, io);
    }

    /// As [`receive_handed_over`](Path::receive_handed_over) while there is a trace.
    #[cold]
    pub(super) fn receive_handed_over_traced(
        &mut self,
        handed: &mut ArrayVec<(P, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let Some(trace) = self.tables.trace.clone() else { return };
        for (packet, steer) in handed.drain(..) {
            let came = match steer {
                Steer::FromHost(port) => (port, true),
                _ => (packet.port(), false),
            };
            if !trace.wants(came, glimpse(&packet).as_ref(), now) {
                self.receive_handed_over_unseen(&mut [(packet, steer)].into_iter().collect(), now, io);
                continue;
            }
            let road = self.watch(packet, came, now, io, |path, packet, io| {
                path.receive_handed_over_unseen(&mut [(packet, steer)].into_iter().collect(), now, io);
            });
            trace.keep(road, now);
        }
    }

    /// As [`receive_from_twin`](Path::receive_from_twin) of one packet while there is a trace.
    #[cold]
    pub(super) fn receive_from_twin_traced(
        &mut self,
        port: PortId,
        packet: P,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let Some(trace) = self.tables.trace.clone() else { return };
        if !trace.wants((port, true), glimpse(&packet).as_ref(), now) {
            return self.receive_from_twin_unseen(port, packet, now, io);
        }
        let road = self.watch(packet, (port, true), now, io, |path, packet, io| {
            path.receive_from_twin_unseen(port, packet, now, io);
        });
        trace.keep(road, now);
    }

    /// Has `go` send one packet on its road, and writes that down.
    fn watch(
        &mut self,
        packet: P,
        (port, is_from_host): (PortId, bool),
        now: Tick,
        io: &mut dyn Io<P>,
        go: impl FnOnce(&mut Path<P>, P, &mut Watching<'_, P>),
    ) -> Observed {
        let (came, known) = (glimpse(&packet), self.known(&packet, now));
        self.watch.begin();
        self.last_drop.set(None);
        if let Some(known) = known {
            self.watch.note(|| Step::Known(known));
        }
        let mut io = Watching { io, ends: ArrayVec::new() };
        go(self, packet, &mut io);
        Observed {
            worker: self.worker,
            port,
            is_from_host,
            came,
            trail: self.watch.end(),
            ends: io.ends,
            dropped: self.last_drop.get(),
        }
    }

    /// The connection that a packet is of.
    fn known(&self, packet: &P, now: Tick) -> Option<Known> {
        let Ok(Parsed::Ip(headers)) = parse(packet.data(), packet.frame_len(), packet.rx_checksums().ip)
        else {
            return None;
        };
        let at = self.flows.find(&tuple_of(packet.data(), &headers)?)?;
        let (id, entry) = (at.id(), self.flows.entry(at.id()));
        Some(Known {
            is_reply: at.direction() == Direction::Reply,
            is_tracked: entry.is_tracked(),
            server: entry.server(),
            original: self.flows.tuple(id, Direction::Original),
            reply: self.flows.tuple(id, Direction::Reply),
            state: self.view(id, entry, now).state,
        })
    }
}

/// What is seen of a packet from outside.
fn glimpse<P: Packet>(packet: &P) -> Option<Glimpse> {
    let frame = packet.data();
    match parse(frame, packet.frame_len(), packet.rx_checksums().ip) {
        Ok(Parsed::Ip(headers)) => Some(Glimpse::of(frame, &headers)),
        _ => None,
    }
}
