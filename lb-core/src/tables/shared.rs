//! Large tables that share most of their memory with the copies that were made of them: a copy, and a change of one place after
//! it, cost the same few microseconds whether there are ten entries or a hundred thousand.
//!
//! Both are cut into pieces behind an [`Arc`] each. A copy counts up the pieces; the first change of a piece after that copies the piece.
//! Readers pay one pointer more than without.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Something in a [`SharedSet`]: equal in its key to nothing else there.
pub(super) trait Keyed {
    type Key: Eq + Hash;
    fn key(&self) -> &Self::Key;
}

/// Entries by their key.
#[derive(Clone, Debug)]
pub(super) struct SharedSet<T> {
    pieces: Vec<Arc<HashTable<T>>>,
    hasher: DefaultHashBuilder,
    len: usize,
}

impl<T> Default for SharedSet<T> {
    fn default() -> SharedSet<T> {
        SharedSet { pieces: vec![Arc::default(); PIECES], hasher: DefaultHashBuilder::default(), len: 0 }
    }
}

/// Of a set, and of 64 bits of its hashes those that say which: not those that hashbrown goes by within one, the highest and lowest.
const PIECES: usize = 256;
const PIECE_AT: u32 = 32;

impl<T: Keyed + Clone> SharedSet<T> {
    #[inline]
    pub(super) fn get(&self, key: &T::Key) -> Option<&T> {
        let hash = self.hasher.hash_one(key);
        self.pieces[piece(hash)].find(hash, |entry| entry.key() == key)
    }

    /// Puts it in the place of the one with its key, which is returned.
    pub(super) fn insert(&mut self, entry: T) -> Option<T> {
        let hash = self.hasher.hash_one(entry.key());
        let piece = Arc::make_mut(&mut self.pieces[piece(hash)]);
        if let Some(old) = piece.find_mut(hash, |old| old.key() == entry.key()) {
            return Some(std::mem::replace(old, entry));
        }
        piece.insert_unique(hash, entry, |entry| self.hasher.hash_one(entry.key()));
        self.len += 1;
        None
    }

    pub(super) fn remove(&mut self, key: &T::Key) -> Option<T> {
        let hash = self.hasher.hash_one(key);
        let place = &mut self.pieces[piece(hash)];
        place.find(hash, |entry| entry.key() == key)?;
        let found = Arc::make_mut(place).find_entry(hash, |entry| entry.key() == key);
        let (gone, _) = found.ok()?.remove();
        self.len -= 1;
        Some(gone)
    }

    /// Whether all its memory is that of `other`: the same entries, then.
    pub(super) fn is_shared_with(&self, other: &SharedSet<T>) -> bool {
        self.pieces.iter().zip(&other.pieces).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[inline]
fn piece(hash: u64) -> usize {
    (hash >> PIECE_AT) as usize % PIECES
}

/// Values by number, from 0 on; the default one where none was put.
#[derive(Clone, Debug)]
pub(super) struct SharedList<T>(Vec<Arc<[T; IN_A_PIECE]>>);

const IN_A_PIECE: usize = 128;

impl<T> Default for SharedList<T> {
    fn default() -> SharedList<T> {
        SharedList(Vec::new())
    }
}

impl<T: Clone + Default> SharedList<T> {
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&T> {
        Some(&self.0.get(index / IN_A_PIECE)?[index % IN_A_PIECE])
    }

    pub(super) fn set(&mut self, index: usize, value: T) {
        if index >= self.bound() {
            let none = Arc::new(std::array::from_fn(|_| T::default()));
            self.0.resize(index / IN_A_PIECE + 1, none);
        }
        Arc::make_mut(&mut self.0[index / IN_A_PIECE])[index % IN_A_PIECE] = value;
    }

    /// Its values by number, but for those that are known to be the same in `other`.
    pub(super) fn apart_from(&self, other: &SharedList<T>) -> impl Iterator<Item = (usize, &T)> {
        let is_shared = |at: usize, piece| other.0.get(at).is_some_and(|its| Arc::ptr_eq(its, piece));
        let pieces = self.0.iter().enumerate().filter(move |&(at, piece)| !is_shared(at, piece));
        pieces.flat_map(|(at, piece)| (at * IN_A_PIECE..).zip(piece.iter()))
    }

    /// All that differs from the default is below this.
    pub(super) fn bound(&self) -> usize {
        self.0.len() * IN_A_PIECE
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl Keyed for (u16, u8) {
        type Key = u16;
        fn key(&self) -> &u16 {
            &self.0
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u16, u8),
        Remove(u16),
        Copy,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..1000_u16, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
            2 => (0..1000_u16).prop_map(Step::Remove),
            1 => Just(Step::Copy),
        ];
        prop::collection::vec(step, 0..600)
    }

    proptest! {
        #[test]
        fn a_set_and_every_copy_of_it_hold_what_a_map_holds(steps in steps()) {
            let (mut set, mut map) = (SharedSet::<(u16, u8)>::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for step in steps {
                match step {
                    Step::Put(key, value) => {
                        prop_assert_eq!(set.insert((key, value)).map(|old| old.1), map.insert(key, value));
                    }
                    Step::Remove(key) => prop_assert_eq!(set.remove(&key).map(|old| old.1), map.remove(&key)),
                    Step::Copy => copies.push((set.clone(), map.clone())),
                }
            }
            copies.push((set, map));
            for (set, map) in copies {
                prop_assert_eq!(set.len(), map.len());
                prop_assert_eq!(set.iter().copied().collect::<BTreeMap<_, _>>(), map.clone());
                for key in 0..1000 {
                    prop_assert_eq!(set.get(&key).map(|entry| entry.1), map.get(&key).copied());
                }
            }
        }

        #[test]
        fn a_list_and_every_copy_of_it_hold_what_a_map_holds(steps in steps()) {
            let (mut list, mut map) = (SharedList::<u8>::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for step in steps {
                match step {
                    Step::Put(at, value) => {
                        list.set(at.into(), value);
                        map.insert(at, value);
                    }
                    Step::Remove(at) => {
                        list.set(at.into(), 0);
                        map.remove(&at);
                    }
                    Step::Copy => copies.push((list.clone(), map.clone())),
                }
            }
            copies.push((list, map));
            for (list, map) in copies {
                for at in 0..1500 {
                    prop_assert_eq!(list.get(at.into()).copied().unwrap_or(0), map.get(&at).copied().unwrap_or(0));
                }
                prop_assert!(map.keys().all(|&at| usize::from(at) < list.bound()));
            }
        }
    }

    #[test]
    fn a_change_leaves_the_other_pieces_shared() {
        let mut set = SharedSet::<(u16, u8)>::default();
        let mut list = SharedList::<u16>::default();
        for n in 0..5000 {
            set.insert((n, 0));
            list.set(n.into(), n);
        }
        let (before, list_before) = (set.clone(), list.clone());
        set.insert((7, 1));
        set.remove(&6000);
        list.set(7, 1);
        let exchanged = set.pieces.iter().zip(&before.pieces).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(exchanged, 1);
        assert!(set.is_shared_with(&set.clone()) && !set.is_shared_with(&before));
        assert_eq!(list.0.iter().zip(&list_before.0).filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
    }
}
