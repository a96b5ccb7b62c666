//! What rules want told: log lines. Workers put it into one bounded queue, the control plane takes it out and writes it.

use std::net::IpAddr;

use crossbeam::queue::ArrayQueue;

use crate::counters::Counter;
use crate::tables::InterfaceId;

/// Events that wait to be taken.
const CAPACITY: usize = 1024;
/// Bytes of a packet that are kept: the headers, and what an ICMP error quotes of another's.
pub const KEPT: usize = 192;

/// A packet came by a rule that says LOG or NFLOG.
#[derive(Clone, Debug)]
pub struct Event {
    /// The rule's counter ([`RuleSource::counter`](super::RuleSource)): it has prefix, level and options.
    pub rule: u32,
    pub input: Option<InterfaceId>,
    pub output: Option<InterfaceId>,
    pub mark: u32,
    /// Ends of the packet as the rule saw it: translated, maybe.
    pub ends: (IpAddr, IpAddr),
    /// From the Ethernet header on.
    pub frame: [u8; KEPT],
    /// Of `frame` that is used.
    pub kept: u8,
    pub frame_len: u32,
    /// Offset of the IP header.
    pub l3: u8,
}

/// The queue. What finds it full is counted and lost.
#[derive(Debug)]
pub struct Events {
    queue: ArrayQueue<Event>,
    /// Several workers write it: a lost count is one event.
    pub lost: Counter,
}

impl Default for Events {
    fn default() -> Events {
        Events { queue: ArrayQueue::new(CAPACITY), lost: Counter::default() }
    }
}

impl Events {
    pub fn put(&self, event: Event) {
        if self.queue.push(event).is_err() {
            self.lost.add(1);
        }
    }

    pub fn take(&self) -> Option<Event> {
        self.queue.pop()
    }
}
