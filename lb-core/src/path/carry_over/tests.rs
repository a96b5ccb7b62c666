//! A director dies and another one takes its connections: every one that can go on does, whatever else has changed.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use zerocopy::IntoBytes;

use super::*;
use crate::conntrack::{Labels, Status, Tracked, Zones};
use crate::counters::WorkerCounters;
use crate::flow::carry::Refused;
use crate::flow::template::Uses;
use crate::flow::{Direction, Method, Tuple, memory_needed};
use crate::ids::ServiceId;
use crate::ipvs::SchedulerKind;
use crate::mem::{Region, Remains};
use crate::packet::Frame;
use crate::path::PathConfig;
use crate::tables::{Forward, Prefix, Route, Routes, Server, Service, Tables};
use crate::time::Timeout;

const NOW: Tick = Tick(5_000_000);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A service a row: protocol, address, and how its real servers' addresses begin.
const SERVICES: [(Protocol, &str, &str); 3] = [
    (Protocol::TCP, "192.0.2.10", "10.0.0.1"),
    (Protocol::UDP, "192.0.2.10", "10.0.0.1"),
    (Protocol::TCP, "2001:db8::10", "fd00::1"),
];

/// The services with real servers 0..`servers` each; their ids begin at `first`.
fn tables(servers: u32, first: u32) -> Arc<Tables> {
    let service = |(number, (protocol, address, begin)): (usize, (Protocol, &str, &str))| {
        let server = |n| Server {
            upper_threshold: 3,
            ..Server::new(
                ServerId(first + number as u32 * servers + n),
                (ip(&format!("{begin}{n}")), 8080),
                1,
                Forward::Masq,
            )
        };
        let key = ServiceKey::new(protocol, ip(address), 80);
        let servers = (0..servers).map(server).collect();
        Arc::new(Service::new(None, ServiceId(number as u32), key, SchedulerKind::Rr, servers, 1))
    };
    let services = Services::new(SERVICES.into_iter().enumerate().map(service));
    Arc::new(Tables { generation: 1, services: services.into(), ..Tables::default() })
}

/// The workers of one director.
struct Director {
    paths: Vec<Path<Frame>>,
    remains: Vec<Remains>,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    workers: u16,
    connections: u32,
    seed: u64,
}

impl Director {
    fn new(shape: Shape, tables: &Arc<Tables>, now: Tick) -> Director {
        let counters: Arc<[Arc<WorkerCounters>]> =
            (0..shape.workers).map(|_| Arc::new(WorkerCounters::new(64, 2))).collect();
        let (max_connections, max_ipv6) = (shape.connections, shape.connections / 2);
        let mut director = Director { paths: Vec::new(), remains: Vec::new() };
        let uses = Arc::new(Uses::new(shape.workers.into(), max_connections));
        for worker in 0..shape.workers {
            let (memory, remains) = Region::heap_with_remains(memory_needed(max_connections, max_ipv6));
            let mut path = Path::new(PathConfig {
                worker: WorkerId(worker),
                counters: counters.clone(),
                max_connections,
                max_ipv6_connections: max_ipv6,
                uses: uses.clone(),
                memory,
                hash_seed: shape.seed,
                rss: None,
                now,
            });
            path.adopt(tables.clone());
            director.paths.push(path);
            director.remains.push(remains);
        }
        director
    }

    /// What is left of it, by worker.
    fn kill(self) -> Vec<Vec<u8>> {
        drop(self.paths);
        self.remains.into_iter().map(|mut remains| remains.bytes().unwrap().to_vec()).collect()
    }

    fn carry_over(&mut self, memory: &[Salvage<'_>], now: Tick) -> CarriedOver {
        self.paths.iter_mut().map(|path| path.carry_over(memory, now)).sum()
    }

    fn owner(&mut self, original: &Tuple) -> &mut Path<Frame> {
        let owner = self.paths[0].owner_of(original.src, original.sport);
        &mut self.paths[owner.index()]
    }

    /// Every table agrees with itself, and the counts with the entries.
    fn check(&self) -> Result<(), String> {
        for path in &self.paths {
            path.flows.check()?;
            for server in (0..64).map(ServerId) {
                let cell = path.mine.server(server);
                let count = |is_inactive| {
                    let of_it = |entry: &&crate::flow::Entry| {
                        entry.server() == server && entry.is_inactive() == is_inactive
                    };
                    path.flows.iter(0, u32::MAX).map(|(_, entry)| entry).filter(of_it).count() as u64
                };
                if (count(false), count(true)) != (cell.active.get(), cell.inactive.get()) {
                    return Err(format!("server {}: counts of worker {}", server.0, path.worker.0));
                }
            }
        }
        Ok(())
    }
}

/// A connection, in numbers.
#[derive(Clone, Copy, Debug)]
struct Begun {
    client: u16,
    service: usize,
    server: u32,
    state: u8,
    timeout: u32,
    age: u32,
}

impl Begun {
    fn salvaged(&self) -> Salvaged {
        let (protocol, address, begin) = SERVICES[self.service];
        let client = if address.contains(':') {
            format!("2001:db8:1::{:x}", self.client / 4)
        } else {
            format!("198.51.100.{}", self.client / 4)
        };
        let (client, sport) = (ip(&client), 1000 + self.client % 4);
        let original = Tuple { src: client, dst: ip(address), sport, dport: 80, protocol };
        let server = ip(&format!("{begin}{}", self.server));
        Salvaged {
            original,
            reply: Tuple { dst: server, dport: 8080, ..original }.reversed(),
            method: Method::Masq,
            state: if protocol == Protocol::TCP { self.state } else { 0 },
            timeout: Timeout(self.timeout),
            seen: Tick(NOW.0 - self.age),
            edit: None,
            is_tracked: false,
            known: None,
            labels: Labels::NONE,
            zones: Zones::NONE,
        }
    }

    fn enter(&self, director: &mut Director, servers: u32) -> Option<Salvaged> {
        let flow = self.salvaged();
        let path = director.owner(&flow.original);
        let new = NewFlow {
            original: flow.original,
            reply: flow.reply,
            method: flow.method,
            // What is in memory is not to be believed.
            deltas: Default::default(),
            server: ServerId(self.service as u32 * servers + self.server),
            state: flow.state,
            timeout: flow.timeout,
            now: flow.seen,
            zones: Zones::NONE,
        };
        path.flows.insert(&new).ok()?;
        Some(flow)
    }
}

fn begun() -> impl Strategy<Value = Begun> {
    (0u16..400, 0usize..3, 0u32..5, 0u8..11, 1u32..100_000, 0u32..50_000).prop_map(
        |(client, service, server, state, timeout, age)| Begun {
            client,
            service,
            server,
            state,
            timeout,
            age,
        },
    )
}

fn shape() -> impl Strategy<Value = Shape> {
    (1u16..5, 20u32..200, any::<u64>()).prop_map(|(workers, connections, seed)| Shape {
        workers,
        connections,
        seed,
    })
}

proptest! {
    #[test]
    fn connections_go_on_with_another_seed_size_and_number_of_workers(
        connections in prop::collection::vec(begun(), 0..120), old in shape(), new in shape(), servers in 1u32..5,
    ) {
        let mut director = Director::new(old, &tables(5, 0), Tick(NOW.0 - 60_000));
        let begun: Vec<Salvaged> = connections.iter().filter_map(|begun| begun.enter(&mut director, 5)).collect();
        let memory = director.kill();
        let salvages: Vec<_> = memory.iter().map(|bytes| Salvage::of(bytes).unwrap()).collect();
        let new_tables = tables(servers, 7);
        let mut next = Director::new(new, &new_tables, NOW);
        let done = next.carry_over(&salvages, NOW);
        prop_assert_eq!(next.check(), Ok(()));

        let mut wanted = CarriedOver { no_room: done.no_room, ..CarriedOver::default() };
        let mut missing = 0;
        for flow in begun {
            let key = ServiceKey::new(flow.original.protocol, flow.original.dst, 80);
            let service = new_tables.services.find(&key).unwrap();
            let server = service.servers.iter().find(|server| server.address == flow.reply.src);
            let path = next.owner(&flow.original);
            let found = [&flow.original, &flow.reply].map(|tuple| path.flows.find(tuple));
            if NOW.is_at_or_after(flow.seen.after(flow.timeout)) {
                wanted.expired += 1;
                prop_assert_eq!(found, [None, None]);
            } else if server.is_none() {
                wanted.no_server += 1;
                prop_assert_eq!(found, [None, None]);
            } else if found == [None, None] {
                missing += 1;
            } else {
                wanted.connections += 1;
                let [original, reply] = found.map(Option::unwrap);
                prop_assert_eq!((original.direction(), reply.direction()), (Direction::Original, Direction::Reply));
                prop_assert_eq!(original.id(), reply.id());
                let entry = path.flows.entry(original.id());
                prop_assert_eq!(Some(entry.server()), server.map(|server| server.id));
                prop_assert_eq!((entry.state(), entry.expires()), (flow.state, flow.seen.after(flow.timeout)));
                let after = flow.reply.reversed();
                prop_assert_eq!(entry.deltas(Direction::Original), rewrite::deltas(&flow.original, &after));
                prop_assert_eq!(
                    entry.deltas(Direction::Reply), rewrite::deltas(&flow.reply, &flow.original.reversed())
                );
            }
        }
        prop_assert_eq!(missing, done.no_room);
        prop_assert_eq!(done, wanted);
        // A table that had room for all of its share turns nothing away.
        if u64::from(new.connections) >= 2 * (done.connections + done.no_room) {
            prop_assert_eq!(done.no_room, 0);
        }
    }

    #[test]
    fn damaged_memory_loses_connections_at_most(
        connections in prop::collection::vec(begun(), 1..80),
        shapes in (shape(), shape()),
        hits in prop::collection::vec((any::<Index>(), any::<Index>(), any::<u8>(), 1usize..64), 1..60),
        cut in prop::option::weighted(0.1, any::<Index>()),
    ) {
        let tables = tables(5, 0);
        let mut director = Director::new(shapes.0, &tables, Tick(NOW.0 - 60_000));
        for begun in &connections {
            begun.enter(&mut director, 5);
        }
        let mut memory = director.kill();
        for (worker, place, value, length) in hits {
            let bytes = worker.get_mut(&mut memory);
            // Mostly where entries are.
            let place = place.index(bytes.len());
            let length = length.min(bytes.len() - place);
            bytes[place..][..length].fill(value);
        }
        if let Some(cut) = cut {
            let length = cut.index(memory[0].len());
            memory[0].truncate(length);
        }
        let salvages: Vec<_> = memory.iter().filter_map(|bytes| Salvage::of(bytes).ok()).collect();
        let mut next = Director::new(shapes.1, &tables, NOW);
        let done = next.carry_over(&salvages, NOW);
        prop_assert_eq!(next.check(), Ok(()));
        prop_assert!(done.connections <= u64::from(shapes.0.connections) * u64::from(shapes.0.workers));
        // Nothing stays for ever.
        let lives = |entry: &crate::flow::Entry| entry.expires().since(NOW);
        for path in &next.paths {
            prop_assert!(path.flows.iter(0, u32::MAX).all(|(_, entry)| (1..=267_840_000).contains(&lives(entry))));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(words in prop::collection::vec(any::<u64>(), 0..160)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        prop_assert!(Salvage::of(&bytes).is_err());
        // Where the entries are, behind a header that is right.
        let shape = Shape { workers: 1, connections: 20, seed: 1 };
        let mut memory = Director::new(shape, &tables(5, 0), NOW).kill().remove(0);
        memory[2 * 4096..][..bytes.len()].copy_from_slice(&bytes);
        let mut next = Director::new(Shape { workers: 2, ..shape }, &tables(5, 0), NOW);
        let done = next.carry_over(&[Salvage::of(&memory).unwrap()], NOW);
        prop_assert_eq!(next.check(), Ok(()));
        prop_assert_eq!(done.connections, next.paths.iter().map(|path| u64::from(path.flows.len().0)).sum::<u64>());
    }
}

/// The memory of a director with one connection.
fn one_connection() -> (Vec<u8>, Salvaged) {
    let shape = Shape { workers: 1, connections: 20, seed: 1 };
    let mut director = Director::new(shape, &tables(5, 0), NOW);
    let begun = Begun { client: 5, service: 0, server: 2, state: 1, timeout: 90_000, age: 100 };
    let flow = begun.enter(&mut director, 5).unwrap();
    (director.kill().remove(0), flow)
}

#[test]
fn memory_of_another_version_or_with_a_damaged_header_is_refused_with_a_reason() {
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let (mut memory, _) = one_connection();
        change(&mut memory);
        Salvage::of(&memory).err().unwrap().to_string()
    };
    assert_eq!(refused(&|memory| memory[8] = 77), "its layout is version 77, this program's is 17");
    assert_eq!(refused(&|memory| memory[12] ^= 1), "its header is damaged");
    assert_eq!(refused(&|memory| memory[20] ^= 1), "its header is damaged");
    assert_eq!(refused(&|memory| memory[24] ^= 1), "its header is damaged");
    assert_eq!(refused(&|memory| memory[1] = 0), "it is no flow memory");
    assert_eq!(refused(&|memory| memory.clear()), "it is no flow memory");
    let short = refused(&|memory| memory.truncate(5000));
    assert!(short.starts_with("it has 5000 bytes, its header says "), "{short}");
    assert!(matches!(Salvage::of(&[0; 100]), Err(Refused::Foreign)));
}

#[test]
fn labels_go_on_and_those_of_a_damaged_set_are_lost() {
    let shape = Shape { workers: 1, connections: 20, seed: 1 };
    let tables = tables(5, 0);
    let mut director = Director::new(shape, &tables, NOW);
    let all = [Labels::of([5]), Labels::of([0, 127]), Labels::of([5]), Labels::NONE];
    let tuples: Vec<Tuple> = (0..)
        .zip(all)
        .map(|(client, labels)| {
            let begun = Begun { client, service: 0, server: 2, state: 1, timeout: 90_000, age: 100 };
            let original = begun.enter(&mut director, 5).unwrap().original;
            let flows = &mut director.paths[0].flows;
            let id = flows.find(&original).unwrap().id();
            flows.tracked_mut(id).mark = 7;
            assert!(flows.set_labels(id, labels));
            original
        })
        .collect();
    let memory = director.kill().remove(0);
    let carried = |memory: &[u8]| {
        let mut next = Director::new(Shape { seed: 9, ..shape }, &tables, NOW);
        next.carry_over(&[Salvage::of(memory).unwrap()], NOW);
        next.check().unwrap();
        let flows = &next.paths[0].flows;
        let kept: Vec<Labels> =
            tuples.iter().map(|tuple| flows.labels(flows.find(tuple).unwrap().id())).collect();
        (kept, flows.label_sets().0)
    };
    assert_eq!(carried(&memory), (all.to_vec(), 2));
    // Where no set stands.
    let sets: Vec<usize> =
        (0..memory.len() - 15).step_by(8).filter(|&at| memory[at..][..16] == *all[1].as_bytes()).collect();
    let mut damaged = memory.clone();
    sets.iter().for_each(|&at| damaged[at..][..16].fill(0));
    assert_eq!(carried(&damaged), (vec![all[0], Labels::NONE, all[2], all[3]], 1));
}

#[test]
fn a_moment_ahead_of_the_clock_is_now_and_one_far_ahead_is_damage() {
    let (memory, flow) = one_connection();
    let found = |now| Salvage::of(&memory).unwrap().connections(now).next().unwrap();
    assert_eq!(found(NOW), Ok(flow.clone()));
    let before = Tick(flow.seen.0 - 500);
    assert_eq!(found(before), Ok(Salvaged { seen: before, ..flow }));
    assert!(found(Tick(before.0 - 70_000)).is_err());
}

#[test]
fn carried_over_connections_count_for_thresholds_and_not_as_new() {
    let shape = Shape { workers: 1, connections: 20, seed: 1 };
    let mut director = Director::new(shape, &tables(5, 0), NOW);
    for client in 0..3 {
        let begun = Begun { client, service: 0, server: 2, state: 1, timeout: 90_000, age: 0 };
        begun.enter(&mut director, 5).unwrap();
    }
    let memory = director.kill();
    let tables = tables(5, 0);
    let mut next = Director::new(shape, &tables, NOW);
    let done = next.carry_over(&[Salvage::of(&memory[0]).unwrap()], NOW);
    assert_eq!(done, CarriedOver { connections: 3, ..CarriedOver::default() });
    assert!(!tables.services.server(ServerId(2)).unwrap().takes_new(), "three is its upper threshold");
    let counters = &next.paths[0].mine;
    assert_eq!((counters.flows.carried_over.get(), counters.flows.inserted.get()), (3, 0));
    assert_eq!(counters.flows.entries.get(), 3);
    assert_eq!(counters.server(ServerId(2)).connections.get(), 0);
}

/// A connection that is routed, translated or for the host, and what was known of it.
fn tracked_flow(n: u16, to_us: bool) -> (NewFlow, Tracked) {
    let dst = if to_us { "192.0.2.1" } else { "203.0.113.9" };
    let original =
        Tuple { src: ip("10.0.0.7"), dst: ip(dst), sport: 1000 + n, dport: 22, protocol: Protocol::TCP };
    // Its source is translated, to a port that no FullNAT would choose.
    let after = Tuple { src: ip("192.0.2.1"), sport: 500 + n, ..original };
    let new = NewFlow {
        original,
        reply: after.reversed(),
        method: Method::Masq,
        deltas: Default::default(),
        server: ServerId::NONE,
        state: 200,
        timeout: Timeout(90_000),
        now: Tick(NOW.0 - 100),
        // Some are in zones, of both directions, or of one that differs from its opposite.
        zones: Zones::new(
            n % 5,
            [None, Some(Direction::Original), Some(Direction::Reply)][usize::from(n % 3)],
        ),
    };
    let mut status = Status::ASSURED;
    status.set(Status::SEEN_REPLY);
    let mut tracked = Tracked::NOTHING;
    (tracked.mark, tracked.status) = (n.into(), status);
    (new, tracked)
}

#[test]
fn tracked_connections_go_on_with_what_was_known_of_them_at_the_worker_that_their_packets_come_to() {
    let tables = Arc::new(Tables {
        routes: Routes::new([(Prefix { address: ip("192.0.2.1"), len: 32 }, Route::Local)]).into(),
        ..Tables::default()
    });
    let shape = Shape { workers: 1, connections: 100, seed: 1 };
    let mut director = Director::new(shape, &tables, NOW);
    for n in 0..20 {
        let (new, tracked) = tracked_flow(n, n % 2 == 0);
        let flows = &mut director.paths[0].flows;
        let id = flows.insert(&new).unwrap();
        *flows.tracked_mut(id) = tracked;
        flows.accounting_mut(id).unwrap().count(Direction::Original, 60);
    }
    let memory = director.kill();
    let mut next = Director::new(Shape { workers: 3, seed: 2, ..shape }, &tables, NOW);
    let done = next.carry_over(&[Salvage::of(&memory[0]).unwrap()], NOW);
    assert_eq!(done, CarriedOver { connections: 20, ..CarriedOver::default() });
    assert_eq!(next.check(), Ok(()));
    for n in 0..20 {
        let (new, tracked) = tracked_flow(n, n % 2 == 0);
        let Tuple { src, dst, sport, dport, .. } = new.original;
        let owner =
            if n % 2 == 0 { next.paths[0].owner_of(src, sport) } else { next.paths[0].owner_of(dst, dport) };
        let flows = &next.paths[owner.index()].flows;
        let at = flows.find_in(&new.original, new.zones).unwrap();
        assert_eq!(flows.find_in(&new.reply, new.zones).map(|at| at.id()), Some(at.id()));
        assert_eq!(flows.zones(at.id()), new.zones);
        let entry = flows.entry(at.id());
        assert!(entry.is_tracked());
        assert_eq!((entry.state(), entry.timeout(), entry.seen()), (200, new.timeout, new.now));
        assert_eq!(*flows.tracked(at.id()), tracked);
        let after = new.reply.reversed();
        assert_eq!(entry.deltas(Direction::Original), rewrite::deltas(&new.original, &after));
        assert_eq!(flows.accounting(at.id()), None);
    }
    let count: u64 = next.paths.iter().map(|path| path.mine.flows.tracked.get()).sum();
    assert_eq!(count, 20);
}
