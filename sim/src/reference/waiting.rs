//! Packets whose next hop is not resolved: they wait, so many and so long.

use std::net::IpAddr;

use lb_core::drop::DropReason;
use lb_core::hook::Hook;
use lb_core::tables::{Reachability, Way};
use lb_core::time::{Tick, Timeout};

use super::answer::Problem;
use super::output::Before;
use super::parse::Read;
use super::{Action, Packet, Reference, rewrite};

/// In all, and for addresses of one class.
const ROOM: usize = 512;
const ROOM_EACH: usize = 64;
/// Linux asks three times, a second apart.
const PATIENCE: Timeout = Timeout::from_secs(4);
/// Without new tables they are looked at once in a while.
const ROUND: Timeout = Timeout::from_secs(1);

struct Held {
    packet: Packet,
    read: Read,
    to: IpAddr,
    before: Before,
    since: Tick,
}

#[derive(Default)]
pub(super) struct Waiting {
    held: Vec<Held>,
    look_again: bool,
    last_round: Tick,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn look_again(&mut self) {
        self.look_again = true;
    }
}

impl Reference {
    /// Keeps a packet, and asks for its next hop.
    pub(super) fn wait(&mut self, packet: Packet, read: Read, to: IpAddr, before: Before) {
        if let Some((interface, neighbour)) = self.tables.neighbour_towards(to) {
            self.act(packet.cause, Action::Resolve(interface, neighbour));
        }
        let of_class = self.waiting.held.iter().filter(|held| class(held.to) == class(to)).count();
        if self.waiting.held.len() == ROOM || of_class == ROOM_EACH {
            return self.drop(DropReason::NeighbourQueueFull, Hook::Egress);
        }
        let packet = Packet { cause: None, ..packet };
        self.waiting.held.push(Held { packet, read, to, before, since: self.now });
    }

    /// Those whose next hop answers go; those whose next hop does not are given up, at once if Linux says so.
    pub(super) fn retry_waiting(&mut self) {
        let is_round = self.now.since(self.waiting.last_round) >= ROUND.0;
        if self.waiting.held.is_empty() {
            self.waiting.last_round = self.now;
            return;
        }
        if !self.waiting.look_again && !is_round {
            return;
        }
        (self.waiting.look_again, self.waiting.last_round) = (false, self.now);
        for held in std::mem::take(&mut self.waiting.held) {
            let way = self.tables.way(held.to);
            let state = match way {
                Way::Hop(hop) => self.tables.neighbours.get(hop).map(|hop| hop.state),
                _ => None,
            };
            let is_patient = self.now.since(held.since) < PATIENCE.0;
            match state {
                Some(Reachability::Reachable) => {
                    self.leave(held.packet, held.read, held.to, way, held.before);
                }
                None if is_patient => self.waiting.held.push(held),
                None | Some(Reachability::Failed) => self.nobody_there(held),
            }
        }
    }

    /// The sender hears of the packet that it sent.
    fn nobody_there(&mut self, held: Held) {
        let Held { mut packet, read, before, .. } = held;
        if let Before::Rewritten(before) = before {
            rewrite::to(&mut packet.bytes, &read, &before);
        }
        self.answer(packet, read, Problem::HostUnreachable, DropReason::NeighbourFailed, Hook::Egress);
    }
}

/// Addresses are put into 256 classes.
fn class(address: IpAddr) -> u8 {
    let number = match address {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(address) => (u128::from(address) ^ u128::from(address) >> 64) as u32,
    };
    (number.wrapping_mul(0x9e37_79b9) >> 24) as u8
}
