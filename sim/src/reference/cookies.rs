//! Services whose clients are answered with SYN cookies: who acknowledges one is a client, for whom the real server is asked then. The server's numbers,
//! clocks and windows are moved to what the client was told. How cookies are hashed both ends compute alike.

use lb_core::drop::DropReason;
use lb_core::flow::{Direction, Tuple};
use lb_core::hook::Hook;
use lb_core::ids::PortId;
use lb_core::syn_cookie;
use lb_core::tables::{Service, SynCookies};
use lb_core::time::{Tick, Timeout};
use lb_core::wire::tcp_options::TcpOptions;

use super::checksum::{covered, place, seal_ipv4};
use super::edited::{Edit, changed, header_len, is_intact, number, renumbered};
use super::flows::Number;
use super::parse::{self, ACK, FIN, Piece, RST, Read, SYN, TCP, word};
use super::road::{FTP_DATA, tuple};
use super::stream::Stream;
use super::{Packet, Reference};

const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
/// Shift of windows that clients are told.
const SCALE: u8 = 7;
/// Cookies are made for so long after a second of a flood.
const STAYS: Timeout = Timeout::from_secs(10);

/// A client's connection, as its acknowledgement of a cookie tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Opening {
    /// The client's first number, and ours.
    seq: u32,
    isn: u32,
    window: u16,
    asked: TcpOptions,
    is_ecn: bool,
    /// What the client saw last of our clock.
    clock: u32,
}

impl Opening {
    pub(super) fn begin(&self) -> (u32, Cookie) {
        let told = self.asked.scale.map(|_| SCALE);
        let Opening { isn, window, clock, asked, .. } = *self;
        (self.seq.wrapping_add(1), Cookie { isn, window, clock, asked: asked.scale, told, open: None })
    }
}

/// What is kept of such a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cookie {
    isn: u32,
    window: u16,
    clock: u32,
    /// Shifts of windows that the client asked for and was told.
    asked: Option<u8>,
    told: Option<u8>,
    /// From the server's answer on.
    pub(super) open: Option<Open>,
}

/// How the server differs from what the client was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Open {
    /// Its clock, from ours.
    ahead: u32,
    /// Windows are shifted to the left by so much, of the client's packets and of the server's.
    scales: [i32; 2],
}

impl Cookie {
    /// A segment with the clocks and the window that the other end knows.
    pub(super) fn adjusted(&self, packet: Packet, read: Read, direction: Direction) -> (Packet, Read) {
        let Some(open) = self.open else { return (packet, read) };
        changed(packet, read, |bytes| {
            let header = &bytes[read.l4..read.l4 + header_len(bytes, &read)];
            if let Some(at) = stamps_at(header).map(|at| read.l4 + at) {
                let (at, by) = match direction {
                    Direction::Original => (at + 4, open.ahead),
                    Direction::Reply => (at, open.ahead.wrapping_neg()),
                };
                let moved = number(bytes, at).wrapping_add(by);
                bytes[at..at + 4].copy_from_slice(&moved.to_be_bytes());
            }
            if read.tcp_flags & SYN == 0 {
                let window = word(bytes, read.l4 + 14);
                let window = shifted(window, open.scales[direction.index()]);
                bytes[read.l4 + 14..read.l4 + 16].copy_from_slice(&window.to_be_bytes());
            }
        })
    }
}

/// Where a header's timestamps are.
fn stamps_at(header: &[u8]) -> Option<usize> {
    let mut at = 20;
    while at < header.len() && header[at] != 0 {
        let len = match header[at] {
            1 => 1,
            _ => usize::from(*header.get(at + 1)?).max(2),
        };
        if header[at] == 8 {
            return (len == 10 && at + len <= header.len()).then_some(at + 2);
        }
        at += len;
    }
    None
}

/// A window in other units, the largest that there is if it is larger.
fn shifted(window: u16, by: i32) -> u16 {
    let exact = f64::from(window) * f64::from(by).exp2();
    exact.floor().min(65_535.0) as u16
}

/// A segment without data behind this link header. As Linux's, it has 64 hops and is not split.
fn bare(
    link: &[u8],
    ends: &Tuple,
    (seq, ack): (u32, u32),
    flags: u8,
    window: u16,
    options: &TcpOptions,
) -> (Vec<u8>, Read) {
    use std::net::IpAddr;

    let options = options.bytes();
    let len = (20 + options.len()) as u16;
    let mut header = match (ends.src, ends.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = vec![0x45, 0];
            header.extend([20 + len, 0, 0x4000].map(u16::to_be_bytes).concat());
            header.extend([64, TCP, 0, 0]);
            header.extend([src.octets(), dst.octets()].concat());
            seal_ipv4(&mut header);
            header
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(len.to_be_bytes());
            header.extend([TCP, 64]);
            header.extend([src.octets(), dst.octets()].concat());
            header
        }
        _ => unreachable!("no service with cookies has real servers of the other family"),
    };
    header.extend([ends.sport, ends.dport].map(u16::to_be_bytes).concat());
    header.extend([seq, ack].map(u32::to_be_bytes).concat());
    header.extend([(len / 4 * 16) as u8, flags]);
    header.extend([window, 0, 0].map(u16::to_be_bytes).concat());
    header.extend(&options);
    let mut bytes = [link, &header].concat();
    let read = parse::read(&bytes).ok().flatten().expect("it was just written");
    let place = place(TCP).expect("it has one");
    let field = !covered(&bytes, &read, TCP, place, (ends.src, ends.dst));
    bytes[read.l4 + place..read.l4 + place + 2].copy_from_slice(&field.to_be_bytes());
    (bytes, read)
}

fn swapped(link: &[u8]) -> Vec<u8> {
    [&link[6..12], &link[..6], &link[12..]].concat()
}

fn options(frame: &[u8], read: &Read) -> TcpOptions {
    TcpOptions::read(&frame[read.l4 + 20..read.l4 + header_len(frame, read)])
}

/// What becomes of a packet of a connection before its state takes note of it.
pub(super) enum Becomes {
    Goes(Packet, Read),
    /// The server's answer, the first time or once more.
    Opens(Packet, Read, bool),
    Gone,
}

/// What is known of SYNs for a service that turns to cookies by need.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Syns {
    second: u32,
    count: u32,
    until: Option<Tick>,
}

impl Reference {
    /// A first packet for a service with cookies, unless it is a SYN that was answered with one. Who acknowledged one opens a connection: the packet is its
    /// SYN now.
    pub(super) fn by_cookie(
        &mut self,
        packet: Packet,
        read: Read,
        service: &Service,
    ) -> Option<(Packet, Read, Option<Opening>)> {
        let flags = read.tcp_flags & (SYN | ACK | FIN | RST);
        if read.protocol != TCP || read.piece != Piece::Whole || read.sport == FTP_DATA {
            return Some((packet, read, None));
        }
        let client = tuple(&read);
        if flags == SYN {
            let is_wanted = !self.tables.settings.draining && self.wants_cookie(service);
            if !is_wanted || !is_intact(&packet.bytes, &read) {
                return Some((packet, read, None));
            }
            self.answer_syn(packet, &read, &client);
            return None;
        }
        if flags & ACK == 0 || flags & (SYN | RST) != 0 || !is_intact(&packet.bytes, &read) {
            return Some((packet, read, None));
        }
        let seq = number(&packet.bytes, read.l4 + 4).wrapping_sub(1);
        let Some(opening) = self.acknowledged(&packet.bytes, &read, &client, seq) else {
            self.counters.cookies.invalid.add(1);
            return Some((packet, read, None));
        };
        self.counters.cookies.valid.add(1);
        let (packet, read) = syn_of(packet, &read, &client, &opening);
        Some((packet, read, Some(opening)))
    }

    fn wants_cookie(&mut self, service: &Service) -> bool {
        let SynCookies::Auto(rate) = service.options.syn_cookies else { return true };
        let most = rate.div_ceil(self.team.counters.len() as u32);
        let (now, is_short) = (self.now, self.is_short);
        let syns = self.syns.entry(service.id).or_default();
        let second = now.0 / Tick::PER_SECOND;
        if second != syns.second {
            *syns = Syns { second, count: 0, ..*syns };
        }
        syns.count += 1;
        let is_on = syns.until.is_some_and(|until| !now.is_at_or_after(until));
        let is_flood = is_short || syns.count >= if is_on { most.div_ceil(2) } else { most };
        if is_flood {
            syns.until = Some(now.after(STAYS));
        }
        is_on || is_flood
    }

    /// The answer is all that there is of it.
    fn answer_syn(&mut self, packet: Packet, read: &Read, client: &Tuple) {
        self.counters.cookies.syn_received.add(1);
        let (seq, asked) = (number(&packet.bytes, read.l4 + 4), options(&packet.bytes, read));
        let (headers, least) = if read.is_ipv6() { (60, 1220) } else { (40, 536) };
        let isn = syn_cookie::make(&self.tables.cookies, client, seq, asked.mss.unwrap_or(least), self.now);
        let mtu = self.mtu_towards(client.src).unwrap_or(1500);
        let mss = asked.mss.map(|_| mtu.saturating_sub(headers) as u16);
        let mut told = TcpOptions { mss, ..TcpOptions::default() };
        if let Some((clock, _)) = asked.stamps {
            // What the cookie has no room for stands in our clock, in milliseconds.
            let scale = asked.scale.map_or(15, |scale| u32::from(scale.min(14)));
            let stamp = self.now.0.wrapping_mul(10) / 64 * 64 + scale + if asked.sack { 16 } else { 0 };
            let scale = asked.scale.map(|_| SCALE);
            told = TcpOptions { scale, sack: asked.sack, stamps: Some((stamp, clock)), ..told };
        }
        let link = swapped(&packet.bytes[..read.l3]);
        let numbers = (isn, seq.wrapping_add(1));
        let (bytes, _) = bare(&link, &client.reversed(), numbers, SYN | ACK, 0, &told);
        self.transmit(packet.port, Packet { bytes, ..packet });
    }

    /// What a client's packet tells that acknowledges a cookie. `seq`: its first number.
    fn acknowledged(&self, frame: &[u8], read: &Read, client: &Tuple, seq: u32) -> Option<Opening> {
        let isn = number(frame, read.l4 + 8).wrapping_sub(1);
        let mss = syn_cookie::check(&self.tables.cookies, client, seq, isn, self.now)?;
        let (window, stamps) = (word(frame, read.l4 + 14), options(frame, read).stamps);
        let mut asked = TcpOptions { mss: Some(mss), ..TcpOptions::default() };
        let (mut is_ecn, mut clock) = (false, 0);
        if let Some((theirs, ours)) = stamps {
            let scale = (ours % 16) as u8;
            let scale = (scale != 15).then_some(scale);
            asked = TcpOptions { scale, sack: ours & 16 != 0, stamps: Some((theirs, 0)), ..asked };
            (is_ecn, clock) = (ours & 32 != 0, ours);
        }
        Some(Opening { seq, isn, window, asked, is_ecn, clock })
    }

    pub(super) fn before(&mut self, packet: Packet, read: Read, at: Number, direction: Direction) -> Becomes {
        let connection = self.flows.get(at);
        let is_whole_header = read.piece != Piece::Later && read.protocol == TCP;
        let Some(edit) = connection
            .edit
            .filter(|_| is_whole_header && read.l4 + header_len(&packet.bytes, &read) <= read.end)
        else {
            return Becomes::Goes(packet, read);
        };
        let Some(cookie) = edit.cookie else { return Becomes::Goes(packet, read) };
        let flags = read.tcp_flags & (SYN | ACK | FIN | RST);
        let is_first = cookie.open.is_none();
        if direction == Direction::Original {
            if !is_first || flags & (SYN | RST) != 0 {
                return Becomes::Goes(packet, read);
            }
            // The server has not answered: it is asked again.
            let (client, start) = (connection.original, edit.start.expect("its SYN was made here"));
            let opening = self.acknowledged(&packet.bytes, &read, &client, start.wrapping_sub(1));
            let is_it = |opening: &Opening| opening.isn == cookie.isn && is_intact(&packet.bytes, &read);
            let Some(opening) = opening.filter(is_it) else {
                self.counters.cookies.invalid.add(1);
                self.drop(DropReason::BadCookie, Hook::Input);
                return Becomes::Gone;
            };
            self.counters.cookies.valid.add(1);
            self.counters.cookies.retrans.add(1);
            let (packet, read) = syn_of(packet, &read, &client, &opening);
            return Becomes::Goes(packet, read);
        }
        if flags == SYN | ACK && is_intact(&packet.bytes, &read) {
            let (packet, read) = self.note_answer(packet, read, at, edit, cookie);
            return Becomes::Opens(packet, read, is_first);
        }
        if !is_first {
            return Becomes::Goes(packet, read);
        }
        if flags & RST != 0 {
            let (packet, read) = renumbered(packet, read, cookie.isn.wrapping_add(1), |number| number);
            return Becomes::Goes(packet, read);
        }
        // It takes the SYN for another connection's, and hears that there is none.
        self.drop(DropReason::NoConnection, Hook::Forward);
        self.reset(packet, &read);
        Becomes::Gone
    }

    /// Tells the sender of a segment that nobody knows its connection (RFC 9293 §3.10.7.1).
    pub(super) fn reset(&mut self, packet: Packet, read: &Read) {
        let flags = read.tcp_flags;
        if read.protocol != TCP
            || flags & RST != 0
            || read.piece != Piece::Whole
            // It came in a frame to many.
            || packet.bytes[0] & 1 == 1
            || !is_intact(&packet.bytes, read)
        {
            return;
        }
        let data = read.end.saturating_sub(read.l4 + header_len(&packet.bytes, read));
        let len = data as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let (seq, ack) = (number(&packet.bytes, read.l4 + 4), number(&packet.bytes, read.l4 + 8));
        let (numbers, flags) = match flags & ACK {
            0 => ((0, seq.wrapping_add(len)), RST | ACK),
            _ => ((ack, 0), RST),
        };
        let link = swapped(&packet.bytes[..read.l3]);
        let (bytes, _) = bare(&link, &tuple(read).reversed(), numbers, flags, 0, &TcpOptions::default());
        self.transmit(packet.port, Packet { bytes, ..packet });
    }

    /// The server's answer, as the client would have had it.
    fn note_answer(
        &mut self,
        packet: Packet,
        read: Read,
        at: Number,
        edit: Edit,
        cookie: Cookie,
    ) -> (Packet, Read) {
        let theirs = options(&packet.bytes, &read);
        let (seq, ack) = (number(&packet.bytes, read.l4 + 4), number(&packet.bytes, read.l4 + 8));
        let clock = match cookie.open {
            Some(open) => theirs.stamps.map_or(0, |(theirs, _)| theirs.wrapping_sub(open.ahead)),
            None => cookie.clock,
        };
        if cookie.open.is_none() {
            let ahead = theirs.stamps.map_or(0, |(theirs, _)| theirs.wrapping_sub(cookie.clock));
            let scales = match (theirs.scale, cookie.told) {
                (_, None) => [0, 0],
                (Some(theirs), Some(told)) => [0, i32::from(theirs) - i32::from(told)],
                // Without a scale of the server's there is none.
                (None, Some(told)) => [i32::from(cookie.asked.unwrap_or(14).min(14)), -i32::from(told)],
            };
            let [clients, _] = edit.streams;
            let streams = [clients, Stream::moved(seq, cookie.isn.wrapping_sub(seq))];
            let cookie = Cookie { open: Some(Open { ahead, scales }), ..cookie };
            self.flows.set_edit(at, Some(Edit { streams, ..edit.of(cookie) }));
        }
        let told = TcpOptions {
            mss: None,
            scale: theirs.scale.and(cookie.told),
            sack: theirs.sack,
            stamps: theirs.stamps.map(|(_, echo)| (clock, echo)),
        };
        let window = word(&packet.bytes, read.l4 + 14);
        let link = &packet.bytes[..read.l3];
        let (bytes, read) = bare(link, &tuple(&read), (cookie.isn, ack), SYN | ACK, window, &told);
        (Packet { bytes, ..packet }, read)
    }

    /// The server has answered, and gets the client's acknowledgement; the client hears how much it may send.
    pub(super) fn opened(&mut self, packet: Packet, read: Read, at: Number, is_first: bool) {
        let connection = self.flows.get(at).clone();
        let cookie = connection.edit.and_then(|edit| edit.cookie).expect("it was opened by one");
        let theirs = options(&packet.bytes, &read);
        let (seq, ack) = (number(&packet.bytes, read.l4 + 4), number(&packet.bytes, read.l4 + 8));
        let next = seq.wrapping_add(1);
        let link = packet.bytes[..read.l3].to_vec();
        if !self.taken.buffers.pop_front().unwrap_or(true) {
            return self.drop(DropReason::NoBuffer, Hook::Forward);
        }
        let with_stamps = |stamps| TcpOptions { stamps, ..TcpOptions::default() };
        let turned = with_stamps(theirs.stamps.map(|(clock, echo)| (echo, clock)));
        let (own, own_read) = bare(&link, &connection.original, (ack, next), ACK, cookie.window, &turned);
        // A buffer of the worker's own came by no port.
        let own = Packet { bytes: own, port: PortId::NONE, ..packet.clone() };
        self.go_on(own, own_read, at, Direction::Original);
        if is_first {
            let window = shifted(word(&packet.bytes, read.l4 + 14), -i32::from(theirs.scale.unwrap_or(0)));
            let (bytes, read) =
                bare(&link, &tuple(&read), (next, ack), ACK, window, &with_stamps(theirs.stamps));
            self.masquerade(Packet { bytes, ..packet }, read, at, Direction::Reply);
        }
    }
}

/// The SYN that a client's packet stands for.
fn syn_of(packet: Packet, read: &Read, client: &Tuple, opening: &Opening) -> (Packet, Read) {
    let window = shifted(opening.window, opening.asked.scale.unwrap_or(0).into());
    let flags = if opening.is_ecn { SYN | ECE | CWR } else { SYN };
    let link = &packet.bytes[..read.l3];
    let (bytes, read) = bare(link, client, (opening.seq, 0), flags, window, &opening.asked);
    (Packet { bytes, ..packet }, read)
}
