//! Copies of packets that rules want kept (`NFLOG`). Workers put them into one bounded queue, the control plane takes them out and writes them to
//! files. There is a queue from the first such rule on.

use arrayvec::{ArrayString, ArrayVec};
use crossbeam::queue::ArrayQueue;

use crate::counters::Counter;
use crate::flow::Tuple;
use crate::hook::Hook;
use crate::tables::InterfaceId;
use crate::time::Tick;
use crate::wire::parse::Headers;

/// Longest prefix, bytes.
pub const PREFIX: usize = 63;
/// Bytes of a frame that are kept.
pub const KEPT: usize = 2048;
/// Copies that wait to be taken.
const CAPACITY: usize = 512;

/// What a rule says of its copies.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Wanted {
    pub group: u16,
    pub prefix: ArrayString<PREFIX>,
    /// Bytes of the IP packet at most.
    pub size: Option<u32>,
    /// Copies that may wait to be written together; 0: the usual number.
    pub threshold: u16,
}

/// A packet that came by such a rule.
#[derive(Clone, Debug)]
pub struct Captured {
    pub wanted: Wanted,
    pub hook: Hook,
    pub input: Option<InterfaceId>,
    pub output: Option<InterfaceId>,
    pub mark: u32,
    /// Its ends as the rule saw them, and the hops that are yet to be taken off its TTL: see [`as_seen`](crate::path::as_seen).
    pub tuple: Tuple,
    pub hops: u8,
    pub at: Tick,
    /// As it came, from the Ethernet header on.
    pub frame: ArrayVec<u8, KEPT>,
    pub headers: Headers,
}

/// The queue, and what became of copies. What finds it full is counted and lost.
#[derive(Debug)]
pub struct Captures {
    queue: ArrayQueue<Captured>,
    /// Several workers write it: a lost count is one copy.
    pub lost: Counter,
    /// Written to a file, and not since that failed: the control plane counts.
    pub written: Counter,
    pub unwritten: Counter,
}

impl Default for Captures {
    fn default() -> Captures {
        Captures {
            queue: ArrayQueue::new(CAPACITY),
            lost: Counter::default(),
            written: Counter::default(),
            unwritten: Counter::default(),
        }
    }
}

impl Captures {
    pub(crate) fn put(&self, captured: Captured) {
        if self.queue.push(captured).is_err() {
            self.lost.add(1);
        }
    }

    pub fn take(&self) -> Option<Captured> {
        self.queue.pop()
    }
}
