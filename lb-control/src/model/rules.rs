//! The operator's rules: tables of chains, as written, each rule and each policy with a counter of its own.
//!
//! Pure: no I/O. A batch changes copies of the tables that it names; they take the tables' place when all of it is right. Rules that stay
//! are the same `Arc`, and so keep what their matches remember.

mod accounts;
mod edit;
mod place;

use std::sync::Arc;

pub use accounts::Accounts;
use edit::{Edit, failure};
use hashbrown::{HashMap, HashSet};
use lb_core::counters::WorkerCounters;
use lb_core::hook::Hook;
use lb_core::rule::capture::Captures;
use lb_core::rule::names::Numeric;
use lb_core::rule::{
    Family, IdleTimer, KnownSet, MOST_RULE_NUMBERS, MOST_RULES, Named, Rule, Rules, SetUse, Table,
    chain_name, text,
};
use lb_core::set::SetId;
use lb_core::time::Tick;
pub(crate) use place::Place;

use super::Ids;
use crate::api::idle_timers::IdleTimerView;
use crate::api::rules::{
    ChainView, RuleBatch, RuleCommand, RuleCounts, RuleError, RuleFailure, RuleFamily, RuleView, TableChange,
    TableView,
};

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
    /// Among [`MOST_RULE_NUMBERS`].
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
    /// Those of `named`, in their order.
    accounts: Accounts,
    numbers: Ids,
    /// Numbers that workers may still count under: free once all use newer tables.
    freed: Vec<u32>,
}

impl RuleTables {
    /// `seed`: of the hashes that matches keep addresses under, see [`Named::new`].
    pub fn new(seed: u64) -> RuleTables {
        let mut numbers = Ids::new(MOST_RULE_NUMBERS);
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
            accounts: Accounts::default(),
            numbers,
            freed: Vec::new(),
        }
    }

    /// For the workers.
    pub fn compiled(&self) -> &Arc<Rules> {
        &self.compiled
    }

    /// Where copies of packets wait to be written, if there is, or was, a rule that wants it.
    pub fn captures(&self) -> Option<&Arc<Captures>> {
        self.named.known_captures()
    }

    /// The timers that rules have, by their labels.
    pub fn idle_timers(&self, now: Tick) -> Vec<IdleTimerView> {
        let view = |(label, timer): (&str, &IdleTimer)| IdleTimerView {
            label: label.to_owned(),
            left: timer.left(now),
            alarm: timer.is_alarm,
        };
        let mut all: Vec<_> = self.named.idle_timers().map(view).collect();
        all.sort_unstable();
        all
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
        let sums = &self.sums(workers);
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
        // As where the kernel finds no memory for a table: at its COMMIT.
        if done.is_ok() && self.count_with(of, &changed) > MOST_RULES {
            let place = batch.tables.len().saturating_sub(1);
            let end = batch.tables.last().map_or(0, |change| change.commands.len());
            done = Err(failure(place, end, RuleError::Full.into()));
        }
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

    /// How many rules and chains there are once `changed` are the tables of a family.
    fn count_with(&self, of: Family, changed: &[(Table, Vec<Chain>)]) -> usize {
        let count = |chains: &[Chain]| chains.iter().map(|chain| 1 + chain.rules.len()).sum::<usize>();
        let count_of = |other: Family, table: Table| {
            let new = changed.iter().find(|(which, _)| other == of && *which == table);
            new.map_or_else(
                || count(&self.tables[other as usize][table as usize]),
                |(_, chains)| count(chains),
            )
        };
        let all = |other| Table::ALL.into_iter().map(move |table| (other, table));
        Family::ALL.into_iter().flat_map(all).map(|(other, table)| count_of(other, table)).sum()
    }

    /// Of the numbers that were ever given.
    fn sums(&self, workers: &[Arc<WorkerCounters>]) -> Sums {
        Sums::of(workers, self.numbers.next as usize)
    }

    /// One table, or all of a family.
    pub fn view(
        &self,
        of: RuleFamily,
        only: Option<Table>,
        workers: &[Arc<WorkerCounters>],
    ) -> Vec<TableView> {
        let tables = Table::ALL.into_iter().filter(|table| only.is_none_or(|only| only == *table));
        let sums = self.sums(workers);
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
    pub(crate) fn place(&self, number: u32) -> Option<Place<'_>> {
        let mut tables = Family::ALL
            .into_iter()
            .flat_map(|of| Table::ALL.map(|table| (of, table, &self.tables[of as usize][table as usize])))
            .flat_map(|(of, table, chains)| chains.iter().map(move |chain| (of, table, chains, chain)));
        tables.find_map(|(of, table, chains, chain)| {
            let rule = chain.rules.iter().position(|held| held.count.number == number);
            (rule.is_some() || chain.count.number == number).then_some(Place {
                of,
                table,
                chains,
                chain,
                rule,
            })
        })
    }

    /// The tables as they are, to be read when there is time for that. Costs the same whatever is in them.
    pub fn written(&self) -> Written {
        Written(self.tables.clone())
    }
}

/// The tables of one moment.
#[derive(Clone, Debug)]
pub struct Written(Tables);

impl Written {
    /// What rules that say DROP or REJECT, and policies that say DROP, have dropped: by family, table and chain, where there are any.
    pub fn dropped(&self, workers: &[Arc<WorkerCounters>]) -> Vec<(RuleFamily, Table, &str, u64)> {
        let last = numbers(chains(&self.0)).max();
        let sums = Sums::of(workers, last.map_or(0, |last| last as usize + 1));
        let of_chain = |chain: &Chain| {
            let rules = chain.rules.iter().filter(|held| held.rule.drops()).map(|held| &held.count);
            let counts = rules.chain(chain.drops.then_some(&chain.count));
            counts.map(|count| count.read(&sums).packets).reduce(u64::wrapping_add)
        };
        let mut dropped = Vec::new();
        for of in FAMILIES {
            for (table, chains) in Table::ALL.into_iter().zip(&self.0[family(of) as usize]) {
                let chains = chains.iter();
                dropped.extend(chains.filter_map(|chain| Some((of, table, &*chain.name, of_chain(chain)?))));
            }
        }
        dropped
    }

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
    fn of(workers: &[Arc<WorkerCounters>], numbers: usize) -> Sums {
        let mut sums = WorkerCounters::no_rule_counts();
        sums.truncate(numbers);
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

#[cfg(test)]
mod tests;
