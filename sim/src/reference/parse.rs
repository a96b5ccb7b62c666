//! What a frame says: read anew from the RFCs, one byte after the other, for this model alone.
//!
//! Of a frame with several faults the first one in the order of the headers is the reason.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_core::drop::DropReason;

use super::checksum::sum;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
pub(super) const SCTP: u8 = 132;
pub(super) const ESP: u8 = 50;
pub(super) const AH: u8 = 51;

/// Chunks (RFC 9260 §3.2).
pub(super) const INIT: u8 = 1;
pub(super) const ABORT: u8 = 6;
pub(super) const COOKIE_ECHO: u8 = 10;
pub(super) const COOKIE_ACK: u8 = 11;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    Whole,
    First,
    Later,
}

/// What an IP packet's headers say, as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    /// Where the IP header begins, the transport header (a later fragment's data), and where the packet ends.
    pub(super) l3: usize,
    pub(super) l4: usize,
    pub(super) end: usize,
    /// 802.1Q tags that name a VLAN, outer and inner; 0: none.
    pub(super) vlan: u16,
    pub(super) inner_vlan: u16,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    pub(super) sport: u16,
    pub(super) dport: u16,
    pub(super) tcp_flags: u8,
    /// Of SCTP: the chunk that counts.
    pub(super) chunk: Option<u8>,
    /// Bytes of which this is the first fragment, where that is known.
    pub(super) whole_len: Option<usize>,
    pub(super) icmp_type: u8,
    pub(super) ttl: u8,
    pub(super) id: u32,
    pub(super) piece: Piece,
    pub(super) dont_fragment: bool,
    /// For a group of hosts, or for this link alone.
    pub(super) is_for_host: bool,
}

impl Read {
    pub(super) fn ip_len(&self) -> usize {
        self.end - self.l3
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.src.is_ipv6()
    }

    /// RFC 1122 §3.2.2, RFC 4443 §2.1: a message about another packet.
    pub(super) fn is_icmp_error(&self) -> bool {
        let is_error = match self.protocol {
            ICMP if !self.is_ipv6() => [3, 4, 5, 11, 12].contains(&self.icmp_type),
            ICMPV6 if self.is_ipv6() => self.icmp_type < 128,
            _ => false,
        };
        is_error && self.piece != Piece::Later
    }

    /// An error that a translator passes on: all but redirects.
    pub(super) fn is_error_to_pass_on(&self) -> bool {
        self.is_icmp_error() && (self.is_ipv6() || [3, 4, 11, 12].contains(&self.icmp_type))
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn ipv4(bytes: &[u8], at: usize) -> IpAddr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]).into()
}

pub(super) fn ipv6(bytes: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets).into()
}

/// Reads a frame; `None` when it is not IP.
pub(super) fn read(frame: &[u8]) -> Result<Option<Read>, DropReason> {
    if frame.len() < 14 {
        return Err(DropReason::TruncatedEthernet);
    }
    let mut at = 12;
    let mut tags = 0;
    let mut vlans = Vec::new();
    while word(frame, at) == 0x8100 || word(frame, at) == 0x88a8 {
        tags += 1;
        if tags > 2 || frame.len() < at + 6 {
            return Err(DropReason::BadVlan);
        }
        let id = word(frame, at + 2) & 0xfff;
        // A priority tag names no VLAN; within one that does, it is none either.
        if id != 0 {
            vlans.push(id);
        }
        at += 4;
    }
    let vlan = vlans.first().copied().unwrap_or(0);
    let inner_vlan = vlans.get(1).copied().unwrap_or(0);
    let mut read = match word(frame, at) {
        0x0800 => read_ipv4(frame, at + 2)?,
        0x86dd => read_ipv6(frame, at + 2)?,
        _ => return Ok(None),
    };
    (read.vlan, read.inner_vlan) = (vlan, inner_vlan);
    if read.piece != Piece::Later {
        read_transport(frame, &mut read)?;
    }
    Ok(Some(read))
}

fn read_ipv4(frame: &[u8], l3: usize) -> Result<Read, DropReason> {
    if frame.len() < l3 + 20 {
        return Err(DropReason::TruncatedIpv4);
    }
    if frame[l3] >> 4 != 4 {
        return Err(DropReason::BadIpVersion);
    }
    let header_len = usize::from(frame[l3] & 15) * 4;
    if header_len < 20 || frame.len() < l3 + header_len {
        return Err(DropReason::BadIpv4HeaderLength);
    }
    let total = usize::from(word(frame, l3 + 2));
    if total < header_len || frame.len() < l3 + total {
        return Err(DropReason::BadIpv4TotalLength);
    }
    if sum(&frame[l3..l3 + header_len]) != 0xffff {
        return Err(DropReason::BadIpv4Checksum);
    }
    read_options(&frame[l3 + 20..l3 + header_len])?;
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (ipv4(frame, l3 + 12), ipv4(frame, l3 + 16)) else {
        unreachable!("IPv4 addresses")
    };
    let is_for_host = dst.is_multicast() || dst.is_broadcast();
    // RFC 1122 §3.2.1.3; 0.0.0.0 is who has no address yet, and speaks to all alone.
    let has_no_address_yet = src.is_unspecified() && is_for_host;
    if src.octets()[0] == 0 && !has_no_address_yet
        || src.is_loopback()
        || src.is_multicast()
        || src.is_broadcast()
        || dst.octets()[0] == 0
        || dst.is_loopback()
    {
        return Err(DropReason::MartianAddress);
    }
    let flags = word(frame, l3 + 6);
    let offset = usize::from(flags & 0x1fff) * 8;
    Ok(Read {
        l3,
        l4: l3 + header_len,
        end: l3 + total,
        vlan: 0,
        inner_vlan: 0,
        src: src.into(),
        dst: dst.into(),
        protocol: frame[l3 + 9],
        sport: 0,
        dport: 0,
        tcp_flags: 0,
        chunk: None,
        whole_len: None,
        icmp_type: 0,
        ttl: frame[l3 + 8],
        id: u32::from(word(frame, l3 + 4)),
        piece: piece(offset, flags & 0x2000 != 0, total - header_len)?,
        dont_fragment: flags & 0x4000 != 0,
        is_for_host,
    })
}

fn read_options(options: &[u8]) -> Result<(), DropReason> {
    let mut at = 0;
    while at < options.len() && options[at] != 0 {
        if options[at] == 1 {
            at += 1;
            continue;
        }
        let len = options.get(at + 1).map_or(0, |len| usize::from(*len));
        if len < 2 || at + len > options.len() {
            return Err(DropReason::BadIpv4Option);
        }
        if options[at] == 131 || options[at] == 137 {
            return Err(DropReason::Ipv4SourceRoute);
        }
        at += len;
    }
    Ok(())
}

/// RFC 791 §3.2, RFC 8200 §4.5: a piece that is not the last is a multiple of eight bytes long, and none goes beyond 65,535.
fn piece(offset: usize, has_more: bool, len: usize) -> Result<Piece, DropReason> {
    match (offset, has_more) {
        (0, false) => Ok(Piece::Whole),
        _ if len == 0 || offset + len > 65_535 || has_more && !len.is_multiple_of(8) => {
            Err(DropReason::BadFragment)
        }
        (0, true) => Ok(Piece::First),
        _ => Ok(Piece::Later),
    }
}

fn read_ipv6(frame: &[u8], l3: usize) -> Result<Read, DropReason> {
    if frame.len() < l3 + 40 {
        return Err(DropReason::TruncatedIpv6);
    }
    if frame[l3] >> 4 != 6 {
        return Err(DropReason::BadIpVersion);
    }
    let end = l3 + 40 + usize::from(word(frame, l3 + 4));
    if frame.len() < end {
        return Err(DropReason::BadIpv6PayloadLength);
    }
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (ipv6(frame, l3 + 8), ipv6(frame, l3 + 24)) else {
        unreachable!("IPv6 addresses")
    };
    // RFC 4291 §2.5: loopback and IPv4-mapped addresses stay within a host; `::` is who has no address yet.
    let stays_within = |address: Ipv6Addr| address.is_loopback() || address.to_ipv4_mapped().is_some();
    if stays_within(src)
        || stays_within(dst)
        || src.is_multicast()
        || dst.is_unspecified()
        || src.is_unspecified() && !dst.is_multicast()
    {
        return Err(DropReason::MartianAddress);
    }
    let walked = walk(&frame[..end], l3 + 40, frame[l3 + 6])?;
    let (id, piece) = match walked.fragment {
        Some((id, offset, has_more)) => (id, piece(offset, has_more, end - walked.at)?),
        None => (0, Piece::Whole),
    };
    Ok(Read {
        l3,
        l4: walked.at,
        end,
        vlan: 0,
        inner_vlan: 0,
        src: src.into(),
        dst: dst.into(),
        protocol: walked.protocol,
        sport: 0,
        dport: 0,
        tcp_flags: 0,
        chunk: None,
        whole_len: None,
        icmp_type: 0,
        ttl: frame[l3 + 7],
        id,
        piece,
        dont_fragment: true,
        is_for_host: dst.is_multicast() || dst.is_unicast_link_local(),
    })
}

/// Where IPv6's extension headers end.
pub(super) struct Walked {
    pub(super) at: usize,
    pub(super) protocol: u8,
    /// Identification, offset and the more-bit of the fragment header.
    pub(super) fragment: Option<(u32, usize, bool)>,
}

/// Walks at most eight extension headers, from `at` on, in a packet that ends where `packet` ends.
pub(super) fn walk(packet: &[u8], at: usize, protocol: u8) -> Result<Walked, DropReason> {
    let mut walked = Walked { at, protocol, fragment: None };
    for count in 0.. {
        if ![0, 43, 44, 51, 60].contains(&walked.protocol) {
            return Ok(walked);
        }
        let bad = Err(DropReason::BadIpv6Extension);
        if count == 8 || packet.len() < walked.at + 8 {
            return bad;
        }
        let header = &packet[walked.at..];
        let len = match walked.protocol {
            // Hop-by-hop options come first or not at all (RFC 8200 §4.1).
            0 if count > 0 => return bad,
            // RFC 5095.
            43 if header[2] == 0 && header[3] != 0 => return Err(DropReason::Ipv6RoutingHeader0),
            44 if walked.fragment.is_some() => return bad,
            44 => 8,
            // RFC 4302 §2.2.
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if packet.len() < walked.at + len {
            return bad;
        }
        if walked.protocol == 44 {
            let id = u32::from(word(header, 4)) << 16 | u32::from(word(header, 6));
            let offset = word(header, 2);
            walked.fragment = Some((id, usize::from(offset & 0xfff8), offset & 1 == 1));
        }
        walked.at += len;
        walked.protocol = header[0];
        if walked.fragment.is_some_and(|(_, offset, _)| offset > 0) {
            return Ok(walked);
        }
    }
    unreachable!("the headers were counted")
}

fn read_transport(frame: &[u8], read: &mut Read) -> Result<(), DropReason> {
    let is_whole = read.piece == Piece::Whole;
    let segment = &frame[read.l4..read.end];
    match read.protocol {
        TCP => {
            if segment.len() < 20 {
                return Err(DropReason::TruncatedTcp);
            }
            let header_len = usize::from(segment[12] >> 4) * 4;
            if header_len < 20 || is_whole && header_len > segment.len() {
                return Err(DropReason::BadTcpOffset);
            }
            read.tcp_flags = segment[13];
        }
        UDP => {
            if segment.len() < 8 {
                return Err(DropReason::TruncatedUdp);
            }
            let len = usize::from(word(segment, 4));
            if len < 8 || is_whole && len > segment.len() {
                return Err(DropReason::BadUdpLength);
            }
        }
        SCTP => {
            if segment.len() < 16 {
                return Err(DropReason::TruncatedSctp);
            }
            read.chunk = Some(counting_chunk(&segment[12..]));
        }
        ICMP if !read.is_ipv6() && segment.len() < 8 => return Err(DropReason::TruncatedIcmp),
        ICMPV6 if read.is_ipv6() && segment.len() < 8 => return Err(DropReason::TruncatedIcmp),
        ICMP if !read.is_ipv6() => read.icmp_type = segment[0],
        ICMPV6 if read.is_ipv6() => read.icmp_type = segment[0],
        _ => {}
    }
    if has_ports(read.protocol) {
        (read.sport, read.dport) = (word(segment, 0), word(segment, 2));
    }
    Ok(())
}

pub(super) fn has_ports(protocol: u8) -> bool {
    [TCP, UDP, SCTP].contains(&protocol)
}

/// The first chunk; but an ABORT that is bundled behind a cookie or its acknowledgement ends the association (RFC 9260 §3.3.7).
fn counting_chunk(chunks: &[u8]) -> u8 {
    let len = usize::from(word(chunks, 2));
    let next = len.next_multiple_of(4);
    let is_cookie = chunks[0] == COOKIE_ECHO || chunks[0] == COOKIE_ACK;
    let is_aborted = is_cookie && len >= 4 && chunks.len() >= next + 4 && chunks[next] == ABORT;
    if is_aborted { ABORT } else { chunks[0] }
}

/// Whether more fragments follow a fragment, its place in the datagram, and where its data begins in the frame.
pub(super) fn fragment(frame: &[u8], read: &Read) -> (bool, usize, usize) {
    if !read.is_ipv6() {
        let flags = word(frame, read.l3 + 6);
        return (flags & 0x2000 != 0, usize::from(flags & 0x1fff) * 8, read.l4);
    }
    let (mut at, mut kind) = (read.l3 + 40, frame[read.l3 + 6]);
    while kind != 44 {
        let unit = if kind == 51 {
            (usize::from(frame[at + 1]) + 2) * 4
        } else {
            (usize::from(frame[at + 1]) + 1) * 8
        };
        (kind, at) = (frame[at], at + unit);
    }
    let offset = word(frame, at + 2);
    (offset & 1 == 1, usize::from(offset & 0xfff8), at + 8)
}
