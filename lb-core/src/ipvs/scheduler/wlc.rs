//! wlc: the real server with the fewest connections for its weight, of several the first in the list.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_wlc.c`, and recorded picks.

use super::lc::load;
pub(super) use super::Nothing as Compiled;
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
        least_for_weight(service, |server| load(loads, server.id))
    }
}

/// The server that takes new connections with the least `cost` for its weight, of several the first in the list.
#[inline]
pub(super) fn least_for_weight(service: &Service, cost: impl Fn(&Server) -> u64) -> Option<usize> {
    let mut best: Option<(usize, u64, u32)> = None;
    for (index, server) in service.servers.iter().enumerate().filter(|(_, server)| server.takes_new()) {
        let cost = cost(server);
        // cost / weight < best cost / best weight, without a division.
        let is_less = best.is_none_or(|(_, best_cost, best_weight)| {
            u128::from(best_cost) * u128::from(server.weight) > u128::from(cost) * u128::from(best_weight)
        });
        if is_less {
            best = Some((index, cost, server.weight));
        }
    }
    Some(best?.0)
}
