//! Tables as workers walk them: chains flattened, jumps by number, each rule with its counter. In a long chain an index (`index.rs`) says which rules
//! are to be asked.

use std::fmt;
use std::sync::Arc;

use arrayvec::ArrayVec;
use hashbrown::HashMap;

use super::event::Events;
use super::index::{Index, Search};
use super::line::{Jump, Rule};
use super::matches::AnyMatch;
use super::met::Met;
use super::set_use::SetUse;
use super::targets::AnyTarget;
use super::view::{Verdict, View};
use super::{Depends, Family, Table, hook_bit};
use crate::counters::WorkerCounters;
use crate::hook::Hook;

/// Chains that may be within each other.
const DEPTH: usize = 64;
/// Sets that are fetched for a packet before it is asked.
const MOST_FETCHED: usize = 2;

/// A rule to be put into a table.
#[derive(Clone, Debug)]
pub struct RuleSource {
    pub rule: Arc<Rule>,
    /// Its place among [`MOST_RULE_NUMBERS`]: its own for as long as it is there.
    pub counter: u32,
}

/// A chain to be put into a table.
#[derive(Clone, Debug)]
pub struct ChainSource {
    pub name: Arc<str>,
    /// Of a built-in chain.
    pub hook: Option<Hook>,
    /// A built-in chain lets no packet pass that comes to its end.
    pub drops: bool,
    /// As [`RuleSource::counter`], for the packets that the policy decides on.
    pub counter: u32,
    pub rules: Vec<RuleSource>,
}

/// Why chains are no table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadTable {
    /// A rule jumps to a chain that is not there.
    NoChain(String),
    /// A chain jumps to itself, by way of others maybe, or too many are within each other.
    Loop(String),
}

#[derive(Debug)]
struct Chain {
    rules: Vec<Step>,
    /// Of a long one.
    index: Option<Index>,
    drops: bool,
    counter: u32,
}

#[derive(Debug)]
struct Step {
    rule: Arc<Rule>,
    counter: u32,
    /// Of the chain that it jumps to.
    chain: u16,
    /// Its first matches, so many, hang on the flow alone; and so does its target.
    of_flow: u16,
    is_target_of_flow: bool,
}

#[derive(Debug)]
struct Compiled {
    chains: Vec<Chain>,
    /// The first sets that its rules ask.
    asked: Vec<SetUse>,
    counts_connections: bool,
    /// By hook: its built-in chain.
    first: [Option<u16>; Hook::ALL.len()],
}

/// All tables of both families.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    tables: [[Option<Arc<Compiled>>; Table::ALL.len()]; 2],
    /// By family: the places ([`place_bit`]) that have a chain.
    places: [u64; 2],
    are_active: bool,
    hide_owners: bool,
    /// By family.
    have_zones: [bool; 2],
    asked: ArrayVec<SetUse, MOST_FETCHED>,
    make_copies: bool,
    give_helpers: bool,
    count_connections: bool,
    pub events: Arc<Events>,
}

impl Rules {
    /// Whether there is any rule, or a policy that drops: else nobody asks.
    #[inline]
    pub fn are_active(&self) -> bool {
        self.are_active
    }

    /// Whether one of these tables has a chain at its hook: else whoever asks there passes, and nothing is counted.
    #[inline]
    pub(crate) fn have_chain_at(&self, is_ipv6: bool, places: &[(Table, Hook)]) -> bool {
        self.places[usize::from(is_ipv6)] & place_bits(places) != 0
    }

    fn note_places(&mut self) {
        let places = || Table::ALL.into_iter().flat_map(|table| Hook::ALL.map(|hook| (table, hook)));
        for (bits, tables) in self.places.iter_mut().zip(&self.tables) {
            let has_chain = |&(table, hook): &(Table, Hook)| {
                let compiled = tables[table as usize].as_ref();
                compiled.is_some_and(|compiled| compiled.first[hook as usize].is_some())
            };
            let having = places().filter(has_chain);
            *bits = having.fold(0, |bits, (table, hook)| bits | place_bit(table, hook));
        }
    }

    /// Whether answers may come to another worker than the connection's, or could by a rule that there was: its connections stay.
    #[inline]
    pub fn hide_owners(&self) -> bool {
        self.hide_owners
    }

    /// Whether a rule puts packets into zones: what connection a packet is of is known behind the table `raw` then.
    #[inline]
    pub fn have_zones(&self) -> bool {
        self.have_zones != [false; 2]
    }

    /// Sets that a packet may be asked for; not all, where there are many.
    #[inline]
    pub(crate) fn asked(&self) -> &[SetUse] {
        &self.asked
    }

    /// Whether there is, or was, a rule that copies packets.
    pub(crate) fn make_copies(&self) -> bool {
        self.make_copies
    }

    /// Whether there is, or was, a rule that gives connections a helper.
    #[inline]
    pub(crate) fn give_helpers(&self) -> bool {
        self.give_helpers
    }

    /// Whether a rule asks how many packets, or bytes, connections have had.
    #[inline]
    pub(crate) fn count_connections(&self) -> bool {
        self.count_connections
    }

    /// These, with other chains in one table.
    ///
    /// # Errors
    /// See [`BadTable`].
    pub fn with_table(
        &self,
        family: Family,
        table: Table,
        chains: &[ChainSource],
    ) -> Result<Rules, BadTable> {
        let mut rules = self.clone();
        rules.tables[family as usize][table as usize] = Compiled::new(family, chains)?.map(Arc::new);
        rules.note_places();
        rules.are_active = rules.tables.iter().flatten().any(Option::is_some);
        if table == Table::Raw {
            let mut all = chains.iter().flat_map(|chain| &chain.rules);
            rules.have_zones[family as usize] = all.any(|source| source.rule.sets_zone());
        }
        rules.make_copies |= chains.iter().flat_map(|chain| &chain.rules).any(|source| source.rule.copies());
        rules.give_helpers |=
            chains.iter().flat_map(|chain| &chain.rules).any(|source| source.rule.gives_helper());
        let mut all = chains.iter().zip(reached_from(chains));
        rules.hide_owners |=
            all.any(|(chain, hooks)| chain.rules.iter().any(|source| source.rule.hides_owner(hooks)));
        let compiled = rules.tables.iter().flatten().flatten();
        rules.count_connections = compiled.clone().any(|compiled| compiled.counts_connections);
        let mut asked: Vec<SetUse> = compiled.flat_map(|compiled| compiled.asked.iter().cloned()).collect();
        asked.dedup();
        rules.asked = asked.into_iter().take(MOST_FETCHED).collect();
        Ok(rules)
    }

    /// These, without the tables that only stop packets: what a connection is they do not say.
    pub(crate) fn for_beginning(&self) -> Rules {
        let mut rules = self.clone();
        for table in [Table::Filter, Table::Security] {
            for compiled in rules.tables.iter_mut().filter_map(|tables| tables[table as usize].as_mut()) {
                *compiled = Arc::new(Compiled {
                    chains: Vec::new(),
                    asked: Vec::new(),
                    counts_connections: false,
                    first: [None; Hook::ALL.len()],
                });
            }
        }
        rules.note_places();
        rules
    }

    /// Walks a packet through the chain of `table` at `hook`.
    pub fn run(&self, table: Table, hook: Hook, view: &mut View<'_>, counters: &WorkerCounters) -> Verdict {
        self.run_noting(table, hook, view, counters, &mut Met::default())
    }

    /// The same; `met`: what it met before, which goes on.
    pub(crate) fn run_noting(
        &self,
        table: Table,
        hook: Hook,
        view: &mut View<'_>,
        counters: &WorkerCounters,
        met: &mut Met,
    ) -> Verdict {
        match &self.tables[view.family() as usize][table as usize] {
            Some(compiled) => compiled.run(hook, view, counters, met, Way::Indexed),
            None => Verdict::Accept,
        }
    }

    /// The same, rule by rule.
    #[cfg(test)]
    pub(super) fn run_linearly(
        &self,
        table: Table,
        hook: Hook,
        view: &mut View<'_>,
        counters: &WorkerCounters,
    ) -> Verdict {
        match &self.tables[view.family() as usize][table as usize] {
            Some(compiled) => compiled.run(hook, view, counters, &mut Met::default(), Way::Linear),
            None => Verdict::Accept,
        }
    }
}

/// Tables at hooks, among all.
#[inline]
pub(crate) fn place_bits(places: &[(Table, Hook)]) -> u64 {
    places.iter().fold(0, |bits, &(table, hook)| bits | place_bit(table, hook))
}

/// A table at a hook, among all.
#[inline]
const fn place_bit(table: Table, hook: Hook) -> u64 {
    1 << (table as usize * Hook::ALL.len() + hook as usize)
}

/// How the rules of a chain are found that may match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Indexed,
    #[cfg(test)]
    Linear,
}

/// Where a walk is in a chain.
struct Place<'c> {
    chain: &'c Chain,
    /// The next rule.
    at: usize,
    index: Option<(&'c Index, Search)>,
}

impl<'c> Place<'c> {
    fn first(chain: &'c Chain, view: &View<'_>, way: Way) -> Place<'c> {
        let index = chain.index.as_ref().filter(|_| way == Way::Indexed);
        Place { chain, at: 0, index: index.map(|index| (index, index.search(view))) }
    }

    /// The packet has other ends from here on.
    #[cold]
    fn search_again(&mut self, view: &View<'_>) {
        if let Some((index, search)) = &mut self.index {
            *search = index.search(view);
        }
    }

    /// The next rule that may match.
    #[inline]
    fn next(&mut self) -> Option<&'c Step> {
        if let Some((index, search)) = &mut self.index {
            self.at = index.next(search, self.at)?;
        }
        let step = self.chain.rules.get(self.at)?;
        self.at += 1;
        Some(step)
    }
}

impl Compiled {
    /// `None`: all that is in it is to let everything pass.
    fn new(family: Family, sources: &[ChainSource]) -> Result<Option<Compiled>, BadTable> {
        let numbers: HashMap<&str, u16> =
            sources.iter().zip(0..).map(|(chain, number)| (&*chain.name, number)).collect();
        let mut first = [None; Hook::ALL.len()];
        let mut chains = Vec::new();
        for (source, number) in sources.iter().zip(0..) {
            if let Some(hook) = source.hook {
                first[hook as usize] = Some(number);
            }
            let step = |source: &RuleSource| {
                let RuleSource { rule, counter } = source.clone();
                let chain = match rule.chain() {
                    Some(name) => *numbers.get(name).ok_or_else(|| BadTable::NoChain(name.to_owned()))?,
                    None => 0,
                };
                let is_of_flow = |found: &&AnyMatch| found.depends() == Depends::Flow;
                let of_flow = rule.matches.iter().take_while(is_of_flow).count() as u16;
                let is_target_of_flow = match &rule.jump {
                    Jump::Target(target) => target.depends() == Depends::Flow,
                    _ => true,
                };
                Ok(Step { rule, counter, chain, of_flow, is_target_of_flow })
            };
            let rules: Vec<&Rule> = source.rules.iter().map(|source| &*source.rule).collect();
            chains.push(Chain {
                index: Index::new(&rules, family),
                rules: source.rules.iter().map(step).collect::<Result<_, BadTable>>()?,
                drops: source.drops,
                counter: source.counter,
            });
        }
        let mut depths = vec![Depth::Unknown; chains.len()];
        // Where no hook leads, chains may lead into each other, as in the kernel.
        for (number, source) in sources.iter().enumerate().filter(|(_, source)| source.hook.is_some()) {
            depth(&chains, number, 0, &mut depths).ok_or_else(|| BadTable::Loop(source.name.to_string()))?;
        }
        let rules = sources.iter().flat_map(|source| &source.rules);
        let counts_connections = rules.clone().any(|source| source.rule.counts_connections());
        let asked = rules.flat_map(|source| source.rule.asked_sets()).take(MOST_FETCHED).cloned().collect();
        let is_empty =
            sources.iter().all(|chain| chain.hook.is_none() || (!chain.drops && chain.rules.is_empty()));
        Ok((!is_empty).then_some(Compiled { chains, asked, counts_connections, first }))
    }

    fn run(
        &self,
        hook: Hook,
        view: &mut View<'_>,
        counters: &WorkerCounters,
        met: &mut Met,
        way: Way,
    ) -> Verdict {
        let Some(first) = self.first[hook as usize] else { return Verdict::Accept };
        let bytes = u64::from(view.headers.ip_len);
        let Some(base) = self.chains.get(usize::from(first)) else { return Verdict::Accept };
        // Where to go on in the chains that called others.
        let mut callers: ArrayVec<Place<'_>, DEPTH> = ArrayVec::new();
        let mut place = Place::first(base, view, way);
        loop {
            let Some(step) = place.next() else {
                match callers.pop() {
                    Some(caller) => {
                        view.meets(place.chain.counter);
                        place = caller;
                    }
                    None => break,
                }
                continue;
            };
            if !step.matches(view, met) {
                continue;
            }
            counters.rule(step.counter).add(bytes);
            view.meets(step.counter);
            met.note(step.counter, step.is_target_of_flow);
            match &step.rule.jump {
                Jump::Nowhere => {}
                Jump::Accept => return Verdict::Accept,
                Jump::Drop => return Verdict::Drop,
                Jump::Return => match callers.pop() {
                    Some(caller) => place = caller,
                    None => break,
                },
                Jump::Chain { is_goto, .. } => {
                    let Some(next) = self.chains.get(usize::from(step.chain)) else { return Verdict::Drop };
                    let caller = std::mem::replace(&mut place, Place::first(next, view, way));
                    // Chains are not deeper within each other than there is room.
                    if !is_goto && callers.try_push(caller).is_err() {
                        return Verdict::Drop;
                    }
                    // What a chain returns to that was gone to from a built-in one is that one's policy.
                }
                Jump::Target(target) => {
                    if let Some(verdict) = target.act(view, step.counter) {
                        return verdict;
                    }
                    if matches!(target, AnyTarget::SourcePrefix(_) | AnyTarget::DestinationPrefix(_)) {
                        place.search_again(view);
                        callers.iter_mut().for_each(|caller| caller.search_again(view));
                    }
                }
            }
        }
        counters.rule(base.counter).add(bytes);
        view.meets(base.counter);
        met.note(base.counter, true);
        if base.drops { Verdict::Drop } else { Verdict::Accept }
    }
}

impl Step {
    #[inline]
    fn matches(&self, view: &mut View<'_>, met: &mut Met) -> bool {
        if !self.rule.header.matches(view) {
            return false;
        }
        let refused = self.rule.matches.iter().position(|found| !found.matches(view));
        let asked = refused.map_or(self.rule.matches.len(), |last| last + 1);
        met.ask(asked <= usize::from(self.of_flow));
        refused.is_none()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Unknown,
    /// On the way down from it.
    Open,
    Known(usize),
}

/// How many chains are within each other from this one on; it is within `above` others. `None`: one is within itself, or there are too many.
fn depth(chains: &[Chain], number: usize, above: usize, depths: &mut [Depth]) -> Option<usize> {
    // Also so that a long row of chains cannot exhaust the stack.
    if above > DEPTH {
        return None;
    }
    match depths[number] {
        Depth::Open => return None,
        Depth::Known(depth) => return Some(depth),
        Depth::Unknown => {}
    }
    depths[number] = Depth::Open;
    let mut deepest = 0;
    for step in chains[number].rules.iter().filter(|step| step.rule.chain().is_some()) {
        deepest = deepest.max(depth(chains, usize::from(step.chain), above + 1, depths)?);
    }
    depths[number] = Depth::Known(deepest + 1);
    (deepest < DEPTH).then_some(deepest + 1)
}

/// By chain: the hooks from which it is reached ([`hook_bit`]).
pub fn reached_from(chains: &[ChainSource]) -> Vec<u8> {
    let numbers: HashMap<&str, usize> =
        chains.iter().enumerate().map(|(number, chain)| (&*chain.name, number)).collect();
    let mut hooks: Vec<u8> = chains.iter().map(|chain| chain.hook.map_or(0, hook_bit)).collect();
    let mut open: Vec<usize> = (0..chains.len()).filter(|&number| hooks[number] != 0).collect();
    while let Some(number) = open.pop() {
        for rule in &chains[number].rules {
            let Some(&to) = rule.rule.chain().and_then(|name| numbers.get(name)) else { continue };
            if hooks[to] | hooks[number] != hooks[to] {
                hooks[to] |= hooks[number];
                open.push(to);
            }
        }
    }
    hooks
}

impl fmt::Display for BadTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadTable::NoChain(name) => write!(f, "there is no chain {name}"),
            BadTable::Loop(name) => write!(f, "chain {name} leads into itself, or too deep"),
        }
    }
}

#[cfg(test)]
mod tests;
