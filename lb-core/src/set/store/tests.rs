//! The oracle is a sorted map.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const SHAPE: Shape = Shape {
    key: 2,
    value: 0,
    has_timeout: true,
    has_counters: true,
    has_comment: true,
    has_skbinfo: true,
    counts_interfaces: false,
};

fn key(n: u64) -> Key {
    [n & 1, n / 2, 0, 0, 0]
}

proptest! {
    #[test]
    fn a_store_holds_what_a_map_holds(steps in prop::collection::vec((0..40u64, 0..3u8, any::<u32>()), 0..300)) {
        let store = Store::new(SHAPE, Place::Hashed(7), 64);
        let mut map: BTreeMap<u64, (bool, Extensions)> = BTreeMap::new();
        for (n, what, x) in steps {
            if what == 0 {
                if let Some(slot) = store.find(&key(n)) {
                    store.pen().unwrap().remove(slot, [n as u8, 0xff]);
                }
                map.remove(&n);
            } else {
                let skb = SkbInfo { mark: x, mask: !x, priority: x.rotate_left(9), queue: x as u16 };
                let until = (x % 3 > 0).then_some(Tick(x));
                let held = if until.is_none() { x % 5 } else { 0 };
                let extensions = Extensions { until, held, packets: x.into(), bytes: 9, comment: 7, skb };
                if store.pen().unwrap().put(&key(n), 0, what == 2, &extensions, [n as u8, 0xff]) {
                    map.insert(n, (what == 2, extensions));
                } else {
                    prop_assert!(!map.contains_key(&n), "what is here has its place");
                }
            }
            prop_assert_eq!(store.len(), map.len());
        }
        for n in 0..40 {
            let found = store.find(&key(n)).map(|slot| (slot.is_nomatch, store.extensions(slot)));
            prop_assert_eq!(found, map.get(&n).copied());
        }
        let lens: Vec<u8> = store.lens(0).collect();
        prop_assert_eq!(lens, map.keys().rev().map(|&n| n as u8).collect::<Vec<_>>());
        let mut keys: Vec<Key> = store.iter().map(|(key, _)| key).collect();
        keys.sort_unstable_by_key(|key| key[1] * 2 + key[0]);
        prop_assert_eq!(keys, map.keys().map(|&n| key(n)).collect::<Vec<_>>());
    }
}

proptest! {
    #[test]
    fn a_store_whose_slots_share_lines_holds_what_a_map_holds(
        width in 0..3usize,
        steps in prop::collection::vec((0..60u64, any::<bool>()), 0..200),
    ) {
        let one = Shape { key: 1, has_timeout: false, has_counters: false, has_comment: false, has_skbinfo: false, ..SHAPE };
        let shape = [one, Shape { key: 2, ..one }, Shape { key: 2, has_counters: true, ..one }][width];
        let key = |n| if shape.key == 1 { [n, 0, 0, 0, 0] } else { key(n) };
        let store = Store::new(shape, Place::Hashed(3), 64);
        let mut there = BTreeSet::new();
        for (n, is_put) in steps {
            if !is_put {
                if let Some(slot) = store.find(&key(n)) {
                    store.pen().unwrap().remove(slot, [255; 2]);
                }
                there.remove(&n);
            } else if store.pen().unwrap().put(&key(n), 0, false, &Extensions::default(), [255; 2]) {
                there.insert(n);
            } else {
                prop_assert!(!there.contains(&n) && !store.has_room());
            }
        }
        prop_assert_eq!(store.iter().count(), there.len());
        for n in 0..60 {
            prop_assert_eq!(store.find(&key(n)).is_some(), there.contains(&n));
        }
    }
}

#[test]
fn a_range_has_a_slot_for_each_number_and_none_beside() {
    let shape = Shape {
        key: 1,
        value: 1,
        has_timeout: false,
        has_counters: false,
        has_comment: false,
        has_skbinfo: false,
        counts_interfaces: false,
    };
    let store = Store::new(shape, Place::From(10), 3);
    for n in 0..20 {
        assert_eq!(
            store.pen().unwrap().put(&[n, 0, 0, 0, 0], n * 7, false, &Extensions::default(), [0xff; 2]),
            (10..13).contains(&n)
        );
    }
    let slot = store.find(&[12, 0, 0, 0, 0]).unwrap();
    assert_eq!((store.value(slot), store.len()), (84, 3));
    assert!(store.find(&[13, 0, 0, 0, 0]).is_none());
}

#[test]
fn one_has_the_pen_and_who_keeps_it_lets_nobody_write_any_more() {
    let store = Store::new(SHAPE, Place::Hashed(7), 64);
    let pen = store.pen().unwrap();
    assert!(store.pen().is_none() && store.pen().is_none(), "asking for it does not take it away");
    drop(pen);
    assert!(store.pen().unwrap().put(&key(1), 0, false, &Extensions::default(), [255; 2]));
    store.pen().unwrap().keep();
    assert!(store.pen().is_none() && store.pen().is_none() && store.find(&key(1)).is_some());
}

#[test]
fn a_network_has_so_many_interfaces_and_its_own_slot_is_no_element() {
    let shape = Shape { key: 3, value: 1, counts_interfaces: true, ..SHAPE };
    let store = Store::new(shape, Place::Hashed(7), 256);
    let key = |network: u64, interface: u64| [network, interface, 0, 0, 0];
    let put = |key: &Key| store.pen().unwrap().put(key, 0, false, &Extensions::default(), [255; 2]);
    for n in 1..=MAX_INTERFACES {
        assert!(put(&key(1, n)) && put(&key(1, n)), "{n}: what is there is no other one");
        assert_eq!(store.interfaces(&key(1, 99)), n);
    }
    assert!(!put(&key(1, 99)) && put(&key(2, 99)));
    assert_eq!((store.len(), store.iter().count()), (65, 65));
    store.pen().unwrap().remove(store.find(&key(1, 3)).unwrap(), [255; 2]);
    assert!(put(&key(1, 99)) && !put(&key(1, 3)));
    for (key, slot) in store.iter().collect::<Vec<_>>() {
        store.pen().unwrap().remove(slot, [255; 2]);
        assert!(store.find(&key).is_none());
    }
    assert_eq!((store.interfaces(&key(1, 1)), store.interfaces(&key(2, 1)), store.len()), (0, 0, 0));
}
