//! DPDK's data plane behind the control plane's trait: nothing but words translated.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use lb_control::config::{self, Config, Idle};
use lb_control::plane::{Plane, PortState};
use lb_core::conntrack::Zones;
use lb_core::counters::WorkerCounters;
use lb_core::flow::Tuple;
use lb_core::ids::{PortId, ServerId};
use lb_core::path::{Beginning, FlowView, Order, Outcome, SharedFlow, Sought};
use lb_core::tables::{InterfaceId, Tables};
use lb_dataplane::{Dataplane, FlowMemory, Forgotten, PortConfig, StartError, Succession};

pub(crate) struct Dpdk {
    dataplane: Dataplane,
    ports: usize,
}

impl Dpdk {
    /// Starts what the config says.
    ///
    /// # Errors
    /// One line that names what does not start; nothing is left behind.
    pub(crate) fn start(config: &Config) -> Result<Dpdk, StartError> {
        let dataplane = Dataplane::start(wanted(config))?;
        Ok(Dpdk { dataplane, ports: config.ports.len() })
    }

    /// Says what each port is, and what else the start came upon.
    pub(crate) fn log_start(&self) {
        for notice in self.dataplane.notices() {
            tracing::warn!("{notice}");
        }
        for remark in self.dataplane.placement() {
            tracing::info!("{remark}");
        }
        for port in self.dataplane.ports() {
            let (name, device, offloads) = (&port.name, &port.device, port.offloads.join(", "));
            tracing::info!(
                name,
                device,
                driver = port.driver,
                link = port.link,
                queues = port.queues,
                offloads,
                "port"
            );
            if let Some(program) = port.xdp_left {
                tracing::info!(
                    name,
                    device,
                    program,
                    "an XDP program of a run that was killed is taken over, a clean stop removes it"
                );
            }
        }
    }

    /// As [`Dataplane::predecessors`].
    pub(crate) fn predecessors(&self) -> &[String] {
        self.dataplane.predecessors()
    }

    /// Ends the workers, closes the ports.
    pub(crate) fn stop(self) {
        self.dataplane.stop();
    }
}

/// Says what of a config cannot be started on this machine, as far as that can be said without starting it.
///
/// # Errors
/// One line.
pub(crate) fn check(config: &Config) -> Result<(), StartError> {
    lb_dataplane::check(&wanted(config))
}

/// Removes what a stopped data plane left.
///
/// # Errors
/// One line: one that runs has it.
pub(crate) fn forget(config: &Config) -> Result<Forgotten, StartError> {
    lb_dataplane::forget(&flow_memory(config), &ports(config))
}

fn ports(config: &Config) -> Vec<PortConfig> {
    let port = |port: &lb_control::config::Port| PortConfig {
        name: port.name.clone(),
        device: port.device.clone(),
        mtu: port.mtu,
        outside: port.outside,
        twin: true,
    };
    config.ports.iter().map(port).collect()
}

fn wanted(config: &Config) -> lb_dataplane::Config {
    let wanted = &config.dataplane;
    lb_dataplane::Config {
        workers: wanted.workers.clone(),
        driver_args: wanted.driver_args.clone(),
        memory_mb: wanted.memory_mb,
        huge_pages: wanted.huge_pages,
        flow_memory: flow_memory(config),
        max_connections: wanted.max_connections,
        max_ipv6_connections: wanted.max_ipv6_connections,
        max_servers: wanted.max_servers as usize,
        ports: ports(config),
        idle: match wanted.idle {
            Idle::Auto => lb_dataplane::Idle::Auto,
            Idle::Poll => lb_dataplane::Idle::Poll,
            Idle::Pause => lb_dataplane::Idle::Pause,
            Idle::Sleep => lb_dataplane::Idle::Sleep,
            Idle::Interrupt => lb_dataplane::Idle::Interrupt,
        },
        hash_seed: None,
    }
}

/// Where the config has connections kept.
fn flow_memory(config: &Config) -> FlowMemory {
    match &config.dataplane.flow_memory {
        config::FlowMemory::Derived => FlowMemory::Named(config.flow_memory_name()),
        config::FlowMemory::File(path) => FlowMemory::File(path.clone()),
        config::FlowMemory::None => FlowMemory::Forgotten,
    }
}

fn log_succession(succession: &Succession) {
    if let Some(problem) = &succession.problem {
        tracing::warn!("{problem}; no connection is carried over to the next start");
    }
    if let Some(carried) = succession.carried {
        tracing::info!(
            connections = carried.connections,
            expired = carried.expired,
            lost_no_server = carried.no_server,
            lost_no_room = carried.no_room,
            lost_no_port = carried.no_port,
            damaged = carried.damaged,
            after_ms = succession.took.as_millis() as u64,
            "carried over"
        );
    }
}

impl Plane for Dpdk {
    fn publish(&self, tables: Arc<Tables>) {
        self.dataplane.publish(tables);
    }

    fn all_use(&self, generation: u32) -> bool {
        self.dataplane.generation_everywhere(generation)
    }

    fn takes_packets(&self) -> bool {
        let takes_packets = self.dataplane.takes_packets();
        if let Some(succession) = self.dataplane.take_succession() {
            log_succession(&succession);
        }
        takes_packets
    }

    fn counters(&self) -> &[Arc<WorkerCounters>] {
        self.dataplane.counters()
    }

    fn follow_links(&self) {
        self.dataplane.follow_links();
    }

    fn ports(&self) -> Vec<PortState> {
        let state = |index: usize| {
            let stats = self.dataplane.port_stats(PortId(index as u16)).unwrap_or_default();
            let twin = self.dataplane.twin_troubles(PortId(index as u16)).unwrap_or_default();
            let info = &self.dataplane.ports()[index];
            PortState {
                mac: info.mac,
                link_up: stats.link.starts_with("Link up"),
                twin_is_gone: self.dataplane.twin_is_gone(PortId(index as u16)),
                rx_missed: stats.rx_missed + stats.rx_no_buffer,
                rx_errors: stats.rx_errors,
                tx_errors: stats.tx_errors,
                twin_refused: twin.refused + twin.too_long,
                twin_waits: twin.no_buffer,
                queues: info.queues,
                spread: info.spread,
                offloads: info.offloads.clone(),
                bursts: info.bursts.clone(),
            }
        };
        (0..self.ports).map(state).collect()
    }

    fn list_flows(
        &self,
        sought: &Sought,
        visit: &mut dyn FnMut(FlowView) -> ControlFlow<()>,
    ) -> Result<(), String> {
        self.dataplane
            .list_flows(sought, &mut |_, view| visit(view))
            .map_err(|stalled| format!("worker {} does not answer", stalled.0.0))
    }

    fn order_flows(
        &self,
        sought: &Sought,
        choose: &mut dyn FnMut(&FlowView) -> ControlFlow<(), Option<Order>>,
    ) -> Result<(), String> {
        self.dataplane
            .order_flows(sought, choose)
            .map_err(|stalled| format!("worker {} does not answer", stalled.0.0))
    }

    fn begin_flow(&self, original: Tuple, zones: Zones, begin: &Beginning) -> Result<Outcome, String> {
        self.dataplane
            .begin_flow(original, zones, begin)
            .map_err(|stalled| format!("worker {} does not answer", stalled.0.0))
    }

    fn ask_flow(&self, original: Tuple, order: Order) -> Result<Outcome, String> {
        self.dataplane
            .ask_flow(original, order)
            .map_err(|stalled| format!("worker {} does not answer", stalled.0.0))
    }

    fn next_question(&self) -> Option<(InterfaceId, IpAddr)> {
        self.dataplane.resolve_requests().pop()
    }

    fn set_sharing(&self, is_on: bool) {
        self.dataplane.set_sharing(is_on);
    }

    fn begin_walk(&self, is_whole: bool) {
        self.dataplane.begin_walk(is_whole);
    }

    fn is_walk_over(&self) -> bool {
        self.dataplane.is_walk_over()
    }

    fn read_shared(&self, most: usize, visit: &mut dyn FnMut(SharedFlow)) {
        self.dataplane.read_shared(most, visit);
    }

    fn give(&self, flow: SharedFlow, server: ServerId) -> bool {
        self.dataplane.give(flow, server)
    }

    fn buffers_in_use(&self) -> u32 {
        self.dataplane.buffers_in_use()
    }

    fn cycles_per_second(&self) -> u64 {
        self.dataplane.tsc_hz()
    }
}
