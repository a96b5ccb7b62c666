//! What is done to connections from outside: they are ended, or something that tracking knows of them is set.

use super::Path;
use crate::conntrack::{Status, Told, Zones};
use crate::flow::{Direction, FlowId, Tuple};
use crate::packet::Packet;
use crate::time::{Tick, Timeout};

/// What is to be done to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    End,
    Change(Change),
}

/// That, and the zones that the connection is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Order {
    pub zones: Zones,
    pub deed: Deed,
}

impl Order {
    /// To a connection that is in no zone.
    pub const fn plain(deed: Deed) -> Order {
        Order { zones: Zones::NONE, deed }
    }
}

/// What is set; what is not given stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Change {
    pub mark: Option<u32>,
    /// From now on; its next packet may give it another one.
    pub timeout: Option<Timeout>,
    /// Bits that are set. None is taken away.
    pub status: Status,
}

impl<P: Packet> Path<P> {
    /// Does it to the connection whose client's packets have this tuple. Returns whether there was one.
    pub fn order(&mut self, original: &Tuple, order: &Order, now: Tick) -> bool {
        let zone = order.zones.of(Direction::Original);
        let found = self.flows.find_by(original, zone).filter(|at| at.direction() == Direction::Original);
        let Some(at) = found else { return false };
        match &order.deed {
            Deed::End => self.end(at.id()),
            Deed::Change(change) => self.change(at.id(), change, now),
        }
        true
    }

    fn change(&mut self, id: FlowId, change: &Change, now: Tick) {
        let Change { mark, timeout, status } = *change;
        if mark.is_some() || status != Status::NONE {
            let tracked = self.flows.tracked_mut(id);
            tracked.mark = mark.unwrap_or(tracked.mark);
            tracked.status.set(status);
        }
        if let Some(timeout) = timeout {
            self.flows.entry_mut(id).touch(now);
            self.flows.set_timeout(id, timeout);
        }
        self.tell(Told::FROM_OUTSIDE, id);
    }
}
