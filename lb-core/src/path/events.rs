//! Connections that begin, change and end, and those that come to be expected and are so no more, told to whoever reads: workers put them into one bounded
//! queue, the control plane takes them out.
//!
//! While nobody reads, whoever would tell looks at one flag, where a connection begins, changes its state or ends: no other packet does.

use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use super::expected::{self, is_awaited};
use super::list::{FlowView, view};
use super::{Path, helped};
use crate::conntrack::{Expectation, Told};
use crate::counters::Counter;
use crate::flow::template::is_signpost;
use crate::flow::{FlowId, Store};
use crate::packet::Packet;
use crate::time::Tick;

/// Events that wait to be taken.
const CAPACITY: usize = 2048;

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    New,
    /// Its state, or what was seen of it, or what was set from outside.
    Update,
    Destroy,
}

impl EventKind {
    fn of(told: Told) -> EventKind {
        match told {
            told if told.has(Told::DESTROY) || told.has(Told::EXPECT_DESTROY) => EventKind::Destroy,
            told if told.has(Told::NEW) || told.has(Told::RELATED) || told.has(Told::EXPECT_NEW) => {
                EventKind::New
            }
            _ => EventKind::Update,
        }
    }
}

/// One of these, and the connection as it is then, or as it was when it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowEvent {
    pub kind: EventKind,
    pub view: FlowView,
}

/// The queue. What finds it full is counted and lost.
#[derive(Debug)]
pub struct FlowEvents {
    is_read: AtomicBool,
    queue: ArrayQueue<FlowEvent>,
    /// Several workers write it: a lost count is one event.
    pub lost: Counter,
}

impl Default for FlowEvents {
    fn default() -> FlowEvents {
        FlowEvents {
            is_read: AtomicBool::new(false),
            queue: ArrayQueue::new(CAPACITY),
            lost: Counter::default(),
        }
    }
}

impl FlowEvents {
    /// Whether events are told from now on. What nobody took before is forgotten.
    pub fn set_read(&self, is: bool) {
        self.is_read.store(is, Ordering::Relaxed);
        while self.queue.pop().is_some() {}
    }

    pub fn take(&self) -> Option<FlowEvent> {
        self.queue.pop()
    }

    /// Tells of a connection, while somebody reads. Persistence templates are none.
    #[inline]
    pub(super) fn tell(&self, told: Told, flows: &Store, id: FlowId, now: Tick) {
        if self.is_read.load(Ordering::Relaxed) {
            self.put(told, flows, id, now);
        }
    }

    #[cold]
    fn put(&self, told: Told, flows: &Store, id: FlowId, now: Tick) {
        let entry = flows.entry(id);
        let told = match expected::told_by(flows, id) {
            // It ends as what it is.
            Some(_) if told.has(Told::DESTROY) && is_awaited(flows, id) => Told::EXPECT_DESTROY,
            Some(_) => told.only(Told::EXPECT_NEW.and(Told::EXPECT_DESTROY)),
            None => told,
        };
        let told = told.without(flows.tracked(id).untold);
        let kind = EventKind::of(told);
        if told != Told::NONE && !entry.is_template() && !is_signpost(entry.protocol()) {
            self.push(FlowEvent { kind, view: view(flows, id, entry, now) });
        }
    }

    /// Tells of one that is expected, while somebody reads.
    pub(super) fn tell_expected(&self, told: Told, expected: &Expectation, now: Tick) {
        if self.is_read.load(Ordering::Relaxed) && !expected.untold.has(told) {
            self.push(FlowEvent { kind: EventKind::of(told), view: helped::view(expected, now) });
        }
    }

    fn push(&self, event: FlowEvent) {
        if self.queue.push(event).is_err() {
            self.lost.add(1);
        }
    }
}

impl<P: Packet> Path<P> {
    #[inline]
    pub(super) fn tell(&self, told: Told, id: FlowId) {
        self.tables.events.tell(told, &self.flows, id, self.turned);
    }
}
