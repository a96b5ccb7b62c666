//! Datagrams that are scheduled one by one: of each that comes in fragments it is known for a while where the first one went.

use lb_core::drop::DropReason;
use lb_core::flow::{Direction, Hasher, Method, Tuple};
use lb_core::hook::Hook;
use lb_core::ids::ServerId;
use lb_core::time::Tick;

use super::fragments::{Datagram, MEMORY, REMEMBERED_IN_A_SET, datagram, set};
use super::parse::{Piece, Read};
use super::road::tuple;
use super::{Packet, Reference};

/// A hash puts datagrams into so many sets, of which each remembers its newest.
const SETS: usize = 64;

/// What is known of datagrams; newest last.
#[derive(Debug)]
pub(super) struct Recent<T>(Vec<Known<T>>);

#[derive(Debug)]
struct Known<T> {
    datagram: Datagram,
    set: usize,
    came: Tick,
    what: T,
}

impl<T: Copy> Recent<T> {
    pub(super) fn new() -> Recent<T> {
        Recent(Vec::new())
    }

    pub(super) fn remember(&mut self, hasher: Hasher, read: &Read, what: T, now: Tick) {
        let datagram = datagram(read);
        let set = set(hasher, &datagram) % SETS;
        self.0.retain(|known| known.datagram != datagram);
        let mut of_set = (0..self.0.len()).filter(|&at| self.0[at].set == set);
        if let Some(oldest) = of_set.next()
            && of_set.count() + 1 == REMEMBERED_IN_A_SET
        {
            self.0.remove(oldest);
        }
        self.0.push(Known { datagram, set, came: now, what });
    }

    pub(super) fn recall(&self, read: &Read, now: Tick) -> Option<T> {
        let datagram = datagram(read);
        let known = self.0.iter().find(|known| known.datagram == datagram);
        known.filter(|known| now.since(known.came) < MEMORY.0).map(|known| known.what)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) after: Tuple,
    pub(super) method: Method,
    pub(super) server: ServerId,
}

impl Reference {
    /// A datagram of which no connection is remembered.
    pub(super) fn one_packet(
        &mut self,
        packet: Packet,
        read: Read,
        after: Tuple,
        method: Method,
        server: ServerId,
    ) {
        if read.piece == Piece::First {
            self.choices.remember(self.hasher, &read, Choice { after, method, server }, self.now);
        }
        self.counters.server(server).connections.add(1);
        if method != Method::Masq {
            let connection = self.unbound(tuple(&read), after.reversed(), method, server);
            return self.onward(packet, read, &connection);
        }
        self.count(server, Direction::Original, &read);
        self.send_as(packet, read, tuple(&read), after, true);
    }

    /// Where the first fragment of this later one's datagram went.
    pub(super) fn choice_of(&self, read: &Read) -> Option<Choice> {
        self.choices.recall(read, self.now)
    }

    /// A later fragment follows, and is no connection more.
    pub(super) fn follow(&mut self, packet: Packet, read: Read, choice: Choice) {
        let Choice { after, method, server } = choice;
        let address = self.tables.services.server(server).map(|server| server.address);
        if server != ServerId::BYPASS && address != Some(after.dst) {
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        }
        if method == Method::Masq {
            self.count(server, Direction::Original, &read);
            return self.send_as(packet, read, tuple(&read), after, true);
        }
        let connection = self.unbound(tuple(&read), after.reversed(), method, server);
        self.onward(packet, read, &connection);
    }
}
