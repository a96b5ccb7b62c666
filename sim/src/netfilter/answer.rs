//! What the director answers a packet with that a rule refuses, or that has no hop left: it passes OUTPUT and POSTROUTING.
//!
//! It is RELATED to the connection of that packet, also to one that it was to begin. Where the packet was INVALID on the ends of a known connection, an error is
//! RELATED, a reset what any segment would be to that. Neither is translated.

use lb_core::flow::Tuple;
use lb_core::hook::Hook;
use lb_core::rule::Table;
use lb_core::tables::Protocol;

use super::fragments::Piece;
use super::model::{Connection, Fate, Netfilter, OUTPUT, Passage, Told, count};
use super::packet::{Packet, Says};
use super::rule::{Refusal, State};
use super::segment::Segment;
use super::tcp::Said;
use crate::wire::{ACK, FIN, RST, SYN};

/// The most of an error (RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c)).
const MOST: [u64; 2] = [576, 1280];

impl Netfilter {
    /// To the sender of `packet`, which came by `input`, or from the host, and was, or was to be, of a connection: its number, if it is known. Or it was INVALID, in such a zone.
    pub(super) fn answer(
        &mut self,
        input: Option<usize>,
        packet: &Packet,
        piece: Option<(Piece, u64)>,
        refusal: Refusal,
        (attached, known, is_invalid, zone): (Option<(Connection, bool)>, Option<usize>, bool, u16),
    ) -> Told {
        let is_told = match refusal {
            Refusal::Reset => packet.flags() & RST == 0,
            Refusal::PortUnreachable | Refusal::NoHop => !self.is_silent,
        };
        if !is_told {
            return Told::Nobody;
        }
        let ends = packet.ends.reversed();
        let Some(input) = input else { return Told::Sender(ends) };
        let (mut passage, reset) = match refusal {
            Refusal::Reset => {
                let reset = reset(packet);
                (self.passage(ends, None, reset.len()), Some(reset))
            }
            Refusal::PortUnreachable | Refusal::NoHop => {
                let quoted = piece.map_or(packet.len(), |(_, len)| len);
                (self.error(input, ends, quoted), None)
            }
        };
        passage.output = Some(input);
        passage.quotes_piece = matches!(piece, Some((Piece::First, _)));
        let (came, is_attached) = (passage.ends, attached.is_some());
        // What a virtual service has taken passed POSTROUTING's translation already, or never does.
        let is_served = attached.as_ref().is_some_and(|(connection, _)| connection.is_served);
        let begins = is_attached && known.is_none() && !is_served;
        if let Some((connection, is_reply)) = attached {
            (passage.state, passage.is_reply, passage.connection) =
                (State::Related, !is_reply, Some(connection));
        }
        let mut number = known;
        let mut is_over = false;
        let road = self.ask(OUTPUT[0].0, OUTPUT[0].1, &mut passage).and_then(|()| {
            if is_attached {
                passage.is_untracked = false;
            } else if passage.is_untracked {
                passage.state = State::Untracked;
            } else if is_invalid && passage.zone.unwrap_or(0) == zone {
                (number, is_over) = self.look_at_answer(packet, reset.as_ref(), &mut passage);
            }
            self.ask_behind_conntrack(came, begins && reset.is_some(), &mut passage)
        });
        if let (Some(number), Some(connection)) = (number, passage.connection) {
            self.write_back(number, connection);
            if is_over {
                self.end_number(number);
            }
        }
        match road {
            Ok(()) => Told::Sender(passage.ends),
            Err(Fate::Dropped(hook) | Fate::Refused(hook, ..)) => Told::Stopped(hook),
            Err(fate) => unreachable!("no rule does that: {fate:?}"),
        }
    }

    fn error(&self, input: usize, ends: Tuple, quoted: u64) -> Passage {
        let is_ours = self.net.is_own(ends.src);
        let src = if is_ours { ends.src } else { self.net.own(input) };
        let header = if self.net.is_ipv6 { 48 } else { 28 };
        let len = MOST[usize::from(self.net.is_ipv6)].min(header + quoted);
        let own = Tuple { src, sport: 0, dport: 0, protocol: Protocol(self.net.icmp()), ..ends };
        let mut passage = self.passage(own, None, len);
        (passage.is_error, passage.answer) = (true, Some(ends));
        passage
    }

    /// One that is attached to nothing. Returns the number of its connection, and whether that is over.
    fn look_at_answer(
        &mut self,
        packet: &Packet,
        reset: Option<&Packet>,
        passage: &mut Passage,
    ) -> (Option<usize>, bool) {
        let Some((number, was_reply)) = self.number_of(passage, &packet.ends) else { return (None, false) };
        let is_reply = !was_reply;
        let Some(reset) = reset else {
            (passage.state, passage.is_reply) = (State::Related, is_reply);
            passage.connection = Some(self.connection(number));
            return (Some(number), false);
        };
        let said = self.follow((number, is_reply), reset);
        if said == Said::Invalid {
            return (None, false);
        }
        let counts = self.counts_connections();
        let connection = self.connections[number].as_mut().expect("it is there");
        connection.is_answered |= is_reply;
        if counts && said != Said::LetBe {
            count(&mut connection.counts[usize::from(is_reply)], reset.len());
        }
        passage.is_reply = is_reply;
        passage.state = if connection.is_answered { State::Established } else { State::New };
        passage.connection = Some(connection.clone());
        (Some(number), said == Said::Ends)
    }

    /// `asks_nat`: of a reset of what was to begin a connection; nothing comes of it.
    fn ask_behind_conntrack(
        &mut self,
        came: Tuple,
        asks_nat: bool,
        passage: &mut Passage,
    ) -> Result<(), Fate<Tuple>> {
        let [_, (table, hook), others @ ..] = OUTPUT;
        self.ask(table, hook, passage)?;
        if passage.connection.is_some() {
            passage.ends = came;
        } else {
            passage.output = if passage.ends.dst == came.dst {
                passage.output
            } else {
                Some(self.net.interface(passage.ends.dst))
            };
        }
        self.ask_all(&others, passage)?;
        if asks_nat {
            self.verdict(Table::Nat, Hook::Postrouting, passage);
        }
        if passage.connection.is_some() {
            passage.ends = came;
        }
        Ok(())
    }
}

/// What answers a segment (RFC 9293 §3.10.7.1).
fn reset(packet: &Packet) -> Packet {
    let segment = packet.segment().expect("it is of TCP");
    let numbers = packet.payload.len() as u32
        + u32::from(segment.flags & SYN != 0)
        + u32::from(segment.flags & FIN != 0);
    let answer = if segment.flags & ACK != 0 {
        Segment::plain(RST, segment.ack, 0)
    } else {
        Segment::plain(RST | ACK, 0, segment.seq.wrapping_add(numbers))
    };
    Packet {
        ends: packet.ends.reversed(),
        says: Says::Tcp(Segment { window: 0, ..answer }),
        ttl: 64,
        payload: vec![],
    }
}
