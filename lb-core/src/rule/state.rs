//! What matches and targets remember from packet to packet: rates, lists, counts.
//!
//! Made by the control plane when a rule is put in, kept while it stays there, and read and written by all workers: that is what
//! makes `limit 5/sec` mean five a second of the whole host (`docs/decisions/0017-rules-are-walked-first.md`). It is memory of a fixed
//! size, in relaxed atomics without locks; what limits ([`bucket`](super::bucket), [`counted`](super::counted), [`Number::spend`]) is changed by
//! read-modify-writes, so that no worker undoes what another has taken. Only packets that reach such a rule touch it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;

use super::Family;
use super::account::Account;
use super::capture::Captures;
use super::counted::Alive;
use super::estimator::Estimator;
use super::idle_timer::IdleTimer;
use super::options::bits;
use super::per_key::PerKey;
use crate::set::SetId;
use crate::time::Tick;

/// State of one match or target, once the rule is put in. Rules are equal whatever theirs is.
pub(crate) struct Kept<T>(Option<Arc<T>>);

impl<T> Kept<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }

    pub(crate) fn set(&mut self, state: Arc<T>) {
        self.0 = Some(state);
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept(None)
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Kept<T> {
        Kept(self.0.clone())
    }
}

impl<T> PartialEq for Kept<T> {
    fn eq(&self, _: &Kept<T>) -> bool {
        true
    }
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

/// State that rules share by name, as the control plane knows it.
#[derive(Default)]
pub struct Named {
    seed: u64,
    pub(crate) recents: HashMap<String, Arc<Recent>>,
    /// Of IPv4 and IPv6.
    pub(crate) rates: [HashMap<String, Arc<PerKey>>; 2],
    pub(crate) estimators: HashMap<String, Arc<Estimator>>,
    pub(crate) idle_timers: HashMap<String, Arc<IdleTimer>>,
    /// One for all rules, from the first that counts connections on.
    alive: Option<Arc<Alive>>,
    /// The same, from the first on that wants packets kept.
    captures: Option<Arc<Captures>>,
    /// Rules that have counted connections so far.
    counting: u64,
    /// Those that rules may name from here on; each stays until the operator removes it.
    pub accounts: HashMap<Box<str>, Arc<Account>>,
    /// The IP sets that rules may name from here on.
    pub sets: HashMap<String, KnownSet>,
}

/// What rules share under a name: made anew where no rule has it.
pub(crate) fn shared<T>(all: &mut HashMap<String, Arc<T>>, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
    if let Some(known) = all.get(name).filter(|known| Arc::strong_count(known) > 1) {
        return known.clone();
    }
    let made = Arc::new(make());
    all.insert(name.to_owned(), made.clone());
    made
}

/// An IP set as a rule must know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownSet {
    pub id: SetId,
    /// `None`: of both.
    pub family: Option<Family>,
}

impl Named {
    /// `seed` keys the hashes of addresses, so that nobody outside can aim at one place of a table.
    pub fn new(seed: u64) -> Named {
        Named { seed, ..Named::default() }
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys::new(self.seed)
    }

    /// Where connections are counted, and by what one more rule knows its own there.
    pub(crate) fn alive(&mut self) -> (Arc<Alive>, u64) {
        let keys = self.keys();
        self.counting += 1;
        (self.alive.get_or_insert_with(|| Arc::new(Alive::new(keys))).clone(), self.counting)
    }

    /// Where copies of packets wait to be written.
    pub(crate) fn captures(&mut self) -> Arc<Captures> {
        self.captures.get_or_insert_default().clone()
    }

    /// The same, if there is, or was, a rule that wants it.
    pub fn known_captures(&self) -> Option<&Arc<Captures>> {
        self.captures.as_ref()
    }

    /// Forgets what no rule uses any more.
    pub fn forget_unused(&mut self) {
        self.recents.retain(|_, state| Arc::strong_count(state) > 1);
        self.rates.iter_mut().for_each(|rates| rates.retain(|_, state| Arc::strong_count(state) > 1));
        self.estimators.retain(|_, state| Arc::strong_count(state) > 1);
        self.idle_timers.retain(|_, state| Arc::strong_count(state) > 1);
    }

    /// Those that rules have, by their labels.
    pub fn idle_timers(&self) -> impl Iterator<Item = (&str, &IdleTimer)> {
        let used = self.idle_timers.iter().filter(|(_, timer)| Arc::strong_count(timer) > 1);
        used.map(|(label, timer)| (label.as_str(), &**timer))
    }
}

/// Makes of an address and what else tells two things apart a number that stands for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keys(u64);

impl Keys {
    pub(crate) fn new(seed: u64) -> Keys {
        Keys(seed)
    }

    /// Never 0, which marks a free place.
    #[inline]
    pub(crate) fn of(self, parts: [u128; 2], ports: u64) -> u64 {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&parts[0].to_le_bytes());
        bytes[16..32].copy_from_slice(&parts[1].to_le_bytes());
        bytes[32..].copy_from_slice(&ports.to_le_bytes());
        SipHasher13::new_with_keys(self.0, !self.0).hash(&bytes) | 1
    }
}

/// Places that a key may have in a table: as many as are looked at.
const PLACES: usize = 8;

/// Where a key may stand in a table with room for so many.
#[inline]
pub(super) fn places(key: u64, room: usize) -> impl Iterator<Item = usize> {
    (0..PLACES.min(room)).map(move |at| (key as usize >> 1).wrapping_add(at) % room)
}

/// Times at which an address was seen that are remembered, unless the rule that makes the list asks for more.
const STAMPS: usize = 256;
/// A rule asks for less than this.
pub(crate) const MOST_STAMPS: usize = 1 << 16;
/// Addresses that a list of `recent` has room for, each with its [`STAMPS`]; where these are more, addresses are fewer.
pub(crate) const RECENT_ENTRIES: usize = 4096;

/// A list of `recent`: addresses and when they were last seen.
pub(crate) struct Recent {
    keys: Keys,
    /// What is compared of addresses: the mask of the rule that made it, whatever the others say.
    mask: u128,
    family: Family,
    entries: Box<[RecentEntry]>,
}

struct RecentEntry {
    key: AtomicU64,
    ttl: AtomicU32,
    /// How many times it was seen; the last stamps are kept.
    seen: AtomicU32,
    /// 2 to some power of them.
    stamps: Box<[AtomicU32]>,
}

impl Recent {
    /// `hits` and `mask`: what the rule of this family that makes it asks for.
    pub(crate) fn new(keys: Keys, hits: u32, mask: u128, family: Family) -> Recent {
        let stamps = (hits as usize + 1).next_power_of_two().clamp(STAMPS, MOST_STAMPS);
        let entry = |_| RecentEntry {
            key: AtomicU64::new(0),
            ttl: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            stamps: (0..stamps).map(|_| AtomicU32::new(0)).collect(),
        };
        Recent { keys, mask, family, entries: (0..RECENT_ENTRIES * STAMPS / stamps).map(entry).collect() }
    }

    /// Whether it remembers so many times of an address.
    pub(crate) fn holds(&self, hits: u32) -> bool {
        self.entries.first().is_some_and(|entry| entry.stamps.len() > hits as usize)
    }

    /// An address of either family. Of the other one than its rule's the first 32 bits are masked alike, as in the kernel.
    pub(crate) fn key(&self, address: IpAddr) -> u64 {
        const REST: u128 = u128::MAX >> 32;
        let mask = match (self.family, address.is_ipv6()) {
            (Family::Ipv4, false) | (Family::Ipv6, true) => self.mask,
            (Family::Ipv6, false) => self.mask >> 96,
            (Family::Ipv4, true) => self.mask << 96 | REST,
        };
        self.keys.of([bits(address) & mask, 0], 0)
    }

    fn find(&self, key: u64) -> Option<&RecentEntry> {
        self.places(key).find(|entry| entry.key.load(Relaxed) == key)
    }

    fn places(&self, key: u64) -> impl Iterator<Item = &RecentEntry> {
        places(key, self.entries.len()).map(|place| &self.entries[place])
    }

    /// Takes note of the address; the place of the one that was seen longest ago is taken when there is no other.
    pub(crate) fn note(&self, key: u64, ttl: u8, now: Tick) {
        if let Some(entry) = self.find(key) {
            entry.ttl.store(ttl.into(), Relaxed);
            entry.stamp(now);
            return;
        }
        let idle = |entry: &&RecentEntry| match entry.key.load(Relaxed) {
            0 => u32::MAX,
            _ => now.since(entry.last()),
        };
        if let Some(entry) = self.places(key).max_by_key(idle) {
            entry.seen.store(0, Relaxed);
            entry.ttl.store(ttl.into(), Relaxed);
            entry.stamp(now);
            entry.key.store(key, Relaxed);
        }
    }

    /// Whether the address is there.
    pub(crate) fn knows(&self, key: u64) -> bool {
        self.find(key).is_some()
    }

    /// True when the address was there.
    pub(crate) fn remove(&self, key: u64) -> bool {
        self.find(key).map(|entry| entry.key.store(0, Relaxed)).is_some()
    }

    /// Was the address seen `hits` times (0: at all) within `seconds` (0: ever), with this TTL (`None`: any)?
    pub(crate) fn check(&self, key: u64, seconds: u32, hits: u32, ttl: Option<u8>, now: Tick) -> bool {
        let Some(entry) = self.find(key) else { return false };
        if ttl.is_some_and(|ttl| entry.ttl.load(Relaxed) != u32::from(ttl)) {
            return false;
        }
        if seconds == 0 && hits == 0 {
            return true;
        }
        let within = seconds.saturating_mul(Tick::PER_SECOND);
        let is_within = |stamp: &&AtomicU32| seconds == 0 || now.since(Tick(stamp.load(Relaxed))) <= within;
        let count = entry.stamps.iter().take(entry.seen.load(Relaxed) as usize).filter(is_within).count();
        count as u32 >= hits.max(1)
    }

    /// Is its last time longer ago than this? It is forgotten then (`--reap`).
    pub(crate) fn reap(&self, key: u64, seconds: u32, now: Tick) {
        if self.is_stale(key, seconds, now)
            && let Some(entry) = self.find(key)
        {
            entry.key.store(0, Relaxed);
        }
    }

    /// Whether its last time is longer ago than this.
    pub(crate) fn is_stale(&self, key: u64, seconds: u32, now: Tick) -> bool {
        let limit = seconds.saturating_mul(Tick::PER_SECOND);
        self.find(key).is_some_and(|entry| now.since(entry.last()) > limit)
    }
}

impl RecentEntry {
    fn stamp(&self, now: Tick) {
        // Of several workers each has a place of its own.
        let next = |seen: u32| Some(seen.saturating_add(1));
        let seen = self.seen.fetch_update(Relaxed, Relaxed, next).unwrap_or_else(|seen| seen);
        self.stamps[seen as usize % self.stamps.len()].store(now.0, Relaxed);
    }

    fn last(&self) -> Tick {
        Tick(self.stamps[self.seen.load(Relaxed).wrapping_sub(1) as usize % self.stamps.len()].load(Relaxed))
    }
}

/// A number that goes up or down (`statistic`).
#[derive(Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) fn new(value: u64) -> Number {
        Number(AtomicU64::new(value))
    }

    /// Another one that goes on from here.
    pub(crate) fn copy(&self) -> Number {
        Number::new(self.0.load(Relaxed))
    }

    /// Counts from 0 to `every - 1` and round; returns where it was.
    pub(crate) fn turn(&self, every: u64) -> u64 {
        let next = |at: u64| Some(if at + 1 >= every { 0 } else { at + 1 });
        self.0.fetch_update(Relaxed, Relaxed, next).unwrap_or_else(|at| at)
    }

    /// Takes `amount` of it, exactly; once there is not so much, nothing is left.
    pub(crate) fn spend(&self, amount: u64) -> bool {
        let rest = |left: u64| Some(left.saturating_sub(amount));
        self.0.fetch_update(Relaxed, Relaxed, rest).is_ok_and(|had| had >= amount)
    }

    /// 32 bits that look like chance (splitmix64).
    pub(crate) fn random(&self) -> u32 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.0.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_lets_no_small_packet_by_once_a_large_one_found_it_too_small() {
        let left = Number::new(250);
        assert_eq!([100, 100, 100, 40].map(|bytes| left.spend(bytes)), [true, true, false, false]);
        assert!(left.spend(0));
    }

    #[test]
    fn several_workers_take_turns_and_lose_no_hit() {
        let (number, list) = (Number::default(), Recent::new(Keys(3), 4000, u32::MAX.into(), Family::Ipv4));
        list.note(9, 64, Tick(1));
        let firsts =
            || (0..999).filter(|_| number.turn(3) == 0).inspect(|_| list.note(9, 64, Tick(1))).count();
        let met: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(firsts)).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        assert_eq!(met, 4 * 333);
        assert!(
            list.check(9, 0, 1 + 4 * 333, None, Tick(1)) && !list.check(9, 0, 2 + 4 * 333, None, Tick(1))
        );
    }

    #[test]
    fn a_list_compares_what_the_rule_that_made_it_says() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let of = |mask, family| Recent::new(Keys(3), 0, mask, family);
        let nets = of(0xffff_ff00, Family::Ipv4);
        assert_eq!(nets.key(ip("10.0.0.1")), nets.key(ip("10.0.0.200")));
        assert_ne!(nets.key(ip("10.0.0.1")), nets.key(ip("10.0.1.1")));
        assert_ne!(nets.key(ip("2001:db8::1")), nets.key(ip("2001:db8::2")));
        let wide = of(u128::MAX << 64, Family::Ipv6);
        assert_eq!(wide.key(ip("2001:db8::1")), wide.key(ip("2001:db8::2")));
        assert_ne!(wide.key(ip("10.0.0.1")), wide.key(ip("10.0.0.2")));
    }

    #[test]
    fn a_list_knows_how_often_an_address_was_seen() {
        let list = Recent::new(Keys(3), 0, u32::MAX.into(), Family::Ipv4);
        for tick in [100, 200, 300] {
            list.note(9, 64, Tick(tick));
        }
        assert!(list.check(9, 0, 0, None, Tick(400)) && list.check(9, 3, 3, Some(64), Tick(400)));
        assert!(!list.check(9, 2, 3, None, Tick(401)), "one is too long ago");
        assert!(!list.check(9, 0, 0, Some(63), Tick(400)) && !list.check(11, 0, 0, None, Tick(400)));
        list.reap(9, 2, Tick(400));
        assert!(list.check(9, 0, 0, None, Tick(400)));
        list.reap(9, 2, Tick(501));
        assert!(!list.check(9, 0, 0, None, Tick(501)) && !list.remove(9));
    }
}
