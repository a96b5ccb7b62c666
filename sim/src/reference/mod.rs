//! The reference director: what the path must do, said slowly and obviously.
//!
//! It takes the packets, tables and times that [`lb_core::path::Path`] takes, and says what must leave: plain maps and vectors, bytes read and
//! written by code of its own, every checksum summed over all that it covers, one packet after the other, nothing cached. Of
//! `lb-core` it uses what is data (tables, tuples, ticks, names of states and drop reasons) and the keyed hashes that both
//! ends of a hand-over must compute alike, or from which local ports are drawn. [`Watched`](crate::watched::Watched) runs both and compares.
//!
//! There is one [`Reference`] a worker; what workers share is in their [`Team`].
//!
//! # Where the path is free
//! The reference follows what the path chose, within these bounds:
//! - *Expiry*: an entry may outlive its time by the rest of a timer slot ([`SLOT`] ticks), and longer while the wheel, which visits a bounded number
//!   of timers a turn, is behind ([`Reference::turn`]).
//! - *Removed servers*: when a connection ends whose real server was removed while `expire_nodest_conn` is 1, unless its client sends a packet.
//! - *Templates*: by what name a persistence template goes between workers; and when its time and its last connection's are over in the same turn, which of
//!   the two ends first. The same of a control connection of FTP and its data connections.
//! - *Index*: a new connection may be refused for want of room in its buckets; the path counts it in `index_full`.
//! - *Room*: which connections of the director before find room, when there is not enough for all, is the path's choice.
//! - *Buffers*: the pieces of a fragmented packet need buffers, which the worker may not have.
//! - *Order*: packets of one burst leave in their order by each port; what leaves by different ports, to the twin, and to other workers is
//!   not ordered among each other.
//!
//! Bounds of the path that decide what a client sees are not free, and are therefore said here too: which datagrams are
//! remembered (`fragments.rs`, `one_packet.rs`), how many packets wait (`waiting.rs`), how many past changes of a service a worker catches up with (`schedule.rs`).

mod answer;
mod by_hash;
mod by_mark;
mod carry;
mod checksum;
mod connection;
mod cookies;
mod defence;
mod edited;
mod flows;
mod forged;
mod forward;
mod fragments;
mod ftp;
mod ftp_words;
mod full_nat;
mod hashing;
mod limits;
mod newcomers;
mod one_packet;
mod output;
mod parse;
mod persistent;
mod pieces;
mod quic;
mod related;
mod rewrite;
mod road;
mod schedule;
mod sctp;
mod steer;
mod stream;
mod tcp;
mod team;
mod toa;
mod translate;
mod waiting;
pub mod world;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hashbrown::HashMap;
use lb_core::counters::WorkerCounters;
use lb_core::drop::DropReason;
use lb_core::flow::template::TemplateId;
use lb_core::flow::{Hasher, Tuple};
use lb_core::hook::Hook;
use lb_core::ids::{PortId, ServerId, ServiceId, WorkerId};
use lb_core::path::{BURST, FlowView, Held, PathConfig, Steer};
use lb_core::tables::{InterfaceId, Tables};
use lb_core::time::{Tick, Timeout};

pub use carry::Left;
pub(crate) use ftp::AWAITED;
pub use team::Team;

/// Something that a worker does with a packet, or asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Transmit(PortId, Vec<u8>),
    ToTwin(PortId, Vec<u8>),
    /// With the port that the packet came in by.
    HandOver(WorkerId, Steer, PortId, Vec<u8>),
    Resolve(InterfaceId, IpAddr),
}

/// What must be done, and for which packet of the burst; `None`: for one that had waited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    pub action: Action,
    pub cause: Option<usize>,
}

/// What the path did where it was free to choose.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Whether there was a buffer, each time that it asked for one.
    pub buffers: VecDeque<bool>,
    /// For each connection that found no room in the index, how many actions there had been.
    pub index_full: VecDeque<usize>,
    /// What it told other workers of templates, in order.
    pub answers: VecDeque<Held>,
    /// By what name it told other workers of control connections, in order.
    pub controls: VecDeque<TemplateId>,
    /// Where its table is nearly full: client's packets of the connections that ended.
    pub gone: Vec<Tuple>,
}

/// How many connections the path let go in a turn.
#[derive(Clone, Copy, Default, Debug)]
pub struct Gone {
    /// Their time was over.
    pub expired: u64,
    /// By `drop_entry`.
    pub dropped: u64,
    /// Their real server was removed.
    pub bereft: u64,
}

/// Ticks of a slot of the timer wheel.
pub const SLOT: u64 = 16;
/// Timers that the wheel visits in a turn at most.
const VISITS: usize = 256;

/// What one worker must do.
pub struct Reference {
    worker: WorkerId,
    team: Arc<Team>,
    /// What the worker's counters must say.
    counters: Arc<WorkerCounters>,
    tables: Arc<Tables>,
    hasher: Hasher,
    flows: flows::Flows,
    places: schedule::Places,
    fragments: fragments::Fragments,
    /// Where datagrams went that are scheduled one by one.
    choices: one_packet::Recent<one_packet::Choice>,
    /// Which workers first fragments went to that name a call.
    asking: one_packet::Recent<WorkerId>,
    waiting: waiting::Waiting,
    limit: answer::Limit,
    newcomers: newcomers::Newcomers,
    /// New connections since the last one that `drop_packet` dropped.
    begun_since_shed: u32,
    /// When it was looked at how much room is left, and whether `secure_tcp` is on since.
    looked: Tick,
    is_secure: bool,
    /// Few places are left in the table.
    is_short: bool,
    /// When a packet last went by hash alone, by service.
    hashed: HashMap<ServiceId, Tick>,
    syns: HashMap<ServiceId, cookies::Syns>,
    /// Identification of the last outer header.
    outer_id: u16,
    /// The worker's own.
    outer_ids: Range<u32>,
    draw: full_nat::Draw,
    now: Tick,
    /// Turns since the wheel was last not behind.
    turns_behind: usize,
    /// Most connections that there were in these turns.
    most_behind: usize,
    taken: Taken,
    /// In this call: what must be done, and servers whose counters may have changed.
    expected: Vec<Expected>,
    touched: Vec<ServerId>,
}

/// A packet on its road: how it came, and its bytes as they are now.
#[derive(Clone, Debug)]
struct Packet {
    port: PortId,
    cause: Option<usize>,
    bytes: Vec<u8>,
}

impl Reference {
    /// For the worker that is made with `config`.
    pub fn new(config: &PathConfig, team: &Arc<Team>) -> Reference {
        let mine = team.counters[config.worker.index()].clone();
        mine.flows.capacity.set(config.max_connections.into());
        mine.flows.ipv6_capacity.set(config.max_ipv6_connections.into());
        let begins = |worker: u16| 65_536 * u32::from(worker) / team.counters.len() as u32;
        let outer_ids = begins(config.worker.0)..begins(config.worker.0 + 1);
        Reference {
            worker: config.worker,
            team: team.clone(),
            counters: mine,
            tables: Arc::default(),
            hasher: Hasher::new(config.hash_seed),
            flows: flows::Flows::new(config.max_connections, config.max_ipv6_connections, config.now),
            places: schedule::Places::default(),
            fragments: fragments::Fragments::default(),
            choices: one_packet::Recent::new(),
            asking: one_packet::Recent::new(),
            waiting: waiting::Waiting::default(),
            limit: answer::Limit::new(config.now),
            newcomers: newcomers::Newcomers::default(),
            begun_since_shed: 0,
            looked: config.now,
            is_secure: false,
            is_short: false,
            hashed: HashMap::new(),
            syns: HashMap::new(),
            draw: full_nat::Draw::new(Hasher::new(config.hash_seed), config.worker, config.now),
            outer_id: (outer_ids.start + config.now.0 % outer_ids.len() as u32) as u16,
            outer_ids,
            now: config.now,
            turns_behind: 0,
            most_behind: 0,
            taken: Taken::default(),
            expected: Vec::new(),
            touched: Vec::new(),
        }
    }

    /// Of a header that is written before a packet.
    fn count_outer_id(&mut self) {
        let next = u32::from(self.outer_id) + 1;
        self.outer_id = if self.outer_ids.contains(&next) { next } else { self.outer_ids.start } as u16;
    }

    pub fn adopt(&mut self, tables: Arc<Tables>) {
        self.team.tell(&tables);
        self.counters.turns.generation.set(tables.generation.into());
        self.waiting.look_again();
        self.tables = tables;
        self.look_at_room();
    }

    /// What must be done: each call says it anew.
    pub fn expected(&self) -> &[Expected] {
        &self.expected
    }

    /// What must be done with a burst from a port.
    pub fn receive<'a>(&mut self, burst: impl Iterator<Item = (PortId, &'a [u8])>, now: Tick, taken: Taken) {
        self.begin(now, taken);
        let burst: Vec<_> = numbered(burst).collect();
        self.newcomers.came(burst.len() == BURST);
        let staying = burst.into_iter().filter_map(|packet| self.steer(packet)).collect();
        self.go(staying);
    }

    /// What must be done with packets that another worker handed over.
    pub fn receive_handed_over<'a>(
        &mut self,
        burst: impl Iterator<Item = (PortId, &'a [u8])>,
        steers: &[Steer],
        now: Tick,
        taken: Taken,
    ) {
        self.begin(now, taken);
        self.newcomers.came(steers.len() == BURST);
        let burst = numbered(burst).zip(steers);
        let staying: Vec<_> = burst.filter_map(|(packet, steer)| self.join(packet, *steer)).collect();
        self.go(staying);
    }

    /// What must be done with frames that the host sent.
    pub fn receive_from_twin<'a>(
        &mut self,
        port: PortId,
        burst: impl Iterator<Item = (PortId, &'a [u8])>,
        now: Tick,
        taken: Taken,
    ) {
        self.begin(now, taken);
        for packet in numbered(burst) {
            self.transmit(port, packet);
        }
    }

    /// What must be done as time passes, when the path let so many connections go; `is_left` says which it still has.
    ///
    /// # Errors
    /// What is wrong with those that it let go.
    pub fn turn(
        &mut self,
        now: Tick,
        taken: Taken,
        gone: Gone,
        is_left: impl FnOnce() -> Vec<(Tuple, Timeout)>,
    ) -> Result<(), String> {
        self.begin(now, taken);
        let expired = gone.expired;
        if gone.dropped + gone.bereft == 0 {
            self.expire(expired, is_left)?;
        } else {
            let left = is_left();
            // These come behind those whose time is over: a template stays that had a connection until then.
            let due: Vec<_> = self.flows.due().map(|(number, _)| number).collect();
            self.prolong_templates(&due, &left)?;
            let templates = self.end_early(&gone, &left)?;
            self.expire(expired, || left)?;
            for serial in templates {
                self.team.shared().end_template(serial);
            }
        }
        self.defend();
        self.retry_waiting();
        self.give_up_fragments();
        self.count_fill();
        self.look_whether_short();
        self.newcomers.turn(self.tables.settings.sysctls.drop_newcomers == 1);
        Ok(())
    }

    fn count_fill(&self) {
        let (entries, ipv6) = self.flows.len();
        self.counters.flows.entries.set(entries as u64);
        self.counters.flows.ipv6_entries.set(ipv6 as u64);
        self.counters.edits.entries.set(self.flows.edited() as u64);
        self.counters.turns.waiting.set((self.waiting.len() + self.fragments.waiting()) as u64);
    }

    /// The connections that there must be.
    pub fn connections(&self) -> impl Iterator<Item = FlowView> {
        self.flows.iter().map(|connection| self.view(connection))
    }

    /// What the worker's counters must say; those of servers, where the last call may have changed them.
    pub fn counters(&self) -> (&WorkerCounters, &[ServerId]) {
        (&self.counters, &self.touched)
    }

    /// How many connections more there is room for, whatever their addresses.
    pub fn room(&self) -> usize {
        self.flows.room()
    }

    /// Whether a server's flag says that it is overloaded, and whether it must; `None` when it was removed.
    pub fn overloaded(&self, server: ServerId) -> Option<(bool, bool)> {
        let server = self.tables.services.server(server)?;
        Some((server.overloaded.load(Relaxed), self.team.shared().is_overloaded(server)))
    }

    pub fn generation(&self) -> u32 {
        self.tables.generation
    }

    fn begin(&mut self, now: Tick, taken: Taken) {
        self.now = now;
        self.flows.set_now(now);
        self.taken = taken;
        self.expected.clear();
        self.touched.clear();
    }

    fn act(&mut self, cause: Option<usize>, action: Action) {
        self.expected.push(Expected { action, cause });
    }

    fn transmit(&mut self, port: PortId, packet: Packet) {
        self.act(packet.cause, Action::Transmit(port, packet.bytes));
    }

    fn up_the_twin(&mut self, packet: Packet) {
        self.act(packet.cause, Action::ToTwin(packet.port, packet.bytes));
    }

    /// The server's counters change.
    fn touch(&mut self, server: ServerId) {
        if !self.touched.contains(&server) {
            self.touched.push(server);
        }
    }

    fn drop(&mut self, reason: DropReason, hook: Hook) {
        self.counters.dropped(reason, hook).add(1);
    }
}

fn numbered<'a>(burst: impl Iterator<Item = (PortId, &'a [u8])>) -> impl Iterator<Item = Packet> {
    burst.enumerate().map(|(number, (port, bytes))| Packet {
        port,
        cause: Some(number),
        bytes: bytes.to_vec(),
    })
}
