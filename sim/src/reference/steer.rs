//! Which turning a packet takes, and which worker it belongs to.

use std::net::IpAddr;

use lb_core::drop::DropReason;
use lb_core::flow::Tuple;
use lb_core::ids::WorkerId;
use lb_core::path::{Ports, Steer};
use lb_core::tables::Protocol;

use super::flows::{Connection, Number};
use super::parse::{self, AH, ESP, Piece, Read, has_ports};
use super::related::quoted;
use super::{Action, Packet, Reference};

/// What a packet is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// TCP, UDP or SCTP: of a connection, or of one to be.
    Flow(Read),
    /// AH or ESP: of the connection that negotiated it, maybe.
    Ipsec(Read),
    /// An ICMP error: about a packet of a connection, maybe.
    IcmpError(Read),
    /// Any other packet to be routed.
    Routed(Read),
    /// The host's.
    Host,
    Dropped(DropReason),
}

/// A packet that stays at this worker.
#[derive(Clone, Debug)]
pub(super) struct Staying {
    pub(super) packet: Packet,
    pub(super) kind: Kind,
}

/// Who negotiates IPsec does it from this UDP port to this UDP port.
pub(super) const ISAKMP: u16 = 500;

impl Reference {
    fn kind(&self, packet: &Packet) -> Kind {
        let frame = &packet.bytes;
        let read = match parse::read(frame) {
            Ok(Some(read)) => read,
            Ok(None) => return Kind::Host,
            Err(reason) => return Kind::Dropped(reason),
        };
        let interfaces = &self.tables.interfaces;
        if read.vlan != 0 && (read.inner_vlan != 0 || interfaces.find(packet.port, read.vlan).is_none()) {
            return Kind::Dropped(DropReason::UnknownVlan);
        }
        // VLANs have their port's MAC address.
        let port = interfaces.find(packet.port, 0).and_then(|interface| interfaces.get(interface));
        if port.is_some_and(|port| frame[..6] != port.mac) {
            let is_for_many = frame[0] & 1 == 1;
            return if is_for_many { Kind::Host } else { Kind::Dropped(DropReason::OtherHost) };
        }
        match read.protocol {
            _ if read.is_for_host => Kind::Host,
            protocol if has_ports(protocol) => Kind::Flow(read),
            ESP | AH => Kind::Ipsec(read),
            _ if read.is_error_to_pass_on() => Kind::IcmpError(read),
            _ => Kind::Routed(read),
        }
    }

    /// A packet from a port: `None` when it is a fragment that goes to another worker, or waits.
    pub(super) fn steer(&mut self, packet: Packet) -> Option<Staying> {
        let kind = self.kind(&packet);
        let Some(read) = gathered(&kind) else { return Some(Staying { packet, kind }) };
        let gatherer = self.gatherer(&read);
        if gatherer != self.worker {
            self.hand_over(gatherer, packet, Steer::Plain);
            return None;
        }
        self.gather(packet, kind, read)
    }

    /// What is of no connection here: `None` when it goes to another worker.
    pub(super) fn stay_or_go(&mut self, packet: Packet, kind: Kind) -> Option<Packet> {
        let owner = self.owner(&packet, &kind);
        if owner != self.worker {
            self.hand_over(owner, packet, Steer::Plain);
            return None;
        }
        Some(packet)
    }

    /// Whether a packet of this connection stays: under the tables that it was last used with it was ours, or one of its directions leads here.
    pub(super) fn is_ours(&self, number: Number) -> bool {
        let Connection { original, reply, renewed, .. } = self.flows.get(number);
        *renewed == self.tables.generation
            || [original, reply].iter().any(|tuple| self.owner_of_tuple(tuple) == self.worker)
    }

    /// A packet from another worker.
    pub(super) fn join(&mut self, packet: Packet, steer: Steer) -> Option<Staying> {
        let mut kind = self.kind(&packet);
        if let Some(read) = gathered(&kind).filter(|read| read.piece == Piece::Later)
            && let Steer::Ask(ports, _) | Steer::Answer(ports, ..) = steer
        {
            kind = joined(read, ports);
        }
        match (kind, steer) {
            (Kind::Flow(read), Steer::Ask(..)) => {
                self.asked(packet, read);
                return None;
            }
            (Kind::Flow(read), Steer::Answer(_, _, held)) => {
                self.answered(packet, read, held);
                return None;
            }
            (Kind::Flow(read), Steer::Announce(expect)) => {
                self.announced(packet, read, expect);
                return None;
            }
            (Kind::Flow(read), Steer::Announced(port)) => {
                self.announced_elsewhere(packet, read, port);
                return None;
            }
            (Kind::Flow(read), Steer::AskExpected) => {
                self.asked_awaited(packet, read);
                return None;
            }
            (Kind::Flow(read), Steer::Expected(awaited)) => {
                self.answered_awaited(packet, read, awaited);
                return None;
            }
            _ => {}
        }
        match (gathered(&kind), steer) {
            (Some(read), Steer::Fragment(ports)) => self.pass_to_owner(packet, joined(read, ports)),
            // Those that seek tracked connections come of rules alone, which are not here.
            (Some(read), _) => self.gather(packet, kind, read),
            (None, _) => Some(Staying { packet, kind }),
        }
    }

    /// A fragment whose first one is known goes on to the owner of its connection.
    pub(super) fn pass_to_owner(&mut self, packet: Packet, kind: Kind) -> Option<Staying> {
        let owner = self.owner(&packet, &kind);
        if owner == self.worker {
            return Some(Staying { packet, kind });
        }
        let (Kind::Flow(read) | Kind::Routed(read) | Kind::Ipsec(read)) = kind else {
            unreachable!("fragments are one of these")
        };
        self.hand_over(owner, packet, Steer::Fragment(ports(&read)));
        None
    }

    pub(super) fn hand_over(&mut self, to: WorkerId, packet: Packet, steer: Steer) {
        self.act(packet.cause, Action::HandOver(to, steer, packet.port, packet.bytes));
    }

    /// Of a connection's packets, in both directions: the worker that a hash of the client's end names. Others stay.
    fn owner(&self, packet: &Packet, kind: &Kind) -> WorkerId {
        let (src, dst) = match kind {
            Kind::Flow(read) => ((read.src, read.sport), (read.dst, read.dport)),
            Kind::Ipsec(read) => ((read.src, ISAKMP), (read.dst, ISAKMP)),
            Kind::IcmpError(read) => match quoted(&packet.bytes, read) {
                // The error goes the way that an answer to the quoted packet goes.
                Ok(quoted) => match self.in_tunnel(&packet.bytes, read, &quoted) {
                    Some(inner) if [ESP, AH].contains(&inner.protocol) => {
                        ((inner.src, ISAKMP), (inner.dst, ISAKMP))
                    }
                    Some(inner) => ((inner.src, inner.sport), (inner.dst, inner.dport)),
                    None if [ESP, AH].contains(&quoted.protocol) => {
                        ((quoted.dst, ISAKMP), (quoted.src, ISAKMP))
                    }
                    None => ((quoted.dst, quoted.dport), (quoted.src, quoted.sport)),
                },
                Err(_) => return self.worker,
            },
            Kind::Routed(_) | Kind::Host | Kind::Dropped(_) => return self.worker,
        };
        let protocol = match kind {
            Kind::IcmpError(read) => match quoted(&packet.bytes, read) {
                Ok(quoted) => self.in_tunnel(&packet.bytes, read, &quoted).unwrap_or(quoted).protocol,
                Err(_) => return self.worker,
            },
            Kind::Flow(read) | Kind::Ipsec(read) | Kind::Routed(read) => read.protocol,
            Kind::Host | Kind::Dropped(_) => return self.worker,
        };
        let protocol = Protocol(protocol);
        self.owner_of_tuple(&Tuple { src: src.0, dst: dst.0, sport: src.1, dport: dst.1, protocol })
    }

    pub(super) fn owner_of_tuple(&self, tuple: &Tuple) -> WorkerId {
        let &Tuple { src, dst, sport, dport, .. } = tuple;
        if self.may_answer_local_endpoint(tuple) {
            return self.worker_of_port(dport);
        }
        let is_from_client = self.tables.routes.is_local(dst) || self.is_clients_by_mark(tuple);
        let client = if is_from_client { (src, sport) } else { (dst, dport) };
        self.hashed(number(client.0), client.1)
    }

    /// The worker at which a datagram's fragments come together.
    fn gatherer(&self, read: &Read) -> WorkerId {
        let id = (read.id >> 16 ^ read.id) as u16;
        self.hashed(number(read.src) ^ number(read.dst).rotate_left(64), id)
    }

    pub(super) fn hashed(&self, address: u128, port: u16) -> WorkerId {
        WorkerId(self.hasher.owner(address, port, self.team.counters.len() as u16))
    }
}

/// Fragments of TCP, UDP and SCTP are brought together; of IPv6 all, for a later one need not say what it is of.
fn gathered(kind: &Kind) -> Option<Read> {
    match kind {
        Kind::Flow(read) if read.piece != Piece::Whole => Some(*read),
        Kind::Routed(read) | Kind::Ipsec(read) if read.piece != Piece::Whole && read.is_ipv6() => Some(*read),
        _ => None,
    }
}

pub(super) fn ports(read: &Read) -> Ports {
    Ports { sport: read.sport, dport: read.dport, protocol: Protocol(read.protocol) }
}

/// A later fragment, with what stood in the first one.
pub(super) fn joined(mut read: Read, ports: Ports) -> Kind {
    let protocol = ports.protocol.0;
    (read.sport, read.dport, read.protocol) = (ports.sport, ports.dport, protocol);
    match protocol {
        protocol if has_ports(protocol) => Kind::Flow(read),
        ESP | AH => Kind::Ipsec(read),
        _ => Kind::Routed(read),
    }
}

pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}
