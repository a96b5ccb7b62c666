//! ICMP errors of our own (RFC 792, RFC 1812 §4.3, RFC 4443): about which packets, from where, how many.

use std::net::IpAddr;

use lb_core::drop::DropReason;
use lb_core::hook::Hook;
use lb_core::ids::PortId;
use lb_core::time::Tick;

use super::checksum::{address_sum, fold, seal_ipv4, sum};
use super::parse::{ICMP, ICMPV6, Piece, Read};
use super::{Packet, Reference};

#[derive(Clone, Copy, Debug)]
pub(super) enum Problem {
    NetUnreachable,
    HostUnreachable,
    PortUnreachable,
    Prohibited,
    /// Of IPv6 alone.
    BeyondScope,
    TooBig(u16),
    TimeExceeded,
    /// Type and code of another's error, about a packet of the same family.
    Told(u8, u8),
}

impl Problem {
    /// Type, code, and what stands behind the checksum.
    fn message(self, is_ipv6: bool) -> (u8, u8, u32) {
        let mtu = if let Problem::TooBig(mtu) = self { u32::from(mtu) } else { 0 };
        let (kind, code) = match (self, is_ipv6) {
            (Problem::NetUnreachable | Problem::BeyondScope, false) => (3, 0),
            (Problem::HostUnreachable, false) => (3, 1),
            (Problem::PortUnreachable, false) => (3, 3),
            (Problem::TooBig(_), false) => (3, 4),
            (Problem::Prohibited, false) => (3, 13),
            (Problem::TimeExceeded, false) => (11, 0),
            (Problem::NetUnreachable, true) => (1, 0),
            (Problem::Prohibited, true) => (1, 1),
            (Problem::BeyondScope, true) => (1, 2),
            (Problem::HostUnreachable, true) => (1, 3),
            (Problem::PortUnreachable, true) => (1, 4),
            (Problem::TooBig(_), true) => (2, 0),
            (Problem::TimeExceeded, true) => (3, 0),
            (Problem::Told(kind, code), _) => (kind, code),
        };
        (kind, code, mtu)
    }
}

/// A thousand messages a second, fifty at once.
#[derive(Debug)]
pub(super) struct Limit {
    /// Tenths of a message: a tick gains a hundred of them.
    credit: u64,
    last: Tick,
}

impl Limit {
    const MESSAGE: u64 = 10;
    const GAIN: u64 = 100;
    const MOST: u64 = 50 * Self::MESSAGE;

    pub(super) fn new(now: Tick) -> Limit {
        Limit { credit: Self::MOST, last: now }
    }

    pub(super) fn allow(&mut self, now: Tick) -> bool {
        self.credit = (self.credit + u64::from(now.since(self.last)) * Self::GAIN).min(Self::MOST);
        self.last = now;
        let is_allowed = self.credit >= Self::MESSAGE;
        if is_allowed {
            self.credit -= Self::MESSAGE;
        }
        is_allowed
    }
}

impl Reference {
    /// Drops a packet and tells its sender why.
    pub(super) fn answer(
        &mut self,
        packet: Packet,
        read: Read,
        problem: Problem,
        reason: DropReason,
        hook: Hook,
    ) {
        self.drop(reason, hook);
        let Some(source) = self.answers_from(&packet, &read) else { return };
        if !may_answer(&packet.bytes, &read) {
            return;
        }
        if !self.limit.allow(self.now) {
            return self.counters.turns.icmp_suppressed.add(1);
        }
        self.counters.turns.icmp_sent.add(1);
        let bytes = error_about(&packet.bytes, &read, problem, source);
        self.transmit(packet.port, Packet { bytes, ..packet });
    }

    /// The address that the packet was sent to, if it is ours; else that of the interface by which it came.
    fn answers_from(&self, packet: &Packet, read: &Read) -> Option<IpAddr> {
        // Nobody sent one of our own.
        if packet.port == PortId::NONE {
            return None;
        }
        if self.tables.routes.is_local(read.dst) {
            return Some(read.dst);
        }
        let interfaces = &self.tables.interfaces;
        let interface = interfaces.get(interfaces.find(packet.port, read.vlan)?)?;
        if read.is_ipv6() { interface.ipv6.map(IpAddr::from) } else { interface.ipv4.map(IpAddr::from) }
    }
}

/// RFC 1122 §3.2.2, RFC 4443 §2.4 (e).
fn may_answer(frame: &[u8], read: &Read) -> bool {
    const REDIRECT: u8 = 137;
    let is_redirect = read.is_ipv6() && read.protocol == ICMPV6 && read.icmp_type == REDIRECT;
    let was_for_many = frame[0] & 1 == 1
        || match read.dst {
            IpAddr::V4(dst) => dst.is_multicast() || dst.is_broadcast(),
            IpAddr::V6(dst) => dst.is_multicast(),
        };
    !read.is_icmp_error()
        && !is_redirect
        && !was_for_many
        && read.piece != Piece::Later
        && !read.src.is_unspecified()
}

/// The error about a packet, which is quoted as it is now, back by the way that it came.
pub(super) fn error_about(frame: &[u8], read: &Read, problem: Problem, source: IpAddr) -> Vec<u8> {
    let (header_len, most) = if read.is_ipv6() { (40, 1280) } else { (20, 576) };
    let quote = read.ip_len().min(most - header_len - 8);
    let (kind, code, rest) = problem.message(read.is_ipv6());
    let mut message =
        [&[kind, code, 0, 0], &rest.to_be_bytes()[..], &frame[read.l3..read.l3 + quote]].concat();
    let mut header = vec![0; header_len];
    let mut total = u64::from(sum(&message));
    match (source, read.src) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            header[0] = 0x45;
            // Precedence "internetwork control" (RFC 1812 §4.3.2.5); the rest is the packet's type of service.
            header[1] = 0xc0 | frame[read.l3 + 1] & 0x1e;
            header[2..4].copy_from_slice(&((header_len + message.len()) as u16).to_be_bytes());
            header[4..6].copy_from_slice(&(read.id as u16).to_be_bytes());
            header[8] = 64;
            header[9] = ICMP;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&to.octets());
            seal_ipv4(&mut header);
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            header[0] = 0x60;
            header[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
            header[6] = ICMPV6;
            header[7] = 64;
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&to.octets());
            total += address_sum(source.into()) + address_sum(to.into());
            total += message.len() as u64 + u64::from(ICMPV6);
        }
        _ => unreachable!("an answer comes from an address of the packet's family"),
    }
    message[2..4].copy_from_slice(&(!fold(total)).to_be_bytes());
    [&frame[6..12], &frame[..6], &frame[12..read.l3], &header, &message].concat()
}
