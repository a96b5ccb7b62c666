//! lblc, locality-based least connections: connections to one destination go to the same real server, as long as it is not
//! busy while another one is idle. Of use to services by firewall mark before caches.
//!
//! A destination gets the server that [`wlc`](super::wlc) picks, and keeps it until the server is removed, quiesced or
//! overloaded by its threshold, or has more active connections than its weight while some other one has less than half as
//! many as its weight. (The kernel lets a server have more than its threshold from destinations that it has.)
//!
//! How many destinations are remembered, and for how long: [`destinations`](crate::ipvs::destinations). Each worker
//! remembers for itself, so that with `w` workers a destination may have up to `w` servers. A pick walks the list only
//! where the destination's server has more active connections than its weight.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_lblc.c`, and recorded picks.

use hashbrown::HashMap;

use super::{Change, Facts, Loads, Request, Room, Stateless, Warms, wlc};
use crate::ids::ServerId;
use crate::ipvs::destinations::Key;
use crate::tables::{Server, Service};

pub(super) const FACTS: Facts = Facts { keeps_destinations: true, warms: Warms::Whole, ..Facts::USUAL };

#[derive(Clone, Debug)]
pub(super) struct Compiled {
    /// The version since which the service has this scheduler.
    epoch: u32,
    /// Where in the list each server stands.
    places: HashMap<ServerId, u32>,
}

impl Compiled {
    pub(super) fn new(before: Option<&Compiled>, change: &Change<'_>) -> Compiled {
        let places = change.servers.iter().enumerate().map(|(index, server)| (server.id, index as u32));
        Compiled {
            epoch: before.map_or(change.version, |before| before.epoch),
            places: places.collect(),
        }
    }

    pub(super) fn key(&self, service: &Service, request: &Request) -> Key {
        Key::new(service.id, self.epoch, request.virtual_.0)
    }

    /// A server that is remembered, with its index; `None` when it was removed.
    pub(super) fn find<'s>(&self, service: &'s Service, id: ServerId) -> Option<(usize, &'s Server)> {
        let index = *self.places.get(&id)? as usize;
        Some((index, service.servers.get(index)?))
    }
}

/// It has more active connections than its weight, and there is one that has less than half as many as its own.
pub(super) fn is_busy(service: &Service, server: &Server, loads: &impl Loads) -> bool {
    loads.active(server.id) > server.weight.into()
        && service.servers.iter().any(|other| loads.active(other.id) * 2 < other.weight.into())
}

pub(super) type State = Stateless<Lblc>;

#[derive(Clone, Debug)]
pub(super) enum Lblc {}

impl State {
    #[inline]
    pub(super) fn pick(
        &mut self,
        compiled: &Compiled,
        service: &Service,
        loads: &impl Loads,
        request: &Request,
        room: &mut Room,
    ) -> Option<usize> {
        let key = compiled.key(service, request);
        if let Some(known) = room.destinations.find(key, request.now)
            && let Some((index, server)) = known.servers.first().and_then(|&id| compiled.find(service, id))
            && server.takes_new()
            && !is_busy(service, server, loads)
        {
            return Some(index);
        }
        let picked = wlc::least_loaded(service, loads, room)?;
        room.destinations.set(key, service.servers[picked].id, request.now);
        Some(picked)
    }
}
