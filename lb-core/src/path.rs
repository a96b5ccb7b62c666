//! A packet's road, stage by stage, over a burst of at most 32 packets.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::counters::WorkerCounters;
use crate::ids::{PortId, ServerId, WorkerId};
use crate::mem::Region;
use crate::packet::Packet;
use crate::tables::{InterfaceId, Protocol, Tables};
use crate::time::{Tick, Timeout};

/// Packets that go down the road together.
pub const BURST: usize = 32;
pub type Burst<P> = ArrayVec<P, BURST>;

/// What the path needs from the worker around it. None of these may block; what finds no room is counted by the
/// worker (`TxFull`, `TwinFull`, `HandOverFull`) and freed.
pub trait Io<P> {
    /// Sends a frame. It leaves with the burst at the latest.
    fn transmit(&mut self, port: PortId, packet: P);
    /// Gives a frame to Linux, as received on `port`.
    fn to_twin(&mut self, port: PortId, packet: P);
    /// Gives a packet to the worker that owns its flow.
    fn hand_over(&mut self, to: WorkerId, packet: P, steer: Steer);
    /// A new, empty packet buffer.
    fn allocate(&mut self) -> Option<P>;
    /// Asks Linux to resolve a neighbour; the answer comes as new tables. May be called often for the same one.
    fn resolve(&mut self, interface: InterfaceId, address: IpAddr);
}

/// What a worker that hands a packet over found out about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steer {
    /// The owner finds all in the packet itself.
    Plain,
    /// A fragment whose ports stood in the first one: source, destination.
    Fragment { sport: u16, dport: u16 },
}

/// One connection, as `ipvsadm -Lnc` lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowView {
    pub protocol: Protocol,
    pub client: (IpAddr, u16),
    pub virtual_: (IpAddr, u16),
    pub server: (IpAddr, u16),
    pub server_id: ServerId,
    /// The kernel's word: `ESTABLISHED`, `UDP` …
    pub state: &'static str,
    pub expires_in: Timeout,
}

/// What a worker's path is made with.
pub struct PathConfig {
    pub worker: WorkerId,
    /// Of all workers, in their order: this one writes its own and reads the others'.
    pub counters: Arc<[Arc<WorkerCounters>]>,
    /// Connections that this worker has room for.
    pub max_connections: u32,
    /// Of these, how many may be IPv6.
    pub max_ipv6_connections: u32,
    /// At least [`memory_needed`](crate::flow::memory_needed) bytes for these figures.
    pub memory: Region,
    /// Keys the hashes, so that nobody outside can aim at one bucket. The same for all workers.
    pub hash_seed: u64,
}

/// One worker's share of the packet logic: its flows, its timers, the tables it uses.
pub struct Path<P> {
    tables: Arc<Tables>,
    config: PathConfig,
    waiting: Vec<P>,
}

impl<P: Packet> Path<P> {
    /// Takes all memory that it will ever use.
    pub fn new(config: PathConfig) -> Path<P> {
        Path { tables: Arc::default(), config, waiting: Vec::new() }
    }

    /// Uses `tables` from the next burst on; returns the ones used before, to be freed elsewhere.
    pub fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        std::mem::replace(&mut self.tables, tables)
    }

    /// Takes a burst from a port.
    pub fn receive(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        let _ = (now, io, &self.config, &self.waiting);
        burst.clear();
    }

    /// Takes packets that another worker handed over.
    pub fn receive_handed_over(
        &mut self,
        burst: &mut ArrayVec<(P, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let _ = (now, io);
        burst.clear();
    }

    /// Takes frames that the host sent by the twin of `port`: OUTPUT, POSTROUTING, out of that port.
    pub fn receive_from_twin(&mut self, port: PortId, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        let _ = (port, now, io);
        burst.clear();
    }

    /// Does what is due: expires flows, gives up on packets that wait too long. A bounded amount of work a call.
    pub fn turn(&mut self, now: Tick, io: &mut impl Io<P>) {
        let _ = (now, io);
    }

    /// Lists connections, looking at up to `budget` entries from `cursor` on (0 at first). Returns the next
    /// cursor, or `None` at the end.
    pub fn list(&self, cursor: u32, budget: u32, now: Tick, visit: &mut impl FnMut(FlowView)) -> Option<u32> {
        let _ = (cursor, budget, now, visit);
        None
    }
}
