//! The watchdog: does every worker take its turns, and the tables that are published?
//!
//! All is as of the last look: between two of them the control task may have been busy, which says nothing about the
//! workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info};

use lb_core::counters::WorkerCounters;

/// A worker whose count of turns stands still for longer is reported, and one that uses other tables than the published
/// ones for longer, always the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// Two looks further apart count as so far apart where a worker's tables are concerned: they may have been published a
/// moment before the second one.
const LONGEST_GAP: Duration = Duration::from_millis(500);

pub(super) struct Watch {
    workers: Vec<Seen>,
    looked_at: Instant,
}

struct Seen {
    turns: u64,
    /// When `turns` was first seen.
    since: Instant,
    is_reported: bool,
    generation: u64,
    /// How long it has used those tables, and others were published.
    behind: Duration,
}

impl Watch {
    pub(super) fn new(workers: &[Arc<WorkerCounters>], now: Instant) -> Watch {
        let seen = |worker: &Arc<WorkerCounters>| Seen {
            turns: worker.turns.turns.get(),
            since: now,
            is_reported: false,
            generation: worker.turns.generation.get(),
            behind: Duration::ZERO,
        };
        Watch { workers: workers.iter().map(seen).collect(), looked_at: now }
    }

    /// Looks at every worker; logs each change between moving and standing still once. `cpus` are the workers',
    /// `published` is the generation of the newest tables.
    pub(super) fn look(
        &mut self,
        workers: &[Arc<WorkerCounters>],
        published: u32,
        now: Instant,
        cpus: &[u32],
    ) {
        let gap = now.saturating_duration_since(self.looked_at).min(LONGEST_GAP);
        self.looked_at = now;
        for (index, (seen, worker)) in self.workers.iter_mut().zip(workers).enumerate() {
            let cpu = cpus.get(index).copied().unwrap_or_default();
            let turns = worker.turns.turns.get();
            if turns != seen.turns {
                if seen.is_reported {
                    let seconds = (now - seen.since).as_secs();
                    info!(worker = index, cpu, seconds, "worker moves again");
                }
                *seen = Seen { turns, since: now, is_reported: false, ..*seen };
            } else if seen.is_stalled(now) && !seen.is_reported {
                seen.is_reported = true;
                error!(worker = index, cpu, turns, "worker stands still");
            }
            let generation = worker.turns.generation.get();
            if generation == u64::from(published) || generation != seen.generation {
                seen.behind = Duration::ZERO;
            } else {
                seen.behind += gap;
            }
            seen.generation = generation;
        }
    }

    pub(super) fn is_stalled(&self, worker: usize) -> bool {
        self.workers.get(worker).is_none_or(|seen| seen.is_stalled(self.looked_at))
    }

    /// It keeps using tables that are not the published ones.
    pub(super) fn is_behind(&self, worker: usize) -> bool {
        self.workers.get(worker).is_none_or(|seen| seen.behind > PATIENCE)
    }

    /// A line for each worker that stands still.
    pub(super) fn problems(&self, cpus: &[u32]) -> Vec<String> {
        let now = self.looked_at;
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
            watch.look(&workers, 0, later(second), &[4, 6]);
        }
        assert_eq!(watch.problems(&[4, 6]), ["worker 1 on CPU 6 stands still since 3 s"]);
        assert!(watch.is_stalled(1) && !watch.is_stalled(0));
        workers[1].turns.turns.add(1);
        watch.look(&workers, 0, later(4), &[4, 6]);
        assert_eq!(watch.problems(&[4, 6]), [""; 0]);
    }

    #[test]
    fn a_worker_is_behind_when_it_keeps_old_tables_not_when_it_follows() {
        let workers = [Arc::new(WorkerCounters::new(1, 1)), Arc::new(WorkerCounters::new(1, 1))];
        let start = Instant::now();
        let mut watch = Watch::new(&workers, start);
        // The first look comes after a long pause: the tables may be a moment old.
        let looks = [9000, 9250, 9500, 9750, 10_000].map(|ms| start + Duration::from_millis(ms));
        let mut behind = Vec::new();
        for (published, now) in (1..).zip(looks) {
            workers[0].turns.generation.set(u64::from(published) - 1);
            watch.look(&workers, published, now, &[4, 6]);
            behind.push((watch.is_behind(0), watch.is_behind(1)));
        }
        let never = (false, false);
        assert_eq!(behind, [never, never, never, (false, true), (false, true)]);
        workers[1].turns.generation.set(6);
        watch.look(&workers, 6, start + Duration::from_millis(10_250), &[4, 6]);
        assert!(!watch.is_behind(1));
    }
}
