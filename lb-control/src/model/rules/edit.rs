//! A batch of changes, done to copies: command by command in the order of the kernel's refusals, then compiled.

use std::sync::Arc;

use lb_core::rule::names::Numeric;
use lb_core::rule::{
    Around, BadTable, ChainSource, Family, KnownSet, Named, Refused, Rule, RuleSource, Rules, Table,
    reached_from,
};

use super::{Chain, Count, Held, Ids, Sums};
use crate::api::rules::{RuleCommand, RuleCounts, RuleError, RuleFailure, TableChange};
use crate::one_line::one_line;

/// Longest name of a chain, bytes.
const LONGEST_NAME: usize = 28;

/// One batch at work.
pub(super) struct Edit<'a> {
    pub(super) of: Family,
    pub(super) sums: &'a Sums,
    pub(super) named: &'a mut Named,
    pub(super) numbers: &'a mut Ids,
    /// Of those that came, also if they went again.
    pub(super) taken: Vec<u32>,
    pub(super) leaves_out: &'a mut dyn FnMut(&RuleFailure) -> bool,
}

/// Why a command is not done.
pub(super) struct Failed {
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

pub(super) fn failure(table: usize, command: usize, Failed { error, why }: Failed) -> RuleFailure {
    let message = if why.is_empty() { error.to_string() } else { why };
    RuleFailure { table, command, error, message: one_line(message) }
}

type Done<T = ()> = Result<T, Failed>;

impl Edit<'_> {
    /// The chains as `change` makes them; `compiled` has them too.
    pub(super) fn table(
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
        let built_in: Vec<&str> =
            chains.iter().filter(|chain| chain.hook.is_some()).map(|chain| &*chain.name).collect();
        let rules = chains.iter().flat_map(|chain| &chain.rules);
        if rules.filter_map(|held| held.rule.chain()).any(|name| built_in.contains(&name)) {
            return Err(RuleError::Invalid.into());
        }
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
            RuleCommand::BeginChain { chain } => match find(chains, chain) {
                Ok(place) => chains[place].rules.clear(),
                Err(_) => self.new_chain(chains, chain)?,
            },
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
