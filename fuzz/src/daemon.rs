//! The daemon's control plane without packets, without Linux, and without sockets.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use lb_control::compile::Network;
use lb_control::config::{Config, PortAddress};
use lb_control::daemon::{Control, Host};
use lb_control::plane::{Plane, PortState};
use lb_control::twin::TwinCounters;
use lb_core::conntrack::Zones;
use lb_core::counters::WorkerCounters;
use lb_core::flow::{Method, Tuple};
use lb_core::ids::{PortId, ServerId};
use lb_core::path::{Beginning, FlowView, Known, Order, Outcome, SharedFlow, Sought};
use lb_core::tables::{InterfaceId, Protocol, Services, Tables};
use lb_core::time::Timeout;

const CONFIG: &str = r#"
[dataplane]
workers = [1]
max_servers = 16
[[port]]
name = "wan"
device = "net_null0"
[[virtual_service]]
address = "192.0.2.1:80"
real_servers = [{ address = "10.0.0.1" }]
"#;

/// A control plane with one service, and what it publishes to.
pub(crate) fn control() -> (Control, Arc<dyn Plane>) {
    let config = Config::parse(CONFIG).unwrap_or_else(|errors| panic!("{errors:?}"));
    let servers = config.dataplane.max_servers as usize;
    let plane: Arc<dyn Plane> = Arc::new(Quiet { workers: [Arc::new(WorkerCounters::new(servers, 1))] });
    let host = Box::new(NoHost::default());
    let control =
        Control::start(config, PathBuf::from("lb.toml"), None, plane.clone(), host, &Network::default());
    (control.unwrap_or_else(|error| panic!("{error}")), plane)
}

/// A worker with one connection, which takes tables and forwards nothing.
struct Quiet {
    workers: [Arc<WorkerCounters>; 1],
}

impl Plane for Quiet {
    fn publish(&self, tables: Arc<Tables>) {
        self.workers[0].turns.generation.set(tables.generation.into());
    }

    fn all_use(&self, generation: u32) -> bool {
        self.workers[0].turns.generation.get() == u64::from(generation)
    }

    fn takes_packets(&self) -> bool {
        true
    }

    fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.workers
    }

    fn follow_links(&self) {}

    fn ports(&self) -> Vec<PortState> {
        vec![PortState { link_up: true, ..PortState::default() }]
    }

    fn list_flows(
        &self,
        _: &Sought,
        visit: &mut dyn FnMut(FlowView) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let _ = visit(FlowView {
            is_template: false,
            is_tracked: false,
            known: Known::default(),
            protocol: Protocol::TCP,
            client: ([198, 51, 100, 1].into(), 4000),
            virtual_: ([192, 0, 2, 1].into(), 80),
            server: ([10, 0, 0, 1].into(), 80),
            local: None,
            call: None,
            server_id: ServerId(0),
            method: Method::Masq,
            state: "ESTABLISHED",
            expires_in: Timeout::from_secs(900),
        });
        Ok(())
    }

    fn order_flows(
        &self,
        sought: &Sought,
        choose: &mut dyn FnMut(&FlowView) -> ControlFlow<(), Option<Order>>,
    ) -> Result<(), String> {
        self.list_flows(sought, &mut |view| {
            choose(&view)?;
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

    fn set_sharing(&self, _: bool) {}

    fn begin_walk(&self, _: bool) {}

    fn is_walk_over(&self) -> bool {
        true
    }

    fn read_shared(&self, _: usize, _: &mut dyn FnMut(SharedFlow)) {}

    fn give(&self, _: SharedFlow, _: ServerId) -> bool {
        false
    }

    fn buffers_in_use(&self) -> u32 {
        0
    }

    fn cycles_per_second(&self) -> u64 {
        2_000_000_000
    }
}

#[derive(Default)]
struct NoHost {
    counters: TwinCounters,
}

impl Host for NoHost {
    fn set_addresses(&self, _: PortId, _: &[PortAddress]) {}

    fn keep_neighbours(&self, _: &Arc<Services>) {}

    fn has_interface(&self, name: &str) -> bool {
        name == "eth0"
    }

    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    fn counters(&self) -> &TwinCounters {
        &self.counters
    }
}
