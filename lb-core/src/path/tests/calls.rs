//! Persistence by Call-ID (`--pe sip`).

use super::persistent::{listed, persistent, server_of};
use super::*;
use crate::flow::Tuple;
use crate::flow::carry::Salvage;
use crate::tables::Engine;

const WORKERS: usize = 4;

/// [`persistent`] services, all by Call-ID; their real servers in another order if `is_reversed`.
pub(super) fn by_call(generation: u32, is_reversed: bool) -> Tables {
    let tables = persistent(generation, |_| ());
    let services = tables.services.iter().map(|service| {
        let mut service = (**service).clone();
        service.options.engine = Some(Engine::Sip);
        if is_reversed {
            service.servers.reverse();
        }
        Arc::new(service)
    });
    Tables { services: Services::new(services.collect::<Vec<_>>()).into(), ..tables }
}

/// A datagram of a client with a message of this call.
pub(super) fn message(client: u8, sport: u16, call: &str) -> Vec<u8> {
    let text = format!("INVITE sip:a@b SIP/2.0\r\nTo: c\r\nCall-ID: {call}\r\n\r\n");
    let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1)
        .ipv4([192, 0, 2, client], [192, 0, 2, 10], 64)
        .udp(sport, 80);
    let mut frame = Vec::new();
    builder.write(&mut frame, text.as_bytes()).unwrap();
    frame
}

fn paths(counters: &Arc<[Arc<WorkerCounters>]>) -> Vec<Path<Frame>> {
    let uses = Arc::new(Uses::new(counters.len(), 100));
    let mut paths: Vec<_> = (0..counters.len()).map(|n| path(n as u16, counters, &uses)).collect();
    for path in &mut paths {
        path.adopt(by_call(1, false).into());
    }
    paths
}

#[test]
fn each_call_keeps_its_server_from_any_port_and_calls_are_spread_over_workers_and_servers() {
    let mut paths = paths(&counters(WORKERS));
    let mut servers = std::collections::BTreeMap::new();
    for sport in 4000..4060 {
        // Two clients of one network are one, and a third is none of them, whatever the call is.
        for (client, network) in [(100, 0), (101, 0)] {
            let call = format!("call-{}@a.example", sport % 20);
            let sent = deliver(&mut paths, usize::from(sport % 4), WAN, &message(client, sport, &call));
            assert_eq!(sent.len(), 1);
            let server = server_of(&sent[0].1);
            assert_eq!(*servers.entry((network, call)).or_insert(server), server, "{client} {sport}");
        }
    }
    let of = |server: &str| servers.values().filter(|&&found| found == ip(server)).count();
    assert_eq!((of("10.0.0.11") + of("10.0.0.12"), servers.len()), (20, 20));
    assert!(of("10.0.0.11") > 0 && of("10.0.0.12") > 0);
    let mut templates = Vec::new();
    for path in &paths {
        path.check_connections().unwrap();
        let mut here = 0;
        path.list(0, u32::MAX, Tick(100), &mut |view| {
            if view.is_template {
                here += 1;
                assert_eq!((view.client, view.local), ((ip("192.0.2.0"), 0), None));
                assert!(view.call.is_some_and(|(_, port)| port != 0));
                assert_eq!(view.original().src, view.call.unwrap().0);
            } else {
                assert_eq!(view.call, None);
            }
        });
        templates.push(here);
    }
    assert_eq!(templates.iter().sum::<usize>(), 20);
    assert!(templates.iter().all(|&count| count > 0), "{templates:?}");
}

#[test]
fn what_names_no_call_begins_nothing() {
    let mut director = Director::new();
    director.path.adopt(by_call(2, false).into());
    for frame in [message(100, 4000, ""), message(100, 4000, "a b"), from_client(4000, "S")] {
        assert!(director.receive(WAN, &[frame]).sent.is_empty());
    }
    assert_eq!(director.dropped(DropReason::NoCallId), 3);
    assert!(director.states().is_empty());
}

#[test]
fn without_persistence_the_engine_has_no_effect() {
    let mut director = Director::new();
    let tables = by_call(2, false);
    let services = tables.services.iter().map(|service| {
        let mut service = (**service).clone();
        service.options.persistence = None;
        Arc::new(service)
    });
    let services = Services::new(services.collect::<Vec<_>>()).into();
    director.path.adopt(Tables { services, ..tables }.into());
    assert_eq!(director.receive(WAN, &[from_client(4000, "S")]).sent.len(), 1);
}

#[test]
fn fragments_go_where_the_first_one_asks_and_do_not_overtake_it() {
    let mut went_there_and_back = 0;
    for call in 0..20 {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let mut paths = paths(&counters(WORKERS));
            let text = format!("INVITE a SIP/2.0\r\nCall-ID: {call}\r\n");
            let mut parts = datagram(3);
            parts[0][42..42 + text.len()].copy_from_slice(text.as_bytes());
            let burst = order.map(|part| parts[part].clone());
            let sent = deliver_all(&mut paths, 0, WAN, &burst);
            let owner = paths[0].owner_of(ip("192.0.2.100"), 5353);
            let (digest, port) = crate::flow::template::of_call(ip("192.0.2.0"), call.to_string().as_bytes());
            went_there_and_back += usize::from(paths[0].owner_of(digest, port) != owner);
            let went: Vec<_> = sent.iter().map(|(worker, frame)| (*worker, frame.data()[30])).collect();
            assert_eq!(went, [(owner.index(), 10); 3], "{call} {order:?}");
        }
    }
    assert!(went_there_and_back > 20, "{went_there_and_back} of 60");
}

#[test]
fn a_call_keeps_its_server_over_a_restart() {
    let (memory, mut remains) = Region::heap_with_remains(memory_needed(100, 50));
    let uses = Arc::new(Uses::new(1, 100));
    let counters = counters(1);
    let path = Path::new(PathConfig { memory, ..config(0, &counters, &uses) });
    let mut before = Director { path, counters, now: Tick(100) };
    before.path.adopt(by_call(2, false).into());
    let calls = ["a", "b", "c"];
    let servers = calls.map(|call| {
        let out = before.receive(WAN, &[message(100, 4000 + u16::from(call.as_bytes()[0]), call)]);
        server_of(&out.sent[0].1)
    });
    drop(before);
    let memory = remains.bytes().unwrap().to_vec();
    let mut next = Director::new();
    next.path.adopt(by_call(2, true).into());
    let done = next.path.carry_over(&[Salvage::of(&memory).unwrap()], Tick(200));
    assert_eq!(done, CarriedOver { connections: 6, ..CarriedOver::default() });
    let lines = listed(&next.path, Tick(200));
    assert_eq!(lines.iter().filter(|line| line.starts_with("NONE 192.0.2.0:0 ")).count(), 3, "{lines:?}");
    next.now = Tick(300);
    for (call, server) in calls.iter().zip(servers) {
        let out = next.receive(WAN, &[message(101, 5000, call)]);
        assert_eq!(server_of(&out.sent[0].1), server, "{call}");
        let (src, dst) = (ip("192.0.2.101"), ip("192.0.2.10"));
        let original = Tuple { src, dst, sport: 5000, dport: 80, protocol: Protocol::UDP };
        assert_eq!(next.path.order(&original, &Order::plain(Deed::End), next.now), Outcome::Done);
    }
    assert_eq!(next.path.check_connections(), Ok(()));
}
