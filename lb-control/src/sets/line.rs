//! One line of `ipset`, done.

use lb_core::set::{Element, Extensions, MAX_TIMEOUT, Part, Set, SetId, SetType, SkbInfo};
use lb_core::time::Tick;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::definition::Definition;
use super::text::{self, Refusal, number};
use super::{Content, IpSets, MAX_EXPANDED};

/// Longest name of a set, bytes.
pub const MAX_NAME: usize = 31;
/// Longest comment, bytes.
const MAX_COMMENT: usize = 255;

/// Without an end that is known here.
const ANY: usize = usize::MAX;

/// Commands by name, with their old letter, and how many words must and may follow. Of a name its beginning will do: the first one that
/// begins so.
const COMMANDS: &[(&str, char, usize, usize)] = &[
    ("create", 'N', 2, ANY),
    ("add", 'A', 2, ANY),
    ("del", 'D', 2, ANY),
    ("test", 'T', 2, ANY),
    ("destroy", 'X', 0, 1),
    ("list", 'L', 0, 1),
    ("save", 'S', 0, 1),
    ("restore", 'R', 0, 0),
    ("flush", 'F', 0, 1),
    ("rename", 'E', 2, 2),
    ("swap", 'W', 2, 2),
    ("help", 'H', 0, ANY),
    ("version", 'V', 0, ANY),
];

/// The command that a word names: by its name or the beginning of it, also behind two dashes, or by its letter, in upper case behind one dash.
pub fn command(word: &str) -> Option<&'static str> {
    if let Some((name, ..)) = COMMANDS.iter().find(|(name, ..)| *name == word) {
        return Some(name);
    }
    let long = word.strip_prefix("--").unwrap_or(word);
    if !long.is_empty() && "new".starts_with(long) {
        return Some("create");
    }
    if let "-h" | "-v" = word {
        return Some(if word == "-h" { "help" } else { "version" });
    }
    let is_it = |(name, letter, ..): &&(&str, char, usize, usize)| {
        let is_letter = |text: &str, letter: char| text.chars().eq([letter]);
        let is_short = word.strip_prefix('-').is_some_and(|short| is_letter(short, *letter))
            || is_letter(long, letter.to_ascii_lowercase());
        is_short || !long.is_empty() && name.starts_with(long)
    };
    COMMANDS.iter().find(is_it).map(|(name, ..)| *name)
}

/// Whether a command has as many words, itself among them, as it must and may have.
///
/// # Errors
/// In ipset's words.
pub fn check_count(command: &str, words: &[impl AsRef<str>]) -> Result<(), Refusal> {
    let known = COMMANDS.iter().find(|(name, ..)| *name == command);
    let (least, most) = known.map_or((0, ANY), |&(_, _, least, most)| (least, most));
    if words.len() <= least {
        let which = if words.len() == 1 { "" } else { "second " };
        let message = format!("Missing {which}mandatory argument to command {command}");
        return Err(Refusal::parameter(message));
    }
    match words.get(most.saturating_add(1)) {
        Some(word) => Err(Refusal::parameter(format!("Unknown argument {}", word.as_ref()))),
        None => Ok(()),
    }
}

/// What an entry says besides the element.
#[derive(Default)]
struct Said {
    nomatch: bool,
    timeout: Option<u32>,
    packets: Option<u64>,
    bytes: Option<u64>,
    comment: Option<String>,
    /// Mark and mask.
    skb_mark: Option<(u32, u32)>,
    skb_priority: Option<u32>,
    skb_queue: Option<u16>,
    before: Option<String>,
    after: Option<String>,
    is_wildcard: bool,
}

impl Said {
    fn skb(&self) -> SkbInfo {
        let (mark, mask) = self.skb_mark.unwrap_or_default();
        SkbInfo {
            mark,
            mask,
            priority: self.skb_priority.unwrap_or_default(),
            queue: self.skb_queue.unwrap_or_default(),
        }
    }

    /// Whether a set was made to keep all of it; in the order in which the kernel asks.
    fn is_kept_by(&self, definition: &Definition) -> Result<(), Refusal> {
        let says_skb = self.skb_mark.is_some() || self.skb_priority.is_some() || self.skb_queue.is_some();
        let asked = [
            (self.timeout.is_some(), definition.timeout.is_some(), "Timeout", "timeout"),
            (
                self.packets.is_some() || self.bytes.is_some(),
                definition.has_counters,
                "Packet/byte counters",
                "counter",
            ),
            (self.comment.is_some(), definition.has_comment, "Comment", "comment"),
            (says_skb, definition.has_skbinfo, "Skbinfo mapping", "skbinfo"),
        ];
        match asked.into_iter().find(|&(is_said, is_kept, ..)| is_said && !is_kept) {
            Some((.., what, which)) => {
                Err(Refusal::new(format!("{what} cannot be used: set was created without {which} support")))
            }
            None => Ok(()),
        }
    }
}

/// `0xMARK` or `0xMARK/0xMASK`: without `0x` a mask says nothing.
fn skb_mark(text: &str) -> Result<(u32, u32), Refusal> {
    let hex = |text: &str| {
        let digits =
            text.strip_prefix("0x").filter(|digits| digits.chars().all(|digit| digit.is_ascii_hexdigit()))?;
        // What is too large is all ones.
        (!digits.is_empty()).then(|| u32::from_str_radix(digits, 16).unwrap_or(u32::MAX))
    };
    let (mark, mask) = text.split_once('/').unwrap_or((text, ""));
    let bad = "Invalid skbmark format, it should be:  MARK/MASK or MARK (see manpage)";
    Ok((hex(mark).ok_or_else(|| Refusal::syntax(bad))?, hex(mask).unwrap_or(u32::MAX)))
}

/// `MAJOR:MINOR`, hexadecimal.
fn skb_priority(text: &str) -> Result<u32, Refusal> {
    let half = |text: &str| u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    let halves = text.split_once(':').and_then(|(major, minor)| Some((half(major)?, half(minor)?)));
    let bad = "Invalid skbprio format, it should be:MAJOR:MINOR (see manpage)";
    let (major, minor) = halves.ok_or_else(|| Refusal::syntax(bad))?;
    Ok((major & 0xffff) << 16 | minor & 0xffff)
}

const NULL: &str = "Null-valued element, cannot be stored in a hash type of set";
const NO_NEIGHBOUR: &str = "The set to which you referred with 'before' or 'after' is not added to the set.";
const NO_NEIGHBOUR_SET: &str = "The set to which you referred with 'before' or 'after' does not exist.";

impl IpSets {
    /// Does one line. `exist`: what is there already, or not there any more, is no error. Returns what `ipset test` says.
    ///
    /// # Errors
    /// In ipset's words; what the line had done before stays, as in the kernel.
    pub fn line(&mut self, line: &str, exist: bool, now: Tick) -> Result<Option<String>, Refusal> {
        let mut words = text::words(line)?;
        let before = words.len();
        words.retain(|word| !matches!(*word, "-exist" | "--exist" | "-!"));
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
            "destroy" => self.do_destroy(words.get(1).copied()),
            "flush" => self.do_flush(words.get(1).copied()),
            "rename" => self.do_rename(word(1), word(2)),
            "swap" => self.do_swap(word(1), word(2)),
            other => Err(Refusal::parameter(format!("{other} is not possible here"))),
        };
        self.is_dirty |= done.is_ok();
        done.map(|()| None)
    }

    /// Whether a line that adds to a set, or deletes from it, can be read. What the set says to it is not asked.
    ///
    /// # Errors
    /// As the line's own, if it cannot be read.
    pub fn check(&self, line: &str) -> Result<(), Refusal> {
        let words = text::words(line)?;
        let [_, name, entry, rest @ ..] = words.as_slice() else { return Ok(()) };
        let Some(id) = self.id(name) else { return Ok(()) };
        let definition = &self.get(id).definition;
        if definition.kind.is_list() {
            return Ok(());
        }
        let is_wildcard = rest.contains(&"wildcard");
        text::range(entry, definition.kind, definition.family, is_wildcard).map(drop)
    }

    fn do_create(&mut self, name: &str, kind: &str, rest: &[&str], exist: bool) -> Result<(), Refusal> {
        let kind =
            SetType::named(kind).ok_or_else(|| Refusal::syntax(format!("typename '{kind}' is unknown")))?;
        let seed = self.next_seed() as u32;
        let definition = Definition::parse(kind, rest, seed)?;
        let Some(id) = self.id(name) else { return self.create(name, definition) };
        let there = &self.get(id).definition;
        let same = Definition {
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

    fn do_destroy(&mut self, name: Option<&str>) -> Result<(), Refusal> {
        let which = match name {
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

    /// What follows an element, of which `command` takes some. Whether the set keeps it is [another question](Said::is_kept_by).
    fn said(&self, command: &str, kind: &SetType, rest: &[&str]) -> Result<Said, Refusal> {
        let mut said = Said::default();
        let mut words = rest.iter().copied();
        let (is_add, is_test) = (command == "add", command == "test");
        // Each once.
        fn put<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), Refusal> {
            match place.replace(value) {
                Some(_) => Err(Refusal::syntax(format!("{name} already specified"))),
                None => Ok(()),
            }
        }
        while let Some(word) = words.next() {
            let mut value = || {
                words.next().ok_or_else(|| {
                    Refusal::parameter(format!("Missing mandatory argument of option `{word}'"))
                })
            };
            let counts = 0..=u64::MAX - 1;
            match word {
                "timeout" if is_add => {
                    put(&mut said.timeout, word, number(value()?, 0..=MAX_TIMEOUT.into())? as u32)?;
                }
                "packets" if is_add => put(&mut said.packets, word, number(value()?, counts)?)?,
                "bytes" if is_add => put(&mut said.bytes, word, number(value()?, counts)?)?,
                "comment" if is_add => {
                    let comment = value()?;
                    if comment.len() > MAX_COMMENT {
                        return Err(Refusal::syntax(format!(
                            "Comment is longer than the maximum allowed {MAX_COMMENT} characters"
                        )));
                    }
                    put(&mut said.comment, word, comment.to_owned())?;
                }
                "nomatch" if kind.has_nets() && (is_add || is_test) => said.nomatch = true,
                "wildcard" if kind.has(Part::Interface) && !is_test => said.is_wildcard = true,
                "skbmark" if is_add => put(&mut said.skb_mark, word, skb_mark(value()?)?)?,
                "skbprio" if is_add => put(&mut said.skb_priority, word, skb_priority(value()?)?)?,
                "skbqueue" if is_add => {
                    put(&mut said.skb_queue, word, number(value()?, 0..=u16::MAX.into())? as u16)?;
                }
                "before" if kind.is_list() => said.before = Some(value()?.to_owned()),
                "after" if kind.is_list() => said.after = Some(value()?.to_owned()),
                _ => return Err(Refusal::parameter(format!("Unknown argument: `{word}'"))),
            }
        }
        Ok(said)
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
            let mut said = self.said("add", definition.kind, rest)?;
            let entry = beside(entry, &mut said);
            said.is_kept_by(&definition)?;
            return self.add_to_list(id, entry, &said, exist, now);
        }
        let is_wildcard = rest.contains(&"wildcard");
        let range = text::range(entry, definition.kind, definition.family, is_wildcard)?;
        let said = self.said("add", definition.kind, rest)?;
        // The kernel asks a bitmap of ports in the other order.
        if definition.kind.has(Part::OnlyPort) {
            is_possible(&definition, &range)?;
        }
        said.is_kept_by(&definition)?;
        is_possible(&definition, &range)?;
        let given = extensions(&definition, &said, now);
        expand(&definition, &range, &mut |element| {
            self.expand_one(entry)?;
            let set = &self.get(id).set;
            if !set.takes(element) {
                return Err(Refusal::new(NULL));
            }
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
            let mut said = self.said("del", definition.kind, rest)?;
            let element = self.member(beside(entry, &mut said))?;
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
        self.said("del", definition.kind, rest)?;
        is_possible(&definition, &range)?;
        expand(&definition, &range, &mut |element| {
            self.expand_one(entry)?;
            let set = self.get(id).set.clone();
            if !set.takes(element) {
                return Err(Refusal::new(NULL));
            }
            let key = element.key(set.kind, set.family);
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
            let mut said = self.said("test", kind, rest)?;
            is_nomatch = said.nomatch;
            // What is no set is in no list.
            self.member(beside(entry, &mut said)).ok().and_then(|element| {
                let is_beside = self.is_beside(&set, &element, &said).unwrap_or(false);
                let slot = set.store.find(&element.key(set.kind, set.family));
                slot.filter(|&slot| is_beside && !set.store.is_over(slot, now))
            })
        } else {
            let range = text::range(entry, kind, definition.family, false)?;
            is_nomatch = self.said("test", kind, rest)?.nomatch;
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

/// The first word of `a,before,b`, which is the same as `a before b`.
fn beside<'a>(entry: &'a str, said: &mut Said) -> &'a str {
    let mut words = entry.splitn(3, ',');
    let (first, which, neighbour) = (words.next().unwrap_or(entry), words.next(), words.next());
    match (which, neighbour) {
        (Some("before"), Some(name)) => said.before = Some(name.to_owned()),
        (Some("after"), Some(name)) => said.after = Some(name.to_owned()),
        _ => return entry,
    }
    first
}

/// An address with the MAC that its type keeps beside it.
fn has_mac_value(kind: &SetType, element: &Element) -> bool {
    kind.has(Part::MacValue) && element.mac != [0; 6]
}

fn extensions(definition: &Definition, said: &Said, now: Tick) -> Extensions {
    let seconds = said.timeout.or(definition.timeout).unwrap_or(0);
    Extensions {
        until: IpSets::until(seconds, now),
        held: 0,
        packets: said.packets.unwrap_or(0),
        bytes: said.bytes.unwrap_or(0),
        comment: 0,
        skb: said.skb(),
    }
}

/// What is put in again keeps the counts that the line does not say.
fn keep_counts(extensions: &mut Extensions, said: &Said, before: &Extensions) {
    extensions.packets = said.packets.unwrap_or(before.packets);
    extensions.bytes = said.bytes.unwrap_or(before.bytes);
}

/// The first element of a range, as the set compares it.
fn first(definition: &Definition, range: &text::Range) -> Element {
    let full = definition.family.bits();
    let kind = definition.kind;
    Element {
        address: range.addresses.start() & definition.address_mask(),
        len: if kind.has(Part::Net) { full } else { 0 },
        port: *range.ports.start(),
        second: range.seconds.start() & definition.second_mask(),
        second_len: if kind.has(Part::SecondNet) { full } else { 0 },
        mark: range.first.mark & definition.markmask.unwrap_or(u32::MAX),
        ..range.first
    }
}

/// Whether there can be elements of such a range: a bitmap has places for all of it, and ports are of a protocol.
fn is_possible(definition: &Definition, range: &text::Range) -> Result<(), Refusal> {
    let (least, most) = definition.range;
    let (from, to) = if definition.kind.has(Part::OnlyPort) {
        ((*range.ports.start()).into(), (*range.ports.end()).into())
    } else {
        (*range.addresses.start(), *range.addresses.end())
    };
    if definition.kind.is_bitmap() && (from < least || to > most) {
        return Err(Refusal::new("Element is out of the range of the set"));
    }
    if definition.kind.has(Part::Port) && range.first.protocol == 0 {
        return Err(Refusal::new("Invalid protocol specified"));
    }
    Ok(())
}

/// Gives each element of a range to `each`, until it refuses one. Of networks the fewest that are the range.
fn expand(
    definition: &Definition,
    range: &text::Range,
    each: &mut dyn FnMut(&Element) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let (kind, family) = (definition.kind, definition.family);
    let all = [range.len, range.second_len].map(|len| len == Some(0));
    let is_refused = match kind.name {
        "hash:net" | "hash:net,port" | "hash:ip,port,net" => all.contains(&true),
        "hash:net,net" | "hash:net,port,net" => all == [true; 2],
        _ => false,
    };
    if is_refused {
        return Err(Refusal::new("The value of the CIDR parameter of the IP address is invalid"));
    }
    let is_whole = |part, addresses: &RangeInclusive<u128>, len: Option<u8>| {
        kind.has(part) && len.is_none() && *addresses == (0..=text::mask(family))
    };
    if is_whole(Part::Net, &range.addresses, range.len)
        || is_whole(Part::SecondNet, &range.seconds, range.second_len)
    {
        return Err(Refusal::new("Invalid range, covers the whole address space"));
    }
    let step = match definition.netmask {
        Some(len) if kind.has(Part::Address) => 1 << (family.bits() - len),
        _ => 1,
    };
    let begin = first(definition, range);
    // The kernel counts a bitmap's networks from the first address on, so that one that the last lies in may not be met.
    let from = *range.addresses.start();
    let mut address = if kind.is_bitmap() { from } else { from / step * step };
    loop {
        let (len, address_end) = if kind.has(Part::Net) {
            text::first_network(address, *range.addresses.end(), family)
        } else {
            (0, address + (step - 1))
        };
        for port in range.ports.clone() {
            let mut second = *range.seconds.start();
            loop {
                let (second_len, second_end) = if kind.has(Part::SecondNet) {
                    text::first_network(second, *range.seconds.end(), family)
                } else {
                    (0, second)
                };
                each(&Element {
                    address: address & definition.address_mask(),
                    len,
                    port,
                    second: second & definition.second_mask(),
                    second_len,
                    ..begin
                })?;
                if second_end >= *range.seconds.end() {
                    break;
                }
                second = second_end + 1;
            }
        }
        if address_end >= *range.addresses.end() {
            return Ok(());
        }
        address = address_end + 1;
    }
}
