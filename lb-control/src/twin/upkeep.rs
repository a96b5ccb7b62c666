//! Which neighbours the kernel is asked to resolve or to prove, and when.
//!
//! The data plane sends to neighbours without Linux seeing it, so Linux would let their entries go stale for ever: a dead
//! server would be sent to, a moved MAC address never be learnt. So each neighbour that is *used* is probed when
//! its entry turns stale. Used is what the data plane asked for, and what is *kept*: the gateways of routes and the hosts
//! that the control plane named.
//!
//! A neighbour that failed: a kept one is asked again every [`RETRY`] and shown as failed until it answers; any other is
//! shown as failed for [`FAILED_FOR`] and then forgotten, so that the next packet to it asks.
//!
//! No I/O and no clock: what to do is returned, the time is an argument.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use netlink_packet_route::neighbour::NeighbourState;

use super::neighbours::Key;

/// The same neighbour is not asked for again within this time.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// New questions in each second, of all neighbours together; more are refused: someone scans a network.
pub(super) const ASKS_PER_SECOND: u32 = 1000;
/// Neighbours that are remembered as asked for.
const ASKED_MAX: usize = 16 * 1024;
/// Neighbours that are kept; of more the rest is asked for when a packet goes there.
const KEPT_MAX: usize = 16 * 1024;
/// A kept neighbour that does not answer is asked again after this time.
pub(super) const RETRY: Duration = Duration::from_secs(3);
/// A kept neighbour whose entry was flushed is asked again after this time.
const FLUSHED: Duration = Duration::from_millis(50);
/// Any other neighbour is shown as failed for this long.
pub(super) const FAILED_FOR: Duration = Duration::from_secs(3);
/// Timers that are handled in one go.
const DUE_AT_ONCE: usize = 256;

/// The answer to [`Upkeep::ask`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    Probe,
    /// It is known, or asked for already.
    Nothing,
    /// Too many questions.
    Refused,
}

/// What a timer wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Probe(Key),
    /// Show it as failed no longer.
    Forget(Key),
}

#[derive(Debug)]
pub(super) struct Upkeep {
    /// When the kernel was last asked.
    asked: HashMap<Key, Instant>,
    kept: HashSet<Key>,
    timers: BTreeSet<(Instant, Key)>,
    armed: HashMap<Key, Instant>,
    second: Instant,
    in_this_second: u32,
}

impl Upkeep {
    pub(super) fn new(now: Instant) -> Upkeep {
        Upkeep {
            asked: HashMap::new(),
            kept: HashSet::new(),
            timers: BTreeSet::new(),
            armed: HashMap::new(),
            second: now,
            in_this_second: 0,
        }
    }

    /// The data plane wants to send to `key`, of which the kernel's entry is in `state`.
    pub(super) fn ask(&mut self, key: Key, state: NeighbourState, now: Instant) -> Asked {
        let last = self.asked.get(&key).copied();
        if last.is_some_and(|last| now.saturating_duration_since(last) < ASK_AGAIN_AFTER) {
            return Asked::Nothing;
        }
        if last.is_none() && self.asked.len() >= ASKED_MAX {
            return Asked::Refused;
        }
        if !wants_probe(state) {
            self.asked.insert(key, now);
            return Asked::Nothing;
        }
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.in_this_second = 0;
        }
        if self.in_this_second >= ASKS_PER_SECOND {
            return Asked::Refused;
        }
        self.in_this_second += 1;
        self.asked.insert(key, now);
        Asked::Probe
    }

    /// The kernel's entry is in `state` now (`None`: it is gone). True: probe it.
    #[must_use]
    pub(super) fn on_state(&mut self, key: Key, state: NeighbourState, now: Instant) -> bool {
        let is_kept = self.kept.contains(&key);
        if !is_kept && !self.asked.contains_key(&key) {
            return false;
        }
        match state {
            NeighbourState::Stale => return true,
            NeighbourState::Failed => self.arm(key, now + if is_kept { RETRY } else { FAILED_FOR }),
            NeighbourState::None => {
                self.asked.remove(&key);
                if is_kept {
                    self.arm(key, now + FLUSHED);
                }
            }
            _ => {}
        }
        false
    }

    /// Has [`due`](Upkeep::due) look at a used neighbour at `now`.
    pub(super) fn soon(&mut self, key: Key, now: Instant) {
        self.arm(key, now);
    }

    /// The kernel would not be asked.
    pub(super) fn on_error(&mut self, key: Key, now: Instant) {
        self.asked.remove(&key);
        if self.kept.contains(&key) {
            self.arm(key, now + RETRY);
        }
    }

    /// Replaces the kept neighbours; returns those to probe now. `state` tells of the kernel's entries.
    pub(super) fn keep(
        &mut self,
        keys: impl IntoIterator<Item = Key>,
        state: impl Fn(Key) -> NeighbourState,
        now: Instant,
    ) -> Vec<Key> {
        let new: HashSet<Key> = keys.into_iter().take(KEPT_MAX).collect();
        let probe: Vec<Key> =
            new.difference(&self.kept).copied().filter(|&key| wants_probe(state(key))).collect();
        self.kept = new;
        for &key in &probe {
            self.arm(key, now + RETRY);
        }
        probe
    }

    /// When [`due`](Upkeep::due) has something to say next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    pub(super) fn due(&mut self, state: impl Fn(Key) -> NeighbourState, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < DUE_AT_ONCE
            && let Some(&(at, key)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.armed.remove(&key);
            let state = state(key);
            if self.kept.contains(&key) {
                if wants_probe(state) {
                    due.push(Due::Probe(key));
                }
                if !is_answering(state) {
                    self.arm(key, now + RETRY);
                }
            } else if state == NeighbourState::Stale {
                due.push(Due::Probe(key));
            } else if state == NeighbourState::Failed {
                self.asked.remove(&key);
                due.push(Due::Forget(key));
            }
        }
        due
    }

    fn arm(&mut self, key: Key, at: Instant) {
        if let Some(old) = self.armed.insert(key, at) {
            self.timers.remove(&(old, key));
        }
        self.timers.insert((at, key));
    }
}

fn wants_probe(state: NeighbourState) -> bool {
    matches!(state, NeighbourState::None | NeighbourState::Failed | NeighbourState::Stale)
}

fn is_answering(state: NeighbourState) -> bool {
    !matches!(state, NeighbourState::None | NeighbourState::Failed | NeighbourState::Incomplete)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        (1, [10, 0, 0, n].into())
    }

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn many_packets_to_one_neighbour_are_one_question_a_second() {
        let start = Instant::now();
        let mut upkeep = Upkeep::new(start);
        assert_eq!(upkeep.ask(key(1), NeighbourState::None, start), Asked::Probe);
        assert_eq!(upkeep.ask(key(1), NeighbourState::None, start + MS(999)), Asked::Nothing);
        assert_eq!(upkeep.ask(key(2), NeighbourState::None, start + MS(999)), Asked::Probe);
        assert_eq!(upkeep.ask(key(1), NeighbourState::None, start + MS(1000)), Asked::Probe);
        assert_eq!(upkeep.ask(key(1), NeighbourState::Reachable, start + MS(3000)), Asked::Nothing);
    }

    #[test]
    fn a_scan_of_a_network_is_refused_beyond_the_limit_of_a_second() {
        let start = Instant::now();
        let mut upkeep = Upkeep::new(start);
        let host = |n: u32| (1, std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
        let probed = |upkeep: &mut Upkeep, from: u32, at| {
            (from..from + 2000)
                .filter(|&n| upkeep.ask(host(n), NeighbourState::None, at) == Asked::Probe)
                .count() as u32
        };
        assert_eq!(probed(&mut upkeep, 0, start), ASKS_PER_SECOND);
        assert_eq!(upkeep.ask(host(9999), NeighbourState::None, start), Asked::Refused);
        assert_eq!(probed(&mut upkeep, 5000, start + MS(1000)), ASKS_PER_SECOND);
    }

    #[test]
    fn neighbours_asked_for_are_bounded() {
        let start = Instant::now();
        let mut upkeep = Upkeep::new(start);
        for n in 0..ASKED_MAX as u32 + 10 {
            let host = (1, std::net::Ipv4Addr::from(n).into());
            let asked = upkeep.ask(host, NeighbourState::Reachable, start);
            assert_eq!(asked, if (n as usize) < ASKED_MAX { Asked::Nothing } else { Asked::Refused });
        }
        assert_eq!(upkeep.asked.len(), ASKED_MAX);
    }

    #[test]
    fn only_a_used_neighbour_is_probed_when_it_turns_stale() {
        let start = Instant::now();
        let mut upkeep = Upkeep::new(start);
        assert!(!upkeep.on_state(key(1), NeighbourState::Stale, start));
        upkeep.ask(key(1), NeighbourState::Reachable, start);
        assert!(upkeep.on_state(key(1), NeighbourState::Stale, start));
        assert!(!upkeep.on_state(key(1), NeighbourState::Delay, start));
        upkeep.keep([key(2)], |_| NeighbourState::Reachable, start);
        assert!(upkeep.on_state(key(2), NeighbourState::Stale, start));
        upkeep.keep([], |_| NeighbourState::Reachable, start);
        assert!(!upkeep.on_state(key(2), NeighbourState::Stale, start), "it is no longer kept");
    }

    #[test]
    fn a_kept_neighbour_that_failed_is_asked_until_it_answers() {
        let start = Instant::now();
        let mut upkeep = Upkeep::new(start);
        assert_eq!(upkeep.keep([key(1)], |_| NeighbourState::None, start), [key(1)]);
        assert!(!upkeep.on_state(key(1), NeighbourState::Failed, start + MS(3000)));
        assert_eq!(upkeep.due(|_| NeighbourState::Failed, start + MS(5999)), []);
        assert_eq!(upkeep.due(|_| NeighbourState::Failed, start + MS(6000)), [Due::Probe(key(1))]);
        assert_eq!(upkeep.due(|_| NeighbourState::Incomplete, start + MS(9000)), []);
        assert_eq!(upkeep.due(|_| NeighbourState::Failed, start + MS(12_000)), [Due::Probe(key(1))]);
        assert_eq!(upkeep.due(|_| NeighbourState::Reachable, start + MS(15_000)), []);
        assert_eq!(upkeep.next(), None, "it answers: only its state matters now");
    }

    #[test]
    fn a_kept_neighbour_that_was_flushed_is_asked_soon() {
        let start = Instant::now();
        let mut upkeep = Upkeep::new(start);
        assert_eq!(upkeep.keep([key(1)], |_| NeighbourState::Reachable, start), []);
        assert!(!upkeep.on_state(key(1), NeighbourState::None, start));
        assert_eq!(upkeep.due(|_| NeighbourState::None, start + FLUSHED), [Due::Probe(key(1))]);
    }

    #[test]
    fn a_neighbour_that_was_only_asked_for_is_forgotten_after_it_failed() {
        let start = Instant::now();
        let mut upkeep = Upkeep::new(start);
        upkeep.ask(key(1), NeighbourState::None, start);
        assert!(!upkeep.on_state(key(1), NeighbourState::Failed, start));
        assert_eq!(upkeep.next(), Some(start + FAILED_FOR));
        let due = upkeep.due(|_| NeighbourState::Failed, start + FAILED_FOR);
        assert_eq!(due, [Due::Forget(key(1))]);
        assert!(upkeep.asked.is_empty());
        assert_eq!(upkeep.ask(key(1), NeighbourState::Failed, start + FAILED_FOR), Asked::Probe);
    }
}
