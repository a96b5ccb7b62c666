//! lc: the real server with the fewest connections, of several the first in the list. Weights other than 0 do
//! not matter.
//!
//! Connections are counted over all workers: with several, one may miss what another has bound in the same burst, 32 connections at most, and with more than 16 servers
//! what [`cheapest`](crate::ipvs::cheapest) says.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_lc.c`, and recorded picks.

pub(super) use super::Nothing as Compiled;
use super::{Cost, Facts, Loads, Stateless};
use crate::ids::ServerId;
use crate::ipvs::cheapest::Price;
use crate::tables::Server;

pub(super) const FACTS: Facts = Facts::USUAL;

/// An active connection weighs 256; each connection, active or not, weighs one more (Linux 6.1.192; until
/// 6.1.170 only inactive ones did).
#[inline]
pub(super) fn load(loads: &impl Loads, server: ServerId) -> u64 {
    let active = loads.active(server);
    active * 256 + active + loads.inactive(server)
}

pub(super) type State = Stateless<Lc>;

#[derive(Clone, Debug)]
pub(super) enum Lc {}

impl Cost for Lc {
    #[inline]
    fn price(server: &Server, loads: &impl Loads) -> Price {
        match Price::of(server, load(loads, server.id)) {
            Price::NEVER => Price::NEVER,
            Price { cost, .. } => Price { cost, weight: 1 },
        }
    }
}
