//! What packets will need besides their connections' entries, fetched for a whole burst before the first of them is looked at: what tracking
//! knows of a connection, and large IP sets that rules ask.

use super::{Burst, Kind, Path, Seen};
use crate::flow::FlowRef;
use crate::packet::Packet;
use crate::set::Facts;

impl<P: Packet> Path<P> {
    #[inline]
    pub(super) fn fetch_ahead(&self, burst: &Burst<P>, all: &[Seen]) {
        if self.mine.flows.tracked.get() != 0 {
            self.fetch_tracked(all);
        }
        self.fetch_sets(burst, all);
    }

    #[inline(never)]
    fn fetch_tracked(&self, all: &[Seen]) {
        let is_known = |seen: &&Seen| seen.kind == Kind::Flow && seen.guess != FlowRef::NONE;
        for at in all.iter().filter(is_known).map(|seen| seen.guess) {
            // The entry is on its way, and those of all others with it.
            if self.flows.entry(at.id()).is_followed() {
                self.flows.prefetch_tracked(at.id());
            }
        }
    }

    #[inline]
    fn fetch_sets(&self, burst: &Burst<P>, all: &[Seen]) {
        if !self.tables.rules.asked().is_empty() {
            self.fetch_sets_of(burst, all);
        }
    }

    #[inline(never)]
    fn fetch_sets_of(&self, burst: &Burst<P>, all: &[Seen]) {
        // Known connections are mostly let by before a set is asked.
        let unknown = |(_, seen): &(&P, &Seen)| seen.kind == Kind::Flow && seen.guess == FlowRef::NONE;
        for (packet, Seen { headers, .. }) in burst.iter().zip(all).filter(unknown) {
            let frame = packet.data();
            let facts = Facts {
                source: headers.source(frame),
                destination: headers.destination(frame),
                protocol: headers.protocol.0,
                ports: Some((headers.sport, headers.dport)),
                mark: 0,
                in_interface: "",
                out_interface: "",
                macs: ([0; 6], [0; 6]),
                len: 0,
            };
            for asked in self.tables.rules.asked() {
                if let Some(id) = asked.id() {
                    self.tables.sets.prefetch(id, &facts, &asked.sides);
                }
            }
        }
    }
}
