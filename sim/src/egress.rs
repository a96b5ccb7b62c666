//! What the director sent, looked at frame by frame; and its own Linux, behind the twins.

use std::net::IpAddr;

use lb_core::ids::PortId;
use lb_core::packet::{Frame, Packet};

use crate::conn::Conn;
use crate::director::Subject;
use crate::invariants::name;
use crate::map::How;
use crate::tags::{NONE, Sent, Way};
use crate::violation::{Checked, hold};
use crate::wire::{self, ACK, Body, ICMP, ICMPV6, Ip, Link, RST, SYN, Seen, TCP, UDP};
use crate::world::World;

impl<L: Subject> World<L> {
    /// Takes all that the director sent, by its ports and up its twins.
    pub(crate) fn collect(&mut self) -> Checked {
        for port in 0..self.director.wires.len() {
            for queue in 0..self.director.wires[port].len() {
                while let Some(frame) = self.director.wires[port][queue].take() {
                    self.watch.taken(port);
                    self.sent(PortId(port as u16), frame)?;
                }
            }
            while let Some(frame) = self.director.hosts[port].take() {
                self.watch.up(port);
                self.at_linux(port, frame)?;
            }
        }
        Ok(())
    }

    /// A frame left by a port.
    fn sent(&mut self, port: PortId, frame: Frame) -> Checked {
        let tag = frame.tag();
        // A piece that the director cut off has a buffer of its own, without a tag.
        let sent = if tag == 0 { None } else { Some(self.tags.came_out(tag)?) };
        let serial = sent.map_or(0, |sent| sent.serial);
        let len = frame.data().len() as u64;
        self.note("out", ("port tag connection bytes", [port.0.into(), tag, serial.into(), len]));
        let bytes = frame.data();
        let is_unchecked = sent.is_some_and(|sent| sent.is_mangled || sent.way == Way::Junk);
        let seen = match wire::read(bytes) {
            Ok(seen) if is_unchecked => return self.pass_on(frame, &seen, sent),
            Ok(seen) => seen,
            Err(_) if is_unchecked => return Ok(()),
            Err(why) => {
                hold!(false, name::RIGHT, "frame {tag} of connection {serial} left port {}: {why}", port.0);
                return Ok(());
            }
        };
        self.check_link(port, &seen, tag)?;
        if self.is_tunnel(&seen, bytes) {
            return self.sent_in_tunnel(frame, &seen, sent);
        }
        let Some(sent) = sent else {
            hold!(
                seen.piece.is_some_and(|piece| piece.offset > 0),
                name::RIGHT,
                "a buffer of the director's own left port {} and is no later piece: {seen:?}",
                port.0
            );
            return self.pass_on(frame, &seen, None);
        };
        let is_icmp = matches!(seen.protocol, ICMP | ICMPV6);
        let is_own_error = is_icmp && sent.way != Way::Error && self.is_own_error(bytes, &seen, sent);
        if is_own_error {
            hold!(
                seen.is_sum_right(bytes),
                name::RIGHT,
                "an ICMP error of the director has a wrong checksum: {seen:?}"
            );
            return self.pass_on(frame, &seen, Some(sent));
        }
        if sent.way == Way::Host {
            return self.pass_on(frame, &seen, Some(sent));
        }
        hold!(
            seen.ttl.wrapping_add(1) == sent.ttl,
            name::RIGHT,
            "frame {tag} of connection {serial} came with TTL {} and left with {}",
            sent.ttl,
            seen.ttl
        );
        if seen.piece.is_none() {
            hold!(
                seen.is_sum_right(bytes),
                name::RIGHT,
                "frame {tag} of connection {serial} left with a wrong checksum: {seen:?}"
            );
            let is_unsummed = seen.protocol == UDP && bytes.get(seen.l4 + 6..seen.l4 + 8) == Some(&[0, 0]);
            let is_as_it_was = sent.way == Way::Reply && self.plan.host_at(seen.src).is_some();
            let is_forwarded = sent.way == Way::Request && self.plan.is_local(seen.dst);
            let is_translated = sent.binding != NONE && !is_as_it_was && !is_forwarded;
            hold!(
                !(is_translated && is_unsummed),
                name::RIGHT,
                "frame {tag} of connection {serial} left without a checksum: the director owes it one"
            );
        }
        self.check_ends(&seen, bytes, sent, tag, None)?;
        self.pass_on(frame, &seen, Some(sent))
    }

    /// A frame left through a tunnel to a real server. What it carries must be the client's packet, one hop later.
    fn sent_in_tunnel(&mut self, frame: Frame, outer: &Seen, sent: Option<Sent>) -> Checked {
        let (bytes, tag) = (frame.data(), frame.tag());
        let Some(host) = self.plan.host_at(outer.dst) else { return Ok(()) };
        let interface = self.plan.interface(self.plan.hosts[host].interface);
        let own = if outer.dst.is_ipv6() {
            interface.ipv6.map(IpAddr::from)
        } else {
            interface.ipv4.map(IpAddr::from)
        };
        hold!(
            Some(outer.src) == own,
            name::RIGHT,
            "frame {tag} left through a tunnel from {}, not from {own:?}",
            outer.src
        );
        if outer.piece.is_some() {
            // The host puts it together before it looks into it.
            return self.pass_on(frame, outer, sent);
        }
        let inner = wire::unpack(bytes, outer);
        let read = inner.and_then(|inner| wire::read(&inner).map(|seen| (inner, seen)));
        let (inner, seen) = match read {
            Ok(read) => read,
            Err(why) => {
                hold!(false, name::RIGHT, "frame {tag} left through a tunnel, and {why}");
                return Ok(());
            }
        };
        hold!(
            outer.ttl == seen.ttl
                && (outer.dst.is_ipv6() || seen.dst.is_ipv6() || outer.dont_fragment == seen.dont_fragment),
            name::RIGHT,
            "frame {tag} left through a tunnel as {outer:?} with {seen:?} in it"
        );
        let Some(sent) = sent else {
            hold!(
                seen.piece.is_some_and(|piece| piece.offset > 0),
                name::RIGHT,
                "a buffer of the director's own left through a tunnel and carries no later piece: {seen:?}"
            );
            return self.pass_on(frame, outer, None);
        };
        hold!(
            seen.ttl.wrapping_add(1) == sent.ttl && (seen.piece.is_some() || seen.is_sum_right(&inner)),
            name::RIGHT,
            "frame {tag} of connection {} came with TTL {} and left through a tunnel as {seen:?}",
            sent.serial,
            sent.ttl
        );
        self.check_ends(&seen, &inner, sent, tag, Some(host))?;
        self.pass_on(frame, outer, Some(sent))
    }

    /// MAC addresses and tag are those of the way to the destination.
    fn check_link(&self, port: PortId, seen: &Seen, tag: u64) -> Checked {
        let Some(host) = self.plan.host_towards(&seen.link, seen.dst) else { return Ok(()) };
        let host = &self.plan.hosts[host];
        let interface = self.plan.interface(host.interface);
        let Link { dst, src, vlan } = seen.link;
        hold!(
            interface.port == port && (dst, src, vlan) == (host.mac, interface.mac, interface.vlan),
            name::RIGHT,
            "frame {tag} to {} left port {} as {dst:x?} from {src:x?} on VLAN {vlan}, not port {} as {:x?} from {:x?} on VLAN {}",
            seen.dst,
            port.0,
            interface.port.0,
            host.mac,
            interface.mac,
            interface.vlan
        );
        Ok(())
    }

    /// The director's own ICMP error about what a packet's sender sent.
    fn is_own_error(&self, bytes: &[u8], seen: &Seen, sent: Sent) -> bool {
        let kind = bytes.get(seen.l4).copied().unwrap_or(0);
        let is_error = if seen.protocol == ICMP { !matches!(kind, 0 | 8) } else { kind < 128 };
        is_error && sent.way != Way::Host && self.plan.is_local(seen.src)
    }

    /// Addresses and ports are the translated ones; or the client's, where the real server gets them so. `through`: the real
    /// server at the end of a tunnel.
    fn check_ends(
        &mut self,
        seen: &Seen,
        bytes: &[u8],
        sent: Sent,
        tag: u64,
        through: Option<usize>,
    ) -> Checked {
        let Some(conn) = self.conns.get(sent.conn).filter(|conn| conn.serial == sent.serial) else {
            return Ok(());
        };
        if sent.way == Way::Error {
            return Ok(());
        }
        let is_ipv6 = conn.to.0.is_ipv6();
        let client = (self.plan.hosts[conn.client].address(is_ipv6), conn.port);
        let ports = seen.ports(bytes);
        let serial = sent.serial;
        match (sent.way, conn.place) {
            (Way::Request, Some(place)) => {
                let host = through.or_else(|| self.plan.host_towards(&seen.link, seen.dst));
                let servers = self.control.servers_ever[place];
                let is_right = host.is_some_and(|host| {
                    let is_tunnelled = matches!(self.plan.how(host, Some(place)), How::Tunnelled { .. });
                    let (address, port) = self.plan.arrives_at(host, Some(place), conn.to);
                    servers >> host & 1 == 1
                        && is_tunnelled == through.is_some()
                        && seen.dst == address
                        && ports.is_none_or(|ports| ports == (client.1, port))
                });
                hold!(
                    seen.src == client.0 && is_right,
                    name::RIGHT,
                    "frame {tag} of connection {serial} left from {} to {} with ports {ports:?}",
                    seen.src,
                    seen.dst
                );
                let (Some(host), Some(_)) = (host, ports) else { return Ok(()) };
                let is_syn = seen.tcp_flags(bytes) & (SYN | ACK | RST) == SYN;
                if self.ledger.to_server(sent.binding, host as u32, sent.looked_up, is_syn)? {
                    self.note("brought", ("connection server tag", [serial.into(), host as u64, tag, 0]));
                }
                Ok(())
            }
            (Way::Reply, Some(_)) if self.plan.host_at(seen.src).is_some() => {
                let host = self.plan.host_at(seen.src);
                self.check_untranslated(seen, host, sent)
            }
            (Way::Reply, Some(_)) => {
                self.check_same(seen, ports, (conn.to.0, conn.to.1), client, serial, tag)?;
                if ports.is_some() {
                    self.ledger.to_client(sent.binding, sent.looked_up);
                }
                Ok(())
            }
            (Way::Request, None) => self.check_same(seen, ports, client, direct(conn), serial, tag),
            (Way::Reply, None) => self.check_same(seen, ports, direct(conn), client, serial, tag),
            _ => Ok(()),
        }
    }

    /// A real server's packet was passed on as it is, as a router does: the director must not know its connection.
    fn check_untranslated(&self, seen: &Seen, host: Option<usize>, sent: Sent) -> Checked {
        let has_family = sent.has_family[usize::from(seen.dst.is_ipv6())];
        let server = self.ledger.live_server(sent.binding, sent.looked_up, self.control.shortest);
        let is_live = server.is_some() && server == host.map(|host| host as u32);
        hold!(
            !(is_live && has_family && seen.is_first()),
            name::KEPT,
            "a server's packet of the live connection {} was not translated",
            sent.serial
        );
        Ok(())
    }

    /// Whether all tables in use have virtual services of the family: without any, connections are not looked at.
    pub(crate) fn has_family(&self, is_ipv6: bool) -> bool {
        self.control.history.values().all(|published| published.has_family[usize::from(is_ipv6)])
    }

    fn check_same(
        &self,
        seen: &Seen,
        ports: Option<(u16, u16)>,
        from: (std::net::IpAddr, u16),
        to: (std::net::IpAddr, u16),
        serial: u32,
        tag: u64,
    ) -> Checked {
        hold!(
            seen.src == from.0 && seen.dst == to.0 && ports.is_none_or(|ports| ports == (from.1, to.1)),
            name::RIGHT,
            "frame {tag} of connection {serial} left from {} to {} with ports {ports:?}, not from {from:?} to {to:?}",
            seen.src,
            seen.dst
        );
        Ok(())
    }

    /// On to the host that it is for, if there is one.
    fn pass_on(&mut self, frame: Frame, seen: &Seen, sent: Option<Sent>) -> Checked {
        let Some(host) = self.plan.host_towards(&seen.link, seen.dst) else { return Ok(()) };
        // Which packet it is a piece of says the first one.
        let sent = sent.unwrap_or(Sent { is_later_piece: true, ..Sent::JUNK });
        self.towards_host(frame, host, sent);
        Ok(())
    }

    /// A frame went up a twin: Linux answers what is for no service.
    fn at_linux(&mut self, port: usize, frame: Frame) -> Checked {
        let sent = self.tags.came_out(frame.tag())?;
        let (tag, serial) = (frame.tag(), sent.serial);
        self.note("up", ("port tag connection", [port as u64, tag, serial.into(), 0]));
        let bytes = frame.data();
        let Ok(seen) = wire::read(bytes) else { return Ok(()) };
        if sent.is_mangled || !self.plan.is_local(seen.dst) {
            return Ok(());
        }
        self.check_forgotten(&seen, bytes, sent)?;
        if sent.way == Way::Junk || seen.piece.is_some() || !seen.is_sum_right(bytes) {
            return Ok(());
        }
        let is_ipv6 = seen.dst.is_ipv6();
        let link = Link { dst: seen.link.src, src: seen.link.dst, vlan: seen.link.vlan };
        let ip = Ip { src: seen.dst, dst: seen.src, ttl: 64, id: 0, dont_fragment: false, options: 0 };
        let ports = seen.ports(bytes).unwrap_or_default();
        let mut answer = Vec::new();
        match seen.protocol {
            TCP => {
                let Some(segment) = wire::segment(&seen, bytes).filter(|s| s.flags & RST == 0) else {
                    return Ok(());
                };
                let len = segment.payload.len() as u32 + u32::from(segment.flags & SYN != 0);
                let ack = segment.seq.wrapping_add(len);
                let (sport, dport) = (ports.1, ports.0);
                let body = Body::Tcp {
                    sport,
                    dport,
                    seq: segment.ack,
                    ack,
                    flags: RST | ACK,
                    window: u16::MAX,
                    options: &[],
                    payload: &[],
                };
                wire::build(&mut answer, &link, &ip, &body);
            }
            UDP => {
                let quote = &bytes[seen.l3..seen.end.min(seen.l3 + 548)];
                let (kind, code) = if is_ipv6 { (1, 4) } else { (3, 3) };
                wire::build(&mut answer, &link, &ip, &Body::Error { kind, code, rest: 0, quote });
            }
            ICMP | ICMPV6 if matches!(bytes[seen.l4], 8 | 128) => {
                let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                let (id, seq) = (word(seen.l4 + 4), word(seen.l4 + 6));
                let payload = &bytes[seen.l4 + 8..seen.end];
                wire::build(&mut answer, &link, &ip, &Body::Echo { is_reply: true, id, seq, payload });
            }
            _ => return Ok(()),
        }
        let sent = Sent { way: Way::Host, ttl: 64, ..sent };
        let tag = self.tags.give(sent, self.now);
        let frame = Frame::new(PortId::NONE, &answer).tagged(tag);
        if self.director.hosts[port].put(frame).is_ok() {
            self.watch.down(port);
        }
        Ok(())
    }

    /// Linux got a client's packet for a virtual service: the director must not know its connection.
    fn check_forgotten(&self, seen: &Seen, bytes: &[u8], sent: Sent) -> Checked {
        if sent.way != Way::Request || sent.binding == NONE || seen.ports(bytes).is_none() {
            return Ok(());
        }
        let has_family = sent.has_family[usize::from(seen.dst.is_ipv6())];
        let server = self.ledger.live_server(sent.binding, sent.looked_up, self.control.shortest);
        let is_live = server.is_some();
        hold!(
            !(is_live && has_family),
            name::KEPT,
            "a packet of the live connection {} from {} went up to Linux",
            sent.serial,
            seen.src
        );
        Ok(())
    }
}

fn direct(conn: &Conn) -> (std::net::IpAddr, u16) {
    conn.to
}
