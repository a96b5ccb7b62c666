//! Goal: after the start the worker loop allocates nothing.
//! Method: an allocator that counts, while the workers forward between null ports and this thread only waits.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Wire, Wiring};
use lb_core::ids::PortId;
use lb_dataplane::{Config, Dataplane, Idle, PortConfig};

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

#[test]
fn workers_that_run_allocate_nothing() {
    let port = |n: usize| PortConfig {
        name: format!("p{n}"),
        device: format!("net_null{n},copy=1"),
        mtu: 1500,
        twin: false,
    };
    let config = Config {
        workers: vec![0],
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
    };
    let dataplane = Dataplane::start_with(config, |path| {
        Wiring::new(Wire { worker: path.worker, host_ports_from: u16::MAX, obeys: false, flows: 0 })
    })
    .unwrap();
    let counters = dataplane.counters()[0].clone();
    let sent = || counters.port(PortId(1)).tx_packets.get();
    let wait_for = |packets: u64| {
        let goal = sent() + packets;
        for _ in 0..3000 {
            if sent() >= goal {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the worker stands still");
    };
    wait_for(1000);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    wait_for(200_000);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
}
