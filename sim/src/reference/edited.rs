//! What is put into a connection's streams for the real server, which is to know its client: a PROXY header before the client's first byte, or an
//! option of TCP ([`toa`](super::toa)). What FTP says of data connections is exchanged there ([`ftp`](super::ftp)). Numbers behind that are moved by what is put
//! in, and those of a server whose client was answered with a cookie to what that one said ([`cookies`](super::cookies)).
//!
//! Source of the header: W. Tarreau, "The PROXY protocol", HAProxy, 2020, §2.1 and §2.2.

use std::net::IpAddr;

use lb_core::drop::DropReason;
use lb_core::flow::{Direction, Method, Tuple};
use lb_core::hook::Hook;
use lb_core::ids::PortId;
use lb_core::ipvs::state::TcpState;
use lb_core::tables::{Helper, Service, Way};
use lb_core::wire::proxy::Version;

use super::checksum::{covered, fold, moved, place};
use super::connection::{State, is_answered};
use super::cookies::{Cookie, Opening};
use super::flows::{Connection, Number};
use super::forged::check_client;
use super::ftp::{Heard, say};
use super::ftp_words::Asked;
use super::parse::{ACK, Piece, RST, Read, SYN, TCP, fragment, word};
use super::related::Quoted;
use super::stream::Stream;
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
    /// It is a control connection.
    pub(super) ftp: bool,
    /// The number of the client's first byte; known from the real server's SYN on, or from a cookie.
    pub(super) start: Option<u32>,
    /// The client's, before which the header comes, and the server's.
    pub(super) streams: [Stream; 2],
    /// The header was sent.
    pub(super) is_sent: bool,
    /// Of FTP: what the client asked for last, and the local port that it was said to wait at.
    pub(super) asked: Asked,
    pub(super) local_port: u16,
    pub(super) cookie: Option<Cookie>,
}

impl Edit {
    pub(super) fn of(self, cookie: Cookie) -> Edit {
        Edit { cookie: Some(cookie), ..self }
    }

    /// Nothing has been sent yet; the client's data begins here, behind so many other bytes, the server's SYN is there.
    pub(super) fn begin(&mut self, start: Option<u32>, put: usize, server: u32) {
        let streams = [Stream::behind(start.unwrap_or(0), put), Stream::behind(server, 0)];
        *self = Edit { start, streams, is_sent: false, asked: Asked::Nothing, ..*self };
    }
}

/// What is in a segment that is whole, or in the first piece of one.
pub(super) struct Segment {
    pub(super) seq: u32,
    pub(super) data: Vec<u8>,
}

impl Segment {
    pub(super) fn of(packet: &Packet, read: &Read) -> Option<Segment> {
        if read.protocol != TCP || read.piece == Piece::Later {
            return None;
        }
        let data = packet.bytes.get(read.l4 + header_len(&packet.bytes, read)..read.end)?.to_vec();
        Some(Segment { seq: number(&packet.bytes, read.l4 + 4), data })
    }
}

/// The way that a connection's packet takes.
pub(super) struct Link {
    /// Of packets as they come; they may leave in the other family.
    mtu: Option<usize>,
    /// It goes no further.
    pub(super) is_refused: bool,
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
        let is_data = service.key.port == 21 && read.dport != 21;
        let ftp = service.options.helper == Some(Helper::Ftp) && !is_data;
        let begins = read.protocol == TCP && read.tcp_flags & SYN != 0;
        let is_as_it_is = !toa && proxy.is_none() && !ftp && opening.is_none();
        if is_as_it_is || !begins || !is_answered(self.flows.get(at).method) {
            return true;
        }
        let (start, cookie) = opening.map(|opening| opening.begin()).unzip();
        let streams = [start.map_or(Stream::default(), |start| Stream::behind(start, 0)), Stream::default()];
        let (asked, local_port) = (Asked::Nothing, 0);
        let edit = Edit { toa, proxy, ftp, start, streams, is_sent: false, asked, local_port, cookie };
        if self.flows.set_edit(at, Some(edit)) {
            return true;
        }
        self.counters.edits.full.add(1);
        // It is the same stream without the option.
        proxy.is_none() && !ftp && opening.is_none()
    }

    /// Whether a connection's real server is told who its client is, now or at its beginning, or was asked for it.
    pub(super) fn is_told(&self, connection: &Connection) -> bool {
        let service = self.tables.services.of_server(connection.server);
        let is_edited =
            connection.edit.is_some_and(|edit| edit.toa || edit.proxy.is_some() || edit.cookie.is_some());
        let tells = |service: &Service| service.options.toa || service.options.proxy_protocol.is_some();
        is_answered(connection.method) && (is_edited || service.is_some_and(|service| tells(service)))
    }

    /// A connection that cannot be as its service says ends.
    pub(super) fn refuse_unedited(&mut self, at: Number) {
        self.end(at);
        self.drop(DropReason::EditTableFull, Hook::Input);
    }

    /// The way of a packet that goes so.
    pub(super) fn link(&self, at: Number, direction: Direction, read: &Read) -> Link {
        let connection = self.flows.get(at);
        let to = match direction {
            Direction::Original => connection.reply.src,
            Direction::Reply => connection.original.src,
        };
        let is_translated = connection.method == Method::Translated;
        let mtu = match self.tables.way(to) {
            _ if is_translated => self
                .mtu_towards(to)
                .and_then(|mtu| if to.is_ipv6() { mtu.checked_sub(GROWTH) } else { Some(mtu + GROWTH) }),
            Way::Hop(hop) => self.tables.neighbours.get(hop).map(|hop| usize::from(hop.mtu)),
            _ => None,
        };
        let is_refused = match is_translated {
            true => self.check_translated(read, to).is_err(),
            false => read.ttl <= 1 || read.dont_fragment && mtu.is_some_and(|mtu| read.ip_len() > mtu),
        };
        Link { mtu, is_refused }
    }

    /// A packet as it shall go on, behind another one maybe, which goes before it. One that will not be sent on stays as it came. `None`: it was dropped.
    pub(super) fn edit(
        &mut self,
        packet: Packet,
        read: Read,
        at: Number,
        direction: Direction,
        heard: Option<&Heard>,
    ) -> Option<(Packet, Read)> {
        let connection = self.flows.get(at);
        let Some(edit) = connection.edit.filter(|_| read.piece != Piece::Later) else {
            return Some((packet, read));
        };
        let header = header(edit.proxy, &connection.original);
        let Link { mtu, is_refused } = self.link(at, direction, &read);
        if is_refused || read.protocol != TCP {
            return Some((packet, read));
        }
        if read.l4 + header_len(&packet.bytes, &read) > read.end {
            self.drop(DropReason::EditInPart, Hook::Forward);
            return None;
        }
        let edited = match direction {
            Direction::Original => self.edit_clients(packet, read, at, edit, (&header, mtu), heard),
            Direction::Reply => self.edit_servers(packet, read, at, edit, header.len(), heard),
        };
        edited.map_err(|reason| self.drop(reason, Hook::Forward)).ok()
    }

    fn edit_clients(
        &mut self,
        mut packet: Packet,
        mut read: Read,
        at: Number,
        mut edit: Edit,
        (header, mtu): (&[u8], Option<usize>),
        heard: Option<&Heard>,
    ) -> Result<(Packet, Read), DropReason> {
        let came = Segment::of(&packet, &read).expect("it has a header");
        if read.tcp_flags & ACK != 0 {
            edit.streams[1].note_ack(number(&packet.bytes, read.l4 + 8));
        }
        if let Some(cookie) = edit.cookie {
            (packet, read) = cookie.adjusted(packet, read, Direction::Original);
        }
        let (flags, seq) = (read.tcp_flags, number(&packet.bytes, read.l4 + 4));
        let data = read.l4 + header_len(&packet.bytes, &read);
        let checked = check_client(&edit, &packet.bytes, &read, came.data.len());
        if checked.is_err() {
            // What it acknowledges is noted all the same.
            self.flows.set_edit(at, Some(edit));
        }
        checked?;
        if edit.toa {
            (packet, read) = toa::without(packet, read);
        }
        let begins = flags & SYN != 0;
        if begins && self.flows.get(at).state == State::Tcp(TcpState::SynRecv) {
            edit.note_syn(seq, header.len());
        }
        if begins && data < read.end && !header.is_empty() {
            // It would be before the header. The client sends it again.
            packet.bytes.truncate(read.end);
            (packet, read) = changed(packet, read, |bytes| bytes.truncate(data));
        }
        let [clients, servers] = edit.streams;
        let begins_stream =
            edit.start.is_some() && clients.at == seq && clients.taken == 0 && !clients.is_acked;
        let is_before_header =
            flags & RST != 0 && begins_stream && !edit.is_sent || begins && edit.cookie.is_none();
        let mut left = if is_before_header { seq } else { clients.onward(seq) };
        // Nothing is made after the numbers of a damaged segment.
        let asks = flags & (SYN | RST | ACK) == ACK && is_intact(&packet.bytes, &read);
        let is_due = begins_stream && asks && !header.is_empty();
        let back = |number: u32| servers.back(number);
        edit.is_sent |= is_due;
        self.flows.set_edit(at, Some(edit));
        if is_due && data == read.end && read.piece == Piece::Whole {
            left = seq;
            packet.bytes.truncate(read.end);
            (packet, read) = changed(packet, read, |bytes| bytes.extend(header));
        } else if is_due {
            if !self.taken.buffers.pop_front().unwrap_or(true) {
                return Err(DropReason::NoBuffer);
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
        if let Some(heard) = heard {
            (packet, read) = say(packet, read, &mut edit, Direction::Original, heard)?;
        }
        if edit.ftp {
            edit.streams[0].note_passed(came.seq, came.data.len());
        }
        self.flows.set_edit(at, Some(edit));
        Ok(renumbered(packet, read, left, back))
    }

    fn edit_servers(
        &mut self,
        mut packet: Packet,
        mut read: Read,
        at: Number,
        mut edit: Edit,
        put: usize,
        heard: Option<&Heard>,
    ) -> Result<(Packet, Read), DropReason> {
        let came = Segment::of(&packet, &read).expect("it has a header");
        edit.note_server(&packet.bytes, &read, came.data.len(), put);
        if let Some(cookie) = edit.cookie {
            (packet, read) = cookie.adjusted(packet, read, Direction::Reply);
        }
        if read.tcp_flags & ACK != 0 && (edit.proxy.is_none() || edit.is_sent) {
            edit.streams[0].note_ack(number(&packet.bytes, read.l4 + 8));
        }
        edit.toa &= !edit.is_told_by(&packet.bytes, &read, came.data.len());
        if !edit.toa && edit.proxy.is_none() && !edit.ftp && edit.cookie.is_none() {
            // From here on it is as any other.
            self.flows.set_edit(at, None);
            return Ok((packet, read));
        }
        self.flows.set_edit(at, Some(edit));
        if let Some(heard) = heard {
            (packet, read) = say(packet, read, &mut edit, Direction::Reply, heard)?;
        }
        if edit.ftp {
            edit.streams[1].note_passed(came.seq, came.data.len());
        }
        self.flows.set_edit(at, Some(edit));
        let [clients, servers] = edit.streams;
        Ok(renumbered(packet, read, servers.onward(came.seq), |number| clients.back(number)))
    }
}

/// Gives a segment that is quoted by an error, which goes this way, the number that its sender knows it by. Its checksum, which was over what is not
/// quoted, stays as it is.
pub(super) fn renumber_quoted(frame: &mut [u8], quoted: &Quoted, of: &Connection, direction: Direction) {
    if let Some(edit) = of.edit.filter(|_| quoted.protocol == TCP) {
        let at = quoted.l4 + 4;
        let [clients, servers] = edit.streams;
        let stream = if direction == Direction::Original { servers } else { clients };
        let seq = stream.back(number(frame, at));
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

/// Exchanges bytes of a segment's data for others.
pub(super) fn put_in_place(
    packet: Packet,
    read: Read,
    from: usize,
    len: usize,
    with: &[u8],
) -> (Packet, Read) {
    let mut packet = packet;
    // What the link filled up goes.
    packet.bytes.truncate(read.end);
    changed(packet, read, |bytes| {
        let at = read.l4 + header_len(bytes, &read) + from;
        bytes.splice(at..at + len, with.iter().copied());
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
