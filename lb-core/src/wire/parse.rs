//! What is in this frame? The first stage of the packet path: bytes become [`Headers`], or a reason to drop them.
//!
//! Nearly every packet is untagged Ethernet, IPv4 without options, TCP, UDP or SCTP in one piece: [`parse_plain`] reads it in one
//! straight line, over an array of fixed size, and gives up at whatever is unusual. `general` reads everything, byte by
//! byte, and knows the reasons; the two agree on each packet that the first one takes (a property test says so).
//!
//! Parsing changes nothing. What it checks here need not be checked again: a header that [`Headers`] points to is
//! in the frame, whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{array, be16, checksum, ethernet, ipv4, ipv6, sctp};
use crate::drop::DropReason;
use crate::packet::RxChecksum;
use crate::tables::Protocol;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    Ip(Headers),
    /// ARP, LLDP, 802.3 …: goes to the twin.
    Other,
}

/// What the path needs to know of a packet's headers.
///
/// A burst of 32 of them stays in the first-level cache beside the tables and the frames' first lines, which is why it is kept to 40
/// bytes (a test says so) and holds no IPv6 address: those are read from the frame when they are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Headers {
    /// IPv4 addresses; 0 for IPv6.
    pub src: u32,
    pub dst: u32,
    /// Length of the IP packet, its header included. What the frame has beyond it is Ethernet padding.
    pub ip_len: u32,
    /// TCP, UDP and SCTP ports; 0 for other protocols and in later fragments.
    pub sport: u16,
    pub dport: u16,
    /// Identification of the fragments of one datagram (IPv4: also there without fragments).
    pub fragment_id: u32,
    /// Where this fragment's data belongs, in bytes.
    pub fragment_offset: u16,
    /// Bytes of the whole that the first fragment of an SCTP packet is of, once its last one came; else 0.
    pub datagram_len: u16,
    /// Identifier of the outermost 802.1Q or 802.1ad tag, priority tags (identifier 0) passed over; 0: none.
    pub vlan: u16,
    /// That of the tag within it; 0: none.
    pub inner_vlan: u16,
    /// Offset of the transport header in the frame; in a later fragment, of its data.
    pub l4: u16,
    /// Offset of the IP header in the frame.
    pub l3: u8,
    pub fragment: Fragment,
    /// TTL or hop limit.
    pub ttl: u8,
    /// What follows the IP header and all extension headers that were read.
    pub protocol: Protocol,
    pub is_ipv6: bool,
    /// Type of an ICMP or ICMPv6 message (echo reply is 0, as is everything that is no such message).
    pub icmp_type: u8,
    /// Multicast, broadcast and link-local destinations: no service and no route is ever meant, Linux takes them.
    pub is_for_twin: bool,
    /// The TCP flags (FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32); 0 for other protocols and in later fragments.
    pub tcp_flags: u8,
    /// IPv4's DF bit; true for IPv6, which no router fragments.
    pub dont_fragment: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Fragment {
    #[default]
    /// A packet in one piece (IPv6 atomic fragments included, RFC 6946).
    None,
    /// The first of several, with the ports.
    First,
    /// Any other: no transport header. For IPv6, `protocol` is then what the fragment header says, which in the first
    /// fragment may have been an extension header: fragments of a datagram are told by their addresses and identification alone.
    Later,
}

impl Headers {
    /// Of a frame that has none.
    pub const NONE: Headers = Headers {
        src: 0,
        dst: 0,
        fragment_id: 0,
        ip_len: 0,
        fragment_offset: 0,
        datagram_len: 0,
        sport: 0,
        dport: 0,
        vlan: 0,
        inner_vlan: 0,
        l4: 0,
        l3: 0,
        ttl: 0,
        protocol: Protocol(0),
        tcp_flags: 0,
        icmp_type: 0,
        fragment: Fragment::None,
        is_ipv6: false,
        dont_fragment: false,
        is_for_twin: false,
    };

    /// Bytes of 802.1Q and 802.1ad tags.
    #[inline]
    pub fn vlan_len(&self) -> u8 {
        self.l3.saturating_sub(ETHERNET as u8)
    }

    /// Whether it is a whole IPv4 packet without options, in a frame without a tag: then its headers are where they are in nearly all.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        const PLAIN: u32 = (ETHERNET + ipv4::LEN) as u32 | (ETHERNET as u32) << 16;
        // No tag leaves room for a shorter header, and no other header is as short. Compared as one word, where three fields would
        // be read one by one.
        u32::from(self.l4) | u32::from(self.l3) << 16 | (self.fragment as u32) << 24 == PLAIN
    }

    /// The protocol of an IPv4 packet; what is none of IPv4's protocols for an IPv6 packet.
    #[inline(always)]
    pub fn ipv4_protocol(&self) -> u16 {
        u16::from(self.protocol.0) | u16::from(self.is_ipv6) << 8
    }

    /// Where the IP packet ends in the frame.
    #[inline]
    pub fn end(&self) -> usize {
        usize::from(self.l3) + self.ip_len as usize
    }

    /// Length of the transport header and its data (of this fragment).
    #[inline]
    pub fn l4_len(&self) -> usize {
        self.end().saturating_sub(usize::from(self.l4))
    }

    /// True for ICMP and ICMPv6 messages about another packet, which they quote.
    #[inline]
    pub fn is_icmp_error(&self) -> bool {
        match (self.is_ipv6, self.protocol) {
            _ if self.fragment == Fragment::Later => false,
            (false, Protocol::ICMP) => matches!(self.icmp_type, 3 | 4 | 5 | 11 | 12),
            // RFC 4443 §2.1: messages below 128 are errors.
            (true, Protocol::ICMPV6) => self.icmp_type < 128,
            _ => false,
        }
    }

    /// True for an IPv6 packet from a link-local address, which can be answered on its own link alone.
    #[inline]
    pub fn is_from_link_local(&self, frame: &[u8]) -> bool {
        self.is_ipv6 && Ipv6Addr::from(self.ipv6_source(frame)).is_unicast_link_local()
    }

    /// The source of this packet, which must be the one in `frame`.
    #[inline]
    pub fn source(&self, frame: &[u8]) -> IpAddr {
        if self.is_ipv6 {
            IpAddr::V6(Ipv6Addr::from(self.ipv6_source(frame)))
        } else {
            IpAddr::V4(Ipv4Addr::from(self.src))
        }
    }

    /// The destination of this packet, which must be the one in `frame`.
    #[inline]
    pub fn destination(&self, frame: &[u8]) -> IpAddr {
        if self.is_ipv6 {
            IpAddr::V6(Ipv6Addr::from(self.ipv6_destination(frame)))
        } else {
            IpAddr::V4(Ipv4Addr::from(self.dst))
        }
    }

    /// An IPv6 packet's source, read from the frame; `::` when that frame is not this packet.
    #[inline]
    pub fn ipv6_source(&self, frame: &[u8]) -> [u8; 16] {
        array(frame, usize::from(self.l3) + 8).copied().unwrap_or_default()
    }

    /// An IPv6 packet's destination, read from the frame; `::` when that frame is not this packet.
    #[inline]
    pub fn ipv6_destination(&self, frame: &[u8]) -> [u8; 16] {
        array(frame, usize::from(self.l3) + 24).copied().unwrap_or_default()
    }
}

const ETHERNET: usize = ethernet::LEN;

/// Reads a frame's headers.
///
/// `frame` is the whole frame or, when it is chained, its first segment; `frame_len` the length of the whole.
///
/// # Errors
/// Why the packet may go nowhere: malformed, or from an address that may not be on the wire.
#[inline(always)]
pub fn parse(frame: &[u8], frame_len: usize, ip_checksum: RxChecksum) -> Result<Parsed, DropReason> {
    match parse_plain(frame, frame_len, ip_checksum) {
        Some(headers) => Ok(Parsed::Ip(headers)),
        None => general(frame, frame_len, ip_checksum),
    }
}

/// As [`parse`], with the headers written to where they stay; true when there are any, false for a frame that is
/// not IP.
///
/// Wide loads that copy a value whose small fields were written a moment ago wait for those writes, and so would a copy
/// out of [`parse`]'s result.
///
/// # Errors
/// As [`parse`]; `headers` is then as it was.
#[inline(always)]
pub fn parse_into(
    headers: &mut Headers,
    frame: &[u8],
    frame_len: usize,
    ip_checksum: RxChecksum,
) -> Result<bool, DropReason> {
    if let Some(found) = parse_plain(frame, frame_len, ip_checksum) {
        *headers = found;
        return Ok(true);
    }
    match general(frame, frame_len, ip_checksum)? {
        Parsed::Ip(found) => {
            *headers = found;
            Ok(true)
        }
        Parsed::Other => Ok(false),
    }
}

/// Ethernet, IPv4 without options and TCP up to its options: what `parse_plain` looks at.
pub const PLAIN: usize = ETHERNET + 20 + 20;

/// The Ethernet type and, of the IP header, version and length; as read from the wire.
const IPV4_OF_20_BYTES: u32 = u32::from_le_bytes([0x08, 0x00, 0x45, 0]);

/// Reads a packet of the most usual kind in which nothing is wrong: TCP, UDP or SCTP in one piece, over IPv4 and without a tag, from one host to
/// another.
#[inline(always)]
pub fn parse_plain(frame: &[u8], frame_len: usize, ip_checksum: RxChecksum) -> Option<Headers> {
    let head: &[u8; PLAIN] = frame.first_chunk()?;
    let (_, ip) = head.split_first_chunk::<ETHERNET>()?;
    let (ip, l4) = ip.split_first_chunk::<20>()?;
    let l4: &[u8; 20] = l4.first_chunk()?;

    // Each read at once, not byte by byte. Nothing of what is asked is ever so in usual packets: a branch that is never taken costs
    // less than its value.
    let ethertype_and_length = u32::from_le_bytes(*array(head, 12)?);
    let begin = u64::from_be_bytes(*array(ip, 0)?);
    let total = u32::from((begin >> 32) as u16);
    if ethertype_and_length << 8 != IPV4_OF_20_BYTES << 8
        || begin & u64::from(ipv4::MF | ipv4::OFFSET) != 0
        || ETHERNET + total as usize > frame_len
    {
        return None;
    }
    let has_good_checksum =
        ip_checksum == RxChecksum::Good || ip_checksum == RxChecksum::Unknown && checksum::is_good20(ip);
    if !has_good_checksum || !IS_ORDINARY[usize::from(ip[12])] || !IS_ORDINARY[usize::from(ip[16])] {
        return None;
    }
    let addresses = u64::from_be_bytes(*array(ip, 12)?);
    let (src, dst) = ((addresses >> 32) as u32, addresses as u32);
    let ports = u32::from_be_bytes(*array(l4, 0)?);
    let protocol = Protocol(ip[9]);
    let (least, len, tcp_flags) = match protocol {
        Protocol::UDP => (8, u32::from(be16(l4[4], l4[5])), 0),
        Protocol::TCP => (20, u32::from(l4[12] >> 4) * 4, l4[13]),
        Protocol::SCTP => (0, (sctp::LEN + sctp::CHUNK) as u32, 0),
        _ => return None,
    };
    if len < least || 20 + len > total {
        return None;
    }
    Some(Headers {
        src,
        dst,
        fragment_id: u32::from((begin >> 16) as u16),
        ip_len: total,
        fragment_offset: 0,
        datagram_len: 0,
        sport: (ports >> 16) as u16,
        dport: ports as u16,
        vlan: 0,
        inner_vlan: 0,
        l4: (ETHERNET + 20) as u16,
        l3: ETHERNET as u8,
        ttl: ip[8],
        protocol,
        tcp_flags,
        icmp_type: 0,
        fragment: Fragment::None,
        is_ipv6: false,
        dont_fragment: begin & u64::from(ipv4::DF) != 0,
        is_for_twin: false,
    })
}

/// By an address' first byte; false for those in 0/8, 127/8 and all from 224/3 on, which need a second look.
static IS_ORDINARY: [bool; 256] = {
    let mut is = [false; 256];
    let mut net = 1;
    while net < 224 {
        is[net] = net != 127;
        net += 1;
    }
    is
};

/// Reads any packet.
#[inline(never)]
fn general(frame: &[u8], frame_len: usize, ip_checksum: RxChecksum) -> Result<Parsed, DropReason> {
    let ethernet: &[u8; ETHERNET] = frame.first_chunk().ok_or(DropReason::TruncatedEthernet)?;
    let mut ethertype = be16(ethernet[12], ethernet[13]);
    let mut l3 = ETHERNET;
    let mut vlans = Vlans::default();
    while matches!(ethertype, ethernet::VLAN | ethernet::QINQ) {
        if l3 == ETHERNET + 8 {
            return Err(DropReason::BadVlan);
        }
        let tag: &[u8; 4] = array(frame, l3).ok_or(DropReason::BadVlan)?;
        vlans.push(be16(tag[0], tag[1]) & 0x0fff);
        ethertype = be16(tag[2], tag[3]);
        l3 += 4;
    }
    match ethertype {
        ethernet::IPV4 => read_ipv4(frame, frame_len, l3, vlans, ip_checksum).map(Parsed::Ip),
        ethernet::IPV6 => read_ipv6(frame, frame_len, l3, vlans).map(Parsed::Ip),
        _ => Ok(Parsed::Other),
    }
}

#[derive(Clone, Copy, Default)]
struct Vlans {
    outer: u16,
    inner: u16,
}

impl Vlans {
    /// IEEE 802.1Q-2018 §9.6: identifier 0 is a priority tag, which names no VLAN.
    fn push(&mut self, id: u16) {
        if self.outer == 0 {
            self.outer = id;
        } else {
            self.inner = id;
        }
    }
}

fn read_ipv4(
    frame: &[u8],
    frame_len: usize,
    l3: usize,
    vlans: Vlans,
    ip_checksum: RxChecksum,
) -> Result<Headers, DropReason> {
    let ip: &[u8; 20] = array(frame, l3).ok_or(DropReason::TruncatedIpv4)?;
    if ip[0] >> 4 != 4 {
        return Err(DropReason::BadIpVersion);
    }
    let header_len = usize::from(ip[0] & 0x0f) * 4;
    if header_len < 20 {
        return Err(DropReason::BadIpv4HeaderLength);
    }
    let header = frame.get(l3..l3 + header_len).ok_or(DropReason::BadIpv4HeaderLength)?;
    let total = be16(ip[2], ip[3]);
    if usize::from(total) < header_len || l3 + usize::from(total) > frame_len {
        return Err(DropReason::BadIpv4TotalLength);
    }
    let has_good_checksum = match ip_checksum {
        RxChecksum::Good => true,
        RxChecksum::Unknown => checksum::is_good(checksum::sum(header)),
        RxChecksum::Bad => false,
    };
    if !has_good_checksum {
        return Err(DropReason::BadIpv4Checksum);
    }
    ipv4_options(header.get(20..).unwrap_or_default())?;
    let src = u32::from_be_bytes([ip[12], ip[13], ip[14], ip[15]]);
    let dst = u32::from_be_bytes([ip[16], ip[17], ip[18], ip[19]]);
    let is_for_twin = ipv4_addresses(src, dst)?;

    let flags = be16(ip[6], ip[7]);
    let offset = (flags & ipv4::OFFSET) << 3;
    let payload = usize::from(total) - header_len;
    let fragment = fragment(offset, flags & ipv4::MF != 0, payload)?;
    let mut headers = Headers {
        src,
        dst,
        fragment_id: u32::from(be16(ip[4], ip[5])),
        ip_len: u32::from(total),
        fragment_offset: offset,
        datagram_len: 0,
        sport: 0,
        dport: 0,
        vlan: vlans.outer,
        inner_vlan: vlans.inner,
        l4: (l3 + header_len) as u16,
        l3: l3 as u8,
        ttl: ip[8],
        protocol: Protocol(ip[9]),
        tcp_flags: 0,
        icmp_type: 0,
        fragment,
        is_ipv6: false,
        dont_fragment: flags & ipv4::DF != 0,
        is_for_twin,
    };
    transport(frame, &mut headers)?;
    Ok(headers)
}

/// Walks the options: refuses a source route (RFC 6274 §3.13.2.3, §3.13.2.4) and what overruns the header.
fn ipv4_options(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    loop {
        options = match *options {
            [] | [END, ..] => return Ok(()),
            [NO_OPERATION, ref rest @ ..] => rest,
            [kind, len, ..] if len >= 2 => {
                let rest = options.get(usize::from(len)..).ok_or(DropReason::BadIpv4Option)?;
                if matches!(kind, LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE) {
                    return Err(DropReason::Ipv4SourceRoute);
                }
                rest
            }
            _ => return Err(DropReason::BadIpv4Option),
        };
    }
}

/// Refuses addresses that may not be on the wire; true when the destination is multicast or broadcast.
///
/// RFC 1122 §3.2.1.3. A host that has no address yet sends from 0.0.0.0 to 255.255.255.255 (DHCP) or to a multicast group
/// (IGMP, RFC 3376 §4.2.13).
fn ipv4_addresses(src: u32, dst: u32) -> Result<bool, DropReason> {
    const BROADCAST: u32 = u32::MAX;
    let is_multicast = |address: u32| address >> 28 == 0xe;
    let is_for_twin = is_multicast(dst) || dst == BROADCAST;
    let is_bad_src = match src >> 24 {
        0 => !(src == 0 && is_for_twin),
        127 => true,
        _ => is_multicast(src) || src == BROADCAST,
    };
    if is_bad_src || matches!(dst >> 24, 0 | 127) {
        return Err(DropReason::MartianAddress);
    }
    Ok(is_for_twin)
}

/// Which fragment this is, from its offset in bytes, its more-fragments bit and the length of its data.
fn fragment(offset: u16, has_more: bool, len: usize) -> Result<Fragment, DropReason> {
    if offset == 0 && !has_more {
        return Ok(Fragment::None);
    }
    // RFC 791 §3.2, RFC 8200 §4.5: all but the last are multiples of 8 bytes long, and the whole fits 16 bits. One
    // without data is of no use but to fill tables.
    if len == 0 || (has_more && !len.is_multiple_of(8)) || usize::from(offset) + len > usize::from(u16::MAX) {
        return Err(DropReason::BadFragment);
    }
    Ok(if offset == 0 { Fragment::First } else { Fragment::Later })
}

fn read_ipv6(frame: &[u8], frame_len: usize, l3: usize, vlans: Vlans) -> Result<Headers, DropReason> {
    let ip: &[u8; 40] = array(frame, l3).ok_or(DropReason::TruncatedIpv6)?;
    if ip[0] >> 4 != 6 {
        return Err(DropReason::BadIpVersion);
    }
    let ip_len = 40 + usize::from(be16(ip[4], ip[5]));
    if l3 + ip_len > frame_len {
        return Err(DropReason::BadIpv6PayloadLength);
    }
    let src: &[u8; 16] = array(ip, 8).ok_or(DropReason::TruncatedIpv6)?;
    let dst: &[u8; 16] = array(ip, 24).ok_or(DropReason::TruncatedIpv6)?;
    let mut headers = Headers {
        src: 0,
        dst: 0,
        fragment_id: 0,
        ip_len: ip_len as u32,
        fragment_offset: 0,
        datagram_len: 0,
        sport: 0,
        dport: 0,
        vlan: vlans.outer,
        inner_vlan: vlans.inner,
        l4: (l3 + 40) as u16,
        l3: l3 as u8,
        ttl: ip[7],
        protocol: Protocol(ip[6]),
        tcp_flags: 0,
        icmp_type: 0,
        fragment: Fragment::None,
        is_ipv6: true,
        dont_fragment: true,
        is_for_twin: ipv6_addresses(src, dst)?,
    };
    // Extension headers are in the packet, and in the part of it that is in one piece.
    let packet = frame.get(..headers.end()).unwrap_or(frame);
    let walked = ipv6_extensions(packet, l3 + 40, headers.protocol)?;
    headers.protocol = walked.protocol;
    headers.l4 = walked.l4 as u16;
    if let Some(piece) = walked.piece {
        headers.fragment_id = piece.id;
        headers.fragment_offset = piece.offset;
        headers.fragment = fragment(piece.offset, piece.has_more, headers.l4_len())?;
    }
    transport(frame, &mut headers)?;
    Ok(headers)
}

/// Refuses addresses that may not be on the wire; true for a multicast or link-local destination.
///
/// RFC 4291 §2.5.2, §2.5.3, §2.7. A node that has no address yet sends from `::` to a multicast group (RFC 4862 §5.4, RFC 3590).
fn ipv6_addresses(src: &[u8; 16], dst: &[u8; 16]) -> Result<bool, DropReason> {
    let (src, dst) = (Ipv6Addr::from(*src), Ipv6Addr::from(*dst));
    // IPv4-mapped addresses stand for IPv4 within a host, never between hosts.
    let is_never_on_wire = |address: Ipv6Addr| address.is_loopback() || address.to_ipv4_mapped().is_some();
    if is_never_on_wire(src)
        || is_never_on_wire(dst)
        || src.is_multicast()
        || dst.is_unspecified()
        || (src.is_unspecified() && !dst.is_multicast())
    {
        return Err(DropReason::MartianAddress);
    }
    Ok(dst.is_multicast() || dst.is_unicast_link_local())
}

/// Most extension headers that a packet may have: real ones have one or two.
const MAX_EXTENSIONS: usize = 8;

/// Where the extension headers of an IPv6 packet end.
pub(crate) struct Extensions {
    /// What follows them, and where.
    pub(crate) protocol: Protocol,
    pub(crate) l4: usize,
    /// What a fragment header said, if there was one.
    pub(crate) piece: Option<Piece>,
}

/// A fragment's place in its datagram, offset in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) id: u32,
    pub(crate) offset: u16,
    pub(crate) has_more: bool,
    /// Where in the packet its data begins: an extension header may be the first of it.
    pub(crate) at: usize,
}

/// A fragment's place in its datagram, once more. `None`: it is none, or `frame` is another packet than `headers` are of.
pub(crate) fn piece(frame: &[u8], headers: &Headers) -> Option<Piece> {
    let l3 = usize::from(headers.l3);
    if headers.fragment == Fragment::None {
        return None;
    }
    if headers.is_ipv6 {
        let packet = frame.get(..headers.end()).unwrap_or(frame);
        let next = Protocol(*packet.get(l3 + 6)?);
        return ipv6_extensions(packet, l3 + ipv6::LEN, next).ok()?.piece;
    }
    Some(Piece {
        id: headers.fragment_id,
        offset: headers.fragment_offset,
        has_more: ipv4::fragmentation(ipv4::header(frame, l3)?) & ipv4::MF != 0,
        at: headers.l4.into(),
    })
}

/// Walks the extension headers that begin at `l4` in `packet` with one of kind `protocol`, up to the transport header or
/// to a later fragment's data.
pub(crate) fn ipv6_extensions(
    packet: &[u8],
    mut l4: usize,
    mut protocol: Protocol,
) -> Result<Extensions, DropReason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let mut piece = None;
    for count in 0..=MAX_EXTENSIONS {
        let kind = protocol.0;
        if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            return Ok(Extensions { protocol, l4, piece });
        }
        if count == MAX_EXTENSIONS {
            break;
        }
        let header: &[u8; 8] = array(packet, l4).ok_or(DropReason::BadIpv6Extension)?;
        let mut len = (usize::from(header[1]) + 1) * 8;
        match kind {
            // RFC 8200 §4.1: directly behind the IPv6 header only.
            HOP_BY_HOP if count > 0 => return Err(DropReason::BadIpv6Extension),
            // RFC 5095 §3.
            ROUTING if header[2] == 0 && header[3] > 0 => return Err(DropReason::Ipv6RoutingHeader0),
            // RFC 4302 §2.2: in units of 4 bytes, minus 2.
            AUTHENTICATION => len = (usize::from(header[1]) + 2) * 4,
            FRAGMENT if piece.is_some() => return Err(DropReason::BadIpv6Extension),
            FRAGMENT => {
                len = 8;
                let offset = be16(header[2], header[3]);
                piece = Some(Piece {
                    id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                    offset: offset & !7,
                    has_more: offset & 1 != 0,
                    at: l4 + len,
                });
            }
            _ => {}
        }
        if l4 + len > packet.len() {
            return Err(DropReason::BadIpv6Extension);
        }
        l4 += len;
        protocol = Protocol(header[0]);
        if piece.is_some_and(|piece| piece.offset > 0) {
            return Ok(Extensions { protocol, l4, piece });
        }
    }
    Err(DropReason::BadIpv6Extension)
}

/// Reads ports, flags and type, and checks what the transport header says about lengths.
///
/// In a first fragment the lengths speak of the whole datagram, and the fixed part of the header must be there (RFC 1858 §3.2.1).
fn transport(frame: &[u8], headers: &mut Headers) -> Result<(), DropReason> {
    if headers.fragment == Fragment::Later {
        return Ok(());
    }
    let is_whole = headers.fragment == Fragment::None;
    let at = usize::from(headers.l4);
    let len = headers.l4_len();
    match (headers.protocol, headers.is_ipv6) {
        (Protocol::TCP, _) => {
            let tcp: &[u8; 20] = within(frame, at, len).ok_or(DropReason::TruncatedTcp)?;
            let header_len = usize::from(tcp[12] >> 4) * 4;
            if header_len < 20 || (is_whole && header_len > len) {
                return Err(DropReason::BadTcpOffset);
            }
            headers.sport = be16(tcp[0], tcp[1]);
            headers.dport = be16(tcp[2], tcp[3]);
            headers.tcp_flags = tcp[13];
        }
        (Protocol::UDP, _) => {
            let udp: &[u8; 8] = within(frame, at, len).ok_or(DropReason::TruncatedUdp)?;
            let udp_len = usize::from(be16(udp[4], udp[5]));
            if udp_len < 8 || (is_whole && udp_len > len) {
                return Err(DropReason::BadUdpLength);
            }
            headers.sport = be16(udp[0], udp[1]);
            headers.dport = be16(udp[2], udp[3]);
        }
        (Protocol::SCTP, _) => {
            let sctp: &[u8; sctp::LEN + sctp::CHUNK] =
                within(frame, at, len).ok_or(DropReason::TruncatedSctp)?;
            headers.sport = be16(sctp[0], sctp[1]);
            headers.dport = be16(sctp[2], sctp[3]);
        }
        (Protocol::ICMP, false) | (Protocol::ICMPV6, true) => {
            let icmp: &[u8; 8] = within(frame, at, len).ok_or(DropReason::TruncatedIcmp)?;
            headers.icmp_type = icmp[0];
        }
        _ => {}
    }
    Ok(())
}

/// The `N` bytes from `at` on, when they are in the packet's `len` bytes there as well as in the frame.
#[inline]
fn within<const N: usize>(frame: &[u8], at: usize, len: usize) -> Option<&[u8; N]> {
    if len < N { None } else { array(frame, at) }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
