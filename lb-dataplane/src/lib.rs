//! The data plane: poll-mode workers on DPDK ports, and the handle by which the control plane drives them.
//!
//! [`Dataplane::start`] makes, in this order: the tables' memory, DPDK, its ports, their Linux twins, the workers.
//! [`idle`] is the loop in which each worker spends its life, [`worker`] a turn of it; what packets go through is [`lb_core::path`].

mod bell;
mod claim;
mod clock;
mod config;
mod cpu;
mod device;
mod dpdk;
mod error;
mod heir;
mod idle;
mod keep;
mod link;
mod listing;
mod mailbox;
mod memory;
mod memory_port;
mod numa;
mod orders;
mod placement;
mod predecessor;
mod preflight;
mod resolve;
mod ring;
mod sharing;
mod stepped;
mod tap;
mod team;
mod twin;
mod worker;
mod xdp;

use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use lb_core::conntrack::Zones;
use lb_core::counters::WorkerCounters;
use lb_core::flow::template::Uses;
use lb_core::flow::{Hasher, Tuple};
use lb_core::ids::{PortId, ServerId, WorkerId};
use lb_core::mem::Region;
use lb_core::path::{Beginning, FlowView, Order, Outcome, Owners, Path, PathConfig, SharedFlow, Sought};
use lb_core::rss::{Lack, Rss, Spread};
use lb_core::tables::Tables;

pub use clock::cycles;
pub use config::{Config, FlowMemory, Idle, PortConfig};
pub use device::{Backend, Device, Pool};
pub use dpdk::mbuf::Mbuf;
pub use dpdk::port::{PortInfo, PortStats};
pub use error::{PortProblem, StartError};
pub use heir::Succession;
pub use memory::take_region;
pub use memory_port::{HeapFrames, InMemory, MemoryPort, Wire, memory_port};
pub use predecessor::{Forgotten, forget};
pub use resolve::{Question, Questions};
pub use stepped::Stepped;
pub use team::{Member, Team, WorkerStalled};
pub use twin::{Host, TwinTroubles, memory_twin};
pub use worker::{Logic, Queue, Seat, Twin};

use claim::Claims;
use cpu::CpuSet;
use dpdk::Dpdk;
use dpdk::eal::{Eal, EalConfig};
use dpdk::mbuf::{self, MbufPool};
use dpdk::port::{self, Port, Setup};
use dpdk::steering::plan;
use heir::{Executor, Share};
use keep::{Keep, Legacy};
use memory::HUGE_PAGE;
use placement::Cpu;
use predecessor::Predecessors;
use preflight::Memory;
use twin::{Pump, TwinEnd};

/// Says whether a configuration could be started on this machine, as far as that depends on nothing but the machine's CPUs and NUMA nodes:
/// nothing is opened or claimed, nothing needs a privilege, and neither devices nor huge pages are looked at.
///
/// # Errors
/// What [`Dataplane::start`] would say; a CPU that this process may not use, and the machine has, is none.
pub fn check(config: &Config) -> Result<(), StartError> {
    preflight::check_alone(config)
}

/// The running data plane. Dropping it is stopping it.
// The order of the fields is the order in which they end: who holds packets first, the memory of packets last.
pub struct Dataplane {
    team: Team,
    /// After the workers, whose last words it waits for.
    executor: Option<Executor>,
    /// By port.
    pumps: Vec<Option<Pump>>,
    /// By port: its twin has a carrier.
    carriers: Vec<AtomicBool>,
    ports: Vec<Port>,
    pools: Vec<MbufPool>,
    _eal: Eal,
    _claims: Claims,
    infos: Vec<PortInfo>,
    notices: Vec<String>,
    placement: Vec<String>,
    predecessors: Vec<String>,
    /// As the workers have it.
    owners: Owners,
}

impl Dataplane {
    /// Starts all. The workers wait for the first tables; then they take over what [`Config::flow_memory`] holds of a
    /// process before this one, and then the first packets. Works once a process.
    ///
    /// # Errors
    /// One line; nothing is left behind that was not there before.
    pub fn start(config: Config) -> Result<Dataplane, StartError> {
        Dataplane::begin(config, |config, share| share.take(Path::<Mbuf>::new(config)))
    }

    /// As [`Dataplane::start`], with another logic than [`Path`]: for measurements and tests of what is around it.
    /// `logic` is called once on each worker's thread.
    ///
    /// # Errors
    /// As for [`Dataplane::start`].
    pub fn start_with<L: Logic<Mbuf>>(
        config: Config,
        logic: impl Fn(PathConfig) -> L + Clone + Send + 'static,
    ) -> Result<Dataplane, StartError> {
        let mut dataplane = Dataplane::begin(config, move |config, _| logic(config))?;
        // Such a logic takes nothing over and waits for nobody.
        dataplane.executor = None;
        Ok(dataplane)
    }

    fn begin<L: Logic<Mbuf>>(
        config: Config,
        logic: impl Fn(PathConfig, Share) -> L + Clone + Send + 'static,
    ) -> Result<Dataplane, StartError> {
        let (mut keep, mut notices) = Keep::open(&config.flow_memory, config.huge_pages)?;
        let mark = config.flow_memory.mark();
        let mut before = Predecessors::find(&config.ports, mark.as_deref(), keep.as_ref())?;
        notices.extend(before.notices());
        if let Some(keep) = &mut keep {
            keep.inherit(before.take_files());
        }
        let memory = preflight::check(&config, keep.as_ref(), before.huge_pages())?;
        let claims = Claims::take(&config.ports)?;
        before.remove_files()?;
        if mark.is_none() {
            before.remove_twins()?;
        }
        let (mut paths, legacy) = paths(&config, &memory, &mut keep, &mut notices)?;
        let mut eal = start_eal(&config, &memory)?;
        let numbers = probe(&mut eal, &config.ports)?;
        let pools = pools(&memory, &mut notices)?;
        let workers = config.workers.len() as u16;
        let mut ports = Vec::new();
        let can: Vec<_> = numbers
            .iter()
            .zip(&config.ports)
            .map(|(&number, port)| (port::can(number), port.outside))
            .collect();
        let plan = plan(&can, workers);
        let rss = plan.means().map(|means| Arc::new(Rss::new(paths[0].hash_seed, means, plan.bits, workers)));
        let wants_interrupts = config.idle == Idle::Interrupt;
        for (index, (port, number)) in config.ports.iter().zip(numbers).enumerate() {
            let setup = Setup {
                workers,
                spread: plan.spreads[index],
                rss: rss.as_deref(),
                interrupts: wants_interrupts,
                pool: &pools[memory.pools.of_port[index]],
                node: preflight::node(&port.device),
                has_all: memory.pools.is_one(),
            };
            ports.push(Port::start(&mut eal, number, PortId(index as u16), port, &setup)?);
        }
        for port in ports.iter().filter(|port| wants_interrupts && !port.has_interrupts) {
            notices.push(format!(
                "port {}: {} has no receive interrupts; workers that receive by it sleep for moments, as with idle = \"sleep\"",
                port.info.name, port.info.driver
            ));
        }
        for port in ports.iter().filter(|port| port.info.spread == Spread::BothEnds(Lack::Obedience)) {
            notices.push(format!(
                "port {}: {} did not take the key and the table by which packets would come to their workers; they are handed over",
                port.info.name, port.info.driver
            ));
        }
        notices.extend(config.ports.iter().filter_map(|port| {
            let interface = preflight::read_twice(&port.device)?;
            Some(format!(
                "port {}: Linux takes what comes to {interface} as well, and refuses connections to the twin's addresses unless it is dropped: \
                 nft 'add table netdev lb; add chain netdev lb {interface} {{ type filter hook ingress device {interface} priority 0; policy drop; }}'",
                port.name
            ))
        }));
        // Where no device did what it was asked to, there is nothing to go by.
        let does = |port: &Port| matches!(port.info.spread, Spread::OneEnd(..));
        let rss = rss.filter(|_| ports.iter().any(does));
        paths.iter_mut().for_each(|path| path.rss.clone_from(&rss));
        mbuf::set_ports_write_l4(ports.iter().all(|port| port.writes_l4));
        // The first worker serves the twins.
        let pool_of = |worker: usize| &pools[memory.pools.of_worker[worker]];
        let infos: Vec<PortInfo> = ports.iter().map(|port| port.info.clone()).collect();
        let (pumps, mut twins) = start_twins(&config.ports, &infos, pool_of(0), mark.as_deref())?;
        let marks = mark.as_deref().into_iter().chain(before.marks());
        marks.for_each(|mark| notices.extend(predecessor::remove_stale_twins(&config.ports, mark)));
        let predecessors = before.names();
        let settle = move || before.remark_twins(mark.as_deref());
        let (executor, share) = Executor::start(config.workers.len(), legacy, keep, settle)
            .map_err(|error| StartError::Worker { cpu: config.workers[0], reason: error.to_string() })?;
        let counters = paths[0].counters.clone();
        let owners = Owners::new(Hasher::new(paths[0].hash_seed), paths.len(), rss);
        let mut members = Vec::new();
        for (worker, path) in paths.into_iter().enumerate() {
            let (logic, share) = (logic.clone(), share.clone());
            members.push(Member {
                cpu: Some(config.workers[worker]),
                seats: seats(worker, config.workers.len(), &ports, &mut twins),
                pool: pool_of(worker).clone(),
                logic: move || logic(path, share),
            });
        }
        drop(share);
        let placement = placement(&config);
        let team = Team::start::<Dpdk, _, _>(members, counters, config.idle)?;
        eal.let_log_out();
        Ok(Dataplane {
            team,
            executor: Some(executor),
            carriers: pumps.iter().map(|_| AtomicBool::new(true)).collect(),
            pumps,
            ports,
            pools,
            _eal: eal,
            _claims: claims,
            infos,
            notices,
            placement,
            predecessors,
            owners,
        })
    }

    /// What the operator should know of the start, a line each.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Where the workers run, and what would be faster, a line each.
    pub fn placement(&self) -> &[String] {
        &self.placement
    }

    /// The names of the [flow memory](FlowMemory::Named) of those that served before with another, whose twins and connections were
    /// taken over, or removed.
    pub fn predecessors(&self) -> &[String] {
        &self.predecessors
    }

    /// How taking over the connections of the process before ended: once, when it has.
    pub fn take_succession(&self) -> Option<Succession> {
        self.executor.as_ref()?.take_outcome()
    }

    /// Ends the workers, then stops and closes the ports: no XDP program stays. Flow memory and twins stay for the next
    /// start, unless they are [`FlowMemory::Forgotten`].
    pub fn stop(self) {
        drop(self);
    }

    /// The ports as they were at the start, by [`PortId`].
    pub fn ports(&self) -> &[PortInfo] {
        &self.infos
    }

    /// What the port itself counts, and its link now. `None`: there is no such port.
    pub fn port_stats(&self, port: PortId) -> Option<PortStats> {
        self.ports.get(port.index()).map(Port::stats)
    }

    /// What the port's twin did not carry. `None`: there is no such port, or it has no twin.
    pub fn twin_troubles(&self, port: PortId) -> Option<TwinTroubles> {
        self.pumps.get(port.index())?.as_ref().map(Pump::troubles)
    }

    /// Whether the port has a twin that somebody deleted (`ip link del`): it stays away until the next start.
    pub fn twin_is_gone(&self, port: PortId) -> bool {
        self.pumps.get(port.index()).and_then(Option::as_ref).is_some_and(Pump::is_gone)
    }

    /// Gives the twins the links of their ports: to be asked now and then. One whose interface has another name by now stays as it is.
    pub fn follow_links(&self) {
        for ((port, pump), carrier) in self.ports.iter().zip(&self.pumps).zip(&self.carriers) {
            let is_up = port.is_up();
            if pump.is_some()
                && is_up != carrier.load(Relaxed)
                && link::set_carrier(&port.info.name, is_up).is_ok()
            {
                carrier.store(is_up, Relaxed);
            }
        }
    }

    /// Packet buffers in use, in queues and caches too.
    pub fn buffers_in_use(&self) -> u32 {
        self.pools.iter().map(MbufPool::in_use).sum()
    }

    /// What each worker counts.
    pub fn counters(&self) -> &Arc<[Arc<WorkerCounters>]> {
        self.team.counters()
    }

    /// Leaves `tables` for all workers, and frees the snapshots that they gave back. Never waits for a worker.
    pub fn publish(&self, tables: Arc<Tables>) {
        self.team.publish(tables);
    }

    /// Whether the workers take packets: all have carried over their share of what the process before left.
    pub fn takes_packets(&self) -> bool {
        self.executor.as_ref().is_none_or(Executor::is_done)
    }

    /// Whether all workers use the tables of this generation, and take packets. Frees those that they gave back, and
    /// sends those that they left no room for: to be asked now and then.
    pub fn generation_everywhere(&self, generation: u32) -> bool {
        self.takes_packets() & self.team.generation_everywhere(generation)
    }

    /// Neighbours that the workers want resolved: to be emptied by the control plane. Each is asked for about once a second
    /// and worker as long as packets come for it.
    pub fn resolve_requests(&self) -> &Questions {
        self.team.resolve_requests()
    }

    /// Visits those connections of all workers that are sought until `visit` breaks; see [`Team::list_flows`].
    ///
    /// # Errors
    /// `WorkerStalled` when a worker does not answer.
    pub fn list_flows(
        &self,
        sought: &Sought,
        visit: &mut dyn FnMut(WorkerId, FlowView) -> ControlFlow<()>,
    ) -> Result<(), WorkerStalled> {
        self.team.list_flows(sought, visit)
    }

    /// Has things done to connections; see [`Team::order_flows`].
    ///
    /// # Errors
    /// `WorkerStalled` when a worker does not answer.
    pub fn order_flows(
        &self,
        sought: &Sought,
        choose: &mut dyn FnMut(&FlowView) -> ControlFlow<(), Option<Order>>,
    ) -> Result<(), WorkerStalled> {
        self.team.order_flows(sought, choose)
    }

    /// Enters a connection; see [`Team::begin_flow`].
    ///
    /// # Errors
    /// `WorkerStalled` when a worker does not answer.
    pub fn begin_flow(
        &self,
        original: Tuple,
        zones: Zones,
        begin: &Beginning,
    ) -> Result<Outcome, WorkerStalled> {
        self.team.begin_flow(original, zones, begin)
    }

    /// Does it to a connection; see [`Team::ask_flow`].
    ///
    /// # Errors
    /// `WorkerStalled` when a worker does not answer.
    pub fn ask_flow(&self, original: Tuple, order: Order) -> Result<Outcome, WorkerStalled> {
        self.team.ask_flow(original, order)
    }

    /// Has the workers tell of connections, and take over what they are [given](Dataplane::give), from here on or no more.
    pub fn set_sharing(&self, is_on: bool) {
        self.team.set_sharing(is_on);
    }

    /// Has the workers walk through their connections and tell of all, or of those that had packets since the walk before
    /// began. A walk that is under way is broken off.
    pub fn begin_walk(&self, is_whole: bool) {
        self.team.begin_walk(is_whole, clock::now());
    }

    /// Whether the walk is over and all that was told is read.
    pub fn is_walk_over(&self) -> bool {
        self.team.is_walk_over()
    }

    /// Visits at most `most` connections of each worker that were told of: by the walk, and because their state changed.
    /// Returns how many.
    pub fn read_shared(&self, most: usize, visit: &mut dyn FnMut(SharedFlow)) -> usize {
        self.team.read_shared(most, visit)
    }

    /// Has its owner, and whom its answers come to, take over a connection that another director told of, with this real server. False: a ring
    /// is full.
    pub fn give(&self, flow: SharedFlow, server: ServerId) -> bool {
        flow.hearers(&self.owners).into_iter().all(|worker| self.team.give(worker, flow, server))
    }

    /// Cycles a second of the counters of busy and idle cycles.
    pub fn tsc_hz(&self) -> u64 {
        self.team.tsc_hz()
    }
}

/// The pools of packet buffers, each on its node where that has the memory.
fn pools(memory: &Memory, notices: &mut Vec<String>) -> Result<Vec<MbufPool>, StartError> {
    let make = |number: usize, node| {
        MbufPool::new(number, memory.buffers[number], memory.data_room, memory.layout, node)
    };
    let pool = |(number, &node): (usize, &Option<u32>)| match (make(number, node), node) {
        (Err(_), Some(node)) => {
            let pool = make(number, None)?;
            let pages = memory.dpdk.div_ceil(HUGE_PAGE);
            notices.push(format!(
                "NUMA node {node} has too little memory for its ports' packets, which are elsewhere; run: \
                 echo {pages} > /sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages"
            ));
            Ok(pool)
        }
        (outcome, _) => outcome,
    };
    memory.pools.nodes.iter().enumerate().map(pool).collect()
}

fn placement(config: &Config) -> Vec<String> {
    let cpus: Vec<_> = config.workers.iter().map(|&number| Cpu::found(number)).collect();
    let node = |port: &PortConfig| preflight::node(&port.device);
    let ports: Vec<_> = config.ports.iter().map(|port| (port.name.as_str(), node(port))).collect();
    // This thread has what the control plane's will have.
    CpuSet::usable().map(|rest| placement::remarks(&cpus, &ports, &rest)).unwrap_or_default()
}

/// DPDK's drivers of ports that are linked in: `net_ixgbe`. Release builds have those of network cards, of the ones that the installed DPDK has.
pub fn drivers() -> impl Iterator<Item = &'static str> {
    dpdk_sys::LINKED.split_whitespace().filter(|name| name.starts_with("net_"))
}

/// What each worker's path is made with, its memory taken; and what the file of the process before holds.
fn paths(
    config: &Config,
    memory: &Memory,
    keep: &mut Option<Keep>,
    notices: &mut Vec<String>,
) -> Result<(Vec<PathConfig>, Legacy), StartError> {
    let workers = config.workers.len();
    let counters: Arc<[Arc<WorkerCounters>]> =
        (0..workers).map(|_| Arc::new(WorkerCounters::new(config.max_servers, config.ports.len()))).collect();
    for (mine, &cpu) in counters.iter().zip(&config.workers) {
        mine.turns.cpu.set(cpu.into());
    }
    let (regions, legacy) = regions(config, memory.tables, keep, notices)?;
    // Who goes on with connections owns them as before: a FullNAT connection's local port is its worker's.
    let random = || RandomState::new().hash_one(std::process::id());
    let hash_seed = config.hash_seed.or_else(|| legacy.hash_seed()).unwrap_or_else(random);
    let uses = Arc::new(Uses::new(workers, memory.connections));
    let path = |(worker, memory_of_it)| PathConfig {
        worker: WorkerId(worker as u16),
        counters: counters.clone(),
        max_connections: memory.connections,
        max_ipv6_connections: memory.ipv6_connections,
        uses: uses.clone(),
        memory: memory_of_it,
        hash_seed,
        rss: None,
        now: clock::now(),
    };
    Ok((regions.into_iter().enumerate().map(path).collect(), legacy))
}

/// Memory of `bytes` for each worker, near its CPU: of the file, or anonymous where there is to be none or (at a place of our own choice)
/// can be none.
fn regions(
    config: &Config,
    bytes: usize,
    keep: &mut Option<Keep>,
    notices: &mut Vec<String>,
) -> Result<(Vec<Region>, Legacy), StartError> {
    let mut legacy = Legacy::default();
    if let Some(file) = keep {
        let made = file.create(&config.workers, bytes);
        notices.append(&mut file.notices);
        match made {
            Ok(made) => return Ok(made),
            Err(error) if matches!(config.flow_memory, FlowMemory::File(_)) => return Err(error),
            Err(error) => notices.push(format!(
                "flow memory {}: {error}; no connection is carried over to the next start",
                file.path().display()
            )),
        }
        legacy = file.take_legacy();
        notices.append(&mut file.notices);
        file.forgo();
    }
    let take = || memory::take_region(bytes, config.huge_pages);
    let regions = config.workers.iter().map(|&cpu| cpu::at(cpu, take));
    Ok((regions.collect::<Result<_, _>>()?, legacy))
}

fn start_eal(config: &Config, memory: &Memory) -> Result<Eal, StartError> {
    let pci = config.ports.iter().map(|port| port.device.as_str());
    Eal::start(&EalConfig {
        huge_pages: config.huge_pages,
        memory_mb: memory.dpdk_mb(),
        pci: pci.filter(|device| preflight::pci_address(device).is_some()).collect(),
        arguments: &config.driver_args,
        workers: &config.workers,
    })
}

/// DPDK's number of each port.
fn probe(eal: &mut Eal, ports: &[PortConfig]) -> Result<Vec<u16>, StartError> {
    ports
        .iter()
        .map(|port| {
            let number = match preflight::pci_address(&port.device) {
                Some(address) => eal.port_of(&address),
                None => eal.probe(&port.device),
            };
            number.map_err(|reason| StartError::Port {
                port: port.name.clone(),
                device: port.device.clone(),
                problem: PortProblem::Probe(reason),
            })
        })
        .collect()
}

type Twins = (Vec<Option<Pump>>, Vec<Option<TwinEnd<Mbuf>>>);

fn start_twins(
    ports: &[PortConfig],
    infos: &[PortInfo],
    pool: &MbufPool,
    mark: Option<&str>,
) -> Result<Twins, StartError> {
    let (mut pumps, mut ends) = (Vec::new(), Vec::new());
    for (port, info) in ports.iter().zip(infos) {
        if !port.twin {
            pumps.push(None);
            ends.push(None);
            continue;
        }
        // An Ethernet header and two VLAN tags.
        let longest = usize::from(port.mtu) + 14 + 8;
        let (pump, end) = tap::open(&port.name, info.mac, port.mtu, mark)
            .and_then(|file| Pump::start(&port.name, file, pool.clone(), longest))
            .map_err(|error| StartError::Port {
                port: port.name.clone(),
                device: port.device.clone(),
                problem: PortProblem::Twin { name: port.name.clone(), error },
            })?;
        pumps.push(Some(pump));
        ends.push(Some(end));
    }
    Ok((pumps, ends))
}

/// The ports as `worker` of `workers` sees them. Queues are dealt out in turns that start at another worker for each
/// port, so that ports with a single queue do not all fall to the first one; the first one serves the twins.
fn seats(
    worker: usize,
    workers: usize,
    ports: &[Port],
    twins: &mut [Option<TwinEnd<Mbuf>>],
) -> Vec<Seat<Dpdk>> {
    let seat = |(index, port): (usize, &Port)| {
        let queue = match place(worker, workers, index, usize::from(port.info.queues)) {
            Place::Queue(queue) => Queue::Own(port.queue(queue)),
            Place::Worker(other) => Queue::Of(other),
        };
        let twin = match (twins[index].take(), worker) {
            (Some(end), 0) => Twin::Own(end),
            (None, 0) => Twin::None,
            _ => Twin::Of(WorkerId(0)),
        };
        Seat { queue, twin }
    };
    ports.iter().enumerate().map(seat).collect()
}

/// Where a worker sends what goes out by a port.
#[derive(PartialEq, Eq, Debug)]
pub enum Place {
    Queue(u16),
    Worker(WorkerId),
}

/// How the `queues` queues of a port are dealt out to the workers: see [`Place`].
pub fn place(worker: usize, workers: usize, port: usize, queues: usize) -> Place {
    let turn = (worker + workers - port % workers) % workers;
    if turn < queues {
        Place::Queue(turn as u16)
    } else {
        Place::Worker(WorkerId(((port + turn % queues) % workers) as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handle_may_be_shared_between_threads() {
        fn is_shared<T: Send + Sync>() {}
        is_shared::<Dataplane>();
    }

    #[test]
    fn drivers_that_are_said_to_be_linked_are() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let has = |text: String| program.windows(text.len()).any(|window| window == text.as_bytes());
        let drivers: Vec<_> = drivers().collect();
        let cards = ["i40e", "ice", "ixgbe", "mlx5", "virtio", "vmxnet3", "ena", "gve"];
        for name in ["af_packet", "af_xdp", "null", "ring", "tap"].into_iter().chain(cards) {
            // What a driver's constructor gives to its bus.
            let registers = [
                format!("pmd_{name}_drv"),
                format!("rte_{name}_pmd"),
                format!("rte_{name}_net_pci_pmd"),
                format!("{name}_net_driver"),
            ];
            let is_said = drivers.contains(&format!("net_{name}").as_str());
            assert_eq!(registers.into_iter().any(has), is_said, "{name}");
        }
        for name in ["net_af_packet", "net_af_xdp", "net_null", "net_ring", "net_tap", "net_virtio"] {
            assert!(drivers.contains(&name), "{name} is in every build: {drivers:?}");
        }
    }

    #[test]
    fn every_queue_has_one_worker_and_every_worker_a_way_to_each_port() {
        for workers in 1..6usize {
            for port in 0..7 {
                for queues in 1..=workers {
                    let mut owners = vec![None; queues];
                    for worker in 0..workers {
                        if let Place::Queue(queue) = place(worker, workers, port, queues) {
                            assert_eq!(owners[usize::from(queue)].replace(worker), None);
                        }
                    }
                    assert!(owners.iter().all(Option::is_some));
                    for worker in 0..workers {
                        if let Place::Worker(other) = place(worker, workers, port, queues) {
                            assert!(owners.contains(&Some(other.index())), "worker {other:?} has a queue");
                        }
                    }
                }
            }
        }
    }
}
