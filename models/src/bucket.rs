//! A token bucket, from which two workers take at the same moment.

use std::sync::Arc;

use lb_core::time::Tick;
use loom::thread;

use super::check;

mod source {
    include!(concat!(env!("OUT_DIR"), "/bucket.rs"));
}

use source::Bucket;

/// What two workers get, of which each asks so often, at its own time.
fn taken(bucket: Bucket, asks: [&'static [u32]; 2]) -> (usize, Arc<Bucket>) {
    let bucket = Arc::new(bucket);
    let take = |bucket: &Bucket, ticks: &[u32]| {
        ticks.iter().filter(|tick| bucket.take(1, 1, 2, Tick(**tick))).count()
    };
    let other = bucket.clone();
    let thread = thread::spawn(move || take(&other, asks[1]));
    let mine = take(&bucket, asks[0]);
    (mine + thread.join().unwrap(), bucket)
}

#[test]
fn two_workers_take_no_more_than_a_full_bucket_has() {
    check(|| {
        let (count, _) = taken(Bucket::new(2, Tick(5)), [&[5, 5], &[5, 5]]);
        assert_eq!(count, 2);
    });
}

#[test]
fn two_workers_that_see_a_tick_pass_gain_it_once() {
    check(|| {
        let (count, bucket) = taken(Bucket::new(0, Tick(5)), [&[6], &[6]]);
        let left = usize::from(bucket.take(1, 1, 2, Tick(6)));
        assert_eq!(count + left, 1, "of those that ask at once one may find it too early");
    });
}

#[test]
fn a_worker_whose_clock_is_behind_gains_nothing_twice() {
    check(|| {
        let (count, bucket) = taken(Bucket::new(0, Tick(5)), [&[6, 6], &[5, 5]]);
        let left = usize::from(bucket.take(1, 1, 2, Tick(6)));
        assert_eq!(count + left, 1);
    });
}
