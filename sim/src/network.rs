//! The wires: frames on their way, and what may happen to them.

use std::cmp::Ordering;

use lb_core::ids::PortId;
use lb_core::packet::{Frame, Packet};

use crate::director::Subject;
use crate::draw::mix;
use crate::ledger::Effect;
use crate::map::Plan;
use crate::shape::Spread;
use crate::tags::{Sent, Way};
use crate::violation::Checked;
use crate::wire::{self, ACK, Body, FIN, Ip, Link, RST, SYN, Seen};
use crate::world::World;

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    Director,
    Host(usize),
}

/// A frame on its way.
pub struct Flight {
    pub at: u64,
    number: u64,
    /// Elsewhere, so that there is little to move while flights are put in their order.
    cargo: Box<(To, Sent, Frame)>,
}

impl Ord for Flight {
    fn cmp(&self, other: &Flight) -> Ordering {
        // The heap gives the largest: the one that arrives first, of two the one that left first.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Flight) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flight {
    fn eq(&self, other: &Flight) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Flight {}

/// The frame as it leaves a host for the director.
pub fn link_of(plan: &Plan, host: usize) -> Link {
    let host = &plan.hosts[host];
    let interface = plan.interface(host.interface);
    Link { dst: interface.mac, src: host.mac, vlan: interface.vlan }
}

impl<L: Subject> World<L> {
    /// A host sends a packet towards the director, in pieces when it is longer than `mtu`.
    pub(crate) fn send(&mut self, host: usize, ip: &Ip, body: &Body<'_>, mtu: usize, sent: Sent) {
        let link = link_of(&self.plan, host);
        // A real server that has the service's address answers the client itself.
        let to = if sent.way == Way::Reply && self.plan.is_local(ip.src) {
            self.plan.host_at(ip.dst).map_or(To::Director, To::Host)
        } else {
            To::Director
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        wire::build(&mut buffer, &link, ip, body);
        let len = buffer.len() - if link.vlan == 0 { 14 } else { 18 };
        let most = if len > mtu {
            mtu - 60
        } else if len > 200 && self.draw.happens(self.shape.faults.fragment) && !ip.dont_fragment {
            self.draw.between(64, len as u64) as usize
        } else {
            usize::MAX
        };
        if most < len {
            self.packet_ids += 1;
            if let Ok(seen) = wire::read(&buffer) {
                let id = self.packet_ids;
                for (n, piece) in wire::pieces(&buffer, &seen, id, most).iter().enumerate() {
                    self.leave_host(host, piece, to, Sent { is_later_piece: n > 0, ..sent });
                }
            }
        } else {
            self.leave_host(host, &buffer, to, sent);
        }
        self.buffer = buffer;
    }

    fn leave_host(&mut self, host: usize, bytes: &[u8], to: To, sent: Sent) {
        match to {
            To::Director => self.towards_director(host, bytes, sent),
            To::Host(_) => {
                let port = self.plan.interface(self.plan.hosts[host].interface).port;
                self.fly(Frame::new(port, bytes), to, sent);
            }
        }
    }

    /// A frame leaves a host; the wire has its way with it.
    pub(crate) fn towards_director(&mut self, host: usize, bytes: &[u8], sent: Sent) {
        let port = self.plan.interface(self.plan.hosts[host].interface).port;
        let frame = Frame::new(port, bytes);
        if sent.way == Way::Request || sent.way == Way::Reply {
            self.perhaps_error(&frame, To::Director, sent);
        }
        self.fly(frame, To::Director, sent);
    }

    /// A frame that the director sent is on its way to a host.
    pub(crate) fn towards_host(&mut self, frame: Frame, host: usize, sent: Sent) {
        if sent.way == Way::Request || sent.way == Way::Reply {
            self.perhaps_error(&frame, To::Host(host), sent);
        }
        self.fly(frame, To::Host(host), sent);
    }

    fn fly(&mut self, mut frame: Frame, to: To, mut sent: Sent) {
        let faults = self.shape.faults;
        if self.draw.happens(faults.loss) {
            return;
        }
        if !self.shape.is_clean() {
            if self.draw.happens(faults.duplicate) {
                self.launch(frame.clone(), to, sent);
            }
            if self.draw.happens(faults.corrupt) {
                sent.is_mangled |= self.corrupt(&mut frame);
            }
            if self.draw.happens(faults.truncate) {
                let len = frame.data().len() as u64;
                sent.is_mangled = true;
                // A frame never grows by it.
                let _ = frame.set_len(self.draw.below(len) as usize);
            }
        }
        self.launch(frame, to, sent);
    }

    fn launch(&mut self, frame: Frame, to: To, sent: Sent) {
        let mut at = self.now + self.draw.between(20, 1500);
        if self.draw.happens(self.shape.faults.delay) {
            at += self.draw.between(1000, 1_000_000);
        }
        self.number += 1;
        self.flights.push(Flight { at, number: self.number, cargo: Box::new((to, sent, frame)) });
    }

    /// Changes one byte. What ends a connection for the director must not come to be by that, as its ends would know
    /// nothing of it: there the byte stays. Returns whether it was changed.
    fn corrupt(&mut self, frame: &mut Frame) -> bool {
        let len = frame.data().len();
        if len == 0 {
            return false;
        }
        let at = self.draw.below(len as u64) as usize;
        let by = self.draw.between(1, 255) as u8;
        if let Ok(seen) = wire::read(frame.data()) {
            let (flags, l4) = (seen.tcp_flags(frame.data()), seen.l4);
            let is_opening_or_ending = flags & (SYN | FIN | RST) != 0;
            let is_flags = seen.protocol == wire::TCP && (at == l4 + 13 || at == l4 + 12);
            let is_end_or_protocol = at >= seen.l3 && at < l4 + 4;
            let is_ip6_next = seen.dst.is_ipv6() && at < l4;
            // Where any segment begins one, with other ends it would be another connection's beginning.
            let begins = flags & ACK == 0 || self.control.sysctls().sloppy_tcp == 1;
            if is_flags || is_ip6_next || is_opening_or_ending && is_end_or_protocol || begins && at < l4 + 4
            {
                return false;
            }
        }
        frame.data_mut()[at] ^= by;
        true
    }

    /// A router answers with an ICMP error about the packet.
    fn perhaps_error(&mut self, frame: &Frame, to: To, sent: Sent) {
        if !self.draw.happens(self.shape.faults.icmp) {
            return;
        }
        let bytes = frame.data();
        let (Ok(seen), To::Host(host)) = (wire::read(bytes), to) else { return };
        if !seen.is_first() {
            return;
        }
        let is_ipv6 = seen.dst.is_ipv6();
        let (kind, code, rest) = match (is_ipv6, self.draw.below(3)) {
            (false, 0) => (3, 4, 1300),
            (false, 1) => (11, 0, 0),
            (false, _) => (3, 1, 0),
            (true, 0) => (2, 0, 1300),
            (true, 1) => (3, 0, 0),
            (true, _) => (1, 3, 0),
        };
        // Enough of what a tunnel carries to tell whose it is.
        let is_tunnel = self.is_tunnel(&seen, bytes);
        let quote = bytes[seen.l3..seen.end.min(seen.l4 + if is_tunnel { 120 } else { 40 })].to_vec();
        let way = if is_tunnel { Way::TunnelError } else { Way::Error };
        let from = self.plan.hosts[host].address(is_ipv6);
        let ip = Ip { src: from, dst: seen.src, ttl: 60, id: 0, dont_fragment: false, options: 0 };
        let body = Body::Error { kind, code, rest, quote: &quote };
        self.stats.icmp += 1;
        self.send(host, &ip, &body, 1500, Sent { way, ttl: 60, is_later_piece: false, ..sent });
    }

    /// What has arrived by now.
    pub(crate) fn deliver(&mut self) -> Checked {
        while let Some(flight) = self.flights.peek()
            && flight.at <= self.now
        {
            let Some(flight) = self.flights.pop() else { break };
            let (to, sent, frame) = *flight.cargo;
            match to {
                To::Director => self.give_to_director(frame, sent),
                To::Host(host) => {
                    let interface = self.plan.hosts[host].interface;
                    let port = self.plan.interface(interface).port;
                    if self.link_down[port.index()] <= self.now {
                        self.at_host(host, frame, sent)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A frame arrives at a port of the director.
    fn give_to_director(&mut self, frame: Frame, mut sent: Sent) {
        let port = frame.port();
        if self.link_down[port.index()] > self.now {
            return;
        }
        let seen = wire::read(frame.data()).ok();
        let queue = self.queue(port, seen.as_ref(), frame.data());
        sent.effect = seen.map_or(Effect::Nothing, |seen| self.effect(&seen, frame.data(), sent.way));
        let tag = self.tags.give(sent, self.now);
        let len = frame.data().len() as u64;
        let is_in = self.director.wires[port.index()][queue].put(frame.tagged(tag)).is_ok();
        if is_in {
            self.stats.packets += 1;
            self.watch.put(port.index());
        }
        let what = if is_in { "in" } else { "port is full" };
        self.note(what, ("port tag connection bytes", [port.0.into(), tag, sent.serial.into(), len]));
    }

    /// What a packet may do to its connection. Nothing that was changed on the way does more than it says (see `corrupt`).
    fn effect(&self, seen: &Seen, bytes: &[u8], way: Way) -> Effect {
        let flags = seen.tcp_flags(bytes);
        let is_datagram = seen.protocol == wire::UDP && seen.is_first();
        let is_sloppy = self.control.sysctls().sloppy_tcp == 1;
        match way {
            Way::Request if is_datagram || flags & (SYN | RST) == SYN => Effect::Opens,
            Way::Request if is_sloppy && flags & (ACK | FIN) != 0 && flags & RST == 0 => {
                Effect::MayOpen { ends: flags & FIN != 0 }
            }
            Way::Request if flags & (FIN | RST) != 0 => Effect::Ends,
            Way::Reply if flags & (FIN | RST) != 0 => match self.plan.host_at(seen.src) {
                Some(host) => Effect::EndsAt(host as u32),
                None => Effect::Nothing,
            },
            _ => Effect::Nothing,
        }
    }

    /// The queue that the port puts a frame in.
    fn queue(&self, port: PortId, seen: Option<&Seen>, frame: &[u8]) -> usize {
        let shape = &self.shape.ports[port.index()];
        let queues = u64::from(shape.queues);
        let number = match shape.spread {
            Spread::First => 0,
            Spread::Turns => self.number,
            Spread::Symmetric | Spread::Hashed => match seen {
                Some(seen) => {
                    let (sport, dport) = seen.ports(frame).unwrap_or_default();
                    let end = |address: std::net::IpAddr, port: u16| {
                        let number = match address {
                            std::net::IpAddr::V4(a) => u64::from(u32::from(a)),
                            std::net::IpAddr::V6(a) => u128::from(a) as u64,
                        };
                        mix(number << 16 ^ u64::from(port))
                    };
                    let (a, b) = (end(seen.src, sport), end(seen.dst, dport));
                    if shape.spread == Spread::Symmetric { mix(a ^ b) } else { mix(a.wrapping_add(b >> 1)) }
                }
                None => 0,
            },
        };
        (number % queues) as usize
    }

    /// Frames that nobody asked for: noise, broadcasts, unknown tags and hosts, addresses without a way.
    pub(crate) fn send_junk(&mut self) {
        let host = self.draw.below(self.plan.hosts.len() as u64) as usize;
        let mut link = link_of(&self.plan, host);
        let is_ipv6 = self.draw.coin();
        let src = crate::map::nobody(is_ipv6);
        let dst: std::net::IpAddr = match (self.draw.below(4), is_ipv6) {
            (0, false) => "203.0.113.7".parse().unwrap_or(src),
            (1, false) => "100.64.0.1".parse().unwrap_or(src),
            (_, true) if self.draw.coin() => "2001:db8:eeee::1".parse().unwrap_or(src),
            _ => crate::map::virtual_address(0, is_ipv6),
        };
        match self.draw.below(6) {
            0 => link.dst = [0xff; 6],
            1 => link.dst = [2, 9, 9, 9, 9, 9],
            2 => link.vlan = 999,
            _ => {}
        }
        let ttl = self.draw.pick(&[0, 1, 2, 64]);
        let src = if self.draw.below(10) == 0 { dst } else { src };
        let ip = Ip { src, dst, ttl, id: 1, dont_fragment: true, options: self.draw.below(4) as u8 };
        let mut payload = [0; 64];
        crate::tcp::fill(self.number, 0, &mut payload);
        let flags = self.draw.below(64) as u8 & !SYN;
        let body = match self.draw.below(3) {
            0 => Body::Tcp {
                sport: 9,
                dport: 80,
                seq: 1,
                ack: 2,
                flags,
                window: u16::MAX,
                options: &[],
                payload: &payload,
            },
            1 => Body::Udp { sport: 9, dport: 9, is_summed: true, payload: &payload },
            _ => Body::Error { kind: 3, code: 3, rest: 0, quote: &payload },
        };
        let mut frame = Vec::new();
        wire::build(&mut frame, &link, &ip, &body);
        if self.draw.below(3) == 0 {
            for _ in 0..self.draw.between(1, 20) {
                let at = self.draw.below(frame.len() as u64) as usize;
                if at >= 12 {
                    frame[at] = self.draw.number() as u8;
                }
            }
        }
        self.towards_director(host, &frame, Sent { ttl, ..Sent::JUNK });
    }
}
