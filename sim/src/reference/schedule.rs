//! Which real server gets a new connection: the four schedulers, as the kernel defines them, one step at a time.

use lb_core::ids::{ServerId, ServiceId};
use lb_core::ipvs::SchedulerKind;
use lb_core::tables::{Server, Service};

use super::team::{Comes, Edition, Shared, Team};

/// One worker's place in the rounds of one service.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Editions of the service that it has followed.
    followed: usize,
    /// rr and wrr: the server picked last; `None`: the list's head.
    cursor: Option<ServerId>,
    /// wrr: servers of this weight or more are picked in this pass.
    level: u32,
}

/// What a change of a list of servers means to a place.
enum Step {
    /// The service, or its scheduler, is new.
    Begin,
    /// rr: a server went, and which one stood before it that did not.
    Gone(ServerId, Option<ServerId>),
    /// wrr: the weights say this.
    Levels(Levels),
}

/// Steps that a place can catch up with; of more, the oldest are forgotten.
const REMEMBERED: usize = 64;

impl Place {
    pub(super) fn pick(&mut self, team: &Team, shared: &Shared, service: &Service) -> Option<usize> {
        self.follow(shared.history(service.id, service.version));
        let servers = &service.servers;
        let takes_new = |server: &Server| server.weight > 0 && !shared.is_overloaded(server);
        match service.scheduler {
            SchedulerKind::Rr => self.round_robin(servers, takes_new),
            SchedulerKind::Wrr => self.weighted_round_robin(servers, takes_new),
            SchedulerKind::Lc => least(team, servers, takes_new, |_| 1),
            SchedulerKind::Wlc => least(team, servers, takes_new, |server| server.weight),
        }
    }

    /// Catches up with all editions that it has not followed yet.
    fn follow(&mut self, history: &[Edition]) {
        if self.followed >= history.len() {
            return;
        }
        let is_first = self.followed == 0;
        let mut steps = Vec::new();
        for (number, edition) in history.iter().enumerate().skip(self.followed) {
            let before = number.checked_sub(1).map(|number| &history[number]);
            steps_of(before, edition, &mut steps);
        }
        self.followed = history.len();
        let begin = steps.iter().rposition(|step| matches!(step, Step::Begin));
        let known = if is_first || begin.is_some() {
            // Who meets a service (again) finds in it what all its past makes of a place.
            begin.unwrap_or(0)
        } else {
            steps.len().saturating_sub(REMEMBERED)
        };
        for step in steps.drain(known..) {
            match step {
                Step::Begin => (self.cursor, self.level) = (None, 0),
                Step::Gone(server, before) if self.cursor == Some(server) => self.cursor = before,
                Step::Gone(..) => {}
                Step::Levels(levels) => (self.cursor, self.level) = (None, levels.keep(self.level)),
            }
        }
        if history.last().is_some_and(|edition| edition.scheduler == SchedulerKind::Wrr) {
            // Any change sends it to the head, also one that leaves the levels as they were.
            self.cursor = None;
        }
    }

    /// The next one in the list, round and round.
    fn round_robin(&mut self, servers: &[Server], takes_new: impl Fn(&Server) -> bool) -> Option<usize> {
        let last = servers.iter().position(|server| Some(server.id) == self.cursor);
        let first = last.map_or(0, |last| last + 1);
        let order = (first..servers.len()).chain(0..first);
        let picked = order.into_iter().find(|&index| takes_new(&servers[index]))?;
        self.cursor = Some(servers[picked].id);
        Some(picked)
    }

    /// A pass over the list picks all of a weight at the level or above it; each pass is a step lower, until the round is over.
    fn weighted_round_robin(
        &mut self,
        servers: &[Server],
        takes_new: impl Fn(&Server) -> bool,
    ) -> Option<usize> {
        let levels = Levels::of(servers.iter().map(|server| server.weight));
        if levels.top() == 0 {
            return None;
        }
        let Some(heaviest) =
            servers.iter().filter(|&server| takes_new(server)).map(|server| server.weight).max()
        else {
            // All overloaded. The kernel gives up once all have been looked at at the lowest level: in this pass if it began at
            // the head and above the lowest, else back where it began.
            if self.cursor.is_none() || self.level > levels.step() {
                (self.cursor, self.level) = (None, levels.top());
            }
            return None;
        };
        let last = servers.iter().position(|server| Some(server.id) == self.cursor);
        let mut first = last.map_or(0, |last| last + 1);
        loop {
            let at_level =
                |index: &usize| servers[*index].weight >= self.level && takes_new(&servers[*index]);
            if let Some(picked) = (first..servers.len()).find(at_level) {
                self.cursor = Some(servers[picked].id);
                return Some(picked);
            }
            first = 0;
            self.level = if self.level > levels.step() { self.level - levels.step() } else { levels.top() };
            // At the levels above the heaviest that takes connections there is nobody: they are not walked through.
            self.level = self.level.min(heaviest - (levels.step() - 1));
        }
    }
}

fn steps_of(before: Option<&Edition>, edition: &Edition, steps: &mut Vec<Step>) {
    let old: &[(ServerId, u32)] = match edition.comes {
        Comes::Changed => before.map_or(&[], |before| &before.servers),
        Comes::New | Comes::Rescheduled => {
            steps.push(Step::Begin);
            &[]
        }
    };
    match edition.scheduler {
        SchedulerKind::Rr => {
            let mut stays_before = None;
            for &(id, _) in old {
                if edition.servers.iter().any(|server| server.0 == id) {
                    stays_before = Some(id);
                } else {
                    steps.push(Step::Gone(id, stays_before));
                }
            }
        }
        SchedulerKind::Wrr => {
            // New ones come in at the head one by one, the last of them first.
            let is_new = |id: ServerId| old.iter().all(|server| server.0 != id);
            let added = match edition.comes {
                Comes::Rescheduled => 0,
                _ => edition.servers.iter().take_while(|server| is_new(server.0)).count(),
            };
            let mut last = Levels::of(old.iter().map(|server| server.1));
            for first in (0..=added).rev() {
                let levels = Levels::of(edition.servers[first..].iter().map(|server| server.1));
                if levels != last {
                    steps.push(Step::Levels(levels));
                }
                last = levels;
            }
        }
        SchedulerKind::Lc | SchedulerKind::Wlc => {}
    }
}

/// The levels of a wrr round: from the greatest weight down, by the weights' greatest common divisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Levels {
    greatest: u32,
    divisor: u32,
}

impl Levels {
    fn of(weights: impl Iterator<Item = u32>) -> Levels {
        weights.fold(Levels { greatest: 0, divisor: 0 }, |levels, weight| Levels {
            greatest: levels.greatest.max(weight),
            divisor: greatest_common_divisor(levels.divisor, weight),
        })
    }

    fn step(self) -> u32 {
        self.divisor.max(1)
    }

    fn top(self) -> u32 {
        if self.greatest == 0 { 0 } else { self.greatest - self.step() + 1 }
    }

    /// A change of the weights keeps the level, if there is still such a one.
    fn keep(self, level: u32) -> u32 {
        if level == 0 || level > self.top() {
            return self.top();
        }
        if self.step() == 1 { level } else { level - level % self.step() + 1 }
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The fewest connections for its weight; of several, the first. An active connection counts 256 times as much, and once more as any.
fn least(
    team: &Team,
    servers: &[Server],
    takes_new: impl Fn(&Server) -> bool,
    weight: impl Fn(&Server) -> u32,
) -> Option<usize> {
    let mut best: Option<(usize, u128, u128)> = None;
    for (index, server) in servers.iter().enumerate() {
        if !takes_new(server) {
            continue;
        }
        let (active, inactive) = team.connections(server.id);
        let (load, weight) = (u128::from(active * 256 + active + inactive), u128::from(weight(server)));
        if best.is_none_or(|(_, best_load, best_weight)| load * best_weight < best_load * weight) {
            best = Some((index, load, weight));
        }
    }
    best.map(|(index, ..)| index)
}

/// When a real server is full: `ipvsadm -x` and `-y`.
pub(super) fn after_bind(team: &Team, server: &Server) {
    let (active, inactive) = team.connections(server.id);
    if server.upper_threshold > 0 && active + inactive >= u64::from(server.upper_threshold) {
        team.shared().set_overloaded(server, true);
    }
}

/// A connection of it ended.
pub(super) fn after_unbind(team: &Team, server: &Server) {
    if server.upper_threshold == 0 {
        return;
    }
    let (active, inactive) = team.connections(server.id);
    // Without a lower threshold, three quarters of the upper one.
    let is_below = match server.lower_threshold {
        0 => 4 * (active + inactive) < 3 * u64::from(server.upper_threshold),
        lower => active + inactive < u64::from(lower),
    };
    if is_below {
        team.shared().set_overloaded(server, false);
    }
}

/// One worker's places, by service.
#[derive(Debug, Default)]
pub(super) struct Places(hashbrown::HashMap<ServiceId, Place>);

impl Places {
    pub(super) fn pick(&mut self, team: &Team, service: &Service) -> Option<usize> {
        let shared = team.shared();
        self.0.entry(service.id).or_default().pick(team, &shared, service)
    }
}
