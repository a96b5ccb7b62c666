//! Hashes by which kernels agree whose a packet is: Bob Jenkins' lookup3 of whole words, as published.

use std::net::IpAddr;

use lb_core::flow::Tuple;

use super::model::Connection;
use crate::wire::{ICMP, ICMPV6, TCP, UDP};

/// Of three words at most.
fn of_words(words: &[u32], seed: u32) -> u32 {
    /// (word that is mixed, with which, turned by how many bits)
    const ROUNDS: [(usize, usize, u32); 7] =
        [(2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24)];
    let begin = 0xdead_beef_u32.wrapping_add(4 * words.len() as u32).wrapping_add(seed);
    let mut state: [u32; 3] =
        std::array::from_fn(|at| begin.wrapping_add(words.get(at).copied().unwrap_or_default()));
    for (word, with, by) in ROUNDS {
        state[word] = (state[word] ^ state[with]).wrapping_sub(state[with].rotate_left(by));
    }
    state[2]
}

/// A hash as a number below `n`.
pub(super) fn below(hash: u32, n: u32) -> u32 {
    ((u64::from(hash) * u64::from(n)) >> 32) as u32
}

/// Of a source, of IPv6 the first 32 bits, as they lie in memory.
pub(super) fn of_source(source: IpAddr, seed: u32) -> u32 {
    let word = match source {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(address) => (u128::from(address) >> 96) as u32,
    };
    of_words(&[word.to_be()], seed)
}

/// The same for both directions.
fn of_ends(addresses: [IpAddr; 2], ports: Option<[u16; 2]>, seed: u32) -> u32 {
    let mut words = addresses.map(|address| match address {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.segments().map(u32::from);
            (a << 16 | b) ^ (c << 16 | d) ^ (e << 16 | f) ^ (g << 16 | h)
        }
    });
    let mut ports = ports.unwrap_or_default().map(u32::from);
    words.sort_unstable();
    ports.sort_unstable();
    of_words(&[words[0], words[1], ports[1] << 16 | ports[0]], seed)
}

/// `has_ports`: of the ports too, of what is whole and has any, and of the protocol.
pub(super) fn of_packet(ends: &Tuple, (has_ports, is_whole): (bool, bool), seed: u32) -> u32 {
    let says_ports = is_whole && [TCP, UDP].contains(&ends.protocol.0);
    let ports = says_ports.then_some([ends.sport, ends.dport]);
    let hash = of_ends([ends.src, ends.dst], ports.filter(|_| has_ports), seed);
    hash ^ if has_ports { ends.protocol.0.into() } else { 0 }
}

/// As the connection was before anything was translated, and as its answers come.
pub(super) fn of_connection(connection: &Connection, has_ports: bool, seed: u32) -> u32 {
    let (original, reply) = (&connection.original, &connection.reply);
    let ports = match original.protocol.0 {
        ICMP => None,
        ICMPV6 => Some([original.sport; 2]),
        _ => Some([original.sport, reply.sport]),
    };
    let hash = of_ends([original.src, reply.src], ports.filter(|_| has_ports), seed);
    hash ^ if has_ports { original.protocol.0.into() } else { 0 }
}
