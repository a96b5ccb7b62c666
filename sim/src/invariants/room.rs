//! After a turn of a worker that is short of room: only half-open connections went for new ones, and none that was known goes by hash alone now.
//! And of one that ended connections as their real servers were removed: no others went.

use lb_core::ids::ServiceId;

use super::name;
use super::succession::connections;
use crate::director::Subject;
use crate::ledger::{Early, Effect, Key};
use crate::map::Map;
use crate::tags::Sent;
use crate::violation::{Checked, hold};
use crate::world::World;

/// What a worker had counted before its turn.
pub(crate) struct Room {
    early_drop: u64,
    /// Connections that ended as their real server was removed.
    bereft: u64,
    /// By service: packets that went by hash alone.
    by_hash: Vec<u64>,
}

impl Room {
    pub(crate) fn before_turn<L: Subject>(world: &World<L>, worker: usize) -> Room {
        let counters = &world.director.counters[worker];
        let services = (0..=counters.server_capacity() as u32).map(ServiceId);
        Room {
            early_drop: counters.flows.early_drop.get(),
            bereft: counters.flows.bereft.get(),
            by_hash: services.map(|id| counters.service(id).hashed.get()).collect(),
        }
    }

    /// Whether connections went for new ones since.
    pub(crate) fn was_made<L: Subject>(&self, world: &World<L>, worker: usize) -> bool {
        world.director.counters[worker].flows.early_drop.get() != self.early_drop
    }

    /// The worker has looked up these packets of clients since.
    pub(crate) fn after_turn<L: Subject>(
        &self,
        world: &mut World<L>,
        worker: usize,
        of_clients: &[Sent],
    ) -> Checked {
        let was_made = self.was_made(world, worker);
        // By binding, the first of its packets.
        let mut by_hash: Map<u32, (Sent, bool)> = Map::default();
        for sent in of_clients {
            let went = self.went_by_hash(world, worker, sent);
            if went || world.ledger.goes_by_hash(sent.binding) {
                by_hash.entry(sent.binding).or_insert((*sent, went));
            }
        }
        let are_bereft = world.director.counters[worker].flows.bereft.get() != self.bereft;
        if !was_made && !are_bereft && by_hash.is_empty() {
            return Ok(());
        }
        let is_there = connections(world);
        let shortest = world.control.shortest;
        let generation = world.director.generation(worker);
        let published = world.control.published(generation);
        let early = Early { made_room: was_made, are_bereft: are_bereft && published.is_some() };
        if early.made_room || early.are_bereft {
            let is_removed = |key: &Key, host: u32| {
                published.is_some_and(|published| {
                    world.control.weight(published, &world.plan, key.place.into(), host as usize).is_none()
                })
            };
            let (now, ledger) = (world.tick(), &mut world.ledger);
            let lost = ledger.ended_early(&is_there, early, is_removed, now, shortest);
            hold!(
                lost.is_none(),
                name::KEPT,
                "{lost:?} ended, of {early:?}: it was not half-open, nor was its real server removed"
            );
        }
        let is_secure = published.is_none_or(|published| published.tables.settings.sysctls.secure_tcp > 0);
        for (sent, went) in by_hash.into_values() {
            let Some(key) = world.ledger.key(sent.binding) else { continue };
            if is_there(&key) {
                let is_sure = sent.effect == Effect::Opens || sent.effect == Effect::Nothing && !is_secure;
                world.ledger.is_kept(sent.binding, sent.looked_up, is_sure);
            } else if went {
                world.ledger.went_by_hash(sent.binding, sent.looked_up, generation, shortest)?;
            }
        }
        Ok(())
    }

    /// Whether packets of this one's service went by hash alone.
    fn went_by_hash<L: Subject>(&self, world: &World<L>, worker: usize, sent: &Sent) -> bool {
        let published = world.control.published(world.director.generation(worker));
        let key = world.ledger.key(sent.binding);
        let service = published.zip(key).and_then(|(published, key)| published.service(key.place.into()));
        service.filter(|service| service.picks_alike()).is_some_and(|service| {
            let before = self.by_hash[service.id.index().min(self.by_hash.len() - 1)];
            world.director.counters[worker].service(service.id).hashed.get() != before
        })
    }
}
