//! Connections whose packets need not be walked past the rules one by one: what all of one direction meet is the same.
//!
//! When a walk let a packet pass, and all that was asked on it hangs on the flow alone ([`Depends`](crate::rule)), its connection keeps the walk's *course*, the
//! rules that it met, where else it keeps the next hop of that direction; the course knows the hop. Its next packets are counted by course
//! ([`Courses`](crate::counters::Courses)) and go straight on. The walk is done again
//! - when the tables change: the entry forgets what it cached (`renew`);
//! - for a packet that is not as the one walked: a fragment, from another port or VLAN, or to be something else to its connection. For a connection of a virtual
//!   service that is known by the first answer, at which the other direction's course is forgotten;
//! - when there is no room for another course. Then all are closed, once a minute at most.
//!
//! Tracking looks at packets on a course too, until its connection has *settled*: of a UDP stream nothing changes any more but when it ends, so that its
//! packets go the straight line of virtual services' connections, and what tracking keeps beside the entry is not read.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use super::Path;
use crate::conntrack::helper::HelperId;
use crate::conntrack::{self, CtState};
use crate::counters::{MOST_COURSES, WorkerCounters};
use crate::flow::{CourseId, Era, FlowRef};
use crate::ids::PortId;
use crate::packet::Packet;
use crate::tables::HopId;
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};

/// Courses live so long at least, seconds. Their ids come again after 2¹⁵ times this: three weeks, when no connection has one any more that it
/// has not asked for.
const REST: u32 = 60;

/// What packets on a course have in common besides the rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Common {
    port: PortId,
    vlan: u16,
    pub(super) state: CtState,
    /// Their connections' packets are counted.
    is_counted: bool,
    pub(super) hop: Option<HopId>,
}

/// The courses of a worker, whose counts are in its counters.
pub(super) struct Courses {
    open: Vec<Common>,
    known: HashTable<u16>,
    hasher: DefaultHashBuilder,
    /// Which courses these are: ids of those before are of nobody.
    era: Era,
    begun: Tick,
    /// Keeps none.
    #[cfg(test)]
    pub(super) are_off: bool,
}

impl Courses {
    pub(super) fn new(now: Tick) -> Courses {
        Courses {
            open: Vec::with_capacity(MOST_COURSES),
            known: HashTable::with_capacity(MOST_COURSES),
            hasher: DefaultHashBuilder::default(),
            era: Era::FIRST,
            begun: now,
            #[cfg(test)]
            are_off: false,
        }
    }

    #[cfg(test)]
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    #[inline]
    fn get(&self, id: CourseId) -> Option<&Common> {
        self.open.get(usize::from(id.number())).filter(|_| id.era() == self.era)
    }

    /// The one past these rules; `None`: it is new, and there is no room.
    fn find(&mut self, rules: &[u32], common: Common, counters: &WorkerCounters) -> Option<CourseId> {
        let hash = self.hasher.hash_one((rules, common));
        let is_it = |&number: &u16| {
            self.open[usize::from(number)] == common
                && counters.courses.rules(number).eq(rules.iter().copied())
        };
        if let Some(&number) = self.known.find(hash, is_it) {
            return Some(CourseId::new(self.era, number));
        }
        let number = counters.courses.add(rules)?;
        self.open.push(common);
        let (open, hasher) = (&self.open, &self.hasher);
        let hash_again = |&number: &u16| {
            let rules: Vec<u32> = counters.courses.rules(number).collect();
            hasher.hash_one((&rules[..], open[usize::from(number)]))
        };
        // There is room for all: none is hashed again.
        self.known.insert_unique(hash, number, hash_again);
        Some(CourseId::new(self.era, number))
    }

    /// Ends all of them, when rules change or there is room for no more.
    pub(super) fn close(&mut self, counters: &WorkerCounters) {
        counters.close_courses();
        self.open.clear();
        self.known.clear();
        self.era = self.era.next();
    }
}

impl<P: Packet> Path<P> {
    /// The course that a packet follows, and what it knows.
    #[inline(always)]
    pub(super) fn course(&self, at: FlowRef, port: PortId, headers: &Headers) -> Option<(CourseId, Common)> {
        let course = self.flows.entry(at.id()).course_or_none(at.direction());
        // What is watched is shown rule by rule.
        if self.watch.is_on() {
            return None;
        }
        let common = *self.courses.get(course)?;
        let is_it =
            (common.port == port) & (common.vlan == headers.vlan) & (headers.fragment == Fragment::None);
        is_it.then_some((course, common))
    }

    /// Counts a packet of a virtual service's connection that follows a course. False: it does not.
    #[inline]
    pub(super) fn follow_course(&mut self, at: FlowRef, port: PortId, headers: &Headers) -> bool {
        let course = self.course(at, port, headers);
        if let Some((course, common)) = course {
            self.count_on_course(at, course, &common, headers);
        }
        course.is_some()
    }

    /// Counts a packet for the rules of its course, and for its connection.
    #[inline(always)]
    pub(super) fn count_on_course(
        &mut self,
        at: FlowRef,
        course: CourseId,
        common: &Common,
        headers: &Headers,
    ) {
        self.mine.courses.count(course.number(), headers.ip_len.into());
        if common.is_counted {
            self.count_of_connection(at, headers);
        }
    }

    /// A packet followed its course: if all that follow it are to their connection what it is, tracking need not look at these any more.
    #[inline(never)]
    pub(super) fn settle(&mut self, at: FlowRef) {
        let entry = self.flows.entry(at.id());
        let (tracked, timeout) = (self.flows.tracked(at.id()), entry.timeout());
        let settings = &self.tables.settings.sysctls.conntrack;
        if !self.tables.settings.forwarding
            || !conntrack::has_settled(entry.protocol(), tracked, timeout, settings)
        {
            return;
        }
        let other = at.direction().opposite();
        let course = self.courses.get(self.flows.entry(at.id()).course_or_none(other));
        let is_as_before = course.is_some_and(|common| common.state == CtState::Established);
        let entry = self.flows.entry_mut(at.id());
        if !is_as_before {
            entry.forget_course(other);
        }
        entry.set_settled();
    }

    /// The next hop that the connection keeps, or its course.
    #[inline]
    pub(super) fn kept_hop(&self, at: FlowRef) -> Option<HopId> {
        let entry = self.flows.entry(at.id());
        let of_course = || self.courses.get(entry.course_or_none(at.direction()))?.hop;
        entry.hop(at.direction()).or_else(of_course)
    }

    /// Rules let a packet pass: those that follow it take the same course, if one can be kept.
    pub(super) fn keep_course(
        &mut self,
        at: FlowRef,
        port: PortId,
        headers: &Headers,
        state: CtState,
        now: Tick,
    ) {
        #[cfg(test)]
        if self.courses.are_off {
            return;
        }
        let has_helper = self.flows.tracked(at.id()).helper() != HelperId::NONE;
        if self.is_dry || has_helper || headers.fragment != Fragment::None || self.met.of_flow().is_none() {
            return;
        }
        let hop = self.hop(at);
        let is_counted = self.counts_connections;
        let common = Common { port, vlan: headers.vlan, state, is_counted, hop };
        let Some(rules) = self.met.of_flow() else { return };
        let mut found = self.courses.find(rules, common, &self.mine);
        if found.is_none() {
            self.mine.courses.full.add(1);
            if now.since(self.courses.begun) >= REST * Tick::PER_SECOND {
                self.courses.close(&self.mine);
                self.courses.begun = now;
                found = self.courses.find(rules, common, &self.mine);
            }
        }
        if let Some(course) = found {
            self.flows.entry_mut(at.id()).set_course(at.direction(), course);
        }
    }
}
