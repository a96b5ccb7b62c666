//! `lbctl workers`: do they live, how busy are they, how full are their flow tables?

use clap::{ArgMatches, Command};

use super::{Context, Failure, OwnCommand, json, table};
use crate::api::types::WorkerView;

pub(super) struct Workers;

impl OwnCommand for Workers {
    fn command(&self) -> Command {
        Command::new("workers").about("Workers: alive, busy, and how full").arg(json())
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let workers: Vec<WorkerView> = context.client()?.get("/v1/workers")?;
        if matches.get_flag("json") {
            return context.print_json(&workers);
        }
        let titles = [
            "worker",
            "cpu",
            "state",
            "busy %",
            "turns",
            "long turns",
            "tables",
            "flows",
            "room",
            "handed over",
            "handed in",
        ];
        let rows: Vec<_> = workers
            .into_iter()
            .map(|worker| {
                vec![
                    worker.worker.to_string(),
                    worker.cpu.to_string(),
                    if worker.alive { "alive" } else { "stalled" }.to_owned(),
                    percent(worker.busy_cycles, worker.idle_cycles).to_string(),
                    worker.turns.to_string(),
                    worker.long_turns.to_string(),
                    worker.generation.to_string(),
                    worker.flows.to_string(),
                    worker.flow_capacity.to_string(),
                    worker.handed_over.to_string(),
                    worker.handed_in.to_string(),
                ]
            })
            .collect();
        table(context.output, &titles, &rows)?;
        Ok(0)
    }
}

/// Share of cycles since the start that had work, rounded.
fn percent(busy: u64, idle: u64) -> u128 {
    let all = (u128::from(busy) + u128::from(idle)).max(1);
    (u128::from(busy) * 100 + all / 2) / all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_without_cycles_is_not_busy() {
        assert_eq!(percent(0, 0), 0);
        assert_eq!(percent(1, 2), 33);
        assert_eq!(percent(u64::MAX, 0), 100);
    }
}
