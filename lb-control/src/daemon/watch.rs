//! The watchdog: does every worker take its turns?

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info};

use lb_core::counters::WorkerCounters;

/// A worker whose count of turns stands still for longer is reported.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    workers: Vec<Seen>,
}

struct Seen {
    turns: u64,
    /// When `turns` was first seen.
    since: Instant,
    is_reported: bool,
}

impl Watch {
    pub(super) fn new(workers: &[Arc<WorkerCounters>], now: Instant) -> Watch {
        let seen = |worker: &Arc<WorkerCounters>| Seen {
            turns: worker.turns.turns.get(),
            since: now,
            is_reported: false,
        };
        Watch { workers: workers.iter().map(seen).collect() }
    }

    /// Looks at every worker; logs each change between moving and standing still once. `cpus` are the workers'.
    pub(super) fn look(&mut self, workers: &[Arc<WorkerCounters>], now: Instant, cpus: &[u32]) {
        for (index, (seen, worker)) in self.workers.iter_mut().zip(workers).enumerate() {
            let cpu = cpus.get(index).copied().unwrap_or_default();
            let turns = worker.turns.turns.get();
            if turns != seen.turns {
                if seen.is_reported {
                    let seconds = (now - seen.since).as_secs();
                    info!(worker = index, cpu, seconds, "worker moves again");
                }
                *seen = Seen { turns, since: now, is_reported: false };
            } else if seen.is_stalled(now) && !seen.is_reported {
                seen.is_reported = true;
                error!(worker = index, cpu, turns, "worker stands still");
            }
        }
    }

    pub(super) fn is_stalled(&self, worker: usize, now: Instant) -> bool {
        self.workers.get(worker).is_none_or(|seen| seen.is_stalled(now))
    }

    /// A line for each worker that stands still.
    pub(super) fn problems(&self, now: Instant, cpus: &[u32]) -> Vec<String> {
        let stalled = self.workers.iter().enumerate().filter(|(_, seen)| seen.is_stalled(now));
        let line = |(index, seen): (usize, &Seen)| {
            let cpu = cpus.get(index).copied().unwrap_or_default();
            format!("worker {index} on CPU {cpu} stands still since {} s", (now - seen.since).as_secs())
        };
        stalled.map(line).collect()
    }
}

impl Seen {
    fn is_stalled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_is_named_until_it_moves() {
        let workers = [Arc::new(WorkerCounters::new(1, 1)), Arc::new(WorkerCounters::new(1, 1))];
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(&workers, start);
        for second in 1..=3 {
            workers[0].turns.turns.add(1);
            watch.look(&workers, later(second), &[4, 6]);
        }
        assert_eq!(watch.problems(later(3), &[4, 6]), ["worker 1 on CPU 6 stands still since 3 s"]);
        assert!(watch.is_stalled(1, later(3)) && !watch.is_stalled(0, later(3)));
        workers[1].turns.turns.add(1);
        watch.look(&workers, later(4), &[4, 6]);
        assert_eq!(watch.problems(later(4), &[4, 6]), [""; 0]);
    }
}
