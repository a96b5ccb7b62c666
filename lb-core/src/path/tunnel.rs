//! The outer headers of a tunnel: IP in IP, GUE, GRE, of either family in either.
//!
//! As the kernel's IPVS writes them: outer TTL, TOS and DF are the inner packet's as it leaves here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rewrite;
use crate::drop::DropReason;
use crate::ids::ServerId;
use crate::packet::Packet;
use crate::tables::{GueChecksum, Interface, NextHop, Protocol, Tunnel};
use crate::wire::parse::{Headers, parse_into};
use crate::wire::{array_mut, be16, checksum, ethernet, ipv4, ipv6, udp};

/// Where a tunnel begins and ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Ends {
    /// From an interface; `None` when it has no address of that family.
    pub(super) fn new(from: &Interface, to: IpAddr) -> Option<Ends> {
        Some(match to {
            IpAddr::V4(to) => Ends::V4(from.ipv4?, to),
            IpAddr::V6(to) => Ends::V6(from.ipv6?, to),
        })
    }
}

const ETHER_TYPE_LEN: usize = 2;
const GUE_LEN: usize = Tunnel::Gue { port: 0, checksum: GueChecksum::No }.header_len();
const GRE_LEN: usize = Tunnel::Gre { checksum: false }.header_len();

/// All that goes before the packets of one tunnel, with 0 for what depends on the packet.
#[derive(Clone, Debug)]
pub(super) struct Outer {
    /// EtherType and IP header.
    ip: [u8; ETHER_TYPE_LEN + ipv6::LEN],
    /// The tunnel's own header.
    own: [u8; GUE_LEN],
    /// Bytes of both, the EtherType not counted.
    len: u8,
    is_ipv6: bool,
    carries_ipv6: bool,
    tunnel: Tunnel,
    /// Of both addresses and the protocol.
    sum: u16,
}

impl Outer {
    /// For packets of one family.
    pub(super) fn new(tunnel: Tunnel, ends: Ends, carries_ipv6: bool) -> Outer {
        let (carried, carried_type) =
            if carries_ipv6 { (Protocol::IPV6, ethernet::IPV6) } else { (Protocol::IPIP, ethernet::IPV4) };
        let protocol = match tunnel {
            Tunnel::Ipip => carried,
            Tunnel::Gue { .. } => Protocol::UDP,
            Tunnel::Gre { .. } => Protocol::GRE,
        };
        let mut ip = [0; ETHER_TYPE_LEN + ipv6::LEN];
        let (ether_type, header) = ip.split_at_mut(ETHER_TYPE_LEN);
        let (header_len, addresses) = match ends {
            Ends::V4(from, to) => {
                ether_type.copy_from_slice(&ethernet::IPV4.to_be_bytes());
                (header[0], header[9]) = (0x45, protocol.0);
                header[12..16].copy_from_slice(&from.octets());
                header[16..20].copy_from_slice(&to.octets());
                (ipv4::LEN, 12..20)
            }
            // No flow label, as in the kernel.
            Ends::V6(from, to) => {
                ether_type.copy_from_slice(&ethernet::IPV6.to_be_bytes());
                (header[0], header[6]) = (0x60, protocol.0);
                header[8..24].copy_from_slice(&from.octets());
                header[24..40].copy_from_slice(&to.octets());
                (ipv6::LEN, 8..40)
            }
        };
        let sum = checksum::add(checksum::sum(&header[addresses]), protocol.0.into());
        let mut own = [0; GUE_LEN];
        match tunnel {
            Tunnel::Ipip => {}
            Tunnel::Gue { port, .. } => {
                own[2..4].copy_from_slice(&port.to_be_bytes());
                // Version 0, no options; the protocol; no flags.
                own[9] = carried.0;
            }
            Tunnel::Gre { checksum } => {
                const CHECKSUM_PRESENT: u8 = 0x80;
                own[0] = if checksum { CHECKSUM_PRESENT } else { 0 };
                own[2..4].copy_from_slice(&carried_type.to_be_bytes());
            }
        }
        let len = (header_len + tunnel.header_len()) as u8;
        Outer { ip, own, len, is_ipv6: header_len == ipv6::LEN, carries_ipv6, tunnel, sum }
    }

    /// Writes the outer headers before the IP packet, and an Ethernet header with the tags that it had and still without
    /// addresses. `id` is the outer IPv4 header's when it may be split.
    ///
    /// # Errors
    /// `NoBuffer` when there is no headroom; `Unsupported` when the whole would be too long, or when a checksum over all is
    /// asked for and the buffer is chained. The packet is good for nothing then.
    pub(super) fn put_before<P: Packet>(
        &self,
        packet: &mut P,
        headers: &Headers,
        id: u16,
    ) -> Result<(), DropReason> {
        let frame = self.make_room(packet, headers)?;
        self.write(frame, headers, id)
    }

    /// As [`put_before`](Self::put_before), of a packet that is forwarded: with one hop less, which it must have left.
    #[inline(always)]
    pub(super) fn put_before_forwarded<P: Packet>(
        &self,
        packet: &mut P,
        headers: &Headers,
        id: u16,
    ) -> Result<(), DropReason> {
        let frame = self.make_room(packet, headers)?;
        rewrite::decrement_ttl_at(frame, usize::from(headers.l3) + self.len(), headers.is_ipv6);
        self.write(frame, headers, id)
    }

    /// Whether these are as most are, and nothing in them hangs on what the packet carries.
    pub(super) fn is_plain(&self) -> bool {
        let has_sum = match self.tunnel {
            Tunnel::Ipip => false,
            Tunnel::Gue { checksum, .. } => checksum != GueChecksum::No,
            Tunnel::Gre { checksum } => checksum,
        };
        !self.is_ipv6 && !self.carries_ipv6 && !has_sum
    }

    /// As [`put_before_forwarded`](Self::put_before_forwarded), with the Ethernet addresses, of a packet that [is plain](Headers::is_plain) and fits, where
    /// these headers [are](Self::is_plain) as well.
    #[inline(always)]
    pub(super) fn put_before_plain<P: Packet>(
        &self,
        packet: &mut P,
        headers: &Headers,
        macs: &[u8; 12],
        id: u16,
    ) -> Result<(), DropReason> {
        packet.move_start(-(self.len() as isize)).map_err(|_| DropReason::NoBuffer)?;
        self.write_plain(packet.data_mut(), headers, macs, id).ok_or(DropReason::Unsupported)
    }

    #[inline(always)]
    fn write_plain(&self, frame: &mut [u8], headers: &Headers, macs: &[u8; 12], id: u16) -> Option<()> {
        let (outer, ip) = frame.split_at_mut_checked(ethernet::LEN + self.len())?;
        let ip = ip.first_chunk_mut()?;
        ipv4::decrement_ttl(ip);
        let inner = Inner { tos: outer_tos(ip[1]), ttl: ip[8], dont_fragment: headers.dont_fragment };
        let (addresses, outer) = outer.split_first_chunk_mut()?;
        *addresses = *macs;
        let (ip, own) = outer.split_first_chunk_mut()?;
        let len = u16::from(self.len) + headers.ip_len as u16;
        self.write_ipv4(ip, &inner, len, id);
        match self.tunnel {
            Tunnel::Ipip => {}
            Tunnel::Gue { .. } => {
                let source = source_port(headers.src, headers);
                self.write_gue(own.first_chunk_mut()?, source, len - ipv4::LEN as u16);
            }
            Tunnel::Gre { .. } => *own.first_chunk_mut::<GRE_LEN>()? = *self.own.first_chunk()?,
        }
        Some(())
    }

    /// Bytes by which a packet grows.
    #[inline]
    fn len(&self) -> usize {
        usize::from(self.len)
    }

    #[inline(always)]
    fn make_room<'a, P: Packet>(
        &self,
        packet: &'a mut P,
        headers: &Headers,
    ) -> Result<&'a mut [u8], DropReason> {
        debug_assert_eq!(self.carries_ipv6, headers.is_ipv6, "a virtual service is of one family");
        if self.len() + headers.ip_len as usize > usize::from(u16::MAX) {
            return Err(DropReason::Unsupported);
        }
        packet.move_start(-(self.len() as isize)).map_err(|_| DropReason::NoBuffer)?;
        if headers.vlan_len() > 0 {
            packet.data_mut().copy_within(self.len()..self.len() + usize::from(headers.l3), 0);
        }
        Ok(packet.data_mut())
    }

    #[inline(always)]
    fn write(&self, frame: &mut [u8], headers: &Headers, id: u16) -> Result<(), DropReason> {
        let l3 = usize::from(headers.l3);
        let len = self.len() + headers.ip_len as usize;
        let inner = Inner::read(frame, l3 + self.len(), headers).ok_or(DropReason::Unsupported)?;
        let at = l3 - ETHER_TYPE_LEN;
        let l4 = if self.is_ipv6 {
            let ip = array_mut(frame, at).ok_or(DropReason::Unsupported)?;
            self.write_ipv6(ip, &inner, len as u16);
            l3 + ipv6::LEN
        } else {
            let ip = array_mut(frame, at).ok_or(DropReason::Unsupported)?;
            self.write_ipv4(ip, &inner, len as u16, id);
            l3 + ipv4::LEN
        };
        match self.tunnel {
            Tunnel::Ipip => Ok(()),
            Tunnel::Gue { checksum, .. } => {
                let payload = (l3 + len - l4) as u16;
                let source = source_port(folded_source(frame, l3 + self.len(), headers), headers);
                let gue = array_mut(frame, l4).ok_or(DropReason::Unsupported)?;
                self.write_gue(gue, source, payload);
                if checksum == GueChecksum::No {
                    return Ok(());
                }
                let whole = frame.get_mut(l4..l3 + len).ok_or(DropReason::Unsupported)?;
                let sum = checksum::add(checksum::add(self.sum, payload), checksum::sum(whole));
                whole[udp::CHECKSUM..udp::LEN].copy_from_slice(&checksum::finish_udp(sum).to_be_bytes());
                Ok(())
            }
            Tunnel::Gre { checksum: false } => {
                let gre: &mut [u8; GRE_LEN] = array_mut(frame, l4).ok_or(DropReason::Unsupported)?;
                gre.copy_from_slice(&self.own[..GRE_LEN]);
                Ok(())
            }
            Tunnel::Gre { checksum: true } => {
                let whole = frame.get_mut(l4..l3 + len).ok_or(DropReason::Unsupported)?;
                let gre: &mut [u8; 8] = array_mut(whole, 0).ok_or(DropReason::Unsupported)?;
                gre.copy_from_slice(&self.own[..8]);
                let sum = checksum::finish(checksum::sum(whole));
                whole[4..6].copy_from_slice(&sum.to_be_bytes());
                Ok(())
            }
        }
    }

    #[inline(always)]
    fn write_ipv4(&self, out: &mut [u8; ETHER_TYPE_LEN + ipv4::LEN], inner: &Inner, len: u16, id: u16) {
        if let Some(template) = self.ip.first_chunk() {
            *out = *template;
        }
        let (id, flags) = if inner.dont_fragment { (0, ipv4::DF) } else { (id, 0) };
        let words = [u16::from_be_bytes([0x45, inner.tos]), len, id, flags];
        let begin = words.into_iter().fold(0, |all, word| all << 16 | u64::from(word));
        out[2..10].copy_from_slice(&begin.to_be_bytes());
        let ttl = u64::from(inner.ttl) << 8;
        // Of words of four bytes, which is folded to that of words of two.
        let sum = (begin >> 32) + u64::from(begin as u32) + ttl + u64::from(self.sum);
        out[10] = inner.ttl;
        out[12..14].copy_from_slice(&checksum::finish(checksum::fold(sum)).to_be_bytes());
    }

    /// Without a checksum. `len`: of its UDP datagram.
    #[inline(always)]
    fn write_gue(&self, out: &mut [u8; GUE_LEN], source: u16, len: u16) {
        *out = self.own;
        out[..2].copy_from_slice(&source.to_be_bytes());
        out[4..6].copy_from_slice(&len.to_be_bytes());
    }

    #[inline(always)]
    fn write_ipv6(&self, out: &mut [u8; ETHER_TYPE_LEN + ipv6::LEN], inner: &Inner, len: u16) {
        *out = self.ip;
        let payload = len - ipv6::LEN as u16;
        (out[2], out[3], out[9]) = (0x60 | inner.tos >> 4, inner.tos << 4, inner.ttl);
        out[6..8].copy_from_slice(&payload.to_be_bytes());
    }
}

/// What the outer header takes from the inner one.
struct Inner {
    tos: u8,
    ttl: u8,
    dont_fragment: bool,
}

impl Inner {
    #[inline(always)]
    fn read(frame: &[u8], l3: usize, headers: &Headers) -> Option<Inner> {
        let (tos, ttl, dont_fragment) = if headers.is_ipv6 {
            let ip = ipv6::header(frame, l3)?;
            (ip[0] << 4 | ip[1] >> 4, ip[7], false)
        } else {
            let ip = ipv4::header(frame, l3)?;
            (ip[1], ip[8], headers.dont_fragment)
        };
        Some(Inner { tos: outer_tos(tos), ttl, dont_fragment })
    }
}

/// "Congestion experienced" (0b11) within is "capable" (0b10) without: not to be said twice (RFC 3168 §9.1.1).
#[inline]
const fn outer_tos(tos: u8) -> u8 {
    tos & !(tos >> 1 & 1)
}

/// All that sending packets of one family to a real server by its tunnel takes, worked out once.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) hop: NextHop,
    /// Longest IP packet that fits, in bytes.
    pub(super) room: u16,
    /// The same of a [plain](Headers::is_plain) one behind [plain](Outer::is_plain) headers: else 0.
    pub(super) plain_room: u16,
    pub(super) outer: Outer,
}

/// The tunnels that packets went by lately.
///
/// A real server's is in the place that its number says, and good under the tables that it was prepared from. Real servers whose
/// numbers differ by a multiple of the number of places take it from each other: then it is prepared again, which costs some 500
/// instructions, and nothing else.
pub(super) struct Tunnels(Box<[Option<Known>]>);

#[derive(Clone)]
#[repr(align(64))]
struct Known {
    server: ServerId,
    generation: u32,
    prepared: Prepared,
}

impl Tunnels {
    /// Places at most: 2 MiB.
    const CAPACITY: usize = 16_384;

    /// For so many real servers, if they are not more than there are places.
    pub(super) fn new(servers: usize) -> Tunnels {
        Tunnels(vec![None; servers.next_power_of_two().min(Self::CAPACITY)].into())
    }

    #[inline]
    fn place(&self, server: ServerId) -> usize {
        server.index() & (self.0.len() - 1)
    }

    /// The one to `server` under the tables with this `generation`, if it is known.
    #[inline]
    pub(super) fn find(&self, server: ServerId, generation: u32) -> Option<&Prepared> {
        let known = self.0[self.place(server)].as_ref()?;
        ((known.server == server) & (known.generation == generation)).then_some(&known.prepared)
    }

    pub(super) fn keep(&mut self, server: ServerId, generation: u32, prepared: Prepared) {
        let place = self.place(server);
        self.0[place] = Some(Known { server, generation, prepared });
    }
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
fn source_port(source: u32, headers: &Headers) -> u16 {
    const FIRST: u32 = 32_768;
    const PORTS: u64 = 60_999 - FIRST as u64 + 1;
    let ports = u32::from(headers.sport) << 16 | u32::from(headers.dport);
    let mixed = u64::from(source ^ ports.rotate_left(7)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (FIRST + ((mixed * PORTS) >> 32) as u32) as u16
}

/// A packet's source, of IPv6 all words of it in one.
#[inline]
fn folded_source(frame: &[u8], l3: usize, headers: &Headers) -> u32 {
    match ipv6::header(frame, l3) {
        Some(ip) if headers.is_ipv6 => {
            let source = ipv6::source(ip);
            source.as_chunks::<4>().0.iter().fold(0, |folded, word| folded ^ u32::from_be_bytes(*word))
        }
        _ => headers.src,
    }
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

#[cfg(test)]
mod tests {
    use etherparse::{Ipv4Header, Ipv6Header};
    use proptest::prelude::*;

    use super::*;
    use crate::ids::PortId;
    use crate::packet::Frame;
    use crate::tables::{InterfaceId, Reachability};
    use crate::wire::testing::{self, Recipe, headers, recipe};

    fn ends(is_ipv6: bool) -> Ends {
        if is_ipv6 {
            Ends::V6("fd00::1".parse().unwrap(), "fd00::11".parse().unwrap())
        } else {
            Ends::V4([10, 0, 0, 1].into(), [10, 0, 0, 11].into())
        }
    }

    fn tunnel() -> impl Strategy<Value = Tunnel> {
        use GueChecksum::{No, Remote, Yes};
        let gue = (any::<u16>(), prop_oneof![Just(No), Just(Yes), Just(Remote)]);
        prop_oneof![
            Just(Tunnel::Ipip),
            gue.prop_map(|(port, checksum)| Tunnel::Gue { port, checksum }),
            any::<bool>().prop_map(|checksum| Tunnel::Gre { checksum }),
        ]
    }

    /// The outer IP header as another implementation writes it.
    fn expected_ip(ends: Ends, inner: (u8, u8, bool), protocol: Protocol, payload: u16, id: u16) -> Vec<u8> {
        let (tos, ttl, dont_fragment) = inner;
        match ends {
            Ends::V4(from, to) => {
                let mut ip =
                    Ipv4Header::new(payload, ttl, protocol.0.into(), from.octets(), to.octets()).unwrap();
                (ip.dscp, ip.ecn) = ((tos >> 2).try_into().unwrap(), (tos & 3).try_into().unwrap());
                (ip.identification, ip.dont_fragment) = (if dont_fragment { 0 } else { id }, dont_fragment);
                ip.header_checksum = ip.calc_header_checksum();
                ip.to_bytes().to_vec()
            }
            Ends::V6(from, to) => Ipv6Header {
                traffic_class: tos,
                payload_length: payload,
                next_header: protocol.0.into(),
                hop_limit: ttl,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            }
            .to_bytes()
            .to_vec(),
        }
    }

    proptest! {
        /// Against headers by another implementation, and sums over all bytes.
        #[test]
        fn outer_headers_are_written_as_another_implementation_writes_them(
            tunnel in tunnel(), over_ipv6: bool, carries_ipv6: bool, tos: u8, ttl in 2_u8.., dont_fragment: bool,
            id: u16, len in 0_usize..1400, padding in 0_usize..4, tagged: bool,
        ) {
            let ip = match testing::v4() {
                _ if carries_ipv6 => testing::v6(),
                testing::Ip::V4 { src, dst, options, more, offset, .. } => {
                    testing::Ip::V4 { src, dst, options, dont_fragment, more, offset }
                }
                other => other,
            };
            let vlans = if tagged { vec![7] } else { vec![] };
            let mut frame = Recipe { vlans, padding, ..recipe(ip, testing::udp(), len) }.build();
            let l3 = usize::from(headers(&frame).l3);
            if carries_ipv6 {
                (frame[l3], frame[l3 + 1], frame[l3 + 7]) = (0x60 | tos >> 4, tos << 4, ttl);
            } else {
                (frame[l3 + 1], frame[l3 + 8]) = (tos, ttl);
                frame[l3 + 10..l3 + 12].fill(0);
                let sum = checksum::finish(checksum::sum(&frame[l3..l3 + ipv4::LEN]));
                frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
            }
            let before = headers(&frame);
            let outer = Outer::new(tunnel, ends(over_ipv6), carries_ipv6);
            let mut packet = Frame::new(PortId(0), &frame);
            prop_assert_eq!(outer.put_before_forwarded(&mut packet, &before, id), Ok(()));

            let unchanged = frame.clone();
            rewrite::decrement_ttl(&mut frame, &before);
            let mut as_it_is = Frame::new(PortId(0), &frame);
            prop_assert_eq!(outer.put_before(&mut as_it_is, &before, id), Ok(()));
            prop_assert!(packet == as_it_is, "with one hop less, either way");
            if outer.is_plain() && before.is_plain() {
                let mut plain = Frame::new(PortId(0), &unchanged);
                prop_assert_eq!(outer.put_before_plain(&mut plain, &before, &[9; 12], id), Ok(()));
                prop_assert_eq!(&plain.data()[..12], [9; 12]);
                prop_assert_eq!(&plain.data()[12..], &packet.data()[12..]);
            }

            let all = packet.data();
            let l4 = l3 + if over_ipv6 { ipv6::LEN } else { ipv4::LEN };
            let inner = l4 + tunnel.header_len();
            prop_assert_eq!(&all[inner..], &frame[l3..], "what it carries");
            prop_assert_eq!(&all[12..l3 - 2], &frame[12..l3 - 2], "tags");
            let ether_type = if over_ipv6 { ethernet::IPV6 } else { ethernet::IPV4 };
            prop_assert_eq!(&all[l3 - 2..l3], ether_type.to_be_bytes());
            let carried = if carries_ipv6 { Protocol::IPV6 } else { Protocol::IPIP };
            let protocol = match tunnel {
                Tunnel::Ipip => carried,
                Tunnel::Gue { .. } => Protocol::UDP,
                Tunnel::Gre { .. } => Protocol::GRE,
            };
            let ecn = if tos & 3 == 3 { 2 } else { tos & 3 };
            let from_inner = (tos & !3 | ecn, ttl - 1, dont_fragment && !carries_ipv6);
            let end = all.len() - padding;
            let expected = expected_ip(ends(over_ipv6), from_inner, protocol, (end - l4) as u16, id);
            prop_assert_eq!(&all[l3..l4], expected);
            prop_assert_eq!(super::carried(&all[l4..], protocol), Some((carries_ipv6, tunnel.header_len())));
            let found = headers(all);
            match tunnel {
                Tunnel::Ipip => {}
                Tunnel::Gue { port, checksum } => {
                    prop_assert_eq!(found.dport, port);
                    prop_assert!(found.sport >= 32_768 && found.sport < 61_000);
                    let udp = udp::header(all, l4).unwrap();
                    prop_assert_eq!(usize::from(udp::len(udp)), end - l4);
                    match checksum {
                        GueChecksum::No => prop_assert_eq!(udp::checksum(udp), 0),
                        _ => prop_assert!(checksum::is_good(checksum::of_transport(all, &found).unwrap())),
                    }
                }
                Tunnel::Gre { checksum: false } => prop_assert_eq!(&all[l4..l4 + 2], [0, 0]),
                Tunnel::Gre { checksum: true } => {
                    prop_assert!(checksum::is_good(checksum::sum(&all[l4..end])));
                }
            }
        }
    }

    #[test]
    fn what_would_be_too_long_or_finds_no_room_is_refused() {
        let outer = Outer::new(Tunnel::Ipip, ends(false), false);
        let frame = testing::frame(testing::v4(), testing::udp(), 9);
        let mut packet = Frame::new(PortId(0), &frame);
        let long = Headers { ip_len: 65_516, ..headers(&frame) };
        assert_eq!(outer.put_before(&mut packet, &long, 0), Err(DropReason::Unsupported));
        assert_eq!(packet.data(), frame);
        while packet.move_start(-1).is_ok() {}
        assert_eq!(outer.put_before(&mut packet, &headers(&frame), 0), Err(DropReason::NoBuffer));
    }

    #[test]
    fn a_tunnel_is_found_by_its_real_server_under_its_tables_alone() {
        let prepared = |room| Prepared {
            hop: NextHop {
                macs: ethernet::addresses([2; 6], [3; 6]),
                port: PortId(1),
                vlan: 0,
                mtu: 1500,
                plain_room: 1500,
                interface: InterfaceId(0),
                state: Reachability::Reachable,
            },
            room,
            plain_room: room,
            outer: Outer::new(Tunnel::Ipip, ends(false), false),
        };
        let room = |tunnels: &Tunnels, server, generation| {
            tunnels.find(ServerId(server), generation).map(|prepared| prepared.room)
        };
        let mut tunnels = Tunnels::new(10);
        let same_place = 5 + 16;
        tunnels.keep(ServerId(5), 1, prepared(1480));
        assert_eq!(room(&tunnels, 5, 1), Some(1480));
        assert_eq!(room(&tunnels, 5, 2), None, "the tables changed");
        assert_eq!(room(&tunnels, same_place, 1), None, "another real server");
        tunnels.keep(ServerId(same_place), 1, prepared(1400));
        assert_eq!((room(&tunnels, 5, 1), room(&tunnels, same_place, 1)), (None, Some(1400)));
    }
}
