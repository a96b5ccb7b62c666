//! `bench`: runs every measure, prints a table, and writes down what it found.
//!
//! - `target/bench/results.json`: the figures, for programs;
//! - `target/bench/RESULTS.md`: the same with their conditions, for people;
//! - `benches/RESULTS.md` and `benches/instructions.json`: those that were recorded last (`--record`).

mod bench;
mod conditions;
mod huge_pages;
mod kernel;
mod lbd;
mod results;
mod worker;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail};
use clap::{Parser, Subcommand};
use lb_benches::measure::Scenario;
use lb_benches::runs::Runs;
use lb_benches::team::{size, two};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use bench::{BENCHES, Bench, Context, Found, Recorded, SECONDS, Time};
use conditions::Conditions;
use huge_pages::HugePages;
use results::{INSTRUCTIONS, NS, RATIO, Row};

/// Measures the load balancer, side by side with the peers that are on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What to measure; all when none is named: masq, testpmd, path, latency, flood, methods, new,
    /// schedulers, spread, rules, memory, size, two-workers, instructions, lbd-ready, publish-one-server,
    /// restore, set-lookup, rules-load, rules-kernel, end-to-end
    names: Vec<String>,
    /// Shorter and fewer runs: two minutes at most in all
    #[arg(long)]
    quick: bool,
    /// Keep the results as the recorded ones, in benches/
    #[arg(long)]
    record: bool,
    /// Fail when a packet takes over 5 % more instructions than recorded
    #[arg(long)]
    gate: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// One measure in this process, of which DPDK is part
    #[command(hide = true)]
    Worker {
        scenario: Scenario,
        flows: u32,
        rules: u32,
        packets: u64,
        runs: u32,
        milliseconds: u64,
        cpu: u32,
        huge_pages: String,
    },
    /// Workers on ports in memory: two and one
    #[command(hide = true)]
    Pair { rounds: u32, milliseconds: u64, huge_pages: String },
    /// One worker with as many connections
    #[command(hide = true)]
    Table { flows: u32, windows: u32, milliseconds: u64, is_whole: String, cpu: u32, huge_pages: String },
    /// The kernel's netfilter in this network namespace
    #[command(hide = true)]
    KernelNew { packets: u32, runs: u32 },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let of_time = |most, milliseconds| Runs { most, time: Duration::from_millis(milliseconds) };
    let result = match arguments.command {
        Some(Command::Worker { scenario, flows, rules, packets, runs, milliseconds, cpu, huge_pages }) => {
            let runs = of_time(runs, milliseconds);
            let huge_pages = huge_pages == "true";
            print(worker::measure(worker::Plan { scenario, flows, rules, packets, runs, cpu, huge_pages }))
        }
        Some(Command::Pair { rounds, milliseconds, huge_pages }) => {
            let rounds = of_time(rounds, milliseconds);
            print(two::measure(two::FLOWS, rounds, huge_pages == "true").map_err(Error::msg))
        }
        Some(Command::Table { flows, windows, milliseconds, is_whole, cpu, huge_pages }) => {
            let window = Duration::from_millis(milliseconds);
            let (is_whole, huge_pages) = (is_whole == "true", huge_pages == "true");
            let plan = size::Plan { flows, windows, window, is_whole, cpu, huge_pages };
            print(size::measure(plan).map_err(Error::msg))
        }
        Some(Command::KernelNew { packets, runs }) => print(kernel::measure(packets, runs)),
        None => run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(measured: Result<impl Serialize>) -> Result<()> {
    println!("{}", serde_json::to_string(&measured?)?);
    Ok(())
}

fn run(arguments: &Arguments) -> Result<()> {
    for name in &arguments.names {
        if !BENCHES.iter().any(|bench| bench.name == name) {
            let known: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
            bail!("no measure {name}; there are {}", known.join(", "));
        }
    }
    let program = std::env::current_exe()?;
    let programs = program.parent().context("this program is in no directory")?.to_owned();
    let out = programs.parent().context("no target directory")?.join("bench");
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let machine = Arc::new(Machine::borrow()?);
    put_back_on_signal(machine.clone())?;
    let pages = &machine.pages;
    let (cpu, pinned) = conditions::measuring_cpu();
    let mode = if arguments.quick { "quick" } else { "full" };
    let mut conditions = Conditions::gather(mode, &pages.describe(), &pinned);
    print!("{}", conditions.lines(""));
    let context = Context {
        time: Time::default(),
        is_quick: arguments.quick,
        cpu,
        huge_pages: pages.is_there,
        programs,
        scratch: machine.scratch.clone(),
    };
    let begun = Instant::now();
    let All { rows, notes, failures, cut } = run_all(&context, &arguments.names);
    machine.put_back();

    conditions.add("took", took(begun.elapsed(), &cut));
    println!("\ntook: {}\n{}", took(begun.elapsed(), &cut), results::table(&rows));
    for note in &notes {
        println!("{note}");
    }
    let report = report(&conditions, &rows, &notes);
    write(&out.join("results.json"), &(serde_json::to_string_pretty(&rows)? + "\n"))?;
    write(&out.join("RESULTS.md"), &report)?;
    println!("\nwritten: {} and RESULTS.md beside it", out.join("results.json").display());
    let worse = regressions(&rows)?;
    if failures > 0 {
        bail!("{failures} of the measures failed, see above");
    }
    if arguments.record {
        Recorded::write(&rows)?;
        // A report of some measures alone would hide the others'.
        if arguments.names.is_empty() {
            write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md"), &report)?;
        }
        println!("recorded in benches/");
    }
    if arguments.gate && !worse.is_empty() {
        bail!("over 5 % more instructions a packet than recorded: {}", worse.join(", "));
    }
    Ok(())
}

/// What all measures found.
#[derive(Default)]
struct All {
    rows: Vec<Row>,
    notes: Vec<String>,
    failures: usize,
    /// Those that had fewer runs than they were to have.
    cut: Vec<&'static str>,
}

/// Runs the measures that are named, or all. One that fails does not keep the others from being run.
fn run_all(context: &Context, names: &[String]) -> All {
    let (mut all, begun) = (All::default(), Instant::now());
    for bench in
        BENCHES.iter().filter(|bench| names.is_empty() || names.iter().any(|name| name == bench.name))
    {
        eprint!("bench: {} … ", bench.name);
        let start = Instant::now();
        match run_in_time(bench, context, begun.elapsed()) {
            Ok(found) => {
                eprintln!("{:.1} s", start.elapsed().as_secs_f32());
                all.rows.extend(found.rows);
                all.notes.extend(found.notes);
            }
            Err(error) => {
                eprintln!("failed");
                all.notes.push(format!("FAILED: {}: {error:#}", bench.name));
                all.failures += 1;
            }
        }
        all.cut.extend(context.time.is_cut().then_some(bench.name));
    }
    all.rows.extend(ratio(&all.rows));
    all
}

/// One measure, unless those before it have left too little time.
fn run_in_time(bench: &Bench, context: &Context, passed: Duration) -> Result<Found> {
    let mode = usize::from(!context.is_quick);
    let [mine, all] = [bench.seconds[mode], SECONDS[mode]].map(|seconds| Duration::from_secs(seconds.into()));
    context.time.begin(mine);
    if passed + mine > all {
        return Ok(Found::left_out(bench.name, "the others have taken its time"));
    }
    (bench.run)(context)
}

/// For people.
fn took(time: Duration, cut: &[&str]) -> String {
    let minutes = time.as_secs_f64() / 60.0;
    match cut {
        [] => format!("{minutes:.1} minutes"),
        cut => format!(
            "{minutes:.1} minutes; fewer runs than planned, since their time was over, had {}",
            cut.join(", ")
        ),
    }
}

/// What a packet costs beside one that testpmd merely rewrites, of the same run.
fn ratio(rows: &[Row]) -> Option<Row> {
    let ours = results::find(rows, "masq-udp", 1_000, NS)?;
    let peer = results::find(rows, "testpmd-5tswap", 0, NS)?;
    let row = Row::new("masq-udp", 1_000, RATIO, vec![ours.median / peer.median]);
    Some(Row { runs: ours.runs.min(peer.runs), ..row })
}

/// The measures that take more instructions than recorded.
fn regressions(rows: &[Row]) -> Result<Vec<String>> {
    let recorded = Recorded::read()?;
    let counted = rows.iter().filter(|row| row.metric == INSTRUCTIONS);
    let is_worse =
        |row: &&Row| recorded.of(&row.bench).is_some_and(|before| bench::is_regression(row.median, before));
    Ok(counted.filter(is_worse).map(|row| row.bench.clone()).collect())
}

fn report(conditions: &Conditions, rows: &[Row], notes: &[String]) -> String {
    let notes: String = notes.iter().map(|note| format!("- {note}\n")).collect();
    format!(
        "# Benchmark results\n\nWritten by `make bench`.\n\n## Conditions\n\n{}\n## Figures\n\n{}\n## Notes\n\n{notes}",
        conditions.lines("- "),
        results::markdown(rows)
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// What a run changes on this machine.
struct Machine {
    pages: HugePages,
    /// A directory for what only this run needs.
    scratch: PathBuf,
}

impl Machine {
    fn borrow() -> Result<Machine> {
        let scratch = std::env::temp_dir().join(format!("lb-bench-{}", std::process::id()));
        fs::create_dir(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
        Ok(Machine { pages: HugePages::reserve(), scratch })
    }

    fn put_back(&self) {
        self.pages.give_back();
        let _gone_already = fs::remove_dir_all(&self.scratch);
    }
}

/// What runs meanwhile got the same Ctrl-C.
fn put_back_on_signal(machine: Arc<Machine>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            machine.put_back();
            std::process::exit(128 + signal);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_measure() {
        let help = <Arguments as clap::CommandFactory>::command().render_long_help().to_string();
        for bench in BENCHES {
            assert!(help.contains(bench.name), "{}", bench.name);
        }
    }

    #[test]
    fn who_was_cut_short_is_named() {
        let time = Duration::from_secs(90);
        assert_eq!(took(time, &[]), "1.5 minutes");
        assert_eq!(
            took(time, &["masq", "new"]),
            "1.5 minutes; fewer runs than planned, since their time was over, had masq, new"
        );
    }

    #[test]
    fn the_ratio_is_of_two_figures_of_one_run() {
        let row = |bench, flows, value| Row::new(bench, flows, NS, vec![value; 5]);
        let rows = [row("masq-udp", 1_000, 30.0), row("testpmd-5tswap", 0, 15.0)];
        let ratio = ratio(&rows).unwrap();
        assert_eq!((ratio.median, ratio.runs, ratio.metric.as_str()), (2.0, 5, RATIO));
        assert_eq!(super::ratio(&rows[..1]), None);
    }
}
