//! A list comes whole, in order and without anything of the one before it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{Acquire, Release};
use loom::thread;

use super::check_with;

mod source {
    include!(concat!(env!("OUT_DIR"), "/listing.rs"));
}
use source::{Lister, listing};

/// Stands for a connection: its place in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FlowView(u32);

/// All of them.
#[derive(Clone, Copy, Default)]
struct Sought(());

impl Sought {
    fn fits(&self, _: &FlowView) -> bool {
        true
    }
}

/// A clock that stands: no worker is ever given up.
struct Instant;

impl Instant {
    fn now() -> Instant {
        Instant
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

fn pause(_: Duration) {
    thread::yield_now();
}

const ENTRIES: u32 = 2;

/// A worker's turns until `stop`, over a table of connections that are all in use.
fn give(lister: &mut Lister, stop: &AtomicBool) {
    while !stop.load(Acquire) {
        let had_work = lister.give(|from, budget, visit| {
            assert!(budget > 0);
            let end = (from + budget).min(ENTRIES);
            (from..end).for_each(|n| visit(FlowView(n)));
            (end < ENTRIES).then_some(end)
        });
        if !had_work {
            thread::yield_now();
        }
    }
}

/// Reads so many views of each list in turn; a list of which there are no more is read to its end.
fn read(views: &'static [usize]) {
    let (mut lister, mut reader) = listing();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let worker = thread::spawn(move || give(&mut lister, &stopped));
    for (number, &wanted) in (1..).zip(views) {
        let mut got = Vec::new();
        let end = reader.read(number, &Sought(()), Duration::MAX, &mut |view| {
            got.push(view.0);
            if got.len() == wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(end.is_ok());
        assert_eq!(got, (0..ENTRIES).take(wanted).collect::<Vec<_>>());
    }
    stop.store(true, Release);
    worker.join().unwrap();
}

#[test]
fn a_list_longer_than_the_ring_comes_whole_and_in_order() {
    check_with(4, || read(&[usize::MAX]));
}

#[test]
fn a_list_after_one_that_was_broken_off_has_nothing_of_it() {
    check_with(3, || read(&[1, usize::MAX]));
}
