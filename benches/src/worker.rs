//! The packet path in a real worker: DPDK's null ports, packet buffers from its pool, the worker's own loop.
//!
//! A null port gives buffers without content and takes them back. The generator stands between the worker and
//! the path: it writes the packets into the buffers, and its time is taken off. What is left is all that a
//! packet costs a core: taking and giving back its buffer, the worker's turn, the path. DPDK starts once a
//! process, so that each measure is a process.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use arrayvec::ArrayVec;
use lb_benches::measure::{Measured, Scenario, Visit};
use lb_benches::runs::Runs;
use lb_benches::traffic::{
    Counted, LAN, LEN, SERVER_CAPACITY, Spread, Traffic, Transport, WAN, fill, tables,
};
use lb_benches::tsc;
use lb_core::counters::WorkerCounters;
use lb_core::flow::Tuple;
use lb_core::ids::PortId;
use lb_core::packet::Packet;
use lb_core::path::{BURST, Burst, FlowView, Io, Order, Path, PathConfig, Steer};
use lb_core::tables::Tables;
use lb_core::time::Tick;
use lb_dataplane::{Config, Dataplane, Idle, Logic, Mbuf, PortConfig};

/// A measure that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is measured, and where.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) flows: u32,
    /// In chain INPUT: see `ruleset`.
    pub(crate) rules: u32,
    pub(crate) packets: u64,
    pub(crate) runs: Runs,
    pub(crate) cpu: u32,
    pub(crate) huge_pages: bool,
}

/// Measures in this process.
///
/// # Errors
/// When DPDK does not start, or something else went through than was to be measured.
pub(crate) fn measure(plan: Plan) -> Result<Measured> {
    plan.scenario.with(plan.flows, Drive(plan))
}

struct Drive(Plan);

impl Visit for Drive {
    type Output = Result<Measured>;

    fn visit<T: Traffic + Send + 'static>(self, traffic: T) -> Self::Output {
        let plan = self.0;
        let (tell, outcome) = mpsc::channel();
        let hand = Arc::new(Mutex::new(Some((traffic, tell))));
        let dataplane = Dataplane::start_with(config(&plan), move |path| {
            let taken = hand.lock().ok().and_then(|mut hand| hand.take());
            let (traffic, tell) = taken.expect("one worker, which has its logic made once");
            Driven::new(path, traffic, &plan, tell)
        })?;
        let measured = outcome.recv_timeout(PATIENCE).context("the worker says nothing")?;
        dataplane.stop();
        measured.map_err(|reason| anyhow!(reason))
    }
}

fn config(plan: &Plan) -> Config {
    let port = |name: &str, device: String| PortConfig {
        name: name.to_owned(),
        device,
        mtu: 1500,
        outside: false,
        twin: false,
    };
    // Nothing comes back for connections of one packet, nor where real servers answer by another way.
    let no_rx = u8::from(matches!(plan.scenario, Scenario::New(Transport::Udp) | Scenario::OneWay(_)));
    Config {
        workers: vec![plan.cpu],
        driver_args: Vec::new(),
        memory_mb: 2048,
        huge_pages: plan.huge_pages,
        flow_memory: lb_dataplane::FlowMemory::Forgotten,
        max_connections: plan.scenario.capacity(plan.flows),
        max_ipv6_connections: 0,
        max_servers: SERVER_CAPACITY,
        ports: vec![
            port("wan", format!("net_null0,size={LEN}")),
            port("lan", format!("net_null1,size={LEN},no-rx={no_rx}")),
        ],
        idle: Idle::Poll,
        hash_seed: Some(0x5eed),
    }
}

type Outcome = Result<Measured, String>;

/// The path, with the generator before it.
struct Driven<T> {
    path: Path<Mbuf>,
    counters: Arc<[Arc<WorkerCounters>]>,
    traffic: T,
    stage: Stage,
    packets: u64,
    runs: Runs,
    /// When the first of them began.
    measuring_since: Instant,
    begun: Tick,
    tell: mpsc::Sender<Outcome>,
    /// Cycles that the generator took, and packets that it made.
    generating: u64,
    generated: u64,
    /// Cycles a packet, of the path and the generator, by run.
    costs: Vec<[f64; 2]>,
    before: Counted,
}

enum Stage {
    /// Connections are being opened.
    Open,
    /// Until so many packets were made.
    WarmUp(u64),
    /// Since then, in cycles; the generator's figures were those.
    Run {
        since: u64,
        generating: u64,
        generated: u64,
    },
    Over,
}

impl<T: Traffic> Driven<T> {
    /// The traffic's time begins where the worker's clock stood, which the path's timers began with.
    fn now(&self) -> Tick {
        Tick(self.begun.0.wrapping_add(self.traffic.now().0))
    }

    fn new(config: PathConfig, traffic: T, plan: &Plan, tell: mpsc::Sender<Outcome>) -> Driven<T> {
        let (counters, begun) = (config.counters.clone(), config.now);
        let mut path = Path::new(config);
        let rules = traffic.rules(plan.rules);
        path.adopt(Arc::new(Tables { rules, ..tables(Spread::default(), traffic.forward()) }));
        Driven {
            path,
            counters,
            traffic,
            stage: Stage::Open,
            packets: plan.packets,
            runs: plan.runs,
            measuring_since: Instant::now(),
            begun,
            tell,
            generating: 0,
            generated: 0,
            costs: Vec::with_capacity(plan.runs.most as usize),
            before: Counted::default(),
        }
    }

    /// Goes on to the next stage when this one is done. Called before each round of the ports.
    fn advance(&mut self, now: u64) {
        match self.stage {
            Stage::Open if self.traffic.is_open() => {
                let (path, traffic) = (&self.path, &mut self.traffic);
                let tick = traffic.now();
                path.list(0, u32::MAX, tick, &mut |flow| traffic.learn(flow));
                traffic.begin();
                self.stage = Stage::WarmUp(self.generated + traffic.warm_up());
            }
            Stage::WarmUp(until) if self.generated >= until => {
                self.before = self.counted();
                self.measuring_since = Instant::now();
                self.stage = self.run_from(now);
            }
            Stage::Run { since, generating, generated } if self.generated - generated >= self.packets => {
                let packets = (self.generated - generated) as f64;
                let own = self.generating - generating;
                self.costs.push([(now - since - own) as f64 / packets, own as f64 / packets]);
                self.stage = self.run_from(now);
                if !self.runs.goes_on(self.costs.len() as u32, self.measuring_since.elapsed()) {
                    self.stage = Stage::Over;
                    // When nobody listens any more the process is about to end.
                    let _nobody = self.tell.send(self.outcome());
                }
            }
            _ => {}
        }
    }

    fn run_from(&self, now: u64) -> Stage {
        Stage::Run { since: now, generating: self.generating, generated: self.generated }
    }

    fn counted(&self) -> Counted {
        let counters = &self.counters[0];
        let sent = [WAN, LAN].map(|port| counters.port(port).tx_packets.get());
        Counted::now(counters, self.generated, sent.iter().sum())
    }

    fn outcome(&self) -> Outcome {
        self.traffic.check(&self.counted().since(self.before))?;
        let per_ns = tsc::per_nanosecond();
        let generator: f64 = self.costs.iter().map(|cost| cost[1]).sum();
        Ok(Measured {
            ns: self.costs.iter().map(|cost| cost[0] / per_ns).collect(),
            generator_ns: generator / per_ns / self.costs.len() as f64,
            resident_bytes: 0,
        })
    }
}

impl<T: Traffic> Logic<Mbuf> for Driven<T> {
    fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        self.path.adopt(tables)
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<Mbuf>, _: Tick, io: &mut impl Io<Mbuf>) {
        let start = tsc::now();
        let port = burst.first().map_or(WAN, Packet::port);
        if port == WAN {
            self.advance(start);
        }
        if matches!(self.stage, Stage::Over) {
            return burst.clear();
        }
        let count = self.traffic.count(port);
        burst.truncate(count);
        fill(&mut self.traffic, port, burst);
        self.generated += burst.len() as u64;
        self.generating += tsc::now() - start;
        self.path.receive(burst, self.now(), io);
    }

    fn receive_handed_over(
        &mut self,
        burst: &mut ArrayVec<(Mbuf, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<Mbuf>,
    ) {
        self.path.receive_handed_over(burst, now, io);
    }

    fn receive_from_twin(
        &mut self,
        port: PortId,
        burst: &mut Burst<Mbuf>,
        now: Tick,
        io: &mut impl Io<Mbuf>,
    ) {
        self.path.receive_from_twin(port, burst, now, io);
    }

    #[inline]
    fn turn(&mut self, _: Tick, io: &mut impl Io<Mbuf>) {
        self.path.turn(self.now(), io);
    }

    fn list(&self, cursor: u32, budget: u32, now: Tick, visit: &mut dyn FnMut(FlowView)) -> Option<u32> {
        self.path.list(cursor, budget, now, &mut |flow| visit(flow))
    }

    fn order(&mut self, original: &Tuple, order: &Order, now: Tick) -> lb_core::path::Outcome {
        self.path.order(original, order, now)
    }
}
