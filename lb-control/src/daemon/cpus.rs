//! Which CPUs the control plane's threads run on: not the workers', when there are others.

use std::fs;
use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tracing::warn;

/// Threads of this name are the data plane's, each bound to its CPU.
const WORKER: &str = "worker ";

/// Moves every thread of this process but the workers away from the CPUs of `workers`; threads that are started later
/// inherit it. Where there is no other CPU all stays as it is.
pub fn leave_to_workers(workers: &[u32]) {
    if let Err(error) = move_threads(workers) {
        warn!(%error, "cannot keep the control plane off the workers' CPUs");
    }
}

fn move_threads(workers: &[u32]) -> io::Result<()> {
    let Some(rest) = without(&sched_getaffinity(None)?, workers) else { return Ok(()) };
    for entry in fs::read_dir("/proc/self/task")? {
        let directory = entry?.path();
        let name = directory.file_name().and_then(|id| id.to_str());
        let Some(thread) = name.and_then(|id| id.parse().ok()).and_then(Pid::from_raw) else { continue };
        // A thread may have ended meanwhile.
        let Ok(command) = fs::read_to_string(directory.join("comm")) else { continue };
        if !command.starts_with(WORKER) {
            let _ = sched_setaffinity(Some(thread), &rest);
        }
    }
    Ok(())
}

/// `None`: there are no others.
fn without(allowed: &CpuSet, workers: &[u32]) -> Option<CpuSet> {
    let mut rest = *allowed;
    for &cpu in workers.iter().filter(|&&cpu| (cpu as usize) < CpuSet::MAX_CPU) {
        rest.unset(cpu as usize);
    }
    (rest.count() > 0).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|&cpu| set.set(cpu));
        set
    }

    #[test]
    fn threads_leave_the_workers_cpus_unless_there_are_no_others() {
        assert_eq!(without(&set(&[0, 1, 2]), &[1]), Some(set(&[0, 2])));
        assert_eq!(without(&set(&[0, 1]), &[0, 1]), None, "no other CPU");
        assert_eq!(without(&set(&[2, 3]), &[0, 1]), Some(set(&[2, 3])), "already elsewhere");
        assert_eq!(without(&set(&[0, 1]), &[1, 5000]), Some(set(&[0])), "a CPU that cannot be");
    }
}
