//! wlc: the real server with the fewest connections for its weight, of several the first in the list.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_wlc.c`, and recorded picks.

use super::lc::load;
pub(super) use super::Nothing as Compiled;
use super::{Loads, Request, Room};
use crate::ipvs::cheapest::Price;
use crate::tables::Service;

#[derive(Clone, Debug)]
pub(super) struct State;

impl State {
    pub(super) fn new(_: &Compiled) -> State {
        State
    }

    pub(super) fn follow(&mut self, _: &Compiled, _: &Service, _: u32) {}

    #[inline]
    pub(super) fn pick(
        &mut self,
        _: &Compiled,
        service: &Service,
        loads: &impl Loads,
        _: &Request,
        room: &mut Room,
    ) -> Option<usize> {
        least_loaded(service, loads, room)
    }
}

/// What wlc picks, and lblc and lblcr for a destination.
#[inline]
pub(super) fn least_loaded(service: &Service, loads: &impl Loads, room: &mut Room) -> Option<usize> {
    room.cheapest.pick(service, loads, |server| Price::of(server, load(loads, server.id)))
}
