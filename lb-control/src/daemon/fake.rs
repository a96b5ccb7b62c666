//! A data plane without packets, for tests: it adopts tables when it is told to, and counts what it is told to.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use lb_core::conntrack::Zones;
use lb_core::counters::WorkerCounters;
use lb_core::flow::{Method, Tuple};
use lb_core::ids::{PortId, ServerId};
use lb_core::path::{Beginning, Deed, FlowView, Known, Order, Outcome, SharedFlow, Sought};
use lb_core::tables::{InterfaceId, Protocol, Services, Tables};
use lb_core::time::Timeout;

use super::{Control, Host};
use crate::compile::Network;
use crate::config::{Config, PortAddress};
use crate::plane::{Plane, PortState};
use crate::twin::TwinCounters;

pub(crate) struct FakePlane {
    pub(crate) workers: Vec<Arc<WorkerCounters>>,
    pub(crate) published: Mutex<Vec<Arc<Tables>>>,
    /// Workers do not adopt what is published.
    pub(crate) is_deaf: AtomicBool,
    /// The port has no link; its twin was deleted.
    pub(crate) is_unplugged: AtomicBool,
    pub(crate) is_twin_gone: AtomicBool,
    /// The workers do not take packets yet.
    pub(crate) is_carrying_over: AtomicBool,
    /// Connections that are listed.
    pub(crate) flows: AtomicU32,
    /// What tracking knows of each.
    pub(crate) known: Mutex<Known>,
    /// Those that were ended.
    pub(crate) ended: Mutex<Vec<Tuple>>,
    /// How many of them were asked for.
    pub(crate) listed: AtomicU32,
    pub(crate) is_sharing: AtomicBool,
    /// Packets that the port lost, and some more.
    pub(crate) lost: AtomicU64,
    /// Walks that were asked for; whole or not.
    pub(crate) walks: Mutex<Vec<bool>>,
    /// What workers tell of, and what they are given.
    pub(crate) told: Mutex<Vec<SharedFlow>>,
    pub(crate) given: Mutex<Vec<(SharedFlow, ServerId)>>,
}

impl FakePlane {
    pub(crate) fn new(workers: usize) -> Arc<FakePlane> {
        let workers: Vec<_> = (0..workers).map(|_| Arc::new(WorkerCounters::new(64, 2))).collect();
        workers.iter().for_each(|worker| worker.flows.capacity.set(500));
        Arc::new(FakePlane {
            workers,
            published: Mutex::default(),
            is_deaf: AtomicBool::new(false),
            is_unplugged: AtomicBool::new(false),
            is_carrying_over: AtomicBool::new(false),
            is_twin_gone: AtomicBool::new(false),
            flows: AtomicU32::new(0),
            known: Mutex::default(),
            ended: Mutex::default(),
            listed: AtomicU32::new(0),
            is_sharing: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            walks: Mutex::default(),
            told: Mutex::default(),
            given: Mutex::default(),
        })
    }

    pub(crate) fn tables(&self) -> Arc<Tables> {
        self.published.lock().expect("not poisoned").last().expect("something was published").clone()
    }

    pub(crate) fn publications(&self) -> usize {
        self.published.lock().expect("not poisoned").len()
    }
}

impl Plane for FakePlane {
    fn follow_links(&self) {}

    fn publish(&self, tables: Arc<Tables>) {
        if !self.is_deaf.load(Relaxed) {
            self.workers.iter().for_each(|worker| worker.turns.generation.set(tables.generation.into()));
        }
        self.published.lock().expect("not poisoned").push(tables);
    }

    fn all_use(&self, generation: u32) -> bool {
        self.workers.iter().all(|worker| worker.turns.generation.get() == u64::from(generation))
    }

    fn takes_packets(&self) -> bool {
        !self.is_carrying_over.load(Relaxed)
    }

    fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.workers
    }

    fn ports(&self) -> Vec<PortState> {
        let mac = [2, 0, 0, 0, 0, 0xab];
        vec![PortState {
            mac,
            link_up: !self.is_unplugged.load(Relaxed),
            twin_is_gone: self.is_twin_gone.load(Relaxed),
            rx_missed: 3 + self.lost.load(Relaxed),
            tx_errors: 5,
            twin_refused: 6,
            ..PortState::default()
        }]
    }

    fn list_flows(
        &self,
        sought: &Sought,
        visit: &mut dyn FnMut(FlowView) -> ControlFlow<()>,
    ) -> Result<(), String> {
        for n in 0..self.flows.load(Relaxed) {
            self.listed.store(n + 1, Relaxed);
            let address = |first| (IpAddr::V4(Ipv4Addr::from(first + n)), 80);
            let view = FlowView {
                is_template: false,
                is_tracked: false,
                known: *self.known.lock().expect("not poisoned"),
                protocol: Protocol::TCP,
                client: address(0x0b00_0000),
                virtual_: address(0xc000_0201 - n),
                server: address(0x0a00_0000),
                local: None,
                call: None,
                server_id: ServerId(0),
                method: Method::Masq,
                state: "ESTABLISHED",
                expires_in: Timeout::from_secs(899),
            };
            if sought.fits(&view) && visit(view).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn order_flows(
        &self,
        sought: &Sought,
        choose: &mut dyn FnMut(&FlowView) -> ControlFlow<(), Option<Order>>,
    ) -> Result<(), String> {
        self.list_flows(sought, &mut |view| {
            if choose(&view)? == Some(Order::plain(Deed::End)) {
                self.ended.lock().expect("not poisoned").push(view.original());
            }
            ControlFlow::Continue(())
        })
    }

    fn begin_flow(&self, _: Tuple, _: Zones, _: &Beginning) -> Result<Outcome, String> {
        Ok(Outcome::Full)
    }

    fn ask_flow(&self, _: Tuple, _: Order) -> Result<Outcome, String> {
        Ok(Outcome::Absent)
    }

    fn next_question(&self) -> Option<(InterfaceId, IpAddr)> {
        None
    }

    fn set_sharing(&self, is_on: bool) {
        self.is_sharing.store(is_on, Relaxed);
    }

    fn begin_walk(&self, is_whole: bool) {
        self.walks.lock().expect("not poisoned").push(is_whole);
    }

    fn is_walk_over(&self) -> bool {
        self.told.lock().expect("not poisoned").is_empty()
    }

    fn read_shared(&self, most: usize, visit: &mut dyn FnMut(SharedFlow)) {
        let mut told = self.told.lock().expect("not poisoned");
        let count = most.min(told.len());
        told.drain(..count).for_each(visit);
    }

    fn give(&self, flow: SharedFlow, server: ServerId) -> bool {
        self.given.lock().expect("not poisoned").push((flow, server));
        true
    }

    fn buffers_in_use(&self) -> u32 {
        77
    }

    fn cycles_per_second(&self) -> u64 {
        2_000_000_000
    }
}

/// A port and the addresses that it was to have.
type Addressed = (PortId, Vec<PortAddress>);

/// Remembers what it was told.
#[derive(Clone, Default)]
pub(crate) struct FakeHost {
    pub(crate) addresses: Arc<Mutex<Vec<Addressed>>>,
    pub(crate) kept: Arc<Mutex<Vec<IpAddr>>>,
    pub(crate) problems: Arc<Mutex<Vec<String>>>,
    pub(crate) counters: Arc<TwinCounters>,
}

impl Host for FakeHost {
    fn set_addresses(&self, port: PortId, addresses: &[PortAddress]) {
        self.addresses.lock().expect("not poisoned").push((port, addresses.to_vec()));
    }

    fn keep_neighbours(&self, services: &Arc<Services>) {
        let mut hosts: Vec<IpAddr> = services.server_addresses().collect();
        hosts.sort();
        *self.kept.lock().expect("not poisoned") = hosts;
    }

    fn has_interface(&self, name: &str) -> bool {
        name == "eth0"
    }

    fn problems(&self) -> Vec<String> {
        self.problems.lock().expect("not poisoned").clone()
    }

    fn counters(&self) -> &TwinCounters {
        &self.counters
    }
}

const HEAD: &str = r#"
[dataplane]
workers = [4, 6]
max_servers = 64
[[port]]
name = "wan"
device = "net_null0"
"#;

/// A config with two workers, a port and `more`.
pub(crate) fn config(more: &str) -> Config {
    Config::parse(&format!("{HEAD}{more}")).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// A daemon with that config over a fake plane; nothing outlives it.
pub(crate) fn start(more: &str) -> (Control, Arc<FakePlane>, FakeHost) {
    start_from(more, None)
}

/// As [`start`], with a model's file.
pub(crate) fn start_from(more: &str, model_file: Option<&Path>) -> (Control, Arc<FakePlane>, FakeHost) {
    let (plane, host) = (FakePlane::new(2), FakeHost::default());
    let network = Network::default();
    let control = Control::start(
        config(more),
        "lb.toml".into(),
        model_file,
        plane.clone(),
        Box::new(host.clone()),
        &network,
    )
    .unwrap_or_else(|error| panic!("{error}"));
    (control, plane, host)
}

/// A daemon with so many real servers, a thousand to a service.
pub(crate) fn start_large(servers: usize) -> (Control, Arc<FakePlane>) {
    let server = |n: usize| format!("{{ address = \"10.{}.{}.{}:8080\" }}", n >> 16, (n >> 8) & 255, n & 255);
    let service = |(number, servers): (usize, &[usize])| {
        let servers: Vec<String> = servers.iter().copied().map(server).collect();
        let servers = servers.join(", ");
        format!("[[virtual_service]]\naddress = \"192.0.2.{}:80\"\nreal_servers = [{servers}]\n", number + 1)
    };
    let servers: Vec<usize> = (0..servers).collect();
    let services: String = servers.chunks(1000).enumerate().map(service).collect();
    let head = HEAD.replace("max_servers = 64", &format!("max_servers = {}", servers.len()));
    let config = Config::parse(&(head + &services)).unwrap_or_else(|errors| panic!("{errors:?}"));
    let mut plane = FakePlane::new(2);
    let counters = || Arc::new(WorkerCounters::new(servers.len(), 2));
    Arc::get_mut(&mut plane).expect("nobody has it yet").workers = vec![counters(), counters()];
    let host = Box::new(FakeHost::default());
    let control = Control::start(config, "lb.toml".into(), None, plane.clone(), host, &Network::default());
    (control.unwrap_or_else(|error| panic!("{error}")), plane)
}
