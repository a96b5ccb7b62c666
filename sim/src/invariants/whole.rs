//! All connections of all workers: who owns them, what they count as, and whether their time is over.

use lb_core::counters::server_ids;
use lb_core::ids::ServerId;
use lb_core::tables::Protocol;
use lb_core::time::Tick;

use super::name;
use crate::director::Subject;
use crate::map::Map;
use crate::violation::{Checked, hold};
use crate::world::World;

/// Connections whose time was over at the last look, by worker.
#[derive(Default)]
pub(super) struct Remembered {
    over: Vec<Map<Key, (Tick, u64)>>,
}

type Key = (u8, std::net::IpAddr, u16, std::net::IpAddr, u16);

/// A timer may be late by so many ticks, and by so many turns when many are due at once.
const LATE: u32 = 300;
const TURNS: u64 = 4096;

pub(super) fn check<L: Subject>(world: &mut World<L>) -> Checked {
    let now = world.tick();
    let mut owners: Map<Key, usize> = Map::default();
    let mut remembered = std::mem::take(&mut world.watch.whole.over);
    remembered.resize_with(world.director.workers(), Map::default);
    let mut connections = vec![0; server_ids(world.shape.server_ids)];
    for (worker, remembered) in remembered.iter_mut().enumerate() {
        let counters = &world.director.counters[worker];
        let mut counts = vec![(0u64, 0u64, 0u64); counters.server_capacity()];
        let (mut listed, mut listed_ipv6) = (0, 0);
        let mut over: Map<Key, (Tick, u64)> = Map::default();
        let mut twice = None;
        let mut late = None;
        world.director.list(worker, now, &mut |flow| {
            listed += 1;
            // An IPv4 client may have an IPv6 real server, by a tunnel.
            listed_ipv6 += u64::from(flow.client.0.is_ipv6() || flow.server.0.is_ipv6());
            let is_active = flow.protocol == Protocol::TCP
                && matches!(flow.state, "ESTABLISHED" | "SYN_SENT" | "SYN_RECV" | "SYNACK");
            let count = &mut counts[flow.server_id.index()];
            if flow.is_template {
                count.2 += 1;
            } else if is_active {
                count.0 += 1;
            } else {
                count.1 += 1;
            }
            let key = (flow.protocol.0, flow.client.0, flow.client.1, flow.virtual_.0, flow.virtual_.1);
            // Of templates that bind no more there may be many.
            let is_invalid = flow.is_template && flow.virtual_.1 == u16::MAX;
            if !is_invalid && let Some(other) = owners.insert(key, worker) {
                twice = Some((key, other));
            }
            if flow.expires_in.0 == 0 {
                let since = remembered.get(&key).copied().unwrap_or((now, world.step));
                if now.since(since.0) > LATE && world.step - since.1 > TURNS {
                    late = Some((key, since));
                }
                over.insert(key, since);
            }
        });
        let sound = world.director.logic(worker).check_connections();
        hold!(sound.is_ok(), name::EXPIRED, "the connections of worker {worker} do not agree: {sound:?}");
        let is_stalled = world.stalled[worker] > world.now;
        *remembered = if is_stalled { Map::default() } else { over };
        hold!(twice.is_none(), name::ONE_OWNER, "{twice:?} and worker {worker} have the same connection");
        hold!(
            late.is_none() || is_stalled,
            name::EXPIRED,
            "worker {worker} still has {late:?}, whose time is over, at {now:?}"
        );
        let entries = (counters.flows.entries.get(), counters.flows.ipv6_entries.get());
        hold!(
            entries == (listed, listed_ipv6),
            name::COUNTERS,
            "worker {worker} counts {entries:?} connections, it has {:?}",
            (listed, listed_ipv6)
        );
        let room = (u64::from(world.shape.connections), u64::from(world.shape.ipv6_connections));
        hold!(
            listed <= room.0 && listed_ipv6 <= room.1,
            name::BOUNDED,
            "worker {worker} has {listed} connections, {listed_ipv6} of IPv6; there is room for {room:?}"
        );
        for (index, &has) in counts.iter().enumerate() {
            connections[index] += has.0 + has.1;
            let cell = counters.server(ServerId(index as u32));
            let counted = (cell.active.get(), cell.inactive.get(), cell.persistent.get());
            hold!(
                counted == has,
                name::COUNTERS,
                "worker {worker} counts {counted:?} active and inactive connections and templates of server {index}, it has {has:?}"
            );
        }
    }
    world.watch.whole.over = remembered;
    check_relieved(world, &connections)?;
    forget_old_tables(world)
}

/// A real server that has no connection, at no worker, is not overloaded: nothing would ever end that.
fn check_relieved<L: Subject>(world: &World<L>, connections: &[u64]) -> Checked {
    let newest = world.control.generation();
    if world.relieved != newest {
        // A connection that ended under other tables cleared nothing; the control plane looks when all use these.
        return Ok(());
    }
    let Some(published) = world.control.published(newest) else { return Ok(()) };
    for rule in published.rules.iter().filter(|rule| rule.upper > 0) {
        hold!(
            connections[rule.id.index()] > 0 || !rule.is_overloaded(),
            name::RELIEVED,
            "server {} is overloaded without a connection; its thresholds are {} and {}",
            rule.id.0,
            rule.upper,
            rule.lower
        );
    }
    Ok(())
}

/// Tables that no worker uses any more are freed.
fn forget_old_tables<L: Subject>(world: &mut World<L>) -> Checked {
    let oldest =
        (0..world.director.workers()).map(|worker| world.director.generation(worker)).min().unwrap_or(0);
    // Frees what the workers gave back.
    world.director.generation_everywhere(oldest);
    world.control.forget_before(oldest);
    for (generation, tables) in world.control.past.drain(..) {
        hold!(
            tables.strong_count() == 0,
            name::BOUNDED,
            "tables {generation} are not freed, all workers use {oldest} or later"
        );
    }
    Ok(())
}
