//! `lb_sync_*`: connections shared with other directors.

use std::sync::atomic::Ordering::Relaxed;

use lb_core::counters::FlowCounters;

use super::Family;
use crate::daemon::Control;

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let (_, state) = control.sync();
    let count = &state.counters;
    let of_workers = |count: fn(&FlowCounters) -> u64| {
        control.plane().counters().iter().map(|worker| count(&worker.flows)).sum()
    };
    let both = |name, help, sent: u64, received: u64| {
        Family::counter(name, help)
            .with(&[("direction", "sent")], sent)
            .with(&[("direction", "received")], received)
    };
    let mut refused = Family::counter(
        "lb_sync_refused_total",
        "What other directors said and was not taken over: messages (malformed, other_syncid), connections (others).",
    );
    for (reason, value) in [
        ("malformed", &count.malformed),
        ("other_syncid", &count.other_syncid),
        ("no_server", &count.no_server),
        ("unknown", &count.unknown),
        ("no_room", &count.no_room),
    ] {
        refused.add(&[("reason", reason)], value.load(Relaxed));
    }
    let mut up = Family::gauge("lb_sync_up", "Whether the sync daemon of this role hears and is heard.");
    for daemon in control.model().sync_daemons() {
        up.add(&[("role", daemon.role.name())], state.problem(daemon.role).is_none().into());
    }
    vec![
        up,
        both(
            "lb_sync_messages_total",
            "Messages to and from other directors.",
            count.messages_sent.load(Relaxed),
            count.messages_received.load(Relaxed),
        ),
        both(
            "lb_sync_connections_total",
            "Connections in these messages, each as often as it was told of.",
            count.connections_sent.load(Relaxed),
            count.connections_received.load(Relaxed),
        ),
        both(
            "lb_sync_asked_total",
            "Times that all connections were sent, and that this director asked for them.",
            count.answered.load(Relaxed),
            count.asked.load(Relaxed),
        ),
        Family::counter("lb_sync_send_errors_total", "Messages that could not be sent.")
            .with(&[], count.send_errors.load(Relaxed)),
        refused,
        Family::counter(
            "lb_sync_taken_over_total",
            "Connections that are here because another director told of them.",
        )
        .with(&[], of_workers(|flows| flows.taken_over.get())),
        Family::counter(
            "lb_sync_changes_untold_total",
            "Changes of connections that a walk will tell of because there were too many at once.",
        )
        .with(&[], of_workers(|flows| flows.changes_untold.get())),
    ]
}
