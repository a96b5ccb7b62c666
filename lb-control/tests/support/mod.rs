//! The daemon's control plane and API on a socket of its own, without packets.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use lb_control::api::{http, server};
use lb_control::compile::Network;
use lb_control::config::{Config, PortAddress};
use lb_control::daemon::{Control, Host};
use lb_control::plane::{Plane, PortState};
use lb_control::twin::TwinCounters;
use lb_core::conntrack::Zones;
use lb_core::counters::WorkerCounters;
use lb_core::flow::Tuple;
use lb_core::ids::{PortId, ServerId};
use lb_core::path::{Beginning, Deed, FlowView, Order, Outcome, SharedFlow, Sought};
use lb_core::tables::{InterfaceId, Services, Tables};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A worker that forwards nothing and lists what it is given.
struct Quiet {
    workers: [Arc<WorkerCounters>; 1],
    flows: Mutex<Vec<FlowView>>,
}

impl Plane for Quiet {
    fn follow_links(&self) {}

    fn publish(&self, tables: Arc<Tables>) {
        self.workers[0].turns.generation.set(tables.generation.into());
    }

    fn all_use(&self, generation: u32) -> bool {
        self.counters().iter().all(|worker| worker.turns.generation.get() == u64::from(generation))
    }

    fn takes_packets(&self) -> bool {
        true
    }

    fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.workers
    }

    fn ports(&self) -> Vec<PortState> {
        vec![PortState { mac: [2, 0, 0, 0, 0, 1], link_up: true, ..PortState::default() }]
    }

    fn list_flows(
        &self,
        sought: &Sought,
        visit: &mut dyn FnMut(FlowView) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let flows = self.flows.lock().expect("not poisoned").clone();
        let _ = flows.into_iter().filter(|view| sought.fits(view)).try_for_each(visit);
        Ok(())
    }

    fn order_flows(
        &self,
        sought: &Sought,
        choose: &mut dyn FnMut(&FlowView) -> ControlFlow<(), Option<Order>>,
    ) -> Result<(), String> {
        self.flows.lock().expect("not poisoned").retain(|view| {
            !sought.fits(view) || choose(view) != ControlFlow::Continue(Some(Order::plain(Deed::End)))
        });
        Ok(())
    }

    fn begin_flow(&self, _: Tuple, _: Zones, _: &Beginning) -> Result<Outcome, String> {
        Ok(Outcome::Full)
    }

    fn ask_flow(&self, original: Tuple, _: Order) -> Result<Outcome, String> {
        // As of the connection's helper, which has none of these.
        let flows = self.flows.lock().expect("not poisoned");
        let is_there = flows.iter().any(|view| view.original() == original);
        Ok(if is_there { Outcome::Impossible } else { Outcome::Absent })
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
        77
    }

    fn cycles_per_second(&self) -> u64 {
        2_000_000_000
    }
}

/// A host whose addresses nobody changes.
#[derive(Default)]
struct Untouched {
    counters: TwinCounters,
}

impl Host for Untouched {
    fn set_addresses(&self, _: PortId, _: &[PortAddress]) {}

    fn keep_neighbours(&self, _: &Arc<Services>) {}

    fn has_interface(&self, name: &str) -> bool {
        has_interface(name)
    }

    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    fn counters(&self) -> &TwinCounters {
        &self.counters
    }
}

/// As on the machine whose command lines were recorded.
pub(crate) fn has_interface(name: &str) -> bool {
    matches!(name, "lo" | "d0" | "d1")
}

/// The daemon's control plane and API, on a socket in a directory of its own. It ends with this value.
pub(crate) struct Daemon {
    directory: tempfile::TempDir,
    /// Ends the server when it is dropped, as the runtime does.
    _stop: watch::Sender<bool>,
    _runtime: Runtime,
}

impl Daemon {
    pub(crate) fn start(flows: Vec<FlowView>) -> Daemon {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("api.sock");
        let config = r#"
            [dataplane]
            workers = [1]
            [[port]]
            name = "wan"
            device = "net_null0"
        "#;
        let config = Config::parse(config).unwrap_or_else(|errors| panic!("{errors:?}"));
        let servers = config.dataplane.max_servers as usize;
        let plane = Arc::new(Quiet {
            workers: [Arc::new(WorkerCounters::new(servers, 1))],
            flows: Mutex::new(flows),
        });
        let host = Box::new(Untouched::default());
        let control =
            Control::start(config, PathBuf::from("lb.toml"), None, plane.clone(), host, &Network::default())
                .unwrap_or_else(|error| panic!("{error}"));
        let runtime = Runtime::new().expect("a runtime");
        let (stop, stopped) = watch::channel(false);
        runtime.block_on(async {
            let listener = UnixListener::bind(&socket).expect("a socket");
            tokio::spawn(http::serve(listener, server::unix_router(control.spawn(), plane), stopped));
        });
        Daemon { directory, _stop: stop, _runtime: runtime }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("api.sock")
    }
}
