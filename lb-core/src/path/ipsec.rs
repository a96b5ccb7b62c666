//! AH and ESP: packets without ports, which belong to the connection that negotiated them.
//!
//! That is the ISAKMP exchange between the same two addresses, UDP port 500 at both ends (RFC 2408 §2.5.1): who schedules it schedules
//! what it protects. Such packets never begin a connection, tell no state, keep their connection alive, and of them the
//! addresses alone are rewritten, as in the kernel's IPVS. Behind a masquerading director AH, which covers the addresses, is wrong at
//! its receiver; ESP in tunnel mode is not. What no virtual service's exchange has goes where rules send it, as any packet does,
//! and is of a connection of its own.

use std::net::IpAddr;

use super::fragment::ports;
use super::tracked::tuple_of;
use super::{Io, Path, Steer};
use crate::drop::DropReason;
use crate::flow::Tuple;
use crate::hook::Hook;
use crate::ids::ServerId;
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::time::Tick;
use crate::wire::parse::Headers;

pub(super) const ISAKMP: u16 = 500;

pub(super) const fn is_ipsec(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::AH | Protocol::ESP)
}

/// A packet of the exchange that goes the same way as an AH or ESP packet from `src` to `dst`.
pub(super) fn exchange(src: IpAddr, dst: IpAddr) -> Tuple {
    Tuple { src, dst, sport: ISAKMP, dport: ISAKMP, protocol: Protocol::UDP }
}

impl<P: Packet> Path<P> {
    /// Any AH or ESP packet, fragments as they come: the addresses are in each.
    #[cold]
    pub(super) fn ipsec(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let frame = packet.data();
        let at = self.flows.find(&exchange(headers.source(frame), headers.destination(frame)));
        match at.filter(|at| self.flows.entry(at.id()).server() != ServerId::NONE) {
            // Its answer would come to one of our addresses, with no port to tell connections apart.
            Some(at) if self.flows.is_full_nat(at.id()) => {
                self.drop(DropReason::Unsupported, Hook::Postrouting);
            }
            Some(at) => {
                self.mine.flows.found.add(1);
                self.begun(packet, headers, at, now, io);
            }
            None => self.unscheduled_ipsec(packet, headers, now, io),
        }
    }

    /// The worker that would have the exchange has it sought from worker to worker, as its connection's owner would.
    fn unscheduled_ipsec(&mut self, packet: P, headers: &Headers, now: Tick, io: &mut impl Io<P>) {
        let is_tracked = self.tables.rules.are_active() && !self.zones_matter();
        let Some(tuple) = tuple_of(packet.data(), headers).filter(|_| is_tracked) else {
            return self.other(packet, headers, now, io);
        };
        let owner = self.owner_of_flow(&tuple);
        if owner == self.worker {
            return self.other(packet, headers, now, io);
        }
        match self.asked_after(owner, &tuple) {
            Some(next) if next == self.worker => self.sought(packet, headers, now, io),
            Some(next) => io.hand_over(next, packet, Steer::Elsewhere(ports(headers), None)),
            None => io.hand_over(owner, packet, Steer::Nowhere(ports(headers), None)),
        }
    }
}
