//! fo, weighted failover: the real server with the greatest weight, of several the first in the list. The others stand by until
//! it is quiesced, overloaded or removed.
//!
//! Nothing is counted but what makes a server overloaded: all workers pick the same, but that with more than 16 servers one may learn late that a
//! server is overloaded no more since another worker's connections ended ([`cheapest`](crate::ipvs::cheapest)).
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_fo.c`, and recorded picks.

pub(super) use super::Nothing as Compiled;
use super::{Cost, Facts, Loads, Stateless};
use crate::ipvs::cheapest::Price;
use crate::tables::Server;

pub(super) const FACTS: Facts = Facts::USUAL;

pub(super) type State = Stateless<Fo>;

#[derive(Clone, Debug)]
pub(super) enum Fo {}

impl Cost for Fo {
    #[inline]
    fn price(server: &Server, _: &impl Loads) -> Price {
        Price::of(server, 1)
    }
}
