//! Sets against their slow twin: a list that is looked through from its beginning.

use proptest::prelude::*;

use super::*;

fn set(kind: &'static SetType, family: Family) -> Set {
    let shape = Shape {
        key: Element::key_words(kind, family),
        value: u8::from(kind.has(Part::Interface)),
        has_timeout: true,
        has_counters: false,
        has_comment: false,
        has_skbinfo: false,
        counts_interfaces: kind.has(Part::Interface),
    };
    Set::with(kind, family, Store::new(shape, Place::Hashed(11), 1024))
}

/// An element of a type, out of few so that they meet.
fn element(kind: &SetType, family: Family, seed: [u8; 8]) -> Element {
    let mut element = Element::default();
    let high = |byte: u8| match family {
        Family::Ipv4 => u128::from(byte) << 24 | 1 << 8,
        Family::Ipv6 => u128::from(byte) << 120 | 1 << 60,
    };
    let lens = match family {
        Family::Ipv4 => [0, 1, 3, 5, 8, 24, 31, 32],
        Family::Ipv6 => [0, 1, 3, 5, 8, 64, 127, 128],
    };
    for part in kind.parts.iter() {
        match part {
            Part::Address => element.address = high(seed[0] & 0x0f) | u128::from(seed[1] & 1),
            Part::Net => {
                element.len = lens[usize::from(seed[1] % 8)];
                element.address = family.network(high(seed[0] & 0x0f), element.len);
            }
            Part::SecondAddress => element.second = high(seed[2] & 3),
            Part::SecondNet => {
                element.second_len = lens[usize::from(seed[3] % 8)];
                element.second = family.network(high(seed[2] & 0x0f), element.second_len);
            }
            Part::Port | Part::OnlyPort => element.port = (seed[4] & 1).into(),
            Part::Mac | Part::MacValue => element.mac = [2, 0, 0, 0, 0, seed[5] & 1],
            Part::Mark => element.mark = (seed[6] & 1).into(),
            Part::Interface => {
                let whole = Interface::new(["eth0", "eth1", "wan"][usize::from(seed[7] % 3)]).unwrap();
                element.interface = if seed[7] & 8 == 0 { whole } else { whole.beginning(3) };
            }
            Part::Set => {}
        }
    }
    element
}

/// How near an element is to a packet's, where it holds it: its lengths; that of a name last.
fn holds(family: Family, element: &Element, packet: &Element) -> Option<(u8, u8, usize)> {
    let is_in = |net: u128, len: u8, address: u128| family.network(address, len) == net;
    let is_named = if element.interface.is_wildcard {
        packet.interface.text().starts_with(element.interface.text())
    } else {
        packet.interface == element.interface
    };
    (is_in(element.address, if packet.len == 0 { family.bits() } else { element.len }, packet.address)
        && is_in(
            element.second,
            if packet.second_len == 0 { family.bits() } else { element.second_len },
            packet.second,
        )
        && is_named
        && (element.port, element.protocol, element.mac, element.mark)
            == (packet.port, packet.protocol, packet.mac, packet.mark))
        .then(|| {
            (
                element.len,
                element.second_len,
                if element.interface.is_wildcard { element.interface.len() } else { 99 },
            )
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_hash_holds_what_a_list_holds(
        which in 0..12usize,
        is_ipv6 in any::<bool>(),
        steps in prop::collection::vec((any::<[u8; 8]>(), any::<bool>(), any::<bool>(), 0..4u32), 1..60),
        packets in prop::collection::vec(any::<[u8; 8]>(), 20),
    ) {
        let kind = &TYPES[which];
        let family = if is_ipv6 { Family::Ipv6 } else { Family::Ipv4 };
        let set = set(kind, family);
        let mut list: Vec<(Element, bool, u32)> = Vec::new();
        let now = Tick(2);
        for (seed, is_added, is_nomatch, until) in steps {
            let element = element(kind, family, seed);
            let key = element.key(kind, family);
            prop_assert_eq!(Element::of_key(&key, 0, kind, family), element);
            list.retain(|(other, ..)| *other != element);
            if is_added {
                let nomatch = is_nomatch && kind.has_nets();
                let extensions = Extensions { until: (until > 0).then_some(Tick(until)), ..Extensions::default() };
                prop_assert!(set.store.pen().unwrap().put(&key, 0, nomatch, &extensions, element.lens(kind)));
                list.push((element, nomatch, until));
            } else if let Some(slot) = set.store.find(&key) {
                set.store.pen().unwrap().remove(slot, element.lens(kind));
            }
        }
        for seed in packets {
            let mut packet = element(kind, family, seed);
            if kind.has(Part::Net) {
                packet.address |= u128::from(seed[0] & 1);
                packet.len = family.bits();
            }
            if kind.has(Part::SecondNet) {
                packet.second |= u128::from(seed[2] & 1);
                packet.second_len = family.bits();
            }
            packet.interface.is_wildcard = false;
            // The longest network that has elements, but none of the packet's interface, ends the search.
            let end = (0..=family.bits()).rev().find(|&len| {
                let mut there = list.iter().filter(|(element, ..)| {
                    element.len == len && family.network(packet.address, len) == element.address
                });
                kind.has(Part::Interface)
                    && there.clone().next().is_some()
                    && !there.any(|(element, ..)| holds(family, element, &packet).is_some())
            });
            let living = list.iter().filter(|(_, _, until)| *until == 0 || *until > now.0);
            let nearest = living
                .filter_map(|(element, nomatch, _)| Some((holds(family, element, &packet)?, *nomatch)))
                .max()
                .filter(|((len, ..), _)| end.is_none_or(|end| *len > end));
            let found = set.find(&packet, now).map(|slot| slot.is_nomatch);
            prop_assert_eq!(found, nearest.map(|(_, nomatch)| nomatch), "{} {:?}", kind.name, packet);
        }
    }
}

fn facts<'a>(source: &str, destination: &str) -> Facts<'a> {
    Facts {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: 6,
        ports: Some((4000, 80)),
        mark: 0x17,
        in_interface: "eth1",
        out_interface: "",
        macs: ([2, 0, 0, 0, 0, 1], [0; 6]),
        len: 60,
    }
}

fn add(set: &Set, element: Element) {
    let key = element.key(set.kind, set.family);
    assert!(set.store.pen().unwrap().put(&key, 0, false, &Extensions::default(), element.lens(set.kind)));
}

#[test]
fn sides_say_which_end_of_the_packet_counts_and_too_few_match_nothing() {
    let kind = SetType::named("hash:ip,port").unwrap();
    let holder = set(kind, Family::Ipv4);
    add(&holder, Element { address: 0x0a00_0001, protocol: 6, port: 80, ..Element::default() });
    let sets = Sets { sets: vec![None, Some(Arc::new(holder))], ..Sets::default() };
    let ask = |source, destination, sides: &[Side]| {
        sets.matches(SetId(1), &facts(source, destination), sides, Tick(0), &Asking::default()).is_some()
    };
    use Side::{Destination, Source};
    assert!(ask("10.0.0.1", "10.0.0.2", &[Source, Destination]));
    assert!(ask("10.0.0.2", "10.0.0.1", &[Destination, Destination]));
    assert!(!ask("10.0.0.1", "10.0.0.2", &[Source, Source]), "port 4000");
    assert!(!ask("10.0.0.1", "10.0.0.2", &[Source]));
    assert!(!ask("2001:db8::1", "2001:db8::2", &[Source, Destination]));
    assert!(
        sets.matches(SetId(0), &facts("10.0.0.1", "10.0.0.2"), &[Source; 2], Tick(0), &Asking::default())
            .is_none()
    );
    assert!(
        sets.matches(SetId(9), &facts("10.0.0.1", "10.0.0.2"), &[Source; 2], Tick(0), &Asking::default())
            .is_none()
    );
}

#[test]
fn a_packets_address_is_looked_for_by_the_key_of_its_element() {
    for (family, source) in [(Family::Ipv4, "10.1.2.3"), (Family::Ipv6, "2001:db8:1:2:3:4:5:6")] {
        for kind in ["hash:ip", "bitmap:ip"].map(|name| SetType::named(name).unwrap()) {
            for netmask in [u128::MAX, 0xff_0f00_ff0f, family.network(u128::MAX, 24)] {
                let set = Set { netmask, ..set(kind, family) };
                for side in [Side::Source, Side::Destination] {
                    let facts = facts(source, "10.9.8.7");
                    let key = set.element(&facts, &[side]).map(|element| element.key(kind, family));
                    assert_eq!(set.address_key(&facts, &[side]), key, "{} {source}", kind.name);
                    assert_eq!(set.address_key(&facts, &[]), None);
                }
            }
        }
    }
}

#[test]
fn a_list_asks_its_sets_in_turn_and_counts_where_it_found_one() {
    let hash = |address| {
        let set = set(SetType::named("hash:ip").unwrap(), Family::Ipv4);
        add(&set, Element { address, ..Element::default() });
        Some(Arc::new(set))
    };
    let kind = SetType::named("list:set").unwrap();
    let shape = Shape {
        key: 1,
        value: 0,
        has_timeout: false,
        has_counters: true,
        has_comment: false,
        has_skbinfo: false,
        counts_interfaces: false,
    };
    let list = Set {
        store: Arc::new(Store::new(shape, Place::Hashed(3), 8)),
        members: [SetId(1), SetId(2)].into(),
        ..set(kind, Family::Ipv4)
    };
    let keys = [1, 2].map(|set| Element { set, ..Element::default() }.key(kind, Family::Ipv4));
    for key in keys {
        assert!(list.store.pen().unwrap().put(&key, 0, false, &Extensions::default(), [255; 2]));
    }
    let store = list.store.clone();
    let sets = vec![Some(Arc::new(list)), hash(0x0a00_0001), hash(0x0a00_0002)];
    let sets = Sets { sets, ..Sets::default() };
    let ask = |source| {
        sets.matches(SetId(0), &facts(source, "10.9.9.9"), &[Side::Source], Tick(0), &Asking::default())
    };
    assert!(ask("10.0.0.2").is_some() && ask("10.0.0.2").is_some() && ask("10.0.0.3").is_none());
    let counts = keys.map(|key| store.extensions(store.find(&key).unwrap()).packets);
    assert_eq!(counts, [0, 2]);
}
