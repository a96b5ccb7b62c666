//! The data plane: poll-mode workers on DPDK ports, and the handle by which the control plane drives them.
//!
//! [`start`] makes it, piece by piece. [`idle`] is the loop in which each worker spends its life, [`worker`]
//! a turn of it; what packets go through is [`lb_core::path`].

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
mod start;
mod stepped;
mod tap;
mod team;
mod twin;
mod worker;
mod xdp;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use lb_core::conntrack::Zones;
use lb_core::counters::WorkerCounters;
use lb_core::flow::Tuple;
use lb_core::ids::{PortId, ServerId, WorkerId};
use lb_core::path::{Beginning, FlowView, Order, Outcome, Owners, Path, PathConfig, SharedFlow, Sought};
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
pub use start::{Place, place};
pub use stepped::Stepped;
pub use team::{Member, Team, WorkerStalled};
pub use twin::{Host, TwinTroubles, memory_twin};
pub use worker::{Logic, Queue, Seat, Twin};

use claim::Claims;
use dpdk::eal::Eal;
use dpdk::mbuf::MbufPool;
use dpdk::port::Port;
use heir::Executor;
use twin::Pump;

/// Says whether a configuration could be started on this machine, as far as that depends on nothing but the
/// machine's CPUs and NUMA nodes: nothing is opened or claimed, nothing needs a privilege, and neither
/// devices nor huge pages are looked at.
///
/// # Errors
/// What [`Dataplane::start`] would say; a CPU that this process may not use, and the machine has, is none.
pub fn check(config: &Config) -> Result<(), StartError> {
    preflight::check_alone(config)
}

/// The running data plane. Dropping it is stopping it.
// The order of the fields is the order in which they end: who holds packets first, the memory of packets
// last.
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
    /// Starts all. The workers wait for the first tables; then they take over what [`Config::flow_memory`]
    /// holds of a process before this one, and then the first packets. Works once a process.
    ///
    /// # Errors
    /// One line; nothing is left behind that was not there before.
    pub fn start(config: Config) -> Result<Dataplane, StartError> {
        Dataplane::begin(config, |config, share| share.take(Path::<Mbuf>::new(config)))
    }

    /// As [`Dataplane::start`], with another logic than [`Path`]: for measurements and tests of what is
    /// around it. `logic` is called once on each worker's thread.
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

    /// What the operator should know of the start, a line each.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Where the workers run, and what would be faster, a line each.
    pub fn placement(&self) -> &[String] {
        &self.placement
    }

    /// The names of the [flow memory](FlowMemory::Named) of those that served before with another, whose
    /// twins and connections were taken over, or removed.
    pub fn predecessors(&self) -> &[String] {
        &self.predecessors
    }

    /// How taking over the connections of the process before ended: once, when it has.
    pub fn take_succession(&self) -> Option<Succession> {
        self.executor.as_ref()?.take_outcome()
    }

    /// Ends the workers, then stops and closes the ports: no XDP program stays. Flow memory and twins stay
    /// for the next start, unless they are [`FlowMemory::Forgotten`].
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

    /// Gives the twins the links of their ports: to be asked now and then. One whose interface has another
    /// name by now stays as it is.
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

    /// Leaves `tables` for all workers, and frees the snapshots that they gave back. Never waits for a
    /// worker.
    pub fn publish(&self, tables: Arc<Tables>) {
        self.team.publish(tables);
    }

    /// Whether the workers take packets: all have carried over their share of what the process before left.
    pub fn takes_packets(&self) -> bool {
        self.executor.as_ref().is_none_or(Executor::is_done)
    }

    /// Whether all workers use the tables of this generation, and take packets. Frees those that they gave
    /// back, and sends those that they left no room for: to be asked now and then.
    pub fn generation_everywhere(&self, generation: u32) -> bool {
        self.takes_packets() & self.team.generation_everywhere(generation)
    }

    /// Neighbours that the workers want resolved: to be emptied by the control plane. Each is asked for about
    /// once a second and worker as long as packets come for it.
    pub fn resolve_requests(&self) -> &Questions {
        self.team.resolve_requests()
    }

    /// Visits those connections of all workers that are sought until `visit` breaks; see
    /// [`Team::list_flows`].
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

    /// Has the workers tell of connections, and take over what they are [given](Dataplane::give), from here
    /// on or no more.
    pub fn set_sharing(&self, is_on: bool) {
        self.team.set_sharing(is_on);
    }

    /// Has the workers walk through their connections and tell of all, or of those that had packets since the
    /// walk before began. A walk that is under way is broken off.
    pub fn begin_walk(&self, is_whole: bool) {
        self.team.begin_walk(is_whole, clock::now());
    }

    /// Whether the walk is over and all that was told is read.
    pub fn is_walk_over(&self) -> bool {
        self.team.is_walk_over()
    }

    /// Visits at most `most` connections of each worker that were told of: by the walk, and because their
    /// state changed. Returns how many.
    pub fn read_shared(&self, most: usize, visit: &mut dyn FnMut(SharedFlow)) -> usize {
        self.team.read_shared(most, visit)
    }

    /// Has its owner, and whom its answers come to, take over a connection that another director told of,
    /// with this real server. False: a ring is full.
    pub fn give(&self, flow: SharedFlow, server: ServerId) -> bool {
        flow.hearers(&self.owners).into_iter().all(|worker| self.team.give(worker, flow, server))
    }

    /// Cycles a second of the counters of busy and idle cycles.
    pub fn tsc_hz(&self) -> u64 {
        self.team.tsc_hz()
    }
}

/// DPDK's drivers of ports that are linked in: `net_ixgbe`. Release builds have those of network cards, of
/// the ones that the installed DPDK has.
pub fn drivers() -> impl Iterator<Item = &'static str> {
    dpdk_sys::LINKED.split_whitespace().filter(|name| name.starts_with("net_"))
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
}
