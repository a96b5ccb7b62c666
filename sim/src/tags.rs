//! What is known of every frame that was given to the director: who sent it, as part of what, and whether it came out.

use std::collections::VecDeque;

use lb_core::time::Tick;

use crate::invariants::name;
use crate::ledger::{Effect, Moment};
use crate::violation::{Checked, hold};

/// Index of nothing.
pub const NONE: u32 = u32::MAX;

/// Why a frame was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// By the client of a connection.
    Request,
    /// By its server.
    Reply,
    /// By the director's own Linux.
    Host,
    /// An ICMP error by a router, about a connection's packet.
    Error,
    /// The same, about what carries one through a tunnel.
    TunnelError,
    /// Nobody asked for it.
    Junk,
}

/// A frame's story.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Place and number of its connection.
    pub conn: u32,
    pub serial: u32,
    /// Place in the ledger, of connections to virtual services.
    pub binding: u32,
    pub way: Way,
    pub ttl: u8,
    /// The receiver may not trust it: a bit was changed on the way, or its end is missing.
    pub is_mangled: bool,
    /// A piece of a packet, but not the first.
    pub is_later_piece: bool,
    /// A UDP datagram without a checksum.
    pub is_unsummed: bool,
    /// What it may do to its connection.
    pub effect: Effect,
    /// When the director was given it, in microseconds.
    pub given: u64,
    /// When it was looked up last.
    pub looked_up: Moment,
    /// Whether there were virtual services of IPv4, and of IPv6, then.
    pub has_family: [bool; 2],
}

impl Sent {
    pub const JUNK: Sent = Sent {
        conn: NONE,
        serial: 0,
        binding: NONE,
        way: Way::Junk,
        ttl: 64,
        is_mangled: false,
        is_later_piece: false,
        is_unsummed: false,
        effect: Effect::Nothing,
        given: 0,
        looked_up: Moment { number: 0, at: Tick(0) },
        has_family: [false; 2],
    };
}

#[derive(Clone, Copy)]
struct Known {
    sent: Sent,
    is_out: bool,
}

/// The frames of the last while, by tag.
#[derive(Default)]
pub struct Tags {
    known: VecDeque<Known>,
    /// Tag of the first of `known`; tags count from 1.
    base: u64,
    lookups: u64,
}

/// Microseconds and frames after which a frame cannot be in the director any more: time may jump while it is.
const LONGEST: u64 = 120_000_000;
const MOST: usize = 1 << 17;

impl Tags {
    /// A tag for a frame that the director is given now.
    pub fn give(&mut self, sent: Sent, now: u64) -> u64 {
        while self.known.len() > MOST
            && self.known.front().is_some_and(|known| known.sent.given + LONGEST < now)
        {
            self.known.pop_front();
            self.base += 1;
        }
        self.known.push_back(Known { sent: Sent { given: now, ..sent }, is_out: false });
        self.base + self.known.len() as u64
    }

    /// A worker looked up the frame with this tag, after all that it said this of before.
    pub fn looked_up(&mut self, tag: u64, at: Tick, has_family: [bool; 2]) -> Option<Sent> {
        let known = self.known.get_mut(tag.checked_sub(self.base + 1)? as usize)?;
        self.lookups += 1;
        known.sent.looked_up = Moment { number: self.lookups, at };
        known.sent.has_family = has_family;
        Some(known.sent)
    }

    /// The director sent a frame with this tag.
    ///
    /// # Errors
    /// When it did so before, or nobody gave it one.
    pub fn came_out(&mut self, tag: u64) -> Checked<Sent> {
        let place = tag.checked_sub(self.base + 1).map(|place| place as usize);
        let known = place.and_then(|place| self.known.get_mut(place));
        hold!(known.is_some(), name::ACCOUNTED, "frame {tag} came out, which nobody has sent lately");
        let known = known.expect("just asked");
        hold!(!known.is_out, name::ACCOUNTED, "frame {tag} came out twice");
        known.is_out = true;
        Ok(known.sent)
    }

    /// Forgets all: the director that had them is gone. Tags go on.
    pub fn forget(&mut self) {
        self.base += self.known.len() as u64;
        self.known.clear();
    }
}
