//! Packets whose next hop is not resolved yet: kept, in a bounded number, while Linux is asked.

use std::net::IpAddr;

use super::rewrite;
use super::{Io, Path};
use crate::drop::DropReason;
use crate::flow::{Deltas, Tuple};
use crate::hook::Hook;
use crate::icmp;
use crate::packet::Packet;
use crate::tables::{Reachability, Tunnel, Way};
use crate::time::{Tick, Timeout};
use crate::wire::parse::Headers;

/// Packets that wait at most: in all, and for one address (for those whose hash has the same last byte, to be exact).
const CAPACITY: usize = 512;
const CAPACITY_EACH: u16 = 64;
/// How long at most. Linux gives up on a neighbour after three requests, a second apart.
const PATIENCE: Timeout = Timeout::from_secs(4);
/// How often those are looked for that waited too long.
const ROUND: Timeout = Timeout::from_secs(1);

/// What was done to a packet that is ready to leave, but for its TTL, or is still to be done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Going {
    AsItIs,
    /// What it was before, and what the rewrite changed in its checksums.
    Rewritten {
        before: Tuple,
        deltas: Deltas,
    },
    /// It is put into a tunnel when the next hop is known.
    InTunnel(Tunnel),
    /// It becomes this, in the other family, when the next hop is known; its checksums change by so much.
    Translated {
        after: Tuple,
        deltas: Deltas,
    },
}

struct Held<P> {
    packet: P,
    headers: Headers,
    to: IpAddr,
    going: Going,
    since: Tick,
}

pub(super) struct Waiting<P> {
    held: Vec<Held<P>>,
    /// Where `held` is moved while it is gone through; always empty otherwise.
    spare: Vec<Held<P>>,
    /// How many of `held` are for addresses of each hash.
    each: [u16; 256],
    look_again: bool,
    last_round: Tick,
}

impl<P> Waiting<P> {
    pub(super) fn new() -> Waiting<P> {
        Waiting {
            held: Vec::with_capacity(CAPACITY),
            spare: Vec::with_capacity(CAPACITY),
            each: [0; 256],
            look_again: false,
            last_round: Tick::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// There are new tables: a next hop may have been resolved.
    pub(super) fn look_again(&mut self) {
        self.look_again = true;
    }
}

impl<P: Packet> Path<P> {
    /// Keeps a packet that is as it shall leave, but for its Ethernet header and its tunnel.
    pub(super) fn wait(
        &mut self,
        packet: P,
        headers: &Headers,
        to: IpAddr,
        going: Going,
        now: Tick,
        io: &mut impl Io<P>,
    ) {
        if let Some((interface, neighbour)) = self.tables.neighbour_towards(to) {
            io.resolve(interface, neighbour);
        }
        let waiting = &mut self.waiting;
        let each = &mut waiting.each[class(to)];
        if waiting.held.len() == CAPACITY || *each == CAPACITY_EACH {
            return self.drop(DropReason::NeighbourQueueFull, Hook::Egress);
        }
        *each += 1;
        waiting.held.push(Held { packet, headers: *headers, to, going, since: now });
    }

    /// Sends those on whose next hop is known now; gives up on those that waited too long or that nobody answers for.
    pub(super) fn retry_waiting(&mut self, now: Tick, io: &mut impl Io<P>) {
        let is_round = now.since(self.waiting.last_round) >= ROUND.0;
        if self.waiting.held.is_empty() {
            self.waiting.last_round = now;
            return;
        }
        if !(self.waiting.look_again || is_round) {
            return;
        }
        self.waiting.look_again = false;
        self.waiting.last_round = now;
        std::mem::swap(&mut self.waiting.held, &mut self.waiting.spare);
        let mut all = std::mem::take(&mut self.waiting.spare);
        self.waiting.each = [0; 256];
        for held in all.drain(..) {
            let state = match self.tables.way(held.to) {
                Way::Hop(hop) => self.tables.neighbours.get(hop).map(|hop| hop.state),
                _ => None,
            };
            match state {
                Some(Reachability::Reachable) => {
                    self.leave(held.packet, &held.headers, held.to, held.going, now, io);
                }
                Some(Reachability::Failed) => self.nobody_there(held, now, io),
                None if now.since(held.since) >= PATIENCE.0 => self.nobody_there(held, now, io),
                None => {
                    self.waiting.each[class(held.to)] += 1;
                    self.waiting.held.push(held);
                }
            }
        }
        self.waiting.spare = all;
    }

    fn nobody_there(&mut self, mut held: Held<P>, now: Tick, io: &mut impl Io<P>) {
        if let Going::Rewritten { before, deltas } = held.going {
            rewrite::undo(held.packet.data_mut(), &held.headers, &before, deltas);
        }
        let (problem, reason) = (icmp::Problem::HostUnreachable, DropReason::NeighbourFailed);
        self.answer(held.packet, &held.headers, problem, (reason, Hook::Egress), None, now, io);
    }
}

/// Which of 256 an address counts among.
fn class(address: IpAddr) -> usize {
    let number = match address {
        IpAddr::V4(a) => u32::from(a),
        IpAddr::V6(a) => {
            let number = u128::from(a);
            (number ^ number >> 64) as u32
        }
    };
    (number.wrapping_mul(0x9e37_79b9) >> 24) as usize
}
