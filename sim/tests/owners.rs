//! Goal: with several workers every packet ends at the worker that has its connection, and no connection is entered twice: all forwarding
//! methods, all kinds of NAT, both families, fragments and ICMP errors.
//! Method: worker threads on ports in memory that spread packets without looking at them, so that nearly all are handed over, or by RSS with the
//! keys and the table of [`lb_core::rss`], so that nothing is; clients and servers that look at each packet that comes out.

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use lb_control::api::rules::RuleFamily;
use lb_core::counters::WorkerCounters;
use lb_core::flow::Hasher;
use lb_core::ids::{PortId, ServerId, ServiceId, WorkerId};
use lb_core::ipvs::SchedulerKind;
use lb_core::packet::{Frame, Packet};
use lb_core::path::{Owners, Sought};
use lb_core::rss::{End, Means, Rss};
use lb_core::rule::Rules;
use lb_core::tables::{
    Forward, GueChecksum, Protocol, Server, Service, ServiceKey, Services, Tables, Tunnel,
};
use lb_core::toeplitz;
use lb_dataplane::{Team, Wire};
use sim::wire::{self, Body, Seen};

use common::{LAN, SEED, WAN, at, drops, networks, packet, rules, start, until};

/// Hosts of each case, of which each has a connection.
const HOSTS: u16 = 12;
const GUE_PORT: u16 = 6080;

const METHODS: [Forward; 6] = [
    Forward::Masq,
    Forward::Direct,
    Forward::Tunnel(Tunnel::Ipip),
    Forward::Tunnel(Tunnel::Gue { port: GUE_PORT, checksum: GueChecksum::Yes }),
    Forward::Tunnel(Tunnel::Gre { checksum: true }),
    Forward::FullNat,
];

/// IPv4 and IPv6.
const NAT: [[&str; 4]; 2] = [
    [
        "POSTROUTING -s 10.0.0.32/28 -o wan -j SNAT --to-source 192.0.2.20-192.0.2.21",
        "POSTROUTING -s 10.0.0.48/28 -o wan -j MASQUERADE",
        "PREROUTING -d 192.0.2.30/32 -j DNAT --to-destination 10.0.0.12",
        "PREROUTING -d 192.0.2.64/28 -j NETMAP --to 10.0.0.64/28",
    ],
    [
        "POSTROUTING -s fd00::20/124 -o wan -j SNAT --to-source 2001:db8::20-2001:db8::21",
        "POSTROUTING -s fd00::30/124 -o wan -j MASQUERADE",
        "PREROUTING -d 2001:db8::30/128 -j DNAT --to-destination fd00::12",
        "PREROUTING -d 2001:db8::40/124 -j NETMAP --to fd00::40/124",
    ],
];

/// Connections of one kind: host by host from one side to an address on the other.
#[derive(Clone, Copy, Debug)]
struct Case {
    is_ipv6: bool,
    from: usize,
    /// The first host, and the side, address and port that it talks to.
    first: u16,
    to: (usize, u16, u16),
    /// Each to an address of its own, from that one on.
    to_each: bool,
    is_one_way: bool,
    is_tunnelled: bool,
}

impl Case {
    fn client(&self, host: u16) -> (IpAddr, u16) {
        (at(self.from, self.is_ipv6, self.first + host), 4000 + host)
    }

    fn server(&self, host: u16) -> (IpAddr, u16) {
        let (side, server, port) = self.to;
        (at(side, self.is_ipv6, server + if self.to_each { host } else { 0 }), port)
    }
}

fn services() -> Vec<Case> {
    let cases = |is_ipv6| {
        let case = move |to, forward: Forward| Case {
            is_ipv6,
            from: WAN,
            first: 100,
            to,
            to_each: false,
            is_one_way: forward.method().is_one_way(),
            is_tunnelled: matches!(forward, Forward::Tunnel(_)),
        };
        let methods =
            METHODS.into_iter().zip(80..).map(move |(forward, port)| case((WAN, 10, port), forward));
        // FullNAT into the other family.
        methods.chain([case((WAN, 10, 90), Forward::FullNat)])
    };
    [false, true].into_iter().flat_map(cases).collect()
}

fn translations() -> Vec<Case> {
    let cases = |is_ipv6| {
        let case = move |from, first, (side, to), to_each| Case {
            is_ipv6,
            from,
            first,
            to: (side, to, 53),
            to_each,
            is_one_way: false,
            is_tunnelled: false,
        };
        // SNAT, MASQUERADE, DNAT, NETMAP, and what no rule translates.
        [
            case(LAN, 32, (WAN, 200), false),
            case(LAN, 48, (WAN, 200), false),
            case(WAN, 100, (WAN, if is_ipv6 { 0x30 } else { 30 }), false),
            case(WAN, 100, (WAN, 64), true),
            case(WAN, 100, (LAN, 13), false),
        ]
    };
    [false, true].into_iter().flat_map(cases).collect()
}

/// `has_exchanged`: the addresses that rules exchange for others are the host's.
fn tables(generation: u32, rules: Arc<Rules>, has_exchanged: bool) -> Tables {
    // Of the services and of what rules send elsewhere. The addresses of SNAT are not: what answers them names another worker.
    let exchanged = [30, 0x30].into_iter().chain(64..64 + HOSTS).filter(|_| has_exchanged);
    let own: Vec<u16> = exchanged.chain([10]).collect();
    let mut services = Vec::new();
    for is_ipv6 in [false, true] {
        let methods = METHODS.into_iter().zip(80..).map(|(forward, port)| (forward, port, is_ipv6));
        for (forward, port, server_is_ipv6) in methods.chain([(Forward::FullNat, 90, !is_ipv6)]) {
            let server = |n: u16| Server {
                id: ServerId(2 * services.len() as u32 + u32::from(n)),
                address: at(LAN, server_is_ipv6, 11 + n),
                port,
                weight: 1,
                last_weight: 1,
                forward,
                upper_threshold: 0,
                lower_threshold: 0,
                overloaded: Arc::default(),
            };
            let key = ServiceKey::new(Protocol::UDP, at(WAN, is_ipv6, 10), port);
            let servers = [0, 1].map(server).to_vec();
            let id = ServiceId(services.len() as u32);
            services.push(Arc::new(Service::new(None, id, key, SchedulerKind::ALL[0], servers, 1)));
        }
    }
    Tables { services: Services::new(services).into(), rules, ..networks(generation, [&own, &own]) }
}

fn nat_rules(counters: &Arc<[Arc<WorkerCounters>]>) -> Arc<Rules> {
    let of = |(family, lines): (RuleFamily, [&'static str; 4])| lines.map(|line| (family, line));
    let lines: Vec<_> = [RuleFamily::Ipv4, RuleFamily::Ipv6].into_iter().zip(NAT).flat_map(of).collect();
    rules(counters, "nat", &lines)
}

/// The workers, and the other ends of all their ports' queues.
struct Director {
    team: Team,
    /// By worker and port.
    wires: Vec<[Wire; 2]>,
    /// By what ports spread; without, each frame goes to another worker than the one before.
    rss: Option<Arc<Rss>>,
    rules: Arc<Rules>,
    /// Which queue gets the next frame.
    turn: usize,
    /// Of the next datagram that is sent in pieces.
    id: u16,
}

impl Director {
    fn new(workers: u16, has_rules: bool, means: Option<Means>) -> Director {
        let rss = means.map(|means| Arc::new(Rss::new(SEED, means, 7, workers)));
        let (team, wires) = start(workers, rss.as_ref());
        let rules = if has_rules { nat_rules(team.counters()) } else { Arc::default() };
        let director = Director { team, wires, rss, rules, turn: 0, id: 0 };
        director.publish(1, true);
        director
    }

    fn publish(&self, generation: u32, has_exchanged: bool) {
        self.team.publish(Arc::new(tables(generation, self.rules.clone(), has_exchanged)));
        until("all workers use the tables", || self.team.generation_everywhere(generation));
    }

    fn owners(&self) -> Owners {
        Owners::new(Hasher::new(SEED), self.wires.len(), self.rss.clone())
    }

    fn handed_over(&self) -> u64 {
        self.team.counters().iter().map(|worker| worker.turns.handed_over.get()).sum()
    }

    /// The queue into which a port puts a frame.
    fn queue(&mut self, port: usize, frame: &[u8]) -> usize {
        match &self.rss {
            None => {
                self.turn += 1;
                self.turn % self.wires.len()
            }
            Some(rss) => rss.worker_at(hashed(rss, port, frame) % rss.places()).index(),
        }
    }

    /// Sends frames, and waits for as many on the other side.
    fn through(&mut self, what: &str, from: usize, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let (count, mut out) = (frames.len(), Vec::new());
        for frame in frames {
            let queue = self.queue(from, &frame);
            self.wires[queue][from].put(Frame::new(PortId(from as u16), &frame)).unwrap();
        }
        until(&format!("{what} come out"), || {
            let taken = self.wires.iter().flat_map(|wires| std::iter::from_fn(|| wires[1 - from].take()));
            out.extend(taken.map(|frame| frame.data().to_vec()));
            let drops = drops(&self.team);
            assert!(drops.is_empty(), "{} of {count} {what} came out: {drops:?}", out.len());
            out.len() >= count
        });
        assert_eq!(out.len(), count, "{what}");
        out
    }
}

/// What a network card hashes of a frame: addresses, and ports where there are any.
fn hashed(rss: &Rss, port: usize, frame: &[u8]) -> usize {
    let seen = wire::read(frame).unwrap();
    let end = if port == WAN { End::Source } else { End::Destination };
    let address = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (source, destination) = (address(seen.src), address(seen.dst));
    let ports = if seen.piece.is_none() { seen.ports(frame) } else { None };
    let (sport, dport) = match ports {
        Some((sport, dport)) => (sport.to_be_bytes().to_vec(), dport.to_be_bytes().to_vec()),
        None => (Vec::new(), Vec::new()),
    };
    let input = match (rss.means(), end) {
        (Means::Key, _) => [source, destination, sport, dport].concat(),
        (Means::Fields, End::Source) => [source, sport].concat(),
        (Means::Fields, End::Destination) => [destination, dport].concat(),
    };
    toeplitz::hash(rss.key(end), &input) as usize
}

fn udp(port: usize, src: (IpAddr, u16), dst: (IpAddr, u16), id: u16, payload: &[u8]) -> Vec<u8> {
    let body = Body::Udp { sport: src.1, dport: dst.1, is_summed: true, payload };
    packet(port, src.0, dst.0, id, &body)
}

/// What a server gets: out of its tunnel, if it has one; with all that it says.
fn read(case: &Case, frame: &[u8]) -> (Vec<u8>, Seen) {
    let outer = wire::read(frame).unwrap();
    let inner = if case.is_tunnelled {
        wire::unpack(frame, &outer).unwrap_or_else(|why| panic!("{why}: {case:?} {frame:02x?}"))
    } else {
        frame.to_vec()
    };
    let seen = wire::read(&inner).unwrap();
    (inner, seen)
}

/// Which host's datagram this is.
fn host_of(frame: &[u8], seen: &Seen) -> u16 {
    assert!(seen.is_sum_right(frame));
    let payload = wire::datagram(seen, frame).unwrap();
    u16::from_be_bytes([payload[0], payload[1]])
}

fn payload(host: u16, len: usize) -> Vec<u8> {
    let mut payload = host.to_be_bytes().to_vec();
    payload.resize(len, 0xab);
    payload
}

/// A frame as it came, and out of its tunnel.
type Arrived = (Vec<u8>, Vec<u8>, Seen);

/// One datagram of each host, and answers. What came at servers, by host.
fn ask(director: &mut Director, case: &Case) -> BTreeMap<u16, Arrived> {
    let hosts = 0..HOSTS;
    let what = |what: &str| format!("{what} of {case:?}");
    let datagrams =
        hosts.clone().map(|host| udp(case.from, case.client(host), case.server(host), 0, &payload(host, 10)));
    let arrived: BTreeMap<u16, Arrived> = director
        .through(&what("datagrams"), case.from, datagrams.collect())
        .into_iter()
        .map(|outer| {
            let (frame, seen) = read(case, &outer);
            (host_of(&frame, &seen), (outer, frame, seen))
        })
        .collect();
    assert_eq!(arrived.keys().copied().collect::<Vec<_>>(), hosts.clone().collect::<Vec<_>>());

    let there = 1 - case.from;
    if !case.is_one_way {
        let answer = |(host, (_, frame, seen)): (&u16, &Arrived)| {
            let (sport, dport) = seen.ports(frame).unwrap();
            udp(there, (seen.dst, dport), (seen.src, sport), 0, &payload(*host, 10))
        };
        for frame in director.through(&what("answers"), there, arrived.iter().map(answer).collect()) {
            let seen = wire::read(&frame).unwrap();
            let host = host_of(&frame, &seen);
            let (sport, dport) = seen.ports(&frame).unwrap();
            assert_eq!(((seen.src, sport), (seen.dst, dport)), (case.server(host), case.client(host)));
        }
    }

    arrived
}

/// What [`ask`] does, a datagram in two pieces, an error about the first one.
fn talk(director: &mut Director, case: &Case) {
    let hosts = 0..HOSTS;
    let what = |what: &str| format!("{what} of {case:?}");
    let (arrived, there) = (ask(director, case), 1 - case.from);

    // The second piece first.
    let pieces = hosts.clone().flat_map(|host| {
        director.id += 1;
        let id = director.id;
        let frame = udp(case.from, case.client(host), case.server(host), id, &payload(host, 600));
        let mut pieces = wire::pieces(&frame, &wire::read(&frame).unwrap(), id.into(), 400);
        pieces.reverse();
        pieces
    });
    let pieces = pieces.collect();
    let mut at_servers: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for outer in director.through(&what("pieces"), case.from, pieces) {
        *at_servers.entry(read(case, &outer).1.dst).or_default() += 1;
    }
    for (_, _, seen) in arrived.values() {
        *at_servers.get_mut(&seen.dst).unwrap() -= 2;
    }
    assert!(at_servers.values().all(|left| *left == 0), "pieces go where the first datagram went");

    if case.is_tunnelled {
        // A worker tells clients of 50 errors at once and of ten more each tick: all of a director's may be one worker's.
        std::thread::sleep(Duration::from_millis(20));
    }
    let errors = arrived.values().map(|(outer, _, _)| {
        let seen = wire::read(outer).unwrap();
        let is_ipv6 = seen.src.is_ipv6();
        let (kind, code) = if is_ipv6 { (1, 0) } else { (3, 1) };
        let body = Body::Error { kind, code, rest: 0, quote: &outer[seen.l3..] };
        packet(there, at(there, is_ipv6, 250), seen.src, 0, &body)
    });
    let mut told = Vec::new();
    for frame in director.through(&what("errors"), there, errors.collect()) {
        let seen = wire::read(&frame).unwrap();
        assert!(seen.is_sum_right(&frame));
        let mut quoted = frame[..seen.l3].to_vec();
        quoted.extend_from_slice(&frame[seen.l4 + 8..]);
        // The quote may be cut short: its ports stand there.
        let l4 = seen.l3 + if case.is_ipv6 { 40 } else { 20 };
        let sport = u16::from_be_bytes([quoted[l4], quoted[l4 + 1]]);
        let host = sport - 4000;
        assert_eq!((seen.dst, sport), case.client(host), "who sent the quoted packet is told");
        told.push(host);
    }
    told.sort_unstable();
    assert_eq!(told, hosts.collect::<Vec<_>>());
}

/// Where each connection is entered, by its client's packet; nowhere twice.
fn entered(director: &Director) -> BTreeMap<(IpAddr, u16, IpAddr, u16), WorkerId> {
    let mut all = BTreeMap::new();
    let mut visit = |worker, view: lb_core::path::FlowView| {
        let original = view.original();
        let key = (original.src, original.sport, original.dst, original.dport);
        assert_eq!(all.insert(key, worker), None, "{view:?} is entered twice");
        ControlFlow::Continue(())
    };
    director.team.list_flows(&Sought::default(), &mut visit).unwrap();
    all
}

fn every_connection_is_entered_once(
    director: &Director,
    cases: &[Case],
) -> BTreeMap<(IpAddr, u16), WorkerId> {
    let entered = entered(director);
    let key = |case: &Case, host| {
        let ((src, sport), (dst, dport)) = (case.client(host), case.server(host));
        (src, sport, dst, dport)
    };
    let all = cases.iter().flat_map(|case| (0..HOSTS).map(move |host| key(case, host)));
    assert!(all.clone().all(|key| entered.contains_key(&key)));
    assert_eq!(entered.len(), all.count());
    entered.into_iter().map(|((src, sport, ..), worker)| ((src, sport), worker)).collect()
}

#[test]
fn packets_of_virtual_services_end_at_their_clients_worker_by_every_method() {
    for workers in [2, 4, 16] {
        let mut director = Director::new(workers, false, None);
        let cases = services();
        cases.iter().for_each(|case| talk(&mut director, case));
        connections_are_at_their_clients_workers(&director, &cases);
        assert!(director.handed_over() > 0);
    }
}

fn connections_are_at_their_clients_workers(director: &Director, cases: &[Case]) {
    let owners = director.owners();
    for ((client, port), worker) in every_connection_is_entered_once(director, cases) {
        assert_eq!(worker, owners.of(client, port), "of {client} port {port}, {owners:?}");
    }
}

/// Packets of IPv6 at the port of servers come to their worker only by cards that can hash one end's fields.
fn comes_back_to_its_worker(means: Means, arrived: &BTreeMap<u16, Arrived>) -> bool {
    means == Means::Fields || arrived.values().all(|(_, _, seen)| !seen.src.is_ipv6())
}

#[test]
fn nothing_is_handed_over_where_ports_spread_by_the_clients_end() {
    for workers in [2, 4, 16] {
        for means in [Means::Key, Means::Fields] {
            let mut director = Director::new(workers, false, Some(means));
            let cases = services();
            for case in &cases {
                let before = director.handed_over();
                let arrived = ask(&mut director, case);
                let handed = director.handed_over() - before;
                if case.is_one_way || comes_back_to_its_worker(means, &arrived) {
                    assert_eq!(handed, 0, "{means:?}, {workers} workers: {case:?}");
                } else {
                    assert!(handed <= HOSTS.into(), "answers alone are handed over: {case:?}");
                }
            }
            // Pieces and errors come to where they belong, whatever way.
            cases.iter().for_each(|case| talk(&mut director, case));
            connections_are_at_their_clients_workers(&director, &cases);
        }
    }
}

#[test]
fn nothing_of_a_translated_connection_is_handed_over_where_ports_spread_by_the_outer_end() {
    for workers in [2, 4, 16] {
        for means in [Means::Key, Means::Fields] {
            let mut director = Director::new(workers, true, Some(means));
            let cases = translations();
            // They begin: where the owner cannot be told from a packet, all are asked.
            cases.iter().for_each(|case| talk(&mut director, case));
            every_connection_is_entered_once(&director, &cases);
            for case in cases.iter().filter(|case| is_told_by_its_outer_end(case)) {
                let before = director.handed_over();
                let arrived = ask(&mut director, case);
                let handed = director.handed_over() - before;
                if comes_back_to_its_worker(means, &arrived) {
                    assert_eq!(handed, 0, "{means:?}, {workers} workers: {case:?}");
                }
            }
        }
    }
}

/// MASQUERADE, DNAT and NETMAP here: not SNAT to addresses that are not the host's, nor what comes from outside and is not translated.
fn is_told_by_its_outer_end(case: &Case) -> bool {
    let is_snat = case.from == LAN && case.first == 32;
    let is_plain = case.from == WAN && case.to.0 == LAN;
    !is_snat && !is_plain
}

#[test]
fn translated_packets_end_at_the_worker_that_has_their_connection_by_every_kind_of_nat() {
    for workers in [2, 4, 16] {
        let mut director = Director::new(workers, true, None);
        let cases = translations();
        cases.iter().for_each(|case| talk(&mut director, case));
        every_connection_is_entered_once(&director, &cases);
    }
}

/// To an address that is exchanged, which is the host's or is not: then it names the owner of what comes to it, and else the client does.
#[test]
fn connections_stay_at_one_worker_when_tables_name_another_owner() {
    for workers in [2, 4, 16] {
        let mut director = Director::new(workers, true, None);
        let is_exchanged = |case: &Case| case.from == WAN && case.to.0 == WAN;
        let mut cases = Vec::new();
        for generation in 1..=4u16 {
            director.publish(generation.into(), generation % 2 == 1);
            let first = 100 + HOSTS * generation;
            let new = translations().into_iter().filter(is_exchanged).map(|case| Case { first, ..case });
            cases.extend(new);
            for _ in 0..2 {
                // Each packet comes to another worker than the last time.
                director.turn += 1;
                for case in &cases {
                    ask(&mut director, case);
                }
            }
            every_connection_is_entered_once(&director, &cases);
        }
    }
}
