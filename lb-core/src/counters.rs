//! Counters that one worker writes and any thread may read: no lock, no atomic read-modify-write.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::drop::DropReason;
use crate::hook::Hook;
use crate::ids::{PortId, ServerId};

/// A count with one writer. `add` is a load and a store, so two writers would lose counts; readers see a
/// value that is at most a moment old.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one worker counts for one real server: one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ServerCell {
    /// Connections in a state that IPVS calls active (TCP: established or being set up).
    pub active: Counter,
    /// All other connections.
    pub inactive: Counter,
    /// Connections since the start.
    pub connections: Counter,
    pub in_packets: Counter,
    pub in_bytes: Counter,
    pub out_packets: Counter,
    pub out_bytes: Counter,
}

/// What one worker counts for one port.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCell {
    pub rx_packets: Counter,
    pub rx_bytes: Counter,
    pub tx_packets: Counter,
    pub tx_bytes: Counter,
    /// Sent up the Linux twin.
    pub to_twin: Counter,
    /// Sent by the host, down the Linux twin.
    pub from_twin: Counter,
}

/// All that one worker counts. Lives in an `Arc`, shared with the control plane and the other workers, which read.
#[derive(Debug)]
pub struct WorkerCounters {
    servers: Box<[ServerCell]>,
    ports: Box<[PortCell]>,
    drops: Box<[[Counter; Hook::ALL.len()]]>,
    pub flows: FlowCounters,
    pub turns: TurnCounters,
}

/// The worker's flow table.
#[derive(Debug, Default)]
pub struct FlowCounters {
    /// Entries in use now, of `capacity`.
    pub entries: Counter,
    pub capacity: Counter,
    pub ipv6_entries: Counter,
    pub ipv6_capacity: Counter,
    pub inserted: Counter,
    /// Of a process before this one, entered at the start; not in `inserted`.
    pub carried_over: Counter,
    pub expired: Counter,
    /// New connections refused because the table was full.
    pub full: Counter,
    /// New connections refused because both index buckets were full.
    pub index_full: Counter,
    /// Packets whose flow was found / not found.
    pub found: Counter,
    pub missed: Counter,
}

/// The worker's loop.
#[derive(Debug, Default)]
pub struct TurnCounters {
    /// Time-stamp-counter cycles of turns that had work, and of those that had none.
    pub busy_cycles: Counter,
    pub idle_cycles: Counter,
    /// Bursts by size: 1, 2–3, 4–7, 8–15, 16–31, 32.
    pub bursts: [Counter; 6],
    /// Packets passed to another worker (the owner of their flow, or of the port's queue or twin), and received from one.
    pub handed_over: Counter,
    pub handed_in: Counter,
    /// Turns since the start: a watchdog sees that the worker lives.
    pub turns: Counter,
    /// Generation of the tables in use.
    pub generation: Counter,
    /// ICMP errors sent, and those not sent because enough were (RFC 1812 §4.3.2.8).
    pub icmp_sent: Counter,
    pub icmp_suppressed: Counter,
    /// Packets waiting for a next hop, and fragments waiting for their first.
    pub waiting: Counter,
}

impl TurnCounters {
    /// Upper bounds of the classes of `bursts`, inclusive.
    pub const BURST_CLASSES: [u64; 6] = [1, 3, 7, 15, 31, 32];

    #[inline]
    pub fn count_burst(&self, packets: usize) {
        if packets > 0 {
            self.bursts[(packets.ilog2() as usize).min(self.bursts.len() - 1)].add(1);
        }
    }
}

impl WorkerCounters {
    /// `servers` bounds [`ServerId`], `ports` bounds [`PortId`].
    pub fn new(servers: usize, ports: usize) -> WorkerCounters {
        fn cells<T: Default>(n: usize) -> Box<[T]> {
            (0..n).map(|_| T::default()).collect()
        }
        WorkerCounters {
            servers: cells(servers),
            ports: cells(ports),
            drops: cells(DropReason::ALL.len()),
            flows: FlowCounters::default(),
            turns: TurnCounters::default(),
        }
    }

    #[inline]
    pub fn server(&self, id: ServerId) -> &ServerCell {
        &self.servers[id.index()]
    }

    /// How many real servers there is room for.
    pub fn server_capacity(&self) -> usize {
        self.servers.len()
    }

    #[inline]
    pub fn port(&self, id: PortId) -> &PortCell {
        &self.ports[id.index()]
    }

    #[inline]
    pub fn dropped(&self, reason: DropReason, hook: Hook) -> &Counter {
        &self.drops[reason as usize][hook as usize]
    }
}
