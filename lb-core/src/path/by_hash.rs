//! Flood mode: while the flow table is short of room, nothing is entered of connections whose real server a hash alone names.
//!
//! These are of services whose scheduler keeps nothing ([`Service::picks_alike`]), to a real server whose answers go another way (direct routing, a tunnel), so that there is nothing to
//! translate. A first packet goes on as it would have; the next one is of no known connection either, is hashed again and goes the same way, in the middle of a TCP or SCTP
//! connection too: as long as such a one may rest, the service takes what no connection is known of. When there is room, it is entered by its next packet, as with `sloppy_tcp`.
//!
//! What goes by hash alone is no connection to counters, thresholds and listings; and it goes to another real server as soon as the hash names another one.
//!
//! [`Service::picks_alike`]: crate::tables::Service::picks_alike

use super::first::pick;
use super::one_packet::Choice;
use super::{Io, Path};
use crate::drop::DropReason;
use crate::flow::Tuple;
use crate::hook::Hook;
use crate::ids::ServiceId;
use crate::packet::Packet;
use crate::tables::{Forward, Protocol, Server, Service};
use crate::time::Tick;
use crate::trail::Step;
use crate::wire::parse::Headers;

impl<P: Packet> Path<P> {
    /// Says whether the table is short of room: from when less than an eighth of its places is free, until a quarter is.
    #[inline]
    pub(super) fn look_whether_short(&mut self) {
        let capacity = self.mine.flows.capacity.get();
        let free = capacity.saturating_sub(self.flows.len().0.into());
        self.is_short = free < if self.is_short { capacity / 4 } else { capacity / 8 };
    }

    /// Sends a packet to the real server that a hash has named.
    #[cold]
    pub(super) fn go_by_hash(
        &mut self,
        mut packet: P,
        headers: &Headers,
        choice: Choice,
        service: ServiceId,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if let Err(stopped) = self.pass_alone(&mut packet, headers, &choice, now) {
            return self.stop(packet, headers, stopped, None, now, io);
        }
        self.mine.service(service).count_hashed(now);
        self.go_unkept(packet, headers, &choice, now, io);
    }

    /// Whether a packet in the middle of a connection may be of one that began by hash alone.
    #[cold]
    pub(super) fn may_go_by_hash(&self, service: &Service, headers: &Headers, now: Tick) -> bool {
        let is_stream = matches!(headers.protocol, Protocol::TCP | Protocol::SCTP);
        let rest = self.tables.settings.tcp;
        is_stream && service.picks_alike() && self.mine.service(service.id).was_hashed(rest, now)
    }

    /// Enters the connection in whose middle a packet is, as one whose beginning was not seen; or sends it on by hash alone.
    #[cold]
    pub(super) fn take_up(
        &mut self,
        packet: P,
        headers: &Headers,
        (original, seen): (&Tuple, &Tuple),
        service: &Service,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let picked = pick(&mut self.schedulers, service, seen, &self.counters, &self.mine, now);
        self.watch.note(|| Step::Server(picked.map(|server| server.id)));
        let Some(&Server {
            id,
            address,
            port,
            forward: forward @ (Forward::Direct | Forward::Tunnel(_)),
            ..
        }) = picked
        else {
            return self.not_begun(packet, headers, seen, now, io);
        };
        let after = Tuple { dst: address, dport: if port == 0 { seen.dport } else { port }, ..*seen };
        let choice = Choice { original: *original, after, method: forward.method(), server: id };
        if self.is_short {
            return self.go_by_hash(packet, headers, choice, service.id, now, io);
        }
        match self.bind(original, &after, choice.method, id, now) {
            Some(at) => self.begun(packet, headers, at, now, io),
            None => self.drop(DropReason::FlowTableFull, Hook::Input),
        }
    }
}
