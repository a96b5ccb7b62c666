//! Which real server gets a new connection: the schedulers, as the kernel defines them, one step at a time. Those that hash are in
//! [`hashing`]. The chance of twos is a definition of the path's, done again here. So few destinations are asked for that none is
//! forgotten for lack of room.

use std::net::IpAddr;

use hashbrown::HashMap;
use lb_core::flow::Tuple;
use lb_core::ids::{ServerId, ServiceId};
use lb_core::ipvs::SchedulerKind;
use lb_core::tables::{Server, Service};
use lb_core::time::Tick;

use super::hashing::{self, Maglev};
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
    /// mh and maglev: the table.
    maglev: Maglev,
    /// twos: what it picked so far.
    picks: u32,
    /// lblc and lblcr: which servers a destination has.
    destinations: HashMap<IpAddr, Destination>,
}

#[derive(Clone, Debug)]
struct Destination {
    used: Tick,
    changed: Tick,
    /// The newest first.
    servers: Vec<ServerId>,
}

/// Seconds after which a destination that nobody asks for is forgotten, and a set that does not change loses a server.
const DAY: u32 = 86_400;
/// Servers of one destination.
const SET: usize = 16;

fn seconds_since(now: Tick, then: Tick) -> f64 {
    f64::from(now.0.wrapping_sub(then.0)) / f64::from(Tick::PER_SECOND)
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
    pub(super) fn pick(
        &mut self,
        team: &Team,
        shared: &Shared,
        service: &Service,
        packet: &Tuple,
        now: Tick,
    ) -> Option<usize> {
        self.follow(shared.history(service.id, service.version));
        let servers = &service.servers;
        let takes_new = |server: &Server| server.weight > 0 && !shared.is_overloaded(server);
        match service.scheduler {
            SchedulerKind::Rr => self.round_robin(servers, takes_new),
            SchedulerKind::Wrr => self.weighted_round_robin(servers, takes_new),
            SchedulerKind::Lc => least(servers, takes_new, |server| (load(team, server), 1)),
            SchedulerKind::Wlc => least(servers, takes_new, |server| (load(team, server), server.weight)),
            SchedulerKind::Lblc => self.locality(team, servers, packet.dst, now, takes_new),
            SchedulerKind::Lblcr => self.replicated_locality(team, servers, packet.dst, now, takes_new),
            SchedulerKind::Sed => least(servers, takes_new, |server| delay(team, server)),
            SchedulerKind::Nq => {
                let is_idle = |server: &Server| takes_new(server) && team.connections(server.id).0 == 0;
                let idle = servers.iter().position(is_idle);
                idle.or_else(|| least(servers, takes_new, |server| delay(team, server)))
            }
            SchedulerKind::Fo => heaviest(servers, takes_new),
            SchedulerKind::Ovf => heaviest(servers, |server| {
                takes_new(server) && team.connections(server.id).0 <= u64::from(server.weight)
            }),
            SchedulerKind::Dh => hashing::destination(service, packet, takes_new),
            SchedulerKind::Sh => hashing::source(service, packet, takes_new),
            SchedulerKind::Mh => self.maglev.pick(service, packet, takes_new),
            SchedulerKind::Maglev => self.maglev.pick_canonical(service, packet, takes_new),
            SchedulerKind::Twos => self.two_choices(team, servers, packet, takes_new),
            SchedulerKind::NoScheduler => None,
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
                Step::Begin => {
                    (self.cursor, self.level, self.picks) = (None, 0, 0);
                    self.destinations.clear();
                    self.maglev = Maglev::default();
                }
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

    /// Two tickets are drawn, of which each server has as many as its weight says; the less loaded wins.
    fn two_choices(
        &mut self,
        team: &Team,
        servers: &[Server],
        packet: &Tuple,
        takes_new: impl Fn(&Server) -> bool,
    ) -> Option<usize> {
        let weight = |server: &Server| u128::from(server.weight);
        let left = |server: &Server| if takes_new(server) { weight(server) } else { 0 };
        if servers.iter().map(weight).sum::<u128>() == 0 {
            return None;
        }
        self.picks = self.picks.wrapping_add(1);
        let client = u64::from(hashing::folded(packet.src)) * 65536 + u64::from(packet.sport);
        let mut chance = client.rotate_left(16) ^ (u64::from(self.picks) << 32);
        let mut holder = |tickets: &dyn Fn(&Server) -> u128| {
            chance = hashing::mixed(chance);
            let ticket = u128::from(chance) * servers.iter().map(tickets).sum::<u128>() / (1 << 64);
            let upto = |index: usize| servers[..=index].iter().map(tickets).sum::<u128>();
            (0..servers.len()).find(|&index| ticket < upto(index))
        };
        // Eight times of all that have a weight, then of those that take connections.
        let mut draw = || {
            let drawn = (0..8).find_map(|_| holder(&weight).filter(|&index| takes_new(&servers[index])));
            drawn.or_else(|| holder(&left))
        };
        let (first, second) = (draw()?, draw()?);
        let (a, b) = (&servers[first], &servers[second]);
        let is_second = u128::from(load(team, b)) * u128::from(a.weight)
            < u128::from(load(team, a)) * u128::from(b.weight);
        Some(if is_second { second } else { first })
    }

    /// The server that the destination had, unless it is of no use any more; then the one that wlc picks.
    fn locality(
        &mut self,
        team: &Team,
        servers: &[Server],
        destination: IpAddr,
        now: Tick,
        takes_new: impl Fn(&Server) -> bool,
    ) -> Option<usize> {
        self.forget_old(now);
        if let Some(known) = self.destinations.get_mut(&destination) {
            known.used = now;
            let had = servers.iter().position(|server| server.id == known.servers[0]);
            if let Some(had) = had.filter(|&had| takes_new(&servers[had]) && !is_busy(team, servers, had)) {
                return Some(had);
            }
        }
        let picked = least(servers, takes_new, |server| (load(team, server), server.weight))?;
        let known = Destination { used: now, changed: now, servers: vec![servers[picked].id] };
        self.destinations.insert(destination, known);
        Some(picked)
    }

    /// As [`Place::locality`], among the servers that the destination has.
    fn replicated_locality(
        &mut self,
        team: &Team,
        servers: &[Server],
        destination: IpAddr,
        now: Tick,
        takes_new: impl Fn(&Server) -> bool,
    ) -> Option<usize> {
        self.forget_old(now);
        let for_weight = |server: &Server| (load(team, server), server.weight);
        let new = Destination { used: now, changed: now, servers: Vec::new() };
        let known = self.destinations.get(&destination).cloned();
        let mut known = known.unwrap_or(new);
        known.used = now;
        let find = |id: &ServerId| servers.iter().find(|server| server.id == *id);
        let members: Vec<Server> = known.servers.iter().filter_map(find).cloned().collect();
        let least_member = least(&members, &takes_new, for_weight)
            .and_then(|member| servers.iter().position(|server| server.id == members[member].id));
        let most_loaded = |known: &Destination| {
            let gone = known.servers.iter().rposition(|id| find(id).is_none());
            gone.or_else(|| {
                let loads = known.servers.iter().filter_map(find).map(for_weight);
                let mut most: Option<(usize, u64, u32)> = None;
                for (at, (load, weight)) in loads.enumerate() {
                    let is_more = |(_, most, of): (usize, u64, u32)| {
                        u128::from(load) * u128::from(of) > u128::from(most) * u128::from(weight)
                    };
                    if weight > 0 && most.is_none_or(is_more) {
                        most = Some((at, load, weight));
                    }
                }
                most.map(|(at, ..)| at)
            })
        };
        if known.servers.len() > 1
            && seconds_since(now, known.changed) > f64::from(DAY)
            && let Some(leaves) = most_loaded(&known)
        {
            known.servers.remove(leaves);
            known.changed = now;
        }
        let mut picked = least_member.filter(|&member| !is_busy(team, servers, member));
        if picked.is_none() {
            picked = least(servers, takes_new, for_weight);
            if let Some(comes) =
                picked.map(|picked| servers[picked].id).filter(|id| !known.servers.contains(id))
            {
                if known.servers.len() == SET
                    && let Some(leaves) = most_loaded(&known)
                {
                    known.servers.remove(leaves);
                }
                known.servers.insert(0, comes);
                known.changed = now;
            }
        }
        if !known.servers.is_empty() {
            self.destinations.insert(destination, known);
        }
        picked
    }

    fn forget_old(&mut self, now: Tick) {
        self.destinations.retain(|_, known| seconds_since(now, known.used) < f64::from(DAY));
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
        // The others have no place in a round.
        _ => {}
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

/// The least cost for its weight; of several, the first. `cost` gives both.
fn least(
    servers: &[Server],
    takes_new: impl Fn(&Server) -> bool,
    cost: impl Fn(&Server) -> (u64, u32),
) -> Option<usize> {
    let mut best: Option<(usize, u128, u128)> = None;
    for (index, server) in servers.iter().enumerate() {
        if !takes_new(server) {
            continue;
        }
        let (cost, weight) = cost(server);
        let (cost, weight) = (u128::from(cost), u128::from(weight));
        if best.is_none_or(|(_, best_cost, best_weight)| cost * best_weight < best_cost * weight) {
            best = Some((index, cost, weight));
        }
    }
    best.map(|(index, ..)| index)
}

/// It has more active connections than its weight, and another one less than half as many as its own.
fn is_busy(team: &Team, servers: &[Server], index: usize) -> bool {
    let active = |server: &Server| team.connections(server.id).0;
    active(&servers[index]) > servers[index].weight.into()
        && servers.iter().any(|other| 2 * active(other) < other.weight.into())
}

/// An active connection counts 256 times as much, and once more as any.
fn load(team: &Team, server: &Server) -> u64 {
    let (active, inactive) = team.connections(server.id);
    active * 256 + active + inactive
}

/// sed and nq: active connections, the new one counted in, and the weight.
fn delay(team: &Team, server: &Server) -> (u64, u32) {
    (team.connections(server.id).0 + 1, server.weight)
}

/// The greatest weight; of several, the first.
fn heaviest(servers: &[Server], is_eligible: impl Fn(&Server) -> bool) -> Option<usize> {
    let eligible = || servers.iter().filter(|&server| is_eligible(server));
    let greatest = eligible().map(|server| server.weight).max()?;
    servers.iter().position(|server| is_eligible(server) && server.weight == greatest)
}

/// When a real server is full: `ipvsadm -x` and `-y`.
pub(super) fn after_bind(team: &Team, server: &Server) {
    let (active, inactive) = team.connections(server.id);
    if server.upper_threshold > 0 && active.wrapping_add(inactive) >= u64::from(server.upper_threshold) {
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
        0 => active.wrapping_add(inactive).wrapping_mul(4) < 3 * u64::from(server.upper_threshold),
        lower => active.wrapping_add(inactive) < u64::from(lower),
    };
    if is_below {
        team.shared().set_overloaded(server, false);
    }
}

/// One worker's places, by service.
#[derive(Debug, Default)]
pub(super) struct Places(hashbrown::HashMap<ServiceId, Place>);

impl Places {
    pub(super) fn pick(
        &mut self,
        team: &Team,
        service: &Service,
        packet: &Tuple,
        now: Tick,
    ) -> Option<usize> {
        let shared = team.shared();
        self.0.entry(service.id).or_default().pick(team, &shared, service, packet, now)
    }
}
