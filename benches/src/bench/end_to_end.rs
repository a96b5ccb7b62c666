//! HTTP from a client to real servers, through `lbd` and through its peers: the lab measures, this collects.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Context, Found, is_installed, succeeded};
use crate::results::Row;

pub(super) fn run(context: &Context) -> Result<Found> {
    let Ok(lab) = context.program("lab") else {
        return Ok(Found::left_out("end-to-end", "the lab is not built"));
    };
    for program in ["wrk", "nginx", "ip"] {
        if !is_installed(program) {
            return Ok(Found::left_out("end-to-end", &format!("{program} is not installed")));
        }
    }
    let file = context.scratch.join("end-to-end.json");
    let (seconds, runs) = context.choose(("1", "1"), ("2", "3"));
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "400"]).arg(lab);
    command.args(["end-to-end", "--seconds", seconds, "--runs", runs, "--json"]).arg(&file);
    succeeded(&mut command)?;
    let list = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let rows: Vec<Row> = serde_json::from_str(&list).context("what the lab wrote")?;
    Ok(Found {
        rows: rows.into_iter().map(Row::rounded).collect(),
        notes: vec![
            "end-to-end: over veth the kernel's stacks at both ends and the generator are the limit; it compares ways through one \
             machine, and measures no NIC. cpu_seconds_per_million_requests: of the whole machine, both ends and the generator included, while connections are \
             kept open; lbd's worker polls, so that it works as long as it waits."
                .to_owned(),
        ],
    })
}
