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
mod rules_kernel;
mod rules_load;
mod schedulers;
mod set_lookup;
mod size;
mod spread;
mod testpmd;
mod two_workers;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lb_benches::measure::{Measured, Repeated, Scenario};
use lb_benches::runs::Runs;
use lb_benches::traffic::Spread;
use serde::de::DeserializeOwned;

use crate::results::Row;

pub(crate) use instructions::{Recorded, is_regression};

/// One measure.
pub(crate) struct Bench {
    /// What `bench NAME` runs, and with underscores its file.
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Context) -> Result<Found>,
    /// What it may take in a quick run and in a full one: what it repeats it repeats less often where that is
    /// too short, see [`Runs`].
    pub(crate) seconds: [u16; 2],
}

/// In the order in which they run. The peer comes right after what is compared with it.
pub(crate) const BENCHES: &[Bench] = &[
    Bench { name: "masq", run: masq::run, seconds: [9, 110] },
    Bench { name: "testpmd", run: testpmd::run, seconds: [9, 40] },
    Bench { name: "path", run: path::run, seconds: [5, 25] },
    Bench { name: "latency", run: latency::run, seconds: [4, 40] },
    Bench { name: "flood", run: flood::run, seconds: [4, 25] },
    Bench { name: "methods", run: methods::run, seconds: [10, 120] },
    Bench { name: "new", run: new::run, seconds: [6, 55] },
    Bench { name: "schedulers", run: schedulers::run, seconds: [6, 70] },
    Bench { name: "spread", run: spread::run, seconds: [1, 3] },
    Bench { name: "rules", run: rules::run, seconds: [8, 65] },
    Bench { name: "memory", run: memory::run, seconds: [1, 3] },
    Bench { name: "size", run: size::run, seconds: [5, 70] },
    Bench { name: "two-workers", run: two_workers::run, seconds: [3, 15] },
    Bench { name: "instructions", run: instructions::run, seconds: [14, 40] },
    Bench { name: "lbd-ready", run: lbd_ready::run, seconds: [2, 4] },
    Bench { name: "publish-one-server", run: publish_one_server::run, seconds: [3, 10] },
    Bench { name: "restore", run: restore::run, seconds: [5, 22] },
    Bench { name: "set-lookup", run: set_lookup::run, seconds: [5, 25] },
    Bench { name: "rules-load", run: rules_load::run, seconds: [1, 5] },
    Bench { name: "rules-kernel", run: rules_kernel::run, seconds: [2, 20] },
    Bench { name: "end-to-end", run: end_to_end::run, seconds: [17, 90] },
];

/// What all of them may take, in a quick run and in a full one: measures that would not be done by then are
/// left out.
pub(crate) const SECONDS: [u16; 2] = [2 * 60, 15 * 60];

/// What a measure found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) rows: Vec<Row>,
    /// What a reader must know, or why something was left out.
    pub(crate) notes: Vec<String>,
}

impl Found {
    pub(crate) fn left_out(name: &str, why: &str) -> Found {
        Found { rows: Vec::new(), notes: vec![format!("{name} was left out: {why}")] }
    }
}

/// How and where to measure.
pub(crate) struct Context {
    pub(crate) time: Time,
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

/// Until when the measure at hand goes on repeating itself.
pub(crate) struct Time {
    until: Cell<Instant>,
    /// It had fewer runs than it was to have.
    is_cut: Cell<bool>,
}

impl Default for Time {
    fn default() -> Time {
        Time { until: Cell::new(Instant::now()), is_cut: Cell::new(false) }
    }
}

impl Time {
    /// A measure begins that may take so long.
    pub(crate) fn begin(&self, time: Duration) {
        self.until.set(Instant::now() + time);
        self.is_cut.set(false);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.get()
    }

    /// `most` runs, or as many as there are in an equal share of the time for each of the parts that are
    /// left, this one among them.
    fn part(&self, most: u32, left: usize) -> Runs {
        let time = self.until.get().saturating_duration_since(Instant::now()) / left.max(1) as u32;
        Runs { most, time }
    }

    /// There were so many of these.
    fn had(&self, done: u32, runs: Runs) {
        self.is_cut.set(self.is_cut.get() || done < runs.most);
    }
}

impl Context {
    /// The length of a measure: short or long.
    fn choose<T>(&self, quick: T, full: T) -> T {
        if self.is_quick { quick } else { full }
    }

    /// Rounds in this process: see [`Time::part`].
    fn rounds(&self, most: u32, left: usize) -> impl Iterator<Item = u32> {
        let rounds = self.time.part(most, left);
        let begun = Instant::now();
        (0..most).take_while(move |&done| {
            let goes_on = rounds.goes_on(done, begun.elapsed());
            if !goes_on {
                self.time.had(done, rounds);
            }
            goes_on
        })
    }

    /// Measures in a worker, in a process of its own.
    fn worker(&self, scenario: Scenario, flows: u32, packets: u64, runs: Runs) -> Result<Measured> {
        self.worker_with_rules(scenario, 0, flows, packets, runs)
    }

    /// The same with so many rules.
    fn worker_with_rules(
        &self,
        scenario: Scenario,
        rules: u32,
        flows: u32,
        packets: u64,
        runs: Runs,
    ) -> Result<Measured> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["worker", scenario.name(), &flows.to_string(), &rules.to_string()]);
        command.args([packets.to_string(), runs.most.to_string(), milliseconds(runs)]);
        command.args([self.cpu.to_string(), self.huge_pages.to_string()]);
        self.repeated(command, runs)
    }

    fn repeated<T: DeserializeOwned + Repeated>(&self, command: Command, runs: Runs) -> Result<T> {
        let found: T = measured(command)?;
        self.time.had(found.runs(), runs);
        Ok(found)
    }

    /// Measures the path alone, in a process of its own.
    fn road(
        &self,
        scenario: Scenario,
        spread: Spread,
        flows: u32,
        packets: u64,
        runs: Runs,
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
        runs: Runs,
    ) -> Result<Measured> {
        self.road_with(scenario, flows, packets, runs, &["--rules", &rules.to_string()])
    }

    fn road_with<T: DeserializeOwned + Repeated>(
        &self,
        scenario: Scenario,
        flows: u32,
        packets: u64,
        runs: Runs,
        more: &[&str],
    ) -> Result<T> {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.cpu.to_string()]).arg(self.program("road")?);
        command.args(road_arguments(scenario, flows, packets, runs));
        command.args(more);
        // Large blocks of the heap lie on transparent huge pages (glibc 2.35 and newer).
        command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        self.repeated(command, runs)
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

/// What this program measures in a process of its own, whose threads are on any CPU but where they say
/// otherwise.
fn own<T: DeserializeOwned>(arguments: &[&str]) -> Result<T> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    measured(command)
}

fn road_arguments(scenario: Scenario, flows: u32, packets: u64, runs: Runs) -> Vec<String> {
    let (flows, packets, most) = (flows.to_string(), packets.to_string(), runs.most.to_string());
    let mut arguments = vec![scenario.name(), "--flows", &flows, "--packets", &packets, "--runs", &most];
    let time = milliseconds(runs);
    arguments.extend(["--milliseconds", &time]);
    arguments.into_iter().map(str::to_owned).collect()
}

/// As the programs take it.
fn milliseconds(runs: Runs) -> String {
    u64::try_from(runs.time.as_millis()).unwrap_or(u64::MAX).to_string()
}

fn measured<T: DeserializeOwned>(mut command: Command) -> Result<T> {
    let text = succeeded(&mut command)?;
    serde_json::from_str(text.trim()).with_context(|| format!("{command:?} printed {text:?}"))
}

/// What a program printed that succeeded.
pub(crate) fn succeeded(command: &mut Command) -> Result<String> {
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
    fn all_measures_have_time_in_a_run() {
        for (mode, all) in SECONDS.into_iter().enumerate() {
            let sum: u16 = BENCHES.iter().map(|bench| bench.seconds[mode]).sum();
            assert!(sum <= all, "{sum} of {all}");
        }
    }

    #[test]
    fn parts_share_the_time_that_is_left_and_who_was_cut_short_is_known() {
        let time = Time::default();
        time.begin(Duration::from_secs(1000));
        let [half, all] = [2, 1].map(|left| time.part(7, left));
        assert!(
            half.most == 7 && half.time <= Duration::from_secs(500) && half.time > Duration::from_secs(400)
        );
        assert!(all.time > Duration::from_secs(900));
        time.had(7, half);
        assert!(!time.is_cut());
        time.had(6, half);
        time.had(7, all);
        assert!(time.is_cut());
        time.begin(Duration::ZERO);
        assert_eq!((time.is_cut(), time.part(7, 3).time), (false, Duration::ZERO));
    }

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
