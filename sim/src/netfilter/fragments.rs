//! Datagrams, pings and ICMP errors in pieces, in any order: a later piece waits for the first one, which says whose all are. The first one passes the rules, and what becomes of
//! it becomes of all; only its sender is told once. Those that leave are the pieces that came, with the ends of a packet of their connection.

use hashbrown::HashSet;

use super::error::Error;
use super::model::{Fate, Netfilter};
use super::net::Net;
use super::packet::{OnWire, Packet};
use crate::draw::Draw;
use crate::wire::{self, Link, TCP};

/// What a packet is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// It is whole, of IPv6 with a header of fragments (RFC 6946).
    Only,
    First,
}

/// What may be cut.
pub(super) trait Whole: OnWire + Clone {
    /// Its bytes, with such an identification.
    fn uncut(&self, link: &Link, id: u16) -> Vec<u8>;
}

impl Whole for Packet {
    fn uncut(&self, link: &Link, id: u16) -> Vec<u8> {
        self.frame_with(link, id, false)
    }
}

/// A packet and how it is cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cut<T = Packet> {
    pub(super) packet: T,
    id: u32,
    /// Bytes of each piece but the last.
    most: usize,
}

/// One of its pieces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OnePiece<T = Packet> {
    pub(super) of: Cut<T>,
    pub(super) nth: usize,
}

impl Cut {
    /// A packet's data, of which there is enough for some pieces. `used`: identifications of other packets, whose pieces may still be waited for.
    pub(super) fn new(packet: Packet, used: &mut HashSet<u16>, draw: &mut Draw) -> Option<Cut> {
        let payload = (0..draw.between(20, 80)).map(|n| n as u8 ^ 0x5a).collect();
        let is_cut = packet.ends.protocol.0 != TCP;
        let id = unused(used, draw);
        is_cut.then(|| Cut { packet: Packet { payload, ..packet }, id, most: draw.pick(&[16, 24, 40]) })
    }
}

impl Cut<Error> {
    /// An error that quotes much of a packet. The first piece tells, or does not, which one that is.
    pub(super) fn of_error(error: Error, used: &mut HashSet<u16>, draw: &mut Draw) -> Cut<Error> {
        let error = error.about_more(draw);
        let id = unused(used, draw);
        // TCP's checksum, which changes with its ends, is in the first piece too.
        let least = match (error.to().is_ipv6(), error.is_about_tcp()) {
            (false, false) => 40,
            (false, true) => 48,
            (true, false) => 56,
            (true, true) => 72,
        };
        let few = 8 * draw.between(1, 4) as usize;
        Cut { packet: error, id, most: draw.pick(&[least, least + 16, few]) }
    }

    /// Whether the packet that is quoted can be told from the first piece.
    fn tells(&self) -> bool {
        self.most >= if self.packet.to().is_ipv6() { 56 } else { 36 }
    }
}

/// An identification that no other packet's piece has.
fn unused(used: &mut HashSet<u16>, draw: &mut Draw) -> u32 {
    let mut id = draw.number() as u32;
    // IPv4 has no more bits of it.
    while !used.insert(id as u16) {
        id = id.wrapping_add(1);
    }
    id
}

impl<T: Whole> Cut<T> {
    fn frames(&self, link: &Link) -> Vec<Vec<u8>> {
        let whole = self.packet.uncut(link, self.id as u16);
        let seen = wire::read(&whole).expect("it is built right");
        wire::pieces(&whole, &seen, self.id, self.most)
    }

    /// All pieces, in the order in which they come.
    pub(super) fn pieces(&self, draw: &mut Draw) -> Vec<OnePiece<T>> {
        let link = Link { dst: [0; 6], src: [0; 6], vlan: 0 };
        let mut left: Vec<usize> = (0..self.frames(&link).len()).collect();
        let is_in_order = draw.coin();
        let mut pieces = Vec::new();
        while !left.is_empty() {
            let at = if is_in_order { 0 } else { draw.below(left.len() as u64) as usize };
            pieces.push(OnePiece { of: self.clone(), nth: left.remove(at) });
        }
        pieces
    }
}

impl<T: Whole> OnePiece<T> {
    pub(super) fn is_first(&self) -> bool {
        self.nth == 0
    }

    fn len(&self) -> u64 {
        let link = Link { dst: [0; 6], src: [0; 6], vlan: 0 };
        (self.frame(&link).len() - 14) as u64
    }

    fn with(&self, packet: T) -> OnePiece<T> {
        OnePiece { of: Cut { packet, ..self.of.clone() }, nth: self.nth }
    }
}

impl<T: Whole> OnWire for OnePiece<T> {
    fn to(&self) -> std::net::IpAddr {
        self.of.packet.to()
    }

    fn frame(&self, link: &Link) -> Vec<u8> {
        self.of.frames(link).swap_remove(self.nth)
    }
}

impl Netfilter {
    /// What becomes of pieces, which come in this order: when, that is behind which of them, and what. `left`: what the path made of the first, if it went on.
    ///
    /// # Errors
    /// As for [`Netfilter::receive`].
    pub(super) fn gather(
        &mut self,
        input: usize,
        pieces: &[OnePiece],
        left: Option<&Packet>,
    ) -> Result<Vec<Fate<OnePiece>>, String> {
        self.gather_by(pieces, |model, piece, is| {
            model.pass(Some(input), &piece.of.packet, Some((is, piece.len())), left)
        })
    }

    /// The same of an error's.
    ///
    /// # Errors
    /// As for [`Netfilter::receive`].
    pub(super) fn gather_error(
        &mut self,
        net: &Net,
        input: usize,
        pieces: &[OnePiece<Error>],
    ) -> Result<Vec<Fate<OnePiece<Error>>>, String> {
        self.gather_by(pieces, |model, piece, is| {
            model.tell_piece(net, Some(input), &piece.of.packet, Some((is, piece.len())), piece.of.tells())
        })
    }

    fn gather_by<T: Whole>(
        &mut self,
        pieces: &[OnePiece<T>],
        mut pass: impl FnMut(&mut Netfilter, &OnePiece<T>, Piece) -> Result<Fate<T>, String>,
    ) -> Result<Vec<Fate<OnePiece<T>>>, String> {
        let (mut fates, mut waiting) = (Vec::new(), Vec::new());
        let mut first = None;
        for piece in pieces {
            if piece.is_first() {
                let is = if pieces.len() == 1 { Piece::Only } else { Piece::First };
                let fate = pass(self, piece, is)?;
                first = Some(fate.clone());
                fates.push(fate.clone().with(|packet| piece.with(packet)));
                for piece in waiting.drain(..) {
                    fates.push(self.later(&fate, piece));
                }
            } else if let Some(fate) = &first {
                fates.push(self.later(fate, piece));
            } else {
                waiting.push(piece);
            }
        }
        Ok(fates)
    }

    fn later<T: Whole>(&mut self, first: &Fate<T>, piece: &OnePiece<T>) -> Fate<OnePiece<T>> {
        let header = if piece.to().is_ipv6() { 48 } else { 20 };
        self.lengthen(piece.len() - header);
        match first.clone() {
            Fate::Refused(hook, ..) => Fate::Dropped(hook),
            fate => fate.with(|packet| piece.with(packet)),
        }
    }
}
