//! What the generator sends: 64-byte packets (60 and the Ethernet checksum) between clients and real servers.
//!
//! A [`Traffic`] is a script of one measure. It writes complete frames, so that the path works on what a port would give
//! it; whoever drives it ([`crate::road`], [`crate::worker`]) measures its cost and does not count it.

mod director;
mod established;
mod flood;
mod fresh;
mod lives;
mod recipe;
pub mod ruleset;
mod script;

use std::sync::Arc;

use lb_core::counters::WorkerCounters;
use lb_core::drop::DropReason;
use lb_core::hook::Hook;
use lb_core::ids::PortId;
use lb_core::packet::Packet;
use lb_core::path::{BURST, Burst, FlowView};
use lb_core::rule::Rules;
use lb_core::tables::Forward;
use lb_core::time::Tick;

pub use director::{SERVER_CAPACITY, Spread, tables};
pub use established::Established;
pub use flood::Flood;
pub use fresh::Fresh;
pub use lives::{Lives, PACKETS_A_LIFE};
pub(crate) use recipe::client;
pub use recipe::{Transport, template};
pub(crate) use script::{Script, shuffled};

/// Where clients are.
pub const WAN: PortId = PortId(0);
/// Where real servers are.
pub const LAN: PortId = PortId(1);
/// A frame without its Ethernet checksum.
pub const LEN: usize = 60;

/// The script of one measure.
pub trait Traffic {
    /// How many packets come by `port` in its next turn, at most [`BURST`]. Ports are asked in turn,
    /// the clients' first.
    fn count(&mut self, port: PortId) -> usize;

    /// Writes the next packet.
    fn write(&mut self, port: PortId, frame: &mut [u8; LEN]);

    /// How the packets get to the real servers.
    fn forward(&self) -> Forward {
        Forward::Masq
    }

    /// So many rules that let it pass, and those that it is about.
    fn rules(&self, count: u32) -> Arc<Rules> {
        Arc::new(ruleset::rules(count))
    }

    /// The moment that the path is told.
    fn now(&self) -> Tick {
        Tick(0)
    }

    /// Whether all connections are open that the rest is about; then it is told them by `learn`.
    fn is_open(&self) -> bool;

    /// Learns which real server each client got.
    fn learn(&mut self, flow: FlowView);

    /// All were told.
    fn begin(&mut self) {}

    /// Packets to be sent, once open, before measuring.
    fn warm_up(&self) -> u64;

    /// Whether what the path counted is what this script is about.
    ///
    /// # Errors
    /// What is not.
    fn check(&self, counted: &Counted) -> Result<(), String>;
}

/// Writes the packets of one turn into the burst.
#[inline]
pub fn fill<P: Packet>(traffic: &mut impl Traffic, port: PortId, burst: &mut Burst<P>) {
    for packet in burst {
        if let Some(frame) = packet.data_mut().first_chunk_mut() {
            traffic.write(port, frame);
        }
    }
}

/// What the path counted while it was measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Packets that the generator made, and those of them that were sent on.
    pub packets: u64,
    pub sent: u64,
    pub missed: u64,
    pub inserted: u64,
    pub expired: u64,
    pub dropped: u64,
}

impl Counted {
    pub fn now(counters: &WorkerCounters, packets: u64, sent: u64) -> Counted {
        let flows = &counters.flows;
        let drops = DropReason::ALL
            .iter()
            .flat_map(|&reason| Hook::ALL.into_iter().map(move |hook| counters.dropped(reason, hook).get()));
        Counted {
            packets,
            sent,
            missed: flows.missed.get(),
            inserted: flows.inserted.get(),
            expired: flows.expired.get(),
            dropped: drops.sum(),
        }
    }

    #[must_use]
    pub fn since(self, earlier: Counted) -> Counted {
        Counted {
            packets: self.packets - earlier.packets,
            sent: self.sent - earlier.sent,
            missed: self.missed - earlier.missed,
            inserted: self.inserted - earlier.inserted,
            expired: self.expired - earlier.expired,
            dropped: self.dropped - earlier.dropped,
        }
    }

    /// All that came in went out, but for what may still be in a transmit buffer.
    fn is_all_sent(&self) -> bool {
        self.packets.abs_diff(self.sent) <= 4 * BURST as u64
    }

    /// Nothing was lost, each connection was entered once, and as many ended as began.
    fn is_turnover(&self, packets_a_connection: u64) -> Result<(), String> {
        let connections = self.packets / packets_a_connection;
        let is_near = |count: u64| count.abs_diff(connections) <= connections / 20;
        if !self.is_all_sent() || !is_near(self.inserted) || !is_near(self.missed) || !is_near(self.expired) {
            return Err(format!("{connections} connections were to begin and as many to end, but: {self:?}"));
        }
        Ok(())
    }
}
