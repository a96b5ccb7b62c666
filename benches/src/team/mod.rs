//! Workers in a team, on ports in memory that give frames and take them back: what is not seen of one worker's path alone.
//!
//! As in the bench's other workers the generator stands between the worker and the path, and its time is taken off. What goes
//! through is ordered by whoever measures, while the workers run.

mod gear;
pub mod size;
pub mod two;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use lb_core::counters::{Counter, WorkerCounters};
use lb_core::flow::template::Uses;
use lb_core::flow::{Tuple, memory_needed};
use lb_core::ids::{PortId, WorkerId};
use lb_core::ipvs::SchedulerKind;
use lb_core::packet::Packet;
use lb_core::path::{BURST, Burst, FlowView, Io, Order, Outcome, Path, PathConfig, Steer};
use lb_core::tables::{Forward, Tables};
use lb_core::time::Tick;
use lb_dataplane::{Idle, Logic, Member, Queue, Seat, Team, Twin, take_region};

use self::gear::{Gear, Line, NoFrames};
use self::size::Turns;
use crate::frame::BenchFrame;
use crate::traffic::{LAN, Script, Spread, WAN, tables};
use crate::tsc;
use crate::waits::{A_SWITCH, Moment};

const HASH_SEED: u64 = 0x5eed;
/// One, so that it is known whom each client gets.
const SPREAD: Spread = Spread { scheduler: SchedulerKind::Rr, servers: 1 };
/// Who does not do what it is told within this hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a worker is to do, and what it has done.
#[derive(Default)]
struct Orders {
    /// [`Orders::IDLE`], or twice the number of a script; one more: its clients' packets, each once.
    mode: AtomicU32,
    /// What time it is.
    now: AtomicU32,
    /// Packets of the clients that are left of a pass.
    left: AtomicU32,
    /// Packets made, and the cycles that it took.
    made: Counter,
    making: Counter,
    /// How long the path took for a burst and the turn that it came in, during passes.
    stalls: Stalls,
    /// How long those of [`Orders::SPIN`] took.
    spins: Stalls,
}

impl Orders {
    const IDLE: u32 = u32::MAX;
    /// Turns in which nothing is done for about as long as a burst takes.
    const SPIN: u32 = u32::MAX - 1;

    fn new() -> Arc<Orders> {
        Arc::new(Orders { mode: AtomicU32::new(Orders::IDLE), ..Orders::default() })
    }

    fn rest(&self) {
        self.mode.store(Orders::IDLE, Relaxed);
    }

    /// Packets of a script, both directions, until it is told otherwise.
    fn run(&self, script: u32) {
        self.mode.store(2 * script, Relaxed);
    }

    /// One packet of each client of a script; `now` is told to the worker all the while, by how many packets were made.
    fn pass(&self, script: u32, clients: u32, now: impl Fn(u64) -> Tick) -> Result<(), String> {
        let (before, begun) = (self.made.get(), Instant::now());
        self.left.store(clients, Relaxed);
        self.mode.store(2 * script + 1, Release);
        while self.left.load(Acquire) > 0 {
            self.now.store(now(self.made.get() - before).0, Relaxed);
            if begun.elapsed() > PATIENCE {
                return Err("the worker does not get on".to_owned());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        self.now.store(now(clients.into()).0, Relaxed);
        self.rest();
        Ok(())
    }

    /// Turns in which nothing is done, for so long.
    fn spin(&self, time: Duration) -> Result<(), String> {
        let begun = Instant::now();
        self.mode.store(Orders::SPIN, Relaxed);
        while begun.elapsed() < time || self.spins.count() == 0 {
            if begun.elapsed() > time + PATIENCE {
                return Err("the worker does not get on".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.rest();
        Ok(())
    }

    fn is_given(&self, port: PortId) -> bool {
        match self.mode.load(Relaxed) {
            Orders::IDLE => false,
            // So that the worker does not sleep.
            Orders::SPIN => port == WAN,
            mode => mode.is_multiple_of(2) || port == WAN && self.left.load(Relaxed) > 0,
        }
    }
}

/// How long turns took, in which the worker had its CPU for itself.
#[derive(Default)]
struct Stalls {
    /// By the logarithm of the microseconds begun, from below 1 on.
    by_length: [Counter; 20],
    /// In nanoseconds of the CPU's time.
    longest: Counter,
    /// Others: the kernel, or whoever the machine belongs to, gave the CPU to somebody else, who left caches without what a worker needs.
    put_aside: Counter,
    longest_put_aside: Counter,
}

impl Stalls {
    fn note(&self, cpu_ns: u64, is_put_aside: bool) {
        if is_put_aside {
            self.put_aside.add(1);
            return self.longest_put_aside.set(self.longest_put_aside.get().max(cpu_ns));
        }
        let class = (u64::BITS - (cpu_ns / 1000).leading_zeros()) as usize;
        self.by_length[class.min(self.by_length.len() - 1)].add(1);
        self.longest.set(self.longest.get().max(cpu_ns));
    }

    fn count(&self) -> u64 {
        self.by_length.iter().map(Counter::get).sum::<u64>() + self.put_aside.get()
    }

    fn seen(&self) -> Turns {
        Turns {
            by_length: self.by_length.iter().map(Counter::get).collect(),
            longest_us: self.longest.get() as f64 / 1e3,
            put_aside: self.put_aside.get(),
            longest_put_aside_us: self.longest_put_aside.get() as f64 / 1e3,
        }
    }
}

/// Nanoseconds of a turn without a path.
const A_SPIN: f64 = 10e3;

/// The path, with the generator before it.
struct Driven {
    path: Path<BenchFrame>,
    scripts: Vec<Script>,
    orders: Arc<Orders>,
    per_ns: f64,
    /// Nanoseconds of the CPU's time that the path had in the turn so far, during a pass.
    spent: u64,
    /// When the last turn that was noted ended, and what is timed.
    noted: Moment,
    timed: Moment,
}

impl Driven {
    /// Writes the packets that are asked for. Returns whether it is a pass.
    fn fill(&mut self, burst: &mut Burst<BenchFrame>) -> bool {
        let mode = self.orders.mode.load(Acquire);
        let port = burst.first().map_or(WAN, Packet::port);
        let is_pass = !mode.is_multiple_of(2);
        let Some(script) = self.scripts.get_mut(mode as usize / 2) else {
            burst.clear();
            return false;
        };
        if is_pass {
            let left = self.orders.left.load(Relaxed) as usize;
            if left == script.clients() {
                script.rewind();
            }
            burst.truncate(left);
        }
        for frame in burst.iter_mut() {
            if let Some(bytes) = frame.data_mut().first_chunk_mut() {
                script.write(port, bytes);
            }
        }
        is_pass
    }

    fn timed(&mut self, what: impl FnOnce(&mut Path<BenchFrame>)) {
        let begun = Moment::now();
        what(&mut self.path);
        self.timed = Moment::now();
        self.spent += self.timed.cpu_ns - begun.cpu_ns;
    }

    /// What was timed was a turn's.
    fn note(&mut self, stalls: impl Fn(&Orders) -> &Stalls) {
        let (before, now) = (std::mem::replace(&mut self.noted, self.timed), self.timed);
        let passed = (now.cycles - before.cycles) as f64 / self.per_ns;
        let had = (now.cpu_ns - before.cpu_ns) as f64;
        stalls(&self.orders).note(std::mem::take(&mut self.spent), passed > had + A_SWITCH);
    }
}

impl Logic<BenchFrame> for Driven {
    fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        self.path.adopt(tables)
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<BenchFrame>, _: Tick, io: &mut impl Io<BenchFrame>) {
        let start = tsc::now();
        let is_pass = self.fill(burst);
        let (made, now) = (burst.len(), Tick(self.orders.now.load(Relaxed)));
        self.orders.made.add(made as u64);
        self.orders.making.add(tsc::now() - start);
        if is_pass {
            self.timed(|path| path.receive(burst, now, io));
            let left = self.orders.left.load(Relaxed);
            self.orders.left.store(left - made as u32, Release);
        } else {
            self.path.receive(burst, now, io);
        }
    }

    fn receive_handed_over(
        &mut self,
        burst: &mut ArrayVec<(BenchFrame, Steer), BURST>,
        _: Tick,
        io: &mut impl Io<BenchFrame>,
    ) {
        self.path.receive_handed_over(burst, Tick(self.orders.now.load(Relaxed)), io);
    }

    #[inline]
    fn receive_plain(&mut self, burst: &mut Burst<BenchFrame>, _: Tick, io: &mut impl Io<BenchFrame>) {
        self.path.receive_plain(burst, Tick(self.orders.now.load(Relaxed)), io);
    }

    fn receive_from_twin(
        &mut self,
        port: PortId,
        burst: &mut Burst<BenchFrame>,
        now: Tick,
        io: &mut impl Io<BenchFrame>,
    ) {
        self.path.receive_from_twin(port, burst, now, io);
    }

    #[inline]
    fn turn(&mut self, _: Tick, io: &mut impl Io<BenchFrame>) {
        let now = Tick(self.orders.now.load(Relaxed));
        if self.orders.mode.load(Relaxed) == Orders::SPIN {
            let until = tsc::now() + (A_SPIN * self.per_ns) as u64;
            self.timed(|_| while tsc::now() < until {});
            return self.note(|orders| &orders.spins);
        }
        if self.spent == 0 {
            return self.path.turn(now, io);
        }
        self.timed(|path| path.turn(now, io));
        self.note(|orders| &orders.stalls);
    }

    fn list(&self, cursor: u32, budget: u32, _: Tick, visit: &mut dyn FnMut(FlowView)) -> Option<u32> {
        let now = Tick(self.orders.now.load(Relaxed));
        self.path.list(cursor, budget, now, &mut |flow| visit(flow))
    }

    fn order(&mut self, original: &Tuple, order: &Order, now: Tick) -> Outcome {
        self.path.order(original, order, now)
    }
}

/// Workers that run, and what each is told.
struct Crew {
    team: Team,
    orders: Vec<Arc<Orders>>,
}

/// What a worker has done up to a moment.
#[derive(Clone, Copy)]
struct Done {
    at: u64,
    sent: u64,
    making: u64,
}

impl Done {
    /// Cycles a packet since then, the generator's not counted.
    fn cycles_since(&self, before: &Done) -> f64 {
        let cycles = (self.at - before.at).saturating_sub(self.making - before.making);
        cycles as f64 / (self.sent - before.sent) as f64
    }
}

impl Crew {
    /// One worker on each CPU, each with room for so many connections and with scripts of its own.
    fn start(
        cpus: &[u32],
        connections: u32,
        huge_pages: bool,
        scripts: Vec<Vec<Script>>,
    ) -> Result<Crew, String> {
        let workers = cpus.len();
        let counters: Arc<[_]> =
            (0..workers).map(|_| Arc::new(WorkerCounters::new(SPREAD.server_capacity(), 2))).collect();
        let uses = Arc::new(Uses::new(workers, connections));
        let orders: Vec<Arc<Orders>> = cpus.iter().map(|_| Orders::new()).collect();
        let per_ns = tsc::per_nanosecond();
        let mut members = Vec::new();
        for (index, scripts) in scripts.into_iter().enumerate() {
            let memory = take_region(memory_needed(connections, 0), huge_pages);
            let config = PathConfig {
                worker: WorkerId(index as u16),
                counters: counters.clone(),
                max_connections: connections,
                max_ipv6_connections: 0,
                uses: uses.clone(),
                memory: memory.map_err(|error| error.to_string())?,
                hash_seed: HASH_SEED,
                rss: None,
                now: Tick(0),
            };
            let seat = |port| {
                let line = Line::new(port, orders[index].clone());
                Seat { queue: Queue::Own(line), twin: Twin::None }
            };
            let orders = orders[index].clone();
            let logic = move || Driven {
                path: Path::new(config),
                scripts,
                orders,
                per_ns,
                spent: 0,
                noted: Moment::default(),
                timed: Moment::default(),
            };
            members.push(Member {
                cpu: Some(cpus[index]),
                seats: [WAN, LAN].map(seat).into(),
                pool: NoFrames,
                logic,
            });
        }
        let team =
            Team::start::<Gear, _, _>(members, counters, Idle::Sleep).map_err(|error| error.to_string())?;
        let tables = Arc::new(tables(SPREAD, Forward::Masq));
        let generation = tables.generation;
        team.publish(tables);
        let begun = Instant::now();
        while !team.generation_everywhere(generation) {
            if begun.elapsed() > PATIENCE {
                return Err("the workers do not take their tables".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Crew { team, orders })
    }

    fn run(&self, script: u32) {
        self.orders.iter().for_each(|orders| orders.run(script));
    }

    fn rest(&self) {
        self.orders.iter().for_each(|orders| orders.rest());
        // What is in rings and buffers goes out.
        std::thread::sleep(Duration::from_millis(2));
    }

    fn done(&self) -> Vec<Done> {
        let done = |(orders, counters): (&Arc<Orders>, &Arc<WorkerCounters>)| Done {
            at: tsc::now(),
            sent: [WAN, LAN].map(|port| counters.port(port).tx_packets.get()).iter().sum(),
            making: orders.making.get(),
        };
        self.orders.iter().zip(self.team.counters().iter()).map(done).collect()
    }

    /// Packets a cycle of all workers, the generator's time taken off, while they run for so long.
    fn rate(&self, window: Duration) -> f64 {
        let before = self.done();
        std::thread::sleep(window);
        let rate = |(before, after): (Done, Done)| 1.0 / after.cycles_since(&before);
        before.into_iter().zip(self.done()).map(rate).sum()
    }
}
