//! A worker gets the tables that were published last, none twice and none older than it has; none is lost or freed by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use loom::thread;

use super::check;

mod source {
    include!(concat!(env!("OUT_DIR"), "/mailbox.rs"));
}
use source::{Inbox, mailbox};

/// Stands for the snapshot.
struct Tables {
    generation: u32,
    publisher: loom::thread::ThreadId,
    freed: Arc<AtomicU32>,
    /// Written before it is published, read by the worker.
    content: loom::cell::UnsafeCell<u32>,
}

impl Drop for Tables {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.publisher, "a worker frees no snapshot");
        self.content.with_mut(|_| ());
        self.freed.fetch_add(1, Relaxed);
    }
}

fn tables(generation: u32, freed: &Arc<AtomicU32>) -> Arc<Tables> {
    let tables = Tables {
        generation,
        publisher: thread::current().id(),
        freed: freed.clone(),
        content: loom::cell::UnsafeCell::new(0),
    };
    tables.content.with_mut(|_| ());
    Arc::new(tables)
}

/// A turn of the worker.
fn turn(inbox: &mut Inbox, used: &mut Arc<Tables>) {
    inbox.exchange(|new| {
        assert!(new.generation > used.generation, "in the order of publishing");
        new.content.with(|_| ());
        std::mem::replace(used, new)
    });
}

#[test]
fn the_last_published_tables_come_to_be_used_and_all_others_are_freed_by_the_publisher() {
    check(|| {
        let freed = Arc::new(AtomicU32::new(0));
        let (mut publisher, mut inbox) = mailbox();
        let mut used = tables(0, &freed);
        let worker = thread::spawn(move || {
            for _ in 0..2 {
                turn(&mut inbox, &mut used);
            }
            (inbox, used)
        });
        for generation in 1..=3 {
            publisher.publish(tables(generation, &freed));
        }
        let (mut inbox, mut used) = worker.join().unwrap();
        // What the control plane's look every second and the worker's next turns make of it.
        for _ in 0..3 {
            publisher.attend();
            turn(&mut inbox, &mut used);
        }
        publisher.attend();
        assert_eq!(used.generation, 3);
        assert_eq!(freed.load(Relaxed), 3, "all but the one in use");
        drop((publisher, inbox));
        assert_eq!(freed.load(Relaxed), 3);
        drop(used);
        assert_eq!(freed.load(Relaxed), 4);
    });
}
