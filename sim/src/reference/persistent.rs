//! A new connection of a persistent service: its client keeps the real server that it has.

use std::net::IpAddr;
use std::sync::Arc;

use lb_core::drop::DropReason;
use lb_core::flow::template::{of_call, template_protocol};
use lb_core::flow::{Direction, Method, Tuple};
use lb_core::hook::Hook;
use lb_core::ids::{ServerId, WorkerId};
use lb_core::ipvs::sctp::SctpState;
use lb_core::ipvs::state::TcpState;
use lb_core::path::{Held, Steer};
use lb_core::tables::{Engine, Forward, MarkRule, Prefix, Protocol, Server, Service, ServiceKey, Tables};
use lb_core::time::{Tick, Timeout};

use super::by_mark::comes_here;
use super::connection::State;
use super::flows::{Connection, Number, is_wide};
use super::parse::{Piece, Read, UDP};
use super::road::tuple;
use super::steer::{number, ports};
use super::{Packet, Reference};

/// Each template that there ever was has a number of its own.
pub(super) type Serial = u64;

/// What is special about an entry that is a template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Template {
    pub(super) serial: Serial,
    /// It was, when it was last asked or carried over.
    pub(super) was_assured: bool,
    /// Its real server was removed.
    pub(super) is_invalid: bool,
}

/// What the connections of a template tell it, at whatever worker they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    pub(super) connections: usize,
    pub(super) is_assured: bool,
}

/// How long a template stays whose time is over while it has connections.
pub(super) const STAYS: Timeout = Timeout::from_secs(60);

/// The service that takes a packet: one by its mark, then one of the longest prefix; then one of its port before one of every port.
pub(super) fn service_of<'t>(tables: &'t Tables, to: &Tuple) -> Option<&'t Arc<Service>> {
    let marked = tables.marks.0.iter().find(|rule| is_of_rule(rule, to));
    let by_mark = marked.and_then(|rule| {
        let address = match to.dst {
            IpAddr::V4(_) => IpAddr::from(rule.mark.to_be_bytes()),
            IpAddr::V6(_) => {
                let [a, b, c, d] = rule.mark.to_be_bytes();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            }
        };
        let key = ServiceKey::new(Protocol::ANY, address, 0);
        tables.services.iter().find(|service| service.key == key)
    });
    by_mark.or_else(|| {
        // FTP's may be asked for its data connections, and takes them if it is persistent: else they are nobody's.
        let may_be_data = to.protocol == Protocol::TCP && (to.dport == 20 || to.dport >= 1024);
        let rank = |port: u16| match port {
            port if port == to.dport => Some(3),
            21 if may_be_data => Some(2),
            0 => Some(1),
            _ => None,
        };
        let takes = |key: &ServiceKey| {
            key.protocol == to.protocol
                && is_within(Prefix { address: key.address, len: key.prefix_len }, to.dst)
                && rank(key.port).is_some()
        };
        let all = tables.services.iter().filter(|service| takes(&service.key));
        let taker = all.max_by_key(|service| (service.key.prefix_len, rank(service.key.port)))?;
        let is_for_data = taker.key.port == 21 && to.dport != 21;
        (!is_for_data || taker.options.persistence.is_some()).then_some(taker)
    })
}

/// Whether such a rule of the config marks a packet.
pub(super) fn is_of_rule(rule: &MarkRule, packet: &Tuple) -> bool {
    let is_in =
        |prefix: Option<Prefix>, address: IpAddr| prefix.is_none_or(|prefix| is_within(prefix, address));
    rule.protocol.is_none_or(|protocol| protocol == packet.protocol)
        && is_in(rule.source, packet.src)
        && is_in(rule.destination, packet.dst)
        && rule.destination_ports.contains(&packet.dport)
        // The simulated world has no sets, so that a rule which names one matches nothing.
        && rule.source_set.or(rule.destination_set).is_none()
}

pub(super) fn is_within(prefix: Prefix, address: IpAddr) -> bool {
    let bits = |address: IpAddr, len: u8| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) >> (32 - u32::from(len)),
        IpAddr::V6(address) => u128::from(address).checked_shr(128 - u32::from(len)).unwrap_or(0),
    };
    let Prefix { address: network, len } = prefix;
    network.is_ipv4() == address.is_ipv4() && bits(network, len) == bits(address, len)
}

/// The tuple of a template, and whose it is.
struct Key {
    tuple: Tuple,
    client: IpAddr,
}

/// The template of a packet's client, or of its call; `None`: the service is not persistent, or the packet names no call.
fn template_of(service: &Service, packet: &Packet, read: &Read) -> Option<Key> {
    let persistence = service.options.persistence?;
    let client = persistence.mask.client(read.src);
    let (src, sport) = match service.options.engine {
        None => (client, 0),
        Some(Engine::Sip) if read.protocol != UDP || read.piece == Piece::Later => return None,
        Some(Engine::Sip) => of_call(client, &call_id(packet.bytes.get(read.l4 + 8..read.end)?)?),
    };
    let tuple = Tuple {
        src,
        // As if each address of a prefix had a service of its own.
        dst: if service.key.protocol == Protocol::ANY { service.key.address } else { read.dst },
        sport,
        dport: template_port(&service.key),
        protocol: template_protocol(service.key.protocol),
    };
    Some(Key { tuple, client })
}

/// FTP's templates are for every port.
pub(super) fn template_port(key: &ServiceKey) -> u16 {
    if key.port == 21 { 0 } else { key.port }
}

/// The Call-ID of a SIP message (RFC 3261 §7.3, §20.8): line by line.
fn call_id(message: &[u8]) -> Option<Vec<u8>> {
    let message: String = message.iter().map(|&byte| char::from(byte)).collect();
    let message = message.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = message.split('\n').collect();
    // What no line end follows is no line; the first one is not of the header.
    lines.pop();
    let blank = [' ', '\t'];
    let header: Vec<&str> = lines.into_iter().skip(1).take_while(|line| !line.is_empty()).collect();
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || "-.!%*_+`'~()<>:\\\"/[]?{}".contains(c);
    let is_word = |word: &str| !word.is_empty() && word.chars().all(is_of_word);
    header.iter().enumerate().find_map(|(at, line)| {
        let (name, first) = line.split_once(':')?;
        let name = name.trim_end_matches(blank).to_ascii_lowercase();
        let continued = header[at + 1..].iter().take_while(|line| line.starts_with(blank));
        let mut parts = [first].into_iter().chain(continued.copied()).map(|part| part.trim_matches(blank));
        let value = parts.find(|part| !part.is_empty())?;
        let is_right = match value.split_once('@') {
            Some((word, host)) => is_word(word) && is_word(host),
            None => is_word(value),
        };
        (["call-id", "i"].contains(&name.as_str()) && is_right && value.len() <= 255).then(|| value.into())
    })
}

impl Reference {
    /// A first packet, at the owner of the connection to be.
    pub(super) fn first_persistent(&mut self, packet: Packet, read: Read, service: &Service) {
        let original = tuple(&read);
        let Some(key) = template_of(service, &packet, &read) else {
            return self.drop(DropReason::NoCallId, Hook::Input);
        };
        let holder = self.holder_of(&key);
        if holder != self.worker {
            if service.options.engine.is_some() && read.piece == Piece::First {
                self.asking.remember(self.hasher, &read, holder, self.now);
            }
            return self.hand_over(holder, packet, Steer::Ask(ports(&read), None));
        }
        match self.hold(key, service, &original) {
            Ok((server, serial)) => self.begin_held(packet, read, service, server, Some(serial)),
            Err(reason) => self.hold_failed(packet, read, service, reason),
        }
    }

    /// A later fragment whose first one began no connection yet: it goes the way of the first one, behind it.
    pub(super) fn first_is_on_its_way(&mut self, packet: Packet, read: Read) {
        if let Some(choice) = self.choice_of(&read) {
            return self.follow(packet, read, choice);
        }
        let original = tuple(&read);
        let tables = self.tables.clone();
        let service = service_of(&tables, &original).filter(|_| comes_here(&tables, &original));
        let service = service.filter(|service| service.options.persistence.is_some());
        let holder = service.and_then(|service| match template_of(service, &packet, &read) {
            Some(key) => Some(self.holder_of(&key)),
            None => self.asking.recall(&read, self.now),
        });
        match holder.filter(|&holder| holder != self.worker) {
            Some(holder) => self.hand_over(holder, packet, Steer::Ask(ports(&read), None)),
            None => self.route(packet, read),
        }
    }

    /// A first packet whose template is here, from the owner.
    pub(super) fn asked(&mut self, packet: Packet, read: Read) {
        let original = tuple(&read);
        let owner = self.hashed(number(original.src), original.sport);
        if owner == self.worker {
            // A later fragment after its first one, which tables had brought here by then.
            return match (self.flows.find(&original), self.choice_of(&read)) {
                (Some((at, direction)), _) => self.established(packet, read, at, direction),
                (None, Some(choice)) => self.follow(packet, read, choice),
                (None, None) => self.route(packet, read),
            };
        }
        let tables = self.tables.clone();
        let service = service_of(&tables, &original);
        let known = service.and_then(|service| Some((service, template_of(service, &packet, &read)?)));
        let is_here = |key: &Key| self.holder_of(key) == self.worker;
        let Some((service, key)) = known.filter(|(_, key)| read.piece != Piece::Later && is_here(key)) else {
            return self.hand_over(owner, packet, Steer::Answer(ports(&read), None, None));
        };
        match self.hold(key, service, &original) {
            Ok((server, serial)) => {
                // By what name the template goes is the path's choice.
                let Some(Held { template, .. }) = self.taken.answers.pop_front() else { return };
                self.team.shared().name_template(template, serial);
                self.hand_over(
                    owner,
                    packet,
                    Steer::Answer(ports(&read), None, Some(Held { server, template })),
                );
            }
            // Its owner has no real server for it either, with which it goes past all.
            Err(DropReason::NoServer) if self.may_go_past(&original, service) => {
                self.hand_over(owner, packet, Steer::Answer(ports(&read), None, None));
            }
            Err(reason) => self.hold_failed(packet, read, service, reason),
        }
    }

    /// A first packet that is back at its owner.
    pub(super) fn answered(&mut self, packet: Packet, read: Read, held: Option<Held>) {
        let original = tuple(&read);
        if let Some((at, direction)) = self.flows.find(&original) {
            self.counters.flows.found.add(1);
            return self.established(packet, read, at, direction);
        }
        if read.piece == Piece::Later {
            return match self.choice_of(&read) {
                Some(choice) => self.follow(packet, read, choice),
                None => self.route(packet, read),
            };
        }
        let tables = self.tables.clone();
        if !tables.serves(read.is_ipv6()) {
            return self.route(packet, read);
        }
        let Some(service) = service_of(&tables, &original).filter(|it| it.options.persistence.is_some())
        else {
            return self.first(packet, read);
        };
        let (server, serial) = match held {
            Some(Held { server, template }) => (server, self.team.shared().template_named(template)),
            None => match self.pick(service, &original) {
                Some(server) => (server, None),
                None => return self.hold_failed(packet, read, service, DropReason::NoServer),
            },
        };
        match self.is_full(service, read.src) {
            Some(reason) => self.drop(reason, Hook::Input),
            None => self.begin_held(packet, read, service, server, serial),
        }
    }

    fn holder_of(&self, key: &Key) -> WorkerId {
        self.hashed(number(key.tuple.src), key.tuple.sport)
    }

    fn pick(&mut self, service: &Service, original: &Tuple) -> Option<ServerId> {
        let picked =
            self.places.pick(&self.team, service, original, self.now).map(|index| service.servers[index].id);
        picked.filter(|server| server.index() < self.counters.server_capacity())
    }

    /// The client's real server, and the template that says so.
    fn hold(
        &mut self,
        Key { tuple: key, client }: Key,
        service: &Service,
        original: &Tuple,
    ) -> Result<(ServerId, Serial), DropReason> {
        let now = self.now;
        if let Some((at, _)) = self.flows.find(&key) {
            let connection = self.flows.get(at);
            let (server, template) = (connection.server, connection.template.expect("it is one"));
            let leaves = |server: &Server| {
                server.weight == 0 && self.tables.settings.sysctls.expire_quiescent_template == 1
            };
            // Not one of another service, which the client's address had before this one.
            let is_like_it = |other: &&Arc<Service>| {
                let key = ServiceKey { port: service.key.port, ..other.key };
                key == service.key && template_port(&other.key) == template_port(&service.key)
            };
            let mut alike = self.tables.services.iter().filter(is_like_it);
            let is_its = alike.any(|other| other.servers.iter().any(|its| its.id == server));
            if is_its && self.tables.services.server(server).is_some_and(|server| !leaves(server)) {
                let is_assured = self.team.shared().template_use(template.serial).is_assured;
                self.flows.change(at, |connection| {
                    connection.seen = now;
                    connection.template = Some(Template { was_assured: is_assured, ..template });
                });
                return Ok((server, template.serial));
            }
            self.flows.invalidate(at);
        }
        let id = self.pick(service, original).ok_or(DropReason::NoServer)?;
        let server = service.servers.iter().find(|server| server.id == id).expect("it was picked");
        let is_its_port = original.dport == service.key.port && service.key.port != 21;
        let port = if is_its_port { server.port } else { 0 };
        let reply = Tuple { src: server.address, sport: port, dst: client, dport: 0, protocol: key.protocol };
        if !self.has_room(is_wide(&key, &reply)) {
            return Err(DropReason::FlowTableFull);
        }
        let serial = self.team.shared().new_template();
        let timeout =
            service.options.persistence.map_or(Timeout::default(), |persistence| persistence.timeout);
        self.enter_template(
            key,
            reply,
            server.forward.method(),
            id,
            timeout,
            now,
            Template { serial, was_assured: false, is_invalid: false },
        );
        Ok((id, serial))
    }

    pub(super) fn enter_template(
        &mut self,
        original: Tuple,
        reply: Tuple,
        method: Method,
        server: ServerId,
        timeout: Timeout,
        seen: Tick,
        template: Template,
    ) {
        self.flows.insert(Connection {
            original,
            reply,
            method,
            server,
            state: State::Udp,
            is_active: false,
            seen,
            timeout,
            template: Some(template),
            bound_by: None,
            controls: None,
            controlled_by: None,
            edit: None,
            told: None,
            counts_in: Vec::new(),
            renewed: self.tables.generation,
        });
        self.touch(server);
        self.counters.server(server).persistent.add(1);
    }

    fn hold_failed(&mut self, packet: Packet, read: Read, service: &Service, reason: DropReason) {
        if reason == DropReason::NoServer {
            return self.without_server(packet, read, service, false);
        }
        self.drop(reason, Hook::Input);
    }

    pub(super) fn begin_held(
        &mut self,
        packet: Packet,
        read: Read,
        service: &Service,
        server: ServerId,
        serial: Option<Serial>,
    ) {
        let original = tuple(&read);
        let tables = self.tables.clone();
        let Some(server) = tables.services.server(server) else {
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        };
        let forgets = service.options.one_packet && read.protocol == UDP;
        if forgets && server.forward == Forward::FullNat && server.address.is_ipv6() != read.is_ipv6() {
            self.let_go(serial);
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        }
        let is_named = service.options.persistence.is_none() || original.dport == service.key.port;
        let keeps_port = !is_named || server.port == 0;
        let dport = if keeps_port { original.dport } else { server.port };
        let after = Tuple { dst: server.address, dport, ..original };
        let (after, method) = match server.forward {
            Forward::FullNat => match self.take_local_endpoint(service, after) {
                Some(taken) => taken,
                None => {
                    self.let_go(serial);
                    return self.drop(DropReason::NoLocalPort, Hook::Input);
                }
            },
            forward => (after, forward.method()),
        };
        if service.options.one_packet && read.protocol == UDP {
            return self.one_packet(packet, read, after, method, server.id);
        }
        // It is not the one that makes room.
        let taken = serial.filter(|&serial| self.team.shared().take_template(serial));
        let Some(at) = self.bind(original, after.reversed(), method, server.id) else {
            taken.into_iter().for_each(|serial| self.team.shared().give_template_back(serial));
            self.let_go(serial);
            return self.drop(DropReason::FlowTableFull, Hook::Input);
        };
        self.flows.change(at, |connection| connection.bound_by = taken);
        if !self.begin_edits(at, service, &read, None) {
            self.refuse_unedited(at);
            return self.let_go(serial);
        }
        self.established(packet, read, at, Direction::Original);
    }

    /// Whether a template serves nobody; of its connections so many are over.
    pub(super) fn is_idle(&self, template: &Template, over: usize) -> bool {
        let uses = self.team.shared().template_use(template.serial);
        !template.is_invalid && !template.was_assured && !uses.is_assured && uses.connections == over
    }

    /// Ends a template that serves nobody.
    pub(super) fn end_idle(&mut self, number: Number) {
        let serial = self.forget_template(number);
        self.team.shared().end_template(serial);
    }

    /// The same, whose connections end next.
    pub(super) fn forget_template(&mut self, number: Number) -> Serial {
        let Connection { server, template, .. } = self.flows.remove(number);
        self.touch(server);
        self.counters.server(server).persistent.sub(1);
        template.expect("it is one").serial
    }

    /// A connection did not come to be: its template goes if it is here and serves nobody.
    fn let_go(&mut self, serial: Option<Serial>) {
        let is_it = |connection: &Connection| {
            let template = connection.template.filter(|template| Some(template.serial) == serial);
            template.is_some_and(|template| self.is_idle(&template, 0))
        };
        let found = self.flows.numbers().find(|&number| is_it(self.flows.get(number)));
        found.into_iter().for_each(|number| self.end_idle(number));
    }

    /// A packet of a connection came: an established one, and a datagram that was answered, assure the template.
    pub(super) fn assure_template(&mut self, at: Number, direction: Direction) {
        let connection = self.flows.get(at);
        let is_assured = match connection.original.protocol {
            Protocol::TCP => connection.state == State::Tcp(TcpState::Established),
            Protocol::SCTP => connection.state == State::Sctp(SctpState::Established),
            _ => direction == Direction::Reply,
        };
        if let Some(serial) = connection.bound_by.filter(|_| is_assured) {
            self.team.shared().assure_template(serial);
        }
    }

    /// Templates, and control connections, whose time was over and to which the path gave more, as it says: `left` are those that it has, with their time.
    ///
    /// # Errors
    /// One of them has no connection.
    pub(super) fn prolong_templates(
        &mut self,
        due: &[Number],
        left: &[(Tuple, Timeout)],
    ) -> Result<Vec<Number>, String> {
        let uses = |at: Number| {
            let connection = self.flows.get(at);
            let uses = |serial| self.team.shared().template_use(serial).connections;
            connection.may_be_kept().then(|| connection.kept_as().map_or(0, uses))
        };
        let mut templates: Vec<_> = due.iter().filter_map(|&at| Some((uses(at)?, at))).collect();
        // Of templates that bind no more several may look the same: those with all of their time are the ones with connections.
        templates.sort_by_key(|&(connections, _)| connections == 0);
        let mut prolonged: Vec<Number> = Vec::new();
        let now = self.now;
        for (connections, at) in templates {
            let original = self.flows.get(at).original;
            let have = left.iter().filter(|has| **has == (original, STAYS)).count();
            let is_known = |it: &&Connection| it.original == original && it.due() == now.after(STAYS);
            if self.flows.iter().filter(is_known).count() >= have {
                continue;
            }
            if connections == 0 {
                return Err(format!("a template without connections stays: {:?}", self.flows.get(at)));
            }
            self.flows.change(at, |connection| (connection.seen, connection.timeout) = (now, STAYS));
            prolonged.push(at);
        }
        Ok(prolonged)
    }
}
