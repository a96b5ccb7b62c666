//! AH and ESP: packets without ports, which belong to the connection that negotiated them.
//!
//! That is the ISAKMP exchange between the same two addresses, UDP port 500 at both ends (RFC 2408 §2.5.1): who schedules it schedules
//! what it protects. Such packets never begin a connection, tell no state, keep their connection alive, and of them the
//! addresses alone are rewritten, as in the kernel's IPVS. Behind a masquerading director AH, which covers the addresses, is wrong at
//! its receiver; ESP in tunnel mode is not.

use std::net::IpAddr;

use super::{Io, Path};
use crate::drop::DropReason;
use crate::flow::Tuple;
use crate::hook::Hook;
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
        match self.flows.find(&exchange(headers.source(frame), headers.destination(frame))) {
            // Its answer would come to one of our addresses, with no port to tell connections apart.
            Some(at) if self.flows.is_full_nat(at.id()) => {
                self.drop(DropReason::Unsupported, Hook::Postrouting);
            }
            Some(at) => {
                self.mine.flows.found.add(1);
                self.begun(packet, headers, at, now, io);
            }
            None => self.route(packet, headers, now, io),
        }
    }
}
