//! What must hold, whatever happens. Each invariant has a name, which a failure prints.
//!
//! Those that look at one frame are asked for each frame (`egress.rs`, `arrivals.rs`, `ledger.rs`, `tags.rs`), those about a worker's turn
//! after each turn, the others after every few steps as their cost allows ([`OFTEN`], [`SELDOM`]), before a director is killed, and at
//! the end.

mod account;
mod room;
mod succession;
mod turn;
mod whole;

use lb_core::counters::server_ids;

use crate::conn::Outcome;
use crate::director::Subject;
use crate::shape::Shape;
use crate::violation::{Checked, hold};
use crate::world::World;

pub(crate) use room::Room;
pub(crate) use succession::after_succession;
pub(crate) use turn::{after_turn, before_turn};

/// The invariants' names.
pub mod name {
    /// Every packet that came in was sent, was dropped with a reason, or waits: none twice, none lost.
    pub const ACCOUNTED: &str = "every_packet_accounted_for";
    /// A connection reaches one real server as long as it lives.
    pub const ONE_SERVER: &str = "one_server_for_life";
    /// The director forgets no connection before its time.
    pub const KEPT: &str = "live_connection_kept";
    /// No connection's bytes reach another, and each end gets them in order and unchanged.
    pub const NO_BYTES_TO_ANOTHER: &str = "no_bytes_to_another";
    /// Addresses, ports, MAC addresses, tags, TTLs and checksums are right in both directions.
    pub const RIGHT: &str = "addresses_and_checksums_right";
    /// A connection is in the table of one worker.
    pub const ONE_OWNER: &str = "one_owner";
    /// What is counted is what there is.
    pub const COUNTERS: &str = "counters_add_up";
    /// An entry whose time is over is gone, and nothing is left of it in index and timers.
    pub const EXPIRED: &str = "expired_entry_gone_from_every_index";
    /// Real servers that are quiesced, overloaded or removed get no new connection.
    pub const NOTHING_NEW: &str = "quiesced_and_overloaded_get_nothing_new";
    /// A real server without connections, or with fewer than its lower threshold again, is not overloaded.
    pub const RELIEVED: &str = "relieved_server_not_overloaded";
    /// Tables, queues and rings hold no more than they may, and old snapshots are freed.
    pub const BOUNDED: &str = "memory_bounded";
    /// A worker uses what was last left for it.
    pub const USED: &str = "published_is_used";
    /// Where nothing goes wrong and nothing is full, every connection comes to its end with all its bytes.
    pub const DELIVERED: &str = "delivered_when_nothing_fails";
    /// Each packet does what the reference says.
    pub const REFERENCE: &str = crate::watched::AS_THE_REFERENCE_SAYS;

    pub const ALL: &[&str] = &[
        ACCOUNTED,
        ONE_SERVER,
        KEPT,
        NO_BYTES_TO_ANOTHER,
        RIGHT,
        ONE_OWNER,
        COUNTERS,
        EXPIRED,
        NOTHING_NEW,
        RELIEVED,
        BOUNDED,
        USED,
        DELIVERED,
        REFERENCE,
    ];
    /// What becomes of a packet in a world with rules, what they count and which connections there are is as with netfilter's model.
    pub const AS_NETFILTER_DOES: &str = "as_netfilter_does";
}

/// Steps between two looks at all counters, and at all connections.
pub const OFTEN: u64 = 8;
pub const SELDOM: u64 = 1024;

/// What the invariants remember of one director.
pub(crate) struct Watch {
    is_clean: bool,
    /// By port: frames put in, taken out, gone up, come down.
    put: Vec<u64>,
    taken: Vec<u64>,
    up: Vec<u64>,
    down: Vec<u64>,
    /// By worker and real server: connections so far.
    connections: Vec<Vec<u64>>,
    inserted: Vec<u64>,
    /// By worker: tables that it was given since its last turn.
    given: Vec<usize>,
    failed: Option<String>,
    whole: whole::Remembered,
}

impl Watch {
    pub(crate) fn new(shape: &Shape) -> Watch {
        let (ports, workers) = (shape.ports.len(), usize::from(shape.workers));
        Watch {
            is_clean: shape.is_clean(),
            put: vec![0; ports],
            taken: vec![0; ports],
            up: vec![0; ports],
            down: vec![0; ports],
            connections: vec![vec![0; server_ids(shape.server_ids)]; workers],
            inserted: vec![0; workers],
            given: vec![0; workers],
            failed: None,
            whole: whole::Remembered::default(),
        }
    }

    pub(crate) fn put(&mut self, port: usize) {
        self.put[port] += 1;
    }

    pub(crate) fn given(&mut self, worker: usize) {
        self.given[worker] += 1;
    }

    pub(crate) fn taken(&mut self, port: usize) {
        self.taken[port] += 1;
    }

    pub(crate) fn up(&mut self, port: usize) {
        self.up[port] += 1;
    }

    pub(crate) fn down(&mut self, port: usize) {
        self.down[port] += 1;
    }

    /// A connection to `port` ended for its client.
    pub(crate) fn ended(&mut self, serial: u32, port: u16, outcome: Outcome) {
        // Nobody listens at 81.
        let expected = if port == 81 { Outcome::Reset } else { Outcome::Done };
        if self.is_clean && outcome != expected && self.failed.is_none() {
            self.failed = Some(format!("connection {serial} to port {port} ended as {outcome:?}"));
        }
    }
}

/// After each step.
pub(crate) fn after_step<L: Subject>(world: &mut World<L>) -> Checked {
    if let Some(what) = &world.watch.failed {
        hold!(false, name::DELIVERED, "{what}");
    }
    if world.step.is_multiple_of(OFTEN) {
        account::check(world)?;
    }
    if world.step.is_multiple_of(SELDOM) {
        whole::check(world)?;
    }
    Ok(())
}

/// Before a director goes, and at the end of a run.
pub(crate) fn at_end_of_life<L: Subject>(world: &mut World<L>) -> Checked {
    account::check(world)?;
    whole::check(world)
}
