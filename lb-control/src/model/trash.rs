//! Numbers of real servers, and those that were removed: these keep their numbers while they have connections, and two minutes more as in the kernel
//! (`IP_VS_DEST_TRASH_PERIOD`), so that one that is added again has its counts.
//!
//! There are twice as many numbers as real servers: all can be exchanged for others at one moment. When numbers run short, those rest no longer that
//! have no connections.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hashbrown::HashSet;
use lb_core::counters::server_ids;
use lb_core::ids::ServerId;

use super::{Ids, Place};

/// How long a removed real server without connections is known.
const REST: Duration = Duration::from_secs(120);

/// Of a real server: its service, address and port.
pub(super) type Key = (Place, IpAddr, u16);

/// A removed real server that may still have connections.
#[derive(Clone, Debug)]
pub(super) struct Removed {
    pub(super) id: ServerId,
    pub(super) incarnation: u64,
    /// As its connections left it, with the threshold that this was by.
    pub(super) overloaded: Arc<AtomicBool>,
    pub(super) upper_threshold: u32,
    /// It has no connections, and gets none any more.
    pub(super) rests_since: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(super) struct ServerIds {
    ids: Ids,
    /// Real servers that are not removed.
    most: usize,
    /// In a fixed order, so that the same commands always give the same ids.
    trash: BTreeMap<Key, Removed>,
}

impl ServerIds {
    pub(super) fn new(most: usize) -> ServerIds {
        ServerIds { ids: Ids::new(server_ids(most)), most, trash: BTreeMap::new() }
    }

    pub(super) fn in_use(&self) -> usize {
        self.ids.in_use()
    }

    /// Whether one more real server may be.
    pub(super) fn has_room(&self) -> bool {
        self.in_use() - self.trash.len() < self.most
    }

    pub(super) fn throw_away(&mut self, key: Key, removed: Removed) {
        self.trash.insert(key, removed);
    }

    pub(super) fn bring_back(&mut self, key: &Key) -> Option<Removed> {
        self.trash.remove(key)
    }

    /// A number for a new one. Where none is left, half of those that rest make room, the longest at rest first; `forgotten` gets them.
    pub(super) fn take(&mut self, forgotten: &mut HashSet<ServerId>) -> Option<ServerId> {
        if let Some(id) = self.ids.take() {
            return Some(ServerId(id));
        }
        let mut resting: Vec<_> =
            self.trash.iter().filter_map(|(key, removed)| Some((removed.rests_since?, *key))).collect();
        resting.sort_unstable();
        for (_, key) in resting.iter().take(resting.len().div_ceil(2)) {
            if let Some(removed) = self.trash.remove(key) {
                self.ids.give_back(removed.id.0);
                forgotten.insert(removed.id);
            }
        }
        self.ids.take().map(ServerId)
    }

    pub(super) fn removed(&self) -> impl Iterator<Item = (&Key, &Removed)> {
        self.trash.iter()
    }

    /// Forgets those of which `keeps` does not say that they stay; returns them.
    pub(super) fn release(&mut self, mut keeps: impl FnMut(&Removed) -> bool) -> Vec<ServerId> {
        let mut released = Vec::new();
        self.trash.retain(|_, removed| {
            let is_kept = keeps(removed);
            if !is_kept {
                released.push(removed.id);
            }
            is_kept
        });
        released.iter().for_each(|id| self.ids.give_back(id.0));
        released
    }

    /// Those of which `is_idle` says so rest from now on; forgets those that rested long enough.
    pub(super) fn rest(&mut self, now: Duration, mut is_idle: impl FnMut(ServerId) -> bool) -> Vec<ServerId> {
        for removed in self.trash.values_mut().filter(|removed| removed.rests_since.is_none()) {
            if is_idle(removed.id) {
                removed.rests_since = Some(now);
            }
        }
        self.release(|removed| removed.rests_since.is_none_or(|since| now.saturating_sub(since) < REST))
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::api::types::{ServerSpec, ServiceSpec};

    const WEB: &str = "tcp/192.0.2.1:80";

    fn servers(from: u8, count: u8) -> Vec<Command> {
        let service: ServiceAddress = WEB.parse().expect("valid");
        let server = |n| ServerSpec::new(SocketAddr::from(([10, 0, 0, n], 80)));
        let add = |n| Command::AddServer { service, server: server(n) };
        std::iter::once(Command::AddService(ServiceSpec::new(service, "rr")))
            .chain((from..from + count).map(add))
            .collect()
    }

    fn remove(model: &mut Model, n: u8) {
        let server = SocketAddr::from(([10, 0, 0, n], 80));
        let service = WEB.parse().expect("valid");
        model.apply(&Command::DeleteServer { service, server }).expect("there");
    }

    /// Of a service with so many real servers, and room for no more.
    fn full(count: u8) -> Model {
        let mut model = Model::new(Limits { services: 1, servers: count.into() });
        model.apply_all(&servers(1, count)).expect("right");
        model
    }

    fn exchange(model: &mut Model, from: u8, count: u8) -> Result<Change, (usize, ErrorBody)> {
        let mut commands = vec![Command::Flush];
        commands.extend(servers(from, count));
        model.apply_all(&commands)
    }

    #[test]
    fn all_real_servers_are_exchanged_for_others_at_once_and_again_when_the_first_have_no_connections() {
        let mut model = full(5);
        exchange(&mut model, 11, 5).expect("numbers are twice as many");
        let (index, error) = exchange(&mut model, 21, 5).expect_err("all numbers may have connections");
        assert_eq!((index, error.error), (2, ErrorKind::Full));
        assert!(error.message.contains("5 real servers, and as many removed ones that have connections"));
        assert_eq!(model.removed_servers().count(), 5);
        assert_eq!(model.rest(|_| true), []);
        assert_eq!((model.removed_servers().count(), model.has_removed_servers()), (0, true));
        let change = exchange(&mut model, 21, 5).expect("these make room");
        assert_eq!(change.forgotten_servers.len(), 5);
        assert_eq!((change.zeroed_servers, model.server_ids_in_use()), (change.forgotten_servers, 10));
    }

    #[test]
    fn one_that_is_added_again_within_two_minutes_has_its_counts() {
        let mut model = full(2);
        let id = |model: &Model| model.services().next().expect("there").servers[0].id;
        let before = id(&model);
        for (seconds, keeps) in [(0, true), (119, true), (120, false)] {
            remove(&mut model, 2);
            assert_eq!(model.rest(|_| true), []);
            let now = model.now + Duration::from_secs(seconds);
            model.pass(now);
            assert_eq!(model.rest(|_| false).len(), usize::from(!keeps), "{seconds}");
            let change = model.apply(&servers(2, 1)[1]).expect("there is room");
            assert_eq!((id(&model), change.zeroed_servers.is_empty()), (before, keeps), "{seconds}");
        }
    }
}
