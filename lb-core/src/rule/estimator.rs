//! A rate that fades (`RATEEST`, `rateest`): the bytes and packets of each interval, weighted against what was before.
//!
//! There is no timer: whoever looks, or counts, makes up for the intervals that have passed since somebody did; one of several
//! workers that come at the same moment. Counts are atomic additions, so that none is lost.
//!
//! Source of the facts: Linux, `net/core/gen_estimator.c`, `net/netfilter/xt_RATEEST.c`.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::time::Tick;

/// Characters of an estimator's name; what is longer is cut off.
pub(crate) const LONGEST_NAME: usize = 15;
/// Rates are kept in 1/256.
const FRACTION: u32 = 8;

pub(crate) struct Estimator {
    /// An interval is 2 to this power quarters of a second.
    interval_log: u8,
    /// An interval's share in the rate is 1 in 2 to this power.
    ewma_log: u8,
    /// When the interval that is counted in began.
    since: AtomicU32,
    bytes: Average,
    packets: Average,
}

#[derive(Default)]
struct Average {
    /// Of the interval that is counted in.
    count: AtomicU64,
    rate: AtomicU64,
}

impl Estimator {
    pub(crate) fn new(interval_log: u8, ewma_log: u8) -> Estimator {
        let (bytes, packets) = (Average::default(), Average::default());
        Estimator { interval_log, ewma_log, since: AtomicU32::new(0), bytes, packets }
    }

    /// Whether it is an estimator of this interval and weight.
    pub(crate) fn is(&self, interval_log: u8, ewma_log: u8) -> bool {
        (self.interval_log, self.ewma_log) == (interval_log, ewma_log)
    }

    pub(crate) fn count(&self, bytes: u32, now: Tick) {
        self.make_up(now);
        self.bytes.count.fetch_add(bytes.into(), Relaxed);
        self.packets.count.fetch_add(1, Relaxed);
    }

    /// Bytes and packets a second.
    pub(crate) fn rates(&self, now: Tick) -> (u64, u64) {
        self.make_up(now);
        (self.bytes.rate.load(Relaxed) >> FRACTION, self.packets.rate.load(Relaxed) >> FRACTION)
    }

    /// Takes the intervals that are over into the rates.
    fn make_up(&self, now: Tick) {
        let interval = (Tick::PER_SECOND / 4) << self.interval_log;
        let since = self.since.load(Relaxed);
        let over = now.since(Tick(since)) / interval;
        if over == 0 {
            return;
        }
        let next = since.wrapping_add(over * interval);
        if self.since.compare_exchange(since, next, Relaxed, Relaxed).is_err() {
            return;
        }
        for average in [&self.bytes, &self.packets] {
            average.fade(over, self.interval_log, self.ewma_log);
        }
    }
}

impl Average {
    /// What was counted is of the first of so many intervals; in the others there was nothing.
    fn fade(&self, intervals: u32, interval_log: u8, ewma_log: u8) {
        let counted = u128::from(self.count.swap(0, Relaxed));
        // A second's: four quarters.
        let now = counted << (FRACTION + 2) >> interval_log;
        let before = u128::from(self.rate.load(Relaxed));
        let rate = before - (before >> ewma_log) + (now >> ewma_log);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        self.rate.store(faded(rate, intervals - 1, ewma_log), Relaxed);
    }
}

/// A rate after so many intervals without anything, by squaring: however many there were.
fn faded(rate: u64, intervals: u32, ewma_log: u8) -> u64 {
    const ONE: u64 = 1 << 32;
    let (mut factor, mut base, mut left) = (ONE, ONE - (ONE >> ewma_log), intervals);
    let times = |a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 32) as u64;
    while left > 0 {
        if left & 1 == 1 {
            factor = times(factor, base);
        }
        base = times(base, base);
        left >>= 1;
    }
    times(rate, factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_steady_rate_is_found_and_a_rate_that_ends_fades() {
        // A quarter of a second, the half of what was before.
        let estimator = Estimator::new(0, 1);
        for tick in 0..1000 {
            estimator.count(125, Tick(tick));
        }
        let (bytes, packets) = estimator.rates(Tick(1000));
        assert!((12_400..=12_500).contains(&bytes) && (99..=100).contains(&packets), "{bytes} {packets}");
        let (later, _) = estimator.rates(Tick(1025));
        assert!((later as i64 - bytes as i64 / 2).abs() < 10, "{later}");
        assert_eq!(estimator.rates(Tick(1_000_000)), (0, 0));
    }

    proptest! {
        /// The obvious twin: interval by interval.
        #[test]
        fn fading_at_once_is_fading_step_by_step(rate in 0u64..1 << 40, intervals in 0u32..200, ewma_log in 1u8..12) {
            let mut twin = rate as f64;
            (0..intervals).for_each(|_| twin -= twin / f64::from(1u32 << ewma_log));
            let is = faded(rate, intervals, ewma_log) as f64;
            prop_assert!((is - twin).abs() <= 2.0 + twin * 1e-6 + rate as f64 * 1e-6, "{is} {twin}");
        }
    }
}
