//! `lbctl drops`: why and where packets were not sent.

use std::cmp::Reverse;

use clap::{ArgMatches, Command};

use super::{Context, Failure, OwnCommand, json, table};
use crate::api::types::DropView;

pub(super) struct Drops;

impl OwnCommand for Drops {
    fn command(&self) -> Command {
        Command::new("drops").about("Packets that were not sent, by reason and hook, most first").arg(json())
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let mut drops: Vec<DropView> = context.client()?.get("/v1/drops")?;
        drops.sort_by_key(|drop| Reverse(drop.packets));
        if matches.get_flag("json") {
            return context.print_json(&drops);
        }
        let rows: Vec<_> =
            drops.into_iter().map(|drop| vec![drop.packets.to_string(), drop.reason, drop.hook]).collect();
        table(context.output, &["packets", "reason", "hook"], &rows)?;
        Ok(0)
    }
}
