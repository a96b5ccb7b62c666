//! What the worker loop itself costs: forwards between pairs of DPDK ports without looking at packets, as
//! `dpdk-testpmd --forward-mode=io` does.
//!
//! `io_forward [SECONDS] [CPU] [DEVICE]…`; without devices two null ports. Prints nanoseconds a packet.

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use lb_core::flow::Tuple;
use lb_core::ids::PortId;
use lb_core::packet::Packet;
use lb_core::path::{BURST, Burst, FlowView, Io, Order, Outcome, Steer};
use lb_core::tables::Tables;
use lb_core::time::Tick;
use lb_dataplane::{Config, Dataplane, Idle, Logic, PortConfig};

/// Everything goes out by the other port of its pair.
struct Across(Arc<Tables>);

impl<P: Packet> Logic<P> for Across {
    fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        std::mem::replace(&mut self.0, tables)
    }

    #[inline]
    fn receive(&mut self, burst: &mut Burst<P>, _: Tick, io: &mut impl Io<P>) {
        for packet in burst.drain(..) {
            io.transmit(PortId(packet.port().0 ^ 1), packet);
        }
    }

    fn receive_handed_over(&mut self, _: &mut ArrayVec<(P, Steer), BURST>, _: Tick, _: &mut impl Io<P>) {}

    fn receive_from_twin(&mut self, _: PortId, _: &mut Burst<P>, _: Tick, _: &mut impl Io<P>) {}

    fn turn(&mut self, _: Tick, _: &mut impl Io<P>) {}

    fn list(&self, _: u32, _: u32, _: Tick, _: &mut dyn FnMut(FlowView)) -> Option<u32> {
        None
    }

    /// It has no connections.
    fn order(&mut self, _: &Tuple, _: &Order, _: Tick) -> Outcome {
        Outcome::Absent
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let cpu: u32 = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let mut devices: Vec<String> = arguments.collect();
    if devices.is_empty() {
        devices = vec!["net_null0".to_owned(), "net_null1".to_owned()];
    }
    let port = |(index, device)| PortConfig {
        name: format!("p{index}"),
        device,
        mtu: 1500,
        outside: false,
        twin: false,
    };
    let dataplane = Dataplane::start_with(
        Config {
            workers: vec![cpu],
            driver_args: Vec::new(),
            memory_mb: 512,
            huge_pages: std::env::var_os("HUGE").is_some(),
            flow_memory: lb_dataplane::FlowMemory::Forgotten,
            max_connections: 1,
            max_ipv6_connections: 1,
            max_servers: 1,
            ports: devices.into_iter().enumerate().map(port).collect(),
            idle: Idle::Poll,
            hash_seed: None,
        },
        |_| Across(Arc::default()),
    )?;
    for port in dataplane.ports() {
        println!("{}: {} {} queues={} {:?}", port.name, port.driver, port.link, port.queues, port.offloads);
    }
    let counters = dataplane.counters()[0].clone();
    let ports = dataplane.ports().len() as u16;
    let packets = || -> u64 { (0..ports).map(|port| counters.port(PortId(port)).tx_packets.get()).sum() };
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..3 {
        let (busy, before) = (counters.turns.busy_cycles.get(), packets());
        std::thread::sleep(Duration::from_secs(seconds));
        let (cycles, count) = (counters.turns.busy_cycles.get() - busy, packets() - before);
        let nanoseconds = cycles as f64 / dataplane.tsc_hz() as f64 * 1e9;
        println!("{:.2} ns a packet, {count} packets", nanoseconds / count.max(1) as f64);
    }
    dataplane.stop();
    Ok(())
}
