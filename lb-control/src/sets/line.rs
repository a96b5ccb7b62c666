//! One line of `ipset`, done.

use std::sync::Arc;

use hashbrown::HashSet;
use lb_core::set::{Element, Key, Part, Set, SetId, SetType};
use lb_core::time::Tick;

use super::command::{check_count, command};
use super::definition::Definition;
use super::entry::{Said, beside, expand, extensions, first, has_mac_value, is_possible, keep_counts};
use super::text::{self, Refusal};
use super::{Content, IpSets, MAX_EXPANDED};

/// Longest name of a set, bytes.
pub const MAX_NAME: usize = 31;

const NULL: &str = "Null-valued element, cannot be stored in a hash type of set";
const NO_NEIGHBOUR: &str = "The set to which you referred with 'before' or 'after' is not added to the set.";
const NO_NEIGHBOUR_SET: &str = "The set to which you referred with 'before' or 'after' does not exist.";

/// What is there already is no error.
fn is_exist(word: &str) -> bool {
    matches!(word, "-exist" | "--exist" | "-!")
}

impl IpSets {
    /// Does one line. `exist`: what is there already, or not there any more, is no error. Returns what `ipset test` says.
    ///
    /// # Errors
    /// In ipset's words; what the line had done before stays, as in the kernel.
    pub fn line(&mut self, line: &str, exist: bool, now: Tick) -> Result<Option<String>, Refusal> {
        let mut words = text::words(line)?;
        let before = words.len();
        words.retain(|word| !is_exist(word));
        let exist = exist || words.len() < before;
        let Some(first) = words.first() else { return Ok(None) };
        let Some(command) = command(first) else {
            return Err(Refusal::parameter(format!("No command specified: unknown argument {first}")));
        };
        check_count(command, &words)?;
        if let Some(name) = words.get(1).filter(|name| name.len() > MAX_NAME) {
            return Err(Refusal::syntax(format!("setname '{name}' is longer than {MAX_NAME} characters")));
        }
        let word = |at: usize| words.get(at).copied().unwrap_or_default();
        if command == "rename" && word(2).len() > MAX_NAME {
            let to = word(2);
            return Err(Refusal::syntax(format!("setname '{to}' is longer than {MAX_NAME} characters")));
        }
        let rest = words.get(3..).unwrap_or_default();
        let done = match command {
            "create" => self.do_create(word(1), word(2), rest, exist),
            "add" => self.do_add(word(1), word(2), rest, exist, now),
            "del" => self.do_del(word(1), word(2), rest, exist, now),
            "test" => return self.do_test(word(1), word(2), rest, now).map(Some),
            "destroy" => self.do_destroy(words.get(1).copied(), exist),
            "flush" => self.do_flush(words.get(1).copied()),
            "rename" => self.do_rename(word(1), word(2)),
            "swap" => self.do_swap(word(1), word(2)),
            other => Err(Refusal::parameter(format!("{other} is not possible here"))),
        };
        self.is_dirty |= done.is_ok();
        done.map(|()| None)
    }

    /// Whether a line can be read. What the sets say to it is not asked.
    ///
    /// # Errors
    /// As the line's own, if it cannot be read.
    pub fn check(&self, line: &str) -> Result<(), Refusal> {
        let words = text::words(line)?;
        let Some(first) = words.first() else { return Ok(()) };
        let Some(command) = command(first) else {
            return Err(Refusal::parameter(format!("No command specified: unknown argument {first}")));
        };
        check_count(command, &words)?;
        let [_, name, entry, rest @ ..] = words.as_slice() else { return Ok(()) };
        let rest: Vec<&str> = rest.iter().copied().filter(|word| !is_exist(word)).collect();
        match (command, self.id(name)) {
            ("create", _) => {
                SetType::named(entry).map_or(Ok(()), |kind| Definition::parse(kind, &rest, 0).map(drop))
            }
            ("add" | "del", Some(id)) => {
                let definition = &self.get(id).definition;
                if !definition.kind.is_list() {
                    let is_wildcard = rest.contains(&"wildcard");
                    text::range(entry, definition.kind, definition.family, is_wildcard)?;
                }
                Said::read(command, definition.kind, &rest).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn do_create(&mut self, name: &str, kind: &str, rest: &[&str], exist: bool) -> Result<(), Refusal> {
        let kind =
            SetType::named(kind).ok_or_else(|| Refusal::syntax(format!("typename '{kind}' is unknown")))?;
        let seed = self.next_seed() as u32;
        let definition = Definition::parse(kind, rest, seed)?;
        let Some(id) = self.id(name) else { return self.create(name, definition) };
        let there = &self.get(id).definition;
        // As the kernel compares them.
        let same = Definition {
            family: there.family,
            forceadd: there.forceadd,
            hashsize: there.hashsize,
            bucketsize: there.bucketsize,
            initval: there.initval,
            ..definition
        };
        if exist && same == *there {
            return Ok(());
        }
        Err(Refusal::new("Set cannot be created: set with the same name already exists"))
    }

    fn do_destroy(&mut self, name: Option<&str>, exist: bool) -> Result<(), Refusal> {
        let which = match name {
            Some(name) if exist && self.id(name).is_none() => return Ok(()),
            Some(name) => vec![self.find(name)?],
            None => self.order.clone(),
        };
        if which.iter().any(|&id| self.references(id) > 0) {
            return Err(Refusal::new("Set cannot be destroyed: it is in use by a kernel component"));
        }
        which.into_iter().for_each(|id| self.destroy(id));
        Ok(())
    }

    fn do_flush(&mut self, name: Option<&str>) -> Result<(), Refusal> {
        let which = match name {
            Some(name) => vec![self.find(name)?],
            None => self.order.clone(),
        };
        which.into_iter().for_each(|id| self.flush(id));
        Ok(())
    }

    fn do_rename(&mut self, from: &str, to: &str) -> Result<(), Refusal> {
        let id = self.find(from)?;
        if self.references(id) > 0 {
            return Err(Refusal::new("Set cannot be renamed: it is in use by another system"));
        }
        if self.id(to).is_some() {
            return Err(Refusal::new("Set cannot be renamed: a set with the new name already exists"));
        }
        self.rename(id, to);
        Ok(())
    }

    fn do_swap(&mut self, a: &str, b: &str) -> Result<(), Refusal> {
        let a = self.find(a)?;
        let b = self
            .id(b)
            .ok_or_else(|| Refusal::new("Sets cannot be swapped: the second set does not exist"))?;
        let (of_a, of_b) = (&self.get(a).definition, &self.get(b).definition);
        if features(of_a.kind) != features(of_b.kind) || of_a.family != of_b.family {
            return Err(Refusal::new("The sets cannot be swapped: their type does not match"));
        }
        self.swap(a, b);
        Ok(())
    }

    fn do_add(
        &mut self,
        name: &str,
        entry: &str,
        rest: &[&str],
        exist: bool,
        now: Tick,
    ) -> Result<(), Refusal> {
        let id = self.find(name)?;
        let definition = self.get(id).definition.clone();
        if definition.kind.is_list() {
            let mut said = Said::read("add", definition.kind, rest)?;
            let entry = beside(entry, &mut said)?;
            said.is_kept_by(&definition)?;
            return self.add_to_list(id, entry, &said, exist, now);
        }
        let is_wildcard = rest.contains(&"wildcard");
        let range = text::range(entry, definition.kind, definition.family, is_wildcard)?;
        let said = Said::read("add", definition.kind, rest)?;
        // The kernel asks a bitmap of ports in the other order.
        if definition.kind.has(Part::OnlyPort) {
            is_possible(&definition, &range)?;
        }
        said.is_kept_by(&definition)?;
        is_possible(&definition, &range)?;
        let given = extensions(&definition, &said, now);
        let mut done = Done::of(&definition);
        expand(&definition, &range, &mut |element| {
            self.expand_one(entry)?;
            let set = &self.get(id).set;
            if !set.takes(element) {
                return Err(Refusal::new(NULL));
            }
            if done.has(element.key(set.kind, set.family)) {
                return Ok(());
            }
            let mut element = *element;
            let element = &mut element;
            let there = set.store.find(&element.key(set.kind, set.family));
            let there = there.filter(|&slot| !set.store.is_over(slot, now));
            let mut extensions = given;
            if let Some(slot) = there {
                // An address without a MAC gets one.
                let gets_mac = has_mac_value(set.kind, element) && set.store.value(slot) == 0;
                if !exist && !gets_mac {
                    let message = "Element cannot be added to the set: it's already added";
                    return Err(Refusal::new(message));
                }
                if set.kind.has(Part::MacValue) && element.mac == [0; 6] {
                    let value = set.store.value(slot);
                    *element =
                        Element::of_key(&element.key(set.kind, set.family), value, set.kind, set.family);
                }
                let before = set.store.extensions(slot);
                keep_counts(&mut extensions, &said, &before);
                // Its time begins with its MAC: that which it was put in with, unless the line says another one.
                if gets_mac && said.timeout.is_none_or(|seconds| Some(seconds) == definition.timeout) {
                    extensions.until = IpSets::until(before.held, now);
                }
            }
            if definition.kind.has(Part::MacValue) && element.mac == [0; 6] {
                (extensions.until, extensions.held) =
                    (None, said.timeout.or(definition.timeout).unwrap_or(0));
            }
            self.put(id, element, said.nomatch, &extensions, said.comment.as_deref(), now)
        })
    }

    fn do_del(
        &mut self,
        name: &str,
        entry: &str,
        rest: &[&str],
        exist: bool,
        now: Tick,
    ) -> Result<(), Refusal> {
        let id = self.find(name)?;
        let definition = self.get(id).definition.clone();
        let absent = || Refusal::new("Element cannot be deleted from the set: it's not added");
        if definition.kind.is_list() {
            let mut said = Said::read("del", definition.kind, rest)?;
            let element = self.member(beside(entry, &mut said)?)?;
            let set = self.get(id).set.clone();
            if !self.is_beside(&set, &element, &said)? {
                return Err(Refusal::new(NO_NEIGHBOUR));
            }
            let key = element.key(set.kind, set.family);
            return match set.store.find(&key) {
                Some(slot) => {
                    self.remove(id, &key, slot);
                    Ok(())
                }
                None if exist => Ok(()),
                None => Err(absent()),
            };
        }
        let is_wildcard = rest.contains(&"wildcard");
        let range = text::range(entry, definition.kind, definition.family, is_wildcard)?;
        Said::read("del", definition.kind, rest)?;
        is_possible(&definition, &range)?;
        let mut done = Done::of(&definition);
        expand(&definition, &range, &mut |element| {
            self.expand_one(entry)?;
            let set = self.get(id).set.clone();
            if !set.takes(element) {
                return Err(Refusal::new(NULL));
            }
            let key = element.key(set.kind, set.family);
            if done.has(key) {
                return Ok(());
            }
            match set.store.find(&key) {
                Some(slot) if exist || !set.store.is_over(slot, now) => {
                    self.remove(id, &key, slot);
                    Ok(())
                }
                _ if exist => Ok(()),
                _ => Err(absent()),
            }
        })
    }

    fn do_test(&mut self, name: &str, entry: &str, rest: &[&str], now: Tick) -> Result<String, Refusal> {
        let id = self.find(name)?;
        let definition = self.get(id).definition.clone();
        let set = self.get(id).set.clone();
        let kind = definition.kind;
        let mut repeated = entry.to_owned();
        let is_nomatch;
        let slot = if kind.is_list() {
            let mut said = Said::read("test", kind, rest)?;
            is_nomatch = said.nomatch;
            // What is no set is in no list.
            let entry = beside(entry, &mut said)?;
            if entry.contains(',') {
                self.member(entry)?;
            }
            self.member(entry).ok().and_then(|element| {
                let is_beside = self.is_beside(&set, &element, &said).unwrap_or(false);
                let slot = set.store.find(&element.key(set.kind, set.family));
                slot.filter(|&slot| is_beside && !set.store.is_over(slot, now))
            })
        } else {
            let range = text::range(entry, kind, definition.family, false)?;
            is_nomatch = Said::read("test", kind, rest)?.nomatch;
            if let Some(refusal) = text::refused_range(entry, &range, kind, definition.family) {
                return Err(refusal);
            }
            if kind.has(Part::Port) {
                is_possible(&definition, &range)?;
            }
            repeated = text::repeated(entry, &range, kind, definition.family);
            let full = definition.family.bits();
            let mut element = first(&definition, &range);
            if kind.name == "hash:ip" {
                // The address as it was said, whatever follows.
                let said = entry.split(['/', '-']).next().unwrap_or(entry);
                element.address = text::address(said, definition.family)? & definition.address_mask();
            }
            // A network that is given by its length is looked for itself.
            let is_exact =
                range.len.is_some_and(|len| len < full) || range.second_len.is_some_and(|len| len < full);
            if is_exact {
                (element.len, element.second_len) = (
                    if kind.has(Part::Net) { range.len.unwrap_or(full) } else { 0 },
                    if kind.has(Part::SecondNet) { range.second_len.unwrap_or(full) } else { 0 },
                );
                set.find_itself(&element, now)
            } else {
                set.find(&element, now)
            }
        };
        if slot.is_some_and(|slot| slot.is_nomatch == is_nomatch) {
            return Ok(format!("Warning: {repeated} is in set {name}."));
        }
        // Without ipset's name before it.
        Err(Refusal { code: 0, message: format!("{repeated} is NOT in set {name}.") })
    }

    fn expand_one(&mut self, entry: &str) -> Result<(), Refusal> {
        self.expanded += 1;
        if self.expanded <= MAX_EXPANDED {
            return Ok(());
        }
        Err(Refusal::new(format!(
            "{entry}: a request is about {MAX_EXPANDED} elements at most: use more of them"
        )))
    }

    fn member(&self, name: &str) -> Result<Element, Refusal> {
        if name.len() > MAX_NAME {
            return Err(Refusal::syntax(format!("setname '{name}' is longer than {MAX_NAME} characters")));
        }
        if name.contains(',') {
            let message = "you must specify elements as setname,[before|after],setname";
            return Err(Refusal::new(message));
        }
        let id = self
            .id(name)
            .ok_or_else(|| Refusal::new("Set to be added/deleted/tested as element does not exist."))?;
        if self.get(id).definition.kind.is_list() {
            return Err(Refusal::new("Sets with list:set type cannot be added to the set."));
        }
        Ok(Element { set: id.0.into(), ..Element::default() })
    }

    /// Whether a list has the set of an element right before or after the one that the line says, if it says one.
    fn is_beside(&self, list: &Set, element: &Element, said: &Said) -> Result<bool, Refusal> {
        let Some(neighbour) = said.before.as_ref().or(said.after.as_ref()) else { return Ok(true) };
        let neighbour = self.id(neighbour).ok_or_else(|| Refusal::new(NO_NEIGHBOUR_SET))?;
        let of_element = SetId(element.set as u16);
        let pair = if said.before.is_some() { [of_element, neighbour] } else { [neighbour, of_element] };
        Ok(list.members.windows(2).any(|two| two == pair))
    }

    fn add_to_list(
        &mut self,
        id: SetId,
        entry: &str,
        said: &Said,
        exist: bool,
        now: Tick,
    ) -> Result<(), Refusal> {
        let element = self.member(entry)?;
        let member = SetId(element.set as u16);
        let mut members = self.get(id).set.members.to_vec();
        let there = members.iter().position(|&other| other == member);
        let neighbour = said.before.as_ref().or(said.after.as_ref());
        let at = match neighbour {
            None => members.len(),
            Some(name) => {
                let id = self.id(name).ok_or_else(|| Refusal::new(NO_NEIGHBOUR_SET))?;
                let at = members.iter().position(|&other| other == id);
                let at = at.ok_or_else(|| Refusal::new(NO_NEIGHBOUR))?;
                at + usize::from(said.before.is_none())
            }
        };
        if there.is_some() && !exist {
            return Err(Refusal::new("Element cannot be added to the set: it's already added"));
        }
        if there.is_none() {
            if members.len() >= lb_core::set::MAX_LIST {
                return Err(Refusal::new("Set is full, more elements cannot be added."));
            }
            members.insert(at, member);
        }
        let Content { definition, set, .. } = self.get(id);
        let mut extensions = extensions(definition, said, now);
        if let Some(slot) = there.and_then(|_| set.store.find(&element.key(set.kind, set.family))) {
            keep_counts(&mut extensions, said, &set.store.extensions(slot));
        }
        self.put(id, &element, false, &extensions, said.comment.as_deref(), now)?;
        let content = self.get_mut(id);
        content.set = Arc::new(Set { members: members.into(), ..Set::clone(&content.set) });
        self.is_changed = true;
        Ok(())
    }
}

/// The elements that a line was about already, where a mask makes one of several.
struct Done(Option<HashSet<Key>>);

impl Done {
    fn of(definition: &Definition) -> Done {
        Done(definition.bitmask.map(|_| HashSet::new()))
    }

    /// Whether the line was about it; from now on it was.
    fn has(&mut self, key: Key) -> bool {
        self.0.as_mut().is_some_and(|done| !done.insert(key))
    }
}

/// What sets must have in common to be exchanged: what their elements are of, not how they keep them. Source: the kernel's `IPSET_TYPE_…`.
fn features(kind: &SetType) -> (Vec<Part>, bool) {
    let feature = |part: &Part| match part {
        Part::Net => Part::Address,
        Part::SecondNet => Part::SecondAddress,
        Part::OnlyPort => Part::Port,
        Part::MacValue => Part::Mac,
        other => *other,
    };
    (kind.parts.iter().map(feature).collect(), kind.has_nets())
}
