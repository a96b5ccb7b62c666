//! `sim`: runs the simulation from the command line. Ends with 0 when all invariants held, 1 when one did not, 2 when the
//! arguments are wrong.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use lb_core::packet::Frame;
use lb_core::path::Path;
use sim::run::{STEPS, run, run_frames, show};
use sim::watched::Watched;

/// Runs the whole load balancer in one process, under faults drawn from a seed.
#[derive(Parser)]
struct Arguments {
    /// The world to run.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// Worlds to run, one after the other: FROM..TO.
    #[arg(long, value_parser = range, conflicts_with = "minutes")]
    seeds: Option<(u64, u64)>,
    /// Run worlds that were never run, for so long.
    #[arg(long)]
    minutes: Option<f64>,
    /// Prints every event of the world that is run.
    #[arg(long, requires = "seed")]
    events: bool,
    /// Without the reference: shows what it costs.
    #[arg(long, conflicts_with = "frames")]
    unwatched: bool,
    /// Each seed's world of drawn frames too.
    #[arg(long)]
    frames: bool,
    /// Steps of each world.
    #[arg(long, default_value_t = STEPS)]
    steps: u64,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let bad = || format!("{text:?} is not FROM..TO");
    let (from, to) = text.split_once("..").ok_or_else(bad)?;
    Ok((from.parse().map_err(|_| bad())?, to.parse().map_err(|_| bad())?))
}

/// Seconds that this process had a core.
fn on_a_core() -> Option<f64> {
    let statistics = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    let nanoseconds: f64 = statistics.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let fresh =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |t| t.as_nanos() as u64);
    let (first, last, end) = match (&arguments.seed, &arguments.seeds, arguments.minutes) {
        (Some(seed), ..) => (*seed, *seed + 1, None),
        (_, Some((from, to)), _) => (*from, *to, None),
        (.., minutes) => {
            let first = fresh / 1_000_000_000 * 100_000;
            (first, u64::MAX, Some(Duration::from_secs_f64(minutes.unwrap_or(1.0) * 60.0)))
        }
    };
    let (mut packets, mut worlds) = (0, 0);
    let (mut kills, mut carried) = (0, 0);
    for seed in first..last {
        if end.is_some_and(|end| start.elapsed() >= end) {
            break;
        }
        let run = match (arguments.events, arguments.unwatched) {
            (true, _) => show::<Watched>,
            (_, true) => run::<Path<Frame>>,
            _ => run::<Watched>,
        };
        let outcome = run(seed, arguments.steps).and_then(|summary| {
            let frames = if arguments.frames { run_frames(seed, arguments.steps)? } else { 0 };
            Ok((summary, frames))
        });
        match outcome {
            Ok((summary, frames)) => {
                packets += summary.stats.packets + frames;
                worlds += 1;
                kills += summary.stats.kills;
                carried += summary.stats.carried;
                if end.is_none() {
                    println!("{summary:?}");
                }
            }
            Err(failure) => {
                println!("{failure}");
                return ExitCode::from(1);
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{worlds} worlds, {packets} packets in {seconds:.1} s: {:.0} packets a second",
        packets as f64 / seconds
    );
    println!("{kills} directors were killed, {carried} connections went on");
    // The machine may have other work.
    if let Some(seconds) = on_a_core() {
        println!("{seconds:.1} s on a core: {:.0} packets a second", packets as f64 / seconds);
    }
    ExitCode::SUCCESS
}
