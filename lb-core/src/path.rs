//! A packet's road, stage by stage, over a burst of at most 32 packets. This is the page to read first.
//!
//! ```text
//! rx burst
//!   → parse            bytes → headers, hash; malformed packets leave here with a drop reason
//!   → gather           fragments go to the worker that gathers their datagram, or wait there for the first one
//!   → look up          all buckets prefetched, then all entries, then compared
//!   → known?  ── yes ─→ established: the entry holds the compiled rewrite and the next hop
//!   │                   (not plain: rules look at it, its streams are edited, it goes through a tunnel …; not current: tables changed since)
//!   └ no ─→ steer      is this worker the flow's owner? if not: hand over
//!       ─→ PREROUTING → route → INPUT (virtual service: schedule, bind; else up the twin)
//!                              or FORWARD (routed)
//!   → rewrite          addresses, ports, checksums, TTL, MAC
//!   → tx burst
//! ```
//!
//! A stage handles the whole burst before the next one begins, so that memory is on its way while other packets are
//! worked on. The rest of the road is in the files of `path/`, one turning each.

mod ahead;
mod answer;
mod ask;
mod bereft;
mod by_hash;
mod by_mark;
mod bypass;
mod carry_over;
mod cookies;
mod copies;
mod courses;
mod defence;
mod early_drop;
mod edited;
mod error_of_host;
mod established;
mod events;
mod expected;
mod explain;
mod first;
mod first_ruled;
mod forged;
mod fragment;
mod ftp;
mod full_nat;
mod handed;
mod helped;
mod hooks;
mod host;
mod host_alone;
mod in_stream;
mod ipsec;
mod known_hops;
mod limited;
mod list;
mod masqueraded;
mod netfilter;
mod newcomers;
mod on_link;
mod one_packet;
mod one_way;
mod order;
mod outer_ids;
mod output;
mod owners;
mod passage;
mod persistent;
mod pieces;
mod quic;
mod quoted;
mod refused;
mod related;
mod reworded;
mod rewrite;
mod scheduled_error;
mod sctp;
mod shared;
mod shed;
mod sight;
mod signalled;
mod signpost;
mod sought;
mod source_nat;
mod steer;
mod syn_proxy;
mod tracked;
mod translate;
mod tunnel;
mod waiting;
mod watched;
mod zoned;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;

pub use carry_over::CarriedOver;
pub use events::{EventKind, FlowEvent, FlowEvents};
pub use expected::{Awaited, Expect};
pub use explain::{Assumed, explain};
pub use handed::{Passed, Ports, Steer};
pub use list::{FlowView, Known, shown_states};
pub use netfilter::state_named;
pub use order::{Beginning, Change, Deed, Order, Outcome};
pub use owners::Owners;
pub use persistent::Held;
pub use related::Search;
pub use rewrite::as_seen;
pub use shared::{SharedFlow, Taken, Walk};
pub use sought::{Sought, SoughtEnd, SoughtKind, SoughtNat, SoughtShown};
pub use syn_proxy::Opening;
pub use tracked::tuple_of_frame;
pub use zoned::FromRaw;

use self::sight::{Kind, OwnMac, Seen, Sight, kind, new_sight};
use crate::conntrack::{CtState, Expectations};
use crate::counters::WorkerCounters;
use crate::drop::DropReason;
use crate::flow::edit::Calls;
use crate::flow::template::Uses;
use crate::flow::{FlowRef, FlowTable, Hasher};
use crate::hook::Hook;
use crate::icmp::RateLimit;
use crate::ids::{PortId, WorkerId};
use crate::ipvs::scheduler;
use crate::ipvs::state::{self, Timeouts, Transitions};
use crate::mem::Region;
use crate::packet::Packet;
use crate::rss::Rss;
use crate::rule::Met;
use crate::rule::copies::Copies;
use crate::rule::counted::Counted;
use crate::tables::{InterfaceId, Tables};
use crate::time::Tick;
use crate::trail::Watch;
use crate::wire::parse::{Fragment, Headers, Parsed, parse, parse_plain};

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
    /// The same of a plain one, as nearly all are.
    #[inline]
    fn give(&mut self, to: WorkerId, packet: P) {
        self.hand_over(to, packet, Steer::Plain);
    }
    /// A new, empty packet buffer, of [no port](PortId::NONE).
    fn allocate(&mut self) -> Option<P>;
    /// Asks Linux to resolve a neighbour; the answer comes as new tables. May be called often for the same one.
    fn resolve(&mut self, interface: InterfaceId, address: IpAddr);
}

impl<P: Packet> Path<P> {
    /// Takes a burst from a port.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        self.newcomers.came(burst.is_full());
        if self.tables.trace.is_some() {
            return self.receive_traced(burst, now, io);
        }
        self.receive_unseen(burst, now, io);
    }

    fn receive_unseen(&mut self, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        let mut all = self.sight.take().unwrap_or_else(new_sight);
        let has_fragments = self.parse(burst, &mut all);
        if has_fragments {
            self.gather_fragments(burst, &mut all, now, io);
        }
        self.go_on(burst, all, now, io);
    }

    /// Takes packets that another worker handed over.
    pub fn receive_handed_over(
        &mut self,
        handed: &mut ArrayVec<(P, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        self.newcomers.came(handed.is_full());
        if self.tables.trace.is_some() {
            return self.receive_handed_over_traced(handed, now, io);
        }
        self.receive_handed_over_unseen(handed, now, io);
    }

    fn receive_handed_over_unseen(
        &mut self,
        handed: &mut ArrayVec<(P, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let mut burst = Burst::new();
        let mut steers: ArrayVec<Steer, BURST> = ArrayVec::new();
        for (packet, steer) in handed.drain(..) {
            burst.push(packet);
            steers.push(steer);
        }
        let mut all = self.sight.take().unwrap_or_else(new_sight);
        self.parse(&burst, &mut all);
        self.join_handed_over(&mut burst, &mut all, &steers, now, io);
        self.go_on(&mut burst, all, now, io);
    }

    /// The stages behind fragments' gathering.
    #[inline(always)]
    fn go_on(&mut self, burst: &mut Burst<P>, mut all: Box<Sight>, now: Tick, io: &mut impl Io<P>) {
        let seen = &mut all[..burst.len()];
        self.look_up(seen);
        self.fetch_ahead(burst, seen);
        self.go(burst, seen, now, io);
        self.sight = Some(all);
        self.release_fragments(now, io);
    }

    /// Stage 1: bytes become headers and a hash, whose line of the index is fetched. True: there are fragments.
    #[inline(always)]
    fn parse(&self, burst: &Burst<P>, all: &mut Sight) -> bool {
        for packet in burst.iter() {
            packet.prefetch();
        }
        // A burst comes from one port, but for one that was handed over.
        let (mut port, mut mac) = (PortId(u16::MAX), OwnMac::ANY);
        let mut has_fragments = false;
        for (packet, seen) in burst.iter().zip(all) {
            if packet.port() != port {
                port = packet.port();
                mac = self.own_mac(port);
            }
            let frame = packet.data();
            match parse_plain(frame, packet.frame_len(), packet.rx_checksums().ip) {
                Some(found) if mac.is_of(frame) => {
                    let (sport, dport) = (found.sport, found.dport);
                    seen.hash =
                        self.flows.hasher().ipv4(found.src, found.dst, sport, dport, found.protocol.0);
                    self.flows.prefetch_bucket(seen.hash);
                    seen.kind = Kind::Flow;
                    seen.headers = found;
                }
                _ => {
                    *seen = self.parse_any(packet, mac);
                    has_fragments |= seen.headers.fragment != Fragment::None;
                }
            }
        }
        has_fragments
    }

    /// Stage 1 of a packet that is not of the most usual kind.
    #[inline(never)]
    fn parse_any(&self, packet: &P, mac: OwnMac) -> Seen {
        let frame = packet.data();
        let mut seen = Seen::NOTHING;
        match parse(frame, packet.frame_len(), packet.rx_checksums().ip) {
            Ok(Parsed::Ip(headers)) => {
                seen.kind = kind(frame, &headers, mac);
                seen.headers = headers;
            }
            Ok(Parsed::Other) => {}
            Err(reason) => seen.kind = Kind::Dropped(reason),
        }
        if seen.headers.vlan != 0 {
            self.check_vlan(packet.port(), &mut seen);
        }
        if seen.kind == Kind::Flow {
            seen.hash = self.hash(frame, &seen.headers);
            self.flows.prefetch_bucket(seen.hash);
        }
        seen
    }

    /// Stage 2: the index says which entries they most likely are; these are fetched.
    #[inline]
    fn look_up(&self, all: &mut [Seen]) {
        for seen in all {
            if seen.kind == Kind::Flow {
                seen.guess = self.flows.guess(seen.hash).unwrap_or(FlowRef::NONE);
            }
        }
    }

    /// Stages 3 and 4: compares, rewrites, sends; or takes a slower turning.
    #[inline]
    fn go(&mut self, burst: &mut Burst<P>, all: &[Seen], now: Tick, io: &mut impl Io<P>) {
        let mut found = 0;
        for (packet, seen) in burst.drain(..).zip(all) {
            if let Some(at) = self.find_as_guessed(seen)
                && self.is_current(at)
            {
                found += 1;
                self.established(packet, &seen.headers, at, now, io);
            } else if self.is_strange(seen) {
                self.stranger(packet, seen, now, io);
            } else {
                self.go_otherwise(packet, seen, now, io);
            }
        }
        self.mine.flows.found.add(found);
    }

    /// The same of IPv6, of what the index does not find at first sight, of connections without a packet since the tables changed, and of what can be of
    /// no TCP, UDP or SCTP connection.
    #[inline(never)]
    fn go_otherwise(&mut self, mut packet: P, seen: &Seen, now: Tick, io: &mut impl Io<P>) {
        if seen.kind != Kind::Flow && self.counters.len() > 1 {
            match self.steer_other(packet, seen, io) {
                Some(stays) => packet = stays,
                None => return,
            }
        }
        match seen.kind {
            Kind::Flow => match self.find(&packet, seen).or_else(|| self.find_begun(&packet, seen)) {
                Some(at) if self.is_ours(at) => self.found_late(packet, &seen.headers, at, now, io),
                _ => self.newcomer(packet, &seen.headers, now, io),
            },
            Kind::Ipsec => self.ipsec(packet, &seen.headers, now, io),
            Kind::IcmpError => self.related(packet, &seen.headers, now, io),
            Kind::Routed => self.other(packet, &seen.headers, now, io),
            Kind::Twin => self.for_host_alone(packet, &seen.headers, now, io),
            Kind::Dropped(reason) => self.drop(reason, Hook::Ingress),
        }
    }

    #[inline(always)]
    fn found_late(&mut self, packet: P, headers: &Headers, at: FlowRef, now: Tick, io: &mut impl Io<P>) {
        self.mine.flows.found.add(1);
        self.begun(packet, headers, at, now, io);
    }

    /// Does what is due: expires flows, gives up on packets that wait too long. A bounded amount of work a call.
    pub fn turn(&mut self, now: Tick, io: &mut impl Io<P>) {
        self.turned = now;
        if !self.copies.is_empty() {
            self.send_copies(now, io);
        }
        self.is_behind = self.expire(now);
        self.is_behind |= self.defend(now);
        self.is_behind |= self.end_bereft(now);
        self.retry_waiting(now, io);
        self.fragments.give_up(now, &self.mine);
        self.sweep_expected(now);
        self.count_fill();
        self.look_whether_short();
        self.newcomers.turn(self.tables.settings.sysctls.drop_newcomers == 1);
    }

    /// Whether more was due than the last turn did, so that another one has to follow at once.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Takes frames that the host sent by the twin of `port`: OUTPUT, POSTROUTING, out of that port.
    pub fn receive_from_twin(&mut self, port: PortId, burst: &mut Burst<P>, now: Tick, io: &mut impl Io<P>) {
        for packet in burst.drain(..) {
            if self.tables.trace.is_some() {
                self.receive_from_twin_traced(port, packet, now, io);
            } else {
                self.receive_from_twin_unseen(port, packet, now, io);
            }
        }
    }

    fn receive_from_twin_unseen(&mut self, port: PortId, packet: P, now: Tick, io: &mut impl Io<P>) {
        if self.tables.rules.are_active() {
            self.sent_by_host(port, packet, now, io);
        } else {
            io.transmit(port, packet);
        }
    }

    #[inline]
    fn drop(&self, reason: DropReason, hook: Hook) {
        self.mine.dropped(reason, hook).add(1);
        self.last_drop.set(Some((reason, hook)));
    }
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
    /// Of all workers' tables, each with room for `max_connections`.
    pub uses: Arc<Uses>,
    /// At least [`memory_needed`](crate::flow::memory_needed) bytes for these figures.
    pub memory: Region,
    /// Keys the hashes, so that nobody outside can aim at one bucket. The same for all workers.
    pub hash_seed: u64,
    /// By what ports spread packets, where they do it by the client's end alone; the same for all workers.
    pub rss: Option<Arc<Rss>>,
    /// The moment at which timers begin to run.
    pub now: Tick,
}

/// One worker's share of the packet logic: its flows, its timers, the tables it uses.
pub struct Path<P> {
    worker: WorkerId,
    tables: Arc<Tables>,
    timeouts: Timeouts,
    flows: FlowTable,
    uses: Arc<Uses>,
    schedulers: scheduler::States,
    counters: Arc<[Arc<WorkerCounters>]>,
    mine: Arc<WorkerCounters>,
    fragments: fragment::Fragments<P>,
    choices: one_packet::Choices,
    waiting: waiting::Waiting<P>,
    icmp_limit: RateLimit,
    shed: shed::Shed,
    newcomers: newcomers::Newcomers,
    defence: defence::Defence,
    bereft: bereft::Bereft,
    /// Those of TCP's states.
    transitions: &'static Transitions,
    changed: shared::Changed,
    counted: Counted,
    /// What connections of limited services count in.
    limited: Counted,
    /// Those that rules have made of packets in this turn.
    copies: Copies,
    /// The packet at hand is one of these.
    is_copying: bool,
    tunnels: tunnel::Tunnels,
    /// When its last turn was, and whether it has left something that was due.
    turned: Tick,
    is_behind: bool,
    /// Where the next connection that may go is looked for.
    early_cursor: u32,
    /// The flow table has few places left: see [`by_hash`].
    is_short: bool,
    /// Packets and bytes of each connection are counted.
    counts_connections: bool,
    /// Counts the choices that nobody shall foretell.
    chance: u64,
    /// Rules have let the packet at hand, which begins a connection, pass PREROUTING and INPUT.
    passed: Option<Passed>,
    /// Datagrams whose first fragment, which passed them or names a call, is on its way to a persistence template and back.
    asking: persistent::Asking,
    /// Writes down what the packet at hand meets, when somebody asks.
    watch: Watch,
    /// Why, and where, the packet was dropped that was dropped last.
    last_drop: Cell<Option<(DropReason, Hook)>>,
    /// Nothing that others share is written: see [`explain`].
    is_dry: bool,
    /// What connection tracking is taken to say of a packet that no connection is known of: see [`explain`].
    assumed: Option<CtState>,
    /// What the packet at hand met of rules.
    met: Met,
    courses: courses::Courses,
    /// What helpers read of connections to come.
    expectations: Expectations,
    /// Of a connection that has no room for them.
    no_calls: Calls,
    outer_ids: outer_ids::OuterIds,
    owners: Owners,
    local_ports: full_nat::LocalPorts,
    /// Of the tables in use.
    known_hops: known_hops::KnownHops,
    /// What the stages write, where no burst is on its way.
    sight: Option<Box<Sight>>,
}

impl<P: Packet> Path<P> {
    /// Takes all memory that it will ever use.
    pub fn new(config: PathConfig) -> Path<P> {
        let mine = config.counters[config.worker.index()].clone();
        mine.flows.capacity.set(config.max_connections.into());
        mine.flows.ipv6_capacity.set(config.max_ipv6_connections.into());
        let mut schedulers = scheduler::States::new(mine.server_capacity());
        schedulers.resize(mine.service_capacity());
        let tables = Arc::new(Tables::default());
        let flows = FlowTable::new(
            config.memory,
            config.max_connections,
            config.max_ipv6_connections,
            config.hash_seed,
            config.now,
        );
        mine.edits.capacity.set(flows.edits().1.into());
        let expectations = Expectations::new(flows.hasher());
        let owners = Owners::new(flows.hasher(), config.counters.len(), config.rss);
        Path {
            worker: config.worker,
            timeouts: Timeouts::new(&tables.settings),
            tables,
            flows,
            uses: config.uses,
            local_ports: full_nat::LocalPorts::new(
                Hasher::new(config.hash_seed),
                config.worker,
                owners.clone(),
                config.now,
            ),
            owners,
            outer_ids: outer_ids::OuterIds::new(config.worker, config.counters.len(), config.now),
            schedulers,
            tunnels: tunnel::Tunnels::new(mine.server_capacity()),
            counters: config.counters,
            mine,
            fragments: fragment::Fragments::new(),
            choices: one_packet::Choices::new(),
            waiting: waiting::Waiting::new(),
            icmp_limit: RateLimit::new(RateLimit::ICMP_PER_SECOND, RateLimit::ICMP_BURST, config.now),
            shed: shed::Shed::default(),
            newcomers: newcomers::Newcomers::default(),
            defence: defence::Defence::new(config.now),
            bereft: bereft::Bereft::default(),
            transitions: &state::USUAL,
            changed: shared::Changed::new(),
            counted: Counted::new(config.max_connections, 1),
            // In the service, and in the source.
            limited: Counted::new(config.max_connections, 2),
            copies: Copies::default(),
            is_copying: false,
            turned: config.now,
            is_behind: false,
            early_cursor: 0,
            is_short: false,
            counts_connections: false,
            chance: 0,
            passed: None,
            asking: persistent::Asking::new(),
            watch: Watch::default(),
            last_drop: Cell::new(None),
            is_dry: false,
            assumed: None,
            met: Met::default(),
            courses: courses::Courses::new(config.now),
            expectations,
            no_calls: Calls::default(),
            known_hops: known_hops::KnownHops::new(),
            sight: Some(new_sight()),
        }
    }

    /// Uses `tables` from the next burst on; returns the ones used before, to be freed elsewhere.
    pub fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        self.timeouts = Timeouts::new(&tables.settings);
        self.counts_connections = tables.counts_connections();
        if !Arc::ptr_eq(&tables.rules, &self.tables.rules) {
            self.courses.close(&self.mine);
        }
        // Services mostly have a server each, so that there is room already.
        self.schedulers.make_room(&tables.services);
        self.mine.turns.generation.set(tables.generation.into());
        self.waiting.look_again();
        self.known_hops = known_hops::KnownHops::new();
        if tables.trace.is_some() {
            self.watch.make_room();
        }
        if tables.rules.make_copies() {
            self.copies.make_room();
        }
        let before = std::mem::replace(&mut self.tables, tables);
        self.look_at_room();
        self.bereft.look(&before, &self.tables);
        before
    }
}
