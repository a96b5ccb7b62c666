//! Who gives way when a worker is offered more than it can take: packets of no known connection (`drop_newcomers`).
//!
//! A port's ring that is full loses packets of all alike, and what begins a connection costs many times what a packet of a known one does. So a worker that is behind, that is whose
//! bursts are full turn after turn, lets few of these in and drops the others as soon as it has looked for their connection in vain and is their owner. How many it lets in it finds by itself, as TCP
//! finds its window: fewer by half with each turn that leaves it behind, some more with each that does not, up to all. What may begin a connection, and what is in the middle of an unknown
//! one (who acknowledges a SYN cookie, for example), have the same number each: neither takes the other's place
//! ([0039](../../../docs/decisions/0039-newcomers-give-way.md)).
//!
//! Packets of known connections are not asked: a worker pays for it once a burst, once a turn, and where no connection is found.

use super::Path;
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::tcp::SYN;

/// Turns with a full burst, one after the other, of a worker that is not behind yet: it works off a ring of 1,024 packets, as fills while it does not
/// run, within so many while seven eighths of what it can take come.
const PATIENCE: u32 = 256;
/// The same once it lets few in: its rings hold many times what comes meanwhile.
const SHORT_PATIENCE: u32 = 4;
/// A packet, in what is let in.
const WHOLE: u32 = 16;
/// Let in a turn, of each kind, at most and at least, while not all are.
const MOST: u32 = 64 * WHOLE;
const LEAST: u32 = 1;
const ALL: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Newcomers {
    /// A burst of this turn was full.
    is_full: bool,
    /// Turns in which one was, one after the other.
    full_turns: u32,
    /// Let in a turn, of each kind.
    rate: u32,
    /// What is left of it: for what is in the middle of a connection, and for what begins one.
    left: [u32; 2],
}

impl Default for Newcomers {
    fn default() -> Newcomers {
        Newcomers { is_full: false, full_turns: 0, rate: ALL, left: [0; 2] }
    }
}

impl Newcomers {
    /// A burst came, which was as full as one may be or not.
    #[inline(always)]
    pub(super) fn came(&mut self, is_full: bool) {
        self.is_full |= is_full;
    }

    /// Not all of them are let in.
    #[inline(always)]
    pub(super) fn give_way(&self) -> bool {
        self.rate != ALL
    }

    /// Whether one more is let in, while not all are.
    fn lets_in(&mut self, begins: bool) -> bool {
        let left = &mut self.left[usize::from(begins)];
        let is_let_in = *left >= WHOLE;
        if is_let_in {
            *left -= WHOLE;
        }
        is_let_in
    }

    /// A turn is over.
    #[inline]
    pub(super) fn turn(&mut self, is_on: bool) {
        if self.is_full || self.give_way() {
            self.weigh(is_on);
        } else {
            self.full_turns = 0;
        }
    }

    #[cold]
    fn weigh(&mut self, is_on: bool) {
        let was_full = std::mem::take(&mut self.is_full);
        self.full_turns = if was_full && is_on { self.full_turns.saturating_add(1) } else { 0 };
        let patience = if self.give_way() { SHORT_PATIENCE } else { PATIENCE };
        self.rate = match self.rate {
            _ if !is_on => ALL,
            rate if self.full_turns > patience => (rate.min(MOST) / 2).max(LEAST),
            rate if was_full => rate,
            rate if rate < MOST => rate + 1,
            _ => ALL,
        };
        if self.give_way() {
            let rate = self.rate;
            self.left = self.left.map(|left| (left + rate).min(rate.max(WHOLE)));
        }
    }
}

impl<P: Packet> Path<P> {
    /// Whether a packet of no known connection is let in, while not all are.
    #[cold]
    pub(super) fn lets_in(&mut self, headers: &Headers) -> bool {
        let is_segment = headers.protocol == Protocol::TCP && headers.tcp_flags & SYN == 0;
        let begins = !is_segment && headers.fragment != Fragment::Later;
        // While the table is short of room it may be of a connection that goes by hash alone.
        self.newcomers.lets_in(begins) || self.is_short && !begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 100 of a kind are let in in a turn, after it was said of the turn before whether it was full.
    fn turn(newcomers: &mut Newcomers, was_full: bool) -> usize {
        newcomers.came(was_full);
        newcomers.turn(true);
        (0..100).filter(|_| !newcomers.give_way() || newcomers.lets_in(true)).count()
    }

    #[test]
    fn a_worker_that_stays_behind_lets_ever_fewer_in_and_later_all_again() {
        let mut newcomers = Newcomers::default();
        for _ in 0..PATIENCE {
            assert_eq!(turn(&mut newcomers, true), 100);
        }
        let let_in: Vec<usize> = (0..7).map(|_| turn(&mut newcomers, true)).collect();
        assert_eq!(let_in, [32, 16, 8, 4, 2, 1, 0]);
        let of_1600: usize = (0..1600).map(|_| turn(&mut newcomers, true)).sum();
        assert!((99..=101).contains(&of_1600), "one in sixteen turns, but {of_1600}");
        let let_in: Vec<usize> = (0..MOST).map(|_| turn(&mut newcomers, false)).collect();
        assert!(let_in[..15].iter().sum::<usize>() < 15 && let_in[16 * 31] == 31, "{let_in:?}");
        assert_eq!(turn(&mut newcomers, false), 100);
        assert_eq!(turn(&mut newcomers, true), 100, "it is as it was at first");
    }

    #[test]
    fn a_backlog_that_is_worked_off_turns_nobody_away() {
        let mut newcomers = Newcomers::default();
        for n in 1..10 * PATIENCE {
            assert_eq!(turn(&mut newcomers, !n.is_multiple_of(PATIENCE)), 100);
        }
    }

    #[test]
    fn a_worker_lets_in_what_it_has_time_for_and_its_ring_does_not_overflow() {
        // A packet that is dropped, or of a known connection, takes a unit of time, and twelve when it is let in. Three come in four units, five of
        // eight newcomers: six times what can be let in.
        let (mut newcomers, mut waiting, mut quarters, mut number) = (Newcomers::default(), 0u32, 0, 0);
        let (mut units, mut let_in, mut lost, mut longest) = (0, 0, 0, 0);
        for turn in 0..20_000 {
            let taken = waiting.min(32);
            let new = (number..number + taken).filter(|number| number % 8 < 5).count();
            let served = (0..new).filter(|_| !newcomers.give_way() || newcomers.lets_in(true)).count() as u32;
            newcomers.came(taken == 32);
            newcomers.turn(true);
            let took = 2 + taken + 11 * served;
            quarters += 3 * took;
            (waiting, number) = (waiting - taken + quarters / 4, number + taken);
            quarters %= 4;
            let overflow = waiting.saturating_sub(1024);
            waiting -= overflow;
            if turn > 1000 {
                (units, let_in) = (units + took, let_in + served);
                (lost, longest) = (lost + overflow, longest.max(waiting));
            }
        }
        assert_eq!(lost, 0);
        assert!(longest < 256, "{longest}");
        // A quarter of the time is left for them, less than which a few of the turns need.
        let share = f64::from(11 * let_in) / f64::from(units);
        assert!((0.1..0.25).contains(&share), "{share}");
    }

    #[test]
    fn neither_kind_takes_the_others_place_and_what_is_left_over_is_not_saved() {
        let mut newcomers = Newcomers { rate: 3 * WHOLE - 1, ..Newcomers::default() };
        for _ in 0..5 {
            newcomers.came(false);
            newcomers.turn(true);
            newcomers.rate = 2 * WHOLE;
        }
        assert_eq!([(); 3].map(|()| newcomers.lets_in(true)), [true, true, false]);
        assert_eq!([(); 3].map(|()| newcomers.lets_in(false)), [true, true, false]);
    }

    #[test]
    fn all_are_let_in_at_once_when_it_is_switched_off() {
        let mut newcomers = Newcomers { rate: LEAST, full_turns: 1000, ..Newcomers::default() };
        newcomers.came(true);
        newcomers.turn(false);
        assert!(!newcomers.give_way());
        assert_eq!(turn(&mut newcomers, true), 100);
    }
}
