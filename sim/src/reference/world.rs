//! The path and the reference side by side: a director between clients and real servers that are frames drawn at random, right ones and
//! wrong ones, of which each step does something. No host is behind them, so that they may be of all that IPVS knows: SCTP, AH and ESP,
//! FullNAT, services by mark and prefix, QUIC, one-packet scheduling, every sysctl.

pub(super) mod frames;
mod ftp;
mod traffic;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
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
use lb_core::ids::{PortId, ServerId, ServiceId, WorkerId};
use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::limiter::Limiters;
use lb_core::ipvs::quic_lb::{Config, QuicLb, QuicServerId};
use lb_core::ipvs::scheduler::{Scheduler, SchedulerFlags};
use lb_core::mem::Region;
use lb_core::packet::{Frame, Packet as _};
use lb_core::path::{BURST, Burst, Io, Path, PathConfig, Steer};
use lb_core::tables::{
    ClientMask, ConnLimits, ConnRate, Engine, Forward, GueChecksum, Helper, Interface, InterfaceId,
    Interfaces, Mac, MarkRule, Marks, Neighbours, Persistence, Prefix, Protocol, ProxyVersion, Route, Routes,
    Server, Service, ServiceKey, ServiceOptions, Services, Settings, SynCookies, Sysctl, Sysctls, Tables,
    Tunnel,
};
use lb_core::time::{Tick, Timeout};
use lb_dataplane::Logic;

use self::frames::Rng;
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
    /// Services of TCP may read along in FTP, which clients and servers speak.
    has_ftp: bool,
    /// FTP's own port has services, and every port of TCP.
    has_ftp_port: bool,
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

const KEYS: [(u8, &str, u16); 20] = [
    (6, "192.0.2.10", 80),
    (17, "192.0.2.10", 80),
    (6, "192.0.2.11", 443),
    (6, "2001:db8::10", 80),
    (17, "2001:db8::10", 53),
    (17, "192.0.2.11", 0),
    (132, "192.0.2.10", 80),
    (132, "2001:db8::10", 80),
    (17, "192.0.2.11", 500),
    (17, "2001:db8::10", 500),
    // Firewall marks.
    (0, "0.0.0.7", 0),
    (0, "0:7::", 0),
    // Prefixes, within which the addresses above are.
    (6, "192.0.2.10/31", 80),
    (17, "192.0.2.8/29", 0),
    (6, "2001:db8::/64", 0),
    (17, "2001:db8::/120", 53),
    // From here on in worlds alone where FTP's port has services.
    (6, "192.0.2.10", 21),
    (6, "2001:db8::10", 21),
    (6, "192.0.2.10", 0),
    (6, "192.0.2.8/29", 21),
];

const WITHOUT_FTP_PORT: usize = 16;

/// What some routes take.
const NARROW: [u16; 2] = [600, 1290];

/// The prime that follows on the least size of maglev's table.
const LARGER_TABLE: u32 = 65_539;

fn mark_rule(n: usize) -> MarkRule {
    let any = MarkRule {
        mark: 7,
        protocol: None,
        source: None,
        destination: None,
        destination_ports: 0..=u16::MAX,
        source_set: None,
        destination_set: None,
    };
    let prefix = |address, len| Some(Prefix { address: ip(address), len });
    match n {
        0 => MarkRule { protocol: Some(Protocol::UDP), destination: prefix("192.0.2.10", 31), ..any },
        1 => MarkRule { source: prefix("192.0.2.100", 32), destination_ports: 80..=80, ..any },
        2 => MarkRule { destination: prefix("2001:db8::", 32), destination_ports: 50..=60, ..any },
        3 => MarkRule { mark: 8, source: prefix("2001:db8::100", 128), ..any },
        4 => MarkRule { mark: 9, destination_ports: 443..=443, ..any },
        _ => MarkRule { source: prefix("0.0.0.0", 0), ..any },
    }
}

fn key(number: usize) -> ServiceKey {
    let (protocol, address, port) = KEYS[number];
    let (address, len) = address.split_once('/').unwrap_or((address, ""));
    let whole = ServiceKey::new(Protocol(protocol), ip(address), port);
    ServiceKey { prefix_len: len.parse().unwrap_or(whole.prefix_len), ..whole }
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

/// Those that may lead to the other family last, from [`FIRST_TO_OTHER`] on.
const FORWARDS: &[Forward] = &[
    Forward::Masq,
    Forward::Masq,
    Forward::Masq,
    Forward::Direct,
    Forward::Direct,
    Forward::FullNat,
    Forward::FullNat,
    Forward::FullNat,
    Forward::Tunnel(Tunnel::Ipip),
    Forward::Tunnel(Tunnel::Ipip),
    Forward::Tunnel(Tunnel::Gue { port: 6080, checksum: GueChecksum::No }),
    Forward::Tunnel(Tunnel::Gue { port: 6080, checksum: GueChecksum::Yes }),
    Forward::Tunnel(Tunnel::Gre { checksum: false }),
    Forward::Tunnel(Tunnel::Gre { checksum: true }),
];

const FIRST_TO_OTHER: usize = 5;

/// Whether the control plane lets a service with these options have such a real server.
fn may_have(options: &ServiceOptions, key: &ServiceKey, server: &Server) -> bool {
    let is_other_family = server.address.is_ipv6() != key.address.is_ipv6();
    let is_answered = matches!(server.forward, Forward::Masq | Forward::FullNat);
    let has_cookies = options.syn_cookies != SynCookies::Off;
    (is_answered || options.proxy_protocol.is_none() && !has_cookies)
        && !(is_other_family && is_answered && (options.one_packet || has_cookies))
}

fn server_address(is_ipv6: bool, n: usize) -> IpAddr {
    ip(&if is_ipv6 { format!("fd00::{}", 11 + n) } else { format!("10.0.0.{}", 11 + n) })
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
            has_ftp,
            has_ftp_port,
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
        world.compile();
        for worker in 0..usize::from(workers) {
            world.adopt(worker);
        }
        world
    }

    fn next_version(&mut self) -> u32 {
        self.version += 1;
        self.version
    }

    fn keys(&self) -> &'static [(u8, &'static str, u16)] {
        &KEYS[..if self.has_ftp_port { KEYS.len() } else { WITHOUT_FTP_PORT }]
    }

    /// With flags, whether or not they mean something to it; maglev with one of two sizes of its table.
    fn scheduler(&mut self, kind: SchedulerKind) -> Scheduler {
        let names = self.beside.of(&[&[][..], &["flag-1"], &["flag-2"], &["flag-1", "flag-2", "flag-3"]]);
        let flags = SchedulerFlags::from_names(kind, names.iter().copied()).expect("all have these");
        let plain = Scheduler::from(kind);
        let is_larger = kind == SchedulerKind::Maglev && self.beside.one_in(3);
        let table_size = if is_larger { LARGER_TABLE } else { plain.table_size };
        Scheduler { flags, table_size, ..plain }
    }

    /// Adds, removes or reschedules a service.
    fn change_service(&mut self, number: usize) {
        let version = self.next_version();
        let scheduler = match self.rng.of(SchedulerKind::ALL) {
            _ if self.is_hashing => SchedulerKind::Sh,
            scheduler => scheduler,
        };
        let scheduler = self.scheduler(scheduler);
        let id = ServiceId(number as u32);
        if self.rng.one_in(2) {
            self.marks = (0..self.rng.below(4)).map(|_| self.rng.below(6)).collect();
        }
        self.services[number] = match self.services[number].take() {
            None => {
                let mut service = Service::new(None, id, key(number), scheduler, vec![], version);
                service.options = self.options(&service.key);
                service.options.limits = self.change_limits(number);
                service.limiter = self.limiters.make(None, service.options.limits);
                service.local_addresses = self.local_addresses();
                service.quic_lb = self.quic_lb(&service.servers);
                Some(Arc::new(service))
            }
            Some(_) if self.rng.one_in(4) => None,
            Some(old) => {
                // Flags alone are no change to what a scheduler has made.
                let is_same = Scheduler { flags: old.scheduler_flags, ..scheduler } == old.scheduler();
                let version = if is_same { old.version } else { version };
                let mut service =
                    Service::new(Some(&old), id, old.key, scheduler, old.servers.clone(), version);
                service.options = self.options(&old.key);
                service.options.limits = self.change_limits(number);
                service.limiter = self.limiters.make(old.limiter.as_ref(), service.options.limits);
                if !service.servers.iter().all(|server| may_have(&service.options, &old.key, server)) {
                    service.options.one_packet = false;
                    (service.options.proxy_protocol, service.options.syn_cookies) = (None, SynCookies::Off);
                }
                service.local_addresses = self.local_addresses();
                service.quic_lb = self.quic_lb(&service.servers);
                Some(Arc::new(service))
            }
        };
        self.compile();
    }

    /// What a service may be limited to: every fourth is.
    fn draw_limits(&mut self, key: &ServiceKey) -> ConnLimits {
        let prefixes =
            if key.address.is_ipv6() { [None, Some(64), Some(124)] } else { [None, Some(24), Some(31)] };
        let mut rate = || match self.rng.below(3) {
            0 => Some(ConnRate { per_second: self.rng.of(&[3, 40]), burst: self.rng.of(&[2, 9]) }),
            _ => None,
        };
        let (rate, source_rate) = (rate(), rate());
        let source_prefix = self.rng.of(&prefixes);
        let is_limited = self.rng.one_in(4);
        let limits = ConnLimits { rate, source_rate, source_prefix, connections: 9, ..ConnLimits::NONE };
        if is_limited { limits } else { ConnLimits::NONE }
    }

    /// As many connections as a service may have from now on; now and then any.
    fn change_limits(&mut self, number: usize) -> ConnLimits {
        let (connections, source_connections) = (self.rng.of(&[0, 3, 12]), self.rng.of(&[0, 2, 8]));
        match self.limits[number] {
            limits if limits == ConnLimits::NONE || self.rng.one_in(4) => ConnLimits::NONE,
            limits => ConnLimits { connections, source_connections, ..limits },
        }
    }

    /// Every third service reads connection IDs, one of them without knowing how. Each real server has an ID of each length.
    fn quic_lb(&mut self, servers: &[Server]) -> Option<Arc<QuicLb>> {
        if !self.rng.one_in(3) || self.is_hashing {
            return None;
        }
        let mut quic = QuicLb::default();
        let configs = [(0, 1, 4), (1, 2, 5)].map(|(id, id_len, nonce_len)| {
            Config::new(id, id_len, nonce_len, None).expect("within all bounds")
        });
        quic.set_configs(configs[..self.rng.of(&[0, 1, 2, 2])].to_vec()).expect("each has an ID of its own");
        for server in servers {
            let ids =
                frames::quic_ids(server.address).map(|id| QuicServerId::parse(&id).expect("hexadecimal"));
            quic.set_ids(server.id, ids.to_vec());
        }
        Some(quic.into())
    }

    /// Every third service is persistent, every fifth forgets each packet, two of three tell of their clients by an option, in every second world one of
    /// two by a header.
    fn options(&mut self, key: &ServiceKey) -> ServiceOptions {
        let mask = self.rng.of(&[ClientMask::WHOLE, ClientMask::ipv4(Ipv4Addr::new(255, 255, 255, 0))]);
        let timeout = Timeout::from_secs(self.rng.of(&[1, 3, 100]));
        let persistence = self.rng.one_in(3).then_some(Persistence { timeout, mask });
        let persistence = persistence.filter(|_| !self.is_hashing);
        let engine = self.rng.one_in(4).then_some(Engine::Sip);
        let toa = !self.version.is_multiple_of(3);
        let may_be_tcp = [Protocol::TCP, Protocol::ANY].contains(&key.protocol);
        let is_tcp = self.has_headers && may_be_tcp;
        let is_ftp = self.has_ftp && may_be_tcp && !self.rng.one_in(3);
        let proxy_protocol = self.rng.of(&[None, None, Some(ProxyVersion::V1), Some(ProxyVersion::V2)]);
        let syn_cookies = self.rng.of(&[SynCookies::Off, SynCookies::On, SynCookies::Auto(3)]);
        // What tells an acknowledgement of a cookie from one worker to another is not to be had here.
        let may_have_cookies = is_tcp && persistence.is_none();
        ServiceOptions {
            persistence,
            engine,
            one_packet: self.rng.one_in(5) && !self.is_hashing,
            toa,
            clamp_mss: may_be_tcp && self.beside.one_in(2),
            helper: is_ftp.then_some(Helper::Ftp),
            proxy_protocol: proxy_protocol.filter(|_| is_tcp),
            syn_cookies: if may_have_cookies { syn_cookies } else { SynCookies::Off },
            ..ServiceOptions::default()
        }
    }

    /// Most services state none; some that are stated are not the director's, or are those of services too.
    fn local_addresses(&mut self) -> Vec<IpAddr> {
        let known = ["10.0.0.9", "192.0.2.9", "192.0.2.11", "10.0.0.99", "2001:db8::9"];
        let count = self.rng.of(&[0, 0, 1, 2, 4]);
        (0..count).map(|_| ip(self.rng.of(&known))).collect()
    }

    /// Adds, edits or removes a real server of a service.
    fn change_server(&mut self, number: usize) {
        let Some(old) = self.services[number].clone() else { return };
        let version = self.next_version();
        let n = self.rng.below(5);
        let is_other = self.rng.one_in(4);
        let address = server_address(old.key.address.is_ipv6() != is_other, n);
        let before = self.known.get(&(old.key, address)).cloned();
        let place = old.servers.iter().position(|server| server.address == address);
        let mut servers = old.servers.clone();
        if let Some(place) = place
            && self.rng.one_in(2)
        {
            servers.remove(place);
        } else {
            let next_id = ServerId(self.known.len() as u32);
            let upper_threshold = if self.is_hashing { 0 } else { self.rng.of(&[0, 0, 0, 3, 10]) };
            let forward = self.rng.of(if is_other { &FORWARDS[FIRST_TO_OTHER..] } else { FORWARDS });
            let forward = match forward {
                Forward::Tunnel(Tunnel::Gue { port, checksum: GueChecksum::Yes })
                    if self.beside.one_in(2) =>
                {
                    Forward::Tunnel(Tunnel::Gue { port, checksum: GueChecksum::Remote })
                }
                forward => forward,
            };
            let port = self.rng.of(&[80, 8080, 0]);
            let weight = self.rng.of(&[0, 1, 1, 2, 3, 4, 6, 100]);
            let last_weight = match place {
                Some(_) if weight == 0 => before.as_ref().map_or(0, |before| before.last_weight),
                _ => weight,
            };
            let mut server = Server {
                id: before.as_ref().map_or(next_id, |before| before.id),
                address,
                port,
                weight,
                last_weight,
                // Drawn anew for one that was there, whose connections and templates stay.
                forward,
                upper_threshold,
                lower_threshold: self.rng.of(&[0, 2]).min(upper_threshold),
                overloaded: before.as_ref().map(|before| before.overloaded.clone()).unwrap_or_default(),
            };
            if !may_have(&old.options, &old.key, &server) {
                return;
            }
            server.after_edit(before.map_or(0, |before| before.upper_threshold));
            match place {
                Some(place) => servers[place] = server.clone(),
                None => servers.insert(0, server.clone()),
            }
            self.known.insert((old.key, address), server);
        }
        let mut service = Service::new(Some(&old), old.id, old.key, old.scheduler(), servers, version);
        service.quic_lb = self.quic_lb(&service.servers);
        self.team.tell_service(&service);
        self.services[number] = Some(Arc::new(service));
        // A control plane in a hurry compiles several changes at once.
        if self.rng.one_in(2) {
            self.compile();
        }
    }

    fn change_neighbour(&mut self) {
        let (n, is_ipv6) = (self.rng.below(5), self.rng.one_in(2));
        let address = match self.rng.below(4) {
            0 => ip(self.rng.of(&["192.0.2.100", "192.0.2.1", "2001:db8::100", "2001:db8::ffff"])),
            _ => server_address(is_ipv6, n),
        };
        match self.rng.below(5) {
            0 => self.neighbours.remove(&address),
            1 => self.neighbours.insert(address, None),
            _ => self.neighbours.insert(address, Some([2, 0, 0, 0, 3, n as u8])),
        };
        self.compile();
    }

    fn change_settings(&mut self) {
        let timeout = self.rng.of(&[1, 5, 60, 900, 900]);
        match self.rng.below(10) {
            0 => self.settings.tcp = Timeout::from_secs(timeout),
            1 => self.settings.tcp_fin = Timeout::from_secs(timeout),
            2 => self.settings.udp = Timeout::from_secs(timeout),
            3 => self.settings.forwarding = !self.rng.one_in(4),
            4 => self.mtu = self.rng.of(&[1500, 1500, 1500, 1280, 576, 68, 20]),
            5 => self.settings.draining = self.rng.one_in(4),
            8 => self.settings.is_standby = self.rng.one_in(3),
            6 => self.has_ipv6_source = !self.rng.one_in(4),
            7 => self.change_sysctl(),
            _ => self.odd_route = self.rng.below(24),
        }
        self.compile();
    }

    fn change_sysctl(&mut self) {
        // No world is so full that newcomers would give way.
        let drawn = || Sysctls::TABLE.iter().filter(|sysctl| sysctl.name != "drop_newcomers");
        let at = self.rng.below(drawn().count());
        let Some(Sysctl { max, value, .. }) = drawn().nth(at) else { return };
        let small = self.rng.below((*max).min(3) as usize + 1) as u32;
        let is_number = *max > 3;
        let number = self.rng.of(&[2, 5, 15, 400]);
        *value(&mut self.settings.sysctls) = if is_number { number } else { small };
    }

    /// New tables, told to the team and not adopted yet.
    fn compile(&mut self) {
        self.generation += 1;
        let interface = |name: &str, port: u16, vlan, mtu, ipv4: &str, ipv6: Option<&str>| Interface {
            name: name.into(),
            port: PortId(port),
            vlan,
            mac: port_mac(port),
            mtu,
            outside: port == 0,
            group: 0,
            ipv4: Some(ipv4.parse().unwrap()),
            ipv6: ipv6.map(|address| address.parse().unwrap()),
        };
        let lan_ipv6 = Some("fd00::9").filter(|_| self.has_ipv6_source);
        let interfaces = Interfaces::new(vec![
            interface("wan", 0, 0, 1500, "192.0.2.9", Some("2001:db8::9")),
            interface("lan", 1, 0, self.mtu, "10.0.0.9", lan_ipv6),
            interface("lan.7", 1, 7, 1500, "10.7.0.9", None),
        ]);
        let via =
            |n, gateway: Option<&str>| Route::Via { interface: InterfaceId(n), gateway: gateway.map(ip) };
        let route = |address: &str, len, route| (Prefix { address: ip(address), len }, route, 0);
        let narrow = |address: &str, len, mtu| (Prefix { address: ip(address), len }, via(1, None), mtu);
        let mut routes = match self.odd_route {
            1 => vec![route("10.0.0.0", 24, Route::Linux)],
            2 => vec![route("10.0.0.0", 24, Route::Forbidden)],
            3 => vec![route("10.0.0.12", 32, Route::Local)],
            4 => vec![route("192.0.2.10", 32, Route::Forbidden)],
            5 => vec![route("10.0.0.0", 24, via(2, None)), route("fd00::", 64, via(2, None))],
            6 => vec![route("fd00::", 64, Route::Linux)],
            7 => vec![narrow("10.0.0.12", 32, NARROW[0]), narrow("fd00::12", 128, NARROW[1])],
            8 => vec![narrow("10.0.0.0", 24, NARROW[1]), narrow("fd00::", 64, NARROW[1])],
            9 => {
                vec![(Prefix { address: ip("198.51.100.0"), len: 24 }, via(0, Some("192.0.2.1")), NARROW[0])]
            }
            _ => vec![],
        };
        routes.extend([
            route("192.0.2.0", 24, via(0, None)),
            route("192.0.2.9", 32, Route::Local),
            route("192.0.2.10", 32, Route::Local),
            route("192.0.2.11", 32, Route::Local),
            route("198.51.100.0", 24, via(0, Some("192.0.2.1"))),
            route("203.0.113.0", 24, Route::Forbidden),
            route("10.0.0.0", 24, via(1, None)),
            route("10.0.0.9", 32, Route::Local),
            route("10.7.0.0", 24, via(2, None)),
            route("10.8.0.0", 24, Route::Linux),
            route("2001:db8::", 64, via(0, None)),
            route("2001:db8::9", 128, Route::Local),
            route("2001:db8::10", 128, Route::Local),
            route("2001:db8:1::", 48, via(0, Some("2001:db8::ffff"))),
            route("fd00::", 64, via(1, None)),
            route("fd00::9", 128, Route::Local),
        ]);
        let on = |address: &IpAddr| match address {
            IpAddr::V4(a) if a.octets()[0] == 10 => vec![1, 2],
            IpAddr::V6(a) if a.segments()[0] == 0xfd00 => vec![1, 2],
            _ => vec![0],
        };
        let neighbours = self.neighbours.iter().flat_map(|(address, mac)| {
            on(address).into_iter().map(move |interface| (InterfaceId(interface), *address, *mac))
        });
        let narrowed = [(0, NARROW[0]), (1, NARROW[0]), (1, NARROW[1])].map(|(n, mtu)| (InterfaceId(n), mtu));
        self.tables = Arc::new(Tables {
            generation: self.generation,
            neighbours: Neighbours::with_mtus(&interfaces, &narrowed, neighbours).into(),
            interfaces: interfaces.into(),
            routes: Routes::with_mtus(routes).into(),
            services: Services::new(self.services.iter().flatten().cloned()).into(),
            rules: Arc::default(),
            marks: Marks(self.marks.iter().map(|&rule| mark_rule(rule)).collect()).into(),
            sets: Arc::default(),
            settings: self.settings,
            cookies: Default::default(),
            trace: None,
            zone: Arc::default(),
            events: Arc::default(),
        });
        self.team.tell(&self.tables);
    }

    fn adopt(&mut self, worker: usize) {
        if self.adopted[worker] != self.tables.generation {
            self.adopted[worker] = self.tables.generation;
            self.workers[worker].adopt(self.tables.clone());
        }
    }

    pub(super) fn step(&mut self) {
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
