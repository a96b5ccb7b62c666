//! A path that does one thing wrong, now and then, is found out.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use lb_core::counters::WorkerCounters;
use lb_core::flow::Tuple;
use lb_core::ids::{PortId, ServerId, WorkerId};
use lb_core::packet::{Frame, Packet as _};
use lb_core::path::{BURST, Burst, FlowView, Io, Order, Outcome, Path, PathConfig, Steer};
use lb_core::tables::{InterfaceId, Tables};
use lb_core::time::Tick;
use lb_dataplane::Logic;

use super::super::world::World;
use super::run;

/// What is done wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Nothing,
    /// This byte of what is sent, from the front or from the end.
    Byte(isize),
    Lost,
    Twice,
    OtherPort,
    UpTheTwin,
    OtherWorker,
    OtherSteer,
    NotAsked,
    NotCounted,
    CountedTwice,
    OlderTables,
    LateByATick,
    NoTurns,
    SmallerTable,
    OtherHash,
}

/// How often.
const ONE_IN: u64 = 50;

struct Spoiled {
    path: Path<Frame>,
    wrong: Wrong,
    counters: Arc<WorkerCounters>,
    calls: u64,
    older: Option<Arc<Tables>>,
}

impl Spoiled {
    fn new(wrong: Wrong, config: PathConfig) -> Spoiled {
        let counters = config.counters[config.worker.index()].clone();
        let path = Path::new(match wrong {
            Wrong::SmallerTable => PathConfig { max_connections: config.max_connections - 1, ..config },
            Wrong::OtherHash => PathConfig { hash_seed: config.hash_seed + 1, ..config },
            _ => config,
        });
        counters.flows.capacity.set(counters.flows.capacity.get() + u64::from(wrong == Wrong::SmallerTable));
        Spoiled { path, wrong, counters, calls: 0, older: None }
    }

    fn before(&mut self, now: Tick) -> Tick {
        self.calls += 1;
        let is_time = self.calls.is_multiple_of(ONE_IN);
        match self.wrong {
            Wrong::NotCounted if is_time => self.counters.flows.found.sub(1),
            Wrong::CountedTwice if is_time => self.counters.server(ServerId(0)).in_packets.add(1),
            _ => {}
        }
        if self.wrong == Wrong::LateByATick { Tick(now.0.wrapping_add(1)) } else { now }
    }

    fn io<'a, I>(&self, io: &'a mut I) -> Spoiler<'a, I> {
        let wrong = if self.calls.is_multiple_of(ONE_IN) { self.wrong } else { Wrong::Nothing };
        Spoiler { io, wrong }
    }
}

struct Spoiler<'a, I> {
    io: &'a mut I,
    wrong: Wrong,
}

impl<I: Io<Frame>> Io<Frame> for Spoiler<'_, I> {
    fn transmit(&mut self, port: PortId, mut packet: Frame) {
        match self.wrong {
            Wrong::Byte(at) => {
                let len = packet.data().len();
                let at = if at < 0 { len.saturating_add_signed(at) } else { (at as usize).min(len - 1) };
                packet.data_mut()[at] ^= 1;
            }
            Wrong::Lost => return,
            Wrong::Twice => self.io.transmit(port, packet.clone()),
            Wrong::OtherPort => return self.io.transmit(PortId(port.0 ^ 1), packet),
            Wrong::UpTheTwin => return self.io.to_twin(port, packet),
            _ => {}
        }
        self.io.transmit(port, packet);
    }
    fn to_twin(&mut self, port: PortId, packet: Frame) {
        self.io.to_twin(port, packet);
    }
    fn hand_over(&mut self, to: WorkerId, packet: Frame, steer: Steer) {
        match (self.wrong, steer) {
            (Wrong::OtherWorker, _) => self.io.hand_over(WorkerId(to.0 ^ 1), packet, steer),
            (Wrong::OtherSteer, Steer::Fragment(_)) => self.io.hand_over(to, packet, Steer::Plain),
            _ => self.io.hand_over(to, packet, steer),
        }
    }
    fn allocate(&mut self) -> Option<Frame> {
        self.io.allocate()
    }
    fn resolve(&mut self, interface: InterfaceId, address: IpAddr) {
        if self.wrong != Wrong::NotAsked {
            self.io.resolve(interface, address);
        }
    }
}

impl Logic<Frame> for Spoiled {
    fn adopt(&mut self, tables: Arc<Tables>) -> Arc<Tables> {
        if self.wrong == Wrong::OlderTables {
            // One generation behind, and says that it is not.
            let generation = tables.generation;
            let older = self.older.replace(tables.clone()).unwrap_or(tables);
            let before = self.path.adopt(older);
            self.counters.turns.generation.set(generation.into());
            return before;
        }
        self.path.adopt(tables)
    }
    fn receive(&mut self, burst: &mut Burst<Frame>, now: Tick, io: &mut impl Io<Frame>) {
        let now = self.before(now);
        let mut io = self.io(io);
        self.path.receive(burst, now, &mut io);
    }
    fn receive_handed_over(
        &mut self,
        burst: &mut ArrayVec<(Frame, Steer), BURST>,
        now: Tick,
        io: &mut impl Io<Frame>,
    ) {
        let now = self.before(now);
        let mut io = self.io(io);
        self.path.receive_handed_over(burst, now, &mut io);
    }
    fn receive_from_twin(
        &mut self,
        port: PortId,
        burst: &mut Burst<Frame>,
        now: Tick,
        io: &mut impl Io<Frame>,
    ) {
        self.path.receive_from_twin(port, burst, now, io);
    }
    fn turn(&mut self, now: Tick, io: &mut impl Io<Frame>) {
        let now = self.before(now);
        if self.wrong != Wrong::NoTurns {
            self.path.turn(now, io);
        }
    }
    fn list(&self, cursor: u32, budget: u32, now: Tick, visit: &mut dyn FnMut(FlowView)) -> Option<u32> {
        self.path.list(cursor, budget, now, &mut |view| visit(view))
    }
    fn order(&mut self, original: &Tuple, order: &Order, now: Tick) -> Outcome {
        self.path.order(original, order, now)
    }
}

/// Whether it is found out, under one of some seeds.
fn is_found_out(wrong: Wrong) -> bool {
    (0..12).any(|seed| {
        let mut world = World::around(seed, |config| Spoiled::new(wrong, config));
        (0..super::STEPS).any(|_| {
            world.step();
            world.verdict.mismatch().is_some()
        })
    })
}

#[test]
fn whatever_is_done_wrong_is_found_out() {
    let bytes = [0, 7, 12, 14, 16, 22, 24, 25, 26, 33, 34, 37, 38, 50, -1, -8].map(Wrong::Byte);
    let others = [
        Wrong::Lost,
        Wrong::Twice,
        Wrong::OtherPort,
        Wrong::UpTheTwin,
        Wrong::OtherWorker,
        Wrong::OtherSteer,
        Wrong::NotAsked,
        Wrong::NotCounted,
        Wrong::CountedTwice,
        Wrong::OlderTables,
        Wrong::LateByATick,
        Wrong::NoTurns,
        Wrong::SmallerTable,
        Wrong::OtherHash,
    ];
    for wrong in bytes.into_iter().chain(others) {
        assert!(is_found_out(wrong), "{wrong:?}");
    }
}

#[test]
fn what_is_spoiled_by_nothing_is_as_the_reference_says() {
    let mut world = World::around(1, |config| Spoiled::new(Wrong::Nothing, config));
    run(1, &mut world);
}

#[test]
fn a_report_names_the_packet_what_was_done_with_it_and_what_had_to_be() {
    let report = (0..12).find_map(|seed| {
        let mut world = World::around(seed, |config| Spoiled::new(Wrong::Byte(-1), config));
        (0..super::STEPS).find_map(|_| {
            world.step();
            world.verdict.mismatch()
        })
    });
    let report = report.expect("a mismatch");
    assert_eq!(report.what, "a packet does not leave as it must");
    assert!(
        report.path.starts_with("transmit by port ") && report.reference.starts_with("transmit by port ")
    );
    // But for the last bit they are the same.
    let all_but_last = |text: &str| text[..text.len() - 1].to_string();
    assert_eq!(all_but_last(&report.path), all_but_last(&report.reference));
    assert_ne!(report.path, report.reference);
    let text = report.to_string();
    for part in ["worker", "at tick", "tables", "the path:", "the reference:"] {
        assert!(text.contains(part), "{text}");
    }
}
