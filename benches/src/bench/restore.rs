//! `ipvsadm-restore` and `ipvsadm-save` of a large director.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Context, Found, succeeded};
use crate::lbd::{Lbd, missing, rules};
use crate::results::{Row, SECONDS};

/// Virtual services, of ten real servers each.
const SERVICES: u32 = 10_000;
/// The ids of removed real servers are free again after two looks, a quarter of a second apart.
const REST: Duration = Duration::from_secs(1);

pub(super) fn run(context: &Context) -> Result<Found> {
    if let Some(why) = missing(context) {
        return Ok(Found::left_out("restore", why));
    }
    let lbd = Lbd::start(context, 0)?;
    let (mut restored, mut saved) = (Vec::new(), Vec::new());
    for _ in context.rounds(context.choose(3, 5), 1) {
        restored.push(restore(context, &lbd, SERVICES)?.as_secs_f64());
        let mut command = lbd.lbctl(context)?;
        command.args(["ipvsadm-save", "-n"]);
        let begun = Instant::now();
        let text = succeeded(&mut command)?;
        saved.push(begun.elapsed().as_secs_f64());
        let lines = |text: &str| text.lines().map(str::trim_end).map(str::to_owned).collect::<BTreeSet<_>>();
        ensure!(lines(&text) == lines(&rules(SERVICES)), "what was saved is not what was restored");
        let mut command = lbd.lbctl(context)?;
        succeeded(command.args(["ipvsadm", "-C"]))?;
        thread::sleep(REST);
    }
    lbd.stop();
    let name = |what: &str| format!("{what} {SERVICES}x10");
    Ok(Found {
        rows: vec![
            Row::new(&name("restore"), 0, SECONDS, restored),
            Row::new(&name("save"), 0, SECONDS, saved),
        ],
        notes: vec![format!(
            "restore, save: `ipvsadm-restore` of {SERVICES} virtual services of 10 real servers each, from its start until the \
             worker uses all of them; `ipvsadm-save -n`, which gives the same lines."
        )],
    })
}

/// Makes so many virtual services by `ipvsadm-restore`; returns how long it took until the worker had them.
pub(super) fn restore(context: &Context, lbd: &Lbd, services: u32) -> Result<Duration> {
    let rules = rules(services);
    let before = lbd.generation()?;
    let mut command = lbd.lbctl(context)?;
    command.arg("ipvsadm-restore").stdin(Stdio::piped());
    let begun = Instant::now();
    feed(&mut command, &rules)?;
    lbd.until_newer(before)?;
    Ok(begun.elapsed())
}

pub(super) fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    // Dropped at once: the end of the input.
    child.stdin.take().context("its standard input")?.write_all(input.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
