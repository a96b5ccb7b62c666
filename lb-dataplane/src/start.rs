//! The start of a data plane: in this order the tables' memory, DPDK, its ports, their Linux twins, the
//! workers. What fails leaves nothing behind: what was made before it ends as its owner is dropped.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lb_core::counters::WorkerCounters;
use lb_core::flow::Hasher;
use lb_core::flow::template::Uses;
use lb_core::ids::{PortId, WorkerId};
use lb_core::mem::Region;
use lb_core::path::{Owners, PathConfig};
use lb_core::rss::{Lack, Rss, Spread};

use crate::claim::Claims;
use crate::config::{Config, FlowMemory, Idle, PortConfig};
use crate::cpu::{self, CpuSet};
use crate::dpdk::Dpdk;
use crate::dpdk::eal::{Eal, EalConfig};
use crate::dpdk::mbuf::{self, Mbuf, MbufPool};
use crate::dpdk::port::{self, Port, PortInfo, Setup};
use crate::dpdk::steering::plan;
use crate::error::{PortProblem, StartError};
use crate::heir::{Executor, Share};
use crate::keep::{Keep, Legacy};
use crate::memory::HUGE_PAGE;
use crate::placement::Cpu;
use crate::predecessor::Predecessors;
use crate::preflight::Memory;
use crate::team::{Member, Team};
use crate::twin::{Pump, TwinEnd};
use crate::worker::{Logic, Queue, Seat, Twin};
use crate::{Dataplane, clock, memory, placement, predecessor, preflight, tap};

impl Dataplane {
    /// See [`Dataplane::start_with`]; `logic` gets the worker's part in taking over, too.
    pub(crate) fn begin<L: Logic<Mbuf>>(
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
        let (ports, rss) = start_ports(&mut eal, &numbers, &config, (&memory, &pools), paths[0].hash_seed)?;
        notices.extend(remarks(&config, &ports));
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
        let member = |(worker, path): (usize, PathConfig)| {
            let (logic, share) = (logic.clone(), share.clone());
            Member {
                cpu: Some(config.workers[worker]),
                seats: seats(worker, config.workers.len(), &ports, &mut twins),
                pool: pool_of(worker).clone(),
                logic: move || logic(path, share),
            }
        };
        let members = paths.into_iter().enumerate().map(member).collect();
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

/// Memory of `bytes` for each worker, near its CPU: of the file, or anonymous where there is to be none or
/// (at a place of our own choice) can be none.
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

/// Starts the ports with DPDK's `numbers`. And by what they bring packets to their owners, where any does.
fn start_ports(
    eal: &mut Eal,
    numbers: &[u16],
    config: &Config,
    (memory, pools): (&Memory, &[MbufPool]),
    hash_seed: u64,
) -> Result<(Vec<Port>, Option<Arc<Rss>>), StartError> {
    let workers = config.workers.len() as u16;
    let can = numbers.iter().zip(&config.ports).map(|(&number, port)| (port::can(number), port.outside));
    let plan = plan(&can.collect::<Vec<_>>(), workers);
    let rss = plan.means().map(|means| Arc::new(Rss::new(hash_seed, means, plan.bits, workers)));
    let mut ports = Vec::new();
    for (index, (port, &number)) in config.ports.iter().zip(numbers).enumerate() {
        let setup = Setup {
            workers,
            spread: plan.spreads[index],
            rss: rss.as_deref(),
            interrupts: config.idle == Idle::Interrupt,
            pool: &pools[memory.pools.of_port[index]],
            node: preflight::node(&port.device),
            has_all: memory.pools.is_one(),
        };
        ports.push(Port::start(eal, number, PortId(index as u16), port, &setup)?);
    }
    // Where no device did what it was asked to, there is nothing to go by.
    let does = |port: &Port| matches!(port.info.spread, Spread::OneEnd(..));
    let rss = rss.filter(|_| ports.iter().any(does));
    Ok((ports, rss))
}

/// What the operator should know of the ports, a line each.
fn remarks(config: &Config, ports: &[Port]) -> Vec<String> {
    let wants_interrupts = config.idle == Idle::Interrupt;
    let without = ports.iter().filter(|port| wants_interrupts && !port.has_interrupts).map(|port| {
        format!(
            "port {}: {} has no receive interrupts; workers that receive by it sleep for moments, as with idle = \"sleep\"",
            port.info.name, port.info.driver
        )
    });
    let is_disobedient = |port: &&Port| port.info.spread == Spread::BothEnds(Lack::Obedience);
    let disobedient = ports.iter().filter(is_disobedient).map(|port| {
        format!(
            "port {}: {} did not take the key and the table by which packets would come to their workers; they are handed over",
            port.info.name, port.info.driver
        )
    });
    let read_twice = config.ports.iter().filter_map(|port| {
        let interface = preflight::read_twice(&port.device)?;
        Some(format!(
            "port {}: Linux takes what comes to {interface} as well, and refuses connections to the twin's addresses unless it is dropped: \
             nft 'add table netdev lb; add chain netdev lb {interface} {{ type filter hook ingress device {interface} priority 0; policy drop; }}'",
            port.name
        ))
    });
    without.chain(disobedient).chain(read_twice).collect()
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

/// The ports as `worker` of `workers` sees them. Queues are dealt out in turns that start at another worker
/// for each port, so that ports with a single queue do not all fall to the first one; the first one serves
/// the twins.
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

/// Where the workers run, and what would be faster.
fn placement(config: &Config) -> Vec<String> {
    let cpus: Vec<_> = config.workers.iter().map(|&number| Cpu::found(number)).collect();
    let node = |port: &PortConfig| preflight::node(&port.device);
    let ports: Vec<_> = config.ports.iter().map(|port| (port.name.as_str(), node(port))).collect();
    // This thread has what the control plane's will have.
    CpuSet::usable().map(|rest| placement::remarks(&cpus, &ports, &rest)).unwrap_or_default()
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
