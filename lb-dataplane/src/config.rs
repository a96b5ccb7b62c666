//! What the data plane is started with.

use std::path::PathBuf;

/// All that [`Dataplane::start`](crate::Dataplane::start) needs to know. Values come from the config file, so that the
/// errors name its keys.
#[derive(Clone, Debug)]
pub struct Config {
    /// CPU of each worker.
    pub workers: Vec<u32>,
    /// Extra arguments for DPDK's EAL.
    pub driver_args: Vec<String>,
    /// Bound on packet buffers and tables together, in MiB.
    pub memory_mb: u32,
    pub huge_pages: bool,
    pub flow_memory: FlowMemory,
    /// Of all workers together.
    pub max_connections: u32,
    /// Of `max_connections`, how many may be IPv6.
    pub max_ipv6_connections: u32,
    /// Bounds [`ServerId`](lb_core::ids::ServerId).
    pub max_servers: usize,
    pub ports: Vec<PortConfig>,
    pub idle: Idle,
    /// Keys the hashes of flows; `None`: as in the flow memory that is carried over, else random.
    pub hash_seed: Option<u64>,
}

/// Where flow memory is, and whether connections and twins outlive the process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FlowMemory {
    /// In the process alone; the twins go with it too.
    Forgotten,
    /// In a file of this name, `lbd-…`, on hugetlbfs or `/dev/shm`; when there can be none, in the process alone.
    Named(String),
    /// In this file, on hugetlbfs or tmpfs.
    File(PathBuf),
}

impl FlowMemory {
    /// What the twins that stay are marked with.
    pub(crate) fn mark(&self) -> Option<String> {
        match self {
            FlowMemory::Forgotten => None,
            FlowMemory::Named(name) => Some(name.clone()),
            FlowMemory::File(path) => Some(format!("lbd {}", path.display())),
        }
    }

    /// The flow memory that twins with this mark belong to; `None`: it is no lbd's.
    pub(crate) fn of_mark(mark: &str) -> Option<FlowMemory> {
        if let Some(path) = mark.strip_prefix("lbd ").filter(|path| path.starts_with('/')) {
            return Some(FlowMemory::File(path.into()));
        }
        let is_name = mark.starts_with("lbd-") && !mark.contains('/');
        is_name.then(|| FlowMemory::Named(mark.to_owned()))
    }
}

#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Also the name of its Linux twin.
    pub name: String,
    /// A PCI address or a DPDK vdev, either with its arguments.
    pub device: String,
    /// Longest IP packet, in bytes.
    pub mtu: u16,
    /// Clients are out there.
    pub outside: bool,
    /// Whether the port has a twin in Linux. Without one nothing needs root.
    pub twin: bool,
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Idle {
    /// [`Idle::Pause`] on a CPU that the kernel was told to leave alone (`isolcpus`), [`Idle::Sleep`] on others.
    #[default]
    Auto,
    /// Polls at full speed.
    Poll,
    /// Polls, and lets the CPU's sibling thread run meanwhile.
    Pause,
    /// Polls, and after a millisecond without work sleeps for 50 µs at a time, after a second for 200 µs.
    Sleep,
    /// Polls, and after a millisecond without work sleeps until something comes: at most for a tick. A worker with a port that has no receive
    /// interrupts sleeps as [`Idle::Sleep`] does.
    Interrupt,
}
