//! What tells a connection's packets from others': addresses, ports and protocol, each way, and how an entry
//! keeps them.

use std::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{FlowHash, Hasher};
use crate::tables::Protocol;
use crate::wire::parse::Headers;

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// As the connection's first packet: from the client.
    Original = 0,
    /// Back to the client.
    Reply = 1,
}

impl Direction {
    #[inline]
    pub fn index(self) -> usize {
        self as usize
    }

    #[inline]
    pub fn opposite(self) -> Direction {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }
}

/// What a packet carries, in one direction. Ports are 0 where the protocol has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub protocol: Protocol,
}

impl Tuple {
    /// Of a packet as it is.
    #[inline]
    pub fn of_packet(frame: &[u8], headers: &Headers) -> Tuple {
        Tuple {
            src: headers.source(frame),
            dst: headers.destination(frame),
            sport: headers.sport,
            dport: headers.dport,
            protocol: headers.protocol,
        }
    }

    /// The tuple of a packet that answers this one's.
    #[must_use]
    pub fn reversed(self) -> Tuple {
        Tuple { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, protocol: self.protocol }
    }

    #[inline]
    pub fn hash(&self, hasher: Hasher) -> FlowHash {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                hasher.ipv4(src.into(), dst.into(), self.sport, self.dport, self.protocol.0)
            }
            _ => self.wide_hash(hasher),
        }
    }

    #[inline(never)]
    fn wide_hash(&self, hasher: Hasher) -> FlowHash {
        hasher.ipv6(&octets(self.src), &octets(self.dst), self.sport, self.dport, self.protocol.0)
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// One direction's addresses and ports. IPv6 addresses are in [`Addresses`], and 0 here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Ends {
    pub src: u32,
    pub dst: u32,
    pub sport: u16,
    pub dport: u16,
}

impl Ends {
    pub(super) fn of(tuple: &Tuple) -> Ends {
        let number = |address| match address {
            IpAddr::V4(a) => u32::from(a),
            IpAddr::V6(_) => 0,
        };
        Ends { src: number(tuple.src), dst: number(tuple.dst), sport: tuple.sport, dport: tuple.dport }
    }
}

/// The addresses of a connection that has an IPv6 end, as on the wire: by direction, source and
/// destination. What is IPv4 is mapped (RFC 4291 §2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(64))]
pub(super) struct Addresses {
    pub(super) ends: [[[u8; 16]; 2]; 2],
}

impl Addresses {
    pub(super) fn new(original: &Tuple, reply: &Tuple) -> Addresses {
        Addresses { ends: [original, reply].map(Addresses::of) }
    }

    fn of(tuple: &Tuple) -> [[u8; 16]; 2] {
        [octets(tuple.src), octets(tuple.dst)]
    }

    pub(super) fn set_reply(&mut self, reply: &Tuple) {
        self.ends[Direction::Reply.index()] = Addresses::of(reply);
    }
}
