//! Goal: what Linux routes between a port and an interface of its own passes FORWARD, in both directions, and not INPUT and OUTPUT. Method: a network
//! behind such an interface, packets to it from a port and from it by the twin.

use super::hooks::{Workers, rules};
use super::*;

const BEHIND: &str = "10.8.0.5";
const CLIENT_IP: &str = "192.0.2.100";

fn with_tunnel(lines: &[&str]) -> Tables {
    let mut tables = tables(2, &[11, 12], 1);
    let prefix = |address: &str, len| Prefix { address: ip(address), len };
    let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
    let routes = Routes::new([
        (prefix("192.0.2.0", 24), via(0)),
        (prefix("192.0.2.1", 32), Route::Local),
        (prefix("192.0.2.10", 32), Route::Local),
        (prefix("10.0.0.0", 24), via(1)),
        (prefix("10.0.0.1", 32), Route::Local),
        (prefix("10.8.0.0", 24), Route::Linux),
        (prefix("10.8.0.1", 32), Route::Local),
    ]);
    tables.routes = routes.into();
    tables.rules = Arc::new(rules(lines));
    tables
}

fn director(lines: &[&str]) -> Director {
    let mut director = Director::new();
    director.path.adopt(with_tunnel(lines).into());
    director
}

fn to_it(sport: u16, flags: &str) -> Vec<u8> {
    tcp(C2D, (CLIENT_IP, sport), (BEHIND, 22), flags)
}

fn from_it(from: (&str, u16), dport: u16, flags: &str) -> Vec<u8> {
    tcp((OUR_WAN, CLIENT), from, (CLIENT_IP, dport), flags)
}

fn of_twin(director: &mut Director, frame: &[u8]) -> Out {
    let mut out = Out::default();
    let mut burst: Burst<Frame> = [Frame::new(WAN, frame)].into_iter().collect();
    director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
    out
}

/// Whether a rule at each hook sees a packet.
fn seen_at(hooks: &[&str], frame: &[u8], is_of_twin: bool) -> Vec<bool> {
    let see = |hook: &&str| {
        let mut director = director(&[&format!("{hook} -j DROP")]);
        let out = match is_of_twin {
            true => of_twin(&mut director, frame),
            false => director.receive(WAN, &[frame.to_vec()]),
        };
        let dropped = director.dropped(DropReason::Rule);
        assert_eq!((out.sent.len() + out.to_twin.len()) as u64 + dropped, 1, "{hook}");
        dropped == 1
    };
    hooks.iter().map(see).collect()
}

const HOOKS: [&str; 8] = [
    "raw PREROUTING",
    "mangle PREROUTING",
    "filter INPUT",
    "mangle FORWARD",
    "filter FORWARD",
    "raw OUTPUT",
    "filter OUTPUT",
    "mangle POSTROUTING",
];

#[test]
fn what_linux_routes_passes_forward_in_both_directions() {
    let through = [true, true, false, true, true, false, false, true];
    assert_eq!(seen_at(&HOOKS, &to_it(4000, "S"), false), through, "to it");
    assert_eq!(seen_at(&HOOKS, &from_it((BEHIND, 4000), 80, "S"), true), through, "from it");
    let untracked = &super::hooks::ping((OUR_WAN, CLIENT), BEHIND, CLIENT_IP, 7, false);
    assert_eq!(seen_at(&HOOKS, untracked, true), through, "a ping");
    let out = [false, false, false, false, false, true, true, true];
    assert_eq!(seen_at(&HOOKS, &from_it(("10.8.0.1", 4000), 80, "S"), true), out, "of the host itself");
}

#[test]
fn what_is_begun_on_either_side_of_linux_is_established_once_answered() {
    let stateful = [
        "filter FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "filter FORWARD -p tcp --dport 22 --syn -j ACCEPT",
        "filter FORWARD -j DROP",
    ];
    let mut director = director(&stateful);
    assert!(of_twin(&mut director, &from_it((BEHIND, 22), 4000, "SA")).sent.is_empty(), "nobody asked");
    assert_eq!(director.receive(WAN, &[to_it(4000, "S")]).to_twin.len(), 1);
    assert_eq!(of_twin(&mut director, &from_it((BEHIND, 22), 4000, "SA")).sent.len(), 1);
    assert_eq!(director.receive(WAN, &[to_it(4000, "A")]).to_twin.len(), 1);
    // From behind it.
    let begun = tcp((OUR_WAN, CLIENT), (BEHIND, 5000), (CLIENT_IP, 22), "S");
    let answer = tcp(C2D, (CLIENT_IP, 22), (BEHIND, 5000), "SA");
    assert!(director.receive(WAN, std::slice::from_ref(&answer)).to_twin.is_empty());
    assert_eq!(of_twin(&mut director, &begun).sent[0].1.data(), begun);
    assert_eq!(director.receive(WAN, &[answer]).to_twin.len(), 1);
    director.path.check_connections().unwrap();
}

#[test]
fn its_source_stays_and_its_destination_may_be_another() {
    let mut director = director(&[
        "nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 10.8.0.5:22",
        "nat POSTROUTING -j SNAT --to-source 192.0.2.77",
    ]);
    let out = director.receive(WAN, &[tcp(C2D, (CLIENT_IP, 4000), ("192.0.2.1", 2222), "S")]);
    assert_eq!(read(&out.to_twin[0]), (ip(CLIENT_IP), 4000, ip(BEHIND), 22, 64));
    let out = of_twin(&mut director, &from_it((BEHIND, 22), 4000, "SA"));
    assert_eq!(read(&out.sent[0].1), (ip("192.0.2.1"), 2222, ip(CLIENT_IP), 4000, 64));
    // Two connections that would be answered alike.
    let out = director.receive(WAN, &[to_it(4000, "S")]);
    let (src, sport, dst, dport, _) = read(&out.to_twin[0]);
    assert_eq!((src, dst, dport), (ip(CLIENT_IP), ip(BEHIND), 22));
    assert_ne!(sport, 4000);
    let out = of_twin(&mut director, &from_it((BEHIND, 22), sport, "SA"));
    assert_eq!(read(&out.sent[0].1), (ip(BEHIND), 22, ip(CLIENT_IP), 4000, 64));
    // What it begins leaves by a port like any other.
    let out = of_twin(&mut director, &from_it((BEHIND, 5000), 80, "S"));
    assert_eq!(read(&out.sent[0].1), (ip("192.0.2.77"), 5000, ip(CLIENT_IP), 80, 64));
}

#[test]
fn no_interface_of_linux_has_a_name_for_rules() {
    for (rule, is_seen) in [
        ("filter FORWARD -i wan ! -o lan -j DROP", true),
        ("filter FORWARD -o wan -j DROP", false),
        ("filter FORWARD -o wg0 -j DROP", false),
    ] {
        assert_eq!(
            seen_at(&[rule.strip_suffix(" -j DROP").unwrap()], &to_it(4000, "S"), false),
            [is_seen],
            "{rule}"
        );
    }
    assert_eq!(
        seen_at(&["filter FORWARD -o wan", "filter FORWARD -i wan"], &from_it((BEHIND, 4000), 80, "S"), true),
        [true, false]
    );
}

#[test]
fn who_is_rejected_behind_linux_is_told_by_an_address_that_linux_takes_packets_from() {
    let mut director = director(&["filter FORWARD -j REJECT"]);
    let begun = from_it((BEHIND, 4000), 80, "S");
    let out = of_twin(&mut director, &begun);
    let told = out.to_twin[0].data();
    assert_eq!(told[..12], begun[6..12].iter().chain(&begun[..6]).copied().collect::<Vec<_>>());
    assert_eq!((&told[26..30], &told[30..34]), (&[192, 0, 2, 100][..], &[10, 8, 0, 5][..]));
}

#[test]
fn both_directions_through_linux_come_to_one_worker() {
    let stateful = [
        "filter FORWARD -m conntrack --ctstate NEW -p tcp ! --syn -j DROP",
        "filter FORWARD -m conntrack --ctstate INVALID -j DROP",
    ];
    for sport in 4000..4016 {
        let mut workers = Workers::new(4, rules(&stateful));
        let tables = Arc::new(with_tunnel(&stateful));
        workers.paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
        let (begun_at, out) = workers.carry(WAN, &to_it(sport, "S"), false);
        assert_eq!(out.to_twin.len(), 1);
        let (at, out) = workers.carry(WAN, &from_it((BEHIND, 22), sport, "SA"), true);
        assert_eq!((at, out.sent.len()), (begun_at, 1));
        let (begun_at, _) = workers.carry(WAN, &from_it((BEHIND, sport), 443, "S"), true);
        let (at, out) = workers.carry(WAN, &tcp(C2D, (CLIENT_IP, 443), (BEHIND, sport), "SA"), false);
        assert_eq!((at, out.to_twin.len()), (begun_at, 1));
        assert_eq!(workers.inserted(), 2);
    }
}

#[test]
fn a_segment_size_is_clamped_to_what_linux_sends_on() {
    const CLAMP: &str = "mangle FORWARD -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu";
    const CLAMP_ANSWER: &str =
        "mangle FORWARD -p tcp --tcp-flags SYN,ACK SYN,ACK -j TCPMSS --clamp-mss-to-pmtu";
    let with_mss = |mut frame: Vec<u8>, mss: u16| {
        frame[46] = 0x60;
        frame.splice(54..54, [2, 4].into_iter().chain(mss.to_be_bytes()));
        let len = frame.len() as u16 - 14;
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        crate::wire::testing::reseal(&mut frame);
        frame
    };
    let mss_of = |frame: &Frame| u16::from_be_bytes([frame.data()[56], frame.data()[57]]);
    for (mtu, asked, is) in [(1420, 1460, 1380), (1420, 1300, 1300), (0, 1460, 1460)] {
        let mut tables = with_tunnel(&[CLAMP, CLAMP_ANSWER]);
        let prefix = |address: &str, len| Prefix { address: ip(address), len };
        let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
        tables.routes = Routes::with_mtus([
            (prefix("192.0.2.0", 24), via(0), 0),
            (prefix("192.0.2.1", 32), Route::Local, 0),
            (prefix("10.8.0.0", 24), Route::Linux, mtu),
        ])
        .into();
        let mut director = Director::new();
        director.path.adopt(tables.into());
        let out = director.receive(WAN, &[with_mss(to_it(4000, "S"), asked)]);
        assert_eq!(mss_of(&out.to_twin[0]), is, "towards it, {mtu}");
        let out = of_twin(&mut director, &with_mss(from_it((BEHIND, 22), 4000, "SA"), asked));
        assert_eq!(mss_of(&out.sent[0].1), is, "from there, {mtu}");
    }
}
