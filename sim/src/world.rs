//! The world, and one step of it: time goes on, chance strikes, packets arrive, workers turn, and all that came out is looked
//! at.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lb_core::time::Tick;

use crate::arrivals::Pieces;
use crate::conn::Conns;
use crate::control::Control;
use crate::director::{Director, Estate, Subject};
use crate::draw::Draw;
use crate::events::{Detail, Event, Events};
use crate::hosts::ServerState;
use crate::invariants::{self, Room, Watch};
use crate::ledger::{Effect, Ledger};
use crate::map::{Map, Plan};
use crate::network::Flight;
use crate::shape::Shape;
use crate::tags::{NONE, Sent, Tags, Way};
use crate::violation::Checked;

/// What was done, for whoever reads the summary.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// Frames that the director was given, of all its lives.
    pub packets: u64,
    pub done: u64,
    pub reset: u64,
    pub gave_up: u64,
    pub kills: u64,
    /// Connections that went on under the next director.
    pub carried: u64,
    pub published: u64,
    pub icmp: u64,
}

pub struct World<L: Subject> {
    pub shape: Shape,
    pub draw: Draw,
    /// Microseconds since the beginning, and steps.
    pub now: u64,
    pub step: u64,
    pub events: Events,
    pub stats: Stats,
    pub plan: Plan,
    pub director: Director<L>,
    pub control: Control,
    pub conns: Conns,
    pub(crate) serial: u32,
    /// By client host and port: its connection.
    pub(crate) by_client: Map<(usize, u16, bool), u32>,
    /// When a connection has something to do.
    pub(crate) timers: BinaryHeap<Reverse<(u64, u32, u32)>>,
    pub(crate) flights: BinaryHeap<Flight>,
    pub(crate) number: u64,
    pub tags: Tags,
    pub ledger: Ledger,
    /// By host.
    pub(crate) servers: Vec<ServerState>,
    pub(crate) pieces: Vec<Pieces>,
    pub(crate) packet_ids: u32,
    /// By port: down until then.
    pub(crate) link_down: Vec<u64>,
    /// By worker: not turned until then.
    pub(crate) stalled: Vec<u64>,
    pub(crate) dry_until: u64,
    /// Nothing new is begun, so that all can come to its end.
    pub(crate) is_quiet: bool,
    pub(crate) watch: Watch,
    /// Empty, with the room that they needed before.
    pub(crate) buffer: Vec<u8>,
    pub(crate) sends: Vec<crate::tcp::Send>,
    looked_up: Vec<u64>,
    /// The tables by which real servers were relieved last.
    pub(crate) relieved: u32,
}

impl<L: Subject> World<L> {
    pub fn new(seed: u64) -> World<L> {
        let mut draw = Draw::new(seed);
        let shape = Shape::draw(&mut draw);
        World::of(shape, draw)
    }

    /// A world of this shape.
    pub fn of(shape: Shape, mut draw: Draw) -> World<L> {
        let plan = Plan::new(&shape, &mut draw);
        let hash_seed = draw.number();
        let director = Director::start(&shape, hash_seed, Tick(0), Estate::none());
        let control = Control::new(&shape, &plan, &mut draw);
        let watch = Watch::new(&shape);
        World {
            draw,
            now: 0,
            step: 0,
            events: Events::default(),
            stats: Stats::default(),
            director,
            control,
            conns: Conns::default(),
            serial: 0,
            by_client: Map::default(),
            timers: BinaryHeap::new(),
            flights: BinaryHeap::new(),
            number: 0,
            tags: Tags::default(),
            ledger: Ledger::default(),
            servers: vec![ServerState::Up; plan.hosts.len()],
            pieces: plan.hosts.iter().map(|_| Pieces::default()).collect(),
            packet_ids: 0,
            link_down: vec![0; shape.ports.len()],
            stalled: vec![0; usize::from(shape.workers)],
            dry_until: 0,
            is_quiet: false,
            watch,
            buffer: Vec::new(),
            sends: Vec::new(),
            looked_up: Vec::new(),
            relieved: 0,
            plan,
            shape,
        }
    }

    pub fn tick(&self) -> Tick {
        Tick((self.now / 10_000) as u32)
    }

    pub(crate) fn note(&mut self, what: &'static str, detail: Detail) {
        self.events.note(Event { step: self.step, micros: self.now, what, detail });
    }

    /// One step.
    ///
    /// # Errors
    /// The first property that does not hold.
    pub fn step(&mut self) -> Checked {
        self.step += 1;
        self.advance();
        self.strike()?;
        self.configure();
        self.open_some();
        self.wake()?;
        self.deliver()?;
        self.turn_all()?;
        invariants::after_step(self)
    }

    /// Time goes on by a little, or to the next thing that happens.
    fn advance(&mut self) {
        let soon = self.now + self.draw.between(1, self.shape.pace);
        let flight = self.flights.peek().map(|flight| flight.at);
        let timer = self.timers.peek().map(|timer| timer.0.0);
        let next = flight.into_iter().chain(timer).min().unwrap_or(u64::MAX);
        self.now = soon.max(next.min(self.now + 500_000));
    }

    /// What goes wrong by step.
    fn strike(&mut self) -> Checked {
        let faults = self.shape.faults;
        if self.draw.happens(faults.kill) {
            self.kill()?;
        }
        if self.shape.is_clean() {
            return Ok(());
        }
        if self.draw.happens(faults.link_down) {
            let port = self.draw.below(self.link_down.len() as u64) as usize;
            self.link_down[port] = self.now + self.draw.between(1000, 2_000_000);
            self.note("link down", ("port until", [port as u64, self.link_down[port], 0, 0]));
        }
        if self.draw.happens(faults.stall) {
            let worker = self.draw.below(self.stalled.len() as u64) as usize;
            self.stalled[worker] = self.now + self.draw.between(1000, 3_000_000);
            self.note("worker stalls", ("worker until", [worker as u64, self.stalled[worker], 0, 0]));
        }
        if self.draw.happens(faults.dry) {
            self.dry_until = self.now + self.draw.between(1000, 500_000);
            self.note("no buffer is free", ("until", [self.dry_until, 0, 0, 0]));
        }
        self.director.set_dry(self.now < self.dry_until);
        if self.draw.happens(faults.neighbour) {
            self.control.lose_neighbour(&mut self.draw, self.now);
            self.note("a neighbour is lost", ("", [0; 4]));
        }
        if self.draw.happens(faults.server) {
            let host = self.draw.pick(&self.plan.servers);
            let until = self.now + self.draw.between(10_000, 5_000_000);
            self.change_server(host, until);
        }
        if self.draw.happens(faults.jump) {
            let by = self.draw.pick(&[
                1_000_000,
                12_000_000,
                70_000_000,
                130_000_000,
                1_000_000_000,
                3_600_000_000,
            ]);
            self.now += self.draw.between(1, by);
            self.note("time jumps", ("by", [by, 0, 0, 0]));
        }
        if self.draw.happens(faults.junk) {
            self.send_junk();
        }
        Ok(())
    }

    /// The director is killed, and another one is started that takes its connections; it may be of another size.
    fn kill(&mut self) -> Checked {
        self.stats.kills += 1;
        invariants::at_end_of_life(self)?;
        let estate = self.director.leave();
        if self.draw.coin() {
            self.shape.draw_size(&mut self.draw);
            self.stalled.resize(usize::from(self.shape.workers), 0);
        }
        // Nobody runs for a while.
        self.now += self.draw.between(0, if self.shape.is_clean() { 300_000 } else { 3_000_000 });
        let tick = self.tick();
        self.director = Director::start(&self.shape, self.draw.number(), tick, estate);
        let is_spoilt = !self.shape.is_clean() && self.draw.below(4) == 0;
        if is_spoilt {
            self.director.spoil(&mut self.draw, tick);
        }
        let workers = self.shape.workers.into();
        self.note("kill and start", ("workers spoilt", [workers, is_spoilt.into(), 0, 0]));
        self.control = self.control.restarted(&self.shape, &self.plan);
        self.tags.forget();
        self.relieved = 0;
        self.watch = Watch::new(&self.shape);
        Ok(())
    }

    /// The control plane's part: commands, Linux's answers, tables left for one worker after the other.
    fn configure(&mut self) {
        while let Some((interface, address)) = self.director.questions().pop() {
            let at = self.now + self.draw.between(100, 400_000);
            self.control.asked(interface, address, at);
        }
        let heard = self.control.hear(&self.plan, self.now);
        if heard > 0 {
            self.note("Linux answers", ("neighbours", [heard as u64, 0, 0, 0]));
        }
        self.control.pass(self.now);
        let every = self.shape.change_every;
        if every > 0 && !self.is_quiet && self.draw.below(every) == 0 {
            let (what, place, is_right) = self.control.change(&self.plan, &mut self.draw);
            self.note(what, ("place done", [place as u64, u64::from(is_right), 0, 0]));
        }
        if self.step.is_multiple_of(64) && self.director.generation_everywhere(self.control.generation()) {
            let counters = &self.director.counters;
            let has = |id| {
                counters.iter().any(|w| {
                    let cell = w.server(id);
                    cell.active.get().wrapping_add(cell.inactive.get()) != 0 || cell.persistent.get() != 0
                })
            };
            self.control.release(has);
            let generation = self.control.generation();
            if self.relieved != generation
                && let Some(published) = self.control.published(generation)
            {
                self.director.relieve(&published.tables);
                self.relieved = generation;
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        // A worker may turn between any two deliveries.
        let count = self.draw.between(1, 16);
        for _ in 0..count {
            if let Some((worker, tables)) = self.control.next_delivery() {
                self.director.publish_to(worker, tables);
                self.watch.given(worker);
                continue;
            }
            if !self.control.wants_to_publish() {
                break;
            }
            let order = (0..self.director.workers()).rev().collect();
            let generation = self.control.publish(order);
            self.stats.published += 1;
            for tables in self.control.compiled() {
                self.director.tell(&tables);
            }
            self.note("publish", ("generation", [generation.into(), 0, 0, 0]));
        }
    }

    /// What the packets that a worker looked up in its turn may have done to their connections.
    /// Returns those of clients that may belong to a connection.
    fn note_looked_up(&mut self, worker: usize, makes_room: bool) -> Vec<Sent> {
        let mut of_clients = Vec::new();
        self.ledger.makes_room = makes_room;
        let tick = self.tick();
        let has_family = [false, true].map(|is_ipv6| self.has_family(is_ipv6));
        let mut tags = std::mem::take(&mut self.looked_up);
        self.director.take_looked_up(worker, &mut tags);
        for tag in tags.drain(..) {
            if let Some(sent) = self.tags.looked_up(tag, tick, has_family).filter(|sent| sent.binding != NONE)
            {
                if self.ends_without_server(worker, &sent) {
                    self.ledger.looked_up(sent.binding, Effect::Ends, sent.looked_up, self.control.shortest);
                }
                self.ledger.looked_up(sent.binding, sent.effect, sent.looked_up, self.control.shortest);
                if sent.way == Way::Request && !sent.is_later_piece {
                    of_clients.push(sent);
                }
            }
        }
        self.looked_up = tags;
        of_clients
    }

    /// What becomes of a client's packet for a real server that is not in its worker's tables any more, or of its SYN for one of weight 0: it may
    /// end the connection and begin anew (`expire_nodest_conn`).
    fn ends_without_server(&self, worker: usize, sent: &Sent) -> bool {
        let Some((key, host)) = self.ledger.server(sent.binding) else { return false };
        let value = self.control.sysctls().expire_nodest_conn;
        let is_wanted = match value {
            0 => false,
            1 => true,
            _ => !key.is_tcp(),
        };
        if !is_wanted || sent.way != Way::Request || sent.is_later_piece {
            return false;
        }
        let Some(published) = self.control.published(self.director.generation(worker)) else { return false };
        let (place, host) = (usize::from(key.place), host as usize);
        match self.control.weight(published, &self.plan, place, host) {
            None => true,
            Some(0) => value == 1 && key.is_tcp() && sent.effect == Effect::Opens,
            Some(_) => false,
        }
    }

    fn turn_all(&mut self) -> Checked {
        let workers = self.director.workers();
        let first = self.draw.below(workers as u64) as usize;
        for n in 0..workers {
            let worker = (first + n) % workers;
            if self.stalled[worker] > self.now {
                continue;
            }
            let before = invariants::before_turn(self, worker);
            let room = Room::before_turn(self, worker);
            self.director.turn(worker, self.tick());
            let of_clients = self.note_looked_up(worker, room.was_made(self, worker));
            room.after_turn(self, worker, &of_clients)?;
            invariants::after_turn(self, worker, before)?;
            if let Some(succession) = self.director.succession() {
                invariants::after_succession(self, &succession)?;
            }
        }
        self.collect()
    }
}
