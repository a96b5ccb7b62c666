//! sed, shortest expected delay: the real server with the fewest active connections for its weight, the new one counted
//! in; of several the first in the list.
//!
//! Connections are counted over all workers: with several, one may miss what another has bound in the same burst, 32 connections at most, and with more than 16 servers
//! what [`cheapest`](crate::ipvs::cheapest) says.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_sed.c`, and recorded picks.

pub(super) use super::Nothing as Compiled;
use super::{Cost, Facts, Loads, Stateless, Warms};
use crate::ipvs::cheapest::Price;
use crate::tables::Server;

pub(super) const FACTS: Facts = Facts { warms: Warms::Parts, ..Facts::USUAL };

pub(super) type State = Stateless<Sed>;

#[derive(Clone, Debug)]
pub(super) enum Sed {}

impl Cost for Sed {
    #[inline]
    fn price(server: &Server, loads: &impl Loads) -> Price {
        Price::of(server, loads.active(server.id) + 1)
    }
}
