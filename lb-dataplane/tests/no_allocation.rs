//! Goal: after the start the worker loop allocates nothing and makes no system call.
//! Method: an allocator that counts, and a process that dies of a worker's system call, while the workers forward between
//! null ports, pass packets on to each other, adopt tables and list connections. (Twins and idle workers that nap are left out:
//! they wake a sleeping thread or sleep themselves, both by a system call.)
#![allow(unsafe_code)]

mod common;
#[path = "../../lb-core/tests/sealed/mod.rs"]
mod sealed;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use common::{Wire, Wiring};
use lb_core::counters::WorkerCounters;
use lb_core::flow::Tuple;
use lb_core::ids::{PortId, WorkerId};
use lb_core::packet::Packet;
use lb_core::path::{BURST, Burst, FlowView, Io, Order, Outcome, PathConfig, Ports, Sought, Steer};
use lb_core::tables::{Protocol, Tables};
use lb_core::time::Tick;
use lb_dataplane::{Config, Dataplane, Idle, Logic, PortConfig};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: all is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn config(workers: Vec<u32>) -> Config {
    let port = |n: usize| PortConfig {
        name: format!("p{n}"),
        device: format!("net_null{n},copy=1"),
        mtu: 1500,
        outside: false,
        twin: false,
    };
    Config {
        workers,
        driver_args: Vec::new(),
        memory_mb: 256,
        huge_pages: false,
        flow_memory: lb_dataplane::FlowMemory::Forgotten,
        max_connections: 1000,
        max_ipv6_connections: 10,
        max_servers: 4,
        ports: vec![port(0), port(1)],
        idle: Idle::Pause,
        hash_seed: Some(1),
    }
}

fn wiring(worker: WorkerId) -> Wiring {
    Wiring::new(Wire { worker, host_ports_from: u16::MAX, obeys: false, flows: 5000 })
}

/// Waits for something that workers do.
fn until(mut is_done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is_done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the workers stand still");
}

/// Packets that the workers have sent.
fn sent(dataplane: &Dataplane) -> u64 {
    let of =
        |worker: &Arc<WorkerCounters>| (0..2).map(|n| worker.port(PortId(n)).tx_packets.get()).sum::<u64>();
    dataplane.counters().iter().map(of).sum()
}

#[test]
fn workers_that_run_allocate_nothing() {
    let dataplane = Dataplane::start_with(config(vec![0]), |path| wiring(path.worker)).unwrap();
    let wait_for = |packets: u64| {
        let goal = sent(&dataplane) + packets;
        until(|| sent(&dataplane) >= goal);
    };
    wait_for(1000);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    wait_for(200_000);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
}

/// Workers seal themselves when this is set, and count themselves.
static SEAL: AtomicBool = AtomicBool::new(false);
static SEALED: AtomicU64 = AtomicU64::new(0);

/// A logic whose thread makes no system call any more, once it has been told so.
struct Sealed {
    logic: Wiring,
    /// Gets a packet of each burst.
    other: Option<WorkerId>,
    is_sealed: bool,
}

impl<P: Packet> Logic<P> for Sealed {
    fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        Logic::<P>::adopt(&mut self.logic, tables)
    }

    fn receive(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        if let Some(other) = self.other
            && let Some(packet) = burst.pop()
        {
            io.hand_over(
                other,
                packet,
                Steer::Fragment(Ports { sport: 7, dport: 9, protocol: Protocol::UDP }),
            );
        }
        if let Some(other) = self.other
            && let Some(packet) = burst.pop()
        {
            io.hand_over(other, packet, Steer::Plain);
        }
        self.logic.receive(burst, now, io);
    }

    fn receive_handed_over(
        &mut self,
        burst: &mut ArrayVec<(P, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.logic.receive_handed_over(burst, now, io);
    }

    fn receive_plain(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        self.logic.receive_plain(burst, now, io);
    }

    fn receive_from_twin(&mut self, port: PortId, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        self.logic.receive_from_twin(port, burst, now, io);
    }

    fn turn(&mut self, now: Tick, io: &mut impl Io<P>) {
        self.logic.turn(now, io);
        if !self.is_sealed && SEAL.load(Ordering::Relaxed) {
            self.is_sealed = true;
            sealed::seal();
            SEALED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn list(&self, cursor: u32, budget: u32, now: Tick, visit: &mut dyn FnMut(FlowView)) -> Option<u32> {
        Logic::<P>::list(&self.logic, cursor, budget, now, visit)
    }

    fn order(&mut self, original: &Tuple, order: &Order, now: Tick) -> Outcome {
        Logic::<P>::order(&mut self.logic, original, order, now)
    }
}

#[test]
fn workers_that_run_make_no_system_call() {
    let outcome = sealed::outcome("workers_that_run_make_no_system_call", || {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get().min(2) as u32);
        let logic = move |path: PathConfig| {
            let other = (cpus > 1).then_some(WorkerId(1 - path.worker.0.min(1)));
            Sealed { logic: wiring(path.worker), other, is_sealed: false }
        };
        let dataplane = Dataplane::start_with(config((0..cpus).collect()), logic).unwrap();
        until(|| sent(&dataplane) >= 1000);
        SEAL.store(true, Ordering::Relaxed);
        until(|| SEALED.load(Ordering::Relaxed) == u64::from(cpus));
        for generation in 1..50 {
            dataplane.publish(Arc::new(Tables { generation, ..Tables::default() }));
            until(|| dataplane.generation_everywhere(generation));
        }
        let mut listed = 0;
        let mut visit = |_, _| {
            listed += 1;
            ControlFlow::Continue(())
        };
        dataplane.list_flows(&Sought::default(), &mut visit).unwrap();
        assert_eq!(listed, 5000 * cpus);
        let goal = sent(&dataplane) + 200_000;
        until(|| sent(&dataplane) >= goal);
        let handed_in = |worker: &Arc<WorkerCounters>| worker.turns.handed_in.get() > 0;
        assert!(cpus == 1 || dataplane.counters().iter().all(handed_in));
        sealed::done();
    });
    assert_eq!(outcome, sealed::Outcome::NoCall, "or a worker panicked");
}
