//! What a cache line costs that another core wrote: one that is waited for, and one of many that are asked for together. Two threads
//! write the other one's lines, both at the same time, as workers do that hand packets to each other.

use std::fmt;
use std::hint::{black_box, spin_loop};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::thread;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::traffic::shuffled;
use crate::tsc;

/// What fits into a core's own cache.
const LINES: u32 = 4096;
const ROUNDS: u32 = 100;

/// Nanoseconds a line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines {
    pub waited: f64,
    pub together: f64,
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lines { waited, together } = self;
        write!(f, "a line of another core: {waited:.1} ns when waited for, {together:.1} ns each of many")
    }
}

/// A line that names another one of its kind.
#[repr(align(64))]
struct Line(AtomicU32);

/// Measures the median round, between CPUs 0 and 1.
///
/// # Errors
/// When there are no two CPUs.
pub fn measure() -> Result<Lines, String> {
    let order = shuffled(LINES);
    let both = [chain(&order), chain(&order)];
    let came = AtomicU32::new(0);
    let one = |cpu: u32| {
        let pinned = pin(cpu);
        let (mut waited, mut together) = (Vec::new(), Vec::new());
        for round in 0..2 * ROUNDS {
            // In each round what the other one wrote in the last.
            let lines = &both[((cpu + round) % 2) as usize];
            came.fetch_add(1, AcqRel);
            while came.load(Acquire) < 2 * (round + 1) {
                spin_loop();
            }
            let start = tsc::now();
            if round % 2 == 0 {
                black_box((0..LINES).fold(order[0], |at, _| touch(&lines[at as usize])));
                waited.push(tsc::now() - start);
            } else {
                let sum = order.iter().map(|&at| touch(&lines[at as usize])).fold(0, u32::wrapping_add);
                black_box(sum);
                together.push(tsc::now() - start);
            }
        }
        pinned.map(|()| Lines { waited: median(waited), together: median(together) })
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| one(1));
        let here = scope.spawn(|| one(0)).join().map_err(|_| "a thread ended".to_owned())??;
        other.join().map_err(|_| "a thread ended".to_owned())??;
        Ok(here)
    })
}

/// Lines of which each names the one that comes next.
fn chain(order: &[u32]) -> Vec<Line> {
    let lines: Vec<Line> = order.iter().map(|_| Line(AtomicU32::new(0))).collect();
    for (at, next) in order.iter().zip(order.iter().cycle().skip(1)) {
        lines[*at as usize].0.store(*next, Relaxed);
    }
    lines
}

/// Reads and writes it.
fn touch(line: &Line) -> u32 {
    let next = line.0.load(Relaxed);
    line.0.store(next, Relaxed);
    next
}

fn pin(cpu: u32) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(cpu as usize);
    sched_setaffinity(None, &set).map_err(|error| format!("CPU {cpu}: {error}"))
}

fn median(mut cycles: Vec<u64>) -> f64 {
    cycles.sort_unstable();
    cycles[cycles.len() / 2] as f64 / tsc::per_nanosecond() / f64::from(LINES)
}
