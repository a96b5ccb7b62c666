//! Room for new connections: when there is none, one of no virtual service goes that nothing is lost with, as in the kernel (`early_drop` of
//! `nf_conntrack_core.c`).

use super::Path;
use crate::conntrack::may_be_dropped_early;
use crate::packet::Packet;

/// Places of the table that are looked at for one new connection.
const PLACES: u32 = 64;

impl<P: Packet> Path<P> {
    /// Whether `nf_conntrack_max` allows one more connection of no virtual service, or one went for it. Each worker has its share.
    pub(super) fn has_room_for_tracked(&mut self) -> bool {
        let max = self.tables.settings.sysctls.conntrack.max;
        let share = u64::from(max).div_ceil(self.counters.len() as u64);
        max == 0 || self.mine.flows.tracked.get() < share || self.drop_early()
    }

    /// Ends a connection of no virtual service that is not assured, or about to end. False: there is none in the next few places.
    #[cold]
    pub(super) fn drop_early(&mut self) -> bool {
        if self.mine.flows.tracked.get() == 0 {
            return false;
        }
        let from = if self.early_cursor < self.flows.places() { self.early_cursor } else { 0 };
        self.early_cursor = from.saturating_add(PLACES);
        let flows = &self.flows;
        let found = flows.iter(from, self.early_cursor).find(|&(id, entry)| {
            entry.is_tracked()
                && may_be_dropped_early(entry.protocol(), entry.state(), flows.tracked(id).status)
        });
        let Some((id, _)) = found else { return false };
        self.early_cursor = id.0 + 1;
        self.mine.flows.early_drop.add(1);
        self.end(id);
        true
    }
}
