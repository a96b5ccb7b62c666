//! Workers' threads on ports in memory, between two networks.
#![allow(dead_code)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_control::api::rules::{RuleBatch, RuleCommand, RuleCounts, RuleFamily, TableChange};
use lb_control::model::rules::RuleTables;
use lb_core::counters::WorkerCounters;
use lb_core::drop::DropReason;
use lb_core::flow::memory_needed;
use lb_core::flow::template::Uses;
use lb_core::hook::Hook;
use lb_core::ids::{PortId, WorkerId};
use lb_core::mem::Region;
use lb_core::packet::Frame;
use lb_core::path::{Path, PathConfig};
use lb_core::rss::Rss;
use lb_core::rule::{Rules, text};
use lb_core::tables::{Interface, InterfaceId, Interfaces, Neighbours, Prefix, Route, Routes, Tables};
use lb_core::time::Tick;
use lb_dataplane::{HeapFrames, Idle, InMemory, Member, Queue, Seat, Team, Twin, Wire, memory_port};
use sim::wire::{self, Body, Ip, Link, Mac};

pub(crate) const WAN: usize = 0;
pub(crate) const LAN: usize = 1;
pub(crate) const CONNECTIONS: u32 = 2000;
pub(crate) const SEED: u64 = 7;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn at(port: usize, is_ipv6: bool, host: u16) -> IpAddr {
    let net = match (port, is_ipv6) {
        (WAN, false) => "192.0.2.",
        (_, false) => "10.0.0.",
        (WAN, true) => "2001:db8::",
        (_, true) => "fd00::",
    };
    ip(&if is_ipv6 { format!("{net}{host:x}") } else { format!("{net}{host}") })
}

pub(crate) fn own_mac(port: usize) -> Mac {
    [2, 0, 0, 0, 0, port as u8]
}

pub(crate) const HOST_MAC: Mac = [2, 0, 0, 0, 1, 1];

/// Tables with these two networks, of which host 9 is the director, and the hosts on the side of WAN that are its own besides; `[of IPv4, of IPv6]`.
pub(crate) fn networks(generation: u32, own: [&[u16]; 2]) -> Tables {
    let interface = |port: usize| Interface {
        name: ["wan", "lan"][port].to_owned(),
        port: PortId(port as u16),
        vlan: 0,
        mac: own_mac(port),
        mtu: 1500,
        outside: port == WAN,
        group: 0,
        ipv4: if let IpAddr::V4(own) = at(port, false, 9) { Some(own) } else { None },
        ipv6: if let IpAddr::V6(own) = at(port, true, 9) { Some(own) } else { None },
    };
    let interfaces = Interfaces::new([WAN, LAN].map(interface).to_vec());
    let prefix = |address, len| Prefix { address, len };
    let mut routes = Vec::new();
    let mut neighbours = Vec::new();
    for (is_ipv6, own) in [false, true].into_iter().zip(own) {
        let (whole, net) = if is_ipv6 { (128, 64) } else { (32, 24) };
        for port in [WAN, LAN] {
            let id = InterfaceId(port as u16);
            routes.push((prefix(at(port, is_ipv6, 0), net), Route::Via { interface: id, gateway: None }));
            routes.push((prefix(at(port, is_ipv6, 9), whole), Route::Local));
            // As large as a byte, whatever it is written in.
            let hosts = (1..255).filter(|host| *host != 9 && (port == LAN || *host != 10));
            neighbours.extend(hosts.map(|host| (id, at(port, is_ipv6, host), Some(HOST_MAC))));
        }
        routes.extend(own.iter().map(|host| (prefix(at(WAN, is_ipv6, *host), whole), Route::Local)));
    }
    Tables {
        generation,
        routes: Routes::new(routes).into(),
        neighbours: Neighbours::new(&interfaces, neighbours).into(),
        interfaces: interfaces.into(),
        ..Tables::default()
    }
}

/// Workers, and the other ends of all their ports' queues, by worker and port.
pub(crate) fn start(workers: u16, rss: Option<&Arc<Rss>>) -> (Team, Vec<[Wire; 2]>) {
    let counters: Arc<[_]> = (0..workers).map(|_| Arc::new(WorkerCounters::new(64, 2))).collect();
    let uses = Arc::new(Uses::new(workers.into(), CONNECTIONS));
    let mut wires = Vec::new();
    let members = (0..workers).map(|worker| {
        let [(a, a_wire), (b, b_wire)] = [memory_port(4096), memory_port(4096)];
        wires.push([a_wire, b_wire]);
        let config = PathConfig {
            worker: WorkerId(worker),
            counters: counters.clone(),
            max_connections: CONNECTIONS,
            max_ipv6_connections: CONNECTIONS,
            uses: uses.clone(),
            memory: Region::heap(memory_needed(CONNECTIONS, CONNECTIONS)),
            hash_seed: SEED,
            rss: rss.cloned(),
            now: Tick(0),
        };
        let seats = [a, b].map(|port| Seat::<InMemory> { queue: Queue::Own(port), twin: Twin::None });
        Member { cpu: None, seats: seats.into(), pool: HeapFrames, logic: move || Path::<Frame>::new(config) }
    });
    let team = Team::start(members.collect(), counters, Idle::Auto).unwrap();
    (team, wires)
}

/// Rules of one table, as `iptables -A` has them behind it.
pub(crate) fn rules(
    counters: &Arc<[Arc<WorkerCounters>]>,
    table: &str,
    lines: &[(RuleFamily, &str)],
) -> Arc<Rules> {
    let mut rules = RuleTables::new(SEED);
    for (family, line) in lines {
        let mut words = text::split(line).unwrap();
        let append =
            RuleCommand::Append { chain: words.remove(0), rule: words, counts: RuleCounts::default() };
        let table = TableChange { table: table.to_owned(), empty: false, commands: vec![append] };
        rules.apply(&RuleBatch { family: *family, tables: vec![table], test: false }, counters).unwrap();
    }
    rules.compiled().clone()
}

/// What is dropped, and what clients were not told, for want of permission.
pub(crate) fn drops(team: &Team) -> Vec<(&'static str, &'static str, u64)> {
    let mut drops = Vec::new();
    for worker in team.counters().iter() {
        // An error about a tunnel's packet ends here, and its client is told by another.
        for &reason in DropReason::ALL.iter().filter(|reason| **reason != DropReason::TunnelError) {
            for hook in Hook::ALL {
                let count = worker.dropped(reason, hook).get();
                if count > 0 {
                    drops.push((reason.label(), hook.name(), count));
                }
            }
        }
        let untold = worker.turns.icmp_suppressed.get();
        if untold > 0 {
            drops.push(("icmp_suppressed", "none", untold));
        }
    }
    drops
}

/// Waits for something that workers do.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "it never came to pass that {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn packet(port: usize, src: IpAddr, dst: IpAddr, id: u16, body: &Body<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let link = Link { dst: own_mac(port), src: HOST_MAC, vlan: 0 };
    wire::build(&mut out, &link, &Ip { src, dst, ttl: 64, id, dont_fragment: false, options: 0 }, body);
    out
}
