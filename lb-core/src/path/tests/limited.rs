//! Limits of virtual services, there and back.

use super::one_packet::by as each_for_itself;
use super::persistent::{listed, persistent};
use super::shared::{changed, datagram, take_over};
use super::*;
use crate::flow::carry::Salvage;
use crate::ipvs::limiter::{Limit, Limiters};
use crate::tables::{ConnLimits, ConnRate};
use crate::time::Timeout;

/// These services with the same limits each.
pub(super) fn with(limiters: &mut Limiters, mut tables: Tables, limits: ConnLimits) -> Tables {
    let services = tables.services.iter().map(|service| {
        let mut service = (**service).clone();
        service.options.limits = limits;
        service.limiter = limiters.make(service.limiter.as_ref(), limits);
        Arc::new(service)
    });
    tables.services = Services::new(services.collect::<Vec<_>>()).into();
    tables
}

fn limited(limits: ConnLimits) -> Tables {
    with(&mut Limiters::new(1), tables(2, &[11, 12], 1), limits)
}

fn director(limits: ConnLimits) -> Director {
    let mut director = Director::new();
    director.path.adopt(limited(limits).into());
    director
}

pub(super) const fn at_most(connections: u32) -> ConnLimits {
    ConnLimits { connections, ..ConnLimits::NONE }
}

const fn of_each(source_connections: u32) -> ConnLimits {
    ConnLimits { source_connections, ..ConnLimits::NONE }
}

fn rate(per_second: u32, burst: u32) -> ConnLimits {
    ConnLimits { rate: Some(ConnRate { per_second, burst }), ..ConnLimits::NONE }
}

fn from(client: &str, sport: u16) -> Vec<u8> {
    tcp(C2D, (client, sport), ("192.0.2.10", 80), "S")
}

/// How many of these came to a real server.
fn let_in(director: &mut Director, frames: &[Vec<u8>]) -> usize {
    director.receive(WAN, frames).sent.iter().filter(|(port, _)| *port == LAN).count()
}

fn syns(ports: std::ops::Range<u16>) -> Vec<Vec<u8>> {
    ports.map(|port| from_client(port, "S")).collect()
}

/// By which limit the TCP service has refused connections, in the order of [`Limit::ALL`].
fn refused(director: &Director) -> [u64; 4] {
    let cell = director.counters[0].service(ServiceId(1));
    Limit::ALL.map(|limit| cell.limited[limit as usize].get())
}

fn end(director: &mut Director, sport: u16) {
    let original =
        Tuple { src: ip("192.0.2.100"), sport, dst: ip("192.0.2.10"), dport: 80, protocol: Protocol::TCP };
    assert_eq!(director.path.order(&original, &Order::plain(Deed::End), director.now), Outcome::Done);
}

#[test]
fn a_service_has_as_many_connections_as_it_may_and_one_more_when_one_has_ended() {
    let mut director = director(at_most(3));
    assert_eq!(let_in(&mut director, &syns(4000..4008)), 3);
    assert_eq!((director.dropped(DropReason::ServiceConnLimit), refused(&director)), (5, [5, 0, 0, 0]));
    assert_eq!(let_in(&mut director, &syns(4000..4003)), 3, "those that are let in go on");
    assert_eq!(let_in(&mut director, &[datagram(4000)]), 1, "another service has its own number");
    let out = director.receive(WAN, &[from_client(4005, "S")]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 0), "nobody is told");
    end(&mut director, 4001);
    assert_eq!(let_in(&mut director, &syns(4005..4007)), 1);
    director.now = director.now.after(Timeout::from_secs(70));
    director.turn();
    assert!(director.states().iter().all(|state| *state != "SYN_RECV"));
    assert_eq!(let_in(&mut director, &syns(5000..5004)), 3, "and when their time is over");
    director.path.check_connections().unwrap();
}

#[test]
fn a_connection_that_is_only_remembered_does_not_count() {
    let mut director = director(of_each(1));
    for sport in 4000..4003 {
        let out = director.receive(WAN, &[from_client(sport, "S"), from_client(sport + 100, "S")]);
        assert_eq!(out.sent.len(), 1);
        let IpAddr::V4(server) = read(&out.sent[0].1).2 else { panic!("IPv4") };
        let server = server.octets()[3];
        director.receive(LAN, &[from_server(server, sport, "SA")]);
        director.receive(WAN, &["A", "FA"].map(|flags| from_client(sport, flags)));
        director.receive(LAN, &[from_server(server, sport, "FA")]);
        director.receive(WAN, &[from_client(sport, "A")]);
    }
    assert_eq!((director.states(), refused(&director)), (vec!["TIME_WAIT"; 3], [0, 0, 3, 0]));
}

#[test]
fn each_source_has_its_own_number_and_a_net_may_be_one() {
    let clients = ["192.0.2.100", "192.0.2.101", "203.0.113.5"];
    for (source_prefix, each) in [(None, [2, 2, 2]), (Some(24), [2, 0, 2])] {
        let mut director = director(ConnLimits { source_prefix, ..of_each(2) });
        let let_in = clients.map(|client| {
            let_in(&mut director, &(4000..4005).map(|port| from(client, port)).collect::<Vec<_>>())
        });
        assert_eq!(let_in, each);
        let refused_here = 15 - each.iter().sum::<usize>() as u64;
        assert_eq!(director.dropped(DropReason::SourceConnLimit), refused_here);
    }
}

#[test]
fn new_connections_come_at_the_services_rate() {
    let mut director = director(rate(10, 4));
    assert_eq!(let_in(&mut director, &syns(4000..4010)), 4);
    assert_eq!((director.dropped(DropReason::ServiceConnRate), refused(&director)), (6, [0, 6, 0, 0]));
    for (ticks, ports, expected) in
        [(9, 5000..5005, 0), (1, 5000..5005, 1), (20, 5100..5105, 2), (1000, 5200..5209, 4)]
    {
        director.now = director.now.after(Timeout(ticks));
        assert_eq!(let_in(&mut director, &syns(ports)), expected, "{ticks}");
    }
    assert_eq!(let_in(&mut director, &syns(4000..4004)), 4, "known ones pay nothing");
}

#[test]
fn each_sources_new_connections_come_at_its_rate() {
    let source_rate = Some(ConnRate { per_second: 100, burst: 2 });
    let mut director = director(ConnLimits { source_rate, ..ConnLimits::NONE });
    assert_eq!(let_in(&mut director, &syns(4000..4005)), 2);
    assert_eq!(director.dropped(DropReason::SourceConnRate), 3);
    assert_eq!(let_in(&mut director, &[from("203.0.113.5", 4000)]), 1);
    director.now = director.now.after(Timeout(1));
    assert_eq!(let_in(&mut director, &syns(5000..5005)), 1);
    assert_eq!(refused(&director), [0, 0, 0, 7]);
}

#[test]
fn a_limit_that_is_set_later_counts_connections_from_their_next_packet_on() {
    let (mut director, mut limiters) = (Director::new(), Limiters::new(1));
    assert_eq!(let_in(&mut director, &syns(4000..4003)), 3);
    director.path.adopt(with(&mut limiters, tables(2, &[11, 12], 1), at_most(3)).into());
    director.receive(WAN, &[from_client(4000, "A"), from_client(4000, "A"), from_client(4001, "A")]);
    assert_eq!(let_in(&mut director, &syns(5000..5003)), 1, "two are known of");
    let wider = Tables { generation: 3, ..(*director.path.tables).clone() };
    director.path.adopt(with(&mut limiters, wider, at_most(5)).into());
    director.receive(WAN, &[from_client(4000, "A"), from_client(4002, "A")]);
    assert_eq!(let_in(&mut director, &syns(6000..6003)), 1, "each once");
    let none = Tables { generation: 4, ..(*director.path.tables).clone() };
    director.path.adopt(with(&mut limiters, none, ConnLimits::NONE).into());
    assert_eq!(let_in(&mut director, &syns(7000..7009)), 9);
}

#[test]
fn what_the_process_before_left_and_what_another_director_told_of_counts_and_is_not_refused() {
    let (memory, mut remains) = Region::heap_with_remains(memory_needed(100, 50));
    let (uses, counters) = (Arc::new(Uses::new(1, 100)), counters(1));
    let path = Path::new(PathConfig { memory, ..config(0, &counters, &uses) });
    let mut before = Director { path, counters, now: Tick(100) };
    let mut sharing = tables(2, &[11, 12], 1);
    sharing.settings.is_sharing = true;
    before.path.adopt(sharing.into());
    for sport in 4000..4003 {
        let out = before.receive(WAN, &[from_client(sport, "S")]);
        let IpAddr::V4(server) = read(&out.sent[0].1).2 else { panic!("IPv4") };
        before.receive(LAN, &[from_server(server.octets()[3], sport, "SA")]);
        before.receive(WAN, &[from_client(sport, "A")]);
    }
    let told = changed(&mut before);
    assert_eq!(told.len(), 3);
    drop(before);

    let mut next = director(at_most(2));
    let left = Salvage::of(remains.bytes().unwrap()).unwrap();
    assert_eq!(next.path.carry_over(&[left], Tick(200)).connections, 3);
    assert_eq!(let_in(&mut next, &syns(5000..5001)), 0);
    end(&mut next, 4000);
    end(&mut next, 4001);
    assert_eq!(let_in(&mut next, &syns(5000..5002)), 1);

    let mut backup = director(at_most(2));
    told.iter().for_each(|flow| assert_eq!(take_over(&mut backup, flow), Taken::New));
    assert_eq!((backup.states().len(), let_in(&mut backup, &syns(5000..5001))), (3, 0));
}

#[test]
fn who_is_refused_makes_no_template_and_no_scheduler_move() {
    let mut director = Director::new();
    director.path.adopt(with(&mut Limiters::new(1), persistent(2, |_| ()), of_each(1)).into());
    assert_eq!(let_in(&mut director, &[from("203.0.113.5", 4000), from("203.0.113.5", 4001)]), 1);
    assert_eq!(listed(&director.path, director.now).len(), 2, "a connection and its template");
    let mut director = self::director(rate(1, 1));
    let out = director.receive(WAN, &syns(4000..4004));
    director.now = director.now.after(Timeout::from_secs(1));
    let next = director.receive(WAN, &syns(5000..5001));
    assert_eq!([&out, &next].map(|out| read(&out.sent[0].1).2), [ip("10.0.0.11"), ip("10.0.0.12")]);
}

#[test]
fn several_workers_have_one_number_also_of_persistent_connections() {
    for is_persistent in [false, true] {
        let (counters, uses) = (counters(4), Arc::new(Uses::new(4, 100)));
        let mut paths: Vec<_> = (0..4).map(|n| path(n, &counters, &uses)).collect();
        let base = if is_persistent { persistent(2, |_| ()) } else { tables(2, &[11, 12], 1) };
        let tables = Arc::new(with(&mut Limiters::new(1), base, at_most(10)));
        paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
        let deliver =
            |paths: &mut Vec<_>, port| deliver(paths, usize::from(port) % 4, WAN, &from_client(port, "S"));
        assert_eq!((4000..4040).map(|port| deliver(&mut paths, port).len()).sum::<usize>(), 10);
        let dropped =
            counters.iter().map(|worker| worker.dropped(DropReason::ServiceConnLimit, Hook::Input).get());
        assert_eq!(dropped.sum::<u64>(), 30);
        let mut out = Out::default();
        paths.iter_mut().for_each(|path| path.turn(Tick(100 * 200), &mut out));
        assert_eq!(
            (5000..5040).map(|port| deliver(&mut paths, port).len()).sum::<usize>(),
            10,
            "they are over"
        );
    }
}

#[test]
fn a_connection_that_was_on_its_way_to_its_template_is_not_one_too_many() {
    let (counters, uses) = (counters(2), Arc::new(Uses::new(2, 100)));
    let mut paths: Vec<_> = (0..2).map(|n| path(n, &counters, &uses)).collect();
    let tables = Arc::new(with(&mut Limiters::new(1), persistent(2, |_| ()), at_most(1)));
    paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
    // Which worker has the client's template.
    deliver(&mut paths, 0, WAN, &from_client(3999, "S"));
    let holder =
        paths.iter().position(|path| listed(path, Tick(100)).iter().any(|line| line.contains(":0 ")));
    let original = |sport| Tuple {
        src: ip("192.0.2.100"),
        sport,
        dst: ip("192.0.2.10"),
        dport: 80,
        protocol: Protocol::TCP,
    };
    let ends = |path: &mut Path<Frame>| path.order(&original(3999), &Order::plain(Deed::End), Tick(100));
    assert_eq!(paths.iter_mut().map(ends).filter(|outcome| *outcome == Outcome::Done).count(), 1);
    let owner = |port| paths[0].owner_of(ip("192.0.2.100"), port).index();
    let ports: Vec<u16> = (4000..).filter(|&port| Some(owner(port)) != holder).take(3).collect();
    let worker = owner(ports[0]);
    let mut out = Out::default();
    let mut burst: Burst<Frame> =
        ports.iter().map(|&port| Frame::new(WAN, &from_client(port, "S"))).collect();
    paths[worker].receive(&mut burst, Tick(100), &mut out);
    assert_eq!(out.handed.len(), 3, "there is room for each");
    let mut begun = 0;
    for (to, frame, steer) in out.handed {
        let mut out = Out::default();
        let mut handed = ArrayVec::from_iter([(frame, steer)]);
        paths[to.index()].receive_handed_over(&mut handed, Tick(100), &mut out);
        let mut answers: ArrayVec<_, BURST> =
            out.handed.into_iter().map(|(_, frame, steer)| (frame, steer)).collect();
        let mut out = Out::default();
        paths[worker].receive_handed_over(&mut answers, Tick(100), &mut out);
        begun += out.sent.len();
    }
    assert_eq!(begun, 1);
}

#[test]
fn of_one_packet_scheduling_each_datagram_pays() {
    let mut director = Director::new();
    let tables = each_for_itself(2, Forward::Masq, &[11, 12]);
    director
        .path
        .adopt(with(&mut Limiters::new(1), tables, ConnLimits { connections: 1, ..rate(1, 3) }).into());
    assert_eq!(let_in(&mut director, &[datagram(4000), datagram(4000), datagram(4000), datagram(4000)]), 3);
    assert_eq!((director.dropped(DropReason::ServiceConnRate), director.states().len()), (1, 0));
}

#[test]
fn who_explains_pays_nothing() {
    let mut director = director(rate(1, 1));
    let explain = |director: &Director| {
        let frame = Frame::new(WAN, &from_client(4000, "S"));
        let (tables, now) = (&director.path.tables, director.now);
        let road = super::explain(tables, &director.counters, frame, false, Assumed::First, now).unwrap();
        format!("{:?}", road)
    };
    assert!((0..3).all(|_| !explain(&director).contains("ServiceConnRate")));
    assert_eq!(let_in(&mut director, &syns(4000..4001)), 1);
    assert!(explain(&director).contains("ServiceConnRate"));
}
