//! What hosts send: beginnings, and answers to what arrived.

use std::net::IpAddr;

use lb_core::flow::Tuple;
use lb_core::tables::Protocol;

use super::error::Error;
use super::net::{INTERFACES, Net};
use super::packet::{Packet, Says, echo_request};
use super::segment::Segment;
use crate::draw::Draw;
use crate::wire::{ACK, ICMP, ICMPV6, SYN, TCP, UDP};

/// Packets that arrived and may be answered.
pub(super) const REMEMBERED: usize = 40;
pub(super) const TTL: u8 = 64;

/// Who is to send, and what.
#[derive(Clone)]
pub(super) struct Sending {
    pub(super) is_host: bool,
    pub(super) packet: Packet,
}

pub(super) struct Traffic {
    net: Net,
    /// With whether the director's host got it.
    pub(super) arrived: Vec<(bool, Packet)>,
    /// What ends of TCP connections said lately, where they have windows.
    pub(super) said: Vec<Sending>,
    /// What began lately.
    begun: Vec<Sending>,
    /// A TCP port is used once in a connection's life.
    next_port: u16,
    /// Any other too: where workers do not know of each other's connections, what two of them have between the same ends cannot be told apart.
    is_once: bool,
}

impl Traffic {
    pub(super) fn new(net: Net, is_once: bool) -> Traffic {
        Traffic { net, arrived: Vec::new(), said: Vec::new(), begun: Vec::new(), next_port: 0, is_once }
    }

    /// Whoever is there gets it.
    pub(super) fn arrives(&mut self, is_host: bool, packet: Packet, draw: &mut Draw) {
        if self.arrived.len() == REMEMBERED {
            self.arrived.swap_remove(draw.below(REMEMBERED as u64) as usize);
        }
        self.arrived.push((is_host, packet));
    }

    pub(super) fn forget(&mut self) {
        self.arrived.clear();
        self.said.clear();
        self.begun.clear();
    }

    pub(super) fn next(&mut self, draw: &mut Draw) -> Sending {
        if draw.below(5) < 3
            && !self.arrived.is_empty()
            && let Some(answer) = self.answer(draw)
        {
            return answer;
        }
        // A client that asks once more.
        if !self.begun.is_empty() && draw.below(3) == 0 {
            let nth = draw.below(self.begun.len() as u64) as usize;
            return self.begun.swap_remove(nth);
        }
        let sending = self.begin(draw);
        if !matches!(sending.packet.says, Says::Tcp(_)) && self.begun.len() < REMEMBERED {
            self.begun.push(sending.clone());
        }
        sending
    }

    /// To one of the last packets; the newest most often.
    fn answer(&mut self, draw: &mut Draw) -> Option<Sending> {
        let last = self.arrived.len() - 1;
        let nth = if draw.coin() { last } else { draw.below(last as u64 + 1) as usize };
        let (is_host, ref packet) = self.arrived[nth];
        if !self.may_answer(is_host, packet) {
            return None;
        }
        let payload = bytes(draw);
        let says = match packet.says {
            Says::Udp => Says::Udp,
            Says::Echo { is_reply: false, seq } => Says::Echo { is_reply: true, seq },
            Says::Echo { is_reply: true, .. } => return None,
            Says::Tcp(ref segment) => {
                let next = segment.end(packet.payload.len());
                Says::Tcp(match segment.flags & (SYN | ACK) {
                    SYN => Segment::plain(SYN | ACK, 5000, next),
                    _ => Segment::plain(ACK, segment.ack, next),
                })
            }
        };
        let is_handshake = matches!(says, Says::Tcp(segment) if segment.has(SYN));
        let payload = if is_handshake { Vec::new() } else { payload };
        Some(Sending { is_host, packet: Packet { ends: packet.ends.reversed(), says, ttl: TTL, payload } })
    }

    pub(super) fn may_answer(&self, is_host: bool, packet: &Packet) -> bool {
        let is_here = is_host || self.net.is_host(packet.ends.dst);
        // What Linux sends to itself comes by no twin.
        is_here && !(is_host && self.net.is_own(packet.ends.src))
    }

    /// An error about one of the last packets that came to somebody, or about none that was ever sent. With whether the director's host tells it.
    pub(super) fn error(&mut self, draw: &mut Draw) -> Option<(bool, Error)> {
        let (is_host, about) = if draw.below(6) == 0 || self.arrived.is_empty() {
            (false, self.begin(draw).packet)
        } else {
            self.arrived[draw.below(self.arrived.len() as u64) as usize].clone()
        };
        if is_host {
            let src = about.ends.dst;
            return (!self.net.is_own(about.ends.src)).then(|| (true, Error::about(about, src, draw)));
        }
        // Who was to get it, or a router on its way.
        let router = self.net.host(self.net.interface(about.ends.dst), draw);
        let is_end = self.net.is_host(about.ends.dst) && draw.coin();
        let src = if is_end { about.ends.dst } else { router };
        Some((false, Error::about(about, src, draw)))
    }

    fn begin(&mut self, draw: &mut Draw) -> Sending {
        let from = draw.below(INTERFACES.len() as u64) as usize;
        let to = draw.below(INTERFACES.len() as u64) as usize;
        let is_host = draw.below(6) == 0;
        let dst: IpAddr = match draw.below(3) {
            0 if !is_host => self.net.own(to),
            1 if self.net.is_ipv6 && !is_host && draw.coin() => self.net.outer(draw),
            _ => self.net.host(to, draw),
        };
        // Linux gives what it sends the address of the way that it goes.
        let src = if is_host { self.net.own(self.net.interface(dst)) } else { self.net.host(from, draw) };
        // Apart, so that no translation takes what another connection is to begin with.
        self.next_port = (self.next_port + 32) % 50_000;
        let once = 10_000 + self.next_port;
        let sport = if self.is_once { once } else { 4000 + draw.below(6) as u16 };
        let (protocol, says, sport, dport) = match draw.below(6) {
            0 => {
                let protocol = if self.net.is_ipv6 { ICMPV6 } else { ICMP };
                let says = Says::Echo { is_reply: draw.below(8) == 0, seq: draw.below(9) as u16 };
                (protocol, says, sport, echo_request(self.net.is_ipv6))
            }
            1..3 => {
                let flags = draw.pick(&[SYN, SYN, SYN, ACK, SYN | ACK]);
                let says = Says::Tcp(Segment::plain(flags, 1000, 5000));
                (TCP, says, once, draw.pick(&[80, 22]))
            }
            _ => (UDP, Says::Udp, sport, draw.pick(&[80, 53])),
        };
        let ends = Tuple { src, dst, sport, dport, protocol: Protocol(protocol) };
        let ends = match says {
            Says::Echo { is_reply: true, .. } => Tuple { sport: dport, dport: sport, ..ends },
            _ => ends,
        };
        Sending { is_host, packet: Packet { ends, says, ttl: TTL, payload: bytes(draw) } }
    }
}

pub(super) fn bytes(draw: &mut Draw) -> Vec<u8> {
    (0..draw.below(40)).map(|n| n as u8).collect()
}
