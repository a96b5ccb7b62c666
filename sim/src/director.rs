//! The director under test: real workers, turned one by one, on ports and twins in memory.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use arrayvec::ArrayVec;
use lb_control::relief::relieve;
use lb_core::counters::WorkerCounters;
use lb_core::flow::Tuple;
use lb_core::flow::carry::{Salvage, Salvaged};
use lb_core::flow::memory_needed;
use lb_core::flow::template::Uses;
use lb_core::ids::{PortId, WorkerId};
use lb_core::mem::{Region, Remains};
use lb_core::packet::Frame;
use lb_core::path::{BURST, Burst, CarriedOver, FlowView, Io, Order, Outcome, Path, PathConfig, Steer};
use lb_core::tables::{InterfaceId, Tables};
use lb_core::time::Tick;
use lb_dataplane::{
    Backend, Host, Logic, Member, MemoryPort, Place, Pool, Questions, Queue, Seat, Stepped, Twin, Wire,
    memory_port, memory_twin, place,
};

use crate::draw::Draw;
use crate::reference::{Left, Team};
use crate::shape::Shape;
use crate::watched::{Verdict, Watched};

/// What a worker runs here.
pub trait Subject: Logic<Frame> + 'static {
    /// Who watches the workers of one director.
    type Judge;
    /// What the next director must find of a connection.
    type Left: for<'a> From<&'a Salvaged> + PartialEq;
    fn judge(counters: &[Arc<WorkerCounters>]) -> Self::Judge;
    fn new(config: PathConfig, judge: &Self::Judge) -> Self;
    /// Tells of tables that were compiled, in their order, before any worker adopts them.
    fn tell(judge: &Self::Judge, tables: &Tables);
    /// All workers use these tables: the control plane relieves their real servers.
    fn relieve(judge: &Self::Judge, tables: &Tables);
    /// What a worker did that it must not do.
    fn mismatch(judge: &Self::Judge) -> Option<String>;
    fn left(&self) -> Vec<Self::Left>;
    /// Takes its connections out of the memory of a dead director, in which there must be what is `left`.
    fn carry_over(&mut self, memory: &[Salvage<'_>], left: &[Vec<Self::Left>], now: Tick) -> CarriedOver;
    /// Whether index, timers and counts agree with the connections.
    ///
    /// # Errors
    /// The first thing that is wrong.
    fn check_connections(&self) -> Result<(), String>;
}

/// Of a connection whose worker nobody watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unwatched;

impl From<&Salvaged> for Unwatched {
    fn from(_: &Salvaged) -> Unwatched {
        Unwatched
    }
}

/// Nobody watches.
impl Subject for Path<Frame> {
    type Judge = ();
    type Left = Unwatched;
    fn judge(_: &[Arc<WorkerCounters>]) {}
    fn new(config: PathConfig, (): &()) -> Path<Frame> {
        Path::new(config)
    }
    fn tell((): &(), _: &Tables) {}
    fn relieve((): &(), _: &Tables) {}
    fn mismatch((): &()) -> Option<String> {
        None
    }
    fn left(&self) -> Vec<Unwatched> {
        let mut left = Vec::new();
        self.list(0, u32::MAX, Tick(0), &mut |_| left.push(Unwatched));
        left
    }
    fn carry_over(&mut self, memory: &[Salvage<'_>], _: &[Vec<Unwatched>], now: Tick) -> CarriedOver {
        self.carry_over(memory, now)
    }
    fn check_connections(&self) -> Result<(), String> {
        self.check_connections()
    }
}

impl Subject for Watched {
    type Judge = (Arc<Team>, Verdict);
    type Left = Left;
    fn judge(counters: &[Arc<WorkerCounters>]) -> Self::Judge {
        (Arc::new(Team::new(counters)), Verdict::default())
    }
    fn new(config: PathConfig, (team, verdict): &Self::Judge) -> Watched {
        Watched::new(config, team, verdict)
    }
    fn tell((team, _): &Self::Judge, tables: &Tables) {
        team.tell(tables);
    }
    fn relieve((team, _): &Self::Judge, tables: &Tables) {
        team.relieve(&tables.services);
    }
    fn mismatch((_, verdict): &Self::Judge) -> Option<String> {
        verdict.mismatch().map(|mismatch| mismatch.to_string())
    }
    fn left(&self) -> Vec<Left> {
        self.left().collect()
    }
    fn carry_over(&mut self, memory: &[Salvage<'_>], left: &[Vec<Left>], now: Tick) -> CarriedOver {
        self.carry_over(memory, left, now)
    }
    fn check_connections(&self) -> Result<(), String> {
        self.check_connections()
    }
}

/// What a dead director left, until all workers of the next one have taken their part.
pub struct Estate<L: Subject> {
    /// By worker of the dead director.
    memory: Vec<Remains>,
    left: Vec<Vec<L::Left>>,
    pub damage: Damage,
    carried: CarriedOver,
}

/// What happened to the memory between the two directors.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Damage {
    /// Bytes that were changed, at most.
    pub bytes: usize,
    /// Workers' memory that nobody can read any more.
    pub refused: usize,
    /// Connections that are not read as they were left.
    pub changed: usize,
    pub unreadable: u64,
}

/// How taking over went.
pub struct Succession {
    pub left: u64,
    pub carried: CarriedOver,
    pub damage: Damage,
}

impl<L: Subject> Estate<L> {
    pub fn none() -> Estate<L> {
        let (damage, carried) = (Damage::default(), CarriedOver::default());
        Estate { memory: Vec::new(), left: Vec::new(), damage, carried }
    }

    fn carry_over(&mut self, heir: &mut L, now: Tick) {
        let memory: Vec<_> = self.memory.iter_mut().filter_map(Remains::bytes).collect();
        let memory: Vec<_> = memory.iter().filter_map(|bytes| Salvage::of(bytes).ok()).collect();
        self.carried = self.carried + heir.carry_over(&memory, &self.left, now);
    }

    /// Changes some bytes. What is left is what the memory says from then on, as nobody else can know.
    fn spoil(&mut self, draw: &mut Draw, now: Tick) {
        // It may have been spoilt before.
        (self.damage.refused, self.damage.unreadable) = (0, 0);
        for (memory, left) in self.memory.iter_mut().zip(&mut self.left) {
            let Some(bytes) = memory.bytes() else { continue };
            // The header, what comes after it, or anything.
            let reach = draw.pick(&[24, 100_000, bytes.len() as u64]).min(bytes.len() as u64);
            for _ in 0..draw.below(40) {
                bytes[draw.below(reach) as usize] = draw.number() as u8;
                self.damage.bytes += 1;
            }
            let before = std::mem::take(left);
            let Ok(salvage) = Salvage::of(bytes) else {
                self.damage.refused += 1;
                continue;
            };
            for found in salvage.connections(now) {
                match found {
                    Ok(found) => left.push(L::Left::from(&found)),
                    Err(_) => self.damage.unreadable += 1,
                }
            }
            self.damage.changed += left.iter().filter(|left| !before.contains(left)).count();
            self.damage.changed += before.len().saturating_sub(left.len());
        }
    }
}

/// What the workers of a director have in common until each has its connections.
struct Gate<L: Subject> {
    estate: Mutex<Estate<L>>,
    /// Workers that have not taken their part.
    outstanding: AtomicUsize,
    /// All have, and it was looked at how that went.
    is_open: AtomicBool,
    now: Mutex<Tick>,
}

impl<L: Subject> Gate<L> {
    fn estate(&self) -> MutexGuard<'_, Estate<L>> {
        self.estate.lock().expect("nobody panics with it")
    }

    fn now(&self) -> MutexGuard<'_, Tick> {
        self.now.lock().expect("nobody panics with it")
    }
}

/// A worker's logic that begins with what the director before left. As in `Dataplane`, no worker takes packets before all
/// have tables and their connections; and none before these were looked at.
pub struct Heir<L: Subject> {
    logic: L,
    is_due: bool,
    gate: Arc<Gate<L>>,
    /// Tags of the packets that it looked up, in their order, until somebody takes them.
    looked_up: Mutex<Vec<u64>>,
}

/// Watches which packets of a burst the worker hands over, as it does not look them up.
struct Steered<'a, I> {
    io: &'a mut I,
    looked_up: &'a mut Vec<u64>,
    /// Where the burst begins there.
    from: usize,
}

impl<I: Io<Frame>> Io<Frame> for Steered<'_, I> {
    fn transmit(&mut self, port: PortId, packet: Frame) {
        self.io.transmit(port, packet);
    }
    fn to_twin(&mut self, port: PortId, packet: Frame) {
        self.io.to_twin(port, packet);
    }
    fn hand_over(&mut self, to: WorkerId, packet: Frame, steer: Steer) {
        let here = self.looked_up[self.from..].iter().position(|&tag| tag == packet.tag());
        // What asks for a template was looked up first: it may have ended a connection.
        if let Some(place) = here.filter(|_| !matches!(steer, Steer::Ask(..))) {
            self.looked_up.remove(self.from + place);
        }
        self.io.hand_over(to, packet, steer);
    }
    fn allocate(&mut self) -> Option<Frame> {
        self.io.allocate()
    }
    fn resolve(&mut self, interface: InterfaceId, address: IpAddr) {
        self.io.resolve(interface, address);
    }
}

impl<L: Subject> Logic<Frame> for Heir<L> {
    fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        let old = self.logic.adopt(tables);
        if std::mem::take(&mut self.is_due) {
            let now = *self.gate.now();
            self.gate.estate().carry_over(&mut self.logic, now);
            self.gate.outstanding.fetch_sub(1, Relaxed);
        }
        old
    }
    fn is_ready(&self) -> bool {
        self.gate.is_open.load(Relaxed)
    }
    fn receive(&mut self, burst: &mut Burst<Frame>, now: Tick, io: &mut impl Io<Frame>) {
        let looked_up = self.looked_up.get_mut().expect("nobody panics with it");
        let from = looked_up.len();
        looked_up.extend(burst.iter().map(Frame::tag));
        self.logic.receive(burst, now, &mut Steered { io, looked_up, from });
    }
    fn receive_handed_over(
        &mut self,
        burst: &mut ArrayVec<(Frame, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<Frame>,
    ) {
        let looked_up = self.looked_up.get_mut().expect("nobody panics with it");
        let from = looked_up.len();
        looked_up.extend(burst.iter().map(|(frame, _)| frame.tag()));
        self.logic.receive_handed_over(burst, now, &mut Steered { io, looked_up, from });
    }
    fn receive_plain(&mut self, burst: &mut Burst<Frame>, now: Tick, io: &mut impl Io<Frame>) {
        let looked_up = self.looked_up.get_mut().expect("nobody panics with it");
        let from = looked_up.len();
        looked_up.extend(burst.iter().map(Frame::tag));
        self.logic.receive_plain(burst, now, &mut Steered { io, looked_up, from });
    }
    fn receive_from_twin(
        &mut self,
        port: PortId,
        burst: &mut Burst<Frame>,
        now: Tick,
        io: &mut impl Io<Frame>,
    ) {
        self.logic.receive_from_twin(port, burst, now, io);
    }
    fn turn(&mut self, now: Tick, io: &mut impl Io<Frame>) {
        self.logic.turn(now, io);
    }
    fn list(&self, cursor: u32, budget: u32, now: Tick, visit: &mut dyn FnMut(FlowView)) -> Option<u32> {
        self.logic.list(cursor, budget, now, visit)
    }
    fn order(&mut self, original: &Tuple, order: &Order, now: Tick) -> Outcome {
        self.logic.order(original, order, now)
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
    team: Stepped<Simulated, Heir<L>>,
    gate: Arc<Gate<L>>,
    /// Somebody asks how taking over went.
    is_asked: bool,
    /// By worker: what outlives it.
    remains: Vec<Remains>,
    pub counters: Arc<[Arc<WorkerCounters>]>,
    /// By port and queue.
    pub wires: Vec<Vec<Wire>>,
    /// By port.
    pub hosts: Vec<Host<Frame>>,
    buffers: Buffers,
    judge: L::Judge,
}

impl<L: Subject> Director<L> {
    /// The next director after the one that left `estate`.
    pub fn start(shape: &Shape, hash_seed: u64, now: Tick, estate: Estate<L>) -> Director<L> {
        let workers = usize::from(shape.workers);
        let gate = Arc::new(Gate {
            estate: Mutex::new(estate),
            outstanding: AtomicUsize::new(workers),
            is_open: AtomicBool::new(false),
            now: Mutex::new(now),
        });
        let mut remains = Vec::new();
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
        let uses = Arc::new(Uses::new(workers, shape.connections));
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
            let memory = memory_needed(shape.connections, shape.ipv6_connections);
            let (memory, outliving) = Region::heap_with_remains(memory);
            remains.push(outliving);
            let config = PathConfig {
                worker: WorkerId(worker as u16),
                counters: counters.clone(),
                max_connections: shape.connections,
                max_ipv6_connections: shape.ipv6_connections,
                uses: uses.clone(),
                memory,
                hash_seed,
                rss: None,
                now,
            };
            let (judge, gate) = (&judge, gate.clone());
            members.push(Member {
                cpu: None,
                seats: seats.collect(),
                pool: buffers.clone(),
                logic: move || Heir {
                    logic: L::new(config, judge),
                    is_due: true,
                    gate,
                    looked_up: Mutex::default(),
                },
            });
        }
        let team = Stepped::new(members, counters.clone(), shape.ring);
        Director { team, gate, is_asked: true, remains, counters, wires, hosts, buffers, judge }
    }

    /// What it leaves. The memory can be read when the director is gone.
    pub fn leave(&mut self) -> Estate<L> {
        if self.gate.outstanding.load(Relaxed) > 0 {
            // As in `Dataplane`: until all workers have their connections, what the director before left stays what is found.
            let estate = std::mem::replace(&mut *self.gate.estate(), Estate::none());
            return Estate { carried: CarriedOver::default(), ..estate };
        }
        let left = (0..self.workers()).map(|worker| self.logic(worker).left()).collect();
        Estate { memory: std::mem::take(&mut self.remains), left, ..Estate::none() }
    }

    /// Spoils what the director before left, which is gone.
    pub fn spoil(&mut self, draw: &mut Draw, now: Tick) {
        self.gate.estate().spoil(draw, now);
    }

    /// How taking over went, once, when all workers have their connections.
    pub fn succession(&mut self) -> Option<Succession> {
        let is_done = self.gate.outstanding.load(Relaxed) == 0;
        if !is_done || !std::mem::take(&mut self.is_asked) {
            return None;
        }
        self.gate.is_open.store(true, Relaxed);
        let Estate { left, carried, damage, .. } =
            std::mem::replace(&mut *self.gate.estate(), Estate::none());
        Some(Succession { left: left.iter().map(|left| left.len() as u64).sum(), carried, damage })
    }

    pub fn turn(&mut self, worker: usize, now: Tick) {
        *self.gate.now() = now;
        self.team.turn(WorkerId(worker as u16), now);
    }

    /// Tells of tables that were compiled, whether or not they will be published.
    pub fn tell(&self, tables: &Tables) {
        L::tell(&self.judge, tables);
    }

    /// As the control plane does when all workers use these tables.
    pub fn relieve(&self, tables: &Tables) {
        relieve(&tables.services, &self.counters, |_| {});
        L::relieve(&self.judge, tables);
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
        self.logic(worker).list(0, u32::MAX, now, visit);
    }

    pub fn logic(&self, worker: usize) -> &L {
        &self.team.logic(WorkerId(worker as u16)).logic
    }

    /// Moves the tags of the packets that a worker looked up since this was asked last to `tags`, in their order.
    pub fn take_looked_up(&self, worker: usize, tags: &mut Vec<u64>) {
        let mut looked_up =
            self.team.logic(WorkerId(worker as u16)).looked_up.lock().expect("nobody panics with it");
        tags.append(&mut looked_up);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Faults;
    use crate::world::World;

    #[test]
    fn a_director_killed_before_it_has_taken_over_leaves_what_it_found() {
        let mut draw = Draw::new(1);
        let shape = Shape { change_every: 0, faults: Faults::default(), ..Shape::draw(&mut draw) };
        let mut world = World::<Path<Frame>>::of(shape, draw);
        (0..300).for_each(|_| world.step().unwrap());
        let estate = world.director.leave();
        let left: usize = estate.left.iter().map(Vec::len).sum();
        assert!(left > 0);
        let mut next = Director::start(&world.shape, 2, world.tick(), estate);
        let again = next.leave();
        assert_eq!(again.left.iter().map(Vec::len).sum::<usize>(), left);
        assert_eq!(again.memory.len(), world.director.workers());
    }
}
