//! Whether a store agrees with itself. For tests; slow.

use super::Store;
use crate::flow::entry::{Entry, FlowRef};
use crate::flow::header::Header;

impl Store {
    /// See [`FlowTable::check`](crate::flow::FlowTable::check).
    pub(in crate::flow) fn check(&self) -> Result<(), String> {
        let Header { sizes, entries, addresses, edits, counts } = self.header[0];
        let mut is_free = vec![false; self.entries.len()];
        entries
            .check(sizes.max_connections, &mut is_free, |place| self.entries[place as usize].next_free())?;
        let mut is_free_address = vec![false; self.addresses.len()];
        addresses.check(sizes.max_ipv6, &mut is_free_address, |place| self.next_addresses[place as usize])?;
        let mut is_free_edit = vec![false; self.edits.len()];
        edits.check(sizes.max_edits(), &mut is_free_edit, |place| self.edits[place as usize].more)?;
        let mut is_free_count = vec![false; self.accounting.len()];
        let next_count = |place| self.accounting[place as usize].next_free();
        counts.check(self.accounting.len() as u32, &mut is_free_count, next_count)?;
        for (id, _) in self.iter(0, u32::MAX).filter(|&(id, _)| self.is_counted(id)) {
            if std::mem::replace(&mut is_free_count[self.counted_at[id.0 as usize] as usize], true) {
                return Err(format!("the counts of {} are free, or another connection's", id.0));
            }
        }
        if is_free_count.contains(&false) {
            return Err("counts are no connection's".to_owned());
        }
        self.check_labels()?;
        for (place, (entry, &is_free)) in self.entries.iter().zip(&is_free).enumerate() {
            if entry.is_in_use() == is_free {
                return Err(format!("entry {place}: free={is_free}"));
            }
            if entry.is_edited() {
                let edit = self.more[place] as usize;
                let is_its_own = self.edits.get(edit).is_some_and(|edit| edit.flow as usize == place);
                if !is_its_own || std::mem::replace(&mut is_free_edit[edit], true) {
                    return Err(format!("edit {edit} is free, or another connection's than {place}"));
                }
            }
            if !is_free && (entry.is_ipv6() || entry.addresses != Entry::NO_ADDRESSES) {
                let place = entry.addresses as usize;
                if is_free_address.get(place).is_none_or(|&is_free| is_free) {
                    return Err(format!("IPv6 addresses {place} are free, or another entry's"));
                }
                is_free_address[place] = true;
            }
        }
        if is_free_edit.contains(&false) {
            return Err("an edit is no connection's".to_owned());
        }
        if is_free_address.contains(&false) {
            return Err("IPv6 addresses are in use by no entry".to_owned());
        }
        if self.iter(0, u32::MAX).filter(|(_, entry)| entry.is_zoned()).count() != self.zoned as usize {
            return Err(format!("{} connections are in zones, it says", self.zoned));
        }
        let mut references = 0;
        for (id, entry) in self.iter(0, u32::MAX) {
            for &direction in entry.indexed() {
                references += 1;
                let zone = self.zones(id).of(direction);
                if self.find_by(&self.tuple(id, direction), zone) != Some(FlowRef::new(id, direction)) {
                    return Err(format!("entry {}: not found by its {direction:?} tuple", id.0));
                }
            }
        }
        self.index.check(references, |at| self.beside().hash_of(at))
    }
}
