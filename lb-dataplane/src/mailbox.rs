//! How new tables get to a worker, and how the old ones get back to be freed: a worker never frees a snapshot.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use lb_core::tables::Tables;

/// Snapshots on their way back. When so many wait, the worker adopts no new ones before they are collected.
const RETURNS: usize = 4;

/// One worker's mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// The newest tables that the worker has not seen.
    newest: ArrayQueue<Arc<Tables>>,
    returns: ArrayQueue<Arc<Tables>>,
}

impl Default for Mailbox {
    fn default() -> Mailbox {
        Mailbox { newest: ArrayQueue::new(1), returns: ArrayQueue::new(RETURNS) }
    }
}

impl Mailbox {
    /// Leaves `tables` for the worker in place of any that it has not seen, and frees those and what it gave back.
    /// The control plane calls it, and never waits.
    pub(crate) fn publish(&self, tables: Arc<Tables>) {
        drop(self.newest.force_push(tables));
        self.free_returned();
    }

    /// Frees what the worker gave back. The control plane calls it.
    pub(crate) fn free_returned(&self) {
        while self.returns.pop().is_some() {}
    }

    /// The worker's part: has `adopt` exchange the tables in use for new ones, when there are any.
    #[inline]
    pub(crate) fn exchange(&self, adopt: impl FnOnce(Arc<Tables>) -> Arc<Tables>) {
        if self.newest.is_empty() || self.returns.is_full() {
            return;
        }
        let Some(tables) = self.newest.pop() else { return };
        // Only this worker adds to `returns`, and it was not full.
        if let Err(old) = self.returns.push(adopt(tables)) {
            std::mem::forget(old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(generation: u32) -> Arc<Tables> {
        Arc::new(Tables { generation, ..Tables::default() })
    }

    /// Adopts once; the generation then in use.
    fn adopt(mailbox: &Mailbox, used: &mut Arc<Tables>) -> u32 {
        mailbox.exchange(|new| std::mem::replace(used, new));
        used.generation
    }

    #[test]
    fn a_worker_gets_the_newest_tables_and_the_old_ones_are_freed_by_the_publisher() {
        let mailbox = Mailbox::default();
        let (first, second, third) = (tables(1), tables(2), tables(3));
        let mut used = first.clone();
        mailbox.publish(second.clone());
        mailbox.publish(third.clone());
        assert_eq!(Arc::strong_count(&second), 1, "never seen, so freed at once");
        assert_eq!(adopt(&mailbox, &mut used), 3);
        assert_eq!(adopt(&mailbox, &mut used), 3, "nothing new");
        assert_eq!(Arc::strong_count(&first), 2, "on its way back");
        mailbox.free_returned();
        assert_eq!(Arc::strong_count(&first), 1);
    }

    #[test]
    fn a_worker_waits_with_new_tables_while_nobody_collects_the_old_ones() {
        let mailbox = Mailbox::default();
        let mut used = tables(0);
        for generation in 1..=RETURNS as u32 + 1 {
            drop(mailbox.newest.force_push(tables(generation)));
            adopt(&mailbox, &mut used);
        }
        assert_eq!(used.generation, RETURNS as u32);
        mailbox.free_returned();
        assert_eq!(adopt(&mailbox, &mut used), RETURNS as u32 + 1);
    }
}
