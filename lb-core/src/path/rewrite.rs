//! Rewrite: addresses, ports, TTL, and the checksums by what the connection's entry says they change by.

use std::net::IpAddr;

use crate::flow::{Deltas, Tuple};
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::wire::checksum::{self, Delta};
use crate::wire::parse::{Fragment, Headers};
use crate::wire::{array, array_mut};

/// What decrementing the TTL does to the IPv4 header's checksum: one less in the upper byte of its word.
const TTL_DELTA: Delta = Delta::word(0x0100, 0x0000);

/// How a rewrite ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Done,
    /// An IPv4 UDP datagram that came without a checksum: the kernel fills it in.
    NeedsUdpChecksum,
    /// The headers are not where the parser saw them (it never happens).
    Unreadable,
}

/// What a packet's way changes in its checksums, TTL included: to be kept in the connection's entry.
pub(super) fn deltas(from: &Tuple, to: &Tuple) -> Deltas {
    let (ip, addresses) = match (from.src, from.dst, to.src, to.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst), IpAddr::V4(new_src), IpAddr::V4(new_dst)) => {
            let changed = Delta::double_word(src.into(), new_src.into())
                .and(Delta::double_word(dst.into(), new_dst.into()));
            (changed.and(TTL_DELTA), changed)
        }
        (IpAddr::V6(src), IpAddr::V6(dst), IpAddr::V6(new_src), IpAddr::V6(new_dst)) => {
            let changed = Delta::address(&src.octets(), &new_src.octets())
                .and(Delta::address(&dst.octets(), &new_dst.octets()));
            (Delta::default(), changed)
        }
        _ => (Delta::default(), Delta::default()),
    };
    let ports = Delta::word(from.sport, to.sport).and(Delta::word(from.dport, to.dport));
    Deltas { ip: ip.0, l4: addresses.and(ports).0 }
}

/// Gives an IPv4 packet new addresses (source, destination) and ports, and one TTL less.
#[inline]
pub(super) fn ipv4(
    frame: &mut [u8],
    headers: &Headers,
    addresses: (u32, u32),
    ports: (u16, u16),
    deltas: Deltas,
) -> Outcome {
    let Some(ip) = array_mut::<20>(frame, usize::from(headers.l3)) else { return Outcome::Unreadable };
    ip[8] = headers.ttl.wrapping_sub(1);
    let old = u16::from_be_bytes([ip[10], ip[11]]);
    ip[10..12].copy_from_slice(&Delta(deltas.ip).apply(old).to_be_bytes());
    ip[12..16].copy_from_slice(&addresses.0.to_be_bytes());
    ip[16..20].copy_from_slice(&addresses.1.to_be_bytes());
    l4(frame, headers, ports, Delta(deltas.l4))
}

/// Gives an IPv6 packet new addresses (source, destination) and ports, and one hop less.
#[inline]
pub(super) fn ipv6(
    frame: &mut [u8],
    headers: &Headers,
    addresses: &[[u8; 16]; 2],
    ports: (u16, u16),
    deltas: Deltas,
) -> Outcome {
    let Some(ip) = array_mut::<40>(frame, usize::from(headers.l3)) else { return Outcome::Unreadable };
    ip[7] = headers.ttl.wrapping_sub(1);
    ip[8..24].copy_from_slice(&addresses[1]);
    ip[24..40].copy_from_slice(&addresses[0]);
    l4(frame, headers, ports, Delta(deltas.l4))
}

/// As [`ipv4`] or [`ipv6`], to what `to` says.
pub(super) fn any(frame: &mut [u8], headers: &Headers, to: &Tuple, deltas: Deltas) -> Outcome {
    let ports = (to.sport, to.dport);
    match (to.src, to.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(frame, headers, (src.into(), dst.into()), ports, deltas),
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ipv6(frame, headers, &[dst.octets(), src.octets()], ports, deltas)
        }
        _ => Outcome::Unreadable,
    }
}

#[inline]
fn l4(frame: &mut [u8], headers: &Headers, ports: (u16, u16), delta: Delta) -> Outcome {
    if headers.fragment == Fragment::Later {
        return Outcome::Done;
    }
    let at = usize::from(headers.l4);
    let is_tcp = headers.protocol == Protocol::TCP;
    let Some(head) = array_mut::<8>(frame, at) else { return Outcome::Unreadable };
    head[0..2].copy_from_slice(&ports.0.to_be_bytes());
    head[2..4].copy_from_slice(&ports.1.to_be_bytes());
    if is_tcp {
        let Some(field) = array_mut::<2>(frame, at + 16) else { return Outcome::Unreadable };
        *field = delta.apply(u16::from_be_bytes(*field)).to_be_bytes();
        return Outcome::Done;
    }
    let old = u16::from_be_bytes([head[6], head[7]]);
    if old == 0 && !headers.is_ipv6 {
        // A first fragment cannot be summed up; its checksum stays out, which is allowed.
        return if headers.fragment == Fragment::None { Outcome::NeedsUdpChecksum } else { Outcome::Done };
    }
    head[6..8].copy_from_slice(&delta.apply_udp(old).to_be_bytes());
    Outcome::Done
}

/// Writes the checksum of an IPv4 UDP datagram that has none: by the port where it can, else in software. A chained
/// buffer, which is not in one piece, keeps none.
#[cold]
pub(super) fn fill_udp_checksum<P: Packet>(packet: &mut P, headers: &Headers) {
    let (l3, at, end) = (usize::from(headers.l3), usize::from(headers.l4), headers.end());
    let Some(ip) = array::<20>(packet.data(), l3) else { return };
    let src = u32::from_be_bytes([ip[12], ip[13], ip[14], ip[15]]);
    let dst = u32::from_be_bytes([ip[16], ip[17], ip[18], ip[19]]);
    let len = headers.l4_len();
    let pseudo = checksum::pseudo_v4(src, dst, Protocol::UDP.0, len as u16);
    let Some(field) = array_mut::<2>(packet.data_mut(), at + 6) else { return };
    *field = pseudo.to_be_bytes();
    if packet.offload_l4_checksum(l3, at, false, true) {
        return;
    }
    let Some(field) = array_mut::<2>(packet.data_mut(), at + 6) else { return };
    *field = [0; 2];
    let Some(datagram) = packet.data().get(at..end) else { return };
    let sum = checksum::finish_udp(checksum::add(pseudo, checksum::sum(datagram)));
    if let Some(field) = array_mut::<2>(packet.data_mut(), at + 6) {
        *field = sum.to_be_bytes();
    }
}

/// One hop less, for a packet that is forwarded as it is.
pub(super) fn decrement_ttl(frame: &mut [u8], headers: &Headers) {
    if headers.is_ipv6 {
        if let Some(ip) = array_mut::<40>(frame, usize::from(headers.l3)) {
            ip[7] = headers.ttl.saturating_sub(1);
        }
    } else if let Some(ip) = array_mut::<20>(frame, usize::from(headers.l3)) {
        ip[8] = headers.ttl.saturating_sub(1);
        let old = u16::from_be_bytes([ip[10], ip[11]]);
        ip[10..12].copy_from_slice(&TTL_DELTA.apply(old).to_be_bytes());
    }
}
