//! IP sets as the operator made them: `ipset` lines in, stores and listings out.
//!
//! A line travels as it was typed and is read here, where the types of the sets are known. What a line adds is in the workers' stores
//! when it is done; only a set that is made, gone, swapped, or has outgrown its store needs new tables.

mod command;
mod comments;
mod definition;
mod entry;
mod line;
mod text;
mod view;

use std::sync::Arc;

use arrayvec::ArrayVec;
use hashbrown::HashMap;
use lb_core::rule::{self, KnownSet};
use lb_core::set::{
    Adding, Element, Extensions, Family, Key, MAX_INTERFACES, MAX_SETS, Pen, Set, SetId, Sets, Slot, Store,
    Wish, Wishes,
};
use lb_core::time::{Tick, Timeout};
use rustix::time::{ClockId, Timespec, clock_gettime};

pub use command::{check_count, command};
use comments::Comments;
pub use definition::Definition;
pub use line::MAX_NAME;
pub use text::Refusal;
pub use view::{Format, Listing, SetView};

/// Slots that one [`IpSets::sweep`] looks at.
const SWEPT: usize = 262_144;
/// Elements that the lines of one request may stand for: it must end.
const MAX_EXPANDED: usize = 1 << 20;
/// A set doubles its store at most so often that it holds no more.
const MAX_ELEMENTS: usize = 1 << 28;
/// Elements whose places in a new store are fetched together.
const FETCHED: usize = 32;
/// Wishes of workers that are granted before others are served.
const GRANTED: usize = 8192;
/// A set that was full for a wish is so for others, until it is looked at again.
const FULL_FOR: u32 = Tick::PER_SECOND / 4;

/// One set with its name.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    content: Content,
}

/// What `ipset swap` exchanges.
#[derive(Clone, Debug)]
struct Content {
    definition: Definition,
    set: Arc<Set>,
    comments: Arc<Comments>,
}

/// The time as the workers have it: of the system's clock that counts from its boot.
pub fn now() -> Tick {
    tick(since_boot())
}

/// Ticks since the machine's boot, which do not come round.
pub fn since_boot() -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
    tv_sec as u64 * u64::from(Tick::PER_SECOND) + tv_nsec as u64 / 10_000_000
}

/// Of so many ticks since the boot.
pub fn tick(since_boot: u64) -> Tick {
    Tick(since_boot as u32)
}

/// Seconds from 1970 (UTC) to the moment from which the workers' ticks count, as the clocks stand now.
pub fn booted() -> u64 {
    let seconds = clock_gettime(ClockId::Realtime).tv_sec as u64;
    seconds.saturating_sub(u64::from(now().0 / Tick::PER_SECOND))
}

/// All sets.
#[derive(Clone, Debug, Default)]
pub struct IpSets {
    /// By id; ids of gone sets are used again.
    named: Vec<Option<Named>>,
    /// Oldest first.
    order: Vec<SetId>,
    by_name: HashMap<String, SetId>,
    /// From outside of the sets, by who has them: how often.
    references: HashMap<&'static str, HashMap<SetId, usize>>,
    published: Arc<Sets>,
    /// What workers leave to be done.
    wishes: Arc<Wishes>,
    /// Sets that had no room for a wish, and when that was found out.
    full: HashMap<SetId, Tick>,
    is_changed: bool,
    /// There are other names than before.
    has_other_names: bool,
    /// Elements that lines stood for since [`IpSets::begin`].
    expanded: usize,
    /// Something differs from what was saved last.
    is_dirty: bool,
    seed: u64,
    swept: (usize, usize),
}

/// The right to write into a store; a worker has it for some nanoseconds at most.
fn pen(store: &Store) -> Pen<'_> {
    loop {
        if let Some(pen) = store.pen() {
            return pen;
        }
        std::thread::yield_now();
    }
}

const NO_SET: &str = "The set with the given name does not exist";

impl IpSets {
    /// `seed`: keys the hashes.
    pub fn new(seed: u64) -> IpSets {
        IpSets { seed, ..IpSets::default() }
    }

    pub fn id(&self, name: &str) -> Option<SetId> {
        self.by_name.get(name).copied()
    }

    pub fn name(&self, id: SetId) -> Option<&str> {
        Some(&self.named.get(usize::from(id.0))?.as_ref()?.name)
    }

    /// The sets as rules may name them.
    pub fn known(&self) -> HashMap<String, KnownSet> {
        let known = |(name, &id): (&String, &SetId)| {
            let set = &self.get(id).set;
            let family = set.kind.is_of_one_family().then(|| match set.family {
                Family::Ipv4 => rule::Family::Ipv4,
                Family::Ipv6 => rule::Family::Ipv6,
            });
            (name.clone(), KnownSet { id, family })
        };
        self.by_name.iter().map(known).collect()
    }

    /// How often a set is named: by lists, and by who said so.
    pub fn references(&self, id: SetId) -> usize {
        let lists = self.named.iter().flatten().flat_map(|named| named.content.set.members.iter());
        let others = self.references.values().filter_map(|counts| counts.get(&id));
        lists.filter(|&&other| other == id).count() + others.sum::<usize>()
    }

    /// Says which sets `owner` names now, each as often as it does: they cannot be destroyed.
    pub fn refer(&mut self, owner: &'static str, sets: impl IntoIterator<Item = SetId>) {
        let mut counts = HashMap::new();
        sets.into_iter().for_each(|set| *counts.entry(set).or_default() += 1);
        self.references.insert(owner, counts);
    }

    pub fn are_named_by(&self, owner: &'static str) -> bool {
        self.references.get(owner).is_some_and(|counts| !counts.is_empty())
    }

    /// The sets for the next tables; `None`: those that were given last.
    pub fn take_change(&mut self) -> Option<Arc<Sets>> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let set = |named: &Option<Named>| named.as_ref().map(|named| named.content.set.clone());
        let sets = self.named.iter().map(set).collect();
        self.published = Arc::new(Sets { sets, wishes: self.wishes.clone() });
        Some(self.published.clone())
    }

    /// Begins another request: it may be about [`MAX_EXPANDED`] elements.
    pub fn begin(&mut self) {
        self.expanded = 0;
    }

    /// Whether sets were made, renamed or destroyed since the last time this was asked.
    pub fn take_other_names(&mut self) -> bool {
        std::mem::take(&mut self.has_other_names)
    }

    /// Whether something was changed since the last time this was asked.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.is_dirty) | self.wishes.take_written()
    }

    fn get(&self, id: SetId) -> &Content {
        &self.named[usize::from(id.0)].as_ref().expect("an id of a set that there is").content
    }

    fn get_mut(&mut self, id: SetId) -> &mut Content {
        &mut self.named[usize::from(id.0)].as_mut().expect("an id of a set that there is").content
    }

    fn find(&self, name: &str) -> Result<SetId, Refusal> {
        self.id(name).ok_or_else(|| Refusal::new(NO_SET))
    }

    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.seed ^ self.seed >> 29
    }

    fn create(&mut self, name: &str, definition: Definition) -> Result<(), Refusal> {
        let id = match self.named.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.named.len() < MAX_SETS => {
                self.named.push(None);
                self.named.len() - 1
            }
            None => return Err(Refusal::new("The limit of the number of sets is reached")),
        };
        let seed = self.next_seed();
        let set = Arc::new(definition.set(Arc::new(definition.store(0, seed))));
        let content = Content { definition, set, comments: Arc::default() };
        self.named[id] = Some(Named { name: name.to_owned(), content });
        let id = SetId(id as u16);
        self.by_name.insert(name.to_owned(), id);
        self.order.push(id);
        self.has_other_names = true;
        self.is_changed = true;
        Ok(())
    }

    fn destroy(&mut self, id: SetId) {
        if let Some(named) = self.named[usize::from(id.0)].take() {
            self.by_name.remove(&named.name);
        }
        self.order.retain(|&other| other != id);
        self.has_other_names = true;
        self.is_changed = true;
    }

    fn flush(&mut self, id: SetId) {
        let seed = self.next_seed();
        let content = self.get_mut(id);
        pen(&content.set.store).keep();
        let store = Arc::new(content.definition.store(0, seed));
        content.set = Arc::new(content.definition.set(store));
        content.comments = Arc::default();
        self.is_changed = true;
    }

    fn swap(&mut self, a: SetId, b: SetId) {
        let of_a = self.get(a).clone();
        let of_b = std::mem::replace(self.get_mut(b), of_a);
        *self.get_mut(a) = of_b;
        self.is_changed = true;
    }

    fn rename(&mut self, id: SetId, name: &str) {
        self.has_other_names = true;
        if let Some(named) = &mut self.named[usize::from(id.0)] {
            self.by_name.remove(&named.name);
            name.clone_into(&mut named.name);
            self.by_name.insert(name.to_owned(), id);
        }
    }

    /// A store with the elements whose time is not over, and room for a quarter more at least. Nobody writes into the old one any more.
    fn grow(&mut self, id: SetId, now: Tick) {
        let seed = self.next_seed();
        let content = self.get_mut(id);
        let old = content.set.clone();
        let store = content.definition.store(old.store.len() * 5 / 4 + 16, seed);
        let mut living = old.store.iter().filter(|&(_, slot)| !old.store.is_over(slot, now));
        let pen = pen(&store);
        loop {
            // The places of some are fetched together: they are anywhere in memory.
            let some: ArrayVec<(Key, Slot), FETCHED> = living.by_ref().take(FETCHED).collect();
            some.iter().for_each(|(key, _)| store.prefetch(key));
            for &(key, slot) in &some {
                let value = old.store.value(slot);
                let element = Element::of_key(&key, value, old.kind, old.family);
                let extensions = old.store.extensions(slot);
                pen.put(&key, value, slot.is_nomatch, &extensions, element.lens(old.kind));
            }
            if some.is_empty() {
                break;
            }
        }
        drop(pen);
        content.set = Arc::new(Set { store: Arc::new(store), ..Set::clone(&old) });
        self.is_changed = true;
    }

    /// Puts one element into a set.
    fn put(
        &mut self,
        id: SetId,
        element: &Element,
        nomatch: bool,
        extensions: &Extensions,
        comment: Option<&str>,
        now: Tick,
    ) -> Result<(), Refusal> {
        let mut has_made_room = false;
        loop {
            let Content { set, comments, .. } = self.get_mut(id);
            let set = set.clone();
            let (kind, key) = (set.kind, element.key(set.kind, set.family));
            let pen = pen(&set.store);
            let there = set.store.find(&key);
            let is_crowded = set.store.interfaces(&key) >= MAX_INTERFACES;
            if there.is_none() && (is_crowded || set.store.len() >= set.most) {
                drop(pen);
                // Nothing is pushed out of a network with too many interfaces.
                if has_made_room || !self.make_room(id, set.is_forced && !is_crowded, now) {
                    return Err(Refusal::new("Hash is full, cannot add more elements"));
                }
                has_made_room = true;
                continue;
            }
            if !set.store.has_room() {
                pen.keep();
                self.grow(id, now);
                continue;
            }
            let mut extensions = *extensions;
            if set.store.shape().has_comment {
                let before = there.map_or(0, |slot| set.store.extensions(slot).comment);
                let is_stale = comments.are_stale(&set.store);
                if before != 0 || is_stale || comment.is_some() {
                    let comments = Arc::make_mut(comments);
                    comments.remove(before);
                    if is_stale {
                        comments.purge(&set.store);
                    }
                    extensions.comment = comment.map_or(0, |text| comments.add(text));
                }
            }
            let is_put = pen.put(&key, element.mac_value(), nomatch, &extensions, element.lens(kind));
            self.is_dirty |= is_put;
            return if is_put { Ok(()) } else { Err(Refusal::new("Element is out of the range of the set")) };
        }
    }

    /// Removes what is over; or, if it shall, any one. False: there is none such.
    fn make_room(&mut self, id: SetId, is_forced: bool, now: Tick) -> bool {
        let start = self.next_seed() as usize;
        let set = self.get(id).set.clone();
        let (store, slots) = (&set.store, set.store.slots());
        if is_forced {
            let mut around = (0..slots).filter_map(|i| store.at((start.wrapping_add(i)) % slots));
            let Some((key, slot)) = around.next() else { return false };
            self.remove(id, &key, slot);
            return true;
        }
        if !store.shape().has_timeout {
            return false;
        }
        let before = store.len();
        for (key, slot) in store.iter() {
            self.remove_if_over(id, &key, slot, now);
        }
        store.len() < before
    }

    fn remove_if_over(&mut self, id: SetId, key: &Key, slot: Slot, now: Tick) {
        let set = &self.get(id).set;
        if !set.store.is_over(slot, now) {
            return;
        }
        let store = set.store.clone();
        let pen = pen(&store);
        // A packet may have begun it anew since.
        if store.is_over(slot, now) {
            self.take_out(id, key, slot, &pen);
        }
    }

    fn remove(&mut self, id: SetId, key: &Key, slot: Slot) {
        let store = self.get(id).set.store.clone();
        self.take_out(id, key, slot, &pen(&store));
        self.is_dirty = true;
    }

    fn take_out(&mut self, id: SetId, key: &Key, slot: Slot, pen: &Pen<'_>) {
        let content = self.get_mut(id);
        let (kind, family) = (content.set.kind, content.set.family);
        pen.remove(slot, Element::of_key(key, 0, kind, family).lens(kind));
        let comment = content.set.store.extensions(slot).comment;
        if comment != 0 {
            Arc::make_mut(&mut content.comments).remove(comment);
        }
        if kind.is_list() {
            let gone = SetId(key[0] as u16);
            let members = content.set.members.iter().copied().filter(|&member| member != gone).collect();
            content.set = Arc::new(Set { members, ..Set::clone(&content.set) });
            self.is_changed = true;
        }
    }

    /// Does what workers left to be done.
    pub fn grant_wishes(&mut self, now: Tick) {
        let wishes = self.wishes.clone();
        self.full.retain(|_, &mut since| now.since(since) < FULL_FOR);
        for Wish { set: id, kind, family, element, put } in std::iter::from_fn(|| wishes.take()).take(GRANTED)
        {
            let named = self.named.get(usize::from(id.0)).and_then(Option::as_ref);
            // Rules may have let it go since, and another may have its id.
            let Some(set) = named.map(|named| named.content.set.clone()) else { continue };
            if set.kind != kind || set.family != family {
                continue;
            }
            let there =
                set.store.find(&element.key(kind, family)).filter(|&slot| !set.store.is_over(slot, now));
            match (put, there) {
                (None, Some(slot)) => self.remove(id, &element.key(kind, family), slot),
                (None, None) => {}
                (Some((Adding { exist: false, .. }, _)), Some(_)) => {}
                (Some(_), None) if self.full.contains_key(&id) => {}
                (Some((_, extensions)), _) => {
                    if self.put(id, &element, false, &extensions, None, now).is_err() {
                        self.full.insert(id, now);
                    }
                }
            }
            self.is_dirty = true;
        }
    }

    /// What workers left to be done, and how much of it was lost.
    pub fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    /// Removes elements whose time is over: a bounded piece of the work, each time the next.
    pub fn sweep(&mut self, now: Tick) {
        let mut budget = SWEPT;
        for _ in 0..self.order.len() {
            let (which, from) = self.swept;
            let Some(&id) = self.order.get(which) else {
                self.swept = (0, 0);
                continue;
            };
            let store: Arc<Store> = self.get(id).set.store.clone();
            // It may be another store, and a smaller one, than that which was looked at last.
            let from = from.min(store.slots());
            let to = if store.shape().has_timeout { store.slots().min(from + budget) } else { from };
            for index in from..to {
                if let Some((key, slot)) = store.at(index) {
                    self.remove_if_over(id, &key, slot, now);
                }
            }
            budget -= to - from;
            if budget == 0 && to < store.slots() {
                self.swept = (which, to);
                return;
            }
            self.swept = (which + 1, 0);
        }
    }

    /// Removes all elements whose time is over.
    pub fn sweep_all(&mut self, now: Tick) {
        for id in self.order.clone() {
            let store = self.get(id).set.store.clone();
            if store.shape().has_timeout {
                store.iter().for_each(|(key, slot)| self.remove_if_over(id, &key, slot, now));
            }
        }
    }

    /// Ticks from now to the end of an element of so many seconds; `None`: none.
    fn until(seconds: u32, now: Tick) -> Option<Tick> {
        (seconds > 0).then(|| now.after(Timeout(seconds.saturating_mul(Tick::PER_SECOND))))
    }
}

#[cfg(test)]
mod tests;
