//! The outer headers of a tunnel: IP in IP, GUE, GRE, of either family in either.
//!
//! As the kernel's IPVS writes them: outer TTL, TOS and DF are the inner packet's as it leaves here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::drop::DropReason;
use crate::packet::Packet;
use crate::tables::{GueChecksum, Interface, Protocol, Tunnel};
use crate::wire::parse::{Headers, parse_into};
use crate::wire::{be16, checksum, ethernet, ipv4, ipv6, udp};

/// Where a tunnel begins and ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Ends {
    /// From an interface; `None` when it has no address of that family.
    #[inline]
    pub(super) fn new(from: &Interface, to: IpAddr) -> Option<Ends> {
        Some(match to {
            IpAddr::V4(to) => Ends::V4(from.ipv4?, to),
            IpAddr::V6(to) => Ends::V6(from.ipv6?, to),
        })
    }

    #[inline]
    fn header_len(&self) -> usize {
        match self {
            Ends::V4(..) => ipv4::LEN,
            Ends::V6(..) => ipv6::LEN,
        }
    }

    /// Sum of the pseudo-header of a UDP datagram.
    fn pseudo(&self, len: u16) -> u16 {
        match self {
            Ends::V4(from, to) => checksum::pseudo_v4((*from).into(), (*to).into(), Protocol::UDP.0, len),
            Ends::V6(from, to) => {
                checksum::pseudo_v6(&from.octets(), &to.octets(), Protocol::UDP.0, len.into())
            }
        }
    }
}

/// What the outer header takes from the inner one.
struct Inner {
    tos: u8,
    ttl: u8,
    dont_fragment: bool,
    protocol: Protocol,
    ether_type: u16,
    len: u16,
}

impl Inner {
    #[inline]
    fn read(frame: &[u8], headers: &Headers) -> Option<Inner> {
        let (l3, len) = (usize::from(headers.l3), headers.ip_len as u16);
        Some(if headers.is_ipv6 {
            let ip = ipv6::header(frame, l3)?;
            Inner {
                tos: ip[0] << 4 | ip[1] >> 4,
                ttl: ip[7],
                dont_fragment: false,
                protocol: Protocol::IPV6,
                ether_type: ethernet::IPV6,
                len,
            }
        } else {
            let ip = ipv4::header(frame, l3)?;
            Inner {
                tos: ip[1],
                ttl: ip[8],
                dont_fragment: ipv4::fragmentation(ip) & ipv4::DF != 0,
                protocol: Protocol::IPIP,
                ether_type: ethernet::IPV4,
                len,
            }
        })
    }

    /// "Congestion experienced" within is not said again without (RFC 3168 §9.1.1).
    #[inline]
    fn outer_tos(&self) -> u8 {
        const CE: u8 = 0b11;
        const ECT_0: u8 = 0b10;
        if self.tos & CE == CE { self.tos & !CE | ECT_0 } else { self.tos }
    }
}

/// Writes the outer headers before the IP packet, and an Ethernet header with the tags that it had and still without addresses. `id` is
/// the outer IPv4 header's when it may be split.
///
/// # Errors
/// `NoBuffer` when there is no headroom; `Unsupported` when the whole would be too long, or when a checksum over all is
/// asked for and the buffer is chained. The packet is good for nothing then.
#[inline]
pub(super) fn encapsulate<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    tunnel: Tunnel,
    ends: Ends,
    id: u16,
) -> Result<(), DropReason> {
    let l3 = usize::from(headers.l3);
    let inner = Inner::read(packet.data(), headers).ok_or(DropReason::Unsupported)?;
    let grows = ends.header_len() + tunnel.header_len();
    if usize::from(inner.len) + grows > usize::from(u16::MAX) {
        return Err(DropReason::Unsupported);
    }
    let flow = match tunnel {
        Tunnel::Gue { .. } => source_port(packet.data(), headers),
        Tunnel::Ipip | Tunnel::Gre { .. } => 0,
    };
    packet.move_start(-(grows as isize)).map_err(|_| DropReason::NoBuffer)?;
    let frame = packet.data_mut();
    if headers.vlan_len() > 0 {
        frame.copy_within(grows..grows + l3, 0);
    }
    let outer_type = match ends {
        Ends::V4(..) => ethernet::IPV4,
        Ends::V6(..) => ethernet::IPV6,
    };
    let end = l3 + grows + usize::from(inner.len);
    debug_assert!(frame.len() >= l3 + grows, "the headers are in one piece");
    frame[l3 - 2..l3].copy_from_slice(&outer_type.to_be_bytes());
    let l4 = l3 + ends.header_len();
    let payload = (tunnel.header_len() + usize::from(inner.len)) as u16;
    let protocol = match tunnel {
        Tunnel::Ipip => inner.protocol,
        Tunnel::Gue { .. } => Protocol::UDP,
        Tunnel::Gre { .. } => Protocol::GRE,
    };
    match ends {
        Ends::V4(from, to) => write_ipv4(&mut frame[l3..l4], &inner, protocol, from, to, payload, id),
        Ends::V6(from, to) => write_ipv6(&mut frame[l3..l4], &inner, protocol, from, to, payload),
    }
    match tunnel {
        Tunnel::Ipip => {}
        Tunnel::Gue { port, checksum } => {
            let [sport, dport, len] = [flow, port, payload].map(u16::to_be_bytes);
            let header = [
                sport[0],
                sport[1],
                dport[0],
                dport[1],
                len[0],
                len[1],
                0,
                0,
                // Version 0, no options; the protocol; no flags.
                0,
                inner.protocol.0,
                0,
                0,
            ];
            frame[l4..l4 + header.len()].copy_from_slice(&header);
            if checksum != GueChecksum::No {
                let whole = frame.get(l4..end).ok_or(DropReason::Unsupported)?;
                let sum = checksum::add(ends.pseudo(payload), checksum::sum(whole));
                let at = l4 + udp::CHECKSUM;
                frame[at..at + 2].copy_from_slice(&checksum::finish_udp(sum).to_be_bytes());
            }
        }
        Tunnel::Gre { checksum } => {
            const CHECKSUM_PRESENT: u8 = 0x80;
            let ether_type = inner.ether_type.to_be_bytes();
            let flags = if checksum { CHECKSUM_PRESENT } else { 0 };
            frame[l4..l4 + 4].copy_from_slice(&[flags, 0, ether_type[0], ether_type[1]]);
            if checksum {
                frame[l4 + 4..l4 + 8].fill(0);
                let whole = frame.get(l4..end).ok_or(DropReason::Unsupported)?;
                let sum = checksum::finish(checksum::sum(whole));
                frame[l4 + 4..l4 + 6].copy_from_slice(&sum.to_be_bytes());
            }
        }
    }
    Ok(())
}

/// `header` is as long as the header that is written.
#[inline]
fn write_ipv4(
    header: &mut [u8],
    inner: &Inner,
    protocol: Protocol,
    from: Ipv4Addr,
    to: Ipv4Addr,
    payload: u16,
    id: u16,
) {
    let len = (payload + ipv4::LEN as u16).to_be_bytes();
    let (id, flags) = if inner.dont_fragment { (0, ipv4::DF) } else { (id, 0) };
    let (id, flags) = (id.to_be_bytes(), flags.to_be_bytes());
    let (from, to) = (from.octets(), to.octets());
    let mut ip: ipv4::Header = [
        0x45,
        inner.outer_tos(),
        len[0],
        len[1],
        id[0],
        id[1],
        flags[0],
        flags[1],
        inner.ttl,
        protocol.0,
        0,
        0,
        from[0],
        from[1],
        from[2],
        from[3],
        to[0],
        to[1],
        to[2],
        to[3],
    ];
    let sum = checksum::finish(checksum::sum20(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    header.copy_from_slice(&ip);
}

/// `header` is as long as the header that is written. No flow label, as in the kernel.
#[inline]
fn write_ipv6(
    header: &mut [u8],
    inner: &Inner,
    protocol: Protocol,
    from: Ipv6Addr,
    to: Ipv6Addr,
    payload: u16,
) {
    let tos = inner.outer_tos();
    let len = payload.to_be_bytes();
    header[..8].copy_from_slice(&[0x60 | tos >> 4, tos << 4, 0, 0, len[0], len[1], protocol.0, inner.ttl]);
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&to.octets());
}

/// The headers of a packet that was put into a tunnel.
pub(super) fn outer<P: Packet>(packet: &P) -> Option<Headers> {
    let mut headers = Headers::NONE;
    let is_ip = parse_into(&mut headers, packet.data(), packet.frame_len(), crate::packet::RxChecksum::Good);
    is_ip.ok()?.then_some(headers)
}

/// GUE's source port: one for each flow, so that routers and ports that spread packets by ports keep flows together
/// (draft-ietf-intarea-gue §5.11). From the kernel's default range of local ports.
#[inline]
fn source_port(frame: &[u8], headers: &Headers) -> u16 {
    const FIRST: u32 = 32_768;
    const PORTS: u64 = 60_999 - FIRST as u64 + 1;
    let source = if headers.is_ipv6 {
        let source = headers.ipv6_source(frame);
        source.as_chunks::<4>().0.iter().fold(0, |folded, word| folded ^ u32::from_be_bytes(*word))
    } else {
        headers.src
    };
    let ports = u32::from(headers.sport) << 16 | u32::from(headers.dport);
    let mixed = u64::from(source ^ ports.rotate_left(7)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (FIRST + ((mixed * PORTS) >> 32) as u32) as u16
}

/// What a tunnel carries, of which `within` is all that follows an outer IP header with this `protocol`: whether it is IPv6, and
/// where it begins.
pub(super) fn carried(within: &[u8], protocol: Protocol) -> Option<(bool, usize)> {
    let by_protocol = |protocol| match protocol {
        Protocol::IPIP => Some(false),
        Protocol::IPV6 => Some(true),
        _ => None,
    };
    match protocol {
        Protocol::UDP => {
            let gue: &[u8; 4] = within.get(udp::LEN..)?.first_chunk()?;
            // Version 0 without options and flags, as it was written.
            let is_ours = (gue[0], gue[2], gue[3]) == (0, 0, 0);
            Some((by_protocol(Protocol(gue[1])).filter(|_| is_ours)?, udp::LEN + gue.len()))
        }
        Protocol::GRE => {
            let gre: &[u8; 4] = within.first_chunk()?;
            let is_ipv6 = match be16(gre[2], gre[3]) {
                ethernet::IPV4 => false,
                ethernet::IPV6 => true,
                _ => return None,
            };
            match (gre[0], gre[1]) {
                (0, 0) => Some((is_ipv6, 4)),
                (0x80, 0) => Some((is_ipv6, 8)),
                _ => None,
            }
        }
        protocol => Some((by_protocol(protocol)?, 0)),
    }
}
