//! Goal: what helpers read of connections to come is RELATED, translated as the connection that told of it, bounded, and gone with that; with
//! several workers too. Method: TFTP between a private network and who is out there; rules of a few words.

use super::hooks::{Workers, rules};
use super::*;
use crate::conntrack::helper::HelperId;
use crate::conntrack::{Status, Zones};
use crate::rule::names::Numeric;
use crate::rule::{Around, Family, Refused, Rule, Rules, Table, text};
use crate::time::Timeout;

const HELPER: &str = "raw PREROUTING -p udp --dport 69 -j CT --helper tftp";
const SNAT: &str = "nat POSTROUTING -o wan -j SNAT --to-source 192.0.2.1";
const DNAT: &str = "nat PREROUTING -p udp --dport 69 -j DNAT --to-destination 10.0.0.11";
const RELATED: [&str; 3] = [
    "filter FORWARD -p udp --dport 69 -j ACCEPT",
    "filter FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "filter FORWARD -j DROP",
];

fn director(lines: &[&str]) -> Director {
    let mut director = Director::new();
    director.path.adopt(adopted(lines, 1024));
    director
}

fn adopted(lines: &[&str], expect_max: u32) -> Arc<Tables> {
    let rules = if lines.is_empty() { Rules::default() } else { rules(lines) };
    let mut tables = Tables { rules: Arc::new(rules), ..tables(2, &[11, 12], 1) };
    tables.settings.sysctls.conntrack.expect_max = expect_max;
    Arc::new(tables)
}

fn with(lines: &[&'static str]) -> Vec<&'static str> {
    [&[HELPER], lines, &RELATED].concat()
}

pub(super) fn udp(macs: (Mac, Mac), from: (&str, u16), to: (&str, u16), data: &[u8]) -> Vec<u8> {
    let ethernet = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    let mut frame = Vec::new();
    match (ip(from.0), ip(to.0)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ethernet.ipv4(src.octets(), dst.octets(), 64).udp(from.1, to.1).write(&mut frame, data)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ethernet.ipv6(src.octets(), dst.octets(), 64).udp(from.1, to.1).write(&mut frame, data)
        }
        mixed => panic!("{mixed:?}"),
    }
    .expect("memory");
    frame
}

const READ: &[u8] = b"\0\x01file\0octet\0";
const DATA: &[u8] = b"\0\x03\0\x01hello";
const ACK: &[u8] = b"\0\x04\0\x01";

/// From 10.0.0.11 in the private network to the server at 192.0.2.100.
fn request(sport: u16) -> Vec<u8> {
    udp((server_mac(11), OUR_LAN), ("10.0.0.11", sport), ("192.0.2.100", 69), READ)
}

fn data(from: u16, to: (&str, u16)) -> Vec<u8> {
    udp(C2D, ("192.0.2.100", from), to, DATA)
}

pub(super) fn list(path: &Path<Frame>, now: Tick) -> (Vec<FlowView>, Vec<FlowView>) {
    let mut views = Vec::new();
    let mut at = Some(0);
    // A few at a time, as workers are asked.
    while let Some(from) = at {
        at = path.list(from, 7, now, &mut |view| views.push(view));
    }
    views.into_iter().partition(|view| view.known.told_by.is_none())
}

#[test]
fn a_servers_answer_from_another_port_is_related_and_comes_in() {
    for is_helped in [true, false] {
        let lines = with(&[]);
        let mut director = director(if is_helped { &lines } else { &lines[1..] });
        assert_eq!(director.receive(LAN, &[request(3000)]).sent.len(), 1);
        let sent = director.receive(WAN, &[data(4000, ("10.0.0.11", 3000))]).sent;
        assert_eq!(sent.len(), usize::from(is_helped));
        // One answer for one request.
        assert_eq!(director.receive(WAN, &[data(4001, ("10.0.0.11", 3000))]).sent.len(), 0);
    }
}

#[test]
fn what_is_expected_is_listed_and_becomes_a_connection_with_its_masters_mark() {
    let mark = "mangle PREROUTING -p udp --dport 69 -j CONNMARK --set-mark 7";
    let mut director = director(&with(&[mark]));
    director.receive(LAN, &[request(3000)]);
    let (connections, expected) = list(&director.path, director.now);
    assert_eq!((connections[0].known.helper, connections.len()), (Some("tftp"), 1));
    assert!(connections[0].known.status.has(Status::HELPER));
    let [view] = &expected[..] else { panic!("{expected:?}") };
    assert_eq!((view.client, view.virtual_), ((ip("192.0.2.100"), 0), (ip("10.0.0.11"), 3000)));
    assert_eq!((view.known.told_by, view.known.helper), (Some(connections[0].original()), Some("tftp")));
    assert_eq!(view.expires_in, Timeout::from_secs(300));
    director.receive(WAN, &[data(4000, ("10.0.0.11", 3000))]);
    let (connections, expected) = list(&director.path, director.now);
    assert_eq!((connections.len(), expected.len()), (2, 0));
    let data = connections.iter().find(|view| view.client.1 == 4000).expect("it is there");
    assert!(data.known.status.has(Status::EXPECTED) && !data.known.status.has(Status::HELPER));
    assert_eq!(data.known.mark, 7);
    let counts = &director.path.mine.flows;
    let counted = [&counts.expect_create, &counts.expect_new, &counts.expect_delete, &counts.expected];
    assert_eq!(counted.map(|count| count.get()), [1, 1, 1, 0]);
}

#[test]
fn it_is_translated_as_the_connection_that_told_of_it_is() {
    // Behind one address: the answer goes in.
    let mut director = director(&with(&[SNAT]));
    director.receive(LAN, &[udp((server_mac(12), OUR_LAN), ("10.0.0.12", 3000), ("192.0.2.100", 69), READ)]);
    let (_, sport, ..) = read(&director.receive(LAN, &[request(3000)]).sent[0].1);
    assert_eq!(sport, 3001, "the other one has it");
    let sent = director.receive(WAN, &[data(4000, ("192.0.2.1", 3001))]).sent;
    assert_eq!(read(&sent[0].1), (ip("192.0.2.100"), 4000, ip("10.0.0.11"), 3000, 63));
    let acknowledged = udp((server_mac(11), OUR_LAN), ("10.0.0.11", 3000), ("192.0.2.100", 4000), ACK);
    let sent = director.receive(LAN, &[acknowledged]).sent;
    assert_eq!(read(&sent[0].1), (ip("192.0.2.1"), 3001, ip("192.0.2.100"), 4000, 63));
}

#[test]
fn a_server_behind_the_director_answers_in_the_directors_name() {
    let mut director = director(&with(&[DNAT]));
    director.receive(WAN, &[udp(C2D, ("192.0.2.100", 3000), ("192.0.2.1", 69), READ)]);
    let answer = udp((server_mac(11), OUR_LAN), ("10.0.0.11", 4000), ("192.0.2.100", 3000), DATA);
    let sent = director.receive(LAN, &[answer]).sent;
    assert_eq!(read(&sent[0].1), (ip("192.0.2.1"), 4000, ip("192.0.2.100"), 3000, 63));
    let back = udp(C2D, ("192.0.2.100", 3000), ("192.0.2.1", 4000), ACK);
    let sent = director.receive(WAN, &[back]).sent;
    assert_eq!(read(&sent[0].1), (ip("192.0.2.100"), 3000, ip("10.0.0.11"), 4000, 63));
}

#[test]
fn a_rule_knows_what_a_helper_announced() {
    for (asked, passes) in [("tftp", true), ("tftp-69", true), ("ftp", false), ("\"\"", true)] {
        let lines = [
            HELPER,
            "filter FORWARD -p udp --dport 69 -j ACCEPT",
            &format!("filter FORWARD -m helper --helper {asked} -j ACCEPT"),
            "filter FORWARD -j DROP",
        ];
        let mut director = director(&lines);
        director.receive(LAN, &[request(3000)]);
        let sent = director.receive(WAN, &[data(4000, ("10.0.0.11", 3000))]).sent;
        assert_eq!(sent.len(), usize::from(passes), "{asked}");
    }
}

#[test]
fn what_does_not_come_or_whose_master_ends_is_expected_no_more() {
    let mut director = director(&with(&[]));
    director.receive(LAN, &[request(3000)]);
    let master = list(&director.path, director.now).0[0].original();
    let end = Order { zones: Zones::NONE, deed: Deed::End };
    assert_eq!(director.path.order(&master, &end, director.now), Outcome::Done);
    assert!(list(&director.path, director.now).1.is_empty(), "at once");
    assert!(director.receive(WAN, &[data(4000, ("10.0.0.11", 3000))]).sent.is_empty());
    (0..200).for_each(|_| drop(director.turn()));
    assert_eq!(director.path.mine.flows.expected.get(), 0, "and its place is free");
    // Another one, which is deleted by its tuple.
    director.receive(LAN, &[request(3000)]);
    let expected = list(&director.path, director.now).1[0].original();
    let forget = Order { zones: Zones::NONE, deed: Deed::Forget };
    assert_eq!(director.path.order(&expected, &forget, director.now), Outcome::Done);
    assert_eq!(director.path.order(&expected, &forget, director.now), Outcome::Absent);
    assert!(director.receive(WAN, &[data(4000, ("10.0.0.11", 3000))]).sent.is_empty());
}

#[test]
fn an_answer_after_five_minutes_is_too_late() {
    let mut director = director(&with(&[]));
    for (seconds, passes) in [(299, true), (300, false)] {
        director.receive(LAN, &[request(3000)]);
        // The client keeps its connection.
        for _ in 0..seconds {
            director.now = director.now.after(Timeout::from_secs(1));
            director.receive(
                LAN,
                &[udp((server_mac(11), OUR_LAN), ("10.0.0.11", 3000), ("192.0.2.100", 69), ACK)],
            );
        }
        let sent = director.receive(WAN, &[data(4000 + seconds, ("10.0.0.11", 3000))]).sent;
        assert_eq!(sent.len(), usize::from(passes), "{seconds} s");
    }
}

#[test]
fn a_request_for_which_there_is_no_room_is_dropped_and_counted() {
    let mut director = director(&[]);
    director.path.adopt(adopted(&with(&[]), 2));
    for (sport, passes) in [(3000, true), (3001, true), (3000, true), (3002, false)] {
        assert_eq!(director.receive(LAN, &[request(sport)]).sent.len(), usize::from(passes), "{sport}");
    }
    assert_eq!(director.dropped(DropReason::ExpectationsFull), 1);
    director.receive(WAN, &[data(4000, ("10.0.0.11", 3000))]);
    assert_eq!(director.receive(LAN, &[request(3002)]).sent.len(), 1, "there is room again");
}

#[test]
fn at_any_number_of_workers_the_masters_worker_has_what_it_expects() {
    for nat in [&[][..], &[SNAT]] {
        let mut workers = Workers::new(3, rules(&with(nat)));
        for sport in 3000..3032 {
            let (began, out) = workers.carry(LAN, &request(sport), false);
            let (src, port, ..) = read(&out.sent[0].1);
            let to = src.to_string();
            for frame in [DATA, DATA] {
                let frame = udp(C2D, ("192.0.2.100", 4000), (&to, port), frame);
                let (at, out) = workers.carry(WAN, &frame, false);
                assert_eq!((at, out.sent.len()), (began, 1), "port {sport}");
                let (_, _, dst, dport, _) = read(&out.sent[0].1);
                assert_eq!((dst, dport), (ip("10.0.0.11"), sport));
            }
            let ack = udp((server_mac(11), OUR_LAN), ("10.0.0.11", sport), ("192.0.2.100", 4000), ACK);
            let (at, out) = workers.carry(LAN, &ack, false);
            assert_eq!((at, out.sent.len()), (began, 1), "port {sport}");
            assert_eq!(read(&out.sent[0].1).1, port);
        }
        assert_eq!(workers.inserted(), 64, "one entry each");
    }
}

#[test]
fn a_host_that_serves_answers_what_it_announced() {
    let lines = [
        HELPER,
        "filter OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "filter OUTPUT -j DROP",
    ];
    let mut director = director(&lines);
    let asked = udp(C2D, ("192.0.2.100", 3000), ("192.0.2.1", 69), READ);
    assert_eq!(director.receive(WAN, &[asked]).to_twin.len(), 1);
    let answer = |to| udp((OUR_WAN, CLIENT), ("192.0.2.1", 4000), ("192.0.2.100", to), DATA);
    for (to, passes) in [(3001, false), (3000, true)] {
        let mut out = Out::default();
        let mut burst = [Frame::new(WAN, &answer(to))].into_iter().collect();
        director.path.receive_from_twin(WAN, &mut burst, director.now, &mut out);
        assert_eq!(out.sent.len(), usize::from(passes), "to port {to}");
    }
}

#[test]
fn a_helper_is_of_its_protocol_and_known() {
    let check = |line: &str| {
        let words = text::split(line).expect("words");
        let (rules, _) = Rule::read(&words, &mut Around::new(Family::Ipv4, &Numeric)).expect("a rule");
        rules[0].check(Table::Raw, 1 << Hook::Prerouting as u8)
    };
    assert_eq!(check("-p udp -j CT --helper tftp"), Ok(()));
    for bad in ["-p tcp -j CT --helper tftp", "-j CT --helper tftp", "-p udp -j CT --helper h323"] {
        assert_eq!(check(bad), Err(Refused::NotThere), "{bad}");
    }
    assert_eq!(HelperId(200).get().map(|helper| helper.name), None, "of memory that holds anything");
}

/// What was told since the last time of those that are expected: what became of each, and the port from which it was announced.
fn told(director: &Director) -> Vec<(EventKind, u16)> {
    let events = director.path.tables.events.clone();
    let all = std::iter::from_fn(move || events.take());
    all.filter_map(|event| Some((event.kind, event.view.known.told_by?.sport))).collect()
}

#[test]
fn it_is_told_when_one_comes_to_be_expected_and_when_it_is_so_no_more() {
    use EventKind::{Destroy, New};
    let mut director = director(&with(&[]));
    director.path.tables.events.set_read(true);
    director.receive(LAN, &[request(3000)]);
    assert_eq!(told(&director), [(New, 3000)]);
    // Told once more.
    director.receive(LAN, &[request(3000)]);
    assert_eq!(told(&director), [(Destroy, 3000), (New, 3000)]);
    assert_eq!(director.receive(WAN, &[data(4000, ("10.0.0.11", 3000))]).sent.len(), 1);
    assert_eq!(told(&director), [(Destroy, 3000)], "it has come");
    director.receive(LAN, &[request(3001), request(3002)]);
    assert_eq!(told(&director), [(New, 3001), (New, 3002)]);
    let (connections, expected) = list(&director.path, director.now);
    let from =
        |views: &[FlowView], port| views.iter().find(|view| view.client.1 == port).map(FlowView::original);
    let forgotten = expected.iter().find(|view| view.virtual_.1 == 3001).expect("it is listed").original();
    assert_eq!(director.path.order(&forgotten, &Order::plain(Deed::Forget), director.now), Outcome::Done);
    assert_eq!(told(&director), [(Destroy, 3001)], "as is ordered");
    let master = from(&connections, 3002).expect("it is listed");
    assert_eq!(director.path.order(&master, &Order::plain(Deed::End), director.now), Outcome::Done);
    (0..200).for_each(|_| drop(director.turn()));
    assert_eq!(told(&director), [(Destroy, 3002)], "its master has ended");
    director.receive(LAN, &[request(3003)]);
    told(&director);
    director.now = director.now.after(Timeout::from_secs(301));
    (0..200).for_each(|_| drop(director.turn()));
    assert_eq!(told(&director), [(Destroy, 3003)], "its time is over");
    director.path.tables.events.set_read(false);
    director.receive(LAN, &[request(3004)]);
    assert_eq!(told(&director), []);
}

#[test]
fn of_what_is_expected_is_told_what_its_masters_rule_names() {
    for (named, count) in [("", 2), (" --expevents new", 1), (" --ctevents new,destroy", 0)] {
        let helper = format!("{HELPER}{named}");
        let mut director = director(&[&[&helper[..]], &RELATED[..]].concat());
        director.path.tables.events.set_read(true);
        director.receive(LAN, &[request(3000)]);
        assert_eq!(director.receive(WAN, &[data(4000, ("10.0.0.11", 3000))]).sent.len(), 1);
        assert_eq!(told(&director).len(), count, "{named}");
    }
}

#[test]
fn as_is_ordered_a_connections_helper_expects_what_it_has_not_read() {
    let mut director = director(&with(&[]));
    director.receive(LAN, &[request(3000)]);
    director.receive(WAN, &[udp(C2D, ("192.0.2.100", 5000), ("10.0.0.11", 69), ACK)]);
    let tuple =
        |src, sport, dst, dport| Tuple { src: ip(src), dst: ip(dst), sport, dport, protocol: Protocol::TCP };
    let master = Tuple { protocol: Protocol::UDP, ..tuple("10.0.0.11", 3000, "192.0.2.100", 69) };
    let new = tuple("192.0.2.100", 0, "10.0.0.11", 7000);
    let mut announce = |master: Tuple, new: Tuple| {
        director.path.order(&master, &Order::plain(Deed::Announce(new)), director.now)
    };
    assert_eq!(announce(Tuple { sport: 9, ..master }, new), Outcome::Absent);
    assert_eq!(announce(master.reversed(), new), Outcome::Absent, "by its first packet alone");
    assert_eq!(announce(master, Tuple { src: ip("0.0.0.0"), ..new }), Outcome::Impossible);
    assert_eq!(announce(master, new), Outcome::Done);
    assert_eq!(announce(master, new), Outcome::Exists);
    let syn = |to| tcp(C2D, ("192.0.2.100", 4000), ("10.0.0.11", to), "S");
    assert!(director.receive(WAN, &[syn(7001)]).sent.is_empty());
    assert_eq!(director.receive(WAN, &[syn(7000)]).sent.len(), 1);
    let (connections, _) = list(&director.path, director.now);
    let begun = connections.iter().find(|view| view.virtual_.1 == 7000).expect("it is listed");
    assert!(begun.known.status.has(Status::EXPECTED));
    // A connection without a helper expects nothing.
    let order = Order::plain(Deed::Announce(new));
    assert_eq!(director.path.order(&begun.original(), &order, director.now), Outcome::Impossible);
}
