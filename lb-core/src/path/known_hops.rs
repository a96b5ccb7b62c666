//! Next hops to addresses that were looked up before under the same tables: connections that begin go to few real servers.

use std::net::{IpAddr, Ipv4Addr};

use crate::tables::HopId;

const PLACES_LOG2: u32 = 7;

/// One place an address, by its hash; the newer one stays.
pub(super) struct KnownHops([Option<(Ipv4Addr, HopId)>; 1 << PLACES_LOG2]);

impl KnownHops {
    pub(super) const fn new() -> KnownHops {
        KnownHops([None; 1 << PLACES_LOG2])
    }

    /// As last kept. IPv6 addresses are not.
    #[inline]
    pub(super) fn get(&self, to: IpAddr) -> Option<HopId> {
        let IpAddr::V4(to) = to else { return None };
        self.0[place(to)].filter(|&(known, _)| known == to).map(|(_, hop)| hop)
    }

    #[inline]
    pub(super) fn keep(&mut self, to: IpAddr, hop: HopId) {
        if let IpAddr::V4(to) = to {
            self.0[place(to)] = Some((to, hop));
        }
    }
}

#[inline]
fn place(address: Ipv4Addr) -> usize {
    // Fibonacci hashing (Knuth, The Art of Computer Programming 3, §6.4).
    (u32::from(address).wrapping_mul(0x9e37_79b9) >> (u32::BITS - PLACES_LOG2)) as usize
}
