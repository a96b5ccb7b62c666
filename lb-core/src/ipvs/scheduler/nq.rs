//! nq, never queue: the first real server in the list without an active connection; when there is none, as [`sed`](super::sed).
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_nq.c`, and recorded picks.

pub(super) use super::Nothing as Compiled;
use super::wlc::least_for_weight;
use super::{Loads, Request};
use crate::tables::{Server, Service};

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
        let is_idle = |server: &Server| server.takes_new() && loads.active(server.id) == 0;
        service
            .servers
            .iter()
            .position(is_idle)
            .or_else(|| least_for_weight(service, |server| loads.active(server.id) + 1))
    }
}
