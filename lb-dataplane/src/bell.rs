//! Wakes a thread that sleeps, of a twin or a worker; costs who rings a system call only when it does sleep.
//!
//! `lb-models` checks it under every schedule.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Between one thread that sleeps and those that put something down for it.
pub(crate) struct Bell {
    /// An eventfd that never waits.
    event: File,
    asleep: AtomicBool,
}

impl Bell {
    pub(crate) fn new(event: File) -> Bell {
        Bell { event, asleep: AtomicBool::new(false) }
    }

    /// What can be read when it was rung.
    pub(crate) fn event(&self) -> &File {
        &self.event
    }

    /// Wakes the sleeper, if it sleeps, to what was put down for it before.
    pub(crate) fn ring(&self) {
        // Orders what was put down before the look at `asleep`; the sleeper orders the same two the other way round.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            // Once a sleep is enough.
            self.asleep.store(false, Ordering::Relaxed);
            self.wake();
        }
    }

    /// Wakes the sleeper from this sleep or from its next one.
    pub(crate) fn wake(&self) {
        // It fails only when it is already rung 2⁶⁴ times.
        let _ = (&self.event).write(&1u64.to_ne_bytes());
    }

    /// The sleep: `wait`, until the event can be read among other things, unless there `is_work`.
    pub(crate) fn sleep<T>(
        &self,
        is_work: impl FnOnce() -> bool,
        wait: impl FnOnce(&File) -> T,
    ) -> Option<T> {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let outcome = if is_work() { None } else { Some(wait(&self.event)) };
        self.asleep.store(false, Ordering::Relaxed);
        let _ = (&self.event).read(&mut [0; 8]);
        outcome
    }
}
