//! Timers that run out when no packet has come for a while (`IDLETIMER`), one for each label, whichever rules have it.
//!
//! Nothing runs: packets write the moment at which it will run out, all workers one word, and whoever asks compares it with the clock. It is written once a second
//! at most, so that workers share the line for reading; what is left is exact to that second.
//!
//! Source of the facts: Linux, `net/netfilter/xt_IDLETIMER.c`; what is allowed: seen on Linux 6.18.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::time::Tick;

/// Bytes of a label; what is longer is cut off.
pub(crate) const LONGEST_LABEL: usize = 27;
/// The kernel's milliseconds fit into 31 bits.
pub(crate) const MOST_SECONDS: u32 = 2_147_482;

const BEGUN: u64 = 1 << 32;
/// It has run out, however often the clock goes round.
const OVER: u64 = 1 << 33;

#[derive(Debug)]
pub struct IdleTimer {
    /// The kernel's would wake the machine (`--alarm`).
    pub is_alarm: bool,
    /// From when it is first looked at.
    first: u32,
    /// A tick below [`BEGUN`]; 0: it is not begun yet.
    ends: AtomicU64,
}

impl IdleTimer {
    pub(crate) fn new(seconds: u32, is_alarm: bool) -> IdleTimer {
        IdleTimer { is_alarm, first: seconds, ends: AtomicU64::new(0) }
    }

    /// A packet has come: it will run out after so many seconds without another.
    #[inline]
    pub(crate) fn begin(&self, seconds: u32, now: Tick) {
        let (known, ends) = (self.ends.load(Relaxed), ends(seconds, now));
        let is_near = known & !u64::from(u32::MAX) == BEGUN
            && (ends as u32).wrapping_sub(known as u32) < Tick::PER_SECOND;
        if !is_near {
            self.ends.store(ends, Relaxed);
        }
    }

    /// Seconds until it runs out; 0: it has.
    pub fn left(&self, now: Tick) -> u32 {
        let mut known = self.ends.load(Relaxed);
        if known == 0 {
            known = ends(self.first, now);
            known = self.ends.compare_exchange(0, known, Relaxed, Relaxed).map_or_else(|is| is, |_| known);
        }
        let left = (known as u32).wrapping_sub(now.0);
        if known & OVER != 0 || left == 0 || left > MOST_SECONDS * Tick::PER_SECOND {
            // A packet that comes meanwhile has begun it again.
            let _ = self.ends.compare_exchange(known, OVER, Relaxed, Relaxed);
            return 0;
        }
        left.div_ceil(Tick::PER_SECOND)
    }
}

fn ends(seconds: u32, now: Tick) -> u64 {
    BEGUN | u64::from(now.0.wrapping_add(seconds * Tick::PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u32 = Tick::PER_SECOND;

    #[test]
    fn it_runs_out_that_long_after_the_last_packet_also_where_the_clock_goes_round() {
        for start in [0, 12_345, u32::MAX - 3 * SECOND] {
            let timer = IdleTimer::new(5, false);
            let at = |ticks: u32| Tick(start.wrapping_add(ticks));
            assert_eq!(timer.left(at(0)), 5, "from when it is looked at");
            assert_eq!(timer.left(at(2 * SECOND + 1)), 3);
            timer.begin(7, at(3 * SECOND));
            assert_eq!(timer.left(at(3 * SECOND)), 7, "another rule's time");
            timer.begin(7, at(3 * SECOND + 10));
            timer.begin(2, at(4 * SECOND));
            assert_eq!([4, 5, 6].map(|second| timer.left(at(second * SECOND))), [2, 1, 0]);
            assert_eq!(timer.left(at(u32::MAX - SECOND)), 0, "it stays so");
            timer.begin(MOST_SECONDS, at(8 * SECOND));
            assert_eq!(timer.left(at(8 * SECOND)), MOST_SECONDS);
        }
    }

    #[test]
    fn packets_of_one_second_write_once() {
        let timer = IdleTimer::new(5, false);
        timer.begin(5, Tick(1000));
        let written = timer.ends.load(Relaxed);
        timer.begin(5, Tick(1000 + SECOND - 1));
        assert_eq!(timer.ends.load(Relaxed), written);
        timer.begin(5, Tick(1000 + SECOND));
        assert_ne!(timer.ends.load(Relaxed), written);
    }
}
