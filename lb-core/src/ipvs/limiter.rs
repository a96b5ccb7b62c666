//! Limits of virtual services: may one more connection begin, of all of a service and of its client? Asked of a packet that would begin one, before it is
//! scheduled; whatever comes to be entered for a real server of the service is counted.
//!
//! Numbers are of the whole host, as those of `connlimit` ([`Alive`]): a connection counts from when it is entered until it ends, or is only remembered (TCP
//! in `TIME_WAIT` or `CLOSE`). They are asked and added to in two steps, so that connections which begin at several workers in the same moment may each
//! find the last place free: as many too many as there are other workers, at most. Those that are there already when a limit is set count from their next packet on.
//!
//! Rates are token buckets as those of `hashlimit` ([`PerKey`]), one for the service and one for each source. What one has is taken exactly; but where several workers
//! begin it in the same moment, it has its burst once more for each other worker, at most.
//!
//! All of it is memory of a fixed size. A source for which there is no room is let in: its connections are not counted, and its bucket is the one of a source that came longest ago
//! (whose next one is full). Else whoever makes up sources would keep clients out. A service's own number and bucket always have their place.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::drop::DropReason;
use crate::flow::FlowId;
use crate::rule::counted::{Alive, Counted};
use crate::rule::options::bits;
use crate::rule::per_key::{KeyedBy, PerKey, Price};
use crate::rule::state::Keys;
use crate::tables::{ConnLimits, ConnRate};
use crate::time::Tick;

/// Times that a place is sought for a service's own number.
const TRIES: usize = 16;
/// The only key of a service's bucket.
const OF_ALL: u64 = 1;

/// What a connection would exceed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    Connections,
    Rate,
    SourceConnections,
    SourceRate,
}

impl Limit {
    pub const ALL: [Limit; 4] =
        [Limit::Connections, Limit::Rate, Limit::SourceConnections, Limit::SourceRate];

    /// As it is configured.
    pub const fn name(self) -> &'static str {
        match self {
            Limit::Connections => "conn_limit",
            Limit::Rate => "conn_rate",
            Limit::SourceConnections => "source_conn_limit",
            Limit::SourceRate => "source_conn_rate",
        }
    }

    pub const fn reason(self) -> DropReason {
        match self {
            Limit::Connections => DropReason::ServiceConnLimit,
            Limit::Rate => DropReason::ServiceConnRate,
            Limit::SourceConnections => DropReason::SourceConnLimit,
            Limit::SourceRate => DropReason::SourceConnRate,
        }
    }
}

/// Makes limiters, and has what they share.
#[derive(Clone, Debug, Default)]
pub struct Limiters {
    seed: u64,
    /// From the first on that is made.
    alive: Option<Arc<Alive>>,
    made: u64,
}

impl Limiters {
    /// `seed` keys the hashes of addresses, so that nobody outside can aim at one place of a table.
    pub fn new(seed: u64) -> Limiters {
        Limiters { seed, ..Limiters::default() }
    }

    /// That of a service with these limits, which had `old` before: what is counted goes on, and so does a rate that stays the same. `None`: nothing is limited.
    pub fn make(&mut self, old: Option<&Arc<Limiter>>, limits: ConnLimits) -> Option<Arc<Limiter>> {
        if limits == ConnLimits::NONE {
            return None;
        }
        let keys = Keys::new(self.seed);
        let numbers = match old {
            Some(old) if old.limits == limits => return Some(old.clone()),
            Some(old) => old.numbers.clone(),
            None => {
                let alive = self.alive.get_or_insert_with(|| Arc::new(Alive::new(keys))).clone();
                Arc::new(Numbers::new(alive, &mut self.made))
            }
        };
        let is_same_net = old.is_some_and(|old| old.limits.source_prefix == limits.source_prefix);
        let kept_rate = old.filter(|old| old.limits.rate == limits.rate).and_then(|old| old.rate.clone());
        let kept_source_rate = old
            .filter(|old| is_same_net && old.limits.source_rate == limits.source_rate)
            .and_then(|old| old.source_rate.clone());
        Some(Arc::new(Limiter {
            limits,
            numbers,
            rate: kept_rate.or_else(|| Some(Arc::new(buckets(1, limits.rate?, keys)))),
            // As many as `hashlimit` has.
            source_rate: kept_source_rate.or_else(|| Some(Arc::new(buckets(0, limits.source_rate?, keys)))),
        }))
    }
}

/// A bucket for each of so many keys; 0: for the usual number.
fn buckets(room: usize, rate: ConnRate, keys: Keys) -> PerKey {
    // In hundredths of a connection, of which a tick brings as many as a second brings connections.
    let cost = u64::from(Tick::PER_SECOND);
    let price =
        Price::Packets { cost, cap: u64::from(rate.burst) * cost, per_tick: u64::from(rate.per_second) };
    // A bucket that is full by now may be forgotten.
    let full = u64::from(rate.burst) * 1000 / u64::from(rate.per_second) + 1000;
    PerKey::new(room, u32::try_from(full).unwrap_or(u32::MAX), KeyedBy::default(), price, keys)
}

/// What a service's connections count in.
struct Numbers {
    alive: Arc<Alive>,
    /// By what its keys are told from those of every other service that ever was.
    of: u64,
    /// Key of all its connections, and the place that is kept for it.
    total: u64,
    reserved: Option<u32>,
}

impl Numbers {
    fn new(alive: Arc<Alive>, made: &mut u64) -> Numbers {
        let mut reserve = || {
            *made += 1;
            let total = alive.keys().of([0, 0], *made);
            (*made, total, alive.add(total))
        };
        let tries = (1..TRIES).map(|_| reserve()).find(|(.., place)| place.is_some());
        let (of, total, reserved) = tries.unwrap_or_else(reserve);
        Numbers { alive, of, total, reserved }
    }

    fn source(&self, source: IpAddr) -> u64 {
        self.alive.keys().of([bits(source), 1], self.of)
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        if let Some(place) = self.reserved {
            self.alive.take_back(place);
        }
    }
}

/// What a virtual service's limits are, and what they remember: of all workers, whatever tables they use.
pub struct Limiter {
    limits: ConnLimits,
    numbers: Arc<Numbers>,
    rate: Option<Arc<PerKey>>,
    source_rate: Option<Arc<PerKey>>,
}

impl Limiter {
    /// By what it is told from those of every other service that ever was; an edit leaves it.
    pub fn number(&self) -> u64 {
        self.numbers.of
    }

    /// Connections that count now; 0 where their number is not limited.
    pub fn connections(&self) -> u32 {
        let Numbers { alive, total, reserved, .. } = &*self.numbers;
        alive.total(*total).saturating_sub(u32::from(reserved.is_some()))
    }

    /// What one more connection of `client` would exceed, by number.
    pub(crate) fn full(&self, client: IpAddr) -> Option<Limit> {
        let ConnLimits { connections, source_connections, .. } = self.limits;
        if connections != 0 && self.connections() >= connections {
            return Some(Limit::Connections);
        }
        let numbers = &self.numbers;
        let of_source = || numbers.alive.total(numbers.source(self.limits.source(client)));
        (source_connections != 0 && of_source() >= source_connections).then_some(Limit::SourceConnections)
    }

    /// What one more connection of `client` exceeds now. If it is nothing, its rates are paid, unless it `is_dry`; who is above its own rate does not use up the service's.
    pub(crate) fn exceeded(&self, client: IpAddr, is_dry: bool, now: Tick) -> Option<Limit> {
        let is_within = |rate: &Option<Arc<PerKey>>, key: u64| {
            let Some(rate) = rate else { return true };
            if is_dry { rate.would_take(key, 0, now) } else { rate.take(key, 0, now) }
        };
        if let Some(limit) = self.full(client) {
            return Some(limit);
        }
        if self.source_rate.is_some() && !is_within(&self.source_rate, self.bucket(client)) {
            return Some(Limit::SourceRate);
        }
        (!is_within(&self.rate, OF_ALL)).then_some(Limit::Rate)
    }

    /// Whether another source's bucket has to go for that of this client's.
    pub(crate) fn displaces(&self, client: IpAddr, now: Tick) -> bool {
        self.source_rate.as_ref().is_some_and(|rate| rate.is_full_for(self.bucket(client), now))
    }

    /// A connection of `client` counts from now on, once. False: there is no room to count it.
    pub(crate) fn count(&self, counted: &mut Counted, id: FlowId, client: IpAddr) -> bool {
        let Numbers { alive, total, .. } = &*self.numbers;
        let ConnLimits { connections, source_connections, .. } = self.limits;
        let in_total = connections == 0 || counted.hold(alive, id, *total);
        let source = || self.numbers.source(self.limits.source(client));
        let in_source = source_connections == 0 || counted.hold(alive, id, source());
        in_total && in_source
    }

    /// Key of the bucket.
    fn bucket(&self, client: IpAddr) -> u64 {
        self.numbers.alive.keys().of([bits(self.limits.source(client)), 0], 0)
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limiter").field(&self.limits).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: ConnRate = ConnRate { per_second: 10, burst: 3 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn let_in(limiter: &Limiter, client: &str, tick: u32) -> usize {
        (0..50).filter(|_| limiter.exceeded(ip(client), false, Tick(tick)).is_none()).count()
    }

    #[test]
    fn a_service_has_its_burst_and_then_its_rate_and_each_source_its_own() {
        let limits = ConnLimits { rate: Some(RATE), ..ConnLimits::NONE };
        let all = Limiters::new(1).make(None, limits).unwrap();
        assert_eq!([let_in(&all, "10.0.0.1", 100), let_in(&all, "10.0.0.2", 100)], [3, 0]);
        assert_eq!(all.exceeded(ip("10.0.0.1"), false, Tick(100)), Some(Limit::Rate));
        assert_eq!([109, 110, 120, 1000].map(|tick| let_in(&all, "10.0.0.1", tick)), [0, 1, 1, 3]);

        let limits = ConnLimits { source_rate: Some(RATE), source_prefix: Some(24), ..ConnLimits::NONE };
        let each = Limiters::new(1).make(None, limits).unwrap();
        assert_eq!(["10.0.0.1", "10.0.0.2", "10.0.1.1"].map(|client| let_in(&each, client, 100)), [3, 0, 3]);
        assert_eq!(each.exceeded(ip("10.0.0.9"), false, Tick(100)), Some(Limit::SourceRate));
        assert_eq!([109, 110].map(|tick| let_in(&each, "10.0.0.3", tick)), [0, 1]);
    }

    #[test]
    fn who_is_above_its_rate_leaves_the_services_to_others_and_who_asks_pays_nothing() {
        let limits = ConnLimits {
            rate: Some(RATE),
            source_rate: Some(ConnRate { burst: 1, ..RATE }),
            ..ConnLimits::NONE
        };
        let limiter = Limiters::new(1).make(None, limits).unwrap();
        assert!((0..9).all(|_| limiter.exceeded(ip("10.0.0.1"), true, Tick(100)).is_none()), "it is asked");
        let clients = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
        assert_eq!(clients.map(|client| let_in(&limiter, client, 100)), [1, 1, 1, 0]);
    }

    #[test]
    fn any_rate_is_exact_over_a_time() {
        for per_second in [1, 3, 99, 100, 101, 12_345] {
            let rate = ConnRate { per_second, burst: per_second };
            let limits = ConnLimits { rate: Some(rate), ..ConnLimits::NONE };
            let limiter = Limiters::new(1).make(None, limits).unwrap();
            let begun = (100..1101).flat_map(|tick| std::iter::repeat_n(Tick(tick), per_second as usize + 1));
            let let_in = begun.filter(|now| limiter.exceeded(ip("10.0.0.1"), false, *now).is_none()).count();
            assert_eq!(let_in, 11 * per_second as usize, "ten seconds, and the burst");
        }
    }

    #[test]
    fn connections_count_once_and_until_they_end_whatever_is_edited() {
        let mut limiters = Limiters::new(1);
        let limits = ConnLimits { connections: 3, source_connections: 2, ..ConnLimits::NONE };
        let first = limiters.make(None, limits).unwrap();
        let other = limiters.make(None, limits).unwrap();
        let mut counted = Counted::new(16, 2);
        for id in [1, 1, 2] {
            assert!(first.count(&mut counted, FlowId(id), ip("10.0.0.1")));
        }
        assert_eq!((first.connections(), other.connections()), (2, 0));
        assert_eq!(first.full(ip("10.0.0.1")), Some(Limit::SourceConnections));
        assert_eq!((first.full(ip("10.0.0.2")), other.full(ip("10.0.0.1"))), (None, None));
        assert!(first.count(&mut counted, FlowId(3), ip("10.0.0.2")));
        assert_eq!(first.full(ip("10.0.0.2")), Some(Limit::Connections));
        let wider = limiters.make(Some(&first), ConnLimits { connections: 4, ..limits }).unwrap();
        assert_eq!((wider.connections(), wider.full(ip("10.0.0.2"))), (3, None));
        counted.release(FlowId(1));
        assert_eq!((first.connections(), first.full(ip("10.0.0.1"))), (2, None));
        assert!(limiters.make(Some(&first), ConnLimits::NONE).is_none());
    }

    #[test]
    fn a_rate_goes_on_where_it_is_not_edited() {
        let mut limiters = Limiters::new(1);
        let limits = ConnLimits { rate: Some(RATE), ..ConnLimits::NONE };
        let first = limiters.make(None, limits).unwrap();
        assert_eq!(let_in(&first, "10.0.0.1", 100), 3);
        let more = ConnLimits { connections: 7, ..limits };
        let second = limiters.make(Some(&first), more).unwrap();
        assert_eq!(let_in(&second, "10.0.0.1", 100), 0);
        let faster = ConnLimits { rate: Some(ConnRate { per_second: 20, ..RATE }), ..more };
        assert_eq!(
            let_in(&limiters.make(Some(&second), faster).unwrap(), "10.0.0.1", 100),
            3,
            "a new one is full"
        );
    }

    #[test]
    fn a_services_own_number_has_a_place_however_many_sources_there_are() {
        let mut limiters = Limiters::new(1);
        let by_source = ConnLimits { source_connections: 1, ..ConnLimits::NONE };
        let (crowd, total) =
            (limiters.make(None, by_source).unwrap(), ConnLimits { connections: 1, ..by_source });
        let limited = limiters.make(None, total).unwrap();
        let mut counted = Counted::new(200_000, 2);
        let uncounted = (0..150_000u32)
            .filter(|&n| !crowd.count(&mut counted, FlowId(n), std::net::Ipv4Addr::from(n).into()))
            .count();
        assert!(uncounted > 10_000, "{uncounted}: there is no room for all");
        limited.count(&mut counted, FlowId(150_001), ip("10.0.0.1"));
        assert_eq!(limited.full(ip("10.0.0.2")), Some(Limit::Connections));
        (0..=150_001).for_each(|id| counted.release(FlowId(id)));
        assert_eq!((limited.connections(), limited.full(ip("10.0.0.2"))), (0, None));
    }

    #[test]
    fn a_source_for_which_there_is_no_bucket_has_that_of_the_one_that_came_longest_ago() {
        let limits =
            ConnLimits { source_rate: Some(ConnRate { per_second: 1, burst: 1 }), ..ConnLimits::NONE };
        let limiter = Limiters::new(1).make(None, limits).unwrap();
        let clients = (0..100_000u32).map(|n| IpAddr::from(std::net::Ipv4Addr::from(n)));
        let displaced = clients
            .filter(|client| {
                let displaces = limiter.displaces(*client, Tick(100));
                assert_eq!(limiter.exceeded(*client, false, Tick(100)), None, "{client} is let in");
                displaces
            })
            .count();
        assert!(displaced > 30_000, "{displaced}");
        assert!(!limiter.displaces(ip("99.0.0.1"), Tick(400)), "those before are forgotten");
    }
}
