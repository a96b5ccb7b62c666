//! Why the data plane does not start: one line each, that names the object as the operator wrote it, and the mend.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("dataplane.workers: at least one CPU is needed")]
    NoWorker,
    #[error("dataplane.workers: CPU {cpu} is not there, this process may use CPUs {usable}")]
    NoCpu { cpu: u32, usable: String },
    #[error("dataplane.workers: CPU {cpu} is not there, the machine has CPUs {online}")]
    NotOnline { cpu: u32, online: String },
    #[error("dataplane.workers: CPU {0} is listed twice")]
    CpuTwice(u32),
    #[error("dataplane.workers: {given} workers, at most {most} are possible")]
    TooManyWorkers { given: usize, most: usize },
    #[error("dataplane.driver_args: {argument} may not be given here, {instead} decides it")]
    DriverArgument { argument: String, instead: &'static str },
    #[error("dataplane.driver_args: {0}")]
    DriverArguments(String),
    #[error("{given} ports, at most {most} are possible")]
    TooManyPorts { given: usize, most: usize },
    #[error(
        "dataplane.memory_mb: {given} is too little, {needed} are needed: {buffers} for packet buffers, {tables} for \
         {connections} connections"
    )]
    MemoryBudget { given: u32, needed: usize, buffers: usize, tables: usize, connections: u32 },
    #[error(
        "no huge pages: {needed} of 2 MB are needed, {free} are free; run: echo {enough} > \
         /proc/sys/vm/nr_hugepages, or set huge_pages = false"
    )]
    HugePages { needed: usize, free: usize, enough: usize },
    #[error("no memory: {bytes} bytes for tables: {error}")]
    Memory { bytes: usize, error: io::Error },
    #[error("flow memory {}: {reason}", .path.display())]
    FlowMemory { path: PathBuf, reason: String },
    #[error("no memory for {count} packet buffers: {reason}")]
    Buffers { count: u32, reason: String },
    #[error("DPDK was started in this process before, and can be only once")]
    Twice,
    #[error("DPDK does not start: {0}")]
    Eal(String),
    #[error("port \"{port}\", device \"{device}\": {problem}")]
    Port { port: String, device: String, problem: PortProblem },
    #[error("worker on CPU {cpu}: {reason}")]
    Worker { cpu: u32, reason: String },
}

/// What is wrong with one port.
#[derive(Debug, thiserror::Error)]
pub enum PortProblem {
    #[error("the name is that of another port")]
    NameTwice,
    #[error("the device is that of another port")]
    DeviceTwice,
    #[error("the interface {interface} is that of port \"{other}\"")]
    InterfaceTwice { interface: String, other: String },
    #[error(
        "the name must be 1 to 15 bytes without blank or slash, as it is that of a network interface too"
    )]
    BadName,
    #[error("there is no network interface {0}")]
    NoInterface(String),
    #[error("mtu {mtu} is more than the {has} of {interface}; run: ip link set {interface} mtu {mtu}")]
    InterfaceMtu { interface: String, mtu: u16, has: u32 },
    /// `or` begins with a comma, or is empty.
    #[error(
        "{interface} has {has} receive queues and {served} of them would be served, the kernel would keep the rest; run: \
         ethtool -L {interface} combined {served} (or rx {served} tx {served}){or}"
    )]
    SpareQueues { interface: String, has: usize, served: usize, or: String },
    #[error(
        "{argument}={taken} is more than the {workers} of dataplane.workers, what comes to the rest would be lost; use \
         {argument}={workers}"
    )]
    UnservedQueues { argument: &'static str, taken: usize, workers: usize },
    #[error("mtu {mtu} is more than the {most} that its frames hold; add to the device: {advice}")]
    FrameSize { mtu: u16, most: u16, advice: String },
    #[error("another lbd uses the interface {0}")]
    InUse(String),
    #[error("there is no such PCI device")]
    NoPciDevice,
    #[error("it belongs to the kernel's driver {0}; run: dpdk-devbind.py --bind=vfio-pci ADDRESS")]
    KernelDriver(String),
    #[error("root is needed ({0})")]
    NoPrivilege(&'static str),
    #[error("a network interface named {0} is there already, choose another name for the port")]
    TwinExists(String),
    /// `mend` says what to do.
    #[error("{name} is there already, kept by the lbd with the mark \"{mark}\"; {mend}")]
    TwinKept { name: String, mark: String, mend: String },
    #[error("no twin {name}: {error}")]
    Twin { name: String, error: io::Error },
    #[error("it does not start: {0}")]
    Probe(String),
    #[error("mtu {mtu} is outside {least}..={most}, which the device can do")]
    Mtu { mtu: u16, least: u16, most: u16 },
    /// `hint` begins with a comma, or is empty.
    #[error("queue {queue} does not start{hint}: {reason}")]
    Queue { queue: u16, hint: &'static str, reason: String },
    #[error("{step} failed: {reason}")]
    Setup { step: &'static str, reason: String },
}
