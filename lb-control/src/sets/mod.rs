//! IP sets as the operator made them: `ipset` lines in, stores and listings out.
//!
//! A line travels as it was typed and is read here, where the types of the sets are known. What a line adds is in the workers' stores
//! when it is done; only a set that is made, gone, swapped, or has outgrown its store needs new tables.

mod definition;
mod line;
mod text;
mod view;

use std::sync::Arc;

use hashbrown::HashMap;
use lb_core::set::{Element, Extensions, Key, MAX_SETS, Set, SetId, Sets, Slot, Store};
use lb_core::time::{Tick, Timeout};
use rustix::time::{ClockId, Timespec, clock_gettime};

pub use definition::Definition;
pub use line::{MAX_NAME, command};
pub use text::Refusal;
pub use view::{Format, Listing, SetView};

/// Slots that one [`IpSets::sweep`] looks at.
const SWEPT: usize = 262_144;
/// Elements that the lines of one request may stand for: it must end.
const MAX_EXPANDED: usize = 1 << 20;
/// A set doubles its store at most so often that it holds no more.
const MAX_ELEMENTS: usize = 1 << 28;

type Comments = HashMap<Key, Box<str>>;

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
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
    Tick((tv_sec as u64 * u64::from(Tick::PER_SECOND) + tv_nsec as u64 / 10_000_000) as u32)
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
    /// From outside of the sets, by who has them.
    references: HashMap<&'static str, Vec<SetId>>,
    published: Arc<Sets>,
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

    /// How often a set is named: by lists, and by who said so.
    pub fn references(&self, id: SetId) -> usize {
        let lists = self.named.iter().flatten().flat_map(|named| named.content.set.members.iter());
        lists.chain(self.references.values().flatten()).filter(|&&other| other == id).count()
    }

    /// Says which sets `owner` names now, each as often as it does: they cannot be destroyed.
    pub fn refer(&mut self, owner: &'static str, sets: Vec<SetId>) {
        self.references.insert(owner, sets);
    }

    /// The sets for the next tables; `None`: those that were given last.
    pub fn take_change(&mut self) -> Option<Arc<Sets>> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let set = |named: &Option<Named>| named.as_ref().map(|named| named.content.set.clone());
        self.published = Arc::new(Sets(self.named.iter().map(set).collect()));
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
        std::mem::take(&mut self.is_dirty)
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

    /// A store with twice the room and the elements whose time is not over.
    fn grow(&mut self, id: SetId, now: Tick) {
        let seed = self.next_seed();
        let content = self.get_mut(id);
        let old = &content.set;
        let store = content.definition.store((old.store.len() + 16) * 2, seed);
        for (key, slot) in old.store.iter().filter(|&(_, slot)| !old.store.is_over(slot, now)) {
            let value = old.store.value(slot);
            let element = Element::of_key(&key, value, old.kind, old.family);
            store.put(&key, value, slot.is_nomatch, &old.store.extensions(slot), element.lens(old.kind));
        }
        content.set = Arc::new(Set { store: Arc::new(store), ..Set::clone(old) });
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
        let content = self.get(id);
        let (kind, family) = (content.set.kind, content.set.family);
        let key = element.key(kind, family);
        let is_there = content.set.store.find(&key).is_some();
        let full = || Refusal::new("Hash is full, cannot add more elements");
        if !is_there && kind.is_hash() {
            let most = (content.definition.maxelem as usize).min(MAX_ELEMENTS);
            if content.set.store.len() >= most {
                self.make_room(id, now);
                if self.get(id).set.store.len() >= most {
                    return Err(full());
                }
            }
        }
        if !self.get(id).set.store.has_room() {
            self.grow(id, now);
        }
        let content = self.get_mut(id);
        let value = element.mac_value();
        if !content.set.store.put(&key, value, nomatch, extensions, element.lens(kind)) {
            return Err(Refusal::new("Element is out of the range of the set"));
        }
        match comment {
            Some(comment) => {
                Arc::make_mut(&mut content.comments).insert(key, comment.into());
            }
            None if !content.comments.is_empty() => {
                Arc::make_mut(&mut content.comments).remove(&key);
            }
            None => {}
        }
        Ok(())
    }

    /// Removes what is over; where elements may be pushed out, one that is not.
    fn make_room(&mut self, id: SetId, now: Tick) {
        let content = self.get(id);
        let store = content.set.store.clone();
        let (mut over, mut any) = (Vec::new(), None);
        for (key, slot) in store.iter() {
            if store.is_over(slot, now) {
                over.push((key, slot));
            } else {
                any = any.or(Some((key, slot)));
            }
        }
        if over.is_empty() && content.definition.forceadd {
            over.extend(any);
        }
        for (key, slot) in over {
            self.remove(id, &key, slot);
        }
    }

    fn remove(&mut self, id: SetId, key: &Key, slot: Slot) {
        let content = self.get_mut(id);
        let (kind, family) = (content.set.kind, content.set.family);
        content.set.store.remove(slot, Element::of_key(key, 0, kind, family).lens(kind));
        if content.comments.contains_key(key) {
            Arc::make_mut(&mut content.comments).remove(key);
        }
        if kind.is_list() {
            let gone = SetId(key[0] as u16);
            let members = content.set.members.iter().copied().filter(|&member| member != gone).collect();
            content.set = Arc::new(Set { members, ..Set::clone(&content.set) });
            self.is_changed = true;
        }
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
                if let Some((key, slot)) = store.at(index)
                    && store.is_over(slot, now)
                {
                    self.remove(id, &key, slot);
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

    /// Ticks from now to the end of an element of so many seconds; `None`: none.
    fn until(seconds: u32, now: Tick) -> Option<Tick> {
        (seconds > 0).then(|| now.after(Timeout(seconds.saturating_mul(Tick::PER_SECOND))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_is_flushed_while_it_is_swept_is_swept_from_where_it_ends() {
        let mut sets = IpSets::new(1);
        let line = |sets: &mut IpSets, line: &str| sets.line(line, false, Tick(0)).expect("done");
        line(&mut sets, "create a hash:ip timeout 1 maxelem 1000000");
        line(&mut sets, "add a 10.0.0.0/14");
        assert!(sets.get(SetId(0)).set.store.slots() > SWEPT, "too wide for one sweep");
        sets.sweep(Tick(0));
        line(&mut sets, "flush a");
        line(&mut sets, "add a 10.0.0.1");
        // To its end from where the other store was left, then to the beginning, and then from there.
        for _ in 0..3 {
            sets.sweep(Tick(1000));
        }
        assert!(sets.get(SetId(0)).set.store.is_empty());
    }
}
