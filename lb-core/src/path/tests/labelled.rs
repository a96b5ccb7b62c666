//! Goal: labels of connections are set and asked by rules as the kernel's are, one connection's are nobody else's, and they end with it.
//! Method: rules that set and ask them, orders from outside, a table of sets that is full.

use super::hooks::{back, rules, through};
use super::tracking::list;
use super::*;
use crate::conntrack::Labels;

const SET: &str = "mangle PREROUTING -p tcp --syn -m connlabel --label 5 --set";

fn director(lines: &[&str]) -> Director {
    let mut director = Director::new();
    director.path.adopt(Arc::new(Tables { rules: Arc::new(rules(lines)), ..tables(2, &[11, 12], 1) }));
    director
}

fn labels(director: &Director, client_port: u16) -> Vec<u8> {
    let view = list(director).into_iter().find(|view| view.client.1 == client_port).unwrap();
    view.known.labels.bits().collect()
}

/// Orders it of the connection of this port of the client.
fn order(director: &mut Director, client_port: u16, deed: Deed) -> Outcome {
    let view = list(director).into_iter().find(|view| view.client.1 == client_port).unwrap();
    director.path.order(&view.original(), &Order::plain(deed), director.now)
}

fn relabel(lost: Labels, gained: Labels) -> Deed {
    Deed::Change(Change { labels: [lost, gained], ..Change::default() })
}

#[test]
fn a_label_that_a_rule_sets_is_the_connections_in_both_directions() {
    let mut director = director(&[SET, "filter FORWARD -m connlabel ! --label 5 -j DROP"]);
    assert_eq!(director.receive(WAN, &[through(4000, "S")]).sent.len(), 1);
    assert_eq!(director.receive(LAN, &[back(4000, "SA")]).sent.len(), 1);
    assert_eq!(director.receive(WAN, &[through(4000, "A")]).sent.len(), 1);
    assert_eq!(director.receive(WAN, &[through(4001, "A")]).sent.len(), 0, "no SYN, no label");
    assert_eq!(labels(&director, 4000), [5]);
    assert_eq!(director.path.flows.label_sets().0, 1);
    director.path.check_connections().unwrap();
}

#[test]
fn a_services_connection_has_labels_too_from_its_first_packet_on() {
    let mut director = director(&[
        SET,
        "filter INPUT -m connlabel --label 6 --set",
        "filter FORWARD -m connlabel --label 5 -m connlabel --label 6 -j DROP",
    ]);
    director.receive(WAN, &[from_client(4000, "S")]);
    assert_eq!(labels(&director, 4000), [5, 6]);
    assert_eq!(director.receive(LAN, &[from_server(11, 4000, "SA")]).sent.len(), 0);
    director.path.check_connections().unwrap();
}

#[test]
fn what_is_of_no_connection_has_no_label_and_gets_none() {
    for (rule, is_dropped) in [
        ("filter FORWARD -m connlabel --label 5 --set -j DROP", false),
        ("filter FORWARD -m connlabel ! --label 5 --set -j DROP", true),
    ] {
        let mut director = director(&["raw PREROUTING -j NOTRACK", rule]);
        assert_eq!(director.receive(WAN, &[through(4000, "S")]).sent.is_empty(), is_dropped, "{rule}");
    }
}

#[test]
fn a_set_that_does_what_it_says_is_as_if_the_label_had_been_there() {
    for (rule, is_dropped) in [
        ("filter FORWARD -m connlabel --label 5 --set -j DROP", true),
        ("filter FORWARD -m connlabel ! --label 5 --set -j DROP", false),
        ("filter FORWARD -m connlabel ! --label 5 -j DROP", true),
    ] {
        let mut director = director(&[rule]);
        assert_eq!(director.receive(WAN, &[through(4000, "S")]).sent.is_empty(), is_dropped, "{rule}");
    }
}

#[test]
fn whoever_has_the_place_of_one_that_ended_has_no_labels_of_it() {
    let mut director = director(&[SET]);
    director.receive(WAN, &[through(4000, "S")]);
    assert_eq!(order(&mut director, 4000, Deed::End), Outcome::Done);
    assert_eq!(director.path.flows.label_sets().0, 0);
    director.receive(WAN, &[through(4001, "A")]);
    assert!(labels(&director, 4001).is_empty());
    director.path.check_connections().unwrap();
}

#[test]
fn labels_are_set_and_taken_from_outside_and_the_rest_stays() {
    let mut director = director(&[SET]);
    director.receive(WAN, &[through(4000, "S"), from_client(4001, "S")]);
    for port in [4000, 4001] {
        let mut relabelled = |lost: &[u8], gained: &[u8]| {
            let deed = relabel(Labels::of(lost.iter().copied()), Labels::of(gained.iter().copied()));
            assert_eq!(order(&mut director, port, deed), Outcome::Done);
            labels(&director, port)
        };
        assert_eq!(relabelled(&[], &[0, 127]), [0, 5, 127]);
        assert_eq!(relabelled(&[5, 127], &[]), [0]);
        assert_eq!(relabelled(&[0], &[0, 1]), [0, 1]);
        assert!(relabelled(&[0, 1], &[]).is_empty());
    }
    assert_eq!(director.path.flows.label_sets().0, 0);
    director.path.check_connections().unwrap();
}

#[test]
fn a_new_label_is_told_and_one_that_is_there_is_not() {
    let mut director =
        director(&["mangle PREROUTING -p tcp --tcp-flags ACK ACK -m connlabel --label 5 --set"]);
    let events = director.path.tables.events.clone();
    director.receive(WAN, &[through(4000, "S")]);
    director.receive(LAN, &[back(4000, "SA")]);
    director.receive(WAN, &[through(4000, "A")]);
    assert_eq!(order(&mut director, 4000, relabel(Labels::of([5]), Labels::NONE)), Outcome::Done);
    events.set_read(true);
    for _ in 0..3 {
        director.receive(WAN, &[through(4000, "A")]);
    }
    let told: Vec<FlowEvent> = std::iter::from_fn(|| events.take()).collect();
    let [FlowEvent { kind: EventKind::Update, view }] = &told[..] else { panic!("{told:?}") };
    assert_eq!(view.known.labels, Labels::of([5]));
}

#[test]
fn where_no_room_is_for_a_set_of_labels_the_rule_does_not_match_and_that_is_counted() {
    let line = "filter FORWARD -p tcp --dport 22 -m connlabel --label 127 --set -j DROP";
    let mut director = director(&[line]);
    let sets = director.path.flows.label_sets().1;
    assert_eq!(sets, 64, "of so small a table");
    director.path.adopt(Arc::new(Tables { rules: Arc::new(rules(&[SET])), ..tables(3, &[11, 12], 1) }));
    let ports: Vec<u16> = (0..sets as u16).map(|n| 4000 + n).collect();
    for (&port, bit) in ports.iter().zip(0..) {
        director.receive(WAN, &[through(port, "S")]);
        let deed = relabel(Labels::of(0..=255), Labels::of([bit]));
        assert_eq!(order(&mut director, port, deed), Outcome::Done);
    }
    let unlabelled = |director: &Director| director.counters[0].flows.unlabelled.get();
    assert_eq!((director.path.flows.label_sets(), unlabelled(&director)), ((sets, sets), 0));
    director.path.adopt(Arc::new(Tables { rules: Arc::new(rules(&[line])), ..tables(4, &[11, 12], 1) }));
    // One that begins, and one that has labels, which it keeps.
    assert_eq!(director.receive(WAN, &[through(5000, "S"), through(4001, "S")]).sent.len(), 2);
    assert_eq!(unlabelled(&director), 2);
    assert_eq!((labels(&director, 5000), labels(&director, 4001)), (vec![], vec![1]));
    let change = relabel(Labels::NONE, Labels::of([100]));
    assert_eq!(order(&mut director, 4002, change), Outcome::Full);
    assert_eq!(order(&mut director, 4003, Deed::End), Outcome::Done);
    assert_eq!(director.receive(WAN, &[through(5000, "S")]).sent.len(), 0, "there is room again");
    director.path.check_connections().unwrap();
}
