//! Connections whose real server was removed: with `expire_nodest_conn` 1 they end at once, not first when
//! their client sends the next packet.
//!
//! When tables come that lack a real server, a walk goes through the flow table, a few places a turn; no
//! packet pays for it. A persistence template, or a control connection of FTP, goes when it has no connection
//! left. Those may be other workers', so that while any has to stay the walk begins anew each second, for a
//! minute. A server that is back before its worker saw it go keeps its connections.
//!
//! Source of the facts: Linux since 5.9, `net/netfilter/ipvs/ip_vs_conn.c`
//! (`ip_vs_expire_nodest_conn_flush`).

use arrayvec::ArrayVec;

use super::Path;
use super::first::is_held;
use crate::flow::template::{INVALID, is_signpost};
use crate::flow::{Entry, FlowId};
use crate::ids::ServerId;
use crate::packet::Packet;
use crate::tables::{Services, Tables};
use crate::time::{Tick, Timeout};

/// Places looked at in one turn.
const PLACES_A_TURN: u32 = 128;
/// From the end of a walk that had to leave something to the next one; how often.
const PAUSE: Timeout = Timeout::from_secs(1);
const TRIES: u8 = 60;

/// Where the walk is.
#[derive(Default)]
pub(super) struct Bereft {
    is_on: bool,
    cursor: u32,
    /// Something stays because it has connections.
    leaves: bool,
    tries: u8,
    /// It begins anew then.
    pause_until: Option<Tick>,
}

impl Bereft {
    /// Tables have come in the place of others.
    pub(super) fn look(&mut self, before: &Tables, now: &Tables) {
        if now.settings.sysctls.expire_nodest_conn != 1 {
            *self = Bereft::default();
        } else if now.services.lack_servers_of(&before.services) {
            *self = Bereft { is_on: true, ..Bereft::default() };
        }
    }

    /// The walk came to its end.
    fn end(&mut self, now: Tick) {
        self.is_on = std::mem::take(&mut self.leaves) && self.tries < TRIES;
        self.cursor = 0;
        // What this worker's own connections kept is free by now.
        self.pause_until = (self.tries > 0).then(|| now.after(PAUSE));
        self.tries += 1;
    }
}

impl<P: Packet> Path<P> {
    /// Goes on with the walk, if there is one. Returns whether it has not come to its end.
    #[inline]
    pub(super) fn end_bereft(&mut self, now: Tick) -> bool {
        self.bereft.is_on && self.walk_bereft(now)
    }

    #[cold]
    fn walk_bereft(&mut self, now: Tick) -> bool {
        if self.bereft.pause_until.is_some_and(|until| !now.is_at_or_after(until)) {
            return false;
        }
        self.bereft.pause_until = None;
        let from = self.bereft.cursor;
        let to = from.saturating_add(PLACES_A_TURN);
        let services = &self.tables.services;
        let ends: ArrayVec<FlowId, { PLACES_A_TURN as usize }> = self
            .flows
            .iter(from, to)
            .filter(|(_, entry)| is_bereft(services, entry))
            .map(|(id, _)| id)
            .collect();
        for id in ends {
            if is_held(&self.flows, id) && !self.uses.end(self.worker, id.0) {
                self.bereft.leaves = true;
                continue;
            }
            self.mine.flows.bereft.add(1);
            self.end(id);
        }
        self.bereft.cursor = to;
        let is_at_end = to >= self.flows.places();
        if is_at_end {
            self.bereft.end(now);
        }
        !is_at_end
    }
}

/// A template that binds no more stays for its time.
fn is_bereft(services: &Services, entry: &Entry) -> bool {
    let is_invalid = || entry.is_template() && entry.state() & INVALID != 0;
    !entry.is_tracked()
        && !is_signpost(entry.protocol())
        && entry.server() != ServerId::BYPASS
        && services.server(entry.server()).is_none()
        && !is_invalid()
}
