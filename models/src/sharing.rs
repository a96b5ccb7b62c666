//! A walk comes whole, and every change and every connection that is given comes across, whoever is slow.

use std::collections::VecDeque;

use loom::thread;

use super::check_with;

mod source {
    include!(concat!(env!("OUT_DIR"), "/sharing.rs"));
}
use source::{Shares, sharing};

/// Stand for a connection, an id, and what a walk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SharedFlow(u32);
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ServerId(u32);
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tick(u32);
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Walk {
    Whole,
    Since(Tick),
}

const PLACES: u32 = 2;
/// Of a change; others are of the walk.
const CHANGED: SharedFlow = SharedFlow(9);

struct Table {
    changed: VecDeque<SharedFlow>,
    taken: Vec<u32>,
}

impl Shares for Table {
    fn tell_changed(&mut self, budget: u32, tell: &mut dyn FnMut(SharedFlow)) -> bool {
        let count = self.changed.len().min(budget as usize);
        self.changed.drain(..count).for_each(tell);
        count > 0
    }

    fn walk(
        &mut self,
        cursor: u32,
        budget: u32,
        walk: Walk,
        tell: &mut dyn FnMut(SharedFlow),
    ) -> Option<u32> {
        assert_eq!(walk, Walk::Whole);
        let end = (cursor + budget).min(PLACES);
        (cursor..end).for_each(|n| tell(SharedFlow(n)));
        (end < PLACES).then_some(end)
    }

    fn take_over(&mut self, _: &SharedFlow, server: ServerId) {
        self.taken.push(server.0);
    }
}

#[test]
fn a_walk_comes_whole_beside_a_change_and_is_not_over_before() {
    check_with(3, || {
        let (mut sharer, mut reader) = sharing();
        let mut table = Table { changed: VecDeque::from([CHANGED]), taken: Vec::new() };
        let worker = thread::spawn(move || {
            // A worker that stops turning when the walk is told leaves the rest in the ring.
            let mut idle = 0;
            while idle < 2 {
                idle = if sharer.turn(&mut table) { 0 } else { idle + 1 };
                thread::yield_now();
            }
            (sharer, table)
        });
        reader.ask(1, Walk::Whole);
        let mut told = Vec::new();
        for _ in 0..2 {
            told.extend(std::iter::from_fn(|| reader.next()));
            if reader.is_over() {
                assert_eq!(told.iter().filter(|&&flow| flow != CHANGED).count(), PLACES as usize);
            }
        }
        let (mut sharer, mut table) = worker.join().unwrap();
        while !reader.is_over() {
            sharer.turn(&mut table);
            told.extend(std::iter::from_fn(|| reader.next()));
        }
        let walked: Vec<_> = told.iter().filter(|&&flow| flow != CHANGED).map(|flow| flow.0).collect();
        assert_eq!(walked, (0..PLACES).collect::<Vec<_>>());
        assert_eq!(told.len(), PLACES as usize + 1);
    });
}

#[test]
fn what_is_given_is_taken_in_order_and_once() {
    check_with(3, || {
        let (mut sharer, mut reader) = sharing();
        let mut table = Table { changed: VecDeque::new(), taken: Vec::new() };
        let worker = thread::spawn(move || {
            sharer.turn(&mut table);
            sharer.turn(&mut table);
            (sharer, table)
        });
        let given: Vec<u32> = (0..3).filter(|&n| reader.give(SharedFlow(n), ServerId(n))).collect();
        let (mut sharer, mut table) = worker.join().unwrap();
        while sharer.turn(&mut table) {}
        assert_eq!(table.taken, given);
        assert!(reader.give(SharedFlow(0), ServerId(7)), "there is room again");
    });
}
