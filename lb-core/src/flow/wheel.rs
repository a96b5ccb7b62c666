//! The timer wheel: which flows are due, without touching a timer for a packet.
//!
//! A packet only writes its time into the flow's entry. The wheel comes by a flow when it was due at the time it was
//! armed, asks when it really is due, and arms it again when that is later: a flow is visited about once a timeout,
//! however many packets it has. Two rings of slots: the inner one of 8,192 slots of 0.16 s (21 minutes), the outer one
//! of 2,048 slots of one inner turn (31 days). Slots are doubly linked lists through an array beside the entries.
//!
//! Source of the idea: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987.

use arrayvec::ArrayVec;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::mem::{Region, Slab};
use crate::time::Tick;

/// Ticks a slot of the inner ring.
const SLOT_TICKS_LOG2: u32 = 4;
const INNER_LOG2: u32 = 13;
const INNER: u32 = 1 << INNER_LOG2;
const OUTER: u32 = 1 << 11;
const SLOTS: usize = (INNER + OUTER) as usize;

/// Times (in slots) are counted modulo this, so that they wrap where ticks do.
const SLOT_MASK: u32 = u32::MAX >> SLOT_TICKS_LOG2;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Link {
    next: u32,
    prev: u32,
}

/// What the wheel's owner says of a flow that the wheel comes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// Not before this moment.
    At(Tick),
    /// It is gone now; its id is not in the wheel any more.
    Gone,
}

/// `links[0..SLOTS]` are the slots' list heads, the rest are ids' links.
pub(super) struct Wheel {
    links: Slab<Link>,
    /// Slot that is worked on: all before it are done.
    position: u32,
}

impl Wheel {
    pub(super) fn bytes_for(ids: u32) -> usize {
        Region::bytes_for::<Link>(SLOTS + ids as usize)
    }

    /// A wheel for the ids 0..ids that starts at tick 0.
    pub(super) fn take(region: &mut Region, ids: u32) -> Wheel {
        let mut links: Slab<Link> = region.take(SLOTS + ids as usize);
        for (slot, link) in links.iter_mut().take(SLOTS).enumerate() {
            *link = Link { next: slot as u32, prev: slot as u32 };
        }
        Wheel { links, position: 0 }
    }

    /// The place to begin at, when time does not begin at 0. Only for an empty wheel.
    pub(super) fn start_at(&mut self, now: Tick) {
        self.position = now.0 >> SLOT_TICKS_LOG2;
    }

    /// Arms an id that is not armed.
    pub(super) fn arm(&mut self, id: u32, due: Tick) {
        // The first slot that begins at `due` or later: an id is never visited early.
        let slot = due.0.wrapping_add((1 << SLOT_TICKS_LOG2) - 1) >> SLOT_TICKS_LOG2;
        let ahead = slot.wrapping_sub(self.position) & SLOT_MASK;
        let ahead = if ahead > SLOT_MASK / 2 { 0 } else { ahead };
        let slot = self.position + ahead;
        let head =
            if ahead < INNER { slot & (INNER - 1) } else { INNER + ((slot >> INNER_LOG2) & (OUTER - 1)) };
        self.link(head, id);
    }

    pub(super) fn disarm(&mut self, id: u32) {
        self.unlink(SLOTS as u32 + id);
    }

    /// Visits ids that were due by `now` as armed, at most `budget` of them. Ids come in batches: `prefetch` is called
    /// for each of a batch, then `prepare` for each, then `visit`, so that memory is on its way a step ahead. Returns
    /// how many were visited.
    pub(super) fn advance<T>(
        &mut self,
        now: Tick,
        budget: usize,
        owner: &mut T,
        prefetch: impl Fn(&T, u32),
        prepare: impl Fn(&T, u32),
        mut visit: impl FnMut(&mut T, u32) -> Due,
    ) -> usize {
        // As many as memory is fetched of in the time that the first of it takes to come.
        const BATCH: usize = 32;
        let target = now.0 >> SLOT_TICKS_LOG2;
        let mut visited = 0;
        loop {
            // Past `target`, or time stood still.
            if (target.wrapping_sub(self.position) & SLOT_MASK) > SLOT_MASK / 2 {
                return visited;
            }
            let inner = self.position & (INNER - 1);
            let outer = INNER + ((self.position >> INNER_LOG2) & (OUTER - 1));
            let head = if inner == 0 && self.links[outer as usize].next != outer { outer } else { inner };
            let mut batch = ArrayVec::<u32, BATCH>::new();
            let mut node = self.links[head as usize].next;
            while node != head && visited + batch.len() < budget && batch.try_push(node).is_ok() {
                prefetch(owner, node - SLOTS as u32);
                node = self.links[node as usize].next;
            }
            for &node in &batch {
                prepare(owner, node - SLOTS as u32);
            }
            for &node in &batch {
                self.unlink(node);
                let id = node - SLOTS as u32;
                if let Due::At(due) = visit(owner, id) {
                    self.arm_after(id, due, head);
                }
            }
            visited += batch.len();
            if self.links[head as usize].next == head {
                if head == inner {
                    if self.position == target {
                        return visited;
                    }
                    self.position = (self.position + 1) & SLOT_MASK;
                }
            } else if visited >= budget {
                return visited;
            }
        }
    }

    /// Arms an id from within its own visit: never into the slot that is being emptied, so that the visit ends.
    fn arm_after(&mut self, id: u32, due: Tick, emptied: u32) {
        let here = self.position << SLOT_TICKS_LOG2;
        let is_behind = emptied < INNER && due.0.wrapping_sub(here).wrapping_sub(1) > u32::MAX / 2;
        self.arm(id, if is_behind { Tick(here.wrapping_add(1)) } else { due });
    }

    fn link(&mut self, head: u32, id: u32) {
        let node = SLOTS as u32 + id;
        let last = self.links[head as usize].prev;
        self.links[node as usize] = Link { next: head, prev: last };
        self.links[last as usize].next = node;
        self.links[head as usize].prev = node;
    }

    fn unlink(&mut self, node: u32) {
        let Link { next, prev } = self.links[node as usize];
        self.links[prev as usize].next = next;
        self.links[next as usize].prev = prev;
        self.links[node as usize] = Link { next: node, prev: node };
    }

    /// Whether the ids that `is_armed` are in the wheel, each once, and no other.
    pub(super) fn check(&self, is_armed: impl Fn(u32) -> bool) -> Result<(), String> {
        let mut armed = vec![false; self.links.len() - SLOTS];
        for head in 0..SLOTS {
            let mut node = head;
            loop {
                let next = self.links[node].next as usize;
                if self.links[next].prev as usize != node {
                    return Err(format!("slot {head}: the links of {node} and {next} disagree"));
                }
                node = next;
                if node == head {
                    break;
                }
                if node < SLOTS || std::mem::replace(&mut armed[node - SLOTS], true) {
                    return Err(format!("slot {head}: {node} is not armed here alone"));
                }
            }
        }
        match (0..).zip(&armed).find(|&(id, &is)| is != is_armed(id)) {
            Some((id, is)) => Err(format!("armed={is}: entry {id}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::time::Timeout;

    fn wheel(ids: u32) -> Wheel {
        Wheel::take(&mut Region::heap(Wheel::bytes_for(ids)), ids)
    }

    /// The ids that are due, when each really is as `when` says.
    fn due_ids(wheel: &mut Wheel, now: Tick, when: impl Fn(u32) -> Tick) -> Vec<u32> {
        let mut due = Vec::new();
        let visit = |due: &mut Vec<u32>, id| {
            if !now.is_at_or_after(when(id)) {
                return Due::At(when(id));
            }
            due.push(id);
            Due::Gone
        };
        while wheel.advance(now, 7, &mut due, |_, _| {}, |_, _| {}, visit) > 0 {}
        due
    }

    #[test]
    fn a_flow_is_due_after_its_timeout_and_at_most_a_slot_later() {
        for secs in [1, 10, 60, 900, 1310, 1311, 3600, 86_400, Timeout::MAX_SECS] {
            let mut wheel = wheel(1);
            let due = Tick(0).after(Timeout::from_secs(secs));
            wheel.arm(0, due);
            assert_eq!(due_ids(&mut wheel, Tick(due.0 - 1), |_| due), [0u32; 0], "{secs} s: early");
            assert_eq!(
                due_ids(&mut wheel, Tick(due.0 + (1 << SLOT_TICKS_LOG2)), |_| due),
                [0],
                "{secs} s: late"
            );
        }
    }

    #[test]
    fn a_flow_that_asks_for_later_is_visited_once_more_and_not_in_the_same_turn() {
        let mut wheel = wheel(1);
        wheel.arm(0, Tick(100));
        let mut visits = Vec::new();
        for now in (0..400).map(Tick) {
            wheel.advance(
                now,
                100,
                &mut visits,
                |_, _| {},
                |_, _| {},
                |visits, _| {
                    visits.push(now.0);
                    if visits.len() == 1 { Due::At(Tick(300)) } else { Due::Gone }
                },
            );
        }
        assert_eq!(visits, [112, 304]);
    }

    #[test]
    fn a_budget_spreads_a_crowded_slot_over_several_turns() {
        let mut wheel = wheel(100);
        for id in 0..100 {
            wheel.arm(id, Tick(50));
        }
        let turn = |wheel: &mut Wheel| {
            wheel.advance(Tick(1000), 30, &mut (), |_, _| {}, |_, _| {}, |_, _| Due::Gone)
        };
        assert_eq!(
            [turn(&mut wheel), turn(&mut wheel), turn(&mut wheel), turn(&mut wheel)],
            [30, 30, 30, 10]
        );
    }

    proptest! {
        #[test]
        fn the_wheel_agrees_with_a_sorted_map(
            start in prop_oneof![Just(0u32), Just(u32::MAX - 200_000), any::<u32>()],
            steps in prop::collection::vec((0u32..8, prop_oneof![0u32..200, 0u32..200_000, 0u32..2_000_000], any::<bool>()), 1..60),
        ) {
            let mut wheel = wheel(8);
            let mut now = Tick(start);
            wheel.start_at(now);
            let mut model: BTreeMap<u32, Tick> = BTreeMap::new();
            for (id, span, is_advance) in steps {
                if is_advance {
                    let to = Tick(now.0.wrapping_add(span));
                    now = to;
                    for id in due_ids(&mut wheel, now, |id| model[&id]) {
                        let was = model.remove(&id);
                        prop_assert!(was.is_some_and(|was| now.is_at_or_after(was)), "{id} visited early");
                    }
                    for (id, &was) in &model {
                        let latest = Tick(was.0.wrapping_add(1 << SLOT_TICKS_LOG2));
                        prop_assert!(!now.is_at_or_after(latest), "{id} not visited");
                    }
                } else if model.remove(&id).is_some() {
                    wheel.disarm(id);
                } else {
                    let due = Tick(now.0.wrapping_add(span));
                    wheel.arm(id, due);
                    model.insert(id, due);
                }
            }
        }
    }
}
