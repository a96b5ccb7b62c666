//! What runs short: tables, rings, ports, buffers. Whatever is refused for want of room is counted by the workers; here it becomes a line of `lbctl status`, and of the log
//! when it begins and when it is over.
//!
//! An alarm is no problem: the director does what it is there for, and `/readyz` says so. It is over when nothing was refused for a minute.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use lb_core::counters::WorkerCounters;
use lb_core::drop::DropReason;
use lb_core::hook::Hook;

use crate::plane::Plane;

/// Without a refusal for so long an alarm is over.
const QUIET: Duration = Duration::from_secs(60);

/// Where it is counted how often something was refused.
enum Source {
    /// Packets that workers dropped.
    Dropped(DropReason),
    Worker(fn(&WorkerCounters) -> u64),
    /// What the ports lost.
    Received,
    Control(fn(&mut Counted) -> &mut u64),
}

/// How often something failed that the control plane counts itself: a queue of the workers to it was full, a file not written.
#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    /// Of connections that begin, change and end.
    pub(super) events: u64,
    /// Of lines that rules want logged, and of packets that they want kept.
    pub(super) lines: u64,
    pub(super) packets: u64,
    /// Of packets that rules want kept and whose file cannot be written.
    pub(super) unwritten_packets: u64,
    /// Of changes of IP sets that are left to the control plane.
    pub(super) set_changes: u64,
    /// Of files in which something outlives the process.
    pub(super) unsaved_models: u64,
    pub(super) unsaved_sets: u64,
}

struct Row {
    source: Source,
    /// What is short.
    what: &'static str,
    /// What was refused.
    refused: &'static str,
    /// What helps.
    help: &'static str,
}

const fn row(source: Source, what: &'static str, refused: &'static str, help: &'static str) -> Row {
    Row { source, what, refused, help }
}

const ROWS: &[Row] = &[
    row(
        Source::Worker(|worker| worker.flows.full.get()),
        "the flow table is full",
        "new connections dropped",
        "dataplane.max_connections, max_ipv6_connections; syn_cookies of services",
    ),
    row(
        Source::Worker(|worker| worker.flows.early_drop.get()),
        "the flow table is full",
        "half-open connections ended for new ones",
        "dataplane.max_connections, nf_conntrack_max; syn_cookies of services",
    ),
    row(
        Source::Worker(|worker| worker.flows.index_full.get()),
        "buckets of the flow table are full",
        "new connections dropped",
        "dataplane.max_connections",
    ),
    row(
        Source::Worker(|worker| worker.edits.full.get()),
        "the places for edited connections are taken",
        "new connections dropped or not edited",
        "dataplane.max_connections: a fifth of them",
    ),
    row(
        Source::Dropped(DropReason::NoLocalPort),
        "local ports of FullNAT or NAT are taken",
        "new connections dropped",
        "more local_addresses, a wider --to-source",
    ),
    row(
        Source::Worker(|worker| worker.flows.uncounted.get()),
        "the places for counted connections are taken",
        "packets not counted",
        "dataplane.max_connections: a quarter of them; nf_conntrack_acct",
    ),
    row(
        Source::Worker(|worker| worker.flows.unlabelled.get()),
        "the places for sets of labels are taken",
        "labels not set",
        "dataplane.max_connections: one set for 128 of them; fewer different labels",
    ),
    row(
        Source::Dropped(DropReason::ExpectationsFull),
        "the places for announced connections are taken",
        "packets dropped",
        "nf_conntrack_expect_max",
    ),
    row(
        Source::Dropped(DropReason::NoBuffer),
        "packet buffers are used up",
        "packets dropped",
        "dataplane.memory_mb",
    ),
    row(
        Source::Dropped(DropReason::WorkerBehind),
        "a worker is offered more than it can take",
        "packets of no known connection dropped",
        "more workers; dropping the flood before us",
    ),
    row(
        Source::Dropped(DropReason::ServiceConnLimit),
        "a virtual service has as many connections as it may have",
        "new connections dropped",
        "conn_limit of the service (lbctl services)",
    ),
    row(
        Source::Dropped(DropReason::ServiceConnRate),
        "new connections of a virtual service come faster than they may",
        "new connections dropped",
        "conn_rate of the service (lbctl services)",
    ),
    row(
        Source::Dropped(DropReason::SourceConnLimit),
        "sources have as many connections of a virtual service as they may have",
        "new connections dropped",
        "source_conn_limit, source_prefix of the service (lbctl services)",
    ),
    row(
        Source::Dropped(DropReason::SourceConnRate),
        "sources open connections of a virtual service faster than they may",
        "new connections dropped",
        "source_conn_rate, source_prefix of the service (lbctl services)",
    ),
    row(
        Source::Worker(|worker| worker.flows.unlimited.get()),
        "the places for sources of limited services are taken",
        "connections not counted, or let in at a new rate",
        "source_prefix of the service: nets, not addresses",
    ),
    row(Source::Received, "a port's receive ring is full or has no buffers", "packets lost", "more workers"),
    row(
        Source::Dropped(DropReason::TxFull),
        "a port's transmit ring is full",
        "packets dropped",
        "a faster port",
    ),
    row(
        Source::Dropped(DropReason::HandOverFull),
        "a worker's ring from the others is full",
        "packets dropped",
        "more workers; steering by the port (lbctl ports)",
    ),
    row(
        Source::Dropped(DropReason::TwinFull),
        "a twin's ring is full",
        "packets for Linux dropped",
        "fewer packets that no service takes: rules in table raw",
    ),
    row(
        Source::Dropped(DropReason::NeighbourQueueFull),
        "too many packets wait for a neighbour",
        "packets dropped",
        "neighbours that answer",
    ),
    row(
        Source::Dropped(DropReason::FragmentTableFull),
        "too many datagrams in fragments are under way",
        "fragments dropped",
        "a larger MTU at the sender",
    ),
    row(
        Source::Dropped(DropReason::CopyLost),
        "there is no room for copies (TEE)",
        "copies not sent",
        "fewer packets in the rule",
    ),
    row(
        Source::Control(|counted| &mut counted.events),
        "who reads what becomes of connections is too slow",
        "events lost",
        "fewer readers of conntrack -E, with filters",
    ),
    row(
        Source::Control(|counted| &mut counted.lines),
        "too many lines are to be logged by rules (LOG, TRACE)",
        "lines lost",
        "-m limit in the rule",
    ),
    row(
        Source::Control(|counted| &mut counted.packets),
        "too many packets are to be kept by rules (NFLOG)",
        "packets not kept",
        "-m limit or --nflog-range in the rule, a faster disk",
    ),
    row(
        Source::Control(|counted| &mut counted.unwritten_packets),
        "the files of packets that rules want kept (NFLOG) cannot be written",
        "packets not kept",
        "room in nflog.directory; the log says what is wrong",
    ),
    row(
        Source::Control(|counted| &mut counted.set_changes),
        "too many changes of IP sets by rules wait",
        "changes lost",
        "fewer packets in the rule",
    ),
    row(
        Source::Control(|counted| &mut counted.unsaved_models),
        "the model cannot be saved for the next start",
        "tries failed",
        "room in /dev/shm; the log says what is wrong",
    ),
    row(
        Source::Control(|counted| &mut counted.unsaved_sets),
        "the IP sets cannot be saved for the next start",
        "tries failed",
        "room in /dev/shm; the log says what is wrong",
    ),
];

/// One row, as it was when it was looked at last.
#[derive(Clone, Copy)]
struct Seen {
    count: u64,
    alarm: Option<Alarm>,
}

#[derive(Clone, Copy)]
struct Alarm {
    /// When it began, and what was counted before.
    since: Instant,
    before: u64,
    last: Instant,
}

pub(super) struct Alarms([Seen; ROWS.len()]);

impl Alarms {
    /// What was refused before is no alarm.
    pub(super) fn new(plane: &dyn Plane, counted: Counted) -> Alarms {
        Alarms(std::array::from_fn(|n| Seen { count: ROWS[n].count(plane, counted), alarm: None }))
    }

    /// Looks at all counters; logs each alarm once when it begins and once when it is over.
    pub(super) fn look(&mut self, plane: &dyn Plane, counted: Counted, now: Instant) {
        for (seen, row) in self.0.iter_mut().zip(ROWS) {
            let count = row.count(plane, counted);
            let before = std::mem::replace(&mut seen.count, count);
            if count > before {
                if seen.alarm.is_none() {
                    warn!(refused = count - before, help = row.help, "{}: {}", row.what, row.refused);
                }
                let alarm = seen.alarm.unwrap_or(Alarm { since: now, before, last: now });
                seen.alarm = Some(Alarm { last: now, ..alarm });
            } else if let Some(alarm) = seen.alarm.filter(|alarm| now - alarm.last >= QUIET) {
                info!(refused = count - alarm.before, "{}: {}: no more", row.what, row.refused);
                seen.alarm = None;
            }
        }
    }

    /// One line for each that is not over.
    pub(super) fn lines(&self, now: Instant) -> Vec<String> {
        let line = |(seen, row): (&Seen, &Row)| {
            let alarm = seen.alarm?;
            let (refused, seconds) = (seen.count - alarm.before, (now - alarm.since).as_secs());
            let Row { what, refused: which, help, .. } = row;
            Some(format!("{what}: {refused} {which} in {seconds} s; what helps: {help}"))
        };
        self.0.iter().zip(ROWS).filter_map(line).collect()
    }
}

impl Row {
    fn count(&self, plane: &dyn Plane, mut counted: Counted) -> u64 {
        let sum = |count: &dyn Fn(&WorkerCounters) -> u64| {
            plane.counters().iter().map(|worker| count(worker)).fold(0, u64::wrapping_add)
        };
        match self.source {
            Source::Dropped(reason) => {
                sum(&|worker| Hook::ALL.iter().map(|&hook| worker.dropped(reason, hook).get()).sum())
            }
            Source::Worker(count) => sum(&count),
            Source::Received => plane.ports().iter().map(|port| port.rx_missed).sum(),
            Source::Control(full) => *full(&mut counted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakePlane;
    use super::*;

    /// Has what a row counts be counted `times` more.
    fn refuse(plane: &FakePlane, counted: &mut Counted, row: &Row, times: u64) {
        let worker = &plane.workers[1];
        match row.source {
            Source::Dropped(reason) => worker.dropped(reason, Hook::Input).add(times),
            Source::Worker(count) => {
                let all = [
                    &worker.flows.full,
                    &worker.flows.early_drop,
                    &worker.flows.index_full,
                    &worker.edits.full,
                    &worker.flows.uncounted,
                    &worker.flows.unlabelled,
                    &worker.flows.unlimited,
                ];
                let counter = all.into_iter().find(|counter| {
                    let before = count(worker);
                    counter.add(1);
                    let is_it = count(worker) > before;
                    counter.sub(1);
                    is_it
                });
                counter.expect("one that is tried").add(times);
            }
            Source::Received => drop(plane.lost.fetch_add(times, std::sync::atomic::Ordering::Relaxed)),
            Source::Control(full) => *full(counted) += times,
        }
    }

    #[test]
    fn each_alarm_begins_with_what_is_refused_and_is_over_when_nothing_was_for_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for row in ROWS {
            let (plane, mut counted) = (FakePlane::new(2), Counted::default());
            refuse(&plane, &mut counted, row, 7);
            let mut alarms = Alarms::new(&*plane, counted);
            alarms.look(&*plane, counted, at(60));
            assert_eq!(alarms.lines(at(60)), [""; 0]);
            refuse(&plane, &mut counted, row, 2);
            alarms.look(&*plane, counted, at(100));
            refuse(&plane, &mut counted, row, 3);
            alarms.look(&*plane, counted, at(110));
            let Row { what, refused, help, .. } = row;
            let line = format!("{what}: 5 {refused} in 20 s; what helps: {help}");
            for (looked, is_on) in [(120, true), (169, true), (170, false), (200, false)] {
                alarms.look(&*plane, counted, at(looked));
                assert_eq!(
                    alarms.lines(at(120)),
                    if is_on { vec![line.clone()] } else { vec![] },
                    "{looked}"
                );
            }
            refuse(&plane, &mut counted, row, 1);
            alarms.look(&*plane, counted, at(300));
            assert_eq!(alarms.lines(at(300)).len(), 1, "it begins anew");
        }
    }

    #[test]
    fn what_is_for_want_of_room_has_a_row() {
        let is_short = |reason: &DropReason| {
            let label = reason.label();
            let is_other = [DropReason::FlowTableFull, DropReason::EditTableFull].contains(reason);
            (label.ends_with("_full") || label.ends_with("_lost")) && !is_other
        };
        for reason in DropReason::ALL.iter().filter(|reason| is_short(reason)) {
            let has = |row: &Row| matches!(row.source, Source::Dropped(of) if of == *reason);
            assert!(ROWS.iter().any(has), "{}", reason.label());
        }
    }
}
