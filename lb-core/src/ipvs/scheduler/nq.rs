//! nq, never queue: the first real server in the list without an active connection; when there is none, as [`sed`](super::sed).
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_nq.c`, and recorded picks.

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
        room.cheapest.pick(service, loads, |server| {
            let active = loads.active(server.id);
            // All idle ones are even, whatever their weights, and below all others.
            Price::of(server, if active == 0 { 0 } else { active + 1 })
        })
    }
}
