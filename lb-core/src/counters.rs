//! Counters that one worker writes and any thread may read: no lock, no atomic read-modify-write.

mod courses;
mod service;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use courses::{Courses, MOST_COURSES};
pub use service::ServiceCell;

use crate::drop::DropReason;
use crate::hook::Hook;
use crate::ids::{PortId, ServerId, ServiceId};
use crate::ipvs::quic_lb::Fallback;

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

/// Numbers of real servers where there may be so many: those that were removed keep theirs while they have connections, and all may be exchanged for
/// others at once.
pub const fn server_ids(servers: usize) -> usize {
    servers.saturating_mul(2)
}

/// What one worker counts for one real server: one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ServerCell {
    /// Connections in a state that IPVS calls active (TCP: established or being set up).
    pub active: Counter,
    /// All other connections.
    pub inactive: Counter,
    /// Persistence templates.
    pub persistent: Counter,
    /// Connections since the start.
    pub connections: Counter,
    pub in_packets: Counter,
    pub in_bytes: Counter,
    pub out_packets: Counter,
    pub out_bytes: Counter,
}

/// Rules, chains' policies included, that there can be: of all tables together.
pub const MOST_RULES: usize = 65_536;
/// Numbers under which they are counted. Those of as many rules as there can be may still be counted under by workers with older tables
/// while as many others take their place.
pub const MOST_RULE_NUMBERS: usize = 2 * MOST_RULES;

/// What one worker counts for one rule, or a chain's policy.
#[derive(Debug, Default)]
pub struct RuleCell {
    pub packets: Counter,
    /// Of IP packets, headers included.
    pub bytes: Counter,
}

impl RuleCell {
    /// A packet of so many bytes.
    #[inline]
    pub fn add(&self, bytes: u64) {
        self.packets.add(1);
        self.bytes.add(bytes);
    }
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
    /// Received, and handed to the worker that has their connection.
    pub handed_over: Counter,
}

/// All that one worker counts. Lives in an `Arc`, shared with the control plane and the other workers, which read.
#[derive(Debug)]
pub struct WorkerCounters {
    servers: Box<[ServerCell]>,
    ports: Box<[PortCell]>,
    drops: Box<[[Counter; Hook::ALL.len()]]>,
    rules: Box<[RuleCell]>,
    services: Box<[ServiceCell]>,
    pub courses: Courses,
    pub flows: FlowCounters,
    pub edits: EditCounters,
    pub cookies: CookieCounters,
    pub quic: QuicCounters,
    pub turns: TurnCounters,
}

/// First packets of connections of services with QUIC-LB.
#[derive(Debug, Default)]
pub struct QuicCounters {
    /// Sent to the real server that their connection ID names.
    pub routed: Counter,
    /// Scheduled, by the reason, in the order of [`Fallback::ALL`].
    pub scheduled: [Counter; Fallback::ALL.len()],
}

/// The worker's flow table.
#[derive(Debug, Default)]
pub struct FlowCounters {
    /// Entries in use now, of `capacity`.
    pub entries: Counter,
    pub capacity: Counter,
    pub ipv6_entries: Counter,
    pub ipv6_capacity: Counter,
    /// Of `entries`, those of no virtual service.
    pub tracked: Counter,
    pub inserted: Counter,
    /// Of a process before this one, entered at the start; not in `inserted`.
    pub carried_over: Counter,
    pub expired: Counter,
    /// Told of by another director, and entered; not in `inserted`.
    pub taken_over: Counter,
    /// Changes that other directors were not told of at once, because there were too many.
    pub changes_untold: Counter,
    /// New connections refused because the table was full.
    pub full: Counter,
    /// New connections refused because both index buckets were full.
    pub index_full: Counter,
    /// Connections that were not established, or not any more, and went to make room for new ones.
    pub early_drop: Counter,
    /// Connections of limited services for which there was no room to be counted, and sources whose rate another one's had to go for.
    pub unlimited: Counter,
    /// Connections of virtual services that the defence `drop_entry` ended.
    pub drop_entry: Counter,
    /// Connections of virtual services that ended because their real server was removed (`expire_nodest_conn`), before their clients sent more.
    pub bereft: Counter,
    /// Packets that rules found INVALID: they fit no connection, and can begin none.
    pub invalid: Counter,
    /// Packets that were to be counted at their connection, for which there was no room.
    pub uncounted: Counter,
    /// Times that a connection was to get a label, of each packet that a rule asks it for, or to keep some over a restart, and there was no room for such a set.
    pub unlabelled: Counter,
    /// Connections that tracked ones' helpers expect now, and those of TCP among them: while there are any, other workers ask.
    pub expected: Counter,
    pub expected_streams: Counter,
    /// Expectations that helpers made, those of virtual services too, that ended in time or not, and packets that began what was expected.
    pub expect_create: Counter,
    pub expect_delete: Counter,
    pub expect_new: Counter,
    /// Packets whose flow was found / not found.
    pub found: Counter,
    pub missed: Counter,
}

/// Connections into whose streams something is put.
#[derive(Debug, Default)]
pub struct EditCounters {
    /// In use now, of `capacity`.
    pub entries: Counter,
    pub capacity: Counter,
    /// New connections for which there was no room.
    pub full: Counter,
    /// Packets without the client's address as an option, because there was no room in the header or on the link.
    pub toa_left_out: Counter,
}

/// SYN cookies, as the kernel counts them (`/proc/net/stat/synproxy`).
#[derive(Debug, Default)]
pub struct CookieCounters {
    /// SYNs that were answered with one.
    pub syn_received: Counter,
    /// Acknowledgements of none.
    pub invalid: Counter,
    /// Acknowledgements of one.
    pub valid: Counter,
    /// Of these, those that came again before the server had answered.
    pub retrans: Counter,
    /// Connections that were opened again while they were remembered.
    pub reopened: Counter,
}

/// The worker's loop.
#[derive(Debug, Default)]
pub struct TurnCounters {
    /// Time-stamp-counter cycles of turns that had work, and of those that had none.
    pub busy_cycles: Counter,
    pub idle_cycles: Counter,
    /// Cycles asleep; in `idle_cycles` too.
    pub nap_cycles: Counter,
    /// Turns by the time that they took: those that had work, and those that had none.
    pub busy_turns: [Counter; TURN_CLASSES],
    pub idle_turns: [Counter; TURN_CLASSES],
    /// Bursts by size: 1, 2–3, 4–7, 8–15, 16–31, 32.
    pub bursts: [Counter; 6],
    /// Packets passed to another worker (the owner of their flow, or of the port's queue or twin), and received from one.
    pub handed_over: Counter,
    pub handed_in: Counter,
    /// Turns since the start: a watchdog sees that the worker lives.
    pub turns: Counter,
    /// Generation of the tables in use.
    pub generation: Counter,
    /// The CPU that the worker runs on.
    pub cpu: Counter,
    /// ICMP errors sent, and those not sent because enough were (RFC 1812 §4.3.2.8).
    pub icmp_sent: Counter,
    pub icmp_suppressed: Counter,
    /// Packets waiting for a next hop, and fragments waiting for their first.
    pub waiting: Counter,
}

/// Classes of turns by their time; the last one has no upper bound.
const TURN_CLASSES: usize = TurnCounters::TURN_BOUNDS.len() + 1;

/// From the cycles of a turn to its class.
#[derive(Clone, Copy, Debug)]
pub struct TurnClock {
    /// 2⁻³² of the shortest class a cycle.
    scale: u64,
}

impl TurnClock {
    pub fn new(cycles_per_second: u64) -> TurnClock {
        let classes_per_second = 1_000_000_000 / TurnCounters::TURN_BOUNDS[0];
        TurnClock { scale: (classes_per_second << 32) / cycles_per_second.max(1) }
    }

    #[inline]
    pub fn class(self, cycles: u64) -> usize {
        let shortest = ((u128::from(cycles) * u128::from(self.scale)) >> 32) as u64;
        ((u64::BITS - shortest.leading_zeros()) as usize).min(TURN_CLASSES - 1)
    }
}

impl TurnCounters {
    /// Upper bounds of the classes of turns, nanoseconds. A packet that comes during a turn waits for its end: 100 µs is
    /// what may be expected.
    pub const TURN_BOUNDS: [u64; 10] =
        [3_125, 6_250, 12_500, 25_000, 50_000, 100_000, 200_000, 400_000, 800_000, 1_600_000];

    /// Turns that took 100 µs or more.
    pub fn long_turns(&self) -> u64 {
        let is_long = |class: usize| class > 0 && Self::TURN_BOUNDS[class - 1] >= 100_000;
        let count = |class: usize| self.busy_turns[class].get() + self.idle_turns[class].get();
        (0..TURN_CLASSES).filter(|&class| is_long(class)).map(count).sum()
    }

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
    /// For so many real servers, whose [numbers](server_ids) are twice as many; `ports` bounds [`PortId`].
    pub fn new(servers: usize, ports: usize) -> WorkerCounters {
        fn cells<T: Default>(n: usize) -> Box<[T]> {
            (0..n).map(|_| T::default()).collect()
        }
        WorkerCounters {
            // One more, for connections of no real server.
            servers: cells(server_ids(servers) + 1),
            ports: cells(ports),
            drops: cells(DropReason::ALL.len()),
            rules: cells(MOST_RULE_NUMBERS),
            // There are no more services than real servers; one more, for those that there is no room for.
            services: cells(servers + 1),
            courses: Courses::default(),
            flows: FlowCounters::default(),
            edits: EditCounters::default(),
            cookies: CookieCounters::default(),
            quic: QuicCounters::default(),
            turns: TurnCounters::default(),
        }
    }

    /// The real server's; of [`ServerId::NONE`], and of all that there is no room for, one that nobody reads.
    #[inline]
    pub fn server(&self, id: ServerId) -> &ServerCell {
        self.servers.get(id.index()).unwrap_or_else(|| &self.servers[self.server_capacity()])
    }

    /// Bounds [`ServerId`].
    #[inline]
    pub fn server_capacity(&self) -> usize {
        self.servers.len() - 1
    }

    /// The virtual service's; of all that there is no room for, one that nobody reads.
    pub fn service(&self, id: ServiceId) -> &ServiceCell {
        &self.services[id.index().min(self.services.len() - 1)]
    }

    /// How many virtual services, and real servers at one time, there is room for.
    pub fn service_capacity(&self) -> usize {
        self.services.len() - 1
    }

    pub fn port_count(&self) -> usize {
        self.ports.len()
    }

    #[inline]
    pub fn port(&self, id: PortId) -> &PortCell {
        &self.ports[id.index()]
    }

    /// What a rule matched in walks: see [`RuleSource`](crate::rule::RuleSource). Of a number that there is no room for, the last one's.
    #[inline]
    pub fn rule(&self, number: u32) -> &RuleCell {
        &self.rules[(number as usize).min(MOST_RULE_NUMBERS - 1)]
    }

    /// Packets and bytes of no rule, by the rules' numbers: to be added to.
    pub fn no_rule_counts() -> Vec<(u64, u64)> {
        vec![(0, 0); MOST_RULE_NUMBERS]
    }

    /// Adds what each rule matched, in walks and by courses. False, and nothing is added: the worker is at it, who asks must ask again.
    #[must_use]
    pub fn add_rule_counts(&self, sums: &mut [(u64, u64)]) -> bool {
        self.courses.read(&self.rules, sums)
    }

    /// Ends all courses, whose counts are their rules' from now on. The worker's alone.
    pub(crate) fn close_courses(&self) {
        self.courses.close(&self.rules);
    }

    #[inline]
    pub fn dropped(&self, reason: DropReason, hook: Hook) -> &Counter {
        &self.drops[reason as usize][hook as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_in_the_class_whose_bounds_are_around_its_time() {
        for hz in [1_000_000_000, 2_594_961_000, 5_000_000_001_u64] {
            let clock = TurnClock::new(hz);
            let cycles = |nanoseconds: u64| (u128::from(nanoseconds) * u128::from(hz) / 1_000_000_000) as u64;
            for (class, &bound) in TurnCounters::TURN_BOUNDS.iter().enumerate() {
                assert_eq!(clock.class(cycles(bound - 10)), class, "{hz}: {bound}");
                assert_eq!(clock.class(cycles(bound + 10)), class + 1, "{hz}: {bound}");
            }
            assert_eq!((clock.class(0), clock.class(u64::MAX)), (0, TURN_CLASSES - 1));
        }
    }

    #[test]
    fn long_turns_are_those_from_100_microseconds_on() {
        let turns = TurnCounters::default();
        let clock = TurnClock::new(1_000_000_000);
        for nanoseconds in [50_000, 99_000, 101_000, 300_000, 3_000_000] {
            turns.busy_turns[clock.class(nanoseconds)].add(1);
        }
        turns.idle_turns[clock.class(150_000)].add(1);
        assert_eq!(turns.long_turns(), 4);
    }
}
