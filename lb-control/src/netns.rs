//! Network namespaces for tests: each test runs in a thread of its own that has unshared one, which goes with the thread.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs a test in a fresh network namespace, or says that it cannot.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: not root, and this test makes a network namespace");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
        sh("ip link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a line of shell in the namespace of this thread.
pub(crate) fn sh(line: &str) {
    let output = Command::new("sh").args(["-ec", line]).output().expect("there is a shell");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
