//! sed, shortest expected delay: the real server with the fewest active connections for its weight, the new one counted
//! in; of several the first in the list.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_sed.c`, and recorded picks.

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
        room.cheapest.pick(service, loads, |server| Price::of(server, loads.active(server.id) + 1))
    }
}
