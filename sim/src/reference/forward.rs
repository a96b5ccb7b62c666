//! Direct routing and tunnels: a client's packet goes to the real server as it is, or within another one (RFC 2003, RFC 2473,
//! RFC 2784, draft-ietf-intarea-gue); what comes back goes by another way, but for errors about the tunnel.

use std::net::IpAddr;
use std::sync::Arc;

use lb_core::drop::DropReason;
use lb_core::flow::{Direction, Method};
use lb_core::hook::Hook;
use lb_core::tables::{Forward, GueChecksum, NextHop, Service, Tunnel, Way};

use super::answer::{Problem, error_about};
use super::checksum::{address_sum, covered, fold, moved, seal_ipv4, sum};
use super::flows::Connection;
use super::output::{Before, Refusal};
use super::parse::{self, Piece, Read, SYN, TCP, UDP, word};
use super::related::{Quoted, like_answer_to, quoted_at};
use super::{Packet, Reference, pieces, rewrite};

const IPIP: u8 = 4;
const IPV6: u8 = 41;
const GRE: u8 = 47;

/// What stands between the outer IP header and the packet.
fn between(tunnel: Tunnel) -> usize {
    match tunnel {
        Tunnel::Ipip => 0,
        Tunnel::Gue { .. } => 8 + 4,
        Tunnel::Gre { checksum } => {
            if checksum {
                8
            } else {
                4
            }
        }
    }
}

fn overhead(tunnel: Tunnel, to: IpAddr) -> usize {
    between(tunnel) + if to.is_ipv6() { 40 } else { 20 }
}

impl Reference {
    /// To the real server of a connection, which is no masqueraded one.
    pub(super) fn onward(&mut self, mut packet: Packet, read: Read, connection: &Connection) {
        self.count(connection.server, Direction::Original, &read);
        let to = connection.reply.src;
        let tunnel = (connection.method == Method::Tunnel).then(|| {
            // As the operator wants it now; when that is no tunnel, the simplest one.
            match self.tables.services.server(connection.server).map(|server| server.forward) {
                Some(Forward::Tunnel(tunnel)) => tunnel,
                _ => Tunnel::Ipip,
            }
        });
        let takes = tunnel.map_or(0, |tunnel| overhead(tunnel, to));
        if tunnel.is_some() {
            self.clamp_mss(&mut packet.bytes, &read, connection, takes);
        }
        let is_split = tunnel.is_some() && self.splits_tunnelled(&read, to);
        let grown = Read { end: read.end + takes, dont_fragment: read.dont_fragment && !is_split, ..read };
        match self.check(&grown, to) {
            Ok(Way::Local) => self.up_the_twin(packet),
            // Past all real servers it is bound for another host, which Linux has a way to.
            Ok(Way::Linux) if to == read.dst => self.up_the_twin(packet),
            Ok(Way::Linux) => self.drop(DropReason::Unsupported, Hook::Postrouting),
            Ok(way) => {
                rewrite::lower_ttl(&mut packet.bytes, &read);
                self.leave(packet, read, to, way, tunnel.map_or(Before::Same, Before::NotPacked));
            }
            Err(refusal) => {
                if read.ttl > 1 {
                    rewrite::lower_ttl(&mut packet.bytes, &read);
                }
                let refusal = match refusal {
                    Refusal::TooBig(mtu) => Refusal::TooBig(mtu.saturating_sub(takes as u16)),
                    other => other,
                };
                self.refuse(packet, read, refusal);
            }
        }
    }

    /// A SYN asks for no longer segments than go through the tunnel whole, if its service says so: `takes` bytes more are before each packet.
    fn clamp_mss(&self, frame: &mut [u8], read: &Read, connection: &Connection, takes: usize) {
        let is_of_it = |service: &&Arc<Service>| service.servers.iter().any(|it| it.id == connection.server);
        let service = self.tables.services.iter().find(is_of_it);
        let clamps = service.is_some_and(|service| service.options.clamp_mss);
        if !clamps || read.protocol != TCP || read.piece == Piece::Later || read.tcp_flags & SYN == 0 {
            return;
        }
        let to = connection.reply.src;
        let headers = if read.is_ipv6() { 40 + 20 } else { 20 + 20 };
        let mss = self.mtu_towards(to).and_then(|mtu| mtu.checked_sub(takes + headers));
        let (Some(mss), Some(at)) = (mss, mss_at(frame, read.l4)) else { return };
        if usize::from(word(frame, at)) > mss {
            let covered = |frame: &[u8]| covered(frame, read, TCP, 16, (read.src, read.dst));
            let before = covered(frame);
            frame[at..at + 2].copy_from_slice(&(mss as u16).to_be_bytes());
            let field = moved(word(frame, read.l4 + 16), before, covered(frame));
            frame[read.l4 + 16..read.l4 + 18].copy_from_slice(&field.to_be_bytes());
        }
    }

    /// Whether sysctl `pmtu_disc` has the packet of a tunnel over IPv4 split, whatever the IPv4 packet in it says.
    fn splits_tunnelled(&self, read: &Read, to: IpAddr) -> bool {
        to.is_ipv4() && !read.is_ipv6() && self.tables.settings.sysctls.pmtu_disc == 0
    }

    /// Over IPv6 it is the packet that is split when it does not fit, over IPv4 what it is packed into.
    pub(super) fn pack_and_send(
        &mut self,
        mut packet: Packet,
        read: Read,
        tunnel: Tunnel,
        to: IpAddr,
        hop: &NextHop,
    ) {
        let room = usize::from(hop.mtu).saturating_sub(overhead(tunnel, to));
        if read.ip_len() <= room || !to.is_ipv6() {
            match self.pack(&packet.bytes, &read, tunnel, to, hop) {
                Ok(bytes) => packet.bytes = bytes,
                Err(reason) => return self.drop(reason, Hook::Postrouting),
            }
            if read.ip_len() <= room {
                return self.send(packet, &read, hop);
            }
            let outer = parse::read(&packet.bytes).ok().flatten().expect("it was just written");
            return self.send_in_pieces(packet, outer, hop);
        }
        let buffers = &mut self.taken.buffers;
        match pieces::of(&packet.bytes, &read, room as u16, || buffers.pop_front().unwrap_or(true)) {
            Ok(pieces) => {
                for bytes in pieces {
                    let read = Read { end: bytes.len(), ..read };
                    match self.pack(&bytes, &read, tunnel, to, hop) {
                        Ok(bytes) => self.send(Packet { bytes, ..packet.clone() }, &read, hop),
                        Err(reason) => self.drop(reason, Hook::Postrouting),
                    }
                }
            }
            Err(reason) => self.drop(reason, Hook::Egress),
        }
    }

    /// A packet within the one that the tunnel from the interface of `hop` carries.
    fn pack(
        &mut self,
        frame: &[u8],
        read: &Read,
        tunnel: Tunnel,
        to: IpAddr,
        hop: &NextHop,
    ) -> Result<Vec<u8>, DropReason> {
        let interface = self.tables.interfaces.get(hop.interface);
        let from = interface.and_then(|interface| match to {
            IpAddr::V4(_) => interface.ipv4.map(IpAddr::from),
            IpAddr::V6(_) => interface.ipv6.map(IpAddr::from),
        });
        let from = from.ok_or(DropReason::NoTunnelSource)?;
        self.count_outer_id();
        if read.ip_len() + overhead(tunnel, to) > 65_535 {
            return Err(DropReason::Unsupported);
        }
        let inner = &frame[read.l3..read.end];
        let (tos, ttl, dont_fragment, number, ether_type) = if read.is_ipv6() {
            ((word(inner, 0) >> 4) as u8, inner[7], false, IPV6, 0x86dd_u16)
        } else {
            let dont_fragment = inner[6] & 0x40 != 0 && !self.splits_tunnelled(read, to);
            (inner[1], inner[8], dont_fragment, IPIP, 0x0800)
        };
        // Congestion that was experienced within is not experienced without.
        let tos = if tos & 3 == 3 { tos - 1 } else { tos };
        let (protocol, mut carried) = match tunnel {
            Tunnel::Ipip => (number, Vec::new()),
            Tunnel::Gue { port, .. } => {
                let len = (12 + inner.len()) as u16;
                let udp = [source_port(read), port, len, 0].map(u16::to_be_bytes).concat();
                (UDP, [&udp[..], &[0, number, 0, 0]].concat())
            }
            Tunnel::Gre { checksum: false } => (GRE, [0, ether_type].map(u16::to_be_bytes).concat()),
            Tunnel::Gre { checksum: true } => {
                (GRE, [0x8000, ether_type, 0, 0].map(u16::to_be_bytes).concat())
            }
        };
        carried.extend(inner);
        match tunnel {
            Tunnel::Gue { checksum: GueChecksum::Yes | GueChecksum::Remote, .. } => {
                let pseudo = address_sum(from) + address_sum(to) + u64::from(UDP) + carried.len() as u64;
                let field = match !fold(pseudo + u64::from(sum(&carried))) {
                    0 => 0xffff,
                    field => field,
                };
                carried[6..8].copy_from_slice(&field.to_be_bytes());
            }
            Tunnel::Gre { checksum: true } => {
                let field = !sum(&carried);
                carried[4..6].copy_from_slice(&field.to_be_bytes());
            }
            _ => {}
        }
        let mut header = match to {
            IpAddr::V4(_) => {
                let id = if dont_fragment { 0 } else { self.outer_id };
                let flags = if dont_fragment { 0x4000 } else { 0 };
                let mut header = vec![0x45, tos];
                header.extend([(20 + carried.len()) as u16, id, flags].map(u16::to_be_bytes).concat());
                header.extend([ttl, protocol, 0, 0]);
                header
            }
            IpAddr::V6(_) => {
                let mut header = (0x6000_0000 | u32::from(tos) << 20).to_be_bytes().to_vec();
                header.extend((carried.len() as u16).to_be_bytes());
                header.extend([protocol, ttl]);
                header
            }
        };
        for address in [from, to] {
            match address {
                IpAddr::V4(address) => header.extend(address.octets()),
                IpAddr::V6(address) => header.extend(address.octets()),
            }
        }
        if to.is_ipv4() {
            seal_ipv4(&mut header);
        }
        let ether_type: u16 = if to.is_ipv6() { 0x86dd } else { 0x0800 };
        // What the frame has behind the packet stays behind it.
        Ok([&frame[..read.l3 - 2], &ether_type.to_be_bytes(), &header, &carried, &frame[read.end..]].concat())
    }

    /// What a quoted packet carried, if it left here by a tunnel.
    pub(super) fn in_tunnel(&self, frame: &[u8], read: &Read, outer: &Quoted) -> Option<Quoted> {
        let tables = &self.tables;
        let left_here = tables.routes.is_local(outer.src) && tables.routes.is_local(read.dst);
        if !left_here || !tables.services.is_server(outer.dst) {
            return None;
        }
        let message = &frame[..read.end];
        let within = &message[outer.l4..];
        let (skip, number) = match outer.protocol {
            UDP if within.len() >= 12 && [within[8], within[10], within[11]] == [0; 3] => (12, within[9]),
            GRE if matches!(word(within, 0), 0 | 0x8000) => {
                let number = match word(within, 2) {
                    0x0800 => IPIP,
                    0x86dd => IPV6,
                    _ => return None,
                };
                (if word(within, 0) == 0 { 4 } else { 8 }, number)
            }
            IPIP | IPV6 => (0, outer.protocol),
            _ => return None,
        };
        match number {
            IPIP | IPV6 => quoted_at(message, outer.l4 + skip, number == IPV6).ok(),
            _ => None,
        }
    }

    /// The client hears of the packet that it sent.
    pub(super) fn about_tunnel(&mut self, packet: Packet, read: Read, outer: &Quoted, inner: &Quoted) {
        let sent = like_answer_to(inner).reversed();
        let is_known = self.flows.find(&sent).is_some_and(|(number, _)| {
            let connection = self.flows.get(number);
            connection.method == Method::Tunnel && connection.reply.src == outer.dst
        });
        if !is_known {
            return self.route(packet, read);
        }
        let message = &packet.bytes[read.l4..read.end];
        let takes = (inner.l3 - outer.l3) as u32;
        let too_big = |mtu: u32| Problem::TooBig(mtu.saturating_sub(takes).try_into().unwrap_or(u16::MAX));
        let problem = match (read.is_ipv6(), message[0], message[1]) {
            (true, 2, _) => too_big(u32::from(word(message, 4)) << 16 | u32::from(word(message, 6))),
            (false, 3, 4) => too_big(word(message, 6).into()),
            (is_ipv6, kind, code) if is_ipv6 == inner.src.is_ipv6() => Problem::Told(kind, code),
            _ => Problem::HostUnreachable,
        };
        self.drop(DropReason::TunnelError, Hook::Input);
        if !self.limit.allow(self.now) {
            return self.counters.turns.icmp_suppressed.add(1);
        }
        let ether_type: u16 = if inner.src.is_ipv6() { 0x86dd } else { 0x0800 };
        let link = [&packet.bytes[..read.l3 - 2], &ether_type.to_be_bytes()].concat();
        let frame = [&link[..], &packet.bytes[inner.l3..read.end]].concat();
        let id = if inner.src.is_ipv6() { 0 } else { word(&packet.bytes, inner.l3 + 4) };
        let quoted = Read {
            l4: read.l3 + (inner.l4 - inner.l3),
            end: frame.len(),
            src: inner.src,
            dst: inner.dst,
            protocol: inner.protocol,
            id: id.into(),
            piece: Piece::Whole,
            ..read
        };
        self.counters.turns.icmp_sent.add(1);
        let bytes = error_about(&frame, &quoted, problem, inner.dst);
        if let Ok(Some(error)) = parse::read(&bytes) {
            let way = self.tables.way(inner.src);
            self.leave(Packet { bytes, ..packet }, error, inner.src, way, Before::Same);
        }
    }
}

/// Where a segment says its greatest size, if its first option of that kind has a number (RFC 9293 §3.2).
fn mss_at(frame: &[u8], l4: usize) -> Option<usize> {
    let end = l4 + usize::from(frame[l4 + 12] >> 4) * 4;
    let header = frame.get(..end)?;
    let mut at = l4 + 20;
    while at < end {
        match header[at] {
            0 => return None,
            1 => at += 1,
            2 => return (header.get(at + 1) == Some(&4) && at + 4 <= end).then_some(at + 2),
            _ => at += usize::from(*header.get(at + 1)?).max(2),
        }
    }
    None
}

/// GUE's source port tells flows apart: from source and ports, within the kernel's range of local ports.
fn source_port(read: &Read) -> u16 {
    let source = match read.src {
        IpAddr::V4(src) => u32::from(src),
        IpAddr::V6(src) => {
            let src = u128::from(src);
            (0..4).fold(0, |folded, n| folded ^ (src >> (32 * n)) as u32)
        }
    };
    let ports = u32::from(read.sport) * 65_536 + u32::from(read.dport);
    let mixed = u64::from(source ^ ports.rotate_left(7)).wrapping_mul(0x9e37_79b9_7f4a_7c15) / (1 << 32);
    (32_768 + mixed * (61_000 - 32_768) / (1 << 32)) as u16
}
