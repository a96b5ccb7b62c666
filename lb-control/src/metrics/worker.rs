//! `lb_worker_*`: the workers' loops.

use lb_core::counters::{Counter, TurnCounters};

use super::Family;
use crate::daemon::Control;

type Row = (&'static str, &'static str, fn(&TurnCounters) -> u64);

const COUNTERS: &[Row] = &[
    (
        "lb_worker_busy_cycles_total",
        "Cycles of turns that had work; see lb_worker_cycles_per_second.",
        |turns| turns.busy_cycles.get(),
    ),
    ("lb_worker_idle_cycles_total", "Cycles of turns that had none.", |turns| turns.idle_cycles.get()),
    ("lb_worker_turns_total", "Turns of the loop.", |turns| turns.turns.get()),
    (
        "lb_worker_handed_over_total",
        "Packets passed to another worker: the owner of their flow, or of the port's queue or twin.",
        |turns| turns.handed_over.get(),
    ),
    ("lb_worker_handed_in_total", "Packets taken over from other workers.", |turns| turns.handed_in.get()),
    ("lb_worker_icmp_sent_total", "ICMP errors sent.", |turns| turns.icmp_sent.get()),
    ("lb_worker_icmp_suppressed_total", "ICMP errors not sent because there were too many.", |turns| {
        turns.icmp_suppressed.get()
    }),
];

const GAUGES: &[Row] = &[
    ("lb_worker_generation", "Generation of the tables in use.", |turns| turns.generation.get()),
    ("lb_worker_waiting_packets", "Packets waiting for a next hop or a first fragment.", |turns| {
        turns.waiting.get()
    }),
];

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let views = control.worker_views();
    let labels: Vec<(String, String)> =
        views.iter().map(|v| (v.worker.to_string(), v.cpu.to_string())).collect();
    let workers = control.plane().counters();
    let fill = |mut family: Family, value: fn(&TurnCounters) -> u64| {
        for ((worker, cpu), counters) in labels.iter().zip(workers) {
            family.add(&[("worker", worker), ("cpu", cpu)], value(&counters.turns));
        }
        family
    };
    let counter = |&(name, help, value): &Row| fill(Family::counter(name, help), value);
    let gauge = |&(name, help, value): &Row| fill(Family::gauge(name, help), value);
    let mut families: Vec<Family> = COUNTERS.iter().map(counter).chain(GAUGES.iter().map(gauge)).collect();

    let mut up = Family::gauge(
        "lb_worker_up",
        "1: the worker took its last turn within a second; 0: it stands still.",
    );
    let mut flows = Family::gauge("lb_worker_flows", "Connections of the worker now.");
    let mut capacity = Family::gauge("lb_worker_flows_limit", "Connections that the worker has room for.");
    let mut turns = Family::histogram(
        "lb_worker_turn_seconds",
        "Turns of the loop that had work and that had none, by their time; sleep is not in it.",
    );
    let cycles_per_second = control.plane().cycles_per_second().max(1) as f64;
    let mut bursts =
        Family::histogram("lb_worker_burst_packets", "Packets received at once, by their number.");
    for (((worker, cpu), view), counters) in labels.iter().zip(&views).zip(workers) {
        let labels = [("worker", worker.as_str()), ("cpu", cpu.as_str())];
        up.add(&labels, view.alive.into());
        flows.add(&labels, view.flows);
        capacity.add(&labels, view.flow_capacity);
        let counts = counters.turns.bursts.iter().map(|count| count.get());
        let classes = TurnCounters::BURST_CLASSES.into_iter().zip(counts);
        let sum = least_sum(classes.clone());
        bursts.add_histogram(&labels, classes.map(|(bound, count)| (bound as f64, count)), sum);
        let counts = &counters.turns;
        let idle_cycles = counts.idle_cycles.get().saturating_sub(counts.nap_cycles.get());
        for (turn, classes, cycles) in [
            ("busy", &counts.busy_turns, counts.busy_cycles.get()),
            ("idle", &counts.idle_turns, idle_cycles),
        ] {
            let labels = [labels[0], labels[1], ("turn", turn)];
            turns.add_histogram(&labels, turn_classes(classes), cycles as f64 / cycles_per_second);
        }
    }
    families.extend([up, flows, capacity, bursts, turns]);
    families.push(
        Family::gauge(
            "lb_worker_buffers_in_use",
            "Packet buffers of all workers in use, in queues and caches too.",
        )
        .with(&[], control.plane().buffers_in_use().into()),
    );
    families.push(
        Family::gauge("lb_worker_cycles_per_second", "Cycles of the workers' clock a second.")
            .with(&[], control.plane().cycles_per_second()),
    );
    families
}

/// The upper bound of each class in seconds, and how many turns there were.
fn turn_classes(counts: &[Counter]) -> impl Iterator<Item = (f64, u64)> {
    let bounds = TurnCounters::TURN_BOUNDS.iter().map(|&nanoseconds| nanoseconds as f64 / 1e9);
    bounds.chain([f64::INFINITY]).zip(counts.iter().map(Counter::get))
}

/// The sum of the burst sizes at least, as the workers count classes only: each burst as the smallest of its class.
fn least_sum(classes: impl Iterator<Item = (u64, u64)>) -> f64 {
    let mut least = 1;
    let mut sum = 0;
    for (bound, count) in classes {
        sum += least * count;
        least = bound + 1;
    }
    sum as f64
}
