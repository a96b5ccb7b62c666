//! Goal: connections with one tuple in different zones are different ones, for all that a connection is: state, translation, errors, limits,
//! the host's packets, several workers; and who names no zone sees nothing of it. Method: two networks with the same addresses, told apart by
//! the MAC that packets come from; rules of a few words.

use super::hooks::{Workers, back, ping, rules, through, time_exceeded};
use super::*;
use crate::conntrack::{Status, Zones};
use crate::flow::Direction;
use crate::rule::Rules;

/// Of the first network, and of the second.
const FIRST: Mac = [2, 0, 0, 0, 2, 11];
const SECOND: Mac = [2, 0, 0, 0, 2, 99];
const IN_ZONES: [&str; 2] = [
    "raw PREROUTING -m mac --mac-source 02:00:00:00:02:0b -j CT --zone 1",
    "raw PREROUTING -m mac --mac-source 02:00:00:00:02:63 -j CT --zone 2",
];
const BY_ORIGIN: [&str; 2] = [
    "raw PREROUTING -m mac --mac-source 02:00:00:00:02:0b -j CT --zone-orig 1",
    "raw PREROUTING -m mac --mac-source 02:00:00:00:02:63 -j CT --zone-orig 2",
];
const SNAT: &str = "nat POSTROUTING -o wan -j SNAT --to-source 192.0.2.1";

fn director(lines: &[&str]) -> Director {
    let mut director = Director::new();
    adopt(&mut director, 2, lines);
    director
}

fn adopt(director: &mut Director, generation: u32, lines: &[&str]) {
    let rules = if lines.is_empty() { Rules::default() } else { rules(lines) };
    let tables = Tables { rules: Arc::new(rules), ..tables(generation, &[11, 12], 1) };
    director.path.adopt(Arc::new(tables));
}

/// From 10.0.0.11 of one of the networks to the client's host.
fn out(mac: Mac, sport: u16, flags: &str) -> Vec<u8> {
    tcp((mac, OUR_LAN), ("10.0.0.11", sport), ("192.0.2.100", 443), flags)
}

fn answer(dport: u16, flags: &str) -> Vec<u8> {
    tcp(C2D, ("192.0.2.100", 443), ("192.0.2.1", dport), flags)
}

fn list(path: &Path<Frame>) -> Vec<FlowView> {
    let mut views = Vec::new();
    path.list(0, u32::MAX, Tick(100), &mut |view| views.push(view));
    views.sort_by_key(|view| (view.known.zones.id(), view.client.1));
    views
}

fn zones(director: &Director) -> Vec<(Zones, &'static str)> {
    assert_eq!(director.path.check_connections(), Ok(()));
    list(&director.path).iter().map(|view| (view.known.zones, view.state)).collect()
}

#[test]
fn one_tuple_in_two_zones_is_two_connections_with_their_own_states() {
    let mut director =
        director(&[IN_ZONES[0], IN_ZONES[1], "filter FORWARD -m conntrack --ctstate INVALID -j DROP"]);
    director.receive(LAN, &[out(FIRST, 5000, "S"), out(SECOND, 5000, "S")]);
    let both = [(Zones::new(1, None), "SYN_SENT"), (Zones::new(2, None), "SYN_SENT")];
    assert_eq!(zones(&director), both);
    // Answers come from out there, where no rule says of which zone they are: of none of the two.
    let sent = director.receive(WAN, &[tcp(C2D, ("192.0.2.100", 443), ("10.0.0.11", 5000), "SA")]);
    assert!(sent.sent.is_empty(), "it answers nothing in zone 0");
    // A reset in one of them.
    director.receive(LAN, &[out(SECOND, 5000, "R")]);
    assert_eq!(zones(&director), both[..1]);
}

#[test]
fn what_begins_a_connection_in_a_zone_is_translated_though_zone_0_has_one_of_its_tuple() {
    let mut director = director(&[SNAT]);
    director.receive(LAN, &[out(FIRST, 5000, "S")]);
    adopt(&mut director, 3, &[IN_ZONES[0], SNAT]);
    let sent = director.receive(LAN, &[out(FIRST, 5000, "S")]);
    assert_eq!(read(&sent.sent[0].1).0, ip("192.0.2.1"), "table nat is asked");
    assert_eq!(zones(&director), [(Zones::NONE, "SYN_SENT"), (Zones::new(1, None), "SYN_SENT")]);
}

#[test]
fn both_directions_in_a_zone_are_one_connection() {
    let mut director = director(&["raw PREROUTING -p tcp -j CT --zone 7"]);
    director.receive(WAN, &[through(4000, "S")]);
    director.receive(LAN, &[back(4000, "SA")]);
    let sent = director.receive(WAN, &[through(4000, "A"), through(4000, "A")]);
    assert_eq!(sent.sent.len(), 2);
    assert_eq!(zones(&director), [(Zones::new(7, None), "ESTABLISHED")]);
}

#[test]
fn networks_with_the_same_addresses_are_translated_to_ports_of_their_own_and_back() {
    let mut director = director(&[BY_ORIGIN[0], BY_ORIGIN[1], SNAT]);
    let mut ports = Vec::new();
    for mac in [FIRST, SECOND] {
        let sent = director.receive(LAN, &[out(mac, 5000, "S")]);
        let (src, port, ..) = read(&sent.sent[0].1);
        assert_eq!(src, ip("192.0.2.1"));
        ports.push(port);
    }
    assert_eq!(ports, [5000, 5001], "answers are in zone 0 together");
    for (n, &port) in ports.iter().enumerate() {
        let sent = director.receive(WAN, &[answer(port, "SA")]);
        assert_eq!(read(&sent.sent[0].1), (ip("192.0.2.100"), 443, ip("10.0.0.11"), 5000, 63));
        let view = &list(&director.path)[n];
        assert_eq!(view.known.zones, Zones::new(n as u16 + 1, Some(Direction::Original)));
        assert!(view.known.status.has(Status::SEEN_REPLY));
    }
    for (mac, port) in [(FIRST, 5000), (SECOND, 5001)] {
        let sent = director.receive(LAN, &[out(mac, 5000, "A")]);
        assert_eq!(read(&sent.sent[0].1).1, port);
    }
    assert_eq!(zones(&director).len(), 2);
}

#[test]
fn in_zones_of_both_directions_each_may_have_the_port() {
    let mut director = director(&[IN_ZONES[0], IN_ZONES[1], SNAT]);
    for mac in [FIRST, SECOND] {
        let sent = director.receive(LAN, &[out(mac, 5000, "S")]);
        assert_eq!(read(&sent.sent[0].1).1, 5000);
    }
    assert_eq!(zones(&director).len(), 2);
}

#[test]
fn the_zone_may_be_the_packets_mark() {
    let mut director = director(&[
        "raw PREROUTING -p tcp --dport 22 -j CT --zone mark",
        "raw PREROUTING -j MARK --set-mark 0x10009",
    ]);
    director.receive(WAN, &[through(4000, "S")]);
    assert_eq!(zones(&director), [(Zones::new(9, None), "SYN_SENT")], "as it is behind the table");
}

#[test]
fn the_first_target_that_a_packet_meets_counts() {
    for (lines, expected) in [
        (["raw PREROUTING -j CT --zone 3", "raw PREROUTING -j CT --zone 4"], Some(Zones::new(3, None))),
        (["raw PREROUTING -j CT --zone 3", "raw PREROUTING -j NOTRACK"], Some(Zones::new(3, None))),
        (["raw PREROUTING -j CT", "raw PREROUTING -j CT --zone 4"], Some(Zones::NONE)),
        (["raw PREROUTING -j CT --notrack", "raw PREROUTING -j CT --zone 4"], None),
    ] {
        let mut director = director(&lines);
        director.receive(WAN, &[through(4000, "S")]);
        assert_eq!(list(&director.path).first().map(|view| view.known.zones), expected, "{lines:?}");
    }
}

#[test]
fn a_connection_that_is_in_zone_0_stays_one_when_a_rule_puts_its_packets_elsewhere() {
    let mut director = director(&["filter FORWARD -p tcp --dport 1 -j DROP"]);
    director.receive(WAN, &[through(4000, "S")]);
    director.receive(LAN, &[back(4000, "SA")]);
    adopt(&mut director, 3, &["raw PREROUTING -j CT --zone 5"]);
    // In zone 5 it is new: taken up in its middle.
    let sent = director.receive(WAN, &[through(4000, "A")]);
    assert_eq!(sent.sent.len(), 1);
    assert_eq!(zones(&director), [(Zones::NONE, "SYN_RECV"), (Zones::new(5, None), "ESTABLISHED")]);
    adopt(&mut director, 4, &["filter FORWARD -p tcp --dport 1 -j DROP"]);
    director.receive(WAN, &[through(4000, "A")]);
    assert_eq!(zones(&director)[0].1, "ESTABLISHED", "the first one goes on");
    adopt(&mut director, 5, &[]);
    assert_eq!(director.receive(WAN, &[through(4000, "A")]).sent.len(), 1);
}

#[test]
fn a_direction_in_zone_0_is_known_also_when_no_rule_names_the_zone_any_more() {
    let mut director = director(&[BY_ORIGIN[0], SNAT]);
    director.receive(LAN, &[out(FIRST, 5000, "S")]);
    adopt(&mut director, 3, &[SNAT]);
    let sent = director.receive(WAN, &[answer(5000, "SA")]);
    assert_eq!(read(&sent.sent[0].1).2, ip("10.0.0.11"));
}

#[test]
fn pings_and_errors_are_of_the_connection_in_their_zone() {
    let mut director = director(&[
        BY_ORIGIN[0],
        BY_ORIGIN[1],
        SNAT,
        "filter FORWARD -m conntrack --ctstate INVALID -j DROP",
    ]);
    let echo = |mac, is_reply| match is_reply {
        false => ping((mac, OUR_LAN), "10.0.0.11", "192.0.2.100", 7, false),
        true => ping(C2D, "192.0.2.100", "192.0.2.1", 7, true),
    };
    let first = director.receive(LAN, &[echo(FIRST, false)]).sent.remove(0).1;
    let second = director.receive(LAN, &[echo(SECOND, false)]).sent.remove(0).1;
    assert_eq!(director.receive(WAN, &[echo(FIRST, true)]).sent.len(), 1);
    for sent in [first, second] {
        let back = director.receive(WAN, &[time_exceeded(&sent)]);
        assert_eq!(back.sent.len(), 1, "it comes to who sent the packet");
    }
    // About a connection in both directions of a zone nobody out there can say anything.
    adopt(&mut director, 3, &[IN_ZONES[0], "filter FORWARD -m conntrack --ctstate INVALID -j DROP"]);
    let sent = director.receive(LAN, &[out(FIRST, 6000, "S")]).sent.remove(0).1;
    assert!(director.receive(WAN, &[time_exceeded(&sent)]).sent.is_empty());
}

#[test]
fn connections_are_limited_in_each_zone() {
    let mut director =
        director(&[IN_ZONES[0], IN_ZONES[1], "filter FORWARD -m connlimit --connlimit-above 1 -j DROP"]);
    let mut sent = |mac, port| director.receive(LAN, &[out(mac, port, "S")]).sent.len();
    assert_eq!((sent(FIRST, 5000), sent(FIRST, 5001)), (1, 0));
    assert_eq!((sent(SECOND, 5000), sent(SECOND, 5001)), (1, 0));
}

#[test]
fn fragments_follow_their_connection_in_its_zone() {
    let mut director =
        director(&["raw PREROUTING -j CT --zone 3", "filter FORWARD -m conntrack --ctstate INVALID -j DROP"]);
    let macs = (CLIENT, OUR_WAN);
    let parts = datagram_between(macs, ("192.0.2.100", 4000), ("10.0.0.11", 53), 3);
    assert_eq!(director.receive(WAN, &parts).sent.len(), 3);
    assert_eq!(zones(&director).len(), 1);
}

#[test]
fn a_virtual_services_connection_is_in_zone_0_whatever_rules_say() {
    let mut director = director(&["raw PREROUTING -j CT --zone 3"]);
    assert_eq!(director.receive(WAN, &[from_client(4000, "S")]).sent.len(), 1);
    assert_eq!(director.receive(WAN, &[from_client(4000, "A")]).sent.len(), 1);
    assert_eq!(zones(&director), [(Zones::NONE, "ESTABLISHED")]);
}

#[test]
fn what_the_host_sends_is_in_the_zone_that_output_says() {
    let mut director =
        director(&["raw OUTPUT -p tcp -j CT --zone 4", "raw PREROUTING -p tcp --sport 443 -j CT --zone 4"]);
    let of_host = tcp((OUR_WAN, CLIENT), ("192.0.2.1", 6000), ("192.0.2.100", 443), "S");
    let mut sent = Out::default();
    let mut burst: Burst<Frame> = [Frame::new(WAN, &of_host)].into_iter().collect();
    director.path.receive_from_twin(WAN, &mut burst, director.now, &mut sent);
    assert_eq!(sent.sent.len(), 1);
    assert_eq!(director.receive(WAN, &[answer(6000, "SA")]).to_twin.len(), 1);
    assert_eq!(zones(&director), [(Zones::new(4, None), "SYN_RECV")]);
}

#[test]
fn an_order_is_followed_in_the_zone_that_it_names() {
    let mut director = director(&[IN_ZONES[0], IN_ZONES[1]]);
    director.receive(LAN, &[out(FIRST, 5000, "S"), out(SECOND, 5000, "S")]);
    let view = list(&director.path).remove(1);
    let end = Order { zones: view.known.zones, deed: Deed::End };
    assert_eq!(director.path.order(&view.original(), &end, director.now), Outcome::Done);
    assert_eq!(zones(&director), [(Zones::new(1, None), "SYN_SENT")]);
    assert_eq!(director.path.order(&view.original(), &end, director.now), Outcome::Absent);
}

#[test]
fn connections_of_several_workers_are_found_and_no_rule_of_the_table_raw_is_asked_twice() {
    let mut workers = Workers::new(
        3,
        rules(&[
            BY_ORIGIN[0],
            BY_ORIGIN[1],
            "nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 192.0.2.100:443",
            SNAT,
        ]),
    );
    let mut packets = 0;
    for sport in 5000..5016 {
        for mac in [FIRST, SECOND] {
            let (began, sent) = workers.carry(LAN, &out(mac, sport, "S"), false);
            let (_, port, ..) = read(&sent.sent[0].1);
            let (at, sent) = workers.carry(WAN, &answer(port, "SA"), false);
            assert_eq!((at, read(&sent.sent[0].1).3), (began, sport));
            let (at, sent) = workers.carry(LAN, &out(mac, sport, "A"), false);
            assert_eq!((at, read(&sent.sent[0].1).1), (began, port));
            packets += 2;
            // Its answers name neither end.
            let exchanged = |flags| tcp((mac, OUR_LAN), ("10.0.0.11", sport), ("203.0.113.9", 2222), flags);
            let (began, sent) = workers.carry(LAN, &exchanged("S"), false);
            let (_, port, ..) = read(&sent.sent[0].1);
            let (at, sent) = workers.carry(WAN, &answer(port, "SA"), false);
            assert_eq!(
                (at, read(&sent.sent[0].1)),
                (began, (ip("203.0.113.9"), 2222, ip("10.0.0.11"), sport, 63))
            );
            packets += 1;
        }
    }
    assert_eq!(workers.inserted(), 64, "one entry each");
    let met: u64 = workers
        .counters
        .iter()
        .map(|worker| worker.rule(1).packets.get() + worker.rule(2).packets.get())
        .sum();
    assert_eq!(met, packets);
    workers.paths.iter().for_each(|path| assert_eq!(path.check_connections(), Ok(())));
}
