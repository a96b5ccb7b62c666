//! Labels of connections: 16 bytes, and a connection has room for two. Those of a worker have few sets of labels between them, so each set stands once in
//! a table, with how many connections have it, and a connection says which.
//!
//! The table is a hash table of a fixed size. A set that no connection has any more leaves its place to another one, nothing ever moves, and a look-up reads
//! [`REACH`] places at most. Source of the choice: `docs/decisions/0050-sets-of-labels-stand-once.md`.

use std::sync::atomic::{Ordering, compiler_fence};

use super::Store;
use crate::conntrack::{Labels, Status};
use crate::flow::entry::FlowId;
use crate::flow::hash::Hasher;
use crate::mem::{Region, Slab};

/// So many places from where a set belongs it may stand.
const REACH: usize = 64;

/// Sets of labels that the connections of a worker may have between them.
pub(in crate::flow) fn max_sets(max_connections: u32) -> u32 {
    const CONNECTIONS_A_SET: u32 = 128;
    (max_connections / CONNECTIONS_A_SET).clamp(REACH as u32, 1 << 16)
}

pub(super) struct LabelSets {
    sets: Slab<Labels>,
    /// By place: connections that have the set.
    users: Slab<u32>,
    hasher: Hasher,
}

impl LabelSets {
    pub(super) fn take(region: &mut Region, max_connections: u32, hasher: Hasher) -> LabelSets {
        let places = max_sets(max_connections) as usize;
        LabelSets { sets: region.take(places), users: region.take(places), hasher }
    }

    /// Where a set stands, or could; `None`: there is no room.
    fn place(&self, labels: Labels) -> Option<usize> {
        let [low, high] = labels.halves();
        let from = self.hasher.checksum(low, high) as usize % self.sets.len();
        let mut free = None;
        for place in (from..self.sets.len()).chain(0..from).take(REACH) {
            match self.users[place] {
                0 => free = free.or(Some(place)),
                _ if self.sets[place] == labels => return Some(place),
                _ => {}
            }
            // Nothing has ever been entered beyond.
            if self.sets[place] == Labels::NONE {
                break;
            }
        }
        free
    }

    /// One more connection has it.
    fn enter(&mut self, labels: Labels) -> Option<u16> {
        let place = self.place(labels)?;
        self.sets[place] = labels;
        self.users[place] += 1;
        Some(place as u16)
    }
}

impl Store {
    /// The labels that a connection has.
    #[inline]
    pub fn labels(&self, id: FlowId) -> Labels {
        match self.tracked(id).label_set() {
            Some(place) => self.labels.sets.get(usize::from(place)).copied().unwrap_or_default(),
            None => Labels::NONE,
        }
    }

    /// Whether a connection could have these.
    pub fn can_have(&self, labels: Labels) -> bool {
        labels == Labels::NONE || self.labels.place(labels).is_some()
    }

    /// These and no others are a connection's labels from now on. False: there is no room for such a set, and it has those that it had.
    #[must_use]
    pub fn set_labels(&mut self, id: FlowId, labels: Labels) -> bool {
        if self.labels(id) == labels {
            return true;
        }
        let place = if labels == Labels::NONE { None } else { self.labels.enter(labels) };
        if place.is_none() && labels != Labels::NONE {
            return false;
        }
        // A process that is killed here leaves a connection one set or the other.
        compiler_fence(Ordering::SeqCst);
        let before = self.tracked(id).label_set();
        self.tracked_mut(id).set_label_set(place);
        self.leave_labels(before);
        true
    }

    /// Sets of labels that connections have between them, and how many there may be.
    pub fn label_sets(&self) -> (u32, u32) {
        let used = self.labels.users.iter().filter(|&&users| users != 0).count();
        (used as u32, self.labels.users.len() as u32)
    }

    fn leave_labels(&mut self, place: Option<u16>) {
        if let Some(users) = place.and_then(|place| self.labels.users.get_mut(usize::from(place))) {
            *users -= 1;
        }
    }

    /// A connection that has labels goes.
    pub(super) fn end_labels(&mut self, id: FlowId) {
        let place = self.tracked(id).label_set();
        self.tracked_mut(id).set_label_set(None);
        self.leave_labels(place);
    }

    pub(super) fn check_labels(&self) -> Result<(), String> {
        let mut users = vec![0; self.labels.users.len()];
        let has_some = |id| self.tracked(id).status.has(Status::LABELLED);
        for (id, _) in self.iter(0, u32::MAX).filter(|&(id, _)| has_some(id)) {
            let labels = self.labels(id);
            let place = self.tracked(id).label_set().map_or(usize::MAX, usize::from);
            let is_there = labels != Labels::NONE && self.labels.place(labels) == Some(place);
            match users.get_mut(place).filter(|_| is_there) {
                Some(count) => *count += 1,
                None => return Err(format!("the labels of {} are not found where they stand", id.0)),
            }
        }
        match self.labels.users[..] == users[..] {
            true => Ok(()),
            false => Err("sets of labels do not have as many connections as they say".to_owned()),
        }
    }
}
