//! nq, never queue: the first real server in the list without an active connection; when there is none, as [`sed`](super::sed).
//!
//! Connections are counted over all workers: with several, one may miss what another has bound in the same burst, 32 connections at most, and with more than 16 servers
//! what [`cheapest`](crate::ipvs::cheapest) says.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_nq.c`, and recorded picks.

pub(super) use super::Nothing as Compiled;
use super::{Cost, Facts, Loads, Stateless, Warms};
use crate::ipvs::cheapest::Price;
use crate::tables::Server;

pub(super) const FACTS: Facts = Facts { warms: Warms::Parts, ..Facts::USUAL };

pub(super) type State = Stateless<Nq>;

#[derive(Clone, Debug)]
pub(super) enum Nq {}

impl Cost for Nq {
    #[inline]
    fn price(server: &Server, loads: &impl Loads) -> Price {
        let active = loads.active(server.id);
        // All idle ones are even, whatever their weights, and below all others.
        Price::of(server, if active == 0 { 0 } else { active + 1 })
    }
}
