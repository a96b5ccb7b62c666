//! `lb_nflog_*`: copies of packets that NFLOG rules want kept.

use lb_core::rule::capture::Captures;

use super::Family;
use crate::daemon::Control;

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let Some((captures, ..)) = control.captures() else { return Vec::new() };
    let Captures { lost, written, unwritten, .. } = &*captures;
    let help =
        "Packets of NFLOG rules that are in no file: no room in the queue, or the file could not be written.";
    let mut missing = Family::counter("lb_nflog_lost_total", help);
    missing.add(&[("reason", "queue_full")], lost.get());
    missing.add(&[("reason", "file")], unwritten.get());
    let help = "Packets of NFLOG rules that were written to files.";
    vec![Family::counter("lb_nflog_packets_total", help).with(&[], written.get()), missing]
}
