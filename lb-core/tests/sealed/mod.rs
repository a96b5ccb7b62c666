//! Runs something in a process of its own on a thread that may make no system call at all: the process dies of one.
//!
//! A lock that somebody else holds is such a call (`futex`), as are more memory, a sleep, a yield, and input and output.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Names the test that a child is to run.
const CHILD: &str = "LB_SEALED_TEST";
/// What an unmasked SIGSYS ends a process with, as `seccomp` does.
const SIGSYS: i32 = 31;

static IS_DONE: AtomicBool = AtomicBool::new(false);

/// How a process ended that was sealed.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    NoCall,
    /// It made one, or it panicked, which is one.
    Call,
}

/// The calling thread makes no system call from here on, to its end: the process dies of one.
pub(crate) fn seal() {
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter =
        SeccompFilter::new(BTreeMap::new(), SeccompAction::KillProcess, SeccompAction::Allow, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// All is done: the process ends well. A sealed thread cannot end itself, so this does not return.
pub(crate) fn done() -> ! {
    IS_DONE.store(true, Ordering::Release);
    loop {
        std::hint::spin_loop();
    }
}

/// Runs the test of this name again in a process of its own; there this function runs `story` instead, of which some thread
/// calls [`seal`] and some thread calls [`done`], and ends the process.
pub(crate) fn outcome(test: &str, story: impl FnOnce() + Send + 'static) -> Outcome {
    if std::env::var(CHILD).is_ok_and(|name| name == test) {
        let story = std::thread::spawn(story);
        while !IS_DONE.load(Ordering::Acquire) && !story.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // A story ends only by a panic.
        std::process::exit(i32::from(story.is_finished()));
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, test)
        // Packets that the story drops go back to the heap, which keeps what it has.
        .env("MALLOC_ARENA_MAX", "1")
        .env("MALLOC_TRIM_THRESHOLD_", "1000000000")
        .output()
        .unwrap();
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    match (output.status.code(), output.status.signal()) {
        (Some(0), _) => Outcome::NoCall,
        (_, Some(SIGSYS)) => Outcome::Call,
        _ => panic!("{test} in a process of its own: {}", output.status),
    }
}
