//! A worker's turn: receive, run the path, send. It allocates nothing, locks nothing and never waits.
//!
//! A turn looks once at each source of packets (other workers' rings, ports, twins), lets the path do what is
//! due, and sends what is left in the transmit buffers.

use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use lb_core::counters::WorkerCounters;
use lb_core::drop::DropReason;
use lb_core::flow::Tuple;
use lb_core::hook::Hook;
use lb_core::ids::{PortId, ServerId, WorkerId};
use lb_core::packet::Packet;
use lb_core::path::{BURST, Burst, FlowView, Io, Order, Outcome, Path, SharedFlow, Steer, Walk};
use lb_core::tables::{InterfaceId, Tables};
use lb_core::time::Tick;

use crate::clock::cycles;
use crate::device::{Backend, Device, Pool};
use crate::listing::Lister;
use crate::mailbox::Inbox;
use crate::orders::Follower;
use crate::resolve::Asker;
use crate::ring::{Errand, Incoming, Outgoing, RingEnds};
use crate::sharing::{Sharer, Shares};
use crate::twin::TwinEnd;

/// What a worker runs: the packet logic of one worker. [`Path`] is the one; tests have simpler ones.
pub trait Logic<P: Packet> {
    fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables>;
    /// Whether it takes packets yet. Until then the worker only looks for tables.
    #[inline]
    fn is_ready(&self) -> bool {
        true
    }
    fn receive(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>);
    fn receive_handed_over(
        &mut self,
        burst: &mut ArrayVec<(P, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<P>,
    );
    /// The same of packets of which nothing was found out but that they are this worker's.
    fn receive_plain(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        let mut handed = burst.drain(..).map(|packet| (packet, Steer::Plain)).collect();
        self.receive_handed_over(&mut handed, now, io);
    }
    fn receive_from_twin(&mut self, port: PortId, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>);
    fn turn(&mut self, now: Tick, io: &mut impl Io<P>);
    /// See [`Path::is_behind`]. A logic to which nothing is due by time never is.
    #[inline]
    fn is_behind(&self) -> bool {
        false
    }
    fn list(&self, cursor: u32, budget: u32, now: Tick, visit: &mut dyn FnMut(FlowView)) -> Option<u32>;

    /// See [`Path::order`].
    fn order(&mut self, original: &Tuple, order: &Order, now: Tick) -> Outcome;

    /// See [`Path::tell_changed`]. A logic without connections shares none.
    fn tell_changed(&mut self, _budget: u32, _tell: &mut dyn FnMut(SharedFlow)) -> bool {
        false
    }
    /// See [`Path::walk`].
    fn walk(
        &mut self,
        _cursor: u32,
        _budget: u32,
        _walk: Walk,
        _tell: &mut dyn FnMut(SharedFlow),
    ) -> Option<u32> {
        None
    }
    /// See [`Path::take_over`].
    fn take_over(&mut self, _told: &SharedFlow, _server: ServerId, _now: Tick) {}
}

impl<P: Packet> Logic<P> for Path<P> {
    fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        Path::adopt(self, tables)
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        Path::receive(self, burst, now, io);
    }

    #[inline]
    fn receive_handed_over(
        &mut self,
        burst: &mut ArrayVec<(P, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        Path::receive_handed_over(self, burst, now, io);
    }

    /// They are steered as if they came from a port: whoever gathers a datagram's fragments does by any
    /// tables.
    #[inline]
    fn receive_plain(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        Path::receive(self, burst, now, io);
    }

    #[inline]
    fn receive_from_twin(&mut self, port: PortId, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        Path::receive_from_twin(self, port, burst, now, io);
    }

    #[inline]
    fn turn(&mut self, now: Tick, io: &mut impl Io<P>) {
        Path::turn(self, now, io);
    }

    #[inline]
    fn is_behind(&self) -> bool {
        Path::is_behind(self)
    }

    fn list(&self, cursor: u32, budget: u32, now: Tick, visit: &mut dyn FnMut(FlowView)) -> Option<u32> {
        Path::list(self, cursor, budget, now, &mut |view| visit(view))
    }

    fn order(&mut self, original: &Tuple, order: &Order, now: Tick) -> Outcome {
        Path::order(self, original, order, now)
    }

    fn tell_changed(&mut self, budget: u32, tell: &mut dyn FnMut(SharedFlow)) -> bool {
        Path::tell_changed(self, budget, &mut |flow| tell(flow))
    }

    fn walk(
        &mut self,
        cursor: u32,
        budget: u32,
        walk: Walk,
        tell: &mut dyn FnMut(SharedFlow),
    ) -> Option<u32> {
        Path::walk(self, cursor, budget, walk, &mut |flow| tell(flow))
    }

    fn take_over(&mut self, told: &SharedFlow, server: ServerId, now: Tick) {
        Path::take_over(self, told, server, now);
    }
}

/// A logic and what time it is, for [`Sharer`].
struct Sharing<'l, P, L> {
    logic: &'l mut L,
    now: Tick,
    packets: PhantomData<P>,
}

impl<P: Packet, L: Logic<P>> Shares for Sharing<'_, P, L> {
    fn tell_changed(&mut self, budget: u32, tell: &mut dyn FnMut(SharedFlow)) -> bool {
        self.logic.tell_changed(budget, tell)
    }

    fn walk(
        &mut self,
        cursor: u32,
        budget: u32,
        walk: Walk,
        tell: &mut dyn FnMut(SharedFlow),
    ) -> Option<u32> {
        self.logic.walk(cursor, budget, walk, tell)
    }

    fn take_over(&mut self, told: &SharedFlow, server: ServerId) {
        self.logic.take_over(told, server, self.now);
    }
}

/// Who sends and receives on a port, seen from one worker.
pub enum Queue<D> {
    /// This worker has a pair of queues of its own.
    Own(D),
    /// The port has too few: that worker sends for this one.
    Of(WorkerId),
}

/// Who serves a port's twin, seen from one worker.
pub enum Twin<P> {
    None,
    Own(TwinEnd<P>),
    Of(WorkerId),
}

/// One port, seen from one worker.
pub struct Seat<B: Backend> {
    pub queue: Queue<B::Device>,
    pub twin: Twin<B::Packet>,
}

/// What there was to do in a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turned {
    /// Nothing, or all that was due.
    Idle,
    /// No packets, but more is due by time than fits into a turn.
    Behind,
    /// Packets, or what is asked from outside.
    Busy,
}

/// All that a worker is made of, besides its logic.
pub(crate) struct Equipment<B: Backend> {
    pub(crate) worker: WorkerId,
    pub(crate) counters: Arc<WorkerCounters>,
    /// By port.
    pub(crate) seats: Vec<Seat<B>>,
    pub(crate) rings: RingEnds<B::Packet>,
    pub(crate) pool: B::Pool,
    pub(crate) asker: Asker,
    pub(crate) inbox: Inbox,
    pub(crate) lister: Lister,
    pub(crate) follower: Follower,
    pub(crate) sharer: Sharer,
}

/// A worker: [`crate::idle::live`] is its thread's life; without a thread, [`Worker::turn`] is called for
/// each turn.
pub(crate) struct Worker<B: Backend, L> {
    logic: L,
    io: WorkerIo<B>,
    /// From each other worker.
    incoming: Vec<Incoming<B::Packet>>,
    inbox: Inbox,
    lister: Lister,
    /// When listing last ended, and for how long from then on packets come first, in cycles.
    listed: (u64, u64),
    follower: Follower,
    sharer: Sharer,
    burst: Burst<B::Packet>,
    handed: ArrayVec<(B::Packet, Steer), BURST>,
    /// Packets that a turn takes from another worker at most.
    most: usize,
}

/// A busy worker lists for one part in so many of its time.
const LISTS_ONE_IN: u64 = 64;
/// Cycles, about a millisecond: when others had the CPU while it listed.
const MOST_PAUSE: u64 = 1 << 21;
impl<B: Backend, L: Logic<B::Packet>> Worker<B, L> {
    pub(crate) fn new(equipment: Equipment<B>, logic: L) -> Worker<B, L> {
        let Equipment { worker, counters, seats, rings, pool, asker, inbox, lister, follower, sharer } =
            equipment;
        // Twice as many as that one can get in a turn: a ring that was filled while this worker had no CPU
        // becomes empty again, and what comes by this worker's own ports waits for no more.
        let most = 2 * BURST * seats.len().max(1);
        let lanes = seats
            .into_iter()
            .map(|seat| Lane { queue: seat.queue, twin: seat.twin, buffer: Burst::new() })
            .collect();
        let io = WorkerIo {
            worker,
            counters,
            lanes,
            outgoing: rings.outgoing,
            has_staged: false,
            pool,
            asker,
            now: Tick(0),
        };
        Worker {
            logic,
            io,
            incoming: rings.incoming.into_iter().flatten().collect(),
            inbox,
            lister,
            listed: (0, 0),
            follower,
            sharer,
            burst: Burst::new(),
            handed: ArrayVec::new(),
            most,
        }
    }

    pub(crate) fn turn(&mut self, now: Tick) -> Turned {
        self.io.now = now;
        self.exchange_tables();
        if !self.logic.is_ready() {
            return Turned::Idle;
        }
        let mut had_work = self.receive_handed_over(now);
        for port in 0..self.io.lanes.len() {
            had_work |= self.receive(PortId(port as u16), now);
            had_work |= self.receive_from_twin(PortId(port as u16), now);
        }
        self.io.send_staged();
        self.logic.turn(now, &mut self.io);
        self.io.flush();
        had_work |= self.lister.is_asked() && self.list(now, had_work);
        had_work |= self.follow_orders(now);
        had_work |= self.sharer.is_on() && self.share(now);
        match had_work {
            true => Turned::Busy,
            false if self.logic.is_behind() => Turned::Behind,
            false => Turned::Idle,
        }
    }

    fn exchange_tables(&mut self) {
        let (logic, counters) = (&mut self.logic, &self.io.counters);
        self.inbox.exchange(|tables| {
            let generation = tables.generation;
            let old = logic.adopt(tables);
            counters.turns.generation.set(u64::from(generation));
            old
        });
    }

    fn receive_handed_over(&mut self, now: Tick) -> bool {
        let mut had_work = false;
        for ring in 0..self.incoming.len() {
            let waiting = self.incoming[ring].waiting().min(self.most);
            if waiting == 0 {
                continue;
            }
            had_work = true;
            self.io.counters.turns.handed_in.add(waiting as u64);
            for taken in (0..waiting).step_by(BURST) {
                self.take(ring, BURST.min(waiting - taken), now);
            }
        }
        had_work
    }

    /// Takes so many packets, no more than a burst, from one of the rings.
    #[inline]
    fn take(&mut self, ring: usize, count: usize, now: Tick) {
        let Worker { logic, io, incoming, burst, handed, .. } = self;
        incoming[ring].take(count, |packet, errand| match errand {
            Errand::Own(Steer::Plain) => {
                if !handed.is_empty() {
                    take_on(logic, burst, handed, now, io);
                }
                burst.push(packet);
            }
            Errand::Own(steer) => {
                if !burst.is_empty() {
                    take_on(logic, burst, handed, now, io);
                }
                handed.push((packet, steer));
            }
            Errand::Transmit(port) => io.transmit(port, packet),
            Errand::ToTwin(port) => io.to_twin(port, packet),
        });
        take_on(logic, burst, handed, now, io);
    }

    fn receive(&mut self, port: PortId, now: Tick) -> bool {
        let Queue::Own(device) = &mut self.io.lanes[port.index()].queue else { return false };
        device.receive(&mut self.burst);
        if self.burst.is_empty() {
            return false;
        }
        let counters = &self.io.counters;
        counters.turns.count_burst(self.burst.len());
        let cell = counters.port(port);
        cell.rx_packets.add(self.burst.len() as u64);
        cell.rx_bytes.add(bytes(&self.burst));
        self.logic.receive(&mut self.burst, now, &mut self.io);
        self.burst.clear();
        true
    }

    fn receive_from_twin(&mut self, port: PortId, now: Tick) -> bool {
        let Twin::Own(twin) = &mut self.io.lanes[port.index()].twin else { return false };
        while !self.burst.is_full()
            && let Ok(packet) = twin.down.pop()
        {
            self.burst.push(packet);
        }
        if self.burst.is_empty() {
            return false;
        }
        self.io.counters.port(port).from_twin.add(self.burst.len() as u64);
        self.logic.receive_from_twin(port, &mut self.burst, now, &mut self.io);
        self.burst.clear();
        true
    }

    pub(crate) fn logic(&self) -> &L {
        &self.logic
    }

    pub(crate) fn counters(&self) -> &WorkerCounters {
        &self.io.counters
    }

    /// Its queues.
    pub(crate) fn devices(&mut self) -> impl Iterator<Item = &mut B::Device> {
        self.io.lanes.iter_mut().filter_map(|lane| match &mut lane.queue {
            Queue::Own(device) => Some(device),
            Queue::Of(_) => None,
        })
    }

    /// Sends what it holds.
    pub(crate) fn flush(&mut self) {
        self.io.flush();
    }

    /// Goes on with a list. While packets come it takes one part in so many of the time, however fast it is
    /// read.
    #[cold]
    fn list(&mut self, now: Tick, is_busy: bool) -> bool {
        let (ended, pause) = self.listed;
        let begun = cycles();
        if is_busy && begun.wrapping_sub(ended) < pause {
            return false;
        }
        let logic = &self.logic;
        let had_work = self.lister.give(|from, budget, visit| logic.list(from, budget, now, visit));
        let over = cycles();
        self.listed = (over, (over.wrapping_sub(begun) * LISTS_ONE_IN).min(MOST_PAUSE));
        had_work
    }

    fn follow_orders(&mut self, now: Tick) -> bool {
        let logic = &mut self.logic;
        self.follower.turn(|original, order| logic.order(original, order, now))
    }

    #[cold]
    fn share(&mut self, now: Tick) -> bool {
        self.sharer.turn(&mut Sharing { logic: &mut self.logic, now, packets: PhantomData })
    }
}

/// Gives the logic what was taken from a ring: one of the two holds nothing, so that packets stay in their
/// order.
#[inline(never)]
fn take_on<P: Packet, L: Logic<P>>(
    logic: &mut L,
    plain: &mut Burst<P>,
    told: &mut ArrayVec<(P, Steer), BURST>,
    now: Tick,
    io: &mut impl Io<P>,
) {
    if !plain.is_empty() {
        logic.receive_plain(plain, now, io);
        plain.clear();
    }
    if !told.is_empty() {
        logic.receive_handed_over(told, now, io);
        told.clear();
    }
}

fn bytes<P: Packet>(burst: &[P]) -> u64 {
    burst.iter().map(|packet| packet.frame_len() as u64).sum()
}

/// A worker's side of one port.
struct Lane<B: Backend> {
    queue: Queue<B::Device>,
    twin: Twin<B::Packet>,
    /// Packets to be sent.
    buffer: Burst<B::Packet>,
}

/// What the path sees of its worker.
struct WorkerIo<B: Backend> {
    worker: WorkerId,
    counters: Arc<WorkerCounters>,
    lanes: Vec<Lane<B>>,
    /// To each other worker.
    outgoing: Vec<Option<Outgoing<B::Packet>>>,
    /// Something was put there that is not sent.
    has_staged: bool,
    pool: B::Pool,
    asker: Asker,
    now: Tick,
}

impl<B: Backend> WorkerIo<B> {
    /// Sends all transmit buffers, lets the other workers have what is theirs, and wakes the pumps that have
    /// something to do.
    #[inline]
    fn flush(&mut self) {
        self.send_staged();
        for (port, lane) in self.lanes.iter_mut().enumerate() {
            lane.send(PortId(port as u16), &self.counters);
            if let Twin::Own(twin) = &mut lane.twin {
                twin.flush();
                self.counters.port(PortId(port as u16)).to_twin.set(twin.given());
            }
        }
    }

    /// Lets the other workers have what is theirs.
    #[inline]
    fn send_staged(&mut self) {
        if std::mem::take(&mut self.has_staged) {
            for ring in self.outgoing.iter_mut().flatten() {
                ring.send();
            }
        }
    }

    /// Sends a packet with which a transmit buffer is full, or that does not leave by this worker's own
    /// queues.
    #[inline(never)]
    fn transmit_last(&mut self, port: PortId, packet: B::Packet) {
        let Some(lane) = self.lanes.get_mut(port.index()) else {
            return self.refuse(DropReason::TxFull, Hook::Egress, packet);
        };
        if let Queue::Of(worker) = lane.queue {
            if let Err(packet) = self.pass(worker, packet, Errand::Transmit(port)) {
                self.refuse(DropReason::HandOverFull, Hook::Egress, packet);
            }
            return;
        }
        lane.buffer.push(packet);
        lane.send(port, &self.counters);
    }

    /// Counts a packet that goes no further here, and frees it.
    #[cold]
    fn refuse(&self, reason: DropReason, hook: Hook, packet: B::Packet) {
        self.counters.dropped(reason, hook).add(1);
        drop(packet);
    }

    /// Gives a packet to its flow's owner. Where `steer` is known to say nothing, it is nothing to carry about either.
    #[inline(always)]
    fn give_with(&mut self, to: WorkerId, packet: B::Packet, steer: Steer) {
        debug_assert_ne!(to, self.worker, "a packet of one's own is not handed over");
        let port = packet.port();
        match self.pass(to, packet, Errand::Own(steer)) {
            // What the host sends came by none.
            Ok(()) if port == PortId::NONE => {}
            Ok(()) => self.counters.port(port).handed_over.add(1),
            Err(packet) => self.refuse(DropReason::HandOverFull, Hook::Ingress, packet),
        }
    }

    /// Gives a packet to another worker; returns it when there is no such worker or its ring is full.
    /// `handed_over` counts it whatever the errand: also those that only leave by a queue or a twin which
    /// that worker serves.
    #[inline(always)]
    fn pass(&mut self, to: WorkerId, packet: B::Packet, errand: Errand) -> Result<(), B::Packet> {
        let Some(Some(ring)) = self.outgoing.get_mut(to.index()) else { return Err(packet) };
        ring.put(packet, errand)?;
        self.has_staged = true;
        self.counters.turns.handed_over.add(1);
        Ok(())
    }
}

impl<B: Backend> Lane<B> {
    /// Sends the buffer; what the port does not take is counted and freed.
    #[inline]
    fn send(&mut self, port: PortId, counters: &WorkerCounters) {
        let Queue::Own(device) = &mut self.queue else { return };
        if self.buffer.is_empty() {
            return;
        }
        let (packets, all_bytes) = (self.buffer.len(), bytes(&self.buffer));
        device.transmit(&mut self.buffer);
        let (left, left_bytes) = (self.buffer.len(), bytes(&self.buffer));
        let cell = counters.port(port);
        cell.tx_packets.add((packets - left) as u64);
        cell.tx_bytes.add(all_bytes - left_bytes);
        if left > 0 {
            counters.dropped(DropReason::TxFull, Hook::Egress).add(left as u64);
            self.buffer.clear();
        }
    }
}

impl<B: Backend> Io<B::Packet> for WorkerIo<B> {
    #[inline(always)]
    fn transmit(&mut self, port: PortId, packet: B::Packet) {
        match self.lanes.get_mut(port.index()) {
            Some(Lane { queue: Queue::Own(_), buffer: unsent, .. }) if unsent.len() < BURST - 1 => {
                unsent.push(packet)
            }
            _ => self.transmit_last(port, packet),
        }
    }

    fn to_twin(&mut self, port: PortId, packet: B::Packet) {
        let refused = match self.lanes.get_mut(port.index()).map(|lane| &mut lane.twin) {
            Some(Twin::Own(twin)) => twin.push(packet).err(),
            Some(&mut Twin::Of(worker)) => self.pass(worker, packet, Errand::ToTwin(port)).err(),
            Some(Twin::None) | None => Some(packet),
        };
        if let Some(packet) = refused {
            self.refuse(DropReason::TwinFull, Hook::Egress, packet);
        }
    }

    fn hand_over(&mut self, to: WorkerId, packet: B::Packet, steer: Steer) {
        self.give_with(to, packet, steer);
    }

    #[inline]
    fn give(&mut self, to: WorkerId, packet: B::Packet) {
        self.give_with(to, packet, Steer::Plain);
    }

    #[inline]
    fn allocate(&mut self) -> Option<B::Packet> {
        self.pool.allocate()
    }

    fn resolve(&mut self, interface: InterfaceId, address: IpAddr) {
        self.asker.ask((interface, address), self.now);
    }
}
