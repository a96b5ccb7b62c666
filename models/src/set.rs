//! A set's store that is read while workers and the control plane write into it.

use std::sync::Arc;

use lb_core::time::Tick;
use loom::thread;

use super::{check, check_with};

mod source {
    include!(concat!(env!("OUT_DIR"), "/store.rs"));
}
use source::{Extensions, Key, Place, Shape, Store};

/// Keys of two words, so that one could be half written.
const SHAPE: Shape = Shape {
    key: 2,
    value: 0,
    has_timeout: true,
    has_counters: false,
    has_comment: false,
    has_skbinfo: false,
    counts_interfaces: false,
};

fn store() -> Arc<Store> {
    Arc::new(Store::new(SHAPE, Place::Hashed(1), 8))
}

/// Keys that differ in their second word alone.
fn key(n: u64) -> Key {
    [5, n, 0, 0, 0]
}

/// An element that ends at a time which its key tells. `None`: another has the pen.
fn put(store: &Store, n: u64) -> Option<bool> {
    let extensions = Extensions { until: Some(Tick(n as u32)), ..Extensions::default() };
    store.pen().map(|pen| pen.put(&key(n), 0, false, &extensions, [n as u8, 255]))
}

#[test]
fn a_reader_finds_an_element_whole_or_not_at_all() {
    check(|| {
        let store = store();
        let writer = {
            let store = store.clone();
            thread::spawn(move || assert_eq!(put(&store, 1), Some(true)))
        };
        if let Some(slot) = store.find(&key(1)) {
            assert_eq!(store.until(slot), Some(Tick(1)));
            assert_eq!(store.lens(0).collect::<Vec<_>>(), [1], "its length is known");
        }
        assert!(store.find(&key(0)).is_none(), "another key of the same first word");
        writer.join().unwrap();
        assert!(store.find(&key(1)).is_some());
    });
}

#[test]
fn an_element_that_is_removed_and_put_in_again_is_never_anothers() {
    check_with(3, || {
        let store = store();
        assert_eq!(put(&store, 1), Some(true));
        let writer = {
            let store = store.clone();
            thread::spawn(move || {
                let slot = store.find(&key(1)).unwrap();
                store.pen().unwrap().remove(slot, [1, 255]);
                assert_eq!(put(&store, 0), Some(true));
                assert_eq!(put(&store, 1), Some(true));
            })
        };
        for n in [0, 1] {
            if let Some(slot) = store.find(&key(n)) {
                assert_eq!(store.until(slot), Some(Tick(n as u32)));
            }
        }
        writer.join().unwrap();
        assert_eq!(store.len(), 2);
    });
}

#[test]
fn of_two_that_write_each_has_written_or_knows_that_it_has_not() {
    check_with(3, || {
        let store = store();
        let other = {
            let store = store.clone();
            thread::spawn(move || put(&store, 1))
        };
        let mine = put(&store, 0);
        let others = other.join().unwrap();
        assert!(mine.is_some() || others.is_some());
        let written = [(0, mine), (1, others)].map(|(n, done)| {
            assert_eq!(store.find(&key(n)).is_some(), done.is_some(), "{n}");
            usize::from(done.is_some())
        });
        assert_eq!(store.len(), written[0] + written[1]);
    });
}

#[test]
fn what_is_added_while_a_store_is_replaced_is_in_the_new_one_or_was_refused() {
    check_with(3, || {
        let old = store();
        let worker = {
            let old = old.clone();
            thread::spawn(move || put(&old, 1))
        };
        // As `IpSets::grow` does, which waits for the pen: here until the worker has ended, since loom does not end a loop.
        let copy = || old.iter().map(|(key, _)| key).collect::<Vec<Key>>();
        let (copied, done) = match old.pen() {
            Some(pen) => {
                pen.keep();
                (copy(), worker.join().unwrap())
            }
            None => {
                let done = worker.join().unwrap();
                old.pen().unwrap().keep();
                (copy(), done)
            }
        };
        assert_eq!(copied.contains(&key(1)), done.is_some());
        assert_eq!(put(&old, 0), None);
    });
}
