//! The workers, their operator, and what is compared after each step.

mod compare;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{Debug, Display, Formatter};
use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use hashbrown::HashSet;
use lb_control::api::rules::{RuleBatch, RuleCommand, RuleCounts, RuleFamily, TableChange};
use lb_control::model::rules::RuleTables;
use lb_control::sets::IpSets;
use lb_core::counters::WorkerCounters;
use lb_core::drop::DropReason;
use lb_core::flow::template::Uses;
use lb_core::flow::{Tuple, memory_needed};
use lb_core::hook::Hook;
use lb_core::ids::{PortId, WorkerId};
use lb_core::mem::Region;
use lb_core::packet::{Frame, Packet as _};
use lb_core::path::{BURST, Burst, FlowView, Io, Path, PathConfig, Steer};
use lb_core::rule::{Table, text};
use lb_core::set::{Element, Sets};
use lb_core::tables::{InterfaceId, Settings, Tables};
use lb_core::time::{Tick, Timeout};

use super::error::Error;
use super::fragments::{Cut, OnePiece, Whole};
use super::model::{Chain, Chains, Counts, Fate, Forwarding, Netfilter};
use super::net::Net;
use super::packet::{OnWire, Packet, Says};
use super::rule::{self, chains};
use super::segment::Kind;
use super::sets::SETS;
use super::tcp::Ways;
use super::traffic::{Sending, Traffic};
use crate::draw::Draw;
use crate::wire::{ACK, RST};

/// Real servers.
const SERVERS: usize = 3;
/// Of each worker: no world has as many connections within a life.
const CONNECTIONS: u32 = 2000;
/// No connection rests as long, and after it all are over.
pub(super) const LIFE: u32 = 600;
/// Seconds that a template stays whose time is over while it has connections.
const STAYS: u32 = 60;
/// Rules in a chain.
const MOST: usize = 6;
/// Handed over more often, a packet goes round; a first piece may let others go with it.
const HAND_OVERS: usize = 8 * 12;
/// Steps between two looks at all counts and connections.
const LOOK: u64 = 64;

/// What left the workers.
#[derive(Default)]
struct Out {
    sent: Vec<(PortId, Frame)>,
    up: Vec<(PortId, Frame)>,
    handed: VecDeque<(WorkerId, Frame, Steer)>,
}

impl Io<Frame> for Out {
    fn transmit(&mut self, port: PortId, packet: Frame) {
        self.sent.push((port, packet));
    }
    fn to_twin(&mut self, port: PortId, packet: Frame) {
        self.up.push((port, packet));
    }
    fn hand_over(&mut self, to: WorkerId, packet: Frame, steer: Steer) {
        self.handed.push_back((to, packet, steer));
    }
    fn allocate(&mut self) -> Option<Frame> {
        Some(Frame::new(PortId::NONE, &[]))
    }
    fn resolve(&mut self, _: InterfaceId, _: IpAddr) {}
}

/// Packets dropped, by reason and hook, where there are any.
type Drops = BTreeMap<(&'static str, &'static str), u64>;

/// What came, and what workers did with it.
struct Came {
    /// It is of the host.
    is_host: bool,
    port: PortId,
    out: Out,
    /// What had been dropped, and how many errors nobody was sent.
    before: (Drops, u64),
}

impl Came {
    fn whence(&self) -> &'static str {
        if self.is_host { "of the host" } else { "from a port" }
    }
}

pub(super) struct World {
    draw: Draw,
    /// Of what came to be drawn later: all else is as it was without.
    beside: Draw,
    net: Net,
    workers: Vec<Path<Frame>>,
    counters: Arc<[Arc<WorkerCounters>]>,
    rules: RuleTables,
    sets: IpSets,
    published: Arc<Sets>,
    /// No rule is drawn by which answers may come to any worker.
    shows_owners: bool,
    /// Rules have come by which answers may come to any worker.
    hides_owners: bool,
    settings: Settings,
    /// TCP is followed by its windows.
    has_windows: bool,
    generation: u32,
    model: Netfilter,
    traffic: Traffic,
    /// Of packets in pieces.
    identifications: HashSet<u16>,
    now: Tick,
    steps: u64,
    packets: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let mut draw = Draw::new(seed);
        let is_ipv6 = draw.below(3) == 0;
        let net = || Net { is_ipv6 };
        let workers = draw.pick(&[1, 1, 2, 3, 5]);
        let now = Tick(draw.number() as u32);
        let counters: Arc<[_]> = (0..workers).map(|_| Arc::new(WorkerCounters::new(SERVERS, 2))).collect();
        let uses = Arc::new(Uses::new(workers.into(), CONNECTIONS));
        let hash_seed = draw.number();
        let path = |worker| {
            Path::new(PathConfig {
                worker: WorkerId(worker),
                counters: counters.clone(),
                max_connections: CONNECTIONS,
                max_ipv6_connections: CONNECTIONS,
                uses: uses.clone(),
                memory: Region::heap(memory_needed(CONNECTIONS, CONNECTIONS)),
                hash_seed,
                rss: None,
                now,
            })
        };
        // Where workers do not know of each other's connections, an end's port is to be of one connection alone.
        let is_once = workers > 1;
        let is_loose = !is_once && draw.coin();
        // By draws of their own: the other worlds are as they were without.
        let mut of_service = Draw::new(!seed);
        let (has_service, shows_owners) = (of_service.below(3) == 0, of_service.coin());
        let mut of_windows = Draw::new(seed.rotate_left(32));
        let has_windows = of_windows.below(4) == 0;
        let ways = Ways {
            is_loose,
            is_liberal: !has_windows || of_windows.below(4) == 0,
            believes_resets: has_windows && of_windows.below(4) == 0,
        };
        let all = Table::ALL.into_iter().flat_map(|table| chains(table).map(move |(name, _)| (table, name)));
        let empty: Chains = all.map(|key| (key, Chain::default())).collect();
        let sets = super::sets::Sets::new(is_ipv6, now);
        let mut world = World {
            sets: IpSets::new(draw.number()),
            published: Arc::default(),
            workers: (0..workers).map(path).collect(),
            rules: RuleTables::new(draw.number()),
            settings: settings(ways, has_service),
            has_windows,
            shows_owners: has_service && is_once && shows_owners,
            hides_owners: false,
            generation: 0,
            model: Netfilter::new(net(), sets, empty, ways),
            traffic: Traffic::new(net(), is_once),
            net: net(),
            identifications: HashSet::new(),
            counters,
            now,
            draw,
            beside: Draw::new(!seed.rotate_left(32)),
            steps: 0,
            packets: 0,
        };
        world.model.service = has_service.then(|| world.net.service(&mut of_service, has_windows));
        // Real servers know clients by a port that leads back to the worker.
        world.model.shares_ports = has_service && is_once;
        world.begin();
        world
    }

    /// The operator's own chains, and some rules. One is always there: without any, nobody looks at packets.
    fn begin(&mut self) {
        for table in Table::ALL {
            for chain in rule::OWN {
                self.command(table, RuleCommand::NewChain { chain: chain.to_owned() }).expect("a new one");
            }
        }
        self.model.sets.begin().iter().for_each(|line| self.set_line(line));
        self.rules.know_sets(self.sets.known());
        let (chain, rule) = ("PREROUTING".to_owned(), Vec::new());
        let append = RuleCommand::Append { chain, rule, counts: RuleCounts::default() };
        self.command(Table::Raw, append).expect("it matches everything and does nothing");
        let first = rule::Rule { tests: Vec::new(), does: rule::Does::Nothing, is_ipv6: self.net.is_ipv6 };
        self.chain(Table::Raw, "PREROUTING").rules.push((first, Counts::default()));
        for _ in 0..self.draw.below(40) {
            self.change();
        }
        self.publish().expect("no connection has begun");
    }

    pub(super) fn packets(&self) -> u64 {
        self.packets
    }

    fn chain(&mut self, table: Table, chain: &'static str) -> &mut Chain {
        self.model.chains.get_mut(&(table, chain)).expect("all are there")
    }

    /// # Errors
    /// What the daemon says.
    fn command(&mut self, table: Table, command: RuleCommand) -> Result<(), String> {
        let family = if self.net.is_ipv6 { RuleFamily::Ipv6 } else { RuleFamily::Ipv4 };
        let said = format!("{} {command:?}", table.name());
        let change = TableChange { table: table.name().to_owned(), empty: false, commands: vec![command] };
        let batch = RuleBatch { family, tables: vec![change], test: false };
        match self.rules.apply(&batch, &self.counters) {
            Ok(_) => {
                self.rules.release();
                Ok(())
            }
            Err(failure) => Err(format!("{said} is refused: {}", failure.message)),
        }
    }

    /// A line of the operator's to `ipset`.
    fn set_line(&mut self, line: &str) {
        // What is there already may be said again.
        self.sets.line(line, true, self.now).unwrap_or_else(|why| panic!("{line}: {why:?}"));
    }

    /// One change that an operator makes, here and in the model.
    fn change(&mut self) {
        self.model.sets.now = self.now;
        if self.draw.below(4) == 0 {
            let line = self.model.sets.change(&mut self.draw, &self.net);
            return self.set_line(&line);
        }
        let table = self.draw.pick(&Table::ALL);
        let all: Vec<_> = chains(table).collect();
        let (name, hook) = self.draw.pick(&all);
        let chain = name.to_owned();
        let len = self.chain(table, name).rules.len();
        // The first one of all stays.
        let first = usize::from((table, name) == (Table::Raw, "PREROUTING"));
        let done = if self.draw.below(12) == 0 && table == Table::Filter && hook.is_some() {
            let drops = self.draw.coin();
            (self.chain(table, name).drops, self.chain(table, name).policy) = (drops, Counts::default());
            let policy = if drops { "DROP" } else { "ACCEPT" }.to_owned();
            self.command(table, RuleCommand::SetPolicy { chain, policy, counts: Some(RuleCounts::default()) })
        } else if len > first && (len >= MOST || self.draw.below(3) == 0) {
            let place = first + self.draw.below((len - first) as u64) as usize;
            self.chain(table, name).rules.remove(place);
            self.command(table, RuleCommand::DeleteAt { chain, at: place + 1 })
        } else {
            let mut new = rule::draw(&mut self.draw, &self.net, table, name, hook);
            // Nor may a client come to know a real server whose connection was translated.
            let has_service = self.model.service.is_some();
            // Who answers by itself does so from the service's address, whatever the client asked for.
            let is_one_way = self.model.service.is_some_and(|service| service.forwarding.is_one_way());
            let is_other = |does: rule::Does, workers: usize| {
                is_one_way && matches!(does, rule::Does::Dnat(_) | rule::Does::Redirect { .. })
                    || does.splits() && (workers > 1 || has_service && does != rule::Does::NoTrack)
                    || has_service && matches!(does, rule::Does::Prefix { .. })
                    || self.shows_owners && does.hides_owners(hook)
            };
            while is_other(new.does, self.workers.len()) {
                new = rule::draw(&mut self.draw, &self.net, table, name, hook);
            }
            let rule = text::split(&new.to_string()).expect("all quotes end");
            let (place, counts) =
                (first + self.draw.below((len - first) as u64 + 1) as usize, RuleCounts::default());
            self.chain(table, name).rules.insert(place, (new, Counts::default()));
            self.command(table, RuleCommand::Insert { chain, at: place + 1, rule, counts })
        };
        done.unwrap_or_else(|why| panic!("{why}"));
    }

    /// # Errors
    /// As for [`World::end_all`].
    fn publish(&mut self) -> Result<(), String> {
        self.generation += 1;
        let hides_owners = self.workers.len() > 1 && self.rules.compiled().hide_owners();
        // What began before has ports that are another worker's from now on.
        if hides_owners && !self.hides_owners {
            self.end_all()?;
            (self.hides_owners, self.model.shares_ports) = (true, true);
        }
        self.published = self.sets.take_change().unwrap_or(self.published.clone());
        let (generation, rules) = (self.generation, self.rules.compiled());
        let tables = self.net.tables(generation, rules, self.settings, self.model.service);
        let tables = Arc::new(Tables { sets: self.published.clone(), ..tables });
        self.workers.iter_mut().for_each(|worker| drop(worker.adopt(tables.clone())));
        Ok(())
    }

    /// # Errors
    /// What is not as it must be.
    pub(super) fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        match self.draw.below(40) {
            0 => {
                (0..=self.draw.below(3)).for_each(|_| self.change());
                self.publish()?;
            }
            _ if self.steps.is_multiple_of(10 * LOOK) => self.end_all()?,
            _ => {
                self.now = self.now.after(Timeout(self.draw.below(10) as u32));
                match self.draw.below(16) {
                    _ if self.model.service.is_some() => self.packet()?,
                    0 | 1 => self.error()?,
                    2 if !self.model.exchanges_prefixes() => self.pieces()?,
                    _ => self.packet()?,
                }
            }
        }
        self.model.sets.now = self.now;
        self.grant()?;
        if self.steps.is_multiple_of(LOOK) {
            self.check_counts()?;
            self.check_connections()?;
            self.check_sets()?;
        }
        Ok(())
    }

    /// What found no room in a set is put in now.
    ///
    /// # Errors
    /// As for [`World::end_all`].
    fn grant(&mut self) -> Result<(), String> {
        self.sets.grant_wishes(self.now);
        match self.sets.take_change() {
            Some(grown) => {
                self.published = grown;
                self.publish()
            }
            None => Ok(()),
        }
    }

    fn packet(&mut self) -> Result<(), String> {
        self.packets += 1;
        let sending = self.next();
        let mut packet = sending.packet;
        let is_foreign = packet.ends.src.is_ipv6() != self.net.is_ipv6;
        if !sending.is_host && !is_foreign && self.beside.below(25) == 0 && self.model.may_tell_of(&packet) {
            packet.ttl = 1;
        }
        let came = self.bring(sending.is_host, packet.ends.src, &packet)?;
        let left = came.out.sent.iter().chain(&came.out.up).find_map(|(_, frame)| Packet::read(frame.data()));
        // What is refused by a reset has not left.
        let left = left.filter(|left| left.flags() & RST == 0);
        self.model.is_silent = self.suppressed() > came.before.1;
        self.model.local = self.local_end(&packet.ends);
        let fate = if sending.is_host {
            self.model.send(&packet, left.as_ref())
        } else {
            self.model.receive(usize::from(came.port.0), &packet, left.as_ref())
        };
        let fate = fate.map_err(|why| format!("{packet:?} {}: {why}", came.whence()))?;
        self.compare(std::slice::from_ref(&fate), &came)
            .map_err(|why| format!("{packet:?} {} must be {fate:?}: {why}", came.whence()))?;
        let (is_host, packet) = match fate {
            Fate::Up(packet) => (true, packet),
            Fate::Sent(packet) => (false, packet),
            // It answers by another way.
            Fate::Routed(..) | Fate::Tunnelled(..) => return Ok(()),
            Fate::Dropped(_) | Fate::NoPort(_) | Fate::Refused(..) => return Ok(()),
        };
        // Conntrack knows every segment of a connection from its first one on: none begins in an answer to a stray one.
        if !matches!(packet.says, Says::Tcp(_)) || self.model.knows(&packet.ends.reversed()) {
            self.traffic.arrives(is_host, packet, &mut self.draw);
        }
        Ok(())
    }

    /// From which end of the director's a connection by FullNAT is, whose client's packets are such: one that has just begun, if the packet did begin one. It
    /// may have taken the place of one that tracking knew, of which an untracked packet is none.
    fn local_end(&self, ends: &Tuple) -> Option<(IpAddr, u16)> {
        self.model.service.filter(|service| service.forwarding == Forwarding::FullNat)?;
        let mut local = None;
        for worker in &self.workers {
            worker.list(0, u32::MAX, self.now, &mut |view| {
                if view.original() == *ends {
                    local = view.local;
                }
            });
        }
        local
    }

    fn next(&mut self) -> Sending {
        let World { traffic, model, draw, .. } = self;
        if !self.has_windows {
            return traffic.next(draw);
        }
        if draw.below(3) > 0
            && let Some(mut sending) = traffic.say(draw, |packet| model.bounds(packet))
        {
            let Packet { ends, says, .. } = &mut sending.packet;
            // A SYN asks no other worker (decision 26): that of the answering end would begin a connection of its own, or take another one's ends.
            if let Says::Tcp(segment) = says
                && self.workers.len() > 1
                && segment.kind() == Some(Kind::Syn)
                && !model.is_request(ends)
            {
                segment.flags |= ACK;
            }
            return sending;
        }
        let sending = traffic.next(draw);
        if model.knows(&sending.packet.ends) { sending } else { traffic.offering(sending, draw) }
    }

    fn error(&mut self) -> Result<(), String> {
        let Some((is_host, error)) = self.traffic.error(&mut self.draw) else { return Ok(()) };
        if !is_host && self.beside.below(4) == 0 && !self.model.exchanges_prefixes() {
            return self.error_in_pieces(error);
        }
        self.packets += 1;
        let came = self.bring(is_host, error.src, &error)?;
        let input = (!is_host).then_some(usize::from(came.port.0));
        let fate = self.model.tell(&self.net, input, &error);
        let fate = fate.map_err(|why| format!("{error:?} {}: {why}", came.whence()))?;
        self.compare(std::slice::from_ref(&fate), &came)
            .map_err(|why| format!("{error:?} {} must be {fate:?}: {why}", came.whence()))
    }

    /// None of which is lost.
    fn error_in_pieces(&mut self, error: Error) -> Result<(), String> {
        let src = error.src;
        let cut = Cut::of_error(error, &mut self.identifications, &mut self.beside);
        let pieces = cut.pieces(&mut self.beside);
        let came = self.bring_pieces(src, &pieces)?;
        let fates = self.model.gather_error(&self.net, usize::from(came.port.0), &pieces);
        let fates = fates.map_err(|why| format!("{pieces:?}: {why}"))?;
        self.compare(&fates, &came).map_err(|why| format!("{pieces:?} must be {fates:?}: {why}"))
    }

    /// Lets pieces come from `src`, one after the other, each to any worker.
    ///
    /// # Errors
    /// As for [`World::bring`].
    fn bring_pieces<T: Whole>(&mut self, src: IpAddr, pieces: &[OnePiece<T>]) -> Result<Came, String> {
        let port = PortId(self.net.interface(src) as u16);
        let before = (self.drops(), self.suppressed());
        let mut came = Came { is_host: false, port, out: Out::default(), before };
        for piece in pieces {
            self.packets += 1;
            self.bring_more(&mut came, src, piece)?;
        }
        Ok(came)
    }

    /// A packet in pieces, none of which is lost.
    fn pieces(&mut self) -> Result<(), String> {
        let sending = self.traffic.next(&mut self.draw);
        let src = sending.packet.ends.src;
        let Some(cut) =
            Cut::new(sending.packet, &mut self.identifications, &mut self.draw).filter(|_| !sending.is_host)
        else {
            return Ok(());
        };
        let pieces = cut.pieces(&mut self.draw);
        let came = self.bring_pieces(src, &pieces)?;
        let left = came.out.sent.iter().chain(&came.out.up).find_map(|(_, frame)| Packet::read(frame.data()));
        self.model.is_silent = self.suppressed() > came.before.1;
        let fates = self.model.gather(usize::from(came.port.0), &pieces, left.as_ref());
        let fates = fates.map_err(|why| format!("{pieces:?}: {why}"))?;
        self.compare(&fates, &came).map_err(|why| format!("{pieces:?} must be {fates:?}: {why}"))?;
        let is_up = fates.iter().all(|fate| matches!(fate, Fate::Up(_)));
        let is_sent = fates.iter().all(|fate| matches!(fate, Fate::Sent(_)));
        if let Some(Fate::Up(piece) | Fate::Sent(piece)) = fates.into_iter().next()
            && (is_up || is_sent)
        {
            self.traffic.arrives(is_up, piece.of.packet, &mut self.draw);
        }
        Ok(())
    }

    /// Lets something come from `src`, to any worker, and all workers do what they have to do with it.
    ///
    /// # Errors
    /// It goes round between them.
    fn bring(&mut self, is_host: bool, src: IpAddr, what: &impl OnWire) -> Result<Came, String> {
        let port = PortId(self.net.interface(if is_host { what.to() } else { src }) as u16);
        let before = (self.drops(), self.suppressed());
        let mut came = Came { is_host, port, out: Out::default(), before };
        self.bring_more(&mut came, src, what)?;
        Ok(came)
    }

    /// And behind it something else.
    ///
    /// # Errors
    /// As for [`World::bring`].
    fn bring_more(&mut self, came: &mut Came, src: IpAddr, what: &impl OnWire) -> Result<(), String> {
        self.model.sets.now = self.now;
        let Came { is_host, port, ref mut out, .. } = *came;
        let link = if is_host { self.net.link_to(what.to()) } else { self.net.link_from(src) };
        // What comes from the host came by no port.
        let by = if is_host { PortId::NONE } else { port };
        let mut burst: Burst<Frame> = std::iter::once(Frame::new(by, &what.frame(&link))).collect();
        let worker = self.draw.below(self.workers.len() as u64) as usize;
        if is_host {
            self.workers[worker].receive_from_twin(port, &mut burst, self.now, out);
        } else {
            self.workers[worker].receive(&mut burst, self.now, out);
        }
        self.hand_over(out)
    }

    fn hand_over(&mut self, out: &mut Out) -> Result<(), String> {
        for _ in 0..HAND_OVERS {
            let Some((to, frame, steer)) = out.handed.pop_front() else { return Ok(()) };
            let mut handed: ArrayVec<_, BURST> = std::iter::once((frame, steer)).collect();
            self.workers[to.index()].receive_handed_over(&mut handed, self.now, out);
        }
        Err("a packet goes round between the workers".into())
    }

    fn suppressed(&self) -> u64 {
        self.counters.iter().map(|worker| worker.turns.icmp_suppressed.get()).sum()
    }

    fn drops(&self) -> Drops {
        let mut drops = Drops::new();
        for worker in self.counters.iter() {
            for &reason in DropReason::ALL {
                for hook in Hook::ALL {
                    let count = worker.dropped(reason, hook).get();
                    if count > 0 {
                        *drops.entry((reason.label(), hook.name())).or_default() += count;
                    }
                }
            }
        }
        drops
    }

    /// What each rule and each policy counted.
    fn check_counts(&self) -> Result<(), String> {
        let family = if self.net.is_ipv6 { RuleFamily::Ipv6 } else { RuleFamily::Ipv4 };
        for view in self.rules.view(family, None, &self.counters) {
            let table = Table::named(&view.table).ok_or("a table that is none")?;
            for (name, hook) in chains(table) {
                let chain = view.chains.iter().find(|chain| chain.name == name);
                let chain = chain.ok_or_else(|| format!("{} has no chain {name}", view.table))?;
                let counts = |counts: &RuleCounts| (counts.packets, counts.bytes);
                let model = &self.model.chains[&(table, name)];
                let must: Vec<_> = model.rules.iter().map(|(_, counts)| *counts).collect();
                let are: Vec<_> = chain.rules.iter().map(|rule| counts(&rule.counts)).collect();
                let rules: Vec<_> = model.rules.iter().map(|(rule, _)| rule.to_string()).collect();
                same(&format!("counted in {name} of {}, by {rules:#?},", view.table), &are, &must)?;
                if hook.is_some() {
                    let what = format!("counted at the end of {name} of {}", view.table);
                    same(&what, &counts(&chain.counts), &model.policy)?;
                }
            }
        }
        Ok(())
    }

    /// What is in each set.
    fn check_sets(&self) -> Result<(), String> {
        for (place, name) in SETS.iter().enumerate() {
            let id = self.sets.id(name.name).ok_or("a set is gone")?;
            let set = self.published.get(id).ok_or("a set is not there")?;
            let there = set.store.iter().filter(|&(_, slot)| !set.store.is_over(slot, self.now));
            let are = there.map(|(key, slot)| {
                let element = Element::of_key(&key, set.store.value(slot), set.kind, set.family);
                let whole = if self.net.is_ipv6 { 128 } else { 32 };
                let len = if name.name == "nets" { element.len } else { whole };
                (element.address, len, element.mark, element.port)
            });
            let what = format!("in the set {}", name.name);
            same(&what, &self.model.sets.without_fillers(are), &self.model.sets.elements(place))?;
        }
        Ok(())
    }

    /// Rules, and which connections the model and each worker know: one in a line.
    pub(super) fn shown(&self) -> String {
        let mut out = Vec::new();
        for table in Table::ALL {
            for (chain, _) in chains(table) {
                let model = &self.model.chains[&(table, chain)];
                let policy = if model.drops { " drops at its end" } else { "" };
                if model.drops || !model.rules.is_empty() {
                    out.push(format!("{} {chain}{policy}", table.name()));
                }
                for (rule, counts) in &model.rules {
                    out.push(format!("  {rule} {counts:?}"));
                }
            }
        }
        let mut known: Vec<_> = self.model.connections().collect();
        known.sort_by_key(order);
        out.extend(known.iter().map(|connection| format!("the model: {}", Shown(connection))));
        for (number, worker) in self.workers.iter().enumerate() {
            worker.list(0, u32::MAX, self.now, &mut |view| {
                out.push(format!("worker {number}: {} mark {}", Shown(&tuples(&view)), view.known.mark));
            });
        }
        out.join("\n")
    }

    fn check_connections(&self) -> Result<(), String> {
        let mut are = Vec::new();
        for worker in &self.workers {
            worker.check_connections()?;
            worker.list(0, u32::MAX, self.now, &mut |view| {
                if !view.is_template {
                    are.push(tuples(&view));
                }
            });
        }
        let mut must: Vec<_> = self.model.connections().collect();
        are.sort_by_key(order);
        must.sort_by_key(order);
        same("connections", &are, &must)
    }

    /// Nothing comes for so long that all connections end.
    fn end_all(&mut self) -> Result<(), String> {
        let mut out = Out::default();
        // Once more for a template whose time was over before its last connection's.
        for rest in [LIFE + 60, STAYS + 1] {
            self.now = self.now.after(Timeout::from_secs(rest));
            for _ in 0..2 * CONNECTIONS as usize / 256 + 4 {
                self.now = self.now.after(Timeout(20));
                self.workers.iter_mut().for_each(|worker| worker.turn(self.now, &mut out));
            }
        }
        self.model.sets.now = self.now;
        self.model.forget();
        self.traffic.forget();
        self.identifications.clear();
        self.check_connections()
    }
}

/// Everything rests as long.
fn settings(ways: Ways, has_service: bool) -> Settings {
    let mut settings = Settings { forwarding: true, ..Settings::default() };
    let conntrack = &mut settings.sysctls.conntrack;
    conntrack.tcp = [LIFE; _];
    (conntrack.tcp_unacknowledged, conntrack.tcp_max_retrans_timeout) = (LIFE, LIFE);
    (conntrack.udp, conntrack.udp_stream) = (LIFE, LIFE);
    (conntrack.icmp, conntrack.icmpv6, conntrack.generic) = (LIFE, LIFE, LIFE);
    conntrack.tcp_be_liberal = ways.is_liberal.into();
    conntrack.tcp_loose = ways.is_loose.into();
    conntrack.tcp_ignore_invalid_rst = ways.believes_resets.into();
    settings.sysctls.source_nat = has_service.into();
    (settings.tcp, settings.udp) = (Timeout::from_secs(LIFE), Timeout::from_secs(LIFE));
    settings
}

/// Of a connection, and its zone.
fn tuples(view: &FlowView) -> (Tuple, Tuple, u16) {
    let ((src, sport), (dst, dport)) = (view.server, view.local.unwrap_or(view.client));
    (view.original(), Tuple { src, dst, sport, dport, protocol: view.protocol }, view.known.zones.id())
}

fn order((a, b, zone): &(Tuple, Tuple, u16)) -> impl Ord + use<> {
    (a.src, a.sport, a.dst, a.dport, a.protocol.0, b.src, b.sport, *zone)
}

/// A connection of [`tuples`], for people.
struct Shown<'a>(&'a (Tuple, Tuple, u16));

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (original, reply, zone) = self.0;
        write!(f, "{}", original.protocol.0)?;
        for Tuple { src, sport, dst, dport, .. } in [original, reply] {
            write!(f, " {src} {sport} to {dst} {dport},")?;
        }
        write!(f, " zone {zone}")
    }
}

fn same<T: PartialEq + Debug>(what: &str, is: &T, must: &T) -> Result<(), String> {
    if is == must { Ok(()) } else { Err(format!("{what}: is {is:02x?}, must be {must:02x?}")) }
}
