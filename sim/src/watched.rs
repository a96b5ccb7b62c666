//! The path under watch: each call goes to the real path and to the [reference](crate::reference), and both must have done the same.
//!
//! [`Watched`] stands where a worker expects its path. What the path does is held back, compared, and then done. The first difference is
//! kept in the team's [`Verdict`] as a [`Mismatch`], which says which packet came, what the path did and what it must do; from then on nothing is
//! compared any more, as the two have parted.
//!
//! ```
//! # use std::sync::Arc;
//! # use lb_core::{counters::WorkerCounters, flow::memory_needed, ids::WorkerId, mem::Region, path::PathConfig, time::Tick};
//! # use lb_core::tables::Tables;
//! # use lb_dataplane::Logic;
//! use sim::reference::Team;
//! use sim::watched::{Verdict, Watched};
//!
//! let counters: Arc<[_]> = (0..2).map(|_| Arc::new(WorkerCounters::new(64, 2))).collect();
//! let (team, verdict) = (Arc::new(Team::new(&counters)), Verdict::default());
//! # let uses = Arc::new(lb_core::flow::template::Uses::new(2, 100));
//! # let config = |worker| PathConfig { worker: WorkerId(worker), counters: counters.clone(), max_connections: 100,
//! #     uses: uses.clone(),
//! #     max_ipv6_connections: 50, memory: Region::heap(memory_needed(100, 50)), hash_seed: 1, rss: None, now: Tick(0) };
//! let mut workers: Vec<_> = (0..2).map(|n| Watched::new(config(n), &team, &verdict)).collect();
//!
//! # let tables = Arc::new(Tables { generation: 1, ..Tables::default() });
//! team.tell(&tables); // all that are compiled, in their order, also those that no worker will see
//! workers[0].adopt(tables);
//! verdict.assert_agreement(); // or ask verdict.mismatch()
//! ```

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use arrayvec::ArrayVec;
use hashbrown::HashSet;
use lb_core::counters::{Counter, ServerCell, WorkerCounters};
use lb_core::drop::DropReason;
use lb_core::flow::Tuple;
use lb_core::flow::carry::Salvage;
use lb_core::flow::template::template_protocol;
use lb_core::hook::Hook;
use lb_core::ids::{PortId, WorkerId};
use lb_core::ipvs::quic_lb::Fallback;
use lb_core::packet::{Frame, Packet};
use lb_core::path::{BURST, Burst, CarriedOver, FlowView, Io, Order, Outcome, Path, PathConfig, Steer};
use lb_core::tables::{InterfaceId, Tables};
use lb_core::time::{Tick, Timeout};
use lb_dataplane::Logic;

use crate::reference::{AWAITED, Action, Expected, Gone, Left, Reference, Taken, Team};

/// The invariant that a [`Mismatch`] breaks.
pub const AS_THE_REFERENCE_SAYS: &str = "as_the_reference_says";

/// Turns after which all connections are compared, at least; or as many as there are connections, so that it costs one of them a turn.
const TURNS_A_COMPARISON: u64 = 64;

/// What the watched workers of one data plane have come to; its clones are the same one.
#[derive(Clone, Default)]
pub struct Verdict(Arc<OnceLock<Mismatch>>);

impl Verdict {
    /// The first difference that there was, in any worker.
    pub fn mismatch(&self) -> Option<Mismatch> {
        self.0.get().cloned()
    }

    /// # Panics
    /// With the first difference, if there was one.
    pub fn assert_agreement(&self) {
        if let Some(mismatch) = self.mismatch() {
            panic!("{AS_THE_REFERENCE_SAYS}: {mismatch}");
        }
    }

    fn is_out(&self) -> bool {
        self.0.get().is_some()
    }

    fn set(&self, mismatch: Mismatch) {
        self.0.get_or_init(|| mismatch);
    }
}

/// A difference between the path and the reference.
#[derive(Clone, Debug)]
pub struct Mismatch {
    pub worker: WorkerId,
    pub now: Tick,
    /// Of the tables in use.
    pub generation: u32,
    /// What was called, with the packets that it was called with.
    pub call: &'static str,
    pub packets: Vec<(PortId, Vec<u8>)>,
    /// The packet it is about, if it is about one: an index of `packets`.
    pub cause: Option<usize>,
    /// What is not as it must be.
    pub what: &'static str,
    pub path: String,
    pub reference: String,
    /// The counters that are not as they must be.
    pub miscounts: Vec<Miscount>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Miscount {
    pub of: String,
    pub path: u64,
    pub reference: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { worker, now, generation, call, what, path, reference, .. } = self;
        writeln!(f, "{what} (worker {}, {call} at tick {}, tables {generation})", worker.0, now.0)?;
        for (number, (port, bytes)) in self.packets.iter().enumerate() {
            if self.cause.is_none_or(|cause| cause == number) {
                writeln!(f, "  packet {number}, port {}:  {}", port.0, Hex(bytes))?;
            }
        }
        write!(f, "  the path:       {path}\n  the reference:  {reference}")?;
        for Miscount { of, path, reference } in &self.miscounts {
            write!(f, "\n  counted by the path {path}, by the reference {reference}: {of}")?;
        }
        Ok(())
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn described(action: Option<&Action>) -> String {
    match action {
        None => "nothing".into(),
        Some(Action::Transmit(port, bytes)) => format!("transmit by port {}: {}", port.0, Hex(bytes)),
        Some(Action::ToTwin(port, bytes)) => format!("to the twin of port {}: {}", port.0, Hex(bytes)),
        Some(Action::HandOver(to, steer, port, bytes)) => {
            format!("hand over to worker {}, {steer:?}, of port {}: {}", to.0, port.0, Hex(bytes))
        }
        Some(Action::Resolve(interface, address)) => {
            format!("resolve {address} on interface {}", interface.0)
        }
    }
}

/// One worker's path, or what stands for it, and its reference.
pub struct Watched<L = Path<Frame>> {
    worker: WorkerId,
    path: L,
    reference: Reference,
    /// The path's.
    counters: Arc<WorkerCounters>,
    verdict: Verdict,
    /// Since all connections were compared.
    turns: u64,
    /// Of the call that is compared.
    came: Came,
    held: Vec<Held>,
}

/// The packets that the path was called with, as they came, in one buffer.
#[derive(Default)]
struct Came {
    bytes: Vec<u8>,
    /// By packet: its port, and where it ends.
    ends: Vec<(PortId, usize)>,
}

impl Came {
    fn note<'a>(&mut self, burst: impl Iterator<Item = &'a Frame>) {
        self.clear();
        for frame in burst {
            self.bytes.extend_from_slice(frame.data());
            self.ends.push((frame.port(), self.bytes.len()));
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn iter(&self) -> impl Iterator<Item = (PortId, &[u8])> {
        let mut begin = 0;
        self.ends.iter().map(move |&(port, end)| (port, &self.bytes[std::mem::replace(&mut begin, end)..end]))
    }
}

/// What the path did, not done yet.
enum Held {
    Transmit(PortId, Frame),
    ToTwin(PortId, Frame),
    HandOver(WorkerId, Frame, Steer),
    Resolve(InterfaceId, IpAddr),
}

impl Held {
    /// Which of them keep their order among each other.
    fn lane(&self) -> (u8, u16) {
        match self {
            Held::Transmit(port, _) => (0, port.0),
            Held::ToTwin(port, _) => (1, port.0),
            Held::HandOver(to, ..) => (2, to.0),
            Held::Resolve(..) => (3, 0),
        }
    }

    fn is(&self, action: &Action) -> bool {
        match (self, action) {
            (Held::Transmit(port, frame), Action::Transmit(to, bytes)) => port == to && frame.data() == bytes,
            (Held::ToTwin(port, frame), Action::ToTwin(to, bytes)) => port == to && frame.data() == bytes,
            (Held::HandOver(to, frame, steer), Action::HandOver(worker, how, port, bytes)) => {
                to == worker && steer == how && frame.port() == *port && frame.data() == bytes
            }
            (Held::Resolve(interface, address), Action::Resolve(on, who)) => {
                interface == on && address == who
            }
            _ => false,
        }
    }

    fn action(&self) -> Action {
        let bytes = |frame: &Frame| frame.data().to_vec();
        match self {
            Held::Transmit(port, frame) => Action::Transmit(*port, bytes(frame)),
            Held::ToTwin(port, frame) => Action::ToTwin(*port, bytes(frame)),
            Held::HandOver(to, frame, steer) => Action::HandOver(*to, *steer, frame.port(), bytes(frame)),
            Held::Resolve(interface, address) => Action::Resolve(*interface, *address),
        }
    }

    fn act(self, io: &mut impl Io<Frame>) {
        match self {
            Held::Transmit(port, frame) => io.transmit(port, frame),
            Held::ToTwin(port, frame) => io.to_twin(port, frame),
            Held::HandOver(to, frame, steer) => io.hand_over(to, frame, steer),
            Held::Resolve(interface, address) => io.resolve(interface, address),
        }
    }
}

fn lane(action: &Action) -> (u8, u16) {
    match action {
        Action::Transmit(port, _) => (0, port.0),
        Action::ToTwin(port, _) => (1, port.0),
        Action::HandOver(to, ..) => (2, to.0),
        Action::Resolve(..) => (3, 0),
    }
}

/// The first of each lane's actions that are not the same.
fn parting<'a>(
    held: &'a [Held],
    expected: &'a [Expected],
) -> Option<(Option<&'a Held>, Option<&'a Expected>)> {
    let mut lanes: Vec<_> = held.iter().map(Held::lane).collect();
    lanes.extend(expected.iter().map(|expected| lane(&expected.action)));
    lanes.sort_unstable();
    lanes.dedup();
    lanes.into_iter().find_map(|at| {
        let mut did = held.iter().filter(|held| held.lane() == at);
        let mut must = expected.iter().filter(|expected| lane(&expected.action) == at);
        loop {
            match (did.next(), must.next()) {
                (None, None) => return None,
                (Some(did), Some(must)) if did.is(&must.action) => {}
                parted => return Some(parted),
            }
        }
    })
}

/// Stands between the path and the worker: holds back what the path does and notes what it chose.
struct Recorder<'a, I> {
    io: &'a mut I,
    counters: &'a WorkerCounters,
    index_full: u64,
    held: &'a mut Vec<Held>,
    taken: Taken,
}

impl<'a, I: Io<Frame>> Recorder<'a, I> {
    fn new(io: &'a mut I, counters: &'a WorkerCounters, held: &'a mut Vec<Held>) -> Recorder<'a, I> {
        let index_full = counters.flows.index_full.get();
        Recorder { io, counters, index_full, held, taken: Taken::default() }
    }

    /// Connections that found no room in the index did so before what is to be held now.
    fn note(&mut self) {
        let index_full = self.counters.flows.index_full.get();
        for _ in self.index_full..index_full {
            self.taken.index_full.push_back(self.held.len());
        }
        self.index_full = index_full;
    }

    fn hold(&mut self, held: Held) {
        self.note();
        match &held {
            Held::HandOver(_, _, Steer::Answer(_, _, Some(answer))) => self.taken.answers.push_back(*answer),
            Held::HandOver(_, _, Steer::Announce(expect)) => {
                self.taken.controls.push_back(expect.control_at);
            }
            Held::HandOver(_, _, Steer::Expected(Some(awaited))) => {
                self.taken.controls.extend(awaited.control_at);
            }
            _ => {}
        }
        self.held.push(held);
    }

    fn end(mut self) -> Taken {
        self.note();
        self.taken
    }
}

impl<I: Io<Frame>> Io<Frame> for Recorder<'_, I> {
    fn transmit(&mut self, port: PortId, packet: Frame) {
        self.hold(Held::Transmit(port, packet));
    }
    fn to_twin(&mut self, port: PortId, packet: Frame) {
        self.hold(Held::ToTwin(port, packet));
    }
    fn hand_over(&mut self, to: WorkerId, packet: Frame, steer: Steer) {
        self.hold(Held::HandOver(to, packet, steer));
    }
    fn allocate(&mut self) -> Option<Frame> {
        let buffer = self.io.allocate();
        self.taken.buffers.push_back(buffer.is_some());
        buffer
    }
    fn resolve(&mut self, interface: InterfaceId, address: IpAddr) {
        self.hold(Held::Resolve(interface, address));
    }
}

/// One call of the path, as far as a report has to say it.
struct Call {
    name: &'static str,
    now: Tick,
}

impl Watched {
    /// The path that `config` describes, and the reference for it. All workers have the same `team` and `verdict`.
    pub fn new(config: PathConfig, team: &Arc<Team>, verdict: &Verdict) -> Watched {
        Watched::around(Path::new, config, team, verdict)
    }

    /// Takes this worker's connections out of the memory of a dead director, of whose workers the references say that they `left` these.
    pub fn carry_over(&mut self, memory: &[Salvage<'_>], left: &[Vec<Left>], now: Tick) -> CarriedOver {
        let carried = self.path.carry_over(memory, now);
        let has = originals(&self.path, now).into_iter().map(|(tuple, _)| tuple).collect();
        self.came.clear();
        let call = Call { name: "carry_over", now };
        let what = "connections are not carried over as they must be";
        let compared = match self.reference.carry_over(left, &has, now) {
            // Entries that say nothing the reference was not told of.
            Ok(expected) if expected == CarriedOver { damaged: expected.damaged, ..carried } => {
                self.compare(&call).or_else(|| self.compare_connections(&call))
            }
            Ok(expected) => Some(Mismatch {
                path: format!("{carried:?}"),
                reference: format!("{expected:?}"),
                ..self.mismatch(&call, what)
            }),
            Err(path) => Some(Mismatch { path, ..self.mismatch(&call, what) }),
        };
        self.judge(compared);
        carried
    }

    /// What the next director must find.
    pub fn left(&self) -> impl Iterator<Item = Left> {
        self.reference.left()
    }

    /// See [`Path::check_connections`].
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_connections(&self) -> Result<(), String> {
        self.path.check_connections()
    }
}

impl<L: Logic<Frame>> Watched<L> {
    /// As [`Watched::new`], for what `make` makes of the configuration.
    pub fn around(
        make: impl FnOnce(PathConfig) -> L,
        config: PathConfig,
        team: &Arc<Team>,
        verdict: &Verdict,
    ) -> Watched<L> {
        Watched {
            worker: config.worker,
            reference: Reference::new(&config, team),
            counters: config.counters[config.worker.index()].clone(),
            path: make(config),
            verdict: verdict.clone(),
            turns: 0,
            came: Came::default(),
            held: Vec::new(),
        }
    }

    /// Compares what the path did with what it must do, and what it counted.
    fn compare(&self, call: &Call) -> Option<Mismatch> {
        let (held, expected) = (&self.held, self.reference.expected());
        // All reasons are many: they are looked at when a packet may have been dropped, and now and then.
        let is_dropping = held.len() < self.came.len() || self.turns.is_multiple_of(TURNS_A_COMPARISON);
        let miscounts = self.miscounts(is_dropping);
        let is_same = held.len() == expected.len() && held.iter().zip(expected).all(|(a, b)| a.is(&b.action));
        let parted = if is_same { None } else { parting(held, expected) };
        if miscounts.is_empty() && parted.is_none() {
            return None;
        }
        let mut mismatch = self.mismatch(call, "the path does not count as it must");
        if let Some((did, must)) = parted {
            mismatch.what = "a packet does not leave as it must";
            mismatch.cause = must.and_then(|must| must.cause);
            mismatch.path = described(did.map(Held::action).as_ref());
            mismatch.reference = described(must.map(|must| &must.action));
        }
        mismatch.miscounts = miscounts;
        Some(mismatch)
    }

    /// The counters that are wrong.
    fn miscounts(&self, is_dropping: bool) -> Vec<Miscount> {
        let mut wrong = Vec::new();
        let mut check = |path: u64, reference: u64, of: &dyn Fn() -> String| {
            if path != reference {
                wrong.push(Miscount { of: of(), path, reference });
            }
        };
        let (counters, touched) = self.reference.counters();
        for (name, of) in COUNTERS {
            check(of(&self.counters).get(), of(counters).get(), &|| name.into());
        }
        for why in Fallback::ALL {
            let count = |counters: &WorkerCounters| counters.quic.scheduled[why as usize].get();
            let name = || format!("quic scheduled as {}", why.label());
            check(count(&self.counters), count(counters), &name);
        }
        let reasons = if is_dropping { DropReason::ALL } else { &[] };
        for &reason in reasons.iter().filter(|reason| !BY_THE_WORKER.contains(reason)) {
            for hook in Hook::ALL {
                let count = |counters: &WorkerCounters| counters.dropped(reason, hook).get();
                let name = || format!("dropped as {} at {}", reason.label(), hook.name());
                check(count(&self.counters), count(counters), &name);
            }
        }
        for &server in touched {
            let (path, reference) = (self.counters.server(server), counters.server(server));
            for (name, of) in SERVER_COUNTERS {
                check(of(path).get(), of(reference).get(), &|| format!("{name} of server {}", server.0));
            }
        }
        for &server in touched {
            if let Some((path, reference)) = self.reference.overloaded(server) {
                check(path.into(), reference.into(), &|| format!("server {} is overloaded", server.0));
            }
        }
        wrong
    }

    /// Compares all connections.
    fn compare_connections(&self, call: &Call) -> Option<Mismatch> {
        let mut path = Vec::new();
        self.path.list(0, u32::MAX, call.now, &mut |view| path.push(view));
        let mut reference: Vec<FlowView> = self.reference.connections().collect();
        let by_client = |view: &FlowView| {
            let ends = (view.client, view.call, view.virtual_, view.server, view.server_id);
            // Of templates that bind no more several may have the same ends.
            (ends, view.protocol, view.is_template, view.state, view.expires_in)
        };
        path.sort_by_key(by_client);
        reference.sort_by_key(by_client);
        if path == reference {
            return None;
        }
        let missing = reference.iter().find(|view| !path.contains(view));
        let surplus = path.iter().find(|view| !reference.contains(view));
        Some(Mismatch {
            path: surplus.map_or("does not have that one".into(), |view| format!("{view:?}")),
            reference: missing.map_or("does not have that one".into(), |view| format!("{view:?}")),
            ..self.mismatch(call, "a connection is not as it must be")
        })
    }

    fn mismatch(&self, call: &Call, what: &'static str) -> Mismatch {
        Mismatch {
            worker: self.worker,
            now: call.now,
            generation: self.reference.generation(),
            call: call.name,
            packets: self.came.iter().map(|(port, bytes)| (port, bytes.to_vec())).collect(),
            cause: None,
            what,
            path: String::new(),
            reference: String::new(),
            miscounts: Vec::new(),
        }
    }

    /// Whether so many packets may find no room for what they begin: a connection and a template each.
    fn is_short(&self, packets: usize) -> bool {
        self.reference.room() < 2 * packets
    }

    /// The connections that there are before so many packets come, if some of them may have to go.
    fn before(&self, packets: usize, now: Tick) -> Vec<(Tuple, Timeout)> {
        if self.is_short(packets) { originals(&self.path, now) } else { Vec::new() }
    }

    /// Does what was held back.
    fn act(&mut self, io: &mut impl Io<Frame>) {
        self.held.drain(..).for_each(|held| held.act(io));
    }

    fn judge(&self, compared: Option<Mismatch>) {
        if let Some(mismatch) = compared {
            self.verdict.set(mismatch);
        }
    }
}

impl<L: Logic<Frame>> Logic<Frame> for Watched<L> {
    fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        self.reference.adopt(tables.clone());
        self.path.adopt(tables)
    }

    fn receive(&mut self, burst: &mut Burst<Frame>, now: Tick, io: &mut impl Io<Frame>) {
        if self.verdict.is_out() {
            return self.path.receive(burst, now, io);
        }
        if burst.len() > 1 && self.is_short(burst.len()) {
            // One by one, so that it can be said for which of them a connection went.
            for packet in std::mem::take(burst) {
                self.receive(&mut [packet].into_iter().collect(), now, io);
            }
            return;
        }
        let before = self.before(burst.len(), now);
        self.came.note(burst.iter());
        let mut recorder = Recorder::new(io, &self.counters, &mut self.held);
        self.path.receive(burst, now, &mut recorder);
        let taken = Taken { gone: gone(&self.path, before, now), ..recorder.end() };
        self.reference.receive(self.came.iter(), now, taken);
        self.judge(self.compare(&Call { name: "receive", now }));
        self.act(io);
    }

    fn receive_handed_over(
        &mut self,
        burst: &mut ArrayVec<(Frame, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<Frame>,
    ) {
        if self.verdict.is_out() {
            return self.path.receive_handed_over(burst, now, io);
        }
        if burst.len() > 1 && self.is_short(burst.len()) {
            for packet in std::mem::take(burst) {
                self.receive_handed_over(&mut [packet].into_iter().collect(), now, io);
            }
            return;
        }
        let before = self.before(burst.len(), now);
        self.came.note(burst.iter().map(|(frame, _)| frame));
        let steers: ArrayVec<Steer, BURST> = burst.iter().map(|(_, steer)| *steer).collect();
        let mut recorder = Recorder::new(io, &self.counters, &mut self.held);
        if steers.iter().all(|steer| *steer == Steer::Plain) {
            // As a worker gives them.
            self.path.receive_plain(
                &mut burst.drain(..).map(|(frame, _)| frame).collect(),
                now,
                &mut recorder,
            );
        } else {
            self.path.receive_handed_over(burst, now, &mut recorder);
        }
        let taken = Taken { gone: gone(&self.path, before, now), ..recorder.end() };
        self.reference.receive_handed_over(self.came.iter(), &steers, now, taken);
        self.judge(self.compare(&Call { name: "receive_handed_over", now }));
        self.act(io);
    }

    fn receive_from_twin(
        &mut self,
        port: PortId,
        burst: &mut Burst<Frame>,
        now: Tick,
        io: &mut impl Io<Frame>,
    ) {
        if self.verdict.is_out() {
            return self.path.receive_from_twin(port, burst, now, io);
        }
        self.came.note(burst.iter());
        let mut recorder = Recorder::new(io, &self.counters, &mut self.held);
        self.path.receive_from_twin(port, burst, now, &mut recorder);
        let taken = recorder.end();
        self.reference.receive_from_twin(port, self.came.iter(), now, taken);
        self.judge(self.compare(&Call { name: "receive_from_twin", now }));
        self.act(io);
    }

    fn turn(&mut self, now: Tick, io: &mut impl Io<Frame>) {
        if self.verdict.is_out() {
            return self.path.turn(now, io);
        }
        let flows = &self.counters.flows;
        let before = (flows.expired.get(), flows.drop_entry.get(), flows.bereft.get());
        self.came.clear();
        let mut recorder = Recorder::new(io, &self.counters, &mut self.held);
        self.path.turn(now, &mut recorder);
        let taken = recorder.end();
        let flows = &self.counters.flows;
        let gone = Gone {
            expired: flows.expired.get().wrapping_sub(before.0),
            dropped: flows.drop_entry.get().wrapping_sub(before.1),
            bereft: flows.bereft.get().wrapping_sub(before.2),
        };
        let is_left = || originals(&self.path, now);
        let call = Call { name: "turn", now };
        let compared = match self.reference.turn(now, taken, gone, is_left) {
            Ok(()) => self.compare(&call),
            Err(path) => {
                Some(Mismatch { path, ..self.mismatch(&call, "a connection does not end as it must") })
            }
        };
        self.judge(compared);
        self.turns += 1;
        if self.turns >= self.counters.flows.entries.get().max(TURNS_A_COMPARISON) && !self.verdict.is_out() {
            self.turns = 0;
            self.judge(self.compare_connections(&call));
        }
        self.act(io);
    }

    fn list(&self, cursor: u32, budget: u32, now: Tick, visit: &mut dyn FnMut(FlowView)) -> Option<u32> {
        self.path.list(cursor, budget, now, &mut |view| visit(view))
    }

    /// The reference knows of no orders: what one does to a connection is a mismatch.
    fn order(&mut self, original: &Tuple, order: &Order, now: Tick) -> Outcome {
        self.path.order(original, order, now)
    }
}

/// Those of `before` that a path has no more.
fn gone(path: &impl Logic<Frame>, before: Vec<(Tuple, Timeout)>, now: Tick) -> Vec<Tuple> {
    if before.is_empty() {
        return Vec::new();
    }
    let left: HashSet<Tuple> = originals(path, now).into_iter().map(|(tuple, _)| tuple).collect();
    before.into_iter().map(|(tuple, _)| tuple).filter(|tuple| !left.contains(tuple)).collect()
}

fn originals(path: &impl Logic<Frame>, now: Tick) -> Vec<(Tuple, Timeout)> {
    let mut all = Vec::new();
    path.list(0, u32::MAX, now, &mut |view| {
        let is_awaited = view.known.told_by.is_some() && view.client.1 == 0;
        let protocol = match view.is_template {
            true => template_protocol(view.protocol),
            false if is_awaited => AWAITED,
            false => view.protocol,
        };
        all.push((Tuple { protocol, ..view.original() }, view.expires_in));
    });
    all
}

/// Packets are dropped for these by the worker around the path.
const BY_THE_WORKER: [DropReason; 3] = [DropReason::HandOverFull, DropReason::TwinFull, DropReason::TxFull];

type Of<T> = fn(&T) -> &Counter;

const COUNTERS: [(&str, Of<WorkerCounters>); 29] = [
    ("quic routed", |counters| &counters.quic.routed),
    ("drop_entry", |counters| &counters.flows.drop_entry),
    ("bereft", |counters| &counters.flows.bereft),
    ("entries", |counters| &counters.flows.entries),
    ("capacity", |counters| &counters.flows.capacity),
    ("ipv6_entries", |counters| &counters.flows.ipv6_entries),
    ("ipv6_capacity", |counters| &counters.flows.ipv6_capacity),
    ("inserted", |counters| &counters.flows.inserted),
    ("expired", |counters| &counters.flows.expired),
    ("carried_over", |counters| &counters.flows.carried_over),
    ("full", |counters| &counters.flows.full),
    ("early_drop", |counters| &counters.flows.early_drop),
    ("index_full", |counters| &counters.flows.index_full),
    ("expect_create", |counters| &counters.flows.expect_create),
    ("expect_delete", |counters| &counters.flows.expect_delete),
    ("expect_new", |counters| &counters.flows.expect_new),
    ("found", |counters| &counters.flows.found),
    ("missed", |counters| &counters.flows.missed),
    ("edits full", |counters| &counters.edits.full),
    ("toa_left_out", |counters| &counters.edits.toa_left_out),
    ("edited", |counters| &counters.edits.entries),
    ("cookies made", |counters| &counters.cookies.syn_received),
    ("cookies valid", |counters| &counters.cookies.valid),
    ("cookies invalid", |counters| &counters.cookies.invalid),
    ("cookies retrans", |counters| &counters.cookies.retrans),
    ("generation", |counters| &counters.turns.generation),
    ("icmp_sent", |counters| &counters.turns.icmp_sent),
    ("icmp_suppressed", |counters| &counters.turns.icmp_suppressed),
    ("waiting", |counters| &counters.turns.waiting),
];

const SERVER_COUNTERS: [(&str, Of<ServerCell>); 8] = [
    ("persistent", |cell| &cell.persistent),
    ("active", |cell| &cell.active),
    ("inactive", |cell| &cell.inactive),
    ("connections", |cell| &cell.connections),
    ("in_packets", |cell| &cell.in_packets),
    ("in_bytes", |cell| &cell.in_bytes),
    ("out_packets", |cell| &cell.out_packets),
    ("out_bytes", |cell| &cell.out_bytes),
];
