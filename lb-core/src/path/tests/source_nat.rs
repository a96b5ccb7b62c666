//! Source NAT of virtual services' connections (`net.ipv4.vs.conntrack`): the real server sees what table `nat` says at POSTROUTING, and the client
//! the virtual service.

use super::hooks::{rules, time_exceeded};
use super::ttl::with_ttl;
use super::*;
use crate::conntrack::{Status, Tracked};
use crate::flow::FlowId;

const MASQUERADE: &str = "nat POSTROUTING -m ipvs --vaddr 192.0.2.10 -j MASQUERADE";

/// [`tables`](super::tables) with the switch on and these rules.
fn tables_with(generation: u32, lines: &[&str]) -> Tables {
    let mut tables = Tables { rules: Arc::new(rules(lines)), ..tables(generation, &[11, 12], 1) };
    tables.settings.sysctls.source_nat = 1;
    tables
}

fn by(forward: Forward, tables: Tables) -> Tables {
    let services = tables.services.iter().map(|service| {
        let mut service = Service::clone(service);
        service.servers.iter_mut().for_each(|server| server.forward = forward);
        Arc::new(service)
    });
    Tables { services: Services::new(services).into(), ..tables }
}

fn director(lines: &[&str]) -> Director {
    let mut director = Director::new();
    director.path.adopt(tables_with(2, lines).into());
    director
}

#[test]
fn a_connection_that_has_ended_gets_no_mark_and_no_label_of_what_its_client_is_told() {
    let mut director = director(&[
        MASQUERADE,
        "filter OUTPUT -m connlabel --label 5 --set",
        "filter OUTPUT -j CONNMARK --set-mark 7",
        "filter OUTPUT -d 10.0.0.0/24 -j REJECT",
    ]);
    let out = director.receive(WAN, &[from_client(4000, "S")]);
    assert_eq!(out.sent.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [WAN], "an ICMP error");
    assert_eq!((director.states().len(), director.path.flows.label_sets().0), (0, 0));
    assert_eq!(director.path.flows.tracked(FlowId(0)), &Tracked::NOTHING, "its place is free, all of it");
    director.path.check_connections().unwrap();
}

#[test]
fn what_the_client_is_told_of_a_connection_that_has_ended_is_asked_with_what_that_has_counted() {
    let mut director = director(&[
        MASQUERADE,
        "filter OUTPUT -d 10.0.0.0/24 -j REJECT",
        "filter OUTPUT -m connbytes --connbytes 1:1 --connbytes-mode packets --connbytes-dir both -j DROP",
    ]);
    let out = director.receive(WAN, &[from_client(4000, "S")]);
    assert!(out.sent.is_empty(), "nothing, not even an ICMP error");
    assert!(director.states().is_empty());
    assert_eq!(director.path.mine.dropped(DropReason::Rule, Hook::Output).get(), 1);
}

#[test]
fn what_the_client_is_told_of_a_connection_that_has_ended_is_asked_with_its_mark_and_labels() {
    for asked in ["connmark --mark 5", "connlabel --label 3"] {
        let mut director = director(&[
            MASQUERADE,
            "filter INPUT -j CONNMARK --set-mark 5",
            "filter INPUT -m connlabel --label 3 --set",
            "filter OUTPUT -d 10.0.0.0/24 -j REJECT",
            &format!("filter OUTPUT -m {asked} -j DROP"),
        ]);
        assert!(director.receive(WAN, &[from_client(4000, "S")]).sent.is_empty(), "{asked}");
        assert!(director.states().is_empty());
        assert_eq!(director.path.mine.dropped(DropReason::Rule, Hook::Output).get(), 1);
    }
}

type Ends = (IpAddr, u16, IpAddr, u16, u8);

fn one(out: &Out) -> Ends {
    assert_eq!(out.sent.len(), 1);
    read(&out.sent[0].1)
}

/// What the real server that got this answers.
fn answer((src, sport, dst, dport, _): Ends, flags: &str) -> Vec<u8> {
    let n = if dst.to_string().ends_with("11") { 11 } else { 12 };
    tcp((server_mac(n), OUR_LAN), (&dst.to_string(), dport), (&src.to_string(), sport), flags)
}

#[test]
fn the_real_server_sees_the_source_that_a_rule_gives_and_the_client_the_virtual_service() {
    for (line, vip, client, source) in [
        (MASQUERADE, "192.0.2.10", "192.0.2.100", "10.0.0.1"),
        (
            "nat POSTROUTING -d 10.0.0.0/24 -j SNAT --to-source 10.0.0.77",
            "192.0.2.10",
            "192.0.2.100",
            "10.0.0.77",
        ),
        ("nat POSTROUTING -m ipvs --vport 80 -j MASQUERADE", "2001:db8::10", "2001:db8::100", "fd00::1"),
    ] {
        let mut director = director(&[line]);
        let to = |flags| tcp(C2D, (client, 4000), (vip, 80), flags);
        let syn = one(&director.receive(WAN, &[to("S")]));
        assert_eq!((syn.0, syn.1, syn.3), (ip(source), 4000, 8080), "{line}");
        for flags in ["A", "A"] {
            let back = one(&director.receive(LAN, &[answer(syn, "SA")]));
            assert_eq!(back, (ip(vip), 80, ip(client), 4000, 63), "{line}");
            assert_eq!(one(&director.receive(WAN, &[to(flags)])), syn, "{line}");
        }
        assert_eq!(director.states(), ["ESTABLISHED"]);
        let asked = [1, 2].map(|of_family| director.counters[0].rule(of_family).packets.get());
        assert_eq!(asked.iter().sum::<u64>(), 1, "once: {line}");
        let mut views = Vec::new();
        director.path.list(0, u32::MAX, director.now, &mut |flow| views.push(flow));
        assert_eq!(views[0].local, Some((ip(source), 4000)));
        assert!(views[0].known.status.has(Status::SRC_NAT));
        director.path.check_connections().unwrap();
    }
}

#[test]
fn it_is_asked_with_the_marks_that_the_tables_before_it_gave() {
    let mut director = director(&[
        "mangle POSTROUTING -p tcp --sport 4000 -j MARK --set-mark 5",
        "nat POSTROUTING -m mark --mark 5 -j MASQUERADE",
    ]);
    assert_eq!(one(&director.receive(WAN, &[from_client(4000, "S")])).0, ip("10.0.0.1"));
    assert_eq!(one(&director.receive(WAN, &[from_client(4001, "S")])).0, ip("192.0.2.100"));
}

#[test]
fn without_the_switch_and_by_other_methods_than_masquerading_it_is_not_asked() {
    for (forward, switch, source) in [
        (Forward::Masq, 0, "192.0.2.100"),
        (Forward::Direct, 1, "192.0.2.100"),
        // It has a source of the director's already.
        (Forward::FullNat, 1, "10.0.0.1"),
    ] {
        let mut director = Director::new();
        let mut tables = by(forward, tables_with(2, &["nat POSTROUTING -j SNAT --to-source 10.0.0.77"]));
        tables.settings.sysctls.source_nat = switch;
        director.path.adopt(tables.into());
        assert_eq!(one(&director.receive(WAN, &[from_client(4000, "S")])).0, ip(source), "{forward:?}");
        assert_eq!(director.counters[0].rule(1).packets.get(), 0, "{forward:?}");
    }
}

#[test]
fn it_is_not_asked_for_what_is_not_tracked() {
    let mut director = director(&["raw PREROUTING -j NOTRACK", MASQUERADE]);
    for flags in ["S", "A"] {
        let sent = one(&director.receive(WAN, &[from_client(4000, flags)]));
        assert_eq!((sent.0, sent.1), (ip("192.0.2.100"), 4000), "{flags}");
    }
    director.path.check_connections().unwrap();
}

#[test]
fn clients_with_one_port_are_told_apart_behind_one_address() {
    let mut director = director(&[MASQUERADE]);
    let clients = ["192.0.2.100", "192.0.2.101", "192.0.2.102"];
    let to = |client, flags| tcp(C2D, (client, 4000), ("192.0.2.10", 80), flags);
    // In turn to two real servers: the first and the third meet at one.
    let sent = clients.map(|client| one(&director.receive(WAN, &[to(client, "S")])));
    assert_eq!((sent[0].1, sent[1].1), (4000, 4000));
    assert_eq!((sent[0].2, sent[2].1 != 4000), (sent[2].2, true));
    director.path.adopt(tables_with(3, &["filter FORWARD -p tcp --dport 1 -j DROP"]).into());
    for (client, sent) in clients.into_iter().zip(sent).take(1) {
        let back = one(&director.receive(LAN, &[answer(sent, "SA")]));
        assert_eq!(
            (back.0, back.2, back.3),
            (ip("192.0.2.10"), ip(client), 4000),
            "also when the rule is gone"
        );
    }
}

#[test]
fn a_connection_whose_first_packet_is_stopped_or_finds_no_port_ends_and_its_next_one_is_asked_again() {
    for (lines, reason) in [
        (["filter OUTPUT -p tcp -j DROP", MASQUERADE], DropReason::Rule),
        (
            [
                "filter OUTPUT -p tcp --dport 1 -j DROP",
                "nat POSTROUTING -p tcp -j SNAT --to-source 10.0.0.1:9-9",
            ],
            DropReason::NoLocalPort,
        ),
    ] {
        let mut director = director(&lines);
        if reason == DropReason::NoLocalPort {
            // Two take the port, towards a real server each.
            director.receive(WAN, &[from_client(5000, "S"), from_client(5001, "S")]);
        }
        let before = director.states().len();
        assert!(director.receive(WAN, &[from_client(4000, "S")]).sent.is_empty());
        assert_eq!((director.dropped(reason), director.states().len()), (1, before));
        director.path.check_connections().unwrap();
        director.path.adopt(tables_with(3, &[MASQUERADE]).into());
        assert_eq!(one(&director.receive(WAN, &[from_client(4000, "S")])).0, ip("10.0.0.1"));
    }
}

#[test]
fn a_first_packet_without_a_hop_left_is_not_asked_about_and_its_connection_ends() {
    for lines in [
        &[MASQUERADE][..],
        &[MASQUERADE, "mangle OUTPUT -p icmp -m state --state RELATED -j MARK --set-mark 1"],
    ] {
        let mut director = director(lines);
        let out = director.receive(WAN, &[with_ttl(from_client(4000, "S"), 1)]);
        let told: Vec<_> =
            out.sent.iter().map(|(port, frame)| (*port, frame.data()[34..36].to_vec())).collect();
        assert_eq!(told, [(WAN, vec![11, 0])], "time exceeded: {lines:?}");
        assert_eq!((director.dropped(DropReason::TtlExceeded), director.states().len()), (1, 0));
        let met = |director: &Director| {
            (1..4).map(|rule| director.counters[0].rule(rule).packets.get()).sum::<u64>()
        };
        // The answer alone.
        let of_answer = lines.len() as u64 - 1;
        assert_eq!(met(&director), of_answer, "{lines:?}");
        assert_eq!(one(&director.receive(WAN, &[from_client(4000, "S")])).0, ip("10.0.0.1"));
        assert_eq!(met(&director), of_answer + 1, "{lines:?}");
        director.path.check_connections().unwrap();
    }
}

#[test]
fn a_router_at_the_servers_that_drops_a_packet_is_heard_by_the_client() {
    let mut director = director(&[MASQUERADE]);
    let sent = director.receive(WAN, &[from_client(4000, "S")]);
    let out = director.receive(WAN, &[time_exceeded(&sent.sent[0].1)]);
    let (port, frame) = &out.sent[0];
    assert_eq!((*port, read(frame).2), (WAN, ip("192.0.2.100")));
    assert_eq!(
        frame.data()[42 + 12..42 + 24],
        from_client(4000, "S")[26..38],
        "quoted as the client sent it"
    );
}

/// Workers with these tables.
fn workers(count: usize, tables: Tables) -> Vec<Path<Frame>> {
    let (counters, uses) = (counters(count), Arc::new(Uses::new(count, 100)));
    let tables = Arc::new(tables);
    let mut paths: Vec<_> = (0..count).map(|n| path(n as u16, &counters, &uses)).collect();
    paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
    paths
}

#[test]
fn with_several_workers_answers_end_at_the_worker_of_the_connection() {
    for line in [MASQUERADE, "nat POSTROUTING -d 10.0.0.0/24 -j SNAT --to-source 198.51.100.7"] {
        for count in [2, 3, 5] {
            let mut paths = workers(count, tables_with(2, &[line]));
            let mut owners = vec![0; count];
            // Ports below 1024 too.
            for port in (4000..4040).chain(900..910) {
                let (rx, other) = (usize::from(port) % count, usize::from(port / 3) % count);
                let sent = deliver(&mut paths, rx, WAN, &from_client(port, "S"));
                let [(owner, frame)] = &sent[..] else { panic!("{line}: {port} by {count}: {}", sent.len()) };
                owners[*owner] += 1;
                let back = deliver(&mut paths, other, LAN, &answer(read(frame), "SA"));
                assert_eq!(back[0].0, *owner, "{line}");
                assert_eq!(read(&back[0].1), (ip("192.0.2.10"), 80, ip("192.0.2.100"), port, 63));
            }
            assert!(owners.iter().all(|&n| n > 3), "{owners:?}");
        }
    }
}

#[test]
fn what_the_host_or_an_inner_host_asks_a_real_server_is_answered_at_its_worker() {
    let masquerade = tables_with(2, &["nat POSTROUTING -o lan -j MASQUERADE"]);
    let full_nat = by(Forward::FullNat, masquerade.clone());
    // No address of the host's.
    let elsewhere = tables_with(2, &["nat POSTROUTING -o lan -j SNAT --to-source 198.51.100.7"]);
    for tables in [masquerade, full_nat, by(Forward::FullNat, elsewhere.clone()), elsewhere] {
        let mut paths = workers(3, tables);
        for port in 40_000..40_030 {
            let asked = tcp((OUR_LAN, server_mac(11)), ("10.0.0.1", port), ("10.0.0.11", 9000), "S");
            let mut out = Out::default();
            let mut burst: Burst<Frame> = [Frame::new(LAN, &asked)].into_iter().collect();
            paths[0].receive_from_twin(LAN, &mut burst, Tick(100), &mut out);
            while let Some((to, packet, steer)) = out.handed.pop() {
                let mut handed = [(packet, steer)].into_iter().collect();
                paths[to.index()].receive_handed_over(&mut handed, Tick(100), &mut out);
            }
            assert_eq!(out.sent.len(), 1);
            deliver(&mut paths, 1, LAN, &answer(read(&out.sent[0].1), "SA"));
            // Not of the client's to a service: routed.
            let routed = tcp(C2D, ("192.0.2.100", port), ("10.0.0.11", 22), "S");
            let sent = deliver(&mut paths, 0, WAN, &routed);
            let back = deliver(&mut paths, 2, LAN, &answer(read(&sent[0].1), "SA"));
            assert_eq!(read(&back[0].1), (ip("10.0.0.11"), 22, ip("192.0.2.100"), port, 63));
        }
        let mut is_answered = Vec::new();
        for path in &paths {
            path.list(0, u32::MAX, Tick(100), &mut |flow| {
                is_answered.push(flow.known.status.has(Status::SEEN_REPLY));
            });
        }
        assert_eq!((is_answered.len(), is_answered.iter().all(|&is| is)), (60, true));
    }
}

#[test]
fn what_table_raw_drops_of_a_connection_conntrack_has_not_seen() {
    let mut director =
        director(&["raw PREROUTING -i lan -j DROP", "filter INPUT -m state --state ESTABLISHED -j DROP"]);
    let syn_frame = tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.10", 80), "S");
    let syn = one(&director.receive(WAN, std::slice::from_ref(&syn_frame)));
    assert!(director.receive(LAN, &[answer(syn, "SA")]).sent.is_empty());
    assert_eq!(one(&director.receive(WAN, &[syn_frame])), syn, "nobody has answered");
}
