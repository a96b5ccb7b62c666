//! twos, the power of two choices: two real servers drawn by chance, by their weights, and of these the one with fewer
//! connections for its weight, the first one when they are even.
//!
//! Weights are looked up by their running sums, which are compiled: a draw costs the logarithm of the number of servers. One that draws an
//! overloaded server is made again; when that happens too often, the list is walked for those that take connections.
//!
//! Chance is a worker's own count of picks, mixed with the client's endpoint. Workers draw independently of each other, so that
//! several spread as one does; connections are counted over all workers.
//!
//! Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001; of how weights count: Linux,
//! `net/netfilter/ipvs/ip_vs_twos.c`.

use super::lc::load;
use super::sh::fold;
use super::{Change, Facts, Loads, Request, Room, Warms};
use crate::tables::{Server, Service};

pub(super) const FACTS: Facts = Facts { warms: Warms::Parts, ..Facts::USUAL };

/// Draws that may meet an overloaded server, for each of the two.
const TRIES: usize = 8;

#[derive(Clone, Debug)]
pub(super) struct Compiled {
    /// By server, its weight and those of all before it.
    sums: Box<[u64]>,
}

impl Compiled {
    pub(super) fn new(_: Option<&Compiled>, change: &Change<'_>) -> Compiled {
        let add = |sum: &mut u64, server: &Server| {
            *sum += u64::from(server.weight);
            Some(*sum)
        };
        Compiled { sums: change.servers.iter().scan(0, add).collect() }
    }

    fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(0)
    }

    /// The index of the server that holds the ticket: there are as many as the weights say.
    #[inline]
    fn holder(&self, ticket: u64) -> usize {
        self.sums.partition_point(|&sum| sum <= ticket)
    }
}

#[derive(Clone, Debug)]
pub(super) struct State {
    picks: u32,
}

impl State {
    pub(super) fn new(_: &Compiled) -> State {
        State { picks: 0 }
    }

    pub(super) fn follow(&mut self, _: &Compiled, _: &Service, _: u32) {}

    #[inline]
    pub(super) fn pick(
        &mut self,
        compiled: &Compiled,
        service: &Service,
        loads: &impl Loads,
        request: &Request,
        _: &mut Room,
    ) -> Option<usize> {
        let total = compiled.total();
        if total == 0 {
            return None;
        }
        self.picks = self.picks.wrapping_add(1);
        let (address, port) = request.client;
        let client = u64::from(fold(address)) << 16 | u64::from(port);
        let mut chance = client.rotate_left(16) ^ u64::from(self.picks) << 32;
        let mut draw = || {
            for _ in 0..TRIES {
                chance = mixed(chance);
                let index = compiled.holder(scaled(chance, total));
                let server = service.servers.get(index)?;
                if server.takes_new() {
                    return Some((index, server));
                }
            }
            chance = mixed(chance);
            among_others(service, chance)
        };
        let (first, second) = (draw()?, draw()?);
        let cost = |(_, server): (usize, &Server)| u128::from(load(loads, server.id));
        let weight = |(_, server): (usize, &Server)| u128::from(server.weight);
        let is_second = cost(second) * weight(first) < cost(first) * weight(second);
        Some(if is_second { second.0 } else { first.0 })
    }
}

/// Draws of those that take new connections, by a walk.
#[cold]
fn among_others(service: &Service, chance: u64) -> Option<(usize, &Server)> {
    let all = || service.servers.iter().enumerate().filter(|(_, server)| server.takes_new());
    let total = all().map(|(_, server)| u64::from(server.weight)).sum();
    let mut left = scaled(chance, total);
    // Another worker may take one of them away meanwhile: then nobody is picked.
    all().find(|(_, server)| {
        let is_it = left < u64::from(server.weight);
        left = left.saturating_sub(server.weight.into());
        is_it
    })
}

/// A number below `bound`; of no bound 0.
#[inline]
fn scaled(chance: u64, bound: u64) -> u64 {
    ((u128::from(chance) * u128::from(bound)) >> 64) as u64
}

/// A number of which each bit depends on each bit of `n`.
///
/// Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Counts, Idle, changed, request, server, worker};
    use super::super::SchedulerKind;
    use super::*;

    fn request_of(client: u16) -> Request {
        Request { client: (request().client.0, client), ..request() }
    }

    #[test]
    fn without_connections_shares_follow_the_weights() {
        let service =
            changed(None, SchedulerKind::Twos, vec![server(0, 4), server(1, 3), server(2, 2), server(3, 0)]);
        let mut state = worker();
        let mut picks = [0u32; 4];
        for client in 0..9000 {
            picks[state.pick(&service, &Idle, &request_of(client)).unwrap()] += 1;
        }
        assert_eq!(picks[3], 0);
        for (picks, weight) in picks.into_iter().zip([4u32, 3, 2]) {
            assert!(picks.abs_diff(weight * 1000) < 150, "{picks} picks, weight {weight}");
        }
    }

    #[test]
    fn overloaded_servers_get_nothing_and_the_others_share_by_weight() {
        use std::sync::atomic::Ordering::Relaxed;
        let servers = (0..100).map(|id| server(id, 1 + id % 3)).collect();
        let service = changed(None, SchedulerKind::Twos, servers);
        let takes_new = |id: usize| id >= 96;
        for (id, server) in service.servers.iter().enumerate() {
            server.overloaded.store(!takes_new(id), Relaxed);
        }
        let mut state = worker();
        let mut picks = [0u32; 100];
        for client in 0..7000 {
            picks[state.pick(&service, &Idle, &request_of(client)).unwrap()] += 1;
        }
        // Weights 1, 2, 3 and 1.
        assert_eq!(picks[..96].iter().sum::<u32>(), 0);
        for (picks, weight) in picks[96..].iter().zip([1u32, 2, 3, 1]) {
            assert!(picks.abs_diff(weight * 1000) < 150, "{picks} picks, weight {weight}");
        }
        service.servers.iter().for_each(|server| server.overloaded.store(true, Relaxed));
        assert_eq!(state.pick(&service, &Idle, &request_of(1)), None);
    }

    #[test]
    fn two_choices_keep_held_connections_nearly_even() {
        let service = changed(None, SchedulerKind::Twos, (0..10).map(|id| server(id, 1)).collect());
        let counts = Counts::none(10);
        let mut state = worker();
        for client in 0..5000 {
            let picked = state.pick(&service, &counts, &request_of(client)).unwrap();
            counts.0.borrow_mut()[picked] += 1;
        }
        // One choice alone would spread by some 20 to either side.
        let held = counts.0.borrow();
        assert!(held.iter().all(|held| held.abs_diff(500) <= 5), "{held:?}");
    }
}
