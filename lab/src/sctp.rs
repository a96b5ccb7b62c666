//! Enough of SCTP (RFC 9260) for a client and a real server on raw sockets, for machines whose kernel has none: the handshake
//! with its cookie, one message and its answer at a time, the shutdown. Tags, cookie and checksum are checked as the RFC says; a
//! packet in which one is wrong is ignored, so that whoever sent it waits in vain. A lost packet is sent again by the client; there is no
//! congestion control, no multihoming and no second stream.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::namespace::Namespace;
use crate::raw::Raw;

/// Its number as an IP protocol.
pub const PROTOCOL: u8 = 132;

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// The parameter of an INIT ACK that the cookie is in.
const STATE_COOKIE: u16 = 7;
/// Of a DATA chunk: the message begins and ends in it.
const WHOLE_MESSAGE: u8 = 3;
const WINDOW: u32 = 1 << 20;

/// How often the client sends a packet, and how long it waits for the answer each time.
const TRIES: usize = 40;
const PATIENCE: Duration = Duration::from_millis(1500);

struct Chunk {
    kind: u8,
    flags: u8,
    value: Vec<u8>,
}

struct Packet {
    sport: u16,
    dport: u16,
    tag: u32,
    chunks: Vec<Chunk>,
}

impl Chunk {
    fn new(kind: u8, value: Vec<u8>) -> Chunk {
        Chunk { kind, flags: 0, value }
    }

    fn data(tsn: u32, message: &[u8]) -> Chunk {
        // Stream 0, number 0, no payload protocol.
        let value = [&tsn.to_be_bytes()[..], &[0; 8], message].concat();
        Chunk { kind: DATA, flags: WHOLE_MESSAGE, value }
    }

    /// All up to this TSN has arrived.
    fn sack(tsn: u32) -> Chunk {
        Chunk::new(SACK, [&tsn.to_be_bytes()[..], &WINDOW.to_be_bytes(), &[0; 4]].concat())
    }

    /// An INIT or INIT ACK without parameters.
    fn init(kind: u8, tag: u32, tsn: u32) -> Chunk {
        let value =
            [&tag.to_be_bytes()[..], &WINDOW.to_be_bytes(), &[0, 1, 0, 1], &tsn.to_be_bytes()].concat();
        Chunk::new(kind, value)
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.get(at..at + 4)?.try_into().ok()?))
    }
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let mut out =
            [&self.sport.to_be_bytes()[..], &self.dport.to_be_bytes(), &self.tag.to_be_bytes(), &[0; 4]]
                .concat();
        for chunk in &self.chunks {
            out.extend([chunk.kind, chunk.flags]);
            out.extend((chunk.value.len() as u16 + 4).to_be_bytes());
            out.extend(&chunk.value);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        let checksum = crc32c(&out);
        out[8..12].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// `None`: its checksum is wrong, or a length in it.
    fn read(bytes: &[u8]) -> Option<Packet> {
        let (header, mut rest) = bytes.split_at_checked(12)?;
        let mut unsummed = bytes.to_vec();
        unsummed[8..12].fill(0);
        if crc32c(&unsummed).to_le_bytes() != header[8..12] {
            return None;
        }
        let half = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let tag = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut packet = Packet { sport: half(0), dport: half(2), tag, chunks: Vec::new() };
        while let [kind, flags, high, low, ..] = *rest {
            let len = usize::from(u16::from_be_bytes([high, low]));
            packet.chunks.push(Chunk { kind, flags, value: rest.get(4..len)?.to_vec() });
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(packet)
    }

    fn chunk(&self, kind: u8) -> Option<&Chunk> {
        self.chunks.iter().find(|chunk| chunk.kind == kind)
    }
}

/// RFC 9260 appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}

/// A real server: answers each message with `<role> ` and its length.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the server knows of an association: its own tag, the client's, and the TSN of its next message.
struct Peer {
    own_tag: u32,
    tag: u32,
    tsn: u32,
}

impl Server {
    /// Starts it on an address of a namespace.
    ///
    /// # Errors
    /// As [`Raw::open`].
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Server> {
        let raw = Raw::open(namespace, PROTOCOL, address.ip())?;
        let role = namespace.role().to_owned();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name(format!("sctp-{role}")).spawn(move || {
            let mut peers = HashMap::new();
            while !stopped.load(Ordering::Relaxed) {
                let Ok(Some((from, bytes))) = raw.receive(Duration::from_millis(10)) else { continue };
                let Some(packet) = Packet::read(&bytes).filter(|packet| packet.dport == address.port())
                else {
                    continue;
                };
                if let Some((tag, chunks)) = answer(&role, &mut peers, from, &packet) {
                    let answer = Packet { sport: packet.dport, dport: packet.sport, tag, chunks };
                    let _lost_like_any_packet = raw.send(from, &answer.bytes());
                }
            }
        })?;
        Ok(Server { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// The tag and the chunks of the answer to a packet, if there is one.
fn answer(
    role: &str,
    peers: &mut HashMap<(IpAddr, u16), Peer>,
    from: IpAddr,
    packet: &Packet,
) -> Option<(u32, Vec<Chunk>)> {
    let who = (from, packet.sport);
    let own_tag = 0x5e00_0000 | u32::from(packet.sport);
    if let Some(init) = packet.chunk(INIT) {
        // Nothing is kept before the cookie comes back (RFC 9260 §5.1.3).
        let tag = init.word(0).filter(|_| packet.tag == 0)?;
        let mut ack = Chunk::init(INIT_ACK, own_tag, own_tag);
        let cookie = cookie(role, tag);
        ack.value.extend(STATE_COOKIE.to_be_bytes());
        ack.value.extend((cookie.len() as u16 + 4).to_be_bytes());
        ack.value.extend(cookie);
        return Some((tag, vec![ack]));
    }
    if packet.tag != own_tag {
        return None;
    }
    if let Some(echoed) = packet.chunk(COOKIE_ECHO) {
        let tag = u32::from_be_bytes(*echoed.value.last_chunk()?);
        if echoed.value != cookie(role, tag) {
            return None;
        }
        peers.insert(who, Peer { own_tag, tag, tsn: own_tag });
        return Some((tag, vec![Chunk::new(COOKIE_ACK, vec![])]));
    }
    let peer = peers.get_mut(&who).filter(|peer| peer.own_tag == packet.tag)?;
    if let Some(data) = packet.chunk(DATA) {
        let message = format!("{role} {}", data.value.len() - 12);
        // As long as the question, so that it takes as many fragments.
        let message = format!("{message:<width$}", width = data.value.len() - 12);
        let chunks = vec![Chunk::sack(data.word(0)?), Chunk::data(peer.tsn, message.as_bytes())];
        peer.tsn += 1;
        return Some((peer.tag, chunks));
    }
    if packet.chunk(SHUTDOWN).is_some() {
        return Some((peer.tag, vec![Chunk::new(SHUTDOWN_ACK, vec![])]));
    }
    if packet.chunk(SHUTDOWN_COMPLETE).is_some() || packet.chunk(ABORT).is_some() {
        peers.remove(&who);
    }
    None
}

/// Who made it, and for whom.
fn cookie(role: &str, tag: u32) -> Vec<u8> {
    [format!("{role:<8}").as_bytes(), &tag.to_be_bytes()].concat()
}

/// A client's end of an association.
#[derive(Debug)]
pub struct Association {
    raw: Raw,
    server: SocketAddr,
    sport: u16,
    own_tag: u32,
    tag: u32,
    tsn: u32,
}

impl Association {
    /// The handshake, from an address and port of the client's.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub fn open(client: &Namespace, from: SocketAddr, server: SocketAddr) -> Result<Association> {
        let own_tag = 0xc000_0000 | u32::from(from.port());
        let raw = Raw::open(client, PROTOCOL, from.ip())?;
        let mut association = Association { raw, server, sport: from.port(), own_tag, tag: 0, tsn: own_tag };
        let ack = association.exchange(INIT_ACK, || vec![Chunk::init(INIT, own_tag, own_tag)])?;
        let ack = ack.chunk(INIT_ACK).context("no INIT ACK")?;
        let cookie = ack.value.get(20..).context("no cookie")?.to_vec();
        association.tag = ack.word(0).context("no tag")?;
        association.exchange(COOKIE_ACK, || vec![Chunk::new(COOKIE_ECHO, cookie.clone())])?;
        Ok(association)
    }

    /// Sends a message and returns the answer.
    ///
    /// # Errors
    /// When none comes.
    pub fn ask(&mut self, message: &[u8]) -> Result<String> {
        let tsn = self.tsn;
        self.tsn += 1;
        // An answer that came so late that its question was sent again comes twice.
        let is_answer = |packet: &Packet| packet.chunk(SACK).and_then(|sack| sack.word(0)) == Some(tsn);
        let answer = self.exchange_for(DATA, is_answer, || vec![Chunk::data(tsn, message)])?;
        let data = answer.chunk(DATA).context("no DATA")?;
        self.send(vec![Chunk::sack(data.word(0).context("no TSN")?)])?;
        Ok(String::from_utf8_lossy(data.value.get(12..).unwrap_or_default()).into_owned())
    }

    /// The shutdown.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn close(self) -> Result<()> {
        let all = self.own_tag.to_be_bytes().to_vec();
        self.exchange(SHUTDOWN_ACK, || vec![Chunk::new(SHUTDOWN, all.clone())])?;
        self.send(vec![Chunk::new(SHUTDOWN_COMPLETE, vec![])])
    }

    fn send(&self, chunks: Vec<Chunk>) -> Result<()> {
        let packet = Packet { sport: self.sport, dport: self.server.port(), tag: self.tag, chunks };
        self.raw.send(self.server.ip(), &packet.bytes())
    }

    /// Sends chunks until a packet with the expected one comes.
    fn exchange(&self, expected: u8, chunks: impl Fn() -> Vec<Chunk>) -> Result<Packet> {
        self.exchange_for(expected, |_| true, chunks)
    }

    /// The same, for one that is the answer wanted.
    fn exchange_for(
        &self,
        expected: u8,
        is_answer: impl Fn(&Packet) -> bool,
        chunks: impl Fn() -> Vec<Chunk>,
    ) -> Result<Packet> {
        for _ in 0..TRIES {
            self.send(chunks())?;
            let start = Instant::now();
            while let Some(left) = PATIENCE.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
                let Some((from, bytes)) = self.raw.receive(left)? else { break };
                let is_ours = |packet: &Packet| {
                    (from, packet.sport, packet.dport) == (self.server.ip(), self.server.port(), self.sport)
                        && packet.tag == self.own_tag
                };
                let Some(packet) = Packet::read(&bytes).filter(is_ours) else { continue };
                if packet.chunk(ABORT).is_some() {
                    bail!("{} aborts the association", self.server);
                }
                if packet.chunk(expected).is_some() && is_answer(&packet) {
                    return Ok(packet);
                }
            }
        }
        bail!("{}: no chunk {expected} after {TRIES} tries of {} ms", self.server, PATIENCE.as_millis())
    }
}
