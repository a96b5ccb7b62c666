//! The workers of one data plane: their threads, what connects them, and what the control plane asks of them.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use lb_core::conntrack::Zones;
use lb_core::counters::WorkerCounters;
use lb_core::flow::Tuple;
use lb_core::ids::{ServerId, WorkerId};
use lb_core::path::{Beginning, Deed, FlowView, Order, Outcome, SharedFlow, Sought, Walk};
use lb_core::tables::Tables;
use lb_core::time::Tick;

use crate::bell::Bell;
use crate::clock::Clock;
use crate::config::Idle;
use crate::cpu;
use crate::device::Backend;
use crate::error::StartError;
use crate::idle;
use crate::listing::{ListReader, listing};
use crate::mailbox::{Publisher, mailbox};
use crate::orders::{Chooser, orders};
use crate::resolve::{Asker, Questions, questions};
use crate::ring::{HAND_OVER_RING, RingEnds, mesh};
use crate::sharing::{ShareReader, sharing};
use crate::tap;
use crate::worker::{Equipment, Logic, Seat, Twin, Worker};

/// How long a list waits for a worker that gives nothing.
const LIST_PATIENCE: Duration = Duration::from_secs(2);

/// What one worker is started with.
pub struct Member<B: Backend, F> {
    /// `None`: wherever the kernel puts it (tests).
    pub cpu: Option<u32>,
    pub seats: Vec<Seat<B>>,
    pub pool: B::Pool,
    /// Makes the worker's logic, on the worker's thread.
    pub logic: F,
}

/// A worker did not answer in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("worker {} does not answer", .0.0)]
pub struct WorkerStalled(pub WorkerId);

/// What the control plane and its workers have in common, whoever turns the workers.
pub(crate) struct Ties {
    pub(crate) counters: Arc<[Arc<WorkerCounters>]>,
    /// By worker, as the lists below.
    pub(crate) publishers: Turns<Vec<Publisher>>,
    lists: Turns<Lists>,
    choosers: Turns<Vec<Chooser>>,
    shares: Turns<Shares>,
    pub(crate) questions: Arc<Questions>,
}

impl Ties {
    pub(crate) fn new(counters: Arc<[Arc<WorkerCounters>]>) -> Ties {
        Ties {
            counters,
            publishers: Turns::default(),
            lists: Turns::default(),
            choosers: Turns::default(),
            shares: Turns::default(),
            questions: questions(),
        }
    }

    /// What the worker `index` is made of, besides its logic. To be called for each worker, in their order.
    pub(crate) fn equip<B: Backend>(
        &mut self,
        index: usize,
        seats: Vec<Seat<B>>,
        pool: B::Pool,
        rings: RingEnds<B::Packet>,
    ) -> Equipment<B> {
        let ((publisher, inbox), (lister, reader)) = (mailbox(), listing());
        let ((sharer, share_reader), (follower, chooser)) = (sharing(), orders());
        self.publishers.get_mut().push(publisher);
        self.lists.get_mut().readers.push(reader);
        self.choosers.get_mut().push(chooser);
        self.shares.get_mut().readers.push(share_reader);
        Equipment {
            worker: WorkerId(index as u16),
            counters: self.counters[index].clone(),
            seats,
            rings,
            pool,
            asker: Asker::new(self.questions.clone()),
            inbox,
            lister,
            follower,
            sharer,
        }
    }

    /// See [`Team::generation_everywhere`].
    pub(crate) fn generation_everywhere(&self, generation: u32) -> bool {
        self.publishers.lock().iter_mut().for_each(Publisher::attend);
        self.counters.iter().all(|worker| worker.turns.generation.get() == u64::from(generation))
    }
}

/// The running workers. Dropping it ends them.
pub struct Team {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    /// By worker, of those that sleep until they are woken.
    bells: Vec<Option<Arc<Bell>>>,
    ties: Ties,
    hz: u64,
}

/// The control plane's threads take turns at these; the workers know no lock.
#[expect(clippy::disallowed_types)]
pub(crate) type Turns<T> = parking_lot::Mutex<T>;

/// Where connections come from that are shared, and go to.
#[derive(Default)]
struct Shares {
    /// Number of the last walk, and when it began.
    last: u32,
    began: Tick,
    readers: Vec<ShareReader>,
}

/// Where the lists of connections come from.
#[derive(Default)]
struct Lists {
    /// Number of the last list.
    last: u64,
    readers: Vec<ListReader>,
}

impl Team {
    /// Starts one worker for each member and waits until all run.
    ///
    /// # Errors
    /// `Worker` when a thread cannot be started or set up; those that were are ended.
    pub fn start<B, F, L>(
        members: Vec<Member<B, F>>,
        counters: Arc<[Arc<WorkerCounters>]>,
        idle: Idle,
    ) -> Result<Team, StartError>
    where
        B: Backend,
        F: FnOnce() -> L + Send + 'static,
        L: Logic<B::Packet>,
    {
        assert_eq!(members.len(), counters.len(), "one set of counters a worker");
        let clock = Clock::calibrate();
        let mut team = Team {
            threads: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            bells: bells(members.len(), idle).map_err(|error| failed(None, &error.to_string()))?,
            ties: Ties::new(counters),
            hz: clock.hz(),
        };
        let (ready, is_ready) = mpsc::channel();
        let rings = mesh(members.len(), HAND_OVER_RING);
        for (index, (member, mut rings)) in members.into_iter().zip(rings).enumerate() {
            let Member { cpu, seats, pool, logic } = member;
            rings.wake_by(&team.bells);
            let bell = team.bells[index].clone();
            for seat in &seats {
                if let (Twin::Own(end), Some(bell)) = (&seat.twin, &bell) {
                    end.wake_by(bell.clone());
                }
            }
            let equipment = team.ties.equip(index, seats, pool, rings);
            let (stop, ready) = (team.stop.clone(), ready.clone());
            let thread = std::thread::Builder::new()
                .name(format!("worker {index}"))
                .spawn(move || live(equipment, logic, clock, (idle, cpu, bell), &stop, &ready))
                .map_err(|error| failed(cpu, &error.to_string()))?;
            team.threads.push(thread);
        }
        drop(ready);
        for _ in 0..team.threads.len() {
            let (cpu, outcome) = is_ready.recv().unwrap_or((None, Err("it ended".to_owned())));
            outcome.map_err(|reason| failed(cpu, &reason))?;
        }
        Ok(team)
    }

    pub fn counters(&self) -> &Arc<[Arc<WorkerCounters>]> {
        &self.ties.counters
    }

    /// Leaves `tables` for all workers, and frees what they gave back. Never waits for a worker.
    pub fn publish(&self, tables: Arc<Tables>) {
        self.ties.publishers.lock().iter_mut().for_each(|publisher| publisher.publish(tables.clone()));
        self.bells.iter().flatten().for_each(|bell| bell.ring());
    }

    /// Whether all workers use the tables of this generation. Frees what they gave back, and sends those that they left
    /// no room for: to be asked now and then.
    pub fn generation_everywhere(&self, generation: u32) -> bool {
        self.ties.generation_everywhere(generation)
    }

    /// Neighbours to be resolved, each about once a second and worker.
    pub fn resolve_requests(&self) -> &Questions {
        &self.ties.questions
    }

    /// Visits those connections of all workers that are sought, worker by worker, until `visit` breaks. What comes and goes
    /// meanwhile may be missed, or be seen twice.
    ///
    /// # Errors
    /// `WorkerStalled` names the first worker that did not answer; the others' connections were visited.
    pub fn list_flows(
        &self,
        sought: &Sought,
        visit: &mut dyn FnMut(WorkerId, FlowView) -> ControlFlow<()>,
    ) -> Result<(), WorkerStalled> {
        let Lists { last, readers } = &mut *self.ties.lists.lock();
        let mut stalled = None;
        for (index, reader) in readers.iter_mut().enumerate() {
            let worker = WorkerId(index as u16);
            *last += 1;
            match reader.read(*last, sought, LIST_PATIENCE, &mut |view| visit(worker, view)) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(()),
                Err(_) => stalled = stalled.or(Some(WorkerStalled(worker))),
            }
        }
        stalled.map_or(Ok(()), Err)
    }

    /// Visits the connections as [`Team::list_flows`] does, and has done to them what `choose` says. It is done when this returns.
    ///
    /// # Errors
    /// `WorkerStalled` names a worker that did not answer; some of what was chosen may be done.
    pub fn order_flows(
        &self,
        sought: &Sought,
        choose: &mut dyn FnMut(&FlowView) -> ControlFlow<(), Option<Order>>,
    ) -> Result<(), WorkerStalled> {
        let choosers = &mut *self.ties.choosers.lock();
        let mut stalled = None;
        self.list_flows(sought, &mut |worker, view| {
            let Some(order) = choose(&view)? else { return ControlFlow::Continue(()) };
            if choosers[worker.index()].give(view.original(), order, LIST_PATIENCE).is_err() {
                stalled = Some(WorkerStalled(worker));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        for (index, chooser) in choosers.iter().enumerate() {
            if chooser.settle(LIST_PATIENCE).is_err() {
                stalled = stalled.or(Some(WorkerStalled(WorkerId(index as u16))));
            }
        }
        stalled.map_or(Ok(()), Err)
    }

    /// Enters a connection, as `begin` says, at the worker that its packets come to, unless there is one already.
    ///
    /// # Errors
    /// `WorkerStalled` names a worker that did not answer; it may be entered yet.
    pub fn begin_flow(
        &self,
        original: Tuple,
        zones: Zones,
        begin: &Beginning,
    ) -> Result<Outcome, WorkerStalled> {
        let choosers = &mut *self.ties.choosers.lock();
        let mut ask = |deed, goes_on| ask_all(choosers, original, Order { zones, deed }, goes_on);
        match ask(Deed::Seek, Outcome::Absent)? {
            // Workers that use different tables need not agree on whose it is.
            Outcome::Absent => ask(Deed::Begin(*begin), Outcome::Elsewhere),
            found => Ok(found),
        }
    }

    /// Does it to the connection that begins so, at the worker that has it.
    ///
    /// # Errors
    /// `WorkerStalled` names a worker that did not answer; it may be done yet.
    pub fn ask_flow(&self, original: Tuple, order: Order) -> Result<Outcome, WorkerStalled> {
        ask_all(&mut self.ties.choosers.lock(), original, order, Outcome::Absent)
    }

    /// Has the workers look into what is shared.
    pub(crate) fn set_sharing(&self, is_on: bool) {
        self.ties.shares.lock().readers.iter().for_each(|reader| reader.set_on(is_on));
    }

    /// See [`Dataplane::begin_walk`](crate::Dataplane::begin_walk).
    pub(crate) fn begin_walk(&self, is_whole: bool, now: Tick) {
        let Shares { last, began, readers } = &mut *self.ties.shares.lock();
        let walk = if is_whole { Walk::Whole } else { Walk::Since(*began) };
        *last = last.wrapping_add(1);
        *began = now;
        readers.iter().for_each(|reader| reader.ask(*last, walk));
    }

    /// See [`Dataplane::is_walk_over`](crate::Dataplane::is_walk_over).
    pub(crate) fn is_walk_over(&self) -> bool {
        self.ties.shares.lock().readers.iter().all(ShareReader::is_over)
    }

    /// See [`Dataplane::read_shared`](crate::Dataplane::read_shared).
    pub(crate) fn read_shared(&self, most: usize, visit: &mut dyn FnMut(SharedFlow)) -> usize {
        let readers = &mut self.ties.shares.lock().readers;
        let mut count = 0;
        for reader in readers {
            let told = std::iter::from_fn(|| reader.next()).take(most);
            told.for_each(|flow| {
                count += 1;
                visit(flow);
            });
        }
        count
    }

    /// Gives a worker a connection that it is to hear of. False: its ring is full.
    pub(crate) fn give(&self, worker: WorkerId, flow: SharedFlow, server: ServerId) -> bool {
        let readers = &mut self.ties.shares.lock().readers;
        readers.get_mut(worker.index()).is_some_and(|reader| reader.give(flow, server))
    }

    /// Cycles a second of the counters in [`TurnCounters`](lb_core::counters::TurnCounters).
    pub fn tsc_hz(&self) -> u64 {
        self.hz
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.bells.iter().flatten().for_each(|bell| bell.wake());
        for thread in self.threads.drain(..) {
            // A worker that panicked has already said so.
            let _ = thread.join();
        }
    }
}

fn failed(cpu: Option<u32>, reason: &str) -> StartError {
    StartError::Worker { cpu: cpu.unwrap_or_default(), reason: reason.to_owned() }
}

/// Of workers that sleep until they are woken.
fn bells(workers: usize, idle: Idle) -> io::Result<Vec<Option<Arc<Bell>>>> {
    let bell = || tap::event().map(|event| Arc::new(Bell::new(event)));
    (0..workers).map(|_| (idle == Idle::Interrupt).then(bell).transpose()).collect()
}

/// A worker's thread, from its first moment to its last.
fn live<B: Backend, L: Logic<B::Packet>>(
    equipment: Equipment<B>,
    logic: impl FnOnce() -> L,
    clock: Clock,
    (idle, cpu, bell): (Idle, Option<u32>, Option<Arc<Bell>>),
    stop: &AtomicBool,
    ready: &mpsc::Sender<(Option<u32>, Result<(), String>)>,
) {
    let pinned = cpu.map_or(Ok(()), cpu::pin).map_err(|error| error.to_string());
    // Nobody listens when another worker failed; then `stop` is set.
    match pinned.and_then(|()| B::enter_thread()) {
        Ok(()) => {
            let worker = Worker::new(equipment, logic());
            let _ = ready.send((cpu, Ok(())));
            // Its packets are freed before the thread leaves.
            idle::live(worker, clock, (idle, cpu, bell), stop);
            B::leave_thread();
        }
        Err(reason) => {
            let _ = ready.send((cpu, Err(reason)));
        }
    }
}

/// Asks one worker after the other while they answer `goes_on`.
fn ask_all(
    choosers: &mut [Chooser],
    original: Tuple,
    order: Order,
    goes_on: Outcome,
) -> Result<Outcome, WorkerStalled> {
    for (index, chooser) in choosers.iter_mut().enumerate() {
        let asked = chooser.ask(original, order, LIST_PATIENCE);
        match asked.map_err(|_| WorkerStalled(WorkerId(index as u16)))? {
            outcome if outcome == goes_on => {}
            outcome => return Ok(outcome),
        }
    }
    Ok(goes_on)
}
