//! What is put into a connection's streams for the real server, which is to know its client: a PROXY header before the client's first byte, or an
//! option of TCP ([`toa`](super::toa)). Numbers behind the header are moved by its length, and those of a server whose client was answered with a cookie to
//! what that one said ([`cookies`](super::cookies)).
//!
//! Source of the header: W. Tarreau, "The PROXY protocol", HAProxy, 2020, §2.1 and §2.2.

use std::net::IpAddr;

use lb_core::drop::DropReason;
use lb_core::flow::{Direction, Method, Tuple};
use lb_core::hook::Hook;
use lb_core::ids::PortId;
use lb_core::ipvs::state::TcpState;
use lb_core::tables::{Service, Way};
use lb_core::wire::proxy::Version;

use super::checksum::{covered, fold, moved, place};
use super::connection::{State, is_answered};
use super::cookies::{Cookie, Opening};
use super::flows::{Connection, Number};
use super::parse::{ACK, Piece, RST, Read, SYN, TCP, fragment, word};
use super::related::Quoted;
use super::translate::GROWTH;
use super::{Packet, Reference, rewrite, toa};

const PSH: u8 = 8;
/// Kind of selective acknowledgements (RFC 2018 §3).
const SACK: u8 = 5;

/// What is done to a connection's segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Edit {
    /// The real server has not answered yet, and is to be told by an option.
    pub(super) toa: bool,
    pub(super) proxy: Option<Version>,
    /// The number of the client's first byte; known from its SYN on. Before it come so many bytes of the header.
    pub(super) start: Option<u32>,
    put: u32,
    /// The header was sent, and arrived.
    is_sent: bool,
    is_acked: bool,
    pub(super) cookie: Option<Cookie>,
}

impl Edit {
    /// A number of the client's as the real server sees it.
    fn onward(&self, seq: u32) -> u32 {
        match self.start {
            Some(start) if !is_before(seq, start) => seq.wrapping_add(self.put),
            _ => seq,
        }
    }

    /// The way back. What is of the header is not of the client's.
    fn back(&self, number: u32) -> u32 {
        match self.start {
            Some(start) if !is_before(start, number) => number,
            Some(start) if self.put > 0 && is_before(number, start.wrapping_add(self.put)) => start,
            _ => number.wrapping_sub(self.put),
        }
    }

    pub(super) fn of(self, cookie: Cookie) -> Edit {
        Edit { cookie: Some(cookie), ..self }
    }

    /// What is added to the server's numbers.
    fn moves(&self) -> u32 {
        self.cookie.map_or(0, |cookie| cookie.moves())
    }
}

/// Of sequence numbers (RFC 9293 §3.4).
fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}

pub(super) fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

/// What is before the client's stream.
fn header(version: Option<Version>, original: &Tuple) -> Vec<u8> {
    let Tuple { src, dst, sport, dport, .. } = *original;
    let is_ipv4 = src.is_ipv4() && dst.is_ipv4();
    let wide = |address| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let text = |address: IpAddr| match address {
        IpAddr::V4(address) if is_ipv4 => address.to_string(),
        // All eight groups: every reader takes them.
        address => wide(address).segments().map(|group| format!("{group:x}")).join(":"),
    };
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) if is_ipv4 => address.octets().to_vec(),
        address => wide(address).octets().to_vec(),
    };
    match version {
        None => Vec::new(),
        Some(Version::V1) => {
            let family = if is_ipv4 { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {sport} {dport}\r\n", text(src), text(dst)).into_bytes()
        }
        Some(Version::V2) => {
            let ends = [octets(src), octets(dst)].concat();
            let kind: [u8; 4] = if is_ipv4 { [0x21, 0x11, 0, 12] } else { [0x21, 0x21, 0, 36] };
            let ports = [sport, dport].map(u16::to_be_bytes).concat();
            [&b"\r\n\r\n\0\r\nQUIT\n"[..], &kind, &ends, &ports].concat()
        }
    }
}

impl Reference {
    /// A connection has begun with this packet. False: the real server would misread it without what is to be put in, for which there is no room.
    pub(super) fn begin_edits(
        &mut self,
        at: Number,
        service: &Service,
        read: &Read,
        opening: Option<Opening>,
    ) -> bool {
        let (toa, proxy) = (service.options.toa, service.options.proxy_protocol);
        let begins = read.protocol == TCP && read.tcp_flags & SYN != 0;
        if !toa && proxy.is_none() && opening.is_none() || !begins || !is_answered(self.flows.get(at).method)
        {
            return true;
        }
        let (start, cookie) = opening.map(|opening| opening.begin()).unzip();
        let edit = Edit { toa, proxy, start, put: 0, is_sent: false, is_acked: false, cookie };
        if self.flows.set_edit(at, Some(edit)) {
            return true;
        }
        self.counters.edits.full.add(1);
        // It is the same stream without the option.
        proxy.is_none() && opening.is_none()
    }

    /// A connection that cannot be as its service says ends.
    pub(super) fn refuse_unedited(&mut self, at: Number) {
        self.end(at);
        self.drop(DropReason::EditTableFull, Hook::Input);
    }

    /// A packet as it shall go on, behind another one maybe, which goes before it. One that will not be sent on stays as it came. `None`: it was dropped.
    pub(super) fn edit(
        &mut self,
        packet: Packet,
        read: Read,
        at: Number,
        direction: Direction,
    ) -> Option<(Packet, Read)> {
        let connection = self.flows.get(at);
        let Some(edit) = connection.edit.filter(|_| read.piece != Piece::Later) else {
            return Some((packet, read));
        };
        let (method, original) = (connection.method, connection.original);
        let to = match direction {
            Direction::Original => connection.reply.src,
            Direction::Reply => original.src,
        };
        // As it comes; it may leave in the other family.
        let mtu = match self.tables.way(to) {
            _ if method == Method::Translated => self
                .mtu_towards(to)
                .and_then(|mtu| if to.is_ipv6() { mtu.checked_sub(GROWTH) } else { Some(mtu + GROWTH) }),
            Way::Hop(hop) => self.tables.neighbours.get(hop).map(|hop| usize::from(hop.mtu)),
            _ => None,
        };
        let is_refused = match method {
            Method::Translated => self.check_translated(&read, to).is_err(),
            _ => read.ttl <= 1 || read.dont_fragment && mtu.is_some_and(|mtu| read.ip_len() > mtu),
        };
        if is_refused || read.l4 + header_len(&packet.bytes, &read) > read.end {
            return Some((packet, read));
        }
        let header = header(edit.proxy, &original);
        match direction {
            Direction::Original => self.edit_clients(packet, read, at, edit, &header, mtu),
            Direction::Reply => Some(self.edit_servers(packet, read, at, edit)),
        }
    }

    fn edit_clients(
        &mut self,
        mut packet: Packet,
        mut read: Read,
        at: Number,
        mut edit: Edit,
        header: &[u8],
        mtu: Option<usize>,
    ) -> Option<(Packet, Read)> {
        if let Some(cookie) = edit.cookie {
            (packet, read) = cookie.adjusted(packet, read, Direction::Original);
        }
        let (flags, seq) = (read.tcp_flags, number(&packet.bytes, read.l4 + 4));
        let data = read.l4 + header_len(&packet.bytes, &read);
        let begins = flags & SYN != 0
            && self.flows.get(at).state == State::Tcp(TcpState::SynRecv)
            && edit.cookie.is_none_or(|cookie| cookie.open.is_none());
        if begins {
            let (start, put) = (Some(seq.wrapping_add(1)), header.len() as u32);
            edit = Edit { start, put, is_sent: false, is_acked: false, ..edit };
        }
        if begins && data < read.end && !header.is_empty() {
            // It would be before the header. The client sends it again.
            packet.bytes.truncate(read.end);
            (packet, read) = changed(packet, read, |bytes| bytes.truncate(data));
        }
        let begins_stream = edit.start == Some(seq) && !edit.is_acked;
        let is_before_header = flags & RST != 0 && begins_stream && !edit.is_sent;
        let mut left = if is_before_header { seq } else { edit.onward(seq) };
        // Nothing is made after the numbers of a damaged segment.
        let asks = flags & (SYN | RST | ACK) == ACK && is_intact(&packet.bytes, &read);
        let is_due = begins_stream && asks && !header.is_empty();
        let cookie = edit.cookie;
        let back = |number: u32| servers(cookie, number);
        edit.is_sent |= is_due;
        self.flows.set_edit(at, Some(edit));
        if is_due && data == read.end && read.piece == Piece::Whole {
            left = seq;
            packet.bytes.truncate(read.end);
            (packet, read) = changed(packet, read, |bytes| bytes.extend(header));
        } else if is_due {
            if !self.taken.buffers.pop_front().unwrap_or(true) {
                self.drop(DropReason::NoBuffer, Hook::Forward);
                return None;
            }
            let (own, own_read) = segment_like(&packet, &read, data, header);
            let (own, own_read) = renumbered(own, own_read, seq, back);
            self.masquerade(own, own_read, at, Direction::Original);
        }
        if edit.toa && flags & (SYN | RST) == 0 && read.piece == Piece::Whole {
            let original = self.flows.get(at).original;
            match toa::with_option(&packet, &read, &original, mtu) {
                Some(with) => (packet, read) = with,
                None => self.counters.edits.toa_left_out.add(1),
            }
        }
        Some(renumbered(packet, read, left, back))
    }

    fn edit_servers(
        &mut self,
        mut packet: Packet,
        mut read: Read,
        at: Number,
        mut edit: Edit,
    ) -> (Packet, Read) {
        if let Some(cookie) = edit.cookie {
            (packet, read) = cookie.adjusted(packet, read, Direction::Reply);
        }
        let (seq, ack) = (number(&packet.bytes, read.l4 + 4), number(&packet.bytes, read.l4 + 8));
        if let Some(start) = edit.start
            && read.tcp_flags & ACK != 0
        {
            edit.is_acked |= edit.put > 0 && !is_before(ack, start.wrapping_add(edit.put));
        }
        edit.toa &= read.tcp_flags & SYN != 0;
        if !edit.toa && edit.proxy.is_none() && edit.cookie.is_none() {
            // From here on it is as any other.
            self.flows.set_edit(at, None);
            return (packet, read);
        }
        self.flows.set_edit(at, Some(edit));
        renumbered(packet, read, seq.wrapping_add(edit.moves()), |number| edit.back(number))
    }
}

/// A number of the server's stream, as the server knows it.
fn servers(cookie: Option<Cookie>, number: u32) -> u32 {
    cookie.map_or(number, |cookie| cookie.back(number))
}

/// Gives a segment that is quoted by an error, which goes this way, the number that its sender knows it by. Its checksum, which was over what is not
/// quoted, stays as it is.
pub(super) fn renumber_quoted(frame: &mut [u8], quoted: &Quoted, of: &Connection, direction: Direction) {
    if let Some(edit) = of.edit.filter(|_| quoted.protocol == TCP) {
        let at = quoted.l4 + 4;
        let seq = match direction {
            Direction::Original => servers(edit.cookie, number(frame, at)),
            Direction::Reply => edit.back(number(frame, at)),
        };
        frame[at..at + 4].copy_from_slice(&seq.to_be_bytes());
    }
}

pub(super) fn header_len(frame: &[u8], read: &Read) -> usize {
    usize::from(frame[read.l4 + 12] >> 4) * 4
}

pub(super) fn is_intact(frame: &[u8], read: &Read) -> bool {
    let place = place(TCP).expect("it has one");
    let total = u64::from(covered(frame, read, TCP, place, (read.src, read.dst)));
    read.piece != Piece::Whole || fold(total + u64::from(word(frame, read.l4 + place))) == 0xffff
}

/// A segment of our own with this data, from the same number on, where a client's has other data, from `at` on. It says of no end, and is no fragment.
fn segment_like(packet: &Packet, read: &Read, at: usize, data: &[u8]) -> (Packet, Read) {
    let mut bytes = [&packet.bytes[..at], data].concat();
    let own = Read { end: bytes.len(), tcp_flags: read.tcp_flags & ACK | PSH, piece: Piece::Whole, ..*read };
    if read.piece != Piece::Whole && read.is_ipv6() {
        let (_, _, behind) = fragment(&bytes, read);
        bytes[behind - 5] &= !1;
    } else if !read.is_ipv6() {
        bytes[read.l3 + 6] &= !0x20;
    }
    write_len(&mut bytes, &own);
    bytes[read.l4 + 13] = own.tcp_flags;
    bytes[read.l4 + 18..read.l4 + 20].fill(0);
    let place = place(TCP).expect("it has one");
    let field = !covered(&bytes, &own, TCP, place, (own.src, own.dst));
    bytes[own.l4 + place..own.l4 + place + 2].copy_from_slice(&field.to_be_bytes());
    (Packet { bytes, port: PortId::NONE, ..packet.clone() }, own)
}

/// Gives a segment another number, and brings what it acknowledges and holds back to what the other end sent.
pub(super) fn renumbered(packet: Packet, read: Read, seq: u32, back: impl Fn(u32) -> u32) -> (Packet, Read) {
    changed(packet, read, |bytes| {
        let (begin, end) = (read.l4, read.l4 + header_len(bytes, &read));
        bytes[begin + 4..begin + 8].copy_from_slice(&seq.to_be_bytes());
        if read.tcp_flags & ACK == 0 {
            return;
        }
        let mut numbers = vec![begin + 8];
        let mut at = begin + 20;
        while at < end && bytes[at] != 0 {
            let len = if bytes[at] == 1 { 1 } else { bytes.get(at + 1).map_or(0, |len| usize::from(*len)) };
            if len == 0 || at + len > end || bytes[at] != 1 && len < 2 {
                break;
            }
            if bytes[at] == SACK {
                numbers.extend((0..(len - 2) / 4).map(|edge| at + 2 + edge * 4));
            }
            at += len;
        }
        for at in numbers {
            let number = back(number(bytes, at));
            bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
    })
}

/// Changes a segment, and its length. A wrong checksum stays wrong by as much.
pub(super) fn changed(mut packet: Packet, read: Read, change: impl FnOnce(&mut Vec<u8>)) -> (Packet, Read) {
    let place = place(TCP).expect("it has one");
    let (ends, bytes) = ((read.src, read.dst), &mut packet.bytes);
    let behind = bytes.len() - read.end;
    let before = covered(bytes, &read, TCP, place, ends);
    change(bytes);
    let changed = Read { end: bytes.len() - behind, ..read };
    write_len(bytes, &changed);
    let after = covered(bytes, &changed, TCP, place, ends);
    let field = moved(word(bytes, read.l4 + place), before, after);
    bytes[read.l4 + place..read.l4 + place + 2].copy_from_slice(&field.to_be_bytes());
    (packet, changed)
}

fn write_len(bytes: &mut [u8], read: &Read) {
    let l3 = read.l3;
    if read.is_ipv6() {
        bytes[l3 + 4..l3 + 6].copy_from_slice(&((read.ip_len() - 40) as u16).to_be_bytes());
    } else {
        bytes[l3 + 2..l3 + 4].copy_from_slice(&(read.ip_len() as u16).to_be_bytes());
        rewrite::seal(bytes, read);
    }
}
