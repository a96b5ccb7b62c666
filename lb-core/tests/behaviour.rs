//! Goal: packets leave as the kernel's IPVS sent them, and connections are in the states that it listed.
//!
//! Method: `oracle/behaviour.json` holds what was on the wires on both sides of a Linux 6.1.192 director, step by step, with
//! `ipvsadm -Lnc` and the connection counts after each step. The frames that the client and the real servers sent are
//! fed into a `Path`; what it sends must be, byte by byte, what was recorded (where the recording holds the first 160
//! bytes of a longer frame: these). A frame that the recorded host answered by itself (a RST, an echo reply) must
//! go up the twin. A vector is a list of `ipvsadm` lines and steps; a step's packets are
//! `[interface and direction, bytes of IP, hex]`, where `in` and `out` are the end host's view, as recorded.
//!
//! The recording merges the frames of the two sides without a common order, so a frame is fed in once all that its
//! sender had received before it, in its own side's order, has left the path.

mod model;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_core::counters::WorkerCounters;
use lb_core::flow::memory_needed;
use lb_core::flow::template::Uses;
use lb_core::ids::{PortId, WorkerId};
use lb_core::mem::Region;
use lb_core::packet::{Frame, Packet};
use lb_core::path::{Burst, FlowView, Io, Path, PathConfig, Steer};
use lb_core::tables::{
    Interface, InterfaceId, Interfaces, Mac, MarkRule, Marks, Neighbours, Prefix, Protocol, Route, Routes,
    Sysctls, Tables,
};
use lb_core::time::{Tick, Timeout};
use model::Model;
use serde::Deserialize;

/// Where we differ on purpose: vector, step, how the difference begins, why.
const KNOWN: &[(&str, &str, &str, &str)] = &[
    (
        "udp-fragments",
        "first fragment only",
        "not recorded on the servers' side",
        "the kernel reassembles and waits for the rest; fragments are forwarded as they come",
    ),
    ("local-server", "SYN", "connection: ", LOCAL_SERVER),
    ("local-server", "SYN", "counts: ", LOCAL_SERVER),
];
const LOCAL_SERVER: &str = "what the director's own stack answers goes straight out by its port: the connection goes by what the client \
                            sends alone, so that the stack's RST does not close it";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    setup: Vec<String>,
    /// By name, where they are not ours.
    #[serde(default)]
    sysctl: HashMap<String, u32>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    step: String,
    #[serde(default)]
    ipvsadm: Vec<String>,
    /// Seconds that pass before the step's packets.
    #[serde(default)]
    wait: f32,
    #[serde(default)]
    packets: Vec<(String, usize, String)>,
    /// Lines of `ipvsadm -Lnc`: protocol, expiry, state, client, virtual service, real server.
    conns: Vec<[String; 6]>,
    /// Virtual service, real server, active, inactive.
    counts: Option<Vec<(String, SocketAddr, u64, u64)>>,
}

/// A frame as it was on the wire, cut to `bytes` of `len`.
struct Recorded {
    bytes: Vec<u8>,
    len: usize,
}

const ETHERNET: usize = 14;
const SIDES: [&str; 2] = ["client's side", "servers' side"];

/// What a test wants to know of a frame.
struct Headers {
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
    protocol: u8,
    ttl: u8,
    /// TCP flags, or ICMP type.
    kind: u8,
    /// Where the transport header begins.
    l4: usize,
}

impl Headers {
    fn new(frame: &[u8]) -> Option<Headers> {
        let ip = frame.get(ETHERNET..)?;
        let (src, dst, protocol, ttl, l4): (IpAddr, IpAddr, u8, u8, usize) = match frame[12..14] {
            [8, 0] => {
                let address = |at: usize| <[u8; 4]>::try_from(ip.get(at..at + 4)?).ok().map(IpAddr::from);
                (address(12)?, address(16)?, ip[9], ip[8], usize::from(ip[0] & 15) * 4)
            }
            [0x86, 0xdd] => {
                let address = |at: usize| <[u8; 16]>::try_from(ip.get(at..at + 16)?).ok().map(IpAddr::from);
                (address(8)?, address(24)?, ip[6], ip[7], 40)
            }
            _ => return None,
        };
        let l4_bytes = ip.get(l4..)?;
        let is_later_fragment = src.is_ipv4() && u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0;
        let has_ports = matches!(protocol, 6 | 17) && !is_later_fragment;
        let port = |at: usize| {
            if has_ports { u16::from_be_bytes([l4_bytes[at], l4_bytes[at + 1]]) } else { 0 }
        };
        let kind = match protocol {
            6 if has_ports => l4_bytes[13],
            1 | 58 => l4_bytes[0],
            _ => 0,
        };
        Some(Headers { src: (src, port(0)), dst: (dst, port(2)), protocol, ttl, kind, l4: ETHERNET + l4 })
    }

    fn is_icmp(&self) -> bool {
        matches!(self.protocol, 1 | 58)
    }

    fn is_icmp_error(&self) -> bool {
        match self.protocol {
            1 => matches!(self.kind, 3 | 4 | 5 | 11 | 12),
            58 => self.kind < 128,
            _ => false,
        }
    }

    /// Made by the director: what it forwards has a lower TTL.
    fn is_made_here(&self) -> bool {
        self.ttl == 64
    }

    /// The director's TCP stack, or its answer to a ping.
    fn is_made_by_host(&self) -> bool {
        self.is_made_here() && !self.is_icmp_error()
    }

    /// No host answers these.
    fn is_never_answered(&self) -> bool {
        const RST: u8 = 4;
        self.is_icmp_error() || self.protocol == 6 && self.kind & RST != 0
    }
}

fn describe(frame: &[u8]) -> String {
    let Some(h) = Headers::new(frame) else { return format!("a frame {frame:02x?}") };
    let mut text = format!(
        "protocol {} from {} port {} to {} port {}, TTL {}, flags or type {:#04x}, {} bytes",
        h.protocol,
        h.src.0,
        h.src.1,
        h.dst.0,
        h.dst.1,
        h.ttl,
        h.kind,
        frame.len()
    );
    if h.is_icmp() {
        let end = frame.len().min(h.l4 + 60);
        write!(text, ", ICMP {:02x?}", &frame[h.l4..end]).expect("a string takes all");
    }
    text
}

/// The Internet checksum of one's-complement sums; 0 over correct data.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut total = bytes.chunks(2).fold(start, |total, pair| {
        total + u32::from(pair[0]) * 256 + pair.get(1).map_or(0, |&low| u32::from(low))
    });
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

fn icmp_checksum_is_right(frame: &[u8], h: &Headers) -> bool {
    let message = &frame[h.l4..];
    let pseudo = match h.protocol {
        58 => u32::from(!sum(&frame[ETHERNET + 8..ETHERNET + 40], 58 + message.len() as u32)),
        _ => 0,
    };
    sum(message, pseudo) == 0
}

/// Where the transport header of the packet begins that an IPv4 ICMP error quotes.
fn quoted(frame: &[u8], h: &Headers) -> Option<usize> {
    let inner = h.l4 + 8;
    let header_len = usize::from(frame.get(inner)? & 15) * 4;
    (h.protocol == 1 && h.is_icmp_error()).then_some(inner + header_len)
}

/// The kernel quotes a packet with the transport checksum that its own rewrite gave it. Ours is translated back with the
/// rest (RFC 5508 §4.2): what is expected is what the sender wrote.
fn restore_quoted_checksum(expected: &mut [u8], fed: &[Vec<u8>]) {
    let Some(h) = Headers::new(expected) else { return };
    let Some(l4) = quoted(expected, &h) else { return };
    let inner = h.l4 + 8;
    let (addresses, protocol) = (expected[inner + 12..inner + 20].to_vec(), expected[inner + 9]);
    let at = if protocol == 6 { 16 } else { 6 };
    let (id, ports) = (expected[inner + 4..inner + 6].to_vec(), expected[l4..l4 + 4].to_vec());
    let is_quoted = |frame: &&Vec<u8>| {
        frame[ETHERNET + 4..ETHERNET + 6] == id
            && frame[ETHERNET + 12..ETHERNET + 20] == addresses
            && frame[ETHERNET + 20..ETHERNET + 24] == ports
    };
    if let (Some(field), Some(sent)) = (expected.get_mut(l4 + at..l4 + at + 2), fed.iter().rfind(is_quoted)) {
        field.copy_from_slice(&sent[ETHERNET + 20 + at..ETHERNET + 22 + at]);
    }
}

/// Takes out of a tunnel's packets what two directors write differently: the outer identification of what may be split, GUE's
/// source port, and the checksums over them, which must be right.
fn level_tunnel(
    expected: &mut [u8],
    got: &mut [u8],
    left: &[u8],
    e: &Headers,
    g: &Headers,
) -> Result<(), &'static str> {
    const DF: u8 = 0x40;
    const LOCAL_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;
    let is_from_here =
        |h: &Headers| h.src.0 == IpAddr::from([10, 2, 0, 254]) && matches!(h.protocol, 4 | 17 | 47);
    if !is_from_here(e) || !is_from_here(g) {
        return Ok(());
    }
    if sum(&left[ETHERNET..g.l4], 0) != 0 {
        return Err("outer IP checksum is wrong");
    }
    if e.protocol == 17 {
        let len = u32::from(u16::from_be_bytes([left[g.l4 + 4], left[g.l4 + 5]]));
        let pseudo = u32::from(!sum(&left[ETHERNET + 12..ETHERNET + 20], 17 + len));
        if left[g.l4 + 6..g.l4 + 8] != [0, 0] && sum(&left[g.l4..g.l4 + len as usize], pseudo) != 0 {
            return Err("outer UDP checksum is wrong");
        }
        if !LOCAL_PORTS.contains(&g.src.1) {
            return Err("outer source port is none of the local ones");
        }
    }
    for frame in [expected, got] {
        if frame[ETHERNET + 6] & DF == 0 {
            frame[ETHERNET + 4..ETHERNET + 6].fill(0);
            frame[ETHERNET + 10..ETHERNET + 12].fill(0);
        }
        if e.protocol == 17 {
            let has_checksum = frame[e.l4 + 6..e.l4 + 8] != [0, 0];
            frame[e.l4..e.l4 + 2].fill(0);
            frame[e.l4 + 6..e.l4 + 8].fill(u8::from(has_checksum));
        }
    }
    Ok(())
}

/// How what left differs from what was recorded; `fed` are the frames that were sent to us.
fn difference(recorded: &Recorded, left: &[u8], fed: &[Vec<u8>]) -> Option<String> {
    let says =
        |what: &str| Some(format!("{what}: left {}; recorded {}", describe(left), describe(&recorded.bytes)));
    if left.len() != ETHERNET + recorded.len {
        return says(&format!("length, recorded {}", ETHERNET + recorded.len));
    }
    let (mut expected, mut got) = (recorded.bytes.clone(), left[..recorded.bytes.len()].to_vec());
    if let (Some(e), Some(g)) = (Headers::new(&expected), Headers::new(left))
        && e.is_icmp_error()
        && g.is_icmp_error()
    {
        restore_quoted_checksum(&mut expected, fed);
        if !icmp_checksum_is_right(left, &g) {
            return says("ICMP checksum is wrong");
        }
        for frame in [&mut expected, &mut got] {
            frame[e.l4 + 2..e.l4 + 4].fill(0);
            if e.is_made_here() && e.src.0.is_ipv4() {
                // Such messages have ids of their own.
                if sum(&frame[ETHERNET..e.l4], 0) != 0 {
                    return says("IP checksum is wrong");
                }
                frame[ETHERNET + 4..ETHERNET + 6].fill(0);
                frame[ETHERNET + 10..ETHERNET + 12].fill(0);
            } else if e.is_made_here() {
                // And flow labels.
                frame[ETHERNET + 1] &= 0xf0;
                frame[ETHERNET + 2..ETHERNET + 4].fill(0);
            }
        }
    }
    if let (Some(e), Some(g)) = (Headers::new(&expected), Headers::new(left))
        && let Err(what) = level_tunnel(&mut expected, &mut got, left, &e, &g)
    {
        return says(what);
    }
    let at = expected.iter().zip(&got).position(|(a, b)| a != b)?;
    says(&format!("byte {at}, {:02x?} instead of {:02x?}", &got[at..got.len().min(at + 8)], {
        &expected[at..expected.len().min(at + 8)]
    }))
}

/// What the path does, by side.
#[derive(Default)]
struct Recorder {
    sent: [VecDeque<Vec<u8>>; 2],
    to_twin: [VecDeque<Vec<u8>>; 2],
    resolve: HashSet<IpAddr>,
}

impl Io<Frame> for Recorder {
    fn transmit(&mut self, port: PortId, packet: Frame) {
        self.sent[port.index()].push_back(packet.data().to_vec());
    }
    fn to_twin(&mut self, port: PortId, packet: Frame) {
        self.to_twin[port.index()].push_back(packet.data().to_vec());
    }
    fn hand_over(&mut self, to: WorkerId, packet: Frame, _: Steer) {
        panic!("there is one worker, not {to:?}: {}", describe(packet.data()));
    }
    fn allocate(&mut self) -> Option<Frame> {
        Some(Frame::new(PortId(0), &[]))
    }
    fn resolve(&mut self, _: InterfaceId, address: IpAddr) {
        self.resolve.insert(address);
    }
}

/// A director between a client's router and the real servers, as the recorded one was.
struct Director {
    model: Model,
    path: Path<Frame>,
    counters: Arc<WorkerCounters>,
    io: Recorder,
    /// All frames that came, whole.
    fed: Vec<Vec<u8>>,
    now: Tick,
    generation: u32,
    server_side_mtu: u16,
    /// Found not to answer.
    failed: HashSet<IpAddr>,
    /// Those that sent anything last: the recording lists no others' connections.
    clients: HashSet<(IpAddr, u16)>,
}

impl Director {
    const CLIENT_ROUTER: Mac = [2, 0, 0, 0, 1, 1];
    const SERVERS: Mac = [2, 0, 0, 0, 2, 2];
    /// Time wraps on the way.
    const START: Tick = Tick(u32::MAX - 1000);

    fn new(vector: &Vector) -> Director {
        let counters = Arc::new(WorkerCounters::new(16, 2));
        let path = Path::new(PathConfig {
            worker: WorkerId(0),
            counters: Arc::new([counters.clone()]),
            max_connections: 1024,
            max_ipv6_connections: 256,
            uses: Arc::new(Uses::new(1, 1024)),
            memory: Region::heap(memory_needed(1024, 256)),
            hash_seed: 7,
            rss: None,
            now: Self::START,
        });
        let mut model = Model::new(&vector.setup);
        for (name, value) in &vector.sysctl {
            let sysctl = Sysctls::named(name).expect("one of the kernel's");
            *(sysctl.value)(&mut model.settings.sysctls) = *value;
        }
        let mut director = Director {
            model,
            path,
            counters,
            io: Recorder::default(),
            fed: Vec::new(),
            now: Self::START,
            generation: 0,
            server_side_mtu: if vector.name == "nat-mtu" { 1300 } else { 1500 },
            failed: HashSet::new(),
            clients: HashSet::new(),
        };
        director.adopt();
        director
    }

    fn adopt(&mut self) {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let interface = |name: &str, port: u16, mac, mtu, outside, ipv4: &str, ipv6: &str| Interface {
            name: name.into(),
            port: PortId(port),
            vlan: 0,
            mac,
            mtu,
            outside,
            group: 0,
            ipv4: Some(ipv4.parse().expect("an address")),
            ipv6: Some(ipv6.parse().expect("an address")),
        };
        let interfaces = Interfaces::new(vec![
            interface("client", 0, [2, 0, 0, 0, 1, 2], 1500, true, "10.1.0.254", "fd01::254"),
            interface(
                "server",
                1,
                [2, 0, 0, 0, 2, 1],
                self.server_side_mtu,
                false,
                "10.2.0.254",
                "fd02::254",
            ),
        ]);
        let (client, server) = (InterfaceId(0), InterfaceId(1));
        let via = |interface, gateway: Option<&str>| Route::Via { interface, gateway: gateway.map(address) };
        let routes = [
            ("10.9.0.1", 32, Route::Local),
            ("10.8.0.0", 16, Route::Local),
            ("10.1.0.254", 32, Route::Local),
            ("10.2.0.254", 32, Route::Local),
            ("127.0.0.1", 32, Route::Local),
            ("10.1.0.0", 24, via(client, None)),
            ("10.2.0.0", 24, via(server, None)),
            ("172.16.0.0", 12, via(client, Some("10.1.0.1"))),
            ("fd09::1", 128, Route::Local),
            ("fd01::", 64, via(client, None)),
            ("fd02::", 64, via(server, None)),
            ("fd10::", 64, via(client, Some("fd01::1"))),
        ];
        let routes = routes.map(|(net, len, route)| (Prefix { address: address(net), len }, route));
        let mut neighbours = vec![
            (client, address("10.1.0.1"), Some(Self::CLIENT_ROUTER)),
            (client, address("fd01::1"), Some(Self::CLIENT_ROUTER)),
        ];
        for host in ["10.2.0.11", "10.2.0.12", "10.2.0.13", "10.2.0.15", "10.2.0.99", "fd02::11", "fd02::12"]
        {
            neighbours.push((server, address(host), Some(Self::SERVERS)));
        }
        neighbours.extend(self.failed.iter().map(|&host| (server, host, None)));
        self.generation += 1;
        self.path.adopt(Arc::new(Tables {
            generation: self.generation,
            neighbours: Arc::new(Neighbours::new(&interfaces, neighbours)),
            interfaces: Arc::new(interfaces),
            routes: Arc::new(Routes::new(routes)),
            services: Arc::new(self.model.services()),
            marks: Arc::new(Marks(vec![Self::mark()])),
            rules: Arc::default(),
            sets: Arc::default(),
            settings: self.model.settings,
            cookies: Default::default(),
            trace: None,
            fingerprints: Arc::default(),
            zone: Arc::default(),
            events: Arc::default(),
        }));
    }

    /// The recorded director's mangle table: all of 10.8.0.0/16 has mark 7.
    fn mark() -> MarkRule {
        MarkRule { destination: Some(Prefix { address: [10, 8, 0, 0].into(), len: 16 }), ..MarkRule::any(7) }
    }

    fn sleep(&mut self, seconds: f32) {
        for _ in 0..(seconds * 10.0) as u32 {
            self.now = self.now.after(Timeout(Tick::PER_SECOND / 10));
            self.path.turn(self.now, &mut self.io);
        }
    }

    fn feed(&mut self, side: usize, frame: &Recorded) {
        let mut bytes = frame.bytes.clone();
        // The recorded payloads repeat one byte.
        bytes.resize(ETHERNET + frame.len, bytes.last().copied().unwrap_or_default());
        self.fed.push(bytes.clone());
        let mut burst = Burst::new();
        burst.push(Frame::new(PortId(side as u16), &bytes));
        self.path.receive(&mut burst, self.now, &mut self.io);
        assert!(burst.is_empty(), "the path takes all of a burst");
        self.path.turn(self.now, &mut self.io);
    }

    fn flows(&self) -> Vec<FlowView> {
        let mut flows = Vec::new();
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            cursor = self.path.list(from, 100, self.now, &mut |flow| flows.push(flow));
        }
        flows
    }

    /// Does one step; returns how it differs from the recorded one.
    fn step(&mut self, step: &Step) -> Vec<String> {
        self.sleep(0.5 + step.wait);
        if !step.ipvsadm.is_empty() {
            for line in &step.ipvsadm {
                self.model.ipvsadm(line);
            }
            self.adopt();
            self.path.turn(self.now, &mut self.io);
        }
        if !self.io.resolve.is_empty() {
            // Nobody answers; Linux has found out in the meantime.
            self.failed.extend(self.io.resolve.drain());
            self.adopt();
            self.path.turn(self.now, &mut self.io);
        }
        let (mut differences, clients) = self.packets(step);
        if !clients.is_empty() {
            self.clients.clone_from(&clients);
        }
        self.compare_flows(step, &clients, &mut differences);
        if let Some(counts) = &step.counts {
            self.compare_counts(counts, &mut differences);
        }
        differences
    }

    /// Feeds the step's packets and compares what leaves; returns also the clients that sent any.
    fn packets(&mut self, step: &Step) -> (Vec<String>, HashSet<(IpAddr, u16)>) {
        let mut events: [VecDeque<(usize, bool, Recorded)>; 2] = Default::default();
        let mut clients = HashSet::new();
        for (order, (place, len, hex)) in step.packets.iter().enumerate() {
            let bytes: Vec<u8> = (0..hex.len() / 2)
                .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex"))
                .collect();
            let (side, is_fed) = match &place[..] {
                "c0 out" => (0, true),
                "c0 in" => (0, false),
                "r0 out" => (1, true),
                "r0 in" => (1, false),
                _ => panic!("{place}"),
            };
            if let (0, true, Some(headers)) = (side, is_fed, Headers::new(&bytes)) {
                clients.insert(headers.src);
            }
            events[side].push_back((order, is_fed, Recorded { bytes, len: *len }));
        }
        let mut differences = Vec::new();
        loop {
            for (side, events) in events.iter_mut().enumerate() {
                while let Some((_, false, recorded)) = events.front() {
                    let Some(difference) = self.take(side, recorded) else { break };
                    differences.extend(difference);
                    events.pop_front();
                }
            }
            let next = (0..2)
                .filter(|&side| events[side].front().is_some_and(|(_, is_fed, _)| *is_fed))
                .min_by_key(|&side| events[side][0].0);
            if let Some(side) = next {
                let (_, _, frame) = events[side].pop_front().expect("it is there");
                self.feed(side, &frame);
                continue;
            }
            let Some(side) = (0..2).find(|&side| !events[side].is_empty()) else { break };
            let (_, _, missing) = events[side].pop_front().expect("it is there");
            differences.push(format!("missing on the {}: {}", SIDES[side], describe(&missing.bytes)));
        }
        for (left, side) in self.io.sent.iter_mut().zip(SIDES) {
            for frame in left.drain(..) {
                differences.push(format!("not recorded on the {side}: {}", describe(&frame)));
            }
        }
        for frame in self.io.to_twin.iter_mut().flat_map(|frames| frames.drain(..)) {
            if !Headers::new(&frame).is_some_and(|headers| headers.is_never_answered()) {
                differences.push(format!("up the twin: {}", describe(&frame)));
            }
        }
        (differences, clients)
    }

    /// Takes the frame that should be `recorded`; `None` when there is none yet.
    fn take(&mut self, side: usize, recorded: &Recorded) -> Option<Option<String>> {
        let headers = Headers::new(&recorded.bytes).expect("it is IP");
        if !headers.is_made_by_host() {
            let left = self.io.sent[side].pop_front()?;
            return Some(difference(recorded, &left, &self.fed));
        }
        let asked = self.io.to_twin[side].pop_front()?;
        let question = Headers::new(&asked).expect("it is IP");
        let is_its_question = (question.src, question.dst) == (headers.dst, headers.src);
        Some((!is_its_question).then(|| format!("the host could not answer this: {}", describe(&asked))))
    }

    /// `clients`: those that sent anything in this step.
    fn compare_flows(&self, step: &Step, clients: &HashSet<(IpAddr, u16)>, differences: &mut Vec<String>) {
        let flows = self.flows();
        let mut listed = HashSet::new();
        for line in &step.conns {
            let [protocol, expires, state, client, virtual_, server] = line;
            let protocol = if protocol == "TCP" { Protocol::TCP } else { Protocol::UDP };
            let end = |text: &str| {
                let address: SocketAddr = text.parse().expect("an address and a port");
                (address.ip(), address.port())
            };
            listed.insert(end(client));
            let Some(flow) = flows.iter().find(|flow| {
                flow.protocol == protocol && flow.client == end(client) && flow.virtual_ == end(virtual_)
            }) else {
                differences.push(format!("connection missing: {}", line.join(" ")));
                continue;
            };
            let (minutes, seconds) = expires.split_once(':').expect("mm:ss");
            let number = |text: &str| text.parse::<i64>().expect("a number");
            let expected = number(minutes) * 60 + number(seconds);
            // The steps took up to a few seconds, and the list shows whole ones.
            let is_template = flow.client.1 == 0;
            let slack = if clients.contains(&flow.client) || is_template { 3 } else { 10 };
            let is_in_time = (i64::from(flow.expires_in.as_secs()) - expected).abs() <= slack;
            if flow.state != state || flow.server != end(server) || !is_in_time {
                differences.push(format!("connection: {flow:?}; recorded {}", line.join(" ")));
            }
        }
        for flow in
            flows.iter().filter(|flow| self.clients.contains(&flow.client) && !listed.contains(&flow.client))
        {
            differences.push(format!("connection not recorded: {flow:?}"));
        }
    }

    fn compare_counts(&self, counts: &[(String, SocketAddr, u64, u64)], differences: &mut Vec<String>) {
        let mut servers = 0;
        for service in self.model.services().iter() {
            let key = service.key;
            let protocol = if key.protocol == Protocol::TCP { "TCP" } else { "UDP" };
            let name = match key.mark() {
                Some(mark) => format!("FWM {mark}"),
                None => format!("{protocol} {}", SocketAddr::new(key.address, key.port)),
            };
            for server in &service.servers {
                servers += 1;
                let cell = self.counters.server(server.id);
                let address = SocketAddr::new(server.address, server.port);
                let line = (name.clone(), address, cell.active.get(), cell.inactive.get());
                if !counts.contains(&line) {
                    differences.push(format!("counts: {line:?}; recorded {counts:?}"));
                }
            }
        }
        if servers != counts.len() {
            differences.push(format!("counts: {servers} servers; recorded {counts:?}"));
        }
    }
}

#[test]
fn packets_and_states_are_as_recorded_from_the_kernel() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("oracle/behaviour.json")).expect("the recording is valid");
    let mut unknown = String::new();
    let mut known = vec![false; KNOWN.len()];
    for vector in &vectors {
        let mut director = Director::new(vector);
        for step in &vector.steps {
            for difference in director.step(step) {
                let is_known = |&(name, at, begins, _): &(&str, &str, &str, &str)| {
                    name == vector.name && at == step.step && difference.starts_with(begins)
                };
                match KNOWN.iter().position(is_known) {
                    Some(index) => known[index] = true,
                    None => writeln!(unknown, "{} / {}: {difference}", vector.name, step.step)
                        .expect("a string takes all"),
                }
            }
        }
    }
    for (entry, _) in KNOWN.iter().zip(known).filter(|(_, seen)| !seen) {
        writeln!(unknown, "not seen any more: {entry:?}").expect("a string takes all");
    }
    assert!(unknown.is_empty(), "{unknown}");
}
