//! Flows: one entry a connection, its tuples in one index: both, or the client's alone where the real
//! server's answers go another way.
//!
//! A [`FlowTable`] belongs to one worker, which alone reads and writes it. All its memory is taken at start,
//! in one [`Region`], with a versioned layout and no pointers: a header, the index, the entries, the IPv6
//! addresses, a word a connection for what it has more (an edit, zones, the template that counts it), the
//! edits of those whose streams are changed, what tracking knows of each, the sets of labels that they have,
//! packets and bytes of those that are counted, and the timer wheel. 192 bytes an IPv4 connection, 260 an IPv6 one. When the process is dead and
//! its memory is not, [`carry`] reads it.

pub mod carry;
mod course;
pub mod edit;
mod entry;
mod hash;
mod header;
mod index;
mod store;
pub mod template;
mod tuple;
mod wheel;

use std::ops::{Deref, DerefMut};

pub use course::{CourseId, Era};
pub use entry::{Deltas, Entry, FlowId, FlowRef, Method, NewFlow, Rewrite};
pub use hash::{FlowHash, Hasher};
pub use header::LAYOUT_VERSION;
pub use store::{InsertError, Store};
pub use tuple::{Direction, Tuple};
use wheel::{Due, Wheel};

use crate::mem::Region;
use crate::time::{Tick, Timeout};

/// Bytes of the region that a flow table takes.
pub fn memory_needed(max_connections: u32, max_ipv6_connections: u32) -> usize {
    Store::bytes_for(max_connections, max_ipv6_connections) + Wheel::bytes_for(max_connections)
}

/// The connections of one worker and their timers. Look-ups are those of [`Store`].
pub struct FlowTable {
    store: Store,
    wheel: Wheel,
}

impl Deref for FlowTable {
    type Target = Store;
    #[inline]
    fn deref(&self) -> &Store {
        &self.store
    }
}

impl DerefMut for FlowTable {
    #[inline]
    fn deref_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

impl FlowTable {
    /// An empty table in a zeroed region of at least [`memory_needed`] bytes; timers run from `now` on.
    ///
    /// # Panics
    /// When the region is smaller (at start-up).
    pub fn new(mut region: Region, max_connections: u32, max_ipv6: u32, seed: u64, now: Tick) -> FlowTable {
        let store = Store::take(&mut region, max_connections, max_ipv6, seed);
        let mut wheel = Wheel::take(&mut region, max_connections);
        wheel.start_at(now);
        FlowTable { store, wheel }
    }

    /// Enters a connection.
    ///
    /// # Errors
    /// See [`InsertError`]; the table is as it was.
    #[inline(never)]
    pub fn insert(&mut self, new: &NewFlow) -> Result<FlowId, InsertError> {
        let id = self.store.insert(new)?;
        self.wheel.arm(id.0, new.now.after(new.timeout));
        Ok(id)
    }

    /// Gives a connection another timeout, counted from its last packet.
    pub fn set_timeout(&mut self, id: FlowId, timeout: Timeout) {
        let entry = self.store.entry_mut(id);
        let is_sooner = timeout < entry.timeout();
        entry.set_timeout(timeout);
        // Later is found out when the wheel comes by.
        if is_sooner {
            let due = entry.expires();
            self.wheel.disarm(id.0);
            self.wheel.arm(id.0, due);
        }
    }

    /// Takes a connection out at once.
    pub fn remove(&mut self, id: FlowId) {
        self.wheel.disarm(id.0);
        self.store.forget(id);
    }

    /// Walks through all of the table: whether index, lists, timers and counts agree with the entries. For
    /// tests; slow.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), String> {
        self.store.check()?;
        self.wheel.check(|id| self.store.is_in_use(id))
    }

    /// Takes out the connections whose time is over, visiting at most `budget` timers. `over` is called for
    /// each before it goes; one that it gives another timeout stays for so long. Returns how many timers were
    /// visited.
    pub fn expire(
        &mut self,
        now: Tick,
        budget: usize,
        mut over: impl FnMut(&Store, FlowId) -> Option<Timeout>,
    ) -> usize {
        self.wheel.advance(
            now,
            budget,
            &mut self.store,
            |store, id| store.prefetch_entry(id),
            |store, id| {
                if now.is_at_or_after(store.entry(FlowId(id)).expires()) {
                    store.prefetch_buckets(FlowId(id));
                }
            },
            |store, id| {
                let id = FlowId(id);
                let due = store.entry(id).expires();
                if !now.is_at_or_after(due) {
                    return Due::At(due);
                }
                let Some(timeout) = over(store, id) else {
                    store.forget(id);
                    return Due::Gone;
                };
                let entry = store.entry_mut(id);
                entry.touch(now);
                entry.set_timeout(timeout);
                Due::At(entry.expires())
            },
        )
    }
}

#[cfg(test)]
mod tests;
