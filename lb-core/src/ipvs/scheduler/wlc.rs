//! wlc: the real server with the fewest connections for its weight, of several the first in the list.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_wlc.c`, and recorded picks.

use super::lc::load;
pub(super) use super::Nothing as Compiled;
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
        let mut best: Option<(usize, u64, u32)> = None;
        for (index, server) in service.servers.iter().enumerate().filter(|(_, server)| server.takes_new()) {
            let load = load(loads, server.id);
            // load / weight < best load / best weight, without a division.
            let is_less = best.is_none_or(|(_, best_load, best_weight)| {
                u128::from(best_load) * u128::from(server.weight) > u128::from(load) * u128::from(best_weight)
            });
            if is_less {
                best = Some((index, load, server.weight));
            }
        }
        Some(best?.0)
    }
}
