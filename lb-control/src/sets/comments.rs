//! Comments of a set's elements. The store has their numbers, so that an element which a packet removed or put in anew has none.

use hashbrown::HashMap;
use lb_core::set::Store;

/// By number; 0 is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Comments {
    last: u64,
    texts: HashMap<u64, Box<str>>,
}

impl Comments {
    pub(super) fn add(&mut self, text: &str) -> u64 {
        self.last += 1;
        self.texts.insert(self.last, text.into());
        self.last
    }

    pub(super) fn get(&self, number: u64) -> Option<&str> {
        self.texts.get(&number).map(|text| &**text)
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.texts.remove(&number);
    }

    /// Whether more than half of them may be of elements that packets removed.
    pub(super) fn are_stale(&self, store: &Store) -> bool {
        self.texts.len() > 2 * store.len() + 64
    }

    /// Forgets those of no element.
    pub(super) fn purge(&mut self, store: &Store) {
        let mut kept = HashMap::with_capacity(store.len());
        for (_, slot) in store.iter() {
            let number = store.extensions(slot).comment;
            kept.extend(self.texts.remove(&number).map(|text| (number, text)));
        }
        self.texts = kept;
    }

    /// Bytes in the kernel, where each has a head of 16 bytes and an end of one.
    pub(super) fn kernel_memory(&self) -> usize {
        self.texts.values().map(|text| text.len() + 17).sum()
    }
}
