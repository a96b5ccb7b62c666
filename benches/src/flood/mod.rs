//! What packets of open connections keep of their rate while a flood of new ones comes.
//!
//! The worker is the real one, on ports in memory that lose what finds no room in their ring, as a NIC does.
//! Its turns are taken here, one after the other, and time is what they take: the clock stands still while
//! packets are made, and while the machine does something else. Between two looks at a port comes what comes
//! at equal distances in that time.

mod line;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_core::counters::WorkerCounters;
use lb_core::flow::memory_needed;
use lb_core::flow::template::Uses;
use lb_core::ids::WorkerId;
use lb_core::mem::Region;
use lb_core::path::{Path, PathConfig};
use lb_core::tables::Tables;
use lb_core::time::Tick;
use lb_dataplane::{Member, Queue, Seat, Stepped, Twin};

use self::line::{InYard, Kind, Line, NoFrames, Offer, Yard};
use crate::frame::BenchFrame;
use crate::measure::Kept;
use crate::runs::Runs;
use crate::traffic::{Flood, LAN, SERVER_CAPACITY, Spread, Traffic, Transport, WAN, tables};
use crate::tsc;

const ONLY: WorkerId = WorkerId(0);
/// Of the worker's time, what packets of open connections need.
const LOAD: f64 = 0.3;

/// What is measured.
#[derive(Clone, Copy)]
pub struct Plan {
    pub transport: Transport,
    /// Connections that are open, and those that the table has room for: the flood has the others.
    pub flows: u32,
    pub capacity: u32,
    /// Packets of open connections in each window.
    pub packets: u64,
    pub runs: Runs,
    /// As many new connections as the worker can take, if nothing else came.
    pub times: f64,
}

/// Measures in this thread: in turns the open connections' packets alone, with the flood, and with the flood
/// while nobody gives way.
pub fn measure<T: Traffic + Send + 'static>(traffic: T, plan: Plan) -> Kept {
    let mut stand = Stand::new(traffic, plan);
    stand.open();
    let known = stand.cost(Kind::Known, false, plan.packets);
    // Until the flood has all places that it can get.
    stand.cost(Kind::New, false, 2 * u64::from(plan.capacity));
    let new = stand.cost(Kind::New, false, plan.packets);
    // Nearly all of them give way.
    stand.cost(Kind::New, true, plan.packets / 10);
    let dropped = stand.cost(Kind::New, true, plan.packets);
    let (known_apart, new_apart) = (known / LOAD, new / plan.times);
    let per_ns = tsc::per_nanosecond();
    let mut kept = Kept {
        alone: Vec::new(),
        flooded: Vec::new(),
        undefended: Vec::new(),
        known_ns: known / per_ns,
        new_ns: new / per_ns,
        dropped_ns: dropped / per_ns,
    };
    for _ in plan.runs.each() {
        let mut window = |new, gives_way| {
            let a_cycle = stand.window(known_apart, new, gives_way, plan.packets);
            a_cycle * per_ns * 1e9
        };
        kept.alone.push(window(None, true));
        kept.flooded.push(window(Some(new_apart), true));
        kept.undefended.push(window(Some(new_apart), false));
    }
    kept
}

struct Stand<T: Traffic + Send + 'static> {
    worker: Stepped<InYard<T>, Path<BenchFrame>>,
    yard: Arc<Mutex<Yard<T>>>,
    counters: Arc<WorkerCounters>,
    /// Where nobody gives way, and where newcomers do.
    tables: [Arc<Tables>; 2],
    now: Tick,
}

impl<T: Traffic + Send + 'static> Stand<T> {
    fn new(traffic: T, plan: Plan) -> Stand<T> {
        let counters: Arc<[_]> = [Arc::new(WorkerCounters::new(SERVER_CAPACITY, 2))].into();
        let config = PathConfig {
            worker: ONLY,
            counters: counters.clone(),
            max_connections: plan.capacity,
            max_ipv6_connections: 0,
            uses: Arc::new(Uses::new(1, plan.capacity)),
            memory: Region::heap(memory_needed(plan.capacity, 0)),
            hash_seed: 0x5eed,
            rss: None,
            now: Tick(0),
        };
        let tables = [0, 1].map(|drop_newcomers| {
            let mut tables = tables(Spread::default(), traffic.forward());
            tables.settings.sysctls.drop_newcomers = drop_newcomers;
            Arc::new(tables)
        });
        let now = traffic.now();
        let yard = Arc::new(Mutex::new(Yard::new(traffic, Flood::new(plan.transport, plan.flows))));
        let seat = |port| Seat { queue: Queue::Own(Line::new(port, yard.clone())), twin: Twin::None };
        let logic = move || Path::new(config);
        let member = Member { cpu: None, seats: [WAN, LAN].map(seat).into(), pool: NoFrames, logic };
        let worker = Stepped::new(vec![member], counters.clone(), 1);
        Stand { worker, yard, counters: counters[0].clone(), tables, now }
    }

    fn yard(&self) -> MutexGuard<'_, Yard<T>> {
        self.yard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, gives_way: bool) {
        self.worker.publish_to(ONLY, self.tables[usize::from(gives_way)].clone());
    }

    fn turn(&mut self) {
        self.worker.turn(ONLY, self.now);
    }

    /// Opens the connections, and warms up.
    fn open(&mut self) {
        self.publish(false);
        while !self.yard().traffic.is_open() {
            self.turn();
        }
        // What is in the ports' buffers goes out.
        self.turn();
        let mut yard = self.yard();
        self.worker.logic(ONLY).list(0, u32::MAX, self.now, &mut |flow| yard.traffic.learn(flow));
        yard.traffic.begin();
        let (now, warm_up) = (yard.traffic.now(), yard.given + yard.traffic.warm_up());
        drop(yard);
        self.now = now;
        while self.yard().given < warm_up {
            self.turn();
        }
    }

    /// Cycles that a packet of this kind takes when no others come, of at least so many.
    fn cost(&mut self, kind: Kind, gives_way: bool, packets: u64) -> f64 {
        self.publish(gives_way);
        let (from, given) = {
            let mut yard = self.yard();
            yard.offer = Offer::Endless(kind);
            (yard.clock.now(), yard.given)
        };
        loop {
            self.turn();
            let mut yard = self.yard();
            let done = yard.given - given;
            if done >= packets {
                return (yard.clock.now() - from) as f64 / done as f64;
            }
        }
    }

    /// Packets of open connections that get through in a cycle, while at least so many come so far apart,
    /// each port with half of them, and new ones come to the clients' port.
    fn window(&mut self, known: f64, new: Option<f64>, gives_way: bool, packets: u64) -> f64 {
        self.publish(gives_way);
        let from = self.yard().begin_window(2.0 * known, new);
        let found = self.counters.flows.found.get();
        loop {
            self.turn();
            let mut yard = self.yard();
            if yard.known_came >= packets {
                let through = self.counters.flows.found.get() - found;
                return through as f64 / (yard.clock.now() - from) as f64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_core::tables::Forward;

    use super::*;
    use crate::traffic::Established;

    #[test]
    fn packets_of_open_connections_are_told_from_those_of_the_flood() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let runs = Runs::of(2);
            let plan = Plan { transport, flows: 1000, capacity: 2000, packets: 10_000, runs, times: 2.0 };
            let kept = measure(Established::new(transport, Forward::Masq, plan.flows), plan);
            assert_eq!([&kept.alone, &kept.flooded, &kept.undefended].map(Vec::len), [2; 3]);
            assert!(kept.alone.iter().chain(&kept.flooded).all(|rate| *rate > 0.0), "{kept:?}");
        }
    }
}
