//! A token bucket that all workers take from: `limit`, a key of `hashlimit`, the rates of virtual services.
//!
//! It is never exceeded, whatever workers do at once: in a time no more is taken than the bucket held at its begin and the time brings. Each tick is gained once, by the worker that
//! moves `last` on; credit is added and taken by read-modify-writes. A worker whose clock is a little behind gains nothing. While one has moved `last` and not yet added what that
//! brings, another may find less than there is, and refuse.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::time::Tick;

/// A time that is less than this ahead of a worker's own was written by one whose turn began later; else it is long past.
const AHEAD: u32 = 3600 * Tick::PER_SECOND;

#[derive(Default)]
pub(crate) struct Bucket {
    credit: AtomicU64,
    last: AtomicU32,
}

impl Bucket {
    pub(crate) fn new(credit: u64, now: Tick) -> Bucket {
        Bucket { credit: AtomicU64::new(credit), last: AtomicU32::new(now.0) }
    }

    /// Another one that goes on from here.
    pub(crate) fn copy(&self) -> Bucket {
        Bucket::new(self.credit.load(Relaxed), Tick(self.last.load(Relaxed)))
    }

    /// Of someone else from now on.
    pub(crate) fn begin(&self, credit: u64, now: Tick) {
        self.last.store(now.0, Relaxed);
        self.credit.store(credit, Relaxed);
    }

    /// Takes `cost`, if there is so much. A tick brings `per_tick`, up to `cap`.
    pub(crate) fn take(&self, cost: u64, per_tick: u64, cap: u64, now: Tick) -> bool {
        let ticks = self.ticks(now);
        if ticks > 0 {
            self.add(u64::from(ticks).saturating_mul(per_tick), cap);
        }
        self.spend(cost)
    }

    /// Those that have passed since they were last counted.
    fn ticks(&self, now: Tick) -> u32 {
        let last = self.last.load(Relaxed);
        if last.wrapping_sub(now.0) < AHEAD {
            return 0;
        }
        self.last.compare_exchange(last, now.0, Relaxed, Relaxed).map_or(0, |_| now.0.wrapping_sub(last))
    }

    pub(crate) fn add(&self, credit: u64, cap: u64) {
        let more = |has: u64| Some(has.saturating_add(credit).min(cap));
        let _ = self.credit.fetch_update(Relaxed, Relaxed, more);
    }

    pub(crate) fn spend(&self, cost: u64) -> bool {
        self.credit.fetch_update(Relaxed, Relaxed, |has| has.checked_sub(cost)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_its_burst_and_then_its_rate_by() {
        // 5 a second, burst 5: a packet costs 2,000 units of 0.1 ms.
        let bucket = Bucket::new(10_000, Tick(0));
        let allowed = |ticks: std::ops::Range<u32>| {
            ticks.filter(|tick| bucket.take(2000, 100, 10_000, Tick(*tick))).count()
        };
        assert_eq!(allowed(0..1) + (0..9).filter(|_| bucket.take(2000, 100, 10_000, Tick(0))).count(), 5);
        assert_eq!(allowed(1..1001), 50, "ten seconds");
    }

    #[test]
    fn a_worker_whose_clock_is_behind_gains_nothing_and_takes_no_tick_from_others() {
        let bucket = Bucket::new(0, Tick(100));
        assert!(!bucket.take(1, 1, 10, Tick(99)) && !bucket.take(1, 1, 10, Tick(100)));
        assert!(bucket.take(1, 1, 10, Tick(101)) && !bucket.take(1, 1, 10, Tick(100)));
        assert!(!bucket.take(1, 1, 10, Tick(101)), "the tick before was gained");
    }

    #[test]
    fn a_bucket_that_was_idle_for_most_of_what_a_tick_can_count_is_full() {
        for idle in [u32::MAX / 2 + 5, u32::MAX - AHEAD] {
            let bucket = Bucket::new(0, Tick(7));
            assert!(bucket.take(10, 1, 10, Tick(7u32.wrapping_add(idle))), "{idle} ticks");
        }
    }

    /// Goal: the rate holds whatever workers do at once. Method: threads that take all they can, while time goes on, with clocks that are up to two ticks apart.
    #[test]
    fn workers_that_take_at_once_take_no_more_than_one_could() {
        const TICKS: u32 = 400;
        for workers in [2, 4, 16] {
            let (bucket, time) = (Bucket::new(50, Tick(0)), AtomicU32::new(0));
            let work = |worker: u32| {
                let mut taken = 0u64;
                let mut tries = 0u32;
                while time.load(Relaxed) < TICKS {
                    let now = time.load(Relaxed);
                    taken += u64::from(bucket.take(1, 3, 50, Tick(now.saturating_sub(worker % 3))));
                    tries += 1;
                    if worker == 0 && tries.is_multiple_of(500) {
                        time.fetch_add(1, Relaxed);
                    }
                }
                taken
            };
            let taken: u64 = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..workers).map(|n| scope.spawn(move || work(n))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            let most = 50 + 3 * u64::from(TICKS);
            assert!(taken <= most, "{workers} workers took {taken} of {most}");
            assert!(
                taken >= most - 60,
                "{workers} workers took {taken} of {most}: they asked for more than there was"
            );
        }
    }
}
