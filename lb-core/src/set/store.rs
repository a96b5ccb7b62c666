//! Where the elements of a set are: read by all workers while one of them, or the control plane, writes; nobody waits.
//!
//! Slots of 8-byte words, found by a hash and a walk to the next free one, which goes round a cache line before it comes to the next. A slot is given to a key once and for all: its other
//! words are written first, then its first word with the state, in one store. To remove an element is to store another state;
//! the slot waits for the same key to come again. So a reader never sees half an element, and nothing moves under it. When too many
//! slots are given away the owner fills a new store and publishes that, as it does a new table.
//!
//! Who writes has the [`Pen`], of which there is one. A worker that finds it taken goes on and leaves its wish to the control plane.

use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use crate::mem::{prefer_huge_pages, prefetch};
use crate::time::{Tick, Timeout};

/// Words of a store that is at hand anyway, 512 KiB: half of a core's second cache, or less.
const NEAR: usize = 1 << 16;
/// Interfaces that one network may have: as many as the kernel's bucket has places.
pub const MAX_INTERFACES: u64 = 64;
/// Words of the longest key: see [`super::key`].
pub(super) const KEY_WORDS: usize = 5;
/// Words of a cache line.
const LINE: usize = 8;
/// Prefix lengths 0..=128 as bits.
const LENS: usize = 3;
/// The two highest bits of a slot's first word.
const STATE: u64 = 0b11 << 62;
const THERE: u64 = 0b01 << 62;
const NOMATCH: u64 = 0b10 << 62;
const GONE: u64 = 0b11 << 62;
/// What the upper half of a timeout's word says of the lower one.
const ENDS: u64 = 1;
const HELD: u64 = 2;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is compared: the first [`Shape::key`] words. The two highest bits of the first are 0.
pub type Key = [u64; KEY_WORDS];

/// What a slot holds, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Of the key, 1..=[`KEY_WORDS`].
    pub key: u8,
    /// Behind the key: a value that is not compared (the MAC of bitmap:ip,mac).
    pub value: u8,
    pub has_timeout: bool,
    pub has_counters: bool,
    pub has_comment: bool,
    pub has_skbinfo: bool,
    /// The key's last two words are an interface, and the value counts the interfaces of each network: in a slot of its own, whose
    /// interface is none.
    pub counts_interfaces: bool,
}

impl Shape {
    const fn timeout_at(self) -> usize {
        self.key as usize + self.value as usize
    }

    const fn counters_at(self) -> usize {
        self.timeout_at() + self.has_timeout as usize
    }

    const fn comment_at(self) -> usize {
        self.counters_at() + 2 * self.has_counters as usize
    }

    const fn skbinfo_at(self) -> usize {
        self.comment_at() + self.has_comment as usize
    }

    const fn words(self) -> usize {
        self.skbinfo_at() + 2 * self.has_skbinfo as usize
    }

    /// Where the interface is in a key.
    const fn interface_at(self) -> std::ops::Range<usize> {
        self.key as usize - 2..self.key as usize
    }
}

/// How a key finds its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// By its hash under a secret seed: nobody can aim many keys at one place.
    Hashed(u64),
    /// The low 32 bits of the first word, counted from here: a bitmap's.
    From(u32),
}

/// What an element has besides its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extensions {
    /// The end of its life; `None`: it has none.
    pub until: Option<Tick>,
    /// Seconds of a life that has not begun, where there is no end yet.
    pub held: u32,
    pub packets: u64,
    pub bytes: u64,
    /// Which of the control plane's comments is its; 0: none.
    pub comment: u64,
    pub skb: SkbInfo,
}

impl Extensions {
    /// A life that was held begins.
    pub fn begun(self, now: Tick) -> Extensions {
        let begins = |seconds: u32| now.after(Timeout(seconds.saturating_mul(Tick::PER_SECOND)));
        let until = self.until.or_else(|| (self.held > 0).then(|| begins(self.held)));
        Extensions { until, held: 0, ..self }
    }
}

/// What the SET target may map onto a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SkbInfo {
    pub mark: u32,
    pub mask: u32,
    /// Class: major and minor.
    pub priority: u32,
    pub queue: u16,
}

/// A slot with an element in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    index: usize,
    pub is_nomatch: bool,
}

/// A cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Line([AtomicU64; LINE]);

#[derive(Debug)]
pub struct Store {
    lines: Box<[Line]>,
    shape: Shape,
    place: Place,
    slots: usize,
    /// Words of one.
    width: usize,
    /// Those that share a line, less one: a power of two less one.
    beside: usize,
    /// Somebody has the pen.
    is_written: AtomicBool,
    /// Slots given to a key, those of removed elements too; elements. Written with the pen.
    given: AtomicUsize,
    len: AtomicUsize,
    /// Prefix lengths that there are, of the first and the second network; and how often.
    lens: [[AtomicU64; LENS]; 2],
    counts: Box<[[AtomicUsize; 129]; 2]>,
}

impl Store {
    /// An empty store. `slots`: a power of two where keys are hashed, at least 8; the width of the range where they are not.
    pub fn new(shape: Shape, place: Place, slots: usize) -> Store {
        debug_assert!(matches!(place, Place::From(_)) || slots.is_power_of_two());
        let width = shape.words();
        let count = (slots * width).div_ceil(LINE);
        let mut lines = Vec::with_capacity(count);
        prefer_huge_pages(lines.spare_capacity_mut());
        lines.resize_with(count, || Line(std::array::from_fn(|_| AtomicU64::new(0))));
        let share_lines = matches!(place, Place::Hashed(_)) && LINE.is_multiple_of(width);
        Store {
            lines: lines.into_boxed_slice(),
            shape,
            place,
            slots,
            width,
            beside: if share_lines { LINE / width - 1 } else { 0 },
            is_written: AtomicBool::new(false),
            given: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            lens: Default::default(),
            counts: Box::new(std::array::from_fn(|_| std::array::from_fn(|_| AtomicUsize::new(0)))),
        }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Elements, those included whose time is over and that nobody has swept yet.
    pub fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Bytes.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.lines) + size_of::<Store>() + size_of_val(&*self.counts)
    }

    /// Whether a store of `slots` hashed slots may give one away more: a walk past 5 of 8 is short.
    pub fn has_room(&self) -> bool {
        matches!(self.place, Place::From(_)) || self.given.load(Relaxed) < self.slots / 8 * 5
    }

    #[inline]
    fn word(&self, slot: usize, word: usize) -> &AtomicU64 {
        let at = slot * self.width + word;
        &self.lines[at / LINE].0[at % LINE]
    }

    /// Where the walk for a key begins; `None`: outside the range.
    #[inline]
    fn start(&self, key: &Key) -> Option<usize> {
        match self.place {
            Place::From(first) => {
                let at = (key[0] as u32).checked_sub(first)? as usize;
                (at < self.slots).then_some(at)
            }
            Place::Hashed(seed) => {
                let mut hash = seed;
                for &word in &key[..usize::from(self.shape.key)] {
                    let product = u128::from(hash ^ word) * u128::from(MULTIPLIER ^ seed.rotate_left(32) | 1);
                    hash = (product as u64) ^ (product >> 64) as u64;
                }
                Some(hash as usize & (self.slots - 1))
            }
        }
    }

    /// The key's slot and its first word as it is (0: free, and the key is not here); `None`: no slot for it.
    #[inline]
    fn walk(&self, key: &Key) -> Option<(usize, u64)> {
        let start = self.start(key)?;
        let (beside, mut line) = (self.beside, start & !self.beside);
        for walked in 0..self.slots {
            let at = line | (start + walked) & beside;
            let first = self.word(at, 0).load(Acquire);
            if first == 0 {
                return Some((at, 0));
            }
            let is_same = first & !STATE == key[0]
                && (1..usize::from(self.shape.key)).all(|i| self.word(at, i).load(Relaxed) == key[i]);
            if is_same {
                return Some((at, first));
            }
            if walked & beside == beside {
                line += beside + 1;
                if line == self.slots {
                    line = 0;
                }
            }
        }
        None
    }

    /// Whether all of it is at hand anyway.
    #[inline]
    pub(super) fn is_near(&self) -> bool {
        self.lines.len() <= NEAR / LINE
    }

    /// Fetches where the walk for a key begins.
    #[inline]
    pub fn prefetch(&self, key: &Key) {
        if let Some(at) = self.start(key) {
            prefetch(self.word(at, 0));
        }
    }

    /// The element with this key, whose time may be over.
    #[inline]
    pub fn find(&self, key: &Key) -> Option<Slot> {
        let (index, first) = self.walk(key)?;
        matches!(first & STATE, THERE | NOMATCH)
            .then_some(Slot { index, is_nomatch: first & STATE == NOMATCH })
    }

    /// Whether the element's time is over.
    #[inline]
    pub fn is_over(&self, slot: Slot, now: Tick) -> bool {
        self.until(slot).is_some_and(|until| now.is_at_or_after(until))
    }

    #[inline]
    pub fn until(&self, slot: Slot) -> Option<Tick> {
        if !self.shape.has_timeout {
            return None;
        }
        let word = self.word(slot.index, self.shape.timeout_at()).load(Relaxed);
        (word >> 32 == ENDS).then_some(Tick(word as u32))
    }

    /// Seconds of a life that has not begun; 0: it has, or has no end.
    #[inline]
    pub fn held(&self, slot: Slot) -> u32 {
        if !self.shape.has_timeout {
            return 0;
        }
        let word = self.word(slot.index, self.shape.timeout_at()).load(Relaxed);
        if word >> 32 == HELD { word as u32 } else { 0 }
    }

    /// Counts a packet that matched; several workers may at once.
    #[inline]
    pub fn count(&self, slot: Slot, bytes: u64) {
        if self.shape.has_counters {
            let at = self.shape.counters_at();
            self.word(slot.index, at).fetch_add(1, Relaxed);
            self.word(slot.index, at + 1).fetch_add(bytes, Relaxed);
        }
    }

    #[inline]
    pub fn extensions(&self, slot: Slot) -> Extensions {
        let mut extensions =
            Extensions { until: self.until(slot), held: self.held(slot), ..Extensions::default() };
        let load = |word| self.word(slot.index, word).load(Relaxed);
        if self.shape.has_counters {
            let at = self.shape.counters_at();
            (extensions.packets, extensions.bytes) = (load(at), load(at + 1));
        }
        if self.shape.has_comment {
            extensions.comment = load(self.shape.comment_at());
        }
        if self.shape.has_skbinfo {
            let at = self.shape.skbinfo_at();
            let (mark, rest) = (load(at), load(at + 1));
            extensions.skb = SkbInfo {
                mark: (mark >> 32) as u32,
                mask: mark as u32,
                priority: (rest >> 16) as u32,
                queue: rest as u16,
            };
        }
        extensions
    }

    /// The value that a key has besides being here; 0: none.
    #[inline]
    pub fn value(&self, slot: Slot) -> u64 {
        match self.shape.value {
            0 => 0,
            _ => self.word(slot.index, usize::from(self.shape.key)).load(Relaxed),
        }
    }

    /// The key of the slot that counts the interfaces of a key's network.
    fn network(&self, key: &Key) -> Key {
        let mut network = *key;
        network[self.shape.interface_at()].fill(0);
        network
    }

    /// Elements with the network of this key, whatever their interface; 0 where they are not counted.
    #[inline]
    pub fn interfaces(&self, key: &Key) -> u64 {
        if !self.shape.counts_interfaces {
            return 0;
        }
        self.find(&self.network(key)).map_or(0, |slot| self.value(slot))
    }

    /// The right to write; `None`: another has it.
    #[inline]
    pub fn pen(&self) -> Option<Pen<'_>> {
        // Not made where it is another's: dropping it gives the other's back.
        self.is_written.compare_exchange(false, true, Acquire, Relaxed).is_ok().then(|| Pen(self))
    }

    /// The prefix lengths that there are, longest first.
    #[inline]
    pub fn lens(&self, which: usize) -> Lens {
        Lens(std::array::from_fn(|i| self.lens[which][i].load(Acquire)))
    }

    /// The element in the slot of this number, if there is one, with its key.
    pub fn at(&self, index: usize) -> Option<(Key, Slot)> {
        if index >= self.slots {
            return None;
        }
        let first = self.word(index, 0).load(Acquire);
        if !matches!(first & STATE, THERE | NOMATCH) {
            return None;
        }
        let mut key = [0; KEY_WORDS];
        key[0] = first & !STATE;
        for (i, word) in key.iter_mut().enumerate().take(usize::from(self.shape.key)).skip(1) {
            *word = self.word(index, i).load(Relaxed);
        }
        if self.shape.counts_interfaces && key[self.shape.interface_at()] == [0; 2] {
            return None;
        }
        Some((key, Slot { index, is_nomatch: first & STATE == NOMATCH }))
    }

    /// All elements, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Slot)> {
        (0..self.slots).filter_map(|index| self.at(index))
    }
}

/// The right to write into a store.
#[derive(Debug)]
pub struct Pen<'a>(&'a Store);

impl Drop for Pen<'_> {
    fn drop(&mut self) {
        self.0.is_written.store(false, Release);
    }
}

impl Pen<'_> {
    /// Nobody shall write any more: another store takes this one's place.
    pub fn keep(self) {
        std::mem::forget(self);
    }

    fn write(&self, slot: usize, value: u64, extensions: &Extensions) {
        let shape = self.0.shape;
        let store = |word, n| self.0.word(slot, word).store(n, Relaxed);
        if shape.value > 0 {
            store(usize::from(shape.key), value);
        }
        if shape.has_timeout {
            let word = match extensions.until {
                Some(until) => ENDS << 32 | u64::from(until.0),
                None if extensions.held > 0 => HELD << 32 | u64::from(extensions.held),
                None => 0,
            };
            store(shape.timeout_at(), word);
        }
        if shape.has_counters {
            store(shape.counters_at(), extensions.packets);
            store(shape.counters_at() + 1, extensions.bytes);
        }
        if shape.has_comment {
            store(shape.comment_at(), extensions.comment);
        }
        if shape.has_skbinfo {
            let SkbInfo { mark, mask, priority, queue } = extensions.skb;
            store(shape.skbinfo_at(), u64::from(mark) << 32 | u64::from(mask));
            store(shape.skbinfo_at() + 1, u64::from(priority) << 16 | u64::from(queue));
        }
    }

    /// Gives a free slot to a key, whose first word it is not told yet.
    fn give(&self, slot: usize, key: &Key) {
        for (i, &word) in key.iter().enumerate().take(usize::from(self.0.shape.key)).skip(1) {
            self.0.word(slot, i).store(word, Relaxed);
        }
        self.0.given.store(self.0.given.load(Relaxed) + 1, Relaxed);
    }

    /// Puts an element here, or gives the one that is here other extensions. `lens`: of its networks, where the set's are told by
    /// them. False: there is no room for the key.
    pub fn put(&self, key: &Key, value: u64, nomatch: bool, extensions: &Extensions, lens: [u8; 2]) -> bool {
        let store = self.0;
        let Some((slot, first)) = store.walk(key) else { return false };
        if first == 0 && !store.has_room() {
            return false;
        }
        let is_new = first == 0 || first & STATE == GONE;
        if is_new && store.interfaces(key) >= MAX_INTERFACES {
            return false;
        }
        self.write(slot, value, extensions);
        if first == 0 {
            self.give(slot, key);
        }
        if is_new {
            store.len.store(store.len() + 1, Relaxed);
            // A reader that finds the element knows its lengths.
            self.note_lens(lens, true);
        }
        store.word(slot, 0).store(key[0] | if nomatch { NOMATCH } else { THERE }, Release);
        // After the element: its interface is asked first, and the others' wider networks are hidden by it as soon as it is there.
        if is_new && store.shape.counts_interfaces {
            self.count_interface(key, true);
        }
        true
    }

    /// Removes an element, unless it is gone already.
    pub fn remove(&self, slot: Slot, lens: [u8; 2]) {
        let word = self.0.word(slot.index, 0);
        let first = word.load(Relaxed);
        if first & STATE == GONE {
            return;
        }
        if let Some((key, _)) = self.0.at(slot.index).filter(|_| self.0.shape.counts_interfaces) {
            self.count_interface(&key, false);
        }
        word.store(first | GONE, Release);
        self.0.len.store(self.0.len() - 1, Relaxed);
        self.note_lens(lens, false);
    }

    /// Counts an element in its network's slot, which there is room for: [`Store::has_room`] leaves 3 of 8.
    fn count_interface(&self, key: &Key, is_added: bool) {
        let store = self.0;
        let before = store.interfaces(key);
        let after = if is_added { before + 1 } else { before.saturating_sub(1) };
        let network = store.network(key);
        let Some((slot, first)) = store.walk(&network) else { return };
        self.write(slot, after, &Extensions::default());
        if first == 0 {
            self.give(slot, &network);
        }
        store.word(slot, 0).store(network[0] | if after > 0 { THERE } else { GONE }, Release);
    }

    fn note_lens(&self, lens: [u8; 2], is_added: bool) {
        let store = self.0;
        for (which, len) in lens.into_iter().enumerate() {
            let Some(count) = store.counts[which].get(usize::from(len)) else { continue };
            let before = count.load(Relaxed);
            let after = if is_added { before + 1 } else { before.saturating_sub(1) };
            count.store(after, Relaxed);
            let bits = &store.lens[which][usize::from(len) / 64];
            let bit = 1 << (len % 64);
            let set = bits.load(Relaxed);
            bits.store(if after > 0 { set | bit } else { set & !bit }, Release);
        }
    }
}

/// Prefix lengths, longest first.
#[derive(Clone, Copy, Debug)]
pub struct Lens([u64; LENS]);

impl Iterator for Lens {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        for (i, bits) in self.0.iter_mut().enumerate().rev() {
            if *bits != 0 {
                let bit = 63 - bits.leading_zeros();
                *bits &= !(1 << bit);
                return Some((i as u32 * 64 + bit) as u8);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
