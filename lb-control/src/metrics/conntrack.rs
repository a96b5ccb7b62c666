//! `lb_conntrack_*`: the flow tables of all workers together, under the names that node_exporter
//! gives the kernel's (`stat_found`, without `_total`); and `lb_synproxy_*`, what the kernel counts in `/proc/net/stat/synproxy`.

use lb_core::counters::{CookieCounters, Counter, EditCounters, FlowCounters, WorkerCounters};

use super::Family;
use crate::daemon::Control;

type Row = (&'static str, &'static str, fn(&FlowCounters) -> &Counter);

const GAUGES: &[Row] = &[
    ("lb_conntrack_entries", "Connections now.", |flows| &flows.entries),
    ("lb_conntrack_tracked_entries", "Of these, those of no virtual service.", |flows| &flows.tracked),
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
    (
        "lb_conntrack_stat_early_drop",
        "Connections that were not established, or not any more, and went to make room for new ones.",
        |flows| &flows.early_drop,
    ),
    (
        "lb_conntrack_drop_entry_total",
        "Connections of virtual services that ended early to make room (sysctl drop_entry).",
        |flows| &flows.drop_entry,
    ),
    (
        "lb_conntrack_bereft_total",
        "Connections of virtual services that ended as their real server was removed (sysctl expire_nodest_conn).",
        |flows| &flows.bereft,
    ),
    ("lb_conntrack_uncounted_total", "Packets whose connection there was no room to count at.", |flows| {
        &flows.uncounted
    }),
    (
        "lb_conntrack_unlabelled_total",
        "Times that a connection was to get a label, which a rule may ask for each of its packets, or to keep its labels over a restart, and there was no room for such a set of labels.",
        |flows| &flows.unlabelled,
    ),
    ("lb_conntrack_stat_invalid", "Packets that fit no connection and can begin none.", |flows| {
        &flows.invalid
    }),
    ("lb_conntrack_stat_expect_create", "Connections that helpers announced.", |flows| &flows.expect_create),
    (
        "lb_conntrack_stat_expect_delete",
        "Announced connections that began, or are expected no more.",
        |flows| &flows.expect_delete,
    ),
    ("lb_conntrack_stat_expect_new", "Announced connections that began.", |flows| &flows.expect_new),
    ("lb_conntrack_stat_drop", "Connections refused because the table was full.", |flows| &flows.full),
    (
        "lb_conntrack_stat_insert_failed",
        "Connections refused because both their buckets of the index were full.",
        |flows| &flows.index_full,
    ),
];

type EditRow = (&'static str, &'static str, fn(&EditCounters) -> &Counter);

const EDIT_GAUGES: &[EditRow] = &[
    ("lb_conntrack_edited_entries", "Connections into whose streams something is put, now.", |edits| {
        &edits.entries
    }),
    ("lb_conntrack_edited_entries_limit", "Such connections that there is room for.", |edits| {
        &edits.capacity
    }),
];

const EDIT_COUNTERS: &[EditRow] = &[
    ("lb_conntrack_edited_full_total", "New connections for whose edits there was no room.", |edits| {
        &edits.full
    }),
    (
        "lb_conntrack_toa_left_out_total",
        "Packets without the client's address as an option, for which there was no room.",
        |edits| &edits.toa_left_out,
    ),
];

type CookieRow = (&'static str, &'static str, fn(&CookieCounters) -> &Counter);

const COOKIE_COUNTERS: &[CookieRow] = &[
    ("lb_synproxy_syn_received_total", "SYNs that were answered with a cookie.", |cookies| {
        &cookies.syn_received
    }),
    ("lb_synproxy_cookie_invalid_total", "Packets that acknowledge no cookie.", |cookies| &cookies.invalid),
    ("lb_synproxy_cookie_valid_total", "Packets that acknowledge a cookie.", |cookies| &cookies.valid),
    ("lb_synproxy_cookie_retrans_total", "Of these, those that had the server asked again.", |cookies| {
        &cookies.retrans
    }),
    (
        "lb_synproxy_conn_reopened_total",
        "Connections that were opened again while they were remembered.",
        |cookies| &cookies.reopened,
    ),
];

/// Those of tracked connections' helpers, and of virtual services' clients and servers.
fn expectations(control: &Control) -> Family {
    // What ends meanwhile had begun.
    let ended: u64 = control.plane().counters().iter().map(|worker| worker.flows.expect_delete.get()).sum();
    let begun: u64 = control.plane().counters().iter().map(|worker| worker.flows.expect_create.get()).sum();
    let help = "Connections that helpers announced and that have not begun.";
    Family::gauge("lb_conntrack_expectations", help).with(&[], begun.saturating_sub(ended))
}

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let sum = |count: &dyn Fn(&WorkerCounters) -> u64| -> u64 {
        control.plane().counters().iter().map(|worker| count(worker)).sum()
    };
    let flows = |count: fn(&FlowCounters) -> &Counter| sum(&|worker| count(&worker.flows).get());
    let edits = |count: fn(&EditCounters) -> &Counter| sum(&|worker| count(&worker.edits).get());
    let gauge = |&(name, help, count): &Row| Family::gauge(name, help).with(&[], flows(count));
    let edit_gauge = |&(name, help, count): &EditRow| Family::gauge(name, help).with(&[], edits(count));
    let counter = |&(name, help, count): &Row| Family::counter_named(name, help).with(&[], flows(count));
    let edit_counter =
        |&(name, help, count): &EditRow| Family::counter_named(name, help).with(&[], edits(count));
    let cookies = |count: fn(&CookieCounters) -> &Counter| sum(&|worker| count(&worker.cookies).get());
    let cookie_counter =
        |&(name, help, count): &CookieRow| Family::counter_named(name, help).with(&[], cookies(count));
    let gauges = GAUGES.iter().map(gauge).chain(EDIT_GAUGES.iter().map(edit_gauge));
    let lost =
        Family::counter("lb_conntrack_events_lost_total", "Events of connections that readers did not get.")
            .with(&[], control.flow_events().lost.get());
    let counters = COUNTERS
        .iter()
        .map(counter)
        .chain(EDIT_COUNTERS.iter().map(edit_counter))
        .chain(COOKIE_COUNTERS.iter().map(cookie_counter));
    gauges.chain(counters).chain([expectations(control), lost]).collect()
}
