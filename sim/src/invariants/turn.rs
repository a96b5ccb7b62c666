//! After a worker's turn: it uses what it was given, and new connections went where they may.

use lb_core::ids::ServerId;

use super::name;
use crate::director::Subject;
use crate::violation::{Checked, hold};
use crate::world::World;

/// Tables that wait for one worker at most, but for the newest ones.
const MAILBOX: usize = 16;

/// Of a real server that has an upper threshold: connections, and whether it takes no more.
struct Limited {
    id: ServerId,
    total: u64,
    is_full: bool,
}

#[derive(Default)]
pub(crate) struct Before {
    limited: Vec<Limited>,
    /// Of this worker, from the director before.
    carried: u64,
}

fn carried<L: Subject>(world: &World<L>, worker: usize) -> u64 {
    world.director.counters[worker].flows.carried_over.get()
}

fn total<L: Subject>(world: &World<L>, id: ServerId) -> u64 {
    let cells = world.director.counters.iter().map(|worker| worker.server(id));
    cells.fold(0, |all, cell| all.wrapping_add(cell.active.get()).wrapping_add(cell.inactive.get()))
}

pub(crate) fn before_turn<L: Subject>(world: &World<L>, worker: usize) -> Before {
    let Some(published) = world.control.published(world.control.delivered[worker]) else {
        return Before::default();
    };
    let limited = published.rules.iter().filter(|rule| rule.upper > 0);
    let now = limited.map(|rule| Limited {
        id: rule.id,
        total: total(world, rule.id),
        is_full: rule.is_overloaded(),
    });
    Before { limited: now.collect(), carried: carried(world, worker) }
}

pub(crate) fn after_turn<L: Subject>(world: &mut World<L>, worker: usize, before: Before) -> Checked {
    if let Some(mismatch) = world.director.mismatch() {
        hold!(false, name::REFERENCE, "{mismatch}");
    }
    let delivered = world.control.delivered[worker];
    let used = world.director.generation(worker);
    let given = std::mem::take(&mut world.watch.given[worker]);
    if used != delivered {
        hold!(
            given > MAILBOX,
            name::USED,
            "worker {worker} uses tables {used}, {delivered} were left for it, of {given} since its last turn"
        );
        // What found no room is sent when the control plane looks again.
        world.director.generation_everywhere(delivered);
        world.watch.given(worker);
        // Who may get connections is not the question under tables that are past.
        let cells = &world.director.counters[worker];
        world.watch.inserted[worker] = cells.flows.inserted.get();
        for (index, known) in world.watch.connections[worker].iter_mut().enumerate() {
            *known = cells.server(ServerId(index as u32)).connections.get();
        }
        return Ok(());
    }
    check_relieved(world, used, &before)?;
    let inserted = world.director.counters[worker].flows.inserted.get();
    if inserted == world.watch.inserted[worker] {
        return Ok(());
    }
    let new = inserted - std::mem::replace(&mut world.watch.inserted[worker], inserted);
    let Some(published) = world.control.published(used) else { return Ok(()) };
    let cells = &world.director.counters[worker];
    let mut counted = 0;
    for (index, known) in world.watch.connections[worker].iter_mut().enumerate() {
        let id = ServerId(index as u32);
        let connections = cells.server(id).connections.get();
        let more = connections - std::mem::replace(known, connections);
        if more == 0 {
            continue;
        }
        counted += more;
        let Some(rule) = published.rule(id) else {
            hold!(
                false,
                name::NOTHING_NEW,
                "server {index} got {more} connections from worker {worker}, but was removed"
            );
            continue;
        };
        hold!(
            rule.weight > 0 || rule.is_persistent,
            name::NOTHING_NEW,
            "server {index} got {more} connections from worker {worker}, but is quiesced"
        );
    }
    hold!(
        counted == new,
        name::COUNTERS,
        "worker {worker} entered {new} connections, its servers got {counted}"
    );
    if before.carried != carried(world, worker) {
        // Those are not new, however many they are.
        return Ok(());
    }
    for Limited { id, total: had, is_full } in before.limited {
        // A client's template knows no threshold.
        let Some(rule) = published.rule(id).filter(|rule| !rule.is_persistent) else { continue };
        let has = total(world, id);
        // Only those that began here; if some ended as well it may have been let in between.
        let began = has.saturating_sub(had);
        if began == 0 {
            continue;
        }
        hold!(
            !(is_full && rule.is_overloaded() && began == new),
            name::NOTHING_NEW,
            "server {} was overloaded with {had} connections, {began} began on worker {worker}",
            id.0
        );
        let most = u64::from(rule.upper).max(had + 1);
        hold!(
            has <= most,
            name::NOTHING_NEW,
            "server {} has {has} connections, its upper threshold is {}",
            id.0,
            rule.upper
        );
    }
    Ok(())
}

/// When connections of a real server ended in this turn, the worker looked at whether it is overloaded still, by the tables that it uses.
fn check_relieved<L: Subject>(world: &World<L>, used: u32, before: &Before) -> Checked {
    let Some(published) = world.control.published(used) else { return Ok(()) };
    for &Limited { id, total: had, .. } in &before.limited {
        let Some(rule) = published.rule(id).filter(|rule| rule.is_overloaded()) else { continue };
        let has = total(world, id);
        hold!(
            has >= had || !rule.is_relieved(has),
            name::RELIEVED,
            "server {} is overloaded with {has} connections of {had}; its thresholds are {} and {}",
            id.0,
            rule.upper,
            rule.lower
        );
    }
    Ok(())
}
