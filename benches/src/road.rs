//! The packet path on one core: a generator that refills frames from a list of flows in random order, the path, and a
//! port that takes the frames back. 64-byte packets, masquerading, both directions.
//!
//! The generator's cost is measured around each burst and not counted.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use lb_core::counters::WorkerCounters;
use lb_core::flow::memory_needed;
use lb_core::ids::{PortId, ServerId, ServiceId, WorkerId};
use lb_core::ipvs::SchedulerKind;
use lb_core::mem::Region;
use lb_core::packet::{NoRoom, Packet, RxChecksums};
use lb_core::path::{BURST, Burst, Io, Path, PathConfig, Steer};
use lb_core::tables::{
    Forward, Interface, InterfaceId, Interfaces, Mac, Neighbours, Prefix, Protocol, Route, Routes, Server,
    Service, ServiceKey, Services, Tables,
};
use lb_core::time::Tick;
use lb_core::wire::{checksum, ipv4};

use crate::tsc;

const WAN: PortId = PortId(0);
const LAN: PortId = PortId(1);
const MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const SERVERS: u32 = 10;
/// Ethernet frame without its checksum.
const LEN: usize = 60;

/// A frame as DPDK lays one out: metadata, headroom, data.
#[repr(align(64))]
pub struct Slot {
    port: PortId,
    start: u16,
    len: u16,
    bytes: [u8; 320],
}

pub type BoxedFrame = Box<Slot>;

/// A frame that the path may own.
pub struct BenchFrame(BoxedFrame);

impl Packet for BenchFrame {
    #[inline]
    fn data(&self) -> &[u8] {
        let start = usize::from(self.0.start);
        &self.0.bytes[start..start + usize::from(self.0.len)]
    }
    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        let start = usize::from(self.0.start);
        &mut self.0.bytes[start..start + usize::from(self.0.len)]
    }
    #[inline]
    fn frame_len(&self) -> usize {
        usize::from(self.0.len)
    }
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        if usize::from(self.0.start) + len > self.0.bytes.len() {
            return Err(NoRoom);
        }
        self.0.len = len as u16;
        Ok(())
    }
    fn move_start(&mut self, by: isize) -> Result<(), NoRoom> {
        let start = usize::from(self.0.start).checked_add_signed(by).ok_or(NoRoom)?;
        let len = usize::from(self.0.len).checked_add_signed(-by).ok_or(NoRoom)?;
        if start + len > self.0.bytes.len() {
            return Err(NoRoom);
        }
        (self.0.start, self.0.len) = (start as u16, len as u16);
        Ok(())
    }
    #[inline]
    fn port(&self) -> PortId {
        self.0.port
    }
    #[inline]
    fn rx_checksums(&self) -> RxChecksums {
        RxChecksums::default()
    }
    fn offload_l4_checksum(&mut self, _: usize, _: usize, _: bool, _: bool) -> bool {
        false
    }
    #[inline]
    fn prefetch(&self) {
        lb_core::mem::prefetch(self.0.bytes.as_ptr());
    }
}

/// The port that takes frames back.
#[derive(Default)]
struct Sink {
    free: Vec<BenchFrame>,
    sent: u64,
    other: u64,
}

impl Io<BenchFrame> for Sink {
    #[inline]
    fn transmit(&mut self, _: PortId, packet: BenchFrame) {
        self.sent += 1;
        self.free.push(packet);
    }
    fn to_twin(&mut self, _: PortId, packet: BenchFrame) {
        self.other += 1;
        self.free.push(packet);
    }
    fn hand_over(&mut self, _: WorkerId, packet: BenchFrame, _: Steer) {
        self.other += 1;
        self.free.push(packet);
    }
    fn allocate(&mut self) -> Option<BenchFrame> {
        None
    }
    fn resolve(&mut self, _: InterfaceId, _: IpAddr) {}
}

/// What the generator writes into a frame for one direction of one flow.
#[derive(Clone, Copy)]
struct Recipe {
    src: u32,
    dst: u32,
    sport: u16,
    dport: u16,
    ip_checksum: u16,
    l4_checksum: u16,
    is_reply: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Udp,
    Tcp,
}

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// The director, warmed up or not, and the frames that go through it.
pub struct Road {
    path: Path<BenchFrame>,
    counters: Arc<[Arc<WorkerCounters>]>,
    sink: Sink,
    transport: Transport,
    template: [u8; LEN],
    now: Tick,
}

/// What a run found, for each packet, the generator's part subtracted.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub cycles: f64,
    pub generator_cycles: f64,
    pub packets: u64,
}

impl Road {
    pub fn new(transport: Transport, max_connections: u32, memory: Region) -> Road {
        let counters: Arc<[Arc<WorkerCounters>]> = Arc::new([Arc::new(WorkerCounters::new(64, 2))]);
        let now = Tick(0);
        let mut path = Path::new(PathConfig {
            worker: WorkerId(0),
            counters: counters.clone(),
            max_connections,
            max_ipv6_connections: 0,
            memory,
            hash_seed: 0x5eed,
            now,
        });
        path.adopt(tables().into());
        let mut sink = Sink::default();
        for _ in 0..2 * BURST {
            sink.free.push(BenchFrame(Box::new(Slot {
                port: WAN,
                start: 128,
                len: LEN as u16,
                bytes: [0; 320],
            })));
        }
        sink.free.reserve(64);
        Road { path, counters, sink, transport, template: template(transport), now }
    }

    pub fn memory(max_connections: u32) -> usize {
        memory_needed(max_connections, 0)
    }

    /// Opens `flows` connections and sends `packets` packets of them, in random order and both directions.
    pub fn established(&mut self, flows: u32, packets: u64, per: &mut Vec<Cost>, runs: u32) {
        let mut recipes = self.open(flows);
        shuffle(&mut recipes);
        let mut at = 0;
        for run in 0..=runs {
            let cost = self.send(packets, &mut || {
                let recipe = recipes[at];
                at += 1;
                if at == recipes.len() {
                    at = 0;
                }
                (recipe, ACK)
            });
            // The first one warms the caches.
            if run > 0 {
                per.push(cost);
            }
        }
    }

    /// Opens connections, one a packet, each ended by its timeout: `rate` says how many are alive at a time.
    pub fn new_flows(&mut self, packets: u64, alive: u32, per: &mut Vec<Cost>, runs: u32) {
        let mut n = 0u32;
        for _ in 0..runs {
            let cost = self.send_timed(packets, alive, &mut || {
                n = n.wrapping_add(1);
                (self_recipe(n), SYN)
            });
            per.push(cost);
        }
    }

    fn open(&mut self, flows: u32) -> Vec<Recipe> {
        let mut n = 0;
        let transport = self.transport;
        self.send(u64::from(flows), &mut || {
            n += 1;
            (request(transport, n - 1), SYN)
        });
        let mut recipes: Vec<Recipe> = (0..flows).map(|n| request(transport, n)).collect();
        // Which server each connection got is in the list; its answers come from there.
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            cursor = self.path.list(from, 4096, self.now, &mut |flow| {
                let (IpAddr::V4(client), IpAddr::V4(server)) = (flow.client.0, flow.server.0) else { return };
                recipes.push(recipe(
                    transport,
                    server.into(),
                    client.into(),
                    flow.server.1,
                    flow.client.1,
                    true,
                ));
            });
        }
        assert_eq!(recipes.len(), 2 * flows as usize, "every connection was opened");
        if transport == Transport::Tcp {
            let all = recipes.clone();
            let mut each = all.into_iter();
            self.send(2 * u64::from(flows), &mut || (each.next().unwrap(), ACK));
        }
        recipes
    }

    fn send(&mut self, packets: u64, next: &mut impl FnMut() -> (Recipe, u8)) -> Cost {
        let (mut total, mut generating) = (0, 0);
        let mut sent = 0;
        let mut burst: Burst<BenchFrame> = Burst::new();
        while sent < packets {
            let size = BURST.min((packets - sent) as usize);
            let start = tsc::now();
            self.fill(&mut burst, size, next);
            let filled = tsc::now();
            self.path.receive(&mut burst, self.now, &mut self.sink);
            self.path.turn(self.now, &mut self.sink);
            let end = tsc::now();
            generating += filled - start;
            total += end - filled;
            sent += size as u64;
        }
        Cost {
            cycles: total as f64 / packets as f64,
            generator_cycles: generating as f64 / packets as f64,
            packets,
        }
    }

    /// As `send`, while time runs so that `alive` packets make up the timeout of a UDP connection.
    fn send_timed(&mut self, packets: u64, alive: u32, next: &mut impl FnMut() -> (Recipe, u8)) -> Cost {
        const UDP_TICKS: u64 = 300 * Tick::PER_SECOND as u64;
        let mut left = packets;
        let (mut cycles, mut generator) = (0.0, 0.0);
        while left > 0 {
            let slice = left.min(u64::from(alive) / UDP_TICKS).max(1);
            self.now = Tick(self.now.0.wrapping_add(1));
            let cost = self.send(slice, next);
            cycles += cost.cycles * slice as f64;
            generator += cost.generator_cycles * slice as f64;
            left -= slice;
        }
        Cost { cycles: cycles / packets as f64, generator_cycles: generator / packets as f64, packets }
    }

    #[inline]
    fn fill(&mut self, burst: &mut Burst<BenchFrame>, size: usize, next: &mut impl FnMut() -> (Recipe, u8)) {
        for _ in 0..size {
            let mut frame = self.sink.free.pop().expect("every frame comes back");
            let (recipe, flags) = next();
            let slot = &mut *frame.0;
            slot.port = if recipe.is_reply { LAN } else { WAN };
            slot.start = 128;
            slot.len = LEN as u16;
            let bytes: &mut [u8; LEN] = (&mut slot.bytes[128..128 + LEN]).try_into().unwrap();
            *bytes = self.template;
            bytes[..6].copy_from_slice(&MACS[usize::from(recipe.is_reply)]);
            bytes[24..26].copy_from_slice(&recipe.ip_checksum.to_be_bytes());
            bytes[26..30].copy_from_slice(&recipe.src.to_be_bytes());
            bytes[30..34].copy_from_slice(&recipe.dst.to_be_bytes());
            bytes[34..36].copy_from_slice(&recipe.sport.to_be_bytes());
            bytes[36..38].copy_from_slice(&recipe.dport.to_be_bytes());
            match self.transport {
                Transport::Udp => bytes[40..42].copy_from_slice(&recipe.l4_checksum.to_be_bytes()),
                Transport::Tcp => {
                    bytes[47] = flags;
                    bytes[50..52].copy_from_slice(&recipe.l4_checksum.to_be_bytes());
                }
            }
            burst.push(frame);
        }
    }

    /// Frames that were sent, and those that were not.
    pub fn sent(&self) -> (u64, u64) {
        (self.sink.sent, self.sink.other)
    }

    pub fn counters(&self) -> &WorkerCounters {
        &self.counters[0]
    }
}

/// The n-th client's request; its checksum is wrong by a constant, which nobody minds.
fn request(transport: Transport, n: u32) -> Recipe {
    recipe(transport, 0x0a80_0000 + n / 50_000, VIP.into(), (1024 + n % 50_000) as u16, 80, false)
}

fn self_recipe(n: u32) -> Recipe {
    request(Transport::Udp, n % 100_000_000)
}

fn recipe(transport: Transport, src: u32, dst: u32, sport: u16, dport: u16, is_reply: bool) -> Recipe {
    let mut header = [0; 20];
    header.copy_from_slice(&template(transport)[14..34]);
    header[12..16].copy_from_slice(&src.to_be_bytes());
    header[16..20].copy_from_slice(&dst.to_be_bytes());
    ipv4::fill_checksum(&mut header);
    let ip_checksum = u16::from_be_bytes([header[10], header[11]]);
    Recipe { src, dst, sport, dport, ip_checksum, l4_checksum: checksum::finish_udp(ip_checksum), is_reply }
}

fn template(transport: Transport) -> [u8; LEN] {
    let mut frame = [0; LEN];
    frame[12] = 8;
    let protocol = match transport {
        Transport::Udp => Protocol::UDP,
        Transport::Tcp => Protocol::TCP,
    };
    frame[14..24].copy_from_slice(&[0x45, 0, 0, (LEN - 14) as u8, 0, 1, 0x40, 0, 64, protocol.0]);
    match transport {
        Transport::Udp => frame[38..40].copy_from_slice(&((LEN - 34) as u16).to_be_bytes()),
        Transport::Tcp => frame[46] = 0x50,
    }
    frame
}

/// Fisher–Yates with a fixed seed.
fn shuffle(list: &mut [Recipe]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for i in (1..list.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        list.swap(i, (state % (i as u64 + 1)) as usize);
    }
}

fn tables() -> Tables {
    let interface = |name: &str, port, mac| Interface {
        name: name.into(),
        port,
        vlan: 0,
        mac,
        mtu: 1500,
        outside: port == WAN,
        ipv4: None,
        ipv6: None,
    };
    let interfaces = Interfaces::new(vec![interface("wan", WAN, MACS[0]), interface("lan", LAN, MACS[1])]);
    let gateway = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let routes = Routes::new([
        (Prefix { address: VIP.into(), len: 32 }, Route::Local),
        (
            Prefix { address: Ipv4Addr::UNSPECIFIED.into(), len: 0 },
            Route::Via { interface: InterfaceId(0), gateway: Some(gateway) },
        ),
        (
            Prefix { address: Ipv4Addr::new(10, 0, 0, 0).into(), len: 24 },
            Route::Via { interface: InterfaceId(1), gateway: None },
        ),
    ]);
    let address = |n: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_000b + n));
    let servers = (0..SERVERS).map(|n| (InterfaceId(1), address(n), Some([2, 0, 0, 0, 2, n as u8])));
    let gateways = [(InterfaceId(0), gateway, Some([2, 0, 0, 0, 1, 1]))];
    let neighbours = Neighbours::new(&interfaces, servers.chain(gateways));
    let services = [Protocol::TCP, Protocol::UDP].into_iter().enumerate().map(|(n, protocol)| {
        let servers = (0..SERVERS).map(|i| Server {
            id: ServerId(n as u32 * SERVERS + i),
            address: address(i),
            port: 8080,
            weight: 1,
            forward: Forward::Masq,
            upper_threshold: 0,
            lower_threshold: 0,
            overloaded: Arc::default(),
        });
        let key = ServiceKey { protocol, address: VIP.into(), port: 80 };
        Arc::new(Service::new(None, ServiceId(n as u32), key, SchedulerKind::Rr, servers.collect(), 1))
    });
    Tables {
        generation: 1,
        interfaces: interfaces.into(),
        routes: routes.into(),
        neighbours: neighbours.into(),
        services: Services::new(services).into(),
        ..Tables::default()
    }
}
