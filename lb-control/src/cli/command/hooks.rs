//! `lbctl hooks`: what packets meet at each hook, in the order in which they meet it.

use clap::{ArgMatches, Command};
use lb_core::hook::{ORDER, Place};
use lb_core::rule::chain_name;
use serde::{Deserialize, Serialize};

use super::{Context, Failure, OwnCommand, json, table};

pub(super) struct Hooks;

/// One row.
#[derive(Serialize, Deserialize)]
struct HookFunction {
    hook: String,
    priority: i32,
    function: String,
    does: String,
}

impl From<&Place> for HookFunction {
    fn from(place: &Place) -> HookFunction {
        HookFunction {
            hook: chain_name(place.hook).to_owned(),
            priority: place.priority,
            function: place.function.to_string(),
            does: place.does.to_owned(),
        }
    }
}

impl OwnCommand for Hooks {
    fn command(&self) -> Command {
        Command::new("hooks").about("What packets meet at each hook, and in which order").arg(json())
    }

    /// Asks no daemon: the order is the program's.
    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let functions: Vec<HookFunction> = ORDER.iter().map(HookFunction::from).collect();
        if matches.get_flag("json") {
            return context.print_json(&functions);
        }
        let row = |row: HookFunction| {
            let priority =
                if row.priority == i32::MAX { "last".to_owned() } else { row.priority.to_string() };
            vec![row.hook, priority, row.function, row.does]
        };
        let rows: Vec<_> = functions.into_iter().map(row).collect();
        table(context.output, &["hook", "priority", "function", "does"], &rows)?;
        Ok(0)
    }
}
