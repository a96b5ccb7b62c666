//! `lb_twin_*`: the mirror of Linux's interfaces, routes and neighbours.

use super::Family;
use crate::daemon::Control;
use crate::twin::TwinCounters;

type Row = (&'static str, &'static str, fn(&TwinCounters) -> u64);

const COUNTERS: &[Row] = &[
    ("lb_twin_events_total", "Messages of the kernel.", |twin| twin.events.get()),
    ("lb_twin_unreadable_total", "Messages of the kernel that were not understood.", |twin| {
        twin.unreadable.get()
    }),
    (
        "lb_twin_overruns_total",
        "Times that the kernel had more to say than it could keep; each is followed by a dump.",
        |twin| twin.overruns.get(),
    ),
    ("lb_twin_dumps_total", "Times that the kernel's tables were read.", |twin| twin.dumps.get()),
    ("lb_twin_interfaces_built_total", "Builds of the interfaces.", |twin| twin.interfaces_built.get()),
    ("lb_twin_routes_built_total", "Builds of the routes.", |twin| twin.routes_built.get()),
    ("lb_twin_neighbours_built_total", "Builds of the neighbours.", |twin| twin.neighbours_built.get()),
    ("lb_twin_probes_total", "Times that the kernel was asked to resolve or prove a neighbour.", |twin| {
        twin.probes.get()
    }),
    ("lb_twin_probes_failed_total", "Times that it could not be asked.", |twin| twin.probes_failed.get()),
    (
        "lb_twin_asks_repeated_total",
        "Workers' questions for neighbours that were known or asked for already.",
        |twin| twin.asks_repeated.get(),
    ),
    ("lb_twin_asks_refused_total", "Workers' questions for neighbours that were too many.", |twin| {
        twin.asks_refused.get()
    }),
];

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let twin = control.twin_counters();
    let row = |&(name, help, value): &Row| Family::counter(name, help).with(&[], value(twin));
    COUNTERS.iter().map(row).collect()
}
