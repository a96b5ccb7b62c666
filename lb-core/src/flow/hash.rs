//! Hashes of tuples: where a flow stands in the index, and which worker owns it.
//!
//! Folded multiplication (the high half of a 64 × 64 bit product xor its low half) under a secret seed: a few cycles,
//! and nobody who does not know the seed can aim many flows at one bucket.

/// A tuple's hash under a table's seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowHash(pub(super) u64);

impl FlowHash {
    /// Of nothing.
    pub const NONE: FlowHash = FlowHash(0);

    /// What is compared in the index before an entry is looked at; never 0, which marks a free slot.
    #[inline]
    pub(super) fn tag(self) -> u16 {
        (self.0 >> 48) as u16 | 1
    }

    /// The same tuple's in a zone; in zone 0 its own.
    #[must_use]
    pub(crate) fn in_zone(self, zone: u16) -> FlowHash {
        match zone {
            0 => self,
            zone => {
                FlowHash(fold(self.0 ^ u64::from(zone).wrapping_mul(FIRST), self.0.rotate_left(32) ^ THIRD))
            }
        }
    }

    /// A number below `n`.
    pub fn below(self, n: u32) -> usize {
        scale(self.0 as u32, n)
    }

    /// A number below `buckets`.
    #[inline]
    pub(super) fn first_bucket(self, buckets: u32) -> usize {
        scale(self.0 as u32, buckets)
    }

    /// Another number below `buckets`, independent of the first.
    #[inline]
    pub(super) fn second_bucket(self, buckets: u32) -> usize {
        scale((fold(self.0, SECOND) >> 16) as u32, buckets)
    }
}

/// Keys the hashes; the same for all workers of a data plane.
#[derive(Clone, Copy, Debug)]
pub struct Hasher {
    seed: u64,
    /// For the other factor of a product: with a known one, a product could be made 0.
    second: u64,
    /// What every packet's hash would have to work out of these again.
    seed_of_ipv4: u64,
    seed_of_rest: u64,
}

const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;
const SECOND: u64 = 0xd6e8_feb8_6659_fd93;
const THIRD: u64 = 0xa076_1d64_78bd_642f;

impl Hasher {
    pub fn new(seed: u64) -> Hasher {
        let seed = fold(seed ^ FIRST, THIRD);
        Hasher {
            seed,
            second: fold(seed ^ SECOND, FIRST),
            seed_of_ipv4: seed ^ FIRST,
            seed_of_rest: seed ^ THIRD,
        }
    }

    /// Addresses and ports in host order.
    #[inline]
    pub fn ipv4(self, src: u32, dst: u32, sport: u16, dport: u16, protocol: u8) -> FlowHash {
        let addresses = u64::from(src) << 32 | u64::from(dst);
        FlowHash(self.finish(addresses ^ self.seed_of_ipv4, sport, dport, protocol))
    }

    /// Addresses as on the wire, ports in host order.
    #[inline]
    pub fn ipv6(self, src: &[u8; 16], dst: &[u8; 16], sport: u16, dport: u16, protocol: u8) -> FlowHash {
        let (s1, s2) = halves(src);
        let (d1, d2) = halves(dst);
        let source = fold(s1 ^ self.seed, s2 ^ self.second);
        let destination = fold(d1 ^ self.seed.rotate_left(32), d2 ^ self.second.rotate_left(32));
        FlowHash(self.finish(source ^ destination.rotate_left(23) ^ self.seed, sport, dport, protocol))
    }

    /// `seeded`: the addresses, under the seed.
    #[inline]
    fn finish(self, seeded: u64, sport: u16, dport: u16, protocol: u8) -> u64 {
        let ports = u32::from(sport) << 16 | u32::from(dport);
        let rest = u64::from(ports) << 16 | u64::from(protocol);
        fold(fold(seeded, rest ^ SECOND) ^ seeded ^ self.seed, self.seed_of_rest)
    }

    /// A checksum of two words.
    pub(super) fn checksum(self, a: u64, b: u64) -> u32 {
        let sum = fold(fold(a ^ self.seed, b ^ FIRST) ^ a, self.second);
        (sum ^ sum >> 32) as u32
    }

    /// The worker, below `workers`, that owns the flows of an outside endpoint (IPv4 addresses: `u128::from(u32)`).
    #[inline]
    pub fn owner(self, outside: u128, port: u16, workers: u16) -> u16 {
        let address = fold((outside >> 64) as u64 ^ self.second, outside as u64 ^ self.seed.rotate_left(17));
        let hash = fold(fold(address ^ self.seed, u64::from(port) ^ FIRST) ^ address, self.seed ^ SECOND);
        scale((hash >> 32) as u32, u32::from(workers)) as u16
    }
}

impl Hasher {
    /// A number that nobody who does not know the seed can tell from another count's.
    #[inline]
    pub fn random(self, count: u64) -> u64 {
        fold(fold(count ^ self.seed, self.second ^ THIRD) ^ count, self.seed ^ FIRST)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// Maps a full-range number to 0..n without a division.
#[inline]
fn scale(hash: u32, n: u32) -> usize {
    ((u64::from(hash) * u64::from(n)) >> 32) as usize
}

#[inline]
fn halves(bytes: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*bytes);
    (whole as u64, (whole >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_ports_spread_evenly_over_buckets_and_workers() {
        let hasher = Hasher::new(1);
        let (mut first, mut second, mut owners) = ([0u32; 64], [0u32; 64], [0u32; 16]);
        for n in 0..64_000u32 {
            let hash = hasher.ipv4(0x0a00_0000 + (n >> 8), 0xc000_020a, n as u16, 80, 6);
            first[hash.first_bucket(64)] += 1;
            second[hash.second_bucket(64)] += 1;
            owners[usize::from(hasher.owner(u128::from(0x0a00_0000 + (n >> 8)), n as u16, 16))] += 1;
        }
        // 1,000 expected in each of 64, 4,000 in each of 16; five standard deviations.
        assert!(first.iter().chain(&second).all(|&n| n.abs_diff(1000) < 160), "{first:?} {second:?}");
        assert!(owners.iter().all(|&n| n.abs_diff(4000) < 320), "{owners:?}");
    }

    #[test]
    fn another_seed_gives_other_buckets() {
        let at = |seed| Hasher::new(seed).ipv4(1, 2, 3, 4, 6).first_bucket(1 << 20);
        assert_ne!(at(1), at(2));
    }

    #[test]
    fn ipv6_hash_depends_on_every_byte_of_both_addresses() {
        let hasher = Hasher::new(3);
        let plain = hasher.ipv6(&[0; 16], &[0; 16], 1, 2, 6);
        for byte in 0..16 {
            let mut address = [0; 16];
            address[byte] = 1;
            assert_ne!(plain, hasher.ipv6(&address, &[0; 16], 1, 2, 6));
            assert_ne!(plain, hasher.ipv6(&[0; 16], &address, 1, 2, 6));
        }
    }
}
