//! The schedulers that hash: which real server an address falls on, written as the definitions say.

use std::hash::Hasher;
use std::net::IpAddr;

use lb_core::flow::Tuple;
use lb_core::tables::{Server, Service};
use siphasher::sip::SipHasher13;

/// Buckets of dh and sh.
const BUCKETS: usize = 256;
/// Places of mh.
const PLACES: usize = 4093;

/// An address as a number of 32 bits: an IPv6 address is the exclusive or of its four words.
pub(super) fn folded(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => u32::from_be_bytes(address.octets()),
        IpAddr::V6(address) => {
            let words = address.octets();
            words
                .chunks_exact(4)
                .fold(0, |all, word| all ^ u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
        }
    }
}

fn bucket(number: u32) -> usize {
    (u64::from(number) * 0x61c8_8647 % (1 << 32) / (1 << 24)) as usize
}

/// Who owns each bucket: the servers take turns in the order of the list.
fn dealt(servers: &[Server], turn: impl Fn(&Server) -> u32) -> Vec<usize> {
    let mut owners = Vec::new();
    while owners.len() < BUCKETS {
        for (index, server) in servers.iter().enumerate() {
            for _ in 0..turn(server).max(1) {
                owners.push(index);
                if owners.len() == BUCKETS {
                    return owners;
                }
            }
        }
    }
    owners
}

/// dh: the address that was asked for.
pub(super) fn destination(
    service: &Service,
    packet: &Tuple,
    takes_new: impl Fn(&Server) -> bool,
) -> Option<usize> {
    if service.servers.is_empty() {
        return None;
    }
    let owner = dealt(&service.servers, |_| 1)[bucket(folded(packet.dst))];
    takes_new(&service.servers[owner]).then_some(owner)
}

/// sh: the client's address, with its port if so flagged.
pub(super) fn source(
    service: &Service,
    packet: &Tuple,
    takes_new: impl Fn(&Server) -> bool,
) -> Option<usize> {
    if service.servers.is_empty() {
        return None;
    }
    let owners = dealt(&service.servers, |server| server.weight);
    let port = if service.scheduler_flags.port() { packet.sport } else { 0 };
    let first = bucket(folded(packet.src).wrapping_add(port.into()));
    if takes_new(&service.servers[owners[first]]) {
        return Some(owners[first]);
    }
    if !service.scheduler_flags.fallback() {
        return None;
    }
    (0..BUCKETS)
        .map(|further| owners[(first + first + further) % BUCKETS])
        .find(|&owner| takes_new(&service.servers[owner]))
}

/// The next number of the SplitMix64 generator (Steele, Lea and Flood, OOPSLA 2014) at `n`.
pub(super) fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn siphash(key: u64, number: u32) -> usize {
    let mut hasher = SipHasher13::new_with_keys(key, key);
    hasher.write(&number.to_le_bytes());
    (hasher.finish() % (1 << 32)) as usize
}

/// A Maglev table, of mh or of maglev, made when the servers or their last weights changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Maglev {
    made_of: Vec<(IpAddr, u16, u32)>,
    owners: Vec<usize>,
}

impl Maglev {
    /// mh: the client's address, with its port if so flagged. Who is quiesced keeps its places.
    pub(super) fn pick(
        &mut self,
        service: &Service,
        packet: &Tuple,
        takes_new: impl Fn(&Server) -> bool,
    ) -> Option<usize> {
        let of = |server: &Server| (server.address, server.port, server.last_weight);
        let made_of: Vec<_> = service.servers.iter().map(of).collect();
        if made_of != self.made_of {
            self.owners = owners(&made_of, PLACES, |address, port| {
                let number = folded(address).wrapping_add(port.into());
                let start = siphash(2_654_435_761, number) % PLACES;
                (start, siphash(2_654_446_892, number) % (PLACES - 1) + 1)
            });
            self.made_of = made_of;
        }
        if self.owners.is_empty() {
            return None;
        }
        let port = if service.scheduler_flags.port() { packet.sport } else { 0 };
        let number = folded(packet.src).wrapping_add(port.into());
        let at =
            |offset: usize| self.owners[siphash(2_654_435_761, number.wrapping_add(offset as u32)) % PLACES];
        if takes_new(&service.servers[at(0)]) {
            return Some(at(0));
        }
        if !service.scheduler_flags.fallback() {
            return None;
        }
        let first = siphash(2_654_435_761, number) % PLACES;
        (0..PLACES)
            .map(|offset| at((offset + first) % PLACES))
            .find(|&owner| takes_new(&service.servers[owner]))
    }
}

/// Keys of maglev: where the wishes of a server begin, how far they are apart, where a client falls.
const MAGLEV: [u64; 3] = [1, 2, 3];

/// A number below `bound`, of an address and port.
fn spread(key: u64, address: IpAddr, port: u16, bound: usize) -> usize {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let mut hasher = SipHasher13::new_with_keys(key, u64::from_be_bytes(*b"\0\0maglev"));
    hasher.write(&[octets.as_slice(), &port.to_be_bytes()].concat());
    (u128::from(hasher.finish()) * bound as u128 / (1 << 64)) as usize
}

impl Maglev {
    /// maglev: servers take their turns by address and port, the quiesced ones none. After 128 places in a row whose servers are
    /// overloaded the first server that is not.
    pub(super) fn pick_canonical(
        &mut self,
        service: &Service,
        packet: &Tuple,
        takes_new: impl Fn(&Server) -> bool,
    ) -> Option<usize> {
        let mut order: Vec<usize> =
            (0..service.servers.len()).filter(|&index| service.servers[index].weight > 0).collect();
        order.sort_by_key(|&index| (service.servers[index].address, service.servers[index].port));
        let facts = |&index: &usize| {
            let server = &service.servers[index];
            (server.address, server.port, server.weight)
        };
        let made_of: Vec<_> = order.iter().map(facts).collect();
        let size = service.table_size as usize;
        if made_of != self.made_of || self.owners.len() != size {
            self.owners = owners(&made_of, size, |address, port| {
                let start = spread(MAGLEV[0], address, port, size);
                (start, spread(MAGLEV[1], address, port, size - 1) + 1)
            });
            self.made_of = made_of;
        }
        if order.is_empty() {
            return None;
        }
        let port = if service.scheduler_flags.port() { packet.sport } else { 0 };
        let first = spread(MAGLEV[2], packet.src, port, size);
        let near = (0..128).map(|further| self.owners[(first + further) % size]);
        let all = near.chain(0..order.len()).map(|owner| order[owner]);
        all.into_iter().find(|&index| takes_new(&service.servers[index]))
    }
}

/// Who owns each place, by address, port and weight; `wish` says which place a server wishes first, and how far the next wishes are.
fn owners(
    servers: &[(IpAddr, u16, u32)],
    places: usize,
    wish: impl Fn(IpAddr, u16) -> (usize, usize),
) -> Vec<usize> {
    let weights = || servers.iter().map(|server| server.2).filter(|&weight| weight > 0);
    let Some(greatest) = weights().max() else { return Vec::new() };
    let divisor =
        (1..=greatest).rev().find(|divisor| weights().all(|weight| weight % divisor == 0)).unwrap_or(1);
    // The greatest turn is below 64.
    let mut halvings = 0;
    while (greatest / divisor) >> halvings >= 64 {
        halvings += 1;
    }
    let mut owners = vec![None; places];
    let mut free = places;
    let mut wishes: Vec<_> = servers
        .iter()
        .map(|&(address, port, _)| {
            let (start, step) = wish(address, port);
            (0..places).map(move |wish| (start + wish * step) % places)
        })
        .collect();
    while free > 0 {
        for (index, server) in servers.iter().enumerate().filter(|(_, server)| server.2 > 0) {
            for _ in 0..((server.2 / divisor) >> halvings).max(1) {
                if free == 0 {
                    break;
                }
                let place = wishes[index].find(|&place| owners[place].is_none()).expect("a place is free");
                owners[place] = Some(index);
                free -= 1;
            }
        }
    }
    owners.into_iter().flatten().collect()
}
