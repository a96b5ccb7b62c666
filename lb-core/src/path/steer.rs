//! Steering: which worker owns a packet's flow, and fragments brought to it.
//!
//! The client's endpoint, the *outside* one, stands in both directions of a connection: as source on the way in, as
//! destination on the way back. The owner follows from it ([`super::Owners`]), so that both directions come to the same worker whichever
//! queue the port put them in. Behind FullNAT the answers do not name it: the local endpoint tells whose they are.
//!
//! A connection begins at its owner, so that whose a packet is need not be asked where its connection is: a packet whose connection is here stays.
//! The owner is asked for when there is none ([`Path::newcomer`]), of what can be of none, and once of each connection that was here before
//! the tables changed ([`Path::is_ours`]), by which another end may be the outside one
//! ([0042](../../../docs/decisions/0042-owners-are-asked-for-late.md)).
//!
//! Fragments first go to the worker that a hash of their datagram names, which knows the ports from the first one and takes them on to the owner.

use std::net::IpAddr;

use super::fragment::ports;
use super::ipsec::ISAKMP;
use super::on_link::is_on_link;
use super::owners::number;
use super::related::{Search, answer_to};
use super::tracked::tuple_of;
use super::{Burst, Io, Kind, Path, Ports, Seen, Sight, Steer};
use crate::flow::{Direction, FlowId, FlowRef, Tuple};
use crate::icmp;
use crate::ids::WorkerId;
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};

impl<P: Packet> Path<P> {
    /// Takes fragments out of the burst that come together at another worker, and those that must wait.
    #[inline(never)]
    pub(super) fn gather_fragments(
        &mut self,
        burst: &mut Burst<P>,
        all: &mut Sight,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let Some(first) = all[..burst.len()].iter().position(|seen| self.is_gathered(seen)) else { return };
        let rest: Burst<P> = burst.drain(first..).collect();
        for (packet, place) in rest.into_iter().zip(first..) {
            let seen = all[place];
            let stays = if self.is_gathered(&seen) {
                let gatherer = self.gatherer(&packet, &seen.headers);
                let packet = self.stay_or_go(packet, gatherer, Steer::Plain, io);
                packet.and_then(|packet| self.gathered(packet, seen, now, io))
            } else {
                Some((packet, seen))
            };
            if let Some((packet, seen)) = stays {
                all[burst.len()] = seen;
                burst.push(packet);
            }
        }
    }

    /// Whether a connection that is here is this worker's, so that a packet of it stays. Under the tables that it was last used with it was.
    pub(super) fn is_ours(&self, at: FlowRef) -> bool {
        self.is_current(at) || self.leads_here(at.id())
    }

    /// Whether packets of one of its directions lead here, whatever those of the other do.
    #[cold]
    fn leads_here(&self, id: FlowId) -> bool {
        let leads_here = |direction| self.owner_of_flow(&self.flows.tuple(id, direction)) == self.worker;
        self.counters.len() == 1 || leads_here(Direction::Original) || leads_here(Direction::Reply)
    }

    /// Packets that another worker handed over: plain ones are as if a port had brought them, also because its tables may be others than ours, so
    /// that it did not know which end is outside. Fragments without their ports are gathered here.
    pub(super) fn join_handed_over(
        &mut self,
        burst: &mut Burst<P>,
        all: &mut Sight,
        steers: &[Steer],
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        let mut all_steers = steers.iter().zip(all.iter());
        let first = all_steers.position(|(steer, seen)| *steer != Steer::Plain || self.is_gathered(seen));
        let Some(first) = first else { return };
        let rest: Burst<P> = burst.drain(first..).collect();
        for ((packet, place), steer) in rest.into_iter().zip(first..).zip(&steers[first..]) {
            let mut seen = all[place];
            let stays = match *steer {
                Steer::Ask(ports, passed) if self.is_flow_with(&mut seen, &packet, ports) => {
                    self.with_passed(passed, |path| path.asked(packet, &seen.headers, now, io));
                    None
                }
                Steer::Answer(ports, passed, held) if self.is_flow_with(&mut seen, &packet, ports) => {
                    self.with_passed(passed, |path| path.answered(packet, &seen.headers, held, now, io));
                    None
                }
                Steer::Announce(expect) if seen.kind == Kind::Flow => {
                    self.announced(packet, &seen.headers, expect, now, io);
                    None
                }
                Steer::Announced(port) if seen.kind == Kind::Flow => {
                    self.announced_elsewhere(packet, &seen.headers, port, now, io);
                    None
                }
                Steer::AskExpected if seen.kind == Kind::Flow => {
                    self.asked_expected(packet, &seen.headers, io);
                    None
                }
                Steer::Expected(found) if seen.kind == Kind::Flow => {
                    self.answered_expected(packet, &seen.headers, found, now, io);
                    None
                }
                Steer::Elsewhere(..) if seen.kind == Kind::IcmpError => {
                    self.sought_related(packet, &seen.headers, now, io);
                    None
                }
                Steer::Nowhere(..) if seen.kind == Kind::IcmpError => {
                    self.related_here(packet, &seen.headers, Search::Over, now, io);
                    None
                }
                Steer::Elsewhere(ports, raw) if self.tables.rules.are_active() => {
                    self.is_flow_with(&mut seen, &packet, ports);
                    match raw {
                        None => self.sought(packet, &seen.headers, now, io),
                        Some(raw) => self.sought_in_zone(packet, &seen.headers, raw, false, now, io),
                    }
                    None
                }
                Steer::Nowhere(ports, raw) if self.tables.rules.are_active() => {
                    self.is_flow_with(&mut seen, &packet, ports);
                    match raw {
                        None => self.found_nowhere(packet, &seen.headers, now, io),
                        Some(raw) => self.sought_in_zone(packet, &seen.headers, raw, true, now, io),
                    }
                    None
                }
                Steer::Brought(ports, passed) if self.is_flow_with(&mut seen, &packet, ports) => {
                    self.brought(packet, &seen.headers, passed, now, io);
                    None
                }
                Steer::Pointed(_) if seen.kind == Kind::IcmpError => {
                    self.related_here(packet, &seen.headers, Search::Over, now, io);
                    None
                }
                Steer::Pointed(ports) if self.is_flow_with(&mut seen, &packet, ports) => {
                    self.pointed_to(packet, &seen.headers, now, io);
                    None
                }
                Steer::FromHost(port) => {
                    self.begun_by_host(port, packet, now, io);
                    None
                }
                Steer::FromHostElsewhere(port, raw) => {
                    self.sought_of_host(port, packet, raw, now, io);
                    None
                }
                Steer::Quoted(about, search) if self.is_gathered(&seen) => {
                    self.related_piece_elsewhere(packet, &seen.headers, (about, search), now, io);
                    None
                }
                Steer::Fragment(ports) if self.is_gathered(&seen) => {
                    self.join_fragment(&mut seen, packet.data(), ports);
                    self.to_owner(packet, seen, now, io)
                }
                // Also a fragment that these tables drop and the other worker's did not.
                _ if !self.is_gathered(&seen) => Some((packet, seen)),
                _ => self.gathered(packet, seen, now, io),
            };
            if let Some((packet, seen)) = stays {
                all[burst.len()] = seen;
                burst.push(packet);
            }
        }
    }

    /// A fragment at the worker that gathers its datagram: it stays if it can be told whose it is and that is here.
    pub(super) fn gathered(
        &mut self,
        packet: P,
        seen: Seen,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<(P, Seen)> {
        let (packet, seen) = self.gather(packet, seen, now)?;
        self.to_owner(packet, seen, now, io)
    }

    /// A fragment whose ports are known goes to its flow's owner, if that is not here.
    pub(super) fn to_owner(
        &self,
        packet: P,
        seen: Seen,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<(P, Seen)> {
        let (owner, steer) = match self.owner_of_quote(packet.data(), &seen, now) {
            Some(of_quote) => of_quote,
            None => (self.owner(&packet, &seen), Steer::Fragment(ports(&seen.headers))),
        };
        self.stay_or_go(packet, owner, steer, io).map(|packet| (packet, seen))
    }

    /// A packet that can be of no TCP, UDP or SCTP connection goes to its owner, if that is not here.
    pub(super) fn steer_other(&self, packet: P, seen: &Seen, io: &mut impl Io<P>) -> Option<P> {
        let owner = self.owner(&packet, seen);
        self.stay_or_go(packet, owner, Steer::Plain, io)
    }

    /// A packet of no such connection here goes to its owner, and from there to where its connection is, if it is known at another worker. A fragment was
    /// taken to its owner before.
    #[inline(always)]
    pub(super) fn steer_first(
        &mut self,
        packet: P,
        headers: &Headers,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<P> {
        if self.counters.len() == 1 { Some(packet) } else { self.steer_to_owner(packet, headers, now, io) }
    }

    #[inline(never)]
    fn steer_to_owner(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) -> Option<P> {
        let packet = self.stay_or_go_to_owner(packet, headers, io)?;
        self.follow_signpost(packet, headers, now, io)
    }

    #[inline(always)]
    fn stay_or_go_to_owner(&self, packet: P, headers: &Headers, io: &mut impl Io<P>) -> Option<P> {
        let owner = self.owner_of_packet(&packet, headers);
        if owner == self.worker {
            return Some(packet);
        }
        io.give(owner, packet);
        None
    }

    /// A packet at its owner goes on to the worker that has its connection, if that is known to be another one.
    fn follow_signpost(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) -> Option<P> {
        if self.local_ports.has_signposts
            && let Some(there) = self.pointed(&Tuple::of_packet(packet.data(), headers), now)
        {
            io.hand_over(there, packet, Steer::Pointed(ports(headers)));
            return None;
        }
        Some(packet)
    }

    /// Of TCP, UDP or SCTP, and nothing in the index is like it: where there are other workers it is mostly one's of these.
    #[inline(always)]
    pub(super) fn is_strange(&self, seen: &Seen) -> bool {
        seen.guess == FlowRef::NONE && seen.kind == Kind::Flow && self.counters.len() > 1
    }

    /// Such a packet goes to its owner. Here, a packet of the same burst may have begun its connection.
    #[inline(never)]
    pub(super) fn stranger(&mut self, packet: P, seen: &Seen, now: Tick, io: &mut impl Io<P>) {
        let headers = &seen.headers;
        let Some(packet) = self.stay_or_go_to_owner(packet, headers, io) else { return };
        match self.find_begun(&packet, seen) {
            Some(at) if self.is_ours(at) => self.found_late(packet, headers, at, now, io),
            _ => {
                if let Some(packet) = self.follow_signpost(packet, headers, now, io) {
                    self.newcomer_at_owner(packet, headers, now, io);
                }
            }
        }
    }

    /// Whether it is a packet of a connection, or of one to be; a later fragment gets the ports that it has not.
    fn is_flow_with(&self, seen: &mut Seen, packet: &P, ports: Ports) -> bool {
        if self.is_gathered(seen) && seen.headers.fragment == Fragment::Later {
            self.join_fragment(seen, packet.data(), ports);
        }
        seen.kind == Kind::Flow
    }

    #[inline]
    fn stay_or_go(&self, packet: P, to: WorkerId, steer: Steer, io: &mut impl Io<P>) -> Option<P> {
        if to == self.worker {
            return Some(packet);
        }
        io.hand_over(to, packet, steer);
        None
    }

    /// The owner of a packet that may be of a connection of TCP, UDP or SCTP.
    #[inline(always)]
    fn owner_of_packet(&self, packet: &P, headers: &Headers) -> WorkerId {
        let &Headers { src, dst, sport, dport, is_ipv6, .. } = headers;
        if is_ipv6 || self.tables.have_local_endpoints() || self.tables.routes.have_marked() {
            return self.owner_of_flow(&Tuple::of_packet(packet.data(), headers));
        }
        // As in `owner_of_flow`.
        match self.tables.routes.is_local_ipv4(dst) {
            false => self.owners.of_ipv4(dst, dport),
            true => self.owners.of_ipv4(src, sport),
        }
    }

    /// The owner of a packet's flow; packets of no flow stay where they are.
    #[inline(never)]
    fn owner(&self, packet: &P, seen: &Seen) -> WorkerId {
        if self.counters.len() == 1 {
            return self.worker;
        }
        let (frame, headers) = (packet.data(), &seen.headers);
        let (src, dst, sport, dport, protocol) = match seen.kind {
            Kind::Flow => return self.owner_of_packet(packet, headers),
            Kind::Ipsec => {
                (headers.source(frame), headers.destination(frame), ISAKMP, ISAKMP, headers.protocol)
            }
            // One in fragments was taken to its owner before.
            Kind::IcmpError if headers.fragment != Fragment::None => return self.worker,
            Kind::IcmpError => match icmp::embedded(frame, headers) {
                Ok(embedded) => {
                    let like = match self.in_tunnel(frame, headers, &embedded) {
                        Some(inner) => answer_to(&inner).reversed(),
                        None => answer_to(&embedded),
                    };
                    // A quoted query is of a connection while there are rules alone.
                    let has_ports = like.protocol.has_ports() || self.tables.rules.are_active();
                    let (sport, dport) = if has_ports { (like.sport, like.dport) } else { (0, 0) };
                    (like.src, like.dst, sport, dport, like.protocol)
                }
                Err(_) => return self.worker,
            },
            Kind::Routed if self.tables.rules.are_active() => match tuple_of(frame, headers) {
                Some(tuple) => (tuple.src, tuple.dst, tuple.sport, tuple.dport, tuple.protocol),
                None => return self.worker,
            },
            Kind::Twin => {
                let known_by = self.known_by_for_host(packet, headers);
                return known_by.map_or(self.worker, |tuple| self.owner_of_flow(&tuple));
            }
            _ => return self.worker,
        };
        self.owner_of_flow(&Tuple { src, dst, sport, dport, protocol })
    }

    /// The owner of the flow of which such packets are.
    pub(super) fn owner_of_flow(&self, packet: &Tuple) -> WorkerId {
        // What is for an address of ours, or comes by its mark, comes from outside; all else that a connection may have goes there.
        let routes = &self.tables.routes;
        let is_by_mark = || routes.have_marked() && self.are_clients_by_mark(packet);
        if !routes.is_local(packet.dst) && !is_by_mark() {
            return if is_on_link(packet) {
                self.owner_on_link(packet)
            } else {
                self.owner_of(packet.dst, packet.dport)
            };
        }
        if self.tables.may_be_for_local_endpoint(packet) {
            return self.owners.of_local(packet.dst, packet.dport);
        }
        self.owner_of(packet.src, packet.sport)
    }

    /// The owner of the flows of an outside endpoint.
    pub(super) fn owner_of(&self, address: IpAddr, port: u16) -> WorkerId {
        self.owners.of(address, port)
    }

    /// The worker that gathers a datagram's fragments.
    fn gatherer(&self, packet: &P, headers: &Headers) -> WorkerId {
        let frame = packet.data();
        let addresses = number(headers.source(frame)) ^ number(headers.destination(frame)).rotate_left(64);
        let id = headers.fragment_id;
        self.owners.hashed(addresses, (id ^ id >> 16) as u16)
    }

    /// Whether it is a fragment that is brought together with the others of its datagram: of TCP, UDP or SCTP; of ICMP while there are rules; of
    /// IPv6 any, because a later one need not say what it is of, and with rules all that the host alone may take.
    fn is_gathered(&self, seen: &Seen) -> bool {
        let is_icmp = matches!(seen.headers.protocol, Protocol::ICMP | Protocol::ICMPV6);
        let is_followed = is_icmp && self.tables.rules.are_active();
        seen.headers.fragment != Fragment::None
            && match seen.kind {
                Kind::Flow => true,
                Kind::Routed | Kind::Ipsec => seen.headers.is_ipv6 || is_followed,
                Kind::IcmpError => is_followed,
                Kind::Twin => self.tables.rules.are_active(),
                Kind::Dropped(_) => false,
            }
    }
}
