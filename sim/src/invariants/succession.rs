//! When a director has taken over from a dead one: every connection goes on that can.

use std::collections::HashSet;

use super::name;
use crate::director::{Subject, Succession};
use crate::ledger::Key;
use crate::map::{PLACES, place};
use crate::violation::{Checked, hold};
use crate::world::World;

pub(crate) fn after_succession<L: Subject>(world: &mut World<L>, succession: &Succession) -> Checked {
    let Succession { left, carried, damage } = succession;
    world.stats.carried += carried.connections;
    hold!(
        carried.connections
            + carried.expired
            + carried.no_server
            + carried.no_room
            + carried.no_port
            + carried.damaged
            == left + damage.unreadable,
        name::KEPT,
        "{left} connections were left, {} cannot be read, of them became {carried:?}",
        damage.unreadable
    );
    hold!(
        damage.bytes > 0 || carried.damaged == 0,
        name::KEPT,
        "of memory that nobody touched {} connections are damaged",
        carried.damaged
    );
    // A byte belongs to one connection at most.
    hold!(
        damage.changed <= damage.bytes && damage.unreadable <= damage.bytes as u64,
        name::KEPT,
        "other connections are lost or changed than those that were damaged: {damage:?}"
    );
    let is_there = connections(world);
    let now = world.tick();
    let may_lose = carried.no_server + carried.no_room + carried.no_port > 0 || damage.bytes > 0;
    let lost = world.ledger.keep(is_there, now, world.control.shortest);
    hold!(
        lost.is_none() || may_lose,
        name::KEPT,
        "{lost:?} lived when the director died, and the next one does not have it"
    );
    if damage.bytes > 0 {
        // What was changed may be any of them.
        world.ledger.forget();
    }
    Ok(())
}

/// Which connections there are, at whatever worker.
pub(super) fn connections<L: Subject>(world: &World<L>) -> impl Fn(&Key) -> bool + use<L> {
    let mut there = HashSet::new();
    for worker in 0..world.director.workers() {
        world.director.list(worker, world.tick(), &mut |flow| {
            there.insert((flow.client, flow.virtual_, flow.protocol.0));
        });
    }
    let clients: Vec<_> =
        world.plan.hosts.iter().map(|host| [false, true].map(|is_ipv6| host.address(is_ipv6))).collect();
    move |key| {
        let (is_tcp, address) = place(usize::from(key.place) % PLACES);
        let client = clients[key.client as usize][usize::from(address.is_ipv6())];
        let protocol = if is_tcp { crate::wire::TCP } else { crate::wire::UDP };
        there.contains(&((client, key.port), (address, crate::map::SERVICE_PORT), protocol))
    }
}
