//! Goal: a packet is handed over when its connection is not here, and only then; and whose a connection is follows the tables.
//! Method: workers without rings, to any of which a packet may come.

use std::collections::BTreeSet;

use super::hooks::{Workers, back, rules, through};
use super::*;
use crate::rule::Rules;

const WORKERS: usize = 3;

/// Where a packet ends, whichever worker it came to, and by what ends it left.
fn ends(paths: &mut [Path<Frame>], port: PortId, frame: &[u8]) -> BTreeSet<(usize, IpAddr, IpAddr)> {
    let rx = 0..paths.len();
    let sent = rx.flat_map(|rx| deliver(paths, rx, port, frame)).map(|(worker, frame)| {
        let (src, _, dst, ..) = read(&frame);
        (worker, src, dst)
    });
    sent.collect()
}

#[test]
fn a_packet_that_came_to_its_connection_is_not_handed_over_wherever_its_ends_lead() {
    let mut workers = Workers::new(2, rules(&["filter FORWARD -j ACCEPT"]));
    for sport in 4000..4032 {
        let (began, _) = workers.carry(WAN, &through(sport, "S"), false);
        let mut out = Out::default();
        let mut burst: Burst<Frame> = [Frame::new(LAN, &back(sport, "SA"))].into_iter().collect();
        workers.paths[began].receive(&mut burst, Tick(100), &mut out);
        assert_eq!((out.sent.len(), out.handed.len()), (1, 0), "port {sport}");
    }
    assert_eq!(workers.inserted(), 32);
}

#[test]
fn a_burst_keeps_its_order_towards_each_worker_and_each_port() {
    let mut workers = Workers::new(2, Rules::default());
    let ports: Vec<u16> = (4000..4032).collect();
    let frames = ports.iter().map(|&sport| Frame::new(WAN, &from_client(sport, "S")));
    let mut out = Out::default();
    workers.paths[0].receive(&mut frames.collect(), Tick(100), &mut out);
    let of = |frame: &Frame| read(frame).1;
    let sent: Vec<u16> = out.sent.iter().map(|(_, frame)| of(frame)).collect();
    let handed: Vec<u16> = out.handed.iter().map(|(_, frame, _)| of(frame)).collect();
    assert!(sent.is_sorted() && handed.is_sorted(), "{sent:?}, {handed:?}");
    assert!(sent.len() > 4 && handed.len() > 4);
    assert_eq!(sent.into_iter().chain(handed).collect::<BTreeSet<_>>(), ports.into_iter().collect());
}

#[test]
fn a_worker_that_is_behind_hands_over_what_others_may_know() {
    let mut workers = Workers::new(2, Rules::default());
    let mut handed = |turns: usize| {
        let mut handed = 0;
        for _ in 0..turns {
            let burst = (4000..4000 + BURST as u16).map(|sport| Frame::new(WAN, &from_client(sport, "A")));
            let mut out = Out::default();
            workers.paths[0].receive(&mut burst.collect(), Tick(100), &mut out);
            workers.paths[0].turn(Tick(100), &mut out);
            handed = out.handed.len();
        }
        (handed, workers.counters[0].dropped(DropReason::WorkerBehind, Hook::Prerouting).get())
    };
    let (calm, none) = handed(1);
    assert!(calm > 4 && none == 0);
    let (behind, dropped) = handed(300);
    assert!(behind == calm && dropped > 0, "{behind} of {calm}, {dropped} dropped");
}

/// The address of the virtual service is not ours, and a rule gives it to 10.0.0.11.
fn elsewhere(generation: u32) -> Tables {
    let tables = tables(generation, &[11, 12], 1);
    let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
    let route = |address: &str, len, route| (Prefix { address: ip(address), len }, route);
    let routes = Routes::new([
        route("192.0.2.0", 24, via(0)),
        route("192.0.2.1", 32, Route::Local),
        route("10.0.0.0", 24, via(1)),
        route("10.0.0.1", 32, Route::Local),
    ]);
    let rules = rules(&["nat PREROUTING -d 192.0.2.10 -p tcp -j DNAT --to-destination 10.0.0.11:8080"]);
    let services = Services::new([]).into();
    Tables { routes: routes.into(), rules: rules.into(), services, ..tables }
}

fn workers() -> Vec<Path<Frame>> {
    let (counters, uses) = (counters(WORKERS), Arc::new(Uses::new(WORKERS, 100)));
    (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect()
}

fn adopt(paths: &mut [Path<Frame>], tables: Tables) {
    let tables = Arc::new(tables);
    paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
}

#[test]
fn a_connection_that_tables_lead_away_from_gets_no_packet_once_its_owner_has_another() {
    let mut paths = workers();
    adopt(&mut paths, elsewhere(1));
    for sport in 4000..4032 {
        // All at one worker: that of the address that is not ours.
        let to_11 = ends(&mut paths, WAN, &from_client(sport, "S"));
        assert_eq!(to_11.len(), 1, "{to_11:?}");
    }
    // The address is ours now, and a virtual service's: the client's end names the owner, and real server 12 is the only one.
    let mut with_service = tables(2, &[11, 12], 1);
    let only = |service: &Arc<Service>| {
        let servers = service.servers.iter().filter(|server| server.address == ip("10.0.0.12"));
        let (id, key) = (service.id, service.key);
        Arc::new(Service::new(None, id, key, SchedulerKind::Rr, servers.cloned().collect(), 2))
    };
    with_service.services = Services::new(with_service.services.iter().map(only).collect::<Vec<_>>()).into();
    adopt(&mut paths, with_service);
    let mut moved = 0;
    for sport in 4000..4032 {
        let sent = ends(&mut paths, WAN, &from_client(sport, "S"));
        assert_eq!(sent.len(), 1, "both directions end at one entry: {sent:?}");
        let (worker, _, server) = *sent.first().unwrap();
        moved += usize::from(server == ip("10.0.0.12"));
        let n = if server == ip("10.0.0.12") { 12 } else { 11 };
        let answers = ends(&mut paths, LAN, &from_server(n, sport, "SA"));
        let must = (worker, ip("192.0.2.10"), ip("192.0.2.100"));
        assert_eq!(answers, [must].into(), "port {sport}");
    }
    assert!(moved > 8 && moved < 32, "{moved} clients name another worker than the address did");
}

#[test]
fn a_connection_that_tables_lead_away_from_goes_on_where_nobody_else_has_it() {
    let mut paths = workers();
    let with_rules = |generation| {
        let Tables { rules, .. } = elsewhere(generation);
        Tables { rules, services: Services::new([]).into(), ..tables(generation, &[11, 12], 1) }
    };
    let mut began = Vec::new();
    for generation in 1..=5 {
        // Now the address is ours, and now it is not.
        let is_ours = generation % 2 == 0;
        adopt(&mut paths, if is_ours { with_rules(generation) } else { elsewhere(generation) });
        let first = 4000 + 20 * generation as u16;
        for sport in first..first + 20 {
            let sent = deliver(&mut paths, usize::from(sport) % WORKERS, WAN, &from_client(sport, "S"));
            let back = deliver(&mut paths, 1, LAN, &from_server(11, sport, "SA"));
            assert_eq!((sent.len(), back.len()), (1, 1));
            began.push((sport, sent[0].0));
        }
        for &(sport, worker) in &began {
            let there = ends(&mut paths, WAN, &from_client(sport, "A"));
            assert_eq!(there, [(worker, ip("192.0.2.100"), ip("10.0.0.11"))].into(), "port {sport}");
            let back = ends(&mut paths, LAN, &from_server(11, sport, "A"));
            assert_eq!(back, [(worker, ip("192.0.2.10"), ip("192.0.2.100"))].into(), "port {sport}");
        }
    }
    let entries: u32 = paths.iter().map(|path| path.flows.len().0).sum();
    assert_eq!(entries as usize, began.len(), "one each");
}
