//! A director's surroundings, of which an input picks: interfaces, clients, services, real servers, and the frames that
//! they send each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arbitrary::Arbitrary;
use etherparse::{IpNumber, PacketBuilder};
use lb_core::ids::{PortId, ServerId, ServiceId};
use lb_core::ipvs::SchedulerKind;
use lb_core::rule::fingerprint::{Fingerprint, Fingerprints};
use lb_core::tables::{
    Forward, Interface, InterfaceId, Interfaces, Mac, Neighbours, Prefix, Protocol, Realms, Route, Routes,
    Server, Service, ServiceKey, Services, Settings, Sysctls, Tables,
};
use lb_core::time::Timeout;
use lb_core::wire::{ethernet, ipv4, ipv6, parse, sctp};

pub(crate) const WAN: PortId = PortId(0);
pub(crate) const LAN: PortId = PortId(1);
const OURS: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const NEIGHBOUR: Mac = [2, 0, 0, 0, 1, 1];
const VLAN: u16 = 7;
const SCHEDULERS: [SchedulerKind; 4] =
    [SchedulerKind::Rr, SchedulerKind::Wrr, SchedulerKind::Lc, SchedulerKind::Wlc];

const SERVICES: u32 = 8;
const SERVERS: u32 = 3;
/// Real servers of all services: bounds [`ServerId`].
pub(crate) const SERVER_IDS: u32 = SERVICES * SERVERS;
/// Longest time that a connection lives here without a packet: an SCTP association.
pub(crate) const LONGEST: Timeout = Timeout::from_secs(900);

/// What stands in the tables.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Bit n: service n is there.
    services: u8,
    /// Bit n: each service has real server n.
    servers: u8,
    /// Bit n: host n is a known neighbour, and one that does not answer.
    resolved: u8,
    failed: u8,
    pub(crate) weight: u8,
    threshold: u8,
    scheduler: u8,
    is_narrow: bool,
    forwarding: bool,
    route: u8,
    timeout: u8,
}

impl Plan {
    /// Everything there is, and nothing special.
    pub(crate) const USUAL: Plan = Plan {
        services: 0xff,
        servers: 0xff,
        resolved: 0xff,
        failed: 0,
        weight: 1,
        threshold: 0,
        scheduler: 0,
        is_narrow: false,
        forwarding: true,
        route: 0,
        timeout: 60,
    };

    /// The kernel's, or each at some value.
    fn sysctls(&self) -> Sysctls {
        let mut all = Sysctls::default();
        if self.timeout & 1 == 1 {
            for (n, sysctl) in Sysctls::TABLE.iter().enumerate() {
                *(sysctl.value)(&mut all) = u32::from(self.timeout.rotate_right(n as u32)) % (sysctl.max + 1);
            }
        }
        all
    }

    /// After `before`.
    pub(crate) fn tables(&self, generation: u32, before: &Tables) -> Tables {
        let interfaces = self.interfaces();
        let hosts = (0..8).filter(|n| self.resolved >> n & 1 == 1).flat_map(|n| {
            let mac = (self.failed >> n & 1 == 0).then_some(NEIGHBOUR);
            let at = |interface, address| (InterfaceId(interface), address, mac);
            [
                at(0, client(n, false)),
                at(0, client(n, true)),
                at(1, server(n, false)),
                at(1, server(n, true)),
                at(2, tagged(n)),
            ]
        });
        let neighbours = Neighbours::new(&interfaces, hosts);
        let timeout = Timeout::from_secs(u32::from(self.timeout % 120) + 1);
        Tables {
            generation,
            routes: self.routes().into(),
            neighbours: neighbours.into(),
            interfaces: interfaces.into(),
            marks: Default::default(),
            sets: Default::default(),
            services: self.services(generation, &before.services).into(),
            rules: Arc::default(),
            cookies: Default::default(),
            trace: None,
            fingerprints: fingerprints().into(),
            zone: Arc::default(),
            events: before.events.clone(),
            settings: Settings {
                tcp: timeout,
                tcp_fin: timeout,
                udp: timeout,
                forwarding: self.forwarding,
                draining: false,
                sysctls: self.sysctls(),
                is_sharing: false,
                is_standby: false,
                ..Settings::default()
            },
        }
    }

    fn interfaces(&self) -> Interfaces {
        let interface = |name: &str, port: PortId, vlan, ipv4: [u8; 4], ipv6: IpAddr| Interface {
            name: name.to_owned(),
            port,
            vlan,
            mac: OURS[port.index()],
            mtu: if self.is_narrow { 576 } else { 1500 },
            outside: port == WAN,
            group: 0,
            ipv4: Some(ipv4.into()),
            ipv6: if let IpAddr::V6(address) = ipv6 { Some(address) } else { None },
        };
        Interfaces::new(vec![
            interface("wan", WAN, 0, [192, 0, 2, 1], v6(0x2001_0db8, 1)),
            interface("lan", LAN, 0, [10, 0, 0, 1], v6(0xfd00_0000, 1)),
            interface("wan.7", WAN, VLAN, [198, 51, 100, 1], v6(0xfd07_0000, 1)),
        ])
    }

    fn routes(&self) -> Routes {
        let route = |address: IpAddr, len, route| (Prefix { address, len }, route);
        let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
        let to_servers = match self.route % 6 {
            1 => Some(Route::Linux),
            2 => Some(Route::Forbidden),
            3 => None,
            4 => Some(Route::Via { interface: InterfaceId(0), gateway: Some(client(0, false)) }),
            _ => Some(via(1)),
        };
        let to_servers = to_servers.map(|way| route(Ipv4Addr::new(10, 0, 0, 0).into(), 24, way));
        let realm =
            |address: [u8; 4], said| (Prefix { address: address.into(), len: 24 }, Realms::of_route(said));
        let routes = Routes::new(to_servers.into_iter().chain([
            route(virtual_(0, false), 31, Route::Local),
            route(virtual_(0, true), 127, Route::Local),
            route(Ipv4Addr::new(192, 0, 2, 0).into(), 24, via(0)),
            route(Ipv4Addr::new(198, 51, 100, 0).into(), 24, via(2)),
            route(v6(0x2001_0db8, 0), 64, via(0)),
            route(v6(0xfd00_0000, 0), 64, via(1)),
        ]));
        routes.with_realms([realm([192, 0, 2, 0], 1), realm([10, 0, 0, 0], 2)])
    }

    fn services(&self, generation: u32, before: &Services) -> Services {
        let service = |n: u32| {
            let (protocol, is_ipv6) = match n {
                0 | 2 => (Protocol::TCP, false),
                1 | 3 => (Protocol::UDP, false),
                4 => (Protocol::TCP, true),
                5 => (Protocol::UDP, true),
                6 => (Protocol::SCTP, false),
                _ => (Protocol::SCTP, true),
            };
            let servers = (0..SERVERS).filter(|m| self.servers >> m & 1 == 1).map(|m| Server {
                id: ServerId(n * SERVERS + m),
                address: server(m as u8, is_ipv6),
                port: 8080,
                weight: self.weight.into(),
                last_weight: self.weight.into(),
                forward: Forward::Masq,
                upper_threshold: self.threshold.into(),
                lower_threshold: 0,
                overloaded: Arc::default(),
            });
            let key = ServiceKey::new(protocol, virtual_(u8::from(n == 2 || n == 3), is_ipv6), 80);
            let scheduler = SCHEDULERS[usize::from(self.scheduler % 4)];
            let old = before.find(&key).map(|old| &**old);
            Arc::new(Service::new(old, ServiceId(n), key, scheduler, servers.collect(), generation))
        };
        Services::new((0..SERVICES).filter(|n| self.services >> n & 1 == 1).map(service))
    }

    /// Whether this real server may get a new connection.
    pub(crate) fn takes_new(&self, id: u32) -> bool {
        let (service, server) = (id / SERVERS, id % SERVERS);
        self.weight > 0 && self.services >> service & 1 == 1 && self.servers >> server & 1 == 1
    }
}

/// Of what [`frame`] makes, as rules know them: one of any window, one of that window alone, one with data.
fn fingerprints() -> Fingerprints {
    let mut all = Fingerprints::default();
    for line in ["*:64:1:40:.:Some:1::", "64240:64:1:40:.:Same:1::", "%8:64:1:41:.:Some:2::"] {
        let fingerprint = Fingerprint::read(line).expect("a fingerprint");
        all.add(fingerprint).expect("room");
    }
    all
}

fn v6(net: u32, host: u128) -> IpAddr {
    Ipv6Addr::from(u128::from(net) << 96 | host).into()
}

fn client(n: u8, is_ipv6: bool) -> IpAddr {
    if is_ipv6 { v6(0x2001_0db8, 0x100 + u128::from(n)) } else { Ipv4Addr::new(192, 0, 2, 100 + n).into() }
}

fn tagged(n: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, 100 + n).into()
}

fn server(n: u8, is_ipv6: bool) -> IpAddr {
    if is_ipv6 { v6(0xfd00_0000, 0x10 + u128::from(n)) } else { Ipv4Addr::new(10, 0, 0, 10 + n).into() }
}

fn virtual_(n: u8, is_ipv6: bool) -> IpAddr {
    if is_ipv6 { v6(0x2001_0db8, 0x10 + u128::from(n)) } else { Ipv4Addr::new(192, 0, 2, 10 + n).into() }
}

#[derive(Arbitrary, Debug)]
enum Host {
    Client(u8),
    Tagged(u8),
    Server(u8),
    Virtual(u8),
    Anyone(u32),
}

impl Host {
    fn address(&self, is_ipv6: bool) -> IpAddr {
        match *self {
            Host::Client(n) => client(n % 8, is_ipv6),
            Host::Tagged(n) if !is_ipv6 => tagged(n % 8),
            Host::Tagged(n) | Host::Server(n) => server(n % 8, is_ipv6),
            Host::Virtual(n) => virtual_(n % 2, is_ipv6),
            Host::Anyone(n) if is_ipv6 => v6(n, 1),
            Host::Anyone(n) => Ipv4Addr::from(n).into(),
        }
    }
}

/// A packet of somebody. One out of two is nothing special, so that connections come to be.
#[derive(Arbitrary, Debug)]
pub(crate) struct Sent {
    is_ipv6: bool,
    protocol: u8,
    /// Of 0..=191, one of few clients to a service, instead of `from` and `to`.
    usual: u8,
    from: Host,
    to: Host,
    sport: u8,
    dport: u8,
    flags: u8,
    len: u16,
    quirk: Quirk,
}

#[derive(Arbitrary, Debug)]
struct Quirk {
    which: u8,
    values: [u8; 3],
}

/// TCP and UDP, fewer of SCTP, a few of ESP.
fn protocol(n: u8) -> Protocol {
    match n {
        0xd8..0xf8 => Protocol::SCTP,
        0xf8.. => Protocol::ESP,
        n if n.is_multiple_of(2) => Protocol::TCP,
        _ => Protocol::UDP,
    }
}

/// An SCTP chunk: one of those that tell a state, more often those that begin an association; or any.
fn chunk(n: u8) -> u8 {
    let usual = [sctp::INIT, sctp::INIT, sctp::COOKIE_ECHO, sctp::COOKIE_ACK, sctp::SHUTDOWN, sctp::ABORT];
    usual.get(usize::from(n >> 5)).copied().unwrap_or(n & 0x1f)
}

/// TCP flags: SYN, SYN and ACK, ACK, FIN and ACK, RST; beyond these, any.
fn flags(n: u8) -> u8 {
    [0x02, 0x02, 0x12, 0x10, 0x10, 0x11, 0x04].get(usize::from(n >> 5)).copied().unwrap_or(n << 3 | n & 7)
}

impl Sent {
    fn is_usual(&self) -> bool {
        self.usual < 192
    }

    /// The port on which it comes in.
    pub(crate) fn port(&self) -> PortId {
        if matches!(self.from, Host::Server(_)) && !self.is_usual() { LAN } else { WAN }
    }

    /// A byte in it is another than it should be.
    pub(crate) fn is_damaged(&self) -> bool {
        self.quirk.which.is_multiple_of(16)
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let ports = |n: u8| [80, 8080, 4000, 4001, 4002, 20, 53, 0][usize::from(n % 8)];
        let (ends, ports) = if self.is_usual() {
            let ends = (client(self.sport >> 6, self.is_ipv6), virtual_(self.dport % 2, self.is_ipv6));
            (ends, (4000 + u16::from(self.sport % 4), 80))
        } else {
            let ends = (self.from.address(self.is_ipv6), self.to.address(self.is_ipv6));
            (ends, (ports(self.sport), ports(self.dport)))
        };
        let transport = (protocol(self.protocol), ports.0, ports.1, self.flags);
        let [a, b, c] = self.quirk.values;
        let which = self.quirk.which % 16;
        let ttl = if which == 1 { a % 4 } else { 64 };
        let mut frame = frame(self.port(), ends, transport, ttl, usize::from(self.len % 1600));
        match which {
            0 => {
                let at = usize::from(u16::from_be_bytes([a, b])) % frame.len();
                frame[at] = c;
            }
            2 | 3 => frame = piece(&frame, self.is_ipv6, a, usize::from(b % 4) + 2, c.into()),
            4 => drop(frame.splice(12..12, [ethernet::VLAN.to_be_bytes(), VLAN.to_be_bytes()].concat())),
            5 if !self.is_ipv6 => {
                frame[20] = 0;
                ipv4::fill_checksum(&mut frame[14..34]);
            }
            _ => {}
        }
        frame
    }
}

/// A whole packet with right checksums. `transport`: protocol, ports, what chooses [`flags`] or a [`chunk`].
fn frame(
    port: PortId,
    (from, to): (IpAddr, IpAddr),
    transport: (Protocol, u16, u16, u8),
    ttl: u8,
    len: usize,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(NEIGHBOUR, OURS[port.index()]);
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), ttl),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), ttl),
        _ => unreachable!("ends of one family"),
    };
    let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
    let (protocol, sport, dport, control) = transport;
    let mut frame = Vec::new();
    match protocol {
        Protocol::UDP => builder.udp(sport, dport).write(&mut frame, &payload),
        Protocol::TCP => {
            let flags = flags(control);
            let mut tcp = etherparse::TcpHeader::new(sport, dport, 1000, 64_240);
            (tcp.fin, tcp.syn, tcp.rst) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            (tcp.psh, tcp.ack, tcp.urg) = (flags & 8 != 0, flags & 16 != 0, flags & 32 != 0);
            builder.tcp_header(tcp).write(&mut frame, &payload)
        }
        Protocol::SCTP => {
            let mut packet = [sport, dport, 1, 2, 0, 0].map(u16::to_be_bytes).concat();
            packet.extend([chunk(control), 0]);
            packet.extend((payload.len() as u16 + 4).to_be_bytes());
            packet.extend(&payload);
            let checksum = sctp_checksum(&packet);
            packet[sctp::CHECKSUM..sctp::LEN].copy_from_slice(&checksum);
            builder.write(&mut frame, IpNumber::SCTP, &packet)
        }
        Protocol(other) => builder.write(&mut frame, IpNumber(other), &payload),
    }
    .expect("a vector takes everything");
    frame
}

/// What an SCTP packet's checksum field shall hold (RFC 9260 appendix A).
pub(crate) fn sctp_checksum(packet: &[u8]) -> [u8; 4] {
    let field = sctp::CHECKSUM..sctp::LEN;
    let bytes = packet.iter().enumerate().map(|(at, byte)| if field.contains(&at) { 0 } else { *byte });
    let crc = bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    });
    (!crc).to_le_bytes()
}

/// The `nth` of about `of` pieces of an untagged packet without options.
fn piece(whole: &[u8], is_ipv6: bool, id: u8, of: usize, nth: usize) -> Vec<u8> {
    let l4 = ethernet::LEN + if is_ipv6 { ipv6::LEN } else { ipv4::LEN };
    let data = &whole[l4..];
    let each = data.len().div_ceil(of).next_multiple_of(8).max(8);
    let mut parts = data.chunks(each).enumerate();
    let of = parts.len();
    let Some((nth, part)) = parts.nth(nth % of.max(1)) else { return whole.to_vec() };
    let offset = (nth * each) as u16;
    let more = u16::from(nth + 1 < of);
    let mut head = whole[..l4].to_vec();
    if is_ipv6 {
        let [high, low] = (offset | more).to_be_bytes();
        head.extend([head[20], 0, high, low, 0, 0, 0, id]);
        head[20] = 44;
        head[18..20].copy_from_slice(&((part.len() + 8) as u16).to_be_bytes());
    } else {
        head[16..18].copy_from_slice(&((ipv4::LEN + part.len()) as u16).to_be_bytes());
        head[18..20].copy_from_slice(&[0, id]);
        head[20..22].copy_from_slice(&((more << 13) | (offset / 8)).to_be_bytes());
        ipv4::fill_checksum(&mut head[14..34]);
    }
    head.extend_from_slice(part);
    head
}

/// What the receiver of a frame that left by `port` may answer.
#[derive(Arbitrary, Debug)]
pub(crate) struct Answer {
    flags: u8,
    len: u8,
    /// Of 192 on, an ICMP error about it instead, of one of four types.
    error: u8,
}

impl Answer {
    /// One that says nothing special.
    pub(crate) const USUAL: Answer = Answer { flags: 0, len: 10, error: 0 };

    /// `None`: to this nobody answers.
    pub(crate) fn to(&self, port: PortId, sent: &[u8]) -> Option<Vec<u8>> {
        let Ok(parse::Parsed::Ip(headers)) = parse::parse(sent, sent.len(), Default::default()) else {
            return None;
        };
        let ends = (headers.destination(sent), headers.source(sent));
        if self.error < 192 {
            let protocol = match headers.protocol {
                protocol @ (Protocol::UDP | Protocol::SCTP | Protocol::ESP) => protocol,
                _ => Protocol::TCP,
            };
            let transport = (protocol, headers.dport, headers.sport, self.flags);
            return Some(frame(port, ends, transport, 64, self.len.into()));
        }
        let kind = self.error % 4;
        let packet = &sent[usize::from(headers.l3)..headers.end()];
        let quote = &packet[..packet.len().min(usize::from(self.len).max(28))];
        let rest = [0, 0, self.flags >> 4, 0];
        let builder = PacketBuilder::ethernet2(NEIGHBOUR, OURS[port.index()]);
        let mut frame = Vec::new();
        match ends {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let kind = [3, 11, 12, 4][usize::from(kind)];
                builder
                    .ipv4(from.octets(), to.octets(), 64)
                    .icmpv4_raw(kind, 0, rest)
                    .write(&mut frame, quote)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let kind = kind + 1;
                builder
                    .ipv6(from.octets(), to.octets(), 64)
                    .icmpv6_raw(kind, 0, rest)
                    .write(&mut frame, quote)
            }
            _ => return None,
        }
        .expect("a vector takes everything");
        Some(frame)
    }
}
