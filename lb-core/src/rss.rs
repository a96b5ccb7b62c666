//! Receive queues by the client's end alone: keys and tables for network cards, and the same arithmetic for the workers.
//!
//! A card looks the lowest bits of a packet's [hash](crate::toeplitz) up in a table that names a queue. Both directions of a
//! connection come to one worker when the hash is of the client's end alone: the source at ports where clients are, the destination at ports where
//! real servers are. Some cards hash the fields of one end when they are asked to. Any other does so under a key that is zero
//! wherever a bit of the other end would add something to the lowest bits, and the same elsewhere.
//!
//! With b bits that are looked up, bit i of the input adds bits i + 31 − k of the key to bit k of the index, for k below b. Of the IPv4 fields
//! only the source's bits see the key from bit 32 − b to bit 62, only the destination's from 64 − b to 94, and so on, but for b − 1 bits in between
//! that belong to two neighbours: these are zero. What is left for an address are 33 − b bits, of which the last one is set: so the lowest b bits of
//! an address alone reach every index, as do those of a port. IPv6 fields lie over these and leave the key for the source room for its first and last 32
//! bits (and 17 − b in between); the key for the destination has to choose between the families.

use std::net::IpAddr;

use crate::flow::Hasher;
use crate::ids::WorkerId;
use crate::toeplitz;

/// A key for IPv6 addresses and ports, the longest input.
pub type Key = [u8; KEY_LEN];
pub const KEY_LEN: usize = 40;

/// Tables are looked into by no more bits: then ports from [1024](crate::tables::FIRST_LOCAL_PORT) on reach every index from any address.
pub const MOST_BITS: u32 = 9;

/// The end of a packet by which a port spreads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Source,
    Destination,
}

/// How network cards are brought to look at one end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// They hash the fields of that end alone (`RTE_ETH_RSS_L3_SRC_ONLY` …), all under one key.
    Fields,
    /// They hash both ends, under a key that is zero for the other one. At the destination's it serves IPv4 alone.
    Key,
}

/// How a port spreads what it receives over its queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Spread {
    /// All is in one.
    #[default]
    OneQueue,
    /// In its device's own way.
    ItsWay,
    /// By a hash of both ends, since its device lacks something.
    BothEnds(Lack),
    /// By the client's end alone, which is this one.
    OneEnd(End, Means),
}

/// What a device lacks for spreading by one end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lack {
    /// A hash of TCP's and UDP's ports.
    Ports,
    /// A queue for each worker.
    Queues,
    /// A key that can be set.
    Key,
    /// A table that can be set, of a power of two of places.
    Table,
    /// It did not do what it was told.
    Obedience,
}

/// Which worker has an endpoint's connections, as network cards compute it.
#[derive(Debug)]
pub struct Rss {
    means: Means,
    bits: u32,
    workers: u16,
    source: Key,
    destination: Key,
    /// What each value of each byte adds to the index.
    ipv4: [[u16; 256]; 4],
    ipv6: [[u16; 256]; 16],
    port: [[u16; 256]; 2],
    /// The lowest bits of a port by what they add.
    low_bits: Box<[u16]>,
}

impl Rss {
    /// For tables that are looked into by `bits` bits. All that have the same seed have the same keys.
    ///
    /// # Panics
    /// When `bits` is not within 1..=[`MOST_BITS`], or there are more workers than places in the table.
    pub fn new(seed: u64, means: Means, bits: u32, workers: u16) -> Rss {
        assert!((1..=MOST_BITS).contains(&bits), "tables of 2^{bits} places");
        assert!((1..=1 << bits).contains(&workers), "{workers} workers in 2^{bits} places");
        let (source, destination) = keys(seed, means, bits);
        let adds = |len: usize, at: usize| {
            let mut one = [0; 36];
            let mut adds = [0u16; 256];
            for value in 1..256usize {
                let lowest = value & value.wrapping_neg();
                one[at] = lowest as u8;
                let alone = toeplitz::hash(&source, &one[..len]) & ((1 << bits) - 1);
                adds[value] = adds[value ^ lowest] ^ alone as u16;
            }
            adds
        };
        let (len, port_at) = match means {
            Means::Fields => (6, 4),
            Means::Key => (12, 8),
        };
        let port = [port_at, port_at + 1].map(|at| adds(len, at));
        let mut rss = Rss {
            means,
            bits,
            workers,
            source,
            destination,
            ipv4: std::array::from_fn(|at| adds(len, at)),
            ipv6: std::array::from_fn(|at| adds(36, at)),
            port,
            low_bits: vec![0; 1 << bits].into(),
        };
        for low in 0..1u16 << bits {
            rss.low_bits[usize::from(rss.of_port(low))] = low;
        }
        rss
    }

    pub fn means(&self) -> Means {
        self.means
    }

    /// For a port that spreads packets by this end of theirs.
    pub fn key(&self, end: End) -> &Key {
        match end {
            End::Source => &self.source,
            End::Destination => &self.destination,
        }
    }

    /// Places that a card's table must have, or a multiple of it.
    pub fn places(&self) -> usize {
        1 << self.bits
    }

    /// Whose packets a place of a table is for; tables that are longer begin anew.
    #[inline]
    pub fn worker_at(&self, index: usize) -> WorkerId {
        WorkerId((index % self.places() % usize::from(self.workers)) as u16)
    }

    /// The worker that has the connections of this endpoint: the place that a card at its side looks up.
    #[inline]
    pub fn owner(&self, address: IpAddr, port: u16) -> WorkerId {
        self.worker_at(usize::from(self.of_address(address) ^ self.of_port(port)))
    }

    /// A port that differs from `near` in its lowest bits alone, of an endpoint with this address that is the worker's. `random`
    /// says which one of several.
    pub fn port_of(&self, worker: WorkerId, address: IpAddr, near: u16, random: u16) -> u16 {
        let (worker, workers) = (usize::from(worker.0), usize::from(self.workers));
        let places = (self.places() - worker).div_ceil(workers);
        let place = worker + ((usize::from(random) * places) >> 16) * workers;
        let high = near >> self.bits << self.bits;
        high | self.low_bits[place ^ usize::from(self.of_address(address) ^ self.of_port(high))]
    }

    #[inline]
    fn of_port(&self, port: u16) -> u16 {
        sum(&self.port, port.to_be_bytes())
    }

    #[inline]
    fn of_address(&self, address: IpAddr) -> u16 {
        match address {
            IpAddr::V4(address) => sum(&self.ipv4, address.octets()),
            IpAddr::V6(address) => sum(&self.ipv6, address.octets()),
        }
    }
}

#[inline]
fn sum<const N: usize>(adds: &[[u16; 256]; N], bytes: [u8; N]) -> u16 {
    adds.iter().zip(bytes).fold(0, |sum, (adds, byte)| sum ^ adds[usize::from(byte)])
}

/// The keys of ports that hash the source, and the destination.
fn keys(seed: u64, means: Means, bits: u32) -> (Key, Key) {
    let hasher = Hasher::new(seed);
    let random = |n: u64| hasher.random(u64::MAX - n);
    // An address' room and a port's, and what of it is left.
    let (first, last, port) =
        (Part::new(random(0), 32, bits), Part::new(random(1), 32, bits), Part::new(random(2), 16, bits));
    let (mut source, mut destination) = ([0; KEY_LEN], [0; KEY_LEN]);
    match means {
        Means::Key => {
            // Where a field's first bit meets the last bit of the index: 31 bits behind its place in the input.
            first.put(&mut source, 31);
            port.put(&mut source, 31 + 64);
            last.put(&mut source, 31 + 96);
            port.put(&mut source, 31 + 256);
            first.put(&mut destination, 31 + 32);
            port.put(&mut destination, 31 + 80);
        }
        Means::Fields => {
            for (n, eight) in source.chunks_mut(8).enumerate() {
                eight.copy_from_slice(&random(3 + n as u64).to_be_bytes());
            }
            first.put(&mut source, 31);
            // Behind the address; and, for cards that leave room for what they do not hash, where a source port would be.
            for at in [32, 128, 64, 256] {
                port.put(&mut source, 31 + at);
            }
            destination = source;
        }
    }
    (source, destination)
}

/// What a field of so many bits sees of a key.
struct Part {
    value: u64,
    /// Of the field.
    len: u32,
    /// Of the index.
    bits: u32,
}

impl Part {
    fn new(random: u64, len: u32, bits: u32) -> Part {
        // The last of what is left is set, bits behind it are zero.
        let value = (random << (bits - 1) | 1 << (bits - 1)) & ((1 << len) - 1);
        Part { value, len, bits }
    }

    /// Writes it to the key so that the field's first bit adds what is at `at` to the lowest bit of the index.
    fn put(&self, key: &mut Key, at: u32) {
        let mut put = |at: u32, is_set: bool| {
            let (byte, bit) = ((at / 8) as usize, 0x80 >> (at % 8));
            key[byte] = if is_set { key[byte] | bit } else { key[byte] & !bit };
        };
        (at + 1 - self.bits..at).for_each(|before| put(before, false));
        (0..self.len).for_each(|n| put(at + n, self.value >> (self.len - 1 - n) & 1 == 1));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a network card hashes of a packet.
    #[derive(Clone, Copy, Debug)]
    struct Ends {
        from: (IpAddr, u16),
        to: (IpAddr, u16),
        has_ports: bool,
    }

    fn bytes(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    }

    /// The place that a card at a port looks up.
    fn looked_up(rss: &Rss, end: End, ends: Ends) -> usize {
        let (from, to) = (ends.from, ends.to);
        let chosen = match (rss.means(), end) {
            (Means::Key, _) => vec![from, to],
            (Means::Fields, End::Source) => vec![from],
            (Means::Fields, End::Destination) => vec![to],
        };
        let mut input: Vec<u8> = chosen.iter().flat_map(|end| bytes(end.0)).collect();
        if ends.has_ports {
            input.extend(chosen.iter().flat_map(|end| end.1.to_be_bytes()));
        }
        toeplitz::hash(rss.key(end), &input) as usize & (rss.places() - 1)
    }

    fn endpoints(is_ipv6: bool) -> impl Strategy<Value = (IpAddr, u16)> {
        let address = any::<u128>().prop_map(move |n| match is_ipv6 {
            true => IpAddr::V6(n.into()),
            false => IpAddr::V4((n as u32).into()),
        });
        (address, any::<u16>())
    }

    fn ends() -> impl Strategy<Value = Ends> {
        (any::<bool>(), any::<bool>()).prop_flat_map(|(is_ipv6, has_ports)| {
            (endpoints(is_ipv6), endpoints(is_ipv6)).prop_map(move |(from, to)| Ends { from, to, has_ports })
        })
    }

    fn all() -> impl Strategy<Value = Rss> {
        let means = prop_oneof![Just(Means::Fields), Just(Means::Key)];
        (any::<u64>(), means, 1..=MOST_BITS, 1..=64u16)
            .prop_map(|(seed, means, bits, workers)| Rss::new(seed, means, bits, workers.min(1 << bits)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_card_puts_packets_where_their_clients_end_alone_says(rss in all(), ends in ends()) {
            let Ends { from, to, has_ports } = ends;
            let port = |port| if has_ports { port } else { 0 };
            prop_assert_eq!(
                rss.worker_at(looked_up(&rss, End::Source, ends)),
                rss.owner(from.0, port(from.1))
            );
            if rss.means() == Means::Fields || from.0.is_ipv4() {
                prop_assert_eq!(
                    rss.worker_at(looked_up(&rss, End::Destination, ends)),
                    rss.owner(to.0, port(to.1))
                );
            }
        }

        #[test]
        fn a_card_that_leaves_gaps_for_what_it_does_not_hash_does_the_same_with_sources(
            seed: u64, bits in 1..=MOST_BITS, ends in ends(),
        ) {
            let rss = Rss::new(seed, Means::Fields, bits, 1);
            let from = ends.from;
            let mut input = bytes(from.0);
            input.resize(2 * input.len(), 0);
            input.extend(from.1.to_be_bytes());
            let index = toeplitz::hash(rss.key(End::Source), &input) as usize & (rss.places() - 1);
            prop_assert_eq!(index, usize::from(rss.of_address(from.0) ^ rss.of_port(from.1)));
        }

        #[test]
        fn a_port_is_found_near_any_other_that_is_the_workers_own(
            rss in all(), end in endpoints(false), worker: u16, random: u16,
        ) {
            let worker = WorkerId(worker % rss.workers);
            let port = rss.port_of(worker, end.0, end.1, random);
            prop_assert_eq!(rss.owner(end.0, port), worker);
            prop_assert_eq!(port >> rss.bits, end.1 >> rss.bits);
        }
    }

    #[test]
    fn every_place_is_reached_by_the_lowest_bits_of_addresses_and_of_ports_alone() {
        for means in [Means::Fields, Means::Key] {
            for bits in 1..=MOST_BITS {
                let rss = Rss::new(5, means, bits, 1);
                let reached = |of: &dyn Fn(u16) -> u16| {
                    let mut reached: Vec<u16> = (0..1 << bits).map(of).collect();
                    reached.sort_unstable();
                    reached == (0..1 << bits).collect::<Vec<u16>>()
                };
                assert!(reached(&|low| rss.of_port(0x4200 | low)), "{means:?}, {bits} bits");
                let ipv4 = |low: u16| rss.of_address(IpAddr::V4((0xc000_0200 | u32::from(low)).into()));
                assert!(reached(&ipv4), "{means:?}, {bits} bits");
                if means == Means::Key {
                    let ipv6 =
                        |low: u16| rss.of_address(IpAddr::V6((0x2001_0db8 << 96 | u128::from(low)).into()));
                    assert!(reached(&ipv6), "{means:?}, {bits} bits");
                }
            }
        }
    }

    #[test]
    fn another_seed_puts_clients_elsewhere() {
        let at = |seed| {
            let rss = Rss::new(seed, Means::Key, 7, 16);
            (0..64u16).map(|n| rss.owner("192.0.2.1".parse().unwrap(), 4000 + n)).collect::<Vec<_>>()
        };
        assert_ne!(at(1), at(2));
    }
}
