//! What an lbd before this one left: twins, and the flow memory that their mark names.
//!
//! The mark is made of `api.socket` and `dataplane.flow_memory`. When the operator changes these, twins with the names of our ports
//! are there with another mark. Such a twin is taken over when nobody has it: no process has its file, which the kernel tells, and none has
//! the lock of its flow memory. So two lbd on a host keep apart. Its connections are carried over with it, since nobody else could use
//! them any more.

use std::fs;

use crate::config::{FlowMemory, PortConfig};
use crate::cpu::{self, Capability};
use crate::error::{PortProblem, StartError};
use crate::keep::{self, Found, Keep};
use crate::link;
use crate::tap;

/// Those that ran with other flow memory than this one, and are no more. Nobody else can take what they left meanwhile.
#[derive(Default)]
pub(crate) struct Predecessors(Vec<Predecessor>);

struct Predecessor {
    mark: String,
    memory: FlowMemory,
    files: Vec<Found>,
}

impl Predecessors {
    /// Looks at the twins with the names of `ports`. `ours` is the mark of this one, `keep` its files.
    ///
    /// # Errors
    /// `Port`: one that runs has such a twin, or its flow memory.
    pub(crate) fn find(
        ports: &[PortConfig],
        ours: Option<&str>,
        keep: Option<&Keep>,
    ) -> Result<Predecessors, StartError> {
        let mut found: Vec<Predecessor> = Vec::new();
        // Without the privilege nothing is taken over, which is said elsewhere.
        if !cpu::has_capability(Capability::NetAdmin) {
            return Ok(Predecessors(found));
        }
        for port in ports.iter().filter(|port| port.twin) {
            let Ok(Some(mark)) = link::mark_of(&port.name) else { continue };
            let Some(memory) = FlowMemory::of_mark(&mark).filter(|_| ours != Some(&mark)) else { continue };
            check_free(port, &mark)?;
            if found.iter().all(|other| other.mark != mark) {
                let files = keep::left(&memory, keep).map_err(|error| {
                    let mend = format!("{error}; stop that one, or run: ip link del {}", port.name);
                    kept(port, &mark, mend)
                })?;
                found.push(Predecessor { mark, memory, files });
            }
        }
        Ok(Predecessors(found))
    }

    pub(crate) fn marks(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|before| before.mark.as_str())
    }

    /// Of their flow memory, where that is [named](FlowMemory::Named).
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.0.iter().filter_map(|before| match &before.memory {
            FlowMemory::Named(name) => Some(name.clone()),
            _ => None,
        });
        names.collect()
    }

    /// A line for each.
    pub(crate) fn notices(&self) -> impl Iterator<Item = String> {
        let line =
            |mark| format!("what the lbd with the mark \"{mark}\" left is taken over: it does not run");
        self.marks().map(line)
    }

    /// The files that there are, locked.
    pub(crate) fn take_files(&mut self) -> Vec<Found> {
        self.0.iter_mut().flat_map(|before| before.files.drain(..)).collect()
    }

    /// Those that [`Predecessors::remove_files`] will free.
    pub(crate) fn huge_pages(&self) -> usize {
        self.0.iter().flat_map(|before| &before.files).map(Found::huge_pages).sum()
    }

    /// Removes the files that nobody took. Returns their names.
    pub(crate) fn remove_files(&mut self) -> Result<Vec<String>, StartError> {
        let remove = |file: &Found| match fs::remove_file(&file.path) {
            Ok(()) => Ok(file.path.display().to_string()),
            Err(error) => Err(StartError::FlowMemory { path: file.path.clone(), reason: error.to_string() }),
        };
        self.take_files().iter().map(remove).collect()
    }

    /// Removes all their twins. Returns a line for each.
    pub(crate) fn remove_twins(&self) -> Result<Vec<String>, StartError> {
        let removed: Result<Vec<_>, _> = self.marks().map(remove_twins).collect();
        Ok(removed?.concat())
    }

    /// Gives their twins our mark. Where that fails the next one finds them as this one did.
    pub(crate) fn remark_twins(&self, ours: Option<&str>) {
        for name in self.marks().filter_map(|mark| link::marked(mark).ok()).flatten() {
            if let Some(ours) = ours {
                let _ = link::set_mark(&name, ours);
            }
        }
    }
}

fn check_free(port: &PortConfig, mark: &str) -> Result<(), StartError> {
    match tap::is_held(&port.name) {
        Ok(false) => Ok(()),
        Ok(true) => {
            let mend = "that one runs: stop it, or choose another name for the port";
            Err(kept(port, mark, mend.to_owned()))
        }
        // It has the mark and is no TAP device.
        Err(_) => Err(refused(port, PortProblem::TwinExists(port.name.clone()))),
    }
}

fn kept(port: &PortConfig, mark: &str, mend: String) -> StartError {
    refused(port, PortProblem::TwinKept { name: port.name.clone(), mark: mark.to_owned(), mend })
}

fn refused(port: &PortConfig, problem: PortProblem) -> StartError {
    StartError::Port { port: port.name.clone(), device: port.device.clone(), problem }
}

/// Removes all twins with this mark. Returns a line for each.
fn remove_twins(mark: &str) -> Result<Vec<String>, StartError> {
    let remove = |name: String| match tap::remove(&name) {
        Ok(()) => Ok(format!("twin {name}")),
        Err(error) => Err(StartError::Port {
            port: name.clone(),
            device: "its twin".to_owned(),
            problem: PortProblem::Twin { name, error },
        }),
    };
    link::marked(mark).unwrap_or_default().into_iter().map(remove).collect()
}

/// Removes twins with this mark whose ports are not in the config any more. Returns a line for each.
pub(crate) fn remove_stale_twins(ports: &[PortConfig], mark: &str) -> Vec<String> {
    let mut said = Vec::new();
    for name in link::marked(mark).unwrap_or_default() {
        if !ports.iter().any(|port| port.twin && port.name == name) {
            said.push(match tap::remove(&name) {
                Ok(()) => format!("twin {name} is removed: no port has that name any more"),
                Err(error) => format!("twin {name} cannot be removed, though no port has that name: {error}"),
            });
        }
    }
    said
}

/// What [`forget`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forgotten {
    /// What was removed.
    pub removed: Vec<String>,
    /// As [`Dataplane::predecessors`](crate::Dataplane::predecessors).
    pub predecessors: Vec<String>,
}

/// Removes what a stopped data plane left for its next start: twins and flow memory. What one with other flow memory left goes
/// too, if it left a twin with the name of one of `ports`.
///
/// # Errors
/// `FlowMemory` when a process uses it; `Port` for a twin that a process has, or that cannot be removed.
pub fn forget(flow_memory: &FlowMemory, ports: &[PortConfig]) -> Result<Forgotten, StartError> {
    let mark = flow_memory.mark();
    let files = Keep::existing(flow_memory)?;
    let mut before = Predecessors::find(ports, mark.as_deref(), None)?;
    let mut removed = mark.as_deref().map(remove_twins).transpose()?.unwrap_or_default();
    removed.extend(before.remove_twins()?);
    for (path, _lock) in files {
        let gone = fs::remove_file(&path);
        gone.map_err(|error| StartError::FlowMemory { path: path.clone(), reason: error.to_string() })?;
        removed.push(path.display().to_string());
    }
    removed.extend(before.remove_files()?);
    Ok(Forgotten { removed, predecessors: before.names() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn port(name: &str) -> PortConfig {
        PortConfig {
            name: name.to_owned(),
            device: "net_null0".to_owned(),
            mtu: 1500,
            outside: false,
            twin: true,
        }
    }

    /// What an lbd leaves: a twin and flow memory on `/dev/shm`; `None` where this process may make no twin.
    struct Left {
        name: String,
        memory: FlowMemory,
    }

    impl Left {
        fn new(test: &str) -> Option<Left> {
            if !cpu::has_capability(Capability::NetAdmin) {
                return None;
            }
            let number = std::process::id() % 100_000;
            let memory = FlowMemory::Named(format!("lbd-test-before-{test}-{number}"));
            let left = Left { name: format!("lb{test}{number}"), memory };
            drop(left.attach()?);
            drop(left.serve());
            Some(left)
        }

        fn mark(&self) -> String {
            self.memory.mark().unwrap()
        }

        fn attach(&self) -> Option<fs::File> {
            tap::open(&self.name, MAC, 1500, Some(&self.mark())).ok()
        }

        /// The memory of one that serves, which goes on to use it as long as it has what this returns.
        fn serve(&self) -> (Keep, Vec<lb_core::mem::Region>) {
            let cpu = crate::cpu::CpuSet::usable().unwrap().iter().next().unwrap();
            let mut keep = Keep::open(&self.memory, false).unwrap().0.unwrap();
            let (regions, _) = keep.create(&[cpu], 4096).unwrap();
            keep.commit().unwrap();
            (keep, regions)
        }

        fn is_there(&self) -> bool {
            cpu::interface_index(&self.name).is_some()
        }

        fn find(&self) -> Result<Predecessors, StartError> {
            Predecessors::find(&[port(&self.name)], Some("lbd-ours"), None)
        }
    }

    impl Drop for Left {
        fn drop(&mut self) {
            let _ = forget(&self.memory, &[]);
        }
    }

    #[test]
    fn what_one_with_another_mark_left_is_found_and_gets_our_mark() {
        let Some(left) = Left::new("a") else { return };
        let mut found = left.find().unwrap();
        assert_eq!(found.names(), [left.mark()]);
        assert_eq!(found.take_files().len(), 1);
        let ours = format!("{}-ours", left.mark());
        assert!(tap::open(&left.name, MAC, 1500, Some(&ours)).is_ok(), "the device that is there");
        found.remark_twins(Some(&ours));
        assert_eq!(link::mark_of(&left.name).unwrap().as_deref(), Some(ours.as_str()));
        remove_twins(&ours).unwrap();
    }

    #[test]
    fn what_one_that_runs_has_is_not_taken() {
        let Some(left) = Left::new("b") else { return };
        let twin = left.attach();
        let said = left.find().err().unwrap().to_string();
        assert!(said.contains("kept by the lbd with the mark \"lbd-test-before-b-"), "{said}");
        assert!(said.contains("that one runs: stop it, or choose another name for the port"), "{said}");
        assert!(forget(&FlowMemory::Forgotten, &[port(&left.name)]).is_err());
        drop(twin);
        let serving = left.serve();
        let said = left.find().err().unwrap().to_string();
        let mend = format!("another lbd uses it; stop that one, or run: ip link del {}", left.name);
        assert!(said.ends_with(&mend), "{said}");
        drop(serving);
        assert!(left.find().is_ok());
        assert!(left.is_there());
    }

    #[test]
    fn what_one_with_another_mark_left_is_forgotten_by_the_names_of_our_ports() {
        let Some(left) = Left::new("c") else { return };
        let other = forget(&FlowMemory::Forgotten, &[port("lo")]).unwrap();
        assert_eq!(other, Forgotten::default());
        let done = forget(&FlowMemory::Forgotten, &[port(&left.name)]).unwrap();
        let file = format!("/dev/shm/{}", left.mark());
        assert_eq!(done.removed, [format!("twin {}", left.name), file]);
        assert_eq!(done.predecessors, [left.mark()]);
        assert!(!left.is_there());
    }

    #[test]
    fn a_file_that_an_alias_names_and_that_is_no_flow_memory_is_left_alone() {
        let Some(left) = Left::new("d") else { return };
        let file = format!("/dev/shm/{}-theirs", left.mark());
        fs::write(&file, "not of lbd").unwrap();
        link::set_mark(&left.name, &format!("lbd {file}")).unwrap();
        assert_eq!(left.find().unwrap().take_files().len(), 0);
        forget(&FlowMemory::Forgotten, &[port(&left.name)]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "not of lbd");
        fs::remove_file(file).unwrap();
        assert!(!left.is_there());
    }

    #[test]
    fn marks_say_which_flow_memory_is_meant() {
        for memory in
            [FlowMemory::Named("lbd-run-lb-api.sock".to_owned()), FlowMemory::File("/dev/hugepages/x".into())]
        {
            assert_eq!(FlowMemory::of_mark(&memory.mark().unwrap()), Some(memory));
        }
        for mark in ["", "lbd", "lbd eth0", "uplink", "lbd-../../etc/passwd"] {
            assert_eq!(FlowMemory::of_mark(mark), None, "{mark}");
        }
    }
}
