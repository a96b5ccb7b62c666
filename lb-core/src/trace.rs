//! Which packets are watched, how many, and what was seen of them: shared by all workers and whoever reads.
//!
//! While tables have a [`Trace`], workers look at each packet whether it is one of these ([`Path::receive`](crate::path::Path::receive)); else
//! they ask once a burst whether there is one.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crossbeam::queue::ArrayQueue;

use crate::ids::PortId;
use crate::tables::{Prefix, Protocol};
use crate::time::Tick;
use crate::trail::{Glimpse, Observed};

/// Roads that wait to be read.
const CAPACITY: usize = 64;

/// Which packets; what is not said is any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// It comes in there: by a port, with this VLAN id (0: none).
    pub input: Option<(PortId, u16)>,
    /// The host sends it there.
    pub from_host: Option<(PortId, u16)>,
    pub protocol: Option<Protocol>,
    pub src: Option<Prefix>,
    pub dst: Option<Prefix>,
    pub sport: Option<u16>,
    pub dport: Option<u16>,
    /// Only those that are dropped.
    pub is_dropped: bool,
}

impl Filter {
    /// Whether it is one of these, as far as can be said before it goes its road.
    fn wants(&self, (port, is_from_host): (PortId, bool), packet: Option<&Glimpse>) -> bool {
        let is_there = match (self.input, self.from_host) {
            (None, None) => true,
            (input, from_host) => {
                let vlan = packet.map_or(0, |packet| packet.vlan);
                Some((port, vlan)) == if is_from_host { from_host } else { input }
            }
        };
        let Some(tuple) = packet.map(|packet| &packet.tuple) else {
            let anything = Filter { input: None, from_host: None, is_dropped: false, ..*self };
            return is_there && anything == Filter::default();
        };
        let is_in = |net: Option<Prefix>, address: IpAddr| net.is_none_or(|net| net.contains(address));
        is_there
            && self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
            && is_in(self.src, tuple.src)
            && is_in(self.dst, tuple.dst)
            && self.sport.is_none_or(|port| port == tuple.sport)
            && self.dport.is_none_or(|port| port == tuple.dport)
    }
}

#[derive(Debug)]
pub struct Trace {
    filter: Filter,
    per_second: u32,
    /// This second, and how many in it. Two workers that write at once lose one: then there is one more.
    now: AtomicU64,
    /// How many more.
    left: AtomicU32,
    roads: ArrayQueue<Observed>,
    /// Those that were one too many in their second, or found no room.
    skipped: AtomicU64,
}

impl Trace {
    /// At most so many, of all workers, and so many a second.
    pub fn new(filter: Filter, most: u32, per_second: u32) -> Trace {
        Trace {
            filter,
            per_second,
            now: AtomicU64::new(0),
            left: AtomicU32::new(most),
            roads: ArrayQueue::new(CAPACITY),
            skipped: AtomicU64::new(0),
        }
    }

    /// Whether a packet is to be watched, that came on a port or was sent by the host by its twin. `None`: one that cannot be read.
    pub(crate) fn wants(&self, came: (PortId, bool), packet: Option<&Glimpse>, now: Tick) -> bool {
        if self.is_over() || !self.filter.wants(came, packet) {
            return false;
        }
        let is_one_too_many = self.in_second_of(now) >= self.per_second;
        if is_one_too_many {
            self.skipped.fetch_add(1, Relaxed);
        }
        !is_one_too_many
    }

    /// Keeps a road, if it is one that is wanted.
    pub fn keep(&self, road: Observed, now: Tick) {
        if self.filter.is_dropped && road.dropped.is_none() {
            return;
        }
        let count = self.in_second_of(now) + 1;
        self.now.store(second(now) << 32 | u64::from(count), Relaxed);
        if self.roads.push(road).is_err() {
            self.skipped.fetch_add(1, Relaxed);
            return;
        }
        self.left.store(self.left.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// How many were kept in this second.
    fn in_second_of(&self, now: Tick) -> u32 {
        let last = self.now.load(Relaxed);
        if last >> 32 == second(now) { last as u32 } else { 0 }
    }

    pub fn take(&self) -> Option<Observed> {
        self.roads.pop()
    }

    /// All that were asked for are there.
    pub fn is_over(&self) -> bool {
        self.left.load(Relaxed) == 0
    }

    pub fn skipped(&self) -> u64 {
        self.skipped.load(Relaxed)
    }
}

fn second(now: Tick) -> u64 {
    u64::from(now.0 / Tick::PER_SECOND)
}

#[cfg(test)]
mod tests {
    use arrayvec::ArrayVec;

    use super::*;
    use crate::drop::DropReason;
    use crate::flow::Tuple;
    use crate::hook::Hook;
    use crate::ids::WorkerId;
    use crate::trail::Trail;

    fn packet(sport: u16) -> Glimpse {
        let tuple = Tuple {
            src: [192, 0, 2, 100].into(),
            dst: [10, 0, 0, 1].into(),
            sport,
            dport: 80,
            protocol: Protocol::TCP,
        };
        Glimpse { tuple, vlan: 0, tcp_flags: 2, icmp: None, ttl: 64, len: 40, is_later_fragment: false }
    }

    fn road(dropped: Option<(DropReason, Hook)>) -> Observed {
        Observed {
            worker: WorkerId(0),
            port: PortId(0),
            is_from_host: false,
            came: Some(packet(1)),
            trail: Trail::default(),
            ends: ArrayVec::new(),
            dropped,
        }
    }

    #[test]
    fn a_filter_wants_what_is_all_that_it_says() {
        let net = |text: &str, len| Some(Prefix { address: text.parse().unwrap(), len });
        let fits = |filter: Filter| filter.wants((PortId(0), false), Some(&packet(4000)));
        let any = Filter::default();
        assert!(fits(any));
        assert!(fits(Filter {
            src: net("192.0.2.0", 24),
            dport: Some(80),
            input: Some((PortId(0), 0)),
            ..any
        }));
        for other in [
            Filter { src: net("192.0.3.0", 24), ..any },
            Filter { dst: net("10.0.0.2", 32), ..any },
            Filter { src: net("2001:db8::", 32), ..any },
            Filter { sport: Some(80), ..any },
            Filter { dport: Some(4000), ..any },
            Filter { protocol: Some(Protocol::UDP), ..any },
            Filter { input: Some((PortId(1), 0)), ..any },
            Filter { input: Some((PortId(0), 7)), ..any },
            Filter { from_host: Some((PortId(0), 0)), ..any },
        ] {
            assert!(!fits(other), "{other:?}");
        }
        let unreadable = |filter: Filter| filter.wants((PortId(0), false), None);
        assert!(unreadable(Filter { input: Some((PortId(0), 0)), is_dropped: true, ..any }));
        assert!(!unreadable(Filter { dport: Some(80), ..any }));
    }

    #[test]
    fn no_more_are_kept_than_were_asked_for_all_in_all_and_a_second() {
        let trace = Trace::new(Filter::default(), 5, 2);
        let give = |second: u32| {
            let now = Tick(second * Tick::PER_SECOND);
            let is_wanted = trace.wants((PortId(0), false), Some(&packet(1)), now);
            if is_wanted {
                trace.keep(road(None), now);
            }
            is_wanted
        };
        let wanted: Vec<usize> = (1..5).map(|second| (0..4).filter(|_| give(second)).count()).collect();
        assert_eq!(wanted, [2, 2, 1, 0]);
        assert!(trace.is_over());
        assert_eq!(trace.skipped(), 4, "of the first two seconds");
        assert_eq!(std::iter::from_fn(|| trace.take()).count(), 5);
    }

    #[test]
    fn a_road_is_kept_if_it_ends_as_it_should() {
        let trace = Trace::new(Filter { is_dropped: true, ..Filter::default() }, 100, 1_000);
        trace.keep(road(None), Tick(0));
        trace.keep(road(Some((DropReason::Rule, Hook::Forward))), Tick(0));
        assert!(trace.take().is_some_and(|road| road.dropped.is_some()) && trace.take().is_none());
        for _ in 0..CAPACITY + 3 {
            trace.keep(road(Some((DropReason::Rule, Hook::Forward))), Tick(0));
        }
        assert_eq!(trace.skipped(), 3, "nobody reads");
    }
}
