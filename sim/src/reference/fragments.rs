//! Fragments: the first one's ports are remembered for the later ones, which wait for it if they come before it.

use std::net::IpAddr;

use lb_core::drop::DropReason;
use lb_core::flow::Hasher;
use lb_core::hook::Hook;
use lb_core::path::Ports;
use lb_core::time::{Tick, Timeout};

use super::parse::{Piece, Read, fragment};
use super::steer::{Kind, Staying, joined, ports};
use super::{Packet, Reference};

/// A hash puts datagrams into so many sets, of which each remembers its newest.
const SETS: u32 = 256;
pub(super) const REMEMBERED_IN_A_SET: usize = 4;
pub(super) const MEMORY: Timeout = Timeout::from_secs(30);
/// Fragments that wait, and how long.
const ROOM: usize = 128;
const ROOM_UNSEALED: usize = 64;
const PATIENCE: Timeout = Timeout::from_secs(1);

/// What a datagram's fragments have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Datagram {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    /// IPv4's; a later fragment of IPv6 need not say it.
    protocol: u8,
}

#[derive(Clone, Copy, Debug)]
struct First {
    datagram: Datagram,
    set: usize,
    ports: Ports,
    came: Tick,
}

struct Waiter {
    packet: Packet,
    read: Read,
    datagram: Datagram,
    since: Tick,
}

#[derive(Default)]
pub(super) struct Fragments {
    /// Newest first.
    known: Vec<First>,
    waiting: Vec<Waiter>,
    /// First ones of SCTP that cannot be rewritten before it is known how long the whole is.
    unsealed: Vec<Waiter>,
    /// First ones of this burst that others waited for.
    came: Vec<First>,
}

impl Fragments {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.unsealed.len()
    }

    fn remember(&mut self, first: First) {
        let is_known = self.known.iter().any(|known| known.datagram == first.datagram);
        let of_set = || self.known.iter().enumerate().filter(|(_, known)| known.set == first.set);
        if is_known {
            self.known.retain(|known| known.datagram != first.datagram);
        } else if of_set().count() == REMEMBERED_IN_A_SET {
            let oldest = of_set().next_back().expect("there are some").0;
            self.known.remove(oldest);
        }
        self.known.insert(0, first);
    }
}

impl Reference {
    /// A fragment at the worker where its datagram comes together.
    pub(super) fn gather(&mut self, packet: Packet, kind: Kind, read: Read) -> Option<Staying> {
        let datagram = datagram(&read);
        let (fragments, now) = (&mut self.fragments, self.now);
        if read.piece == Piece::First {
            let first = First { datagram, set: set(self.hasher, &datagram), ports: ports(&read), came: now };
            fragments.remember(first);
            if fragments.waiting.iter().any(|waiter| waiter.datagram == datagram) {
                fragments.came.push(first);
            }
            return self.pass_to_owner(packet, kind);
        }
        let first = fragments.known.iter().find(|first| first.datagram == datagram);
        if let Some(first) = first.filter(|first| now.since(first.came) < MEMORY.0) {
            let kind = joined(read, first.ports);
            return self.pass_to_owner(packet, kind);
        }
        let services = &self.tables.services;
        let routes = &self.tables.routes;
        let may_come_here = routes.is_local(read.dst) || routes.may_be_local_by_mark(read.dst);
        let is_for_a_service = may_come_here && self.tables.serves(read.is_ipv6());
        if !is_for_a_service && !services.is_server(read.src) {
            // No connection can have to do with it.
            return Some(Staying { packet, kind: Kind::Routed(read) });
        }
        if self.fragments.waiting.len() == ROOM {
            self.drop(DropReason::FragmentTableFull, Hook::Prerouting);
            return None;
        }
        // Whatever comes of it is of a later burst.
        let packet = Packet { cause: None, ..packet };
        self.fragments.waiting.push(Waiter { packet, read, datagram, since: now });
        None
    }

    /// Those go on whose first one came in this burst; the datagram whose first one came last begins.
    pub(super) fn release_fragments(&mut self) {
        while let Some(first) = self.fragments.came.pop() {
            let all = std::mem::take(&mut self.fragments.waiting);
            let (released, left) = all.into_iter().partition(|waiter| waiter.datagram == first.datagram);
            self.fragments.waiting = left;
            let mut staying = Vec::new();
            let released: Vec<Waiter> = released;
            for Waiter { packet, read, .. } in released {
                let kind = joined(read, first.ports);
                staying.extend(self.pass_to_owner(packet, kind));
            }
            self.take_roads(staying);
        }
    }

    pub(super) fn wait_for_last(&mut self, packet: Packet, read: Read) {
        if self.fragments.unsealed.len() == ROOM_UNSEALED {
            return self.drop(DropReason::FragmentTableFull, Hook::Postrouting);
        }
        let (packet, datagram) = (Packet { cause: None, ..packet }, datagram(&read));
        self.fragments.unsealed.push(Waiter { packet, read, datagram, since: self.now });
    }

    /// The first fragment that waited for this later one, if that is the last.
    pub(super) fn completed(&mut self, packet: &Packet, read: &Read) -> Option<(Packet, Read)> {
        let (has_more, offset, at) = fragment(&packet.bytes, read);
        let datagram = datagram(read);
        let place = self.fragments.unsealed.iter().position(|first| first.datagram == datagram)?;
        if has_more {
            return None;
        }
        let first = &self.fragments.unsealed[place];
        let (_, _, begins) = fragment(&first.packet.bytes, &first.read);
        // Extension headers before the SCTP header are of the datagram, not of the SCTP packet.
        let (end, before) = (offset + (read.end - at), first.read.l4 - begins);
        if end <= first.read.end - begins {
            // Not behind the first one, but in it.
            return None;
        }
        let mut first = self.fragments.unsealed.remove(place);
        first.read.whole_len = Some(end - before);
        Some((first.packet, first.read))
    }

    pub(super) fn give_up_fragments(&mut self) {
        let (all, now) = (std::mem::take(&mut self.fragments.unsealed), self.now);
        for first in all {
            if now.since(first.since) < PATIENCE.0 {
                self.fragments.unsealed.push(first);
            } else {
                self.drop(DropReason::FragmentWithoutLast, Hook::Postrouting);
            }
        }
        let (all, now) = (std::mem::take(&mut self.fragments.waiting), self.now);
        for waiter in all {
            if now.since(waiter.since) < PATIENCE.0 {
                self.fragments.waiting.push(waiter);
            } else {
                self.drop(DropReason::FragmentWithoutFirst, Hook::Prerouting);
            }
        }
    }
}

pub(super) fn datagram(read: &Read) -> Datagram {
    let protocol = if read.is_ipv6() { 0 } else { read.protocol };
    Datagram { src: read.src, dst: read.dst, id: read.id, protocol }
}

pub(super) fn set(hasher: Hasher, datagram: &Datagram) -> usize {
    let octets = |address| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let (high, low) = ((datagram.id >> 16) as u16, datagram.id as u16);
    hasher.ipv6(&octets(datagram.src), &octets(datagram.dst), high, low, datagram.protocol).below(SETS)
}
