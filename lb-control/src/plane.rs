//! What the control plane needs of the data plane. `lbd` puts DPDK's behind it, tests a fake: nothing of this
//! crate's library links DPDK.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use lb_core::conntrack::Zones;
use lb_core::counters::WorkerCounters;
use lb_core::flow::Tuple;
use lb_core::ids::ServerId;
use lb_core::path::{Beginning, FlowView, Order, Outcome, SharedFlow, Sought};
use lb_core::rss::Spread;
use lb_core::tables::{InterfaceId, Mac, Tables};

/// The workers and their ports.
pub trait Plane: Send + Sync + 'static {
    /// Gives every worker these tables, to be used from its next burst on. Does not wait.
    fn publish(&self, tables: Arc<Tables>);

    /// Whether all workers use the tables of this generation. Frees those that they gave back: to be asked now and then.
    fn all_use(&self, generation: u32) -> bool;

    /// Whether the workers take packets: not before the connections of the run before are carried over.
    fn takes_packets(&self) -> bool;

    /// What each worker counts, in the order of `dataplane.workers`.
    fn counters(&self) -> &[Arc<WorkerCounters>];

    /// Has Linux see the ports' links at their twins: to be asked now and then.
    fn follow_links(&self);

    /// The ports, in the order of the config.
    fn ports(&self) -> Vec<PortState>;

    /// Shows every connection that is sought to `visit` until that breaks off. May take long: not for threads that serve others.
    ///
    /// # Errors
    /// A worker that does not answer, in words.
    fn list_flows(
        &self,
        sought: &Sought,
        visit: &mut dyn FnMut(FlowView) -> ControlFlow<()>,
    ) -> Result<(), String>;

    /// Shows every connection that is sought to `choose` until that breaks off, and does to them what it says. It is done when this returns. May take
    /// long: not for threads that serve others.
    ///
    /// # Errors
    /// A worker that does not answer, in words; some may be done.
    fn order_flows(
        &self,
        sought: &Sought,
        choose: &mut dyn FnMut(&FlowView) -> ControlFlow<(), Option<Order>>,
    ) -> Result<(), String>;

    /// Enters a connection of no virtual service at the worker that its packets come to, unless there is one. May take long: not for threads that
    /// serve others.
    ///
    /// # Errors
    /// A worker that does not answer, in words; it may be entered yet.
    fn begin_flow(&self, original: Tuple, zones: Zones, begin: &Beginning) -> Result<Outcome, String>;

    /// Does it to the connection that begins so, at the worker that has it. May take long: not for threads that serve others.
    ///
    /// # Errors
    /// A worker that does not answer, in words; it may be done yet.
    fn ask_flow(&self, original: Tuple, order: Order) -> Result<Outcome, String>;

    /// The next neighbour that a worker wants resolved, if there is one.
    fn next_question(&self) -> Option<(InterfaceId, IpAddr)>;

    /// Has the workers tell of connections, and take over what they are [given](Plane::give), from here on or no more.
    fn set_sharing(&self, is_on: bool);

    /// Has the workers walk through their connections and tell of all, or of those that had packets since the walk before
    /// began.
    fn begin_walk(&self, is_whole: bool);

    /// Whether the walk is over and all that was told is read.
    fn is_walk_over(&self) -> bool;

    /// Visits at most `most` connections of each worker that were told of: by the walk, and because their state changed.
    fn read_shared(&self, most: usize, visit: &mut dyn FnMut(SharedFlow));

    /// Has the owner take over a connection that another director told of, with this real server. False: it has no room now.
    fn give(&self, flow: SharedFlow, server: ServerId) -> bool;

    /// Packet buffers in use, those in queues and caches included.
    fn buffers_in_use(&self) -> u32;

    /// Cycles of the time-stamp counter a second, which the workers' `busy_cycles` and `idle_cycles` count.
    fn cycles_per_second(&self) -> u64;
}

/// A port as the device sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortState {
    pub mac: Mac,
    pub link_up: bool,
    /// Somebody deleted its twin, which stays away until the next start.
    pub twin_is_gone: bool,
    /// Packets that the device lost: no descriptor, no buffer, errors.
    pub rx_missed: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    /// Frames that the kernel refused on the twin.
    pub twin_refused: u64,
    /// Times that frames from the twin had to wait for a buffer.
    pub twin_waits: u64,
    /// Its pairs of a receive and a transmit queue: one a worker, or fewer when it has not so many.
    pub queues: u16,
    /// How it spreads what it receives over them.
    pub spread: Spread,
    /// What it does for us, in words: `rss`.
    pub offloads: Vec<&'static str>,
    /// How its driver receives bursts, and how it sends them, in its own words; empty: it says nothing.
    pub bursts: [String; 2],
}
