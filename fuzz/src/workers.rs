//! The workers of a director between the hosts of a [scene](crate::scene), and what must hold after each step.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use arbitrary::Arbitrary;
use arrayvec::ArrayVec;
use lb_core::counters::WorkerCounters;
use lb_core::drop::DropReason;
use lb_core::flow::Tuple;
use lb_core::flow::carry::Salvage;
use lb_core::flow::memory_needed;
use lb_core::flow::template::Uses;
use lb_core::hook::Hook;
use lb_core::ids::{PortId, ServerId, WorkerId};
use lb_core::ipvs::state::TcpState;
use lb_core::mem::{Region, Remains};
use lb_core::packet::{Frame, Packet};
use lb_core::path::{BURST, Burst, CarriedOver, FlowView, Io, Path, PathConfig, Steer};
use lb_core::rule::Rules;
use lb_core::tables::{InterfaceId, Protocol, Tables};
use lb_core::time::{Tick, Timeout};
use lb_core::wire::parse::{Fragment, Parsed, parse};
use lb_core::wire::{checksum, sctp};
use sim::director::Subject;

use crate::scene::{Answer, LAN, LONGEST, Plan, SERVER_IDS, Sent, WAN, sctp_checksum};

const CONNECTIONS: u32 = 24;
const IPV6: u32 = 8;
/// Frames that left and can be answered.
const REMEMBERED: usize = 16;
/// Handed over more often, a packet goes round.
const HAND_OVERS: usize = 3;

#[derive(Arbitrary, Debug)]
pub(crate) enum Step {
    Receive { worker: u8, burst: Vec<Sent> },
    Answer { worker: u8, nth: u8, answer: Answer },
    Raw { worker: u8, is_lan: bool, frame: Vec<u8> },
    FromTwin { frame: Vec<u8> },
    Wait { ticks: u16 },
    Adopt(Plan),
}

/// All that is around the workers, and what must add up.
#[derive(Default)]
struct Outside {
    /// Packets given to the path, and those that it made.
    given: u64,
    made: u64,
    /// Packets that it gave back, up or out.
    left: u64,
    handed: VecDeque<(WorkerId, Frame, Steer)>,
    sent: VecDeque<(PortId, Frame)>,
    is_out_of_buffers: bool,
    /// A packet came that was not right.
    is_damaged: bool,
}

impl Io<Frame> for Outside {
    fn transmit(&mut self, port: PortId, packet: Frame) {
        self.left += 1;
        if !self.is_damaged {
            check_frame(packet.data());
        }
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((port, packet));
    }

    fn to_twin(&mut self, _: PortId, _: Frame) {
        self.left += 1;
    }

    fn hand_over(&mut self, to: WorkerId, packet: Frame, steer: Steer) {
        self.handed.push_back((to, packet, steer));
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.made += u64::from(!self.is_out_of_buffers);
        (!self.is_out_of_buffers).then(|| Frame::new(WAN, &[]))
    }

    fn resolve(&mut self, _: InterfaceId, _: IpAddr) {}
}

/// `L`: the path, alone or with the reference that watches it.
pub(crate) struct Workers<L: Subject> {
    paths: Vec<L>,
    judge: L::Judge,
    /// What a process leaves that is killed.
    remains: Vec<Remains>,
    counters: Arc<[Arc<WorkerCounters>]>,
    outside: Outside,
    plan: Plan,
    rules: Arc<Rules>,
    tables: Arc<Tables>,
    generation: u32,
    now: Tick,
}

impl<L: Subject> Workers<L> {
    /// One to three of them, with `plan` in their tables.
    pub(crate) fn new(workers: u8, plan: Plan, now: Tick, is_out_of_buffers: bool) -> Workers<L> {
        let workers = u16::from(workers % 3) + 1;
        let counters: Arc<[_]> =
            (0..workers).map(|_| Arc::new(WorkerCounters::new(SERVER_IDS as usize, 2))).collect();
        let uses = Arc::new(Uses::new(workers.into(), CONNECTIONS));
        let outside = Outside { is_out_of_buffers, ..Outside::default() };
        let (paths, remains, judge) = (Vec::new(), Vec::new(), L::judge(&counters));
        let mut all = Workers {
            paths,
            judge,
            remains,
            counters,
            outside,
            plan,
            rules: Arc::default(),
            tables: Arc::default(),
            now,
            generation: 0,
        };
        for worker in 0..workers {
            let (memory, remains) = Region::heap_with_remains(memory_needed(CONNECTIONS, IPV6));
            all.remains.push(remains);
            let config = PathConfig {
                worker: WorkerId(worker),
                counters: all.counters.clone(),
                max_connections: CONNECTIONS,
                max_ipv6_connections: IPV6,
                uses: uses.clone(),
                memory,
                hash_seed: 1,
                rss: None,
                now,
            };
            all.paths.push(L::new(config, &all.judge));
        }
        all.adopt(plan);
        all
    }

    /// What stands in the tables.
    pub(crate) fn plan(&self) -> Plan {
        self.plan
    }

    pub(crate) fn now(&self) -> Tick {
        self.now
    }

    /// The flow memory of all workers, after a sudden end.
    pub(crate) fn killed(self) -> Vec<Vec<u8>> {
        drop(self.paths);
        let left = self.remains.into_iter();
        left.map(|mut remains| remains.bytes().expect("the workers are gone").to_vec()).collect()
    }

    /// Does one step, and looks whether all is as it must be.
    pub(crate) fn step(&mut self, step: Step) {
        let before: Vec<u64> = (0..SERVER_IDS).map(|id| self.connections(id)).collect();
        self.take(step);
        self.turn();
        self.check();
        for (id, before) in (0..SERVER_IDS).zip(before) {
            let is_new = self.connections(id) > before;
            assert!(!is_new || self.plan.takes_new(id), "real server {id} got a connection");
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Receive { worker, burst } => {
                self.outside.is_damaged |= burst.iter().any(Sent::is_damaged);
                // A burst comes from one port.
                for port in [WAN, LAN] {
                    let frames = burst.iter().filter(|sent| sent.port() == port).map(Sent::frame);
                    self.receive(worker, port, frames.take(BURST).collect());
                }
            }
            Step::Answer { worker, nth, answer } => {
                let nth = usize::from(nth) % self.outside.sent.len().max(1);
                let Some((port, sent)) = self.outside.sent.get(nth) else { return };
                let (port, answer) = (*port, answer.to(*port, sent.data()));
                self.receive(worker, port, answer.into_iter().collect());
            }
            Step::Raw { worker, is_lan, frame } => {
                self.outside.is_damaged = true;
                self.receive(worker, if is_lan { LAN } else { WAN }, vec![frame]);
            }
            Step::FromTwin { frame } => {
                self.outside.is_damaged = true;
                self.receive_from_twin(WAN, &frame);
            }
            Step::Wait { ticks } => self.now = self.now.after(Timeout(ticks.into())),
            Step::Adopt(plan) => self.adopt(plan),
        }
    }

    fn adopt(&mut self, plan: Plan) {
        self.plan = plan;
        self.generation += 1;
        let tables = Tables { rules: self.rules.clone(), ..plan.tables(self.generation, &self.tables) };
        let tables = Arc::new(tables);
        self.tables = tables.clone();
        L::tell(&self.judge, &tables);
        self.paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
    }

    /// Other rules, from now on.
    pub(crate) fn set_rules(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
        self.adopt(self.plan);
    }

    /// The host sends this.
    pub(crate) fn host_sends(&mut self, sent: &Sent) {
        let frame = sent.frame();
        // The host's is not looked at when no rule is there.
        self.outside.is_damaged |= sent.is_damaged() || tuple_of(&frame).is_none();
        self.receive_from_twin(sent.port(), &frame);
        self.turn();
        self.check();
    }

    fn receive_from_twin(&mut self, port: PortId, frame: &[u8]) {
        self.outside.given += 1;
        let mut burst: Burst<Frame> = std::iter::once(Frame::new(port, frame)).collect();
        self.paths[0].receive_from_twin(port, &mut burst, self.now, &mut self.outside);
        self.pass_on();
    }

    /// A datagram that answers one that left goes back to where its connection came from, if it goes on: rules may drop it, or refuse it.
    pub(crate) fn check_answer(&mut self, worker: u8, nth: u8) {
        let nth = usize::from(nth) % self.outside.sent.len().max(1);
        let Some((port, sent)) = self.outside.sent.get(nth) else { return };
        let Ok(Parsed::Ip(headers)) = parse(sent.data(), sent.data().len(), Default::default()) else {
            return;
        };
        let (port, answer) = (*port, Tuple::of_packet(sent.data(), &headers).reversed());
        let is_whole = headers.fragment == Fragment::None && headers.vlan == 0;
        let is_answered = |flow: &FlowView| !flow.is_template && reply(flow) == answer;
        let Some(flow) = self.flows().into_iter().find(is_answered).filter(|_| is_whole) else { return };
        let Some(frame) = Answer::USUAL.to(port, sent.data()).filter(|_| answer.protocol == Protocol::UDP)
        else {
            return;
        };
        self.outside.sent.clear();
        self.receive(worker, port, vec![frame]);
        for tuple in self.outside.sent.iter().filter_map(|(_, frame)| tuple_of(frame.data())) {
            let is_right = tuple == flow.original().reversed() || tuple.dst == answer.src;
            assert!(is_right, "{answer:?} of {flow:?} went on as {tuple:?}");
        }
        self.turn();
        self.check();
    }

    /// A worker takes a burst, and the others what it hands over.
    fn receive(&mut self, worker: u8, port: PortId, frames: Vec<Vec<u8>>) {
        let worker = usize::from(worker) % self.paths.len();
        self.outside.given += frames.len() as u64;
        let mut burst: Burst<Frame> = frames.iter().map(|frame| Frame::new(port, frame)).collect();
        self.paths[worker].receive(&mut burst, self.now, &mut self.outside);
        assert!(burst.is_empty(), "{} packets were left in the burst", burst.len());
        self.pass_on();
    }

    fn pass_on(&mut self) {
        let limit = HAND_OVERS * (self.outside.given as usize + 1);
        for _ in 0..limit {
            let Some((to, packet, steer)) = self.outside.handed.pop_front() else { return };
            let mut handed: ArrayVec<_, BURST> = std::iter::once((packet, steer)).collect();
            self.paths[to.index()].receive_handed_over(&mut handed, self.now, &mut self.outside);
        }
        panic!("packets go round between the workers");
    }

    fn turn(&mut self) {
        self.paths.iter_mut().for_each(|path| path.turn(self.now, &mut self.outside));
        self.pass_on();
        // Once more, for counters of what was handed over.
        self.paths.iter_mut().for_each(|path| path.turn(self.now, &mut self.outside));
    }

    fn connections(&self, id: u32) -> u64 {
        self.counters.iter().map(|worker| worker.server(ServerId(id)).connections.get()).sum()
    }

    fn flows_of(&self, worker: usize) -> Vec<FlowView> {
        let mut flows = Vec::new();
        self.paths[worker].list(0, u32::MAX, self.now, &mut |flow| flows.push(flow));
        flows
    }

    /// Of all workers.
    pub(crate) fn flows(&self) -> Vec<FlowView> {
        (0..self.paths.len()).flat_map(|worker| self.flows_of(worker)).collect()
    }

    fn waiting(&self) -> u64 {
        self.counters.iter().map(|worker| worker.turns.waiting.get()).sum()
    }

    fn check(&self) {
        if let Some(mismatch) = L::mismatch(&self.judge) {
            panic!("the path does not as the reference says: {mismatch}");
        }
        self.check_packets();
        for path in &self.paths {
            path.check_connections().unwrap_or_else(|wrong| panic!("{wrong}"));
        }
        let mut seen = HashSet::new();
        for (worker, counters) in self.counters.iter().enumerate() {
            let flows = self.flows_of(worker);
            assert_eq!(counters.flows.entries.get(), flows.len() as u64);
            for id in 0..SERVER_IDS {
                let of = |is_active| {
                    let mine = flows.iter().filter(|flow| flow.server_id == ServerId(id));
                    mine.filter(|flow| is_counted_active(flow) == is_active).count() as u64
                };
                let cell = counters.server(ServerId(id));
                let counts = (cell.active.get(), cell.inactive.get());
                assert_eq!(counts, (of(true), of(false)), "worker {worker}, server {id}: {flows:?}");
            }
            for flow in flows {
                assert!(seen.insert((flow.protocol, flow.client, flow.virtual_)), "there twice: {flow:?}");
                let from = flow.local.unwrap_or(flow.client);
                assert!(seen.insert((flow.protocol, flow.server, from)), "an answer of two: {flow:?}");
            }
        }
    }

    /// Each packet is sent, given to Linux, dropped for a reason, or waits.
    fn check_packets(&self) {
        let mut dropped = 0;
        for worker in self.counters.iter() {
            // A copy that was not made is no packet.
            for &reason in DropReason::ALL.iter().filter(|reason| **reason != DropReason::CopyLost) {
                dropped += Hook::ALL.iter().map(|&hook| worker.dropped(reason, hook).get()).sum::<u64>();
            }
            // What is answered by an ICMP error is dropped, and becomes the error.
            dropped -= worker.turns.icmp_sent.get();
        }
        let Outside { given, made, left, .. } = self.outside;
        assert_eq!(given + made, left + dropped + self.waiting(), "{left} left, {dropped} dropped");
    }

    /// When nothing comes any more, all ends in its time.
    pub(crate) fn end(&mut self) {
        self.now = self.now.after(LONGEST).after(Timeout::from_secs(10));
        // So many that all timers are visited, and that what waits is looked at again a second later.
        for _ in 0..4 {
            self.now = self.now.after(Timeout::from_secs(1));
            self.turn();
        }
        self.check();
        assert_eq!(self.waiting(), 0, "packets wait for ever");
        assert_eq!(self.flows(), [], "connections that never end");
    }
}

impl Workers<Path<Frame>> {
    /// Takes the connections of workers that were killed.
    pub(crate) fn carry_over(&mut self, memory: &[Salvage<'_>]) -> CarriedOver {
        let done = self.paths.iter_mut().map(|path| path.carry_over(memory, self.now)).sum();
        self.check();
        done
    }
}

/// A connection is active from its beginning on, before its first state.
fn is_counted_active(flow: &FlowView) -> bool {
    let state = TcpState::ALL.into_iter().find(|state| state.name() == flow.state);
    state.is_some_and(|state| state.is_active() || state == TcpState::None)
}

/// What answers a connection.
fn reply(flow: &FlowView) -> Tuple {
    let ((src, sport), (dst, dport)) = (flow.server, flow.local.unwrap_or(flow.client));
    Tuple { src, dst, sport, dport, protocol: flow.protocol }
}

fn tuple_of(frame: &[u8]) -> Option<Tuple> {
    match parse(frame, frame.len(), Default::default()) {
        Ok(Parsed::Ip(headers)) => Some(Tuple::of_packet(frame, &headers)),
        _ => None,
    }
}

/// A packet that left is right, when all that came were.
fn check_frame(frame: &[u8]) {
    match parse(frame, frame.len(), Default::default()) {
        Ok(Parsed::Ip(headers)) => {
            let is_right = match headers.protocol {
                Protocol::ESP => true,
                Protocol::SCTP if headers.fragment == Fragment::None => {
                    let packet = &frame[headers.l4.into()..headers.end()];
                    sctp_checksum(packet) == packet[sctp::CHECKSUM..sctp::LEN]
                }
                _ => checksum::of_transport(frame, &headers).is_none_or(checksum::is_good),
            };
            assert!(is_right, "a wrong checksum was sent: {frame:02x?}");
        }
        other => panic!("{other:?} was sent: {frame:02x?}"),
    }
}
