//! fo, weighted failover: the real server with the greatest weight, of several the first in the list. The others stand by until
//! it is quiesced, overloaded or removed.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_fo.c`, and recorded picks.

pub(super) use super::Nothing as Compiled;
use super::{Loads, Request};
use crate::tables::{Server, Service};

/// The server with the greatest weight of those that are `eligible`, of several the first in the list.
#[inline]
pub(super) fn heaviest(service: &Service, eligible: impl Fn(&Server) -> bool) -> Option<usize> {
    let mut best: Option<(usize, u32)> = None;
    for (index, server) in service.servers.iter().enumerate() {
        if best.is_none_or(|(_, weight)| server.weight > weight) && eligible(server) {
            best = Some((index, server.weight));
        }
    }
    Some(best?.0)
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
        _: &impl Loads,
        _: &Request,
    ) -> Option<usize> {
        heaviest(service, Server::takes_new)
    }
}
