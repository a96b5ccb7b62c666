//! Which real server each client endpoint was brought to, as seen from outside: what the director may not change as long
//! as the connection lives.

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

#[derive(Clone, Copy, Debug)]
struct Binding {
    key: Key,
    /// `None`: nothing is known.
    server: Option<u32>,
    last: Tick,
    /// When the first packet of this life came out that went to `server`, in microseconds.
    since: u64,
    /// An end was seen, or something that may have looked like one to the director: it may begin anew.
    is_over: bool,
    /// When such a packet was last on its way into the director.
    last_end: Option<Tick>,
    is_established: bool,
    /// The director may or may not know the connection, and any server.
    is_unknown: bool,
    /// The client's endpoint, by whatever service.
    group: u32,
}

/// Shortest timeouts that any table in use may have had, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Shortest {
    pub tcp: u32,
    pub udp: u32,
}

/// A TCP connection that is not established yet lives a minute at least.
const SETTING_UP: u32 = 60 * Tick::PER_SECOND;
/// A packet may be in the director for so long.
const LONGEST: u32 = 40 * Tick::PER_SECOND;

#[derive(Default)]
pub struct Ledger {
    bindings: Vec<Binding>,
    by_key: Map<Key, u32>,
    /// Bindings of one client endpoint, transport and family.
    groups: Vec<Vec<u32>>,
    by_endpoint: Map<(u32, u16, u16), u32>,
}

/// A packet of a connection, as it came out of the director.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    pub is_tcp: bool,
    pub is_syn: bool,
    pub is_end: bool,
    /// When it came to the director, in microseconds. It was looked up at some moment from then on.
    pub given: u64,
    pub now: u64,
}

fn tick(micros: u64) -> Tick {
    Tick((micros / 10_000) as u32)
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
            is_over: false,
            last_end: None,
            is_established: false,
            is_unknown: false,
            group,
        });
        self.by_key.insert(key, at);
        at
    }

    /// A packet goes into the director that may begin a connection. If that comes to the real server of another connection
    /// of the client's endpoint, that one ends: the server could not tell them apart.
    pub fn may_begin(&mut self, at: u32, now: Tick) {
        let Some(binding) = self.bindings.get(at as usize) else { return };
        let group = binding.group as usize;
        for n in 0..self.groups[group].len() {
            let other = self.groups[group][n];
            if other != at {
                self.may_end(other, now);
            }
        }
    }

    /// Something goes into the director that may end the connection there.
    pub fn may_end(&mut self, at: u32, now: Tick) {
        if let Some(binding) = self.bindings.get_mut(at as usize) {
            binding.is_over = true;
            binding.last_end = Some(now);
        }
    }

    /// The director is another one, which has the connections that `has` says. Returns one that lives and is not there.
    pub fn keep(&mut self, has: impl Fn(&Key) -> bool, now: Tick, shortest: Shortest) -> Option<Key> {
        let mut lost = None;
        for at in 0..self.bindings.len() {
            let key = self.bindings[at].key;
            if has(&key) {
                continue;
            }
            // Places of TCP are even.
            if self.is_live(at as u32, key.place.is_multiple_of(2), now, shortest) {
                lost.get_or_insert(key);
            }
            self.bindings[at].server = None;
        }
        lost
    }

    /// The director may have forgotten anything.
    pub fn forget(&mut self) {
        for binding in &mut self.bindings {
            (binding.server, binding.is_unknown) = (None, true);
        }
    }

    /// Whether the director must still know this connection.
    pub fn is_live(&self, at: u32, is_tcp: bool, now: Tick, shortest: Shortest) -> bool {
        let Some(binding) = self.bindings.get(at as usize) else { return false };
        let timeout = match (is_tcp, binding.is_established) {
            (true, true) => shortest.tcp,
            (true, false) => SETTING_UP.min(shortest.tcp),
            (false, _) => shortest.udp,
        };
        binding.server.is_some() && !binding.is_over && now.since(binding.last) < timeout
    }

    /// Where the client was brought to, if that was before `given`.
    pub fn server_before(&self, at: u32, given: u64) -> Option<u32> {
        let binding = self.bindings.get(at as usize)?;
        binding.server.filter(|_| binding.since < given)
    }

    /// A client's packet came out, on its way to `server`. Returns whether that is another one than before.
    ///
    /// # Errors
    /// When the connection lives and is another server's.
    pub fn to_server(&mut self, at: u32, server: u32, passed: Passed, shortest: Shortest) -> Checked<bool> {
        let is_live = self.is_live(at, passed.is_tcp, tick(passed.now), shortest);
        let Some(binding) = self.bindings.get(at as usize).copied() else { return Ok(false) };
        let is_other = binding.server != Some(server);
        // What was changed on the way may have opened or ended something unseen.
        let is_doubtful = binding.last_end.is_some_and(|end| tick(passed.now).since(end) < LONGEST);
        if is_other && binding.server.is_some() && binding.since >= passed.given {
            // One of the two overtook the other in the director: the next packet says which was the later one.
            let binding = &mut self.bindings[at as usize];
            (binding.server, binding.is_unknown) = (None, true);
            return Ok(false);
        }
        if let Some(before) = binding.server
            && is_other
        {
            hold!(
                !is_live,
                name::ONE_SERVER,
                "{:?} was brought to server host {before} and now to {server}, {} ticks later",
                binding.key,
                tick(passed.now).since(binding.last)
            );
        }
        hold!(
            !(is_other && passed.is_tcp && !passed.is_syn) || is_doubtful || binding.is_unknown,
            name::ONE_SERVER,
            "{:?} was brought to server host {server} by a packet that opens nothing",
            binding.key
        );
        let binding = &mut self.bindings[at as usize];
        binding.last = tick(passed.given);
        if is_other || !is_live {
            binding.since = passed.now;
        }
        if is_other || binding.is_over && passed.is_syn {
            // A FIN from before may still be on its way through the director, and end this one.
            binding.is_over = binding.last_end.is_some_and(|end| tick(passed.now).since(end) < LONGEST);
            binding.is_established = false;
        }
        (binding.server, binding.is_unknown) = (Some(server), false);
        binding.is_established |= !passed.is_syn;
        binding.is_over |= passed.is_end;
        Ok(is_other)
    }

    /// A server's packet came out, on its way to the client.
    pub fn to_client(&mut self, at: u32, passed: Passed) {
        if let Some(binding) = self.bindings.get_mut(at as usize) {
            binding.last = tick(passed.given);
            binding.is_over |= passed.is_end;
        }
    }
}
