//! Rewrite: addresses, ports, TTL, and the checksums by what the connection's entry says they change by.

use std::net::IpAddr;

use super::tracked::tuple_of;
use crate::flow::{Deltas, Rewrite, Tuple};
use crate::packet::Packet;
use crate::tables::{NextHop, Protocol};
use crate::wire::checksum::{self, Delta};
use crate::wire::ipv4::TTL_DECREMENT;
use crate::wire::parse::{Fragment, Headers, PLAIN};
use crate::wire::{ethernet, icmp, ipv4, ipv6, sctp, tcp, udp};

/// Whether a port may write a checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offload {
    IfPossible,
    No,
}

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
            let changed = Delta::double_words([src.into(), dst.into()], [new_src.into(), new_dst.into()]);
            (changed.and(TTL_DECREMENT), changed)
        }
        (IpAddr::V6(src), IpAddr::V6(dst), IpAddr::V6(new_src), IpAddr::V6(new_dst)) => {
            let changed = Delta::address(&src.octets(), &new_src.octets())
                .and(Delta::address(&dst.octets(), &new_dst.octets()));
            (Delta::default(), changed)
        }
        // Into the other family, or what no packet is: the pseudo-headers differ by their addresses alone.
        (src, dst, new_src, new_dst) => {
            let ends = |one: IpAddr, other: IpAddr| checksum::add(address_sum(one), address_sum(other));
            (Delta::default(), Delta::word(ends(src, dst), ends(new_src, new_dst)))
        }
    };
    let ports = Delta::word(from.sport, to.sport).and(Delta::word(from.dport, to.dport));
    Deltas { ip: ip.0, l4: addresses.and(ports).0 }
}

fn address_sum(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(address) => checksum::sum(&address.octets()),
        IpAddr::V6(address) => checksum::sum(&address.octets()),
    }
}

/// The same for both directions of a connection whose packets come as `original` and leave as `after`: what answers them is changed
/// back.
pub(super) fn deltas_both_ways(original: &Tuple, after: &Tuple) -> [Deltas; 2] {
    let there = deltas(original, after);
    let is_ipv4 = original.src.is_ipv4() && after.src.is_ipv4() && after.dst.is_ipv4();
    let ip = match is_ipv4 {
        true => Delta(there.ip).and(TTL_DECREMENT.reversed()).reversed().and(TTL_DECREMENT).0,
        false => there.ip,
    };
    [there, Deltas { ip, l4: Delta(there.l4).reversed().0 }]
}

/// As [`ipv4`], with the Ethernet addresses, of a TCP or UDP packet as nearly all are: see [`Headers::is_plain`]. False: it is another one or cannot go
/// there, and nothing is written.
#[inline(always)]
pub(super) fn plain(frame: &mut [u8], headers: &Headers, hop: &NextHop, to: Rewrite) -> bool {
    let Some(mut plain) = Plain::of(frame, headers, hop) else { return false };
    let is_written = match headers.protocol {
        Protocol::UDP => plain.udp(to.ports, to.deltas),
        Protocol::TCP => plain.tcp(to.ports, to.deltas),
        _ => false,
    };
    if is_written {
        plain.send_to(hop, to.addresses, to.deltas);
    }
    is_written
}

/// The headers of a packet as nearly all are, that can go to the next hop that is meant: first its transport header is written, then the others.
pub(super) struct Plain<'f> {
    ethernet: &'f mut [u8; ethernet::LEN],
    ipv4: &'f mut ipv4::Header,
    l4: &'f mut [u8; PLAIN - ethernet::LEN - ipv4::LEN],
}

impl<'f> Plain<'f> {
    #[inline(always)]
    pub(super) fn of(frame: &'f mut [u8], headers: &Headers, hop: &NextHop) -> Option<Plain<'f>> {
        let head = frame.first_chunk_mut::<PLAIN>()?;
        let (ethernet, rest) = head.split_first_chunk_mut()?;
        let (ipv4, l4) = rest.split_first_chunk_mut()?;
        let l4 = l4.first_chunk_mut()?;
        goes_plainly(headers, hop.plain_room).then_some(Plain { ethernet, ipv4, l4 })
    }

    /// False: it came without a checksum, and nothing is written.
    #[inline(always)]
    pub(super) fn udp(&mut self, ports: (u16, u16), deltas: Deltas) -> bool {
        let Some(udp) = self.l4.first_chunk_mut() else { return false };
        if udp::checksum(udp) == 0 {
            return false;
        }
        udp::rewrite(udp, ports.0, ports.1, Delta(deltas.l4));
        true
    }

    #[inline(always)]
    pub(super) fn tcp(&mut self, ports: (u16, u16), deltas: Deltas) -> bool {
        let Some(tcp) = self.l4.first_chunk_mut() else { return false };
        tcp::rewrite(tcp, ports.0, ports.1, Delta(deltas.l4));
        true
    }

    #[inline(always)]
    pub(super) fn send_to(self, hop: &NextHop, addresses: (u32, u32), deltas: Deltas) {
        let Plain { ethernet, ipv4, .. } = self;
        ipv4::rewrite(ipv4, addresses.0, addresses.1, Delta(deltas.ip));
        ethernet::set_addresses(ethernet, &hop.macs);
    }
}

/// Whether it is such a packet, and can go as it is where there is so much room for one.
#[inline(always)]
pub(super) fn goes_plainly(headers: &Headers, room: u16) -> bool {
    headers.ttl > 1 && headers.ip_len <= u32::from(room) && headers.is_plain()
}

/// As [`decrement_ttl`], with the Ethernet addresses, of such a packet.
#[inline(always)]
pub(super) fn plain_but_for_ttl(frame: &mut [u8], headers: &Headers, hop: &NextHop) -> bool {
    let Some(head) = frame.first_chunk_mut::<{ ethernet::LEN + ipv4::LEN }>() else { return false };
    let Some((ethernet, ip)) = head.split_first_chunk_mut::<{ ethernet::LEN }>() else { return false };
    let Some(ip) = ip.first_chunk_mut().filter(|_| goes_plainly(headers, hop.plain_room)) else {
        return false;
    };
    ipv4::decrement_ttl(ip);
    ethernet::set_addresses(ethernet, &hop.macs);
    true
}

/// Gives an IPv4 packet new addresses (source, destination) and ports, and one TTL less.
pub(super) fn ipv4(frame: &mut [u8], headers: &Headers, to: &Rewrite) -> Outcome {
    let Some(ip) = ipv4::header_mut(frame, usize::from(headers.l3)) else { return Outcome::Unreadable };
    ipv4::rewrite(ip, to.addresses.0, to.addresses.1, Delta(to.deltas.ip));
    transport(frame, headers, to.ports, Delta(to.deltas.l4))
}

/// Gives an IPv6 packet new addresses (source, destination) and ports, and one hop less.
#[inline]
pub(super) fn ipv6(
    frame: &mut [u8],
    headers: &Headers,
    (src, dst): (&[u8; 16], &[u8; 16]),
    ports: (u16, u16),
    deltas: Deltas,
) -> Outcome {
    let Some(ip) = ipv6::header_mut(frame, usize::from(headers.l3)) else { return Outcome::Unreadable };
    ipv6::decrement_hop_limit(ip);
    ip[8..24].copy_from_slice(src);
    ip[24..40].copy_from_slice(dst);
    transport(frame, headers, ports, Delta(deltas.l4))
}

/// As [`ipv4`] or [`ipv6`](fn@ipv6), to what `to` says.
pub(super) fn any(frame: &mut [u8], headers: &Headers, to: &Tuple, deltas: Deltas) -> Outcome {
    let ports = (to.sport, to.dport);
    match (to.src, to.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ipv4(frame, headers, &Rewrite { addresses: (src.into(), dst.into()), ports, deltas })
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ipv6(frame, headers, (&src.octets(), &dst.octets()), ports, deltas)
        }
        _ => Outcome::Unreadable,
    }
}

#[inline(always)]
pub(super) fn transport(frame: &mut [u8], headers: &Headers, ports: (u16, u16), delta: Delta) -> Outcome {
    let at = usize::from(headers.l4);
    if headers.fragment == Fragment::Later {
        return Outcome::Done;
    }
    if headers.protocol == Protocol::TCP {
        let Some(tcp) = tcp::header_mut(frame, at) else { return Outcome::Unreadable };
        tcp::rewrite(tcp, ports.0, ports.1, delta);
        return Outcome::Done;
    }
    if headers.protocol != Protocol::UDP {
        return other_transport(frame, headers, ports, delta);
    }
    let Some(udp) = udp::header_mut(frame, at) else { return Outcome::Unreadable };
    udp::rewrite(udp, ports.0, ports.1, delta);
    // A first fragment cannot be summed up; it stays without a checksum, which is allowed.
    if udp::checksum(udp) == 0 && !headers.is_ipv6 && headers.fragment == Fragment::None {
        return Outcome::NeedsUdpChecksum;
    }
    Outcome::Done
}

/// SCTP, whose checksum covers no address; an ICMP query; or what has no ports.
#[inline(never)]
fn other_transport(frame: &mut [u8], headers: &Headers, ports: (u16, u16), delta: Delta) -> Outcome {
    if matches!(headers.protocol, Protocol::ICMP | Protocol::ICMPV6) {
        return query(frame, headers, ports, delta);
    }
    if headers.protocol != Protocol::SCTP {
        return Outcome::Done;
    }
    let Some(header) = sctp::header_mut(frame, headers.l4.into()) else { return Outcome::Unreadable };
    sctp::rewrite(header, ports.0, ports.1, sctp::covered(headers));
    Outcome::Done
}

/// An ICMP query: the port of the end that asks is its identifier. `delta` is for ICMPv6, whose checksum covers the addresses.
fn query(frame: &mut [u8], headers: &Headers, ports: (u16, u16), delta: Delta) -> Outcome {
    let Some(query) = icmp::Query::of(headers.is_ipv6, headers.icmp_type) else { return Outcome::Done };
    let Some(header) = icmp::header_mut(frame, headers.l4.into()) else { return Outcome::Unreadable };
    let new = if query.is_answer { ports.1 } else { ports.0 };
    let old = icmp::set_identifier(header, new);
    let delta = if headers.is_ipv6 { delta } else { Delta::word(old, new) };
    icmp::set_checksum(header, delta.apply(icmp::checksum(header)));
    Outcome::Done
}

/// Makes a packet again what it was before [`any`], but for the TTL.
pub(super) fn undo(frame: &mut [u8], headers: &Headers, before: &Tuple, deltas: Deltas) {
    // `any` lowers the TTL once more, as it was when it came; the checksum counts that step already.
    let back =
        Deltas { ip: Delta(deltas.ip).reversed().and(TTL_DECREMENT).0, l4: Delta(deltas.l4).reversed().0 };
    raise_ttl(frame, headers);
    any(frame, headers, before, back);
}

/// Gives a packet the addresses back with which it came, for an answer to its sender: rules may have exchanged their prefixes (`SNPT`, `DNPT`), by which no
/// checksum has changed.
#[cold]
pub(super) fn restore_ends(frame: &mut [u8], headers: &Headers, came: &Tuple) {
    if let (IpAddr::V6(src), IpAddr::V6(dst)) = (came.src, came.dst)
        && let Some(header) = ipv6::header_mut(frame, headers.l3.into())
    {
        let _none = ipv6::set_source(header, &src.octets()).and(ipv6::set_destination(header, &dst.octets()));
    }
}

/// Makes a packet, or the beginning of one, what it is to rules that see it as `seen`, with `hops` (0 or 1) fewer left than it came with.
/// An ICMP error stays as it came, but for its hops.
pub fn as_seen(frame: &mut [u8], headers: &Headers, seen: &Tuple, hops: u8) {
    let came = tuple_of(frame, headers).unwrap_or(*seen);
    // What is not tracked is seen without ICMP's identifiers, and is not translated.
    let is_icmp = matches!(headers.protocol, Protocol::ICMP | Protocol::ICMPV6);
    let is_plain = is_icmp && (seen.sport, seen.dport) == (0, 0);
    if came == *seen || is_plain {
        if hops > 0 {
            decrement_ttl(frame, headers);
        }
        return;
    }
    let Deltas { ip, l4 } = deltas(&came, seen);
    let mut ip = Delta(ip);
    if hops == 0 {
        // The rewrite lowers the TTL, and the difference says so.
        raise_ttl(frame, headers);
        if !headers.is_ipv6 {
            ip = ip.and(TTL_DECREMENT.reversed());
        }
    }
    any(frame, headers, seen, Deltas { ip: ip.0, l4 });
}

/// The opposite of what [`any`] does to the TTL, without the checksum; 255 becomes 0, and that 255 again.
pub(super) fn raise_ttl(frame: &mut [u8], headers: &Headers) {
    let at = usize::from(headers.l3) + if headers.is_ipv6 { 7 } else { 8 };
    if let Some(ttl) = frame.get_mut(at) {
        *ttl = ttl.wrapping_add(1);
    }
}

/// Writes the checksum of an IPv4 UDP datagram that has none: by the port where it can, else in software. A chained
/// buffer, which is not in one piece, keeps none.
#[cold]
pub(super) fn fill_udp_checksum<P: Packet>(packet: &mut P, headers: &Headers, offload: Offload) {
    let at = usize::from(headers.l4);
    // The field is 0, as it must be for summing up.
    let Some(sum) = checksum::of_transport(packet.data(), headers) else { return };
    let pseudo = checksum::pseudo(packet.data(), headers);
    let is_offloaded = offload == Offload::IfPossible
        && packet.offload_l4_checksum(usize::from(headers.l3), at, false, true);
    if let Some(udp) = udp::header_mut(packet.data_mut(), at) {
        udp::set_checksum(udp, if is_offloaded { pseudo } else { checksum::finish_udp(sum) });
    }
}

/// One hop less, for a packet that is forwarded as it is. It must have one left.
#[inline]
pub(super) fn decrement_ttl(frame: &mut [u8], headers: &Headers) {
    decrement_ttl_at(frame, usize::from(headers.l3), headers.is_ipv6);
}

/// As [`decrement_ttl`], for a packet whose IP header is at `l3` by now.
#[inline(always)]
pub(super) fn decrement_ttl_at(frame: &mut [u8], l3: usize, is_ipv6: bool) {
    if is_ipv6 {
        if let Some(ip) = ipv6::header_mut(frame, l3) {
            ipv6::decrement_hop_limit(ip);
        }
    } else if let Some(ip) = ipv4::header_mut(frame, l3) {
        ipv4::decrement_ttl(ip);
    }
}
