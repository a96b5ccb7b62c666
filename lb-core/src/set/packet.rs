//! What a rule has a packet do: ask whether a set holds it, put it into a set, take it out.
//!
//! A worker writes itself, into the store that all read, so that the next rule sees what this one did. Where it cannot, because another
//! has the pen, or the store is full or about to be replaced, it leaves a [`Wish`], which the control plane does some milliseconds later
//! (`docs/decisions/0021-packets-write-into-sets.md`).
//!
//! Source of the facts: Linux, `net/netfilter/ipset/ip_set_core.c`, `ip_set_hash_gen.h`, `ip_set_list_set.c`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;

use super::{
    Element, Extensions, Facts, Family, Found, MAX_TIMEOUT, Part, Set, SetId, SetType, Sets, Side, Slot,
};
use crate::time::{Tick, Timeout};

/// Wishes that wait for the control plane.
const CAPACITY: usize = 8192;

/// Networks of so many lengths are fetched ahead, longest first.
const FETCHED_LENS: usize = 4;

/// What a count of an element must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Threshold {
    #[default]
    Any,
    Equal(u64),
    Not(u64),
    Below(u64),
    Above(u64),
}

impl Threshold {
    fn is_met(self, count: u64) -> bool {
        match self {
            Threshold::Any => true,
            Threshold::Equal(value) => count == value,
            Threshold::Not(value) => count != value,
            Threshold::Below(value) => count < value,
            Threshold::Above(value) => count > value,
        }
    }
}

/// How a set is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asking {
    /// The element that matches does not count the packet; that of a list's set does not.
    pub skips_counters: bool,
    pub skips_members: bool,
    /// Elements marked nomatch are what is asked for.
    pub wants_nomatch: bool,
    /// Of the counts with this packet in them, where the set has counters.
    pub packets: Threshold,
    pub bytes: Threshold,
    /// An address that was put in without a MAC does not get the packet's.
    pub keeps_macs: bool,
}

impl Asking {
    /// The same of a packet that nobody sent: it is not counted, and not in the counts either.
    pub fn of(self, is_dry: bool) -> Asking {
        let Asking { skips_counters, skips_members, .. } = self;
        Asking {
            skips_counters: skips_counters || is_dry,
            skips_members: skips_members || is_dry,
            keeps_macs: self.keeps_macs || is_dry,
            ..self
        }
    }
}

/// How a packet is put into a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Adding {
    /// What is there already begins anew.
    pub exist: bool,
    /// Seconds; `None`: the set's own.
    pub timeout: Option<u32>,
}

/// What a worker wants done with an element and could not do.
#[derive(Clone, Debug)]
pub struct Wish {
    pub set: SetId,
    /// Whose the element is.
    pub kind: &'static SetType,
    pub family: Family,
    pub element: Element,
    /// `None`: to be removed.
    pub put: Option<(Adding, Extensions)>,
}

/// What workers leave to the control plane. What finds the queue full is counted and lost.
#[derive(Debug)]
pub struct Wishes {
    queue: ArrayQueue<Wish>,
    /// How many came here, and how many of them were lost.
    pub left: AtomicU64,
    pub lost: AtomicU64,
    is_written: AtomicBool,
}

impl Default for Wishes {
    fn default() -> Wishes {
        Wishes {
            queue: ArrayQueue::new(CAPACITY),
            left: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            is_written: AtomicBool::new(false),
        }
    }
}

impl Wishes {
    fn leave(&self, wish: Wish) {
        self.left.fetch_add(1, Relaxed);
        if self.queue.push(wish).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    pub fn take(&self) -> Option<Wish> {
        self.queue.pop()
    }

    pub fn are_there(&self) -> bool {
        !self.queue.is_empty()
    }

    fn note_written(&self) {
        if !self.is_written.load(Relaxed) {
            self.is_written.store(true, Relaxed);
        }
    }

    /// Whether a worker changed a set since this was asked last.
    pub fn take_written(&self) -> bool {
        self.is_written.swap(false, Relaxed)
    }
}

impl Sets {
    /// Whether a packet is in a set. `sides`: which end each part of the type is taken from, in their order. A set that is not there
    /// holds nothing.
    ///
    /// A list asks its sets in their order; none of them is a list.
    pub fn matches(
        &self,
        id: SetId,
        facts: &Facts<'_>,
        sides: &[Side],
        now: Tick,
        asking: &Asking,
    ) -> Option<Found> {
        let set = self.get(id)?;
        if !set.kind.is_list() {
            return self.ask(set, facts, sides, now, asking);
        }
        // Thresholds are of the list's own counts.
        let inner = Asking {
            skips_counters: asking.skips_counters || asking.skips_members,
            wants_nomatch: asking.wants_nomatch,
            keeps_macs: asking.keeps_macs,
            ..Asking::default()
        };
        self.members(set, now).find_map(|(slot, member)| {
            let found = self.ask(member, facts, sides, now, &inner)?;
            set.counts(slot, facts, asking)
                .then(|| if set.store.shape().has_skbinfo { set.found(slot) } else { found })
        })
    }

    fn ask(&self, set: &Set, facts: &Facts<'_>, sides: &[Side], now: Tick, asking: &Asking) -> Option<Found> {
        let found = set.holds(facts, sides, now, asking)?;
        if set.kind.has(Part::MacValue) && !asking.keeps_macs && set.learn(facts, sides, now) {
            self.wishes.note_written();
        }
        Some(found)
    }

    /// Fetches what [`Sets::matches`] will read of a large set first. A list's sets are not fetched.
    pub fn prefetch(&self, id: SetId, facts: &Facts<'_>, sides: &[Side]) {
        let Some(set) = self.get(id).filter(|set| !set.store.is_near()) else { return };
        if set.kind.is_address() {
            return set.address_key(facts, sides).iter().for_each(|key| set.store.prefetch(key));
        }
        let Some(element) = set.element(facts, sides) else { return };
        if !set.kind.has(Part::Net) {
            return set.store.prefetch(&element.key(set.kind, set.family));
        }
        for len in set.store.lens(0).take(FETCHED_LENS) {
            let address = set.family.network(element.address, len);
            set.store.prefetch(&Element { address, len, ..element }.key(set.kind, set.family));
        }
    }

    /// Puts a packet into a set: of a list into the first of its sets that takes it. Whether it is in there now and was not, or
    /// began anew, or will be when the control plane has time.
    pub fn add(&self, id: SetId, facts: &Facts<'_>, sides: &[Side], now: Tick, adding: Adding) -> bool {
        self.change(id, facts, sides, now, Some(adding))
    }

    /// Takes a packet out of a set: of a list out of the first of its sets that has it.
    pub fn remove(&self, id: SetId, facts: &Facts<'_>, sides: &[Side], now: Tick) -> bool {
        self.change(id, facts, sides, now, None)
    }

    fn change(
        &self,
        id: SetId,
        facts: &Facts<'_>,
        sides: &[Side],
        now: Tick,
        adding: Option<Adding>,
    ) -> bool {
        let Some(set) = self.get(id) else { return false };
        let change = |id, set: &Set| match adding {
            Some(adding) => self.add_one(id, set, facts, sides, now, adding),
            None => self.remove_one(id, set, facts, sides, now),
        };
        if !set.kind.is_list() {
            return change(id, set);
        }
        let mut members = set.members.iter().filter(|&&member| self.member(set, member, now).is_some());
        members.any(|&member| self.get(member).is_some_and(|set| change(member, set)))
    }

    /// The sets of a list that are not over, each with its slot there.
    fn members<'a>(&'a self, list: &'a Set, now: Tick) -> impl Iterator<Item = (Slot, &'a Set)> {
        list.members.iter().filter_map(move |&member| self.member(list, member, now))
    }

    fn member(&self, list: &Set, member: SetId, now: Tick) -> Option<(Slot, &Set)> {
        let key = Element { set: member.0.into(), ..Element::default() }.key(list.kind, list.family);
        let slot = list.store.find(&key).filter(|&slot| !list.store.is_over(slot, now))?;
        let set = self.get(member).filter(|set| !set.kind.is_list())?;
        Some((slot, set))
    }

    fn add_one(
        &self,
        id: SetId,
        set: &Set,
        facts: &Facts<'_>,
        sides: &[Side],
        now: Tick,
        adding: Adding,
    ) -> bool {
        let Some(element) = set.element(facts, sides).and_then(|element| set.widened(element)) else {
            return false;
        };
        let key = element.key(set.kind, set.family);
        let is_there = || set.store.find(&key).is_some_and(|slot| !set.store.is_over(slot, now));
        if !adding.exist && is_there() {
            return false;
        }
        let until = match adding.timeout.or(set.timeout).unwrap_or(0) {
            0 => None,
            seconds => Some(now.after(Timeout(seconds.min(MAX_TIMEOUT) * Tick::PER_SECOND))),
        };
        // In the kernel what a packet adds has counted it.
        let extensions = Extensions { until, packets: 1, bytes: facts.len, ..Extensions::default() };
        if let Some(pen) = set.store.pen() {
            if !adding.exist && is_there() {
                return false;
            }
            let is_known = set.store.find(&key).is_some();
            let has_place =
                is_known || set.store.len() < set.most && set.store.interfaces(&key) < super::MAX_INTERFACES;
            let lens = element.lens(set.kind);
            if has_place && pen.put(&key, element.mac_value(), false, &extensions, lens) {
                self.wishes.note_written();
                return true;
            }
            // Nothing makes room in a set whose elements stay.
            if !has_place && !set.may_make_room() {
                return false;
            }
        }
        self.wishes.leave(set.wish(id, element, Some((adding, extensions))));
        true
    }

    fn remove_one(&self, id: SetId, set: &Set, facts: &Facts<'_>, sides: &[Side], now: Tick) -> bool {
        let Some(element) = set.element(facts, sides).and_then(|element| set.widened(element)) else {
            return false;
        };
        let key = element.key(set.kind, set.family);
        let Some(slot) = set.store.find(&key).filter(|&slot| !set.store.is_over(slot, now)) else {
            return false;
        };
        match set.store.pen() {
            Some(pen) => {
                pen.remove(slot, element.lens(set.kind));
                self.wishes.note_written();
            }
            None => self.wishes.leave(set.wish(id, element, None)),
        }
        true
    }
}

impl Set {
    fn holds(&self, facts: &Facts<'_>, sides: &[Side], now: Tick, asking: &Asking) -> Option<Found> {
        let counts = |slot| self.counts(slot, facts, asking);
        let slot = if self.kind.is_address() {
            let slot = self.store.find(&self.address_key(facts, sides)?)?;
            (!self.store.is_over(slot, now) && counts(slot)).then_some(slot)?
        } else {
            self.search(&self.element(facts, sides)?, now, counts)?
        };
        (slot.is_nomatch == (asking.wants_nomatch && self.kind.has_nets())).then(|| self.found(slot))
    }

    /// Gives an address that was put in without a MAC that of the packet, from when on its time runs. Whether it did: where another has the pen the
    /// next packet does.
    #[inline(never)]
    fn learn(&self, facts: &Facts<'_>, sides: &[Side], now: Tick) -> bool {
        let Some(element) = self.element(facts, sides) else { return false };
        let key = element.key(self.kind, self.family);
        let lacks_mac = || self.store.find(&key).filter(|&slot| self.store.value(slot) == 0);
        if lacks_mac().is_none() {
            return false;
        }
        let (Some(pen), Some(slot)) = (self.store.pen(), lacks_mac()) else { return false };
        let extensions = self.store.extensions(slot).begun(now);
        pen.put(&key, element.mac_value(), slot.is_nomatch, &extensions, element.lens(self.kind))
    }

    /// Counts the packet at an element that it is in, if it shall; whether its counts are as asked.
    fn counts(&self, slot: Slot, facts: &Facts<'_>, asking: &Asking) -> bool {
        if !self.store.shape().has_counters {
            return true;
        }
        if !asking.skips_counters {
            self.store.count(slot, facts.len);
        }
        if (asking.packets, asking.bytes) == (Threshold::Any, Threshold::Any) {
            return true;
        }
        let Extensions { packets, bytes, .. } = self.store.extensions(slot);
        asking.packets.is_met(packets) && asking.bytes.is_met(bytes)
    }

    fn found(&self, slot: Slot) -> Found {
        let shape = self.store.shape();
        if !shape.has_counters && !shape.has_skbinfo {
            return Found::default();
        }
        let Extensions { packets, bytes, skb, .. } = self.store.extensions(slot);
        Found { packets, bytes, skb }
    }

    fn wish(&self, id: SetId, element: Element, put: Option<(Adding, Extensions)>) -> Wish {
        Wish { set: id, kind: self.kind, family: self.family, element, put }
    }

    /// What a packet's element is put in as: its networks are as long as the longest that the set has. `None`: the set takes none such.
    fn widened(&self, mut element: Element) -> Option<Element> {
        let longest = |which: usize| self.store.lens(which).next().unwrap_or(self.family.bits());
        if self.kind.has(Part::Net) {
            element.len = longest(0);
            element.address = self.family.network(element.address, element.len);
        }
        if self.kind.has(Part::SecondNet) {
            element.second_len = longest(1);
            element.second = self.family.network(element.second, element.second_len);
        }
        let place = if self.kind.has(Part::OnlyPort) { element.port.into() } else { element.address };
        let is_in_range = !self.kind.is_bitmap() || (self.range.0..=self.range.1).contains(&place);
        (is_in_range && self.takes(&element)).then_some(element)
    }
}

#[cfg(test)]
mod tests;
