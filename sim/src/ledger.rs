//! Which real server each client endpoint was brought to, as seen from outside: what the director may not change as long
//! as the connection lives.
//!
//! What a packet does to a connection, it does when its owner looks it up, and a worker looks packets up one after the other. So each
//! packet has the [`Moment`] at which it was looked up last, and the ledger goes by these: however long a packet waited before, or waits
//! after, nothing else is excused by it than what came after it there.

use lb_core::time::Tick;

use crate::invariants::name;
use crate::map::Map;
use crate::violation::{Checked, hold};

/// A client's endpoint and the virtual service that it speaks to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    pub client: u32,
    pub port: u16,
    pub place: u16,
}

impl Key {
    pub fn is_tcp(&self) -> bool {
        // Places of TCP are even.
        self.place.is_multiple_of(2)
    }
}

/// When a worker looked a packet up: numbers grow from 1 on, 0 is never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    pub number: u64,
    pub at: Tick,
}

/// What a packet may do to the connection that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    Nothing,
    /// Begins it, if the director does not know it.
    Opens,
    /// Begins one, in whatever state, if the director does not know it: where any segment does. Else it may end it.
    MayOpen {
        ends: bool,
    },
    /// Ends it: a client's.
    Ends,
    /// Ends it if this server is its server.
    EndsAt(u32),
}

/// Why connections ended before their time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Early {
    /// They went for new ones: half-open ones may.
    pub made_room: bool,
    /// Their real server was removed.
    pub are_bereft: bool,
}

#[derive(Clone, Copy, Debug)]
struct Binding {
    key: Key,
    /// `None`: nothing is known.
    server: Option<u32>,
    /// When a packet was last looked up that came out.
    last: Tick,
    /// The lookup with which this life began.
    since: u64,
    /// The last lookup that may have begun a life. After `since`: nothing has come out of that life yet, so that its server is not known.
    opened: u64,
    /// The last lookup that may have ended a life; [`UNKNOWN`] until the next life begins.
    ended: u64,
    is_established: bool,
    /// While nothing is kept of it, as a hash names its server: by which tables that was last.
    by_hash: Option<Hashed>,
    /// The client's endpoint, by whatever service.
    group: u32,
}

#[derive(Clone, Copy, Debug)]
struct Hashed {
    generation: u32,
    /// What [`Binding::opened`] is as long as these tables are used: what they name does not change.
    opened: u64,
}

impl Binding {
    fn is_unknown(&self) -> bool {
        self.opened > self.since
    }

    /// Its ends have not agreed yet.
    fn is_half_open(&self) -> bool {
        self.key.is_tcp() && !self.is_established
    }

    fn is_live(&self, now: Tick, shortest: Shortest) -> bool {
        let timeout = match (self.key.is_tcp(), self.is_established) {
            (true, true) => shortest.tcp,
            (true, false) => SETTING_UP.min(shortest.tcp),
            (false, _) => shortest.udp,
        };
        let is_over = self.ended > self.since;
        // What was looked up before the last one may come out after it.
        let is_in_time = self.last.is_at_or_after(now) || now.since(self.last) < timeout;
        self.server.is_some() && self.by_hash.is_none() && !self.is_unknown() && !is_over && is_in_time
    }

    fn touch(&mut self, now: Tick) {
        if now.is_at_or_after(self.last) {
            self.last = now;
        }
    }
}

/// Shortest timeouts that any table in use may have had, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Shortest {
    pub tcp: u32,
    pub udp: u32,
}

/// Later than any lookup.
const UNKNOWN: u64 = u64::MAX;

/// A TCP connection that is not established yet lives a minute at least.
const SETTING_UP: u32 = 60 * Tick::PER_SECOND;

#[derive(Clone, Default)]
pub struct Ledger {
    bindings: Vec<Binding>,
    by_key: Map<Key, u32>,
    /// Bindings of one client endpoint, transport and family.
    groups: Vec<Vec<u32>>,
    by_endpoint: Map<(u32, u16, u16), u32>,
    /// Number of the last lookup.
    latest: u64,
    /// In the turn whose lookups are told, half-open connections went for new ones: each of them may have.
    pub makes_room: bool,
}

impl Ledger {
    /// The place of this endpoint's entry.
    pub fn open(&mut self, key: Key) -> u32 {
        if let Some(&at) = self.by_key.get(&key) {
            return at;
        }
        let at = self.bindings.len() as u32;
        let groups = &mut self.groups;
        // Places of one transport and family are the same modulo 4.
        let group = *self.by_endpoint.entry((key.client, key.port, key.place % 4)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() as u32 - 1
        });
        groups[group as usize].push(at);
        self.bindings.push(Binding {
            key,
            server: None,
            last: Tick(0),
            since: 0,
            opened: 0,
            ended: 0,
            is_established: false,
            by_hash: None,
            group,
        });
        self.by_key.insert(key, at);
        at
    }

    /// A packet of the connection was looked up; it may have been dropped then. Each is told, in the order of their moments.
    pub fn looked_up(&mut self, at: u32, effect: Effect, moment: Moment, shortest: Shortest) {
        self.latest = moment.number;
        let Some(binding) = self.bindings.get_mut(at as usize) else { return };
        let may_be_gone = self.makes_room && binding.is_half_open();
        let is_live = binding.is_live(moment.at, shortest) && !may_be_gone;
        match effect {
            Effect::Nothing => {}
            Effect::Ends => binding.ended = moment.number,
            Effect::EndsAt(server) => {
                if binding.is_unknown() || binding.server == Some(server) {
                    binding.ended = moment.number;
                }
            }
            Effect::Opens if is_live => {}
            Effect::MayOpen { ends } if is_live => {
                if ends {
                    binding.ended = moment.number;
                }
            }
            Effect::Opens | Effect::MayOpen { .. } => {
                binding.opened = moment.number;
                match effect {
                    // It may as well be the last of one that is over.
                    Effect::MayOpen { .. } => binding.ended = UNKNOWN,
                    _ if binding.ended == UNKNOWN => binding.ended = 0,
                    _ => {}
                }
                // If it comes to the real server of another connection of the client's endpoint, that one ends: the server could
                // not tell them apart.
                for &other in &self.groups[binding.group as usize] {
                    if other != at {
                        self.bindings[other as usize].ended = moment.number;
                    }
                }
            }
        }
    }

    /// The director is another one, which has the connections that `has` says. Returns one that lives and is not there.
    pub fn keep(&mut self, has: impl Fn(&Key) -> bool, now: Tick, shortest: Shortest) -> Option<Key> {
        let mut lost = None;
        for binding in self.bindings.iter_mut().filter(|binding| !has(&binding.key)) {
            if binding.is_live(now, shortest) {
                lost.get_or_insert(binding.key);
            }
            (binding.server, binding.opened, binding.by_hash) = (None, 0, None);
        }
        lost
    }

    /// Connections ended before their time; the director has those that `has` says. Returns one that had no reason to, lives and is not there.
    pub fn ended_early(
        &mut self,
        has: impl Fn(&Key) -> bool,
        Early { made_room, are_bereft }: Early,
        is_removed: impl Fn(&Key, u32) -> bool,
        now: Tick,
        shortest: Shortest,
    ) -> Option<Key> {
        let mut lost = None;
        for binding in self.bindings.iter_mut().filter(|binding| !has(&binding.key)) {
            let is_removed =
                are_bereft && binding.server.is_some_and(|server| is_removed(&binding.key, server));
            let may_go = is_removed || made_room && binding.is_half_open();
            if binding.is_live(now, shortest) && !may_go {
                lost.get_or_insert(binding.key);
            }
            // Also one that began in this very turn, of which nothing has come out yet.
            let may_have_gone = made_room && binding.key.is_tcp() || are_bereft && binding.is_unknown();
            if is_removed || may_have_gone {
                binding.ended = binding.ended.max(self.latest + 1);
            }
        }
        lost
    }

    /// A client's packet went by hash alone, by the tables of this generation.
    ///
    /// # Errors
    /// When its connection must have been known.
    pub fn went_by_hash(&mut self, at: u32, moment: Moment, generation: u32, shortest: Shortest) -> Checked {
        let Some(binding) = self.bindings.get_mut(at as usize) else { return Ok(()) };
        hold!(
            !binding.is_live(moment.at, shortest),
            name::KEPT,
            "{:?} lived and is not kept any more, as it goes by hash",
            binding.key
        );
        let before = binding.by_hash.filter(|before| before.generation == generation);
        let hashed = before.unwrap_or(Hashed { generation, opened: moment.number });
        (binding.by_hash, binding.opened) = (Some(hashed), hashed.opened);
        Ok(())
    }

    /// The connection of a client's packet is kept. If it went by hash alone before, this packet began it for the director; it lives, if `is_sure`.
    pub fn is_kept(&mut self, at: u32, moment: Moment, is_sure: bool) {
        if let Some(binding) = self.bindings.get_mut(at as usize)
            && binding.by_hash.take().is_some()
        {
            binding.opened = binding.opened.max(moment.number);
            if !is_sure {
                binding.ended = UNKNOWN;
            }
        }
    }

    pub fn key(&self, at: u32) -> Option<Key> {
        self.bindings.get(at as usize).map(|binding| binding.key)
    }

    pub fn goes_by_hash(&self, at: u32) -> bool {
        self.bindings.get(at as usize).is_some_and(|binding| binding.by_hash.is_some())
    }

    /// The director may have forgotten anything, and may have what never was.
    pub fn forget(&mut self) {
        for binding in &mut self.bindings {
            (binding.server, binding.since, binding.opened) = (None, 0, self.latest.max(1));
            binding.by_hash = None;
            // What it still has may be over: it waits for its timer.
            binding.ended = UNKNOWN;
        }
    }

    /// The connection, and the real server that it was brought to last.
    pub fn server(&self, at: u32) -> Option<(Key, u32)> {
        let binding = self.bindings.get(at as usize)?;
        Some((binding.key, binding.server?))
    }

    /// The real server of a connection that must have been known when a packet of it was looked up.
    pub fn live_server(&self, at: u32, moment: Moment, shortest: Shortest) -> Option<u32> {
        let binding = self.bindings.get(at as usize)?;
        let is_live = binding.since <= moment.number && binding.is_live(moment.at, shortest);
        binding.server.filter(|_| is_live)
    }

    /// A client's packet came out, on its way to `server`. Returns whether that is another one than before.
    ///
    /// # Errors
    /// When it is another one, and nothing was looked up that may have begun the connection anew.
    pub fn to_server(&mut self, at: u32, server: u32, moment: Moment, is_syn: bool) -> Checked<bool> {
        let Some(binding) = self.bindings.get_mut(at as usize) else { return Ok(false) };
        if moment.number < binding.since.max(binding.opened) {
            // It has waited since, and says nothing of this life.
            return Ok(false);
        }
        let is_other = binding.server != Some(server);
        hold!(
            !is_other || binding.is_unknown(),
            name::ONE_SERVER,
            "{:?} was brought to server host {:?} and now, by {moment:?}, to {server}, {} ticks later",
            binding.key,
            binding.server,
            moment.at.since(binding.last)
        );
        if binding.is_unknown() {
            (binding.since, binding.is_established) = (binding.opened, false);
        }
        binding.server = Some(server);
        binding.is_established |= !is_syn;
        binding.touch(moment.at);
        Ok(is_other)
    }

    /// A server's packet came out, on its way to the client.
    pub fn to_client(&mut self, at: u32, moment: Moment) {
        if let Some(binding) = self.bindings.get_mut(at as usize)
            && moment.number >= binding.since.max(binding.opened)
        {
            binding.touch(moment.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTEST: Shortest = Shortest { tcp: 90_000, udp: 30_000 };
    const A: u32 = 10;
    const B: u32 = 11;

    fn at(number: u64) -> Moment {
        Moment { number, at: Tick(100 + number as u32) }
    }

    /// A ledger of one TCP connection, which began at real server A by lookup 1, and its place.
    fn begun() -> (Ledger, u32) {
        let mut ledger = Ledger::default();
        let place = ledger.open(Key { client: 1, port: 1024, place: 0 });
        ledger.looked_up(place, Effect::Opens, at(1), SHORTEST);
        assert_eq!(ledger.to_server(place, A, at(1), true), Ok(true));
        (ledger, place)
    }

    #[test]
    fn a_connection_comes_to_another_server_only_after_its_end_and_a_packet_that_begins_one() {
        let (mut ledger, place) = begun();
        ledger.looked_up(place, Effect::Opens, at(2), SHORTEST);
        assert!(ledger.clone().to_server(place, B, at(2), true).is_err(), "it lives");
        ledger.looked_up(place, Effect::EndsAt(B), at(3), SHORTEST);
        assert_eq!(ledger.live_server(place, at(3), SHORTEST), Some(A), "it is not B's to end");
        ledger.looked_up(place, Effect::EndsAt(A), at(4), SHORTEST);
        assert_eq!(ledger.live_server(place, at(4), SHORTEST), None);
        assert!(ledger.clone().to_server(place, B, at(5), false).is_err(), "nothing has begun one");
        ledger.looked_up(place, Effect::Opens, at(6), SHORTEST);
        assert_eq!(ledger.to_server(place, B, at(6), true), Ok(true));
    }

    #[test]
    fn a_packet_that_waited_since_before_a_connection_began_anew_says_nothing_of_it() {
        let (mut ledger, place) = begun();
        ledger.looked_up(place, Effect::Ends, at(3), SHORTEST);
        ledger.looked_up(place, Effect::Opens, at(4), SHORTEST);
        assert_eq!(ledger.to_server(place, A, at(2), false), Ok(false));
        assert_eq!(ledger.to_server(place, B, at(4), true), Ok(true));
        assert_eq!(ledger.to_server(place, A, at(2), false), Ok(false));
        assert_eq!(ledger.live_server(place, at(5), SHORTEST), Some(B));
        assert_eq!(ledger.live_server(place, at(2), SHORTEST), None, "it was A's then");
    }

    #[test]
    fn an_end_that_was_looked_up_before_the_beginning_ends_nothing() {
        let (mut ledger, place) = begun();
        ledger.looked_up(place, Effect::Ends, at(2), SHORTEST);
        ledger.looked_up(place, Effect::Opens, at(3), SHORTEST);
        assert_eq!(ledger.to_server(place, B, at(3), true), Ok(true));
        assert_eq!(ledger.live_server(place, at(4), SHORTEST), Some(B));
        ledger.looked_up(place, Effect::Opens, at(4), SHORTEST);
        assert!(ledger.to_server(place, A, at(4), true).is_err());
    }

    #[test]
    fn what_a_director_of_spoilt_memory_still_has_may_be_over_but_does_not_change_its_server() {
        let (mut ledger, place) = begun();
        ledger.looked_up(place, Effect::Ends, at(2), SHORTEST);
        ledger.forget();
        ledger.looked_up(place, Effect::Nothing, at(3), SHORTEST);
        assert_eq!(ledger.to_server(place, A, at(3), false), Ok(true));
        assert_eq!(ledger.live_server(place, at(3), SHORTEST), None, "nobody knows");
        assert!(ledger.clone().to_server(place, B, at(4), false).is_err(), "nothing has begun one");
        ledger.looked_up(place, Effect::Opens, at(5), SHORTEST);
        assert_eq!(ledger.to_server(place, B, at(5), true), Ok(true));
        assert_eq!(ledger.live_server(place, at(6), SHORTEST), Some(B));
    }

    #[test]
    fn a_segment_that_may_begin_a_connection_says_nothing_of_how_long_it_lives() {
        let (mut ledger, place) = begun();
        ledger.looked_up(place, Effect::MayOpen { ends: false }, at(2), SHORTEST);
        assert!(ledger.clone().to_server(place, B, at(2), false).is_err(), "it lives");
        ledger.looked_up(place, Effect::MayOpen { ends: true }, at(3), SHORTEST);
        ledger.looked_up(place, Effect::MayOpen { ends: false }, at(4), SHORTEST);
        assert_eq!(ledger.to_server(place, B, at(4), false), Ok(true));
        assert_eq!(ledger.live_server(place, at(5), SHORTEST), None, "perhaps over");
        ledger.looked_up(place, Effect::Opens, at(6), SHORTEST);
        assert_eq!(ledger.to_server(place, A, at(6), true), Ok(true));
        assert_eq!(ledger.live_server(place, at(7), SHORTEST), Some(A));
    }

    #[test]
    fn the_server_of_a_beginning_that_was_dropped_is_told_by_the_next_packet() {
        let (mut ledger, place) = begun();
        ledger.looked_up(place, Effect::Ends, at(2), SHORTEST);
        ledger.looked_up(place, Effect::Opens, at(3), SHORTEST);
        assert_eq!(ledger.to_server(place, B, at(4), false), Ok(true));
        assert!(ledger.to_server(place, A, at(5), false).is_err());
    }

    #[test]
    fn another_service_of_the_same_endpoint_ends_a_connection_only_by_beginning_one() {
        let (mut ledger, place) = begun();
        let other = ledger.open(Key { client: 1, port: 1024, place: 4 });
        ledger.looked_up(other, Effect::Nothing, at(2), SHORTEST);
        assert_eq!(ledger.live_server(place, at(2), SHORTEST), Some(A));
        ledger.looked_up(other, Effect::Opens, at(3), SHORTEST);
        assert_eq!(ledger.live_server(place, at(3), SHORTEST), None);
    }

    #[test]
    fn a_connection_that_rested_for_the_shortest_timeout_may_begin_anew() {
        let (mut ledger, place) = begun();
        let later = |ticks| Moment { number: 2, at: Tick(101 + ticks) };
        assert_eq!(ledger.live_server(place, later(SETTING_UP - 1), SHORTEST), Some(A));
        assert_eq!(ledger.live_server(place, later(SETTING_UP), SHORTEST), None);
        assert_eq!(ledger.to_server(place, A, at(2), false), Ok(false));
        assert_eq!(ledger.live_server(place, later(SETTING_UP), SHORTEST), Some(A), "it is established");
    }

    #[test]
    fn a_half_open_connection_goes_for_a_new_one_and_an_established_one_does_not() {
        let (mut ledger, place) = begun();
        let early = Early { made_room: true, are_bereft: false };
        let made_room = |ledger: &mut Ledger, has: bool| {
            ledger.ended_early(|_| has, early, |_, _| true, Tick(110), SHORTEST)
        };
        assert_eq!(made_room(&mut ledger.clone(), true), None);
        assert_eq!(ledger.live_server(place, at(2), SHORTEST), Some(A), "it is still there");
        let mut made = ledger.clone();
        assert_eq!(made_room(&mut made, false), None);
        assert_eq!(made.live_server(place, at(2), SHORTEST), None);
        assert!(made.clone().to_server(place, B, at(2), false).is_err(), "nothing has begun one");
        made.looked_up(place, Effect::Opens, at(2), SHORTEST);
        assert_eq!(made.to_server(place, B, at(2), true), Ok(true));
        assert_eq!(made.live_server(place, at(3), SHORTEST), Some(B));
        assert_eq!(ledger.to_server(place, A, at(2), false), Ok(false));
        assert!(made_room(&mut ledger.clone(), false).is_some(), "it was established");
        let early = Early { are_bereft: true, ..early };
        let ended = |is_removed: bool| {
            ledger.clone().ended_early(|_| false, early, |_, _| is_removed, Tick(110), SHORTEST)
        };
        assert!(
            ended(false).is_some() && ended(true).is_none(),
            "its real server was removed in the same turn"
        );
    }

    #[test]
    fn a_half_open_connection_may_go_and_begin_anew_in_one_turn() {
        let (ledger, place) = begun();
        for makes_room in [false, true] {
            let mut ledger = Ledger { makes_room, ..ledger.clone() };
            ledger.looked_up(place, Effect::Opens, at(2), SHORTEST);
            assert_eq!(ledger.to_server(place, B, at(2), true).is_ok(), makes_room);
            let mut ledger = Ledger { makes_room, ..begun().0 };
            ledger.to_server(place, A, at(1), false).unwrap();
            ledger.looked_up(place, Effect::Opens, at(2), SHORTEST);
            assert!(ledger.to_server(place, B, at(2), true).is_err(), "it is established");
        }
    }

    #[test]
    fn what_goes_by_hash_alone_moves_with_the_tables_and_not_before() {
        let mut ledger = Ledger::default();
        let place = ledger.open(Key { client: 1, port: 1024, place: 0 });
        for (number, effect) in [(1, Effect::Opens), (2, Effect::Nothing), (3, Effect::Opens)] {
            ledger.looked_up(place, effect, at(number), SHORTEST);
            ledger.went_by_hash(place, at(number), 7, SHORTEST).unwrap();
            ledger.to_server(place, A, at(number), false).unwrap();
            assert_eq!(ledger.live_server(place, at(number), SHORTEST), None, "nobody must know it");
            assert!(ledger.clone().to_server(place, B, at(number), true).is_err(), "the hash is the same");
        }
        ledger.looked_up(place, Effect::Nothing, at(4), SHORTEST);
        ledger.went_by_hash(place, at(4), 8, SHORTEST).unwrap();
        assert_eq!(ledger.to_server(place, B, at(4), false), Ok(true));
        assert!(ledger.clone().to_server(place, A, at(5), false).is_err(), "the hash is the same");
    }

    #[test]
    fn what_went_by_hash_alone_lives_once_it_is_kept() {
        let mut ledger = Ledger::default();
        let place = ledger.open(Key { client: 1, port: 1024, place: 0 });
        ledger.looked_up(place, Effect::Opens, at(1), SHORTEST);
        ledger.went_by_hash(place, at(1), 7, SHORTEST).unwrap();
        ledger.to_server(place, A, at(1), true).unwrap();
        for is_sure in [false, true] {
            let mut ledger = ledger.clone();
            ledger.looked_up(place, Effect::Nothing, at(2), SHORTEST);
            ledger.is_kept(place, at(2), is_sure);
            assert_eq!(ledger.to_server(place, B, at(2), false), Ok(true), "the tables may be others");
            assert_eq!(ledger.live_server(place, at(3), SHORTEST), is_sure.then_some(B));
            assert_eq!(ledger.went_by_hash(place, at(3), 7, SHORTEST).is_err(), is_sure);
        }
    }
}
