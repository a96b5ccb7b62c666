//! Which real server of a service has the least cost for its weight? Without a look at each one for each new connection.
//!
//! # How
//! A knockout tournament over the list of servers: each server enters at its place, each match keeps its winner, and who
//! wins the last match is picked. When one server's cost changes, the matches on its way up are played again: ten of them with
//! 1,000 servers. Of two that are even, the one that stands first in the list wins, so that the winner is whom a walk over the list would find.
//!
//! Whoever changes a server's count of connections says so ([`Cheapest::touch`]); the next pick of its service plays
//! the matches of those that were touched since the last one. A change of the service (its `version`) has all played anew.
//!
//! # One worker and several
//! With one worker a pick is exactly what a walk would find: all changes are its own. Others' changes come without a word.
//! So each pick looks at the counts of 16 servers in turn, and at those of the winner, until it is one who
//! costs what it was thought to. With that many servers or fewer each pick knows all counts. With `n` servers and
//! `w` workers that get as many connections each, what a worker knows of a server is `n / 16` of its own picks old
//! at most: it misses what the others did in that time, `(w - 1) / 16` connections a server when they are spread
//! evenly. The one picked is never one that has become dearer; one that has become cheaper may wait that long.
//!
//! # Memory
//! Taken once, for as many real servers as there may be: the match `k` of a service is kept in the seat of its
//! server `k`, so that a service has as many seats as it needs wherever its servers' ids are.

use crate::ids::{ServerId, ServiceId};
use crate::ipvs::scheduler::Loads;
use crate::tables::{Server, Service};

/// Servers whose counts are read again at a pick, when other workers count too.
const LOOKED_AT: usize = 16;

/// Winners that turn out to be dearer than was thought, in one pick.
const SURPRISES: usize = 16;

/// What a server costs: `cost / weight`. `1 / 0` is what takes no new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Price {
    pub(super) cost: u64,
    pub(super) weight: u32,
}

impl Price {
    pub(super) const NEVER: Price = Price { cost: 1, weight: 0 };

    /// `cost` for each unit of the server's weight, unless it takes no new connection.
    #[inline]
    pub(super) fn of(server: &Server, cost: u64) -> Price {
        if server.takes_new() { Price { cost, weight: server.weight } } else { Price::NEVER }
    }

    #[inline]
    pub(super) fn is_below(self, other: Price) -> bool {
        let (mine, others) = self.crosswise(other);
        mine < others
    }

    /// Numbers that compare as `cost / weight` of both do, without a division.
    #[inline]
    fn crosswise(self, other: Price) -> (u128, u128) {
        (u128::from(self.cost) * u128::from(other.weight), u128::from(other.cost) * u128::from(self.weight))
    }
}

/// One who plays: a server, by its place in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entrant {
    price: Price,
    index: u32,
}

impl Entrant {
    const NOBODY: Entrant = Entrant { price: Price::NEVER, index: u32::MAX };

    fn beats(&self, other: &Entrant) -> bool {
        let (mine, others) = self.price.crosswise(other.price);
        (mine, self.index) < (others, other.index)
    }
}

/// What is kept for one real server.
#[derive(Clone, Debug)]
struct Seat {
    /// The server itself, as it was known last.
    entrant: Entrant,
    /// The winner of the match whose number is this server's place in the list.
    winner: Entrant,
    /// The service in whose tournament it is, and the version of it.
    service: ServiceId,
    version: u32,
    /// The next one that was touched.
    next: u32,
}

const _: () = assert!(size_of::<Seat>() == 64, "as docs/decisions/0007 says");

/// `Seat::next` of one that was not touched, and of the last one that was.
const UNTOUCHED: u32 = u32::MAX;
const LAST: u32 = u32::MAX - 1;

/// What is kept for one service.
#[derive(Clone, Debug)]
struct Board {
    /// The version of the service that was played; `None`: none.
    version: Option<u32>,
    /// The first of the servers that were touched since the last pick.
    touched: u32,
    /// The place in the list where the next pick begins to look.
    looked: usize,
}

/// One worker's tournaments of all its services.
#[derive(Debug)]
pub(super) struct Cheapest {
    seats: Box<[Seat]>,
    boards: Vec<Board>,
}

impl Cheapest {
    /// `servers` bounds [`ServerId`].
    pub(super) fn new(servers: usize) -> Cheapest {
        let seat = Seat {
            entrant: Entrant::NOBODY,
            winner: Entrant::NOBODY,
            service: ServiceId(u32::MAX),
            version: 0,
            next: UNTOUCHED,
        };
        Cheapest { seats: vec![seat; servers].into(), boards: Vec::new() }
    }

    /// Makes room for services with ids below `services`.
    pub(super) fn resize(&mut self, services: usize) {
        if services > self.boards.len() {
            self.boards.resize(services, Board { version: None, touched: LAST, looked: 0 });
        }
    }

    /// This worker changed the server's count of connections, or whether it is overloaded.
    #[inline]
    pub(super) fn touch(&mut self, server: ServerId) {
        let Some(seat) = self.seats.get_mut(server.index()) else { return };
        let Some(board) = self.boards.get_mut(seat.service.index()) else { return };
        // A seat of an earlier version may have become another service's.
        if seat.next == UNTOUCHED && board.version == Some(seat.version) {
            seat.next = board.touched;
            board.touched = server.0;
        }
    }

    /// The index of the server with the least `price`, of several the first in the list; `None` when all cost
    /// [`Price::NEVER`]. For one version of a service `price` may depend on nothing but the server, `loads` and
    /// whether it is overloaded.
    #[inline]
    pub(super) fn pick(
        &mut self,
        service: &Service,
        loads: &impl Loads,
        price: impl Fn(&Server) -> Price,
    ) -> Option<usize> {
        let board = self.boards.get_mut(service.id.index())?;
        if board.version != Some(service.version) {
            self.play_all(service, &price);
            return self.winner(service);
        }
        let mut touched = std::mem::replace(&mut board.touched, LAST);
        let looked = board.looked;
        while let Some(seat) = self.seats.get_mut(touched as usize) {
            touched = std::mem::replace(&mut seat.next, UNTOUCHED);
            let index = seat.entrant.index;
            self.look_again(service, index as usize, &price);
        }
        if loads.is_shared() {
            self.look_at_others(service, looked, &price);
        }
        self.winner(service)
    }

    /// Looks for what other workers changed.
    fn look_at_others(&mut self, service: &Service, looked: usize, price: &impl Fn(&Server) -> Price) {
        let servers = service.servers.len();
        let begin = if looked < servers { looked } else { 0 };
        let end = (begin + LOOKED_AT).min(servers);
        for index in begin..end {
            self.look_again(service, index, price);
        }
        self.boards[service.id.index()].looked = end;
        for _ in 0..SURPRISES {
            let Some(winner) = self.winner(service) else {
                // Nobody is refused before all were looked at.
                return self.play_all(service, price);
            };
            if !self.look_again(service, winner, price) {
                return;
            }
        }
    }

    /// Plays all matches.
    #[cold]
    fn play_all(&mut self, service: &Service, price: &impl Fn(&Server) -> Price) {
        for (index, server) in service.servers.iter().enumerate() {
            if let Some(seat) = self.seats.get_mut(server.id.index()) {
                seat.entrant = Entrant { price: price(server), index: index as u32 };
                (seat.service, seat.version, seat.next) = (service.id, service.version, UNTOUCHED);
            }
        }
        for number in (1..service.servers.len()).rev() {
            let (a, b) = (self.at(service, 2 * number), self.at(service, 2 * number + 1));
            self.keep(service, number, if b.beats(&a) { b } else { a });
        }
        self.boards[service.id.index()] = Board { version: Some(service.version), touched: LAST, looked: 0 };
    }

    /// Plays the matches of one server, from its first on; says whether its price was another.
    fn look_again(&mut self, service: &Service, index: usize, price: &impl Fn(&Server) -> Price) -> bool {
        let Some(server) = service.servers.get(index) else { return false };
        let Some(seat) = self.seats.get_mut(server.id.index()) else { return false };
        let mut winner = Entrant { price: price(server), index: index as u32 };
        if seat.entrant == winner {
            return false;
        }
        seat.entrant = winner;
        let mut number = service.servers.len() + index;
        while number > 1 {
            let rival = self.at(service, number ^ 1);
            if rival.beats(&winner) {
                winner = rival;
            }
            number /= 2;
            if !self.keep(service, number, winner) {
                break;
            }
        }
        true
    }

    /// Who comes out of a match, or enters: the matches have the numbers from 1, the last one, below the number of
    /// servers `n`; the servers enter as `n` and above. Match `k` is between those of `2 k` and `2 k + 1`.
    fn at(&self, service: &Service, number: usize) -> Entrant {
        let servers = &service.servers;
        let (place, is_match) = match number.checked_sub(servers.len()) {
            Some(index) => (index, false),
            None => (number, true),
        };
        match servers.get(place).and_then(|server| self.seats.get(server.id.index())) {
            Some(seat) => {
                if is_match {
                    seat.winner
                } else {
                    seat.entrant
                }
            }
            None => Entrant::NOBODY,
        }
    }

    /// Notes who won a match; says whether that is new.
    fn keep(&mut self, service: &Service, number: usize, winner: Entrant) -> bool {
        match self.seats.get_mut(service.servers[number].id.index()) {
            Some(seat) => std::mem::replace(&mut seat.winner, winner) != winner,
            None => true,
        }
    }

    fn winner(&self, service: &Service) -> Option<usize> {
        let winner = self.at(service, 1);
        (winner.price.weight > 0).then_some(winner.index as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::Ipv4Addr;
    use std::sync::atomic::Ordering::Relaxed;

    use proptest::prelude::*;

    use super::*;
    use crate::ipvs::SchedulerKind;
    use crate::tables::{Forward, Protocol, ServiceKey};

    const SERVERS: usize = 64;

    /// Active connections by id.
    struct Counts {
        active: RefCell<[u64; SERVERS]>,
        is_shared: bool,
    }

    impl Counts {
        fn new(is_shared: bool) -> Counts {
            Counts { active: RefCell::new([0; SERVERS]), is_shared }
        }
        fn set(&self, server: u32, active: u64) {
            self.active.borrow_mut()[server as usize] = active;
        }
    }

    impl Loads for Counts {
        fn active(&self, server: ServerId) -> u64 {
            self.active.borrow()[server.index()]
        }
        fn inactive(&self, _: ServerId) -> u64 {
            0
        }
        fn is_shared(&self) -> bool {
            self.is_shared
        }
    }

    fn service(id: u32, version: u32, servers: impl IntoIterator<Item = (u32, u32)>) -> Service {
        let server =
            |(id, weight)| Server::new(ServerId(id), (Ipv4Addr::LOCALHOST.into(), 80), weight, Forward::Masq);
        let key = ServiceKey::new(Protocol::TCP, Ipv4Addr::LOCALHOST.into(), 80);
        let servers = servers.into_iter().map(server).collect();
        Service::new(None, ServiceId(id), key, SchedulerKind::Rr, servers, version)
    }

    fn cheapest() -> Cheapest {
        let mut cheapest = Cheapest::new(SERVERS);
        cheapest.resize(2);
        cheapest
    }

    /// The slow obvious twin.
    fn walk(service: &Service, price: impl Fn(&Server) -> Price) -> Option<usize> {
        let mut best: Option<(usize, Price)> = None;
        for (index, price) in service.servers.iter().map(price).enumerate() {
            let is_less = best.is_none_or(|(_, best)| {
                u128::from(price.cost) * u128::from(best.weight)
                    < u128::from(best.cost) * u128::from(price.weight)
            });
            if price.weight > 0 && is_less {
                best = Some((index, price));
            }
        }
        Some(best?.0)
    }

    fn price(counts: &Counts) -> impl Fn(&Server) -> Price {
        |server| Price::of(server, counts.active(server.id))
    }

    #[derive(Clone, Debug)]
    enum Op {
        /// The list of a service becomes these servers, which the other one no longer has.
        Change {
            service: usize,
            servers: Vec<(u32, u32)>,
        },
        Count {
            server: u32,
            active: u64,
        },
        Overload {
            service: usize,
            place: usize,
            on: bool,
        },
        Pick {
            service: usize,
        },
    }

    fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
        let id = 0..SERVERS as u32;
        let weight = prop_oneof![Just(0), 1u32..4, Just(i32::MAX as u32)];
        let active = prop_oneof![4 => 0u64..5, 1 => Just(u64::MAX / 300)];
        let servers = prop::collection::btree_map(id.clone(), weight, 0..most)
            .prop_map(|servers| servers.into_iter().collect::<Vec<_>>())
            .prop_shuffle();
        let op = prop_oneof![
            1 => (0usize..2, servers).prop_map(|(service, servers)| Op::Change { service, servers }),
            8 => (id, active).prop_map(|(server, active)| Op::Count { server, active }),
            2 => (0usize..2, any::<usize>(), any::<bool>())
                .prop_map(|(service, place, on)| Op::Overload { service, place, on }),
            8 => (0usize..2).prop_map(|service| Op::Pick { service }),
        ];
        prop::collection::vec(op, 0..200)
    }

    /// Does all of it; with `says`, the worker says what it changes.
    fn agrees(ops: &[Op], counts: &Counts, says: bool) -> Result<(), TestCaseError> {
        let mut services = [service(0, 0, []), service(1, 0, [])];
        let mut cheapest = cheapest();
        for (op, version) in ops.iter().zip(1..) {
            match op {
                Op::Change { service: changed, servers } => {
                    let is_here = |id: u32| servers.iter().any(|&(here, _)| here == id);
                    let other = &services[1 - changed];
                    let left: Vec<(u32, u32)> =
                        other.servers.iter().map(|s| (s.id.0, s.weight)).filter(|s| !is_here(s.0)).collect();
                    services[1 - changed] = service(1 - *changed as u32, version, left);
                    services[*changed] = service(*changed as u32, version, servers.clone());
                }
                Op::Count { server, active } => {
                    counts.set(*server, *active);
                    if says {
                        cheapest.touch(ServerId(*server));
                    }
                }
                Op::Overload { service, place, on } => {
                    let servers = &services[*service].servers;
                    if let Some(server) = servers.get(place % servers.len().max(1)) {
                        server.overloaded.store(*on, Relaxed);
                        if says {
                            cheapest.touch(server.id);
                        }
                    }
                }
                Op::Pick { service } => {
                    let service = &services[*service];
                    let picked = cheapest.pick(service, counts, price(counts));
                    prop_assert_eq!(
                        picked,
                        walk(service, price(counts)),
                        "{} servers",
                        service.servers.len()
                    );
                }
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn one_worker_picks_what_a_walk_over_all_servers_finds(ops in ops(SERVERS)) {
            agrees(&ops, &Counts::new(false), true)?;
        }

        /// All that it is not told of is another worker's doing.
        #[test]
        fn with_up_to_sixteen_servers_so_does_one_of_several(ops in ops(LOOKED_AT + 1)) {
            agrees(&ops, &Counts::new(true), false)?;
        }
    }

    #[test]
    fn what_another_worker_did_is_known_after_a_pick_for_each_sixteen_servers() {
        let service = service(0, 0, (0..SERVERS as u32).map(|id| (id, 1)));
        for freed in 0..SERVERS {
            let counts = Counts::new(true);
            *counts.active.borrow_mut() = [9; SERVERS];
            let mut cheapest = cheapest();
            assert_eq!(cheapest.pick(&service, &counts, price(&counts)), Some(0));
            counts.set(freed as u32, 1);
            let picks = SERVERS / LOOKED_AT;
            let picked = (0..picks).filter_map(|_| cheapest.pick(&service, &counts, price(&counts))).last();
            assert_eq!(picked, Some(freed));
        }
    }

    #[test]
    fn a_server_that_another_worker_filled_is_not_picked() {
        let service = service(0, 0, (0..SERVERS as u32).map(|id| (id, 1)));
        let counts = Counts::new(true);
        let mut cheapest = cheapest();
        assert_eq!(cheapest.pick(&service, &counts, price(&counts)), Some(0));
        for server in (16..24).chain(32..40) {
            service.servers[server].overloaded.store(true, Relaxed);
        }
        *counts.active.borrow_mut() = std::array::from_fn(|id| if id < 16 { 1 } else { 0 });
        for _ in 0..2 {
            let picked = cheapest.pick(&service, &counts, price(&counts)).expect("there are others");
            assert!(service.servers[picked].takes_new() && counts.active.borrow()[picked] == 0, "{picked}");
        }
    }

    #[test]
    fn nobody_is_refused_before_all_servers_were_looked_at() {
        let service = service(0, 0, (0..SERVERS as u32).map(|id| (id, 1)));
        let counts = Counts::new(true);
        for server in &service.servers {
            server.overloaded.store(true, Relaxed);
        }
        let mut cheapest = cheapest();
        assert_eq!(cheapest.pick(&service, &counts, price(&counts)), None);
        service.servers[50].overloaded.store(false, Relaxed);
        assert_eq!(cheapest.pick(&service, &counts, price(&counts)), Some(50));
    }
}
