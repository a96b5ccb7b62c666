//! What would become of a packet: [`explain`].
//!
//! The packet goes the real road, in a director of its own: with the tables of this moment, no connections, and counters that nobody
//! reads. If it is said to be of an established connection, that is begun there first, whatever may stop its first packet, and taken for
//! answered. What others share is not written: matches look at what they remember and leave it as it is, and no real server comes to be
//! overloaded. What workers keep for themselves is not known here, such as whose turn it is with `rr`.

use std::sync::Arc;

use super::{Io, Path, PathConfig, Steer};
use crate::conntrack::{self, CtState, Status};
use crate::counters::WorkerCounters;
use crate::flow::template::Uses;
use crate::flow::{FlowId, memory_needed};
use crate::ids::{PortId, ServerId, WorkerId};
use crate::ipvs::sctp::SctpState;
use crate::ipvs::state::TcpState;
use crate::mem::Region;
use crate::packet::Frame;
use crate::rule::Rules;
use crate::tables::{InterfaceId, Protocol, Tables};
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

/// What is taken for granted of a made-up packet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Assumed {
    /// Nothing: it is the first one of its ends.
    #[default]
    First,
    /// This is what connection tracking says of it.
    State(CtState),
    /// It is of an established connection, which this packet has begun.
    Begun(Frame),
}

/// What would become of `frame` if it came now: from its port, or from the host by the twin of that port. Nothing that is alive is
/// changed. `workers` count the connections of real servers, which schedulers go by.
///
/// # Errors
/// The road of the packet that was to begin the connection, and begins none.
pub fn explain(
    tables: &Tables,
    workers: &[Arc<WorkerCounters>],
    frame: Frame,
    is_from_host: bool,
    assumed: Assumed,
    now: Tick,
) -> Result<Observed, Box<Observed>> {
    let servers = workers.first().map_or(0, |worker| worker.service_capacity());
    let counters = WorkerCounters::new(servers, workers.first().map_or(0, |worker| worker.port_count()));
    counters.turns.cpu.set(workers.first().map_or(0, |worker| worker.turns.cpu.get()));
    for server in (0..counters.server_capacity() as u32).map(ServerId) {
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
        rss: None,
        now,
    });
    // What rules want told is told nobody.
    let mut rules = Rules::clone(&tables.rules);
    rules.events = Arc::default();
    let mut tables = Tables { trace: None, events: Arc::default(), ..tables.clone() };
    path.is_dry = true;
    path.watch.make_room();
    match assumed {
        Assumed::First => {}
        Assumed::State(state) => path.assumed = Some(state),
        Assumed::Begun(first) => {
            // Nobody knows where its windows are.
            tables.settings.sysctls.conntrack.tcp_be_liberal = 1;
            tables.rules = Arc::new(rules.for_beginning());
            path.adopt(Arc::new(tables.clone()));
            let road = path.watched(first, is_from_host, now, &mut Nowhere);
            let begun = path.flows.iter(0, u32::MAX).find(|(_, entry)| !entry.is_template());
            let (id, _) = begun.ok_or(Box::new(road))?;
            path.establish(id);
        }
    }
    path.adopt(Arc::new(Tables { rules: Arc::new(rules), ..tables }));
    Ok(path.watched(frame, is_from_host, now, &mut Nowhere))
}

impl Path<Frame> {
    /// Has a connection that has begun be one that was answered.
    fn establish(&mut self, id: FlowId) {
        self.flows.tracked_mut(id).status.set(Status(Status::SEEN_REPLY.0 | Status::ASSURED.0));
        let entry = self.flows.entry_mut(id);
        match (entry.protocol(), entry.is_tracked()) {
            (Protocol::TCP, true) => entry.set_state(conntrack::tcp::TcpState::Established as u8),
            (Protocol::SCTP, true) => entry.set_state(conntrack::sctp::SctpState::Established as u8),
            (Protocol::TCP, false) => self.set_state(id, TcpState::Established as u8),
            (Protocol::SCTP, false) => self.set_state(id, SctpState::Established as u8),
            _ => {}
        }
    }
}
