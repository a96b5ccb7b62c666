//! Datagrams and pings in pieces, in any order: a later piece waits for the first one, which says whose all are. The first one passes the rules, and what becomes of
//! it becomes of all; only its sender is told once. Those that leave are the pieces that came, with the ends of a packet of their connection.

use hashbrown::HashSet;

use super::model::{Fate, Netfilter};
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

/// A packet and how it is cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cut {
    pub(super) packet: Packet,
    id: u32,
    /// Bytes of each piece but the last.
    most: usize,
}

/// One of its pieces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OnePiece {
    pub(super) of: Cut,
    pub(super) nth: usize,
}

impl Cut {
    /// A packet's data, of which there is enough for some pieces. `used`: identifications of other packets, whose pieces may still be waited for.
    pub(super) fn new(packet: Packet, used: &mut HashSet<u16>, draw: &mut Draw) -> Option<Cut> {
        let payload = (0..draw.between(20, 80)).map(|n| n as u8 ^ 0x5a).collect();
        let is_cut = packet.ends.protocol.0 != TCP;
        let mut id = draw.number() as u32;
        // IPv4 has no more bits of it.
        while !used.insert(id as u16) {
            id = id.wrapping_add(1);
        }
        is_cut.then(|| Cut { packet: Packet { payload, ..packet }, id, most: draw.pick(&[16, 24, 40]) })
    }

    fn frames(&self, link: &Link) -> Vec<Vec<u8>> {
        let whole = self.packet.frame_with(link, self.id as u16, false);
        let seen = wire::read(&whole).expect("it is built right");
        wire::pieces(&whole, &seen, self.id, self.most)
    }

    /// All pieces, in the order in which they come.
    pub(super) fn pieces(&self, draw: &mut Draw) -> Vec<OnePiece> {
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

impl OnePiece {
    pub(super) fn is_first(&self) -> bool {
        self.nth == 0
    }

    fn len(&self) -> u64 {
        let link = Link { dst: [0; 6], src: [0; 6], vlan: 0 };
        (self.frame(&link).len() - 14) as u64
    }

    fn with(&self, packet: Packet) -> OnePiece {
        OnePiece { of: Cut { packet, ..self.of.clone() }, nth: self.nth }
    }
}

impl OnWire for OnePiece {
    fn to(&self) -> std::net::IpAddr {
        self.of.packet.ends.dst
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
        let (mut fates, mut waiting) = (Vec::new(), Vec::new());
        let mut first = None;
        for piece in pieces {
            if piece.is_first() {
                let Cut { packet, .. } = &piece.of;
                let is = if pieces.len() == 1 { Piece::Only } else { Piece::First };
                let fate = self.pass(Some(input), packet, Some((is, piece.len())), left)?;
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

    fn later(&mut self, first: &Fate, piece: &OnePiece) -> Fate<OnePiece> {
        let header = if piece.to().is_ipv6() { 48 } else { 20 };
        self.lengthen(piece.len() - header);
        match first.clone() {
            Fate::Refused(hook, ..) => Fate::Dropped(hook),
            fate => fate.with(|packet| piece.with(packet)),
        }
    }
}
