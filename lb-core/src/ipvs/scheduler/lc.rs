//! lc: the real server with the fewest connections, of several the first in the list. Weights other than 0 do
//! not matter.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_lc.c`, and recorded picks.

pub(super) use super::Nothing as Compiled;
use super::{Loads, Request};
use crate::ids::ServerId;
use crate::tables::Service;

/// An active connection weighs 256; each connection, active or not, weighs one more (Linux 6.1.192; until
/// 6.1.170 only inactive ones did).
#[inline]
pub(super) fn load(loads: &impl Loads, server: ServerId) -> u64 {
    let active = loads.active(server);
    active * 256 + active + loads.inactive(server)
}

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
        let mut best: Option<(usize, u64)> = None;
        for (index, server) in service.servers.iter().enumerate().filter(|(_, server)| server.takes_new()) {
            let load = load(loads, server.id);
            if best.is_none_or(|(_, least)| load < least) {
                best = Some((index, load));
            }
        }
        Some(best?.0)
    }
}
