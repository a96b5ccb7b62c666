//! Connections that a rule masquerades ([`Status::MASQUERADED`]): they have the source that goes with the interface by which they leave. Where
//! routes lead them out of another one they end with their next packet, as answers would not come: the next but one begins another connection,
//! with another source. Where the address or the interface goes, whoever tells the workers of it has them ended.
//!
//! It is looked at once after each change of the tables. Which interface a connection left by is not kept: one whose source is an address of the
//! interface by which it leaves now, or would be its source there, is where it was.
//!
//! Source of the facts: Linux, `nf_nat_oif_changed` in `net/netfilter/nf_nat_core.c`, `nf_nat_masquerade.c`.

use super::Path;
use crate::conntrack::Status;
use crate::drop::DropReason;
use crate::flow::{Direction, FlowId, FlowRef};
use crate::hook::Hook;
use crate::packet::Packet;

impl<P: Packet> Path<P> {
    /// [Renews](Path::renew) a connection at the first packet since the tables changed. False: it leaves by another interface than its source goes with; it
    /// has ended, and the packet is dropped.
    #[cold]
    pub(super) fn goes_on(&mut self, at: FlowRef) -> bool {
        let is_masqueraded = || self.flows.tracked(at.id()).status.has(Status::MASQUERADED);
        if self.tables.rules.are_active() && is_masqueraded() && self.leaves_elsewhere(at.id()) {
            self.end(at.id());
            self.drop(DropReason::LeavesElsewhere, Hook::Postrouting);
            return false;
        }
        self.renew(at.id());
        true
    }

    fn leaves_elsewhere(&self, id: FlowId) -> bool {
        // What the host sends goes as Linux routes it.
        if self.tables.routes.is_local(self.flows.tuple(id, Direction::Original).src) {
            return false;
        }
        let leaves = self.flows.tuple(id, Direction::Reply).reversed();
        let Some(output) = self.output(self.tables.way(leaves.dst)) else { return false };
        !self.tables.interfaces.own().has(output, leaves.src)
            && self.tables.source_towards(output, leaves.dst) != Some(leaves.src)
    }
}
