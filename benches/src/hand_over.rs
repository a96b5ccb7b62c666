//! What a packet costs that comes to another worker than its flow's owner: the two workers' paths, one after the other on one core. What a line
//! costs that comes from another core is not in it, nor are the ports and the ring.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use lb_core::counters::WorkerCounters;
use lb_core::flow::memory_needed;
use lb_core::flow::template::Uses;
use lb_core::ids::{PortId, WorkerId};
use lb_core::mem::Region;
use lb_core::packet::Frame;
use lb_core::path::{BURST, Burst, Io, Path, PathConfig, Steer};
use lb_core::tables::{Forward, InterfaceId};
use lb_core::time::Tick;
use lb_dataplane::Logic;

use crate::traffic::{Established, LEN, Spread, Traffic, Transport, WAN, tables};
use crate::tsc;

const FLOWS: u32 = 4096;
const ROUNDS: usize = 200;

/// Nanoseconds a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct HandOver {
    /// At the owner, which got it from a port.
    pub own: f64,
    /// Given to the owner by another worker.
    pub give: f64,
    /// At the owner, which got it from that one.
    pub taken: f64,
}

impl fmt::Display for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HandOver { own, give, taken } = self;
        write!(
            f,
            "own {own:.1} ns, give {give:.1} ns, taken {taken:.1} ns: taking costs {:.1} ns",
            taken - own
        )
    }
}

#[derive(Default)]
struct Out {
    handed: Burst<Frame>,
    sent: Vec<Frame>,
}

impl Io<Frame> for Out {
    fn transmit(&mut self, _: PortId, packet: Frame) {
        self.sent.push(packet);
    }
    fn to_twin(&mut self, _: PortId, packet: Frame) {
        self.sent.push(packet);
    }
    fn hand_over(&mut self, _: WorkerId, packet: Frame, steer: Steer) {
        assert_eq!(steer, Steer::Plain, "of an open connection there is nothing to be told");
        self.handed.push(packet);
    }
    fn allocate(&mut self) -> Option<Frame> {
        None
    }
    fn resolve(&mut self, _: InterfaceId, _: IpAddr) {}
}

/// Measures the median burst.
///
/// # Panics
/// When packets go other ways than they must.
pub fn measure() -> HandOver {
    let spread = Spread::default();
    let counters: Arc<[_]> =
        (0..2).map(|_| Arc::new(WorkerCounters::new(spread.server_capacity(), 2))).collect();
    let uses = Arc::new(Uses::new(2, FLOWS));
    let path = |worker| {
        let mut path = Path::<Frame>::new(PathConfig {
            worker: WorkerId(worker),
            counters: counters.clone(),
            max_connections: FLOWS,
            max_ipv6_connections: 0,
            uses: uses.clone(),
            memory: Region::heap(memory_needed(FLOWS, 0)),
            hash_seed: 0x5eed,
            rss: None,
            now: Tick(0),
        });
        path.adopt(Arc::new(tables(spread, Forward::Masq)));
        path
    };
    let (mut other, mut owner) = (path(0), path(1));
    let mut io = Out::default();
    let frames = owned_by_the_second(&mut other, &mut io);
    let burst =
        |at: usize| -> Burst<Frame> { frames.iter().cycle().skip(at * BURST).take(BURST).cloned().collect() };
    // Opens them all.
    for at in 0..frames.len().div_ceil(BURST) {
        owner.receive(&mut burst(at), Tick(0), &mut io);
        io.sent.clear();
    }
    let (mut own, mut give, mut taken) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..ROUNDS {
        let mut packets = burst(at);
        let start = tsc::now();
        owner.receive(&mut packets, Tick(0), &mut io);
        own.push(tsc::now() - start);
        io.sent.clear();
        let mut packets = burst(at);
        let start = tsc::now();
        other.receive(&mut packets, Tick(0), &mut io);
        let given = tsc::now();
        let mut packets: Burst<Frame> = io.handed.drain(..).collect();
        owner.receive_plain(&mut packets, Tick(0), &mut io);
        taken.push(tsc::now() - given);
        give.push(given - start);
        assert_eq!(io.sent.len(), BURST, "all came by the owner");
        io.sent.clear();
    }
    HandOver { own: median(own), give: median(give), taken: median(taken) }
}

/// Frames of which each is another flow's that the second worker owns.
fn owned_by_the_second(first: &mut Path<Frame>, io: &mut Out) -> Vec<Frame> {
    let mut traffic = Established::new(Transport::Udp, Forward::Masq, FLOWS);
    let mut frames = Vec::new();
    while !traffic.is_open() {
        let mut burst: Burst<Frame> = (0..traffic.count(WAN)).map(|_| Frame::new(WAN, &[0; LEN])).collect();
        crate::traffic::fill(&mut traffic, WAN, &mut burst);
        first.receive(&mut burst, Tick(0), io);
        io.sent.clear();
        frames.extend(io.handed.drain(..));
    }
    assert!(frames.len() > FLOWS as usize / 3, "a half of them, about");
    frames
}

fn median(mut cycles: Vec<u64>) -> f64 {
    cycles.sort_unstable();
    cycles[cycles.len() / 2] as f64 / tsc::per_nanosecond() / BURST as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_handed_over() {
        let HandOver { own, give, taken } = measure();
        assert!(own > 0.0 && give > 0.0 && taken > 0.0);
    }
}
