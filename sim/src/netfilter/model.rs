//! What netfilter must do: lists of rules, walked from their beginning, and a map of connections, for all workers together.
//!
//! Where the path is free, it follows it: which address of a range and which port of those that are free a source gets is read off
//! the packet that left ([`Netfilter::choose`]).

mod nat;
mod served;
mod walk;

use std::net::IpAddr;

use hashbrown::HashMap;
use lb_core::flow::Tuple;
use lb_core::hook::Hook;
use lb_core::rule::{Table, chain_name};
use lb_core::tables::Tunnel;

use self::walk::walk;
use super::fragments::Piece;
use super::hash;
use super::net::Net;
use super::npt;
use super::packet::{Packet, Says, number};
use super::rule::{Choice, Does, Refusal, Rule, State, Test, Way};
use super::segment::Kind;
use super::sets::{Seen, Sets};
use super::tcp::{Bounds, Said, Tcp, Ways};
use super::traffic::TTL;
use crate::wire::{RST, SYN};

/// What matched: packets and bytes.
pub(super) type Counts = (u64, u64);

#[derive(Clone, Debug, Default)]
pub(super) struct Chain {
    pub(super) rules: Vec<(Rule, Counts)>,
    pub(super) drops: bool,
    /// Of what comes to the end of a built-in one.
    pub(super) policy: Counts,
}

pub(super) type Chains = HashMap<(Table, &'static str), Chain>;

/// A connection: what its first packet had, and what answers have.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) original: Tuple,
    pub(super) reply: Tuple,
    pub(super) zone: u16,
    /// A virtual service has given it its destination.
    pub(super) is_served: bool,
    /// By direct routing or a tunnel, to this real server: nothing is exchanged, and answers do not come by.
    direct: Option<(IpAddr, u16)>,
    is_tunnelled: bool,
    /// By FullNAT, which is no translation to conntrack either.
    is_full_nat: bool,
    pub(super) is_answered: bool,
    tcp: Option<Tcp>,
    mark: u32,
    /// Packets and bytes, of either direction.
    pub(super) counts: [Counts; 2],
}

impl Connection {
    /// One that begins now, of a virtual service: its windows are not followed.
    fn served(original: Tuple, reply: Tuple) -> Connection {
        Connection {
            original,
            reply,
            zone: 0,
            is_served: true,
            direct: None,
            is_tunnelled: false,
            is_full_nat: false,
            is_answered: false,
            tcp: None,
            mark: 0,
            counts: Default::default(),
        }
    }

    /// A packet of it, as it comes.
    fn comes(&self, is_reply: bool) -> Tuple {
        if is_reply { self.reply } else { self.original }
    }

    /// And as it leaves.
    pub(super) fn leaves(&self, is_reply: bool) -> Tuple {
        self.comes(!is_reply).reversed()
    }

    fn is_translated(&self, is_destination: bool) -> bool {
        let leaves = self.reply.reversed();
        let (came, leaves) = (self.original, leaves);
        if is_destination {
            // To conntrack that is no translation, as in the kernel.
            !self.is_served && (came.dst, came.dport) != (leaves.dst, leaves.dport)
        } else {
            !self.is_full_nat && (came.src, came.sport) != (leaves.src, leaves.sport)
        }
    }
}

/// How a packet gets to a virtual service's real server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Forwarding {
    Masquerading,
    /// From an end of the director's, which the path chooses.
    FullNat,
    Direct,
    Tunnel(Tunnel),
}

impl Forwarding {
    /// Answers do not come by.
    pub(super) fn is_one_way(self) -> bool {
        matches!(self, Forwarding::Direct | Forwarding::Tunnel(_))
    }
}

/// Which packets are for a virtual service.
#[derive(Clone, Copy, Debug)]
pub(super) enum Takes {
    /// Of a protocol, to an address and port.
    Endpoint(u8, (IpAddr, u16)),
    /// Of TCP and UDP to the director, with this mark.
    Marked(u32),
}

/// A virtual service whose clients' source the table `nat` may exchange (`net.ipv4.vs.conntrack`). It picks by a hash of its client's address and port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    pub(super) takes: Takes,
    /// A client keeps its real server.
    pub(super) is_persistent: bool,
    pub(super) forwarding: Forwarding,
    /// The first so many.
    pub(super) servers: [(IpAddr, u16); 3],
    pub(super) count: usize,
}

impl Service {
    /// The real server of a client: sh with `sh-port`, each of them with weight 1.
    fn server(&self, client: (IpAddr, u16)) -> (IpAddr, u16) {
        let number = number(client.0);
        let folded = (0..4).fold(0, |folded, word| folded ^ (number >> (32 * word)) as u32);
        let bucket = folded.wrapping_add(client.1.into()).wrapping_mul(0x61c8_8647) >> 24;
        self.servers[bucket as usize % self.count]
    }

    /// Whether IPVS begins a connection by such a packet.
    fn begins(packet: &Packet) -> bool {
        match packet.says {
            Says::Tcp(segment) => segment.flags & (SYN | RST) == SYN,
            Says::Udp => true,
            Says::Echo { .. } => false,
        }
    }
}

/// Who is told of a packet that is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Nobody,
    /// By an answer with these ends.
    Sender(Tuple),
    /// Nobody, as rules stop the answer.
    Stopped(Hook),
}

/// What becomes of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fate<T = Packet> {
    Dropped(Hook),
    /// No source was free for it.
    NoPort(Hook),
    Refused(Hook, Refusal, Told),
    /// To the host.
    Up(T),
    Sent(T),
    /// To the link address of another host than the one that it is for.
    Routed(T, IpAddr),
    /// Within a packet to that host.
    Tunnelled(T, IpAddr),
}

impl<T> Fate<T> {
    fn is_up(&self) -> bool {
        matches!(self, Fate::Up(_))
    }

    fn is_sent(&self) -> bool {
        matches!(self, Fate::Sent(_) | Fate::Routed(..) | Fate::Tunnelled(..))
    }

    pub(super) fn with<U>(self, what: impl FnOnce(T) -> U) -> Fate<U> {
        match self {
            Fate::Dropped(hook) => Fate::Dropped(hook),
            Fate::NoPort(hook) => Fate::NoPort(hook),
            Fate::Refused(hook, refusal, told) => Fate::Refused(hook, refusal, told),
            Fate::Up(ends) => Fate::Up(what(ends)),
            Fate::Sent(ends) => Fate::Sent(what(ends)),
            Fate::Routed(ends, by) => Fate::Routed(what(ends), by),
            Fate::Tunnelled(ends, to) => Fate::Tunnelled(what(ends), to),
        }
    }
}

/// One packet on its road.
pub(super) struct Passage {
    /// As it came, or as it is between the hooks.
    pub(super) ends: Tuple,
    input: Option<usize>,
    pub(super) output: Option<usize>,
    pub(super) state: State,
    pub(super) is_reply: bool,
    /// The connection that it is of, or about, or begins.
    pub(super) connection: Option<Connection>,
    /// A virtual service's that it is of, whether or not conntrack follows it.
    served: Option<Connection>,
    /// A virtual service may begin one by it.
    may_be_served: bool,
    /// It is an ICMP error: of its own ends only the addresses change, where the connection's do.
    pub(super) is_error: bool,
    /// What answers the packet that an error quotes: what goes as it goes.
    pub(super) answer: Option<Tuple>,
    /// What is quoted is a piece, of which the ports are not looked at.
    pub(super) quotes_piece: bool,
    /// It is one of a packet's.
    pub(super) piece: Option<Piece>,
    mark: u32,
    pub(super) is_untracked: bool,
    /// What the first rule said that said any.
    pub(super) zone: Option<u16>,
    len: u64,
    ttl: u8,
    /// It is of the other family.
    is_foreign: bool,
}

pub(super) enum Verdict {
    Accept,
    Drop,
    Reject(Refusal),
    Destination(Choice),
    Source(Choice),
    Masquerade(Option<(u16, u16)>),
    Redirect(u16),
}

pub(super) type Passed<T = ()> = Result<T, Fate<Tuple>>;

const INPUT: [(Table, Hook); 3] =
    [(Table::Mangle, Hook::Input), (Table::Filter, Hook::Input), (Table::Security, Hook::Input)];
const FORWARD: [(Table, Hook); 3] =
    [(Table::Mangle, Hook::Forward), (Table::Filter, Hook::Forward), (Table::Security, Hook::Forward)];
/// Of what a virtual service sends on, as of what the host sends.
pub(super) const OUTPUT: [(Table, Hook); 5] = [
    (Table::Raw, Hook::Output),
    (Table::Mangle, Hook::Output),
    (Table::Filter, Hook::Output),
    (Table::Security, Hook::Output),
    (Table::Mangle, Hook::Postrouting),
];

pub(super) struct Netfilter {
    pub(super) net: Net,
    pub(super) sets: Sets,
    pub(super) chains: Chains,
    pub(super) connections: Vec<Option<Connection>>,
    /// By zone, too.
    by_tuple: HashMap<(u16, Tuple), (usize, bool)>,
    ways: Ways,
    pub(super) service: Option<Service>,
    /// Which real server a client has, of one that is persistent.
    kept: HashMap<IpAddr, (IpAddr, u16)>,
    /// From which end of the director's the path has the connection of the packet that comes, by FullNAT.
    pub(super) local: Option<(IpAddr, u16)>,
    /// Of which connection the packet was that came last, and whether an answer, if it counted there.
    pub(super) counted: Option<(usize, bool)>,
    /// Enough errors were sent already.
    pub(super) is_silent: bool,
    /// There are several workers, and rules that make answers come to any of them, or were: each has source ports of its own.
    pub(super) shares_ports: bool,
}

impl Netfilter {
    pub(super) fn new(net: Net, sets: Sets, chains: Chains, ways: Ways) -> Netfilter {
        Netfilter {
            sets,
            net,
            chains,
            connections: Vec::new(),
            by_tuple: HashMap::new(),
            ways,
            service: None,
            kept: HashMap::new(),
            local: None,
            counted: None,
            is_silent: false,
            shares_ports: false,
        }
    }

    /// Both tuples of each connection, and its zone.
    pub(super) fn connections(&self) -> impl Iterator<Item = (Tuple, Tuple, u16)> {
        let all = self.connections.iter().flatten();
        all.map(|connection| {
            let (src, sport) = connection.direct.unwrap_or((connection.reply.src, connection.reply.sport));
            (connection.original, Tuple { src, sport, ..connection.reply }, connection.zone)
        })
    }

    /// Whether a TCP connection, which is in no zone, has such packets.
    pub(super) fn knows(&self, ends: &Tuple) -> bool {
        self.by_tuple.contains_key(&(0, *ends))
    }

    /// Whether a client's packets are a service's that go to their real server as they are.
    fn goes_direct(&self, ends: &Tuple) -> bool {
        self.served(ends).is_some_and(|served| served.original == *ends && served.direct.is_some())
    }

    /// Whether they come as its first one did.
    pub(super) fn is_request(&self, ends: &Tuple) -> bool {
        self.by_tuple.get(&(0, *ends)).is_some_and(|(_, is_reply)| !is_reply)
    }

    /// All connections are over.
    pub(super) fn forget(&mut self) {
        self.connections.clear();
        self.kept.clear();
        self.by_tuple.clear();
    }

    /// A packet from an interface. `left`: what the path made of it, if it went on.
    ///
    /// # Errors
    /// The path chose what was not free.
    pub(super) fn receive(
        &mut self,
        input: usize,
        packet: &Packet,
        left: Option<&Packet>,
    ) -> Result<Fate, String> {
        self.pass(Some(input), packet, None, left)
    }

    /// A packet of the host.
    ///
    /// # Errors
    /// As for [`Netfilter::receive`].
    pub(super) fn send(&mut self, packet: &Packet, left: Option<&Packet>) -> Result<Fate, String> {
        self.pass(None, packet, None, left)
    }

    /// `piece`: it is one of the packet's, and so long.
    pub(super) fn pass(
        &mut self,
        input: Option<usize>,
        packet: &Packet,
        piece: Option<(Piece, u64)>,
        left: Option<&Packet>,
    ) -> Result<Fate, String> {
        let hook = if input.is_some() { Hook::Prerouting } else { Hook::Output };
        let len = piece.map_or(packet.len(), |(_, len)| len);
        let mut passage = self.passage(packet.ends, input, len);
        passage.piece = piece.map(|(piece, _)| piece);
        passage.ttl = packet.ttl;
        let becomes = |ends, hops| Packet { ends, ttl: packet.ttl - hops, ..packet.clone() };
        self.counted = None;
        if let Err(fate) = self.ask(Table::Raw, hook, &mut passage) {
            return Ok(fate.with(|ends| becomes(ends, 0)));
        }
        let counts = self.counts_connections();
        let zone = passage.zone.unwrap_or(0);
        let mut known = self.number_of(&passage, &packet.ends);
        let mut said = known.map(|of| self.follow(of, packet));
        if let (Some((number, _)), Some(Said::Anew)) = (known, said) {
            self.end_number(number);
            (known, said) = (None, None);
        }
        passage.may_be_served = self.service.is_some() && Service::begins(packet);
        // IPVS finds it all the same.
        passage.served = self.served(&packet.ends);
        if passage.is_untracked {
            passage.state = State::Untracked;
        } else if let Some((number, is_reply)) = known {
            if said != Some(Said::Invalid) {
                let connection = self.connections[number].as_mut().expect("it is there");
                connection.is_answered |= is_reply;
                if counts && said != Some(Said::LetBe) {
                    count(&mut connection.counts[usize::from(is_reply)], len);
                    self.counted = known;
                }
                passage.is_reply = is_reply;
                passage.state =
                    if connection.is_answered || is_reply { State::Established } else { State::New };
                passage.connection = Some(connection.clone());
            }
        } else if input.is_none() && self.goes_direct(&packet.ends.reversed()) {
            // What the host says to a client whose packets another answers is taken for that one's answer: one table has the connections of IPVS and of conntrack.
            passage.state = State::Established;
        } else if let Some(tcp) = self.begins(packet) {
            passage.state = State::New;
            let (original, reply) = (packet.ends, packet.ends.reversed());
            let mut connection = Connection {
                original,
                reply,
                zone,
                is_served: false,
                direct: None,
                is_tunnelled: false,
                is_full_nat: false,
                is_answered: false,
                tcp,
                mark: 0,
                counts: Default::default(),
            };
            if counts {
                count(&mut connection.counts[0], len);
            }
            passage.connection = Some(connection);
        }
        let is_new = known.is_none() && passage.connection.is_some();
        let fate = match self.tables(hook, is_new, left, &mut passage) {
            Ok(fate) => fate?,
            Err(fate) => fate,
        };
        let is_on_its_way = fate.is_up() || fate.is_sent();
        let is_reset = matches!(fate, Fate::Refused(_, Refusal::Reset, _)) && packet.flags() & RST == 0;
        // Whoever is told so takes it for over; the host says it itself.
        if let Some(connection) = passage.connection.as_mut().filter(|of| is_reset && !of.is_served)
            && let Some(tcp) = connection.tcp.as_mut().filter(|_| input.is_some())
        {
            tcp.close();
        }
        let attached = passage.connection.clone().map(|connection| (connection, passage.is_reply));
        match (known, passage.connection) {
            // Its mark was written on the way.
            (Some((number, _)), Some(connection)) => self.write_back(number, connection),
            (None, Some(connection)) if is_on_its_way => {
                self.enter(connection)?;
                self.counted = self.by_tuple.get(&(zone, packet.ends)).copied().filter(|_| counts);
            }
            _ => {}
        }
        let fate = match fate {
            Fate::Refused(hook, refusal, _) => {
                // What IPVS has begun by what conntrack makes nothing of is nothing that was known.
                let is_invalid = passage.state == State::Invalid && known.is_some();
                let begun = attached.as_ref().filter(|(connection, _)| connection.is_served);
                let begun = begun.and_then(|(of, _)| self.by_tuple.get(&(0, of.original)));
                let known = known.or(begun.copied()).filter(|_| attached.is_some()).map(|(number, _)| number);
                let to = (attached, known, is_invalid, zone);
                let told = self.answer(input, packet, piece, refusal, to);
                Fate::Refused(hook, refusal, told)
            }
            fate => fate,
        };
        if let (Some((number, _)), Some(Said::Ends)) = (known, said) {
            self.end_number(number);
        }
        let hops = u8::from(input.is_some() && fate.is_sent());
        Ok(fate.with(|ends| becomes(ends, hops)))
    }

    /// A later piece of the packet that came last, whose data is so long.
    pub(super) fn lengthen(&mut self, len: u64) {
        if let Some((number, is_reply)) = self.counted
            && let Some(connection) = &mut self.connections[number]
        {
            connection.counts[usize::from(is_reply)].1 += len;
        }
    }

    /// A packet's, as it comes.
    pub(super) fn passage(&self, ends: Tuple, input: Option<usize>, len: u64) -> Passage {
        Passage {
            ends,
            input,
            output: input.is_none().then(|| self.net.interface(ends.dst)),
            state: State::Invalid,
            is_reply: false,
            connection: None,
            served: None,
            may_be_served: false,
            is_error: false,
            answer: None,
            quotes_piece: false,
            piece: None,
            mark: 0,
            is_untracked: false,
            zone: None,
            len,
            ttl: TTL,
            is_foreign: ends.src.is_ipv6() != self.net.is_ipv6,
        }
    }

    /// Which connection has such packets, and whether they are answers, to one that has passed the table `raw`.
    pub(super) fn number_of(&self, passage: &Passage, ends: &Tuple) -> Option<(usize, bool)> {
        let known = self.by_tuple.get(&(passage.zone.unwrap_or(0), *ends));
        known.copied().filter(|_| !passage.is_untracked)
    }

    pub(super) fn connection(&self, number: usize) -> Connection {
        self.connections[number].clone().expect("it is there")
    }

    /// What rules wrote of it.
    pub(super) fn write_back(&mut self, number: usize, connection: Connection) {
        self.connections[number] = Some(connection);
    }

    /// What is known of the connection that a packet begins, if it is TCP. `None`: it begins none.
    fn begins(&self, packet: &Packet) -> Option<Option<Tcp>> {
        match &packet.says {
            Says::Udp => Some(None),
            Says::Echo { is_reply, .. } => (!is_reply).then_some(None),
            Says::Tcp(segment) => Tcp::begin(segment, packet.payload.len(), self.ways).map(Some),
        }
    }

    /// What a packet is to its connection, which it changes.
    pub(super) fn follow(&mut self, (number, is_reply): (usize, bool), packet: &Packet) -> Said {
        let connection = self.connections[number].as_mut().expect("it is there");
        let is_answered = connection.is_answered;
        match (&mut connection.tcp, packet.segment()) {
            (Some(tcp), Some(segment)) => {
                tcp.follow(segment, packet.payload.len(), is_reply, is_answered, self.ways)
            }
            _ => Said::Fits,
        }
    }

    /// Where the bounds are for a segment, if a connection has such.
    pub(super) fn bounds(&self, packet: &Packet) -> Option<Bounds> {
        let &(number, is_reply) = self.by_tuple.get(&(0, packet.ends))?;
        self.connection(number).tcp.map(|tcp| tcp.bounds(is_reply))
    }

    fn enter(&mut self, connection: Connection) -> Result<(), String> {
        if let Some(old) = self.gives_way(connection.reply, &connection) {
            self.end_number(old);
        }
        let number = self.connections.len();
        // Nobody has the address of a service from which another host answers.
        let tuples = if connection.direct.is_some() { 1 } else { 2 };
        for (tuple, is_reply) in
            [(connection.original, false), (connection.reply, true)].into_iter().take(tuples)
        {
            if let Some((other, _)) = self.by_tuple.insert((connection.zone, tuple), (number, is_reply))
                && other != number
            {
                return Err(format!("{connection:?} cannot be told from {:?}", self.connections[other]));
            }
        }
        self.connections.push(Some(connection));
        Ok(())
    }

    /// All behind conntrack. The outer error: what became of it before it could leave.
    pub(super) fn tables(
        &mut self,
        hook: Hook,
        is_new: bool,
        left: Option<&Packet>,
        passage: &mut Passage,
    ) -> Passed<Result<Fate<Tuple>, String>> {
        let came = passage.ends;
        self.ask(Table::Mangle, hook, passage)?;
        let is_known = !is_new && passage.connection.is_some();
        // Of a connection that is known, its own ends count, whatever a rule made of the packet's.
        passage.ends = if is_known { came } else { passage.ends };
        if passage.served.is_some() {
            self.pass_served(passage)?;
            let served = passage.served.as_ref().expect("it is of one");
            return Ok(Ok(match served.direct {
                Some((server, _)) if served.is_tunnelled => Fate::Tunnelled(passage.ends, server),
                Some((server, _)) => Fate::Routed(passage.ends, server),
                None => Fate::Sent(passage.ends),
            }));
        }
        if is_new {
            passage.note_prefixes();
            let verdict = self.verdict(Table::Nat, hook, passage);
            self.translate_destination(verdict, passage);
        } else {
            passage.become_destination();
        }
        let is_in = self.net.is_own(passage.ends.dst);
        if !is_in || hook == Hook::Output {
            passage.output = Some(self.net.interface(passage.ends.dst));
        }
        let road: &[(Table, Hook)] = match (hook, is_in) {
            (Hook::Output, _) => &[
                (Table::Filter, Hook::Output),
                (Table::Security, Hook::Output),
                (Table::Mangle, Hook::Postrouting),
            ],
            (_, true) => {
                &[(Table::Mangle, Hook::Input), (Table::Filter, Hook::Input), (Table::Security, Hook::Input)]
            }
            _ => &[
                (Table::Mangle, Hook::Forward),
                (Table::Filter, Hook::Forward),
                (Table::Security, Hook::Forward),
                (Table::Mangle, Hook::Postrouting),
            ],
        };
        let routed = passage.ends;
        if !is_in && hook == Hook::Prerouting {
            passage.goes_on()?;
        }
        for &(table, at) in road {
            if is_known && hook == Hook::Prerouting && at == Hook::Postrouting {
                passage.ends = routed;
            }
            self.ask(table, at, passage)?;
        }
        passage.ends = if is_known { routed } else { passage.ends };
        if !is_known && hook == Hook::Prerouting && self.is_for_service(passage) {
            if passage.may_be_served {
                return self.serve(left, passage);
            }
            if is_new {
                // In the middle of a connection that nobody knows: the host answers it as it came, and nothing is kept of it.
                passage.connection = None;
                return Ok(Ok(Fate::Up(came)));
            }
        }
        let last = if is_in && hook != Hook::Output { Hook::Input } else { Hook::Postrouting };
        if is_new {
            passage.note_prefixes();
            let verdict = self.verdict(Table::Nat, last, passage);
            match self.translate_source(verdict, passage, left) {
                Ok(true) => {}
                Ok(false) => return Err(Fate::NoPort(last)),
                Err(why) => return Ok(Err(why)),
            }
        } else {
            passage.become_source();
        }
        let is_up = last == Hook::Input || hook == Hook::Output && is_in;
        Ok(Ok(if is_up { Fate::Up(passage.ends) } else { Fate::Sent(passage.ends) }))
    }

    pub(super) fn ask_all(&mut self, road: &[(Table, Hook)], passage: &mut Passage) -> Passed {
        road.iter().try_for_each(|&(table, hook)| self.ask(table, hook, passage))
    }

    fn end(&mut self, tuple: &Tuple) {
        if let Some(&(number, _)) = self.by_tuple.get(&(0, *tuple)) {
            self.end_number(number);
        }
    }

    pub(super) fn end_number(&mut self, number: usize) {
        self.connections[number] = None;
        self.by_tuple.retain(|_, (other, _)| *other != number);
    }

    pub(super) fn ask(&mut self, table: Table, hook: Hook, passage: &mut Passage) -> Passed {
        match self.verdict(table, hook, passage) {
            Verdict::Drop => Err(Fate::Dropped(hook)),
            Verdict::Reject(refusal) => Err(Fate::Refused(hook, refusal, Told::Nobody)),
            _ => Ok(()),
        }
    }

    /// Whether a table does nothing.
    fn is_idle(&self, table: Table) -> bool {
        table.hooks().iter().all(|hook| {
            let chain = &self.chains[&(table, chain_name(*hook))];
            chain.rules.is_empty() && !chain.drops
        })
    }

    /// Whether a rule exchanges prefixes, reached or not.
    pub(super) fn exchanges_prefixes(&self) -> bool {
        let mut rules = self.chains.values().flat_map(|chain| &chain.rules);
        rules.any(|(rule, _)| matches!(rule.does, Does::Prefix { .. }))
    }

    /// Whether it is said here what its sender is told where it goes no further: not of what a service takes and conntrack does not follow.
    pub(super) fn may_tell_of(&self, packet: &Packet) -> bool {
        let mut rules = self.chains.values().flat_map(|chain| &chain.rules);
        let is_begun = || packet.segment().is_none_or(|segment| segment.kind() == Some(Kind::Syn));
        self.service.is_none()
            || !rules.any(|(rule, _)| rule.does == Does::NoTrack) && (self.knows(&packet.ends) || is_begun())
    }

    /// Whether a rule asks how much a connection has had, reached or not.
    pub(super) fn counts_connections(&self) -> bool {
        self.chains.iter().any(|((table, _), chain)| {
            let mut tests = chain.rules.iter().flat_map(|(rule, _)| &rule.tests);
            !self.is_idle(*table) && tests.any(Test::counts)
        })
    }

    pub(super) fn verdict(&mut self, table: Table, hook: Hook, passage: &mut Passage) -> Verdict {
        let name = chain_name(hook);
        // It counts nothing either. Nobody writes rules of the other family, in which real servers may be.
        if self.is_idle(table) || passage.is_foreign {
            return Verdict::Accept;
        }
        if let Some(verdict) = walk(&mut self.chains, &mut self.sets, table, name, passage) {
            return verdict;
        }
        let chain = self.chains.get_mut(&(table, name)).expect("it is built in");
        count(&mut chain.policy, passage.len);
        if chain.drops { Verdict::Drop } else { Verdict::Accept }
    }
}

impl Passage {
    /// The routing decision of what goes on to another host: the hooks behind it do not see what has no hop left (`ip_forward`).
    fn goes_on(&self) -> Passed {
        if self.ttl > 1 { Ok(()) } else { Err(Fate::Refused(Hook::Forward, Refusal::NoHop, Told::Nobody)) }
    }

    /// As sets see it.
    fn seen(&self) -> Seen {
        Seen { ends: self.ends, mark: self.mark }
    }
}

pub(super) fn count(counts: &mut Counts, len: u64) {
    counts.0 += 1;
    counts.1 += len;
}
