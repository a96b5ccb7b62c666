//! Goal: rules decide at the hooks that netfilter's diagram has, NAT is asked once a connection and translates both directions, and what is
//! tracked comes and goes. Method: rules of a few words, packets from client, real server and host.

use super::persistent::persistent;
use super::*;
use crate::hook::{Function, ORDER};
use crate::rule::names::Numeric;
use crate::rule::{
    Around, ChainSource, Family, Named, Rule, RuleSource, Rules, Table, chain_name, reached_from, text,
};
use crate::trail::Step;

/// Of lines such as `filter FORWARD -p tcp --dport 22 -j DROP`, for both families as far as they can be read for one.
pub(super) fn rules(lines: &[&str]) -> Rules {
    bound(lines, &mut Named::new(1))
}

/// [`rules`] with what matches and targets share by name.
pub(super) fn bound(lines: &[&str], named: &mut Named) -> Rules {
    bound_of(&Family::ALL, lines, named)
}

/// The same, of these families alone.
pub(super) fn bound_of(families: &[Family], lines: &[&str], named: &mut Named) -> Rules {
    let mut all = Rules::default();
    let mut counter = 0;
    for &family in families {
        for table in Table::ALL {
            let chain = |hook| {
                let name = chain_name(hook);
                let mut chain = ChainSource {
                    name: name.into(),
                    hook: Some(hook),
                    drops: false,
                    counter: 0,
                    rules: vec![],
                };
                for line in lines {
                    let words = text::split(line).unwrap();
                    if words[0] != table.name() || words[1] != name {
                        continue;
                    }
                    let Ok((read, _)) = Rule::read(&words[2..], &mut Around::new(family, &Numeric)) else {
                        continue;
                    };
                    chain.rules.extend(read.into_iter().map(|mut rule| {
                        counter += 1;
                        rule.bind(named).unwrap();
                        RuleSource { rule: Arc::new(rule), counter }
                    }));
                }
                chain
            };
            let chains: Vec<ChainSource> = table.hooks().iter().copied().map(chain).collect();
            for (chain, hooks) in chains.iter().zip(reached_from(&chains)) {
                for source in &chain.rules {
                    source.rule.check(table, hooks).unwrap();
                }
            }
            all = all.with_table(family, table, &chains).unwrap();
        }
    }
    assert!(all.are_active());
    all
}

fn drop_port(hook: Hook, port: u16) -> Rules {
    rules(&[&format!("filter {} -p tcp --dport {port} -j DROP", chain_name(hook))])
}

fn snat(address: &str) -> Rules {
    rules(&[&format!("nat POSTROUTING -j SNAT --to-source {address}")])
}

pub(super) fn director(rules: Rules) -> Director {
    let mut director = Director::new();
    director.path.adopt(Arc::new(Tables { rules: Arc::new(rules), ..tables(2, &[11, 12], 1) }));
    director
}

const S2D: (Mac, Mac) = ([2, 0, 0, 0, 2, 11], OUR_LAN);

pub(super) fn through(sport: u16, flags: &str) -> Vec<u8> {
    tcp(C2D, ("192.0.2.100", sport), ("10.0.0.11", 22), flags)
}

pub(super) fn back(dport: u16, flags: &str) -> Vec<u8> {
    tcp(S2D, ("10.0.0.11", 22), ("192.0.2.100", dport), flags)
}

#[test]
fn what_goes_by_direct_routing_is_to_the_service_at_output_and_its_answers_would_be_from_there() {
    let lines = [
        "filter OUTPUT ! -d 192.0.2.10 -j DROP",
        "mangle POSTROUTING ! -d 192.0.2.10 -j DROP",
        "mangle OUTPUT ! -o lan -j DROP",
        "security OUTPUT -m conntrack ! --ctreplsrc 192.0.2.10 -j DROP",
    ];
    for one_packet in [false, true] {
        let plain = tables(2, &[11, 12], 1);
        let services = plain.services.iter().map(|service| {
            let mut service = Service::clone(service);
            service.options.one_packet = one_packet;
            service.servers.iter_mut().for_each(|server| server.forward = Forward::Direct);
            Arc::new(service)
        });
        let services = Services::new(services.collect::<Vec<_>>()).into();
        let mut director = Director::new();
        director.path.adopt(Tables { rules: Arc::new(rules(&lines)), services, ..plain }.into());
        let frame = match one_packet {
            false => from_client(4000, "S"),
            true => super::helped::udp(C2D, ("192.0.2.100", 4000), ("192.0.2.10", 80), b"x"),
        };
        for _ in 0..2 {
            assert_eq!(director.receive(WAN, std::slice::from_ref(&frame)).sent.len(), 1, "{one_packet}");
        }
    }
}

#[test]
fn a_forwarded_connection_is_dropped_at_forward_alone() {
    let at = |hook| {
        let mut director = director(drop_port(hook, 22));
        let out = director.receive(WAN, &[through(4000, "S")]);
        let dropped = director.counters[0].dropped(DropReason::Rule, hook).get();
        assert_eq!(out.sent.len() as u64 + dropped, 1);
        dropped
    };
    assert_eq!([Hook::Input, Hook::Forward, Hook::Output].map(at), [0, 1, 0]);
}

#[test]
fn a_virtual_services_packet_passes_input_and_output_with_its_new_destination() {
    for (hook, port, is_dropped) in [
        (Hook::Input, 80, true),
        (Hook::Input, 8080, false),
        (Hook::Forward, 80, false),
        (Hook::Forward, 8080, false),
        (Hook::Output, 80, false),
        (Hook::Output, 8080, true),
    ] {
        let mut director = director(drop_port(hook, port));
        let out = director.receive(WAN, &[from_client(4000, "S")]);
        assert_eq!(out.sent.is_empty(), is_dropped, "{hook:?} {port}");
    }
}

#[test]
fn the_answers_of_a_real_server_pass_forward() {
    let mut director = director(drop_port(Hook::Forward, 4000));
    assert_eq!(director.receive(WAN, &[from_client(4000, "S"), from_client(4001, "S")]).sent.len(), 2);
    assert!(director.receive(LAN, &[from_server(11, 4000, "SA")]).sent.is_empty());
    assert_eq!(director.dropped(DropReason::Rule), 1);
    let out = director.receive(LAN, &[from_server(12, 4001, "SA")]);
    assert_eq!(read(&out.sent[0].1), (ip("192.0.2.10"), 80, ip("192.0.2.100"), 4001, 63));
}

#[test]
fn a_connection_is_translated_to_another_destination_and_back() {
    let mut director =
        director(rules(&["nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 10.0.0.11:22"]));
    let to_us = |flags| tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 2222), flags);
    for flags in ["S", "A"] {
        let out = director.receive(WAN, &[to_us(flags)]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 4000, ip("10.0.0.11"), 22, 63));
        let out = director.receive(LAN, &[back(4000, "SA")]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.1"), 2222, ip("192.0.2.100"), 4000, 63));
    }
}

#[test]
fn sources_are_translated_and_no_two_connections_look_the_same() {
    let mut director = director(snat("192.0.2.1"));
    // Two real servers from the same port to the same place.
    let from = |n: u8, flags| {
        let mac = (server_mac(n), OUR_LAN);
        tcp(mac, (&format!("10.0.0.{n}"), 5000), ("192.0.2.100", 443), flags)
    };
    let first = director.receive(LAN, &[from(11, "S")]);
    assert_eq!(read(&first.sent[0].1), (ip("192.0.2.1"), 5000, ip("192.0.2.100"), 443, 63));
    let second = director.receive(LAN, &[from(12, "S")]);
    let (_, port, ..) = read(&second.sent[0].1);
    assert_ne!(port, 5000);
    for (n, port, to_port) in [(11, 5000, 5000), (12, port, 5000)] {
        let answer = tcp(C2D, ("192.0.2.100", 443), ("192.0.2.1", port), "SA");
        let out = director.receive(WAN, &[answer]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 443, ip(&format!("10.0.0.{n}")), to_port, 63));
    }
}

#[test]
fn a_packet_to_the_host_is_tracked_and_its_answer_leaves_as_it_is() {
    let mut director = director(drop_port(Hook::Forward, 1));
    let out = director.receive(WAN, &[tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 22), "S")]);
    assert_eq!(out.to_twin.len(), 1);
    let answer = tcp((OUR_WAN, CLIENT), ("192.0.2.1", 22), ("192.0.2.100", 4000), "SA");
    let mut out = Out::default();
    let mut burst: Burst<Frame> = [Frame::new(WAN, &answer)].into_iter().collect();
    director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
    assert_eq!(out.sent[0].1.data(), answer);
}

pub(super) fn ping(macs: (Mac, Mac), from: &str, to: &str, id: u16, is_reply: bool) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    let mut frame = Vec::new();
    match (ip(from), ip(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let builder = builder.ipv4(from.octets(), to.octets(), 64);
            if is_reply {
                builder.icmpv4_echo_reply(id, 1).write(&mut frame, b"ping").unwrap();
            } else {
                builder.icmpv4_echo_request(id, 1).write(&mut frame, b"ping").unwrap();
            }
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let builder = builder.ipv6(from.octets(), to.octets(), 64);
            if is_reply {
                builder.icmpv6_echo_reply(id, 1).write(&mut frame, b"ping").unwrap();
            } else {
                builder.icmpv6_echo_request(id, 1).write(&mut frame, b"ping").unwrap();
            }
        }
        _ => unreachable!("one family"),
    }
    frame
}

/// The ends and the identifier of an echo, its checksum having been found right.
pub(super) fn read_echo(frame: &Frame) -> (IpAddr, IpAddr, u16) {
    let data = frame.data();
    let (src, _, dst, ..) = read(frame);
    let l4 = if src.is_ipv6() { 54 } else { 34 };
    (src, dst, u16::from_be_bytes([data[l4 + 4], data[l4 + 5]]))
}

#[test]
fn pings_of_two_hosts_with_one_identifier_are_told_apart_behind_one_address() {
    for (address, hosts, to) in [
        ("192.0.2.1", ["10.0.0.11", "10.0.0.12"], "192.0.2.100"),
        ("2001:db8::1", ["fd00::11", "fd00::12"], "2001:db8::100"),
    ] {
        let mut director = director(snat(address));
        let mut ids = Vec::new();
        for (n, host) in [11, 12].into_iter().zip(hosts) {
            let out = director.receive(LAN, &[ping((server_mac(n), OUR_LAN), host, to, 7, false)]);
            let (src, dst, id) = read_echo(&out.sent[0].1);
            assert_eq!((src, dst), (ip(address), ip(to)));
            ids.push(id);
        }
        assert_eq!(ids[0], 7, "the first keeps its own");
        assert_ne!(ids[1], 7);
        for (id, host) in ids.into_iter().zip(hosts) {
            let out = director.receive(WAN, &[ping(C2D, to, address, id, true)]);
            assert_eq!(read_echo(&out.sent[0].1), (ip(to), ip(host), 7));
        }
    }
}

#[test]
fn a_tracked_connection_ends_when_its_time_is_over() {
    let mut director = director(drop_port(Hook::Forward, 1));
    director.receive(WAN, &[through(4000, "S")]);
    assert_eq!(director.counters[0].flows.inserted.get(), 1);
    for _ in 0..200 {
        director.now = director.now.after(crate::time::Timeout::from_secs(1));
        director.turn();
    }
    assert_eq!(director.counters[0].flows.entries.get(), 0);
    director.path.check_connections().unwrap();
}

/// "Time exceeded" from a router out there, about a packet that left.
pub(super) fn time_exceeded(about: &Frame) -> Vec<u8> {
    let quoted = &about.data()[14..];
    let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1);
    let mut frame = Vec::new();
    let Some(4) = quoted.first().map(|first| first >> 4) else { panic!("IPv4") };
    let to: [u8; 4] = quoted[12..16].try_into().unwrap();
    builder
        .ipv4([203, 0, 113, 7], to, 60)
        .icmpv4(etherparse::Icmpv4Type::TimeExceeded(
            etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit,
        ))
        .write(&mut frame, quoted)
        .unwrap();
    frame
}

#[test]
fn an_error_about_a_translated_packet_comes_to_its_sender_as_about_what_it_sent() {
    let mut director = director(snat("192.0.2.1"));
    let mac = (server_mac(11), OUR_LAN);
    let sent = [
        ping(mac, "10.0.0.11", "192.0.2.100", 7, false),
        tcp(mac, ("10.0.0.11", 5000), ("192.0.2.100", 443), "S"),
    ];
    // Another one that has these already, so that ours become others.
    director.receive(LAN, &[ping((server_mac(12), OUR_LAN), "10.0.0.12", "192.0.2.100", 7, false)]);
    director.receive(LAN, &[tcp((server_mac(12), OUR_LAN), ("10.0.0.12", 5000), ("192.0.2.100", 443), "S")]);
    for sent in sent {
        let out = director.receive(LAN, std::slice::from_ref(&sent));
        let out = director.receive(WAN, &[time_exceeded(&out.sent[0].1)]);
        let (port, frame) = &out.sent[0];
        assert_eq!(*port, LAN);
        let (src, _, dst, _, ttl) = read(frame);
        assert_eq!((src, dst, ttl), (ip("203.0.113.7"), ip("10.0.0.11"), 59), "the router stays who it is");
        // As it was sent, one hop later.
        let mut expected = Frame::new(LAN, &sent);
        let Ok(Parsed::Ip(headers)) = parse(&sent, sent.len(), Default::default()) else { panic!("no IP") };
        rewrite::decrement_ttl(expected.data_mut(), &headers);
        assert_eq!(frame.data()[42..], expected.data()[14..]);
    }
}

#[test]
fn a_host_learns_of_an_error_about_its_own_packet() {
    let mut director = director(drop_port(Hook::Forward, 1));
    let sent = Frame::new(WAN, &tcp((OUR_WAN, CLIENT), ("192.0.2.1", 4000), ("192.0.2.100", 443), "S"));
    let mut out = Out::default();
    let mut burst: Burst<Frame> = [sent.clone()].into_iter().collect();
    director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
    let out = director.receive(WAN, &[time_exceeded(&sent)]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 1));
}

/// Several workers with the same tables.
pub(super) struct Workers {
    pub(super) paths: Vec<Path<Frame>>,
    pub(super) counters: Arc<[Arc<WorkerCounters>]>,
}

impl Workers {
    pub(super) fn new(number: u16, rules: Rules) -> Workers {
        let tables = Arc::new(Tables { rules: Arc::new(rules), ..tables(2, &[11, 12], 1) });
        let (counters, uses) = (counters(number.into()), Arc::new(Uses::new(number.into(), 100)));
        let mut paths: Vec<_> = (0..number).map(|worker| path(worker, &counters, &uses)).collect();
        paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
        Workers { paths, counters }
    }

    /// Brings a frame from worker to worker; the last one, and what left.
    pub(super) fn carry(&mut self, port: PortId, frame: &[u8], is_of_host: bool) -> (usize, Out) {
        let (mut at, now) = (0, Tick(100));
        let mut out = Out::default();
        let mut burst: Burst<Frame> = [Frame::new(port, frame)].into_iter().collect();
        match is_of_host {
            true => self.paths[at].receive_from_twin(port, &mut burst, now, &mut out),
            false => self.paths[at].receive(&mut burst, now, &mut out),
        }
        let mut steps = 0;
        while let Some((to, packet, steer)) = out.handed.pop() {
            at = to.index();
            steps += 1;
            assert!(steps < 8, "round and round");
            let mut handed = [(packet, steer)].into_iter().collect();
            self.paths[at].receive_handed_over(&mut handed, now, &mut out);
        }
        (at, out)
    }

    pub(super) fn inserted(&self) -> u64 {
        self.counters.iter().map(|worker| worker.flows.inserted.get()).sum()
    }
}

#[test]
fn what_answers_a_routed_connection_finds_it_at_the_other_ends_worker() {
    let mut workers = Workers::new(2, drop_port(Hook::Forward, 1));
    for sport in 4000..4032 {
        let (began, out) = workers.carry(WAN, &through(sport, "S"), false);
        assert_eq!(out.sent.len(), 1);
        for (port, frame) in [(LAN, back(sport, "SA")), (WAN, through(sport, "A"))] {
            let (at, out) = workers.carry(port, &frame, false);
            assert_eq!((at, out.sent.len()), (began, 1), "port {sport}");
        }
    }
    assert_eq!(workers.inserted(), 32, "one entry each");
}

#[test]
fn what_answers_a_connection_to_another_destination_finds_it_at_any_worker() {
    let mut workers = Workers::new(
        3,
        rules(&[
            "nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 10.0.0.11:22",
            "nat POSTROUTING -o lan -j MASQUERADE",
        ]),
    );
    let mut sources = std::collections::BTreeSet::new();
    for sport in 4000..4032 {
        // From two clients with one port.
        for client in ["192.0.2.100", "192.0.2.101"] {
            let to_us = |flags| tcp(C2D, (client, sport), ("192.0.2.1", 2222), flags);
            let (began, out) = workers.carry(WAN, &to_us("S"), false);
            let (src, port, ..) = read(&out.sent[0].1);
            assert_eq!(src, ip("10.0.0.1"));
            assert!(sources.insert(port), "port {port} is somebody's already");
            let answer = tcp(S2D, ("10.0.0.11", 22), ("10.0.0.1", port), "SA");
            let (at, out) = workers.carry(LAN, &answer, false);
            assert_eq!(at, began);
            // The other one's neighbour is not known: its packet waits.
            let left = out.sent.first().map(|(_, frame)| read(frame));
            let must = (ip("192.0.2.1"), 2222, ip(client), sport, 63);
            assert_eq!(left, (client == "192.0.2.100").then_some(must));
        }
    }
    assert_eq!(workers.inserted(), 64, "one entry each");
}

#[test]
fn what_the_host_answers_to_a_redirected_connection_finds_it_at_any_worker() {
    let mut workers =
        Workers::new(3, rules(&["nat PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2222"]));
    for sport in 4000..4032 {
        let (began, out) = workers.carry(WAN, &through(sport, "S"), false);
        let (_, _, dst, dport, _) = read(&out.to_twin[0]);
        assert_eq!((dst, dport), (ip("192.0.2.1"), 2222));
        let answer = tcp((OUR_WAN, CLIENT), ("192.0.2.1", 2222), ("192.0.2.100", sport), "SA");
        let (at, out) = workers.carry(WAN, &answer, true);
        assert_eq!(at, began);
        assert_eq!(read(&out.sent[0].1), (ip("10.0.0.11"), 22, ip("192.0.2.100"), sport, 64));
    }
}

#[test]
fn a_connections_first_packet_is_translated_for_the_rules_behind() {
    let mut director = director(rules(&[
        "nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 10.0.0.11:22",
        "filter FORWARD -m conntrack --ctstate DNAT -m conntrack --ctreplsrc 10.0.0.11 -j ACCEPT",
        "filter FORWARD -j DROP",
    ]));
    let out = director.receive(WAN, &[tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 2222), "S")]);
    assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 4000, ip("10.0.0.11"), 22, 63));
    assert!(director.receive(WAN, &[through(4000, "S")]).sent.is_empty(), "it is not translated");
}

#[test]
fn the_host_does_not_take_the_source_that_another_connection_was_given() {
    let mut director = director(snat("192.0.2.1"));
    let from = tcp((server_mac(11), OUR_LAN), ("10.0.0.11", 5000), ("192.0.2.100", 443), "S");
    let out = director.receive(LAN, &[from]);
    assert_eq!(read(&out.sent[0].1), (ip("192.0.2.1"), 5000, ip("192.0.2.100"), 443, 63));
    let own = tcp((OUR_WAN, CLIENT), ("192.0.2.1", 5000), ("192.0.2.100", 443), "S");
    let mut out = Out::default();
    let mut burst: Burst<Frame> = [Frame::new(WAN, &own)].into_iter().collect();
    director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
    let (src, port, ..) = read(&out.sent[0].1);
    assert_eq!(src, ip("192.0.2.1"));
    assert_ne!(port, 5000, "what answers it would be the other one's");
}

#[test]
fn what_the_host_sends_to_a_services_client_is_an_answer_only_where_nothing_is_translated() {
    for (forward, is_answer) in [(Forward::Masq, false), (Forward::Direct, true)] {
        let (tables, mut director) = (tables(2, &[11, 12], 1), Director::new());
        let services = tables.services.iter().map(|service| {
            let mut service = Service::clone(service);
            service.servers.iter_mut().for_each(|server| server.forward = forward);
            Arc::new(service)
        });
        let services = Services::new(services.collect::<Vec<_>>()).into();
        let rules = Arc::new(rules(&["nat POSTROUTING -s 10.0.0.0/8 -j SNAT --to-source 192.0.2.1"]));
        director.path.adopt(Arc::new(Tables { services, rules, ..tables }));
        director.receive(WAN, &[from_client(4000, "S")]);
        let flags = if is_answer { "SA" } else { "S" };
        let own = tcp((OUR_WAN, CLIENT), ("192.0.2.10", 80), ("192.0.2.100", 4000), flags);
        let mut out = Out::default();
        let mut burst: Burst<Frame> = [Frame::new(WAN, &own)].into_iter().collect();
        director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
        let (src, port, ..) = read(&out.sent[0].1);
        assert_eq!((src, port == 80), (ip("192.0.2.10"), is_answer), "{forward:?}");
    }
}

#[test]
fn a_packet_of_the_host_to_another_destination_leaves_by_that_ones_interface() {
    let mut director = director(rules(&[
        "nat OUTPUT -p tcp --dport 443 -j DNAT --to-destination 10.0.0.11",
        "filter OUTPUT -o lan -j ACCEPT",
        "filter OUTPUT -j DROP",
    ]));
    for flags in ["S", "S"] {
        let own = tcp((OUR_WAN, CLIENT), ("192.0.2.1", 5000), ("192.0.2.100", 443), flags);
        let mut out = Out::default();
        let mut burst: Burst<Frame> = [Frame::new(WAN, &own)].into_iter().collect();
        director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
        assert_eq!((out.sent[0].0, read(&out.sent[0].1).2), (LAN, ip("10.0.0.11")));
    }
}

/// Lets everything pass, and is asked everywhere.
fn watching() -> Director {
    let mut lines = Vec::new();
    for table in Table::ALL {
        lines.extend(table.hooks().iter().map(|&hook| format!("{} {}", table.name(), chain_name(hook))));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut director = director(rules(&lines));
    director.path.watch.make_room();
    director
}

/// The hooks and functions that one packet meets, in their order; `None` for a port: the host sends it by that of the WAN.
fn walk(director: &mut Director, port: Option<PortId>, frame: &[u8]) -> (Vec<(Hook, Function)>, Out) {
    let mut out = Out::default();
    let frame = Frame::new(port.unwrap_or(WAN), frame);
    let trail = director.path.watched(frame, port.is_none(), director.now, &mut out).trail;
    assert_eq!(trail.left_out(), 0);
    let met = trail.steps().iter().filter_map(|step| match *step {
        Step::At { hook, function } => Some((hook, function)),
        Step::Asked(asked) => Some((asked.hook, Function::Table(asked.table))),
        _ => None,
    });
    (met.collect(), out)
}

/// What the printed table says of a road: each function at its hooks in their order, but for those that are not of this road.
fn said(hooks: &[Hook], is_met: impl Fn(Hook, Function) -> bool) -> Vec<(Hook, Function)> {
    let at = |hook| ORDER.iter().filter(move |place| place.hook == hook);
    let places = hooks.iter().copied().flat_map(at).filter(|place| {
        let is_never = place.does.starts_with("never") || place.function == Function::Defragment;
        !is_never && is_met(place.hook, place.function)
    });
    places.map(|place| (place.hook, place.function)).collect()
}

#[test]
fn each_road_meets_hooks_and_tables_in_the_printed_order() {
    use Function::{Confirm, Conntrack, RemoteRequest, Reply};
    use Hook::{Forward, Input, Output, Postrouting, Prerouting};
    const NAT: Function = Function::Table(Table::Nat);
    let mut seen = Vec::new();
    let mut check = |what: &str, (met, _): (Vec<(Hook, Function)>, Out), said: Vec<(Hook, Function)>| {
        assert_eq!(met, said, "{what}");
        seen.extend(met);
    };
    let is_tracked = |_, function| !matches!(function, RemoteRequest | Reply);
    let is_later = |hook, function| is_tracked(hook, function) && !matches!(function, NAT | Confirm);

    let mut director = watching();
    let through_us = [Prerouting, Forward, Postrouting];
    let first = walk(&mut director, Some(WAN), &through(4000, "S"));
    check("what begins a forwarded connection", first, said(&through_us, is_tracked));
    let answer = walk(&mut director, Some(LAN), &back(4000, "SA"));
    check("its answer", answer, said(&through_us, is_later));

    let to_us = [Prerouting, Input];
    let ssh = |flags| tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 22), flags);
    let first = walk(&mut director, Some(WAN), &ssh("S"));
    check("what begins a connection to the host", first, said(&to_us, is_tracked));
    let back = tcp((OUR_WAN, CLIENT), ("192.0.2.1", 22), ("192.0.2.100", 4000), "SA");
    let answer = walk(&mut director, None, &back);
    check("the host's answer", answer, said(&[Output, Postrouting], is_later));
    let next = walk(&mut director, Some(WAN), &ssh("A"));
    check("another packet to the host", next, said(&to_us, is_later));

    let own = tcp((OUR_WAN, CLIENT), ("192.0.2.1", 5000), ("192.0.2.100", 443), "S");
    let sent = walk(&mut director, None, &own);
    check("what begins a connection of the host", sent, said(&[Output, Postrouting], is_tracked));

    let to_service = [Prerouting, Input, Output, Postrouting];
    let mut first = walk(&mut director, Some(WAN), &from_client(4000, "S"));
    let ours = |hook, function| match (hook, function) {
        // The connection is entered by IPVS, and the nat table is done with it at PREROUTING.
        (_, Confirm | Reply) | (Output, Conntrack) => false,
        (hook, NAT) => hook == Prerouting,
        _ => true,
    };
    assert_eq!(read(&first.1.sent.remove(0).1).2, ip("10.0.0.11"));
    check("what begins a connection to a virtual service", first, said(&to_service, ours));
    let later = |hook, function| ours(hook, function) && !matches!(function, NAT | Conntrack);
    let answer = walk(&mut director, Some(LAN), &from_server(11, 4000, "SA"));
    let of_answer = |_, function| matches!(function, Function::Table(_) | Reply) && function != NAT;
    check("a real server's answer", answer, said(&through_us, of_answer));
    let next = walk(&mut director, Some(WAN), &from_client(4000, "A"));
    check("another packet to a virtual service", next, said(&to_service, later));
    let sent = director.receive(LAN, &[from_server(11, 4000, "A")]).sent.remove(0).1;
    let error = walk(&mut director, Some(WAN), &time_exceeded(&sent));
    check("an ICMP error about an answer", error, said(&to_service, later));

    for place in ORDER.iter().filter(|place| place.function != Function::Defragment) {
        let is_met = seen.contains(&(place.hook, place.function));
        assert_eq!(is_met, !place.does.starts_with("never"), "{place:?}");
    }
}

#[test]
fn an_answers_source_is_the_virtual_services_at_postrouting() {
    let mut director = director(rules(&["mangle POSTROUTING -s 192.0.2.10 -p tcp --sport 80 -j DROP"]));
    assert_eq!(director.receive(WAN, &[from_client(4000, "S")]).sent.len(), 1);
    assert!(director.receive(LAN, &[from_server(11, 4000, "SA")]).sent.is_empty());
}

#[test]
fn a_packet_is_of_its_virtual_service_from_where_ipvs_has_looked_at_it() {
    // What a request and its answer count.
    for (line, counts) in [
        ("filter INPUT -m ipvs --ipvs", (0, 0)),
        ("filter INPUT -m ipvs ! --ipvs", (1, 0)),
        ("filter OUTPUT -m ipvs --ipvs", (1, 0)),
        ("filter FORWARD -m ipvs --ipvs", (0, 0)),
        ("mangle PREROUTING -m ipvs ! --ipvs", (1, 1)),
        ("mangle POSTROUTING -m ipvs --ipvs", (1, 1)),
        ("mangle POSTROUTING -m ipvs ! --ipvs", (0, 0)),
        ("mangle POSTROUTING -m ipvs --vdir ORIGINAL", (1, 0)),
        ("mangle POSTROUTING -m ipvs --vdir REPLY", (0, 1)),
        ("mangle POSTROUTING -m ipvs --vproto tcp --vaddr 192.0.2.9/28 --vport 80 --vmethod MASQ", (1, 1)),
        ("mangle POSTROUTING -m ipvs --vproto udp", (0, 0)),
        ("mangle POSTROUTING -m ipvs ! --vproto udp", (1, 1)),
        ("mangle POSTROUTING -m ipvs --vaddr 10.0.0.11", (0, 0)),
        ("mangle POSTROUTING -m ipvs ! --vaddr 10.0.0.11 --vdir REPLY", (0, 1)),
        ("mangle POSTROUTING -m ipvs --vport 8080", (0, 0)),
        ("mangle POSTROUTING -m ipvs --vmethod GATE", (0, 0)),
        ("mangle POSTROUTING -m ipvs ! --vmethod GATE", (1, 1)),
        ("mangle POSTROUTING -m ipvs --vportctl 80", (0, 0)),
        // Of no service nothing is asked that one would have.
        ("filter INPUT -m ipvs ! --vport 8080", (0, 0)),
    ] {
        let mut director = director(rules(&[line]));
        let counted = |director: &Director| director.counters[0].rule(1).packets.get();
        director.receive(WAN, &[from_client(4000, "S")]);
        let request = counted(&director);
        director.receive(LAN, &[from_server(11, 4000, "SA")]);
        assert_eq!((request, counted(&director) - request), counts, "{line}");
        // What is only routed is never one of IPVS.
        if !line.contains("! --ipvs") {
            let before = counted(&director);
            director.receive(WAN, &[through(4001, "S")]);
            assert_eq!(counted(&director), before, "{line}");
        }
    }
}

#[test]
fn the_port_of_a_held_connection_is_that_of_its_persistent_service() {
    let at = |port| {
        let line = format!("mangle POSTROUTING -m ipvs --vportctl {port}");
        let mut director = Director::new();
        director.path.adopt(Arc::new(Tables { rules: Arc::new(rules(&[&line])), ..persistent(2, |_| ()) }));
        director.receive(WAN, &[from_client(4000, "S")]);
        director.receive(LAN, &[from_server(11, 4000, "SA")]);
        director.receive(LAN, &[from_server(12, 4000, "SA")]);
        director.counters[0].rule(1).packets.get()
    };
    assert_eq!([at(80), at(8080)], [2, 0]);
}

#[test]
fn a_list_remembers_as_often_as_any_of_its_rules_asks_for() {
    let mut director = director(rules(&[
        "filter FORWARD -m recent --name r --set",
        "filter FORWARD -m recent --name r --rcheck --hitcount 40 -j DROP",
    ]));
    let passed = (4000..4060).filter(|&sport| director.receive(WAN, &[through(sport, "S")]).sent.len() == 1);
    assert_eq!(passed.count(), 39);
}

#[test]
fn a_packet_that_begins_a_connection_where_one_was_is_asked_of_once() {
    // Routed, and a virtual service's.
    let (opens, answers) = (through(4000, "S"), back(4000, "RA"));
    let closes = [through(4000, "S"), back(4000, "SA"), through(4000, "A"), through(4000, "FA")];
    for (first, last) in [
        (closes.to_vec(), through(4000, "S")),
        (vec![opens, answers], through(4000, "S")),
        (vec![from_client(4000, "S"), from_server(11, 4000, "RA")], from_client(4000, "S")),
        (vec![from_client(4000, "S"), from_client(4000, "FA")], from_client(4000, "S")),
    ] {
        let mut director = director(rules(&["raw PREROUTING -p tcp", "mangle PREROUTING -p tcp"]));
        let count = first.len() as u64 + 1;
        for frame in first.into_iter().chain([last]) {
            let port = if frame[..6] == OUR_LAN { LAN } else { WAN };
            director.receive(port, &[frame]);
        }
        let mut counted = [(0, 0); 3];
        assert!(director.counters[0].add_rule_counts(&mut counted));
        assert_eq!([counted[1].0, counted[2].0], [count; 2]);
        assert_eq!(director.states().len(), 1);
    }
}

#[test]
fn a_held_connection_to_another_destination_is_of_its_persistent_service() {
    let mut director = Director::new();
    let lines = [
        "nat PREROUTING -p tcp --dport 8888 -j DNAT --to-destination 192.0.2.10:80",
        "mangle POSTROUTING -m ipvs --vportctl 80",
    ];
    director.path.adopt(Arc::new(Tables { rules: Arc::new(rules(&lines)), ..persistent(2, |_| ()) }));
    for flags in ["S", "A"] {
        director.receive(WAN, &[tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 8888), flags)]);
    }
    assert_eq!(director.counters[0].rule(1).packets.get(), 2);
}

#[test]
fn a_services_connection_is_confirmed_by_its_first_packet_and_assured_when_both_have_agreed() {
    for (status, counts) in [("CONFIRMED", [0, 1, 2, 3]), ("ASSURED", [0, 0, 0, 1])] {
        let mut director = director(rules(&[&format!("mangle PREROUTING -m conntrack --ctstatus {status}")]));
        let frames = [
            (WAN, from_client(4000, "S")),
            (LAN, from_server(11, 4000, "SA")),
            (WAN, from_client(4000, "A")),
            (LAN, from_server(11, 4000, "A")),
        ];
        let counted = frames.map(|(port, frame)| {
            director.receive(port, &[frame]);
            director.counters[0].rule(1).packets.get()
        });
        assert_eq!(counted, counts, "{status}");
    }
}
