//! Which worker has a connection whose answers come to another one.
//!
//! A FullNAT connection is its client's owner's, and the local port leads its answers there, because its owner has chosen that port
//! ([`full_nat`](super::full_nat)). Of one that another director began, and told of, that one has: its hashes have another seed, and it may have
//! more workers, or fewer. Then the worker that the port leads to is told as well. It keeps the answers' tuple and the client's, under a protocol
//! number that no packet has, hands answers and ICMP errors about them over, and gives the local endpoint to nobody else.
//!
//! A signpost is no connection: it is neither listed nor told of, and stays until no answer has come for as long as the connection may rest.

use super::{Io, Path, Taken};
use crate::conntrack::Zones;
use crate::flow::template::signpost;
use crate::flow::{Direction, FlowRef, Method, NewFlow, Store, Tuple};
use crate::ids::{ServerId, WorkerId};
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::time::{Tick, Timeout};
use crate::wire::parse::{Fragment, Headers};

/// Where it is kept who has the connection that such a packet answers.
pub(super) fn find(flows: &Store, answer: &Tuple) -> Option<FlowRef> {
    flows.find(&under(signpost(answer.protocol)?, answer)).filter(|at| at.direction() == Direction::Original)
}

fn under(number: Protocol, tuple: &Tuple) -> Tuple {
    Tuple { protocol: number, ..*tuple }
}

impl<P: Packet> Path<P> {
    /// Another worker has the connection that begins with `original`, and what answers it as `answer` comes here.
    pub(super) fn point(&mut self, original: &Tuple, answer: &Tuple, timeout: Timeout, now: Tick) -> Taken {
        let Some(number) = signpost(answer.protocol) else { return Taken::Unsound };
        if self.flows.find(answer).is_some() {
            // A connection of ours is from this local endpoint.
            return Taken::Ignored;
        }
        let (answer, original) = (under(number, answer), under(number, original));
        if let Some(at) = self.flows.find(&answer)
            && self.flows.tuple(at.id(), at.direction().opposite()) == original
        {
            self.flows.entry_mut(at.id()).touch(now);
            self.flows.set_timeout(at.id(), timeout);
            return Taken::Updated;
        }
        let is_of_one_family = original.dst.is_ipv6() == answer.dst.is_ipv6();
        let new = NewFlow {
            original: answer,
            reply: original,
            method: if is_of_one_family { Method::Masq } else { Method::Translated },
            deltas: Default::default(),
            server: ServerId::NONE,
            state: 0,
            timeout,
            now,
            zones: Zones::NONE,
        };
        if self.insert(&new).is_none() {
            return Taken::NoRoom;
        }
        self.local_ports.has_signposts = true;
        Taken::New
    }

    /// The worker that has the connection which such a packet answers.
    #[cold]
    pub(super) fn pointed(&mut self, answer: &Tuple, now: Tick) -> Option<WorkerId> {
        let at = find(&self.flows, answer)?;
        self.flows.entry_mut(at.id()).touch(now);
        let original = self.flows.tuple(at.id(), Direction::Reply);
        Some(self.owner_of(original.src, original.sport))
    }

    /// A packet at the worker that has its connection, as another one says.
    #[cold]
    pub(super) fn pointed_to(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let tuple = Tuple::of_packet(packet.data(), headers);
        if let Some(at) = self.flows.find(&tuple) {
            self.mine.flows.found.add(1);
            return self.begun(packet, headers, at, now, io);
        }
        // It is over.
        if headers.fragment == Fragment::Later {
            self.lost_fragment(packet, headers, now, io);
        } else if self.tables.rules.are_active() {
            self.first_here(packet, headers, now, io);
        } else {
            self.unexpected(packet, headers, &tuple, now, io);
        }
    }
}
