//! Goal: rules see what goes up the twin whatever a route says, and all that the host sends: link-local, multicast, broadcast, neighbour discovery.
//! Method: frames of each kind past rules that stop them, or that say what they are to conntrack.

use super::hooks::{Workers, rules};
use super::*;

const ALL: Mac = [0xff; 6];
const OURS: &str = "fe80::1";
const THEIRS: &str = "fe80::99";

fn director(lines: &[&str]) -> Director {
    let mut director = Director::new();
    let rules = Arc::new(rules(lines));
    director.path.adopt(Arc::new(Tables { rules, ..tables(2, &[11, 12], 1) }));
    director
}

fn of_host(director: &mut Director, port: PortId, frame: &[u8]) -> Out {
    let mut out = Out::default();
    let mut burst: Burst<Frame> = [Frame::new(port, frame)].into_iter().collect();
    director.path.receive_from_twin(port, &mut burst, director.now, &mut out);
    out
}

fn udp(macs: (Mac, Mac), from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    let builder = match (ip(from.0), ip(to.0)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("one family"),
    };
    let mut frame = Vec::new();
    builder.udp(from.1, to.1).write(&mut frame, b"datagram").unwrap();
    frame
}

fn vrrp(macs: (Mac, Mac), from: &str) -> Vec<u8> {
    let IpAddr::V4(from) = ip(from) else { panic!("IPv4") };
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(from.octets(), [224, 0, 0, 18], 255)
        .write(&mut frame, 112.into(), &[0x21, 1, 100, 1, 0, 1, 0, 0, 192, 0, 2, 10])
        .unwrap();
    frame
}

/// A message of ICMPv6 with 20 bytes behind its first word.
fn icmpv6(macs: (Mac, Mac), from: &str, to: &str, kind: u8) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (ip(from), ip(to)) else { panic!("IPv6") };
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv6(from.octets(), to.octets(), 255)
        .icmpv6_raw(kind, 0, [0; 4])
        .write(&mut frame, &[0; 16])
        .unwrap();
    frame
}

fn link_local(from: (&str, u16), to: (&str, u16), flags: &str) -> Vec<u8> {
    tcp(if from.0 == OURS { (OUR_WAN, CLIENT) } else { C2D }, from, to, flags)
}

fn multicast_mac() -> Mac {
    [1, 0, 0x5e, 0, 0, 18]
}

/// What only the host may take, from a client.
fn for_host() -> Vec<(&'static str, Vec<u8>)> {
    let client = "192.0.2.100";
    vec![
        ("TCP to a link-local address", link_local((THEIRS, 4000), (OURS, 2222), "S")),
        ("UDP to all", udp((CLIENT, ALL), (client, 4000), ("255.255.255.255", 3333))),
        ("UDP to a network's", udp((CLIENT, ALL), (client, 4000), ("192.0.2.255", 3333))),
        ("UDP to us in a frame to all", udp((CLIENT, ALL), (client, 4000), ("192.0.2.1", 3333))),
        ("TCP to a service in a frame to all", tcp((CLIENT, ALL), (client, 4000), ("192.0.2.10", 80), "S")),
        ("DHCP", udp((CLIENT, ALL), ("0.0.0.0", 68), ("255.255.255.255", 67))),
        ("VRRP", vrrp((CLIENT, multicast_mac()), client)),
        ("VRRP in a frame to us", vrrp(C2D, client)),
        (
            "neighbour solicitation",
            icmpv6((CLIENT, [0x33, 0x33, 0xff, 0, 0, 1]), "::", "ff02::1:ff00:1", 135),
        ),
        ("neighbour advertisement", icmpv6(C2D, "2001:db8::100", "2001:db8::10", 136)),
        ("ping of a link-local address", hooks::ping(C2D, THEIRS, OURS, 7, false)),
    ]
}

#[test]
fn what_only_the_host_may_take_passes_input() {
    for hook in ["raw PREROUTING", "mangle PREROUTING", "mangle INPUT", "filter INPUT", "security INPUT"] {
        for (what, frame) in for_host() {
            let mut director = director(&[&format!("{hook} -j DROP")]);
            let out = director.receive(WAN, &[frame]);
            assert!(out.to_twin.is_empty() && out.sent.is_empty(), "{what} past {hook}");
            assert_eq!(director.dropped(DropReason::Rule), 1, "{what} at {hook}");
        }
    }
}

#[test]
fn what_rules_let_pass_goes_up_the_twin_as_it_came() {
    let arp = [&ALL[..], &CLIENT, &[8, 6], &[0; 46]].concat();
    let unseen = ["filter FORWARD -j DROP", "filter OUTPUT -j DROP"];
    for (what, frame) in for_host().into_iter().chain([("ARP", arp.clone())]) {
        let mut ruled = director(&unseen);
        for mut director in [Director::new(), std::mem::replace(&mut ruled, Director::new())] {
            let out = director.receive(WAN, std::slice::from_ref(&frame));
            assert_eq!(out.to_twin.iter().map(Frame::data).collect::<Vec<_>>(), [&frame[..]], "{what}");
        }
    }
    assert_eq!(
        director(&["filter INPUT -j DROP"]).receive(WAN, &[arp]).to_twin.len(),
        1,
        "no rule is about ARP"
    );
}

#[test]
fn rules_can_say_to_whom_a_frame_went_and_which_protocol_goes_to_many() {
    let kinds = |word: &str| {
        let mut director = director(&[&format!("filter INPUT -m pkttype --pkt-type {word} -j DROP")]);
        for_host()
            .iter()
            .filter(|(_, frame)| director.receive(WAN, std::slice::from_ref(frame)).to_twin.is_empty())
            .count()
    };
    assert_eq!(["broadcast", "multicast", "unicast"].map(kinds), [5, 2, 4]);
    let mut director = director(&["filter INPUT -p 112 -d 224.0.0.18 -j ACCEPT", "filter INPUT -j DROP"]);
    assert_eq!(director.receive(WAN, &[vrrp((CLIENT, multicast_mac()), "192.0.2.100")]).to_twin.len(), 1);
}

const STATEFUL: [&str; 2] =
    ["filter INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "filter INPUT -j DROP"];

#[test]
fn a_connection_between_link_local_addresses_is_established_once_both_ends_sent() {
    let mut director = director(&STATEFUL);
    let answer = link_local((THEIRS, 179), (OURS, 4000), "SA");
    assert!(director.receive(WAN, std::slice::from_ref(&answer)).to_twin.is_empty());
    let ours = link_local((OURS, 4000), (THEIRS, 179), "S");
    assert_eq!(of_host(&mut director, WAN, &ours).sent[0].1.data(), ours);
    let out = director.receive(WAN, &[answer, link_local((THEIRS, 179), (OURS, 4000), "A")]);
    assert_eq!(out.to_twin.len(), 2);
    assert_eq!(director.states(), ["SYN_RECV"]);
    director.path.check_connections().unwrap();
}

#[test]
fn what_a_link_local_client_begins_is_answered() {
    let mut director = director(&[
        "filter INPUT -p tcp --dport 22 -j ACCEPT",
        "filter INPUT -j DROP",
        "filter OUTPUT -m conntrack --ctstate ESTABLISHED -s fe80::1/128 -j ACCEPT",
        "filter OUTPUT -j DROP",
    ]);
    let answer = link_local((OURS, 22), (THEIRS, 4000), "SA");
    assert!(of_host(&mut director, WAN, &answer).sent.is_empty(), "nobody asked");
    assert_eq!(director.receive(WAN, &[link_local((THEIRS, 4000), (OURS, 22), "S")]).to_twin.len(), 1);
    assert_eq!(of_host(&mut director, WAN, &answer).sent[0].1.data(), answer);
}

#[test]
fn the_same_link_local_ends_on_two_links_are_two_connections() {
    let mut director = director(&STATEFUL);
    of_host(&mut director, WAN, &link_local((OURS, 4000), (THEIRS, 179), "S"));
    let answer = |ours| tcp((CLIENT, ours), (THEIRS, 179), (OURS, 4000), "SA");
    assert!(director.receive(LAN, &[answer(OUR_LAN)]).to_twin.is_empty());
    assert_eq!(director.receive(WAN, &[answer(OUR_WAN)]).to_twin.len(), 1);
    assert!(director.receive(LAN, &[answer(OUR_LAN)]).to_twin.is_empty());
}

#[test]
fn an_error_about_what_the_host_sent_on_a_link_is_related() {
    let mut director = director(&STATEFUL);
    let sent = udp((OUR_WAN, CLIENT), (OURS, 4000), (THEIRS, 53));
    let (IpAddr::V6(from), IpAddr::V6(to)) = (ip(THEIRS), ip(OURS)) else { panic!("IPv6") };
    let mut error = Vec::new();
    etherparse::PacketBuilder::ethernet2(CLIENT, OUR_WAN)
        .ipv6(from.octets(), to.octets(), 64)
        .icmpv6_raw(1, 4, [0; 4])
        .write(&mut error, &sent[14..])
        .unwrap();
    assert!(director.receive(WAN, std::slice::from_ref(&error)).to_twin.is_empty(), "INVALID");
    of_host(&mut director, WAN, &sent);
    assert_eq!(director.receive(WAN, std::slice::from_ref(&error)).to_twin[0].data(), error);
    assert!(director.receive(LAN, &[error]).to_twin.is_empty());
}

#[test]
fn neighbour_discovery_is_untracked_in_both_directions() {
    let frames = [
        icmpv6((CLIENT, [0x33, 0x33, 0xff, 0, 0, 1]), "::", "ff02::1:ff00:1", 135),
        icmpv6(C2D, THEIRS, OURS, 136),
        icmpv6(C2D, "2001:db8::100", "2001:db8::10", 135),
        icmpv6((CLIENT, [0x33, 0x33, 0, 0, 0, 1]), THEIRS, "ff02::1", 134),
        icmpv6((CLIENT, [0x33, 0x33, 0, 0, 0, 22]), THEIRS, "ff02::16", 143),
    ];
    for frame in frames {
        for (state, passes) in [("INVALID,NEW", true), ("UNTRACKED", false)] {
            let mut director = director(&[
                &format!("filter INPUT -m conntrack --ctstate {state} -j DROP"),
                &format!("filter OUTPUT -m conntrack --ctstate {state} -j DROP"),
            ]);
            assert_eq!(
                director.receive(WAN, std::slice::from_ref(&frame)).to_twin.len() == 1,
                passes,
                "{state}"
            );
            assert_eq!(of_host(&mut director, WAN, &frame).sent.len() == 1, passes, "{state} out");
            assert_eq!(director.counters[0].flows.inserted.get(), 0);
        }
    }
}

#[test]
fn all_that_the_host_sends_passes_output_and_postrouting() {
    let to_many = vrrp((OUR_WAN, multicast_mac()), "192.0.2.1");
    let frames = [
        to_many.clone(),
        udp((OUR_WAN, ALL), ("192.0.2.1", 67), ("255.255.255.255", 68)),
        link_local((OURS, 4000), (THEIRS, 179), "S"),
        icmpv6((OUR_WAN, CLIENT), "2001:db8::1", "2001:db8::100", 135),
    ];
    for hook in ["raw OUTPUT", "mangle OUTPUT", "filter OUTPUT", "security OUTPUT", "mangle POSTROUTING"] {
        let mut director = director(&[&format!("{hook} -j DROP")]);
        assert!(frames.iter().all(|frame| of_host(&mut director, WAN, frame).sent.is_empty()), "{hook}");
        assert_eq!(director.dropped(DropReason::Rule), 4);
    }
    // What keepalived sends is NEW each time, and NAT is for others.
    let mut director = director(&[
        "filter OUTPUT -m conntrack ! --ctstate NEW -j DROP",
        "nat POSTROUTING -o wan -j SNAT --to-source 192.0.2.77",
    ]);
    for _ in 0..2 {
        assert_eq!(of_host(&mut director, WAN, &to_many).sent[0].1.data(), to_many);
    }
    assert_eq!(director.counters[0].flows.inserted.get(), 0);
}

#[test]
fn what_goes_to_many_is_new_each_time_and_takes_no_place() {
    let mut director = director(&["filter INPUT -m conntrack ! --ctstate NEW -j DROP"]);
    let frame = udp((CLIENT, ALL), ("192.0.2.100", 4000), ("255.255.255.255", 3333));
    assert_eq!(director.receive(WAN, &[frame.clone(), frame]).to_twin.len(), 2);
    assert_eq!(director.counters[0].flows.inserted.get(), 0);
}

#[test]
fn a_frame_to_many_begins_no_connection_that_nat_has_not_seen() {
    let mut director = director(&["nat PREROUTING -p udp --dport 514 -j REDIRECT --to-ports 5140"]);
    for to in [ALL, OUR_WAN] {
        let out = director.receive(WAN, &[udp((CLIENT, to), ("192.0.2.100", 4000), ("192.0.2.1", 514))]);
        assert_eq!(read(&out.to_twin[0]), (ip("192.0.2.100"), 4000, ip("192.0.2.1"), 5140, 64));
    }
}

#[test]
fn later_fragments_of_what_goes_to_many_are_as_the_first_one() {
    let whole = udp((CLIENT, ALL), ("192.0.2.100", 4000), ("255.255.255.255", 3333));
    let piece = |flags: u16, from: usize, to: usize| {
        let mut frame = [&whole[..34], &whole[34 + from..34 + to]].concat();
        frame[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&(flags | (from / 8) as u16).to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
        frame
    };
    let pieces = [piece(0x2000, 0, 8), piece(0, 8, 16)];
    for (state, passed) in [("NEW", 2), ("INVALID", 0)] {
        let accept = format!("filter INPUT -p udp -m conntrack --ctstate {state} -j ACCEPT");
        let mut director = director(&[&accept, "filter INPUT -j DROP"]);
        assert_eq!(director.receive(WAN, &pieces).to_twin.len(), passed, "{state}");
    }
}

#[test]
fn both_directions_on_a_link_come_to_one_worker() {
    for sport in 4000..4016 {
        let mut workers = Workers::new(4, rules(&STATEFUL));
        let (begun_at, out) = workers.carry(WAN, &link_local((OURS, sport), (THEIRS, 179), "S"), true);
        assert_eq!(out.sent.len(), 1);
        let (at, out) = workers.carry(WAN, &link_local((THEIRS, 179), (OURS, sport), "SA"), false);
        assert_eq!((at, out.to_twin.len()), (begun_at, 1));
        assert_eq!(workers.inserted(), 1);
    }
}

#[test]
fn rejections_are_told_to_one_sender_alone() {
    let mut director = director(&["filter INPUT -p tcp -j REJECT --reject-with tcp-reset"]);
    let out = director.receive(WAN, &[link_local((THEIRS, 4000), (OURS, 2222), "S")]);
    assert_eq!(read(&out.sent[0].1), (ip(OURS), 2222, ip(THEIRS), 4000, 64));
    let to_many = tcp(C2D, ("192.0.2.100", 4000), ("224.0.0.5", 80), "S");
    assert!(director.receive(WAN, &[to_many]).sent.is_empty());
    assert_eq!(director.dropped(DropReason::RuleRejects), 2);
}

#[test]
fn connections_on_links_stay_theirs_when_the_tables_change() {
    let mut director = director(&STATEFUL);
    of_host(&mut director, WAN, &link_local((OURS, 4000), (THEIRS, 179), "S"));
    let rules = Arc::new(rules(&STATEFUL));
    director.path.adopt(Arc::new(Tables { rules, ..tables(3, &[11], 1) }));
    assert_eq!(director.receive(WAN, &[link_local((THEIRS, 179), (OURS, 4000), "SA")]).to_twin.len(), 1);
}
