//! What netfilter must do: lists of rules, walked from their beginning, and a map of connections, for all workers together.
//!
//! Where the path is free, it follows it: which address of a range and which port of those that are free a source gets is read off
//! the packet that left ([`Netfilter::choose`]).

use std::net::IpAddr;

use hashbrown::HashMap;
use lb_core::flow::Tuple;
use lb_core::hook::Hook;
use lb_core::rule::{Table, chain_name};

use super::fragments::Piece;
use super::hash;
use super::net::Net;
use super::npt;
use super::packet::{Packet, Says, number};
use super::rule::{Choice, Does, Refusal, Rule, State, Test, Way};
use super::sets::{Seen, Sets};
use super::tcp::{Bounds, Said, Tcp, Ways};
use crate::wire::{RST, SYN, TCP, UDP};

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
    /// By direct routing, to this real server: nothing is exchanged, and answers do not come by.
    direct: Option<(IpAddr, u16)>,
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
            (came.src, came.sport) != (leaves.src, leaves.sport)
        }
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
    /// Its real servers are routed to, and not masqueraded.
    pub(super) is_direct: bool,
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
}

impl<T> Fate<T> {
    pub(super) fn with<U>(self, what: impl FnOnce(T) -> U) -> Fate<U> {
        match self {
            Fate::Dropped(hook) => Fate::Dropped(hook),
            Fate::NoPort(hook) => Fate::NoPort(hook),
            Fate::Refused(hook, refusal, told) => Fate::Refused(hook, refusal, told),
            Fate::Up(ends) => Fate::Up(what(ends)),
            Fate::Sent(ends) => Fate::Sent(what(ends)),
            Fate::Routed(ends, by) => Fate::Routed(what(ends), by),
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
    /// It is one of a packet's.
    pub(super) piece: Option<Piece>,
    mark: u32,
    pub(super) is_untracked: bool,
    /// What the first rule said that said any.
    pub(super) zone: Option<u16>,
    len: u64,
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
    /// Of which connection the packet was that came last, and whether an answer, if it counted there.
    counted: Option<(usize, bool)>,
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
        } else if let Some(tcp) = self.begins(packet) {
            passage.state = State::New;
            let (original, reply) = (packet.ends, packet.ends.reversed());
            let mut connection = Connection {
                original,
                reply,
                zone,
                is_served: false,
                direct: None,
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
        let is_on_its_way = matches!(fate, Fate::Up(_) | Fate::Sent(_) | Fate::Routed(..));
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
                let known = known.filter(|_| attached.is_some()).map(|(number, _)| number);
                let to = (attached, known, passage.state == State::Invalid, zone);
                let told = self.answer(input, packet, piece, refusal, to);
                Fate::Refused(hook, refusal, told)
            }
            fate => fate,
        };
        if let (Some((number, _)), Some(Said::Ends)) = (known, said) {
            self.end_number(number);
        }
        let hops = u8::from(input.is_some() && matches!(fate, Fate::Sent(_) | Fate::Routed(..)));
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
            piece: None,
            mark: 0,
            is_untracked: false,
            zone: None,
            len,
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
            let direct = passage.served.as_ref().and_then(|served| served.direct);
            return Ok(Ok(match direct {
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

    /// Behind INPUT.
    fn is_for_service(&self, passage: &Passage) -> bool {
        let Tuple { dst, dport, protocol, .. } = passage.ends;
        self.service.is_some_and(|service| match service.takes {
            Takes::Marked(mark) => {
                passage.mark == mark && self.net.is_own(dst) && [TCP, UDP].contains(&protocol.0)
            }
            Takes::Endpoint(of, address) => (protocol.0, (dst, dport)) == (of, address),
        })
    }

    pub(super) fn ask_all(&mut self, road: &[(Table, Hook)], passage: &mut Passage) -> Passed {
        road.iter().try_for_each(|&(table, hook)| self.ask(table, hook, passage))
    }

    /// What begins a service's connection: from INPUT on it has the real server as its destination, and the way of what the host sends; there the table `nat`
    /// says where it comes from, as far as the real server knows.
    fn serve(&mut self, left: Option<&Packet>, passage: &mut Passage) -> Passed<Result<Fate<Tuple>, String>> {
        let came = passage.connection.as_ref().map_or(passage.ends, |connection| connection.original);
        let service = self.service.expect("it is for it");
        let picked = service.server((came.src, came.sport));
        let server = match service.is_persistent {
            true => {
                let (address, port) = *self.kept.entry(came.src).or_insert(picked);
                // By mark a client gets the port that it asked for (`ip_vs_sched_persist`).
                (address, if matches!(service.takes, Takes::Marked(_)) { came.dport } else { port })
            }
            false => picked,
        };
        if service.is_direct {
            return self.serve_direct(came, server.0, passage);
        }
        let leaves = Tuple { dst: server.0, dport: server.1, ..came };
        // An older one that the real server could not tell from it goes.
        for tuple in [came, leaves.reversed()] {
            self.end(&tuple);
        }
        let served = Connection::served(came, leaves.reversed());
        let is_followed = passage.connection.is_some();
        if let Some(connection) = &mut passage.connection {
            let Connection { mark, counts, .. } = *connection;
            *connection = Connection { mark, counts, ..served.clone() };
        }
        (passage.input, passage.output) = (None, Some(self.net.interface(server.0)));
        passage.ends = leaves;
        if !is_followed {
            // Nothing is translated, and nobody asks whether it goes on.
            if let Err(why) = self.enter(served) {
                return Ok(Err(why));
            }
            self.ask_all(&OUTPUT, passage)?;
            return Ok(Ok(Fate::Sent(passage.ends)));
        }
        self.ask_all(&OUTPUT, passage)?;
        let verdict = self.verdict(Table::Nat, Hook::Postrouting, passage);
        if matches!(verdict, Verdict::Source(_) | Verdict::Masquerade(_)) {
            match self.translate_source(verdict, passage, left) {
                Ok(true) => {}
                Ok(false) => return Err(Fate::NoPort(Hook::Postrouting)),
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok(Fate::Sent(passage.ends)))
    }

    /// The same by direct routing: it stays as it came, and nobody asks whether its first packet goes on.
    fn serve_direct(
        &mut self,
        came: Tuple,
        server: IpAddr,
        passage: &mut Passage,
    ) -> Passed<Result<Fate<Tuple>, String>> {
        self.end(&came);
        let direct = Some((server, came.dport));
        let served = Connection { direct, ..Connection::served(came, came.reversed()) };
        let followed = passage.connection.take();
        let (mark, counts) = followed.as_ref().map_or((0, Default::default()), |it| (it.mark, it.counts));
        let served = Connection { mark, counts, ..served };
        if let Err(why) = self.enter(served.clone()) {
            return Ok(Err(why));
        }
        passage.connection = followed.is_some().then_some(served);
        (passage.input, passage.output) = (None, Some(self.net.interface(server)));
        let outcome = self.ask_all(&OUTPUT, passage);
        if let Some(connection) = passage.connection.take() {
            let (number, _) = self.by_tuple[&(0, came)];
            self.write_back(number, connection);
        }
        outcome.map(|()| Ok(Fate::Routed(passage.ends, server)))
    }

    /// What follows on it, behind PREROUTING.
    fn pass_served(&mut self, passage: &mut Passage) -> Passed {
        let served = passage.served.as_ref().expect("it is of one");
        if let Some((server, _)) = served.direct {
            self.ask_all(&INPUT, passage)?;
            (passage.input, passage.output) = (None, Some(self.net.interface(server)));
            return self.ask_all(&OUTPUT, passage);
        }
        let is_reply = served.reply == passage.ends;
        let leaves = served.leaves(is_reply);
        let inner = Tuple { dst: leaves.dst, dport: leaves.dport, ..passage.ends };
        if is_reply {
            (passage.ends, passage.output) = (inner, Some(self.net.interface(leaves.dst)));
            self.ask_all(&FORWARD, passage)?;
            passage.ends = leaves;
            return self.ask(Table::Mangle, Hook::Postrouting, passage);
        }
        self.ask_all(&INPUT, passage)?;
        (passage.input, passage.output) = (None, Some(self.net.interface(leaves.dst)));
        passage.ends = inner;
        self.ask_all(&OUTPUT, passage)?;
        passage.ends = leaves;
        Ok(())
    }

    fn served(&self, ends: &Tuple) -> Option<Connection> {
        let &(number, _) = self.by_tuple.get(&(0, *ends))?;
        self.connections[number].clone().filter(|connection| connection.is_served)
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

    fn translate_destination(&self, verdict: Verdict, passage: &mut Passage) {
        let connection = passage.connection.as_mut().expect("it begins one");
        let ends = &mut passage.ends;
        match verdict {
            Verdict::Destination(Choice { addresses: (first, _), ports, .. }) => {
                ends.dst = first;
                if let Some((port, _)) = ports {
                    ends.dport = port;
                }
            }
            Verdict::Redirect(port) => {
                ends.dst = self.net.own(passage.input.expect("PREROUTING alone redirects"));
                ends.dport = port;
            }
            _ => {}
        }
        connection.reply = ends.reversed();
    }

    /// False: no port is free.
    fn translate_source(
        &self,
        verdict: Verdict,
        passage: &mut Passage,
        left: Option<&Packet>,
    ) -> Result<bool, String> {
        let ends = passage.ends;
        let is_kept = !matches!(verdict, Verdict::Source(_) | Verdict::Masquerade(_));
        let choice = match verdict {
            Verdict::Source(choice) => choice,
            Verdict::Masquerade(ports) => {
                let own = self.net.own(passage.output.expect("POSTROUTING alone masquerades"));
                Choice { addresses: (own, own), ports, is_random: false }
            }
            // Somebody else's translation may have taken what its answers would be known by.
            _ => Choice { addresses: (ends.src, ends.src), ports: None, is_random: false },
        };
        let Some(ends) = self.choose(passage, choice, self.shares_ports && !is_kept, left)? else {
            return Ok(false);
        };
        passage.ends = ends;
        passage.connection.as_mut().expect("it begins one").reply = ends.reversed();
        Ok(true)
    }

    /// The ends with the source that the path chose, if it was free to. `None`: it had no choice. `shares_ports`: some are for other workers
    /// alone.
    fn choose(
        &self,
        passage: &Passage,
        choice: Choice,
        shares_ports: bool,
        left: Option<&Packet>,
    ) -> Result<Option<Tuple>, String> {
        let came = passage.ends;
        let Connection { original, zone, .. } = *passage.connection.as_ref().expect("it begins one");
        let ports = choice.ports.unwrap_or_else(|| class(came));
        let is_free = |ends: Tuple| {
            let answer = ends.reversed();
            answer != original && !self.by_tuple.contains_key(&(zone, answer))
        };
        let Some(left) = left else {
            // It searches as many as there are here, if it tries them all.
            let is_any_free =
                |src: IpAddr| (ports.0..=ports.1).any(|sport| is_free(Tuple { src, sport, ..came }));
            let (first, last) = choice.addresses;
            let has_few = shares_ports && ports.1 - ports.0 < 100;
            let is_full = has_few || !is_any_free(first) || !is_any_free(last);
            return if is_full { Ok(None) } else { Err(format!("{came:?} found no port, of {choice:?}")) };
        };
        let Tuple { src, sport, .. } = left.ends;
        let ends = Tuple { src, sport, ..came };
        let (first, last) = choice.addresses;
        let is_within = (number(first)..=number(last)).contains(&number(src));
        let is_port = (ports.0..=ports.1).contains(&sport) || sport == came.sport && choice.ports.is_none();
        if !is_within || !is_port {
            return Err(format!("{came:?} left as {:?}, which is none of {choice:?}", left.ends));
        }
        let own = Tuple { sport: came.sport, ..ends };
        let may_stay =
            !choice.is_random && !shares_ports && (ports.0..=ports.1).contains(&came.sport) && is_free(own);
        if may_stay && sport != came.sport {
            return Err(format!("{came:?} left as {:?}: its own port was free", left.ends));
        }
        let connection = passage.connection.as_ref().expect("it begins one");
        if !is_free(ends) && self.gives_way(ends.reversed(), connection).is_none() {
            return Err(format!("{came:?} left as {:?}, whose answers are another connection's", left.ends));
        }
        Ok(Some(ends))
    }

    /// The connection with such answers, if it is over and a new one's SYN is beyond what it sent.
    fn gives_way(&self, answer: Tuple, new: &Connection) -> Option<usize> {
        let &(number, is_reply) = self.by_tuple.get(&(new.zone, answer))?;
        let old = self.connections[number].as_ref()?;
        let is_outrun =
            old.tcp.as_ref().zip(new.tcp.as_ref()).is_some_and(|(old, new)| old.is_outrun_by(new));
        (is_reply && !old.is_served && is_outrun).then_some(number)
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

    /// Whether a rule asks how much a connection has had, reached or not.
    pub(super) fn counts_connections(&self) -> bool {
        self.chains.iter().any(|((table, _), chain)| {
            let mut tests = chain.rules.iter().flat_map(|(rule, _)| &rule.tests);
            !self.is_idle(*table) && tests.any(Test::counts)
        })
    }

    pub(super) fn verdict(&mut self, table: Table, hook: Hook, passage: &mut Passage) -> Verdict {
        let name = chain_name(hook);
        // It counts nothing either.
        if self.is_idle(table) {
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
    /// As sets see it.
    fn seen(&self) -> Seen {
        Seen { ends: self.ends, mark: self.mark }
    }

    /// An end of what begins a connection, or is of none; with an error's, the opposite one of what it quotes.
    fn exchange_prefix(&mut self, is_destination: bool) {
        let (from, to) = if is_destination { (npt::OUTER, npt::INNER) } else { (npt::INNER, npt::OUTER) };
        // Those of a connection's packets stay what the connection says.
        let answer = self.answer.as_mut().filter(|_| self.connection.is_none());
        for ends in [Some(&mut self.ends), answer].into_iter().flatten() {
            let end = if is_destination { &mut ends.dst } else { &mut ends.src };
            if npt::is_of(from, number(*end)) {
                *end = IpAddr::V6(npt::map(number(*end), to).into());
            }
        }
    }

    /// What begins a connection is to the table `nat` translated already where prefixes were exchanged.
    fn note_prefixes(&mut self) {
        let answer = self.ends.reversed();
        self.connection.iter_mut().for_each(|connection| connection.reply = answer);
    }

    /// A packet of a connection that is known, or an error about one, goes where that goes.
    fn become_destination(&mut self) {
        let Some(connection) = &self.connection else { return };
        let (comes, leaves) = (connection.comes(self.is_reply), connection.leaves(self.is_reply));
        if !self.is_error {
            (self.ends.dst, self.ends.dport) = (leaves.dst, leaves.dport);
        } else if (comes.dst, comes.dport) != (leaves.dst, leaves.dport) {
            self.ends.dst = leaves.dst;
        }
    }

    /// And it is from whom that is from.
    fn become_source(&mut self) {
        let Some(connection) = &self.connection else { return };
        let (comes, leaves) = (connection.comes(self.is_reply), connection.leaves(self.is_reply));
        if !self.is_error {
            self.ends = leaves;
        } else if (comes.src, comes.sport) != (leaves.src, leaves.sport) {
            self.ends.src = leaves.src;
        }
    }
}

/// The ports that a source may get of which no rule says any: those of its own class. Identifiers have none.
fn class(ends: Tuple) -> (u16, u16) {
    match ends.sport {
        _ if ![TCP, UDP].contains(&ends.protocol.0) => (0, u16::MAX),
        0..512 => (1, 511),
        512..1024 => (600, 1023),
        _ => (1024, u16::MAX),
    }
}

pub(super) fn count(counts: &mut Counts, len: u64) {
    counts.0 += 1;
    counts.1 += len;
}

/// `None`: the packet came to the end.
fn walk(
    chains: &mut Chains,
    sets: &mut Sets,
    table: Table,
    name: &'static str,
    passage: &mut Passage,
) -> Option<Verdict> {
    for place in 0.. {
        let (rule, counts) = chains.get_mut(&(table, name))?.rules.get_mut(place)?;
        if !rule.tests.iter().all(|test| holds(test, passage, sets)) {
            continue;
        }
        count(counts, passage.len);
        match rule.does {
            Does::Nothing => {}
            Does::Accept => return Some(Verdict::Accept),
            Does::Drop => return Some(Verdict::Drop),
            Does::Return => return None,
            Does::Jump(chain) => {
                if let Some(verdict) = walk(chains, sets, table, chain, passage) {
                    return Some(verdict);
                }
            }
            // It does not come back here.
            Does::Goto(chain) => return walk(chains, sets, table, chain, passage),
            Does::Reject(refusal) => return Some(Verdict::Reject(refusal)),
            Does::SetMark(mark) => passage.mark = mark,
            Does::OrMark(mark) => passage.mark |= mark,
            Does::SetConnMark(mark) => passage.connection.iter_mut().for_each(|of| of.mark = mark),
            Does::HashMark { is_of_connection, has_ports, seed, below } => {
                let connection = passage.connection.as_ref();
                let hash = match connection {
                    Some(connection) if is_of_connection => {
                        Some(hash::of_connection(connection, has_ports, seed))
                    }
                    None if is_of_connection => None,
                    // An error counts as what it is about.
                    _ => {
                        let ends = passage.answer.map_or(passage.ends, |answer| answer.reversed());
                        let is_whole = matches!(passage.piece, None | Some(Piece::Only));
                        Some(hash::of_packet(&ends, (has_ports, is_whole), seed))
                    }
                };
                passage.mark = hash.map_or(passage.mark, |hash| hash::below(hash, below));
            }
            Does::SaveMark => {
                let mark = passage.mark;
                passage.connection.iter_mut().for_each(|of| of.mark = mark);
            }
            Does::RestoreMark => passage.connection.iter().for_each(|of| passage.mark = of.mark),
            Does::NoTrack => passage.is_untracked |= passage.zone.is_none(),
            Does::Zone(zone) if !passage.is_untracked => passage.zone = passage.zone.or(Some(zone)),
            Does::Zone(_) => {}
            Does::Dnat(choice) => return Some(Verdict::Destination(choice)),
            Does::Snat(choice) => return Some(Verdict::Source(choice)),
            Does::Masquerade { ports } => return Some(Verdict::Masquerade(ports)),
            Does::Redirect { port } => return Some(Verdict::Redirect(port)),
            Does::Prefix { is_destination } => passage.exchange_prefix(is_destination),
            Does::PutInto { set, is_source, adding } => {
                sets.add(set, &passage.seen(), is_source, adding);
            }
            Does::TakeFrom { set, is_source } => sets.remove(set, &passage.seen(), is_source),
            Does::FillChecksum => {}
        }
    }
    None
}

fn holds(test: &Test, passage: &Passage, sets: &Sets) -> bool {
    let ends = &passage.ends;
    let connection = passage.connection.as_ref();
    let of = |holds: &dyn Fn(&Connection) -> bool| connection.is_some_and(holds);
    match test {
        Test::Input(interface) => passage.input == Some(*interface),
        Test::Output(interface) => passage.output == Some(*interface),
        Test::Source { prefix, is_not } => is_in(ends.src, prefix.address, prefix.len) != *is_not,
        Test::Destination { prefix, is_not } => is_in(ends.dst, prefix.address, prefix.len) != *is_not,
        Test::Protocol(protocol) => ends.protocol.0 == *protocol,
        Test::Ports { is_source, first, last } => {
            let port = if *is_source { &ends.sport } else { &ends.dport };
            (first..=last).contains(&port)
        }
        Test::States(states) => states.contains(&passage.state),
        Test::Translated { is_destination } => of(&|connection| connection.is_translated(*is_destination)),
        Test::Direction { is_reply } => of(&|_| passage.is_reply == *is_reply),
        Test::OriginalPort(port) => of(&|connection| connection.original.dport == *port),
        Test::ReplySource(address) => of(&|connection| connection.reply.src == *address),
        Test::Mark { value, mask, is_not } => (passage.mark & mask == *value) != *is_not,
        Test::ConnMark(mark) => of(&|connection| connection.mark == *mark),
        // Of one that was not counted yet, which an error may be about, nothing is said.
        Test::Counted { from, to, are_bytes, way, is_not } => of(&|connection| {
            if connection.counts == [(0, 0); 2] {
                return false;
            }
            let had = |(packets, bytes): Counts| if *are_bytes { bytes } else { packets };
            let [there, back] = connection.counts.map(had);
            let had = match way {
                Way::Original => there,
                Way::Reply => back,
                Way::Both => there + back,
            };
            (from..=to).contains(&&had) != *is_not
        }),
        Test::Set { set, is_source, is_not } => sets.holds(*set, &passage.seen(), *is_source) != *is_not,
        // Of IPv6 a piece's next header is that of fragments.
        Test::Program(protocol) => {
            ends.protocol.0 == *protocol && (passage.piece.is_none() || !ends.src.is_ipv6())
        }
        Test::Cpu(number) => *number == 0,
        Test::Policy { is_none, .. } => *is_none,
        Test::Segments => false,
        Test::Cluster { nodes, mask, seed, is_not } => of(&|connection| {
            let node = hash::below(hash::of_source(connection.original.src, *seed), *nodes);
            (mask >> node & 1 == 1) != *is_not
        }),
    }
}

fn is_in(address: IpAddr, net: IpAddr, len: u8) -> bool {
    let rest = if net.is_ipv6() { 128 } else { 32 } - u32::from(len);
    number(address) >> rest == number(net) >> rest
}
