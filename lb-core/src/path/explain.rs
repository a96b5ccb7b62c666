//! What would become of a packet: [`explain`].
//!
//! The packet goes the real road, in a director of its own: with the tables of this moment, no connections, and counters that nobody
//! reads. What others share is not written: matches look at what they remember and leave it as it is, and no real server comes to be
//! overloaded. What workers keep for themselves is not known here, such as whose turn it is with `rr`.

use std::sync::Arc;

use super::{Io, Path, PathConfig, Steer};
use crate::counters::WorkerCounters;
use crate::flow::memory_needed;
use crate::flow::template::Uses;
use crate::ids::{PortId, ServerId, WorkerId};
use crate::mem::Region;
use crate::packet::Frame;
use crate::rule::Rules;
use crate::tables::{InterfaceId, Tables};
use crate::time::Tick;
use crate::trail::Observed;

/// Connections that the director has room for: that of the packet, a template, one to spare.
const CONNECTIONS: u32 = 8;

/// Nobody sends.
struct Nowhere;

impl Io<Frame> for Nowhere {
    fn transmit(&mut self, _: PortId, _: Frame) {}
    fn to_twin(&mut self, _: PortId, _: Frame) {}
    fn hand_over(&mut self, _: WorkerId, _: Frame, _: Steer) {}
    fn allocate(&mut self) -> Option<Frame> {
        Some(Frame::new(PortId(0), &[]))
    }
    fn resolve(&mut self, _: InterfaceId, _: std::net::IpAddr) {}
}

/// What would become of `frame` if it came now: from its port, or from the host by the twin of that port. Nothing that is alive is
/// changed. `workers` count the connections of real servers, which schedulers go by.
pub fn explain(
    tables: &Tables,
    workers: &[Arc<WorkerCounters>],
    frame: Frame,
    is_from_host: bool,
    now: Tick,
) -> Observed {
    let servers = workers.first().map_or(0, |worker| worker.server_capacity());
    let counters = WorkerCounters::new(servers, workers.first().map_or(0, |worker| worker.port_count()));
    for server in (0..servers as u32).map(ServerId) {
        let sum = |count: fn(&crate::counters::ServerCell) -> u64| {
            workers.iter().map(|worker| count(worker.server(server))).fold(0, u64::wrapping_add)
        };
        counters.server(server).active.set(sum(|cell| cell.active.get()));
        counters.server(server).inactive.set(sum(|cell| cell.inactive.get()));
    }
    let mut path = Path::<Frame>::new(PathConfig {
        worker: WorkerId(0),
        counters: Arc::new([Arc::new(counters)]),
        max_connections: CONNECTIONS,
        max_ipv6_connections: CONNECTIONS,
        uses: Arc::new(Uses::new(1, CONNECTIONS)),
        memory: Region::heap(memory_needed(CONNECTIONS, CONNECTIONS)),
        hash_seed: u64::from(now.0),
        now,
    });
    // What rules want told is told nobody.
    let mut rules = Rules::clone(&tables.rules);
    rules.events = Arc::default();
    let events = Arc::default();
    path.adopt(Arc::new(Tables { rules: Arc::new(rules), trace: None, events, ..tables.clone() }));
    path.is_dry = true;
    path.watch.make_room();
    path.watched(frame, is_from_host, now, &mut Nowhere)
}
