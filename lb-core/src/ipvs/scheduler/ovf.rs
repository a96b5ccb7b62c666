//! ovf, weighted overflow: the real server with the greatest weight, of several the first in the list, of those that do not have
//! more active connections than their weight. When all have, nobody gets the connection.
//!
//! A UDP connection is never active, so that UDP does not overflow.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_ovf.c`, and recorded picks.

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
            let is_full = loads.active(server.id) > server.weight.into();
            if is_full { Price::NEVER } else { Price::of(server, 1) }
        })
    }
}
