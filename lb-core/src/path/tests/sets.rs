//! Goal: rules ask IP sets and write into them. Method: rules of a few words, packets, and what is in the sets then.

use super::hooks::bound;
use super::*;
use crate::rule::{KnownSet, Named, Rules};
use crate::set::{
    Adding, Element, Extensions, Family, Place, Set, SetId, SetType, Sets, Shape, Side, SkbInfo, Store,
};

const NAMES: [&str; 3] = ["seen", "ports", "marks"];

fn set(kind: &str, slots: usize) -> Option<Arc<Set>> {
    let kind = SetType::named(kind).unwrap();
    let shape = Shape {
        key: Element::key_words(kind, Family::Ipv4),
        value: 0,
        has_timeout: true,
        has_counters: false,
        has_comment: false,
        has_skbinfo: true,
        counts_interfaces: false,
    };
    Some(Arc::new(Set::with(kind, Family::Ipv4, Store::new(shape, Place::Hashed(1), slots))))
}

fn director(lines: &[&str]) -> (Director, Arc<Sets>) {
    director_with(lines, 64)
}

fn director_with(lines: &[&str], slots: usize) -> (Director, Arc<Sets>) {
    let sets = ["hash:ip", "hash:ip,port", "hash:net"].map(|kind| set(kind, slots)).into();
    let sets = Arc::new(Sets { sets, ..Sets::default() });
    let mut named = Named::new(1);
    for (name, id) in NAMES.iter().zip(0..) {
        named.sets.insert((*name).to_owned(), KnownSet { id: SetId(id), family: None });
    }
    let rules: Rules = bound(lines, &mut named);
    let mut director = Director::new();
    let tables = Tables { rules: Arc::new(rules), sets: sets.clone(), ..tables(2, &[11, 12], 1) };
    director.path.adopt(Arc::new(tables));
    (director, sets)
}

fn len(sets: &Sets, id: u16) -> usize {
    sets.get(SetId(id)).unwrap().store.len()
}

fn through(sport: u16, flags: &str) -> Vec<u8> {
    tcp(C2D, ("192.0.2.100", sport), ("10.0.0.11", 22), flags)
}

#[test]
fn the_next_rule_sees_what_a_rule_put_into_a_set() {
    let (mut director, sets) = director(&[
        "filter FORWARD -m set --match-set seen src -j DROP",
        "filter FORWARD -j SET --add-set seen src --timeout 5",
        "filter FORWARD -m set ! --match-set seen src -j DROP",
    ]);
    let nobodys = Frame::new(WAN, &through(4000, "S"));
    explain(&director.path.tables, &director.counters, nobodys, false, Assumed::First, director.now).unwrap();
    assert_eq!(len(&sets, 0), 0, "an explanation puts nothing in");
    assert_eq!(director.receive(WAN, &[through(4000, "S")]).sent.len(), 1);
    assert_eq!(len(&sets, 0), 1);
    assert!(director.receive(WAN, &[through(4001, "S")]).sent.is_empty(), "seen before");
}

#[test]
fn each_end_is_where_it_is_said_to_be_and_a_deleted_element_is_gone() {
    let (mut director, sets) = director(&[
        "filter FORWARD -m set --match-set ports src,dst -j SET --del-set ports src,dst",
        "filter FORWARD -m set --match-set ports src,src -j DROP",
    ]);
    let facts = crate::set::Facts {
        source: ip("192.0.2.100"),
        destination: ip("10.0.0.11"),
        protocol: 6,
        ports: Some((4000, 22)),
        mark: 0,
        in_interface: "",
        out_interface: "",
        macs: ([0; 6], [0; 6]),
        len: 40,
    };
    for sides in [[Side::Source, Side::Destination], [Side::Source, Side::Source]] {
        assert!(sets.add(SetId(1), &facts, &sides, Tick(0), Adding::default()));
    }
    assert!(director.receive(WAN, &[through(4000, "S")]).sent.is_empty());
    assert_eq!(len(&sets, 1), 1, "port 22 is gone, port 4000 is there");
    assert_eq!(director.receive(WAN, &[through(4001, "S")]).sent.len(), 1);
}

#[test]
fn packets_of_a_burst_that_a_large_set_is_fetched_for_are_each_asked_for_themselves() {
    let lines = [
        "raw PREROUTING -m set --match-set marks src -j DROP",
        "filter FORWARD -m set --match-set seen src -j DROP",
        "filter FORWARD -m set --match-set ports src,dst -j SET --add-set seen src",
    ];
    let (mut director, sets) = director_with(&lines, 1 << 17);
    let asked: Vec<_> = director.path.tables.rules.asked().iter().map(|asked| asked.id()).collect();
    assert_eq!(asked, [Some(SetId(2)), Some(SetId(0))], "the first two that packets are asked for");
    let put = |id, element: Element| {
        let set = sets.get(SetId(id)).unwrap();
        let pen = set.store.pen().unwrap();
        let key = element.key(set.kind, set.family);
        assert!(pen.put(&key, 0, false, &Extensions::default(), element.lens(set.kind)));
    };
    put(0, Element { address: 0xc000_0265, ..Element::default() });
    put(2, Element { address: 0xc633_6400, len: 24, ..Element::default() });
    let from = |source| tcp(C2D, (source, 4000), ("10.0.0.11", 22), "S");
    let sources = ["192.0.2.100", "192.0.2.101", "198.51.100.7", "192.0.2.102"];
    let sent = director.receive(WAN, &sources.map(from)).sent;
    assert_eq!(sent.len(), 2, "{sent:?}");
}

#[test]
fn a_mark_comes_from_the_element_that_matches() {
    let (mut director, sets) = director(&[
        "mangle FORWARD -j MARK --set-mark 0x10",
        "mangle FORWARD -j SET --map-set marks dst --map-mark",
        "filter FORWARD -m mark --mark 0x17 -j DROP",
    ]);
    assert_eq!(director.receive(WAN, &[through(4000, "S")]).sent.len(), 1);
    let set = sets.get(SetId(2)).unwrap();
    let element = Element { address: 0x0a00_0000, len: 24, ..Element::default() };
    let skb = SkbInfo { mark: 7, mask: 0xf, ..SkbInfo::default() };
    let extensions = Extensions { skb, ..Extensions::default() };
    let key = element.key(set.kind, set.family);
    assert!(set.store.pen().unwrap().put(&key, 0, false, &extensions, element.lens(set.kind)));
    assert!(director.receive(WAN, &[through(4001, "S")]).sent.is_empty());
}
