//! sh, source hashing: the client's address names the real server.
//!
//! 256 buckets are dealt out to the servers in the order of the list, to each as many in a row as its weight says, over and
//! over. A quiesced server still gets one, in which it refuses. Flags: `sh-port` hashes the client's port too; `sh-fallback`
//! tries other buckets when the server is quiesced or overloaded. Stateless: all workers pick the same.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_sh.c`, and recorded picks.

use std::net::IpAddr;

use super::{Change, Facts, Loads, Request, Room, Stateless};
use crate::tables::{Server, Service};

pub(super) const FACTS: Facts =
    Facts { flags: ["sh-fallback", "sh-port", "flag-3"], is_stateless: true, ..Facts::USUAL };

pub(super) const BUCKETS: usize = 256;

/// An address as 32 bits, its words exclusive-ored.
pub(super) fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let all = u128::from(address);
            (all ^ all >> 32 ^ all >> 64 ^ all >> 96) as u32
        }
    }
}

/// The bucket of a number: the top bits of its product with the golden ratio (the kernel's `hash_32`).
pub(super) fn bucket(number: u32) -> usize {
    (number.wrapping_mul(0x61c8_8647) >> 24) as usize
}

/// Indices into the list of servers; empty without servers.
#[derive(Clone, Debug)]
pub(super) struct Compiled(Box<[u32]>);

impl Compiled {
    pub(super) fn new(_: Option<&Compiled>, change: &Change<'_>) -> Compiled {
        Compiled(deal(change.servers, |server| server.weight))
    }
}

/// Deals the buckets out to the servers, in turns of `share` buckets, at least one.
pub(super) fn deal(servers: &[Server], share: impl Fn(&Server) -> u32) -> Box<[u32]> {
    let turns = servers.iter().enumerate().flat_map(|(index, server)| {
        std::iter::repeat_n(index as u32, (share(server).max(1) as usize).min(BUCKETS))
    });
    turns.cycle().take(BUCKETS).collect()
}

pub(super) type State = Stateless<Sh>;

#[derive(Clone, Debug)]
pub(super) enum Sh {}

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
        let (address, port) = request.client;
        let number = fold(address).wrapping_add(if flags.port() { port.into() } else { 0 });
        let first = bucket(number);
        let tries = if flags.fallback() { BUCKETS } else { 0 };
        // Looking further adds the first bucket's number twice: so does the kernel.
        std::iter::once(first)
            .chain((0..tries).map(|offset| (offset + 2 * first) % BUCKETS))
            .filter_map(|bucket| Some(*compiled.0.get(bucket)? as usize))
            .find(|&index| service.servers.get(index).is_some_and(Server::takes_new))
    }
}
