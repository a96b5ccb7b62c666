//! What removes a lab: by name, from any way out.
//!
//! A lab's namespaces are `lblab-<tag>-<role>` and its files are in `/tmp/lblab-<tag>`; its `lbd` keeps connections in
//! `/dev/shm/lbd-tmp-lblab-<tag>-…`. The tag is the process id
//! and a number, or `demo` for the one that `make demo KEEP=1` leaves running. Nothing else on the machine has such a
//! name, and only processes inside such namespaces are ended.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, Once};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespace::ip_batch;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What each lab's names begin with.
const PREFIX: &str = "lblab-";
/// Where `ip netns` keeps the names.
const NETNS_DIR: &str = "/run/netns";

/// Where an `lbd` without huge pages keeps connections for its next start.
const FLOW_MEMORY_DIR: &str = "/dev/shm";

/// Labs of this process that are up; the signal handler removes them.
static LIVE: Mutex<Vec<Tag>> = Mutex::new(Vec::new());
static SIGNALS: Once = Once::new();
static IS_SIGNALLED: AtomicBool = AtomicBool::new(false);
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The name of one lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(String);

impl Tag {
    /// A tag that no other lab has: this process's id and a number.
    pub fn of_this_process() -> Tag {
        Tag(format!("{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)))
    }

    /// The demo that stays; there is one a machine.
    pub fn demo() -> Tag {
        Tag("demo".to_owned())
    }

    /// The namespace of one role, such as `lblab-4711x0-client`.
    pub fn namespace(&self, role: &str) -> String {
        format!("{PREFIX}{}-{role}", self.0)
    }

    /// Where the lab keeps its files.
    pub fn dir(&self) -> PathBuf {
        Path::new("/tmp").join(format!("{PREFIX}{}", self.0))
    }

    /// Whether namespaces or files of that lab exist.
    pub fn exists(&self) -> bool {
        self.dir().exists() || !self.namespaces().is_empty()
    }

    fn namespaces(&self) -> Vec<String> {
        let start = self.namespace("");
        names_in(Path::new(NETNS_DIR)).into_iter().filter(|name| name.starts_with(&start)).collect()
    }

    /// The tag in the name of a namespace or directory that a lab made.
    fn parse(name: &str) -> Option<Tag> {
        let tag = name.strip_prefix(PREFIX)?.split('-').next()?;
        Some(Tag(tag.to_owned()))
    }

    /// The process that made it; none for the demo, which outlives its maker.
    fn maker(&self) -> Option<i32> {
        self.0.split_once('x')?.0.parse().ok()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Notes that a lab is up, so that a signal removes it. The first call also sweeps what killed runs left.
pub(crate) fn register(tag: &Tag) -> Result<()> {
    let mut failure = None;
    SIGNALS.call_once(|| {
        failure = watch_signals().err();
        sweep();
    });
    live().push(tag.clone());
    failure.map_or(Ok(()), Err).context("watching for SIGINT and SIGTERM")
}

/// Takes a lab off the list without touching it: from here on it is the operator's.
pub(crate) fn forget(tag: &Tag) {
    live().retain(|other| other != tag);
}

/// Ends every process in the lab's namespaces, then removes the namespaces and the files.
///
/// Quiet about what is gone already.
pub fn remove(tag: &Tag) {
    let namespaces = tag.namespaces();
    end_processes(&namespaces);
    // The kernel takes the links of a namespace with it; what still runs in there keeps it alive unnamed.
    let lines: String = namespaces.iter().map(|name| format!("netns del {name}\n")).collect();
    let _gone_already = ip_batch(&["-force"], &lines);
    let _gone_already = fs::remove_dir_all(tag.dir());
    // What an lbd of the lab kept for its next start; twins went with their namespace.
    let kept = format!("lbd{}", tag.dir().display()).replace('/', "-");
    for name in names_in(Path::new(FLOW_MEMORY_DIR)).into_iter().filter(|name| name.starts_with(&kept)) {
        let _gone_already = fs::remove_file(Path::new(FLOW_MEMORY_DIR).join(name));
    }
    forget(tag);
}

/// To be called before the process ends by itself: once a signal came, its thread removes the labs and ends the process,
/// and what fails meanwhile fails because of that.
pub fn let_signal_finish() {
    while IS_SIGNALLED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Removes the labs whose makers are dead, and returns their tags.
pub fn sweep() -> Vec<Tag> {
    let mut stale: Vec<Tag> = names_in(Path::new(NETNS_DIR))
        .into_iter()
        .chain(names_in(Path::new("/tmp")))
        .filter_map(|name| Tag::parse(&name))
        .filter(|tag| tag.maker().is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()))
        .collect();
    stale.sort_by(|a, b| a.0.cmp(&b.0));
    stale.dedup();
    for tag in &stale {
        eprintln!("lab: removing what lab {tag} left, its maker is gone");
        remove(tag);
    }
    stale
}

/// Asks the processes in the namespaces to end, and kills those that do not within two seconds.
fn end_processes(namespaces: &[String]) {
    let identities: Vec<_> =
        namespaces.iter().filter_map(|name| identity(&Path::new(NETNS_DIR).join(name))).collect();
    for (signal, patience_ms) in [(Signal::SIGTERM, 2000), (Signal::SIGKILL, 20_000)] {
        for pid in processes_in(&identities) {
            let _gone_already = kill(pid, signal);
        }
        let gone =
            crate::wait::until("end of processes", std::time::Duration::from_millis(patience_ms), || {
                processes_in(&identities).is_empty().then_some(())
            });
        if gone.is_ok() {
            return;
        }
    }
}

/// What tells a network namespace from all others, by its name or by a process in it.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let of = fs::metadata(path).ok()?;
    Some((of.dev(), of.ino()))
}

/// The processes whose main thread is in one of the namespaces, other than ourselves.
fn processes_in(namespaces: &[(u64, u64)]) -> Vec<Pid> {
    names_in(Path::new("/proc"))
        .into_iter()
        .filter_map(|name| name.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| {
            let namespace = identity(Path::new(&format!("/proc/{pid}/ns/net")));
            namespace.is_some_and(|namespace| namespaces.contains(&namespace))
        })
        .filter(|pid| *pid != Pid::this() && !is_zombie(*pid))
        .collect()
}

/// A child of ours that has ended and is not waited for yet.
fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn live() -> std::sync::MutexGuard<'static, Vec<Tag>> {
    LIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// On SIGINT, SIGTERM or SIGHUP a thread removes every lab of this process and ends it as a shell expects.
fn watch_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("lab-signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            IS_SIGNALLED.store(true, Ordering::SeqCst);
            eprintln!("lab: signal {signal}: removing the lab");
            let tags = live().clone();
            for tag in &tags {
                remove(tag);
            }
            std::process::exit(128 + signal);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_back_from_the_names_that_it_makes() {
        let tag = Tag::of_this_process();
        assert_eq!(Tag::parse(&tag.namespace("client")), Some(tag.clone()));
        assert_eq!(tag.maker(), i32::try_from(std::process::id()).ok());
        assert_eq!(Tag::demo().maker(), None);
        assert_eq!(Tag::parse("somebody-elses"), None);
    }
}
