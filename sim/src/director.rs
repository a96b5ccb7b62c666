//! The director under test: real workers, turned one by one, on ports and twins in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use lb_core::counters::WorkerCounters;
use lb_core::flow::memory_needed;
use lb_core::ids::{PortId, WorkerId};
use lb_core::mem::Region;
use lb_core::packet::Frame;
use lb_core::path::{FlowView, Path, PathConfig};
use lb_core::tables::Tables;
use lb_core::time::Tick;
use lb_dataplane::{
    Backend, Host, Logic, Member, MemoryPort, Place, Pool, Questions, Queue, Seat, Stepped, Twin, Wire,
    memory_port, memory_twin, place,
};

use crate::reference::Team;
use crate::shape::Shape;
use crate::watched::{Verdict, Watched};

/// What a worker runs here.
pub trait Subject: Logic<Frame> + 'static {
    /// Who watches the workers of one director.
    type Judge;
    fn judge(counters: &[Arc<WorkerCounters>]) -> Self::Judge;
    fn new(config: PathConfig, judge: &Self::Judge) -> Self;
    /// Tells of tables that were compiled, in their order, before any worker adopts them.
    fn tell(judge: &Self::Judge, tables: &Tables);
    /// What a worker did that it must not do.
    fn mismatch(judge: &Self::Judge) -> Option<String>;
}

/// Nobody watches.
impl Subject for Path<Frame> {
    type Judge = ();
    fn judge(_: &[Arc<WorkerCounters>]) {}
    fn new(config: PathConfig, (): &()) -> Path<Frame> {
        Path::new(config)
    }
    fn tell((): &(), _: &Tables) {}
    fn mismatch((): &()) -> Option<String> {
        None
    }
}

impl Subject for Watched {
    type Judge = (Arc<Team>, Verdict);
    fn judge(counters: &[Arc<WorkerCounters>]) -> Self::Judge {
        (Arc::new(Team::new(counters)), Verdict::default())
    }
    fn new(config: PathConfig, (team, verdict): &Self::Judge) -> Watched {
        Watched::new(config, team, verdict)
    }
    fn tell((team, _): &Self::Judge, tables: &Tables) {
        team.tell(tables);
    }
    fn mismatch((_, verdict): &Self::Judge) -> Option<String> {
        verdict.mismatch().map(|mismatch| mismatch.to_string())
    }
}

/// Ports in memory, and packet buffers that may run out.
pub struct Simulated;

impl Backend for Simulated {
    type Packet = Frame;
    type Device = MemoryPort;
    type Pool = Buffers;

    fn enter_thread() -> Result<(), String> {
        Ok(())
    }

    fn leave_thread() {}
}

/// Packet buffers of all workers.
#[derive(Clone, Default)]
pub struct Buffers(Arc<BuffersState>);

#[derive(Default)]
struct BuffersState {
    is_dry: AtomicBool,
    given: AtomicU64,
}

impl Pool<Frame> for Buffers {
    fn allocate(&mut self) -> Option<Frame> {
        if self.0.is_dry.load(Relaxed) {
            return None;
        }
        self.0.given.fetch_add(1, Relaxed);
        Some(Frame::new(PortId::default(), &[]))
    }
}

/// A director from its start to its end.
pub struct Director<L: Subject> {
    team: Stepped<Simulated, L>,
    pub counters: Arc<[Arc<WorkerCounters>]>,
    /// By port and queue.
    pub wires: Vec<Vec<Wire>>,
    /// By port.
    pub hosts: Vec<Host<Frame>>,
    buffers: Buffers,
    judge: L::Judge,
}

impl<L: Subject> Director<L> {
    pub fn start(shape: &Shape, hash_seed: u64, now: Tick) -> Director<L> {
        let workers = usize::from(shape.workers);
        let counters: Arc<[_]> = (0..workers)
            .map(|_| Arc::new(WorkerCounters::new(shape.server_ids, shape.ports.len())))
            .collect();
        let (mut wires, mut devices) = (Vec::new(), Vec::new());
        for port in &shape.ports {
            let ends = (0..port.queues).map(|_| memory_port(port.capacity));
            let (device, wire): (Vec<_>, Vec<_>) = ends.unzip();
            devices.push(device.into_iter().map(Some).collect::<Vec<_>>());
            wires.push(wire);
        }
        let twins = shape.ports.iter().map(|_| memory_twin(shape.twin_ring));
        let (twins, hosts): (Vec<_>, Vec<_>) = twins.unzip();
        let mut twins: Vec<_> = twins.into_iter().map(Some).collect();
        let buffers = Buffers::default();
        let judge = L::judge(&counters);
        let mut members = Vec::new();
        for worker in 0..workers {
            let seats = (0..shape.ports.len()).map(|port| {
                let queue = match place(worker, workers, port, devices[port].len()) {
                    Place::Queue(queue) => {
                        Queue::Own(devices[port][usize::from(queue)].take().expect("dealt once"))
                    }
                    Place::Worker(other) => Queue::Of(other),
                };
                // As in `Dataplane`: the first worker serves the twins.
                let twin = twins[port].take().map_or(Twin::Of(WorkerId(0)), Twin::Own);
                Seat { queue, twin }
            });
            let config = PathConfig {
                worker: WorkerId(worker as u16),
                counters: counters.clone(),
                max_connections: shape.connections,
                max_ipv6_connections: shape.ipv6_connections,
                memory: Region::heap(memory_needed(shape.connections, shape.ipv6_connections)),
                hash_seed,
                now,
            };
            let judge = &judge;
            members.push(Member {
                cpu: None,
                seats: seats.collect(),
                pool: buffers.clone(),
                logic: move || L::new(config, judge),
            });
        }
        let team = Stepped::new(members, counters.clone(), shape.ring);
        Director { team, counters, wires, hosts, buffers, judge }
    }

    pub fn turn(&mut self, worker: usize, now: Tick) {
        self.team.turn(WorkerId(worker as u16), now);
    }

    /// Tells of tables that were compiled, whether or not they will be published.
    pub fn tell(&self, tables: &Tables) {
        L::tell(&self.judge, tables);
    }

    /// What a worker did that the reference does not.
    pub fn mismatch(&self) -> Option<String> {
        L::mismatch(&self.judge)
    }

    pub fn publish_to(&self, worker: usize, tables: Arc<Tables>) {
        self.team.publish_to(WorkerId(worker as u16), tables);
    }

    pub fn generation_everywhere(&self, generation: u32) -> bool {
        self.team.generation_everywhere(generation)
    }

    /// Of the tables that a worker uses.
    pub fn generation(&self, worker: usize) -> u32 {
        self.counters[worker].turns.generation.get() as u32
    }

    pub fn questions(&self) -> &Questions {
        self.team.resolve_requests()
    }

    /// All connections of a worker.
    pub fn list(&self, worker: usize, now: Tick, visit: &mut dyn FnMut(FlowView)) {
        self.team.logic(WorkerId(worker as u16)).list(0, u32::MAX, now, visit);
    }

    pub fn logic(&self, worker: usize) -> &L {
        self.team.logic(WorkerId(worker as u16))
    }

    pub fn set_dry(&self, is_dry: bool) {
        self.buffers.0.is_dry.store(is_dry, Relaxed);
    }

    /// Packet buffers given so far.
    pub fn buffers_given(&self) -> u64 {
        self.buffers.0.given.load(Relaxed)
    }

    pub fn workers(&self) -> usize {
        self.counters.len()
    }
}
