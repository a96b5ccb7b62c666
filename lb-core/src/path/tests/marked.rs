//! Goal: a mark that rules give chooses a service by mark, as one that the config gives does, with all that the service is.
//! Method: rules of table mangle; both families, several workers, fragments, persistence.

use std::net::Ipv4Addr;

use super::hooks::{ping, rules};
use super::*;
use crate::flow::carry::Salvage;
use crate::tables::{ClientMask, MarkRule, Marks, Persistence, ServiceOptions};
use crate::time::Timeout;

const WORKERS: usize = 4;

/// Services by mark 7 of both families, besides those of [`super::tables`]; their real servers have port 0.
pub(super) fn by_mark(lines: &[&str], options: ServiceOptions) -> Tables {
    let tables = tables(2, &[11, 12], 1);
    let mut services = (*tables.services).clone();
    for (n, servers) in [["10.0.0.11", "10.0.0.12"], ["fd00::11", "fd00::12"]].into_iter().enumerate() {
        let key = ServiceKey::of_mark(7, n == 1);
        let server = |(index, address)| {
            Server::new(ServerId(20 + 2 * n as u32 + index), (ip(address), 0), 1, Forward::Masq)
        };
        let servers = (0..).zip(servers).map(server).collect();
        let mut service = Service::new(None, ServiceId(20 + n as u32), key, SchedulerKind::Rr, servers, 1);
        service.options = options;
        services.put(Arc::new(service));
    }
    Tables { services: services.into(), rules: Arc::new(rules(lines)), ..tables }
}

pub(super) fn persistent() -> ServiceOptions {
    let mask = ClientMask::ipv4(Ipv4Addr::BROADCAST);
    ServiceOptions {
        persistence: Some(Persistence { timeout: Timeout::from_secs(300), mask }),
        ..ServiceOptions::default()
    }
}

fn director(tables: Tables) -> Director {
    let mut director = Director::new();
    director.path.adopt(tables.into());
    director
}

fn workers(tables: &Tables) -> (Vec<Path<Frame>>, Arc<[Arc<WorkerCounters>]>) {
    let counters = counters(WORKERS);
    let uses = Arc::new(Uses::new(WORKERS, 100));
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    for path in &mut paths {
        path.adopt(Arc::new(tables.clone()));
    }
    (paths, counters)
}

/// To a port of the virtual address that has no service of its own.
fn to_port(sport: u16, dport: u16, flags: &str) -> Vec<u8> {
    tcp(C2D, ("192.0.2.100", sport), ("192.0.2.10", dport), flags)
}

const WEB: &str = "mangle PREROUTING -p tcp -m multiport --dports 443,8443 -j MARK --set-mark 7";

#[test]
fn what_mangle_marks_goes_to_the_service_of_the_mark_and_nothing_else_does() {
    let mut director = director(by_mark(&[WEB], ServiceOptions::default()));
    for (sport, port, server) in [(4000, 443, "10.0.0.11"), (4001, 8443, "10.0.0.12")] {
        let out = director.receive(WAN, &[to_port(sport, port, "S")]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), sport, ip(server), port, 63));
        let n = server[8..].parse().unwrap();
        let answer = tcp((server_mac(n), OUR_LAN), (server, port), ("192.0.2.100", sport), "SA");
        let out = director.receive(LAN, &[answer]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.10"), port, ip("192.0.2.100"), sport, 63));
    }
    assert_eq!(director.receive(WAN, &[to_port(4000, 22, "S")]).to_twin.len(), 1);
    let syn = tcp(C2D, ("2001:db8::100", 4000), ("2001:db8::10", 443), "S");
    let out = director.receive(WAN, &[syn]);
    assert_eq!(read(&out.sent[0].1), (ip("2001:db8::100"), 4000, ip("fd00::11"), 443, 63));
}

#[test]
fn the_mark_that_counts_is_the_one_that_a_packet_has_behind_input() {
    let rule = |chain: &str, mark| {
        format!("mangle {chain} -p tcp -m multiport --dports 443,8443 -j MARK --set-mark {mark}")
    };
    let taken = |lines: &[&str]| {
        let mut director = director(by_mark(lines, ServiceOptions::default()));
        director.receive(WAN, &[to_port(4000, 443, "S")]).sent.len() == 1
    };
    assert!(taken(&[&rule("INPUT", 7)]));
    assert!(taken(&[&rule("PREROUTING", 1), &rule("INPUT", 7)]));
    assert!(!taken(&[&rule("PREROUTING", 7), &rule("INPUT", 0)]), "0 is no mark");
    assert!(!taken(&[&rule("PREROUTING", 8)]), "no service has it");
    assert!(taken(&["mangle PREROUTING -j MARK --set-mark 3", "mangle PREROUTING -j MARK --or-mark 4"]));
    assert!(taken(&["raw PREROUTING -j MARK --set-mark 7"]), "table raw comes before");
    assert!(
        taken(&[
            "mangle PREROUTING -j MARK --set-mark 7",
            "mangle PREROUTING -j CONNMARK --save-mark",
            "mangle PREROUTING -j MARK --set-mark 9",
            "mangle INPUT -j CONNMARK --restore-mark",
        ]),
        "the connection's mark was kept and restored"
    );
}

#[test]
fn rules_see_and_exchange_the_mark_that_the_config_gives() {
    let mark = |mark| MarkRule { destination_ports: 443..=443, ..MarkRule::any(mark) };
    let taken = |given, lines: &[&str]| {
        let tables = by_mark(lines, ServiceOptions::default());
        let mut director = director(Tables { marks: Arc::new(Marks(vec![mark(given)])), ..tables });
        director.receive(WAN, &[to_port(4000, 443, "S")]).sent.len() == 1
    };
    assert!(taken(7, &["filter FORWARD -j DROP"]), "while there are other rules");
    assert!(!taken(7, &["mangle PREROUTING -m mark --mark 7 -j DROP"]));
    assert!(taken(5, &["mangle PREROUTING -m mark --mark 5 -j MARK --set-mark 7"]));
    assert!(!taken(7, &["mangle PREROUTING -j MARK --set-mark 5"]));
}

#[test]
fn a_ping_is_nobodys_but_the_hosts_whatever_its_mark() {
    let mut director = director(by_mark(&["mangle PREROUTING -j MARK --set-mark 7"], persistent()));
    let out = director.receive(WAN, &[ping(C2D, "192.0.2.100", "192.0.2.10", 7, false)]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 1));
}

#[test]
fn the_marks_of_a_packet_and_its_connection_go_with_them_behind_ipvs() {
    let marks =
        ["mangle PREROUTING -p tcp -j MARK --set-mark 7", "mangle PREROUTING -j CONNMARK --save-mark"];
    for stopped in [
        "filter OUTPUT -m mark --mark 7 -j DROP",
        "filter OUTPUT -m connmark --mark 7 -j DROP",
        "filter FORWARD -m connmark --mark 7 -j DROP",
    ] {
        let mut director = director(by_mark(&[marks[0], marks[1], stopped], ServiceOptions::default()));
        let out = director.receive(WAN, &[to_port(4000, 443, "S")]);
        let is_request = stopped.contains("OUTPUT");
        assert_eq!(out.sent.is_empty(), is_request, "{stopped}");
        if !is_request {
            let answer = tcp((server_mac(11), OUR_LAN), ("10.0.0.11", 443), ("192.0.2.100", 4000), "SA");
            assert!(director.receive(LAN, &[answer]).sent.is_empty(), "{stopped}");
        }
        assert_eq!(director.dropped(DropReason::Rule), 1, "{stopped}");
    }
}

#[test]
fn with_several_workers_all_ports_of_a_client_are_one_persistent_service() {
    let (mut paths, counters) = workers(&by_mark(&[WEB], persistent()));
    let mut server = None;
    let mut owners = std::collections::BTreeSet::new();
    for n in 0..40u16 {
        let port = [443, 8443][usize::from(n) % 2];
        let sent = deliver(&mut paths, usize::from(n) % WORKERS, WAN, &to_port(4000 + n, port, "S"));
        let (owner, frame) = &sent[0];
        owners.insert(*owner);
        let (_, _, to, dport, _) = read(frame);
        assert_eq!((*server.get_or_insert(to), dport), (to, port), "connection {n}");
        let sent = deliver(&mut paths, usize::from(n / 3) % WORKERS, WAN, &to_port(4000 + n, port, "A"));
        assert_eq!(sent.iter().map(|(at, frame)| (*at, read(frame).2)).collect::<Vec<_>>(), [(*owner, to)]);
    }
    assert_eq!(owners.len(), WORKERS);
    let held: u64 = (20..22)
        .flat_map(|id| counters.iter().map(move |worker| worker.server(ServerId(id))))
        .map(|cell| cell.persistent.get())
        .sum();
    assert_eq!(held, 1, "one template");
    // Each packet was looked at once, there and back.
    let met: u64 = counters.iter().map(|worker| worker.rule(1).packets.get()).sum();
    assert_eq!(met, 80);
}

#[test]
fn a_label_goes_with_a_first_packet_to_the_worker_of_its_template_and_back() {
    let label = "mangle PREROUTING -p tcp --syn -m connlabel --label 5 --set";
    let (mut paths, _) = workers(&by_mark(&[WEB, label], persistent()));
    for n in 0..20u16 {
        let sent = deliver(&mut paths, usize::from(n) % WORKERS, WAN, &to_port(4000 + n, 443, "S"));
        assert_eq!(sent.len(), 1);
    }
    let mut labelled = 0;
    for path in &paths {
        path.list(0, u32::MAX, Tick(0), &mut |view| {
            labelled += u32::from(view.known.labels.bits().eq([5]));
        });
        path.check_connections().unwrap();
    }
    assert_eq!(labelled, 20);
}

#[test]
fn a_persistent_service_sees_what_nat_made_of_a_packet_at_every_worker() {
    let nat = "nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 192.0.2.10:80";
    let tables = super::persistent::persistent(2, |_| ());
    let (mut paths, _) = workers(&Tables { rules: Arc::new(rules(&[nat])), ..tables });
    let mut server = None;
    for n in 0..20u16 {
        let syn = tcp(C2D, ("192.0.2.100", 4000 + n), ("192.0.2.1", 2222), "S");
        let sent = deliver(&mut paths, usize::from(n) % WORKERS, WAN, &syn);
        let (src, sport, to, port, _) = read(&sent[0].1);
        assert_eq!((src, sport, port), (ip("192.0.2.100"), 4000 + n, 8080));
        assert_eq!(*server.get_or_insert(to), to);
        let IpAddr::V4(address) = to else { panic!("IPv4") };
        let answer = deliver(&mut paths, 0, LAN, &from_server(address.octets()[3], 4000 + n, "SA"));
        assert_eq!(read(&answer[0].1), (ip("192.0.2.1"), 2222, ip("192.0.2.100"), 4000 + n, 63));
    }
}

#[test]
fn fragments_of_a_marked_datagram_go_where_the_first_one_goes_in_any_order() {
    // Ports stand in the first fragment alone, and rules see the others without.
    let mark = "mangle PREROUTING -p udp --dport 80 -j MARK --set-mark 7";
    let one_packet = ServiceOptions { one_packet: true, ..ServiceOptions::default() };
    let both = ServiceOptions { one_packet: true, ..persistent() };
    for options in [ServiceOptions::default(), one_packet, persistent(), both] {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]] {
            for arrival in 0..WORKERS {
                let (mut paths, counters) = workers(&by_mark(&[mark], options));
                let parts = datagram(3);
                let sent = deliver_all(&mut paths, arrival, WAN, &order.map(|part| parts[part].clone()));
                let to: Vec<_> = sent.iter().map(|(_, frame)| frame.data()[30..34].to_vec()).collect();
                assert_eq!(to, vec![[10, 0, 0, 11]; 3], "{options:?} {order:?}");
                let ours = |worker: &Arc<WorkerCounters>| worker.server(ServerId(20)).connections.get();
                assert_eq!(counters.iter().map(ours).sum::<u64>(), 1, "by mark, not by address");
            }
        }
    }
}

#[test]
fn connections_by_a_rules_mark_outlive_a_restart() {
    let tables = by_mark(&[WEB], ServiceOptions::default());
    let (memory, mut remains) = Region::heap_with_remains(memory_needed(100, 50));
    let mut before =
        Path::new(PathConfig { memory, ..config(0, &counters(1), &Arc::new(Uses::new(1, 100))) });
    before.adopt(Arc::new(tables.clone()));
    let syns = (0..2).map(|n| Frame::new(WAN, &to_port(4000 + n, 443, "S")));
    before.receive(&mut syns.collect(), Tick(100), &mut Out::default());
    drop(before);
    let memory = remains.bytes().unwrap().to_vec();
    let carried = |tables: Tables| {
        let mut next = director(tables);
        let done = next.path.carry_over(&[Salvage::of(&memory).unwrap()], Tick(200));
        assert_eq!(next.path.check_connections(), Ok(()));
        (next, done)
    };
    let (mut next, done) = carried(tables.clone());
    assert_eq!(done, CarriedOver { connections: 2, ..CarriedOver::default() });
    let active = |id| next.counters[0].server(ServerId(id)).active.get();
    assert_eq!([active(20), active(21)], [1, 1]);
    next.now = Tick(300);
    let out = next.receive(WAN, &[to_port(4001, 443, "A")]);
    assert_eq!(read(&out.sent[0].1).2, ip("10.0.0.12"));
    let (_, done) = carried(Tables { rules: Arc::default(), ..tables });
    assert_eq!(done.no_server, 2, "without rules nobody can have marked them");
}
