//! maglev, Maglev hashing as in the paper, for several directors: the client's address names the real server, the same one on each
//! director that has the same real servers, in whatever order they were added.
//!
//! What [`mh`](super::mh) does otherwise, since the kernel does: its table depends on the order of the list and has 4093 places,
//! which is few for more than some forty servers; quiescing a server refuses its clients; it folds addresses to 32 bits.
//! Here
//! - the table has the size that the service says ([`DEFAULT_SIZE`] or a greater prime): a hundred places a server make shares even to a
//!   percent or two;
//! - servers take their turns in the order of address and port;
//! - a quiesced server has no places, and its clients go to others, as when it is removed: few of the others' clients move;
//! - where the server is overloaded, the one of the next place that takes new connections is picked.
//!
//! The flag `maglev-port` hashes the client's port too. Stateless: all workers and directors pick the same. The hash has no
//! secret key, as directors would have to agree on it: a client that chooses its addresses can choose its server.
//!
//! Source: Eisenbud et al., "Maglev", NSDI 2016, §3.4.

use std::hash::Hasher;
use std::iter::repeat_n;
use std::net::IpAddr;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::mh::shares;
use super::{Change, Facts, Loads, Request, Room, Stateless, Warms};
use crate::tables::{Server, Service};

pub(super) const FACTS: Facts = Facts {
    flags: ["flag-1", "maglev-port", "flag-3"],
    is_stateless: true,
    warms: Warms::Parts,
    ..Facts::USUAL
};

pub const DEFAULT_SIZE: u32 = 65_537;
/// A table of this size takes 64 MB.
pub const MAX_SIZE: u32 = 1 << 24;

/// Places that are tried one after the other; after them, the list.
const TRIES: usize = 128;

/// Whether a table may have this size: a prime from [`DEFAULT_SIZE`] to [`MAX_SIZE`].
pub fn is_size(size: u32) -> bool {
    (DEFAULT_SIZE..=MAX_SIZE).contains(&size)
        && !size.is_multiple_of(2)
        && (3..).step_by(2).take_while(|divisor| divisor * divisor <= size).all(|divisor| !size.is_multiple_of(divisor))
}

/// Keys of the hashes: where a server's permutation begins, its step, and where a client falls.
const BEGIN: u64 = 1;
const STEP: u64 = 2;
const CLIENT: u64 = 3;

fn hash(key: u64, address: IpAddr, port: u16) -> u64 {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut hasher = SipHasher13::new_with_keys(key, 0x6d61_676c_6576);
    hasher.write(&address.octets());
    hasher.write(&port.to_be_bytes());
    hasher.finish()
}

/// A number below `bound`.
fn scaled(hash: u64, bound: u32) -> u32 {
    ((u128::from(hash) * u128::from(bound)) >> 64) as u32
}

/// One that has places.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Holder {
    address: IpAddr,
    port: u16,
    share: u32,
    /// In the list.
    index: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Compiled {
    /// In the order in which they take their turns.
    holders: Arc<[Holder]>,
    /// Indices into the list of servers; empty when none has a weight.
    places: Arc<[u32]>,
}

impl Compiled {
    pub(super) fn new(before: Option<&Compiled>, change: &Change<'_>) -> Compiled {
        let weights: Vec<u32> = change.servers.iter().map(|server| server.weight).collect();
        let holder = |(index, (server, share)): (usize, (&Server, u32))| Holder {
            address: server.address,
            port: server.port,
            share,
            index: index as u32,
        };
        let all = change.servers.iter().zip(shares(&weights)).enumerate().map(holder);
        let mut holders: Vec<Holder> = all.filter(|holder| holder.share > 0).collect();
        holders.sort_unstable();
        let size = change.table_size;
        match before {
            Some(before) if *before.holders == *holders && before.has_size(size) => before.clone(),
            _ => Compiled { places: fill(size, &holders), holders: holders.into() },
        }
    }

    fn has_size(&self, size: u32) -> bool {
        self.places.is_empty() || self.places.len() == size as usize
    }
}

/// A server's permutation of the places, one after the other.
struct Permutation {
    next: u32,
    step: u32,
}

impl Permutation {
    /// Its first place that is not taken, of which there is one, by walking it.
    fn walk(&self, taken: &[u64], size: u32) -> u32 {
        let mut place = self.next;
        while taken[place as usize / 64] >> (place % 64) & 1 != 0 {
            place = after(place, self.step, size);
        }
        place
    }

    /// The same out of the free places, by how many steps away each is.
    fn nearest(&self, free: &[u32], size: u32) -> Option<usize> {
        let size = u64::from(size);
        let steps_of_one = inverse(self.step.into(), size);
        let steps_to = |place: u32| (u64::from(place) + size - u64::from(self.next)) * steps_of_one % size;
        (0..free.len()).min_by_key(|&index| steps_to(free[index]))
    }
}

/// So many of the last places are found by [`Permutation::nearest`]: a walk passes hundreds or thousands of taken ones to each.
const LAST: usize = 64;

/// Deals the places out. `size` is prime, so that each permutation has all places.
fn fill(size: u32, holders: &[Holder]) -> Arc<[u32]> {
    if holders.is_empty() {
        return Arc::new([]);
    }
    let permutation = |holder: &Holder| Permutation {
        next: scaled(hash(BEGIN, holder.address, holder.port), size),
        step: scaled(hash(STEP, holder.address, holder.port), size - 1) + 1,
    };
    let mut permutations: Vec<Permutation> = holders.iter().map(permutation).collect();
    let mut all: Arc<[u32]> = repeat_n(0, size as usize).collect();
    let places = Arc::make_mut(&mut all);
    // One bit a place, so that looking for a free one stays in the nearest cache.
    let mut taken = vec![0u64; (size as usize).div_ceil(64)];
    let mut turns = (0..holders.len()).cycle().flat_map(|turn| repeat_n(turn, holders[turn].share as usize));
    for turn in turns.by_ref().take((size as usize).saturating_sub(LAST)) {
        let permutation = &mut permutations[turn];
        let place = permutation.walk(&taken, size);
        permutation.next = after(place, permutation.step, size);
        taken[place as usize / 64] |= 1 << (place % 64);
        places[place as usize] = holders[turn].index;
    }
    let is_free = |&place: &u32| taken[place as usize / 64] >> (place % 64) & 1 == 0;
    let mut free: Vec<u32> = (0..size).filter(is_free).collect();
    for turn in turns {
        let permutation = &mut permutations[turn];
        let Some(nearest) = permutation.nearest(&free, size) else { break };
        let place = free.swap_remove(nearest);
        permutation.next = after(place, permutation.step, size);
        places[place as usize] = holders[turn].index;
    }
    all
}

/// The number whose product with `n` is 1 modulo `prime`, by Euclid's algorithm.
fn inverse(n: u64, prime: u64) -> u64 {
    let (mut rests, mut factors) = ((prime, n), (0, 1));
    while rests.1 > 1 {
        let times = rests.0 / rests.1;
        rests = (rests.1, rests.0 % rests.1);
        // Modulo `prime`, so that none is below 0.
        factors = (factors.1, (factors.0 + (prime - times) * factors.1) % prime);
    }
    factors.1
}

/// The sum modulo `size`.
#[inline]
fn after(place: u32, step: u32, size: u32) -> u32 {
    let sum = place + step;
    if sum >= size { sum - size } else { sum }
}

pub(super) type State = Stateless<Maglev>;

#[derive(Clone, Debug)]
pub(super) enum Maglev {}

impl State {
    #[inline]
    pub(super) fn pick(
        &mut self,
        compiled: &Compiled,
        service: &Service,
        _: &impl Loads,
        request: &Request,
        _: &mut Room,
    ) -> Option<usize> {
        let port = if service.scheduler_flags.port() { request.client.1 } else { 0 };
        let places = &compiled.places;
        let first = scaled(hash(CLIENT, request.client.0, port), places.len() as u32) as usize;
        let (before, after) = places.split_at(first);
        let takes_new = |&index: &u32| service.servers.get(index as usize).is_some_and(Server::takes_new);
        let tried = after.iter().chain(before).take(TRIES).copied().find(takes_new);
        let last = || compiled.holders.iter().map(|holder| holder.index).find(takes_new);
        Some(tried.or_else(last)? as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::Ordering::Relaxed;

    use super::super::tests::{Idle, changed, request, server, worker};
    use super::super::{Scheduler, SchedulerKind};
    use super::*;

    /// The server with this number, with an address of its own.
    fn host(n: u32, weight: u32) -> Server {
        Server { address: Ipv4Addr::from(0x0a00_0000 + n).into(), ..server(n, weight) }
    }

    fn service(servers: Vec<Server>) -> Service {
        changed(None, SchedulerKind::Maglev, servers)
    }

    /// The servers' numbers that so many clients get; `None`: refused.
    fn picks(service: &Service, clients: u32) -> Vec<Option<u32>> {
        let mut worker = worker();
        let mut pick = |client| {
            let client = (Ipv4Addr::from(client).into(), 7);
            let picked = worker.pick(service, &Idle, &Request { client, ..request() })?;
            Some(service.servers[picked].id.0)
        };
        (0..clients).map(|client| pick(client * 7919)).collect()
    }

    fn places_of(service: &Service) -> Vec<u32> {
        let places = fill_of(&service.servers);
        places.iter().map(|&index| service.servers[index as usize].id.0).collect()
    }

    fn fill_of(servers: &[Server]) -> Arc<[u32]> {
        let change = Change::new(&[], servers, 1, DEFAULT_SIZE);
        Compiled::new(None, &change).places
    }

    #[test]
    fn the_order_in_which_servers_were_added_does_not_matter() {
        let mut servers: Vec<Server> = (0..40).map(|n| host(n, 1 + n % 3)).collect();
        let one = picks(&service(servers.clone()), 5000);
        servers.reverse();
        servers.swap(3, 17);
        assert_eq!(picks(&service(servers), 5000), one);
    }

    /// The paper's own words for it, without steps in between.
    #[test]
    fn the_table_is_the_papers() {
        let servers: Vec<Server> = (0..7).map(|n| host(n, 1)).collect();
        let size = u64::from(DEFAULT_SIZE);
        let permutations: Vec<Vec<u64>> = (0..7)
            .map(|n| {
                let address = servers[n].address;
                let begin = u64::from(scaled(hash(BEGIN, address, 80), DEFAULT_SIZE));
                let step = u64::from(scaled(hash(STEP, address, 80), DEFAULT_SIZE - 1)) + 1;
                (0..size).map(|j| (begin + j * step) % size).collect()
            })
            .collect();
        let mut entry: Vec<Option<u32>> = vec![None; size as usize];
        let mut next = [0; 7];
        let mut n = 0;
        while entry.iter().filter(|entry| entry.is_some()).count() < 3000 {
            for i in 0..7 {
                let mut c = permutations[i][next[i]];
                while entry[c as usize].is_some() {
                    next[i] += 1;
                    c = permutations[i][next[i]];
                }
                entry[c as usize] = Some(i as u32);
                next[i] += 1;
                n += 1;
            }
        }
        let places = fill_of(&servers);
        let same = entry.iter().zip(places.iter()).filter(|(entry, place)| **entry == Some(**place)).count();
        assert_eq!(same, n);
    }

    /// The last places too, which are found in another way than the paper's.
    #[test]
    fn every_place_is_as_by_walking_the_permutations() {
        for (size, servers) in [(61, 3), (67, 5), (1009, 1), (1009, 40), (4093, 700)] {
            let share = |n: u32| 1 + n % 4 * (n % 3);
            let holder = |n: u32| Holder {
                address: Ipv4Addr::from(n).into(),
                port: 80,
                share: share(n),
                index: servers - n,
            };
            let holders: Vec<Holder> = (0..servers).map(holder).collect();
            let mut places = vec![None; size as usize];
            let mut walks: Vec<_> = holders
                .iter()
                .map(|holder| {
                    let begin = scaled(hash(BEGIN, holder.address, holder.port), size);
                    let step = scaled(hash(STEP, holder.address, holder.port), size - 1) + 1;
                    (0..).map(move |j| (begin + j * step) % size)
                })
                .collect();
            let turns =
                (0..servers).cycle().flat_map(|turn| repeat_n(turn as usize, share(turn) as usize));
            for turn in turns.take(size as usize) {
                let place = walks[turn].find(|&place| places[place as usize].is_none()).unwrap();
                places[place as usize] = Some(holders[turn].index);
            }
            let places: Option<Vec<u32>> = places.into_iter().collect();
            assert_eq!(places.as_deref(), Some(&*fill(size, &holders)), "{servers} servers, {size} places");
        }
    }

    #[test]
    fn a_number_times_its_inverse_is_one() {
        for prime in [2, 3, 61, 65_537, 16_777_213] {
            for n in (1..prime).step_by(prime as usize / 100 + 1) {
                assert_eq!(n * inverse(n, prime) % prime, 1, "{n} modulo {prime}");
            }
        }
    }

    #[test]
    fn shares_of_equal_servers_differ_by_one_place_at_most_and_others_follow_their_weights() {
        let count = |servers: Vec<Server>| {
            let mut counts = vec![0u32; servers.len()];
            fill_of(&servers).iter().for_each(|&index| counts[index as usize] += 1);
            counts
        };
        let equal = count((0..100).map(|n| host(n, 10)).collect());
        assert!(equal.iter().all(|&places| places == 655 || places == 656), "{equal:?}");
        let weighted = count(vec![host(1, 1), host(2, 2), host(3, 5), host(4, 0)]);
        assert_eq!(weighted[3], 0);
        for (places, weight) in weighted.into_iter().zip([1, 2, 5]) {
            assert!(places.abs_diff(DEFAULT_SIZE * weight / 8) <= 5, "{places} places, weight {weight}");
        }
    }

    #[test]
    fn when_one_of_a_hundred_servers_leaves_few_other_places_change() {
        let all = places_of(&service((0..100).map(|n| host(n, 1)).collect()));
        for gone in [0, 50, 99] {
            let less = places_of(&service((0..100).filter(|&n| n != gone).map(|n| host(n, 1)).collect()));
            let quiet: Vec<Server> = (0..100).map(|n| host(n, u32::from(n != gone))).collect();
            assert_eq!(places_of(&service(quiet)), less, "quiesced is as removed");
            let moved = all.iter().zip(&less).filter(|(a, b)| **a != gone && a != b).count();
            assert!(moved < all.len() * 3 / 100, "{moved} of {} places", all.len());
        }
    }

    #[test]
    fn clients_of_an_overloaded_server_go_to_others_and_nobody_is_refused_while_one_takes_them() {
        let service = service((0..10).map(|n| host(n, 1)).collect());
        let before = picks(&service, 2000);
        service.servers[4].overloaded.store(true, Relaxed);
        for (before, now) in before.iter().zip(picks(&service, 2000)) {
            assert!(now.is_some_and(|now| now != 4), "{now:?}");
            assert!(*before == Some(4) || *before == now, "others stay");
        }
        service.servers.iter().for_each(|server| server.overloaded.store(server.id.0 != 9, Relaxed));
        assert!(picks(&service, 100).iter().all(|picked| *picked == Some(9)));
        service.servers[9].overloaded.store(true, Relaxed);
        assert!(picks(&service, 100).iter().all(Option::is_none));
    }

    #[test]
    fn a_table_has_the_size_that_the_service_says() {
        let servers: Vec<Server> = (0..3).map(|n| host(n, 1)).collect();
        let sized = |old: Option<&Service>, table_size| {
            let scheduler = Scheduler { table_size, ..SchedulerKind::Maglev.into() };
            let key = service(vec![]).key;
            Service::new(old, crate::ids::ServiceId(0), key, scheduler, servers.clone(), 9)
        };
        let places = |service: &Service| match &service.compiled().kind {
            super::super::CompiledKind::Maglev(compiled) => compiled.places.len(),
            other => panic!("{other:?}"),
        };
        let small = sized(None, DEFAULT_SIZE);
        assert_eq!(places(&small), 65_537);
        assert_eq!(places(&sized(Some(&small), 655_373)), 655_373);
    }

    #[test]
    fn sizes_are_primes_in_their_bounds() {
        let right = [65_537, 65_539, 655_373, 16_777_213];
        let wrong = [0, 2, 4093, 65_521, 65_536, 65_538, 65_541, 66_049, 16_777_215, 16_777_216, u32::MAX];
        assert!(right.into_iter().all(is_size));
        for size in wrong {
            assert!(!is_size(size), "{size}");
        }
    }
}
