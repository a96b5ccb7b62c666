//! What is done to connections from outside: they are begun or ended, or something that tracking knows of them is set.

use super::Path;
use crate::conntrack::{self, Accounting, Labels, Status, Told, Zones};
use crate::flow::carry::is_unicast;
use crate::flow::template::{EXPECTED, is_signpost, templated};
use crate::flow::{Direction, FlowId, FlowRef, Tuple};
use crate::nat::{Manip, Range};
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::time::{Tick, Timeout};

/// What is to be done to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    End,
    /// The tuple is that of a connection that is expected: no more.
    Forget,
    /// Its helper expects one that begins with such a packet, source port 0: from any.
    Announce(Tuple),
    Change(Change),
    /// What it has counted is 0 from here on.
    Zero,
    /// Nothing: whether there is one.
    Seek,
    /// There is to be one, of no virtual service.
    Begin(Beginning),
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

/// What came of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Outcome {
    Done,
    /// There is no such connection.
    Absent,
    /// There is one, or one whose answers look so, already; or one like it is expected.
    Exists,
    /// It would be another worker's.
    Elsewhere,
    /// There is no room, or no free port to translate to.
    Full,
    /// Its packets are a virtual service's.
    Served,
    /// No packets can have such ends, or who is to expect them has no helper.
    Impossible,
}

impl Outcome {
    pub const ALL: [Outcome; 7] = [
        Outcome::Done,
        Outcome::Absent,
        Outcome::Exists,
        Outcome::Elsewhere,
        Outcome::Full,
        Outcome::Served,
        Outcome::Impossible,
    ];
}

/// What is set; what is not given stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Change {
    pub mark: Option<u32>,
    /// From now on; its next packet may give it another one.
    pub timeout: Option<Timeout>,
    /// Bits that are set. None is taken away.
    pub status: Status,
    /// Labels that it has no more, and those that it has then.
    pub labels: [Labels; 2],
}

/// A connection that begins without a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beginning {
    /// What answers look like, before `nat`.
    pub reply: Tuple,
    /// What the destination becomes, and the source.
    pub nat: [Option<Range>; 2],
    pub state: u8,
    /// Of SCTP: what packets carry, by direction.
    pub tags: [u32; 2],
    pub status: Status,
    pub mark: u32,
    pub labels: Labels,
    pub timeout: Timeout,
}

impl<P: Packet> Path<P> {
    /// Does it to the connection whose client's packets have this tuple.
    pub fn order(&mut self, original: &Tuple, order: &Order, now: Tick) -> Outcome {
        let zone = order.zones.of(Direction::Original);
        if order.deed == Deed::Forget {
            return if self.forget_expected(original, zone) { Outcome::Done } else { Outcome::Absent };
        }
        let found = self.flows.find_by(original, zone);
        match &order.deed {
            Deed::Begin(beginning) => return self.begin_ordered(original, order.zones, beginning, now),
            Deed::Seek if found.is_some() => return Outcome::Exists,
            _ => {}
        }
        // A persistence template is no connection to whoever orders, and does not end before those that it has.
        let is_meant =
            |at: &FlowRef| at.direction() == Direction::Original && !self.flows.entry(at.id()).is_template();
        let Some(at) = found.filter(is_meant) else { return Outcome::Absent };
        match &order.deed {
            Deed::End | Deed::Forget => self.end(at.id()),
            Deed::Change(change) => return self.change(at.id(), change, now),
            Deed::Zero => {
                if self.flows.accounting(at.id()).is_some()
                    && let Some(counted) = self.flows.accounting_mut(at.id())
                {
                    *counted = Accounting::default();
                }
            }
            Deed::Announce(tuple) if !can_be(tuple) => return Outcome::Impossible,
            Deed::Announce(tuple) => return self.announce_ordered(at.id(), tuple, now),
            Deed::Seek | Deed::Begin(_) => {}
        }
        Outcome::Done
    }

    fn change(&mut self, id: FlowId, change: &Change, now: Tick) -> Outcome {
        let Change { mark, timeout, status, labels: [lost, gained] } = *change;
        let labels = self.flows.labels(id).without(lost).and(gained);
        if !self.flows.set_labels(id, labels) {
            self.mine.flows.unlabelled.add(1);
            return Outcome::Full;
        }
        self.flows.entry_mut(id).set_followed();
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
        Outcome::Done
    }

    /// Enters a connection at the worker that its packets come to.
    #[cold]
    fn begin_ordered(&mut self, original: &Tuple, zones: Zones, beginning: &Beginning, now: Tick) -> Outcome {
        let Beginning { reply, nat: [destination, source], state, tags, status, mark, labels, timeout } =
            *beginning;
        if !can_be(original) || !can_be(&reply) || original.protocol != reply.protocol {
            return Outcome::Impossible;
        }
        let owner = match self.tables.routes.is_local(original.src) {
            true => self.owner_of_host(original),
            false => self.owner_of_flow(original),
        };
        if owner != self.worker {
            return Outcome::Elsewhere;
        }
        if self.is_for_services(original, now) && self.tables.service_for(original, now).is_some() {
            return Outcome::Served;
        }
        let mut after = reply.reversed();
        for (manip, range) in [(Manip::Destination, destination), (Manip::Source, source)] {
            let Some(range) = range else { continue };
            match self.translated(&after, manip, &range, original, zones) {
                Some(translated) => after = translated,
                None => return Outcome::Full,
            }
        }
        let reply = after.reversed();
        let is_taken = |tuple, way| self.flows.find_by(tuple, zones.of(way)).is_some();
        if is_taken(original, Direction::Original) || is_taken(&reply, Direction::Reply) {
            return Outcome::Exists;
        }
        if reply == *original || !can_be(&reply) {
            return Outcome::Impossible;
        }
        if !self.flows.can_have(labels) {
            self.mine.flows.unlabelled.add(1);
            return Outcome::Full;
        }
        let mut tracked = conntrack::create(original.protocol, tags, now);
        tracked.status.set(status);
        tracked.mark = mark;
        match self.enter_tracked(*original, after, zones, tracked, (state, timeout), now) {
            Some(id) => {
                self.label(id, labels);
                self.tell(Told::NEW, id);
                Outcome::Done
            }
            None => Outcome::Full,
        }
    }
}

/// Whether packets can have such ends.
fn can_be(tuple: &Tuple) -> bool {
    let protocol = tuple.protocol;
    is_unicast(tuple.src)
        && is_unicast(tuple.dst)
        && tuple.src.is_ipv4() == tuple.dst.is_ipv4()
        && templated(protocol).is_none()
        && protocol != Protocol::ANY
        && protocol != EXPECTED
        && !is_signpost(protocol)
}
