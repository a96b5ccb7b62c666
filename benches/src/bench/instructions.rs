//! Instructions that the path executes for a packet, counted by callgrind: the same on a busy machine as on a
//! quiet one, so that a change of a few per cent shows.
//!
//! Only what goes on in `Road::go_through` is counted, and of that the second of two runs: neither the
//! opening of the connections nor the warming up is in it. As many are counted at a time as there are CPUs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use lb_benches::measure::Scenario;
use lb_benches::runs::Runs;
use lb_benches::traffic::Transport;

use super::{Context, Found, is_installed, road_arguments, succeeded, text};
use crate::results::{INSTRUCTIONS, Row};

const FLOWS: u32 = 1_000;
/// Counted, of each; or whole lives of connections.
const PACKETS: u64 = 40_000;
/// With many rules: see `ruleset`. A quick run does without.
const RULED: [(&str, Scenario, u32); 2] = [
    ("ruled-udp", Scenario::Masq(Transport::Udp), 10_000),
    ("ruled-new-udp", Scenario::New(Transport::Udp), 10_000),
];
/// More than so much above the recorded figure is a regression.
const TOLERANCE: f64 = 1.05;

pub(super) fn run(context: &Context) -> Result<Found> {
    if !is_installed("valgrind") {
        return Ok(Found::left_out("instructions", "valgrind is not installed"));
    }
    let road = context.program("road")?;
    let recorded = Recorded::read()?;
    let mut found = Found::default();
    let unruled = Scenario::all().map(|scenario| (scenario.name(), scenario, 0));
    let cases: Vec<_> = unruled.chain(RULED.into_iter().filter(|_| !context.is_quick)).collect();
    let scratch = &context.scratch;
    let counts = on_all_cpus(&cases, |&(name, scenario, rules)| {
        count(&road, (scenario, rules), &scratch.join(format!("callgrind.{name}")))
    });
    for (&(name, scenario, rules), each) in cases.iter().zip(counts) {
        let row = Row { rules, ..Row::new(name, flows(scenario), INSTRUCTIONS, vec![each?]) };
        found.notes.push(match recorded.of(name) {
            Some(before) if is_regression(row.median, before) => {
                format!("REGRESSION: {name}: {} instructions a packet, recorded are {before}", row.median)
            }
            Some(before) => {
                format!("{name}: {} instructions a packet, recorded are {before}", row.median)
            }
            None => format!("{name}: {} instructions a packet, none are recorded", row.median),
        });
        found.rows.push(row);
    }
    Ok(found)
}

/// Few open connections. Of those that begin and end so many that several do in each tick of the timers'
/// wheel: its turning is not to weigh more than in earnest.
fn flows(scenario: Scenario) -> u32 {
    match scenario {
        Scenario::New(Transport::Udp) => 200 * FLOWS,
        Scenario::New(Transport::Tcp) => 80 * FLOWS,
        _ => FLOWS,
    }
}

/// What `each` gives of them, as many at a time as there are CPUs, in their order.
fn on_all_cpus<J: Sync, T: Send>(jobs: &[J], each: impl Fn(&J) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mine = std::iter::from_fn(|| {
            let n = next.fetch_add(1, Ordering::Relaxed);
            jobs.get(n).map(|job| (n, each(job)))
        });
        mine.collect::<Vec<_>>()
    };
    let mut done = thread::scope(|scope| {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..cpus).map(|_| scope.spawn(take)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it does not panic")).collect::<Vec<_>>()
    });
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Instructions a packet. Callgrind leaves them in `file`.
fn count(road: &Path, (scenario, rules): (Scenario, u32), file: &Path) -> Result<f64> {
    let (flows, packets) = (flows(scenario), PACKETS * scenario.packets_each());
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*Road*go_through*"]);
    // Of two patterns that begin alike callgrind (3.19) knows one.
    command.arg("--zero-before=*begin_to_count*");
    command.arg(format!("--callgrind-out-file={}", text(file)?)).arg(road);
    // The last of them is counted.
    command.args(road_arguments(scenario, flows, packets, Runs::of(2)));
    command.args(["--rules", &rules.to_string()]);
    // A table no larger than needed: valgrind pays for each page.
    command.args(["--capacity", &(flows + flows / 4).to_string()]);
    succeeded(&mut command)?;
    let out = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let total =
        total(&out).with_context(|| format!("{scenario}: callgrind counted nothing in Road::go_through"))?;
    Ok(total as f64 / packets as f64)
}

/// The instructions that a file of callgrind's sums up; `None` when there are none.
fn total(out: &str) -> Option<u64> {
    let line = |label: &str| out.lines().find_map(|line| line.strip_prefix(label));
    // The first event counted is the instruction read.
    let is_instructions = line("events:")?.split_whitespace().next() == Some("Ir");
    // What is summed up below it has more, when the counting began anew on the way.
    let total = line("summary:").or_else(|| line("totals:"))?;
    total.split_whitespace().next()?.parse().ok().filter(|&count| is_instructions && count > 0)
}

/// Whether a figure is so much above the recorded one that somebody has to look.
pub(crate) fn is_regression(now: f64, recorded: f64) -> bool {
    now > recorded * TOLERANCE
}

/// The figures that were recorded last, by bench: `benches/instructions.json`.
pub(crate) struct Recorded(BTreeMap<String, f64>);

impl Recorded {
    pub(crate) fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
    }

    pub(crate) fn read() -> Result<Recorded> {
        match fs::read_to_string(Recorded::path()) {
            Ok(text) => Ok(Recorded(serde_json::from_str(&text).context("benches/instructions.json")?)),
            Err(_) => Ok(Recorded(BTreeMap::new())),
        }
    }

    pub(crate) fn of(&self, bench: &str) -> Option<f64> {
        self.0.get(bench).copied()
    }

    /// Keeps what these rows say.
    pub(crate) fn write(rows: &[Row]) -> Result<()> {
        let of = rows.iter().filter(|row| row.metric == INSTRUCTIONS);
        let figures: BTreeMap<&str, f64> = of.map(|row| (row.bench.as_str(), row.median)).collect();
        if figures.is_empty() {
            return Ok(());
        }
        fs::write(Recorded::path(), serde_json::to_string_pretty(&figures)? + "\n")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: &str = "# callgrind format\nversion: 1\ncreator: callgrind-3.19.0\npid: 4711\n\
        cmd:  ./road masq-udp\npart: 1\n\n\ndesc: I1 cache: \n\npositions: line\nevents: Ir\n\
        summary: 123456789\n\n\nob=(1) /road\nfl=(1) road.rs\nfn=(1) main\n12 400\ntotals: 123456789\n";

    #[test]
    fn the_total_is_read_from_callgrinds_file() {
        assert_eq!(total(OUT), Some(123_456_789));
        let cut = OUT.split("totals:").next().unwrap();
        assert_eq!(total(cut), Some(123_456_789), "a file that was cut off has its summary");
        let more = OUT.replace("totals: 1", "totals: 2");
        assert_eq!(total(&more), Some(123_456_789), "and the summary knows where counting began");
    }

    #[test]
    fn what_is_counted_side_by_side_stays_in_its_order() {
        let jobs: Vec<u64> = (0..20).collect();
        let doubled = on_all_cpus(&jobs, |&n| {
            thread::sleep(std::time::Duration::from_millis(20 - n));
            2 * n
        });
        assert_eq!(doubled, jobs.iter().map(|n| 2 * n).collect::<Vec<_>>());
        assert!(on_all_cpus(&[0u8; 0], |&n| n).is_empty());
    }

    #[test]
    fn nothing_counted_is_no_total() {
        assert_eq!(total(&OUT.replace("123456789", "0")), None);
        assert_eq!(total(&OUT.replace("events: Ir", "events: Dr Ir")), None);
        assert_eq!(total(""), None);
    }

    #[test]
    fn five_per_cent_more_are_tolerated() {
        assert!(!is_regression(105.0, 100.0));
        assert!(is_regression(105.1, 100.0));
        assert!(!is_regression(50.0, 100.0));
    }
}
