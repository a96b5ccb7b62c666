//! Goal: limits hold with several workers: of services (`docs/decisions/0046-…`), real servers' thresholds, `connlimit`, `limit` and `hashlimit`. None is exceeded by more than is
//! written of it, whatever workers do at once; and when all connections have ended nothing is left of what was counted.
//! Method: 2, 4 and 16 worker threads on ports in memory, which are offered far more than the limit at once, by packets that come to all of them; twice, with the end of all
//! connections between. No outcome hangs on the machine's speed: time that passes is measured, and only adds to what a rate lets pass.

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use lb_control::api::rules::RuleFamily;
use lb_core::drop::DropReason;
use lb_core::hook::Hook;
use lb_core::ids::{PortId, ServerId, ServiceId};
use lb_core::ipvs::limiter::Limiters;
use lb_core::ipvs::{SchedulerKind, limiter::Limiter};
use lb_core::packet::Frame;
use lb_core::path::{Deed, Order, Sought};
use lb_core::tables::{
    ConnLimits, ConnRate, Forward, Persistence, Protocol, Server, Service, ServiceKey, Services, Tables,
};
use lb_core::time::Timeout;
use lb_dataplane::{Team, Wire};
use sim::wire::Body;

use common::{LAN, SEED, WAN, at, networks, packet, rules, start, until};

const LIMIT: u32 = 25;
/// Packets that are offered a worker, each of which would begin a connection.
const OFFERED: u16 = 100;
const SERVERS: u16 = 2;
/// A rate that brings next to nothing while a test runs.
const SLOW: ConnRate = ConnRate { per_second: 1, burst: LIMIT };

/// What is tried.
#[derive(Clone, Copy, Default)]
struct Case {
    limits: ConnLimits,
    upper_threshold: u32,
    is_persistent: bool,
    /// All packets are of one client; else each of another address, while there are any.
    is_one_client: bool,
    /// Of the table filter.
    rules: &'static [&'static str],
}

struct Director {
    team: Team,
    wires: Vec<[Wire; 2]>,
    servers: Vec<Server>,
    limiter: Option<Arc<Limiter>>,
    case: Case,
    offered: u64,
    through: u64,
}

impl Director {
    fn new(workers: u16, case: Case) -> Director {
        let (team, wires) = start(workers, None);
        let lines: Vec<_> = case.rules.iter().map(|line| (RuleFamily::Ipv4, *line)).collect();
        let rules = rules(team.counters(), "filter", &lines);
        let service = service(case);
        let (servers, limiter) = (service.servers.clone(), service.limiter.clone());
        let services = Services::new([Arc::new(service)]).into();
        team.publish(Arc::new(Tables { services, rules, ..networks(1, [&[10], &[]]) }));
        until("all workers use the tables", || team.generation_everywhere(1));
        Director { team, wires, servers, limiter, case, offered: 0, through: 0 }
    }

    /// Offers packets to all workers at once. How many began connections, and the seconds that it took.
    fn offer(&mut self) -> (u64, f64) {
        let begun = Instant::now();
        let before = self.through;
        for n in 0..OFFERED * self.wires.len() as u16 {
            let client = if self.case.is_one_client { 100 } else { 100 + n % 150 };
            let body = Body::Udp { sport: 2000 + n, dport: 80, is_summed: true, payload: &[1] };
            let frame = packet(WAN, at(WAN, false, client), at(WAN, false, 10), 0, &body);
            let queue = usize::from(n) % self.wires.len();
            self.wires[queue][WAN].put(Frame::new(PortId(WAN as u16), &frame)).unwrap();
            self.offered += 1;
        }
        until("each packet is sent or dropped", || {
            let taken = self.wires.iter().flat_map(|wires| std::iter::from_fn(|| wires[LAN].take()));
            self.through += taken.count() as u64;
            self.through + self.dropped() == self.offered
        });
        (self.through - before, begun.elapsed().as_secs_f64())
    }

    fn dropped(&self) -> u64 {
        let of = |worker: &Arc<lb_core::counters::WorkerCounters>| {
            let reasons = DropReason::ALL.iter();
            reasons.flat_map(|reason| Hook::ALL.map(|hook| worker.dropped(*reason, hook).get())).sum::<u64>()
        };
        self.team.counters().iter().map(of).sum()
    }

    /// That each real server has.
    fn connections(&self) -> Vec<u64> {
        let of = |server: &Server| {
            let cells = self.team.counters().iter().map(|worker| worker.server(server.id));
            cells.map(|cell| cell.active.get() + cell.inactive.get()).sum()
        };
        self.servers.iter().map(of).collect()
    }

    fn end_all(&self) {
        let mut end = |_: &_| ControlFlow::Continue(Some(Order::plain(Deed::End)));
        self.team.order_flows(&Sought::default(), &mut end).unwrap();
        // The last one has been taken from its queue by then, and may not be over yet.
        until("nothing is left", || {
            let limited = self.limiter.as_ref().map_or(0, |limiter| limiter.connections());
            let is_free = self.servers.iter().all(|server| !server.is_overloaded());
            self.connections().iter().sum::<u64>() == 0 && limited == 0 && is_free
        });
    }
}

fn service(case: Case) -> Service {
    let server = |n: u16| Server {
        id: ServerId(n.into()),
        address: at(LAN, false, 11 + n),
        port: 80,
        weight: 1,
        last_weight: 1,
        forward: Forward::Masq,
        upper_threshold: case.upper_threshold,
        lower_threshold: 0,
        overloaded: Arc::default(),
    };
    let key = ServiceKey::new(Protocol::UDP, at(WAN, false, 10), 80);
    let servers = (0..SERVERS).map(server).collect();
    let mut service = Service::new(None, ServiceId(0), key, SchedulerKind::ALL[0], servers, 1);
    service.options.limits = case.limits;
    if case.is_persistent {
        let mask = lb_core::tables::ClientMask::ipv4("255.255.255.255".parse().unwrap());
        service.options.persistence = Some(Persistence { timeout: Timeout::from_secs(300), mask });
    }
    service.limiter = Limiters::new(SEED).make(None, case.limits);
    service
}

/// There, and back, and there again: `bound` has the workers, and says how many connections there may be at most.
fn holds_a_number(case: Case, least: u32, bound: fn(u32) -> u32) {
    for workers in [2, 4, 16] {
        let mut director = Director::new(workers, case);
        for time in ["at first", "when all have ended"] {
            let (begun, _) = director.offer();
            let connections = director.connections();
            let (least, most) = (u64::from(least), u64::from(bound(workers.into())));
            assert!(
                (least..=most).contains(&begun),
                "{workers} workers, {time}: {begun} of {least}..={most}"
            );
            // Those of templates count among them.
            assert!(connections.iter().sum::<u64>() >= begun, "{connections:?}");
            if let Some(limiter) = director.limiter.as_ref().filter(|_| case.limits.connections > 0) {
                assert_eq!(u64::from(limiter.connections()), begun);
            }
            if case.is_persistent {
                // A template stays until its time is over.
                break;
            }
            director.end_all();
        }
    }
}

/// `bound`: what may be let pass at once.
fn holds_a_rate(case: Case, bound: fn(u32) -> u32) {
    for workers in [2, 4, 16] {
        let mut director = Director::new(workers, case);
        let (mut begun, mut seconds) = (0, 0.0);
        for time in ["at first", "when all have ended"] {
            let (more, took) = director.offer();
            (begun, seconds) = (begun + more, seconds + took);
            let most = f64::from(bound(workers.into())) + seconds.ceil();
            assert!(begun >= LIMIT.into(), "{workers} workers, {time}: {begun}");
            assert!(begun as f64 <= most, "{workers} workers, {time}: {begun} of {most} in {seconds} s");
            director.end_all();
        }
    }
}

const fn one_for_each_other_worker(workers: u32) -> u32 {
    LIMIT + workers - 1
}

#[test]
fn a_services_connections_are_limited() {
    let limits = ConnLimits { connections: LIMIT, ..ConnLimits::NONE };
    holds_a_number(Case { limits, ..Case::default() }, LIMIT, one_for_each_other_worker);
}

#[test]
fn a_sources_connections_are_limited() {
    let limits = ConnLimits { source_connections: LIMIT, ..ConnLimits::NONE };
    let case = Case { limits, is_one_client: true, ..Case::default() };
    holds_a_number(case, LIMIT, one_for_each_other_worker);
}

#[test]
fn connections_whose_first_packets_go_to_their_template_are_limited() {
    let limits = ConnLimits { connections: LIMIT, source_connections: LIMIT, ..ConnLimits::NONE };
    let case = Case { limits, is_one_client: true, is_persistent: true, ..Case::default() };
    holds_a_number(case, LIMIT, one_for_each_other_worker);
    let rules = &["INPUT -p udp -m connlimit --connlimit-above 25 -j DROP"];
    let limits = ConnLimits::NONE;
    holds_a_number(Case { rules, limits, ..case }, LIMIT, one_for_each_other_worker);
}

#[test]
fn real_servers_take_no_connections_above_their_threshold() {
    let case = Case { upper_threshold: LIMIT, ..Case::default() };
    holds_a_number(case, 2 * LIMIT, |workers| 2 * one_for_each_other_worker(workers));
}

#[test]
fn connections_of_an_address_are_limited_by_rules() {
    let rules = &["INPUT -p udp -m connlimit --connlimit-above 25 -j DROP"];
    let case = Case { rules, is_one_client: true, ..Case::default() };
    holds_a_number(case, LIMIT, one_for_each_other_worker);
}

#[test]
fn a_services_rate_is_exceeded_by_its_burst_for_each_other_worker_at_most() {
    let limits = ConnLimits { rate: Some(SLOW), ..ConnLimits::NONE };
    holds_a_rate(Case { limits, ..Case::default() }, |workers| LIMIT * workers);
}

#[test]
fn a_sources_rate_is_exceeded_by_its_burst_for_each_other_worker_at_most() {
    let limits = ConnLimits { source_rate: Some(SLOW), ..ConnLimits::NONE };
    holds_a_rate(Case { limits, is_one_client: true, ..Case::default() }, |workers| LIMIT * workers);
}

#[test]
fn a_rules_rate_is_never_exceeded() {
    let rules: &[&str] =
        &["INPUT -p udp -m limit --limit 1/s --limit-burst 25 -j ACCEPT", "INPUT -p udp -j DROP"];
    holds_a_rate(Case { rules, ..Case::default() }, |_| LIMIT);
}

#[test]
fn a_rate_of_each_address_is_exceeded_by_its_burst_for_each_other_worker_at_most() {
    let rules: &[&str] = &[
        "INPUT -p udp -m hashlimit --hashlimit-above 1/s --hashlimit-burst 25 --hashlimit-mode srcip --hashlimit-name x -j DROP",
    ];
    holds_a_rate(Case { rules, is_one_client: true, ..Case::default() }, |workers| LIMIT * workers);
}
