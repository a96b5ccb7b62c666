//! ICMP and ICMPv6: questions and their answers are connections. Errors are of the connection that they quote.
//!
//! RFC 792, RFC 950 (address mask), RFC 4443, RFC 4620 (node information). In tuples the identifier stands where the client's
//! port does, and the question's type and code where the server's does, so that an answer's tuple is the question's reversed.

use super::{Invalid, Move, Settings};
use crate::flow::Direction;
use crate::wire::array;
use crate::wire::parse::Headers;

/// Types of a question and of its answer.
const IPV4: [(u8, u8); 4] = [(8, 0), (13, 14), (15, 16), (17, 18)];
const IPV6: [(u8, u8); 2] = [(128, 129), (139, 140)];

/// What a message is to its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Which way it goes: a question the original one.
    pub direction: Direction,
    /// Source and destination port of its tuple.
    pub ports: (u16, u16),
    is_ipv6: bool,
}

impl Message {
    /// # Errors
    /// It is neither question nor answer.
    pub fn read(frame: &[u8], headers: &Headers) -> Result<Message, Invalid> {
        let icmp: &[u8; 8] = array(frame, headers.l4.into()).ok_or(Invalid::Malformed)?;
        let [kind, code, _, _, high, low, ..] = *icmp;
        let id = u16::from_be_bytes([high, low]);
        let pairs = if headers.is_ipv6 { IPV6.as_slice() } else { &IPV4 };
        let is = |question| u16::from_be_bytes([question, code]);
        let found = pairs.iter().find_map(|&(question, answer)| {
            if kind == question {
                Some((Direction::Original, (id, is(question))))
            } else {
                (kind == answer).then_some((Direction::Reply, (is(question), id)))
            }
        });
        let (direction, ports) = found.ok_or(Invalid::CannotBegin)?;
        Ok(Message { direction, ports, is_ipv6: headers.is_ipv6 })
    }
}

/// Whether messages of a type are questions, and begin connections.
pub fn is_question(is_ipv6: bool, kind: u8) -> bool {
    let pairs = if is_ipv6 { IPV6.as_slice() } else { &IPV4 };
    pairs.iter().any(|&(question, _)| question == kind)
}

/// Type and code of the messages of a connection that go this way, from the server's port of its tuple.
pub fn kind(is_ipv6: bool, question: u16, direction: Direction) -> (u8, u8) {
    let [kind, code] = question.to_be_bytes();
    let pairs = if is_ipv6 { IPV6.as_slice() } else { &IPV4 };
    let answer = pairs.iter().find(|(of, _)| *of == kind).map_or(kind, |&(_, answer)| answer);
    (if direction == Direction::Original { kind } else { answer }, code)
}

fn goes_on(message: Message, settings: &Settings) -> Move {
    Move::to(0, if message.is_ipv6 { settings.icmpv6 } else { settings.icmp })
}

pub(super) fn begin(message: Message, settings: &Settings) -> Result<Move, Invalid> {
    match message.direction {
        Direction::Original => Ok(goes_on(message, settings)),
        Direction::Reply => Err(Invalid::CannotBegin),
    }
}

pub(super) fn advance(message: Message, direction: Direction, settings: &Settings) -> Move {
    if message.direction == direction { goes_on(message, settings) } else { Move::invalid(0, Invalid::State) }
}
