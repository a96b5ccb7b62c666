//! `lbctl idletimers`: how long it is until the timers of rules (`-j IDLETIMER`) run out.

use clap::{ArgMatches, Command};

use super::{Context, Failure, OwnCommand, json, table};
use crate::api::idle_timers::{IdleTimerView, IdleTimersReply};

pub(super) struct IdleTimers;

impl OwnCommand for IdleTimers {
    fn command(&self) -> Command {
        Command::new("idletimers")
            .about("How many seconds are left until the timers of rules (-j IDLETIMER) run out; 0: no packet came for that long")
            .arg(json())
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let IdleTimersReply { timers } = context.client()?.get("/v1/idletimers")?;
        if matches.get_flag("json") {
            return context.print_json(&timers);
        }
        let row = |IdleTimerView { label, left, alarm }: IdleTimerView| {
            vec![label, left.to_string(), if alarm { "alarm" } else { "" }.to_owned()]
        };
        let rows: Vec<_> = timers.into_iter().map(row).collect();
        table(context.output, &["label", "left", ""], &rows)?;
        Ok(0)
    }
}
