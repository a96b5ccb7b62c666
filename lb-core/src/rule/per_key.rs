//! Rates by key (`hashlimit`): a bucket, or a count in an interval, for each address or port.
//!
//! As all state of rules ([`state`](super::state)) it is of a fixed size, shared by all workers, in relaxed atomics. A key has one of
//! a few places; the one that came longest ago makes room, where the kernel would drop the packet.
//!
//! What a key has is taken exactly ([`Bucket`]). But workers that find no place of a key in the same moment each begin one for it: a new key, or one that was forgotten, may
//! have its burst once more for each other worker, at most. What comes while an interval of bytes or packets ([`Price::Window`]) gives way to the next may be missing in the count of the next.
//!
//! Source of the facts: Linux, `net/netfilter/xt_hashlimit.c`.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use super::bucket::Bucket;
use super::state::{Keys, places};
use crate::time::Tick;

/// Keys that a table has room for, unless it is told how many.
const USUAL: usize = 1 << 16;
/// As many as a table has room for.
const MOST: usize = 1 << 20;

/// Units of credit for bytes in a second.
pub(crate) const BYTE_SECOND: u64 = 1 << 32;

/// What a packet costs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Price {
    /// Of at most `cap`; a tick brings so much credit.
    Packets { cost: u64, cap: u64, per_tick: u64 },
    /// Each 16 bytes, in 1/[`BYTE_SECOND`] s; there is credit for a second, and `refills` more times of it.
    Bytes { per_chunk: u64, refills: u32 },
    /// Packets or bytes, `rate` of them in so many seconds: over the rate for the whole next interval, or once there are more than `most`.
    Window { most: u64, rate: u64, seconds: u32, are_bytes: bool },
}

/// What a packet is known by in a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct KeyedBy {
    /// Bits: destination address 1 and port 4, source address 2 and port 8.
    pub(crate) mode: u8,
    /// Of the addresses, so many bits.
    pub(crate) source_prefix: u8,
    pub(crate) destination_prefix: u8,
}

/// A table of rates. All rules of its name pay its one price, as the rule that made it says.
pub(crate) struct PerKey {
    keys: Keys,
    keyed_by: KeyedBy,
    price: Price,
    /// Ticks after its last packet when a key is forgotten.
    expire: u32,
    entries: Box<[Entry]>,
}

#[derive(Default)]
struct Entry {
    key: AtomicU64,
    /// When its last packet came.
    last: AtomicU32,
    credit: Bucket,
    /// When its interval began.
    since: AtomicU32,
    /// What it has had in it.
    had: AtomicU64,
    refills: AtomicU32,
    was_over: AtomicBool,
}

impl PerKey {
    /// `room`: for so many keys; 0: the usual number. `expire` is in milliseconds.
    pub(crate) fn new(room: usize, expire: u32, keyed_by: KeyedBy, price: Price, keys: Keys) -> PerKey {
        let room = if room == 0 { USUAL } else { room.clamp(1, MOST) };
        let expire = expire.div_ceil(1000 / Tick::PER_SECOND);
        PerKey { keys, keyed_by, price, expire, entries: (0..room).map(|_| Entry::default()).collect() }
    }

    pub(crate) fn keys(&self) -> Keys {
        self.keys
    }

    pub(crate) fn keyed_by(&self) -> KeyedBy {
        self.keyed_by
    }

    /// Whether a packet of `bytes` is within the rate of its key.
    pub(crate) fn take(&self, key: u64, bytes: u32, now: Tick) -> bool {
        let price = self.price;
        let Some(entry) = self.known(key, now).or_else(|| {
            let same = self.places(key).find(|entry| entry.key.load(Relaxed) == key);
            let entry = same.or_else(|| self.places(key).max_by_key(|entry| entry.idle(now)))?;
            entry.begin(key, price, now);
            Some(entry)
        }) else {
            return false;
        };
        entry.last.store(now.0, Relaxed);
        entry.take(price, bytes, now)
    }

    /// Whether [`take`](Self::take) would say so now.
    pub(crate) fn would_take(&self, key: u64, bytes: u32, now: Tick) -> bool {
        let price = self.price;
        let copy = self.known(key, now).map_or_else(Entry::default, Entry::copy);
        if copy.key.load(Relaxed) == 0 {
            copy.begin(key, price, now);
        }
        copy.take(price, bytes, now)
    }

    /// Whether another key, which is not forgotten yet, has to make room for this one.
    pub(crate) fn is_full_for(&self, key: u64, now: Tick) -> bool {
        self.known(key, now).is_none() && self.places(key).all(|entry| entry.idle(now) < self.expire)
    }

    fn places(&self, key: u64) -> impl Iterator<Item = &Entry> {
        places(key, self.entries.len()).map(|place| &self.entries[place])
    }

    /// The key's entry, unless it was idle for too long.
    fn known(&self, key: u64, now: Tick) -> Option<&Entry> {
        self.places(key).find(|entry| entry.key.load(Relaxed) == key && entry.idle(now) < self.expire)
    }
}

impl Entry {
    /// Another one that goes on from here.
    fn copy(&self) -> Entry {
        Entry {
            key: AtomicU64::new(self.key.load(Relaxed)),
            last: AtomicU32::new(self.last.load(Relaxed)),
            credit: self.credit.copy(),
            since: AtomicU32::new(self.since.load(Relaxed)),
            had: AtomicU64::new(self.had.load(Relaxed)),
            refills: AtomicU32::new(self.refills.load(Relaxed)),
            was_over: AtomicBool::new(self.was_over.load(Relaxed)),
        }
    }

    /// How long ago its last packet came; of a free one, for ever.
    fn idle(&self, now: Tick) -> u32 {
        match self.key.load(Relaxed) {
            0 => u32::MAX,
            _ => now.since(Tick(self.last.load(Relaxed))),
        }
    }

    fn begin(&self, key: u64, price: Price, now: Tick) {
        let (credit, refills) = match price {
            Price::Packets { cap, .. } => (cap, 0),
            Price::Bytes { refills, .. } => (BYTE_SECOND, refills),
            Price::Window { .. } => (0, 0),
        };
        self.credit.begin(credit, now);
        self.since.store(now.0, Relaxed);
        self.had.store(0, Relaxed);
        self.refills.store(refills, Relaxed);
        self.was_over.store(false, Relaxed);
        self.key.store(key, Relaxed);
    }

    fn take(&self, price: Price, bytes: u32, now: Tick) -> bool {
        match price {
            Price::Packets { cost, cap, per_tick } => self.credit.take(cost, per_tick, cap, now),
            Price::Bytes { per_chunk, .. } => {
                let cost = (u64::from(bytes >> 4) + 1).saturating_mul(per_chunk).min(BYTE_SECOND);
                self.credit.take(cost, BYTE_SECOND / u64::from(Tick::PER_SECOND), BYTE_SECOND, now)
                    || self.refill() && self.credit.spend(cost)
            }
            Price::Window { most, rate, seconds, are_bytes } => {
                self.turn_window(rate, u64::from(seconds.saturating_mul(Tick::PER_SECOND)), now);
                let amount = if are_bytes { u64::from(bytes) } else { 1 };
                let has = self.had.fetch_add(amount, Relaxed).saturating_add(amount);
                !self.was_over.load(Relaxed) && has <= most
            }
        }
    }

    /// Begins the next interval, if it is time.
    fn turn_window(&self, rate: u64, interval: u64, now: Tick) {
        let since = self.since.load(Relaxed);
        let ticks = u64::from(now.since(Tick(since)));
        if ticks < interval || self.since.compare_exchange(since, now.0, Relaxed, Relaxed).is_err() {
            return;
        }
        let had = u128::from(self.had.swap(0, Relaxed)) * u128::from(interval);
        self.was_over.store(had > u128::from(rate) * u128::from(ticks), Relaxed);
    }

    /// Uses one of its seconds of credit, if it has one more.
    fn refill(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        let is_left = self.refills.fetch_update(Relaxed, Relaxed, one_less).is_ok();
        if is_left {
            self.credit.add(BYTE_SECOND, BYTE_SECOND);
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(room: usize, expire: u32, price: Price) -> PerKey {
        PerKey::new(room, expire, KeyedBy::default(), price, Keys::default())
    }

    fn allowed(table: &PerKey, key: u64, bytes: u32, ticks: std::ops::Range<u32>) -> usize {
        ticks.filter(|tick| table.take(key, bytes, Tick(*tick))).count()
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own() {
        // Five a second, burst 5.
        let table = table(64, 60_000, Price::Packets { cost: 200_000, cap: 1_000_000, per_tick: 10_000 });
        for key in [3, 5] {
            let at_once = (0..9).filter(|_| table.take(key, 100, Tick(0))).count();
            assert_eq!(at_once, 5);
            assert_eq!(allowed(&table, key, 100, 1..1001), 50, "ten seconds");
        }
    }

    #[test]
    fn a_key_that_was_long_idle_begins_anew_and_the_idlest_makes_room() {
        let table =
            table(1, 1000, Price::Packets { cost: 1_000_000_000, cap: 1_000_000_000, per_tick: 10_000 });
        assert!(table.take(3, 100, Tick(0)) && !table.take(3, 100, Tick(99)));
        assert!(!table.take(3, 100, Tick(198)), "each packet keeps it");
        assert!(table.take(3, 100, Tick(298)), "a second later");
        assert!(
            table.is_full_for(5, Tick(299))
                && !table.is_full_for(3, Tick(299))
                && !table.is_full_for(5, Tick(398))
        );
        assert!(table.take(5, 100, Tick(299)) && table.take(3, 100, Tick(300)));
    }

    #[test]
    fn bytes_have_a_second_of_credit_and_their_refills() {
        // 16 KiB a second: 1,024 chunks and one.
        let table = table(64, 60_000, Price::Bytes { per_chunk: (u64::from(u32::MAX)) / 1025, refills: 2 });
        // A packet of 1,008 bytes is 64 chunks.
        let at_once = (0..100).filter(|_| table.take(3, 1008, Tick(0))).count();
        assert_eq!(at_once, 3 * 16);
        assert_eq!(allowed(&table, 3, 1008, 1..1001), 160, "ten seconds");
    }

    #[test]
    fn a_window_that_was_over_its_rate_spoils_the_next() {
        // Ten packets a second, burst 2; a packet counts as one.
        let table = table(64, 60_000, Price::Window { most: 12, rate: 10, seconds: 1, are_bytes: false });
        assert_eq!((0..20).filter(|_| table.take(3, 100, Tick(0))).count(), 12);
        assert_eq!(allowed(&table, 3, 100, 100..105), 0, "the second after");
        assert_eq!(allowed(&table, 3, 100, 200..205), 5, "and the one after that");
    }
}
