//! What is done against connections that are there to take room: `drop_entry` ends some, `secure_tcp` believes their clients less.
//!
//! With 3 a defence is on, with 1 and 2 while few places are left in the flow table, which is looked at once a second. While `drop_entry` is on a walk comes by a
//! 32nd of the table a second, a few places a turn. It ends connections of virtual services that are half-open; and of others that had no packet for a minute those
//! with few before: one in as many as there were, up to eight. That is known where packets are counted (`nf_conntrack_acct`); else UDP goes, and what is established stays.
//! Persistence templates go that have no connection, and had none that was answered. No packet pays for it.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_conn.c` (`todrop_entry`), `ip_vs_ctl.c` (`update_defense_level`), `ip_vs_proto_tcp.c`.

use arrayvec::ArrayVec;

use super::Path;
use super::early_drop::is_idle_template;
use super::first::is_held;
use crate::flow::{Direction, Entry, FlowId};
use crate::ipvs::sctp::SctpState;
use crate::ipvs::state::{SECURE, TcpState, USUAL};
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::time::{Tick, Timeout};

/// Always, whatever room there is.
const ALWAYS: u32 = 3;
/// Parts of the table, one of which is walked a second.
const PARTS: u64 = 32;
/// Places looked at in one turn at most.
const PLACES_A_TURN: u64 = 64;
/// A connection with a packet within this time stays.
const REST: Timeout = Timeout::from_secs(60);
/// A connection with more packets stays.
const FEW: usize = 8;

/// A place of the table, in what a walk comes by in a tick for each place that there is.
const PLACE: u64 = PARTS * Tick::PER_SECOND as u64;

pub(super) struct Defence {
    /// When it was looked at how much room there is.
    looked: Tick,
    drops_entries: bool,
    /// The walk's next place, up to when it has come, and how much of a place it owes.
    cursor: u32,
    walked: Tick,
    owed: u64,
    /// By number of packets: how many more such connections stay before one goes.
    stay: [u64; FEW + 1],
}

impl Defence {
    pub(super) fn new(now: Tick) -> Defence {
        Defence { looked: now, drops_entries: false, cursor: 0, walked: now, owed: 0, stay: [0; FEW + 1] }
    }

    /// Places that the walk is to come by now, of so many.
    fn due(&mut self, places: u32, now: Tick) -> u32 {
        let (places, ticks) = (u64::from(places), u64::from(now.since(self.walked)));
        self.walked = now;
        // What is missed is not made up for beyond a second's part.
        self.owed =
            self.owed.saturating_add(ticks.saturating_mul(places)).min(PLACE * places.div_ceil(PARTS));
        let due = (self.owed / PLACE).min(PLACES_A_TURN);
        self.owed -= due * PLACE;
        due as u32
    }

    /// Whether the walk has not come by all that was due.
    fn is_behind(&self) -> bool {
        self.drops_entries && self.owed >= PLACE
    }

    /// Whether a connection goes that the walk comes by. `packets` of its client, where they are counted.
    fn ends(&mut self, entry: &Entry, packets: Option<u64>, now: Tick) -> bool {
        let is_resting = now.since(entry.seen()) >= REST.0;
        match entry.protocol() {
            Protocol::TCP => match TcpState::from_u8(entry.state()) {
                TcpState::SynRecv | TcpState::SynAck => true,
                TcpState::Established => is_resting && packets.is_some_and(|packets| self.is_next(packets)),
                _ => false,
            },
            Protocol::SCTP => match SctpState::from_u8(entry.state()) {
                SctpState::Init1 | SctpState::Init => true,
                SctpState::Established => is_resting && packets.is_some_and(|packets| self.is_next(packets)),
                _ => false,
            },
            Protocol::UDP => is_resting && packets.is_none_or(|packets| self.is_next(packets)),
            _ => false,
        }
    }

    /// One in as many as a connection had packets, if these were few.
    fn is_next(&mut self, packets: u64) -> bool {
        let Some(stay) = usize::try_from(packets).ok().and_then(|few| self.stay.get_mut(few)) else {
            return false;
        };
        if packets == 0 || *stay > 0 {
            *stay = stay.saturating_sub(1);
            return false;
        }
        *stay = packets - 1;
        true
    }
}

impl<P: Packet> Path<P> {
    /// Places that all workers' flow tables have left, as this one reckons from its own: each has the same share.
    #[inline]
    pub(super) fn places_left(&self) -> u64 {
        let free = self.mine.flows.capacity.get().saturating_sub(self.flows.len().0.into());
        free * self.counters.len() as u64
    }

    /// Goes on with the defences that are asked for. Returns whether they are behind.
    #[inline]
    pub(super) fn defend(&mut self, now: Tick) -> bool {
        let sysctls = &self.tables.settings.sysctls;
        sysctls.drop_entry | sysctls.secure_tcp != 0 && self.defend_now(now)
    }

    #[cold]
    fn defend_now(&mut self, now: Tick) -> bool {
        if self.defence.drops_entries {
            self.walk_defending(now);
        }
        if now.since(self.defence.looked) >= Tick::PER_SECOND {
            self.defence.looked = now;
            self.look_at_room();
        }
        self.defence.is_behind()
    }

    /// Says which defences are on.
    pub(super) fn look_at_room(&mut self) {
        let sysctls = &self.tables.settings.sysctls;
        let is_short = self.places_left() < u64::from(sysctls.amemthresh);
        let is_on = |mode| mode == ALWAYS || mode != 0 && is_short;
        self.transitions = if is_on(sysctls.secure_tcp) { &SECURE } else { &USUAL };
        let drops_entries = is_on(sysctls.drop_entry);
        if drops_entries && !self.defence.drops_entries {
            (self.defence.walked, self.defence.owed) = (self.turned, 0);
        }
        self.defence.drops_entries = drops_entries;
    }

    fn walk_defending(&mut self, now: Tick) {
        let places = self.flows.places();
        let due = self.defence.due(places, now);
        let from = if self.defence.cursor < places { self.defence.cursor } else { 0 };
        let to = from.saturating_add(due).min(places);
        self.defence.cursor = to;
        let (flows, defence) = (&self.flows, &mut self.defence);
        let (uses, worker) = (&self.uses, self.worker);
        let packets = |id| flows.accounting(id).map(|counted| counted.packets[Direction::Original.index()]);
        let is_used = |id: FlowId| is_held(flows, id) && uses.is_used(worker, id.0);
        let ends: ArrayVec<FlowId, { PLACES_A_TURN as usize }> = flows
            .iter(from, to)
            .filter(|(_, entry)| !entry.is_tracked())
            .filter(|&(id, entry)| match entry.is_template() {
                true => is_idle_template(uses, worker, id, entry),
                false => !is_used(id) && defence.ends(entry, packets(id), now),
            })
            .map(|(id, _)| id)
            .collect();
        for id in ends {
            if self.flows.entry(id).is_template() && !self.uses.end(self.worker, id.0) {
                continue;
            }
            self.mine.flows.drop_entry.add(1);
            self.end(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_32nd_of_the_places_is_due_in_a_second_however_often_it_is_asked() {
        for (places, step) in [(100u32, 1), (100, 7), (3200, 1), (1000, 100), (32_000, 1), (1, 50)] {
            let mut defence = Defence::new(Tick(0));
            let mut due = 0;
            // A turn comes by more often than the clock goes on.
            for tick in (0..=3200).step_by(step) {
                for _ in 0..20 {
                    due += defence.due(places, Tick(tick));
                }
            }
            assert!(places - due <= 1 + places * step as u32 / 3200, "{due} of {places} by steps of {step}");
        }
        let mut defence = Defence::new(Tick(0));
        let due: Vec<u32> = (0..60).map(|_| defence.due(100_000, Tick(1_000_000))).collect();
        assert_eq!((due[0], due.iter().sum()), (64, 3125), "after a long rest a second's part");
    }

    #[test]
    fn the_walk_is_behind_until_it_has_come_by_all_that_is_due() {
        let mut defence = Defence { drops_entries: true, ..Defence::new(Tick(0)) };
        let mut walked = Vec::new();
        while walked.is_empty() || defence.is_behind() {
            walked.push(defence.due(1_000_000, Tick(1)));
        }
        assert_eq!(walked, [64, 64, 64, 64, 56]);
    }

    #[test]
    fn one_in_as_many_goes_as_it_had_packets() {
        for (packets, goes) in [(0, 0), (1, 24), (2, 12), (3, 8), (8, 3), (9, 0), (u64::MAX, 0)] {
            let mut defence = Defence::new(Tick(0));
            assert_eq!((0..24).filter(|_| defence.is_next(packets)).count(), goes, "{packets}");
        }
    }
}
