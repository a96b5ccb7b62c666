//! wlc: the real server with the fewest connections for its weight, of several the first in the list.
//!
//! Connections are counted over all workers: with several, one may miss what another has bound in the same burst, 32 connections at most, and with more than 16 servers
//! what [`cheapest`](crate::ipvs::cheapest) says.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_wlc.c`, and recorded picks.

use super::lc::load;
pub(super) use super::Nothing as Compiled;
use super::{Cost, Facts, Loads, Room, Stateless, Warms};
use crate::ipvs::cheapest::Price;
use crate::tables::{Server, Service};

pub(super) const FACTS: Facts = Facts { warms: Warms::Parts, ..Facts::USUAL };

pub(super) type State = Stateless<Wlc>;

#[derive(Clone, Debug)]
pub(super) enum Wlc {}

impl Cost for Wlc {
    #[inline]
    fn price(server: &Server, loads: &impl Loads) -> Price {
        Price::of(server, load(loads, server.id))
    }
}

/// What wlc picks, and lblc and lblcr for a destination.
#[inline]
pub(super) fn least_loaded(service: &Service, loads: &impl Loads, room: &mut Room) -> Option<usize> {
    room.cheapest.pick(service, loads, |server| Wlc::price(server, loads))
}
