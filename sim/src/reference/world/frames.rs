//! Frames to be sent, their checksums right; and the random numbers that they are drawn by.

use std::net::IpAddr;

use lb_core::ipvs::quic_lb::{Config, Key};

use crate::reference::checksum::{address_sum, fold, of_sctp, seal_ipv4, sum};
use crate::reference::parse::{ICMP, ICMPV6, SCTP, TCP, UDP};

/// SplitMix64 (Steele, Lea, Flood, 2014).
pub(in crate::reference) struct Rng(pub(in crate::reference) u64);

impl Rng {
    pub(in crate::reference) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(in crate::reference) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(in crate::reference) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(in crate::reference) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub(in crate::reference) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// What a frame is made of.
#[derive(Clone, Debug)]
pub(in crate::reference) struct Recipe {
    pub(in crate::reference) macs: ([u8; 6], [u8; 6]),
    pub(in crate::reference) tags: Vec<u16>,
    pub(in crate::reference) src: IpAddr,
    pub(in crate::reference) dst: IpAddr,
    pub(in crate::reference) ttl: u8,
    pub(in crate::reference) id: u32,
    pub(in crate::reference) dont_fragment: bool,
    /// IPv4 options, a multiple of four bytes.
    pub(in crate::reference) options: Vec<u8>,
    /// IPv6 extension headers: kind and the six bytes behind its first two.
    pub(in crate::reference) extensions: Vec<(u8, [u8; 6])>,
    /// Offset and more.
    pub(in crate::reference) fragment: Option<(u16, bool)>,
    pub(in crate::reference) protocol: u8,
    /// Transport header and data, its checksum right.
    pub(in crate::reference) segment: Vec<u8>,
    pub(in crate::reference) padding: usize,
}

impl Recipe {
    pub(in crate::reference) fn build(&self) -> Vec<u8> {
        let mut out = [self.macs.1, self.macs.0].concat();
        for tag in &self.tags {
            out.extend([0x81, 0, (tag >> 8) as u8, *tag as u8]);
        }
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                out.extend([8, 0]);
                let header_len = 20 + self.options.len();
                let total = (header_len + self.segment.len()) as u16;
                let (offset, more) = self.fragment.unwrap_or((0, false));
                let flags = offset / 8 + 0x2000 * u16::from(more) + 0x4000 * u16::from(self.dont_fragment);
                let mut header = vec![0x40 | (header_len / 4) as u8, 0];
                header.extend(total.to_be_bytes());
                header.extend((self.id as u16).to_be_bytes());
                header.extend(flags.to_be_bytes());
                header.extend([self.ttl, self.protocol, 0, 0]);
                header.extend(src.octets());
                header.extend(dst.octets());
                header.extend(&self.options);
                seal_ipv4(&mut header);
                out.extend(header);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                out.extend([0x86, 0xdd]);
                let mut extensions = self.extensions.clone();
                if let Some((offset, more)) = self.fragment {
                    let word = (offset | u16::from(more)).to_be_bytes();
                    let id = self.id.to_be_bytes();
                    extensions.push((44, [word[0], word[1], id[0], id[1], id[2], id[3]]));
                }
                let kinds: Vec<u8> =
                    extensions.iter().map(|extension| extension.0).chain([self.protocol]).collect();
                let len = (extensions.len() * 8 + self.segment.len()) as u16;
                out.extend([0x60, 1, 2, 3]);
                out.extend(len.to_be_bytes());
                out.extend([kinds[0], self.ttl]);
                out.extend(src.octets());
                out.extend(dst.octets());
                for ((_, body), next) in extensions.iter().zip(&kinds[1..]) {
                    out.extend([*next, 0]);
                    out.extend(body);
                }
            }
            _ => panic!("one family"),
        }
        out.extend(&self.segment);
        out.extend(std::iter::repeat_n(0xee, self.padding));
        out
    }
}

/// A segment with its checksum, between two ends.
pub(in crate::reference) fn segment(
    protocol: u8,
    (src, dst): (IpAddr, IpAddr),
    mut segment: Vec<u8>,
) -> Vec<u8> {
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        ICMP | ICMPV6 => 2,
        SCTP => {
            let checksum = of_sctp(&segment, segment.len());
            segment[8..12].copy_from_slice(&checksum.to_le_bytes());
            return segment;
        }
        _ => return segment,
    };
    segment[at..at + 2].fill(0);
    let mut total = u64::from(sum(&segment));
    if protocol != ICMP {
        total += address_sum(src) + address_sum(dst) + segment.len() as u64 + u64::from(protocol);
    }
    let field = match !fold(total) {
        0 if protocol == UDP => 0xffff,
        field => field,
    };
    segment[at..at + 2].copy_from_slice(&field.to_be_bytes());
    segment
}

/// `numbers`: its own, and the one that it acknowledges. Options are a multiple of four bytes.
pub(in crate::reference) fn tcp(
    ports: (u16, u16),
    numbers: (u32, u32),
    flags: u8,
    options: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let mut out = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    out.extend([numbers.0, numbers.1].map(u32::to_be_bytes).concat());
    out.extend([((20 + options.len()) * 4) as u8, flags, 4, 0, 0, 0, 0, 0]);
    out.extend(options);
    out.extend(data);
    out
}

pub(in crate::reference) fn udp(ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let len = (8 + data.len()) as u16;
    let mut out = [ports.0, ports.1, len, 0].map(u16::to_be_bytes).concat();
    out.extend(data);
    out
}

/// Two chunks, the second one without a value.
pub(in crate::reference) fn sctp(ports: (u16, u16), chunks: [u8; 2], value: &[u8]) -> Vec<u8> {
    let mut out = [ports.0, ports.1, 0x0102, 0x0304, 0, 0].map(u16::to_be_bytes).concat();
    out.extend([chunks[0], 0]);
    out.extend((4 + value.len() as u16).to_be_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend([chunks[1], 0, 0, 4]);
    out
}

/// Of each two ways to write connection IDs, by the numbers 0 and 1: in odd worlds by a key, of a whole block, of an odd and of an even number of bytes,
/// with server IDs that are longer and shorter than their half.
pub(in crate::reference) fn quic_configs(seed: u64) -> [Config; 2] {
    let lengths = match seed % 4 {
        1 => [(1, 4), (2, 14)],
        3 => [(1, 5), (5, 4)],
        _ => [(1, 4), (2, 5)],
    };
    let key = (seed % 2 == 1).then(|| Key::parse("8f95f09245765f80256934e50c66207f").expect("32 digits"));
    [0, 1].map(|id: usize| {
        let (id_len, nonce_len) = lengths[id];
        Config::new(id as u32, id_len, nonce_len, key).expect("within all bounds")
    })
}

/// The server ID of so many bytes of the real server whose address ends so.
pub(in crate::reference) fn quic_id(server: u8, len: u8) -> Vec<u8> {
    let mut id = vec![7; len.into()];
    id[usize::from(len) - 1] = server;
    id
}

/// What an address ends with.
pub(in crate::reference) fn last(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

/// A QUIC packet's beginning: a short header, or a long one of this kind and version.
pub(in crate::reference) fn quic(long: Option<(u8, u32)>, connection_id: &[u8], data: &[u8]) -> Vec<u8> {
    let mut out = match long {
        Some((kind, version)) => {
            let mut out = vec![0xc0 | kind << 4];
            out.extend(version.to_be_bytes());
            out.push(connection_id.len() as u8);
            out
        }
        None => vec![0x40],
    };
    out.extend(connection_id);
    out.extend(data);
    out
}
