//! A packet as the ends see it, and its bytes.

use std::net::IpAddr;

use lb_core::flow::Tuple;
use lb_core::tables::Protocol;

use super::segment::Segment;
use crate::wire::{self, Body, ICMP, ICMPV6, Ip, Link, TCP, UDP};

/// What a packet says besides its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Says {
    Tcp(Segment),
    Udp,
    Echo { is_reply: bool, seq: u16 },
}

/// Ends of an echo request: its identifier is the source's port, its kind the destination's; an answer's are reversed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Packet {
    pub(super) ends: Tuple,
    pub(super) says: Says,
    pub(super) ttl: u8,
    pub(super) payload: Vec<u8>,
}

/// What asks for an echo, type and code.
pub(super) fn echo_request(is_ipv6: bool) -> u16 {
    if is_ipv6 { 128 << 8 } else { 8 << 8 }
}

/// What leaves the director.
pub(super) trait OnWire {
    fn to(&self) -> IpAddr;
    fn frame(&self, link: &Link) -> Vec<u8>;
}

impl OnWire for Packet {
    fn to(&self) -> IpAddr {
        self.ends.dst
    }

    fn frame(&self, link: &Link) -> Vec<u8> {
        self.frame_with(link, 7, true)
    }
}

impl Packet {
    /// Its bytes, with such an identification, to be cut or not.
    pub(super) fn frame_with(&self, link: &Link, id: u16, dont_fragment: bool) -> Vec<u8> {
        let Packet { ends: Tuple { src, dst, sport, dport, .. }, says, ttl, .. } = *self;
        let payload = &self.payload[..];
        let options = &self.segment().map(|segment| segment.options.bytes()).unwrap_or_default()[..];
        let body = match says {
            Says::Tcp(Segment { flags, seq, ack, window, .. }) => {
                Body::Tcp { sport, dport, seq, ack, flags, window, options, payload }
            }
            Says::Udp => Body::Udp { sport, dport, is_summed: true, payload },
            Says::Echo { is_reply, seq } => {
                Body::Echo { is_reply, id: if is_reply { dport } else { sport }, seq, payload }
            }
        };
        let mut out = Vec::new();
        wire::build(&mut out, link, &Ip { src, dst, ttl, id, dont_fragment, options: 0 }, &body);
        out
    }

    /// Bytes of the IP packet.
    pub(super) fn len(&self) -> u64 {
        let header = if self.ends.src.is_ipv6() { 40 } else { 20 };
        let transport = self.segment().map_or(8, |segment| 20 + segment.options.bytes().len());
        (header + transport + self.payload.len()) as u64
    }

    /// Of TCP.
    pub(super) fn segment(&self) -> Option<&Segment> {
        match &self.says {
            Says::Tcp(segment) => Some(segment),
            _ => None,
        }
    }

    /// `None`: an ICMP error, or nothing that is sent here. A segment's options are not read.
    pub(super) fn read(frame: &[u8]) -> Option<Packet> {
        let seen = wire::read(frame).ok()?;
        let bytes = frame.get(seen.l4..seen.end).filter(|_| seen.is_first())?;
        let word = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let is_ipv6 = seen.src.is_ipv6();
        let (says, (sport, dport), at) = match seen.protocol {
            TCP => {
                let header = usize::from(bytes.get(12)? >> 4) * 4;
                let segment = Segment::plain(*bytes.get(13)?, long(4)?, long(8)?);
                let says = Says::Tcp(Segment { window: word(14)?, ..segment });
                (says, (word(0)?, word(2)?), header)
            }
            UDP => (Says::Udp, (word(0)?, word(2)?), 8),
            ICMP | ICMPV6 => {
                let (id, request) = (word(4)?, echo_request(is_ipv6));
                match word(0)? {
                    kind if kind == request => {
                        (Says::Echo { is_reply: false, seq: word(6)? }, (id, request), 8)
                    }
                    0 | 0x8100 => (Says::Echo { is_reply: true, seq: word(6)? }, (request, id), 8),
                    _ => return None,
                }
            }
            _ => return None,
        };
        let protocol = Protocol(seen.protocol);
        let ends = Tuple { src: seen.src, dst: seen.dst, sport, dport, protocol };
        Some(Packet { ends, says, ttl: seen.ttl, payload: bytes.get(at..)?.to_vec() })
    }

    pub(super) fn flags(&self) -> u8 {
        self.segment().map_or(0, |segment| segment.flags)
    }
}

/// The number of an address.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}
