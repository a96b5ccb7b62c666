//! A run: steps from a seed until one fails, and what is said about a failure.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::director::Subject;
use crate::invariants;
use crate::netfilter;
use crate::reference::world as frames;
use crate::violation::Violation;
use crate::world::{Stats, World};

/// Steps of a run that is asked for without saying how many.
pub const STEPS: u64 = 20_000;

/// How a run went.
#[derive(Clone, Debug)]
pub struct Summary {
    pub seed: u64,
    pub steps: u64,
    pub stats: Stats,
    /// The same whenever the same happened.
    pub digest: u64,
    pub virtual_seconds: u64,
}

/// A run that failed: all that it takes to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub step: u64,
    pub violation: Violation,
    pub events: Vec<String>,
    pub shape: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, step, violation, events, shape } = self;
        writeln!(f, "invariant {} does not hold: {}", violation.name, violation.what)?;
        writeln!(f, "seed {seed}, step {step}, commit {}", commit())?;
        writeln!(f, "{shape}")?;
        if !events.is_empty() {
            writeln!(f, "the last events:")?;
        }
        for event in events {
            writeln!(f, "  {event}")?;
        }
        write!(f, "replay: make sim SEED={seed} STEPS={step}")
    }
}

/// The commit that is checked out, with a plus when files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let is_changed = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    if is_changed { commit + "+" } else { commit }
}

/// Runs `steps` steps of the world of `seed`, and as many of its world with rules.
///
/// # Errors
/// The first invariant that did not hold; a panic counts as one.
pub fn run<L: Subject>(seed: u64, steps: u64) -> Result<Summary, Box<Failure>> {
    run_both(World::<L>::new(seed), seed, steps)
}

/// As [`run`], and prints each event. A world with rules has none.
///
/// # Errors
/// As for [`run`].
pub fn show<L: Subject>(seed: u64, steps: u64) -> Result<Summary, Box<Failure>> {
    let mut world = World::<L>::new(seed);
    world.events.is_shown = true;
    run_both(world, seed, steps)
}

fn run_both<L: Subject>(world: World<L>, seed: u64, steps: u64) -> Result<Summary, Box<Failure>> {
    let mut summary = run_world(world, seed, steps)?;
    summary.stats.packets += netfilter::run(seed, steps).map_err(|(step, violation, shown)| {
        failed(seed, format!("the world with rules:\n{shown}"), (step, violation))
    })?;
    Ok(summary)
}

/// Runs the world of drawn frames of `seed` as long. Returns the packets that came.
///
/// # Errors
/// As for [`run`].
pub fn run_frames(seed: u64, steps: u64) -> Result<u64, Box<Failure>> {
    frames::run(seed, steps).map_err(|why| failed(seed, "the world of drawn frames".to_owned(), why))
}

fn failed(seed: u64, shape: String, (step, violation): (u64, Violation)) -> Box<Failure> {
    Box::new(Failure { seed, step, violation, events: Vec::new(), shape })
}

fn run_world<L: Subject>(mut world: World<L>, seed: u64, steps: u64) -> Result<Summary, Box<Failure>> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..steps {
            world.step()?;
        }
        invariants::at_end_of_life(&mut world)
    }));
    let violation = match outcome {
        Ok(Ok(())) => {
            return Ok(Summary {
                seed,
                steps,
                stats: world.stats,
                digest: world.events.digest(),
                virtual_seconds: world.now / 1_000_000,
            });
        }
        Ok(Err(violation)) => violation,
        Err(panic) => Violation { name: "nothing_panics", what: message(panic.as_ref()) },
    };
    Err(Box::new(Failure {
        seed,
        step: world.step,
        violation,
        events: world.events.last().map(ToString::to_string).collect(),
        shape: format!("{:?}", world.shape),
    }))
}

pub(crate) fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

#[cfg(test)]
mod tests {
    use crate::watched::Watched;

    use super::*;

    fn all_hold(seeds: std::ops::Range<u64>, steps: u64) {
        for seed in seeds {
            if let Err(failure) = run::<Watched>(seed, steps) {
                panic!("{failure}");
            }
        }
    }

    #[test]
    fn known_seeds_hold() {
        all_hold(1..41, 2000);
    }

    #[test]
    fn more_known_seeds_hold() {
        all_hold(1000..1040, 2000);
    }

    #[test]
    fn a_fresh_seed_holds() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let first = now.as_micros() as u64;
        all_hold(first..first + 20, 2000);
    }

    #[test]
    fn the_same_seed_is_the_same_run() {
        for seed in 1..6 {
            let runs = [(); 2].map(|()| run::<Watched>(seed, 1500).unwrap());
            assert_eq!(runs[0].digest, runs[1].digest, "seed {seed}");
            assert!(runs[0].stats.packets > 0);
        }
        let digests: Vec<_> = (1..4).map(|seed| run::<Watched>(seed, 100).unwrap().digest).collect();
        assert!(digests[0] != digests[1] && digests[1] != digests[2]);
    }
}
