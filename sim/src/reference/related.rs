//! ICMP errors about a connection's packets (RFC 5508 §4): passed on to the end that sent them, as if about what it sent.

use std::net::IpAddr;

use lb_core::drop::DropReason;
use lb_core::flow::{Direction, Method, Tuple};
use lb_core::hook::Hook;
use lb_core::tables::{Forward, Protocol, Way};
use lb_core::time::Timeout;

use super::by_mark::comes_here;
use super::checksum::{address_sum, fold, moved, moved_udp, of_sctp, place, sum};
use super::edited::renumber_quoted;
use super::flows::Number;
use super::output::Before;
use super::parse::{self, AH, ESP, ICMPV6, Piece, Read, SCTP, UDP, has_ports, word};
use super::persistent::service_of;
use super::road::exchange;
use super::{Packet, Reference, rewrite};

/// The packet that an error quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quoted {
    pub(super) l3: usize,
    pub(super) l4: usize,
    pub(super) protocol: u8,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) sport: u16,
    pub(super) dport: u16,
    /// Of the transport header and its data, as they were; `None` of a fragment.
    pub(super) whole_len: Option<usize>,
}

/// Reads what an error quotes: an IP header and eight bytes of what follows it, at least (RFC 792).
pub(super) fn quoted(frame: &[u8], read: &Read) -> Result<Quoted, DropReason> {
    let bad = Err(DropReason::BadIcmpPayload);
    if read.piece != Piece::Whole {
        return bad;
    }
    if message_sum(frame, read) != 0xffff {
        return Err(DropReason::BadIcmpChecksum);
    }
    quoted_at(&frame[..read.end], read.l4 + 8, read.is_ipv6())
}

/// The same of a packet that begins at `l3` and is quoted up to the end of `message`.
pub(super) fn quoted_at(message: &[u8], l3: usize, is_ipv6: bool) -> Result<Quoted, DropReason> {
    let bad = Err(DropReason::BadIcmpPayload);
    let header_len = if is_ipv6 { 40 } else { 20 };
    let version = if is_ipv6 { 6 } else { 4 };
    if message.len() < l3 + header_len || message[l3] >> 4 != version {
        return bad;
    }
    let (src, dst, protocol, l4) = if is_ipv6 {
        let Ok(walked) = parse::walk(message, l3 + 40, message[l3 + 6]) else { return bad };
        if walked.fragment.is_some_and(|(_, offset, _)| offset > 0) {
            return bad;
        }
        (parse::ipv6(message, l3 + 8), parse::ipv6(message, l3 + 24), walked.protocol, walked.at)
    } else {
        let header_len = usize::from(message[l3] & 15) * 4;
        if header_len < 20 || word(message, l3 + 6) & 0x1fff != 0 {
            return bad;
        }
        (parse::ipv4(message, l3 + 12), parse::ipv4(message, l3 + 16), message[l3 + 9], l3 + header_len)
    };
    if message.len() < l4 + 8 {
        return bad;
    }
    let (sport, dport) = match protocol {
        protocol if has_ports(protocol) => (word(message, l4), word(message, l4 + 2)),
        _ => (0, 0),
    };
    let (end, is_whole) = if is_ipv6 {
        let walked = parse::walk(message, l3 + 40, message[l3 + 6]);
        let has_more = walked.is_ok_and(|walked| walked.fragment.is_some_and(|(_, _, has_more)| has_more));
        (l3 + 40 + usize::from(word(message, l3 + 4)), !has_more)
    } else {
        (l3 + usize::from(word(message, l3 + 2)), word(message, l3 + 6) & 0x2000 == 0)
    };
    let whole_len = if is_whole { end.checked_sub(l4) } else { None };
    Ok(Quoted { l3, l4, protocol, src, dst, sport, dport, whole_len })
}

/// A packet that goes the way of an answer to the quoted one, of the same connection.
pub(super) fn like_answer_to(quoted: &Quoted) -> Tuple {
    if [ESP, AH].contains(&quoted.protocol) {
        return exchange(quoted.dst, quoted.src);
    }
    Tuple {
        src: quoted.dst,
        dst: quoted.src,
        sport: quoted.dport,
        dport: quoted.sport,
        protocol: Protocol(quoted.protocol),
    }
}

impl Reference {
    /// The connection that an error begins about none that is known, if sysctl `schedule_icmp` says so; `None`: it begins none.
    fn schedule_error(&mut self, original: Tuple, read: &Read) -> Option<Result<Number, DropReason>> {
        let tables = self.tables.clone();
        if tables.settings.sysctls.schedule_icmp != 1
            || tables.settings.draining
            || !tables.serves(read.is_ipv6())
            || !comes_here(&tables, &original)
            || tables.routes.is_local(original.src)
        {
            return None;
        }
        let service = service_of(&tables, &original)?;
        let has_full_nat = service.servers.iter().any(|server| server.forward == Forward::FullNat);
        if service.options.persistence.is_some() || service.options.one_packet || has_full_nat {
            return None;
        }
        if self.is_shed() {
            return Some(Err(DropReason::Shed));
        }
        if let Some(reason) = self.exceeds(service, original.src) {
            return Some(Err(reason));
        }
        let picked = self.places.pick(&self.team, service, &original, self.now);
        let picked = picked.map(|index| &service.servers[index]);
        let Some(server) = picked.filter(|server| server.id.index() < self.counters.server_capacity()) else {
            return Some(Err(DropReason::NoServer));
        };
        let dport = if server.port == 0 { original.dport } else { server.port };
        let after = Tuple { dst: server.address, dport, ..original };
        let Some(number) = self.bind(original, after.reversed(), server.forward.method(), server.id) else {
            return Some(Err(DropReason::FlowTableFull));
        };
        self.flows.change(number, |connection| connection.timeout = Timeout::from_secs(3));
        Some(Ok(number))
    }

    pub(super) fn related(&mut self, mut packet: Packet, read: Read) {
        let quoted = match quoted(&packet.bytes, &read) {
            Ok(quoted) => quoted,
            Err(DropReason::BadIcmpPayload) => return self.route(packet, read),
            Err(reason) => return self.drop(reason, Hook::Prerouting),
        };
        if let Some(inner) = self.in_tunnel(&packet.bytes, &read, &quoted) {
            return self.about_tunnel(packet, read, &quoted, &inner);
        }
        // The error goes the way of an answer to the packet that it quotes.
        let like = like_answer_to(&quoted);
        let found = self.flows.find(&like);
        let (number, direction) = match found {
            Some(found) => found,
            // What negotiates AH or ESP is begun by nobody else.
            None if !has_ports(quoted.protocol) => return self.route(packet, read),
            None => match self.schedule_error(like, &read) {
                Some(Ok(number)) => (number, Direction::Original),
                Some(Err(reason)) => return self.drop(reason, Hook::Input),
                None => return self.route(packet, read),
            },
        };
        // One that an error began stays as it began.
        if found.is_some() {
            self.renew(number);
        }
        let connection = self.flows.get(number).clone();
        let services = &self.tables.services;
        if !self.tables.serves(connection.original.dst.is_ipv6()) {
            return self.route(packet, read);
        }
        if direction == Direction::Original && connection.lacks_server(services) {
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        }
        if connection.method == Method::Translated {
            return self.translate_error(packet, read, &quoted, &connection, direction);
        }
        if connection.method != Method::Masq {
            // What it is about went to the client by another way: the real server gets it as it is.
            return self.onward(packet, read, &connection);
        }
        // What the sender of the quoted packet sent.
        let (sent, destination) = match direction {
            Direction::Original => (connection.reply, connection.reply.src),
            Direction::Reply if connection.local().is_some() => {
                (connection.original, connection.original.src)
            }
            Direction::Reply => (connection.original, read.dst),
        };
        let way = match self.check(&read, destination) {
            Ok(Way::Local | Way::Linux) => return self.drop(DropReason::Unsupported, Hook::Postrouting),
            Ok(way) => way,
            Err(refusal) => return self.refuse(packet, read, refusal),
        };
        self.count(connection.server, direction, &read);
        renumber_quoted(&mut packet.bytes, &quoted, &connection, direction);
        translate(&mut packet.bytes, &read, &quoted, direction, &sent);
        if connection.local().is_some() {
            // The other end of it was rewritten too.
            let other = match direction {
                Direction::Original => Direction::Reply,
                Direction::Reply => Direction::Original,
            };
            translate(&mut packet.bytes, &read, &quoted, other, &sent);
        }
        rewrite::lower_ttl(&mut packet.bytes, &read);
        self.leave(packet, read, destination, way, Before::Same);
    }
}

/// From a router on the clients' side (`Original`): the real server hears of what it sent, whose source was rewritten. From one on the servers' side
/// (`Reply`): the client hears of what it sent, whose destination was rewritten, and from the address that it sent to.
fn translate(frame: &mut [u8], read: &Read, quoted: &Quoted, direction: Direction, sent: &Tuple) {
    let inner = Read { l3: quoted.l3, l4: quoted.l4, ..*read };
    let (outer_at, inner_at, port_at, old, new) = match direction {
        Direction::Original => (
            rewrite::destination_at(read),
            rewrite::source_at(&inner),
            quoted.l4,
            (quoted.src, quoted.sport),
            (sent.src, sent.sport),
        ),
        Direction::Reply => (
            rewrite::source_at(read),
            rewrite::destination_at(&inner),
            quoted.l4 + 2,
            (quoted.dst, quoted.dport),
            (sent.dst, sent.dport),
        ),
    };
    rewrite::write_address(frame, outer_at, new.0);
    rewrite::seal(frame, read);

    // The quoted header may have been wrong already: who reads it gets it as wrong as it was.
    let header_len = quoted.l4 - quoted.l3;
    let header_sum = |frame: &[u8]| {
        let header = &frame[quoted.l3..quoted.l3 + header_len];
        fold(u64::from(sum(header)) + u64::from(!word(header, 10)))
    };
    let before = header_sum(frame);
    rewrite::write_address(frame, inner_at, new.0);
    if !read.is_ipv6() {
        let field = moved(word(frame, quoted.l3 + 10), before, header_sum(frame));
        frame[quoted.l3 + 10..quoted.l3 + 12].copy_from_slice(&field.to_be_bytes());
    }
    if quoted.protocol == SCTP {
        let ports = |frame: &[u8]| [0, 1, 2, 3].map(|n| frame[quoted.l4 + n]);
        let before = ports(frame);
        frame[port_at..port_at + 2].copy_from_slice(&new.1.to_be_bytes());
        // What stands behind the ports is the same before and after.
        if let Some(len) = quoted.whole_len.filter(|&len| len >= 12 && quoted.l4 + 12 <= read.end) {
            let change = (of_sctp(&before, len) ^ of_sctp(&ports(frame), len)).to_le_bytes();
            for (byte, change) in frame[quoted.l4 + 8..].iter_mut().zip(change) {
                *byte ^= change;
            }
        }
    } else if let Some(place) = place(quoted.protocol) {
        frame[port_at..port_at + 2].copy_from_slice(&new.1.to_be_bytes());
        let at = quoted.l4 + place;
        if at + 2 <= read.end {
            // Not all that this checksum covers is quoted: it changes as the address and the port do.
            let of = |(address, port): (IpAddr, u16)| fold(address_sum(address) + u64::from(port));
            let field = word(frame, at);
            let field = match quoted.protocol {
                UDP => moved_udp(field, of(old), of(new)),
                _ => moved(field, of(old), of(new)),
            };
            frame[at..at + 2].copy_from_slice(&field.to_be_bytes());
        }
    }
    frame[read.l4 + 2..read.l4 + 4].fill(0);
    let field = !message_sum(frame, read);
    frame[read.l4 + 2..read.l4 + 4].copy_from_slice(&field.to_be_bytes());
}

/// Sum of an ICMP message, with the pseudo-header that ICMPv6 has (RFC 4443 §2.3).
fn message_sum(frame: &[u8], read: &Read) -> u16 {
    let message = &frame[read.l4..read.end];
    let mut total = u64::from(sum(message));
    if read.is_ipv6() {
        let addresses = &frame[read.l3 + 8..read.l3 + 40];
        total += u64::from(sum(addresses)) + message.len() as u64 + u64::from(ICMPV6);
    }
    fold(total)
}
