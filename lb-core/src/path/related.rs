//! ICMP errors about a connection's packets: translated and sent on to the end that sent them (RFC 5508 §4).

use super::established::count;
use super::rewrite;
use super::{Io, Path};
use crate::drop::DropReason;
use crate::flow::{Direction, Tuple};
use crate::hook::Hook;
use crate::icmp::{self, Embedded, End};
use crate::packet::Packet;
use crate::tables::Way;
use crate::time::Tick;
use crate::wire::parse::Headers;

impl<P: Packet> Path<P> {
    #[cold]
    pub(super) fn related(&mut self, mut packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let embedded = match icmp::embedded(packet.data(), headers) {
            Ok(embedded) => embedded,
            // Of no connection that could be told: a router passes it on.
            Err(DropReason::BadIcmpPayload) => return self.route(packet, headers, now, io),
            Err(reason) => return self.drop(reason, Hook::Prerouting),
        };
        // The embedded packet left here; what answers it is a packet of the connection that goes as the error goes.
        let Some(at) = self.flows.find(&answer_to(&embedded)) else {
            return self.route(packet, headers, now, io);
        };
        if self.flows.entry(at.id()).generation() != self.tables.generation {
            self.renew(at.id(), headers.is_ipv6);
        }
        let entry = self.flows.entry(at.id());
        if entry.is_bypassed() {
            return self.route(packet, headers, now, io);
        }
        if entry.is_server_removed() && at.direction() == Direction::Original {
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        }
        // As the embedded packet was when its sender sent it.
        let inner = self.flows.tuple(at.id(), at.direction().opposite());
        let (end, address, port, destination) = match at.direction() {
            Direction::Original => (End::Destination, inner.src, inner.sport, inner.src),
            Direction::Reply => (End::Source, inner.dst, inner.dport, headers.destination(packet.data())),
        };
        match self.check(headers, destination) {
            Ok(Way::Local | Way::Linux) => return self.drop(DropReason::Unsupported, Hook::Postrouting),
            Ok(_) => {}
            Err(refusal) => return self.refuse(packet, headers, refusal, now, io),
        }
        count(self.mine.server(entry.server()), at.direction(), headers);
        if let Err(reason) = icmp::translate(packet.data_mut(), headers, &embedded, end, address, port) {
            return self.drop(reason, Hook::Prerouting);
        }
        rewrite::decrement_ttl(packet.data_mut(), headers);
        self.leave(packet, headers, destination, None, now, io);
    }
}

/// What a packet looks like that answers the embedded one.
pub(super) fn answer_to(embedded: &Embedded) -> Tuple {
    Tuple {
        src: embedded.dst,
        dst: embedded.src,
        sport: embedded.dport,
        dport: embedded.sport,
        protocol: embedded.protocol,
    }
}
