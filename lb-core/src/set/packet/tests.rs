//! What packets do to sets, as `ip_set_core.c` and the types' own files have it.

use std::sync::Arc;

use super::*;
use crate::set::{Place, SetType, Shape, Store};

const NOW: Tick = Tick(1000);
const SOURCE: &[Side] = &[Side::Source];

fn set(kind: &str) -> Set {
    let kind = SetType::named(kind).unwrap();
    let shape = Shape {
        key: Element::key_words(kind, Family::Ipv4),
        value: 0,
        has_timeout: true,
        has_counters: true,
        has_comment: false,
        has_skbinfo: false,
        counts_interfaces: false,
    };
    Set::with(kind, Family::Ipv4, Store::new(shape, Place::Hashed(3), 64))
}

fn sets(sets: impl IntoIterator<Item = Set>) -> Sets {
    let sets = sets.into_iter().map(|set| Some(Arc::new(set))).collect();
    Sets { sets, ..Sets::default() }
}

fn from(source: &str) -> Facts<'static> {
    Facts {
        source: source.parse().unwrap(),
        destination: "10.9.9.9".parse().unwrap(),
        protocol: 6,
        ports: Some((4000, 80)),
        mark: 0,
        in_interface: "",
        out_interface: "",
        macs: ([0; 6], [0; 6]),
        len: 60,
    }
}

/// A network; `nomatch` or not.
fn put(set: &Set, address: [u8; 4], len: u8, nomatch: bool) {
    let element = Element { address: u32::from_be_bytes(address).into(), len, ..Element::default() };
    let key = element.key(set.kind, set.family);
    assert!(set.store.pen().unwrap().put(&key, 0, nomatch, &Extensions::default(), element.lens(set.kind)));
}

fn counts(sets: &Sets, source: &str) -> Option<(u64, u64)> {
    let quietly = Asking { skips_counters: true, ..Asking::default() };
    sets.matches(SetId(0), &from(source), SOURCE, NOW, &quietly).map(|found| (found.packets, found.bytes))
}

#[test]
fn thresholds_are_of_the_counts_with_this_packet_in_them() {
    let sets = sets([set("hash:ip")]);
    assert!(sets.add(SetId(0), &from("10.0.0.1"), SOURCE, NOW, Adding::default()));
    assert_eq!(counts(&sets, "10.0.0.1"), Some((1, 60)), "what adds it counts");
    let ask = |packets| {
        let asking = Asking { packets, ..Asking::default() };
        sets.matches(SetId(0), &from("10.0.0.1"), SOURCE, NOW, &asking).is_some()
    };
    assert!(ask(Threshold::Equal(2)) && ask(Threshold::Above(2)) && !ask(Threshold::Below(4)));
    assert!(!ask(Threshold::Not(5)) && ask(Threshold::Not(5)));
    assert_eq!(counts(&sets, "10.0.0.1"), Some((6, 360)), "also where it was not met");
}

#[test]
fn a_network_whose_count_is_not_met_leaves_it_to_the_next_larger() {
    let holder = set("hash:net");
    put(&holder, [10, 0, 0, 0], 24, false);
    put(&holder, [10, 0, 0, 0], 8, false);
    let sets = sets([holder]);
    let ask = |source| {
        let asking = Asking { packets: Threshold::Above(1), ..Asking::default() };
        sets.matches(SetId(0), &from(source), SOURCE, NOW, &asking).is_some()
    };
    assert!(!ask("10.0.1.1"), "the first of the larger one");
    assert!(ask("10.0.0.1"), "its second, though the first of the smaller one");
}

#[test]
fn nomatch_is_an_exception_or_what_is_asked_for() {
    let holder = set("hash:net");
    put(&holder, [10, 0, 0, 0], 8, false);
    put(&holder, [10, 1, 0, 0], 16, true);
    let sets = sets([holder]);
    let ask = |source, wants_nomatch| {
        let asking = Asking { wants_nomatch, ..Asking::default() };
        sets.matches(SetId(0), &from(source), SOURCE, NOW, &asking).is_some()
    };
    assert_eq!([("10.2.0.1", false), ("10.1.0.1", false)].map(|(from, is)| ask(from, is)), [true, false]);
    assert_eq!([("10.2.0.1", true), ("10.1.0.1", true)].map(|(from, is)| ask(from, is)), [false, true]);
    assert!(!ask("11.0.0.1", true));
}

#[test]
fn what_is_there_is_added_anew_only_when_it_shall_be() {
    let holder = Set { timeout: Some(10), ..set("hash:ip") };
    let sets = sets([holder]);
    let add = |source: &str, exist, timeout, now| {
        sets.add(SetId(0), &from(source), SOURCE, now, Adding { exist, timeout })
    };
    let is_in = |now| sets.matches(SetId(0), &from("10.0.0.1"), SOURCE, now, &Asking::default()).is_some();
    assert!(add("10.0.0.1", false, None, NOW) && !add("10.0.0.1", false, None, NOW));
    assert!(is_in(Tick(1999)) && !is_in(Tick(2000)), "ten seconds");
    assert!(add("10.0.0.1", true, Some(60), NOW) && is_in(Tick(2000)) && !is_in(Tick(7000)));
    assert!(add("10.0.0.1", false, Some(0), Tick(7000)), "it was over");
    assert!(is_in(Tick(1 << 30)), "for ever");
    assert!(sets.remove(SetId(0), &from("10.0.0.1"), SOURCE, NOW) && !is_in(NOW));
    assert!(!sets.remove(SetId(0), &from("10.0.0.1"), SOURCE, NOW));
    assert!(!add("0.0.0.0", false, None, NOW), "hash:ip has no place for it");
    assert!(sets.wishes.take().is_none() && sets.wishes.take_written());
}

#[test]
fn a_packet_is_added_as_the_longest_network_that_there_is() {
    let holder = set("hash:net");
    let sets = sets([holder]);
    let add = |source: &str| sets.add(SetId(0), &from(source), SOURCE, NOW, Adding::default());
    assert!(add("10.0.0.1"));
    let only = sets.get(SetId(0)).unwrap();
    assert_eq!(only.store.lens(0).collect::<Vec<_>>(), [32]);
    assert!(sets.remove(SetId(0), &from("10.0.0.1"), SOURCE, NOW));
    put(only, [10, 1, 0, 0], 16, false);
    put(only, [11, 0, 0, 0], 8, false);
    assert!(add("10.2.3.4") && counts(&sets, "10.2.200.200").is_some());
}

#[test]
fn a_list_takes_it_into_the_first_of_its_sets_that_has_not_got_it() {
    let list = Set { members: [SetId(1), SetId(2)].into(), ..set("list:set") };
    for set in [1, 2] {
        let key = Element { set, ..Element::default() }.key(list.kind, list.family);
        assert!(list.store.pen().unwrap().put(&key, 0, false, &Extensions::default(), [255; 2]));
    }
    let sets = sets([list, set("hash:ip"), set("hash:ip")]);
    let lens = || [1, 2].map(|id| sets.get(SetId(id)).unwrap().store.len());
    let add = || sets.add(SetId(0), &from("10.0.0.1"), SOURCE, NOW, Adding::default());
    assert!(add());
    assert_eq!(lens(), [1, 0]);
    assert!(add());
    assert_eq!(lens(), [1, 1]);
    assert!(!add() && sets.remove(SetId(0), &from("10.0.0.1"), SOURCE, NOW));
    assert_eq!(lens(), [0, 1]);
}

#[test]
fn what_a_worker_cannot_do_it_leaves_to_the_control_plane() {
    let full = Set { most: 1, timeout: None, ..set("hash:ip") };
    let sets = sets([set("hash:ip"), full]);
    let store = &sets.get(SetId(0)).unwrap().store;
    let add = |id, source: &str| sets.add(SetId(id), &from(source), SOURCE, NOW, Adding::default());
    let pen = store.pen().unwrap();
    assert!(add(0, "10.0.0.1") && store.is_empty());
    drop(pen);
    let wish = sets.wishes.take().unwrap();
    assert_eq!((wish.set, wish.element.address, wish.put.is_some()), (SetId(0), 0x0a00_0001, true));
    for n in 0..64 {
        add(0, &format!("10.0.1.{n}"));
    }
    assert_eq!((store.len(), sets.wishes.left.load(Relaxed)), (40, 1 + 24), "5 of 8 slots are given away");
    assert!(add(1, "10.0.0.1") && !add(1, "10.0.0.2"), "elements without a time stay");
}

#[test]
fn changes_that_nobody_makes_are_lost_and_counted_and_there_is_room_again_when_they_are_made() {
    let wishes = Wishes::default();
    let kind = SetType::named("hash:ip").unwrap();
    let wish = Wish { set: SetId(0), kind, family: Family::Ipv4, element: Element::default(), put: None };
    for (left, made, lost) in [(CAPACITY + 3, CAPACITY, 3), (7, 7, 3)] {
        (0..left).for_each(|_| wishes.leave(wish.clone()));
        assert_eq!(std::iter::from_fn(|| wishes.take()).count(), made);
        assert_eq!(wishes.lost.load(Relaxed), lost);
    }
}

#[test]
fn an_address_without_a_mac_gets_the_first_packets_and_its_time_begins() {
    let kind = SetType::named("bitmap:ip,mac").unwrap();
    let shape = Shape {
        key: 1,
        value: 1,
        has_timeout: true,
        has_counters: false,
        has_comment: false,
        has_skbinfo: false,
        counts_interfaces: false,
    };
    let held = Set::with(kind, Family::Ipv4, Store::new(shape, Place::From(0x0a00_0000), 256));
    let element = Element { address: 0x0a00_0001, ..Element::default() };
    let key = element.key(kind, Family::Ipv4);
    let extensions = Extensions { held: 7, ..Extensions::default() };
    assert!(held.store.pen().unwrap().put(&key, 0, false, &extensions, [255; 2]));
    let store = held.store.clone();
    let sets = Sets { sets: vec![Some(Arc::new(held))], ..Sets::default() };
    let ask = |mac: u8, asking: Asking| {
        let facts = Facts {
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 9].into(),
            protocol: 17,
            ports: None,
            mark: 0,
            in_interface: "",
            out_interface: "",
            macs: (if mac == 0 { [0; 6] } else { [2, 0, 0, 0, 0, mac] }, [0; 6]),
            len: 40,
        };
        sets.matches(SetId(0), &facts, &[Side::Source, Side::Source], Tick(100), &asking).is_some()
    };
    let slot = store.find(&key).unwrap();
    assert!(!ask(0, Asking::default()), "a packet without a MAC is in no such set");
    assert!(ask(3, Asking::default().of(true)) && !sets.wishes.take_written());
    assert_eq!((store.value(slot), store.held(slot), store.until(slot)), (0, 7, None));
    assert!(ask(4, Asking::default()) && sets.wishes.take_written());
    assert!(!ask(3, Asking::default()) && ask(4, Asking::default()) && !sets.wishes.take_written());
    let until = Tick(100 + 7 * Tick::PER_SECOND);
    assert_eq!((store.held(slot), store.until(slot)), (0, Some(until)));
    assert!(!ask(0, Asking::default()));
}
