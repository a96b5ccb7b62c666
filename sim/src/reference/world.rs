//! The path and the reference side by side: a director between clients and real servers that are frames drawn at random, right ones and
//! wrong ones, of which each step does something. No host is behind them, so that they may be of all that IPVS knows: SCTP, AH and ESP,
//! FullNAT, services by mark and prefix, QUIC, one-packet scheduling, every sysctl.

pub(super) mod frames;
mod ftp;
mod operator;
mod traffic;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrayvec::ArrayVec;
use hashbrown::HashMap;
use lb_core::counters::WorkerCounters;
#[cfg(test)]
use lb_core::drop::DropReason;
use lb_core::flow::memory_needed;
use lb_core::flow::template::Uses;
#[cfg(test)]
use lb_core::hook::Hook;
use lb_core::ids::{PortId, ServerId, WorkerId};
use lb_core::ipvs::limiter::Limiters;
use lb_core::ipvs::quic_lb::Config as QuicConfig;
use lb_core::mem::Region;
use lb_core::packet::{Frame, Packet as _};
use lb_core::path::{BURST, Burst, Io, Path, PathConfig, Steer};
use lb_core::tables::{ConnLimits, InterfaceId, Mac, Server, Service, ServiceKey, Settings, Tables};
use lb_core::time::Tick;
use lb_dataplane::Logic;

use self::frames::Rng;
use self::operator::{KEYS, key, server_address};
use super::Team;
use crate::run::message;
use crate::violation::Violation;
use crate::watched::{AS_THE_REFERENCE_SAYS, Verdict, Watched};

/// Numbers for real servers: fewer than there would be in time.
const SERVERS: usize = 64;
/// And where FTP's port has services too.
const SERVERS_WITH_FTP: usize = 96;

/// A step here is up to 32 packets: one for so many of the other worlds'.
const STEPS_A_STEP: u64 = 4;

/// Runs the world of `seed` as long as other worlds' `steps`. Returns the packets that came.
///
/// # Errors
/// The step and what was wrong in it.
pub fn run(seed: u64, steps: u64) -> Result<u64, (u64, Violation)> {
    let mut world = World::new(seed);
    for step in (1..=steps + 1).filter(|step| step.is_multiple_of(STEPS_A_STEP) || *step > steps) {
        let is_last = step > steps;
        let outcome = catch_unwind(AssertUnwindSafe(|| if is_last { world.settle() } else { world.step() }));
        let violation = match (outcome, world.verdict.mismatch()) {
            (Ok(()), None) => continue,
            (_, Some(mismatch)) => Violation { name: AS_THE_REFERENCE_SAYS, what: mismatch.to_string() },
            (Err(panic), None) => Violation { name: "nothing_panics", what: message(panic.as_ref()) },
        };
        return Err((step.min(steps), violation));
    }
    Ok(world.packets)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port_mac(port: u16) -> Mac {
    [2, 0, 0, 0, 0, port as u8 + 1]
}

/// What left, from which worker.
#[derive(Default)]
pub(super) struct Out {
    sent: Vec<(PortId, Vec<u8>)>,
    handed: Vec<(WorkerId, Frame, Steer)>,
    to_twin: u64,
    asked: u64,
    has_no_buffers: bool,
}

impl Io<Frame> for Out {
    fn transmit(&mut self, port: PortId, packet: Frame) {
        self.sent.push((port, packet.data().to_vec()));
    }
    fn to_twin(&mut self, _: PortId, _: Frame) {
        self.to_twin += 1;
    }
    fn hand_over(&mut self, to: WorkerId, packet: Frame, steer: Steer) {
        self.handed.push((to, packet, steer));
    }
    fn allocate(&mut self) -> Option<Frame> {
        (!self.has_no_buffers).then(|| Frame::new(PortId::NONE, &[]))
    }
    fn resolve(&mut self, _: InterfaceId, _: IpAddr) {
        self.asked += 1;
    }
}

/// What came to pass over all runs, so that a run that says nothing is found out.
#[cfg(test)]
#[derive(Default, Debug)]
pub(super) struct Seen {
    pub(super) packets: u64,
    pub(super) sent: u64,
    pub(super) to_twin: u64,
    pub(super) handed_over: u64,
    pub(super) asked: u64,
    pub(super) connections: u64,
    pub(super) expired: u64,
    pub(super) full: u64,
    pub(super) icmp_sent: u64,
    pub(super) icmp_suppressed: u64,
    pub(super) toa_left_out: u64,
    pub(super) cookies: u64,
    pub(super) asked_again: u64,
    pub(super) announced: u64,
    pub(super) drops: HashMap<DropReason, u64>,
}

#[cfg(test)]
impl Seen {
    pub(super) fn add<L>(&mut self, world: &World<L>) {
        self.packets += world.packets;
        self.sent += world.sent;
        self.to_twin += world.to_twin;
        self.handed_over += world.handed_over;
        self.asked += world.asked;
        for worker in world.counters.iter() {
            self.connections += worker.flows.inserted.get();
            self.expired += worker.flows.expired.get();
            self.full += worker.flows.full.get();
            self.icmp_sent += worker.turns.icmp_sent.get();
            self.icmp_suppressed += worker.turns.icmp_suppressed.get();
            self.toa_left_out += worker.edits.toa_left_out.get();
            self.cookies += worker.cookies.valid.get();
            self.asked_again += worker.cookies.retrans.get();
            self.announced += worker.flows.expect_create.get();
            for &reason in DropReason::ALL {
                let count: u64 = Hook::ALL.iter().map(|&hook| worker.dropped(reason, hook).get()).sum();
                *self.drops.entry(reason).or_default() += count;
            }
        }
    }
}

pub(super) struct World<L = Path<Frame>> {
    rng: Rng,
    /// Of what came to be drawn later: all else is as it was without.
    beside: Rng,
    /// What it does more of than of other things.
    mood: Mood,
    /// Services of TCP may have PROXY headers and cookies, and then real servers of fewer methods.
    has_headers: bool,
    /// All services pick by hashes, and nothing else is asked, so that flood mode comes and goes.
    is_hashing: bool,
    /// How connection IDs of QUIC are written, of which a service knows none, one or both.
    quic: [QuicConfig; 2],
    /// Services of TCP may read along in FTP, which clients and servers speak.
    has_ftp: bool,
    /// FTP's own port has services, and every port of TCP.
    has_ftp_port: bool,
    /// Packets for other hosts come to services by their mark, now and then: caches.
    has_caches: bool,
    workers: Vec<Watched<L>>,
    pub(super) verdict: Verdict,
    counters: Arc<[Arc<WorkerCounters>]>,
    team: Arc<Team>,
    handed: Vec<VecDeque<(Frame, Steer)>>,
    now: Tick,
    generation: u32,
    version: u32,
    services: Vec<Option<Arc<Service>>>,
    limiters: Limiters,
    /// Of each service, while it has limits: its rates and what a source is stay the same.
    limits: Vec<ConnLimits>,
    /// Numbers of rules, in their order.
    marks: Vec<usize>,
    has_marked_routes: bool,
    /// They are for every address.
    marks_all: bool,
    /// Each real server that there ever was, by service and address.
    known: HashMap<(ServiceKey, IpAddr), Server>,
    neighbours: HashMap<IpAddr, Option<Mac>>,
    settings: Settings,
    mtu: u16,
    odd_route: usize,
    /// The real servers' interface has an address that tunnels over IPv6 can come from.
    has_ipv6_source: bool,
    pub(super) tables: Arc<Tables>,
    adopted: Vec<u32>,
    /// Frames that left a while ago, each with its port.
    left: VecDeque<(PortId, Vec<u8>)>,
    /// Packets with lines of FTP that came, which may come again.
    said: VecDeque<(PortId, frames::Recipe)>,
    packets: u64,
    sent: u64,
    to_twin: u64,
    handed_over: u64,
    asked: u64,
}

/// What a world is full of, for the bounds that ordinary traffic never meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Ordinary,
    /// Fragments whose first one never comes.
    Fragments,
    /// Packets that must be answered, at one moment.
    Errors,
    /// Next hops that are not known.
    Unresolved,
}

/// For so many connections, and so many IPv6 ones of them.
pub(super) fn config(
    worker: u16,
    counters: &Arc<[Arc<WorkerCounters>]>,
    uses: &Arc<Uses>,
    (connections, ipv6): (u32, u32),
    seed: u64,
    now: Tick,
) -> PathConfig {
    PathConfig {
        worker: WorkerId(worker),
        counters: counters.clone(),
        max_connections: connections,
        max_ipv6_connections: ipv6,
        uses: uses.clone(),
        memory: Region::heap(memory_needed(connections, ipv6)),
        hash_seed: seed,
        rss: None,
        now,
    }
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        World::around(seed, Path::new)
    }
}

impl<L: Logic<Frame>> World<L> {
    pub(super) fn around(seed: u64, make: impl Fn(PathConfig) -> L) -> World<L> {
        let (mut rng, beside) = (Rng(seed), Rng(!seed));
        let has_ftp = [1, 3].contains(&(seed % 5));
        let has_ftp_port = has_ftp && (seed / 10).is_multiple_of(2);
        let servers = if has_ftp_port { SERVERS_WITH_FTP } else { SERVERS };
        let mood = rng.of(&[
            Mood::Ordinary,
            Mood::Ordinary,
            Mood::Ordinary,
            Mood::Fragments,
            Mood::Errors,
            Mood::Unresolved,
        ]);
        let workers = rng.of(&[1, 1, 2, 3, 4]);
        let counters: Arc<[Arc<WorkerCounters>]> =
            (0..workers).map(|_| Arc::new(WorkerCounters::new(servers, 3))).collect();
        let team = Arc::new(Team::new(&counters));
        let verdict = Verdict::default();
        let now = Tick(rng.of(&[0, 1000, u32::MAX - 30_000, 0x7fff_ff00]));
        let is_hashing = seed % 4 == 2;
        let (connections, ipv6) = rng.of(&[(2, 1), (20, 8), (300, 300), (2000, 1000)]);
        let (connections, ipv6) = if is_hashing { (40, 20) } else { (connections, ipv6) };
        let uses = Arc::new(Uses::new(counters.len(), connections));
        let config = |worker| config(worker, &counters, &uses, (connections, ipv6), seed, now);
        let mut world = World {
            workers: (0..workers)
                .map(|worker| Watched::around(&make, config(worker), &team, &verdict))
                .collect(),
            rng,
            beside,
            mood,
            has_headers: !seed.is_multiple_of(2),
            is_hashing,
            quic: frames::quic_configs(seed),
            has_ftp,
            has_ftp_port,
            has_caches: seed % 5 == 4,
            verdict,
            counters: counters.clone(),
            team,
            handed: (0..workers).map(|_| VecDeque::new()).collect(),
            now,
            generation: 0,
            version: 0,
            services: vec![None; KEYS.len()],
            limiters: Limiters::new(seed),
            limits: Vec::new(),
            marks: Vec::new(),
            has_marked_routes: false,
            marks_all: false,
            known: HashMap::new(),
            neighbours: HashMap::new(),
            settings: Settings::default(),
            mtu: 1500,
            odd_route: 0,
            has_ipv6_source: true,
            tables: Arc::default(),
            adopted: vec![0; usize::from(workers)],
            left: VecDeque::new(),
            said: VecDeque::new(),
            packets: 0,
            sent: 0,
            to_twin: 0,
            handed_over: 0,
            asked: 0,
        };
        world.limits = (0..world.keys().len()).map(|number| world.draw_limits(&key(number))).collect();
        for _ in 0..world.rng.below(6) {
            world.change_sysctl();
        }
        world.settings.sysctls.nat_icmp_send = u32::from(seed.is_multiple_of(3));
        for number in 0..world.keys().len() {
            world.change_service(number);
            for _ in 0..3 {
                world.change_server(number);
            }
        }
        for address in ["192.0.2.100", "192.0.2.101", "192.0.2.1", "2001:db8::100", "2001:db8::ffff"] {
            world.neighbours.insert(ip(address), Some([2, 0, 0, 0, 1, 1]));
        }
        for n in 0..4 {
            for is_ipv6 in [false, true] {
                world.neighbours.insert(server_address(is_ipv6, n), Some([2, 0, 0, 0, 2, n as u8]));
            }
        }
        if world.has_caches {
            world.change_marked_routes();
        }
        world.compile();
        for worker in 0..usize::from(workers) {
            world.adopt(worker);
        }
        world
    }

    fn adopt(&mut self, worker: usize) {
        if self.adopted[worker] != self.tables.generation {
            self.adopted[worker] = self.tables.generation;
            self.workers[worker].adopt(self.tables.clone());
        }
    }

    pub(super) fn step(&mut self) {
        if self.has_caches && self.beside.one_in(80) {
            self.change_marked_routes();
        }
        match self.rng.below(100) {
            0..3 if self.has_headers => self.converse(),
            0..12 if self.has_ftp => self.speak_ftp(),
            0..50 => self.burst(),
            50..75 => self.hand_over(),
            75..94 => self.turn(),
            94 => {
                let number = self.rng.below(self.keys().len());
                self.change_server(number);
            }
            95 => self.change_neighbour(),
            96 => {
                let number = self.rng.below(self.keys().len());
                if self.rng.one_in(3) {
                    self.change_service(number);
                }
            }
            97 => self.change_settings(),
            _ => self.twin_burst(),
        }
    }

    /// All tables adopted, all rings empty, all time over.
    pub(super) fn settle(&mut self) {
        for _ in 0..600 {
            self.now = Tick(self.now.0.wrapping_add(1000));
            for worker in 0..self.workers.len() {
                self.adopt(worker);
                self.hand_over_to(worker);
                self.turn_of(worker);
            }
        }
        for worker in self.counters.iter() {
            assert_eq!(worker.flows.entries.get(), 0, "all connections have ended");
            for id in (0..worker.server_capacity() as u32).map(ServerId) {
                let cell = worker.server(id);
                let counts = [cell.active.get(), cell.inactive.get(), cell.persistent.get()];
                assert_eq!(counts, [0; 3], "nothing is counted for {id:?} any more");
            }
        }
    }

    fn turn(&mut self) {
        let ticks = match self.mood {
            Mood::Ordinary => self.rng.of(&[0, 0, 1, 1, 2, 5, 20, 100, 500]),
            _ => self.rng.of(&[0, 0, 0, 0, 0, 0, 0, 1, 20]),
        };
        let ticks = if self.rng.one_in(200) { self.rng.of(&[7000, 100_000, 10_000_000]) } else { ticks };
        self.now = Tick(self.now.0.wrapping_add(ticks));
        let worker = self.rng.below(self.workers.len());
        self.adopt(worker);
        self.turn_of(worker);
    }

    fn turn_of(&mut self, worker: usize) {
        let mut out = self.out();
        self.workers[worker].turn(self.now, &mut out);
        self.take(out);
    }

    fn out(&mut self) -> Out {
        Out { has_no_buffers: self.rng.one_in(20), ..Out::default() }
    }

    fn burst(&mut self) {
        let worker = self.rng.below(self.workers.len());
        let len = self.rng.of(&[1, 1, 1, 2, 4, 32]);
        let mut burst = Burst::new();
        while burst.len() < len {
            for (port, frame) in self.frames() {
                if burst.len() < len {
                    burst.push(Frame::new(port, &frame));
                }
            }
        }
        self.packets += len as u64;
        let mut out = self.out();
        self.workers[worker].receive(&mut burst, self.now, &mut out);
        self.take(out);
    }

    /// A connection begins, and its ends say a few things to each other.
    fn converse(&mut self) {
        let mut next = Some(self.syn());
        for _ in 0..8 {
            let Some((port, frame)) = next else { return };
            self.bring(port, &frame);
            next = self.next_of_stream();
        }
    }

    /// A packet comes, and goes all of its way.
    fn bring(&mut self, port: PortId, frame: &[u8]) {
        let worker = self.rng.below(self.workers.len());
        let mut burst: Burst<Frame> = std::iter::once(Frame::new(port, frame)).collect();
        self.packets += 1;
        let mut out = self.out();
        self.workers[worker].receive(&mut burst, self.now, &mut out);
        self.take(out);
        for worker in 0..self.workers.len() {
            self.hand_over_to(worker);
        }
    }

    fn twin_burst(&mut self) {
        let worker = self.rng.below(self.workers.len());
        let frames = self.frames();
        let mut burst: Burst<Frame> =
            frames.iter().map(|(port, frame)| Frame::new(*port, frame)).take(BURST).collect();
        let mut out = self.out();
        self.workers[worker].receive_from_twin(PortId(1), &mut burst, self.now, &mut out);
        self.take(out);
    }

    fn hand_over(&mut self) {
        let worker = self.rng.below(self.workers.len());
        self.hand_over_to(worker);
    }

    fn hand_over_to(&mut self, worker: usize) {
        let len = self.handed[worker].len().min(BURST);
        let mut burst: ArrayVec<_, BURST> = self.handed[worker].drain(..len).collect();
        let mut out = self.out();
        self.workers[worker].receive_handed_over(&mut burst, self.now, &mut out);
        self.take(out);
    }

    fn take(&mut self, out: Out) {
        self.to_twin += out.to_twin;
        self.asked += out.asked;
        self.sent += out.sent.len() as u64;
        self.handed_over += out.handed.len() as u64;
        for (to, frame, steer) in out.handed {
            self.handed[to.index()].push_back((frame, steer));
        }
        for (port, frame) in out.sent {
            if self.left.len() == 50 {
                let place = self.rng.below(50);
                self.left.remove(place);
            }
            self.left.push_back((port, frame));
        }
    }
}
