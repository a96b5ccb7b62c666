//! What reaches clients and servers: what they expect of it, and how they answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_core::packet::{Frame, Packet};

use crate::conn::{Ask, Conn, Outcome, Talk};
use crate::director::Subject;
use crate::draw::mix;
use crate::hosts::{ServerState, Side, question};
use crate::invariants::name;
use crate::map::{GUE_PORT, SERVER_PORT};
use crate::tags::{Sent, Way};
use crate::tcp::End;
use crate::violation::{Checked, Violation, hold};
use crate::wire::{self, ACK, Body, ICMP, ICMPV6, Ip, RST, SYN, Seen, TCP, UDP};
use crate::world::World;

/// Pieces of datagrams, by sender, id and protocol, until all have come.
#[derive(Default)]
pub(crate) struct Pieces(BTreeMap<(IpAddr, u32, u8), Gathered>);

#[derive(Default)]
struct Gathered {
    first: Option<(Vec<u8>, Sent)>,
    data: BTreeMap<u16, Vec<u8>>,
    end: Option<usize>,
    is_mangled: bool,
    since: u64,
}

/// Microseconds after which the rest of a datagram is not waited for any more.
const GATHERING: u64 = 10_000_000;

impl<L: Subject> World<L> {
    /// A frame reaches a host.
    pub(crate) fn at_host(&mut self, host: usize, frame: Frame, sent: Sent) -> Checked {
        self.arrive(host, frame.data(), sent)
    }

    /// Whether it is a packet of a tunnel of the director's to a real server.
    pub(crate) fn is_tunnel(&self, seen: &Seen, bytes: &[u8]) -> bool {
        // Of a datagram in pieces the first one alone says to which port it goes: no other goes from the director to a host.
        let is_later = seen.piece.is_some_and(|piece| piece.offset > 0);
        let is_one = is_later && seen.protocol == UDP || wire::is_tunnel(seen, bytes, GUE_PORT);
        is_one && self.plan.is_interface(seen.src) && self.plan.host_at(seen.dst).is_some()
    }

    /// A frame, or what a tunnel's carried.
    fn arrive(&mut self, host: usize, bytes: &[u8], sent: Sent) -> Checked {
        let Ok(seen) = wire::read(bytes) else {
            hold!(
                sent.is_mangled || sent.way == Way::Junk,
                name::RIGHT,
                "host {host} got a frame that cannot be read"
            );
            return Ok(());
        };
        if matches!(self.server_state(host), ServerState::Dead(_)) {
            return Ok(());
        }
        if seen.piece.is_none() {
            return self.open_packet(host, bytes, &seen, sent);
        }
        let Some((whole, sent)) = self.gather(host, bytes, &seen, sent) else { return Ok(()) };
        match wire::read(&whole) {
            Ok(seen) => self.open_packet(host, &whole, &seen, sent),
            Err(_) => Ok(()),
        }
    }

    /// A real server unpacks what comes to it through a tunnel.
    fn open_packet(&mut self, host: usize, bytes: &[u8], seen: &Seen, sent: Sent) -> Checked {
        if !self.is_tunnel(seen, bytes) || self.plan.host_at(seen.dst) != Some(host) {
            return self.take(host, bytes, seen, sent);
        }
        match wire::unpack(bytes, seen) {
            Ok(inner) => self.arrive(host, &inner, sent),
            Err(why) => {
                hold!(
                    sent.is_mangled,
                    name::RIGHT,
                    "host {host} got a tunnel's packet that cannot be unpacked: {why}"
                );
                Ok(())
            }
        }
    }

    /// A piece of a datagram; the whole, when it was the last one missing.
    fn gather(&mut self, host: usize, bytes: &[u8], seen: &Seen, sent: Sent) -> Option<(Vec<u8>, Sent)> {
        let piece = seen.piece?;
        let now = self.now;
        let all = &mut self.pieces[host].0;
        all.retain(|_, gathered| gathered.since + GATHERING > now);
        let key = (seen.src, piece.id, seen.protocol);
        let gathered = all.entry(key).or_default();
        if gathered.data.is_empty() {
            gathered.since = now;
        }
        gathered.is_mangled |= sent.is_mangled;
        let data = bytes[seen.l4..seen.end].to_vec();
        if !piece.more {
            gathered.end = Some(usize::from(piece.offset) + data.len());
        }
        if piece.offset == 0 {
            gathered.first = Some((bytes.to_vec(), sent));
        }
        gathered.data.insert(piece.offset, data);
        let mut whole = Vec::new();
        for (&offset, data) in &gathered.data {
            let from = whole.len().checked_sub(offset.into())?;
            whole.extend_from_slice(data.get(from..).unwrap_or_default());
        }
        if gathered.end != Some(whole.len()) {
            return None;
        }
        let (first, sent) = gathered.first.clone()?;
        let sent = Sent { is_mangled: gathered.is_mangled, is_later_piece: false, ..sent };
        all.remove(&key);
        let seen = wire::read(&first).ok()?;
        Some((wire::join(&first, &seen, &whole), sent))
    }

    /// A whole packet reaches a host.
    fn take(&mut self, host: usize, bytes: &[u8], seen: &Seen, sent: Sent) -> Checked {
        if sent.is_mangled || sent.way == Way::Junk {
            return Ok(());
        }
        hold!(
            seen.is_sum_right(bytes),
            name::RIGHT,
            "host {host} got a packet of connection {} with a wrong checksum: {seen:?}",
            sent.serial
        );
        // What is late, of a connection that is gone, is nobody's.
        let Some(conn) = self.conns.get(sent.conn).filter(|conn| conn.serial == sent.serial) else {
            return Ok(());
        };
        let is_ipv6 = conn.to.0.is_ipv6();
        let client = self.plan.hosts[conn.client].address(is_ipv6);
        let is_error = match seen.protocol {
            ICMP => !matches!(bytes.get(seen.l4), Some(0 | 8)),
            ICMPV6 => bytes.get(seen.l4).is_some_and(|&kind| kind < 128),
            _ => false,
        };
        if is_error {
            return self.take_error(host, bytes, seen, sent);
        }
        let is_at_client = host == conn.client;
        let way = sent.way;
        hold!(
            is_at_client == (way == Way::Reply || way == Way::Host),
            name::NO_BYTES_TO_ANOTHER,
            "host {host} got a packet of connection {} that went {way:?}",
            sent.serial
        );
        if matches!(seen.protocol, TCP | UDP) {
            let ports = seen.ports(bytes).unwrap_or_default();
            let (from, to) = if is_at_client {
                ((conn.to.0, conn.to.1), (client, conn.port))
            } else {
                ((client, conn.port), self.plan.arrives_at(host, conn.place, conn.to))
            };
            if is_at_client && conn.place.is_some() && self.plan.host_at(seen.src).is_some() {
                // Of a connection that the director has forgotten: passed on as it is, for nobody.
                return Ok(());
            }
            hold!(
                (seen.src, ports.0) == from && (seen.dst, ports.1) == to,
                name::RIGHT,
                "host {host} got a packet of connection {} from {} {} to {} {}, not from {from:?} to {to:?}",
                sent.serial,
                seen.src,
                ports.0,
                seen.dst,
                ports.1
            );
        }
        match seen.protocol {
            TCP if is_at_client => self.segment_at_client(sent.conn, bytes, seen),
            TCP => self.segment_at_server(host, sent.conn, bytes, seen),
            UDP | ICMP | ICMPV6 => self.data_at(host, sent, bytes, seen, is_at_client),
            other => Err(Violation { name: name::RIGHT, what: format!("host {host} got protocol {other}") }),
        }
    }

    fn segment_at_client(&mut self, at: u32, bytes: &[u8], seen: &Seen) -> Checked {
        let now = self.now;
        let Some(segment) = wire::segment(seen, bytes) else { return Ok(()) };
        let Some(Conn { talk: Talk::Tcp { client, .. }, serial, .. }) = self.conns.get_mut(at) else {
            return Ok(());
        };
        client.take(&segment, now).map_err(|wrong| Violation {
            name: name::NO_BYTES_TO_ANOTHER,
            what: format!(
                "client of connection {serial}: byte {} of the answer is not its own",
                wrong.offset
            ),
        })?;
        self.pump_side(at, Side::Client);
        self.settle(at);
        self.arm(at);
        Ok(())
    }

    fn segment_at_server(&mut self, host: usize, at: u32, bytes: &[u8], seen: &Seen) -> Checked {
        let now = self.now;
        let state = self.server_state(host);
        let Some(segment) = wire::segment(seen, bytes) else { return Ok(()) };
        let Some(conn) = self.conns.get_mut(at) else { return Ok(()) };
        let serial = conn.serial;
        let is_mine = conn.server == Some(host);
        let Talk::Tcp { terms, server, .. } = &mut conn.talk else { return Ok(()) };
        let is_opening = segment.flags & (SYN | ACK | RST) == SYN;
        let is_known = is_mine && server.is_some();
        if !is_known {
            if !is_opening || state != ServerState::Up {
                if segment.flags & RST == 0 {
                    self.refuse(host, at, seen, &segment, bytes);
                }
                return Ok(());
            }
            *server = Some(End::server(terms, mix(u64::from(serial) ^ host as u64) as u32, segment.seq, now));
            conn.server = Some(host);
        }
        let Talk::Tcp { server: Some(server), .. } = &mut conn.talk else { return Ok(()) };
        server.take(&segment, now).map_err(|wrong| Violation {
            name: name::NO_BYTES_TO_ANOTHER,
            what: format!("server host {host}: byte {} of connection {serial} is not its own", wrong.offset),
        })?;
        self.pump_side(at, Side::Server);
        self.arm(at);
        Ok(())
    }

    /// A server that knows nothing of a segment's connection, or takes none, answers with an RST.
    fn refuse(&mut self, host: usize, at: u32, seen: &Seen, segment: &wire::Segment<'_>, bytes: &[u8]) {
        let Some((sport, dport)) = seen.ports(bytes) else { return };
        let ack =
            segment.seq.wrapping_add(segment.payload.len() as u32 + u32::from(segment.flags & SYN != 0));
        let body = Body::Tcp {
            sport: dport,
            dport: sport,
            seq: segment.ack,
            ack,
            flags: RST | ACK,
            window: u16::MAX,
            options: &[],
            payload: &[],
        };
        let ip = Ip { src: seen.dst, dst: seen.src, ttl: 64, id: 0, dont_fragment: true, options: 0 };
        let sent = self.story(at, Side::Server, 64, false);
        self.send(host, &ip, &body, 1500, sent);
    }

    /// A datagram or a ping.
    fn data_at(&mut self, host: usize, sent: Sent, bytes: &[u8], seen: &Seen, is_at_client: bool) -> Checked {
        let at = sent.conn;
        let payload = match seen.protocol {
            UDP => wire::datagram(seen, bytes),
            _ => bytes.get(seen.l4 + 8..seen.end),
        };
        let refuses = self.server_state(host) != ServerState::Up;
        let now = self.now;
        let Some(conn) = self.conns.get_mut(at) else { return Ok(()) };
        let Talk::Ask(ask) = &mut conn.talk else { return Ok(()) };
        let got = payload.and_then(|payload| payload.first_chunk::<8>());
        let got = got.map(|head| {
            let [a, b, c, d, e, f, g, h] = *head;
            (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
        });
        let Some((serial, round)) = got else {
            return Err(Violation {
                name: name::RIGHT,
                what: format!("host {host} got no data of connection {}", sent.serial),
            });
        };
        let is_answer = is_at_client && !ask.is_echo;
        let asked = Ask { round, ..*ask };
        let len = if is_answer { ask.lens.1 } else { ask.lens.0 };
        let expected = question(conn.serial, &asked, is_answer, len);
        hold!(
            serial == conn.serial && payload == Some(&expected[..]),
            name::NO_BYTES_TO_ANOTHER,
            "host {host}: datagram {round} of connection {serial} is not what connection {} sent",
            sent.serial
        );
        if is_at_client {
            if conn.ended.is_none() && round == ask.round {
                (ask.round, ask.tries, ask.deadline) = (round + 1, 0, now);
                if ask.round == ask.rounds {
                    self.end(at, Outcome::Done);
                } else {
                    self.pump_side(at, Side::Client);
                    self.arm(at);
                }
            }
            return Ok(());
        }
        let ask = asked;
        if refuses {
            return Ok(());
        }
        conn.server = Some(host);
        let reply = if ask.is_echo { expected } else { question(serial, &ask, true, ask.lens.1) };
        self.send_data(at, Side::Server, &ask, &reply, round);
        Ok(())
    }

    /// An ICMP error must quote a packet that this very host sent.
    fn take_error(&mut self, host: usize, bytes: &[u8], seen: &Seen, sent: Sent) -> Checked {
        let (kind, quote) = (bytes[seen.l4], &bytes[seen.l4 + 8..seen.end]);
        let Some(conn) = self.conns.get(sent.conn) else { return Ok(()) };
        let is_ipv6 = seen.dst.is_ipv6();
        let byte = |at: usize| quote.get(at).copied().unwrap_or(0);
        let (protocol, l4, is_first) = match (is_ipv6, byte(6)) {
            (false, _) => (byte(9), usize::from(byte(0) & 15) * 4, byte(6) & 0x1f == 0 && byte(7) == 0),
            (true, 44) => (byte(40), 48, byte(42) == 0 && byte(43) & !7 == 0),
            (true, protocol) => (protocol, 40, true),
        };
        if quote.len() < l4 + 8 {
            return Ok(());
        }
        let address = |at: usize| -> Option<IpAddr> {
            if is_ipv6 {
                quote.get(at..at + 16).and_then(|b| b.first_chunk::<16>()).map(|b| IpAddr::from(*b))
            } else {
                quote.get(at..at + 4).and_then(|b| b.first_chunk::<4>()).map(|b| IpAddr::from(*b))
            }
        };
        let (src, dst) = if is_ipv6 { (address(8), address(24)) } else { (address(12), address(16)) };
        let side = if host == conn.client { Side::Client } else { Side::Server };
        let client = self.plan.hosts[conn.client].address(is_ipv6);
        let mine = self.plan.hosts[host].address(is_ipv6);
        let other = if side == Side::Client { conn.to.0 } else { client };
        let quoted = dst.and_then(|dst| self.plan.host_at(dst)).map(|host| host as u32);
        let server = self.ledger.live_server(sent.binding, sent.looked_up, self.control.shortest);
        let is_known = server == quoted;
        if sent.way == Way::Error
            && side == Side::Client
            && conn.place.is_some()
            && quoted.is_some()
            && !(is_known && sent.has_family[usize::from(is_ipv6)])
        {
            // Of a connection that the director had forgotten, or while it had no service of the family: passed on as it was, about a packet that nobody here sent.
            return Ok(());
        }
        hold!(
            src == Some(mine) && dst == Some(other),
            name::RIGHT,
            "host {host} got an ICMP error about a packet from {src:?} to {dst:?}, connection {} is from {mine} to {other}",
            sent.serial
        );
        if is_first && matches!(protocol, TCP | UDP) {
            let word = |at: usize| u16::from_be_bytes([quote[at], quote[at + 1]]);
            let server_port = if conn.place.is_some() { SERVER_PORT } else { conn.to.1 };
            let ports = match side {
                Side::Client => (conn.port, conn.to.1),
                Side::Server => (server_port, conn.port),
            };
            hold!(
                (word(l4), word(l4 + 2)) == ports,
                name::RIGHT,
                "host {host} got an ICMP error about ports {} and {}, connection {} has {ports:?}",
                word(l4),
                word(l4 + 2),
                sent.serial
            );
        }
        let is_too_big = if is_ipv6 { kind == 2 } else { kind == 3 && bytes[seen.l4 + 1] == 4 };
        let mtu = u32::from_be_bytes([0, 0, bytes[seen.l4 + 6], bytes[seen.l4 + 7]]);
        if is_too_big && mtu >= 1000 {
            self.shrink(sent.conn, side, mtu as u16);
        }
        Ok(())
    }

    fn shrink(&mut self, at: u32, side: Side, mtu: u16) {
        let Some(conn) = self.conns.get_mut(at) else { return };
        conn.mtu = conn.mtu.min(mtu.into());
        if let Talk::Tcp { client, server, .. } = &mut conn.talk {
            let end = if side == Side::Client { Some(client) } else { server.as_mut() };
            if let Some(end) = end {
                end.shrink(mtu - 80);
            }
        }
        self.pump_side(at, side);
    }
}
