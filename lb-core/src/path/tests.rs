//! The road from end to end: a director between clients and real servers, packets in, packets out.

mod answers;
mod asked;
mod behind;
mod bereft;
mod by_hash;
mod by_mark;
mod bypass;
mod calls;
mod counted;
mod courses;
mod defence;
mod early_drop;
mod edited;
mod errors;
mod explain;
mod forged;
mod ftp_control;
mod ftp_full_nat;
mod ftp_ruled;
mod full_nat;
mod headers;
mod helped;
mod helped_ftp;
mod helped_sip;
mod helped_sip_tcp;
mod hooks;
mod host_alone;
mod ipsec;
mod labelled;
mod limited;
mod linux_ways;
mod marked;
mod masqueraded;
mod matches;
mod methods;
mod nat;
mod newcomers;
mod npt;
mod one_packet;
mod persistent;
mod pieces;
mod quic;
mod quoted;
mod realm;
mod refused;
mod regressions;
mod room;
mod route_mtu;
mod scheduled_error;
mod sctp;
mod sets;
mod shared;
mod source_nat;
mod steer;
mod syn_proxy;
mod sysctls;
mod targets;
mod tracking;
mod translated;
mod ttl;
mod untracked;
mod zones;

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::flow::{Tuple, memory_needed};
use crate::ids::{ServerId, ServiceId};
use crate::ipvs::SchedulerKind;
use crate::packet::Frame;
use crate::tables::{
    Forward, Interface, Interfaces, Mac, Neighbours, Prefix, Protocol, Route, Routes, Server, Service,
    ServiceKey, Services,
};
use crate::wire::checksum;
use crate::wire::parse::{Headers, Parsed, parse};

const WAN: PortId = PortId(0);
const LAN: PortId = PortId(1);
const OUR_WAN: Mac = [2, 0, 0, 0, 0, 1];
const OUR_LAN: Mac = [2, 0, 0, 0, 0, 2];
const CLIENT: Mac = [2, 0, 0, 0, 1, 1];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn server_mac(n: u8) -> Mac {
    [2, 0, 0, 0, 2, n]
}

/// What left, by what way.
#[derive(Default)]
struct Out {
    sent: Vec<(PortId, Frame)>,
    to_twin: Vec<Frame>,
    handed: Vec<(WorkerId, Frame, Steer)>,
    resolve: Vec<IpAddr>,
}

impl Io<Frame> for Out {
    fn transmit(&mut self, port: PortId, packet: Frame) {
        self.sent.push((port, packet));
    }
    fn to_twin(&mut self, _: PortId, packet: Frame) {
        self.to_twin.push(packet);
    }
    fn hand_over(&mut self, to: WorkerId, packet: Frame, steer: Steer) {
        self.handed.push((to, packet, steer));
    }
    fn allocate(&mut self) -> Option<Frame> {
        Some(Frame::new(PortId::NONE, &[]))
    }
    fn resolve(&mut self, _: InterfaceId, address: IpAddr) {
        self.resolve.push(address);
    }
}

/// A service 192.0.2.10:80 (TCP and UDP) and [2001:db8::10]:80 with servers .11 and .12; of these .12 is not resolved yet.
fn tables(generation: u32, resolved: &[u8], weight: u32) -> Tables {
    let interface = |name: &str, port, mac, ipv4: &str, ipv6: &str| Interface {
        name: name.into(),
        port,
        vlan: 0,
        mac,
        mtu: 1500,
        outside: port == WAN,
        group: 0,
        ipv4: Some(ipv4.parse().unwrap()),
        ipv6: Some(ipv6.parse().unwrap()),
    };
    let interfaces = Interfaces::new(vec![
        interface("wan", WAN, OUR_WAN, "192.0.2.1", "2001:db8::1"),
        interface("lan", LAN, OUR_LAN, "10.0.0.1", "fd00::1"),
    ]);
    let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
    let route = |address: &str, len, route| (Prefix { address: ip(address), len }, route);
    let routes = Routes::new([
        route("192.0.2.0", 24, via(0)),
        route("192.0.2.10", 32, Route::Local),
        route("192.0.2.1", 32, Route::Local),
        route("10.0.0.0", 24, via(1)),
        route("10.0.0.1", 32, Route::Local),
        route("2001:db8::", 64, via(0)),
        route("2001:db8::10", 128, Route::Local),
        route("fd00::", 64, via(1)),
        route("fd00::1", 128, Route::Local),
    ]);
    let client =
        [ip("192.0.2.100"), ip("2001:db8::100")].map(|address| (InterfaceId(0), address, Some(CLIENT)));
    let servers = resolved.iter().flat_map(|&n| {
        [ip(&format!("10.0.0.{n}")), ip(&format!("fd00::{n}"))]
            .map(|a| (InterfaceId(1), a, Some(server_mac(n))))
    });
    let neighbours = Neighbours::new(&interfaces, client.into_iter().chain(servers));
    let mut next = 0;
    let mut service = |protocol, address: &str, servers: [&str; 2]| {
        next += 1;
        let servers = servers.into_iter().enumerate().map(|(n, address)| {
            Server::new(ServerId(next * 2 + n as u32), (ip(address), 8080), weight, Forward::Masq)
        });
        let key = ServiceKey::new(protocol, ip(address), 80);
        Arc::new(Service::new(None, ServiceId(next), key, SchedulerKind::Rr, servers.collect(), generation))
    };
    let services = [
        service(Protocol::TCP, "192.0.2.10", ["10.0.0.11", "10.0.0.12"]),
        service(Protocol::UDP, "192.0.2.10", ["10.0.0.11", "10.0.0.12"]),
        service(Protocol::TCP, "2001:db8::10", ["fd00::11", "fd00::12"]),
    ];
    Tables {
        generation,
        interfaces: interfaces.into(),
        routes: routes.into(),
        neighbours: neighbours.into(),
        services: Services::new(services).into(),
        ..Tables::default()
    }
}

fn path(worker: u16, counters: &Arc<[Arc<WorkerCounters>]>, uses: &Arc<Uses>) -> Path<Frame> {
    Path::new(config(worker, counters, uses))
}

fn config(worker: u16, counters: &Arc<[Arc<WorkerCounters>]>, uses: &Arc<Uses>) -> PathConfig {
    PathConfig {
        worker: WorkerId(worker),
        counters: counters.clone(),
        max_connections: 100,
        max_ipv6_connections: 50,
        uses: uses.clone(),
        memory: Region::heap(memory_needed(100, 50)),
        hash_seed: 1,
        rss: None,
        now: Tick(0),
    }
}

fn counters(workers: usize) -> Arc<[Arc<WorkerCounters>]> {
    (0..workers).map(|_| Arc::new(WorkerCounters::new(64, 2))).collect()
}

struct Director {
    path: Path<Frame>,
    counters: Arc<[Arc<WorkerCounters>]>,
    now: Tick,
}

impl Director {
    fn new() -> Director {
        let counters = counters(1);
        let mut path = path(0, &counters, &Arc::new(Uses::new(1, 100)));
        path.adopt(tables(1, &[11, 12], 1).into());
        Director { path, counters, now: Tick(100) }
    }

    fn receive(&mut self, port: PortId, frames: &[Vec<u8>]) -> Out {
        let mut out = Out::default();
        let mut burst: Burst<Frame> = frames.iter().map(|frame| Frame::new(port, frame)).collect();
        self.path.receive(&mut burst, self.now, &mut out);
        out
    }

    fn turn(&mut self) -> Out {
        let mut out = Out::default();
        self.path.turn(self.now, &mut out);
        out
    }

    fn states(&self) -> Vec<&'static str> {
        let mut states = Vec::new();
        self.path.list(0, u32::MAX, self.now, &mut |flow| states.push(flow.state));
        states
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        Hook::ALL.into_iter().map(|hook| self.counters[0].dropped(reason, hook).get()).sum()
    }
}

/// Ethernet, IP and `transport` (TCP flags) between two ends.
fn tcp(macs: (Mac, Mac), from: (&str, u16), to: (&str, u16), flags: &str) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1);
    let builder = match (ip(from.0), ip(to.0)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("one family"),
    };
    let mut builder = builder.tcp(from.1, to.1, 1000, 1024);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(5),
            'F' => builder.fin(),
            'R' => builder.rst(),
            _ => unreachable!("a flag"),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

const C2D: (Mac, Mac) = (CLIENT, OUR_WAN);

fn from_client(sport: u16, flags: &str) -> Vec<u8> {
    tcp(C2D, ("192.0.2.100", sport), ("192.0.2.10", 80), flags)
}

fn from_server(n: u8, dport: u16, flags: &str) -> Vec<u8> {
    tcp((server_mac(n), OUR_LAN), (&format!("10.0.0.{n}"), 8080), ("192.0.2.100", dport), flags)
}

/// The packet's ends, TTL and MACs, its checksums having been found right.
fn read(frame: &Frame) -> (IpAddr, u16, IpAddr, u16, u8) {
    let data = frame.data();
    let Ok(Parsed::Ip(headers)) = parse(data, data.len(), Default::default()) else {
        panic!("no IP: {data:x?}")
    };
    let sum = checksum::of_transport(data, &headers).unwrap();
    assert!(checksum::is_good(sum), "transport checksum");
    (headers.source(data), headers.sport, headers.destination(data), headers.dport, headers.ttl)
}

#[test]
fn a_connection_that_is_ended_from_outside_leaves_nothing_behind() {
    let mut director = Director::new();
    let originals = |director: &Director| {
        let mut originals = Vec::new();
        director.path.list(0, u32::MAX, director.now, &mut |flow| originals.push(flow.original()));
        originals
    };
    director.receive(WAN, &[from_client(4000, "S"), from_client(4001, "S")]);
    let both = originals(&director);
    let ended = both.iter().find(|tuple| tuple.sport == 4000).unwrap();
    assert_eq!(
        director.path.order(&ended.reversed(), &Order::plain(Deed::End), director.now),
        Outcome::Absent,
        "only by the client's packets"
    );
    assert_eq!(director.path.order(ended, &Order::plain(Deed::End), director.now), Outcome::Done);
    assert_eq!(
        director.path.order(ended, &Order::plain(Deed::End), director.now),
        Outcome::Absent,
        "it is over"
    );
    assert_eq!(originals(&director).iter().map(|tuple| tuple.sport).collect::<Vec<_>>(), [4001]);
    director.path.check_connections().unwrap();
    let active = |server| director.counters[0].server(ServerId(server)).active.get();
    assert_eq!(active(2) + active(3), 1);
    let out = director.receive(WAN, &[from_client(4000, "A")]);
    assert!(out.sent.iter().all(|(port, _)| *port == WAN), "no real server hears of it any more");
    assert_eq!(director.states(), ["SYN_RECV"]);
}

#[test]
fn a_connection_is_translated_both_ways_by_the_right_next_hops() {
    let mut director = Director::new();
    let out = director.receive(WAN, &[from_client(4000, "S")]);
    let (port, frame) = &out.sent[0];
    assert_eq!(*port, LAN);
    assert_eq!(frame.data()[..12], [server_mac(11), OUR_LAN].concat());
    assert_eq!(read(frame), (ip("192.0.2.100"), 4000, ip("10.0.0.11"), 8080, 63));
    assert_eq!(director.states(), ["SYN_RECV"]);

    let out = director.receive(LAN, &[from_server(11, 4000, "SA")]);
    let (port, frame) = &out.sent[0];
    assert_eq!(*port, WAN);
    assert_eq!(frame.data()[..12], [CLIENT, OUR_WAN].concat());
    assert_eq!(read(frame), (ip("192.0.2.10"), 80, ip("192.0.2.100"), 4000, 63));
    director.receive(WAN, &[from_client(4000, "A")]);
    assert_eq!(director.states(), ["ESTABLISHED"]);
    let cell = director.counters[0].server(ServerId(2));
    assert_eq!((cell.active.get(), cell.inactive.get(), cell.connections.get()), (1, 0, 1));
    assert_eq!((cell.in_packets.get(), cell.in_bytes.get()), (2, 94));
    assert_eq!((cell.out_packets.get(), cell.out_bytes.get()), (1, 47));
}

#[test]
fn an_ipv6_connection_is_translated_both_ways() {
    let mut director = Director::new();
    let syn = tcp(C2D, ("2001:db8::100", 4000), ("2001:db8::10", 80), "S");
    let out = director.receive(WAN, &[syn]);
    assert_eq!(read(&out.sent[0].1), (ip("2001:db8::100"), 4000, ip("fd00::11"), 8080, 63));
    let answer = tcp((server_mac(11), OUR_LAN), ("fd00::11", 8080), ("2001:db8::100", 4000), "SA");
    // Once over the slow way, which learns the next hop, and once more over the straight line.
    for _ in 0..2 {
        let out = director.receive(LAN, std::slice::from_ref(&answer));
        assert_eq!(read(&out.sent[0].1), (ip("2001:db8::10"), 80, ip("2001:db8::100"), 4000, 63));
    }
}

#[test]
fn a_burst_of_new_connections_goes_round_the_servers() {
    let mut director = Director::new();
    let syns: Vec<_> = (0..32).map(|n| from_client(5000 + n, "S")).collect();
    let out = director.receive(WAN, &syns);
    let servers: Vec<_> = out.sent.iter().map(|(_, frame)| read(frame).2).collect();
    assert_eq!(servers[..3], [ip("10.0.0.11"), ip("10.0.0.12"), ip("10.0.0.11")]);
    assert_eq!(servers.iter().filter(|&&s| s == ip("10.0.0.12")).count(), 16);
}

#[test]
fn packets_wait_for_a_next_hop_and_leave_once_it_is_resolved() {
    let mut director = Director::new();
    director.path.adopt(tables(2, &[12], 1).into());
    let out = director.receive(WAN, &[from_client(4000, "S")]);
    assert!(out.sent.is_empty());
    assert_eq!(out.resolve, [ip("10.0.0.11")]);
    assert!(director.turn().sent.is_empty());
    director.path.adopt(tables(3, &[11, 12], 1).into());
    let out = director.turn();
    assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 4000, ip("10.0.0.11"), 8080, 63));
    assert_eq!(out.sent[0].1.data()[..6], server_mac(11));
}

#[test]
fn a_client_whose_server_does_not_answer_arp_is_told_about_the_packet_that_it_sent() {
    let mut director = Director::new();
    director.path.adopt(tables(2, &[], 1).into());
    let syn = from_client(4000, "S");
    director.receive(WAN, std::slice::from_ref(&syn));
    director.now = Tick(100 + 500);
    let out = director.turn();
    let (port, frame) = &out.sent[0];
    assert_eq!(*port, WAN);
    let data = frame.data();
    assert_eq!((data[14 + 9], data[14 + 20], data[14 + 21]), (1, 3, 1), "ICMP host unreachable");
    assert_eq!(data[26..34], [192, 0, 2, 10, 192, 0, 2, 100]);
    let quoted = &data[14 + 28..];
    assert!(checksum::is_good(checksum::sum(&quoted[..20])), "the quoted header's checksum");
    assert_eq!(quoted[8], 63);
    assert_eq!(quoted[12..], syn[14 + 12..]);
    assert_eq!(director.dropped(DropReason::NeighbourFailed), 1);
}

#[test]
fn a_connection_ends_when_its_time_is_over_and_is_counted_down() {
    let mut director = Director::new();
    director.receive(WAN, &[from_client(4000, "S")]);
    for now in (100..100 + 6200).step_by(10) {
        director.now = Tick(now);
        director.turn();
        assert_eq!(director.states().len(), usize::from(now < 100 + 6000 + 20), "at {now}");
    }
    let cell = director.counters[0].server(ServerId(2));
    assert_eq!((cell.active.get(), cell.inactive.get(), cell.connections.get()), (0, 0, 1));
}

#[test]
fn quiesced_servers_take_no_new_connection_and_keep_the_established_ones() {
    let mut director = Director::new();
    director.receive(WAN, &[from_client(4000, "S")]);
    director.path.adopt(tables(2, &[11, 12], 0).into());
    let out = director.receive(WAN, &[from_client(4000, "A"), from_client(4001, "S")]);
    assert_eq!(read(&out.sent[0].1).2, ip("10.0.0.11"));
    let refusal = out.sent[1].1.data();
    assert_eq!((refusal[14 + 9], refusal[14 + 20], refusal[14 + 21]), (1, 3, 3), "ICMP port unreachable");
    assert_eq!(director.dropped(DropReason::NoServer), 1);
}

#[test]
fn a_draining_director_answers_no_new_client_and_keeps_the_connections_that_it_has() {
    let mut director = Director::new();
    director.receive(WAN, &[from_client(4000, "S")]);
    let mut draining = tables(2, &[11, 12], 1);
    draining.settings.draining = true;
    director.path.adopt(Arc::new(draining));
    let out = director.receive(WAN, &[from_client(4001, "S"), from_client(4000, "A")]);
    assert_eq!(
        (out.sent.len(), out.to_twin.len()),
        (1, 0),
        "the connection's packet alone, no answer to the other"
    );
    assert_eq!(director.dropped(DropReason::Draining), 1);
    assert_eq!(director.receive(LAN, &[from_server(11, 4000, "SA")]).sent.len(), 1);
}

#[test]
fn a_syn_for_a_connection_that_is_over_begins_a_new_one_and_for_a_live_one_does_not() {
    for (ending, is_over) in [("RA", true), ("A", false)] {
        let mut director = Director::new();
        director.receive(WAN, &[from_client(4000, "S")]);
        director.receive(LAN, &[from_server(11, 4000, "SA"), from_server(11, 4000, ending)]);
        let again = director.receive(WAN, &[from_client(4000, "S")]);
        let expected = if is_over { ip("10.0.0.12") } else { ip("10.0.0.11") };
        assert_eq!(read(&again.sent[0].1).2, expected);
        assert_eq!(director.states().len(), 1);
        let connections = [2, 3].map(|n| director.counters[0].server(ServerId(n)).active.get());
        assert_eq!(connections, if is_over { [0, 1] } else { [1, 0] });
    }
}

#[test]
fn what_is_not_for_a_service_goes_to_the_host_or_is_routed() {
    let mut director = Director::new();
    let no_service = tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.10", 81), "S");
    let no_connection = from_client(4000, "A");
    let routed = tcp(C2D, ("192.0.2.100", 4000), ("10.0.0.12", 22), "S");
    let no_route = tcp(C2D, ("192.0.2.100", 4000), ("198.51.100.1", 22), "S");
    let other_host = tcp((CLIENT, [2, 9, 9, 9, 9, 9]), ("192.0.2.100", 1), ("192.0.2.10", 80), "S");
    let arp = [&[0xff; 6][..], &CLIENT, &[8, 6], &[0; 28]].concat();
    let out = director.receive(WAN, &[no_service, no_connection, routed, no_route, other_host, arp]);
    assert_eq!(out.to_twin.len(), 3);
    assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 4000, ip("10.0.0.12"), 22, 63));
    assert_eq!(out.sent[1].1.data()[14 + 20], 3, "ICMP unreachable");
    assert_eq!(director.dropped(DropReason::NoRoute), 1);
    assert_eq!(director.dropped(DropReason::OtherHost), 1);
}

#[test]
fn a_connection_that_a_newer_one_pushes_out_is_gone_for_the_rest_of_the_burst() {
    let mut director = Director::new();
    // The same client port to both protocols' service is two connections; to a second address of the service on the
    // same real server, the newer one pushes the older out.
    let mut tables = tables(2, &[11], 1);
    let service = |id: u32, address: &str| {
        let server = Server::new(ServerId(id), (ip("10.0.0.11"), 8080), 1, Forward::Masq);
        let key = ServiceKey::new(Protocol::TCP, ip(address), 80);
        Arc::new(Service::new(None, ServiceId(id), key, SchedulerKind::Rr, vec![server], 2))
    };
    tables.services = Services::new([service(1, "192.0.2.10"), service(2, "192.0.2.1")]).into();
    director.path.adopt(tables.into());
    let older = |flags| tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.10", 80), flags);
    let newer = |flags| tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 80), flags);
    director.receive(WAN, &[older("S")]);
    let out = director.receive(WAN, &[newer("S"), older("A"), newer("A")]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (2, 1), "the older one's ACK is of no connection");
    assert_eq!(director.states(), ["ESTABLISHED"]);
    let counts = [1, 2].map(|id| director.counters[0].server(ServerId(id)).active.get());
    assert_eq!(counts, [0, 1]);
}

/// The frame with a tag of `vlan`.
fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00], &vlan.to_be_bytes(), &frame[12..]].concat()
}

#[test]
fn frames_of_a_vlan_come_in_by_its_interface_and_leave_by_the_next_hop_s() {
    let mut director = Director::new();
    let out = director.receive(WAN, &[tagged(&from_client(4000, "S"), 7)]);
    assert!(out.sent.is_empty());
    assert_eq!(director.dropped(DropReason::UnknownVlan), 1);

    // The client's side becomes VLAN 7 of the port, with the client behind it.
    let mut tables = tables(2, &[11, 12], 1);
    let mut interfaces: Vec<_> = tables.interfaces.iter().map(|(_, interface)| interface.clone()).collect();
    interfaces.push(Interface { name: "wan.7".into(), vlan: 7, ..interfaces[0].clone() });
    let interfaces = Interfaces::new(interfaces);
    let neighbours = [
        (InterfaceId(1), ip("10.0.0.11"), Some(server_mac(11))),
        (InterfaceId(2), ip("192.0.2.100"), Some(CLIENT)),
    ];
    tables.neighbours = Neighbours::new(&interfaces, neighbours).into();
    tables.interfaces = interfaces.into();
    let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
    tables.routes = Routes::new([
        (Prefix { address: ip("192.0.2.0"), len: 24 }, via(2)),
        (Prefix { address: ip("192.0.2.10"), len: 32 }, Route::Local),
        (Prefix { address: ip("10.0.0.0"), len: 24 }, via(1)),
    ])
    .into();
    director.path.adopt(tables.into());
    let out = director.receive(WAN, &[tagged(&from_client(4000, "S"), 7)]);
    assert_eq!(out.sent[0].0, LAN);
    assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), 4000, ip("10.0.0.11"), 8080, 63));
    assert_eq!(out.sent[0].1.data()[12..14], [8, 0], "no tag on the servers' side");
    let out = director.receive(LAN, &[from_server(11, 4000, "SA")]);
    assert_eq!(out.sent[0].1.data()[..16], [&CLIENT[..], &OUR_WAN, &[0x81, 0, 0, 7]].concat());
    assert_eq!(read(&out.sent[0].1), (ip("192.0.2.10"), 80, ip("192.0.2.100"), 4000, 63));
}

/// The UDP datagram of `parts` × 800 bytes, in fragments.
fn datagram(parts: usize) -> Vec<Vec<u8>> {
    datagram_between(C2D, ("192.0.2.100", 5353), ("192.0.2.10", 80), parts)
}

/// A UDP datagram over IPv4 in so many pieces.
fn datagram_between(macs: (Mac, Mac), from: (&str, u16), to: (&str, u16), parts: usize) -> Vec<Vec<u8>> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (ip(from.0), ip(to.0)) else { panic!("IPv4") };
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(src.octets(), dst.octets(), 64)
        .udp(from.1, to.1);
    let mut whole = Vec::new();
    builder.write(&mut whole, &vec![7; parts * 800 - 8]).unwrap();
    (0..parts)
        .map(|part| {
            let mut frame = [&whole[..34], &whole[34 + part * 800..34 + (part + 1) * 800]].concat();
            let more = if part + 1 < parts { 0x2000u16 } else { 0 };
            frame[16..18].copy_from_slice(&820u16.to_be_bytes());
            frame[18..20].copy_from_slice(&77u16.to_be_bytes());
            frame[20..22].copy_from_slice(&(more | (part * 100) as u16).to_be_bytes());
            crate::wire::ipv4::fill_checksum(&mut frame[14..34]);
            frame
        })
        .collect()
}

#[test]
fn fragments_follow_their_connection_in_any_order() {
    for order in [[0, 1, 2], [2, 0, 1], [2, 1, 0], [1, 2, 0]] {
        let mut director = Director::new();
        let parts = datagram(3);
        let mut sent = Vec::new();
        for part in order {
            sent.extend(director.receive(WAN, &[parts[part].clone()]).sent);
        }
        assert_eq!(sent.len(), 3, "{order:?}");
        for (_, frame) in &sent {
            assert_eq!(frame.data()[30..34], [10, 0, 0, 11], "{order:?}");
            assert!(checksum::is_good(checksum::sum(&frame.data()[14..34])));
        }
        assert_eq!(director.states(), ["UDP"]);
    }
}

#[test]
fn fragments_that_begin_a_connection_in_one_burst_stay_together() {
    for order in [[0, 1, 2], [2, 0, 1], [2, 1, 0], [1, 2, 0]] {
        let mut director = Director::new();
        let parts = datagram(3);
        let burst = order.map(|part| parts[part].clone());
        let out = director.receive(WAN, &burst);
        assert_eq!((out.sent.len(), out.to_twin.len()), (3, 0), "{order:?}");
        for (_, frame) in &out.sent {
            assert_eq!(frame.data()[30..34], [10, 0, 0, 11], "{order:?}");
        }
        assert_eq!(director.states(), ["UDP"]);
    }
}

#[test]
fn datagrams_that_begin_a_connection_in_one_burst_go_to_one_server() {
    let mut director = Director::new();
    let frame = datagram(1).remove(0);
    let out = director.receive(WAN, &[frame.clone(), frame.clone(), frame]);
    assert_eq!(out.sent.len(), 3);
    for (_, frame) in &out.sent {
        assert_eq!(frame.data()[30..34], out.sent[0].1.data()[30..34]);
    }
    assert_eq!(director.states(), ["UDP"]);
}

#[test]
fn a_fragment_whose_first_never_comes_is_dropped_in_the_end() {
    let mut director = Director::new();
    assert!(director.receive(WAN, &[datagram(3)[1].clone()]).sent.is_empty());
    director.now = Tick(100 + 150);
    director.turn();
    assert_eq!(director.dropped(DropReason::FragmentWithoutFirst), 1);
    assert_eq!(director.counters[0].turns.waiting.get(), 0);
}

/// Sends a packet to a worker, and on to others as they hand it over.
fn deliver(paths: &mut [Path<Frame>], worker: usize, port: PortId, frame: &[u8]) -> Vec<(usize, Frame)> {
    deliver_all(paths, worker, port, &[frame.to_vec()])
}

fn deliver_all(
    paths: &mut [Path<Frame>],
    worker: usize,
    port: PortId,
    frames: &[Vec<u8>],
) -> Vec<(usize, Frame)> {
    let mut out = Out::default();
    let mut burst: Burst<Frame> = frames.iter().map(|frame| Frame::new(port, frame)).collect();
    paths[worker].receive(&mut burst, Tick(100), &mut out);
    let mut sent: Vec<_> = out.sent.into_iter().map(|(_, frame)| (worker, frame)).collect();
    let mut handed = std::collections::VecDeque::from(out.handed);
    for hops in 0.. {
        // As the rings do, in order: a first fragment stays before those that waited for it.
        let Some((to, packet, steer)) = handed.pop_front() else { break };
        assert!(hops < 8 * frames.len(), "a packet goes round");
        let mut out = Out::default();
        let mut burst: ArrayVec<_, BURST> = [(packet, steer)].into_iter().collect();
        paths[to.index()].receive_handed_over(&mut burst, Tick(100), &mut out);
        sent.extend(out.sent.into_iter().map(|(_, frame)| (to.index(), frame)));
        handed.extend(out.handed);
    }
    sent
}

#[test]
fn with_several_workers_both_directions_and_fragments_end_at_the_owner() {
    const WORKERS: usize = 4;
    let counters = counters(WORKERS);
    let uses = Arc::new(Uses::new(WORKERS, 100));
    let mut paths: Vec<_> = (0..WORKERS).map(|n| path(n as u16, &counters, &uses)).collect();
    for path in &mut paths {
        path.adopt(tables(1, &[11, 12], 1).into());
    }
    let mut owners = [0; WORKERS];
    for n in 0..40u16 {
        let (rx, other) = (usize::from(n) % WORKERS, usize::from(n / 3) % WORKERS);
        let sent = deliver(&mut paths, rx, WAN, &from_client(4000 + n, "S"));
        let (owner, frame) = &sent[0];
        owners[*owner] += 1;
        let IpAddr::V4(server) = read(frame).2 else { panic!() };
        let reply = deliver(&mut paths, other, LAN, &from_server(server.octets()[3], 4000 + n, "SA"));
        assert_eq!(reply[0].0, *owner);
        assert_eq!(read(&reply[0].1), (ip("192.0.2.10"), 80, ip("192.0.2.100"), 4000 + n, 63));
    }
    assert!(owners.iter().all(|&n| n > 0), "{owners:?}");
    let parts = datagram(3);
    let mut sent = Vec::new();
    for (rx, part) in [(0, 1), (1, 0), (2, 2)] {
        sent.extend(deliver(&mut paths, rx, WAN, &parts[part]));
    }
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|(worker, frame)| *worker == sent[0].0 && frame.data()[30..33] == [10, 0, 0]));
    let flows: usize = paths.iter().map(|path| path.flows.len().0 as usize).sum();
    assert_eq!(flows, 41);
}
