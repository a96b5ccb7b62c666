//! What rules want told: log lines. Workers put it into one bounded queue, the control plane takes it out and writes it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arrayvec::ArrayString;
use crossbeam::queue::ArrayQueue;

use super::fingerprint::LONGEST_SYSTEM;
use crate::counters::Counter;
use crate::flow::Tuple;
use crate::tables::InterfaceId;
use crate::time::Tick;
use crate::wire::parse::Headers;

/// Longest prefix, bytes.
pub const PREFIX: usize = 29;
/// Events that wait to be taken.
const CAPACITY: usize = 1024;
/// Packets that TRACE tells of in a second: each says a line a rule.
const TRACED: u32 = 50;
/// Lines that `osf` says in a second: SYNs come in floods.
const NAMED: u32 = 100;
/// Bytes of a packet that are kept: the headers, and what an ICMP error quotes of another's.
pub const KEPT: usize = 192;

/// What is said of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// What LOG says of it. TCP sequence numbers 1, TCP options 2, IP options 4, MAC addresses 32.
    Headers { options: u8 },
    /// What AUDIT says of it.
    Audit,
    /// It met a rule, or the end of a chain, which counts under this number: what TRACE says.
    Met(u32),
    /// A system that sends such a SYN, and how many hops away it is: what `osf` says.
    System { name: ArrayString<LONGEST_SYSTEM>, hops: i16 },
    /// No system that is known sends such a SYN.
    NoSystem,
}

/// A packet came by a rule that says LOG or AUDIT, or asks `osf` with `--log`, or behind one that says TRACE by any.
#[derive(Clone, Debug)]
pub struct Event {
    pub said: Said,
    /// What the rule wants written before it.
    pub prefix: ArrayString<PREFIX>,
    /// 0 (emergency) to 7 (debug).
    pub level: u8,
    pub input: Option<InterfaceId>,
    pub output: Option<InterfaceId>,
    pub mark: u32,
    /// Ends of the packet as the rule saw it: translated, maybe.
    pub tuple: Tuple,
    /// From the Ethernet header on.
    pub frame: [u8; KEPT],
    /// Of `frame` that is used.
    pub kept: u8,
    pub headers: Headers,
}

/// A prefix, cut to what there is room for.
pub fn prefix<const ROOM: usize>(text: &str) -> ArrayString<ROOM> {
    let mut prefix = ArrayString::new();
    for c in text.chars() {
        if prefix.try_push(c).is_err() {
            break;
        }
    }
    prefix
}

/// This second, and how many there were in it. Two workers that write at once lose one: then there is one more.
#[derive(Debug, Default)]
struct PerSecond(AtomicU64);

impl PerSecond {
    /// Whether this one is among the first `most` of its second.
    fn takes_one(&self, now: Tick, most: u32) -> bool {
        let second = u64::from(now.0 / Tick::PER_SECOND);
        let last = self.0.load(Relaxed);
        let count = if last >> 32 == second { last as u32 } else { 0 };
        let may = count < most;
        if may {
            self.0.store(second << 32 | u64::from(count + 1), Relaxed);
        }
        may
    }
}

/// The queue. What finds it full is counted and lost.
#[derive(Debug)]
pub struct Events {
    queue: ArrayQueue<Event>,
    /// Several workers write it: a lost count is one event.
    pub lost: Counter,
    traced: PerSecond,
    named: PerSecond,
    /// Packets that TRACE was said of, one too many in their second.
    pub untraced: Counter,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            queue: ArrayQueue::new(CAPACITY),
            lost: Counter::default(),
            traced: PerSecond::default(),
            named: PerSecond::default(),
            untraced: Counter::default(),
        }
    }
}

impl Events {
    pub fn put(&self, event: Event) {
        if self.queue.push(event).is_err() {
            self.lost.add(1);
        }
    }

    /// Whether one more packet is traced in this second.
    pub(super) fn may_trace(&self, now: Tick) -> bool {
        let may = self.traced.takes_one(now, TRACED);
        if !may {
            self.untraced.add(1);
        }
        may
    }

    /// Whether `osf` says one more line in this second; one that it does not is lost.
    pub(super) fn may_name(&self, now: Tick) -> bool {
        let may = self.named.takes_one(now, NAMED);
        if !may {
            self.lost.add(1);
        }
        may
    }

    pub fn take(&self) -> Option<Event> {
        self.queue.pop()
    }
}
