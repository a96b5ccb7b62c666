//! Counters have one writer and any readers: no count is lost, and no reader sees one go back.

use std::sync::Arc;

use loom::thread;

use super::check;

#[allow(clippy::new_without_default)]
pub(crate) mod source {
    include!(concat!(env!("OUT_DIR"), "/counters.rs"));
}
use source::Counter;

#[test]
fn a_reader_sees_a_count_grow_and_its_writer_loses_none() {
    check(|| {
        let count = Arc::new(Counter::default());
        let writers = count.clone();
        let writer = thread::spawn(move || (0..3).for_each(|_| writers.add(1)));
        let (first, second) = (count.get(), count.get());
        assert!(first <= second && second <= 3, "{first} {second}");
        writer.join().unwrap();
        assert_eq!(count.get(), 3);
    });
}

/// Why each worker has counters of its own.
#[test]
#[should_panic(expected = "a count was lost")]
fn two_writers_of_one_counter_lose_counts() {
    check(|| {
        let count = Arc::new(Counter::default());
        let other = count.clone();
        let writer = thread::spawn(move || other.add(1));
        count.add(1);
        writer.join().unwrap();
        assert_eq!(count.get(), 2, "a count was lost");
    });
}
