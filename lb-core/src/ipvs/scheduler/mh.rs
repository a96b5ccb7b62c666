//! mh, Maglev hashing: the client's address names the real server, and a change of the servers moves few clients.
//!
//! The table of 4093 places is filled as in the paper: each server has an order of preference of its own, a permutation
//! of the places made of two hashes of its address and port, and takes in turn the first free ones, in turns of as many as
//! its weight says, cut down so that the greatest has 32 to 63. Quiescing keeps a server's places, in which it refuses. Flags: `mh-port` hashes
//! the client's port too; `mh-fallback` tries other places when the server is quiesced or overloaded. Stateless: all
//! workers pick the same.
//!
//! Source: Eisenbud et al., "Maglev", NSDI 2016, §3.4; of size, hashes and turns: Linux, `net/netfilter/ipvs/ip_vs_mh.c`, and
//! recorded picks.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::sh::fold;
use super::{Change, Facts, Loads, Request, Room, Stateless};
use crate::tables::{Server, Service};

pub(super) const FACTS: Facts =
    Facts { flags: ["mh-fallback", "mh-port", "flag-3"], is_stateless: true, ..Facts::USUAL };

/// Places in the table: a prime.
const PLACES: u32 = 4093;
/// Both words of the keys of the two hashes.
const KEYS: [u64; 2] = [2_654_435_761, 2_654_446_892];
const FREE: u32 = u32::MAX;
/// The greatest share of a turn has this many bits.
const SHARE_BITS: u32 = 6;

fn hash(key: u64, address: IpAddr, port: u16, offset: u32) -> u32 {
    let number = fold(address).wrapping_add(port.into()).wrapping_add(offset);
    let mut hasher = SipHasher13::new_with_keys(key, key);
    hasher.write(&number.to_le_bytes());
    hasher.finish() as u32
}

#[derive(Clone, Debug)]
pub(super) struct Compiled {
    /// Indices into the list of servers; empty when no server ever had a weight.
    places: Box<[u32]>,
}

impl Compiled {
    /// The table does not change when a server is quiesced, under this scheduler or before it.
    pub(super) fn new(_: Option<&Compiled>, change: &Change<'_>) -> Compiled {
        let weights: Vec<u32> = change.servers.iter().map(|server| server.last_weight).collect();
        Compiled { places: fill(change.servers, &shares(&weights)) }
    }
}

/// How many places a server takes in its turn.
pub(super) fn shares(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, super::gcd).max(1);
    let greatest = weights.iter().max().copied().unwrap_or(0) / divisor;
    let shift = (u32::BITS - greatest.leading_zeros()).saturating_sub(SHARE_BITS);
    let share = |&weight: &u32| if weight == 0 { 0 } else { ((weight / divisor) >> shift).max(1) };
    weights.iter().map(share).collect()
}

fn fill(servers: &[Server], shares: &[u32]) -> Box<[u32]> {
    if shares.iter().all(|&share| share == 0) {
        return Box::default();
    }
    let start = |server: &Server| hash(KEYS[0], server.address, server.port, 0) % PLACES;
    let step = |server: &Server| hash(KEYS[1], server.address, server.port, 0) % (PLACES - 1) + 1;
    let mut preferences: Vec<(u32, u32)> = servers.iter().map(|s| (start(s), step(s))).collect();
    let mut places = vec![FREE; PLACES as usize];
    let mut left = PLACES;
    loop {
        for (index, &share) in shares.iter().enumerate() {
            let (preferred, step) = &mut preferences[index];
            for _ in 0..share {
                while places[*preferred as usize] != FREE {
                    *preferred = (*preferred + *step) % PLACES;
                }
                places[*preferred as usize] = index as u32;
                left -= 1;
                if left == 0 {
                    return places.into();
                }
            }
        }
    }
}

pub(super) type State = Stateless<Mh>;

#[derive(Clone, Debug)]
pub(super) enum Mh {}

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
        let flags = service.scheduler_flags;
        let (address, port) = (request.client.0, if flags.port() { request.client.1 } else { 0 });
        let at = |offset| hash(KEYS[0], address, port, offset) % PLACES;
        let available = |place: u32| {
            let index = *compiled.places.get(place as usize)? as usize;
            service.servers.get(index).is_some_and(Server::takes_new).then_some(index)
        };
        let first = at(0);
        available(first).or_else(|| {
            let tries = if flags.fallback() { PLACES } else { 0 };
            (0..tries).find_map(|offset| available(at((offset + first) % PLACES)))
        })
    }
}
