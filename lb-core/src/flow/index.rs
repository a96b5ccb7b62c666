//! The index: from a tuple's hash to the entries that may have it, a cache line a look.
//!
//! A bucket is one cache line: eight 16-bit tags, which are compared at once, and eight references. A tuple stands in
//! one of two buckets; the first one says how many of its tuples had to go to their second, so that a tuple that is
//! not there costs one line. When both are full, one tuple of the first is moved to its own other bucket.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::FlowHash;
use super::entry::FlowRef;
use crate::mem::{Region, Slab, equal_u16x8};

const WAYS: usize = 8;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(64))]
struct Bucket {
    /// 0: free.
    tags: [u16; WAYS],
    refs: [u32; WAYS],
    /// Tuples whose first bucket this is and which stand in their second.
    moved_on: u32,
    _room: [u32; 3],
}

impl Bucket {
    /// Bit i: slot i has this tag.
    #[inline]
    fn matching(&self, tag: u16) -> u8 {
        equal_u16x8(&self.tags, tag)
    }

    fn put(&mut self, tag: u16, to: FlowRef) -> bool {
        let free = self.matching(0);
        if free == 0 {
            return false;
        }
        let way = free.trailing_zeros() as usize;
        self.tags[way] = tag;
        self.refs[way] = to.0;
        true
    }

    fn take(&mut self, tag: u16, to: FlowRef) -> bool {
        let mut mask = self.matching(tag);
        while mask != 0 {
            let way = mask.trailing_zeros() as usize;
            if self.refs[way] == to.0 {
                self.tags[way] = 0;
                return true;
            }
            mask &= mask - 1;
        }
        false
    }
}

pub(super) struct Index {
    buckets: Slab<Bucket>,
    count: u32,
}

impl Index {
    /// Buckets for two tuples a connection, filled to 60 % when the table is full: 27 bytes a connection.
    fn buckets_for(connections: u32) -> usize {
        (connections as usize * 2 * 5).div_ceil(3 * WAYS).max(2)
    }

    pub(super) fn bytes_for(connections: u32) -> usize {
        Region::bytes_for::<Bucket>(Self::buckets_for(connections))
    }

    pub(super) fn take(region: &mut Region, connections: u32) -> Index {
        let count = Self::buckets_for(connections);
        Index { buckets: region.take(count), count: count as u32 }
    }

    #[inline]
    pub(super) fn prefetch(&self, hash: FlowHash) {
        self.buckets.prefetch(hash.first_bucket(self.count));
    }

    /// The first reference with the hash's tag: nearly always the right one, if there is one.
    #[inline]
    pub(super) fn guess(&self, hash: FlowHash) -> Option<FlowRef> {
        let bucket = &self.buckets[hash.first_bucket(self.count)];
        let mask = bucket.matching(hash.tag());
        if mask != 0 {
            return Some(FlowRef(bucket.refs[mask.trailing_zeros() as usize & (WAYS - 1)]));
        }
        if bucket.moved_on == 0 {
            return None;
        }
        let bucket = &self.buckets[hash.second_bucket(self.count)];
        let mask = bucket.matching(hash.tag());
        (mask != 0).then(|| FlowRef(bucket.refs[mask.trailing_zeros() as usize & (WAYS - 1)]))
    }

    /// The reference with the hash's tag for which `is_it` holds.
    pub(super) fn find(&self, hash: FlowHash, mut is_it: impl FnMut(FlowRef) -> bool) -> Option<FlowRef> {
        let first = &self.buckets[hash.first_bucket(self.count)];
        let second = &self.buckets[hash.second_bucket(self.count)];
        let looked_at = if first.moved_on == 0 { 1 } else { 2 };
        for bucket in [first, second].into_iter().take(looked_at) {
            let mut mask = bucket.matching(hash.tag());
            while mask != 0 {
                let found = FlowRef(bucket.refs[mask.trailing_zeros() as usize]);
                if is_it(found) {
                    return Some(found);
                }
                mask &= mask - 1;
            }
        }
        None
    }

    /// Adds a tuple that is not in the index. `hash_of` gives the hash of a tuple that is, for when one must move.
    /// False: there is no room in either bucket.
    pub(super) fn insert(
        &mut self,
        hash: FlowHash,
        to: FlowRef,
        hash_of: impl Fn(FlowRef) -> FlowHash,
    ) -> bool {
        let first = hash.first_bucket(self.count);
        if self.buckets[first].put(hash.tag(), to) {
            return true;
        }
        let second = hash.second_bucket(self.count);
        if second != first {
            let is_put = self.buckets[second].put(hash.tag(), to)
                || self.make_room(second, &hash_of) && self.buckets[second].put(hash.tag(), to);
            if is_put {
                self.buckets[first].moved_on += 1;
                return true;
            }
        }
        self.make_room(first, &hash_of) && self.buckets[first].put(hash.tag(), to)
    }

    /// Moves one tuple of a full bucket to its other bucket, if one of the eight can.
    fn make_room(&mut self, full: usize, hash_of: &impl Fn(FlowRef) -> FlowHash) -> bool {
        for way in 0..WAYS {
            let moving = FlowRef(self.buckets[full].refs[way]);
            let hash = hash_of(moving);
            let (first, second) = (hash.first_bucket(self.count), hash.second_bucket(self.count));
            let is_in_first = full == first;
            let other = if is_in_first { second } else { first };
            if other == full || !self.buckets[other].put(hash.tag(), moving) {
                continue;
            }
            self.buckets[full].tags[way] = 0;
            let moved_on = &mut self.buckets[first].moved_on;
            *moved_on = if is_in_first { *moved_on + 1 } else { moved_on.saturating_sub(1) };
            return true;
        }
        false
    }

    /// Removes a tuple; false when it is not there.
    pub(super) fn remove(&mut self, hash: FlowHash, to: FlowRef) -> bool {
        let first = hash.first_bucket(self.count);
        if self.buckets[first].take(hash.tag(), to) {
            return true;
        }
        let removed = self.buckets[hash.second_bucket(self.count)].take(hash.tag(), to);
        if removed {
            let moved_on = &mut self.buckets[first].moved_on;
            *moved_on = moved_on.saturating_sub(1);
        }
        removed
    }

    /// Whether the counts in the buckets are right, and there is no tuple but `tuples` whose hashes `hash_of` gives.
    pub(super) fn check(&self, tuples: usize, hash_of: impl Fn(FlowRef) -> FlowHash) -> Result<(), String> {
        let mut moved_on = vec![0; self.buckets.len()];
        let mut found = 0;
        for (number, bucket) in self.buckets.iter().enumerate() {
            for (&tag, &to) in bucket.tags.iter().zip(&bucket.refs).filter(|(tag, _)| **tag != 0) {
                let hash = hash_of(FlowRef(to));
                let (first, second) = (hash.first_bucket(self.count), hash.second_bucket(self.count));
                if tag != hash.tag() || ![first, second].contains(&number) {
                    return Err(format!("bucket {number} holds reference {to}, which does not belong there"));
                }
                moved_on[first] += u32::from(number != first);
                found += 1;
            }
        }
        if let Some(number) = (0..self.buckets.len()).find(|&n| self.buckets[n].moved_on != moved_on[n]) {
            let (says, are) = (self.buckets[number].moved_on, moved_on[number]);
            return Err(format!("bucket {number} says that {says} tuples moved on, {are} did"));
        }
        if found != tuples { Err(format!("the index has {found} tuples of {tuples}")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::hash::Hasher;

    fn hash(n: u32) -> FlowHash {
        Hasher::new(5).ipv4(n, 0, 0, 0, 0)
    }

    #[test]
    fn an_index_takes_all_the_tuples_it_is_made_for() {
        let connections = 100_000;
        let mut index = Index::take(&mut Region::heap(Index::bytes_for(connections)), connections);
        for n in 0..connections * 2 {
            assert!(index.insert(hash(n), FlowRef(n), |r| hash(r.0)), "tuple {n} found no room");
        }
        for n in 0..connections * 2 {
            assert_eq!(index.find(hash(n), |r| r.0 == n), Some(FlowRef(n)));
            assert!(index.guess(hash(n)).is_some());
        }
        for n in 0..connections * 2 {
            assert!(index.remove(hash(n), FlowRef(n)));
        }
        assert!(index.buckets.iter().all(|b| b.moved_on == 0 && b.tags == [0; WAYS]));
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_a_map(steps in prop::collection::vec((any::<bool>(), 0u32..60), 0..400)) {
            // Two buckets of eight: mostly full, so that tuples overflow, move and are refused.
            let mut index = Index::take(&mut Region::heap(Index::bytes_for(2)), 2);
            let mut model: HashMap<u32, FlowRef> = HashMap::new();
            for (insert, n) in steps {
                if insert && !model.contains_key(&n) {
                    if index.insert(hash(n), FlowRef(n), |r| hash(r.0)) {
                        model.insert(n, FlowRef(n));
                    } else {
                        prop_assert!(model.len() >= 8);
                    }
                } else if !insert {
                    prop_assert_eq!(index.remove(hash(n), FlowRef(n)), model.remove(&n).is_some());
                }
                for n in 0..60 {
                    prop_assert_eq!(index.find(hash(n), |r| r.0 == n), model.get(&n).copied());
                }
            }
        }
    }
}
