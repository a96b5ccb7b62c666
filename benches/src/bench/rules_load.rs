//! `iptables-restore` of many rules: `lbd`'s, and the kernel's own in a network namespace, in turns.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use lb_benches::traffic::ruleset;

use super::{Context, Found, is_installed, succeeded, text};
use crate::lbd::{Lbd, missing};
use crate::results::{Row, SECONDS};

const RULES: u32 = 10_000;
/// The kernel's iptables, without nf_tables.
const PEER: &str = "iptables-legacy-restore";

pub(super) fn run(context: &Context) -> Result<Found> {
    if let Some(why) = missing(context) {
        return Ok(Found::left_out("rules-load", why));
    }
    let file = context.scratch.join("rules");
    let lines: String = ruleset::lines(RULES).iter().map(|line| format!("-A INPUT {line}\n")).collect();
    fs::write(&file, format!("*filter\n{lines}COMMIT\n"))?;
    let lbd = Lbd::start(context, 0)?;
    let (mut ours, mut kernels) = (Vec::new(), Vec::new());
    for _ in context.rounds(context.choose(3, 7), 1) {
        let before = lbd.generation()?;
        let mut command = lbd.lbctl(context)?;
        command.arg("iptables-restore").arg(&file);
        let begun = Instant::now();
        succeeded(&mut command)?;
        lbd.until_newer(before)?;
        ours.push(begun.elapsed().as_secs_f64());
        kernels.extend(kernel(text(&file)?)?);
    }
    let mut command = lbd.lbctl(context)?;
    let listed = succeeded(command.args(["iptables", "-S", "INPUT"]))?.lines().count();
    ensure!(listed == RULES as usize + 1, "{listed} lines are listed of {RULES} rules and a policy");
    lbd.stop();
    let row = |bench: &str, seconds| Row { rules: RULES, ..Row::new(bench, 0, SECONDS, seconds) };
    let mut found = Found { rows: vec![row("rules-load", ours)], notes: Vec::new() };
    let what = if kernels.is_empty() {
        format!("the kernel's was left out: {PEER} is not installed or not allowed")
    } else {
        found.rows.push(row("rules-load-kernel", kernels));
        format!("rules-load-kernel: `{PEER}` in a new network namespace")
    };
    found.notes.push(format!(
        "rules-load: `iptables-restore` of {RULES} rules, from its start until the worker uses them, in the place of as many; {what}."
    ));
    Ok(found)
}

/// How long the kernel takes; `None`: it cannot be asked here.
fn kernel(file: &str) -> Result<Option<f64>> {
    if !is_installed(PEER) {
        return Ok(None);
    }
    // The time is taken within, so that the namespace's making is not in it.
    let script = r#"set -e; a=$(date +%s%N); "$0" "$1"; b=$(date +%s%N); echo $((b - a))"#;
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script, PEER, file]).stderr(Stdio::null());
    let output = command.output().context("unshare")?;
    let nanoseconds = String::from_utf8_lossy(&output.stdout).trim().parse::<u64>();
    Ok(nanoseconds.ok().filter(|_| output.status.success()).map(|ns| ns as f64 / 1e9))
}
