//! The IP header in the other address family (RFC 7915): what of it has a counterpart is read ([`Fields`]), and written anew.
//!
//! IPv4 options and IPv6 extension headers stay behind, but for what says that the packet is a fragment. The transport header is
//! somebody else's to bring up to date ([`rewrite`](crate::path)), and what an ICMP error says is in [`icmp`].

pub mod icmp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::parse::{Fragment, Headers, ipv6_extensions};
use super::{array, be16, ethernet, ipv4, ipv6};
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::tables::Protocol;

/// By how much an IPv6 header is longer than an IPv4 one without options.
pub const GROWTH: u32 = (ipv6::LEN - ipv4::LEN) as u32;
/// Every IPv6 link takes a packet of so many bytes (RFC 8200 §5).
pub const MIN_IPV6_MTU: u16 = 1280;
const FRAGMENT_HEADER: usize = 8;
const FRAGMENT: u8 = 44;
/// Longest header that is written.
pub const MAX_HEADER: usize = ipv6::LEN + FRAGMENT_HEADER;
/// An IPv4 packet up to so long may be split on its way, one that was longer as IPv6 may not (RFC 7915 §5.1): its sender is able to send it smaller.
const MAY_BE_SPLIT: u32 = MIN_IPV6_MTU as u32 - GROWTH;
/// Longest IPv4 piece, header included, that becomes a fragment which every IPv6 link takes.
pub const IPV4_PIECE: u16 = MIN_IPV6_MTU - GROWTH as u16 - FRAGMENT_HEADER as u16;

/// The addresses of a header to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addresses {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Addresses {
    /// Source and destination; `None`: they are of different families.
    pub fn of(src: IpAddr, dst: IpAddr) -> Option<Addresses> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(Addresses::V4(src, dst)),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(Addresses::V6(src, dst)),
            _ => None,
        }
    }
}

/// A packet's place in a datagram that was split; its offset in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub id: u32,
    pub offset: u16,
    pub has_more: bool,
}

/// What an IP header of either family says that one of the other can say as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fields {
    /// Type of service, traffic class.
    pub tos: u8,
    pub ttl: u8,
    /// ICMP of the packet's own family.
    pub protocol: Protocol,
    /// Bytes behind the header and its options or extensions.
    pub payload_len: u16,
    pub piece: Option<Piece>,
}

impl Fields {
    /// Reads the header at `l3` of `packet`. Returns where the payload begins, too.
    ///
    /// # Errors
    /// `Untranslatable`: it has an extension header that may not be left out (RFC 7915 §5.1), or of a fragment some of its data; or there is no such
    /// header.
    pub fn read(packet: &[u8], l3: usize, is_ipv6: bool) -> Result<(Fields, usize), DropReason> {
        let read = if is_ipv6 { Self::read_ipv6(packet, l3) } else { Self::read_ipv4(packet, l3) };
        read.ok_or(DropReason::Untranslatable)
    }

    fn read_ipv4(packet: &[u8], l3: usize) -> Option<(Fields, usize)> {
        let ip = ipv4::header(packet, l3)?;
        let header_len = ipv4::header_len(ip);
        let fragmentation = ipv4::fragmentation(ip);
        let (offset, has_more) = ((fragmentation & ipv4::OFFSET) << 3, fragmentation & ipv4::MF != 0);
        let piece = Piece { id: be16(ip[4], ip[5]).into(), offset, has_more };
        let fields = Fields {
            tos: ip[1],
            ttl: ip[8],
            protocol: Protocol(ip[9]),
            payload_len: be16(ip[2], ip[3]).checked_sub(header_len as u16)?,
            piece: (offset > 0 || has_more).then_some(piece),
        };
        Some((fields, l3 + header_len))
    }

    fn read_ipv6(packet: &[u8], l3: usize) -> Option<(Fields, usize)> {
        let ip = ipv6::header(packet, l3)?;
        let first = l3 + ipv6::LEN;
        let walked = ipv6_extensions(packet, first, Protocol(ip[6])).ok()?;
        may_be_left_out(packet, ip[6], first, walked.l4).filter(|&may| may)?;
        // RFC 6946: one that is all of its datagram is no fragment.
        let piece = walked.piece.filter(|piece| piece.offset > 0 || piece.has_more);
        if piece.is_some_and(|piece| piece.at != walked.l4) || is_extension(walked.protocol.0) {
            return None;
        }
        let fields = Fields {
            tos: ip[0] << 4 | ip[1] >> 4,
            ttl: ip[7],
            protocol: walked.protocol,
            payload_len: be16(ip[4], ip[5]).checked_sub((walked.l4 - first) as u16)?,
            piece: piece.map(|piece| Piece { id: piece.id, offset: piece.offset, has_more: piece.has_more }),
        };
        Some((fields, walked.l4))
    }

    /// The header for these addresses. `id` is the identification of an IPv4 packet that is no fragment.
    ///
    /// # Errors
    /// `Untranslatable`: the packet would be too long.
    pub fn header(&self, addresses: Addresses, id: u16) -> Result<ArrayVec<u8, MAX_HEADER>, DropReason> {
        let mut header = ArrayVec::new();
        // There is room for both.
        let _ = match addresses {
            Addresses::V4(src, dst) => {
                let ip = self.ipv4(src, dst, id).ok_or(DropReason::Untranslatable)?;
                header.try_extend_from_slice(&ip)
            }
            Addresses::V6(src, dst) => {
                let (ip, fragment) = self.ipv6(src, dst).ok_or(DropReason::Untranslatable)?;
                let len = if self.piece.is_some() { FRAGMENT_HEADER } else { 0 };
                header.try_extend_from_slice(&ip).and(header.try_extend_from_slice(&fragment[..len]))
            }
        };
        Ok(header)
    }

    /// RFC 7915 §5.1, §5.1.1.
    fn ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> Option<ipv4::Header> {
        let total = self.payload_len.checked_add(ipv4::LEN as u16)?;
        let (id, fragmentation) = match self.piece {
            Some(piece) => (piece.id as u16, piece.offset >> 3 | if piece.has_more { ipv4::MF } else { 0 }),
            None if u32::from(total) > MAY_BE_SPLIT => (id, ipv4::DF),
            None => (id, 0),
        };
        let mut ip = [0; ipv4::LEN];
        (ip[0], ip[1], ip[8], ip[9]) =
            (0x45, self.tos, self.ttl, self.other_protocol(Protocol::ICMPV6, Protocol::ICMP));
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[4..6].copy_from_slice(&id.to_be_bytes());
        ip[6..8].copy_from_slice(&fragmentation.to_be_bytes());
        ip[12..16].copy_from_slice(&src.octets());
        ip[16..20].copy_from_slice(&dst.octets());
        ipv4::fill_checksum(&mut ip);
        Some(ip)
    }

    /// RFC 7915 §4.1. With the fragment header, which is of use when it is a fragment.
    fn ipv6(&self, src: Ipv6Addr, dst: Ipv6Addr) -> Option<(ipv6::Header, [u8; FRAGMENT_HEADER])> {
        let protocol = self.other_protocol(Protocol::ICMP, Protocol::ICMPV6);
        let mut fragment = [0; FRAGMENT_HEADER];
        let (next, len) = match self.piece {
            Some(piece) => {
                fragment[0] = protocol;
                fragment[2..4]
                    .copy_from_slice(&(piece.offset & !7 | u16::from(piece.has_more)).to_be_bytes());
                fragment[4..].copy_from_slice(&piece.id.to_be_bytes());
                (FRAGMENT, self.payload_len.checked_add(FRAGMENT_HEADER as u16)?)
            }
            None => (protocol, self.payload_len),
        };
        let mut ip = [0; ipv6::LEN];
        (ip[0], ip[1], ip[6], ip[7]) = (0x60 | self.tos >> 4, self.tos << 4, next, self.ttl);
        ip[4..6].copy_from_slice(&len.to_be_bytes());
        ip[8..24].copy_from_slice(&src.octets());
        ip[24..40].copy_from_slice(&dst.octets());
        Some((ip, fragment))
    }

    fn other_protocol(&self, own: Protocol, other: Protocol) -> u8 {
        if self.protocol == own { other.0 } else { self.protocol.0 }
    }
}

fn is_extension(kind: u8) -> bool {
    matches!(kind, 0 | 43 | FRAGMENT | 51 | 60)
}

/// Whether all extension headers from `at`, where one of this kind is, to `end` are such that a packet is the same without: no authentication header, and no
/// routing header that leads on. `None`: they are not there.
fn may_be_left_out(packet: &[u8], mut kind: u8, mut at: usize, end: usize) -> Option<bool> {
    const ROUTING: u8 = 43;
    const AUTHENTICATION: u8 = 51;
    while at < end {
        let header: &[u8; 8] = array(packet, at)?;
        let segments_left = header[3];
        if kind == AUTHENTICATION || kind == ROUTING && segments_left > 0 {
            return Some(false);
        }
        at += if kind == FRAGMENT { FRAGMENT_HEADER } else { (usize::from(header[1]) + 1) * 8 };
        kind = header[0];
    }
    Some(true)
}

/// How long such a packet is in the other family, in bytes, and whether it may not be split there.
#[inline]
pub fn translated_len(headers: &Headers) -> (u32, bool) {
    let payload = headers.l4_len() as u32;
    if headers.is_ipv6 {
        let len = payload + ipv4::LEN as u32;
        (len, headers.fragment == Fragment::None && len > MAY_BE_SPLIT)
    } else {
        let fragment = if headers.fragment == Fragment::None { 0 } else { FRAGMENT_HEADER as u32 };
        (payload + ipv6::LEN as u32 + fragment, headers.dont_fragment)
    }
}

/// Puts `header` in the place of what is from `l3` up to `until`; the Ethernet header with its tags stays before it, and names its family.
///
/// # Errors
/// `NoBuffer`: there is no room before the frame, which is as it was.
pub fn replace<P: Packet>(
    packet: &mut P,
    l3: usize,
    until: usize,
    header: &[u8],
    is_ipv6: bool,
) -> Result<(), DropReason> {
    let shrinks = until as isize - l3 as isize - header.len() as isize;
    if packet.data().len() < until {
        return Err(DropReason::NoBuffer);
    }
    let by = shrinks.unsigned_abs();
    if shrinks < 0 {
        packet.move_start(shrinks).map_err(|_| DropReason::NoBuffer)?;
        packet.data_mut().copy_within(by..by + l3, 0);
    } else {
        packet.data_mut().copy_within(..l3, by);
        packet.move_start(shrinks).map_err(|_| DropReason::NoBuffer)?;
    }
    let ether_type = if is_ipv6 { ethernet::IPV6 } else { ethernet::IPV4 };
    let frame = packet.data_mut();
    if let Some(place) = frame.get_mut(l3..l3 + header.len()) {
        place.copy_from_slice(header);
    }
    if let Some(place) = frame.get_mut(l3 - 2..l3) {
        place.copy_from_slice(&ether_type.to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
