//! lblcr, locality-based least connections with replication: as [`lblc`](super::lblc), but a destination has a set of real servers, and
//! its connections go to the one of them with the fewest for its weight.
//!
//! When that one is busy (as lblc says it) the server that [`wlc`](super::wlc) picks comes into the set. When the set has not
//! changed for a day, the one with the most connections for its weight leaves it; one that was removed leaves before any other. Quiesced and
//! overloaded servers stay in the set and get nothing. A set holds 16 at most: for one more, the one with the most
//! connections leaves. Of two that are even the one that came later counts first.
//!
//! Each worker remembers for itself, so that with `w` workers a destination may have up to `w` sets.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_lblcr.c`, and recorded picks.

pub(super) use super::lblc::Compiled;
use super::lblc::is_busy;
use super::lc::load;
use super::{Facts, Loads, Request, Room, Stateless, Warms, wlc};
use crate::ids::ServerId;
use crate::ipvs::cheapest::Price;
use crate::ipvs::destinations::{Destination, EXPIRY};
use crate::tables::{Server, Service};
use crate::time::Tick;

pub(super) const FACTS: Facts = Facts { keeps_destinations: true, warms: Warms::Whole, ..Facts::USUAL };

pub(super) type State = Stateless<Lblcr>;

#[derive(Clone, Debug)]
pub(super) enum Lblcr {}

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
        let (key, now) = (compiled.key(service, request), request.now);
        let set = Set { compiled, service, loads };
        if let Some(known) = room.destinations.find(key, now) {
            let least = set.least(known);
            if known.servers.len() > 1 && now.since(known.changed) > EXPIRY.0 {
                set.shrink(known, now);
            }
            if let Some((index, server)) = least
                && !is_busy(service, server, loads)
            {
                return Some(index);
            }
        }
        let picked = wlc::least_loaded(service, loads, room)?;
        let id = service.servers[picked].id;
        match room.destinations.find(key, now) {
            None => room.destinations.set(key, id, now),
            Some(known) if known.servers.contains(&id) => {}
            Some(known) => {
                if known.servers.is_full() {
                    set.shrink(known, now);
                }
                known.servers.push(id);
                known.changed = now;
            }
        }
        Some(picked)
    }
}

/// What the members of a destination's set are judged by.
struct Set<'a, L> {
    compiled: &'a Compiled,
    service: &'a Service,
    loads: &'a L,
}

impl<L: Loads> Set<'_, L> {
    fn price(&self, server: &Server) -> Price {
        Price { cost: load(self.loads, server.id), weight: server.weight }
    }

    /// The member that takes new connections and has the fewest for its weight.
    fn least(&self, known: &Destination) -> Option<(usize, &Server)> {
        let members = known.servers.iter().rev().filter_map(|&id| self.compiled.find(self.service, id));
        members
            .filter(|(_, server)| server.takes_new())
            .reduce(|least, other| if self.price(other.1).is_below(self.price(least.1)) { other } else { least })
    }

    /// Takes out the member that was removed, or has the most connections for its weight.
    fn shrink(&self, known: &mut Destination, now: Tick) {
        let is_gone = |id: &ServerId| self.compiled.find(self.service, *id).is_none();
        let members = known.servers.iter().rev().filter_map(|&id| self.compiled.find(self.service, id));
        let most = members
            .filter(|(_, server)| server.weight > 0)
            .reduce(|most, other| if self.price(most.1).is_below(self.price(other.1)) { other } else { most });
        let leaves = known.servers.iter().position(is_gone).or_else(|| {
            let most = most?.1.id;
            known.servers.iter().position(|&id| id == most)
        });
        if let Some(leaves) = leaves {
            known.servers.remove(leaves);
            known.changed = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::tests::{Counts, changed, request, server, worker};
    use super::super::{SchedulerKind, States};
    use super::*;
    use crate::ipvs::destinations::SET;
    use crate::time::Timeout;

    /// A worker with one service, whose servers have the ids from 0 on.
    struct Scene {
        worker: States,
        service: Service,
        counts: Counts,
        now: Tick,
    }

    impl Scene {
        fn new(kind: SchedulerKind, servers: u32, weight: u32) -> Scene {
            let servers = (0..servers).map(|id| server(id, weight)).collect();
            let service = changed(None, kind, servers);
            Scene { worker: worker(), service, counts: Counts::none(40), now: Tick(0) }
        }

        fn change(&mut self, servers: Vec<Server>) {
            self.service = changed(Some(&self.service), self.service.scheduler, servers);
        }

        fn count(&mut self, server: u32, active: u64) {
            self.counts.0.borrow_mut()[server as usize] = active;
            self.worker.touch(ServerId(server));
        }

        /// The id of the server that a connection to this destination gets.
        fn pick(&mut self, destination: u8) -> Option<u32> {
            let to = Ipv4Addr::new(192, 0, 2, destination).into();
            let request = Request { virtual_: (to, 80), now: self.now, ..request() };
            let picked = self.worker.pick(&self.service, &self.counts, &request)?;
            Some(self.service.servers[picked].id.0)
        }

        fn pass(&mut self, ticks: u32) {
            self.now = self.now.after(Timeout(ticks));
        }
    }

    #[test]
    fn a_destination_keeps_its_server_until_it_is_busy_while_another_one_is_idle() {
        let mut scene = Scene::new(SchedulerKind::Lblc, 2, 4);
        assert_eq!(scene.pick(1), Some(0));
        scene.count(0, 4);
        assert_eq!((scene.pick(2), scene.pick(1)), (Some(1), Some(0)), "not more than its weight");
        scene.count(0, 5);
        scene.count(1, 2);
        assert_eq!(scene.pick(1), Some(0), "nobody has less than half its weight");
        scene.count(1, 1);
        assert_eq!(scene.pick(1), Some(1));
        scene.count(0, 0);
        assert_eq!(scene.pick(1), Some(1), "it has moved for good");
    }

    #[test]
    fn a_server_that_comes_back_with_its_id_has_its_destinations_back() {
        for kind in [SchedulerKind::Lblc, SchedulerKind::Lblcr] {
            let mut scene = Scene::new(kind, 2, 4);
            assert_eq!(scene.pick(1), Some(0));
            let both = scene.service.servers.clone();
            scene.change(both[1..].to_vec());
            scene.change(both.clone());
            scene.count(0, 1);
            assert_eq!(scene.pick(1), Some(0), "{}", kind.name());
            scene.change(both[1..].to_vec());
            assert_eq!(scene.pick(1), Some(1), "{}: it is away", kind.name());
        }
    }

    #[test]
    fn a_set_that_has_not_changed_for_a_day_loses_its_most_loaded_server() {
        let mut scene = Scene::new(SchedulerKind::Lblcr, 3, 4);
        for (server, active) in [(0, 5), (1, 5)] {
            scene.pick(1);
            scene.count(server, active);
        }
        assert_eq!(scene.pick(1), Some(2), "all three are in the set");
        scene.count(2, 3);
        scene.count(0, 1);
        scene.count(1, 2);
        for _ in 0..2 {
            scene.pass(EXPIRY.0 / 2);
            assert_eq!(scene.pick(1), Some(0));
        }
        scene.pass(1);
        assert_eq!(scene.pick(1), Some(0), "the third goes now");
        scene.count(0, 4);
        scene.count(2, 0);
        assert_eq!(scene.pick(1), Some(1), "it is gone although it would be the least loaded");
    }

    #[test]
    fn a_full_set_takes_one_more_for_its_most_loaded() {
        let mut scene = Scene::new(SchedulerKind::Lblcr, 20, 4);
        for server in 0..SET as u32 {
            assert_eq!(scene.pick(1), Some(server));
            scene.count(server, 50 - u64::from(server));
        }
        assert_eq!(scene.pick(1), Some(16));
        scene.count(16, 8);
        (17..20).for_each(|server| scene.count(server, 8));
        // Not less than half its weight: nobody is idle, and the set alone counts.
        scene.count(0, 2);
        scene.count(1, 7);
        assert_eq!(scene.pick(1), Some(1), "the first one was taken out");
    }
}
