//! SCTP: a connection's state by chunks, and fragments whose checksum depends on a length that they do not say.
//!
//! The checksum covers the whole packet and no address. When a port changes it changes by how long the whole is, which the last
//! fragment tells: the first one waits for it, in a bounded number, while the others go on. When no port changes nothing waits.

use super::{Io, Path};
use crate::flow::{Direction, FlowRef};
use crate::hook::Hook;
use crate::ipvs::sctp::SctpState;
use crate::ipvs::state;
use crate::packet::Packet;
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::sctp::{self, INIT};

/// What a packet's chunk does to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sctp {
    GoesOn,
    /// It is over, and this begins the next one.
    BeginsAnew,
}

impl<P: Packet> Path<P> {
    /// As [`Path::established`], for SCTP that is masqueraded.
    #[inline(never)]
    pub(super) fn sctp(&mut self, packet: P, headers: &Headers, at: FlowRef, now: Tick, io: &mut impl Io<P>) {
        let direction = match at.direction() {
            Direction::Original => state::Direction::Input,
            Direction::Reply => state::Direction::Output,
        };
        if self.sctp_state(packet.data(), headers, at, direction) == Sctp::BeginsAnew {
            self.end(at.id());
            return self.first(packet, headers, now, io);
        }
        let ports = self.flows.entry(at.id()).rewrite(at.direction()).ports;
        if headers.fragment == Fragment::First && ports != (headers.sport, headers.dport) {
            if let Err(reason) = self.fragments.keep_unsealed(packet, headers, now) {
                self.drop(reason, Hook::Postrouting);
            }
            return;
        }
        if headers.fragment == Fragment::Later
            && let Some((first, headers)) = self.fragments.last(packet.data(), headers)
        {
            self.masquerade(first, &headers, at, now, io);
        }
        self.masquerade(packet, headers, at, now, io);
    }

    /// Has a packet's chunk tell the connection's state, seen from `direction`.
    pub(super) fn sctp_state(
        &mut self,
        frame: &[u8],
        headers: &Headers,
        at: FlowRef,
        direction: state::Direction,
    ) -> Sctp {
        let Some(chunk) = sctp::chunk(frame, headers) else { return Sctp::GoesOn };
        let was = SctpState::from_u8(self.flows.entry(at.id()).state());
        if self.is_reopened(was, at, chunk) {
            return Sctp::BeginsAnew;
        }
        let is = was.next(direction, chunk);
        if was != is {
            self.change_state(at.id(), is as u8);
        }
        Sctp::GoesOn
    }

    /// A client's INIT for an association that is over begins a new one, unless a template has it.
    pub(super) fn is_reopened(&self, was: SctpState, at: FlowRef, chunk: u8) -> bool {
        self.tables.settings.sysctls.conn_reuse_mode > 0
            && was == SctpState::Closed
            && at.direction() == Direction::Original
            && chunk == INIT
            && !self.flows.entry(at.id()).is_counted()
    }
}
