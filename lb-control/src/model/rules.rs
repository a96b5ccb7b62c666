//! The operator's rules: tables of chains, as written, each rule and each policy with a counter of its own.
//!
//! Pure: no I/O. A batch changes copies of the tables that it names; they take the tables' place when all of it is right. Rules that stay
//! are the same `Arc`, and so keep what their matches remember.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use lb_core::counters::WorkerCounters;
use lb_core::hook::Hook;
use lb_core::rule::names::Numeric;
use lb_core::rule::{
    Around, BadTable, ChainSource, Family, KnownSet, MOST_RULES, Named, Refused, Rule, RuleSource, Rules,
    SetUse, Table, chain_name, reached_from, text,
};
use lb_core::set::SetId;

use super::Ids;
use crate::api::explain::MetRule;
use crate::api::rules::{
    ChainView, RuleBatch, RuleCommand, RuleCounts, RuleError, RuleFailure, RuleFamily, RuleView, TableChange,
    TableView,
};
use crate::one_line::one_line;

/// Longest name of a chain, bytes.
const LONGEST_NAME: usize = 28;

pub(crate) const fn family(family: RuleFamily) -> Family {
    match family {
        RuleFamily::Ipv4 => Family::Ipv4,
        RuleFamily::Ipv6 => Family::Ipv6,
    }
}

const FAMILIES: [RuleFamily; 2] = [RuleFamily::Ipv4, RuleFamily::Ipv6];

/// What is counted, and from where on.
#[derive(Clone, Copy, Debug)]
struct Count {
    /// Among [`MOST_RULES`].
    number: u32,
    /// What is taken off the workers' sum; wraps, so that a count may begin anywhere.
    base: RuleCounts,
}

#[derive(Clone, Debug)]
struct Held {
    rule: Arc<Rule>,
    count: Count,
}

#[derive(Clone, Debug)]
struct Chain {
    name: Arc<str>,
    hook: Option<Hook>,
    drops: bool,
    count: Count,
    rules: Vec<Held>,
}

/// Why a command is not done.
struct Failed {
    error: RuleError,
    /// Empty: the error's own words.
    why: String,
}

impl From<RuleError> for Failed {
    fn from(error: RuleError) -> Failed {
        Failed { error, why: String::new() }
    }
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Failed {
        let error = match refused {
            Refused::Invalid => RuleError::Invalid,
            Refused::OutOfRange => RuleError::OutOfRange,
            Refused::NotThere => RuleError::NotThere,
            Refused::NotSupported => RuleError::NotSupported,
        };
        error.into()
    }
}

/// By family and table.
type Tables = [[Arc<Vec<Chain>>; Table::ALL.len()]; 2];

fn chains(tables: &Tables) -> impl Iterator<Item = &Chain> {
    tables.iter().flatten().flat_map(|chains| chains.iter())
}

/// All tables of both families.
pub struct RuleTables {
    tables: Tables,
    compiled: Arc<Rules>,
    named: Named,
    numbers: Ids,
    /// Numbers that workers may still count under: free once all use newer tables.
    freed: Vec<u32>,
}

impl RuleTables {
    /// `seed`: of the hashes that matches keep addresses under, see [`Named::new`].
    pub fn new(seed: u64) -> RuleTables {
        let mut numbers = Ids::new(MOST_RULES);
        let mut built_in = |table: Table| -> Arc<Vec<Chain>> {
            let chain = |&hook: &Hook| Chain {
                name: chain_name(hook).into(),
                hook: Some(hook),
                drops: false,
                count: Count { number: numbers.take().unwrap_or_default(), base: RuleCounts::default() },
                rules: Vec::new(),
            };
            Arc::new(table.hooks().iter().map(chain).collect())
        };
        RuleTables {
            tables: [Table::ALL.map(&mut built_in), Table::ALL.map(&mut built_in)],
            compiled: Arc::default(),
            named: Named::new(seed),
            numbers,
            freed: Vec::new(),
        }
    }

    /// For the workers.
    pub fn compiled(&self) -> &Arc<Rules> {
        &self.compiled
    }

    /// Says which IP sets rules may name from here on.
    pub fn know_sets(&mut self, sets: HashMap<String, KnownSet>) {
        self.named.sets = sets;
    }

    /// The IP sets that rules name, each as often as they do.
    pub fn sets(&self) -> impl Iterator<Item = SetId> {
        let rules = chains(&self.tables).flat_map(|chain| &chain.rules);
        rules.flat_map(|held| held.rule.sets().filter_map(SetUse::id))
    }

    /// All workers use the newest tables: what was taken out counts no more.
    pub fn release(&mut self) {
        self.numbers.free.append(&mut self.freed);
        self.named.forget_unused();
    }

    /// Does a batch or nothing of it. True: other rules are to be published.
    ///
    /// # Errors
    /// The first command that cannot be done.
    pub fn apply(&mut self, batch: &RuleBatch, workers: &[Arc<WorkerCounters>]) -> Result<bool, RuleFailure> {
        self.apply_without(batch, workers, &mut |_| false)
    }

    /// As [`RuleTables::apply`]; a command that cannot be done is left out where `leaves_out` says so.
    ///
    /// # Errors
    /// The first one that is not left out.
    pub fn apply_without(
        &mut self,
        batch: &RuleBatch,
        workers: &[Arc<WorkerCounters>],
        leaves_out: &mut dyn FnMut(&RuleFailure) -> bool,
    ) -> Result<bool, RuleFailure> {
        let of = family(batch.family);
        let sums = &Sums::of(workers);
        let mut edit = Edit {
            of,
            sums,
            named: &mut self.named,
            numbers: &mut self.numbers,
            taken: Vec::new(),
            leaves_out,
        };
        let mut compiled = Rules::clone(&self.compiled);
        let mut changed: Vec<(Table, Vec<Chain>)> = Vec::new();
        let mut done = Ok(());
        let mut is_other = false;
        for (place, change) in batch.tables.iter().enumerate() {
            let table = Table::named(&change.table)
                .filter(|table| changed.iter().all(|(other, _)| other != table))
                .ok_or_else(|| failure(place, 0, RuleError::NoSuchTable.into()));
            let edited = table.and_then(|table| {
                let chains = Vec::clone(&self.tables[of as usize][table as usize]);
                edit.table(table, chains, (place, change), &mut compiled, &mut is_other)
                    .map(|chains| (table, chains))
            });
            match edited {
                Ok(edited) => changed.push(edited),
                Err(failure) => {
                    done = Err(failure);
                    break;
                }
            }
        }
        let taken = edit.taken;
        if done.is_err() || batch.test {
            // No worker has seen them.
            self.numbers.free.extend(taken);
            self.named.forget_unused();
            return done.map(|()| false);
        }
        for (table, chains) in changed {
            let kept: HashSet<u32> = numbers(&chains).collect();
            let old = std::mem::replace(&mut self.tables[of as usize][table as usize], Arc::new(chains));
            self.freed.extend(numbers(old.iter()).filter(|number| !kept.contains(number)));
        }
        // Those that came and went within the batch.
        let here: HashSet<u32> = numbers(chains(&self.tables)).collect();
        self.numbers.free.extend(taken.into_iter().filter(|number| !here.contains(number)));
        if is_other {
            self.compiled = Arc::new(compiled);
        }
        Ok(is_other)
    }

    /// One table, or all of a family.
    pub fn view(
        &self,
        of: RuleFamily,
        only: Option<Table>,
        workers: &[Arc<WorkerCounters>],
    ) -> Vec<TableView> {
        let tables = Table::ALL.into_iter().filter(|table| only.is_none_or(|only| only == *table));
        let sums = Sums::of(workers);
        tables.map(|table| self.table_view(of, table, &sums)).collect()
    }

    fn table_view(&self, of: RuleFamily, table: Table, sums: &Sums) -> TableView {
        let of = family(of);
        let chain = |chain: &Chain| ChainView {
            name: chain.name.to_string(),
            policy: chain.hook.map(|_| policy_name(chain.drops).to_owned()),
            counts: chain.count.read(sums),
            rules: chain
                .rules
                .iter()
                .map(|held| RuleView { rule: words(&held.rule, of), counts: held.count.read(sums) })
                .collect(),
        };
        let chains = self.tables[of as usize][table as usize].iter().map(chain).collect();
        TableView { table: table.name().to_owned(), chains }
    }

    /// The rule, or the end of a chain, that counts under a number.
    pub fn met(&self, number: u32) -> Option<MetRule> {
        let mut tables = Family::ALL
            .into_iter()
            .flat_map(|of| self.tables[of as usize].iter().map(move |chains| (of, chains)))
            .flat_map(|(of, chains)| chains.iter().map(move |chain| (of, chain)));
        tables.find_map(|(of, chain)| {
            let place = chain.rules.iter().position(|held| held.count.number == number);
            let rule = match (place, chain.hook) {
                (Some(place), _) => chain.rules[place].rule.save(of, &Numeric).trim_start().to_owned(),
                (None, _) if chain.count.number != number => return None,
                (None, Some(_)) => policy_name(chain.drops).to_owned(),
                (None, None) => "RETURN".to_owned(),
            };
            Some(MetRule { chain: chain.name.to_string(), number: place.map(|place| place + 1), rule })
        })
    }

    /// What rules that say DROP or REJECT, and policies that say DROP, have dropped: by family, table and chain, where there are any.
    pub fn dropped(&self, workers: &[Arc<WorkerCounters>]) -> Vec<(RuleFamily, Table, &str, u64)> {
        let sums = Sums::of(workers);
        let of_chain = |chain: &Chain| {
            let rules = chain.rules.iter().filter(|held| held.rule.drops()).map(|held| &held.count);
            let counts = rules.chain(chain.drops.then_some(&chain.count));
            counts.map(|count| count.read(&sums).packets).reduce(u64::wrapping_add)
        };
        let mut dropped = Vec::new();
        for of in FAMILIES {
            for (table, chains) in Table::ALL.into_iter().zip(&self.tables[family(of) as usize]) {
                let chains = chains.iter();
                dropped.extend(chains.filter_map(|chain| Some((of, table, &*chain.name, of_chain(chain)?))));
            }
        }
        dropped
    }

    /// The tables as they are, to be written down when there is time for that.
    pub fn written(&self) -> Written {
        Written(self.tables.clone())
    }
}

/// The tables of one moment.
#[derive(Clone, Debug)]
pub struct Written(Tables);

impl Written {
    /// What would have to be said to empty tables to make these. Counts are of the process.
    pub fn batches(&self) -> Vec<RuleBatch> {
        let batch = |name: RuleFamily| {
            let of = family(name);
            let tables = Table::ALL.into_iter().zip(&self.0[of as usize]).map(|(table, chains)| {
                let begin = chains.iter().filter_map(|chain| {
                    let name = chain.name.to_string();
                    match (chain.hook, chain.drops) {
                        (None, _) => Some(RuleCommand::NewChain { chain: name }),
                        (Some(_), false) => None,
                        (Some(_), true) => {
                            let policy = policy_name(true).to_owned();
                            Some(RuleCommand::SetPolicy { chain: name, policy, counts: None })
                        }
                    }
                });
                let append = |(chain, held): (&Chain, &Held)| RuleCommand::Append {
                    chain: chain.name.to_string(),
                    rule: words(&held.rule, of),
                    counts: RuleCounts::default(),
                };
                let rules = chains.iter().flat_map(|chain| chain.rules.iter().map(move |held| (chain, held)));
                let commands = begin.chain(rules.map(append)).collect();
                TableChange { table: table.name().to_owned(), empty: true, commands }
            });
            let tables = tables.filter(|change| !change.commands.is_empty()).collect();
            RuleBatch { family: name, tables, test: false }
        };
        FAMILIES.map(batch).into_iter().filter(|batch| !batch.tables.is_empty()).collect()
    }
}

fn numbers<'a>(chains: impl IntoIterator<Item = &'a Chain>) -> impl Iterator<Item = u32> {
    chains.into_iter().flat_map(|chain| {
        let rules = chain.rules.iter().map(|held| held.count.number);
        rules.chain([chain.count.number])
    })
}

fn policy_name(drops: bool) -> &'static str {
    if drops { "DROP" } else { "ACCEPT" }
}

/// A rule's words, which any program reads without asking for names.
fn words(rule: &Rule, of: Family) -> Vec<String> {
    // What is printed has no quote that does not end.
    text::split(&rule.save(of, &Numeric)).unwrap_or_default()
}

/// What all workers have counted at one moment, by number.
struct Sums(Vec<(u64, u64)>);

impl Sums {
    fn of(workers: &[Arc<WorkerCounters>]) -> Sums {
        let mut sums = WorkerCounters::no_rule_counts();
        for worker in workers {
            while !worker.add_rule_counts(&mut sums) {
                std::thread::yield_now();
            }
        }
        Sums(sums)
    }

    fn get(&self, number: u32) -> RuleCounts {
        let (packets, bytes) = self.0.get(number as usize).copied().unwrap_or_default();
        RuleCounts { packets, bytes }
    }
}

impl Count {
    fn read(&self, sums: &Sums) -> RuleCounts {
        less(sums.get(self.number), self.base)
    }

    /// One that shows `counts` now.
    fn showing(number: u32, counts: RuleCounts, sums: &Sums) -> Count {
        Count { number, base: less(sums.get(number), counts) }
    }
}

fn less(a: RuleCounts, b: RuleCounts) -> RuleCounts {
    RuleCounts { packets: a.packets.wrapping_sub(b.packets), bytes: a.bytes.wrapping_sub(b.bytes) }
}

/// One batch at work.
struct Edit<'a> {
    of: Family,
    sums: &'a Sums,
    named: &'a mut Named,
    numbers: &'a mut Ids,
    taken: Vec<u32>,
    leaves_out: &'a mut dyn FnMut(&RuleFailure) -> bool,
}

fn failure(table: usize, command: usize, Failed { error, why }: Failed) -> RuleFailure {
    let message = if why.is_empty() { error.to_string() } else { why };
    RuleFailure { table, command, error, message: one_line(message) }
}

type Done<T = ()> = Result<T, Failed>;

impl Edit<'_> {
    /// The chains as `change` makes them; `compiled` has them too.
    fn table(
        &mut self,
        table: Table,
        mut chains: Vec<Chain>,
        (place, change): (usize, &TableChange),
        compiled: &mut Rules,
        is_other: &mut bool,
    ) -> Result<Vec<Chain>, RuleFailure> {
        if change.empty {
            chains.retain(|chain| chain.hook.is_some());
            for chain in &mut chains {
                chain.rules.clear();
                chain.drops = false;
                chain.count = Count::showing(chain.count.number, RuleCounts::default(), self.sums);
            }
        }
        for (number, command) in change.commands.iter().enumerate() {
            if let Err(failed) = self.command(&mut chains, command) {
                let failure = failure(place, number, failed);
                if !(self.leaves_out)(&failure) {
                    return Err(failure);
                }
            }
        }
        let end = change.commands.len();
        let is_read_only =
            |command: &RuleCommand| matches!(command, RuleCommand::Check { .. } | RuleCommand::Zero { .. });
        if change.empty || !change.commands.iter().all(is_read_only) {
            self.compile(table, &mut chains, compiled).map_err(|failed| failure(place, end, failed))?;
            *is_other = true;
        }
        Ok(chains)
    }

    fn compile(&mut self, table: Table, chains: &mut [Chain], compiled: &mut Rules) -> Done {
        let source = |chain: &Chain| ChainSource {
            name: chain.name.clone(),
            hook: chain.hook,
            drops: chain.drops,
            counter: chain.count.number,
            rules: chain
                .rules
                .iter()
                .map(|held| RuleSource { rule: held.rule.clone(), counter: held.count.number })
                .collect(),
        };
        let sources: Vec<ChainSource> = chains.iter().map(source).collect();
        *compiled = compiled.with_table(self.of, table, &sources).map_err(|bad| match bad {
            BadTable::NoChain(_) => RuleError::NoSuchChain,
            BadTable::Loop(_) => RuleError::Loop,
        })?;
        for (chain, hooks) in sources.iter().zip(reached_from(&sources)) {
            chain.rules.iter().try_for_each(|source| source.rule.check(table, hooks))?;
        }
        Ok(())
    }

    fn number(&mut self) -> Done<u32> {
        let number = self.numbers.take().ok_or(RuleError::Full)?;
        self.taken.push(number);
        Ok(number)
    }

    /// Usually one; one for each pair of a source and a destination.
    fn read(&mut self, words: &[String]) -> Done<Vec<Rule>> {
        let read = Rule::read(words, &mut Around::new(self.of, &Numeric));
        let (rules, _) =
            read.map_err(|error| Failed { error: RuleError::NotARule, why: error.to_string() })?;
        rules.iter().flat_map(Rule::sets).try_for_each(|set| self.check_set(set.name()))?;
        Ok(rules)
    }

    /// Whether rules of this family may name the set, in the words of iptables.
    fn check_set(&self, name: &str) -> Done {
        let why = match self.named.sets.get(name) {
            None => format!("Set {name} doesn't exist."),
            Some(KnownSet { family: Some(other), .. }) if *other != self.of => {
                let other = match other {
                    Family::Ipv4 => "IPv4",
                    Family::Ipv6 => "IPv6",
                };
                format!("The protocol family of set {name} is {other}, which is not applicable.")
            }
            Some(_) => return Ok(()),
        };
        Err(Failed { error: RuleError::NoSuchSet, why })
    }

    fn hold(&mut self, words: &[String], counts: RuleCounts) -> Done<Vec<Held>> {
        let mut held = Vec::new();
        for mut rule in self.read(words)? {
            rule.bind(self.named)?;
            let count = Count::showing(self.number()?, counts, self.sums);
            held.push(Held { rule: Arc::new(rule), count });
        }
        Ok(held)
    }

    fn command(&mut self, chains: &mut Vec<Chain>, command: &RuleCommand) -> Done {
        match command {
            RuleCommand::Append { chain, rule, counts } => {
                let place = find(chains, chain)?;
                let rules = self.hold(rule, *counts)?;
                chains[place].rules.extend(rules);
            }
            RuleCommand::Insert { chain, at, rule, counts } => {
                let place = find(chains, chain)?;
                let rules = &mut chains[place].rules;
                let at = index(*at, rules.len() + 1, RuleError::BadInsertion)?;
                rules.splice(at..at, self.hold(rule, *counts)?);
            }
            RuleCommand::Replace { chain, at, rule, counts } => {
                let place = find(chains, chain)?;
                let rules = &mut chains[place].rules;
                let at = index(*at, rules.len(), RuleError::BadReplacement)?;
                rules.splice(at..=at, self.hold(rule, *counts)?);
            }
            RuleCommand::DeleteAt { chain, at } => {
                let place = find(chains, chain)?;
                let rules = &mut chains[place].rules;
                rules.remove(index(*at, rules.len(), RuleError::BadDeletion)?);
            }
            RuleCommand::Delete { chain, rule } => {
                let place = find(chains, chain)?;
                let rules = &mut chains[place].rules;
                for wanted in self.read(rule)? {
                    rules.remove(position(rules, &wanted)?);
                }
            }
            RuleCommand::Check { chain, rule } => {
                let rules = &chains[find(chains, chain)?].rules;
                for wanted in self.read(rule)? {
                    position(rules, &wanted)?;
                }
            }
            RuleCommand::NewChain { chain } => self.new_chain(chains, chain)?,
            RuleCommand::DeleteChain { chain: Some(chain) } => {
                let place = find(chains, chain)?;
                may_go(chains, place)?;
                chains.remove(place);
            }
            RuleCommand::DeleteChain { chain: None } => {
                while let Some(place) = (0..chains.len()).find(|&place| chains[place].hook.is_none()) {
                    may_go(chains, place)?;
                    chains.remove(place);
                }
            }
            RuleCommand::RenameChain { chain, to } => rename(chains, chain, to)?,
            RuleCommand::SetPolicy { chain, policy, counts } => {
                let found = chains.iter_mut().find(|known| *known.name == **chain && known.hook.is_some());
                let found = found.ok_or(RuleError::NotBuiltIn)?;
                found.drops = match policy.as_str() {
                    "ACCEPT" => false,
                    "DROP" => true,
                    _ => return Err(RuleError::BadPolicy.into()),
                };
                if let Some(counts) = counts {
                    found.count = Count::showing(found.count.number, *counts, self.sums);
                }
            }
            RuleCommand::Flush { chain: Some(chain) } => {
                let place = find(chains, chain)?;
                chains[place].rules.clear();
            }
            RuleCommand::Flush { chain: None } => chains.iter_mut().for_each(|chain| chain.rules.clear()),
            RuleCommand::Zero { chain, at } => self.zero(chains, chain.as_deref(), *at)?,
        }
        Ok(())
    }

    fn new_chain(&mut self, chains: &mut Vec<Chain>, name: &str) -> Done {
        check_name(name)?;
        if find(chains, name).is_ok() {
            return Err(RuleError::ChainExists.into());
        }
        let count = Count::showing(self.number()?, RuleCounts::default(), self.sums);
        let chain = Chain { name: name.into(), hook: None, drops: false, count, rules: Vec::new() };
        let place = place_of(chains, name);
        chains.insert(place, chain);
        Ok(())
    }

    fn zero(&self, chains: &mut [Chain], chain: Option<&str>, at: Option<usize>) -> Done {
        let zero = |count: &mut Count| {
            *count = Count::showing(count.number, RuleCounts::default(), self.sums);
        };
        let chains = match chain {
            Some(name) => {
                let place = find(chains, name)?;
                std::slice::from_mut(&mut chains[place])
            }
            None => chains,
        };
        if let (Some(at), [chain]) = (at, &mut *chains) {
            let at = index(at, chain.rules.len(), RuleError::Invalid)?;
            zero(&mut chain.rules[at].count);
            return Ok(());
        }
        for chain in chains {
            zero(&mut chain.count);
            chain.rules.iter_mut().for_each(|held| zero(&mut held.count));
        }
        Ok(())
    }
}

fn find(chains: &[Chain], name: &str) -> Done<usize> {
    let own = built_in(chains);
    let place =
        chains[..own].iter().position(|chain| *chain.name == *name).unwrap_or_else(|| place_of(chains, name));
    let is_there = chains.get(place).is_some_and(|chain| *chain.name == *name);
    if is_there { Ok(place) } else { Err(RuleError::NoSuchChain.into()) }
}

/// How many chains are built in: those in front.
fn built_in(chains: &[Chain]) -> usize {
    chains.iter().take_while(|chain| chain.hook.is_some()).count()
}

/// From a number that begins at 1.
fn index(at: usize, len: usize, error: RuleError) -> Done<usize> {
    Ok(at.checked_sub(1).filter(|&at| at < len).ok_or(error)?)
}

fn position(rules: &[Held], wanted: &Rule) -> Done<usize> {
    Ok(rules.iter().position(|held| *held.rule == *wanted).ok_or(RuleError::NoSuchRule)?)
}

/// Where a chain of the operator's of this name stands, or is to: behind the built-in ones, by name.
fn place_of(chains: &[Chain], name: &str) -> usize {
    let own = built_in(chains);
    own + chains[own..].partition_point(|chain| *chain.name < *name)
}

fn check_name(name: &str) -> Done {
    let is_word = !name.is_empty() && !name.starts_with(['-', '!']);
    let is_plain = name.chars().all(|c| !c.is_control() && !c.is_whitespace());
    if name.len() <= LONGEST_NAME && is_word && is_plain {
        return Ok(());
    }
    let why = format!(
        "chain {name:?}: a name has 1 to {LONGEST_NAME} bytes, no blank, and no - or ! to begin with"
    );
    Err(Failed { error: RuleError::Invalid, why })
}

/// How many rules lead to a chain.
fn references(chains: &[Chain], name: &str) -> usize {
    let leads = |held: &&Held| held.rule.chain() == Some(name);
    chains.iter().map(|chain| chain.rules.iter().filter(leads).count()).sum()
}

fn may_go(chains: &[Chain], place: usize) -> Done {
    let chain = &chains[place];
    let error = if chain.hook.is_some() {
        RuleError::Invalid
    } else if references(chains, &chain.name) != 0 {
        RuleError::ChainInUse
    } else if !chain.rules.is_empty() {
        RuleError::ChainNotEmpty
    } else {
        return Ok(());
    };
    Err(error.into())
}

/// Rules that lead to it lead there under its new name.
fn rename(chains: &mut Vec<Chain>, from: &str, to: &str) -> Done {
    if find(chains, to).is_ok() {
        return Err(RuleError::NameTaken.into());
    }
    let place = find(chains, from)?;
    check_name(to)?;
    if chains[place].hook.is_some() {
        return Err(RuleError::Invalid.into());
    }
    let mut chain = chains.remove(place);
    chain.name = to.into();
    let place = place_of(chains, to);
    chains.insert(place, chain);
    for held in chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        if held.rule.chain() == Some(from) {
            let mut rule = Rule::clone(&held.rule);
            rule.lead_to(to);
            held.rule = Arc::new(rule);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
