//! The way out: route, next hop, Ethernet header.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use lb_core::drop::DropReason;
use lb_core::flow::Tuple;
use lb_core::hook::Hook;
use lb_core::tables::{InterfaceId, NextHop, Reachability, Tunnel, Way};

use super::answer::Problem;
use super::parse::Read;
use super::{Packet, Reference, pieces, rewrite};

/// Why a packet may not go on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    NoRoute,
    Forbidden,
    Ttl,
    TooBig(u16),
    /// From a link-local address, to another link.
    OtherLink,
}

/// What a packet was before it got as it shall leave.
#[derive(Clone, Copy, Debug)]
pub(super) enum Before {
    /// The same, but for the TTL.
    Same,
    /// From and to these.
    Rewritten(Tuple),
    /// The same, but for the TTL; a tunnel is still to come.
    NotPacked(Tunnel),
    /// The same; it is to be this in the other family.
    NotTranslated(Tuple),
}

impl Reference {
    /// A packet of no connection: up to the host, or through.
    pub(super) fn route(&mut self, mut packet: Packet, read: Read) {
        let way = self.check(&read, read.dst);
        match way.and_then(|way| self.stays_on_link(&packet, &read, way)) {
            Ok(Way::Local | Way::Linux) => self.up_the_twin(packet),
            _ if !self.tables.settings.forwarding => self.drop(DropReason::ForwardingOff, Hook::Forward),
            Err(refusal) => self.refuse(packet, read, refusal),
            Ok(way) => {
                rewrite::lower_ttl(&mut packet.bytes, &read);
                self.leave(packet, read, read.dst, way, Before::Same);
            }
        }
    }

    /// RFC 4291 §2.5.6.
    fn stays_on_link(&self, packet: &Packet, read: &Read, way: Way) -> Result<Way, Refusal> {
        let leaves = match way {
            Way::Hop(hop) => self.tables.neighbours.get(hop).map(|hop| hop.interface),
            Way::Unresolved(interface, _) => Some(interface),
            _ => None,
        };
        let is_link_local = matches!(read.src, IpAddr::V6(src) if src.is_unicast_link_local());
        let came = self.tables.interfaces.find(packet.port, read.vlan);
        if is_link_local && leaves.is_some() && leaves != came { Err(Refusal::OtherLink) } else { Ok(way) }
    }

    /// The way to `to`, if the packet may take it: first the route, then the TTL, then its length.
    pub(super) fn check(&self, read: &Read, to: IpAddr) -> Result<Way, Refusal> {
        let way = self.tables.way(to);
        let mtu = match way {
            Way::Local | Way::Linux => return Ok(way),
            Way::NoRoute => return Err(Refusal::NoRoute),
            Way::Forbidden => return Err(Refusal::Forbidden),
            Way::Hop(hop) => self.tables.neighbours.get(hop).map(|hop| hop.mtu),
            Way::Unresolved(interface, _) => self.mtu_unresolved(interface, to),
        };
        if read.ttl <= 1 {
            return Err(Refusal::Ttl);
        }
        match mtu {
            Some(mtu) if read.dont_fragment && read.ip_len() > usize::from(mtu) => Err(Refusal::TooBig(mtu)),
            _ => Ok(way),
        }
    }

    /// What the link takes, or less where the route says so.
    pub(super) fn mtu_unresolved(&self, interface: InterfaceId, to: IpAddr) -> Option<u16> {
        let link = self.tables.interfaces.get(interface)?.mtu;
        let said = self.tables.routes.lookup_with_mtu(to).map(|(_, mtu)| mtu).filter(|&mtu| mtu > 0);
        Some(said.map_or(link, |said| said.min(link)))
    }

    pub(super) fn refuse(&mut self, packet: Packet, read: Read, refusal: Refusal) {
        let (problem, reason) = match refusal {
            Refusal::NoRoute => (Problem::NetUnreachable, DropReason::NoRoute),
            Refusal::Forbidden => (Problem::Prohibited, DropReason::RouteForbids),
            Refusal::Ttl => (Problem::TimeExceeded, DropReason::TtlExceeded),
            Refusal::TooBig(mtu) => (Problem::TooBig(mtu), DropReason::TooBig),
            Refusal::OtherLink => (Problem::BeyondScope, DropReason::MartianAddress),
        };
        self.answer(packet, read, problem, reason, Hook::Forward);
    }

    /// Sends a packet that is as it shall leave, but for its Ethernet header, on its `way` to `to`; or keeps it until the next hop is known.
    pub(super) fn leave(&mut self, packet: Packet, read: Read, to: IpAddr, way: Way, before: Before) {
        let hop = match way {
            Way::Hop(hop) => self.tables.neighbours.get(hop).copied(),
            Way::Unresolved(..) => None,
            Way::Local | Way::Linux => return self.drop(DropReason::Unsupported, Hook::Postrouting),
            Way::Forbidden => return self.drop(DropReason::RouteForbids, Hook::Postrouting),
            Way::NoRoute => return self.drop(DropReason::NoRoute, Hook::Postrouting),
        };
        let hop = hop.filter(|hop| hop.state == Reachability::Reachable);
        if let (Some(hop), Before::NotPacked(tunnel)) = (hop, before) {
            return self.pack_and_send(packet, read, tunnel, to, &hop);
        }
        if let (Some(hop), Before::NotTranslated(after)) = (hop, before) {
            return self.send_translated(packet, read, &after, &hop);
        }
        match hop {
            None => self.wait(packet, read, to, before),
            Some(hop) if read.ip_len() <= usize::from(hop.mtu) => self.send(packet, &read, &hop),
            Some(hop) => self.send_in_pieces(packet, read, &hop),
        }
    }

    pub(super) fn send(&mut self, mut packet: Packet, read: &Read, hop: &NextHop) {
        let mut link = ArrayVec::<u8, 16>::new();
        link.extend(hop.macs);
        if hop.vlan != 0 {
            link.extend([0x8100, hop.vlan].map(u16::to_be_bytes).into_iter().flatten());
        }
        // All up to the EtherType, which stays.
        packet.bytes.splice(..read.l3 - 2, link);
        self.transmit(hop.port, packet);
    }

    pub(super) fn send_in_pieces(&mut self, packet: Packet, read: Read, hop: &NextHop) {
        let buffers = &mut self.taken.buffers;
        match pieces::of(&packet.bytes, &read, hop.mtu, || buffers.pop_front().unwrap_or(true)) {
            Ok(pieces) => {
                for bytes in pieces {
                    self.send(Packet { bytes, ..packet.clone() }, &read, hop);
                }
            }
            Err(reason) => self.drop(reason, Hook::Egress),
        }
    }
}
