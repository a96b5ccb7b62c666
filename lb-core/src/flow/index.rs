//! The index: from a tuple's hash to the entries that may have it, a cache line a look.
//!
//! A bucket is one cache line: ten 16-bit tags, of which eight are compared at once, and ten references. A tuple stands in
//! one of two buckets; the first one says how many of its tuples had to go to their second, so that a tuple that is
//! not there costs one line. When both are full, one tuple of the first is moved to its own other bucket. Of a full table's
//! tuples one in 300 stands in its second bucket: with eight in a line it were one in 50, and each costs its packets a
//! line that nobody has fetched.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::FlowHash;
use super::entry::FlowRef;
use crate::mem::{Region, Slab, equal_u16x8};

/// Tuples of a bucket, and those of them whose tags are compared at once.
const WAYS: usize = 10;
const AT_ONCE: usize = 8;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(64))]
struct Bucket {
    /// 0: free.
    tags: [u16; AT_ONCE],
    refs: [u32; WAYS],
    /// Those of the last ways, which are taken when the others are full.
    last_tags: [u16; WAYS - AT_ONCE],
    /// Tuples whose first bucket this is and which stand in their second.
    moved_on: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// Bit i: way i has this tag.
    #[inline]
    fn matching(&self, tag: u16) -> u32 {
        let last = self.last_tags.iter().enumerate();
        last.fold(self.matching_at_once(tag), |mask, (i, &have)| {
            mask | u32::from(have == tag) << (AT_ONCE + i)
        })
    }

    /// The same of the first ways, where nearly all tuples are.
    #[inline]
    fn matching_at_once(&self, tag: u16) -> u32 {
        equal_u16x8(&self.tags, tag).into()
    }

    /// Whether a tuple of this bucket may be elsewhere than in the first ways.
    #[inline]
    fn goes_on(&self) -> bool {
        self.last_tags != [0; WAYS - AT_ONCE] || self.moved_on != 0
    }

    fn set_tag(&mut self, way: usize, tag: u16) {
        match way.checked_sub(AT_ONCE) {
            None => self.tags[way] = tag,
            Some(last) => self.last_tags[last] = tag,
        }
    }

    fn put(&mut self, tag: u16, to: FlowRef) -> bool {
        let mut free = self.matching_at_once(0);
        if free == 0 {
            free = self.matching(0);
        }
        if free == 0 {
            return false;
        }
        let way = free.trailing_zeros() as usize;
        self.set_tag(way, tag);
        self.refs[way] = to.0;
        true
    }

    fn take(&mut self, tag: u16, to: FlowRef) -> bool {
        let mut mask = self.matching_at_once(tag);
        while mask != 0 {
            let way = mask.trailing_zeros() as usize & (AT_ONCE - 1);
            if self.refs[way] == to.0 {
                self.tags[way] = 0;
                return true;
            }
            mask &= mask - 1;
        }
        self.take_last(tag, to)
    }

    #[inline(never)]
    fn take_last(&mut self, tag: u16, to: FlowRef) -> bool {
        let mut last = self.last_tags.iter_mut().zip(&self.refs[AT_ONCE..]);
        let Some((have, _)) = last.find(|(have, at)| **have == tag && **at == to.0) else { return false };
        *have = 0;
        true
    }

    /// The first reference with this tag.
    fn first(&self, tag: u16) -> Option<FlowRef> {
        let way = self.matching(tag).trailing_zeros();
        self.refs.get(way as usize).map(|&to| FlowRef(to))
    }

    /// The tags and references that are in use.
    fn in_use(&self) -> impl Iterator<Item = (u16, FlowRef)> {
        let tags = self.tags.iter().chain(&self.last_tags).copied();
        tags.zip(self.refs.map(FlowRef)).filter(|&(tag, _)| tag != 0)
    }
}

/// The ways that a mask names.
#[inline]
fn ways(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let way = mask.trailing_zeros() as usize;
        (mask != 0).then(|| {
            mask &= mask - 1;
            way
        })
    })
}

pub(super) struct Index {
    buckets: Slab<Bucket>,
    count: u32,
}

impl Index {
    /// Buckets for two tuples a connection, filled to 48 % when the table is full: 27 bytes a connection.
    fn buckets_for(connections: u32) -> usize {
        (connections as usize * 2 * 5).div_ceil(24).max(2)
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
        let mask = bucket.matching_at_once(hash.tag());
        if mask != 0 {
            return Some(FlowRef(bucket.refs[mask.trailing_zeros() as usize & (AT_ONCE - 1)]));
        }
        if bucket.goes_on() { self.guess_further(hash) } else { None }
    }

    #[inline(never)]
    fn guess_further(&self, hash: FlowHash) -> Option<FlowRef> {
        self.buckets_of(hash).find_map(|bucket| bucket.first(hash.tag()))
    }

    /// The buckets that a tuple may be in.
    fn buckets_of(&self, hash: FlowHash) -> impl Iterator<Item = &Bucket> {
        let first = &self.buckets[hash.first_bucket(self.count)];
        let second = (first.moved_on != 0).then(|| &self.buckets[hash.second_bucket(self.count)]);
        std::iter::once(first).chain(second)
    }

    /// The reference with the hash's tag for which `is_it` holds.
    pub(super) fn find(&self, hash: FlowHash, mut is_it: impl FnMut(FlowRef) -> bool) -> Option<FlowRef> {
        for bucket in self.buckets_of(hash) {
            let mut found = ways(bucket.matching(hash.tag())).map(|way| FlowRef(bucket.refs[way]));
            if let Some(found) = found.find(|&found| is_it(found)) {
                return Some(found);
            }
        }
        None
    }

    /// Adds a tuple that is not in the index to its first bucket. False: that has no room, see [`Index::insert`].
    #[inline]
    pub(super) fn put(&mut self, hash: FlowHash, to: FlowRef) -> bool {
        self.buckets[hash.first_bucket(self.count)].put(hash.tag(), to)
    }

    /// Adds a tuple that is not in the index. `hash_of` gives the hash of a tuple that is, for when one must move.
    /// False: there is no room in either bucket.
    pub(super) fn insert(
        &mut self,
        hash: FlowHash,
        to: FlowRef,
        hash_of: impl Fn(FlowRef) -> FlowHash,
    ) -> bool {
        if self.put(hash, to) {
            return true;
        }
        let (first, second) = (hash.first_bucket(self.count), hash.second_bucket(self.count));
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

    /// Moves one tuple of a full bucket to its other bucket, if one of them can.
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
            self.buckets[full].set_tag(way, 0);
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
            for (tag, to) in bucket.in_use() {
                let hash = hash_of(to);
                let (first, second) = (hash.first_bucket(self.count), hash.second_bucket(self.count));
                if tag != hash.tag() || ![first, second].contains(&number) {
                    return Err(format!(
                        "bucket {number} holds reference {}, which does not belong there",
                        to.0
                    ));
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
        assert!(index.buckets.iter().all(|b| b.moved_on == 0 && b.in_use().next().is_none()));
    }

    #[test]
    fn of_a_full_table_few_tuples_stand_in_their_second_bucket() {
        let connections = 50_000;
        let mut index = Index::take(&mut Region::heap(Index::bytes_for(connections)), connections);
        for n in 0..connections * 2 {
            assert!(index.insert(hash(n), FlowRef(n), |r| hash(r.0)));
        }
        let moved_on: u32 = index.buckets.iter().map(|bucket| bucket.moved_on).sum();
        assert!(moved_on < connections * 2 / 200, "{moved_on}");
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_a_map(steps in prop::collection::vec((any::<bool>(), 0u32..60), 0..400)) {
            // Two buckets: mostly full, so that tuples overflow, move and are refused.
            let mut index = Index::take(&mut Region::heap(Index::bytes_for(2)), 2);
            let mut model: HashMap<u32, FlowRef> = HashMap::new();
            for (insert, n) in steps {
                if insert && !model.contains_key(&n) {
                    if index.insert(hash(n), FlowRef(n), |r| hash(r.0)) {
                        model.insert(n, FlowRef(n));
                    } else {
                        prop_assert!(model.len() >= WAYS);
                    }
                } else if !insert {
                    prop_assert_eq!(index.remove(hash(n), FlowRef(n)), model.remove(&n).is_some());
                }
                for n in 0..60 {
                    prop_assert!(!model.contains_key(&n) || index.guess(hash(n)).is_some());
                    prop_assert_eq!(index.find(hash(n), |r| r.0 == n), model.get(&n).copied());
                }
            }
        }
    }
}
