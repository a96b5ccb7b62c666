//! sed, shortest expected delay: the real server with the fewest active connections for its weight, the new one counted
//! in; of several the first in the list.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_sed.c`, and recorded picks.

pub(super) use super::Nothing as Compiled;
use super::wlc::least_for_weight;
use super::{Loads, Request};
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
    ) -> Option<usize> {
        least_for_weight(service, |server| loads.active(server.id) + 1)
    }
}
