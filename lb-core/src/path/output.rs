//! The way out: the routing decision for what no connection takes, the next hop, fragmentation, and why a packet may not go on.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::passage::Passage;
use super::rewrite;
use super::waiting::Going;
use super::{Io, Path};
use crate::drop::DropReason;
use crate::hook::Hook;
use crate::icmp;
use crate::packet::Packet;
use crate::tables::{NextHop, Reachability, Way};
use crate::time::Tick;
use crate::trail::Step;
use crate::wire::parse::Headers;
use crate::wire::{ethernet, fragment};

/// Why a packet may not go on; its sender is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    Ttl,
    /// For a next hop that takes so many bytes.
    TooBig(u16),
    NoRoute,
    Forbidden,
    /// From a link-local address, to another link.
    OtherLink,
}

impl<P: Packet> Path<P> {
    /// A packet that belongs to no connection: to this host, or through it.
    pub(super) fn route(&mut self, mut packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let to = headers.destination(packet.data());
        let way = self.check_link(&packet, headers, to);
        if let Ok(way) = way {
            self.watch.note(|| Step::Routed(way));
        }
        match way {
            Ok(Way::Local | Way::Linux) => io.to_twin(packet.port(), packet),
            _ if !self.tables.settings.forwarding => self.drop(DropReason::ForwardingOff, Hook::Forward),
            Ok(_) => {
                rewrite::decrement_ttl(packet.data_mut(), headers);
                self.leave(packet, headers, to, Going::AsItIs, now, io);
            }
            Err(refusal) => self.refuse(packet, headers, refusal, None, now, io),
        }
    }

    /// Which way a packet to `to` goes, if it may.
    pub(super) fn check(&self, headers: &Headers, to: IpAddr) -> Result<Way, Refusal> {
        self.check_way(headers, self.tables.way(to), to)
    }

    /// The same where the way to `to` is known.
    pub(super) fn check_way(&self, headers: &Headers, way: Way, to: IpAddr) -> Result<Way, Refusal> {
        match way {
            Way::Local | Way::Linux => return Ok(way),
            Way::NoRoute => return Err(Refusal::NoRoute),
            Way::Forbidden => return Err(Refusal::Forbidden),
            Way::Hop(_) | Way::Unresolved(..) => {}
        }
        if headers.ttl <= 1 {
            return Err(Refusal::Ttl);
        }
        if let Some(mtu) = self.tables.mtu_of(way, to)
            && headers.ip_len > u32::from(mtu)
            && headers.dont_fragment
        {
            return Err(Refusal::TooBig(mtu));
        }
        Ok(way)
    }

    /// The same of a packet that no connection takes: what comes from a link-local address stays on its link (RFC 4291 §2.5.6).
    pub(super) fn check_link(&self, packet: &P, headers: &Headers, to: IpAddr) -> Result<Way, Refusal> {
        let way = self.check(headers, to)?;
        if headers.is_from_link_local(packet.data()) {
            let output = self.output(way);
            if output.is_some() && output != self.tables.interfaces.find(packet.port(), headers.vlan) {
                return Err(Refusal::OtherLink);
            }
        }
        Ok(way)
    }

    /// Drops a packet that may not go on and tells its sender. `of` is its passage, if it has begun one.
    #[cold]
    pub(super) fn refuse(
        &mut self,
        packet: P,
        headers: &Headers,
        refusal: Refusal,
        of: Option<&Passage>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let (problem, reason) = match refusal {
            Refusal::Ttl => (icmp::Problem::TimeExceeded, DropReason::TtlExceeded),
            Refusal::TooBig(mtu) => (icmp::Problem::TooBig { mtu }, DropReason::TooBig),
            Refusal::NoRoute => (icmp::Problem::NetUnreachable, DropReason::NoRoute),
            Refusal::Forbidden => (icmp::Problem::Prohibited, DropReason::RouteForbids),
            Refusal::OtherLink => (icmp::Problem::BeyondScope, DropReason::MartianAddress),
        };
        self.answer(packet, headers, problem, (reason, Hook::Forward), of, now, io);
    }

    /// Sends a packet, whose addresses and TTL are as they shall be, to the next hop towards `to`; if that is not known
    /// yet, keeps it until it is. `going` says how it becomes again what it was when it came, for an answer to its sender.
    pub(super) fn leave(
        &mut self,
        packet: P,
        headers: &Headers,
        to: IpAddr,
        going: Going,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        match self.tables.way(to) {
            Way::Hop(hop) => match self.tables.neighbours.get(hop).copied() {
                Some(hop) if hop.state == Reachability::Reachable => match going {
                    Going::InTunnel(tunnel) => {
                        self.send_in_tunnel(packet, headers, tunnel, to, &hop, io);
                    }
                    Going::Translated { after, deltas } => {
                        self.send_translated(packet, headers, &after, deltas, &hop, io);
                    }
                    Going::AsItIs | Going::Rewritten { .. } => {
                        self.send_whole_or_split(packet, headers, &hop, io);
                    }
                },
                _ => self.wait(packet, headers, to, going, now, io),
            },
            Way::Unresolved(..) => self.wait(packet, headers, to, going, now, io),
            // A real server on this host or behind an interface that is Linux's: its packets would have to come back
            // by the twin.
            Way::Local | Way::Linux => self.drop(DropReason::Unsupported, Hook::Postrouting),
            Way::Forbidden => self.drop(DropReason::RouteForbids, Hook::Postrouting),
            Way::NoRoute => self.drop(DropReason::NoRoute, Hook::Postrouting),
        }
    }

    /// Writes the Ethernet header and sends.
    #[inline(always)]
    pub(super) fn send(&self, mut packet: P, headers: &Headers, hop: &NextHop, io: &mut impl Io<P>) {
        if (headers.vlan_len() != 0 || hop.vlan != 0)
            && ethernet::set_vlan(&mut packet, &mut headers.clone(), hop.vlan).is_err()
        {
            return self.drop(DropReason::NoBuffer, Hook::Egress);
        }
        ethernet::set_addresses(packet.data_mut(), &hop.macs);
        io.transmit(hop.port, packet);
    }

    pub(super) fn send_whole_or_split(
        &mut self,
        packet: P,
        headers: &Headers,
        hop: &NextHop,
        io: &mut impl Io<P>,
    ) {
        if headers.ip_len > u32::from(hop.mtu) {
            self.send_in_pieces(packet, headers, hop, io);
        } else {
            self.send(packet, headers, hop, io);
        }
    }

    /// An IPv4 packet that does not fit and may be split (RFC 791 §3.2).
    #[cold]
    pub(super) fn send_in_pieces(
        &mut self,
        mut packet: P,
        headers: &Headers,
        hop: &NextHop,
        io: &mut impl Io<P>,
    ) {
        let mut later = ArrayVec::new();
        if let Err(reason) = fragment::split(&mut packet, headers, hop.mtu, || io.allocate(), &mut later) {
            return self.drop(reason, Hook::Egress);
        }
        self.send(packet, headers, hop, io);
        for piece in later {
            self.send(piece, headers, hop, io);
        }
    }

    /// Whether a packet went to all of a network, of whom none answers with an error or a reset (RFC 1122 §3.2.2, §4.2.3.10).
    pub(super) fn is_to_network(&self, frame: &[u8], headers: &Headers) -> bool {
        match headers.destination(frame) {
            IpAddr::V4(to) => self.tables.routes.is_broadcast(to),
            IpAddr::V6(_) => false,
        }
    }
}
