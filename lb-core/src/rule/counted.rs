//! How many connections there are of an address (`connlimit`, limits of virtual services), exactly and without ever walking them.
//!
//! [`Alive`] has a number for each rule, or service, and address, shared by all workers: one more when a connection is entered whose packet the rule has
//! seen, one less when it is over. Each worker keeps in [`Counted`] which of these numbers its connections count in, so that each of them
//! is taken back exactly once. Numbers are changed by atomic additions, so none is lost; looking at one and adding to it are two steps,
//! so connections of one address that begin at several workers in the same moment may each find the limit not yet reached: as many too
//! many as there are other workers, at most. What goes to another worker and back between the two (the first packet of a persistent service's connection) is asked about once more
//! when it is back ([`Counted::holds`]).
//!
//! All memory is taken at once and bounded: what finds no room is not counted.
//!
//! Source of the facts: Linux, `net/netfilter/xt_connlimit.c`, `nf_conncount.c`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arrayvec::ArrayVec;

use super::state::{Keys, places};
use crate::flow::FlowId;

/// Numbers that there is room for: addresses with connections, of all rules together.
const NUMBERS: usize = 1 << 17;
/// Times that a place is sought which another worker does not take first.
const TRIES: usize = 8;
/// Low bits of a number's word; above them is what tells its key from others.
const COUNT_BITS: u32 = 24;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// The numbers, of all workers.
pub struct Alive {
    keys: Keys,
    /// Of a count of 0: free.
    words: Box<[AtomicU64]>,
}

impl Alive {
    pub(crate) fn new(keys: Keys) -> Alive {
        Alive { keys, words: (0..NUMBERS).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn keys(&self) -> Keys {
        self.keys
    }

    fn is_of(word: u64, key: u64) -> bool {
        word & COUNT != 0 && (word ^ key) >> COUNT_BITS == 0
    }

    /// Connections with this key. Two workers may have given it a place each in the same moment.
    pub(crate) fn total(&self, key: u64) -> u32 {
        let words = places(key, NUMBERS).map(|place| self.words[place].load(Relaxed));
        words.filter(|word| Alive::is_of(*word, key)).map(|word| (word & COUNT) as u32).sum()
    }

    /// One more; where. `None`: there is no room.
    pub(crate) fn add(&self, key: u64) -> Option<u32> {
        for _ in 0..TRIES {
            let word = |place: &usize| self.words[*place].load(Relaxed);
            let known = places(key, NUMBERS).find(|place| Alive::is_of(word(place), key));
            let place = known.or_else(|| places(key, NUMBERS).find(|place| word(place) & COUNT == 0))?;
            let added = self.words[place].fetch_update(Relaxed, Relaxed, |word| match word & COUNT {
                0 => Some(key & !COUNT | 1),
                COUNT => None,
                _ => Alive::is_of(word, key).then_some(word + 1),
            });
            if added.is_ok() {
                return Some(place as u32);
            }
        }
        None
    }

    pub(crate) fn take_back(&self, place: u32) {
        self.words[place as usize].fetch_sub(1, Relaxed);
    }
}

impl std::fmt::Debug for Alive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Alive")
    }
}

/// Numbers that one packet may be the first to count in.
const WANTED: usize = 8;

/// A number that the packet at hand is to count in, if its connection is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wanted {
    key: u64,
    /// What the rule asked: whether there are more than these.
    limit: u32,
    is_above: bool,
}

/// What one worker's connections count in.
pub struct Counted {
    alive: Option<Arc<Alive>>,
    /// By entry: the first of its records and 1; 0: none.
    first: Box<[u32]>,
    /// Low and high half of the key, its place, the next record and 1.
    records: Box<[[u32; 4]]>,
    /// The first free record and 1.
    free: u32,
    /// Records from here on were never used.
    fresh: u32,
    in_use: u32,
    wanted: ArrayVec<Wanted, WANTED>,
    /// Those of packets that are on their way to another worker and back, by the last digits of their tickets.
    parked: Box<[(Ticket, ArrayVec<Wanted, WANTED>)]>,
    last_ticket: u32,
}

/// For keys that a packet comes back for; [`Ticket::NONE`]: it has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ticket(u32);

impl Ticket {
    pub const NONE: Ticket = Ticket(0);
}

/// Packets that may be on their way at a time; of more, the oldest are not counted.
const PARKED: usize = 256;

impl Counted {
    /// For the entries of one worker, which count in so many numbers each on the average. Memory that is never used is never touched.
    pub fn new(connections: u32, each: usize) -> Counted {
        let connections = connections as usize;
        Counted {
            alive: None,
            first: vec![0; connections].into(),
            records: vec![[0; 4]; connections.saturating_mul(each)].into(),
            free: 0,
            fresh: 0,
            in_use: 0,
            wanted: ArrayVec::new(),
            parked: vec![(Ticket::NONE, ArrayVec::new()); PARKED].into(),
            last_ticket: 0,
        }
    }

    /// Whether there are more than `limit` connections with this key, that of the packet at hand among them; it is to count, once and from now on.
    pub(crate) fn is_above(&mut self, alive: &Arc<Alive>, of: Option<FlowId>, key: u64, limit: u32) -> bool {
        self.use_numbers(alive);
        let total = alive.total(key);
        if of.is_some_and(|id| self.has(id, key)) {
            return total > limit;
        }
        let is_above = total >= limit;
        if self.wanted.iter().all(|wanted| wanted.key != key) {
            // Beyond that it is not counted.
            let _ = self.wanted.try_push(Wanted { key, limit, is_above });
        }
        is_above
    }

    /// Whether rules would still be told what they were told of the packet at hand, which has been elsewhere since.
    pub(crate) fn holds(&self) -> bool {
        let Some(alive) = &self.alive else { return true };
        self.wanted.iter().all(|wanted| (alive.total(wanted.key) >= wanted.limit) == wanted.is_above)
    }

    /// The connection counts in this number from now on, once. False: there is no room.
    pub(crate) fn hold(&mut self, alive: &Arc<Alive>, id: FlowId, key: u64) -> bool {
        self.use_numbers(alive);
        self.add(alive, id, key)
    }

    fn use_numbers(&mut self, alive: &Arc<Alive>) {
        if self.alive.as_ref().is_none_or(|used| !Arc::ptr_eq(used, alive)) {
            self.begin(alive.clone());
        }
    }

    /// Numbers of others: those of this worker are nobody's any more.
    #[cold]
    fn begin(&mut self, alive: Arc<Alive>) {
        let connections = self.first.len() as u32;
        if self.in_use > 0 {
            (0..connections).for_each(|id| self.release(FlowId(id)));
        }
        self.wanted.clear();
        self.parked.iter_mut().for_each(|(ticket, _)| *ticket = Ticket::NONE);
        self.alive = Some(alive);
    }

    fn has(&self, id: FlowId, key: u64) -> bool {
        let mut at = self.first.get(id.0 as usize).copied().unwrap_or_default();
        while let Some([low, high, _, next]) = self.records.get((at as usize).wrapping_sub(1)) {
            if u64::from(*high) << 32 | u64::from(*low) == key {
                return true;
            }
            at = *next;
        }
        false
    }

    /// The packet at hand is another one.
    #[inline]
    pub fn forget(&mut self) {
        self.wanted.clear();
    }

    /// The packet at hand goes to another worker, and comes back with this ticket.
    pub fn park(&mut self) -> Ticket {
        if self.wanted.is_empty() {
            return Ticket::NONE;
        }
        self.last_ticket = self.last_ticket.wrapping_add(1).max(1);
        let ticket = Ticket(self.last_ticket);
        self.parked[self.last_ticket as usize % PARKED] = (ticket, std::mem::take(&mut self.wanted));
        ticket
    }

    /// It is back, and at hand.
    pub fn resume(&mut self, ticket: Ticket) {
        self.wanted.clear();
        let (parked, wanted) = &mut self.parked[ticket.0 as usize % PARKED];
        if ticket != Ticket::NONE && *parked == ticket {
            *parked = Ticket::NONE;
            self.wanted = std::mem::take(wanted);
        }
    }

    /// The packet at hand is of this connection.
    #[inline]
    pub fn keep(&mut self, id: FlowId) {
        if !self.wanted.is_empty() {
            self.keep_wanted(id);
        }
    }

    #[cold]
    fn keep_wanted(&mut self, id: FlowId) {
        let Some(alive) = self.alive.clone() else { return };
        for Wanted { key, .. } in std::mem::take(&mut self.wanted) {
            // What finds no room is not counted.
            let _ = self.add(&alive, id, key);
        }
    }

    fn add(&mut self, alive: &Alive, id: FlowId, key: u64) -> bool {
        if self.has(id, key) {
            return true;
        }
        let Some(place) = alive.add(key) else { return false };
        let Some(record) = self.record() else {
            alive.take_back(place);
            return false;
        };
        let first = &mut self.first[id.0 as usize];
        self.records[record as usize] = [key as u32, (key >> 32) as u32, place, *first];
        *first = record + 1;
        self.in_use += 1;
        true
    }

    fn record(&mut self) -> Option<u32> {
        if let Some(record) = self.free.checked_sub(1) {
            self.free = self.records[record as usize][3];
            return Some(record);
        }
        let fresh = self.fresh;
        ((fresh as usize) < self.records.len()).then(|| {
            self.fresh += 1;
            fresh
        })
    }

    /// The connection is over.
    #[inline]
    pub fn release(&mut self, id: FlowId) {
        if self.in_use > 0 {
            self.take_back(id);
        }
    }

    #[cold]
    fn take_back(&mut self, id: FlowId) {
        let Some(first) = self.first.get_mut(id.0 as usize) else { return };
        let mut at = std::mem::take(first);
        while let Some(record) = at.checked_sub(1) {
            let [_, _, place, next] = self.records[record as usize];
            if let Some(alive) = &self.alive {
                alive.take_back(place);
            }
            self.records[record as usize][3] = self.free;
            self.free = at;
            self.in_use -= 1;
            at = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// A packet of a connection that is entered with it, or is there already, seen by rules with these keys.
        Packet(u32, Vec<u64>),
        /// A packet that a rule stops before its connection is entered.
        Stopped(Vec<u64>),
        Over(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let keys =
            || prop::collection::vec((0..6u64).prop_map(|key| (key * 0x0123_4567_89ab_cdef) | 1), 0..3);
        let step = prop_oneof![
            4 => (0..12u32, keys()).prop_map(|(id, keys)| Step::Packet(id, keys)),
            1 => keys().prop_map(Step::Stopped),
            2 => (0..12u32).prop_map(Step::Over),
        ];
        prop::collection::vec(step, 0..200)
    }

    fn want(counted: &mut Counted, alive: &Arc<Alive>, key: u64) {
        counted.is_above(alive, None, key, u32::MAX);
    }

    proptest! {
        /// The obvious twin: a set of connections by key.
        #[test]
        fn a_number_is_that_of_the_connections_that_are_there(steps in steps()) {
            let alive = Arc::new(Alive::new(Keys::default()));
            let mut counted = Counted::new(64, 1);
            let mut twin: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
            let mut there: BTreeSet<u32> = BTreeSet::new();
            for step in steps {
                counted.forget();
                match step {
                    Step::Packet(id, keys) => {
                        let of = there.contains(&id).then_some(FlowId(id));
                        for key in keys {
                            let with = twin.entry(key).or_default();
                            let expected = with.len() + usize::from(!with.contains(&id));
                            let expected = expected as u32;
                            prop_assert!(!counted.is_above(&alive, of, key, expected));
                            prop_assert!(counted.is_above(&alive, of, key, expected - 1));
                            prop_assert!(counted.holds());
                            if of.is_some() {
                                counted.keep(FlowId(id));
                                with.insert(id);
                            }
                        }
                        let wanted: Vec<u64> = counted.wanted.iter().map(|wanted| wanted.key).collect();
                        counted.keep(FlowId(id));
                        there.insert(id);
                        wanted.iter().for_each(|key| _ = twin.entry(*key).or_default().insert(id));
                    }
                    Step::Stopped(keys) => keys.iter().for_each(|&key| want(&mut counted, &alive, key)),
                    Step::Over(id) => {
                        counted.release(FlowId(id));
                        there.remove(&id);
                        twin.values_mut().for_each(|with| _ = with.remove(&id));
                    }
                }
                for (key, with) in &twin {
                    prop_assert_eq!(alive.total(*key) as usize, with.len());
                }
                prop_assert_eq!(counted.in_use as usize, twin.values().map(BTreeSet::len).sum::<usize>());
            }
        }
    }

    #[test]
    fn keys_wait_for_their_packet_and_no_other_ones_count_in_them() {
        let alive = Arc::new(Alive::new(Keys::default()));
        let mut counted = Counted::new(1024, 1);
        let keys: Vec<u64> = (1..=300u64).map(|key| key.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let parked: Vec<Ticket> = keys
            .iter()
            .map(|&key| {
                counted.forget();
                want(&mut counted, &alive, key);
                counted.park()
            })
            .collect();
        // Another one's packet was at hand last.
        want(&mut counted, &alive, 7 << 50 | 1);
        for (id, ticket) in parked.iter().enumerate() {
            counted.resume(*ticket);
            counted.keep(FlowId(id as u32));
        }
        let is_counted: Vec<bool> = keys.iter().map(|&key| alive.total(key) == 1).collect();
        assert_eq!(is_counted.iter().filter(|&&is| is).count(), PARKED, "the latest ones");
        assert!(is_counted[300 - PARKED..].iter().all(|&is| is));
        assert_eq!(alive.total(7 << 50 | 1), 0);
        counted.resume(parked[299]);
        counted.keep(FlowId(400));
        counted.forget();
        assert_eq!((counted.park(), alive.total(keys[299])), (Ticket::NONE, 1), "once");
    }

    #[test]
    fn several_workers_lose_no_connection() {
        let alive = Arc::new(Alive::new(Keys::default()));
        let work = |_| {
            let mut counted = Counted::new(1000, 1);
            for turn in 0..20 {
                for id in 0..1000 {
                    want(&mut counted, &alive, u64::from(id % 7) << 40 | 1);
                    counted.keep(FlowId(id));
                }
                (0..if turn < 19 { 1000 } else { 500 }).for_each(|id| counted.release(FlowId(id)));
            }
        };
        std::thread::scope(|scope| {
            _ = [0, 1, 2].map(|worker| scope.spawn(move || work(worker))).map(|t| t.join())
        });
        assert_eq!((0..7u64).map(|key| alive.total(key << 40 | 1)).sum::<u32>(), 3 * 500);
    }

    /// Goal: a limit is exceeded by one for each other worker, at most, and nothing is left when all is over. Method: threads that enter what they are told is within the limit,
    /// end all and begin anew, while another looks at the number.
    #[test]
    fn workers_that_begin_connections_at_once_exceed_a_limit_by_one_each() {
        const LIMIT: u32 = 40;
        const KEY: u64 = 5 << 40 | 1;
        for workers in [2, 4, 16] {
            let alive = Arc::new(Alive::new(Keys::default()));
            let working = std::sync::atomic::AtomicU32::new(workers);
            let work = || {
                let mut counted = Counted::new(2 * LIMIT, 1);
                let mut entered = 0;
                for id in (0..4000).map(|n| n % (2 * LIMIT)) {
                    counted.forget();
                    counted.release(FlowId(id));
                    if !counted.is_above(&alive, None, KEY, LIMIT) {
                        counted.keep(FlowId(id));
                        entered += 1;
                    }
                }
                (0..2 * LIMIT).for_each(|id| counted.release(FlowId(id)));
                working.fetch_sub(1, Relaxed);
                entered
            };
            let (entered, most) = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
                let mut most = 0;
                while working.load(Relaxed) > 0 {
                    most = most.max(alive.total(KEY));
                }
                (threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>(), most)
            });
            assert!(most < LIMIT + workers, "{workers} workers had {most} connections");
            assert!(entered > 2 * LIMIT, "{entered}: room was found again");
            assert_eq!(alive.total(KEY), 0, "{workers} workers");
        }
    }

    #[test]
    fn what_finds_no_room_is_not_counted_and_takes_nothing_back() {
        let alive = Arc::new(Alive::new(Keys::default()));
        // All of the same places.
        let keys: Vec<u64> = (0..10).map(|key| key << 50 | 1).collect();
        let mut counted = Counted::new(16, 1);
        for (id, key) in keys.iter().enumerate() {
            want(&mut counted, &alive, *key);
            counted.keep(FlowId(id as u32));
        }
        assert_eq!(keys.iter().map(|key| alive.total(*key)).sum::<u32>(), 8);
        (0..10).for_each(|id| counted.release(FlowId(id)));
        assert_eq!((keys.iter().map(|key| alive.total(*key)).sum::<u32>(), counted.in_use), (0, 0));
        // A worker's records come to an end before the places do.
        let mut small = Counted::new(1, 1);
        for key in [1u64, 3 << 40 | 1] {
            want(&mut small, &alive, key);
        }
        small.keep(FlowId(0));
        assert_eq!((alive.total(1) + alive.total(3 << 40 | 1), small.in_use), (1, 1));
    }
}
