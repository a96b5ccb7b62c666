//! How new tables get to a worker, and how the old ones get back to be freed: a worker never frees a snapshot, and never
//! waits for the thread that publishes.
//!
//! A ring each way, both with one producer and one consumer. The worker adopts all that has come, in the order in which it
//! was published, and gives one snapshot back for each that it takes. `lb-models` checks it under every schedule.

use std::sync::Arc;

use lb_core::tables::Tables;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

/// Snapshots on their way, each way. More than are published in one turn of a worker that runs.
const RING: usize = 16;

/// Makes one worker's mailbox: the control plane's end and the worker's.
pub(crate) fn mailbox() -> (Publisher, Inbox) {
    let (to_worker, published) = RingBuffer::new(RING);
    let (old, returned) = RingBuffer::new(RING);
    (Publisher { to_worker, returned, unsent: None }, Inbox { published, old })
}

/// The control plane's end.
pub(crate) struct Publisher {
    to_worker: Producer<Arc<Tables>>,
    returned: Consumer<Arc<Tables>>,
    /// The newest tables, when the worker left no room for them.
    unsent: Option<Arc<Tables>>,
}

impl Publisher {
    /// Leaves `tables` for the worker. Never waits.
    pub(crate) fn publish(&mut self, tables: Arc<Tables>) {
        self.unsent = Some(tables);
        self.attend();
    }

    /// Frees what the worker gave back, and sends what found no room. To be called now and then.
    pub(crate) fn attend(&mut self) {
        while self.returned.pop().is_ok() {}
        if let Some(tables) = self.unsent.take()
            && let Err(PushError::Full(tables)) = self.to_worker.push(tables)
        {
            self.unsent = Some(tables);
        }
    }
}

/// The worker's end.
pub(crate) struct Inbox {
    published: Consumer<Arc<Tables>>,
    old: Producer<Arc<Tables>>,
}

impl Inbox {
    /// Has `adopt` exchange the tables in use for new ones, when there are any and the old ones can be given back.
    #[inline]
    pub(crate) fn exchange(&mut self, mut adopt: impl FnMut(Arc<Tables>) -> Arc<Tables>) {
        while !self.published.is_empty() && !self.old.is_full() {
            let Ok(tables) = self.published.pop() else { return };
            // It was not full, and only this worker adds to it.
            if let Err(PushError::Full(old)) = self.old.push(adopt(tables)) {
                std::mem::forget(old);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(generation: u32) -> Arc<Tables> {
        Arc::new(Tables { generation, ..Tables::default() })
    }

    /// A turn of the worker; the generation then in use.
    fn turn(inbox: &mut Inbox, used: &mut Arc<Tables>) -> u32 {
        inbox.exchange(|new| {
            assert!(new.generation > used.generation, "in their order");
            std::mem::replace(used, new)
        });
        used.generation
    }

    #[test]
    fn a_worker_gets_the_newest_tables_and_the_old_ones_are_freed_by_the_publisher() {
        let (mut publisher, mut inbox) = mailbox();
        let (first, second, third) = (tables(1), tables(2), tables(3));
        let mut used = first.clone();
        publisher.publish(second.clone());
        publisher.publish(third.clone());
        assert_eq!(turn(&mut inbox, &mut used), 3);
        assert_eq!(turn(&mut inbox, &mut used), 3, "nothing new");
        assert_eq!(Arc::strong_count(&first) + Arc::strong_count(&second), 4, "on their way back");
        publisher.attend();
        assert_eq!(Arc::strong_count(&first) + Arc::strong_count(&second), 2);
    }

    #[test]
    fn what_finds_no_room_gives_way_to_newer_tables_and_is_sent_later() {
        let (mut publisher, mut inbox) = mailbox();
        let mut used = tables(0);
        let all: Vec<_> = (1..=RING as u32 + 2).map(tables).collect();
        all.iter().for_each(|tables| publisher.publish(tables.clone()));
        assert_eq!(Arc::strong_count(&all[RING]), 1, "never sent, so freed at once");
        assert_eq!(turn(&mut inbox, &mut used), RING as u32);
        publisher.attend();
        assert_eq!(turn(&mut inbox, &mut used), RING as u32 + 2);
    }

    #[test]
    fn a_worker_waits_with_new_tables_while_nobody_collects_the_old_ones() {
        let (mut publisher, mut inbox) = mailbox();
        let mut used = tables(0);
        for generation in 1..=RING as u32 + 1 {
            publisher.to_worker.push(tables(generation)).unwrap();
            turn(&mut inbox, &mut used);
        }
        assert_eq!(used.generation, RING as u32);
        publisher.attend();
        assert_eq!(turn(&mut inbox, &mut used), RING as u32 + 1);
    }
}
