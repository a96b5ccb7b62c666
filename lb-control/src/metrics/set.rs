//! `lb_set_*`: the IP sets.

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
    vec![entries, references, memory]
}
