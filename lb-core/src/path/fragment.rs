//! Fragments follow their connection: the first one's ports are kept for the later ones, which wait for it, in a
//! bounded number, when they come before it. Nothing is reassembled. What rules say of the first one is said of them all ([`pieces`](super::pieces)). ICMP errors: see [`quoted`].

use arrayvec::ArrayVec;

use super::ipsec::is_ipsec;
use super::pieces::Ruled;
use super::tracked::tuple_of;
use super::{BURST, Burst, Io, Kind, Path, Ports, Seen, quoted};
use crate::counters::WorkerCounters;
use crate::drop::DropReason;
use crate::flow::Tuple;
use crate::hook::Hook;
use crate::packet::Packet;
use crate::time::{Tick, Timeout};
use crate::wire::parse::{Fragment, Headers, piece};

/// Datagrams remembered, in sets of four.
const SETS: usize = 256;
const WAYS: usize = 4;
/// Fragments that wait at most, and how long.
const CAPACITY: usize = 128;
const UNSEALED: usize = 64;
const PATIENCE: Timeout = Timeout::from_secs(1);
/// How long a datagram is remembered (Linux: `ipfrag_time`).
const MEMORY: Timeout = Timeout::from_secs(30);

/// What the fragments of one datagram have in common (RFC 791 §2.3, RFC 8200 §4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Datagram {
    src: std::net::IpAddr,
    dst: std::net::IpAddr,
    id: u32,
    /// 0 for IPv6, whose later fragments may not say it.
    protocol: u8,
}

/// The first fragment of an SCTP packet whose ports are to be written: its checksum changes by how long the whole is.
struct Unsealed<P> {
    packet: P,
    headers: Headers,
    datagram: Datagram,
    since: Tick,
}

struct Waiter<P> {
    packet: P,
    seen: Seen,
    datagram: Datagram,
    since: Tick,
}

/// What is known of datagrams, for a while: sets of a few each, newest first, of which the oldest makes room.
pub(super) struct Recent<T, const SETS: usize> {
    sets: Vec<[Option<(Datagram, T, Tick)>; WAYS]>,
}

impl<T: Copy, const SETS: usize> Recent<T, SETS> {
    pub(super) fn new() -> Recent<T, SETS> {
        Recent { sets: vec![[None; WAYS]; SETS] }
    }

    /// `set`: a datagram's, any number.
    pub(super) fn recall(&self, set: usize, datagram: &Datagram, now: Tick) -> Option<T> {
        let ways = &self.sets[set % SETS];
        let &(_, known, since) = ways.iter().flatten().find(|known| known.0 == *datagram)?;
        (now.since(since) < MEMORY.0).then_some(known)
    }

    pub(super) fn remember(&mut self, set: usize, datagram: Datagram, known: T, now: Tick) {
        let ways = &mut self.sets[set % SETS];
        let oldest = ways
            .iter()
            .position(|way| way.as_ref().is_none_or(|other| other.0 == datagram))
            .unwrap_or(WAYS - 1);
        ways[..=oldest].rotate_right(1);
        ways[0] = Some((datagram, known, now));
    }
}

pub(super) struct Fragments<P> {
    /// What the first fragment carries; for IPv6 the later ones may not say the protocol.
    known: Recent<Ports, SETS>,
    /// What rules made of it.
    pub(super) ruled: Recent<Ruled, SETS>,
    /// What packets look like that answer the one which an ICMP error quotes.
    pub(super) quotes: Recent<Tuple, { quoted::SETS }>,
    waiting: Vec<Waiter<P>>,
    unsealed: Vec<Unsealed<P>>,
    /// First fragments of this burst for which others wait.
    release: ArrayVec<(Datagram, Ports), BURST>,
}

impl<P> Fragments<P> {
    pub(super) fn new() -> Fragments<P> {
        Fragments {
            known: Recent::new(),
            ruled: Recent::new(),
            quotes: Recent::new(),
            waiting: Vec::with_capacity(CAPACITY),
            unsealed: Vec::with_capacity(UNSEALED),
            release: ArrayVec::new(),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.unsealed.len()
    }

    /// Drops what waited too long.
    #[inline]
    pub(super) fn give_up(&mut self, now: Tick, mine: &WorkerCounters) {
        if self.waiting() == 0 {
            return;
        }
        let before = (self.waiting.len(), self.unsealed.len());
        self.waiting.retain(|waiter| now.since(waiter.since) < PATIENCE.0);
        self.unsealed.retain(|first| now.since(first.since) < PATIENCE.0);
        let dropped = (before.0 - self.waiting.len(), before.1 - self.unsealed.len());
        mine.dropped(DropReason::FragmentWithoutFirst, Hook::Prerouting).add(dropped.0 as u64);
        mine.dropped(DropReason::FragmentWithoutLast, Hook::Postrouting).add(dropped.1 as u64);
    }

    /// Keeps the first fragment of an SCTP packet until [`last`](Self::last) comes by.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn keep_unsealed(&mut self, packet: P, headers: &Headers, now: Tick) -> Result<(), DropReason>
    where
        P: Packet,
    {
        if self.unsealed.len() == UNSEALED {
            return Err(DropReason::FragmentTableFull);
        }
        let datagram = datagram(packet.data(), headers);
        self.unsealed.push(Unsealed { packet, headers: *headers, datagram, since: now });
        Ok(())
    }

    /// A later fragment of an SCTP packet: if it is the last one, the first one that waits for it, which learns how long
    /// the whole is.
    pub(super) fn last(&mut self, frame: &[u8], headers: &Headers) -> Option<(P, Headers)>
    where
        P: Packet,
    {
        if self.unsealed.is_empty() {
            return None;
        }
        let last = piece(frame, headers).filter(|piece| !piece.has_more)?;
        let end = usize::from(last.offset) + headers.end() - last.at;
        let datagram = datagram(frame, headers);
        let place = self.unsealed.iter().position(|first| first.datagram == datagram)?;
        let Unsealed { packet, headers, .. } = self.unsealed.get(place)?;
        // An IPv6 datagram may begin with an extension header, which is not of the SCTP packet.
        let begins = piece(packet.data(), headers)?.at;
        let len = (end + begins).saturating_sub(headers.l4.into());
        if len <= headers.l4_len() {
            // It ends within the first one: no receiver puts them together.
            return None;
        }
        let Unsealed { packet, headers, .. } = self.unsealed.remove(place);
        Some((packet, Headers { datagram_len: len as u16, ..headers }))
    }
}

impl<P: Packet> Path<P> {
    /// A fragment: the first one's ports are noted; to a later one they are added, or it waits for them, if anybody
    /// here may have to do with it.
    pub(super) fn gather(&mut self, packet: P, mut seen: Seen, now: Tick) -> Option<(P, Seen)> {
        let headers = &seen.headers;
        let datagram = datagram(packet.data(), headers);
        let set = self.set_of(&datagram);
        if headers.fragment == Fragment::First {
            // Of an ICMP query what stands for them.
            let ports = tuple_of(packet.data(), headers).map_or(ports(headers), |tuple| Ports {
                sport: tuple.sport,
                dport: tuple.dport,
                protocol: headers.protocol,
            });
            self.fragments.known.remember(set, datagram, ports, now);
            if seen.kind == Kind::IcmpError {
                self.note_quote(packet.data(), headers, set, datagram, now);
            }
            if self.fragments.waiting.iter().any(|waiter| waiter.datagram == datagram) {
                // A burst has no more packets than there is room.
                let _ = self.fragments.release.try_push((datagram, ports));
            }
            return Some((packet, seen));
        }
        if let Some(ports) = self.fragments.known.recall(set, &datagram, now) {
            self.join_fragment(&mut seen, packet.data(), ports);
            self.join_error(&mut seen, packet.data(), now);
            return Some((packet, seen));
        }
        let services = &self.tables.services;
        let routes = &self.tables.routes;
        let is_for_us = routes.is_local(datagram.dst) || routes.may_be_local_by_mark(datagram.dst);
        let may_be_ours = is_for_us && self.tables.serves(headers.is_ipv6)
            || services.is_server(datagram.src)
            || self.tables.rules.are_active();
        if !may_be_ours {
            seen.kind = Kind::Routed;
            return Some((packet, seen));
        }
        if self.fragments.waiting.len() == CAPACITY {
            self.drop(DropReason::FragmentTableFull, Hook::Prerouting);
            return None;
        }
        self.fragments.waiting.push(Waiter { packet, seen, datagram, since: now });
        None
    }

    /// A later fragment gets what stood in the first.
    pub(super) fn join_fragment(&self, seen: &mut Seen, frame: &[u8], ports: Ports) {
        let Ports { sport, dport, protocol } = ports;
        (seen.headers.sport, seen.headers.dport, seen.headers.protocol) = (sport, dport, protocol);
        if seen.kind == Kind::Twin {
            return;
        }
        if !protocol.has_ports() {
            seen.kind = if is_ipsec(protocol) { Kind::Ipsec } else { Kind::Routed };
            return;
        }
        seen.kind = Kind::Flow;
        seen.hash = self.hash(frame, &seen.headers);
        self.flows.prefetch_bucket(seen.hash);
    }

    /// Sends on the fragments that waited for a first one that has gone by now.
    #[inline]
    pub(super) fn release_fragments(&mut self, now: Tick, io: &mut impl Io<P>) {
        while let Some((datagram, ports)) = self.fragments.release.pop() {
            self.release(&datagram, ports, now, io);
        }
    }

    #[cold]
    fn release(&mut self, datagram: &Datagram, ports: Ports, now: Tick, io: &mut impl Io<P>) {
        let mut burst = Burst::new();
        let mut all: ArrayVec<Seen, BURST> = ArrayVec::new();
        let mut place = 0;
        while place < self.fragments.waiting.len() {
            if self.fragments.waiting[place].datagram != *datagram {
                place += 1;
                continue;
            }
            let Waiter { packet, mut seen, .. } = self.fragments.waiting.remove(place);
            self.join_fragment(&mut seen, packet.data(), ports);
            self.join_error(&mut seen, packet.data(), now);
            if let Some((packet, seen)) = self.to_owner(packet, seen, now, io) {
                burst.push(packet);
                all.push(seen);
            }
            if burst.is_full() {
                self.look_up(&mut all);
                self.go(&mut burst, &all, now, io);
                all.clear();
            }
        }
        self.look_up(&mut all);
        self.go(&mut burst, &all, now, io);
    }

    pub(super) fn set_of(&self, datagram: &Datagram) -> usize {
        let octets = |address| match address {
            std::net::IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(a) => a.octets(),
        };
        let id = datagram.id;
        let (src, dst) = (octets(datagram.src), octets(datagram.dst));
        self.flows
            .hasher()
            .ipv6(&src, &dst, (id >> 16) as u16, id as u16, datagram.protocol)
            .below(SETS as u32)
    }
}

/// What is known of a packet's ports, once its datagram's first fragment came.
pub(super) fn ports(headers: &Headers) -> Ports {
    Ports { sport: headers.sport, dport: headers.dport, protocol: headers.protocol }
}

pub(super) fn datagram(frame: &[u8], headers: &Headers) -> Datagram {
    Datagram {
        src: headers.source(frame),
        dst: headers.destination(frame),
        id: headers.fragment_id,
        protocol: if headers.is_ipv6 { 0 } else { headers.protocol.0 },
    }
}
