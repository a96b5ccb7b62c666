//! SIP: what messages say of calls is expected, and ends that are translated are named as the other end knows them (RFC 3261, RFC 3581, RFC 8866).
//!
//! What is done with a message is in `path/signalled.rs`; here is which words are exchanged for which. Media go between those who signal, and calls come from
//! the registrar alone (RFC 3261 §10).
//!
//! Source of the facts: Linux, `net/netfilter/nf_conntrack_sip.c` (with `sip_direct_media` and `sip_direct_signalling`, its defaults), `nf_nat_sip.c`.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::{Class, Heard, Helper, Reads};
use crate::flow::edit::SIP;
use crate::flow::{Direction, Tuple};
use crate::tables::Protocol;
use crate::time::Timeout;
use crate::wire::datagram::Change;
use crate::wire::sip::message::{Message, Start};
use crate::wire::sip::sdp::Kind;
use crate::wire::sip::{Place, Words, words_of_address, words_of_end, words_of_host, words_of_number};

pub(super) const HELPER: Helper = Helper {
    name: "sip",
    protocols: &[Protocol::UDP, Protocol::TCP],
    classes: &[
        Class { patience: PATIENCE, most: 1 },
        // Both ends', with their control (RTCP).
        Class { patience: MEDIA, most: 4 },
        Class { patience: MEDIA, most: 4 },
        // Without.
        Class { patience: MEDIA, most: 2 },
    ],
    edits: SIP,
    reads: Reads::Calls,
};

/// How long a connection with messages rests.
pub const PATIENCE: Timeout = Timeout::from_secs(3600);
const MEDIA: Timeout = Timeout::from_secs(180);

/// The class of calls that come to who has registered.
pub const SIGNALLING: u8 = 0;
/// The lowest port that is expected anything at.
pub const FIRST_PORT: u16 = 1024;

/// That of a stream of media.
pub fn class(kind: Kind) -> u8 {
    match kind {
        Kind::Audio => 1,
        Kind::Video => 2,
        Kind::Image => 3,
    }
}

/// Most that is exchanged in a message: its URI, a Via and three parameters, eight Contacts, From, To, three streams' ports and addresses, the session's
/// two addresses, the body's length.
const MOST_CHANGES: usize = 24;
pub type Changes = ArrayVec<Change, MOST_CHANGES>;

/// The ends of a connection, as the packets know them that go one way: how they come, and how answers to them do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    pub own: Tuple,
    pub other: Tuple,
}

impl Ends {
    pub fn of(heard: &Heard<'_>) -> Ends {
        match heard.direction {
            Direction::Original => Ends { own: heard.original, other: heard.reply },
            Direction::Reply => Ends { own: heard.reply, other: heard.original },
        }
    }

    /// What the receiver knows an end as; `None`: as it is.
    fn known_as(&self, address: IpAddr, port: u16) -> Option<(IpAddr, u16)> {
        let Ends { own, other } = self;
        let known = match (address, port) {
            end if end == (own.src, own.sport) => (other.dst, other.dport),
            end if end == (own.dst, own.dport) => (other.src, other.sport),
            end => end,
        };
        (known != (address, port)).then_some(known)
    }
}

pub fn change(changes: &mut Changes, place: Place, words: Words) {
    // There is room for all that a message can have.
    let _ = changes.try_push(Change { place, words });
}

/// Names the connection's own ends, in the header of a message, as who receives it knows them. A place that has been changed is left alone.
pub fn exchange_ends(message: &Message, ends: &Ends, changes: &mut Changes) {
    let Ends { own, other } = ends;
    if let Some(via) = message.via.filter(|via| via.transport.may_be(own.protocol)) {
        let sender = match message.start {
            Start::Request(_) => (own.src, own.sport),
            Start::Answer(_) => (own.dst, own.dport),
        };
        if (via.end.address, via.end.port) == sender {
            exchange_end(via.end.place, sender, ends, changes);
            if let Some((place, _)) = via.maddr.filter(|&(_, at)| at == own.src && at != other.dst) {
                change(changes, place, words_of_host(other.dst));
            }
            if let Some((place, _)) = via.received.filter(|&(_, at)| at == own.dst && at != other.src) {
                change(changes, place, words_of_address(other.src));
            }
            if let Some((place, _)) = via.rport.filter(|&(_, at)| at == own.dport && at != other.sport) {
                change(changes, place, words_of_number(other.sport));
            }
        }
    }
    let contacts = message.contacts.iter().map(|contact| &contact.end);
    for end in contacts.chain(&message.uri).chain(&message.from).chain(&message.to) {
        if !changes.iter().any(|change| change.place == end.place) {
            exchange_end(end.place, (end.address, end.port), ends, changes);
        }
    }
}

fn exchange_end(place: Place, (address, port): (IpAddr, u16), ends: &Ends, changes: &mut Changes) {
    if let Some((address, port)) = ends.known_as(address, port) {
        change(changes, place, words_of_end(address, port));
    }
}

/// Says how long the body is behind the changes in it.
pub fn fit_length(message: &Message, changes: &mut Changes) {
    let growth: isize =
        changes.iter().filter(|change| change.place.at >= message.body).map(Change::growth).sum();
    let Some((place, length)) = message.content_length.filter(|_| growth != 0) else { return };
    if let Ok(length) = u16::try_from(i64::from(length) + growth as i64) {
        change(changes, place, words_of_number(length));
    }
}
