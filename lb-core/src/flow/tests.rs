//! The flow table against a model.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::conntrack::Zones;
use crate::ids::ServerId;
use crate::tables::Protocol;
use crate::wire::parse::Headers;

fn table(connections: u32) -> FlowTable {
    FlowTable::new(
        Region::heap(memory_needed(connections, connections / 2)),
        connections,
        connections / 2,
        7,
        Tick(0),
    )
}

/// Clients; a number above is the same client's connection in other zones.
const CLIENTS: u32 = 40;

fn zones(n: u32) -> Zones {
    match (n < CLIENTS, n % 3) {
        (true, _) => Zones::NONE,
        (false, 0) => Zones::new(1, None),
        (false, 1) => Zones::new(1, Some(Direction::Original)),
        (false, _) => Zones::new(1, Some(Direction::Reply)),
    }
}

/// The n-th client's connection to a service: IPv6 when n is odd.
fn flow(number: u32, now: Tick, timeout: Timeout) -> NewFlow {
    let n = number % CLIENTS;
    let protocol = Protocol::UDP;
    let (original, reply) = if n.is_multiple_of(2) {
        let (client, service) = (Ipv4Addr::from(0x0a00_0000 + n).into(), Ipv4Addr::new(192, 0, 2, 10).into());
        (
            Tuple { src: client, dst: service, sport: 1000, dport: 53, protocol },
            Tuple { src: Ipv4Addr::new(10, 1, 0, 1).into(), dst: client, sport: 5353, dport: 1000, protocol },
        )
    } else {
        let (client, service) = (Ipv6Addr::from(u128::from(n) << 64).into(), Ipv6Addr::from(1).into());
        (
            Tuple { src: client, dst: service, sport: 1000, dport: 53, protocol },
            Tuple { src: Ipv6Addr::from(2).into(), dst: client, sport: 5353, dport: 1000, protocol },
        )
    };
    let method = Method::Masq;
    NewFlow {
        original,
        reply,
        method,
        deltas: Default::default(),
        server: ServerId(number),
        state: 0,
        timeout,
        now,
        zones: zones(number),
    }
}

#[test]
fn an_ipv4_connection_takes_at_most_192_bytes_with_its_share_of_the_index() {
    let million = 1_000_000;
    let bytes = memory_needed(million, 0) as f64 / f64::from(million);
    assert!(bytes <= 192.0, "{bytes}");
    let with_ipv6 = memory_needed(million, million) as f64 / f64::from(million);
    assert!(with_ipv6 <= 260.0, "{with_ipv6}");
}

#[test]
fn a_full_table_refuses_and_keeps_what_it_has() {
    let mut table = table(10);
    let long = Timeout::from_secs(60);
    // Even numbers are IPv4.
    for n in (0..20).step_by(2) {
        table.insert(&flow(n, Tick(0), long)).unwrap();
    }
    assert_eq!(table.insert(&flow(20, Tick(0), long)), Err(InsertError::Full));
    assert!((0..20).step_by(2).all(|n| table.find(&flow(n, Tick(0), long).reply).is_some()));
    let id = table.find(&flow(4, Tick(0), long).original).unwrap().id();
    table.remove(id);
    assert!(table.insert(&flow(20, Tick(0), long)).is_ok());
}

#[test]
fn a_full_pool_of_ipv6_addresses_refuses_ipv6_alone() {
    let mut table = table(10);
    let long = Timeout::from_secs(60);
    for n in [1, 3, 5, 7, 9] {
        table.insert(&flow(n, Tick(0), long)).unwrap();
    }
    assert_eq!(table.insert(&flow(11, Tick(0), long)), Err(InsertError::Full));
    assert_eq!(table.len(), (5, 5));
    table.insert(&flow(12, Tick(0), long)).unwrap();
}

#[test]
fn a_tuple_belongs_to_one_connection() {
    let mut table = table(10);
    let mut new = flow(0, Tick(0), Timeout::from_secs(60));
    let id = table.insert(&new).unwrap();
    new.original.sport = 1001;
    assert_eq!(table.insert(&new), Err(InsertError::Taken(id)));
    assert_eq!(table.len(), (1, 0));
}

#[test]
fn a_shorter_timeout_takes_effect_and_a_longer_one_too() {
    let mut table = table(4);
    let id = table.insert(&flow(0, Tick(0), Timeout::from_secs(900))).unwrap();
    table.set_timeout(id, Timeout::from_secs(10));
    let other = table.insert(&flow(2, Tick(0), Timeout::from_secs(10))).unwrap();
    table.set_timeout(other, Timeout::from_secs(900));
    let mut ended = Vec::new();
    for now in (0..100_000).step_by(10).map(Tick) {
        table.expire(now, 100, |store, id| {
            ended.push((store.entry(id).server().0, now.0 / 100));
            None
        });
    }
    assert_eq!(ended, [(0, 10), (2, 900)]);
}

#[test]
fn the_layout_is_that_of_its_version() {
    assert_eq!(
        (LAYOUT_VERSION, header::layout().as_str()),
        (17, include_str!("layout.txt").trim_end()),
        "what is in flow memory has changed, so that another version of lbd must not read it: raise LAYOUT_VERSION in \
         flow/header.rs, and write it here and the layout into flow/layout.txt"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32),
    Remove(u32),
    Touch(u32),
    Timeout(u32, u32),
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0u32..2 * CLIENTS;
    prop_oneof![
        4 => n.clone().prop_map(Step::Insert),
        1 => n.clone().prop_map(Step::Remove),
        2 => n.clone().prop_map(Step::Touch),
        1 => (n, 1u32..2000).prop_map(|(n, secs)| Step::Timeout(n, secs)),
        2 => (1u32..3000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_map(steps in prop::collection::vec(step(), 1..200)) {
        let mut table = table(24);
        let mut model: HashMap<u32, (Tick, Timeout)> = HashMap::new();
        let mut now = Tick(0);
        for step in steps {
            match step {
                Step::Insert(n) => {
                    let timeout = Timeout::from_secs(10);
                    let is_ipv6_full = n % 2 == 1 && model.keys().filter(|&n| n % 2 == 1).count() == 12;
                    let result = table.insert(&flow(n, now, timeout));
                    let shares = |&m: &u32| [Direction::Original, Direction::Reply]
                        .iter()
                        .any(|&way| m % CLIENTS == n % CLIENTS && zones(m).of(way) == zones(n).of(way));
                    if model.keys().any(shares) {
                        prop_assert!(matches!(result, Err(InsertError::Taken(_))));
                    } else if model.len() == 24 || is_ipv6_full {
                        prop_assert_eq!(result, Err(InsertError::Full));
                    } else {
                        prop_assert!(result.is_ok());
                        model.insert(n, (now, timeout));
                    }
                }
                Step::Remove(n) | Step::Touch(n) | Step::Timeout(n, _) => {
                    let zone = zones(n).of(Direction::Original);
                    let found = table.find_by(&flow(n, now, Timeout(0)).original, zone).map(FlowRef::id);
                    let Some(id) = found.filter(|&id| table.entry(id).server().0 == n) else {
                        prop_assert!(!model.contains_key(&n));
                        continue;
                    };
                    let known = model.get_mut(&n).unwrap();
                    match step {
                        Step::Touch(_) => {
                            table.entry_mut(id).touch(now);
                            known.0 = now;
                        }
                        Step::Timeout(_, secs) => {
                            table.set_timeout(id, Timeout::from_secs(secs));
                            known.1 = Timeout::from_secs(secs);
                        }
                        _ => {
                            table.remove(id);
                            model.remove(&n);
                        }
                    }
                }
                Step::Wait(ticks) => {
                    now = Tick(now.0 + ticks);
                    let mut ended = Vec::new();
                    while table.expire(now, 5, |store, id| {
            ended.push(store.entry(id).server().0);
            None
        }) > 0 {}
                    for n in ended {
                        let (seen, timeout) = model.remove(&n).unwrap();
                        prop_assert!(now.is_at_or_after(seen.after(timeout)));
                    }
                    prop_assert!(model.values().all(|&(seen, timeout)| !now.is_at_or_after(Tick(seen.after(timeout).0 + 16))));
                }
            }
            prop_assert_eq!(table.len().0 as usize, model.len());
            for n in 0..2 * CLIENTS {
                let flow = flow(n, now, Timeout(0));
                for (tuple, direction) in [(flow.original, Direction::Original), (flow.reply, Direction::Reply)] {
                    let zone = zones(n).of(direction);
                    let has = |&&m: &&u32| m % CLIENTS == n % CLIENTS && zones(m).of(direction) == zone;
                    let found = table.find_by(&tuple, zone);
                    prop_assert!(found.is_none_or(|at| at.direction() == direction));
                    prop_assert_eq!(found.map(|at| table.entry(at.id()).server().0), model.keys().find(has).copied());
                    if model.contains_key(&n) {
                        prop_assert_eq!(table.find_in(&tuple, zones(n)), found);
                        prop_assert_eq!(table.zones(found.unwrap().id()), zones(n));
                    }
                    // By its headers alone nothing is found that is in a zone.
                    if let (Some(at), IpAddr::V4(src), IpAddr::V4(dst)) = (found, tuple.src, tuple.dst) {
                        let Tuple { sport, dport, protocol, .. } = tuple;
                        let headers = Headers { src: src.into(), dst: dst.into(), sport, dport, protocol, ..Headers::NONE };
                        prop_assert_eq!(table.is_ipv4(at, &headers), table.zones(at.id()) == Zones::NONE);
                        let as_ipv6 = Headers { is_ipv6: true, ..headers };
                        prop_assert!(!table.is_ipv4(at, &as_ipv6));
                    }
                }
            }
            prop_assert_eq!(table.has_zoned(), model.keys().any(|&n| n >= CLIENTS));
            prop_assert_eq!(table.iter(0, u32::MAX).count(), model.len());
        }
        prop_assert_eq!(table.check(), Ok(()));
    }
}
