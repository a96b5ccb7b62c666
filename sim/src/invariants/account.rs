//! Each packet is somewhere: what came in and was made equals what left, was dropped, and waits.

use lb_core::drop::DropReason;
use lb_core::hook::Hook;
use lb_core::ids::PortId;

use super::name;
use crate::director::Subject;
use crate::violation::{Checked, hold};
use crate::world::World;

pub(super) fn check<L: Subject>(world: &World<L>) -> Checked {
    let director = &world.director;
    let mut came = director.buffers_given();
    let mut went = 0;
    let (mut rx, mut tx, mut from_twin) = (0, 0, 0);
    let (mut handed_over, mut handed_in) = (0, 0);
    for counters in director.counters.iter() {
        for port in 0..director.wires.len() {
            let cell = counters.port(PortId(port as u16));
            rx += cell.rx_packets.get();
            tx += cell.tx_packets.get();
            from_twin += cell.from_twin.get();
        }
        came += counters.turns.icmp_sent.get();
        went += counters.turns.waiting.get();
        for &reason in DropReason::ALL {
            went += Hook::ALL.iter().map(|&hook| counters.dropped(reason, hook).get()).sum::<u64>();
        }
        handed_over += counters.turns.handed_over.get();
        handed_in += counters.turns.handed_in.get();
    }
    let sum = |all: &[u64]| all.iter().sum::<u64>();
    let (mut queued_in, mut queued_out, mut queued_up) = (0, 0, 0);
    for (wires, host) in director.wires.iter().zip(&director.hosts) {
        for wire in wires {
            let (waiting_in, waiting_out) = wire.waiting();
            queued_in += waiting_in as u64;
            queued_out += waiting_out as u64;
        }
        queued_up += host.waiting() as u64;
    }
    let (put, taken, up) = (sum(&world.watch.put), sum(&world.watch.taken), sum(&world.watch.up));
    hold!(
        put == rx + queued_in,
        name::COUNTERS,
        "{put} frames were put in, {queued_in} wait, {rx} are counted as received"
    );
    hold!(
        taken + queued_out == tx,
        name::COUNTERS,
        "{taken} frames were taken, {queued_out} wait, {tx} are counted as sent"
    );
    came += rx + from_twin;
    went += tx + up + queued_up;
    let in_rings = handed_over.checked_sub(handed_in);
    hold!(
        in_rings.is_some(),
        name::ACCOUNTED,
        "{handed_in} packets were taken from rings, {handed_over} put in"
    );
    let in_rings = in_rings.unwrap_or(0);
    hold!(
        came == went + in_rings,
        name::ACCOUNTED,
        "{came} packets came or were made; {went} left, were dropped or wait, {in_rings} are between workers"
    );
    let workers = director.workers() as u64;
    let most = workers * (workers - 1) * world.shape.ring as u64;
    hold!(
        in_rings <= most,
        name::BOUNDED,
        "{in_rings} packets are between workers, there is room for {most}"
    );
    Ok(())
}
