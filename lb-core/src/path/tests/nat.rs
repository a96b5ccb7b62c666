//! Goal: translation of connections does what RFC 4787, 5382, 5508 and 7857 ask of a NAT, as docs/nat.md says of each requirement.
//! Method: a private network behind one address (`SNAT`), servers out there; packets in both directions, pieces, errors, several workers.

use super::hooks::{ping, read_echo, rules, time_exceeded};
use super::*;
use crate::time::Timeout;

const OUTSIDE: &str = "192.0.2.1";
const SNAT: &str = "nat POSTROUTING -s 10.0.0.0/24 -j SNAT --to-source 192.0.2.1";
const SNAT6: &str = "nat POSTROUTING -s fd00::/64 -j SNAT --to-source 2001:db8::1";

/// The usual network; .100 to .103 are out there.
fn behind(lines: &[&str]) -> Tables {
    let tables = tables(2, &[11, 12], 1);
    let outside = (100..104).map(|n| (InterfaceId(0), ip(&format!("192.0.2.{n}")), Some(CLIENT)));
    let outside = outside.chain([(InterfaceId(0), ip("2001:db8::100"), Some(CLIENT))]);
    let inside = [11, 12].into_iter().flat_map(|n| {
        [format!("10.0.0.{n}"), format!("fd00::{n}")].map(|a| (InterfaceId(1), ip(&a), Some(server_mac(n))))
    });
    let neighbours = Neighbours::new(&tables.interfaces, outside.chain(inside));
    Tables { neighbours: neighbours.into(), rules: Arc::new(rules(lines)), ..tables }
}

fn nat(lines: &[&str]) -> Director {
    let mut director = Director::new();
    director.path.adopt(behind(lines).into());
    director
}

fn host(n: u8) -> String {
    format!("10.0.0.{n}")
}

/// From an inner host to who is out there.
fn out(n: u8, sport: u16, to: (&str, u16), flags: &str) -> Vec<u8> {
    tcp((server_mac(n), OUR_LAN), (&host(n), sport), to, flags)
}

fn udp(macs: (Mac, Mac), from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
    datagram_between(macs, from, to, 1).remove(0)
}

/// The source that what left has.
fn source(out: &Out) -> (IpAddr, u16) {
    let (src, sport, ..) = read(&out.sent[0].1);
    (src, sport)
}

#[test]
fn one_source_has_one_outside_port_towards_all_destinations() {
    let mut director = nat(&[SNAT]);
    for to in [("192.0.2.100", 443), ("192.0.2.100", 80), ("192.0.2.101", 443), ("192.0.2.102", 53)] {
        let sent = director.receive(LAN, &[out(11, 5000, to, "S")]);
        assert_eq!(source(&sent), (ip(OUTSIDE), 5000), "{to:?}");
        let frame = udp((server_mac(11), OUR_LAN), ("10.0.0.11", 5000), to);
        assert_eq!(source(&director.receive(LAN, &[frame])), (ip(OUTSIDE), 5000), "{to:?} by UDP");
    }
}

#[test]
fn who_was_not_asked_does_not_come_in() {
    let mut director = nat(&[SNAT]);
    director.receive(LAN, &[out(11, 5000, ("192.0.2.100", 443), "S")]);
    let answer = |from| tcp(C2D, from, (OUTSIDE, 5000), "SA");
    let sent = director.receive(WAN, &[answer(("192.0.2.100", 443))]);
    assert_eq!(read(&sent.sent[0].1).2, ip("10.0.0.11"));
    director.receive(LAN, &[udp((server_mac(11), OUR_LAN), ("10.0.0.11", 5000), ("192.0.2.100", 53))]);
    let datagram = |from| udp(C2D, from, (OUTSIDE, 5000));
    assert_eq!(director.receive(WAN, &[datagram(("192.0.2.100", 53))]).sent.len(), 1);
    for from in [("192.0.2.100", 54), ("192.0.2.101", 53)] {
        let sent = director.receive(WAN, &[datagram(from)]);
        assert_eq!((sent.sent.len(), sent.to_twin.len()), (0, 1), "{from:?} by UDP");
    }
    for from in [("192.0.2.100", 444), ("192.0.2.101", 443)] {
        let sent = director.receive(WAN, &[answer(from), tcp(C2D, from, (OUTSIDE, 5000), "S")]);
        assert_eq!((sent.sent.len(), sent.to_twin.len()), (0, 2), "{from:?}: the host's to answer");
    }
}

#[test]
fn a_port_that_is_taken_there_is_not_given_twice_and_one_that_is_free_elsewhere_is_kept() {
    let mut director = nat(&[SNAT]);
    let first = source(&director.receive(LAN, &[out(11, 5000, ("192.0.2.100", 443), "S")]));
    let second = source(&director.receive(LAN, &[out(12, 5000, ("192.0.2.100", 443), "S")]));
    let elsewhere = source(&director.receive(LAN, &[out(12, 5000, ("192.0.2.101", 443), "S")]));
    assert_eq!((first.1, second.1, elsewhere.1), (5000, 5001, 5000));
    for (from, port, to) in [
        ("192.0.2.100", first.1, "10.0.0.11"),
        ("192.0.2.100", second.1, "10.0.0.12"),
        ("192.0.2.101", elsewhere.1, "10.0.0.12"),
    ] {
        let sent = director.receive(WAN, &[tcp(C2D, (from, 443), (OUTSIDE, port), "SA")]);
        assert_eq!(read(&sent.sent[0].1), (ip(from), 443, ip(to), 5000, 63));
    }
}

#[test]
fn ports_below_1024_stay_below() {
    let mut director = nat(&[SNAT]);
    for port in [600, 1023] {
        let of = |n| out(n, port, ("192.0.2.100", 443), "S");
        assert_eq!(source(&director.receive(LAN, &[of(11)])).1, port);
        let second = source(&director.receive(LAN, &[of(12)])).1;
        assert!((600..1024).contains(&second) && second != port, "{second}");
    }
}

#[test]
fn when_all_ports_are_taken_what_begins_is_dropped_and_counted_and_the_others_go_on() {
    let mut director = nat(&["nat POSTROUTING -p tcp -j SNAT --to-source 192.0.2.1:5000-5003"]);
    let mut ports = Vec::new();
    for sport in 40_000..40_004 {
        ports.push(source(&director.receive(LAN, &[out(11, sport, ("192.0.2.100", 443), "S")])).1);
    }
    ports.sort_unstable();
    assert_eq!(ports, [5000, 5001, 5002, 5003]);
    let one_more = out(11, 40_004, ("192.0.2.100", 443), "S");
    assert!(director.receive(LAN, std::slice::from_ref(&one_more)).sent.is_empty());
    assert_eq!((director.dropped(DropReason::NoLocalPort), director.dropped(DropReason::Rule)), (1, 0));
    assert_eq!(
        director.receive(LAN, &[out(11, 40_004, ("192.0.2.101", 443), "S")]).sent.len(),
        1,
        "elsewhere"
    );
    for port in ports {
        let sent = director.receive(WAN, &[tcp(C2D, ("192.0.2.100", 443), (OUTSIDE, port), "SA")]);
        assert_eq!(sent.sent.len(), 1);
    }
    // Those that are over make room.
    for _ in 0..130 {
        director.now = director.now.after(Timeout::from_secs(1));
        director.turn();
    }
    assert!((5000..5004).contains(&source(&director.receive(LAN, &[one_more])).1));
}

#[test]
fn a_port_of_a_connection_that_is_over_is_given_to_one_that_begins_beyond_it() {
    let mut director = nat(&["nat POSTROUTING -p tcp -j SNAT --to-source 192.0.2.1:5000"]);
    let syn = |sport, seq| with_numbers(out(11, sport, ("192.0.2.100", 443), "S"), seq, 0);
    let answer =
        |flags, seq, ack| with_numbers(tcp(C2D, ("192.0.2.100", 443), (OUTSIDE, 5000), flags), seq, ack);
    assert_eq!(director.receive(LAN, &[syn(4000, 1000)]).sent.len(), 1);
    assert!(director.receive(LAN, &[syn(4001, 9000)]).sent.is_empty(), "it is open");
    // A SYN with 7 bytes takes 8 numbers.
    assert_eq!(director.receive(WAN, &[answer("SA", 500, 1008)]).sent.len(), 1);
    assert_eq!(director.receive(WAN, &[answer("RA", 508, 1008)]).sent.len(), 1);
    assert_eq!(director.states(), ["CLOSE"]);
    assert!(director.receive(LAN, &[syn(4001, 1000)]).sent.is_empty(), "what is on its way may be of it");
    assert_eq!(
        source(&director.receive(LAN, &[syn(4001, 1001)])),
        (ip(OUTSIDE), 5000),
        "its data ends beyond"
    );
    assert_eq!(director.states(), ["SYN_SENT"]);
}

/// The same segment with other numbers.
fn with_numbers(mut frame: Vec<u8>, seq: u32, ack: u32) -> Vec<u8> {
    for (at, number) in [(38, seq), (42, ack)] {
        let old = u32::from_be_bytes(*frame[at..].first_chunk().unwrap());
        frame[at..at + 4].copy_from_slice(&number.to_be_bytes());
        let sum = u16::from_be_bytes([frame[50], frame[51]]);
        let sum = checksum::Delta::double_word(old, number).apply(sum);
        frame[50..52].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

#[test]
fn ports_by_chance_are_within_the_range_and_not_the_next_ones() {
    for option in ["--random", "--random-fully"] {
        let rule = format!("nat POSTROUTING -p tcp -j SNAT --to-source 192.0.2.1:2000-60000 {option}");
        let mut director = nat(&[&rule]);
        let ports: Vec<u16> = (0..16)
            .map(|n| source(&director.receive(LAN, &[out(11, 5000 + n, ("192.0.2.100", 443), "S")])).1)
            .collect();
        assert!(ports.iter().all(|port| (2000..=60_000).contains(port)), "{ports:?}");
        let near = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 16).count();
        assert!(near < 3, "{option}: {ports:?}");
    }
}

#[test]
fn inner_hosts_reach_each_other_by_the_outside_address() {
    let mut director = nat(&[
        "nat PREROUTING -d 192.0.2.1 -p tcp --dport 2222 -j DNAT --to-destination 10.0.0.12:22",
        "nat PREROUTING -d 192.0.2.1 -p icmp -j DNAT --to-destination 10.0.0.12",
        "nat PREROUTING -d 192.0.2.1 -p udp --dport 53 -j DNAT --to-destination 10.0.0.12",
        SNAT,
    ]);
    for flags in ["S", "A"] {
        let sent = director.receive(LAN, &[out(11, 5000, (OUTSIDE, 2222), flags)]);
        assert_eq!(sent.sent[0].0, LAN);
        assert_eq!(read(&sent.sent[0].1), (ip(OUTSIDE), 5000, ip("10.0.0.12"), 22, 63));
        let sent = director.receive(LAN, &[out(12, 22, (OUTSIDE, 5000), "SA")]);
        assert_eq!(read(&sent.sent[0].1), (ip(OUTSIDE), 2222, ip("10.0.0.11"), 5000, 63));
    }
    let mac = |n| (server_mac(n), OUR_LAN);
    let sent = director.receive(LAN, &[udp(mac(11), ("10.0.0.11", 5000), (OUTSIDE, 53))]);
    assert_eq!(read(&sent.sent[0].1), (ip(OUTSIDE), 5000, ip("10.0.0.12"), 53, 63));
    let sent = director.receive(LAN, &[udp(mac(12), ("10.0.0.12", 53), (OUTSIDE, 5000))]);
    assert_eq!(read(&sent.sent[0].1), (ip(OUTSIDE), 53, ip("10.0.0.11"), 5000, 63));
    let sent = director.receive(LAN, &[ping(mac(11), "10.0.0.11", OUTSIDE, 7, false)]);
    assert_eq!(read_echo(&sent.sent[0].1), (ip(OUTSIDE), ip("10.0.0.12"), 7));
    let sent = director.receive(LAN, &[ping(mac(12), "10.0.0.12", OUTSIDE, 7, true)]);
    assert_eq!(read_echo(&sent.sent[0].1), (ip(OUTSIDE), ip("10.0.0.11"), 7));
}

#[test]
fn both_ends_may_open_at_once() {
    let mut director = nat(&[SNAT]);
    let inner = |flags| out(11, 5000, ("192.0.2.100", 443), flags);
    let outer = |flags| tcp(C2D, ("192.0.2.100", 443), (OUTSIDE, 5000), flags);
    assert_eq!(director.receive(LAN, &[inner("S")]).sent.len(), 1);
    for frame in [outer("S"), outer("SA")] {
        let sent = director.receive(WAN, &[frame]);
        assert_eq!(read(&sent.sent[0].1).2, ip("10.0.0.11"));
    }
    assert_eq!(source(&director.receive(LAN, &[inner("SA")])), (ip(OUTSIDE), 5000));
    assert_eq!(director.counters[0].flows.inserted.get(), 1, "one connection");
}

/// The datagram that fragments make, without Ethernet, its transport checksum having been found right.
fn joined(frames: &[(PortId, Frame)]) -> (IpAddr, u16, IpAddr, u16) {
    let offset = |frame: &Frame| (u16::from_be_bytes([frame.data()[20], frame.data()[21]]) & 0x1fff) * 8;
    let mut parts: Vec<_> = frames.iter().map(|(_, frame)| (offset(frame), frame.data())).collect();
    parts.sort();
    let mut whole = parts[0].1[..34].to_vec();
    for (at, part) in parts {
        assert_eq!(whole.len() - 34, usize::from(at));
        assert_eq!(part[26..34], whole[26..34], "all pieces between the same ends");
        whole.extend(&part[34..]);
    }
    let len = (whole.len() - 14) as u16;
    whole[16..18].copy_from_slice(&len.to_be_bytes());
    whole[20..22].fill(0);
    crate::wire::ipv4::fill_checksum(&mut whole[14..34]);
    let (src, sport, dst, dport, _) = read(&Frame::new(WAN, &whole));
    (src, sport, dst, dport)
}

#[test]
fn fragments_in_any_order_are_translated_both_ways_with_a_port_that_changed() {
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]] {
        let mut director = nat(&[SNAT]);
        let mac = |n| (server_mac(n), OUR_LAN);
        director.receive(LAN, &[udp(mac(12), ("10.0.0.12", 5000), ("192.0.2.100", 53))]);
        let mut pass = |port, parts: Vec<Vec<u8>>| {
            let mut sent = Vec::new();
            for part in order {
                sent.extend(director.receive(port, &[parts[part].clone()]).sent);
            }
            assert_eq!(sent.len(), 3, "{order:?}");
            joined(&sent)
        };
        let left = pass(LAN, datagram_between(mac(11), ("10.0.0.11", 5000), ("192.0.2.100", 53), 3));
        assert_eq!(left, (ip(OUTSIDE), 5001, ip("192.0.2.100"), 53));
        let back = pass(WAN, datagram_between(C2D, ("192.0.2.100", 53), (OUTSIDE, 5001), 3));
        assert_eq!(back, (ip("192.0.2.100"), 53, ip("10.0.0.11"), 5000));
    }
}

#[test]
fn an_error_of_an_inner_host_leaves_as_of_the_outside_address_and_about_it() {
    let mut director = nat(&[SNAT]);
    let mac = (server_mac(11), OUR_LAN);
    director.receive(LAN, &[udp((server_mac(12), OUR_LAN), ("10.0.0.12", 5000), ("192.0.2.100", 53))]);
    director.receive(LAN, &[udp(mac, ("10.0.0.11", 5000), ("192.0.2.100", 53))]);
    let came = udp(C2D, ("192.0.2.100", 53), (OUTSIDE, 5001));
    let inside = director.receive(WAN, std::slice::from_ref(&came)).sent.remove(0).1;
    assert_eq!(read(&inside).2, ip("10.0.0.11"));
    let mut error = Vec::new();
    etherparse::PacketBuilder::ethernet2(mac.0, mac.1)
        .ipv4([10, 0, 0, 11], [192, 0, 2, 100], 64)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::Port,
        ))
        .write(&mut error, &inside.data()[14..14 + 28])
        .unwrap();
    let sent = director.receive(LAN, &[error]);
    let (port, frame) = &sent.sent[0];
    let (src, _, dst, ..) = read(frame);
    assert_eq!((*port, src, dst), (WAN, ip(OUTSIDE), ip("192.0.2.100")));
    // The quoted ends: as the one out there sent it.
    let quoted = &frame.data()[42..];
    assert_eq!(quoted[12..24], came[26..38]);
}

/// Lets so many seconds pass.
fn pass(director: &mut Director, seconds: u32) {
    for _ in 0..seconds {
        director.now = director.now.after(Timeout::from_secs(1));
        director.turn();
    }
}

#[test]
fn an_error_neither_ends_a_mapping_nor_keeps_it() {
    let mac = (server_mac(11), OUR_LAN);
    for (what, lasts, frame) in [
        ("UDP without an answer", 30, udp(mac, ("10.0.0.11", 5000), ("192.0.2.100", 53))),
        ("a SYN without an answer", 120, out(11, 5000, ("192.0.2.100", 443), "S")),
        ("an echo request", 30, ping(mac, "10.0.0.11", "192.0.2.100", 7, false)),
    ] {
        let mut director = nat(&[SNAT]);
        let left = director.receive(LAN, &[frame]).sent.remove(0).1;
        pass(&mut director, lasts - 10);
        assert_eq!(director.receive(WAN, &[time_exceeded(&left)]).sent.len(), 1, "{what}");
        assert_eq!(director.counters[0].flows.entries.get(), 1, "{what}");
        pass(&mut director, 12);
        assert_eq!(director.counters[0].flows.entries.get(), 0, "{what}");
    }
}

#[test]
fn a_tcp_mapping_lasts_as_long_as_its_state_says() {
    let mut director = nat(&[SNAT]);
    let inner = |flags| (LAN, out(11, 5000, ("192.0.2.100", 443), flags));
    let outer = |flags| (WAN, tcp(C2D, ("192.0.2.100", 443), (OUTSIDE, 5000), flags));
    let mut left = |(port, frame): (PortId, Vec<u8>)| {
        director.receive(port, &[frame]);
        let mut seconds = Vec::new();
        director.path.list(0, u32::MAX, director.now, &mut |view| {
            seconds.push(view.expires_in.0 / Tick::PER_SECOND);
        });
        assert_eq!(seconds.len(), 1);
        seconds[0]
    };
    assert_eq!([left(inner("S")), left(outer("SA")), left(inner("A"))], [120, 60, 432_000]);
    assert_eq!(
        [left(inner("FA")), left(outer("A")), left(outer("FA")), left(inner("A"))],
        [120, 60, 30, 120]
    );
}

#[test]
fn a_packet_keeps_its_identification() {
    let mut director = nat(&[SNAT]);
    let mut frame = udp((server_mac(11), OUR_LAN), ("10.0.0.11", 5000), ("192.0.2.100", 53));
    frame[18..20].copy_from_slice(&[0x12, 0x34]);
    crate::wire::testing::reseal(&mut frame);
    assert_eq!(director.receive(LAN, &[frame]).sent[0].1.data()[18..20], [0x12, 0x34]);
}

#[test]
fn what_an_inner_host_sends_keeps_its_mapping() {
    let mut director = nat(&[SNAT]);
    let frame = udp((server_mac(11), OUR_LAN), ("10.0.0.11", 5000), ("192.0.2.100", 53));
    for _ in 0..10 {
        director.receive(LAN, std::slice::from_ref(&frame));
        for _ in 0..25 {
            director.now = director.now.after(Timeout::from_secs(1));
            director.turn();
        }
        assert_eq!(director.counters[0].flows.entries.get(), 1);
    }
    assert_eq!(director.counters[0].flows.inserted.get(), 1);
}

#[test]
fn an_ipv6_source_is_translated_too() {
    let mut director = nat(&[SNAT6]);
    let sent = director
        .receive(LAN, &[tcp((server_mac(11), OUR_LAN), ("fd00::11", 5000), ("2001:db8::100", 443), "S")]);
    assert_eq!(source(&sent), (ip("2001:db8::1"), 5000));
    let answer = tcp(C2D, ("2001:db8::100", 443), ("2001:db8::1", 5000), "SA");
    let sent = director.receive(WAN, &[answer]);
    assert_eq!(read(&sent.sent[0].1), (ip("2001:db8::100"), 443, ip("fd00::11"), 5000, 63));
}

#[test]
fn with_several_workers_answers_find_their_source_and_no_port_is_given_twice() {
    const WORKERS: usize = 4;
    let (counters, uses) = (counters(WORKERS), Arc::new(Uses::new(WORKERS, 100)));
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    for path in &mut paths {
        path.adopt(behind(&[SNAT]).into());
    }
    let mut given = std::collections::BTreeSet::new();
    for n in 0..40u16 {
        let inner = [11, 12][usize::from(n) % 2];
        let (sport, dport) = (5000 + n / 2, 443 + n / 8);
        let (arrival, other) = (usize::from(n) % WORKERS, usize::from(n / 3) % WORKERS);
        let sent = deliver(&mut paths, arrival, LAN, &out(inner, sport, ("192.0.2.100", dport), "S"));
        let (owner, frame) = &sent[0];
        let (src, port, ..) = read(frame);
        assert_eq!(src, ip(OUTSIDE));
        given.insert((port, dport, inner, sport));
        let answer = tcp(C2D, ("192.0.2.100", dport), (OUTSIDE, port), "SA");
        let back = deliver(&mut paths, other, WAN, &answer);
        assert_eq!(back[0].0, *owner);
        let expected = (ip("192.0.2.100"), dport, ip(&host(inner)), sport, 63);
        assert_eq!(read(&back[0].1), expected);
    }
    let outside: std::collections::BTreeSet<_> =
        given.iter().map(|&(port, dport, ..)| (port, dport)).collect();
    assert_eq!(outside.len(), given.len(), "each connection has an outside endpoint of its own");
}

#[test]
fn every_requirement_of_the_page_names_a_test_that_is_there() {
    let page = include_str!("../../../../docs/nat.md");
    let sources = [
        include_str!("nat.rs"),
        include_str!("hooks.rs"),
        include_str!("../tests.rs"),
        include_str!("../../nat.rs"),
    ];
    let is_requirement = |line: &&str| {
        line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    let rows: Vec<&str> = page.lines().filter(is_requirement).collect();
    assert!(rows.len() > 40, "{}", rows.len());
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        // A row about what is the operator's has none.
        assert!(tests == "–" || tests.contains('`'), "{row}");
        let names = tests.split('`').skip(1).step_by(2).filter(|name| !name.contains(['/', ':', '.']));
        for name in names.filter(|name| name.matches('_').count() > 2) {
            let function = format!("fn {name}()");
            assert!(sources.iter().any(|source| source.contains(&function)), "{name}");
        }
    }
}
