//! Goal: what rules make of a TTL at PREROUTING decides whether the packet has hops left, as in the kernel, which looks behind that hook.
//! Method: `TTL` and `HL` at PREROUTING, packets of every kind that is forwarded, what leaves.

use super::hooks::{director, rules, time_exceeded};
use super::*;
use crate::wire::testing;

pub(super) fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    frame[22] = ttl;
    testing::reseal(&mut frame);
    frame
}

fn syn(sport: u16, ttl: u8) -> Vec<u8> {
    with_ttl(super::hooks::through(sport, "S"), ttl)
}

/// The TTL of what goes on; `None`: its sender is told instead.
fn left(out: &Out) -> Option<u8> {
    let (port, frame) = &out.sent[0];
    let headers = testing::headers(frame.data());
    match port {
        &LAN => Some(headers.ttl),
        _ => {
            assert_eq!((headers.protocol, headers.icmp_type), (Protocol::ICMP, 11), "time exceeded");
            None
        }
    }
}

#[test]
fn a_ttl_that_rules_raise_or_lower_at_prerouting_is_the_one_that_is_looked_at() {
    for (target, came, leaves) in [
        ("--ttl-inc 5", 1, Some(5)),
        ("--ttl-set 1", 64, None),
        ("--ttl-dec 63", 64, None),
        ("--ttl-set 2", 1, Some(1)),
        ("--ttl-set 9", 9, Some(8)),
    ] {
        for table_raw in ["", "raw PREROUTING -j NOTRACK"] {
            let line = format!("mangle PREROUTING -j TTL {target}");
            let lines = [&line, table_raw];
            let lines = if table_raw.is_empty() { &lines[..1] } else { &lines[..] };
            let mut director = director(rules(lines));
            let routed = |sport| syn(sport, came);
            let to_service = with_ttl(from_client(4000, "S"), came);
            for frame in [routed(4000), routed(4000), to_service.clone(), to_service] {
                let is_served = frame[33] == 10;
                if is_served && !table_raw.is_empty() {
                    continue;
                }
                assert_eq!(left(&director.receive(WAN, &[frame])), leaves, "{target} {table_raw}");
            }
        }
    }
}

#[test]
fn what_is_said_behind_prerouting_is_what_leaves_and_brings_no_dead_packet_back() {
    let lines = ["mangle FORWARD -j TTL --ttl-set 7", "mangle OUTPUT -j TTL --ttl-set 1"];
    let mut director = director(rules(&lines));
    assert_eq!(left(&director.receive(WAN, &[syn(4000, 64)])), Some(7));
    assert_eq!(left(&director.receive(WAN, &[syn(4000, 1)])), None);
    // A virtual service's packet has gone a hop when it comes to OUTPUT.
    for _ in 0..2 {
        assert_eq!(left(&director.receive(WAN, &[with_ttl(from_client(4000, "S"), 64)])), Some(1));
    }
}

#[test]
fn all_hops_may_be_left_where_the_kernel_has_taken_one_off_by_then() {
    for (rules_said, came, leaves) in [
        (&["FORWARD -j TTL --ttl-set 255"][..], 64, 255),
        (&["FORWARD -j TTL --ttl-inc 250"], 64, 255),
        (&["FORWARD -j TTL --ttl-inc 191"], 64, 254),
        (&["POSTROUTING -j TTL --ttl-inc 1"], 255, 255),
        (&["FORWARD -j TTL --ttl-inc 255", "POSTROUTING -j TTL --ttl-dec 5"], 2, 250),
        (&["FORWARD -j TTL --ttl-set 255", "POSTROUTING -m ttl --ttl-lt 255 -j DROP"], 9, 255),
        (&["FORWARD -j TTL --ttl-set 255", "POSTROUTING -j TOS --set-tos 0x10"], 9, 255),
        (&["FORWARD -j TTL --ttl-dec 200"], 64, 0),
    ] {
        let lines: Vec<String> = rules_said.iter().map(|said| format!("mangle {said}")).collect();
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        for table_nat in [None, Some("nat POSTROUTING -j SNAT --to-source 10.0.0.1")] {
            lines.extend(table_nat);
            let mut director = director(rules(&lines));
            for _ in 0..2 {
                let out = director.receive(WAN, &[syn(4000, came)]);
                assert_eq!(left(&out), Some(leaves), "{lines:?}");
                let frame = out.sent[0].1.data();
                assert!(checksum::is_good20(frame[14..34].try_into().unwrap()), "{lines:?}");
            }
        }
    }
}

#[test]
fn all_hops_may_be_left_of_what_a_virtual_service_sends_on_and_of_fragments() {
    let lines = [
        "mangle OUTPUT -j TTL --ttl-set 255",
        "mangle FORWARD -j TTL --ttl-set 255",
        "mangle POSTROUTING -m ttl ! --ttl-eq 255 -j DROP",
    ];
    let mut director = director(rules(&lines));
    for _ in 0..2 {
        let out = director.receive(WAN, &[with_ttl(from_client(4000, "S"), 64)]);
        assert_eq!(left(&out), Some(255));
        assert!(checksum::is_good20(out.sent[0].1.data()[14..34].try_into().unwrap()));
    }
    let pieces = datagram_between(C2D, ("192.0.2.100", 4000), ("10.0.0.11", 53), 3);
    let out = director.receive(WAN, &pieces);
    assert_eq!(out.sent.len(), 3);
    for (_, frame) in &out.sent {
        assert_eq!(frame.data()[22], 255);
        assert!(checksum::is_good20(frame.data()[14..34].try_into().unwrap()));
    }
}

#[test]
fn an_error_lives_as_long_as_rules_say() {
    let lines = [
        "nat POSTROUTING -o wan -j SNAT --to-source 192.0.2.1",
        "mangle PREROUTING -i wan -j TTL --ttl-set 1",
    ];
    let mut director = director(rules(&lines));
    let mac = (server_mac(11), OUR_LAN);
    let sent = director.receive(LAN, &[tcp(mac, ("10.0.0.11", 5000), ("192.0.2.100", 443), "S")]);
    let out = director.receive(WAN, &[time_exceeded(&sent.sent[0].1)]);
    assert!(out.sent.is_empty(), "nobody is told about an error");
    assert_eq!(director.dropped(DropReason::TtlExceeded), 1);
}

#[test]
fn a_hop_limit_that_is_raised_is_looked_at() {
    let mut director = director(rules(&["mangle PREROUTING -j HL --hl-inc 5"]));
    let mut frame = tcp(C2D, ("2001:db8::100", 4000), ("fd00::11", 22), "S");
    frame[21] = 1;
    for _ in 0..2 {
        assert_eq!(left(&director.receive(WAN, std::slice::from_ref(&frame))), Some(5));
    }
    let mut director = super::hooks::director(rules(&["mangle FORWARD -j HL --hl-set 255"]));
    frame[21] = 64;
    for _ in 0..2 {
        assert_eq!(left(&director.receive(WAN, std::slice::from_ref(&frame))), Some(255));
    }
}

#[test]
fn the_log_says_the_ttl_that_linux_has_at_the_hook() {
    let lines = ["mangle PREROUTING -j LOG", "filter FORWARD -j LOG", "mangle POSTROUTING -j LOG"];
    let mut director = director(rules(&lines));
    director.receive(WAN, &[syn(4000, 64)]);
    let events = &director.path.tables.rules.events;
    let ttls: Vec<u8> = std::iter::from_fn(|| events.take()).map(|event| event.frame[22]).collect();
    assert_eq!(ttls, [64, 63, 63]);
}
