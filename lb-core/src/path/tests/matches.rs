//! Goal: matches hold where those of Linux 6.18 hold, as was found by giving both the same rules and packets.
//! Method: rules that drop what they match, packets, what is left.

use super::hooks::{bound, bound_of, director, rules, through};
use super::*;
use crate::rule::fingerprint::{Fingerprint, Fingerprints};
use crate::rule::{Family, Named};

/// Whether a packet from the client is stopped by a rule at FORWARD.
fn stops(rule: &str, frame: &[u8]) -> bool {
    let mut director = director(rules(&[&format!("filter FORWARD {rule} -j DROP")]));
    director.receive(WAN, &[frame.to_vec()]).sent.is_empty()
}

fn datagram(to: &str, dport: u16, ttl: u8) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (ip("192.0.2.100"), ip(to)) else { unreachable!("they are") };
    let builder = etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1).ipv4(from.octets(), to.octets(), ttl);
    let mut frame = Vec::new();
    builder.udp(4000, dport).write(&mut frame, b"HELLO").unwrap();
    frame
}

#[test]
fn a_string_is_whole_within_the_bytes_that_are_named() {
    let frame = datagram("10.0.0.11", 53, 64);
    for (range, holds) in [
        ("--to 27", false),
        ("--to 28", false),
        ("--to 32", false),
        ("--to 33", true),
        ("--from 28 --to 33", true),
        ("--from 29", false),
        ("", true),
    ] {
        for algorithm in ["bm", "kmp"] {
            let rule = format!("-m string --algo {algorithm} --string HELLO {range}");
            assert_eq!(stops(&rule, &frame), holds, "{range}");
        }
    }
}

#[test]
fn of_a_packet_of_no_connection_the_state_alone_is_asked() {
    let frame = through(4000, "SF");
    for (asked, holds) in [
        ("--ctstate INVALID", true),
        ("--ctstate INVALID --ctdir ORIGINAL", true),
        ("--ctstate INVALID,NEW --ctproto tcp", true),
        ("! --ctstate NEW --ctorigdst 1.2.3.4", true),
        ("--ctstate NEW --ctproto tcp", false),
        ("--ctproto tcp", false),
        ("--ctdir ORIGINAL", false),
    ] {
        assert_eq!(stops(&format!("-m conntrack {asked}"), &frame), holds, "{asked}");
    }
    let begins = through(4000, "S");
    assert!(!stops("-m conntrack --ctstate NEW --ctdir REPLY", &begins));
}

#[test]
fn the_time_from_one_moment_to_the_same_is_the_whole_day() {
    let frame = through(4000, "S");
    assert!(stops("-m time --timestart 12:00 --timestop 12:00", &frame));
    assert!(!stops("-m time --timestart 12:00 --timestop 12:00:01", &frame));
}

#[test]
fn an_address_is_noted_again_where_the_negated_match_holds() {
    let lines = [
        "filter FORWARD -p udp --dport 1001 -m recent --name X --set",
        "filter FORWARD -p udp --dport 1002 -m recent --name X ! --update --seconds 2 -j DROP",
    ];
    let mut director = director(bound(&lines, &mut Named::new(1)));
    let mut passes = |dport, now| {
        director.now = Tick(now);
        director.receive(WAN, &[datagram("10.0.0.11", dport, 64)]).sent.len()
    };
    let second = |n| 100 + n * Tick::PER_SECOND;
    assert_eq!(passes(1001, second(0)), 1);
    assert_eq!(passes(1002, second(3)), 0, "three seconds ago; it is noted");
    assert_eq!(passes(1002, second(4)), 1, "a second ago; it is not");
    assert_eq!(passes(1002, second(6)), 0);
}

#[test]
fn a_ttl_is_remembered_as_the_packet_came_with_it() {
    let lines = [
        "mangle PREROUTING -p udp -m recent --name Y --set",
        "filter FORWARD -p udp -m recent --name Y --rcheck --rttl -j DROP",
    ];
    let mut director = director(bound(&lines, &mut Named::new(1)));
    assert!(director.receive(WAN, &[datagram("10.0.0.11", 53, 64)]).sent.is_empty());
}

#[test]
fn a_networks_broadcast_address_is_no_address_of_ours() {
    let asked = |kind: &str, to: &str| {
        let line = format!("filter INPUT -s 192.0.2.100 -m addrtype --dst-type {kind} -j DROP");
        let mut director = Director::new();
        let route = |address: &str, route| (Prefix { address: ip(address), len: 32 }, route);
        let tables = tables(2, &[11], 1);
        let routes = Routes::new([
            route("192.0.2.1", Route::Local),
            route("192.0.2.255", Route::Local),
            (
                Prefix { address: ip("192.0.2.0"), len: 24 },
                Route::Via { interface: InterfaceId(0), gateway: None },
            ),
        ]);
        let routes = routes.with_broadcasts(["192.0.2.255".parse().unwrap()]).into();
        director.path.adopt(Tables { routes, rules: Arc::new(rules(&[&line])), ..tables }.into());
        director.receive(WAN, &[datagram(to, 53, 64)]).to_twin.is_empty()
    };
    assert_eq!([asked("LOCAL", "192.0.2.1"), asked("BROADCAST", "192.0.2.1")], [true, false]);
    assert_eq!([asked("LOCAL", "192.0.2.255"), asked("BROADCAST", "192.0.2.255")], [false, true]);
}

#[test]
fn a_system_is_known_by_its_syns_and_the_ttl_that_they_have_at_the_hook() {
    let mut fingerprints = Fingerprints::default();
    // The window and the hops of the packets here.
    let frame = through(4000, "S");
    let headers = match crate::wire::parse::parse(&frame, frame.len(), Default::default()) {
        Ok(crate::wire::parse::Parsed::Ip(headers)) => headers,
        other => panic!("{other:?}"),
    };
    let df = u8::from(headers.dont_fragment);
    for (genre, ttl) in [("Sent", headers.ttl), ("Near", headers.ttl - 1)] {
        let line = format!("*:{ttl}:{df}:{}:.:{genre}:1::", headers.ip_len);
        assert_eq!(fingerprints.add(Fingerprint::read(&line).unwrap()), Ok(true));
    }
    let fingerprints = Arc::new(fingerprints);
    let passes = |line: &str, frame: &[u8]| {
        let mut director = Director::new();
        let rules = rules(&[&format!("{line} -j DROP")]).into();
        let fingerprints = fingerprints.clone();
        director.path.adopt(Tables { rules, fingerprints, ..tables(2, &[11, 12], 1) }.into());
        director.receive(WAN, &[frame.to_vec()]).sent.len() == 1
    };
    for (line, dropped) in [
        ("raw PREROUTING -p tcp -m osf --genre Sent", true),
        ("raw PREROUTING -p tcp -m osf --genre Near", false),
        ("filter FORWARD -p tcp -m osf --genre Sent", false),
        ("filter FORWARD -p tcp -m osf --genre Near", true),
        ("filter FORWARD -p tcp -m osf --genre Sent --ttl 1", true),
        ("filter FORWARD -p tcp -m osf --genre Other --ttl 2", false),
        ("filter FORWARD -p tcp -m osf --genre Other --ttl 2 --log 1", true),
    ] {
        assert_eq!(passes(line, &frame), !dropped, "{line}");
    }
    let line = "filter FORWARD -p tcp -m osf --genre Sent --ttl 2";
    assert!(!passes(line, &frame) && passes(line, &through(4000, "A")), "a SYN alone is asked");
    let service = tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.10", 80), "S");
    assert!(!passes("filter INPUT -p tcp -m osf --genre Sent", &service), "a virtual service's too");
    assert!(passes("filter INPUT -p tcp -m osf --genre Near", &service));
}

#[test]
fn a_stale_address_is_noted_again_by_a_negated_update_that_reaps() {
    let lines = [
        "filter FORWARD -p udp --dport 1001 -m recent --name Z --set",
        "filter FORWARD -p udp --dport 1002 -m recent --name Z ! --update --seconds 2 --reap -j DROP",
    ];
    let mut director = director(bound(&lines, &mut Named::new(1)));
    let mut passes = |dport, seconds| {
        director.now = Tick(100 + seconds * Tick::PER_SECOND);
        director.receive(WAN, &[datagram("10.0.0.11", dport, 64)]).sent.len()
    };
    assert_eq!([passes(1001, 0), passes(1002, 3), passes(1002, 4)], [1, 0, 1]);
}

#[test]
fn matches_hold_where_the_kernels_held() {
    let recorded = include_str!("../../../tests/oracle/matches.txt");
    let (mut frame, mut asked, mut different) = (Vec::new(), 0, Vec::new());
    for line in recorded.lines().filter(|line| !line.starts_with('#')) {
        let (first, rest) = line.split_once(' ').unwrap();
        if first == "packet" {
            let byte = |at: usize| u8::from_str_radix(&rest[at..at + 2], 16).unwrap();
            frame = (0..rest.len()).step_by(2).map(byte).collect();
            continue;
        }
        let family = if frame[12] == 8 { Family::Ipv4 } else { Family::Ipv6 };
        let line = format!("filter FORWARD {rest} -j DROP");
        let mut director = director(bound_of(&[family], &[&line], &mut Named::new(1)));
        director.receive(WAN, &[frame.clone()]);
        asked += 1;
        if director.dropped(DropReason::Rule).to_string() != first {
            different.push(format!("{first} {rest}  {:02x?}", &frame[12..]));
        }
    }
    assert!(different.is_empty(), "{} of {asked}:\n{}", different.len(), different.join("\n"));
}
