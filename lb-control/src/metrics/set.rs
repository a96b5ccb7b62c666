//! `lb_set_*`: the IP sets.

use std::sync::atomic::Ordering::Relaxed;

use super::Family;
use crate::daemon::Control;

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let mut entries =
        Family::gauge("lb_set_entries", "Elements of the IP set, with those that are about to be forgotten.");
    let mut references =
        Family::gauge("lb_set_references", "How often the IP set is named: by lists and by rules.");
    let mut memory = Family::gauge("lb_set_memory_bytes", "Memory of the IP set's elements.");
    for set in control.set_views() {
        let labels = [("set", set.name.as_str()), ("type", set.kind.as_str())];
        entries = entries.with(&labels, set.entries as u64);
        references = references.with(&labels, set.references as u64);
        memory = memory.with(&labels, set.memory as u64);
    }
    let wishes = control.set_wishes();
    let later = Family::counter(
        "lb_set_later_total",
        "Changes of IP sets that workers left to the control plane, which does them some milliseconds later.",
    );
    let lost = Family::counter("lb_set_lost_total", "Changes of IP sets that found too many others waiting.");
    let later = later.with(&[], wishes.left.load(Relaxed));
    let lost = lost.with(&[], wishes.lost.load(Relaxed));
    vec![entries, references, memory, later, lost]
}
