//! Room for new connections: when there is none, one goes that nothing is lost with, as in the kernel's conntrack (`early_drop` of `nf_conntrack_core.c`).
//!
//! Of no virtual service: one that is not assured, or about to end. Of a virtual service: one of TCP or SCTP whose ends have not agreed yet, or that is over. Its real
//! server may have answered a datagram or not, which nobody writes down: UDP stays. So does a client that has acknowledged a SYN cookie. A persistence template goes that has no
//! connection and had none that was answered, as with the kernel's `drop_entry` since 4.19: a flood of SYNs leaves nothing else.

use super::Path;
use crate::conntrack;
use crate::flow::edit::Edit;
use crate::flow::template::{ASSURED, INVALID, Uses};
use crate::flow::{Entry, FlowId, NewFlow};
use crate::ids::WorkerId;
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
        let places = self.flows.places();
        let from = if self.early_cursor < places { self.early_cursor } else { 0 };
        // Behind the last place comes the first.
        let again = (from.saturating_add(PLACES)).saturating_sub(places).min(from);
        self.early_cursor = if again > 0 { again } else { from.saturating_add(PLACES) };
        let behind = self.flows.iter(from, from.saturating_add(PLACES));
        let found = behind.chain(self.flows.iter(0, again)).find(|&(id, entry)| {
            // Another worker's connection may have come to a template meanwhile.
            self.may_go(id, entry, whose) && (!entry.is_template() || self.uses.end(self.worker, id.0))
        });
        let Some(id) = found.map(|(id, _)| id) else { return false };
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
        if entry.is_template() {
            return whose != Whose::Tracked && is_idle_template(&self.uses, self.worker, id, entry);
        }
        whose != Whose::Tracked
            && matches!(protocol, Protocol::TCP | Protocol::SCTP)
            && (!state::was_established(protocol, state) || state::is_over(protocol, state))
            && !self.flows.edit(id).is_some_and(Edit::is_proxied)
    }
}

/// Whether nobody is served by a template of this worker's.
pub(super) fn is_idle_template(uses: &Uses, worker: WorkerId, id: FlowId, entry: &Entry) -> bool {
    // Those that were told of, or left by the process before, are assured by their state. What binds no more stays for its time.
    entry.state() & (ASSURED | INVALID) == 0 && uses.is_idle(worker, id.0)
}
