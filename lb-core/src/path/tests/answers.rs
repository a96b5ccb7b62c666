//! Goal: what the director itself answers passes OUTPUT and POSTROUTING, as what the kernel's attaches to the packet's connection.
//! Method: packets that are refused or rejected, with rules that stop some answers, or count and mark them.

use super::hooks::{back, director, through};
use super::*;
use crate::time::Timeout;
use crate::wire::testing::reseal;

/// A packet that is refused: without hops left, for nobody, or by a rule.
fn refused() -> [(&'static str, Vec<u8>); 3] {
    let mut dead = through(4000, "S");
    dead[22] = 1;
    reseal(&mut dead);
    [
        ("time-exceeded", dead),
        ("network-unreachable", tcp(C2D, ("192.0.2.100", 4000), ("203.0.113.9", 22), "S")),
        ("port-unreachable", tcp(C2D, ("192.0.2.100", 4000), ("10.0.0.11", 9), "S")),
    ]
}

const REJECT: &str = "filter FORWARD -p tcp --dport 9 -j REJECT";
const RESET: &str = "filter FORWARD -p tcp --dport 9 -j REJECT --reject-with tcp-reset";

fn with(lines: &[&str]) -> Director {
    director(hooks::rules(lines))
}

fn stopped_at(director: &Director, hook: Hook) -> u64 {
    director.counters[0].dropped(DropReason::Rule, hook).get()
}

#[test]
fn errors_pass_output_as_related() {
    for (kind, frame) in refused() {
        for (line, leaves) in [
            (format!("filter OUTPUT -p icmp --icmp-type {kind} -j DROP"), 0),
            (format!("raw OUTPUT -p icmp --icmp-type {kind} -j DROP"), 0),
            (format!("mangle POSTROUTING -o wan -p icmp --icmp-type {kind} -j DROP"), 0),
            ("filter OUTPUT -p icmp -m conntrack --ctstate RELATED --ctdir REPLY -j DROP".to_owned(), 0),
            ("raw OUTPUT -p icmp -m conntrack --ctstate RELATED -j DROP".to_owned(), 0),
            // What answers is not answered.
            ("filter OUTPUT -p icmp -j REJECT".to_owned(), 0),
            ("filter OUTPUT -p icmp -m conntrack --ctstate INVALID,NEW,ESTABLISHED -j DROP".to_owned(), 1),
            ("filter OUTPUT -o lan -j DROP".to_owned(), 1),
            ("filter OUTPUT -p icmp --icmp-type echo-reply -j DROP".to_owned(), 1),
            ("nat POSTROUTING -p icmp -j SNAT --to-source 192.0.2.77".to_owned(), 1),
        ] {
            let mut director = with(&[REJECT, &line]);
            let out = director.receive(WAN, std::slice::from_ref(&frame));
            assert_eq!(out.sent.len(), leaves, "{kind}: {line}");
            assert_eq!(director.dropped(DropReason::Rule), 1 - leaves as u64, "{kind}: {line}");
            assert!(out.sent.iter().all(|(_, frame)| read(frame).0 == ip("192.0.2.1")), "{kind}: {line}");
            assert!(director.states().is_empty(), "nothing is kept: {kind}: {line}");
        }
    }
}

#[test]
fn errors_about_untracked_packets_are_invalid() {
    const UNTRACKED: &str = "raw PREROUTING -p tcp --dport 9 -j NOTRACK";
    for (state, leaves) in [("INVALID", 0), ("RELATED", 1), ("UNTRACKED", 1)] {
        let line = format!("filter OUTPUT -m conntrack --ctstate {state} -j DROP");
        let mut director = with(&[REJECT, UNTRACKED, &line]);
        let frame = tcp(C2D, ("192.0.2.100", 4000), ("10.0.0.11", 9), "S");
        assert_eq!(director.receive(WAN, &[frame]).sent.len(), leaves, "{state}");
    }
}

#[test]
fn what_answers_an_invalid_packet_of_a_known_connection_is_of_that() {
    const REFUSES: &str = "filter FORWARD -p tcp -m conntrack --ctstate INVALID -j REJECT";
    // No sender sets these flags together.
    let bad = through(4000, "SFA");
    for (with_reset, state, leaves) in [
        ("", "RELATED", 0),
        ("", "INVALID", 1),
        (" --reject-with tcp-reset", "RELATED", 1),
        (" --reject-with tcp-reset", "ESTABLISHED,INVALID", 0),
    ] {
        let line = format!("filter OUTPUT -m conntrack --ctstate {state} -j DROP");
        let mut director = with(&[&format!("{REFUSES}{with_reset}"), &line]);
        director.receive(WAN, &[through(4000, "S")]);
        director.receive(LAN, &[back(4000, "SA")]);
        let out = director.receive(WAN, std::slice::from_ref(&bad));
        assert_eq!(director.dropped(DropReason::RuleRejects), 1, "{line}");
        assert_eq!(out.sent.len(), leaves, "{with_reset} {line}");
    }
}

#[test]
fn raw_exempts_from_tracking_what_is_attached_to_nothing_alone() {
    const EXEMPTS: &str = "raw OUTPUT -p icmp -j NOTRACK";
    for (raw, state) in [("raw PREROUTING -j NOTRACK", "UNTRACKED"), ("raw PREROUTING -j ACCEPT", "RELATED")]
    {
        let line = format!("filter OUTPUT -m conntrack --ctstate {state} -j DROP");
        let mut director = with(&[REJECT, raw, EXEMPTS, &line]);
        let frame = tcp(C2D, ("192.0.2.100", 4000), ("10.0.0.11", 9), "S");
        assert!(director.receive(WAN, &[frame]).sent.is_empty(), "{raw}");
        assert_eq!(stopped_at(&director, Hook::Output), 1, "{raw}");
    }
}

#[test]
fn an_error_about_a_known_connections_packet_has_its_mark() {
    const MARKS: &str = "mangle PREROUTING -j CONNMARK --set-mark 7";
    const TOLD: &str =
        "mangle OUTPUT -p icmp -m connmark --mark 7 -m conntrack --ctstate RELATED -j TTL --ttl-set 9";
    let mut director = with(&[MARKS, TOLD]);
    director.receive(WAN, &[through(4000, "S")]);
    director.receive(LAN, &[back(4000, "SA")]);
    let mut dead = through(4000, "A");
    dead[22] = 1;
    reseal(&mut dead);
    let out = director.receive(WAN, &[dead]);
    assert_eq!(read(&out.sent[0].1).4, 9);
    assert_eq!(director.dropped(DropReason::TtlExceeded), 1);
}

#[test]
fn resets_pass_output_and_nat_is_asked_about_those_of_new_connections() {
    for (line, leaves) in [
        ("filter OUTPUT -p tcp --tcp-flags RST RST -j DROP", 0),
        ("filter OUTPUT -p tcp -m conntrack --ctstate RELATED -j DROP", 0),
        ("filter OUTPUT -p tcp --sport 9 -j REJECT", 0),
        ("filter OUTPUT -p tcp --sport 9 -j REJECT --reject-with tcp-reset", 0),
        ("mangle POSTROUTING -p tcp -d 192.0.2.100 -j DROP", 0),
        ("filter OUTPUT -p tcp --sport 10 -j DROP", 1),
        ("nat POSTROUTING -p tcp -j SNAT --to-source 192.0.2.77", 1),
    ] {
        let mut director = with(&[RESET, line]);
        let out = director.receive(WAN, &[tcp(C2D, ("192.0.2.100", 4000), ("10.0.0.11", 9), "S")]);
        assert_eq!(out.sent.len(), leaves, "{line}");
        assert!(out.sent.iter().all(|(_, frame)| read(frame).0 == ip("10.0.0.11")), "{line}");
        assert_eq!(director.dropped(DropReason::RuleRejects), 1, "{line}");
        assert_eq!(director.dropped(DropReason::Rule), 1 - leaves as u64, "{line}");
    }
}

#[test]
fn what_a_virtual_service_answers_passes_output() {
    for (line, leaves) in [
        ("filter OUTPUT -p icmp -m conntrack --ctstate RELATED -j DROP", 0),
        ("filter OUTPUT -p icmp -m conntrack --ctstate INVALID -j DROP", 1),
    ] {
        let mut director = Director::new();
        let rules = Arc::new(hooks::rules(&[line]));
        director.path.adopt(Arc::new(Tables { rules, ..tables(3, &[11, 12], 0) }));
        let out = director.receive(WAN, &[from_client(4000, "S")]);
        assert_eq!(out.sent.len(), leaves, "{line}");
        assert_eq!(director.dropped(DropReason::NoServer), 1, "{line}");
    }
}

#[test]
fn answers_of_ipv6_pass_the_rules_of_ipv6() {
    let mut dead = tcp(C2D, ("2001:db8::100", 4000), ("fd00::11", 22), "S");
    dead[21] = 1;
    for (line, leaves) in [
        ("filter OUTPUT -p icmpv6 -m conntrack --ctstate RELATED -j DROP", 0),
        ("filter OUTPUT -p icmp -m conntrack --ctstate RELATED -j DROP", 1),
    ] {
        let mut director = with(&[line]);
        let out = director.receive(WAN, std::slice::from_ref(&dead));
        assert_eq!(out.sent.len(), leaves, "{line}");
    }
}

#[test]
fn a_syn_cookie_passes_output_as_what_tracking_makes_of_it() {
    const PROXY: &str = "filter FORWARD -p tcp --dport 22 -j SYNPROXY --mss 1460";
    for (raw, state) in
        [("raw PREROUTING -j NOTRACK", "INVALID"), ("raw PREROUTING -j ACCEPT", "ESTABLISHED")]
    {
        let line = format!("filter OUTPUT -p tcp -m conntrack --ctstate {state} -j DROP");
        let mut director = with(&[PROXY, raw, &line]);
        assert!(director.receive(WAN, &[through(4000, "S")]).sent.is_empty(), "{raw}");
        assert_eq!(stopped_at(&director, Hook::Output), 1, "{raw}");
        let mut director = with(&[PROXY, raw]);
        assert_eq!(director.receive(WAN, &[through(4000, "S")]).sent.len(), 1, "{raw}");
    }
}

#[test]
fn an_unknown_hosts_senders_are_told_by_output() {
    let line = "filter OUTPUT -p icmp -m conntrack --ctstate RELATED -j DROP";
    let mut director = with(&[line]);
    let nobody = tcp(C2D, ("192.0.2.100", 4000), ("10.0.0.99", 22), "S");
    assert!(director.receive(WAN, &[nobody]).sent.is_empty());
    for _ in 0..8 {
        director.now = director.now.after(Timeout::from_secs(1));
        assert!(director.turn().sent.is_empty());
    }
    assert_eq!(director.dropped(DropReason::NeighbourFailed), 1);
    assert_eq!(stopped_at(&director, Hook::Output), 1);
}
