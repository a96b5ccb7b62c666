//! rr: one real server after the other, in the order of the list (newest first).
//!
//! The cursor stands on the server that was picked last, or at the list's head. A new server comes in before it, an
//! edited one leaves it where it is; when its own server is removed it steps back to the one before.
//! Servers are known by their ids, so that a removed one that is added again at the head is not mistaken for
//! the place where the cursor stood: `Compiled` remembers the last removals and what stood before each.
//!
//! Each worker has a cursor of its own: with `w` workers the numbers of connections of two servers differ by `w` at most, where one worker's differ by one.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_rr.c`, and recorded picks.

use super::{Change, Facts, Loads, Request, Room, is_newer, push_bounded};
use crate::ids::ServerId;
use crate::tables::{Server, Service};

pub(super) const FACTS: Facts = Facts::USUAL;

#[derive(Clone, Debug)]
struct Removal {
    version: u32,
    removed: ServerId,
    /// `None`: it stood at the head.
    before: Option<ServerId>,
}

#[derive(Clone, Debug)]
pub(super) struct Compiled {
    removals: Vec<Removal>,
}

impl Compiled {
    pub(super) fn new(before: Option<&Compiled>, change: &Change<'_>) -> Compiled {
        let mut removals = before.map(|before| before.removals.clone()).unwrap_or_default();
        for &(removed, before) in &change.removed {
            push_bounded(&mut removals, Removal { version: change.version, removed, before });
        }
        Compiled { removals }
    }
}

#[derive(Clone, Debug)]
pub(super) struct State {
    /// Picked last, and its index; `None`: the list's head.
    cursor: Option<(ServerId, usize)>,
}

impl State {
    pub(super) fn new(_: &Compiled) -> State {
        State { cursor: None }
    }

    pub(super) fn follow(&mut self, compiled: &Compiled, service: &Service, from: u32) {
        let Some((id, _)) = self.cursor else { return };
        let mut cursor = Some(id);
        for removal in compiled.removals.iter().filter(|removal| is_newer(removal.version, from)) {
            if cursor == Some(removal.removed) {
                cursor = removal.before;
            }
        }
        self.cursor = cursor.and_then(|id| Some((id, service.servers.iter().position(|s| s.id == id)?)));
    }

    #[inline]
    pub(super) fn pick(
        &mut self,
        _: &Compiled,
        service: &Service,
        _: &impl Loads,
        _: &Request,
        _: &mut Room,
    ) -> Option<usize> {
        let servers = &service.servers;
        let start = self.cursor.map_or(0, |(_, index)| index + 1).min(servers.len());
        let (head, tail) = servers.split_at(start);
        let found = match tail.iter().position(Server::takes_new) {
            Some(index) => start + index,
            None => head.iter().position(Server::takes_new)?,
        };
        self.cursor = Some((servers[found].id, found));
        Some(found)
    }
}
