//! Goal: DPDK starts, moves packets, stops, and what cannot start is told in one line; no privilege is needed.
//! Method: `net_null` and `net_ring` ports in ordinary memory. DPDK starts once a process, so that each case runs in a
//! process of its own: the test binary runs itself with the case's name in the environment.

mod common;

use std::ops::ControlFlow;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Wire, Wiring};
use lb_core::counters::PortCell;
use lb_core::ids::PortId;
use lb_core::path::{PathConfig, Sought};
use lb_core::tables::Tables;
use lb_dataplane::{Config, Dataplane, Idle, PortConfig};

const CASE: &str = "LB_TEST_CASE";

/// Runs a case in a process of its own and returns what it said, or fails with what it said.
fn run(case: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CASE, case)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {out}\n{error}");
    assert!(!error.contains("EAL:"), "DPDK's own words: {error}");
    out.lines()
        .find_map(|line| line.split_once("said: "))
        .map(|(_, said)| said.to_owned())
        .unwrap_or_default()
}

#[test]
fn child() {
    match std::env::var(CASE).as_deref() {
        Ok("forward") => forward(),
        Ok("twice") => twice(),
        Ok("path") => path(),
        Ok("stop") => stop(),
        Ok(device) => refuse(device),
        Err(_) => {}
    }
}

fn config(devices: &[&str]) -> Config {
    let port = |(index, device): (usize, &&str)| PortConfig {
        name: format!("p{index}"),
        device: (*device).to_owned(),
        mtu: 1500,
        outside: false,
        twin: false,
    };
    Config {
        workers: vec![0],
        driver_args: Vec::new(),
        memory_mb: 256,
        huge_pages: false,
        flow_memory: lb_dataplane::FlowMemory::Forgotten,
        max_connections: 1000,
        max_ipv6_connections: 1000,
        max_servers: 4,
        ports: devices.iter().enumerate().map(port).collect(),
        idle: Idle::Pause,
        hash_seed: None,
    }
}

fn wiring(path: PathConfig) -> Wiring {
    Wiring::new(Wire { worker: path.worker, host_ports_from: u16::MAX, obeys: false, flows: 10 })
}

fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn null_ports_forward_and_count() {
    run("forward");
}

fn forward() {
    let dataplane =
        Dataplane::start_with(config(&["net_null0,size=100,copy=1", "net_null1"]), wiring).unwrap();
    let ports = dataplane.ports();
    assert_eq!(
        ports.iter().map(|p| (p.name.as_str(), p.driver.as_str(), p.queues)).collect::<Vec<_>>(),
        [("p0", "net_null", 1), ("p1", "net_null", 1)]
    );
    assert!(ports[0].link.contains("up"), "{}", ports[0].link);
    let counters = dataplane.counters()[0].clone();
    let (first, second): (&PortCell, &PortCell) = (counters.port(PortId(0)), counters.port(PortId(1)));
    until(|| second.tx_packets.get() > 100_000 && first.tx_packets.get() > 100_000);
    assert!(first.rx_bytes.get() >= first.rx_packets.get() / 2 * 100);
    assert!(dataplane.port_stats(PortId(0)).unwrap().rx_packets > 0);
    assert!(dataplane.port_stats(PortId(2)).is_none());
    dataplane.publish(Arc::new(Tables { generation: 3, ..Tables::default() }));
    until(|| dataplane.generation_everywhere(3));
    let mut flows = 0;
    dataplane
        .list_flows(&Sought::default(), &mut |_, _| {
            flows += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(flows, 10);
    dataplane.stop();
    let (sent, received) =
        (first.tx_packets.get() + second.tx_packets.get(), first.rx_packets.get() + second.rx_packets.get());
    assert_eq!(sent, received, "every packet that came in went out");
}

#[test]
fn the_packet_path_runs_on_a_port() {
    run("path");
}

/// `net_null` gives frames of zeros, which no path takes.
fn path() {
    let dataplane = Dataplane::start(config(&["net_null0"])).unwrap();
    let counters = dataplane.counters()[0].clone();
    assert_eq!(counters.port(PortId(0)).rx_packets.get(), 0, "no packet before the first tables");
    dataplane.publish(Arc::new(Tables { generation: 1, ..Tables::default() }));
    until(|| dataplane.generation_everywhere(1));
    until(|| counters.port(PortId(0)).rx_packets.get() > 10_000);
    assert!(dataplane.tsc_hz() > 1_000_000);
    assert_eq!(dataplane.counters().len(), 1);
    assert_eq!(counters.port(PortId(0)).tx_packets.get(), 0);
}

#[test]
fn every_buffer_is_back_when_the_workers_have_ended() {
    run("stop");
}

/// A ring port holds what was sent until it is received: two workers pass frames on and on, and are stopped in it.
fn stop() {
    let mut config = config(&["net_null0", "net_null1", "net_ring0"]);
    if std::thread::available_parallelism().unwrap().get() > 1 {
        config.workers = vec![0, 1];
    }
    let dataplane = Dataplane::start_with(config, wiring).unwrap();
    let turns = |worker: usize| dataplane.counters()[worker].turns.turns.get();
    until(|| (0..dataplane.counters().len()).all(|worker| turns(worker) > 1000));
    // Between two bursts there may be none in use, for a moment.
    until(|| dataplane.buffers_in_use() > 0);
    dataplane.stop();
}

#[test]
fn dpdk_starts_once_in_a_process() {
    assert_eq!(run("twice"), "DPDK was started in this process before, and can be only once");
}

fn twice() {
    Dataplane::start(config(&["net_null0"])).unwrap().stop();
    println!("said: {}", Dataplane::start(config(&["net_null0"])).err().unwrap());
}

fn refuse(device: &str) {
    println!("said: {}", Dataplane::start(config(&[device])).err().unwrap());
}

#[test]
fn devices_that_do_not_start_are_named_in_one_line() {
    let said = run("net_nosuch0");
    assert!(said.starts_with(r#"port "p0", device "net_nosuch0": it does not start: "#), "{said}");
    let said = run("net_null0,nosuch=1");
    assert!(said.starts_with(r#"port "p0", device "net_null0,nosuch=1": it does not start: "#), "{said}");
    assert!(said.contains("nosuch"), "{said}");
}
