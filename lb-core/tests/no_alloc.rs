//! Goal: after its start the path takes no memory from the heap and makes no system call, whatever comes by.
//! Method: an allocator that counts, a process that dies of a system call, frames made beforehand, and a story that takes
//! every turning of the road. Each chapter says what the path counted or sent, so that none is passed by.
//!
//! That it takes no lock, also none that is free, follows from `clippy.toml`: the crate names none.

mod sealed;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use etherparse::PacketBuilder;
use lb_core::counters::WorkerCounters;
use lb_core::drop::DropReason;
use lb_core::flow::template::Uses;
use lb_core::flow::{Tuple, memory_needed};
use lb_core::hook::Hook;
use lb_core::ids::{PortId, ServerId, ServiceId, WorkerId};
use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::scheduler::{Loads, Request, States};
use lb_core::mem::Region;
use lb_core::packet::{NoRoom, Packet, RxChecksums};
use lb_core::path::{BURST, Burst, Io, Path, PathConfig, Steer, Taken, Walk};
use lb_core::tables::{
    Forward, Interface, InterfaceId, Interfaces, Neighbours, Prefix, Protocol, Route, Routes, Server,
    Service, ServiceKey, Services, Settings, Tables,
};
use lb_core::time::Tick;
use lb_core::trace::{Filter, Trace};

const WAN: PortId = PortId(0);
const LAN: PortId = PortId(1);
const OUR_WAN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUR_LAN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
const CLIENT: [u8; 4] = [192, 0, 2, 100];
const VIP: [u8; 4] = [192, 0, 2, 10];
const SERVER: [u8; 4] = [10, 0, 0, 11];
/// Its MAC address is not known at first.
const LATE_SERVER: [u8; 4] = [10, 0, 0, 12];
const LAN_MTU: u16 = 1000;
const CONNECTIONS: u32 = 200;

/// A packet buffer with room for all that the path makes of a packet.
struct Buffer {
    bytes: Box<[u8; 4096]>,
    start: usize,
    len: usize,
    port: PortId,
}

impl Buffer {
    fn new(port: PortId, frame: &[u8]) -> Buffer {
        let mut bytes = Box::new([0; 4096]);
        bytes[256..256 + frame.len()].copy_from_slice(frame);
        Buffer { bytes, start: 256, len: frame.len(), port }
    }
}

impl Packet for Buffer {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
    fn frame_len(&self) -> usize {
        self.len
    }
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        if self.start + len > self.bytes.len() {
            return Err(NoRoom);
        }
        self.len = len;
        Ok(())
    }
    fn move_start(&mut self, by: isize) -> Result<(), NoRoom> {
        let start = self.start.checked_add_signed(by).ok_or(NoRoom)?;
        let len = self.len.checked_add_signed(-by).ok_or(NoRoom)?;
        (self.start, self.len) = (start, len);
        Ok(())
    }
    fn port(&self) -> PortId {
        self.port
    }
    fn rx_checksums(&self) -> RxChecksums {
        RxChecksums::default()
    }
    fn offload_l4_checksum(&mut self, _: usize, _: usize, _: bool, _: bool) -> bool {
        false
    }
    fn prefetch(&self) {}
}

/// A worker that has all its memory before the story begins.
struct Out {
    spare: Vec<Buffer>,
    sent: Vec<Buffer>,
    twin: usize,
    asked: usize,
}

impl Io<Buffer> for Out {
    fn transmit(&mut self, port: PortId, mut packet: Buffer) {
        packet.port = port;
        self.sent.push(packet);
    }
    fn to_twin(&mut self, _: PortId, _: Buffer) {
        self.twin += 1;
    }
    fn hand_over(&mut self, _: WorkerId, _: Buffer, _: Steer) {
        unreachable!("there is one worker")
    }
    fn allocate(&mut self) -> Option<Buffer> {
        self.spare.pop()
    }
    fn resolve(&mut self, _: InterfaceId, _: IpAddr) {
        self.asked += 1;
    }
}

struct Director {
    path: Path<Buffer>,
    counters: Arc<[Arc<WorkerCounters>]>,
    now: Tick,
    out: Out,
}

impl Director {
    fn new(tables: Tables) -> Director {
        let counters: Arc<[Arc<WorkerCounters>]> = Arc::new([Arc::new(WorkerCounters::new(16, 2))]);
        let mut path = Path::new(PathConfig {
            worker: WorkerId(0),
            counters: counters.clone(),
            max_connections: CONNECTIONS,
            max_ipv6_connections: 20,
            uses: Arc::new(Uses::new(1, CONNECTIONS)),
            memory: Region::heap(memory_needed(CONNECTIONS, 20)),
            hash_seed: 1,
            rss: None,
            now: Tick(0),
        });
        path.adopt(tables.into());
        let spare = (0..64).map(|_| Buffer::new(WAN, &[])).collect();
        let out = Out { spare, sent: Vec::with_capacity(8192), twin: 0, asked: 0 };
        Director { path, counters, now: Tick(100), out }
    }

    /// Passes packets through, in bursts of one port as from a port, and returns how many left.
    fn receive(&mut self, packets: &mut Vec<Buffer>) -> usize {
        let before = self.out.sent.len();
        while !packets.is_empty() {
            let port = packets[0].port;
            let count = packets.iter().take(BURST).take_while(|packet| packet.port == port).count();
            let mut burst: Burst<Buffer> = packets.drain(..count).collect();
            self.path.receive(&mut burst, self.now, &mut self.out);
            self.path.turn(self.now, &mut self.out);
        }
        self.out.sent.len() - before
    }

    /// Lets time pass.
    fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds * 10 {
            self.now = Tick(self.now.0 + Tick::PER_SECOND / 10);
            self.path.turn(self.now, &mut self.out);
        }
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        Hook::ALL.into_iter().map(|hook| self.counters[0].dropped(reason, hook).get()).sum()
    }
}

/// TCP, UDP and SCTP services on port 80 with one server, UDP on port 500 too, UDP on port 81 with the one whose MAC address comes late, on port 82 with
/// one that is quiesced; and TCP over IPv6.
fn tables(generation: u32, is_late_known: bool) -> Tables {
    let interface = |name: &str, port, mac, mtu, ipv4: [u8; 4], ipv6: &str| Interface {
        name: name.into(),
        port,
        vlan: 0,
        mac,
        mtu,
        outside: port == WAN,
        group: 0,
        ipv4: Some(ipv4.into()),
        ipv6: Some(ipv6.parse().unwrap()),
    };
    let interfaces = Interfaces::new(vec![
        interface("wan", WAN, OUR_WAN, 1500, [192, 0, 2, 1], "2001:db8::1"),
        interface("lan", LAN, OUR_LAN, LAN_MTU, [10, 0, 0, 1], "fd00::1"),
    ]);
    let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
    let prefix = |address: &str, len| Prefix { address: address.parse().unwrap(), len };
    let routes = Routes::new([
        (prefix("192.0.2.0", 24), via(0)),
        (prefix("192.0.2.10", 32), Route::Local),
        (prefix("10.0.0.0", 24), via(1)),
        (prefix("2001:db8::", 64), via(0)),
        (prefix("2001:db8::10", 128), Route::Local),
        (prefix("fd00::", 64), via(1)),
    ]);
    let mut neighbours = vec![
        (InterfaceId(0), CLIENT.into(), Some(CLIENT_MAC)),
        (InterfaceId(0), "2001:db8::100".parse().unwrap(), Some(CLIENT_MAC)),
        (InterfaceId(1), SERVER.into(), Some(SERVER_MAC)),
        (InterfaceId(1), "fd00::11".parse().unwrap(), Some(SERVER_MAC)),
    ];
    if is_late_known {
        neighbours.push((InterfaceId(1), LATE_SERVER.into(), Some(SERVER_MAC)));
    }
    let neighbours = Neighbours::new(&interfaces, neighbours);
    let mut id = 0;
    let mut service = |protocol, address: IpAddr, port, server: IpAddr, weight| {
        id += 1;
        let server = Server {
            id: ServerId(id),
            address: server,
            port: 8080,
            weight,
            last_weight: weight,
            forward: Forward::Masq,
            upper_threshold: 0,
            lower_threshold: 0,
            overloaded: Arc::default(),
        };
        let key = ServiceKey::new(protocol, address, port);
        Arc::new(Service::new(None, ServiceId(id), key, SchedulerKind::Rr, vec![server], generation))
    };
    let services = [
        service(Protocol::TCP, VIP.into(), 80, SERVER.into(), 1),
        service(Protocol::UDP, VIP.into(), 80, SERVER.into(), 1),
        service(Protocol::UDP, VIP.into(), 81, LATE_SERVER.into(), 1),
        service(Protocol::UDP, VIP.into(), 82, SERVER.into(), 0),
        service(Protocol::UDP, VIP.into(), 500, SERVER.into(), 1),
        service(Protocol::SCTP, VIP.into(), 80, SERVER.into(), 1),
        service(Protocol::TCP, "2001:db8::10".parse().unwrap(), 80, "fd00::11".parse().unwrap(), 1),
    ];
    Tables {
        generation,
        interfaces: interfaces.into(),
        routes: routes.into(),
        neighbours: neighbours.into(),
        services: Services::new(services).into(),
        marks: Arc::default(),
        rules: Default::default(),
        sets: Default::default(),
        settings: Settings { is_sharing: true, ..Settings::default() },
        cookies: Default::default(),
        trace: None,
        fingerprints: Arc::default(),
        zone: Arc::default(),
        events: Arc::default(),
    }
}

type Ends = ([u8; 6], [u8; 6], [u8; 4], [u8; 4]);
const REQUEST: Ends = (CLIENT_MAC, OUR_WAN, CLIENT, VIP);
const REPLY: Ends = (SERVER_MAC, OUR_LAN, SERVER, CLIENT);

fn on(ends: Ends) -> PortId {
    if ends.1 == OUR_WAN { WAN } else { LAN }
}

fn udp(ends: Ends, ports: (u16, u16), ttl: u8, len: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(ends.0, ends.1).ipv4(ends.2, ends.3, ttl).udp(ports.0, ports.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![7; len]).unwrap();
    frame
}

fn tcp(ends: Ends, ports: (u16, u16), flags: &str) -> Buffer {
    let builder = PacketBuilder::ethernet2(ends.0, ends.1).ipv4(ends.2, ends.3, 64);
    let mut builder = builder.tcp(ports.0, ports.1, 1, 1024);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(1),
            'F' => builder.fin(),
            _ => builder.rst(),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, b"data").unwrap();
    Buffer::new(on(ends), &frame)
}

fn tcp6(is_request: bool, port: u16, flags: &str) -> Buffer {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let (client, vip, server) = (octets("2001:db8::100"), octets("2001:db8::10"), octets("fd00::11"));
    let builder = if is_request {
        PacketBuilder::ethernet2(CLIENT_MAC, OUR_WAN).ipv6(client, vip, 64).tcp(port, 80, 1, 1024)
    } else {
        PacketBuilder::ethernet2(SERVER_MAC, OUR_LAN).ipv6(server, client, 64).tcp(8080, port, 1, 1024)
    };
    let builder = if flags.contains('S') { builder.syn() } else { builder };
    let builder = if flags.contains('A') { builder.ack(1) } else { builder };
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    Buffer::new(if is_request { WAN } else { LAN }, &frame)
}

/// May be split (`false`) or not, and with its checksum right again.
fn set_dont_fragment(frame: &mut [u8], dont: bool) {
    frame[20] = if dont { 0x40 } else { 0 };
    lb_core::wire::ipv4::fill_checksum(&mut frame[14..34]);
}

/// A packet of one chunk, as much data as `len` says.
fn sctp(ends: Ends, ports: (u16, u16), chunk: u8, len: usize) -> Vec<u8> {
    let mut packet = [ports.0, ports.1, 1, 2, 3, 4].map(u16::to_be_bytes).concat();
    packet.extend([chunk, 0]);
    packet.extend((len as u16 + 4).to_be_bytes());
    packet.resize(packet.len() + len, 7);
    other(ends, 132, &packet)
}

fn other(ends: Ends, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(ends.0, ends.1).ipv4(ends.2, ends.3, 64);
    let mut frame = Vec::new();
    builder.write(&mut frame, etherparse::IpNumber(protocol), payload).unwrap();
    frame
}

/// A datagram to port 80 in three fragments.
fn fragments(sport: u16, id: u16) -> Vec<Buffer> {
    fragments_of(&udp(REQUEST, (sport, 80), 64, 3 * 400 - 8), id)
}

/// A packet of 1200 bytes of data in three fragments.
fn fragments_of(whole: &[u8], id: u16) -> Vec<Buffer> {
    (0..3)
        .map(|part| {
            let mut frame = [&whole[..34], &whole[34 + part * 400..34 + (part + 1) * 400]].concat();
            let more = if part < 2 { 0x2000u16 } else { 0 };
            frame[16..18].copy_from_slice(&420u16.to_be_bytes());
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            frame[20..22].copy_from_slice(&(more | (part * 50) as u16).to_be_bytes());
            lb_core::wire::ipv4::fill_checksum(&mut frame[14..34]);
            Buffer::new(WAN, &frame)
        })
        .collect()
}

/// The server says that its port is closed, about a request as it got it.
fn port_unreachable(sport: u16) -> Buffer {
    let ends: Ends = (OUR_LAN, SERVER_MAC, CLIENT, SERVER);
    let quoted = udp(ends, (sport, 8080), 63, 26);
    let icmp =
        etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    let builder = PacketBuilder::ethernet2(SERVER_MAC, OUR_LAN).ipv4(SERVER, CLIENT, 64).icmpv4(icmp);
    let mut frame = Vec::new();
    builder.write(&mut frame, &quoted[14..]).unwrap();
    Buffer::new(LAN, &frame)
}

/// All that comes, made beforehand.
struct Story {
    syns: Vec<Buffer>,
    tcp: Vec<Buffer>,
    ipv6: Vec<Buffer>,
    udp: Vec<Buffer>,
    fragments: Vec<Buffer>,
    sctp: Vec<Buffer>,
    ipsec: Vec<Buffer>,
    errors: Vec<Buffer>,
    refused: Vec<Buffer>,
    big: Vec<Buffer>,
    too_big: Vec<Buffer>,
    waiting: Vec<Buffer>,
    strangers: Vec<Buffer>,
    flood: Vec<Buffer>,
    later: Arc<Tables>,
}

impl Story {
    fn new() -> Story {
        let ports = 4000..4040u16;
        let mut backwards = fragments(5000, 8);
        backwards.reverse();
        let datagram = |sport: u16, dport: u16, ttl, len| udp(REQUEST, (sport, dport), ttl, len);
        let wan = |mut frame: Vec<u8>, dont_fragment| {
            set_dont_fragment(&mut frame, dont_fragment);
            Buffer::new(WAN, &frame)
        };
        Story {
            syns: ports.clone().map(|port| tcp(REQUEST, (port, 80), "S")).collect(),
            tcp: ["SA", "A", "FA"]
                .iter()
                .flat_map(|&flags| {
                    let replies = ports.clone().map(move |port| tcp(REPLY, (8080, port), flags));
                    let acks = flags.trim_start_matches('S');
                    replies.chain(ports.clone().map(move |port| tcp(REQUEST, (port, 80), acks)))
                })
                .collect(),
            ipv6: [(true, "S"), (false, "SA"), (true, "A")]
                .iter()
                .flat_map(|&(is_request, flags)| (1..9).map(move |port| tcp6(is_request, port, flags)))
                .collect(),
            udp: (5000..5020)
                .map(|port| Buffer::new(WAN, &datagram(port, 80, 64, 26)))
                .chain((5000..5020).map(|port| Buffer::new(LAN, &udp(REPLY, (8080, port), 64, 26))))
                .collect(),
            fragments: fragments(5001, 7).into_iter().chain(backwards).collect(),
            sctp: [
                Buffer::new(WAN, &sctp(REQUEST, (5000, 80), 1, 16)),
                Buffer::new(LAN, &sctp(REPLY, (8080, 5000), 2, 16)),
            ]
            .into_iter()
            .chain(fragments_of(&sctp(REQUEST, (5000, 80), 0, 1200 - 16), 9))
            .collect(),
            ipsec: vec![
                Buffer::new(WAN, &datagram(500, 500, 64, 26)),
                Buffer::new(WAN, &other(REQUEST, 50, &[7; 40])),
            ],
            errors: (5000..5010).map(port_unreachable).collect(),
            // A TTL at its end, and a service whose only server is quiesced.
            refused: vec![wan(datagram(5000, 80, 1, 26), false), wan(datagram(5000, 82, 64, 26), false)],
            big: (0..4).map(|_| wan(datagram(5000, 80, 64, 1300), false)).collect(),
            too_big: vec![wan(datagram(5000, 80, 64, 1300), true)],
            waiting: (6000..6040).map(|port| Buffer::new(WAN, &datagram(port, 81, 64, 26))).collect(),
            strangers: vec![
                wan(datagram(1, 4444, 64, 26), false),
                Buffer::new(WAN, &[0xff; 60]),
                Buffer::new(WAN, &datagram(1, 80, 64, 26)[..30]),
                tcp(REQUEST, (1, 80), "A"),
            ],
            flood: (7000..7000 + CONNECTIONS as u16)
                .map(|port| Buffer::new(WAN, &datagram(port, 80, 64, 26)))
                .collect(),
            later: Arc::new(tables(2, true)),
        }
    }

    fn tell(mut self, director: &mut Director) {
        assert_eq!(director.receive(&mut self.syns), 40);
        assert_eq!(director.receive(&mut self.tcp), 240);
        assert_eq!(director.receive(&mut self.ipv6), 24);
        assert_eq!(director.receive(&mut self.udp), 40);
        assert_eq!(director.receive(&mut self.fragments), 6);
        assert_eq!(director.receive(&mut self.sctp), 5, "three of them fragments");
        assert_eq!(director.receive(&mut self.ipsec), 2);
        assert_eq!(director.receive(&mut self.errors), 10);

        assert_eq!(director.receive(&mut self.refused), 2, "ICMP errors");
        assert_eq!(director.dropped(DropReason::TtlExceeded), 1);
        assert_eq!(director.dropped(DropReason::NoServer), 1);
        assert_eq!(director.receive(&mut self.big), 8, "in two pieces each");
        assert_eq!(director.receive(&mut self.too_big), 1, "an ICMP error");
        assert_eq!(director.dropped(DropReason::TooBig), 1);

        assert_eq!(director.receive(&mut self.waiting), 0);
        assert!(director.out.asked >= 40);
        let old = director.path.adopt(self.later.clone());
        // Freed elsewhere, by the control plane.
        assert_eq!(old.generation, 1);
        let before = director.out.sent.len();
        director.path.turn(director.now, &mut director.out);
        assert_eq!(director.out.sent.len() - before, 40);

        director.receive(&mut self.strangers);
        assert_eq!(director.out.twin, 3, "what no service takes, a broadcast, a TCP packet of no connection");
        director.receive(&mut self.flood);
        assert!(director.counters[0].flows.full.get() > 0);

        let mut listed = 0;
        director.path.list(0, u32::MAX, director.now, &mut |_| listed += 1);
        assert_eq!(listed, CONNECTIONS);
        let (mut told, mut last) = (0, None);
        while director.path.tell_changed(32, &mut |_| told += 1) {}
        assert!(told >= 120, "established and closing ones: {told}");
        director.path.walk(0, u32::MAX, Walk::Whole, &mut |flow| last = Some(flow));
        director.pass(1000);
        assert_eq!(director.counters[0].flows.expired.get(), u64::from(CONNECTIONS));
        let Some(flow) = last else { panic!("none was told of") };
        let Tuple { protocol, dst: address, dport: port, .. } = flow.original;
        let service = self.later.services.find(&ServiceKey::new(protocol, address, port));
        let server = service.map(|service| service.servers[0].id).expect("its service");
        for taken in [Taken::New, Taken::Updated] {
            assert_eq!(director.path.take_over(&flow, server, director.now), taken);
        }
        std::mem::forget(old);
    }
}

#[test]
fn no_turning_of_the_road_takes_memory_from_the_heap() {
    let mut director = Director::new(tables(1, false));
    let story = Story::new();
    let found = allocation_counter::measure(|| story.tell(&mut director));
    assert_eq!(found.count_total, 0, "allocations, {} bytes", found.bytes_total);
    assert_eq!(
        director.out.sent.iter().filter(|packet| packet.port == WAN).count(),
        120 + 8 + 20 + 1 + 10 + 3
    );
    let to_server = director.out.sent.iter().rfind(|packet| packet.port == LAN).unwrap();
    assert_eq!(to_server.data()[30..34], Ipv4Addr::from(SERVER).octets());
}

#[test]
fn no_packet_that_is_traced_takes_memory_from_the_heap() {
    let trace = Some(Arc::new(Trace::new(Filter::default(), u32::MAX, u32::MAX)));
    let mut director = Director::new(Tables { trace: trace.clone(), ..tables(1, false) });
    let mut story = Story::new();
    story.later = Arc::new(Tables { trace: trace.clone(), ..tables(2, true) });
    let found = allocation_counter::measure(|| story.tell(&mut director));
    assert_eq!(found.count_total, 0, "allocations, {} bytes", found.bytes_total);
    assert!(trace.is_some_and(|trace| trace.skipped() > 500), "nobody reads");
}

#[test]
fn no_turning_of_the_road_makes_a_system_call() {
    let outcome = sealed::outcome("no_turning_of_the_road_makes_a_system_call", || {
        let mut director = Director::new(tables(1, false));
        let story = Story::new();
        sealed::seal();
        story.tell(&mut director);
        sealed::done();
    });
    assert_eq!(outcome, sealed::Outcome::NoCall, "or a panic: see no_turning_of_the_road_takes_memory");
}

#[test]
fn a_system_call_is_found_when_there_is_one() {
    let outcome = sealed::outcome("a_system_call_is_found_when_there_is_one", || {
        sealed::seal();
        let _ = std::env::current_dir();
        sealed::done();
    });
    assert_eq!(outcome, sealed::Outcome::Call);
}

#[test]
fn an_allocation_is_found_when_there_is_one() {
    let found = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(found.count_total, 1);
}

/// Connections by real server: each has as many as its id says.
struct Counts;

impl Loads for Counts {
    fn active(&self, server: ServerId) -> u64 {
        server.0.into()
    }
    fn inactive(&self, _: ServerId) -> u64 {
        0
    }
    fn is_shared(&self) -> bool {
        true
    }
}

#[test]
fn no_scheduler_takes_memory_from_the_heap_to_pick() {
    const SERVERS: u32 = 40;
    let service = |number: usize, kind, old: Option<&Service>, version| {
        let server = |n: u32| Server {
            id: ServerId(number as u32 * SERVERS + n),
            address: Ipv4Addr::from(0x0a00_0000 + n).into(),
            port: 80,
            weight: 1 + n % version,
            last_weight: 1 + n % version,
            forward: Forward::Masq,
            upper_threshold: 0,
            lower_threshold: 0,
            overloaded: Arc::default(),
        };
        let key = ServiceKey::new(Protocol::TCP, VIP.into(), number as u16);
        let servers = (version..SERVERS).map(server).collect();
        Service::new(old, ServiceId(number as u32), key, kind, servers, version)
    };
    let kinds = SchedulerKind::ALL;
    let first: Vec<Service> =
        kinds.iter().enumerate().map(|(number, &kind)| service(number, kind, None, 1)).collect();
    let later: Vec<Service> =
        first.iter().enumerate().map(|(number, old)| service(number, old.scheduler, Some(old), 2)).collect();
    let mut states = States::new(kinds.len() * SERVERS as usize);
    states.make_room(&Services::new(first.iter().cloned().map(Arc::new)));
    let mut picked = 0;
    let found = allocation_counter::measure(|| {
        for service in first.iter().chain(&later) {
            for n in 0..50_000u32 {
                let (client, to) = (Ipv4Addr::from(n * 7919), Ipv4Addr::from(n));
                let request =
                    Request { client: (client.into(), 7), virtual_: (to.into(), 80), now: Tick(n * 100) };
                if let Some(index) = states.pick(service, &Counts, &request) {
                    states.touch(service.servers[index].id);
                    picked += 1;
                }
            }
        }
    });
    // To ovf all servers but a few are full, and none picks nobody.
    assert!(picked >= (2 * kinds.len() - 4) * 50_000, "{picked}");
    assert_eq!(found.count_total, 0, "allocations, {} bytes", found.bytes_total);
}
