//! ICMP errors: what hosts and routers tell of packets, and what becomes of it.
//!
//! An error about a packet of a connection is RELATED and goes the way of that connection, with both addresses of its own and both ends of the
//! quoted packet as whoever gets it knows them (RFC 5508 §4.2); any other is INVALID and goes on as it is.

use std::net::IpAddr;

use lb_core::flow::Tuple;
use lb_core::hook::Hook;
use lb_core::rule::Table;
use lb_core::tables::Protocol;

use super::fragments::{Piece, Whole};
use super::model::{Fate, Netfilter};
use super::net::Net;
use super::packet::{OnWire, Packet};
use super::rule::State;
use crate::draw::Draw;
use crate::wire::{self, Body, Ip, Link};

const ETHERNET: usize = 14;
/// As much of what follows the IP header must be quoted (RFC 792).
const LEAST: usize = 8;

/// Types and codes, with what may stand behind the checksum (RFC 792, RFC 4443).
const IPV4: [(u8, u8, u32); 6] =
    [(3, 0, 0), (3, 3, 0), (3, 4, 1300), (4, 0, 0), (11, 0, 0), (12, 0, 1 << 24)];
const IPV6: [(u8, u8, u32); 5] = [(1, 0, 0), (1, 4, 0), (2, 0, 1300), (3, 0, 0), (4, 0, 6)];

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Error {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    ttl: u8,
    /// Type, code, and what stands behind the checksum.
    says: (u8, u8, u32),
    /// As its sender got it.
    about: Packet,
    /// So many bytes behind its IP header are there.
    quoted: usize,
}

impl Error {
    /// What `src` tells the sender of a packet.
    pub(super) fn about(about: Packet, src: IpAddr, draw: &mut Draw) -> Error {
        let dst = about.ends.src;
        let says = if dst.is_ipv6() { draw.pick(&IPV6) } else { draw.pick(&IPV4) };
        let quoted = draw.pick(&[LEAST - 4, LEAST, LEAST, 20, usize::MAX, usize::MAX]);
        Error { src, dst, ttl: 64, says, about, quoted }
    }

    /// As much of a longer packet between the same ends.
    pub(super) fn about_more(self, draw: &mut Draw) -> Error {
        let payload = (0..draw.between(60, 120)).map(|n| n as u8 ^ 0xa5).collect();
        Error { about: Packet { payload, ..self.about }, quoted: usize::MAX, ..self }
    }

    pub(super) fn is_about_tcp(&self) -> bool {
        self.about.segment().is_some()
    }

    fn quote(&self) -> Vec<u8> {
        let mut frame = self.about.frame(&Link { dst: [0; 6], src: [0; 6], vlan: 0 });
        frame.truncate(ETHERNET.saturating_add(self.header_len()).saturating_add(self.quoted));
        frame.split_off(ETHERNET)
    }

    fn header_len(&self) -> usize {
        if self.dst.is_ipv6() { 40 } else { 20 }
    }

    /// Bytes of the IP packet.
    fn len(&self) -> u64 {
        (self.header_len() + 8 + self.quote().len()) as u64
    }
}

impl OnWire for Error {
    fn to(&self) -> IpAddr {
        self.dst
    }

    fn frame(&self, link: &Link) -> Vec<u8> {
        self.uncut(link, 9)
    }
}

impl Whole for Error {
    fn uncut(&self, link: &Link, id: u16) -> Vec<u8> {
        let Error { src, dst, ttl, says: (kind, code, rest), .. } = *self;
        let mut out = Vec::new();
        let ip = Ip { src, dst, ttl, id, dont_fragment: false, options: 0 };
        wire::build(&mut out, link, &ip, &Body::Error { kind, code, rest, quote: &self.quote() });
        out
    }
}

impl Netfilter {
    /// What becomes of an error from an interface, or of the host. It begins no connection, and is no packet of one: it is neither counted as such
    /// nor an answer.
    ///
    /// # Errors
    /// As for [`Netfilter::receive`].
    pub(super) fn tell(
        &mut self,
        net: &Net,
        input: Option<usize>,
        error: &Error,
    ) -> Result<Fate<Error>, String> {
        self.tell_piece(net, input, error, None, true)
    }

    /// `piece`: it is the first of its pieces, and so long. `tells`: it is known what is quoted.
    pub(super) fn tell_piece(
        &mut self,
        net: &Net,
        input: Option<usize>,
        error: &Error,
        piece: Option<(Piece, u64)>,
        tells: bool,
    ) -> Result<Fate<Error>, String> {
        let hook = if input.is_some() { Hook::Prerouting } else { Hook::Output };
        let ends =
            Tuple { src: error.src, dst: error.dst, sport: 0, dport: 0, protocol: Protocol(net.icmp()) };
        let mut passage = self.passage(ends, input, piece.map_or(error.len(), |(_, len)| len));
        (passage.is_error, passage.piece) = (true, piece.map(|(piece, _)| piece));
        self.counted = None;
        if let Err(fate) = self.ask(Table::Raw, hook, &mut passage) {
            return Ok(fate.with(|_| error.clone()));
        }
        // As a packet of the connection looks that goes where the error goes.
        let answer = error.about.ends.reversed();
        let known = self.number_of(&passage, &answer).filter(|_| error.quoted >= LEAST && tells);
        passage.answer = Some(answer);
        let mut leaves = None;
        if passage.is_untracked {
            passage.state = State::Untracked;
        } else if let Some((number, is_reply)) = known {
            passage.state = State::Related;
            passage.is_reply = is_reply;
            let connection = self.connection(number);
            leaves = Some(connection.leaves(is_reply));
            passage.connection = Some(connection);
        }
        let fate = match self.tables(hook, false, None, &mut passage) {
            Ok(fate) => fate?,
            Err(fate) => fate,
        };
        let after = leaves.or(passage.answer).unwrap_or(answer);
        if let (Some((number, _)), Some(connection)) = (known, passage.connection) {
            self.write_back(number, connection);
        }
        let is_forwarded = u8::from(input.is_some());
        Ok(match fate {
            Fate::Sent(_) => fate.with(|ends| error.translated(ends, after, is_forwarded)),
            _ => fate.with(|ends| error.translated(ends, after, 0)),
        })
    }
}

impl Error {
    /// With other ends, about the packet that `answer` answers.
    fn translated(&self, ends: Tuple, answer: Tuple, hops: u8) -> Error {
        let about = Packet { ends: answer.reversed(), ..self.about.clone() };
        Error { src: ends.src, dst: ends.dst, ttl: self.ttl - hops, about, ..self.clone() }
    }
}
