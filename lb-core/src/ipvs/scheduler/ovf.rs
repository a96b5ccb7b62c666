//! ovf, weighted overflow: the real server with the greatest weight, of several the first in the list, of those that do not have
//! more active connections than their weight. When all have, nobody gets the connection.
//!
//! A UDP connection is never active, so that UDP does not overflow.
//!
//! Connections are counted over all workers: with several, one may miss what another has bound in the same burst, 32 connections at most, and with more than 16 servers
//! what [`cheapest`](crate::ipvs::cheapest) says.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_ovf.c`, and recorded picks.

pub(super) use super::Nothing as Compiled;
use super::{Cost, Facts, Loads, Stateless, Warms};
use crate::ipvs::cheapest::Price;
use crate::tables::Server;

pub(super) const FACTS: Facts = Facts { warms: Warms::Whole, ..Facts::USUAL };

pub(super) type State = Stateless<Ovf>;

#[derive(Clone, Debug)]
pub(super) enum Ovf {}

impl Cost for Ovf {
    #[inline]
    fn price(server: &Server, loads: &impl Loads) -> Price {
        let is_full = loads.active(server.id) > server.weight.into();
        if is_full { Price::NEVER } else { Price::of(server, 1) }
    }
}
