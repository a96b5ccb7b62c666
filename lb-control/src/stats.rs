//! Statistics of services and real servers: how much since when, and how fast?
//!
//! Workers count for each real server and are never written to from here. What an operator sees is their sum less a
//! baseline that the control plane keeps: `-Z` moves the baseline. A service's figures are those of its real
//! servers while they were its, so that they do not shrink when one is removed (as in the kernel, which counts for both at each packet).

use std::hash::Hash;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use lb_core::counters::{Counter, ServiceCell, WorkerCounters};
use lb_core::ids::{ServerId, ServiceId};
use lb_core::ipvs::limiter::Limit;
use lb_core::tables::Service;

use crate::api::types::{Counts, Rates};
use crate::compile::ServiceChange;

/// Seconds between two calls of [`Statistics::estimate`]: the kernel's.
pub const ESTIMATE_EVERY_SECS: u64 = 2;

const LIMITS: usize = Limit::ALL.len();

/// Statistics of all services and real servers.
#[derive(Default)]
pub struct Statistics {
    services: HashMap<ServiceId, ServiceStatistics>,
    servers: HashMap<ServerId, ServerStatistics>,
    baselines: Baselines,
}

/// What is taken off the workers' counts. A copy is cheap, and with it another thread can tell what was counted.
#[derive(Clone, Default)]
pub struct Baselines {
    /// Of those for which it is not 0.
    servers: Arc<HashMap<ServerId, Counts>>,
    services: Arc<HashMap<ServiceId, ServiceBaseline>>,
    /// Largest server id that ever was, plus 1.
    servers_seen: usize,
}

/// As [`Baselines::flood`] and [`Baselines::limited`], of services that had the number before.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct ServiceBaseline {
    flood: [u64; 4],
    limited: [u64; LIMITS],
}

impl Baselines {
    /// What a real server of the model counted.
    pub fn server(&self, id: ServerId, workers: &[Arc<WorkerCounters>]) -> Counts {
        raw(workers, id).less(self.servers.get(&id).copied().unwrap_or_default())
    }

    /// SYN cookies that the clients of a service of the model were sent, that they acknowledged, and acknowledgements of none; and packets that went by hash alone.
    pub fn flood(&self, id: ServiceId, workers: &[Arc<WorkerCounters>]) -> [u64; 4] {
        let (raw, before) = (raw_flood(workers, id), self.service(id).flood);
        std::array::from_fn(|which| raw[which].wrapping_sub(before[which]))
    }

    /// New connections of a service of the model that were not let in, by limit, in the order of [`Limit::ALL`].
    pub fn limited(&self, id: ServiceId, workers: &[Arc<WorkerCounters>]) -> [u64; LIMITS] {
        let (raw, before) = (raw_limited(workers, id), self.service(id).limited);
        std::array::from_fn(|which| raw[which].wrapping_sub(before[which]))
    }

    /// All that was ever counted, whatever was removed or zeroed since.
    pub fn total(&self, workers: &[Arc<WorkerCounters>]) -> Counts {
        (0..self.servers_seen).fold(Counts::default(), |sum, id| sum.plus(raw(workers, ServerId(id as u32))))
    }

    /// Connections of all real servers now, of those too that were removed.
    pub fn connections(&self, workers: &[Arc<WorkerCounters>]) -> u64 {
        let of_server = |id| {
            let (active, inactive) = connections(workers, ServerId(id as u32));
            active + inactive
        };
        (0..self.servers_seen).map(of_server).sum()
    }

    fn service(&self, id: ServiceId) -> ServiceBaseline {
        self.services.get(&id).copied().unwrap_or_default()
    }

    fn set_server(&mut self, id: ServerId, baseline: Counts) {
        set(&mut self.servers, id, baseline);
    }

    fn set_service(&mut self, id: ServiceId, baseline: ServiceBaseline) {
        set(&mut self.services, id, baseline);
    }
}

/// Does not copy the map of who has an older one for what stays as it is.
fn set<K: Copy + Eq + Hash, V: Copy + Eq + Default>(map: &mut Arc<HashMap<K, V>>, key: K, value: V) {
    if map.get(&key).copied().unwrap_or_default() == value {
        return;
    }
    let map = Arc::make_mut(map);
    if value == V::default() {
        map.remove(&key);
    } else {
        map.insert(key, value);
    }
}

#[derive(Default)]
struct ServiceStatistics {
    service: Option<Arc<Service>>,
    /// Of real servers that are not its any more, and less by what was zeroed.
    carried: Counts,
    estimator: Estimator,
}

#[derive(Default)]
struct ServerStatistics {
    /// What the service does not count: from before the server was added, or before the service was zeroed.
    service_baseline: Counts,
    estimator: Estimator,
}

impl Statistics {
    /// Takes note of the services that changed: call it after each change of the model, before [`Statistics::zero`].
    pub fn follow(&mut self, changes: &[ServiceChange], workers: &[Arc<WorkerCounters>]) {
        // First those that are gone: another service may have their number by now.
        for ServiceChange { old, new, .. } in changes {
            let id = |service: &Option<Arc<Service>>| service.as_ref().map(|service| service.id);
            if let Some(gone) = id(old).filter(|_| id(old) != id(new)) {
                self.services.remove(&gone);
                self.baselines.set_service(gone, ServiceBaseline::default());
            }
        }
        for service in changes.iter().filter_map(|change| change.new.as_ref()) {
            let known = self.services.entry(service.id).or_insert_with(|| {
                let (flood, limited) = (raw_flood(workers, service.id), raw_limited(workers, service.id));
                self.baselines.set_service(service.id, ServiceBaseline { flood, limited });
                ServiceStatistics::default()
            });
            let old = known.service.replace(service.clone());
            let old_ids = ids(old.as_deref());
            let new_ids = ids(Some(service));
            for &gone in old_ids.difference(&new_ids) {
                let server = self.servers.entry(gone).or_default();
                known.carried = known.carried.plus(raw(workers, gone).less(server.service_baseline));
            }
            for &added in new_ids.difference(&old_ids) {
                self.servers.entry(added).or_default().service_baseline = raw(workers, added);
                self.baselines.servers_seen = self.baselines.servers_seen.max(added.index() + 1);
            }
        }
    }

    /// Starts the statistics of these services and real servers at 0.
    pub fn zero(
        &mut self,
        services: &HashSet<ServiceId>,
        servers: &HashSet<ServerId>,
        workers: &[Arc<WorkerCounters>],
    ) {
        for id in services {
            let Some(known) = self.services.get_mut(id) else { continue };
            known.carried = Counts::default();
            known.estimator = Estimator::default();
            for server in known.service.iter().flat_map(|service| &service.servers) {
                self.servers.entry(server.id).or_default().service_baseline = raw(workers, server.id);
            }
        }
        for &id in servers {
            self.servers.entry(id).or_default().estimator = Estimator::default();
            self.baselines.set_server(id, raw(workers, id));
        }
    }

    /// Forgets a real server whose id may be given to another one.
    pub fn forget(&mut self, id: ServerId) {
        self.servers.remove(&id);
        self.baselines.set_server(id, Counts::default());
    }

    pub fn baselines(&self) -> &Baselines {
        &self.baselines
    }

    pub fn server(&self, id: ServerId, workers: &[Arc<WorkerCounters>]) -> (Counts, Rates) {
        let Some(known) = self.servers.get(&id) else { return Default::default() };
        (self.baselines.server(id, workers), known.estimator.rates())
    }

    pub fn service(&self, id: ServiceId, workers: &[Arc<WorkerCounters>]) -> (Counts, Rates) {
        let Some(known) = self.services.get(&id) else { return Default::default() };
        (self.service_counts(known, workers), known.estimator.rates())
    }

    fn service_counts(&self, known: &ServiceStatistics, workers: &[Arc<WorkerCounters>]) -> Counts {
        let servers = known.service.iter().flat_map(|service| &service.servers);
        servers.fold(known.carried, |sum, server| {
            let baseline = self.servers.get(&server.id).map_or(Counts::default(), |s| s.service_baseline);
            sum.plus(raw(workers, server.id).less(baseline))
        })
    }

    /// Moves every estimator on; call it every [`ESTIMATE_EVERY_SECS`].
    pub fn estimate(&mut self, workers: &[Arc<WorkerCounters>]) {
        let services: Vec<_> =
            self.services.iter().map(|(&id, known)| (id, self.service_counts(known, workers))).collect();
        for (id, counts) in services {
            if let Some(known) = self.services.get_mut(&id) {
                known.estimator.step(counts);
            }
        }
        for (&id, known) in &mut self.servers {
            known.estimator.step(self.baselines.server(id, workers));
        }
    }
}

fn raw_flood(workers: &[Arc<WorkerCounters>], id: ServiceId) -> [u64; 4] {
    let sum = |count: fn(&ServiceCell) -> &Counter| {
        workers.iter().map(|worker| count(worker.service(id)).get()).fold(0, u64::wrapping_add)
    };
    [
        sum(|cell| &cell.cookies_sent),
        sum(|cell| &cell.cookies_accepted),
        sum(|cell| &cell.cookies_rejected),
        sum(|cell| &cell.hashed),
    ]
}

fn raw_limited(workers: &[Arc<WorkerCounters>], id: ServiceId) -> [u64; LIMITS] {
    std::array::from_fn(|which| {
        let counts = workers.iter().map(|worker| worker.service(id).limited[which].get());
        counts.fold(0, u64::wrapping_add)
    })
}

fn ids(service: Option<&Service>) -> HashSet<ServerId> {
    service.iter().flat_map(|service| service.servers.iter().map(|server| server.id)).collect()
}

/// The workers' counts of a real server, added up.
fn raw(workers: &[Arc<WorkerCounters>], id: ServerId) -> Counts {
    let mut sum = Counts::default();
    for worker in workers.iter().filter(|worker| id.index() < worker.server_capacity()) {
        let cell = worker.server(id);
        sum.connections += cell.connections.get();
        sum.in_packets += cell.in_packets.get();
        sum.out_packets += cell.out_packets.get();
        sum.in_bytes += cell.in_bytes.get();
        sum.out_bytes += cell.out_bytes.get();
    }
    sum
}

/// Connections of a real server now, that are active and that are not.
pub fn connections(workers: &[Arc<WorkerCounters>], id: ServerId) -> (u64, u64) {
    let (mut active, mut inactive) = (0, 0);
    for worker in workers.iter().filter(|worker| id.index() < worker.server_capacity()) {
        active += worker.server(id).active.get();
        inactive += worker.server(id).inactive.get();
    }
    (active, inactive)
}

/// Persistence templates of a real server, over all workers.
pub fn templates(workers: &[Arc<WorkerCounters>], id: ServerId) -> u64 {
    let workers = workers.iter().filter(|worker| id.index() < worker.server_capacity());
    workers.map(|worker| worker.server(id).persistent.get()).sum()
}

impl Counts {
    fn zip(self, other: Counts, f: impl Fn(u64, u64) -> u64) -> Counts {
        Counts {
            connections: f(self.connections, other.connections),
            in_packets: f(self.in_packets, other.in_packets),
            out_packets: f(self.out_packets, other.out_packets),
            in_bytes: f(self.in_bytes, other.in_bytes),
            out_bytes: f(self.out_bytes, other.out_bytes),
        }
    }

    fn plus(self, other: Counts) -> Counts {
        self.zip(other, u64::wrapping_add)
    }

    fn less(self, other: Counts) -> Counts {
        self.zip(other, u64::saturating_sub)
    }
}

/// A moving average: each step adds a quarter of the distance to the last two seconds' rate.
///
/// Source of the scales and the rounding: Linux, net/netfilter/ipvs/ip_vs_est.c (connections and packets in 1/1024,
/// bytes in 1/32 a second).
#[derive(Default)]
struct Estimator {
    last: Counts,
    scaled: Counts,
}

impl Estimator {
    fn step(&mut self, counts: Counts) {
        let new = counts.less(self.last);
        self.last = counts;
        // A count of two seconds, halved and scaled.
        let new = Counts {
            connections: new.connections << 9,
            in_packets: new.in_packets << 9,
            out_packets: new.out_packets << 9,
            in_bytes: new.in_bytes << 4,
            out_bytes: new.out_bytes << 4,
        };
        self.scaled = self.scaled.zip(new, |old, new| {
            let step = (new as i64).wrapping_sub(old as i64) >> 2;
            old.wrapping_add_signed(step)
        });
    }

    fn rates(&self) -> Rates {
        let units = |scaled: u64| (scaled + 0x1ff) >> 10;
        let bytes = |scaled: u64| (scaled + 0xf) >> 5;
        Rates {
            connections: units(self.scaled.connections),
            in_packets: units(self.scaled.in_packets),
            out_packets: units(self.scaled.out_packets),
            in_bytes: bytes(self.scaled.in_bytes),
            out_bytes: bytes(self.scaled.out_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_core::tables::Settings;

    use super::*;
    use crate::api::types::{Command, ServerSpec, ServiceSpec};
    use crate::compile::Compiler;
    use crate::model::{Change, Limits, Model};

    struct Bench {
        model: Model,
        compiler: Compiler,
        statistics: Statistics,
        workers: Vec<Arc<WorkerCounters>>,
    }

    impl Bench {
        fn new() -> Bench {
            let limits = Limits { services: 8, servers: 8 };
            let workers = vec![Arc::new(WorkerCounters::new(8, 1)), Arc::new(WorkerCounters::new(8, 1))];
            let (model, compiler) = (Model::new(limits), Compiler::default());
            Bench { model, compiler, statistics: Statistics::default(), workers }
        }

        fn apply(&mut self, command: Command) {
            let Change { zeroed_services, zeroed_servers, services, .. } =
                self.model.apply(&command).expect("right");
            let changes = self.compiler.changes(&self.model, services);
            self.compiler.with_changes(&changes, Settings::default());
            self.statistics.follow(&changes, &self.workers);
            self.statistics.zero(&zeroed_services, &zeroed_servers, &self.workers);
        }

        fn add_service(&mut self) {
            self.apply(Command::AddService(ServiceSpec::new(service(), "rr")));
        }

        fn add_server(&mut self, server: &str) {
            let server = ServerSpec::new(server.parse().expect("an address"));
            self.apply(Command::AddServer { service: service(), server });
        }

        fn delete_server(&mut self, server: &str) {
            self.apply(Command::DeleteServer {
                service: service(),
                server: server.parse().expect("an address"),
            });
        }

        fn id(&self, server: &str) -> ServerId {
            let service = self.model.find(&service()).expect("it is there");
            let is_it = |s: &&lb_core::tables::Server| format!("{}:{}", s.address, s.port) == server;
            service.servers.iter().find(is_it).expect("it is there").id
        }

        fn connect(&self, server: &str, times: u64) {
            self.workers[times as usize % 2].server(self.id(server)).connections.add(times);
        }

        fn of_server(&self, server: &str) -> u64 {
            self.statistics.server(self.id(server), &self.workers).0.connections
        }

        fn of_service(&self) -> u64 {
            let id = self.model.find(&service()).expect("it is there").id;
            self.statistics.service(id, &self.workers).0.connections
        }
    }

    fn service() -> crate::api::types::ServiceAddress {
        "tcp/192.0.2.1:80".parse().expect("an address")
    }

    #[test]
    fn a_service_counts_what_its_servers_counted_while_they_were_its() {
        let mut bench = Bench::new();
        bench.add_service();
        bench.add_server("10.0.0.1:80");
        bench.add_server("10.0.0.2:80");
        bench.connect("10.0.0.1:80", 3);
        bench.connect("10.0.0.2:80", 4);
        assert_eq!((bench.of_server("10.0.0.1:80"), bench.of_service()), (3, 7));
        bench.delete_server("10.0.0.2:80");
        assert_eq!(bench.of_service(), 7, "the removed server's count stays with the service");
        bench.add_server("10.0.0.2:80");
        assert_eq!(bench.of_server("10.0.0.2:80"), 4, "a server that is added again has its counters back");
        assert_eq!(bench.of_service(), 7, "and they are not counted twice");
        bench.connect("10.0.0.2:80", 1);
        assert_eq!((bench.of_server("10.0.0.2:80"), bench.of_service()), (5, 8));
        assert_eq!(bench.statistics.baselines().total(&bench.workers).connections, 8);
    }

    #[test]
    fn a_service_counts_nothing_of_a_flood_of_one_that_had_its_number_before() {
        let mut bench = Bench::new();
        bench.add_service();
        let id = bench.model.find(&service()).expect("it is there").id;
        bench.workers.iter().for_each(|worker| worker.service(id).cookies_sent.add(4));
        bench.workers.iter().for_each(|worker| worker.service(id).limited[1].add(4));
        assert_eq!(bench.statistics.baselines().flood(id, &bench.workers), [8, 0, 0, 0]);
        assert_eq!(bench.statistics.baselines().limited(id, &bench.workers), [0, 8, 0, 0]);
        bench.apply(Command::EditService(ServiceSpec::new(service(), "wrr")));
        assert_eq!(bench.statistics.baselines().flood(id, &bench.workers), [8, 0, 0, 0]);
        bench.apply(Command::DeleteService { service: service() });
        bench.add_service();
        assert_eq!(bench.model.find(&service()).expect("it is there").id, id);
        bench.workers[0].service(id).cookies_accepted.add(1);
        bench.workers[0].service(id).limited[0].add(1);
        assert_eq!(bench.statistics.baselines().flood(id, &bench.workers), [0, 1, 0, 0]);
        assert_eq!(bench.statistics.baselines().limited(id, &bench.workers), [1, 0, 0, 0]);
    }

    #[test]
    fn zeroing_moves_the_baseline_and_leaves_the_workers_counters_alone() {
        let mut bench = Bench::new();
        bench.add_service();
        bench.add_server("10.0.0.1:80");
        bench.connect("10.0.0.1:80", 9);
        bench.apply(Command::Zero { service: Some(service()) });
        assert_eq!((bench.of_server("10.0.0.1:80"), bench.of_service()), (0, 0));
        assert_eq!(bench.workers[1].server(bench.id("10.0.0.1:80")).connections.get(), 9);
        bench.connect("10.0.0.1:80", 2);
        assert_eq!((bench.of_server("10.0.0.1:80"), bench.of_service()), (2, 2));
        assert_eq!(
            bench.statistics.baselines().total(&bench.workers).connections,
            11,
            "the total never falls"
        );
    }

    #[test]
    fn a_new_service_under_an_old_name_starts_at_zero() {
        let mut bench = Bench::new();
        bench.add_service();
        bench.add_server("10.0.0.1:80");
        bench.connect("10.0.0.1:80", 5);
        bench.apply(Command::DeleteService { service: service() });
        bench.add_service();
        bench.add_server("10.0.0.1:80");
        assert_eq!((bench.of_server("10.0.0.1:80"), bench.of_service()), (0, 0));
    }

    #[test]
    fn rates_follow_the_kernels_steps() {
        let mut estimator = Estimator::default();
        let mut counts = Counts::default();
        let mut seen = Vec::new();
        for _ in 0..4 {
            counts.connections += 200;
            counts.in_bytes += 2000;
            estimator.step(counts);
            seen.push((estimator.rates().connections, estimator.rates().in_bytes));
        }
        // 100 a second: a quarter of the rest each time, rounded.
        assert_eq!(seen, [(25, 250), (44, 437), (58, 578), (68, 684)]);
        for _ in 0..100 {
            estimator.step(counts);
        }
        assert_eq!(estimator.rates(), Rates::default(), "it falls to 0 without traffic");
    }
}
