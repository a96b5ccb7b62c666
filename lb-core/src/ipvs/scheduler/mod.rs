//! Which real server gets a new connection: one file a scheduler, one row in the table.
//!
//! A scheduler has two halves. [`Compiled`] belongs to the [`Service`] and is made by the control plane whenever the
//! service changes (hash tables; for the round robins, what past changes do to a cursor). [`State`] belongs
//! to one worker and one service, outlives the snapshots, and is what a pick moves (cursors, caches). A pick
//! allocates nothing and may change its state alone.
//!
//! Each file holds its [`Facts`], `Compiled` with `new(&Change)`, and `State` with
//! - `new(&Compiled, version)`: a worker meets the service, or its scheduler was exchanged;
//! - `follow(&mut self, &Compiled, &Service, from)`: the service changed since version `from`;
//! - `pick(&mut self, &Compiled, &Service, &impl Loads, &Request, &mut Room)`: an index into `service.servers`.
//!
//! Who keeps nothing between picks has a [`Stateless`] of its name for `State` and says `pick` alone; a price a server is a [`Cost`].
//!
//! What needs memory that grows with the servers or with what passes is in the worker's [`Room`], of a fixed size and for all its services
//! together: lc, wlc, sed, nq, fo and ovf do not look at each server ([`cheapest`](super::cheapest)), lblc and lblcr remember
//! [`destinations`](super::destinations).
//!
//! # One worker and several
//! With one worker the picks are the kernel's, pick for pick. Each further worker has its own cursors: rr and wrr are
//! exact for each worker by itself, so that with `w` workers the counts of two servers of equal weight
//! differ by at most `w` (rr), or by a round's share of each worker (wrr). twos, and with up to 16 servers lc, wlc, sed, nq, fo
//! and ovf, look at the sums over all workers at each pick; they can miss what another worker bound in the same burst, 32 connections at
//! most. With more servers than that [`cheapest`](super::cheapest) says how far off the latter are. lblc and lblcr remember destinations
//! for each worker. dh, sh, mh and maglev keep nothing: all workers pick the same.

use std::marker::PhantomData;
use std::net::IpAddr;

use hashbrown::HashSet;

pub use maglev::{DEFAULT_SIZE as DEFAULT_TABLE_SIZE, MAX_SIZE as MAX_TABLE_SIZE, is_size as is_table_size};

use super::cheapest::{Cheapest, Price};
use super::destinations::Destinations;
use crate::ids::ServerId;
use crate::tables::{Server, Service, Services};
use crate::time::Tick;

/// A scheduler and what it is told (`ipvsadm -s … -b …`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scheduler {
    pub kind: SchedulerKind,
    pub flags: SchedulerFlags,
    /// maglev: places in its table ([`is_table_size`]).
    pub table_size: u32,
    /// Seconds in which a server that is added or comes back gets its full weight. Those who pick see weights
    /// alone: the control plane says them anew.
    pub warmup: u32,
}

/// Three flags that a scheduler may give a meaning to; sh and mh do to the first two, maglev to the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SchedulerFlags(u8);

impl SchedulerFlags {
    const FALLBACK: u8 = 1;
    const PORT: u8 = 2;
    /// What any scheduler takes, whether or not it means something to it.
    pub const PLAIN: [&'static str; 3] = ["flag-1", "flag-2", "flag-3"];

    /// When the server is quiesced or overloaded, another one is looked for (`sh-fallback`, `mh-fallback`).
    #[inline]
    pub fn fallback(self) -> bool {
        self.0 & Self::FALLBACK != 0
    }

    /// The client's port is hashed too (`sh-port`, `mh-port`, `maglev-port`).
    #[inline]
    pub fn port(self) -> bool {
        self.0 & Self::PORT != 0
    }

    /// Flags by their names, in any order.
    ///
    /// # Errors
    /// The first name that is none of `kind`'s.
    pub fn from_names<'n>(
        kind: SchedulerKind,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<SchedulerFlags, &'n str> {
        names.into_iter().try_fold(SchedulerFlags::default(), |flags, name| {
            let is_it = |all: [&str; 3]| all.iter().position(|&of_kind| of_kind == name);
            match is_it(kind.flag_names()).or_else(|| is_it(Self::PLAIN)) {
                Some(bit) => Ok(SchedulerFlags(flags.0 | 1 << bit)),
                None => Err(name),
            }
        })
    }

    /// As ipvsadm writes them.
    pub fn names(self, kind: SchedulerKind) -> impl Iterator<Item = &'static str> {
        kind.flag_names()
            .into_iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 & 1 << bit != 0)
            .map(|(_, name)| name)
    }
}

impl From<SchedulerKind> for Scheduler {
    fn from(kind: SchedulerKind) -> Scheduler {
        Scheduler { kind, flags: SchedulerFlags::default(), table_size: DEFAULT_TABLE_SIZE, warmup: 0 }
    }
}

/// Active and inactive connections of a real server, over all workers.
pub trait Loads {
    fn active(&self, server: ServerId) -> u64;
    fn inactive(&self, server: ServerId) -> u64;
    /// Other workers count too.
    fn is_shared(&self) -> bool;
}

/// What a scheduler may know of the packet that opens a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub client: (IpAddr, u16),
    pub virtual_: (IpAddr, u16),
    pub now: Tick,
}

/// Memory that one worker's schedulers share.
#[derive(Debug)]
struct Room {
    cheapest: Cheapest,
    destinations: Destinations,
}

/// A change of a service, as a scheduler sees it.
struct Change<'a> {
    /// The service's version after the change.
    version: u32,
    /// Places in the table of maglev.
    table_size: u32,
    /// The servers after the change.
    servers: &'a [Server],
    /// How many of them, from the head on, were added; 0 when the scheduler is new and the servers are not.
    added: usize,
    /// The servers removed, in the order of the list, each with the one that stood before it (`None`: the head).
    removed: Vec<(ServerId, Option<ServerId>)>,
}

impl<'a> Change<'a> {
    fn new(old: &[Server], servers: &'a [Server], version: u32, table_size: u32) -> Change<'a> {
        // What both lists end with did not change; mostly that is all but one server.
        let same = old.iter().rev().zip(servers.iter().rev()).take_while(|(a, b)| a.id == b.id).count();
        let (old, new) = (&old[..old.len() - same], &servers[..servers.len() - same]);
        let ids = |servers: &[Server]| -> HashSet<ServerId> { servers.iter().map(|s| s.id).collect() };
        let (were, are) = (ids(old), ids(new));
        let added = new.iter().take_while(|server| !were.contains(&server.id)).count();
        let mut removed = Vec::new();
        let mut before = None;
        for server in old {
            if are.contains(&server.id) {
                before = Some(server.id);
            } else {
                removed.push((server.id, before));
            }
        }
        Change { version, table_size, servers, added, removed }
    }
}

/// What is asked about a scheduler elsewhere.
struct Facts {
    /// What its three flags are called.
    flags: [&'static str; 3],
    /// It picks by a hash of the packet alone.
    is_stateless: bool,
    /// It remembers destinations.
    keeps_destinations: bool,
    warms: Warms,
}

impl Facts {
    /// Those of a scheduler that says nothing else.
    const USUAL: Facts = Facts {
        flags: SchedulerFlags::PLAIN,
        is_stateless: false,
        keeps_destinations: false,
        warms: Warms::Never,
    };
}

/// What a real server that comes gets little by little, where a service has a slow start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warms {
    /// Nothing: weights do not matter, or each step would move clients or have a standby take over.
    Never,
    /// Weights that are numbers of connections.
    Whole,
    /// Weights of which the ratios matter.
    Parts,
}

/// `State` of scheduler `S`, which keeps nothing from one pick to the next but what is in the worker's [`Room`].
#[derive(Clone, Debug)]
struct Stateless<S>(PhantomData<S>);

impl<S> Stateless<S> {
    fn new<C>(_: &C) -> Stateless<S> {
        Stateless(PhantomData)
    }

    fn follow<C>(&mut self, _: &C, _: &Service, _: u32) {}
}

/// A scheduler that picks the real server with the lowest price: all that is its own.
trait Cost {
    fn price(server: &Server, loads: &impl Loads) -> Price;
}

impl<S: Cost> Stateless<S> {
    #[inline]
    fn pick(
        &mut self,
        _: &Nothing,
        service: &Service,
        loads: &impl Loads,
        _: &Request,
        room: &mut Room,
    ) -> Option<usize> {
        room.cheapest.pick(service, loads, |server| S::price(server, loads))
    }
}

/// `Compiled` of a scheduler for which the control plane makes nothing.
#[derive(Clone, Debug)]
struct Nothing;

impl Nothing {
    fn new(_: Option<&Nothing>, _: &Change<'_>) -> Nothing {
        Nothing
    }
}

macro_rules! schedulers {
    ($($(#[$doc:meta])* $module:ident: $kind:ident,)*) => {
        $(mod $module;)*

        /// The schedulers' table.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum SchedulerKind { $($(#[$doc])* $kind,)* }

        impl SchedulerKind {
            pub const ALL: &'static [SchedulerKind] = &[$(SchedulerKind::$kind,)*];

            /// As in `ipvsadm -s`, in the config and in metric labels.
            pub const fn name(self) -> &'static str {
                match self { $(SchedulerKind::$kind => stringify!($module),)* }
            }

            const fn facts(self) -> &'static Facts {
                match self { $(SchedulerKind::$kind => &$module::FACTS,)* }
            }
        }

        #[derive(Clone, Debug)]
        enum CompiledKind { $($kind($module::Compiled),)* }

        impl CompiledKind {
            fn new(kind: SchedulerKind, before: Option<&CompiledKind>, change: &Change<'_>) -> CompiledKind {
                match kind {
                    $(SchedulerKind::$kind => {
                        let before = match before {
                            Some(CompiledKind::$kind(before)) => Some(before),
                            _ => None,
                        };
                        CompiledKind::$kind($module::Compiled::new(before, change))
                    })*
                }
            }
        }

        #[derive(Clone, Debug)]
        enum StateKind { $($kind($module::State),)* }

        impl StateKind {
            fn new(compiled: &CompiledKind) -> StateKind {
                match compiled {
                    $(CompiledKind::$kind(compiled) => StateKind::$kind($module::State::new(compiled)),)*
                }
            }

            /// False when the state is another scheduler's.
            fn follow(&mut self, compiled: &CompiledKind, service: &Service, from: u32) -> bool {
                match (self, compiled) {
                    $((StateKind::$kind(state), CompiledKind::$kind(compiled)) => {
                        state.follow(compiled, service, from);
                        true
                    })*
                    _ => false,
                }
            }

            #[inline]
            fn pick(
                &mut self,
                compiled: &CompiledKind,
                service: &Service,
                loads: &impl Loads,
                request: &Request,
                room: &mut Room,
            ) -> Option<usize> {
                match (self, compiled) {
                    $((StateKind::$kind(state), CompiledKind::$kind(compiled)) => {
                        state.pick(compiled, service, loads, request, room)
                    })*
                    _ => None,
                }
            }
        }
    };
}

schedulers! {
    /// Round robin.
    rr: Rr,
    /// Weighted round robin.
    wrr: Wrr,
    /// Least connections.
    lc: Lc,
    /// Weighted least connections.
    wlc: Wlc,
    /// Locality-based least connections.
    lblc: Lblc,
    /// Locality-based least connections with replication.
    lblcr: Lblcr,
    /// Destination hashing.
    dh: Dh,
    /// Source hashing.
    sh: Sh,
    /// Shortest expected delay.
    sed: Sed,
    /// Never queue.
    nq: Nq,
    /// Weighted failover.
    fo: Fo,
    /// Weighted overflow.
    ovf: Ovf,
    /// Maglev hashing.
    mh: Mh,
    /// Maglev hashing for several directors.
    maglev: Maglev,
    /// Power of two choices.
    twos: Twos,
    /// No scheduler: no new connection.
    none: NoScheduler,
}

impl SchedulerKind {
    pub fn from_name(name: &str) -> Option<SchedulerKind> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether it picks by a hash of the packet alone.
    pub(crate) fn is_stateless(self) -> bool {
        self.facts().is_stateless
    }

    /// Whether it remembers destinations.
    pub(crate) fn keeps_destinations(self) -> bool {
        self.facts().keeps_destinations
    }

    /// What its three flags are called.
    pub fn flag_names(self) -> [&'static str; 3] {
        self.facts().flags
    }

    pub fn warms(self) -> Warms {
        self.facts().warms
    }
}

/// The half of a scheduler that the control plane makes.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The version of the service since which this scheduler has been its own.
    epoch: u32,
    kind: CompiledKind,
}

impl Compiled {
    /// What `new` needs, after a change from `old`, or as a new service.
    pub(crate) fn new(
        old: Option<&Service>,
        scheduler: Scheduler,
        servers: &[Server],
        version: u32,
    ) -> Compiled {
        let kind = scheduler.kind;
        let same = old.filter(|old| old.scheduler == kind);
        let before = same.map_or(&[][..], |old| &old.servers);
        let mut change = Change::new(before, servers, version, scheduler.table_size);
        if old.is_some() && same.is_none() {
            change.added = 0;
        }
        Compiled {
            epoch: same.map_or(version, |old| old.compiled().epoch),
            kind: CompiledKind::new(kind, same.map(|old| &old.compiled().kind), &change),
        }
    }
}

/// The half of a scheduler that one worker keeps for one service.
#[derive(Clone, Debug, Default)]
struct State {
    epoch: u32,
    version: u32,
    kind: Option<StateKind>,
}

impl State {
    #[inline]
    fn pick(
        &mut self,
        service: &Service,
        loads: &impl Loads,
        request: &Request,
        room: &mut Room,
    ) -> Option<usize> {
        let compiled = service.compiled();
        if self.kind.is_none() || self.version != service.version || self.epoch != compiled.epoch {
            self.catch_up(service);
        }
        self.kind.as_mut()?.pick(&compiled.kind, service, loads, request, room)
    }

    #[cold]
    fn catch_up(&mut self, service: &Service) {
        let compiled = service.compiled();
        let followed = match &mut self.kind {
            Some(kind) if self.epoch == compiled.epoch => kind.follow(&compiled.kind, service, self.version),
            _ => false,
        };
        if !followed {
            self.kind = Some(StateKind::new(&compiled.kind));
        }
        self.epoch = compiled.epoch;
        self.version = service.version;
    }
}

/// What one worker's schedulers keep.
#[derive(Debug)]
pub struct States {
    /// By [`ServiceId`](crate::ids::ServiceId).
    states: Vec<State>,
    room: Room,
}

impl States {
    /// `servers` bounds [`ServerId`].
    pub fn new(servers: usize) -> States {
        let room = Room { cheapest: Cheapest::new(servers), destinations: Destinations::default() };
        States { states: Vec::new(), room }
    }

    /// Makes room for these services. Allocates, if need be: to be called when tables are adopted.
    pub fn make_room(&mut self, services: &Services) {
        self.resize(services.id_bound());
        if services.keep_destinations() {
            self.room.destinations.make_room();
        }
    }

    /// Makes room for ids below `services`.
    pub fn resize(&mut self, services: usize) {
        if services > self.states.len() {
            self.states.resize_with(services, State::default);
            self.room.cheapest.resize(services);
        }
    }

    /// The index in `service.servers` of the server that gets a new connection; `None` when no server takes any, or
    /// when there is no room for the service.
    #[inline]
    pub fn pick(&mut self, service: &Service, loads: &impl Loads, request: &Request) -> Option<usize> {
        self.states.get_mut(service.id.index())?.pick(service, loads, request, &mut self.room)
    }

    /// This worker changed what [`Loads`] says of a server, or whether it is overloaded.
    #[inline]
    pub fn touch(&mut self, server: ServerId) {
        self.room.cheapest.touch(server);
    }
}

/// The greatest common divisor; of 0 and a number, that number.
fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// True when this version came after `other`; versions wrap.
fn is_newer(version: u32, other: u32) -> bool {
    version != other && version.wrapping_sub(other) <= u32::MAX / 2
}

/// How many past changes are remembered for workers that have not seen a new connection since.
const LOG: usize = 64;

/// Appends, at the cost of the oldest.
fn push_bounded<T>(log: &mut Vec<T>, entry: T) {
    if log.len() == LOG {
        log.remove(0);
    }
    log.push(entry);
}

#[cfg(test)]
mod tests;
