//! Goal: ICMP errors meet the rules that they must, and are translated if they are RELATED, whoever sends them.
//! Method: errors of routers and of the host about packets that left or arrived a moment before, with rules that stop some.

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, PacketBuilder};

use super::hooks::{Workers, rules, time_exceeded};
use super::*;

const REDIRECT: &str = "nat PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2222";

/// The host tells a client that nobody listens there.
fn unreachable(about: &Frame) -> Vec<u8> {
    let quoted = &about.data()[14..];
    let (src, to): ([u8; 4], [u8; 4]) =
        (quoted[16..20].try_into().unwrap(), quoted[12..16].try_into().unwrap());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(OUR_WAN, CLIENT)
        .ipv4(src, to, 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port))
        .write(&mut frame, quoted)
        .unwrap();
    frame
}

fn syn(sport: u16) -> Vec<u8> {
    tcp(C2D, ("192.0.2.100", sport), ("192.0.2.1", 22), "S")
}

fn director(lines: &[&str]) -> Director {
    let mut director = Director::new();
    let tables = Tables { rules: Arc::new(rules(lines)), ..tables(2, &[11, 12], 1) };
    director.path.adopt(tables.into());
    director
}

fn of_host(director: &mut Director, frame: &[u8]) -> Out {
    let mut out = Out::default();
    let mut burst: Burst<Frame> = [Frame::new(WAN, frame)].into_iter().collect();
    director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
    out
}

#[test]
fn the_hosts_error_about_a_redirected_packet_is_about_what_its_client_sent() {
    for number in [1, 3] {
        let mut workers = Workers::new(number, rules(&[REDIRECT]));
        for sport in 4000..4032 {
            let sent = tcp(C2D, ("192.0.2.100", sport), ("10.0.0.11", 22), "S");
            let (began, out) = workers.carry(WAN, &sent, false);
            let (at, out) = workers.carry(WAN, &unreachable(&out.to_twin[0]), true);
            let (port, frame) = &out.sent[0];
            assert_eq!((at, *port), (began, WAN));
            let (src, _, dst, _, ttl) = read(frame);
            assert_eq!((src, dst, ttl), (ip("10.0.0.11"), ip("192.0.2.100"), 64));
            assert_eq!(frame.data()[42..], sent[14..], "as it was sent");
        }
    }
}

#[test]
fn the_hosts_errors_pass_output() {
    for (line, about_known, about_none) in [
        ("filter OUTPUT -p icmp -j DROP", 0, 0),
        ("raw OUTPUT -p icmp -j DROP", 0, 0),
        ("mangle POSTROUTING -p icmp -j DROP", 0, 0),
        ("filter OUTPUT -p icmp -j REJECT", 0, 0),
        ("filter OUTPUT -m state --state RELATED -j DROP", 0, 1),
        ("filter OUTPUT -m state --state INVALID -j DROP", 1, 0),
    ] {
        let mut director = director(&[REDIRECT, line]);
        let arrived = director.receive(WAN, &[syn(4000)]).to_twin.remove(0);
        let never_came = Frame::new(WAN, &syn(4001));
        for (about, left) in [(arrived, about_known), (never_came, about_none)] {
            let out = of_host(&mut director, &unreachable(&about));
            assert_eq!((out.sent.len(), out.to_twin.len()), (left, 0), "{line}");
        }
    }
}

#[test]
fn table_raw_is_asked_about_errors() {
    for (line, about_known, about_none) in [
        ("raw PREROUTING -p icmp -j DROP", 0, 0),
        ("filter INPUT -m state --state INVALID -j DROP", 1, 0),
        ("filter INPUT -m state --state UNTRACKED -j DROP", 1, 1),
    ] {
        let mut director = director(&[REDIRECT, line]);
        let left = director.receive(WAN, &[syn(4000)]).to_twin.remove(0);
        for (about, arrives) in [(left, about_known), (Frame::new(WAN, &syn(4001)), about_none)] {
            // Of a router that our answers pass: about what would answer.
            let (src, sport, dst, ..) = read(&about);
            let (src, dst) = (dst.to_string(), src.to_string());
            let answer = tcp((OUR_WAN, CLIENT), (&src, 22), (&dst, sport), "SA");
            let out = director.receive(WAN, &[time_exceeded(&Frame::new(WAN, &answer))]);
            assert_eq!((out.sent.len(), out.to_twin.len()), (0, arrives), "{line}");
        }
    }
}

#[test]
fn an_error_that_rules_take_from_tracking_stays_as_it_is() {
    for (notrack, is_translated) in
        [("raw PREROUTING -p udp -j NOTRACK", true), ("raw PREROUTING -p icmp -j NOTRACK", false)]
    {
        let mut director = director(&["nat POSTROUTING -o wan -j MASQUERADE", notrack]);
        let mac = (server_mac(11), OUR_LAN);
        let sent = director.receive(LAN, &[tcp(mac, ("10.0.0.11", 5000), ("192.0.2.100", 443), "S")]);
        let out = director.receive(WAN, &[time_exceeded(&sent.sent[0].1)]);
        assert_eq!((out.sent.len(), out.to_twin.len()), if is_translated { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn a_host_whose_packet_is_rejected_is_told_by_who_it_was_for() {
    let mut director = director(&["filter OUTPUT -d 192.0.2.100 -j REJECT"]);
    let sent = tcp((OUR_WAN, CLIENT), ("192.0.2.1", 4000), ("192.0.2.100", 22), "S");
    let out = of_host(&mut director, &sent);
    let (src, _, dst, ..) = read(&out.to_twin[0]);
    assert_eq!((src, dst), (ip("192.0.2.100"), ip("192.0.2.1")), "Linux takes no packet from itself");
}
