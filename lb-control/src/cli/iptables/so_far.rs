//! A table in the middle of a file for `iptables-restore`: as the lines so far make it, of which the daemon does not know yet.

use hashbrown::HashMap;
use lb_core::rule::names::Numeric;
use lb_core::rule::{Around, KnownSet, Rule, Table};
use lb_core::set::SetId;

use super::{Program, RuleKeeper, Stop, no_table, table_view};
use crate::api::rules::{RuleBatch, RuleCommand, RuleCounts, TableChange, TableView};
use crate::model::rules::{RuleTables, family};

/// Makes a table like the daemon's, and does to it what `change` asks for.
pub(super) fn view(
    program: Program,
    change: &TableChange,
    keeper: &mut dyn RuleKeeper,
) -> Result<TableView, Stop> {
    let table = Table::named(&change.table).ok_or_else(|| no_table(program, &change.table))?;
    let mut commands = begin(table_view(program, table, keeper)?, change.empty);
    commands.extend(change.commands.iter().cloned());
    let mut rules = RuleTables::new(0);
    rules.know_sets(named(program, &commands));
    let change = TableChange { table: change.table.clone(), empty: false, commands };
    let batch = RuleBatch { family: program.family(), tables: vec![change], test: false };
    rules.apply(&batch, &[]).map_err(|failure| Stop::other(failure.message))?;
    let view = rules.view(program.family(), Some(table), &[]).into_iter().next();
    view.ok_or_else(|| no_table(program, table.name()))
}

/// What makes an empty table the one of `view`; `is_emptied`: its policies alone.
fn begin(view: TableView, is_emptied: bool) -> Vec<RuleCommand> {
    let mut commands = Vec::new();
    for chain in &view.chains {
        let name = chain.name.clone();
        let counts = if is_emptied { RuleCounts::default() } else { chain.counts };
        match &chain.policy {
            Some(policy) => commands.push(RuleCommand::SetPolicy {
                chain: name,
                policy: policy.clone(),
                counts: Some(counts),
            }),
            None if is_emptied => {}
            None => commands.push(RuleCommand::NewChain { chain: name }),
        }
    }
    let chains = view.chains.into_iter().filter(|_| !is_emptied);
    let rules = chains.flat_map(|chain| chain.rules.into_iter().map(move |rule| (chain.name.clone(), rule)));
    commands.extend(rules.map(|(chain, view)| RuleCommand::Append {
        chain,
        rule: view.rule,
        counts: view.counts,
    }));
    commands
}

/// The IP sets that rules name: whether there are such the daemon says in the end.
fn named(program: Program, commands: &[RuleCommand]) -> HashMap<String, KnownSet> {
    let mut sets = HashMap::new();
    for command in commands {
        if let RuleCommand::Append { rule, .. }
        | RuleCommand::Insert { rule, .. }
        | RuleCommand::Replace { rule, .. }
        | RuleCommand::Delete { rule, .. }
        | RuleCommand::Check { rule, .. } = command
            && let Ok((rules, _)) = Rule::read(rule, &mut Around::new(family(program.family()), &Numeric))
        {
            let found = rules.iter().flat_map(Rule::sets).map(|set| set.name().to_owned());
            sets.extend(found.map(|name| (name, KnownSet { id: SetId(0), family: None })));
        }
    }
    sets
}
