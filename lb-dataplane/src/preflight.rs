//! What can be said before DPDK is started: DPDK starts once a process, and what it says is not for operators.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lb_core::flow;

use crate::config::{Config, FlowMemory, PortConfig};
use crate::cpu::{self, Capability, CpuSet};
use crate::dpdk::eal;
use crate::dpdk::mbuf::{Layout, MbufPool};
use crate::dpdk::port::DESCRIPTORS;
use crate::error::{PortProblem, StartError};
use crate::keep::Keep;
use crate::link;
use crate::memory::{HUGE_PAGE, huge_pages};
use crate::numa::{self, Pools};
use crate::ring::HAND_OVER_RING;
use crate::tap;
use crate::twin::TWIN_RING;
use crate::xdp;

/// DPDK numbers threads and ports up to these.
const MOST_WORKERS: usize = dpdk_sys::RTE_MAX_LCORE as usize - 1;
const MOST_PORTS: usize = dpdk_sys::RTE_MAX_ETHPORTS as usize;
/// Packets that one worker may hold: in the threads' caches, waiting for neighbours and first fragments.
const HELD_BY_WORKER: usize = 4096;
/// Buffers in the rings between AF_XDP and the kernel, for each queue (the driver's default lengths).
const AF_XDP_RINGS: usize = 4 * 2048;
/// Drivers that copy packets or keep them in this process, so that nothing depends on where buffers lie.
const IN_PROCESS_DRIVERS: &[&str] = &["net_null", "net_ring", "net_pcap", "net_tap", "net_af_packet"];
/// What is in a frame of `net_af_packet` besides the IP packet: the kernel's header and a gap, 66 bytes together, and the
/// Ethernet header with a VLAN tag. Source: `tpacket_rcv` in Linux, TPACKET_V2.
const AF_PACKET_OVERHEAD: u32 = 66 + 18;
/// DPDK's own needs besides the packet buffers.
const EAL_OVERHEAD: usize = 24 << 20;
/// Within this time the kernel has back what a process had that was killed: a thread of its own frees AF_XDP's memory.
const GIVING_BACK: Duration = Duration::from_secs(1);
/// What `echo … > nr_hugepages` is advised at least.
const ADVISED_HUGE_PAGES: usize = 512;

/// The memory that a configuration takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Memory {
    pub(crate) pools: Pools,
    /// Of each pool.
    pub(crate) buffers: Vec<u32>,
    /// Bytes of each buffer's room, headroom included.
    pub(crate) data_room: u16,
    pub(crate) layout: Layout,
    /// Bytes for buffers and DPDK's own needs.
    pub(crate) dpdk: usize,
    /// Bytes of each worker's tables.
    pub(crate) tables: usize,
    /// What each worker has room for.
    pub(crate) connections: u32,
    pub(crate) ipv6_connections: u32,
}

impl Memory {
    pub(crate) fn of(config: &Config) -> Memory {
        let workers: Vec<_> = config.workers.iter().map(|&cpu| numa::of_cpu(cpu)).collect();
        let ports: Vec<_> = config.ports.iter().map(|port| node(&port.device)).collect();
        Memory::with(config, Pools::of(&workers, &ports))
    }

    fn with(config: &Config, pools: Pools) -> Memory {
        let workers = config.workers.len();
        // What a port receives is in its own pool, what it sends may be of any.
        let received = |port: &PortConfig| {
            let rings = if driver(&port.device) == "net_af_xdp" { AF_XDP_RINGS } else { 0 };
            workers * (usize::from(DESCRIPTORS) + rings)
        };
        let sent = config.ports.len() * (workers * usize::from(DESCRIPTORS) + 2 * TWIN_RING);
        let others = sent + workers * (workers - 1) * HAND_OVER_RING + workers * HELD_BY_WORKER;
        let of_pool = |pool| {
            let its = config.ports.iter().zip(&pools.of_port).filter(|(_, of)| **of == pool);
            (others + its.map(|(port, _)| received(port)).sum::<usize>()) as u32
        };
        let buffers: Vec<u32> = (0..pools.nodes.len()).map(of_pool).collect();
        let all = buffers.iter().map(|&count| count as usize).sum::<usize>();
        let mtu = config.ports.iter().map(|port| port.mtu).max().unwrap_or(1500);
        let data_room = MbufPool::data_room(mtu);
        let is_shared = |port: &PortConfig| !IN_PROCESS_DRIVERS.contains(&driver(&port.device));
        let layout = match (config.huge_pages, config.ports.iter().any(is_shared)) {
            (true, _) => Layout::Huge,
            (false, true) => Layout::WithinPages,
            (false, false) => Layout::Dense,
        };
        let connections = config.max_connections.div_ceil(workers as u32);
        let ipv6_connections = config.max_ipv6_connections.div_ceil(workers as u32);
        Memory {
            pools,
            buffers,
            data_room,
            layout,
            dpdk: all * MbufPool::bytes_each(data_room, layout) + EAL_OVERHEAD,
            tables: flow::memory_needed(connections, ipv6_connections),
            connections,
            ipv6_connections,
        }
    }

    pub(crate) fn dpdk_mb(&self) -> usize {
        self.dpdk.div_ceil(1 << 20)
    }
}

/// Checks all that can be checked without DPDK, and computes the memory. `keep` is the file of flow memory; besides it `freed` huge
/// pages are held by what is removed before they are needed.
pub(crate) fn check(config: &Config, keep: Option<&Keep>, freed: usize) -> Result<Memory, StartError> {
    check_workers(&config.workers)?;
    eal::check_arguments(&config.driver_args)?;
    let mark = config.flow_memory.mark();
    check_ports(&config.ports, |port, others| {
        check_port(port, others, config.workers.len(), mark.as_deref())
    })?;
    let memory = Memory::of(config);
    check_memory(config, &memory, keep, freed)?;
    Ok(memory)
}

/// The same without anything that another process, a device or a privilege may change.
pub(crate) fn check_alone(config: &Config) -> Result<(), StartError> {
    check_count(&config.workers)?;
    // It may run elsewhere than this process, which is told to use some CPUs only: of a service manager.
    if let Some(online) = CpuSet::online()
        && let Some(&cpu) = config.workers.iter().find(|&&cpu| !online.has(cpu))
    {
        return Err(StartError::NotOnline { cpu, online: online.to_text() });
    }
    eal::check_arguments(&config.driver_args)?;
    check_ports(&config.ports, |port, others| {
        check_names(port, others)?;
        check_queues(&port.device, "", 0, config.workers.len())?;
        check_frame(&port.device, port.mtu)
    })?;
    check_budget(config, &Memory::of(config))
}

/// Checks the number of ports, and each with those before it.
fn check_ports(
    ports: &[PortConfig],
    check: impl Fn(&PortConfig, &[PortConfig]) -> Result<(), PortProblem>,
) -> Result<(), StartError> {
    if ports.len() > MOST_PORTS {
        return Err(StartError::TooManyPorts { given: ports.len(), most: MOST_PORTS });
    }
    for (index, port) in ports.iter().enumerate() {
        check(port, &ports[..index]).map_err(|problem| StartError::Port {
            port: port.name.clone(),
            device: port.device.clone(),
            problem,
        })?;
    }
    Ok(())
}

fn check_count(workers: &[u32]) -> Result<(), StartError> {
    if workers.is_empty() {
        return Err(StartError::NoWorker);
    }
    if workers.len() > MOST_WORKERS {
        return Err(StartError::TooManyWorkers { given: workers.len(), most: MOST_WORKERS });
    }
    let mut others = (0..workers.len()).map(|index| (workers[index], &workers[..index]));
    match others.find(|(cpu, others)| others.contains(cpu)) {
        Some((cpu, _)) => Err(StartError::CpuTwice(cpu)),
        None => Ok(()),
    }
}

fn check_workers(workers: &[u32]) -> Result<(), StartError> {
    check_count(workers)?;
    let usable = CpuSet::usable().map_err(|error| StartError::Eal(error.to_string()))?;
    match workers.iter().find(|&&cpu| !usable.has(cpu)) {
        Some(&cpu) => Err(StartError::NoCpu { cpu, usable: usable.to_text() }),
        None => Ok(()),
    }
}

fn check_budget(config: &Config, memory: &Memory) -> Result<(), StartError> {
    let tables = memory.tables * config.workers.len();
    let tables_mb = tables.div_ceil(1 << 20);
    let needed = memory.dpdk_mb() + tables_mb;
    if needed > config.memory_mb as usize {
        return Err(StartError::MemoryBudget {
            given: config.memory_mb,
            needed,
            buffers: memory.dpdk_mb(),
            tables: tables_mb,
            connections: config.max_connections,
        });
    }
    Ok(())
}

fn check_memory(
    config: &Config,
    memory: &Memory,
    keep: Option<&Keep>,
    freed: usize,
) -> Result<(), StartError> {
    check_budget(config, memory)?;
    if config.huge_pages {
        let tables = memory.tables.div_ceil(HUGE_PAGE) * config.workers.len();
        let needed = memory.dpdk.div_ceil(HUGE_PAGE)
            + match keep {
                // The first page of the file says what it is.
                Some(keep) if keep.is_on_huge_pages() => tables + 1,
                Some(_) => 0,
                None => tables,
            };
        // What a process before this one left is given back before it comes to that.
        let held = keep.map_or(0, Keep::huge_pages_held) + freed;
        let patience = if held > 0 { GIVING_BACK } else { Duration::ZERO };
        let (free, all) = await_pages(needed.saturating_sub(held), patience, huge_pages);
        let free = free + held;
        if needed > free {
            let enough = (all - free + needed).max(ADVISED_HUGE_PAGES);
            return Err(StartError::HugePages { needed, free, enough });
        }
    }
    Ok(())
}

/// Free huge pages and all, once so many are free or `patience` is over.
fn await_pages(needed: usize, patience: Duration, count: impl Fn() -> (usize, usize)) -> (usize, usize) {
    let began = Instant::now();
    loop {
        let (free, all) = count();
        if free >= needed || began.elapsed() >= patience {
            return (free, all);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn check_names(port: &PortConfig, others: &[PortConfig]) -> Result<(), PortProblem> {
    let is_name = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':' && byte != b'%';
    if port.name.is_empty()
        || port.name.len() > tap::LONGEST_NAME
        || !port.name.bytes().all(is_name)
        || [".", ".."].contains(&port.name.as_str())
    {
        return Err(PortProblem::BadName);
    }
    if others.iter().any(|other| other.name == port.name) {
        return Err(PortProblem::NameTwice);
    }
    if others.iter().any(|other| device_name(&other.device) == device_name(&port.device)) {
        return Err(PortProblem::DeviceTwice);
    }
    let Some(interface) = interface(&port.device) else { return Ok(()) };
    match others.iter().find(|other| self::interface(&other.device) == Some(interface)) {
        Some(other) => {
            Err(PortProblem::InterfaceTwice { interface: interface.to_owned(), other: other.name.clone() })
        }
        None => Ok(()),
    }
}

fn check_port(
    port: &PortConfig,
    others: &[PortConfig],
    workers: usize,
    mark: Option<&str>,
) -> Result<(), PortProblem> {
    check_names(port, others)?;
    check_device(&port.device, port.mtu, workers)?;
    if port.twin {
        if cpu::interface_index(&port.name).is_some() {
            check_kept(&port.name, mark)?;
        }
        if !cpu::has_capability(Capability::NetAdmin) {
            return Err(PortProblem::NoPrivilege("CAP_NET_ADMIN, for its twin"));
        }
    }
    Ok(())
}

/// An interface that is there is taken when it has the mark of an lbd: whether that one still has it, [`Predecessors`] found out.
///
/// [`Predecessors`]: crate::predecessor::Predecessors
fn check_kept(name: &str, ours: Option<&str>) -> Result<(), PortProblem> {
    let has = link::mark_of(name).map_err(|error| PortProblem::Twin { name: name.to_owned(), error })?;
    let is_lbds = |mark: &str| ours == Some(mark) || FlowMemory::of_mark(mark).is_some();
    if has.as_deref().is_some_and(is_lbds) { Ok(()) } else { Err(PortProblem::TwinExists(name.to_owned())) }
}

fn check_device(device: &str, mtu: u16, workers: usize) -> Result<(), PortProblem> {
    if let Some(address) = pci_address(device) {
        return check_pci(&address);
    }
    let (needs, why) = match driver(device) {
        "net_af_xdp" => (Capability::NetAdmin, "CAP_NET_ADMIN, for AF_XDP"),
        "net_tap" => (Capability::NetAdmin, "CAP_NET_ADMIN, for a TAP"),
        "net_af_packet" => (Capability::NetRaw, "CAP_NET_RAW, for AF_PACKET"),
        _ => return Ok(()),
    };
    if let Some(interface) = interface(device).map(str::to_owned) {
        match tap::mtu_of(&interface) {
            Err(_) => return Err(PortProblem::NoInterface(interface)),
            Ok(has) if has < u32::from(mtu) => {
                return Err(PortProblem::InterfaceMtu { interface, mtu, has });
            }
            Ok(_) => {}
        }
        check_queues(device, &interface, receive_queues(&interface), workers)?;
        check_frame(device, mtu)?;
    }
    if cpu::has_capability(needs) { Ok(()) } else { Err(PortProblem::NoPrivilege(why)) }
}

/// Checks that the frames of `net_af_packet`'s rings hold what the port may receive.
fn check_frame(device: &str, mtu: u16) -> Result<(), PortProblem> {
    if driver(device) != "net_af_packet" || af_packet_mtu(device) >= mtu {
        return Ok(());
    }
    let frame = (u32::from(mtu) + AF_PACKET_OVERHEAD).next_multiple_of(16);
    // Blocks are whole pages, and the driver takes them for whole frames too.
    let block = frame << 12_u32.saturating_sub(frame.trailing_zeros());
    let advice = format!("framesz={frame},blocksz={block}");
    Err(PortProblem::FrameSize { mtu, most: af_packet_mtu(device), advice })
}

/// Checks that a worker serves each queue that frames come to. The interface has `has` receive queues.
///
/// AF_XDP takes the interface's queues one by one, and those that it does not take stay with the kernel; AF_PACKET's sockets
/// share all frames. Of the queues that a device takes, each worker serves one at most. `start_queue=` with another number
/// than 0 says that the queues before are meant for the kernel.
fn check_queues(device: &str, interface: &str, has: usize, workers: usize) -> Result<(), PortProblem> {
    let number = |name| argument(device, name).and_then(|number| number.parse::<usize>().ok());
    let unserved = |argument, taken| PortProblem::UnservedQueues { argument, taken, workers };
    match driver(device) {
        "net_af_packet" => match number("qpairs=") {
            Some(taken) if taken > workers => Err(unserved("qpairs", taken)),
            _ => Ok(()),
        },
        "net_af_xdp" => {
            let taken = number("queue_count=").unwrap_or(1);
            let served = taken.min(workers);
            if number("start_queue=").unwrap_or(0) == 0 && has > served {
                let or = match has <= workers {
                    true => format!(", or give the device queue_count={has}"),
                    false => String::new(),
                };
                return Err(PortProblem::SpareQueues { interface: interface.to_owned(), has, served, or });
            }
            if taken > workers { Err(unserved("queue_count", taken)) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// Receive queues of a network interface; 0 when the system does not say.
fn receive_queues(interface: &str) -> usize {
    let directory = Path::new("/sys/class/net").join(interface).join("queues");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"rx-")).count()
}

fn check_pci(address: &str) -> Result<(), PortProblem> {
    let directory = Path::new("/sys/bus/pci/devices").join(address);
    if !directory.exists() {
        return Err(PortProblem::NoPciDevice);
    }
    // NVIDIA's and Microsoft's cards stay with the kernel's driver, DPDK works beside it.
    let beside = ["mlx4_core", "mlx5_core", "mana"];
    let free = ["vfio-pci", "igb_uio", "uio_pci_generic"];
    let bound = fs::read_link(directory.join("driver")).ok();
    let bound = bound.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match bound {
        Some(name) if !beside.contains(&name.as_str()) && !free.contains(&name.as_str()) => {
            Err(PortProblem::KernelDriver(name))
        }
        _ => Ok(()),
    }
}

/// The longest IP packet that the frames of `net_af_packet`'s rings hold (`framesz`, by default 2048).
fn af_packet_mtu(device: &str) -> u16 {
    let frame = argument(device, "framesz=").and_then(|size| size.parse().ok());
    let most = frame.unwrap_or(2048_u32).saturating_sub(AF_PACKET_OVERHEAD);
    u16::try_from(most).unwrap_or(u16::MAX)
}

/// The kernel's interface that a vdev is on (not the one that `net_tap` makes).
pub(crate) fn interface(device: &str) -> Option<&str> {
    if driver(device) == "net_tap" {
        return None;
    }
    argument(device, "iface=")
}

/// The interface whose frames the kernel's own stack takes too: AF_PACKET gives out copies.
pub(crate) fn read_twice(device: &str) -> Option<&str> {
    interface(device).filter(|_| driver(device) == "net_af_packet")
}

/// The XDP program that is on the interface of an AF_XDP device before that is started. To be asked when the interface is
/// claimed: then the program is nobody's. What the kernel does not tell is no reason not to start.
pub(crate) fn xdp_left(device: &str) -> Option<u32> {
    let interface = interface(device).filter(|_| driver(device) == "net_af_xdp")?;
    xdp::program_on(interface).ok().flatten()
}

/// The value of a vdev's argument, given with its `=`.
fn argument<'d>(device: &'d str, name: &str) -> Option<&'d str> {
    device.split(',').find_map(|argument| argument.strip_prefix(name))
}

/// A device's name without its arguments.
pub(crate) fn device_name(device: &str) -> &str {
    device.split(',').next().unwrap_or_default()
}

/// A vdev's driver: its name without arguments and number.
fn driver(device: &str) -> &str {
    device_name(device).trim_end_matches(|c: char| c.is_ascii_digit())
}

/// The NUMA node that a device is at, where the system says it.
pub(crate) fn node(device: &str) -> Option<u32> {
    numa::of_pci(&pci_address(device)?)
}

/// The address of a PCI device, in full (`0000:01:00.0`), when the device is one.
pub(crate) fn pci_address(device: &str) -> Option<String> {
    let name = device_name(device);
    let (rest, function) = name.rsplit_once('.')?;
    let parts: Vec<&str> = rest.split(':').collect();
    let (domain, bus, slot) = match parts[..] {
        [bus, slot] => ("0000", bus, slot),
        [domain, bus, slot] => (domain, bus, slot),
        _ => return None,
    };
    let is_hex = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    let is_address = is_hex(domain, 4) && is_hex(bus, 2) && is_hex(slot, 2) && is_hex(function, 1);
    is_address.then(|| format!("{domain}:{bus}:{slot}.{function}").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Idle;

    fn config() -> Config {
        let cpu = CpuSet::usable().unwrap().iter().next().unwrap();
        Config {
            workers: vec![cpu],
            driver_args: Vec::new(),
            memory_mb: 512,
            huge_pages: false,
            flow_memory: FlowMemory::Forgotten,
            max_connections: 1000,
            max_ipv6_connections: 100,
            max_servers: 16,
            ports: vec![port("a", "net_null0")],
            idle: Idle::Sleep,
            hash_seed: Some(1),
        }
    }

    fn port(name: &str, device: &str) -> PortConfig {
        PortConfig {
            name: name.to_owned(),
            device: device.to_owned(),
            mtu: 1500,
            outside: false,
            twin: false,
        }
    }

    /// The one line that a changed configuration is refused with.
    fn refusal(change: impl FnOnce(&mut Config)) -> String {
        let mut config = config();
        change(&mut config);
        let line = check(&config, None, 0).unwrap_err().to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn what_the_configuration_alone_says_is_refused_without_a_look_at_devices() {
        let refusal = |change: &dyn Fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            check_alone(&config).unwrap_err().to_string()
        };
        assert!(check_alone(&config()).is_ok());
        let said = refusal(&|config| config.max_connections = 100_000_000);
        assert!(said.starts_with("dataplane.memory_mb: 512 is too little, "), "{said}");
        let said = refusal(&|config| config.driver_args = vec!["--no-huge".to_owned()]);
        assert!(said.starts_with("dataplane.driver_args: --no-huge may not be given here"), "{said}");
        let said = refusal(&|config| config.workers.push(1023));
        assert!(
            said.starts_with("dataplane.workers: CPU 1023 is not there, the machine has CPUs 0"),
            "{said}"
        );
        let said = refusal(&|config| config.workers.push(config.workers[0]));
        assert!(said.ends_with("is listed twice"), "{said}");
        let said = refusal(&|config| config.ports.push(port("a", "net_null1")));
        assert!(said.contains("the name is that of another port"), "{said}");
        let absent = "net_af_packet0,iface=no-such-port";
        let said = refusal(&|config| config.ports[0] = port("a", &format!("{absent},qpairs=2")));
        assert!(said.contains("qpairs=2 is more than the 1 of dataplane.workers"), "{said}");
        let mut good = config();
        good.ports[0] = port("a", absent);
        good.huge_pages = true;
        assert!(check_alone(&good).is_ok(), "it may be there at the start");
        good.ports[0].mtu = 9000;
        let said = check_alone(&good).unwrap_err().to_string();
        assert!(said.contains("mtu 9000 is more than the "), "{said}");
    }

    #[test]
    fn huge_pages_that_are_on_their_way_back_are_waited_for_and_others_are_not() {
        let looks = std::cell::Cell::new(0);
        let count = || {
            looks.set(looks.get() + 1);
            (10 * looks.get(), 100)
        };
        assert_eq!(await_pages(30, Duration::MAX, count), (30, 100));
        assert_eq!(await_pages(usize::MAX, Duration::ZERO, || (7, 9)), (7, 9));
    }

    #[test]
    fn each_node_that_has_a_port_has_buffers_for_what_its_ports_receive_and_for_all_that_is_sent() {
        let mut config = config();
        config.workers = vec![0, 1];
        config.ports = vec![port("a", "net_null0"), port("b", "net_null1"), port("c", "net_null2")];
        let of = |nodes: &[Option<u32>]| Memory::with(&config, Pools::of(&[Some(0), Some(1)], nodes));
        let one = of(&[Some(0); 3]);
        let two = of(&[Some(0), Some(1), Some(1)]);
        let received = 2 * u32::from(DESCRIPTORS);
        assert_eq!(one.buffers.len(), 1);
        assert_eq!(two.buffers, [one.buffers[0] - 2 * received, one.buffers[0] - received]);
        assert!(two.dpdk > one.dpdk, "they are counted in the budget");
    }

    #[test]
    fn a_sound_configuration_passes() {
        check(&config(), None, 0).unwrap();
    }

    #[test]
    fn cpus_that_cannot_be_used_are_named() {
        assert_eq!(refusal(|c| c.workers.clear()), "dataplane.workers: at least one CPU is needed");
        let line = refusal(|c| c.workers = vec![1020]);
        assert!(
            line.starts_with("dataplane.workers: CPU 1020 is not there, this process may use CPUs "),
            "{line}"
        );
        let line = refusal(|c| c.workers.push(c.workers[0]));
        assert!(line.ends_with("is listed twice"), "{line}");
    }

    #[test]
    fn driver_arguments_that_are_decided_elsewhere_are_refused() {
        let line = refusal(|c| c.driver_args = vec!["--no-pci".to_owned(), "--socket-mem=64".to_owned()]);
        assert_eq!(
            line,
            "dataplane.driver_args: --socket-mem=64 may not be given here, dataplane.memory_mb decides it"
        );
    }

    #[test]
    fn a_budget_that_does_not_suffice_is_told_what_does() {
        let line = refusal(|c| c.memory_mb = 10);
        let needed = line.strip_prefix("dataplane.memory_mb: 10 is too little, ").unwrap();
        let needed: u32 = needed.split(' ').next().unwrap().parse().unwrap();
        let mut config = config();
        config.memory_mb = needed;
        check(&config, None, 0).unwrap();
    }

    #[test]
    fn missing_huge_pages_are_told_with_the_command_that_mends_it() {
        let line = refusal(|c| {
            c.huge_pages = true;
            c.memory_mb = u32::MAX;
            c.max_connections = 2_000_000_000;
        });
        assert!(line.starts_with("no huge pages: "), "{line}");
        assert!(line.contains("run: echo ") && line.ends_with("or set huge_pages = false"), "{line}");
    }

    #[test]
    fn ports_that_cannot_be_are_named_with_their_device() {
        let second = |name: &str, device: &str| {
            let port = port(name, device);
            refusal(|c| c.ports.push(port))
        };
        assert_eq!(
            second("a", "net_null1"),
            r#"port "a", device "net_null1": the name is that of another port"#
        );
        assert_eq!(
            second("b", "net_null0,size=64"),
            r#"port "b", device "net_null0,size=64": the device is that of another port"#
        );
        let mut twice = config();
        twice.ports = vec![port("a", "net_af_packet0,iface=eth0"), port("b", "net_af_xdp1,iface=eth0")];
        assert_eq!(
            check_alone(&twice).unwrap_err().to_string(),
            r#"port "b", device "net_af_xdp1,iface=eth0": the interface eth0 is that of port "a""#
        );
        assert!(second("a name", "net_null1").contains("1 to 15 bytes without blank or slash"));
        assert!(second("a-name-that-is-long", "net_null1").contains("1 to 15 bytes"));
        assert_eq!(
            second("wan", "net_af_xdp0,iface=nosuch0"),
            r#"port "wan", device "net_af_xdp0,iface=nosuch0": there is no network interface nosuch0"#
        );
        assert_eq!(
            second("wan", "ffff:ff:1f.7"),
            r#"port "wan", device "ffff:ff:1f.7": there is no such PCI device"#
        );
        let taken = PortConfig { twin: true, ..port("lo", "net_null1") };
        assert_eq!(
            refusal(|c| c.ports.push(taken)),
            r#"port "lo", device "net_null1": a network interface named lo is there already, choose another name for the port"#
        );
    }

    #[test]
    fn frames_too_small_for_the_mtu_are_refused_with_the_ones_that_do() {
        let device = |arguments: &str| format!("net_af_packet0,iface=lo{arguments}");
        let checked =
            |mtu, arguments: &str| check_device(&device(arguments), mtu, 1).map_err(|e| e.to_string());
        assert_eq!(checked(1964, ""), Ok(()));
        assert_eq!(
            checked(9000, ""),
            Err("mtu 9000 is more than the 1964 that its frames hold; \
                 add to the device: framesz=9088,blocksz=290816"
                .to_owned())
        );
        assert_eq!(checked(9000, ",framesz=9088,blocksz=290816"), Ok(()));
    }

    #[test]
    fn queues_that_no_worker_would_serve_are_refused_with_a_mend_that_mends() {
        let said = |device: &str, has, workers| {
            check_queues(&format!("{device},iface=eth0"), "eth0", has, workers).err().map(|e| e.to_string())
        };
        let spare = |served, or: &str| {
            Some(format!(
                "eth0 has 4 receive queues and {served} of them would be served, the kernel would keep the rest; run: \
                 ethtool -L eth0 combined {served} (or rx {served} tx {served}){or}"
            ))
        };
        assert_eq!(said("net_af_xdp0", 4, 1), spare(1, ""));
        assert_eq!(said("net_af_xdp0,queue_count=4", 4, 1), spare(1, ""));
        assert_eq!(said("net_af_xdp0,start_queue=0,queue_count=4", 4, 2), spare(2, ""));
        assert_eq!(said("net_af_xdp0", 4, 4), spare(1, ", or give the device queue_count=4"));
        assert_eq!(said("net_af_xdp0,queue_count=4", 4, 4), None);
        assert_eq!(said("net_af_xdp0", 1, 3), None);
        assert_eq!(said("net_af_xdp0", 0, 1), None, "the system does not say");
        assert_eq!(
            said("net_af_xdp0,start_queue=2,queue_count=2", 4, 2),
            None,
            "the first two are the kernel's"
        );
        let unserved = |argument| {
            Some(format!(
                "{argument}=4 is more than the 2 of dataplane.workers, what comes to the rest would be lost; use {argument}=2"
            ))
        };
        assert_eq!(said("net_af_xdp0,start_queue=1,queue_count=4", 5, 2), unserved("queue_count"));
        assert_eq!(said("net_af_packet0,qpairs=4", 4, 2), unserved("qpairs"));
        assert_eq!(said("net_af_packet0,qpairs=2", 4, 2), None);
        assert_eq!(said("net_af_packet0", 4, 2), None);
    }

    #[test]
    fn pci_addresses_are_told_from_vdevs() {
        assert_eq!(pci_address("0000:01:00.0,x=1").as_deref(), Some("0000:01:00.0"));
        assert_eq!(pci_address("AB:00.1").as_deref(), Some("0000:ab:00.1"));
        for vdev in ["net_null0", "net_af_xdp0,iface=eth0.5", "net_tap0,mac=00:64:74:61:70:11", "1:2.3"] {
            assert_eq!(pci_address(vdev), None, "{vdev}");
        }
    }
}
