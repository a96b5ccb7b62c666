//! From one process to the next: each worker takes its connections out of the flow memory of the dead one, and no
//! worker sees a packet before all have, and have tables. A packet of a connection that is not there yet would go up the
//! twin, and Linux would reset the connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::team::Turns;
use arrayvec::ArrayVec;
use lb_core::flow::Tuple;
use lb_core::ids::{PortId, ServerId};
use lb_core::packet::Packet;
use lb_core::path::{BURST, Burst, CarriedOver, FlowView, Io, Order, Outcome, Path, SharedFlow, Steer, Walk};
use lb_core::tables::Tables;
use lb_core::time::Tick;

use crate::clock;
use crate::keep::{Keep, Legacy};
use crate::worker::Logic;

/// How carrying over ended.
#[derive(Clone, Debug, Default)]
pub struct Succession {
    /// Of all workers. `None`: nothing was found that can be read.
    pub carried: Option<CarriedOver>,
    /// From the first worker's tables to the last worker's last connection.
    pub took: Duration,
    /// Why the next process will not find this one's connections.
    pub problem: Option<String>,
}

/// A worker's [`Path`] that begins with what the path of a dead process left.
pub(crate) struct Heir<P> {
    path: Path<P>,
    /// Until the first tables are there.
    share: Option<Share>,
    is_open: Arc<AtomicBool>,
}

/// One worker's part in carrying over.
#[derive(Clone)]
pub(crate) struct Share {
    legacy: Arc<Legacy>,
    done: mpsc::Sender<(Instant, CarriedOver)>,
    is_open: Arc<AtomicBool>,
}

impl Share {
    pub(crate) fn take<P: Packet>(self, path: Path<P>) -> Heir<P> {
        let is_open = self.is_open.clone();
        Heir { path, share: Some(self), is_open }
    }
}

impl<P: Packet> Logic<P> for Heir<P> {
    fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        let old = self.path.adopt(tables);
        if let Some(share) = self.share.take() {
            let began = Instant::now();
            let carried = self.path.carry_over(&share.legacy.salvages(), clock::now());
            // Nobody listens when the data plane is being stopped.
            let _ = share.done.send((began, carried));
        }
        old
    }

    #[inline]
    fn is_ready(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        self.path.receive(burst, now, io);
    }

    #[inline]
    fn receive_handed_over(
        &mut self,
        burst: &mut ArrayVec<(P, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.path.receive_handed_over(burst, now, io);
    }

    #[inline]
    fn receive_plain(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        Logic::receive_plain(&mut self.path, burst, now, io);
    }

    #[inline]
    fn receive_from_twin(&mut self, port: PortId, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        self.path.receive_from_twin(port, burst, now, io);
    }

    #[inline]
    fn turn(&mut self, now: Tick, io: &mut impl Io<P>) {
        self.path.turn(now, io);
    }

    #[inline]
    fn is_behind(&self) -> bool {
        self.path.is_behind()
    }

    fn list(&self, cursor: u32, budget: u32, now: Tick, visit: &mut dyn FnMut(FlowView)) -> Option<u32> {
        self.path.list(cursor, budget, now, &mut |view| visit(view))
    }

    fn order(&mut self, original: &Tuple, order: &Order, now: Tick) -> Outcome {
        self.path.order(original, order, now)
    }

    fn tell_changed(&mut self, budget: u32, tell: &mut dyn FnMut(SharedFlow)) -> bool {
        Logic::tell_changed(&mut self.path, budget, tell)
    }

    fn walk(
        &mut self,
        cursor: u32,
        budget: u32,
        walk: Walk,
        tell: &mut dyn FnMut(SharedFlow),
    ) -> Option<u32> {
        Logic::walk(&mut self.path, cursor, budget, walk, tell)
    }

    fn take_over(&mut self, told: &SharedFlow, server: ServerId, now: Tick) {
        Logic::take_over(&mut self.path, told, server, now);
    }
}

/// Waits for all workers, gives the new file its name, opens the gate.
pub(crate) struct Executor {
    is_open: Arc<AtomicBool>,
    state: Arc<Turns<State>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    /// Until somebody asks.
    outcome: Option<Succession>,
    /// The file that the workers use, with its lock.
    _keep: Option<Keep>,
}

impl Executor {
    /// Returns what each of `workers` workers is to be given; when these are gone, the thread ends. `settle` is what is left to do once
    /// this process is the heir.
    pub(crate) fn start(
        workers: usize,
        legacy: Legacy,
        keep: Option<Keep>,
        settle: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<(Executor, Share)> {
        let (done, reports) = mpsc::channel();
        let is_open = Arc::new(AtomicBool::new(false));
        let state = Arc::new(Turns::new(State::default()));
        let has_legacy = !legacy.is_empty();
        let share = Share { legacy: Arc::new(legacy), done, is_open: is_open.clone() };
        let (gate, result) = (is_open.clone(), state.clone());
        let mut keep = keep;
        let execute = move || {
            let mut all = CarriedOver::default();
            let mut began: Option<Instant> = None;
            for _ in 0..workers {
                // A worker that is gone means that all are being ended.
                let Ok((start, carried)) = reports.recv() else { return };
                began = Some(began.map_or(start, |began| began.min(start)));
                all = all + carried;
            }
            let took = began.map_or(Duration::ZERO, |began| began.elapsed());
            let problem = keep.as_mut().and_then(|keep| keep.commit().err());
            settle();
            let outcome = Succession { carried: has_legacy.then_some(all), took, problem };
            *result.lock() = State { outcome: Some(outcome), _keep: keep };
            gate.store(true, Ordering::Release);
        };
        let thread = std::thread::Builder::new().name("carry over".to_owned()).spawn(execute)?;
        Ok((Executor { is_open, state, thread: Some(thread) }, share))
    }

    /// Whether the workers see packets.
    pub(crate) fn is_done(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// The outcome, once.
    pub(crate) fn take_outcome(&self) -> Option<Succession> {
        self.state.lock().outcome.take()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already said so.
            let _ = thread.join();
        }
    }
}
