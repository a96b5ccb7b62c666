//! FullNAT into the other address family (RFC 7915): what both families' headers can say is read from the one and written as the other, and so is
//! what an ICMP error quotes. Options and extension headers stay behind.

use std::net::IpAddr;

use lb_core::drop::DropReason;
use lb_core::flow::{Direction, Tuple};
use lb_core::hook::Hook;
use lb_core::tables::{NextHop, Way};

use super::checksum::{address_sum, covered, fold, moved, moved_udp, of_sctp, place, seal_ipv4, sum};
use super::edited::renumber_quoted;
use super::flows::Connection;
use super::output::{Before, Refusal};
use super::parse::{self, ICMP, ICMPV6, Piece, Read, SCTP, UDP, has_ports, word};
use super::related::Quoted;
use super::{Packet, Reference, pieces, rewrite};

/// By how much an IPv6 header is longer.
pub(super) const GROWTH: usize = 20;
/// What every IPv6 link takes.
const EVERY_LINK: usize = 1280;
/// Longest errors (RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c)).
const MOST: [usize; 2] = [576, 1280];

impl Reference {
    pub(super) fn translate(&mut self, packet: Packet, read: Read, after: Tuple) {
        match self.check_translated(&read, after.dst) {
            Ok(Way::Local | Way::Linux) => self.drop(DropReason::Unsupported, Hook::Postrouting),
            Ok(way) => self.leave(packet, read, after.dst, way, Before::NotTranslated(after)),
            Err(refusal) => self.refuse(packet, read, refusal),
        }
    }

    /// As [`Reference::check`]: it is judged by how long it will be, and its sender hears how long it may be as it comes.
    pub(super) fn check_translated(&self, read: &Read, to: IpAddr) -> Result<Way, Refusal> {
        let (len, dont_fragment) = translated_len(read);
        let grown = Read { end: read.l3 + len, dont_fragment, ..*read };
        self.check(&grown, to).map_err(|refusal| match refusal {
            Refusal::TooBig(mtu) if read.is_ipv6() => {
                let mtu = (usize::from(mtu) + GROWTH).clamp(EVERY_LINK, 65_535);
                Refusal::TooBig(mtu as u16)
            }
            Refusal::TooBig(mtu) => {
                let grows = len.saturating_sub(read.ip_len());
                Refusal::TooBig(mtu.saturating_sub(grows as u16))
            }
            other => other,
        })
    }

    pub(super) fn send_translated(&mut self, mut packet: Packet, read: Read, after: &Tuple, hop: &NextHop) {
        if !exchange_ends(&mut packet.bytes, &read, after) {
            return self.drop(DropReason::Untranslatable, Hook::Postrouting);
        }
        let (len, dont_fragment) = translated_len(&read);
        let is_split = !read.is_ipv6() && !dont_fragment && len > EVERY_LINK;
        let all = if is_split {
            // Nobody behind us splits it (§4).
            let buffers = &mut self.taken.buffers;
            let mtu = (EVERY_LINK - GROWTH - 8) as u16;
            pieces::of(&packet.bytes, &read, mtu, || buffers.pop_front().unwrap_or(true))
        } else {
            Ok(vec![packet.bytes.clone()])
        };
        let all = match all {
            Ok(all) => all,
            Err(reason) => return self.drop(reason, Hook::Egress),
        };
        for bytes in all {
            let end = if is_split { bytes.len() } else { read.end };
            let Some(fields) = Fields::read(&bytes[..end], read.l3, read.is_ipv6()) else {
                self.drop(DropReason::Untranslatable, Hook::Postrouting);
                continue;
            };
            self.count_outer_id();
            let fields = Fields { ttl: fields.ttl - 1, ..fields };
            let Some(header) = fields.header(after.src, after.dst, self.outer_id) else {
                self.drop(DropReason::Untranslatable, Hook::Postrouting);
                continue;
            };
            let l4 = read.l3 + header.len();
            let read = Read {
                l4,
                end: l4 + fields.len,
                src: after.src,
                dst: after.dst,
                dont_fragment: after.dst.is_ipv6() || dont_fragment,
                ..read
            };
            let bytes = [&link(&bytes, read.l3, after.dst), &header[..], &bytes[fields.begin..]].concat();
            let packet = Packet { bytes, ..packet.clone() };
            if read.ip_len() <= usize::from(hop.mtu) {
                self.send(packet, &read, hop);
            } else {
                self.send_in_pieces(packet, read, hop);
            }
        }
    }

    /// An error about a packet of a connection, that goes this way: to who sent that packet.
    pub(super) fn translate_error(
        &mut self,
        mut packet: Packet,
        read: Read,
        quoted: &Quoted,
        connection: &Connection,
        direction: Direction,
    ) {
        let sent = match direction {
            Direction::Original => connection.reply,
            Direction::Reply => connection.original,
        };
        let way = match self.check(&read, sent.src) {
            Ok(Way::Local | Way::Linux) => return self.drop(DropReason::Unsupported, Hook::Postrouting),
            Ok(way) => way,
            Err(refusal) => return self.refuse(packet, read, refusal),
        };
        self.count(connection.server, direction, &read);
        renumber_quoted(&mut packet.bytes, quoted, connection, direction);
        self.count_outer_id();
        let mtus = Mtus { receiver: self.mtu_towards(sent.src), destination: self.mtu_towards(quoted.dst) };
        let error = error(&packet.bytes, &read, quoted, &sent, mtus, self.outer_id);
        let bytes = error.unwrap_or_default();
        match parse::read(&bytes) {
            Ok(Some(error)) => self.leave(Packet { bytes, ..packet }, error, sent.src, way, Before::Same),
            _ => self.drop(DropReason::Untranslatable, Hook::Postrouting),
        }
    }

    /// What the link takes by which `to` is reached; `None`: not known.
    pub(super) fn mtu_towards(&self, to: IpAddr) -> Option<usize> {
        let mtu = match self.tables.way(to) {
            Way::Hop(hop) => self.tables.neighbours.get(hop).map(|hop| hop.mtu),
            Way::Unresolved(interface, _) => self.mtu_unresolved(interface, to),
            Way::Local | Way::Linux | Way::NoRoute | Way::Forbidden => None,
        };
        mtu.map(usize::from)
    }
}

/// How long a packet will be, and whether it may not be split then.
fn translated_len(read: &Read) -> (usize, bool) {
    let carried = read.end - read.l4;
    if read.is_ipv6() {
        // What fits into every IPv6 link its sender need not be able to send smaller (§5.1).
        (carried + 20, read.piece == Piece::Whole && carried + 20 > EVERY_LINK - GROWTH)
    } else {
        (carried + 40 + if read.piece == Piece::Whole { 0 } else { 8 }, read.dont_fragment)
    }
}

/// Ethernet header and tags, before a packet to this address.
fn link(frame: &[u8], l3: usize, to: IpAddr) -> Vec<u8> {
    let ether_type: u16 = if to.is_ipv6() { 0x86dd } else { 0x0800 };
    [&frame[..l3 - 2], &ether_type.to_be_bytes()].concat()
}

/// Writes the ports of `after`, and the checksum that goes with its addresses. False: IPv6 wants one, and of this packet there is none and can be none.
fn exchange_ends(frame: &mut [u8], read: &Read, after: &Tuple) -> bool {
    if read.piece == Piece::Later {
        return true;
    }
    let Some(place) = place(read.protocol) else {
        rewrite::sctp_ports(frame, read, after);
        return true;
    };
    let before = covered(frame, read, read.protocol, place, (read.src, read.dst));
    frame[read.l4..read.l4 + 2].copy_from_slice(&after.sport.to_be_bytes());
    frame[read.l4 + 2..read.l4 + 4].copy_from_slice(&after.dport.to_be_bytes());
    let after = covered(frame, read, read.protocol, place, (after.src, after.dst));
    let field = word(frame, read.l4 + place);
    let field = match (read.protocol, field, read.piece) {
        (UDP, 0, Piece::First) if !read.is_ipv6() => return false,
        (UDP, 0, _) if !read.is_ipv6() => {
            if after == 0xffff {
                0xffff
            } else {
                !after
            }
        }
        (UDP, ..) => moved_udp(field, before, after),
        _ => moved(field, before, after),
    };
    frame[read.l4 + place..read.l4 + place + 2].copy_from_slice(&field.to_be_bytes());
    true
}

/// What a header says that one of the other family can say.
#[derive(Clone, Copy, Debug)]
struct Fields {
    tos: u8,
    ttl: u8,
    protocol: u8,
    /// Identification, offset, and whether more follow.
    piece: Option<(u32, usize, bool)>,
    /// Where what it carries begins, and how much that is.
    begin: usize,
    len: usize,
}

impl Fields {
    /// Of the packet at `l3`. `None`: it may not be without something that the other family has no word for (§5.1).
    fn read(frame: &[u8], l3: usize, is_ipv6: bool) -> Option<Fields> {
        let ip = &frame[l3..];
        if !is_ipv6 {
            let header_len = usize::from(ip[0] & 15) * 4;
            let (offset, has_more) = (usize::from(word(ip, 6) & 0x1fff) * 8, word(ip, 6) & 0x2000 != 0);
            return Some(Fields {
                tos: ip[1],
                ttl: ip[8],
                protocol: ip[9],
                piece: (offset > 0 || has_more).then_some((word(ip, 4).into(), offset, has_more)),
                begin: l3 + header_len,
                len: usize::from(word(ip, 2)).checked_sub(header_len)?,
            });
        }
        let (mut at, mut kind, mut piece) = (l3 + 40, ip[6], None);
        while [0, 43, 44, 51, 60].contains(&kind) {
            let header = frame.get(at..at + 8)?;
            let may_be_left_out = kind != 51 && (kind != 43 || header[3] == 0);
            if !may_be_left_out || piece.is_some() {
                // Behind a fragment header stands what the pieces carry.
                return None;
            }
            if kind == 44 {
                let (offset, has_more) = (usize::from(word(header, 2) & 0xfff8), header[3] & 1 == 1);
                let id = u32::from(word(header, 4)) << 16 | u32::from(word(header, 6));
                piece = (offset > 0 || has_more).then_some((id, offset, has_more));
            }
            at += if kind == 44 { 8 } else { (usize::from(header[1]) + 1) * 8 };
            kind = header[0];
        }
        let len = usize::from(word(ip, 4)).checked_sub(at - (l3 + 40))?;
        Some(Fields { tos: (word(ip, 0) >> 4) as u8, ttl: ip[7], protocol: kind, piece, begin: at, len })
    }

    /// As a header between these two; `id` is for an IPv4 packet that is no piece. `None`: such a packet would be too long.
    fn header(&self, src: IpAddr, dst: IpAddr, id: u16) -> Option<Vec<u8>> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let total = u16::try_from(20 + self.len).ok()?;
                let (id, flags) = match self.piece {
                    Some((id, offset, has_more)) => {
                        (id as u16, (offset / 8) as u16 + if has_more { 0x2000 } else { 0 })
                    }
                    None if usize::from(total) > EVERY_LINK - GROWTH => (id, 0x4000),
                    None => (id, 0),
                };
                let mut header = vec![0x45, self.tos];
                header.extend([total, id, flags].map(u16::to_be_bytes).concat());
                header.extend([self.ttl, self.protocol, 0, 0]);
                header.extend(src.octets());
                header.extend(dst.octets());
                seal_ipv4(&mut header);
                Some(header)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (next, behind) = match self.piece {
                    Some((id, offset, has_more)) => {
                        let place = (offset as u16 + u16::from(has_more)).to_be_bytes();
                        (44, [&[self.protocol, 0], &place[..], &id.to_be_bytes()].concat())
                    }
                    None => (self.protocol, Vec::new()),
                };
                let len = u16::try_from(behind.len() + self.len).ok()?;
                let mut header = (0x6000_0000 | u32::from(self.tos) << 20).to_be_bytes().to_vec();
                header.extend(len.to_be_bytes());
                header.extend([next, self.ttl]);
                header.extend(src.octets());
                header.extend(dst.octets());
                header.extend(behind);
                Some(header)
            }
            _ => unreachable!("both ends of one family"),
        }
    }
}

/// What the links take to an error's receiver, and to where the quoted packet went.
#[derive(Clone, Copy)]
struct Mtus {
    receiver: Option<usize>,
    destination: Option<usize>,
}

/// The frame of an error in the other family, to who sent the quoted packet as `sent`. `None`: there is no such error.
fn error(frame: &[u8], read: &Read, quoted: &Quoted, sent: &Tuple, mtus: Mtus, id: u16) -> Option<Vec<u8>> {
    let frame = &frame[..read.end];
    let outer = Fields::read(frame, read.l3, read.is_ipv6())?;
    let inner = Fields::read(frame, quoted.l3, read.is_ipv6())?;
    let message = &frame[read.l4..];
    let quoted_len = inner.begin - quoted.l3 + inner.len;
    let (kind, code, rest) = if read.is_ipv6() {
        from_ipv6(message, mtus)?
    } else {
        from_ipv4(message, quoted_len.min(65_535), mtus)?
    };
    // Extensions behind what is quoted (RFC 4884 §4) stay behind.
    let (lists_len, unit) = match read.is_ipv6() {
        true => ([1, 3].contains(&message[0]), usize::from(message[4]) * 8),
        false => ([3, 11, 12].contains(&message[0]), usize::from(message[5]) * 4),
    };
    let end = if lists_len && unit > 0 { frame.len().min(quoted.l3 + unit) } else { frame.len() };
    let mut data = frame.get(inner.begin..end)?.to_vec();
    undo_ends(&mut data, quoted, sent);
    let inner_header = inner.header(sent.src, sent.dst, id)?;
    let is_ipv6 = sent.src.is_ipv6();
    let outer_len = if is_ipv6 { 40 } else { 20 };
    data.truncate(MOST[usize::from(is_ipv6)] - outer_len - 8 - inner_header.len());
    let mut message = [&[kind, code, 0, 0], &rest[..], &inner_header, &data].concat();
    let mut total = u64::from(sum(&message));
    if is_ipv6 {
        total += address_sum(sent.dst) + address_sum(sent.src) + message.len() as u64 + u64::from(ICMPV6);
    }
    message[2..4].copy_from_slice(&(!fold(total)).to_be_bytes());
    let protocol = if is_ipv6 { ICMPV6 } else { ICMP };
    let outer = Fields { ttl: outer.ttl - 1, protocol, piece: None, len: message.len(), ..outer };
    let header = outer.header(sent.dst, sent.src, id)?;
    Some([&link(frame, read.l3, sent.src), &header[..], &message].concat())
}

/// What is there of a quoted transport header, as its sender wrote it.
fn undo_ends(data: &mut [u8], quoted: &Quoted, sent: &Tuple) {
    if !has_ports(quoted.protocol) || data.len() < 4 {
        return;
    }
    let before = [data[0], data[1], data[2], data[3]];
    data[..2].copy_from_slice(&sent.sport.to_be_bytes());
    data[2..4].copy_from_slice(&sent.dport.to_be_bytes());
    if quoted.protocol == SCTP {
        if let Some(len) = quoted.whole_len.filter(|&len| len >= 12 && data.len() >= 12) {
            let change = (of_sctp(&before, len) ^ of_sctp(&data[..4], len)).to_le_bytes();
            data[8..12].iter_mut().zip(change).for_each(|(byte, change)| *byte ^= change);
        }
        return;
    }
    let at = place(quoted.protocol).expect("TCP and UDP have one");
    if data.len() < at + 2 {
        return;
    }
    let of = |src, dst, ports: [u16; 2]| {
        fold(address_sum(src) + address_sum(dst) + u64::from(ports[0]) + u64::from(ports[1]))
    };
    let before = of(quoted.src, quoted.dst, [quoted.sport, quoted.dport]);
    let after = of(sent.src, sent.dst, [sent.sport, sent.dport]);
    let field = word(data, at);
    let field =
        if quoted.protocol == UDP { moved_udp(field, before, after) } else { moved(field, before, after) };
    data[at..at + 2].copy_from_slice(&field.to_be_bytes());
}

/// §4.2: type, code, and what stands behind the checksum.
fn from_ipv4(message: &[u8], quoted_len: usize, mtus: Mtus) -> Option<(u8, u8, [u8; 4])> {
    let (kind, code, rest) = match (message[0], message[1]) {
        (3, 2) => (4, 1, 6),
        (3, 3) => (1, 4, 0),
        (3, 4) => {
            // RFC 1191 §7: what routers meant that do not say it.
            let plateaus = [68, 296, 508, 1006, 1492, 2002, 4352, 8166, 17_914, 32_000, 65_535];
            let said = match word(message, 6) {
                0 => plateaus.into_iter().rfind(|&mtu| mtu < quoted_len).unwrap_or(68),
                said => usize::from(said),
            };
            let mtu = said.min(mtus.destination.unwrap_or(usize::MAX)) + GROWTH;
            (2, 0, mtu.min(mtus.receiver.unwrap_or(usize::MAX)).max(EVERY_LINK) as u32)
        }
        (3, 9 | 10 | 13 | 15) => (1, 1, 0),
        (3, 0 | 1 | 5..=8 | 11 | 12) => (1, 0, 0),
        (11, code) => (3, code, 0),
        (12, 0 | 2) => {
            let fields = [0, 1, 4, 4, 255, 255, 255, 255, 7, 6, 255, 255, 8, 8, 8, 8, 24, 24, 24, 24];
            let pointer = *fields.get(usize::from(message[4])).filter(|&&place| place != 255)?;
            (4, 0, pointer)
        }
        _ => return None,
    };
    Some((kind, code, rest.to_be_bytes()))
}

/// §5.2.
fn from_ipv6(message: &[u8], mtus: Mtus) -> Option<(u8, u8, [u8; 4])> {
    let number = u32::from(word(message, 4)) << 16 | u32::from(word(message, 6));
    let (kind, code, rest) = match (message[0], message[1]) {
        (1, 0 | 2 | 3) => (3, 1, 0),
        (1, 1) => (3, 10, 0),
        (1, 4) => (3, 3, 0),
        (2, _) => {
            let mtu = (number as usize).min(mtus.destination.unwrap_or(usize::MAX)).saturating_sub(GROWTH);
            (3, 4, mtu.min(mtus.receiver.unwrap_or(65_535)) as u32)
        }
        (3, code) => (11, code, 0),
        (4, 0) => {
            let pointer: u32 = match number {
                0 | 1 => number,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..24 => 12,
                24..40 => 16,
                _ => return None,
            };
            (12, 0, pointer << 24)
        }
        (4, 1) => (3, 2, 0),
        _ => return None,
    };
    Some((kind, code, rest.to_be_bytes()))
}
