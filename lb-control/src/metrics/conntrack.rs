//! `lb_conntrack_*`: the flow tables of all workers together, under the names that node_exporter
//! gives the kernel's (`stat_found`, without `_total`).

use lb_core::counters::{Counter, FlowCounters};

use super::Family;
use crate::daemon::Control;

type Row = (&'static str, &'static str, fn(&FlowCounters) -> &Counter);

const GAUGES: &[Row] = &[
    ("lb_conntrack_entries", "Connections now.", |flows| &flows.entries),
    ("lb_conntrack_entries_limit", "Connections that there is room for.", |flows| &flows.capacity),
    ("lb_conntrack_ipv6_entries", "IPv6 connections now.", |flows| &flows.ipv6_entries),
    ("lb_conntrack_ipv6_entries_limit", "IPv6 connections that there is room for.", |flows| {
        &flows.ipv6_capacity
    }),
];

const COUNTERS: &[Row] = &[
    ("lb_conntrack_stat_found", "Packets whose connection was found.", |flows| &flows.found),
    ("lb_conntrack_stat_missed", "Packets whose connection was not found.", |flows| &flows.missed),
    ("lb_conntrack_stat_insert", "Connections made.", |flows| &flows.inserted),
    ("lb_conntrack_carried_over_total", "Connections of the process before this one, taken over.", |flows| {
        &flows.carried_over
    }),
    ("lb_conntrack_stat_delete", "Connections that expired.", |flows| &flows.expired),
    ("lb_conntrack_stat_drop", "Connections refused because the table was full.", |flows| &flows.full),
    (
        "lb_conntrack_stat_insert_failed",
        "Connections refused because both their buckets of the index were full.",
        |flows| &flows.index_full,
    ),
];

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let sum = |count: fn(&FlowCounters) -> &Counter| {
        control.plane().counters().iter().map(|worker| count(&worker.flows).get()).sum()
    };
    let gauge = |&(name, help, count): &Row| Family::gauge(name, help).with(&[], sum(count));
    let counter = |&(name, help, count): &Row| Family::counter_named(name, help).with(&[], sum(count));
    GAUGES.iter().map(gauge).chain(COUNTERS.iter().map(counter)).collect()
}
