//! Fragments follow their connection: the first one's ports are kept for the later ones, which wait for it, in a
//! bounded number, when they come before it. Nothing is reassembled.

use arrayvec::ArrayVec;

use super::{BURST, Burst, Io, Path, Seen};
use crate::counters::WorkerCounters;
use crate::drop::DropReason;
use crate::hook::Hook;
use crate::packet::Packet;
use crate::time::{Tick, Timeout};
use crate::wire::parse::{Fragment, Headers};

/// Datagrams remembered: sets of four, of which the oldest makes room.
const SETS: usize = 256;
const WAYS: usize = 4;
/// Fragments that wait at most, and how long.
const CAPACITY: usize = 128;
const PATIENCE: Timeout = Timeout::from_secs(1);
/// How long a datagram is remembered (Linux: `ipfrag_time`).
const MEMORY: Timeout = Timeout::from_secs(30);

/// What the fragments of one datagram have in common (RFC 791 §2.3, RFC 8200 §4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Datagram {
    src: std::net::IpAddr,
    dst: std::net::IpAddr,
    id: u32,
    /// 0 for IPv6, whose later fragments may not say it.
    protocol: u8,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    datagram: Datagram,
    sport: u16,
    dport: u16,
    since: Tick,
}

struct Waiter<P> {
    packet: P,
    seen: Seen,
    datagram: Datagram,
    since: Tick,
}

pub(super) struct Fragments<P> {
    known: Vec<[Option<Known>; WAYS]>,
    waiting: Vec<Waiter<P>>,
    /// A first fragment came for which others wait.
    release: Option<Datagram>,
}

impl<P> Fragments<P> {
    pub(super) fn new() -> Fragments<P> {
        Fragments { known: vec![[None; WAYS]; SETS], waiting: Vec::with_capacity(CAPACITY), release: None }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Drops what waited too long.
    #[inline]
    pub(super) fn give_up(&mut self, now: Tick, mine: &WorkerCounters) {
        if self.waiting.is_empty() {
            return;
        }
        let before = self.waiting.len();
        self.waiting.retain(|waiter| now.since(waiter.since) < PATIENCE.0);
        let dropped = before - self.waiting.len();
        mine.dropped(DropReason::FragmentWithoutFirst, Hook::Prerouting).add(dropped as u64);
    }
}

impl<P: Packet> Path<P> {
    /// A fragment of a TCP or UDP packet: the first one's ports are noted; to a later one they are added, or it
    /// waits for them.
    pub(super) fn gather(&mut self, packet: P, mut seen: Seen, now: Tick) -> Option<(P, Seen)> {
        let headers = &seen.headers;
        let datagram = datagram(packet.data(), headers);
        let set = self.set_of(&datagram);
        if headers.fragment == Fragment::First {
            let known = Known { datagram, sport: headers.sport, dport: headers.dport, since: now };
            self.fragments.remember(set, known, now);
            if self.fragments.waiting.iter().any(|waiter| waiter.datagram == datagram) {
                self.fragments.release = Some(datagram);
            }
            return Some((packet, seen));
        }
        if let Some(known) = self.fragments.recall(set, &datagram, now) {
            self.join_fragment(&mut seen, packet.data(), known.sport, known.dport);
            return Some((packet, seen));
        }
        if self.fragments.waiting.len() == CAPACITY {
            self.drop(DropReason::FragmentTableFull, Hook::Prerouting);
            return None;
        }
        self.fragments.waiting.push(Waiter { packet, seen, datagram, since: now });
        None
    }

    /// A later fragment gets the ports that stood in the first.
    pub(super) fn join_fragment(&self, seen: &mut Seen, frame: &[u8], sport: u16, dport: u16) {
        seen.headers.sport = sport;
        seen.headers.dport = dport;
        seen.hash = self.hash(frame, &seen.headers);
        self.flows.prefetch_bucket(seen.hash);
    }

    /// Sends on the fragments that waited for a first one that has gone by now.
    #[inline]
    pub(super) fn release_fragments(&mut self, now: Tick, io: &mut impl Io<P>) {
        if let Some(datagram) = self.fragments.release.take() {
            self.release(datagram, now, io);
        }
    }

    #[cold]
    fn release(&mut self, datagram: Datagram, now: Tick, io: &mut impl Io<P>) {
        let mut burst = Burst::new();
        let mut all: ArrayVec<Seen, BURST> = ArrayVec::new();
        let mut place = 0;
        while place < self.fragments.waiting.len() && !burst.is_full() {
            if self.fragments.waiting[place].datagram != datagram {
                place += 1;
                continue;
            }
            let waiter = self.fragments.waiting.remove(place);
            if let Some((packet, seen)) = self.gathered(waiter.packet, waiter.seen, now, io) {
                burst.push(packet);
                all.push(seen);
            }
        }
        self.look_up(&mut all);
        self.go(&mut burst, &all, now, io);
    }

    fn set_of(&self, datagram: &Datagram) -> usize {
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

impl<P> Fragments<P> {
    fn recall(&self, set: usize, datagram: &Datagram, now: Tick) -> Option<Known> {
        let known = self.known[set].iter().flatten().find(|known| known.datagram == *datagram)?;
        (now.since(known.since) < MEMORY.0).then_some(*known)
    }

    fn remember(&mut self, set: usize, known: Known, now: Tick) {
        let ways = &mut self.known[set];
        let age = |way: &Option<Known>| match way {
            Some(other) if other.datagram == known.datagram => u32::MAX,
            Some(other) => now.since(other.since),
            None => u32::MAX - 1,
        };
        if let Some(oldest) = ways.iter_mut().max_by_key(|way| age(way)) {
            *oldest = Some(known);
        }
    }
}

fn datagram(frame: &[u8], headers: &Headers) -> Datagram {
    Datagram {
        src: headers.source(frame),
        dst: headers.destination(frame),
        id: headers.fragment_id,
        protocol: if headers.is_ipv6 { 0 } else { headers.protocol.0 },
    }
}
