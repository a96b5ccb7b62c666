//! A packet logic simple enough to see what the workers around it do: ports are the two ends of a wire.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use lb_core::flow::{Method, Tuple};
use lb_core::ids::{PortId, ServerId, WorkerId};
use lb_core::packet::Packet;
use lb_core::path::{BURST, Burst, FlowView, Io, Known, Order, Outcome, Ports, Steer};
use lb_core::tables::{InterfaceId, Protocol, Tables};
use lb_core::time::{Tick, Timeout};
use lb_dataplane::Logic;

/// What to do with a frame, by its last byte, so that a test can ask for it.
pub(crate) mod order {
    /// Out of the other port of the pair (0–1, 2–3 …).
    pub(crate) const ACROSS: u8 = 0;
    /// Up the twin of the port.
    pub(crate) const UP: u8 = 1;
    /// To worker 1, which marks it and sends it across.
    pub(crate) const HAND_OVER: u8 = 2;
    /// Have its port's number resolved as a neighbour.
    pub(crate) const RESOLVE: u8 = 3;
    /// A new buffer with one byte, across.
    pub(crate) const NEW: u8 = 4;
    /// To worker 1 with nothing found out about it; that one marks it and sends it across.
    pub(crate) const HAND_OVER_PLAIN: u8 = 5;
}

/// Ports from this one on are not ends of a wire but of the host: all frames go between them and their twin.
#[derive(Clone, Copy)]
pub(crate) struct Wire {
    pub worker: WorkerId,
    pub host_ports_from: u16,
    /// Frames carry an [`order`].
    pub obeys: bool,
    pub flows: u32,
}

pub(crate) struct Wiring {
    wire: Wire,
    tables: Arc<Tables>,
    /// Flows that were ended.
    gone: BTreeSet<u32>,
}

impl Wiring {
    pub(crate) fn new(wire: Wire) -> Wiring {
        Wiring { wire, tables: Arc::default(), gone: BTreeSet::new() }
    }

    fn across<P: Packet>(packet: P, io: &mut impl Io<P>) {
        io.transmit(PortId(packet.port().0 ^ 1), packet);
    }

    fn obey<P: Packet>(&self, mut packet: P, io: &mut impl Io<P>) {
        match packet.data().last().copied().unwrap_or_default() {
            order::UP => io.to_twin(packet.port(), packet),
            order::HAND_OVER if self.wire.worker != WorkerId(1) => {
                io.hand_over(
                    WorkerId(1),
                    packet,
                    Steer::Fragment(Ports { sport: 7, dport: 9, protocol: Protocol::UDP }),
                );
            }
            order::HAND_OVER_PLAIN => io.hand_over(WorkerId(1), packet, Steer::Plain),
            order::RESOLVE => {
                io.resolve(InterfaceId(packet.port().0), IpAddr::V4(Ipv4Addr::LOCALHOST));
            }
            order::NEW => {
                let Some(mut new) = io.allocate() else { return };
                if new.set_len(1).is_ok() {
                    new.data_mut()[0] = 42;
                    io.transmit(PortId(packet.port().0 ^ 1), new);
                }
            }
            order::ACROSS.. => {
                packet.prefetch();
                packet.data_mut()[0] ^= self.tables.generation as u8;
                Self::across(packet, io);
            }
        }
    }
}

impl<P: Packet> Logic<P> for Wiring {
    fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        std::mem::replace(&mut self.tables, tables)
    }

    fn receive(&mut self, burst: &mut Burst<P>, _: Tick, io: &mut impl Io<P>) {
        for packet in burst.drain(..) {
            if packet.port() != PortId::NONE && packet.port().0 >= self.wire.host_ports_from {
                io.to_twin(packet.port(), packet);
            } else if self.wire.obeys {
                self.obey(packet, io);
            } else {
                Self::across(packet, io);
            }
        }
    }

    fn receive_handed_over(&mut self, burst: &mut ArrayVec<(P, Steer), BURST>, _: Tick, io: &mut impl Io<P>) {
        for (mut packet, steer) in burst.drain(..) {
            assert_eq!(steer, Steer::Fragment(Ports { sport: 7, dport: 9, protocol: Protocol::UDP }));
            packet.data_mut()[0] = b'h';
            Self::across(packet, io);
        }
    }

    fn receive_plain(&mut self, burst: &mut Burst<P>, _: Tick, io: &mut impl Io<P>) {
        for mut packet in burst.drain(..) {
            packet.data_mut()[0] = b'p';
            Self::across(packet, io);
        }
    }

    fn receive_from_twin(&mut self, port: PortId, burst: &mut Burst<P>, _: Tick, io: &mut impl Io<P>) {
        for packet in burst.drain(..) {
            io.transmit(port, packet);
        }
    }

    fn turn(&mut self, _: Tick, _: &mut impl Io<P>) {}

    fn order(&mut self, original: &Tuple, order: &Order, _: Tick) -> Outcome {
        assert_eq!(*order, Order::plain(lb_core::path::Deed::End));
        assert_eq!(original.sport, self.wire.worker.0, "it is this worker's");
        if let IpAddr::V4(n) = original.src {
            assert!(self.gone.insert(n.into()), "once");
        }
        Outcome::Done
    }

    fn list(&self, cursor: u32, budget: u32, _: Tick, visit: &mut dyn FnMut(FlowView)) -> Option<u32> {
        let end = (cursor + budget).min(self.wire.flows);
        for n in (cursor..end).filter(|n| !self.gone.contains(n)) {
            let address = (IpAddr::V4(Ipv4Addr::from(n)), self.wire.worker.0);
            visit(FlowView {
                is_template: false,
                is_tracked: false,
                known: Known::default(),
                protocol: Protocol::UDP,
                client: address,
                virtual_: address,
                server: address,
                local: None,
                call: None,
                server_id: ServerId(n),
                method: Method::Masq,
                state: "UDP",
                expires_in: Timeout::from_secs(1),
            });
        }
        (end < self.wire.flows).then_some(end)
    }
}
