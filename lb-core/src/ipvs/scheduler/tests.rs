//! What holds for all schedulers, and the lists that the tests of single ones are made of.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::*;
use crate::ids::ServiceId;
use crate::tables::{Forward, Protocol, ServiceKey};

/// Servers without connections.
pub(super) struct Idle;

impl Loads for Idle {
    fn active(&self, _: ServerId) -> u64 {
        0
    }
    fn inactive(&self, _: ServerId) -> u64 {
        0
    }
    fn is_shared(&self) -> bool {
        false
    }
}

/// Active connections, by the server's id.
pub(super) struct Counts(pub(super) RefCell<Vec<u64>>);

impl Counts {
    pub(super) fn none(servers: usize) -> Counts {
        Counts(RefCell::new(vec![0; servers]))
    }
}

impl Loads for Counts {
    fn active(&self, server: ServerId) -> u64 {
        self.0.borrow()[server.index()]
    }
    fn inactive(&self, _: ServerId) -> u64 {
        0
    }
    fn is_shared(&self) -> bool {
        false
    }
}

pub(super) fn request() -> Request {
    let anyone = IpAddr::from(Ipv4Addr::LOCALHOST);
    Request { client: (anyone, 1), virtual_: (anyone, 2), now: Tick(0) }
}

/// One worker, with room for the services and servers of these tests.
pub(super) fn worker() -> States {
    let mut worker = States::new(4096);
    worker.resize(1);
    worker.room.destinations.make_room();
    worker
}

pub(super) fn server(id: u32, weight: u32) -> Server {
    Server::new(ServerId(id), (Ipv4Addr::LOCALHOST.into(), 80), weight, Forward::Masq)
}

/// The service after a change from `old`.
pub(super) fn changed(old: Option<&Service>, kind: SchedulerKind, servers: Vec<Server>) -> Service {
    let key = ServiceKey::new(Protocol::TCP, Ipv4Addr::LOCALHOST.into(), 80);
    // The versions wrap on the way.
    let version = old.map_or(u32::MAX - 4, |old| old.version.wrapping_add(1));
    Service::new(old, ServiceId(0), key, kind, servers, version)
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Add {
        weight: u32,
    },
    /// Removes a server and adds it again at the head.
    Move {
        place: usize,
    },
    Remove {
        place: usize,
    },
    Edit {
        place: usize,
        weight: u32,
    },
    Overload {
        place: usize,
        on: bool,
    },
    OverloadAll {
        on: bool,
    },
    Pick,
}

pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let weight = || prop_oneof![Just(0), 1u32..7, Just(12), Just(1000)];
    let op = prop_oneof![
        2 => weight().prop_map(|weight| Op::Add { weight }),
        1 => any::<usize>().prop_map(|place| Op::Move { place }),
        1 => any::<usize>().prop_map(|place| Op::Remove { place }),
        1 => (any::<usize>(), weight()).prop_map(|(place, weight)| Op::Edit { place, weight }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(place, on)| Op::Overload { place, on }),
        1 => any::<bool>().prop_map(|on| Op::OverloadAll { on }),
        14 => Just(Op::Pick),
    ];
    prop::collection::vec(op, 0..60)
}

/// Does what the operation says to a service, in as many changes as the kernel would see; `seen` is called
/// after each.
pub(super) fn apply(service: &mut Service, op: &Op, mut seen: impl FnMut(&Service)) {
    let mut servers = service.servers.clone();
    let place = |place: usize| if servers.is_empty() { None } else { Some(place % servers.len()) };
    let mut change = |service: &mut Service, servers: &[Server]| {
        *service = changed(Some(service), service.scheduler, servers.to_vec());
        seen(service);
    };
    match *op {
        Op::Add { weight } => {
            // Each one once, from 0 on.
            let id = service.version.wrapping_add(5);
            servers.insert(0, server(id, weight));
            change(service, &servers);
        }
        Op::Remove { place: at } | Op::Move { place: at } => {
            let Some(at) = place(at) else { return };
            let removed = servers.remove(at);
            change(service, &servers);
            if matches!(op, Op::Move { .. }) {
                servers.insert(0, removed);
                change(service, &servers);
            }
        }
        Op::Edit { place: at, weight } => {
            let Some(at) = place(at) else { return };
            servers[at].set_weight(weight);
            change(service, &servers);
        }
        Op::Overload { place: at, on } => {
            let Some(at) = place(at) else { return };
            servers[at].overloaded.store(on, Relaxed);
        }
        Op::OverloadAll { on } => servers.iter().for_each(|server| server.overloaded.store(on, Relaxed)),
        Op::Pick => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A worker that gets no connection while servers change one after another, and then meets the last list alone,
    /// picks as one that met each list.
    #[test]
    fn a_worker_that_saw_no_change_picks_as_one_that_saw_each(ops in ops()) {
        for &kind in SchedulerKind::ALL {
            let mut service = changed(None, kind, vec![]);
            let (mut awake, mut asleep) = (worker(), worker());
            for op in &ops {
                apply(&mut service, op, |service| awake.states[0].catch_up(service));
                for server in &service.servers {
                    // It may be overloaded now, or not any more.
                    awake.touch(server.id);
                    asleep.touch(server.id);
                }
                if let Op::Pick = op {
                    let picked = awake.pick(&service, &Idle, &request());
                    prop_assert_eq!(asleep.pick(&service, &Idle, &request()), picked, "{}", kind.name());
                    let takes_new = picked.map(|index| service.servers[index].takes_new());
                    // Without their fallback flag, hashes refuse what falls on a server that takes none.
                    use SchedulerKind::{Dh, Mh, NoScheduler, Sh};
                    let may_refuse = matches!(kind, Dh | Sh | Mh | NoScheduler);
                    let nobody = || may_refuse || !service.servers.iter().any(Server::takes_new);
                    prop_assert!(takes_new.unwrap_or_else(nobody), "{}", kind.name());
                }
            }
        }
    }
}

#[test]
fn servers_that_come_in_one_change_count_as_added_one_by_one() {
    for &kind in SchedulerKind::ALL {
        let servers = vec![server(3, 2), server(2, 3), server(1, 4)];
        let at_once = changed(None, kind, servers.clone());
        let mut service = changed(None, kind, vec![]);
        for first in (0..servers.len()).rev() {
            service = changed(Some(&service), kind, servers[first..].to_vec());
        }
        let (mut a, mut b) = (worker(), worker());
        for _ in 0..20 {
            assert_eq!(
                a.pick(&at_once, &Idle, &request()),
                b.pick(&service, &Idle, &request()),
                "{}",
                kind.name()
            );
        }
    }
}

#[test]
fn an_exchanged_scheduler_starts_anew_also_when_it_comes_back() {
    let servers = vec![server(3, 1), server(2, 1), server(1, 1)];
    let first = changed(None, SchedulerKind::Rr, servers.clone());
    let mut state = worker();
    assert_eq!(state.pick(&first, &Idle, &request()), Some(0));
    let between = changed(Some(&first), SchedulerKind::Lc, servers.clone());
    let back = changed(Some(&between), SchedulerKind::Rr, servers);
    assert_eq!(state.pick(&back, &Idle, &request()), Some(0));
    assert_eq!(state.pick(&back, &Idle, &request()), Some(1));
}

#[test]
fn a_worker_behind_by_more_changes_than_are_remembered_still_picks() {
    for &kind in SchedulerKind::ALL {
        let mut service = changed(None, kind, vec![server(1, 5), server(2, 5)]);
        let mut state = worker();
        state.pick(&service, &Idle, &request());
        for weight in 0..2 * LOG as u32 {
            let servers = vec![server(1000 + weight, weight % 7 + 1), server(2, 5)];
            service = changed(Some(&service), kind, servers);
        }
        let picks: Vec<_> = (0..10).filter_map(|_| state.pick(&service, &Idle, &request())).collect();
        let expected = if kind == SchedulerKind::NoScheduler { 0 } else { 10 };
        assert_eq!(picks.len(), expected, "{}", kind.name());
    }
}

#[test]
fn states_are_kept_when_room_grows_and_never_shrink() {
    let service = changed(None, SchedulerKind::Rr, vec![server(2, 1), server(1, 1)]);
    let mut states = States::new(4);
    assert_eq!(states.pick(&service, &Idle, &request()), None, "there is no room");
    for (room, expected) in [(1, 0), (9, 1), (0, 0)] {
        states.resize(room);
        assert_eq!(states.pick(&service, &Idle, &request()), Some(expected));
    }
}

#[test]
fn every_file_of_a_scheduler_has_its_row_and_every_row_its_name() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ipvs/scheduler");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .expect("the sources are there")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("a plain name"))
        .filter(|file| file != "mod.rs" && file != "tests.rs")
        .collect();
    files.sort();
    let mut rows: Vec<String> = SchedulerKind::ALL.iter().map(|kind| format!("{}.rs", kind.name())).collect();
    rows.sort();
    assert_eq!(files, rows);
    for &kind in SchedulerKind::ALL {
        assert_eq!(SchedulerKind::from_name(kind.name()), Some(kind));
    }
}

#[test]
fn mh_knows_the_weight_that_a_server_had_under_another_scheduler() {
    let address = |server: Server, n: u8| Server { address: [10, 0, 0, n].into(), ..server };
    let servers = vec![address(server(2, 1), 2), address(server(1, 3), 1)];
    let quiesced = {
        let mut servers = servers.clone();
        servers[1].set_weight(0);
        servers
    };
    let clients = |service: &Service| {
        let of = |n: u8| {
            let request = Request { client: ([192, 0, 2, n].into(), 1), ..request() };
            worker().pick(service, &Idle, &request)
        };
        (0..=255).map(of).collect::<Vec<_>>()
    };
    let mh = changed(None, SchedulerKind::Mh, servers.clone());
    let must = clients(&changed(Some(&mh), SchedulerKind::Mh, quiesced.clone()));
    let wrr = changed(None, SchedulerKind::Wrr, servers);
    let wrr = changed(Some(&wrr), SchedulerKind::Wrr, quiesced.clone());
    assert_eq!(clients(&changed(Some(&wrr), SchedulerKind::Mh, quiesced)), must);
    assert!(must.iter().filter(|picked| picked.is_none()).count() > 128, "they are the quiesced one's");
}
