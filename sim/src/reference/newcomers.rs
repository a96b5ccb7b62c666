//! Who gives way while a worker's bursts are full turn after turn (`drop_newcomers`).

use super::Reference;
use super::parse::{Piece, Read, SYN, TCP};

/// Turns with full bursts that are nothing yet, and those once it was something.
const PATIENCE: usize = 256;
const SHORT_PATIENCE: usize = 4;
/// Sixteenths of a packet of each kind, more than which all are let in.
const MOST: u32 = 64 * 16;

#[derive(Default)]
pub(super) struct Newcomers {
    was_full: bool,
    /// Turns with full bursts, one after the other.
    full: usize,
    /// Sixteenths of a packet of each kind that are let in in a turn; all, if there is no number.
    rate: Option<u32>,
    beginning: u32,
    others: u32,
}

impl Newcomers {
    pub(super) fn came(&mut self, is_full: bool) {
        self.was_full |= is_full;
    }

    pub(super) fn turn(&mut self, is_on: bool) {
        let was_full = std::mem::take(&mut self.was_full);
        if !is_on {
            (self.full, self.rate) = (0, None);
            return;
        }
        self.full = if was_full { self.full + 1 } else { 0 };
        let patience = if self.rate.is_none() { PATIENCE } else { SHORT_PATIENCE };
        if self.full > patience {
            self.rate = Some((self.rate.unwrap_or(MOST) / 2).max(1));
        } else if !was_full {
            self.rate = self.rate.map(|rate| rate + 1).filter(|&rate| rate <= MOST);
        }
        let Some(rate) = self.rate else { return };
        for left in [&mut self.beginning, &mut self.others] {
            // A whole one at least can be waited for.
            *left = (*left + rate).min(rate.max(16));
        }
    }
}

impl Reference {
    /// Whether a packet of no connection is let in.
    pub(super) fn lets_in(&mut self, read: &Read) -> bool {
        if self.newcomers.rate.is_none() {
            return true;
        }
        let is_other = read.piece == Piece::Later || read.protocol == TCP && read.tcp_flags & SYN == 0;
        let left = if is_other { &mut self.newcomers.others } else { &mut self.newcomers.beginning };
        if *left < 16 {
            return self.is_short && is_other;
        }
        *left -= 16;
        true
    }
}
