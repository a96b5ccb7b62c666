//! Goal: what connects workers with each other and with the control plane works, and what is full is counted.
//! Method: real worker threads on ports in memory, with a logic that does to each frame what its last byte says.

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Wire as Wiring_, Wiring, order};
use lb_core::counters::WorkerCounters;
use lb_core::drop::DropReason;
use lb_core::hook::Hook;
use lb_core::ids::{PortId, ServerId, WorkerId};
use lb_core::packet::{Frame, Packet};
use lb_core::path::{Deed, Order, Sought};
use lb_core::tables::{InterfaceId, Tables};
use lb_dataplane::{HeapFrames, Idle, InMemory, Member, Queue, Seat, Team, Twin, Wire, memory_port};

const CAPACITY: usize = 256;

/// `workers` workers and two ports. Worker 0 has the queue of port 0, the last worker that of port 1.
fn start(workers: u16, flows: u32) -> (Team, [Wire; 2]) {
    let (a, a_wire) = memory_port(CAPACITY);
    let (b, b_wire) = memory_port(CAPACITY);
    let last = workers - 1;
    let (mut a, mut b) = (Some(a), Some(b));
    let counters: Arc<[_]> = (0..workers).map(|_| Arc::new(WorkerCounters::new(1, 2))).collect();
    let members = (0..workers)
        .map(|worker| {
            let seat = |device: Option<_>, owner| Seat::<InMemory> {
                queue: device.map_or(Queue::Of(WorkerId(owner)), Queue::Own),
                twin: Twin::None,
            };
            let a = if worker == 0 { a.take() } else { None };
            let b = if worker == last { b.take() } else { None };
            let wire = Wiring_ { worker: WorkerId(worker), host_ports_from: u16::MAX, obeys: true, flows };
            Member {
                cpu: None,
                seats: vec![seat(a, 0), seat(b, last)],
                pool: HeapFrames,
                logic: move || Wiring::new(wire),
            }
        })
        .collect();
    (Team::start(members, counters, Idle::Auto).unwrap(), [a_wire, b_wire])
}

/// A frame of four bytes, the last one an order.
fn frame(port: u16, what: u8) -> Frame {
    Frame::new(PortId(port), &[0, 1, 2, what])
}

fn put(wire: &Wire, frame: Frame) {
    until(|| wire.put(frame.clone()).is_ok());
}

fn take(wire: &Wire) -> Frame {
    let mut taken = None;
    until(|| {
        taken = wire.take();
        taken.is_some()
    });
    taken.unwrap()
}

/// Waits for something that workers do.
fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::yield_now();
    }
}

#[test]
fn one_worker_forwards_in_order_and_counts() {
    let (team, [a, b]) = start(1, 0);
    for n in 0..1000u32 {
        let mut bytes = n.to_be_bytes().to_vec();
        bytes.push(order::ACROSS);
        put(&a, Frame::new(PortId(0), &bytes));
        if n % 100 == 99 {
            for m in n - 99..=n {
                assert_eq!(take(&b).data()[..4], m.to_be_bytes());
            }
        }
    }
    let counters = &team.counters()[0];
    until(|| counters.port(PortId(1)).tx_packets.get() == 1000);
    assert_eq!(counters.port(PortId(0)).rx_packets.get(), 1000);
    assert_eq!(counters.port(PortId(0)).rx_bytes.get(), 5000);
    assert_eq!(counters.port(PortId(1)).tx_bytes.get(), 5000);
    let bursts: u64 = counters.turns.bursts.iter().map(|class| class.get()).sum();
    assert!((1..=1000).contains(&bursts));
    assert!(counters.turns.busy_cycles.get() > 0 && counters.turns.turns.get() >= bursts);
}

#[test]
fn a_worker_without_a_queue_sends_through_the_one_that_has_it() {
    let (team, [a, b]) = start(2, 0);
    put(&a, frame(0, order::ACROSS));
    assert_eq!(take(&b).data(), [0, 1, 2, order::ACROSS]);
    put(&b, frame(1, order::ACROSS));
    assert_eq!(take(&a).data(), [0, 1, 2, order::ACROSS]);
    let counters = team.counters();
    // A counter is written when what it counts is on its way already.
    until(|| counters[0].turns.handed_over.get() == 1);
    until(|| counters[1].turns.handed_in.get() == 1 && counters[1].port(PortId(1)).tx_packets.get() == 1);
    assert_eq!(counters[0].port(PortId(1)).tx_packets.get(), 0, "counted by the worker that sends");
}

#[test]
fn a_packet_that_is_handed_over_arrives_with_what_was_found_out_about_it() {
    let (team, [a, b]) = start(2, 0);
    put(&a, frame(0, order::HAND_OVER));
    assert_eq!(take(&b).data(), [b'h', 1, 2, order::HAND_OVER]);
    until(|| team.counters()[1].turns.handed_in.get() == 1);
    until(|| team.counters()[0].turns.handed_over.get() == 1);
}

#[test]
fn what_came_by_no_port_is_handed_over_too_and_is_no_ports() {
    let (team, [a, _]) = start(2, 0);
    put(&a, Frame::new(PortId::NONE, &[0, 1, 2, order::HAND_OVER]));
    until(|| team.counters()[1].turns.handed_in.get() == 1);
    until(|| team.counters()[0].turns.handed_over.get() == 1);
    assert_eq!(team.counters()[0].port(PortId(0)).handed_over.get(), 0);
}

#[test]
fn packets_that_are_handed_over_keep_their_order_with_and_without_something_to_be_told() {
    const PACKETS: u32 = 3000;
    let (team, [a, b]) = start(2, 0);
    // Runs of both kinds, from one to hundreds long.
    let is_plain = |n: u32| !n.isqrt().is_multiple_of(3);
    let (mut put, mut got) = (0, 0);
    until(|| {
        // No more under way than any queue holds.
        while put < PACKETS && put - got < CAPACITY as u32 {
            let [_, m, l, _] = (put << 8).to_be_bytes();
            let what = if is_plain(put) { order::HAND_OVER_PLAIN } else { order::HAND_OVER };
            if a.put(Frame::new(PortId(0), &[0, m, l, what])).is_err() {
                break;
            }
            put += 1;
        }
        while let Some(frame) = b.take() {
            let mark = if is_plain(got) { b'p' } else { b'h' };
            assert_eq!(frame.data()[0], mark, "packet {got}");
            assert_eq!(frame.data()[1..3], ((got as u16).to_be_bytes()), "packet {got}");
            got += 1;
        }
        got == PACKETS
    });
    let counters = team.counters();
    assert_eq!(counters[0].turns.handed_over.get(), u64::from(PACKETS));
    assert_eq!(counters[0].dropped(DropReason::HandOverFull, Hook::Ingress).get(), 0);
}

#[test]
fn what_finds_no_room_is_counted_by_reason_and_hook() {
    let (team, [a, b]) = start(1, 0);
    let drops = |reason, hook| team.counters()[0].dropped(reason, hook).get();
    put(&a, frame(0, order::UP));
    until(|| drops(DropReason::TwinFull, Hook::Egress) == 1);
    // There is no worker 1.
    put(&a, frame(0, order::HAND_OVER));
    until(|| drops(DropReason::HandOverFull, Hook::Ingress) == 1);
    for _ in 0..CAPACITY + 40 {
        put(&a, frame(0, order::ACROSS));
    }
    until(|| drops(DropReason::TxFull, Hook::Egress) == 40);
    until(|| team.counters()[0].port(PortId(1)).tx_packets.get() == CAPACITY as u64);
    for _ in 0..CAPACITY {
        take(&b);
    }
    put(&a, frame(0, order::NEW));
    assert_eq!(take(&b).data(), [42], "and it goes on");
}

#[test]
fn new_tables_are_used_by_all_workers_and_the_old_ones_are_freed_by_the_publisher() {
    let (team, [a, b]) = start(2, 0);
    let mut published = Vec::new();
    for generation in 1..=20 {
        let tables = Arc::new(Tables { generation, ..Tables::default() });
        published.push(Arc::downgrade(&tables));
        team.publish(tables);
        until(|| team.generation_everywhere(generation));
    }
    until(|| {
        team.generation_everywhere(20);
        published.iter().filter(|t| t.strong_count() > 0).count() == 1
    });
    put(&a, frame(0, order::ACROSS));
    assert_eq!(take(&b).data()[0], 20);
    drop(team);
    assert_eq!(published[19].strong_count(), 0);
}

#[test]
fn connections_of_all_workers_are_listed_and_the_list_can_be_broken_off() {
    const FLOWS: u32 = 5000;
    let (team, _wires) = start(2, FLOWS);
    let mut seen = [0u32; 2];
    let mut visit = |worker: WorkerId, view: lb_core::path::FlowView| {
        assert_eq!(view.client.1, worker.0);
        assert_eq!(view.server_id, ServerId(seen[worker.index()]));
        seen[worker.index()] += 1;
        ControlFlow::Continue(())
    };
    team.list_flows(&Sought::default(), &mut visit).unwrap();
    assert_eq!(seen, [FLOWS; 2]);
    let mut count = 0;
    team.list_flows(&Sought::default(), &mut |_, _| {
        count += 1;
        if count == 1200 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!(count, 1200);
}

#[test]
fn connections_that_are_chosen_are_ended_by_their_workers() {
    const FLOWS: u32 = 3000;
    let (team, _wires) = start(2, FLOWS);
    let listed = || {
        let mut listed = Vec::new();
        let list = &mut |_, view: lb_core::path::FlowView| {
            listed.push(view.server_id.0);
            ControlFlow::Continue(())
        };
        team.list_flows(&Sought::default(), list).unwrap();
        listed
    };
    let end = |is_wanted: bool| is_wanted.then_some(Order::plain(Deed::End));
    team.order_flows(&Sought::default(), &mut |view| ControlFlow::Continue(end(view.server_id.0 % 3 != 0)))
        .unwrap();
    let third: Vec<u32> = (0..FLOWS).step_by(3).collect();
    assert_eq!(listed(), [&third[..], &third[..]].concat());
    let mut left = 10;
    let some = &mut |_: &lb_core::path::FlowView| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(end(true)) }
    };
    team.order_flows(&Sought::default(), some).unwrap();
    assert_eq!(listed().len(), 2 * third.len() - 9, "what was chosen before the end");
}

#[test]
fn a_neighbour_is_asked_for_once_for_many_packets() {
    let (team, [a, b]) = start(1, 0);
    let begun = Instant::now();
    for _ in 0..50 {
        put(&a, frame(0, order::RESOLVE));
    }
    // Behind them all.
    put(&a, frame(0, order::ACROSS));
    take(&b);
    let (interface, _) = team.resolve_requests().pop().unwrap();
    assert_eq!(interface, InterfaceId(0));
    // Once a second: fifty packets take less than one, but on a busy machine.
    assert!(team.resolve_requests().len() as u64 <= begun.elapsed().as_secs() + 1);
}
