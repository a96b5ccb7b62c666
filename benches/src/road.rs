//! The packet path alone, on one core: frames in memory that come from a generator and go back to it.
//!
//! No DPDK: what a change of `lb-core` gains or costs, and what callgrind counts. The figure with ports and
//! packet buffers is [`crate::worker`]'s.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use lb_core::counters::WorkerCounters;
use lb_core::flow::memory_needed;
use lb_core::flow::template::Uses;
use lb_core::ids::{PortId, WorkerId};
use lb_core::mem::Region;
use lb_core::path::{BURST, Burst, Io, Path, PathConfig, Steer};
use lb_core::tables::{InterfaceId, Tables};
use lb_core::time::Tick;

use crate::frame::BenchFrame;
use crate::measure::{Measured, Waited, Waits, resident_bytes};
use crate::runs::Runs;
use crate::traffic::{Counted, LAN, Spread, Traffic, WAN, fill, tables};
use crate::tsc;
use crate::waits::{Arrivals, Moment, own_cost};

/// The port that takes frames back.
#[derive(Default)]
struct Sink {
    free: Vec<BenchFrame>,
    sent: u64,
}

impl Io<BenchFrame> for Sink {
    #[inline(always)]
    fn transmit(&mut self, _: PortId, packet: BenchFrame) {
        self.sent += 1;
        self.free.push(packet);
    }
    fn to_twin(&mut self, _: PortId, packet: BenchFrame) {
        self.free.push(packet);
    }
    fn hand_over(&mut self, _: WorkerId, packet: BenchFrame, _: Steer) {
        self.free.push(packet);
    }
    fn allocate(&mut self) -> Option<BenchFrame> {
        None
    }
    fn resolve(&mut self, _: InterfaceId, _: IpAddr) {}
}

/// The director and the frames that go through it.
pub struct Road {
    path: Path<BenchFrame>,
    spread: Spread,
    rules: u32,
    counters: Arc<[Arc<WorkerCounters>]>,
    sink: Sink,
    burst: Burst<BenchFrame>,
    generated: u64,
    resident_before: u64,
}

/// Cycles a packet.
#[derive(Clone, Copy, Debug)]
struct Cost {
    path: f64,
    generator: f64,
}

impl Road {
    /// A path with room for `capacity` connections, and with so many rules.
    pub fn new(capacity: u32, spread: Spread, rules: u32) -> Road {
        let resident_before = resident_bytes();
        let counters: Arc<[Arc<WorkerCounters>]> =
            Arc::new([Arc::new(WorkerCounters::new(spread.server_capacity(), 2))]);
        let path = Path::new(PathConfig {
            worker: WorkerId(0),
            counters: counters.clone(),
            max_connections: capacity,
            max_ipv6_connections: 0,
            uses: Arc::new(Uses::new(1, capacity)),
            memory: Region::heap(memory_needed(capacity, 0)),
            hash_seed: 0x5eed,
            rss: None,
            now: Tick(0),
        });
        let mut sink = Sink::default();
        sink.free.extend((0..2 * BURST).map(|_| BenchFrame::new()));
        Road { path, spread, rules, counters, sink, burst: Burst::new(), generated: 0, resident_before }
    }

    /// Opens the connections that the traffic wants, warms up, and measures `packets` packets in each run.
    ///
    /// # Errors
    /// When something else went through than the traffic is about.
    pub fn measure(
        &mut self,
        traffic: &mut impl Traffic,
        packets: u64,
        runs: Runs,
    ) -> Result<Measured, String> {
        let resident = self.open(traffic);
        let before = self.counted();
        let run = |_| {
            self.begin_to_count();
            self.send(traffic, packets)
        };
        let costs: Vec<Cost> = runs.each().map(run).collect();
        traffic.check(&self.counted().since(before))?;
        let per_ns = tsc::per_nanosecond();
        Ok(Measured {
            ns: costs.iter().map(|cost| cost.path / per_ns).collect(),
            generator_ns: costs.iter().map(|cost| cost.generator / per_ns).sum::<f64>() / costs.len() as f64,
            resident_bytes: resident,
        })
    }

    /// Opens the connections, and warms up. Returns by how many bytes the process grew.
    fn open(&mut self, traffic: &mut impl Traffic) -> u64 {
        let rules = traffic.rules(self.rules);
        self.path.adopt(Arc::new(Tables { rules, ..tables(self.spread, traffic.forward()) }));
        while !traffic.is_open() {
            self.send(traffic, 1);
        }
        let resident = resident_bytes().saturating_sub(self.resident_before);
        self.path.list(0, u32::MAX, traffic.now(), &mut |flow| traffic.learn(flow));
        traffic.begin();
        self.send(traffic, traffic.warm_up());
        resident
    }

    /// How long packets of open connections wait and take, `packets` of them in each run, that come one by
    /// one at `load` (below 1) of the rate at which they can be generated and worked on.
    ///
    /// # Errors
    /// When something else went through than the traffic is about.
    pub fn wait(
        &mut self,
        traffic: &mut impl Traffic,
        packets: u64,
        runs: Runs,
        load: f64,
    ) -> Result<Waited, String> {
        self.open(traffic);
        let before = self.counted();
        let Cost { path, generator } = self.send(traffic, packets);
        let apart = (path + generator) / load;
        let per_ns = tsc::per_nanosecond();
        let [mut passed, mut own, mut control]: [Waits; 3] = Default::default();
        let mut switched = [0.0; 2];
        for _ in runs.each() {
            passed.add(&self.send_at_times(traffic, packets, apart), per_ns);
            // Turns between which clocks are read cost more than others: what a packet costs in full bursts
            // is measured in the same way.
            let each = self.send_by_cost(traffic, packets, ALL_AT_ONCE, per_ns).0.cost();
            let (arrivals, share) = self.send_by_cost(traffic, packets, each / load, per_ns);
            own.add(&arrivals.sorted(), per_ns);
            switched[0] += share;
            let (arrivals, share) = do_nothing(packets, each / load, (each, per_ns));
            control.add(&arrivals.sorted(), per_ns);
            switched[1] += share;
        }
        traffic.check(&self.counted().since(before))?;
        let switched = switched.map(|sum| sum / passed.p50_us.len() as f64);
        Ok(Waited { passed, own, control, switched })
    }

    /// The same as [`send_at_times`](Self::send_at_times), on a clock that a turn moves on by its [own
    /// cost](own_cost). And the share of the turns in which the thread had to leave its CPU.
    fn send_by_cost(
        &mut self,
        traffic: &mut impl Traffic,
        packets: u64,
        apart: f64,
        per_ns: f64,
    ) -> (Arrivals, f64) {
        let mut arrivals = Arrivals::new(apart, packets as usize + BURST);
        let (mut turns, mut switched) = (0u64, 0u64);
        while (arrivals.served() as u64) < packets {
            for port in [WAN, LAN] {
                let count = arrivals.waiting().min(BURST);
                let begun = Moment::now();
                self.make(traffic, port, count);
                self.go_through(port, traffic.now());
                let (cost, is_switched) = own_cost(Moment::end() - begun, per_ns);
                arrivals.serve(count, cost);
                turns += 1;
                switched += u64::from(is_switched);
            }
        }
        self.generated += arrivals.served() as u64;
        (arrivals, switched as f64 / turns as f64)
    }

    /// Sends at least so many packets, of which each comes `apart` cycles after the one before. Returns the
    /// cycles from each one's coming to its leaving, in order.
    fn send_at_times(&mut self, traffic: &mut impl Traffic, packets: u64, apart: f64) -> Vec<u32> {
        // Written to before, so that no page is waited for.
        let mut times = vec![u32::MAX; packets as usize + BURST];
        times.clear();
        let begun = tsc::now();
        while (times.len() as u64) < packets {
            for port in [WAN, LAN] {
                let came = ((tsc::now() - begun) as f64 / apart) as usize;
                let count = came.saturating_sub(times.len()).min(BURST);
                self.make(traffic, port, count);
                self.go_through(port, traffic.now());
                let left = (tsc::now() - begun) as f64;
                let first = times.len();
                times.extend((first..first + count).map(|n| (left - n as f64 * apart) as u32));
            }
        }
        self.generated += times.len() as u64;
        times.sort_unstable();
        times
    }

    fn counted(&self) -> Counted {
        Counted::now(&self.counters[0], self.generated, self.sink.sent)
    }

    /// Sends at least so many packets.
    fn send(&mut self, traffic: &mut impl Traffic, packets: u64) -> Cost {
        let (mut path, mut generator) = (0, 0);
        let mut sent = 0;
        while sent < packets {
            for port in [WAN, LAN] {
                let start = tsc::now();
                let count = traffic.count(port);
                self.make(traffic, port, count);
                let filled = tsc::now();
                self.go_through(port, traffic.now());
                path += tsc::now() - filled;
                generator += filled - start;
                sent += count as u64;
            }
        }
        self.generated += sent;
        Cost { path: path as f64 / sent as f64, generator: generator as f64 / sent as f64 }
    }

    /// A burst of so many packets.
    #[inline]
    fn make(&mut self, traffic: &mut impl Traffic, port: PortId, count: usize) {
        for mut frame in self.sink.free.drain(self.sink.free.len() - count..) {
            frame.reset(port);
            self.burst.push(frame);
        }
        fill(traffic, port, &mut self.burst);
    }

    /// Callgrind, which finds it by name, forgets here what it has counted.
    #[inline(never)]
    fn begin_to_count(&self) {
        black_box(&self.sink);
    }

    /// What is measured. Callgrind counts what goes on in this function, which it finds by name.
    #[inline(never)]
    fn go_through(&mut self, port: PortId, now: Tick) {
        self.path.receive(&mut self.burst, now, &mut self.sink);
        // As in a worker: once for all ports.
        if port == LAN {
            self.path.turn(now, &mut self.sink);
        }
        black_box(&mut self.sink);
    }
}

/// Cycles between packets that come faster than any can be served.
const ALL_AT_ONCE: f64 = 1.0;

/// What [`Road::send_by_cost`] measures where nothing is done for `each` cycles a packet: the machine's part.
fn do_nothing(packets: u64, apart: f64, (each, per_ns): (f64, f64)) -> (Arrivals, f64) {
    let mut arrivals = Arrivals::new(apart, packets as usize + BURST);
    let (mut turns, mut switched) = (0u64, 0u64);
    while (arrivals.served() as u64) < packets {
        let count = arrivals.waiting().min(BURST);
        let begun = Moment::now();
        let until = begun.cycles + (each * count as f64) as u64;
        while tsc::now() < until {}
        let (cost, is_switched) = own_cost(Moment::end() - begun, per_ns);
        arrivals.serve(count, cost);
        turns += 1;
        switched += u64::from(is_switched);
    }
    (arrivals, switched as f64 / turns as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Scenario, Visit};

    struct Measure(u64);

    impl Visit for Measure {
        type Output = Result<Measured, String>;

        fn visit<T: Traffic + Send + 'static>(self, mut traffic: T) -> Self::Output {
            Road::new(8000, Spread::default(), 0).measure(&mut traffic, self.0, Runs::of(2))
        }
    }

    #[test]
    fn every_scenario_is_about_what_it_says() {
        for scenario in Scenario::all() {
            let packets = 40_000 * scenario.packets_each();
            let measured = scenario.with(2000, Measure(packets)).unwrap();
            assert_eq!(measured.ns.len(), 2, "{scenario}");
        }
    }

    struct Wait;

    impl Visit for Wait {
        type Output = Result<Waited, String>;

        fn visit<T: Traffic + Send + 'static>(self, mut traffic: T) -> Self::Output {
            Road::new(8000, Spread::default(), 0).wait(&mut traffic, 20_000, Runs::of(2), 0.1)
        }
    }

    #[test]
    fn packets_that_come_one_by_one_leave_and_some_take_longer() {
        let waited = Scenario::Masq(crate::traffic::Transport::Udp).with(2000, Wait).unwrap();
        for waits in [&waited.passed, &waited.own, &waited.control] {
            assert_eq!(waits.p50_us.len(), 2);
            assert!(waits.p50_us.iter().zip(&waits.p999_us).all(|(half, most)| half <= most));
        }
        assert!(waited.switched.iter().all(|share| (0.0..=1.0).contains(share)));
    }
}
