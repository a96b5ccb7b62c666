//! The connections of one worker: a list by number, and a map from both tuples.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use lb_core::flow::{Direction, Method, Tuple};
use lb_core::ids::ServerId;
use lb_core::time::{Tick, Timeout};

use super::SLOT;
use super::connection::{State, is_answered};
use super::edited::Edit;
use super::ftp::Told;
use super::limits::Counted;
use super::persistent::{Serial, Template};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Connection {
    pub(super) original: Tuple,
    /// Of packets from the real server, also where none comes by.
    pub(super) reply: Tuple,
    pub(super) method: Method,
    pub(super) server: ServerId,
    pub(super) state: State,
    /// Counts as active at its real server.
    pub(super) is_active: bool,
    pub(super) seen: Tick,
    pub(super) timeout: Timeout,
    /// The tables with which it was last used; 0 where that was by another director.
    pub(super) renewed: u32,
    /// It is no connection but a persistence template.
    pub(super) template: Option<Template>,
    /// The template that counts it.
    pub(super) bound_by: Option<Serial>,
    /// It is a control connection, by this number, which data connections keep; or the one that it keeps itself.
    pub(super) controls: Option<Serial>,
    pub(super) controlled_by: Option<Serial>,
    /// What is done to its segments besides.
    pub(super) edit: Option<Edit>,
    /// It is a data connection that a control connection told of.
    pub(super) told: Option<Told>,
    /// Limits of services that count it.
    pub(super) counts_in: Vec<Counted>,
}

impl Connection {
    pub(super) fn due(&self) -> Tick {
        self.seen.after(self.timeout)
    }

    /// Takes one of the places for IPv6 addresses.
    fn is_wide(&self) -> bool {
        is_wide(&self.original, &self.reply)
    }

    /// Others may keep it when its time is over.
    pub(super) fn may_be_kept(&self) -> bool {
        self.template.is_some() || self.is_control()
    }

    pub(super) fn is_control(&self) -> bool {
        self.edit.is_some_and(|edit| edit.ftp)
    }

    /// By what number these name it, if there ever was one.
    pub(super) fn kept_as(&self) -> Option<Serial> {
        self.template.map(|template| template.serial).or(self.controls)
    }

    /// It has the tuple of its answers, too.
    fn is_two_way(&self) -> bool {
        is_answered(self.method) && self.template.is_none()
    }
}

/// Whether a connection takes one of the places for IPv6 addresses.
pub(super) fn is_wide(original: &Tuple, reply: &Tuple) -> bool {
    original.dst.is_ipv6() || reply.src.is_ipv6()
}

pub(super) type Number = usize;

pub(super) struct Flows {
    /// By number; the numbers of those that ended are given again.
    connections: Vec<Option<Connection>>,
    free: Vec<Number>,
    by_tuple: HashMap<Tuple, (Number, Direction)>,
    by_due: BTreeSet<(u64, Number)>,
    capacity: usize,
    ipv6_capacity: usize,
    ipv6: usize,
    /// Connections that are edited.
    edited: usize,
    clock: Clock,
}

/// Ticks wrap; these do not.
struct Clock {
    tick: Tick,
    absolute: u64,
}

impl Clock {
    fn absolute(&self, tick: Tick) -> u64 {
        self.absolute.wrapping_add_signed(i64::from(tick.0.wrapping_sub(self.tick.0) as i32))
    }
}

impl Flows {
    pub(super) fn new(capacity: u32, ipv6_capacity: u32, now: Tick) -> Flows {
        Flows {
            connections: Vec::new(),
            free: Vec::new(),
            by_tuple: HashMap::new(),
            by_due: BTreeSet::new(),
            capacity: capacity as usize,
            ipv6_capacity: ipv6_capacity as usize,
            ipv6: 0,
            edited: 0,
            // Slots begin where ticks are multiples of their length.
            clock: Clock { tick: now, absolute: (1 << 40) + u64::from(now.0) },
        }
    }

    pub(super) fn set_now(&mut self, now: Tick) {
        self.clock = Clock { absolute: self.clock.absolute(now), tick: now };
    }

    /// All, and of these the IPv6 ones.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.connections.len() - self.free.len(), self.ipv6)
    }

    pub(super) fn edited(&self) -> usize {
        self.edited
    }

    pub(super) fn is_full(&self, is_wide: bool) -> bool {
        self.len().0 == self.capacity || is_wide && self.ipv6 == self.ipv6_capacity
    }

    /// How many more there is room for, if all of them are IPv6.
    pub(super) fn room(&self) -> usize {
        (self.capacity - self.len().0).min(self.ipv6_capacity - self.ipv6)
    }

    /// One of these that may go for a new one, for which there is no room.
    pub(super) fn find_early(
        &self,
        gone: &[Tuple],
        is_wide: bool,
        is_idle: impl Fn(&Template) -> bool,
    ) -> Option<Number> {
        let needs_addresses = is_wide && self.ipv6 == self.ipv6_capacity;
        gone.iter().filter_map(|tuple| self.find(tuple)).find_map(|(number, direction)| {
            let connection = self.get(number);
            let may_go = direction == Direction::Original
                && match &connection.template {
                    Some(template) => is_idle(template),
                    None => connection.state.is_half_open() || connection.state.is_over(),
                }
                && (!needs_addresses || connection.is_wide());
            may_go.then_some(number)
        })
    }

    pub(super) fn find(&self, tuple: &Tuple) -> Option<(Number, Direction)> {
        self.by_tuple.get(tuple).copied()
    }

    /// One of whose tuples this connection has, if it comes to be.
    pub(super) fn holder(&self, connection: &Connection) -> Option<Number> {
        let of_reply = || if connection.is_two_way() { self.find(&connection.reply) } else { None };
        self.find(&connection.original).or_else(of_reply).map(|(number, _)| number)
    }

    pub(super) fn get(&self, number: Number) -> &Connection {
        self.connections[number].as_ref().expect("it is there")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().flatten()
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = Number> {
        let numbered = self.connections.iter().enumerate();
        numbered.filter(|(_, connection)| connection.is_some()).map(|(number, _)| number)
    }

    /// Enters a connection, of whose tuples there is none yet.
    pub(super) fn insert(&mut self, connection: Connection) -> Number {
        let number = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.by_tuple.insert(connection.original, (number, Direction::Original));
        if connection.is_two_way() {
            self.by_tuple.insert(connection.reply, (number, Direction::Reply));
        }
        self.by_due.insert((self.clock.absolute(connection.due()), number));
        self.ipv6 += usize::from(connection.is_wide());
        self.connections[number] = Some(connection);
        number
    }

    pub(super) fn remove(&mut self, number: Number) -> Connection {
        let connection = self.connections[number].take().expect("it is there");
        self.free.push(number);
        // Of a template that binds no more no look-up finds any.
        if connection.template.is_none_or(|template| !template.is_invalid) {
            self.by_tuple.remove(&connection.original);
        }
        if connection.is_two_way() {
            self.by_tuple.remove(&connection.reply);
        }
        self.by_due.remove(&(self.clock.absolute(connection.due()), number));
        self.ipv6 -= usize::from(connection.is_wide());
        self.edited -= usize::from(connection.edit.is_some());
        connection
    }

    /// A connection is edited so from now on, or no more. False: a fifth of all may be, and these are as many.
    pub(super) fn set_edit(&mut self, number: Number, edit: Option<Edit>) -> bool {
        let was = self.get(number).edit.is_some();
        if !was && edit.is_some() && self.edited == self.capacity.div_ceil(5) {
            return false;
        }
        self.edited = self.edited + usize::from(edit.is_some()) - usize::from(was);
        self.change(number, |connection| connection.edit = edit);
        true
    }

    /// A template binds no more: it has other ports, and no look-up finds it.
    pub(super) fn invalidate(&mut self, number: Number) {
        let connection = self.connections[number].as_mut().expect("it is there");
        self.by_tuple.remove(&connection.original);
        connection.original.dport = u16::MAX;
        connection.reply.sport = u16::MAX;
        connection.template.as_mut().expect("it is one").is_invalid = true;
    }

    /// Changes a connection, but for its tuples.
    pub(super) fn change(&mut self, number: Number, change: impl FnOnce(&mut Connection)) {
        let connection = self.connections[number].as_mut().expect("it is there");
        let before = connection.due();
        change(connection);
        let after = connection.due();
        if before != after {
            self.by_due.remove(&(self.clock.absolute(before), number));
            self.by_due.insert((self.clock.absolute(after), number));
        }
    }

    /// Those whose time is over by now, in their order, and whether the slot of the timer wheel is over in which it was.
    pub(super) fn due(&self) -> impl Iterator<Item = (Number, bool)> {
        let now = self.clock.absolute;
        let is_over = move |due: u64| due.next_multiple_of(SLOT) <= now;
        self.by_due.range(..=(now, Number::MAX)).map(move |&(due, number)| (number, is_over(due)))
    }
}
