//! The measures: one file and one row of [`BENCHES`] each.

mod end_to_end;
mod flood;
mod instructions;
mod latency;
mod lbd_ready;
mod masq;
mod memory;
mod methods;
mod new;
mod path;
mod publish_one_server;
mod restore;
mod rules;
mod rules_load;
mod schedulers;
mod set_lookup;
mod size;
mod spread;
mod testpmd;
mod two_workers;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lb_benches::measure::{Measured, Scenario};
use lb_benches::traffic::Spread;
use serde::de::DeserializeOwned;

use crate::results::Row;

pub(crate) use instructions::{Recorded, is_regression};

/// One measure.
pub(crate) struct Bench {
    /// What `bench NAME` runs, and with underscores its file.
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Context) -> Result<Found>,
}

/// In the order in which they run. The peer comes right after what is compared with it.
pub(crate) const BENCHES: &[Bench] = &[
    Bench { name: "masq", run: masq::run },
    Bench { name: "testpmd", run: testpmd::run },
    Bench { name: "path", run: path::run },
    Bench { name: "latency", run: latency::run },
    Bench { name: "flood", run: flood::run },
    Bench { name: "methods", run: methods::run },
    Bench { name: "new", run: new::run },
    Bench { name: "schedulers", run: schedulers::run },
    Bench { name: "spread", run: spread::run },
    Bench { name: "rules", run: rules::run },
    Bench { name: "memory", run: memory::run },
    Bench { name: "size", run: size::run },
    Bench { name: "two-workers", run: two_workers::run },
    Bench { name: "instructions", run: instructions::run },
    Bench { name: "lbd-ready", run: lbd_ready::run },
    Bench { name: "publish-one-server", run: publish_one_server::run },
    Bench { name: "restore", run: restore::run },
    Bench { name: "set-lookup", run: set_lookup::run },
    Bench { name: "rules-load", run: rules_load::run },
    Bench { name: "end-to-end", run: end_to_end::run },
];

/// What a measure found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) rows: Vec<Row>,
    /// What a reader must know, or why something was left out.
    pub(crate) notes: Vec<String>,
}

impl Found {
    fn left_out(name: &str, why: &str) -> Found {
        Found { rows: Vec::new(), notes: vec![format!("{name} was left out: {why}")] }
    }
}

/// How and where to measure.
pub(crate) struct Context {
    pub(crate) is_quick: bool,
    pub(crate) cpu: u32,
    pub(crate) huge_pages: bool,
    /// Where our programs are: the directory of this one.
    pub(crate) programs: PathBuf,
    /// Where files go that only this run needs.
    pub(crate) scratch: PathBuf,
}

/// Numbers of open connections that the path is measured with.
pub(crate) const FLOWS: [u32; 3] = [1_000, 100_000, 1_000_000];

impl Context {
    /// The length of a measure: short or long.
    fn choose<T>(&self, quick: T, full: T) -> T {
        if self.is_quick { quick } else { full }
    }

    /// Measures in a worker, in a process of its own.
    fn worker(&self, scenario: Scenario, flows: u32, packets: u64, runs: u32) -> Result<Measured> {
        self.worker_with_rules(scenario, 0, flows, packets, runs)
    }

    /// The same with so many rules.
    fn worker_with_rules(
        &self,
        scenario: Scenario,
        rules: u32,
        flows: u32,
        packets: u64,
        runs: u32,
    ) -> Result<Measured> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["worker", scenario.name(), &flows.to_string(), &rules.to_string()]);
        command.args([packets.to_string(), runs.to_string()]);
        command.args([self.cpu.to_string(), self.huge_pages.to_string()]);
        measured(command)
    }

    /// Measures the path alone, in a process of its own.
    fn road(
        &self,
        scenario: Scenario,
        spread: Spread,
        flows: u32,
        packets: u64,
        runs: u32,
    ) -> Result<Measured> {
        let Spread { scheduler, servers } = spread;
        let more = ["--scheduler", scheduler.name(), "--servers", &servers.to_string()];
        self.road_with(scenario, flows, packets, runs, &more)
    }

    /// The same with so many rules.
    fn road_with_rules(
        &self,
        scenario: Scenario,
        rules: u32,
        flows: u32,
        packets: u64,
        runs: u32,
    ) -> Result<Measured> {
        self.road_with(scenario, flows, packets, runs, &["--rules", &rules.to_string()])
    }

    fn road_with<T: DeserializeOwned>(
        &self,
        scenario: Scenario,
        flows: u32,
        packets: u64,
        runs: u32,
        more: &[&str],
    ) -> Result<T> {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.cpu.to_string()]).arg(self.program("road")?);
        command.args(road_arguments(scenario, flows, packets, runs));
        command.args(more);
        // Large blocks of the heap lie on transparent huge pages (glibc 2.35 and newer).
        command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        measured(command)
    }

    /// One of our programs.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.join(name);
        if !path.exists() {
            bail!("{} is not built", path.display());
        }
        Ok(path)
    }
}

/// What this program measures in a process of its own, whose threads are on any CPU but where they say otherwise.
fn own<T: DeserializeOwned>(arguments: &[&str]) -> Result<T> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    measured(command)
}

fn road_arguments(scenario: Scenario, flows: u32, packets: u64, runs: u32) -> Vec<String> {
    let (flows, packets, runs) = (flows.to_string(), packets.to_string(), runs.to_string());
    [scenario.name(), "--flows", &flows, "--packets", &packets, "--runs", &runs].map(str::to_owned).to_vec()
}

fn measured<T: DeserializeOwned>(mut command: Command) -> Result<T> {
    let text = succeeded(&mut command)?;
    serde_json::from_str(text.trim()).with_context(|| format!("{command:?} printed {text:?}"))
}

/// What a program printed that succeeded.
fn succeeded(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Whether a program is on this machine.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// A child that is killed when it is not waited for to its end.
pub(crate) struct Child(pub(crate) std::process::Child);

impl Child {
    /// Asks it to end, and waits; kills it when it does not within `patience`.
    pub(crate) fn end(mut self, patience: Duration) {
        // SIGTERM by the program that has it: signalling needs `unsafe` or a crate more.
        let _gone_already = Command::new("kill").arg(self.0.id().to_string()).status();
        let deadline = std::time::Instant::now() + patience;
        while std::time::Instant::now() < deadline && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _gone_already = self.0.kill();
            let _status = self.0.wait();
        }
    }
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_has_a_file_and_every_file_a_row() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().replace('_', "-"))
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        let mut names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        names.sort_unstable();
        assert_eq!(files, names);
    }
}
