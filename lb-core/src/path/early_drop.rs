//! Room for new connections: when there is none, one goes that nothing is lost with, as in the kernel's conntrack (`early_drop` of `nf_conntrack_core.c`).
//!
//! Of no virtual service: one that is not assured, or about to end. Of a virtual service: one of TCP or SCTP whose ends have not agreed yet, or that is over. Its real
//! server may have answered a datagram or not, which nobody writes down: UDP stays. So does a client that has acknowledged a SYN cookie.

use super::Path;
use crate::conntrack;
use crate::flow::edit::Edit;
use crate::flow::{Entry, FlowId, NewFlow};
use crate::ipvs::state;
use crate::packet::Packet;
use crate::tables::Protocol;

/// Places of the table that are looked at for one new connection.
const PLACES: u32 = 64;

/// Who may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    /// Those of no virtual service.
    Tracked,
    All,
    /// Those that have one of the places for IPv6 addresses.
    WithAddresses,
}

impl<P: Packet> Path<P> {
    /// Whether `nf_conntrack_max` allows one more connection of no virtual service, or one went for it. Each worker has its share.
    pub(super) fn has_room_for_tracked(&mut self) -> bool {
        let max = self.tables.settings.sysctls.conntrack.max;
        let share = u64::from(max).div_ceil(self.counters.len() as u64);
        let tracked = self.mine.flows.tracked.get();
        max == 0 || tracked < share || tracked > 0 && self.drop_one(Whose::Tracked)
    }

    /// Ends a connection whose place `new` can have. False: there is none in the next few places.
    #[cold]
    pub(super) fn drop_early(&mut self, new: &NewFlow) -> bool {
        let needs_addresses = new.original.dst.is_ipv6() || new.reply.src.is_ipv6();
        let has_addresses = u64::from(self.flows.len().1) < self.mine.flows.ipv6_capacity.get();
        self.drop_one(if needs_addresses && !has_addresses { Whose::WithAddresses } else { Whose::All })
    }

    #[cold]
    fn drop_one(&mut self, whose: Whose) -> bool {
        let from = if self.early_cursor < self.flows.places() { self.early_cursor } else { 0 };
        self.early_cursor = from.saturating_add(PLACES);
        let found =
            self.flows.iter(from, self.early_cursor).find(|&(id, entry)| self.may_go(id, entry, whose));
        let Some((id, _)) = found else { return false };
        self.early_cursor = id.0 + 1;
        self.mine.flows.early_drop.add(1);
        self.end(id);
        true
    }

    fn may_go(&self, id: FlowId, entry: &Entry, whose: Whose) -> bool {
        let (protocol, state) = (entry.protocol(), entry.state());
        if whose == Whose::WithAddresses && !entry.has_addresses() {
            return false;
        }
        if entry.is_tracked() {
            return conntrack::may_be_dropped_early(protocol, state, self.flows.tracked(id).status);
        }
        whose != Whose::Tracked
            && !entry.is_template()
            && matches!(protocol, Protocol::TCP | Protocol::SCTP)
            && (!state::was_established(protocol, state) || state::is_over(protocol, state))
            && !self.flows.edit(id).is_some_and(Edit::is_proxied)
    }
}
