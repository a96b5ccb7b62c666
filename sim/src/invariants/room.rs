//! After a turn of a worker that is short of room: only half-open connections went for new ones.

use super::name;
use super::succession::connections;
use crate::director::Subject;
use crate::violation::{Checked, hold};
use crate::world::World;

/// What a worker had counted before its turn.
pub(crate) struct Room {
    early_drop: u64,
}

impl Room {
    pub(crate) fn before_turn<L: Subject>(world: &World<L>, worker: usize) -> Room {
        Room { early_drop: world.director.counters[worker].flows.early_drop.get() }
    }

    /// Whether connections went for new ones since.
    pub(crate) fn was_made<L: Subject>(&self, world: &World<L>, worker: usize) -> bool {
        world.director.counters[worker].flows.early_drop.get() != self.early_drop
    }

    pub(crate) fn after_turn<L: Subject>(&self, world: &mut World<L>, worker: usize) -> Checked {
        if self.was_made(world, worker) {
            let is_there = connections(world);
            let lost = world.ledger.made_room(is_there, world.tick(), world.control.shortest);
            hold!(lost.is_none(), name::KEPT, "{lost:?} went for a new connection and was not half-open");
        }
        Ok(())
    }
}
