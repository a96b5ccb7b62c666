//! wrr: rounds of passes over the list; a pass at *level* n picks the servers whose weight is n or more.
//!
//! The level starts at the greatest weight and falls by the weights' greatest common divisor after each pass, so
//! that in a round a server is picked as often as its weight says, interleaved with the others. Levels are
//! `k · step + 1`: the last one is 1.
//!
//! Any change of a server sends the cursor to the list's head but keeps the level, cut to the new greatest level and to
//! the new step. So the phase depends on every list that there was since the service began, also on those
//! that no connection saw (servers that are added one by one): `Compiled` carries the level through all changes for
//! workers that have not picked yet, and a log of the last changes for those that have.
//!
//! Each worker goes its own rounds: with `w` workers a server's connections differ from its share by what one round gives it, `w` times at most, where one worker's
//! differ by it once.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_wrr.c`, and recorded picks.

use super::{Change, Facts, Loads, Request, Room, Warms, gcd, is_newer, push_bounded};
use crate::tables::{Server, Service};

pub(super) const FACTS: Facts = Facts { warms: Warms::Parts, ..Facts::USUAL };

/// What a list of servers says about levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Levels {
    /// Greatest weight.
    greatest: u32,
    /// Greatest common divisor of the weights above 0; 0 when there is none.
    divisor: u32,
}

impl Levels {
    const NONE: Levels = Levels { greatest: 0, divisor: 0 };

    fn of(servers: &[Server]) -> Levels {
        servers.iter().fold(Levels::NONE, |levels, server| levels.with(server.weight))
    }

    fn with(self, weight: u32) -> Levels {
        Levels { greatest: self.greatest.max(weight), divisor: gcd(weight, self.divisor) }
    }

    /// By how much the level falls after a pass.
    fn step(self) -> u32 {
        self.divisor.max(1)
    }

    /// The first level of a round; 0 when no server has a weight.
    fn top(self) -> u32 {
        self.greatest.saturating_sub(self.step() - 1)
    }

    /// What becomes of a level when the list changes to this one.
    fn keep(self, level: u32) -> u32 {
        if level == 0 || level > self.top() {
            self.top()
        } else if self.step() > 1 {
            level / self.step() * self.step() + 1
        } else {
            level
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Compiled {
    levels: Levels,
    /// The level of a worker that has not picked yet.
    level: u32,
    /// The last changes of the levels, each with the version that made it.
    log: Vec<(u32, Levels)>,
}

impl Compiled {
    pub(super) fn new(before: Option<&Compiled>, change: &Change<'_>) -> Compiled {
        let mut next = before.cloned().unwrap_or(Compiled { levels: Levels::NONE, level: 0, log: Vec::new() });
        // Each server came in by itself, the one that stands last first.
        let (came, stayed) = change.servers.split_at(change.added);
        let mut levels = Levels::of(stayed);
        next.reach(change.version, levels);
        for server in came.iter().rev() {
            levels = levels.with(server.weight);
            next.reach(change.version, levels);
        }
        next
    }

    fn reach(&mut self, version: u32, levels: Levels) {
        // Keeping a level twice is keeping it once.
        if levels != self.levels {
            self.levels = levels;
            self.level = levels.keep(self.level);
            push_bounded(&mut self.log, (version, levels));
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct State {
    /// Index of the server picked last; `None`: the list's head.
    cursor: Option<usize>,
    level: u32,
}

impl State {
    pub(super) fn new(compiled: &Compiled) -> State {
        State { cursor: None, level: compiled.level }
    }

    pub(super) fn follow(&mut self, compiled: &Compiled, _: &Service, from: u32) {
        self.cursor = None;
        for &(version, levels) in &compiled.log {
            if is_newer(version, from) {
                self.level = levels.keep(self.level);
            }
        }
        self.level = compiled.levels.keep(self.level);
    }

    /// The kernel walks down level by level; here the levels at which nobody can be picked are skipped,
    /// so that a pick looks at each server three times at most, whatever the weights.
    pub(super) fn pick(
        &mut self,
        compiled: &Compiled,
        service: &Service,
        _: &impl Loads,
        _: &Request,
        _: &mut Room,
    ) -> Option<usize> {
        let (top, step) = (compiled.levels.top(), compiled.levels.step());
        if top == 0 {
            return None;
        }
        let servers = &service.servers;
        let after = self.cursor.map_or(0, |cursor| cursor + 1);
        if let Some(found) = next(servers, after, self.level) {
            self.cursor = Some(found);
            return Some(found);
        }
        let Some(greatest) = servers.iter().filter(|s| s.takes_new()).map(|s| s.weight).max() else {
            // All are overloaded. A pass that was the round's last and did not begin at the head is taken back;
            // otherwise a new round begins.
            if self.cursor.is_none() || self.level > step {
                (self.cursor, self.level) = (None, top);
            }
            return None;
        };
        let below = if self.level > step { self.level - step } else { top };
        self.level = if below > greatest { greatest - (step - 1) } else { below };
        self.cursor = next(servers, 0, self.level);
        self.cursor
    }
}

/// The first server from index `from` on that is picked at `level`.
fn next(servers: &[Server], from: usize, level: u32) -> Option<usize> {
    let rest = servers.get(from..)?;
    Some(from + rest.iter().position(|server| server.weight >= level && server.takes_new())?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Idle, Op, apply, changed, ops, request, worker};
    use super::super::SchedulerKind;
    use super::*;

    /// The slow obvious twin: every level, every server, one step at a time.
    struct Walk {
        cursor: Option<usize>,
        level: u32,
    }

    impl Walk {
        fn changed(&mut self, servers: &[Server]) {
            self.cursor = None;
            self.level = Levels::of(servers).keep(self.level);
        }

        fn pick(&mut self, servers: &[Server]) -> Option<usize> {
            let levels = Levels::of(servers);
            if levels.top() == 0 {
                return None;
            }
            let start = (self.cursor, self.level);
            let mut from = self.cursor.map_or(0, |cursor| cursor + 1);
            let (mut is_new_round, mut was_last_pass) = (false, false);
            loop {
                for (index, server) in servers.iter().enumerate().skip(from) {
                    if server.takes_new() && server.weight >= self.level {
                        self.cursor = Some(index);
                        return self.cursor;
                    }
                    // Once round, back to where the search began.
                    if is_new_round && was_last_pass && Some(index) == start.0 {
                        return None;
                    }
                }
                self.level = self.level.saturating_sub(levels.step());
                if self.level == 0 {
                    self.level = levels.top();
                    if was_last_pass || start.0.is_none() {
                        self.cursor = None;
                        return None;
                    }
                    is_new_round = true;
                }
                was_last_pass = self.level <= levels.step();
                from = 0;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn skipping_levels_agrees_with_walking_down_them(ops in ops()) {
            let mut service = changed(None, SchedulerKind::Wrr, vec![]);
            let mut walk = Walk { cursor: None, level: 0 };
            let mut state = worker();
            for op in &ops {
                apply(&mut service, op, |service| walk.changed(&service.servers));
                if let Op::Pick = op {
                    let expected = walk.pick(&service.servers);
                    prop_assert_eq!(state.pick(&service, &Idle, &request()), expected);
                }
            }
        }
    }
}
