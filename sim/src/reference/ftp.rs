//! FTP of services: what a control connection says of data connections, which real server and which worker they are of, and what the other end hears instead.
//!
//! Where the client will come from is not known before it comes: that it is awaited stands at the worker that a hash of its address names, under a
//! protocol of its own. Where the real server will come from is known: the connection is there before.

use std::net::IpAddr;

use lb_core::conntrack::Status;
use lb_core::drop::DropReason;
use lb_core::flow::template::TemplateId;
use lb_core::flow::{Direction, Method, Tuple};
use lb_core::hook::Hook;
use lb_core::ids::ServerId;
use lb_core::ipvs::state::TcpState;
use lb_core::path::{Awaited, Expect, Known, Steer};
use lb_core::tables::{Helper, Protocol};
use lb_core::time::Timeout;

use super::by_mark::comes_here;
use super::connection::State;
use super::edited::{Edit, Segment, put_in_place};
use super::flows::{Connection, Number, is_wide};
use super::ftp_words::{
    Asked, Form, Meaning, Says, client_waits, lines, of_client, of_server, of_server_again, said_as,
    server_waits, text, waits_again,
};
use super::full_nat::method_of;
use super::parse::{ACK, Piece, RST, Read, SYN, TCP};
use super::persistent::{Serial, service_of};
use super::road::tuple;
use super::steer::number;
use super::stream::{Holds, is_before};
use super::{Packet, Reference, schedule};

/// Under which a client is awaited whose port is not known.
pub(crate) const AWAITED: Protocol = Protocol(251);
pub(super) const PATIENCE: Timeout = Timeout::from_secs(60);
/// Below it a client has services of its own (RFC 2577 §3).
const FIRST_OF_CLIENTS: u16 = 1024;

/// A control connection told of this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Told {
    /// Ports of its client's packets.
    control: (u16, u16),
    /// Its client has come; of an active one its state says that.
    has_come: bool,
}

/// What a segment says.
pub(super) struct Heard {
    /// Where in its data, and how many bytes.
    place: (usize, usize),
    instead: Instead,
    expect: Option<Expect>,
    asked: Asked,
}

#[derive(Clone, Copy)]
enum Instead {
    Nothing,
    Form(Form),
    Line(Says),
}

impl Connection {
    /// It stands for one that has not begun.
    pub(super) fn is_awaited(&self) -> bool {
        self.told.is_some_and(|told| match self.state {
            State::Awaited => !told.has_come,
            state => state == State::Tcp(TcpState::Listen),
        })
    }

    pub(super) fn known(&self) -> Known {
        let is_read = self.edit.is_some_and(|edit| edit.ftp);
        let helper = is_read.then_some("ftp");
        let Some(told) = self.told else { return Known { helper, ..Known::default() } };
        let mut status = Status::EXPECTED;
        if told.has_come {
            status.set(Status::DYING);
        }
        let stands_for_one = self.state == State::Awaited || self.state == State::Tcp(TcpState::Listen);
        let (sport, dport) = told.control;
        let told_by = Tuple { sport, dport, protocol: Protocol::TCP, ..self.original };
        Known {
            status,
            helper: if stands_for_one { Some("ftp") } else { helper },
            told_by: stands_for_one.then_some(told_by),
            ..Known::default()
        }
    }
}

impl Reference {
    /// A packet of a control connection: what it tells is known where it must be before it goes on.
    pub(super) fn hear_and_send(&mut self, packet: Packet, read: Read, at: Number, direction: Direction) {
        self.rests(at);
        let mut heard = match self.hear(&packet, &read, at, direction) {
            Ok(heard) => heard,
            Err(reason) => return self.drop(reason, Hook::Forward),
        };
        let mut is_known = true;
        if let Some(expect) = heard.as_mut().and_then(|heard| heard.expect.as_mut()) {
            let control = self.control_at(at);
            let owner = self.hashed(number(expect.client.0), expect.client.1);
            if owner != self.worker {
                // By what name it goes is the path's choice.
                let Some(control_at) = self.taken.controls.pop_front() else { return };
                self.team.shared().name_control(control_at, control);
                return self.hand_over(owner, packet, Steer::Announce(Expect { control_at, ..*expect }));
            }
            is_known = self.expect(expect, Some(control));
            if self.flows.find(&tuple(&read)) != Some((at, direction)) {
                // For what it told of there was room because it went.
                return self.newcomer(packet, read);
            }
        }
        self.say_and_send(packet, read, at, direction, heard, is_known);
    }

    /// By what number those name this control connection that it tells of.
    fn control_at(&mut self, at: Number) -> Serial {
        let known = self.flows.get(at).controls;
        let serial = known.unwrap_or_else(|| self.team.shared().new_template());
        self.flows.change(at, |connection| connection.controls = Some(serial));
        serial
    }

    /// The control connection is to outlive it, unless it has ended.
    fn keep_control(&mut self, at: Number, control: Option<Serial>) {
        let Connection { controlled_by, bound_by, .. } = *self.flows.get(at);
        let Some(control) = control.filter(|&control| controlled_by != Some(control)) else { return };
        let mut shared = self.team.shared();
        if !shared.take_template(control) {
            return;
        }
        if let Some(before) = controlled_by {
            shared.give_control_back(before);
        }
        if let Some(template) = bound_by {
            shared.give_template_back(template);
        }
        drop(shared);
        self.flows.change(at, |connection| {
            (connection.controlled_by, connection.bound_by) = (Some(control), None);
        });
    }

    /// The same, at the worker that must know of it.
    pub(super) fn announced(&mut self, packet: Packet, read: Read, mut expect: Expect) {
        let control = self.team.shared().control_named(expect.control_at);
        let is_known = self.expect(&mut expect, control);
        let port = expect.local.map_or(0, |local| local.1);
        let owner = self.owner_of_tuple(&tuple(&read));
        self.hand_over(owner, packet, Steer::Announced(is_known.then_some(port)));
    }

    /// The same, back.
    pub(super) fn announced_elsewhere(&mut self, packet: Packet, read: Read, port: Option<u16>) {
        let Some((at, direction)) = self.flows.find(&tuple(&read)) else {
            return self.newcomer(packet, read);
        };
        if self.flows.get(at).edit.is_none_or(|edit| !edit.ftp) {
            return self.established(packet, read, at, direction);
        }
        if self.flows.get(at).renewed != self.tables.generation {
            self.renew(at);
        }
        let mut heard = match self.hear(&packet, &read, at, direction) {
            Ok(heard) => heard,
            Err(reason) => return self.drop(reason, Hook::Forward),
        };
        let expect = heard.as_mut().and_then(|heard| heard.expect.as_mut());
        if let (Some(local), Some(port)) = (expect.and_then(|expect| expect.local.as_mut()), port) {
            local.1 = port;
        }
        self.say_and_send(packet, read, at, direction, heard, port.is_some());
    }

    fn say_and_send(
        &mut self,
        packet: Packet,
        read: Read,
        at: Number,
        direction: Direction,
        heard: Option<Heard>,
        is_known: bool,
    ) {
        let expect = heard.as_ref().and_then(|heard| heard.expect);
        if !is_known && expect.is_some_and(|expect| expect.client.1 != 0 && expect.local.is_some()) {
            // The server would come to an end that nobody has.
            return self.drop(DropReason::NoLocalPort, Hook::Forward);
        }
        self.go_on_heard(packet, read, at, direction, heard.as_ref());
    }

    fn hear(
        &self,
        packet: &Packet,
        read: &Read,
        at: Number,
        direction: Direction,
    ) -> Result<Option<Heard>, DropReason> {
        let Some(segment) = Segment::of(packet, read) else { return Ok(None) };
        if segment.data.is_empty()
            || read.tcp_flags & (SYN | RST) != 0
            || self.link(at, direction, read).is_refused
        {
            return Ok(None);
        }
        let connection = self.flows.get(at);
        let edit = connection.edit.expect("it is a control connection");
        let stream = edit.streams[direction.index()];
        let data = &segment.data;
        // What was exchanged before is not looked for again.
        let again = match stream.holds(segment.seq, data.len()) {
            Holds::All(from) if read.piece == Piece::Whole => Some((from, stream.taken)),
            Holds::All(_) | Holds::Some => return Err(DropReason::EditInPart),
            Holds::None if read.piece != Piece::Whole => return Ok(None),
            Holds::None => None,
        };
        let is_clients = direction == Direction::Original;
        if connection.method == Method::Translated {
            return self.hear_other_family(connection, &edit, &segment, is_clients, again);
        }
        let (waits, place) = match again {
            Some((from, len)) => {
                let waits = waits_again(&text(&data[from..from + len])).ok_or(DropReason::EditInPart)?;
                (waits, (from + waits.place.0, waits.place.1))
            }
            None => {
                let find = |line: &str| if is_clients { client_waits(line) } else { server_waits(line) };
                let found = lines(data).into_iter().find_map(|(from, line)| {
                    let waits = find(&line)?;
                    Some((waits, (from + waits.place.0, waits.place.1)))
                });
                match found {
                    Some(found) => found,
                    None => return Ok(None),
                }
            }
        };
        if waits.form == Form::Numbers && connection.original.src.is_ipv6() {
            return Ok(None);
        }
        let expect = match is_clients {
            true => self.active(connection, waits.address, waits.port, again.is_some()),
            false => Some(passive(connection, waits.port)),
        };
        let instead = match is_clients {
            // The real server knows the client as it is.
            true if connection.local().is_none() => Instead::Nothing,
            // 229 has no address, and the port is the same.
            false if waits.form == Form::Port => Instead::Nothing,
            _ => Instead::Form(waits.form),
        };
        Ok(expect.map(|expect| Heard { place, instead, expect: Some(expect), asked: Asked::Nothing }))
    }

    fn hear_other_family(
        &self,
        connection: &Connection,
        edit: &Edit,
        segment: &Segment,
        is_clients: bool,
        again: Option<(usize, usize)>,
    ) -> Result<Option<Heard>, DropReason> {
        let (is_ipv6, asked) = (connection.original.src.is_ipv6(), edit.asked);
        let read = |line: &str| match is_clients {
            true => of_client(line, is_ipv6),
            false => of_server(line, is_ipv6, asked),
        };
        let (mut meaning, place) = match again {
            Some((from, len)) => {
                let line = text(&segment.data[from..from + len]);
                let meaning = match is_clients {
                    true => Meaning { asked, ..read(&line) },
                    false => of_server_again(&line, is_ipv6, asked),
                };
                if meaning.says == Says::Same {
                    return Err(DropReason::EditInPart);
                }
                (meaning, (from, len))
            }
            None => {
                let stream = edit.streams[usize::from(!is_clients)];
                // It was answered, before the last one was said.
                let is_old = is_clients && stream.taken > 0 && is_before(segment.seq, stream.at);
                let tells = |meaning: &Meaning| {
                    meaning.says != Says::Same || meaning.waits.is_some() || meaning.asked != asked
                };
                let lines = lines(&segment.data).into_iter().filter(|(_, line)| line.chars().count() < 256);
                let mut all = lines.map(|(from, line)| (read(&line), (from, line.chars().count())));
                match all.find(|(meaning, _)| tells(meaning)) {
                    Some(found) if asked != Asked::Secret && !is_old => found,
                    _ => return Ok(None),
                }
            }
        };
        let expect = meaning.waits.and_then(|(address, port)| match is_clients {
            true => self.active(connection, address, port, again.is_some()),
            false => Some(passive(connection, port)),
        });
        if is_clients && meaning.waits.is_some() && expect.is_none() {
            meaning.says = Says::Same;
        }
        let instead = Instead::Line(meaning.says);
        Ok(Some(Heard { place, instead, expect, asked: meaning.asked }))
    }

    /// A client waits, for itself alone (RFC 2577 §3).
    fn active(
        &self,
        connection: &Connection,
        address: Option<IpAddr>,
        port: u16,
        is_again: bool,
    ) -> Option<Expect> {
        let Connection { original, reply, server, .. } = connection;
        let known = connection.edit.filter(|_| is_again).map_or(0, |edit| edit.local_port);
        let is_its_own = address == Some(original.src) && port >= FIRST_OF_CLIENTS;
        is_its_own.then_some(Expect {
            server: *server,
            client: (original.src, port),
            // RFC 959 §3.2.
            virtual_: (original.dst, original.dport.wrapping_sub(1)),
            port: reply.sport.wrapping_sub(1),
            local: connection.local().map(|(address, _)| (address, known)),
            mark: 0,
            control: (original.sport, original.dport),
            control_at: TemplateId::default(),
        })
    }

    /// From now on this data connection is known here. False: there is no room.
    fn expect(&mut self, expect: &mut Expect, control: Option<Serial>) -> bool {
        let tables = self.tables.clone();
        let Some(server) = tables.services.server(expect.server) else { return false };
        let is_active = expect.client.1 != 0;
        let protocol = if is_active { Protocol::TCP } else { AWAITED };
        let (client, virtual_) = (expect.client, expect.virtual_);
        let original = Tuple { src: client.0, sport: client.1, dst: virtual_.0, dport: virtual_.1, protocol };
        let (src, sport) = expect.local.unwrap_or(client);
        let mut after = Tuple { src, sport, dst: server.address, dport: expect.port, protocol };
        let told = Told { control: expect.control, has_come: false };
        let now = self.now;
        if let Some((at, _)) = self.flows.find(&original) {
            let reply = self.flows.get(at).reply;
            let may_be_any_port = expect.local.is_some() && sport == 0;
            let same = if may_be_any_port { Tuple { sport: reply.dport, ..after } } else { after };
            let known = self.flows.get(at);
            let stands_for_one = known.state == State::Awaited
                || known.told.is_some() && known.state == State::Tcp(TcpState::Listen);
            if reply == same.reversed() && stands_for_one && known.server != expect.server {
                // It is another service's by now.
                self.end(at);
            } else if reply == same.reversed() {
                expect.local = expect.local.map(|(address, _)| (address, reply.dport));
                self.await_no_more(at);
                if !is_active {
                    self.touch(expect.server);
                    self.counters.server(expect.server).inactive.add(1);
                    schedule::after_bind(&self.team, server);
                }
                self.flows.change(at, |known| (known.seen, known.told) = (now, Some(told)));
                self.keep_control(at, control);
                self.counters.flows.expect_create.add(1);
                return true;
            }
        }
        let mut method = if is_active { Method::Masq } else { Method::Direct };
        if let Some(local) = expect.local.as_mut().filter(|_| is_active) {
            let Some(taken) = self.take_local_port(after) else { return false };
            (after, method) = (taken, method_of(client.0, taken.dst));
            *local = (after.src, after.sport);
        }
        let (state, timeout) = match is_active {
            true => (State::Tcp(TcpState::Listen), State::Tcp(TcpState::Listen).timeout(&tables.settings)),
            false => (State::Awaited, PATIENCE),
        };
        let connection = Connection {
            state,
            timeout,
            is_active: false,
            told: Some(told),
            ..self.unbound(original, after.reversed(), method, expect.server)
        };
        while let Some(older) = self.flows.holder(&connection) {
            self.end(older);
        }
        if !self.has_room(is_wide(&original, &connection.reply)) {
            return false;
        }
        let number = self.flows.insert(connection);
        self.keep_control(number, control);
        self.touch(expect.server);
        let cell = self.counters.server(expect.server);
        cell.inactive.add(1);
        cell.connections.add(u64::from(is_active));
        self.counters.flows.inserted.add(1);
        self.counters.flows.expect_create.add(1);
        self.count_towards_limits(number);
        schedule::after_bind(&self.team, server);
        true
    }

    /// It has come, or ends, or is told of once more.
    pub(super) fn await_no_more(&mut self, at: Number) {
        let Connection { server, state, .. } = *self.flows.get(at);
        let was_awaited = self.flows.get(at).is_awaited();
        if was_awaited {
            self.counters.flows.expect_delete.add(1);
        }
        if state == State::Awaited && was_awaited {
            // What comes counts by itself.
            self.lose_one(server, false);
        }
        if state == State::Awaited {
            self.flows.change(at, |connection| {
                connection.told = connection.told.map(|told| Told { has_come: true, ..told });
            });
        }
    }

    /// A packet takes it out of the state that it had: what was awaited comes by that.
    pub(super) fn comes(&mut self, at: Number) {
        if self.flows.get(at).is_awaited() {
            self.counters.flows.expect_new.add(1);
            self.await_no_more(at);
        }
    }

    /// Whether a client may be awaited that comes with this packet: no service is where it goes, or one that takes what is left.
    pub(super) fn may_be_awaited(&self, read: &Read) -> bool {
        let tables = &self.tables;
        let is_ftp = tables.services.iter().any(|service| service.options.helper == Some(Helper::Ftp));
        let is_left = match service_of(tables, &tuple(read)) {
            None => true,
            Some(service) if service.key.port == 21 => read.dport != 21,
            Some(service) => service.key.port == 0 && service.options.persistence.is_none(),
        };
        is_ftp
            && is_left
            && read.protocol == TCP
            && read.tcp_flags & (SYN | ACK | RST) == SYN
            && read.piece == Piece::Whole
            && !tables.settings.draining
            && comes_here(tables, &tuple(read))
    }

    /// Its packet: the worker that would know is asked.
    pub(super) fn first_awaited(&mut self, packet: Packet, read: Read) {
        let holder = self.hashed(number(read.src), 0);
        if holder != self.worker {
            return self.hand_over(holder, packet, Steer::AskExpected);
        }
        let (awaited, control) = self.who_waits(&tuple(&read)).unzip();
        self.first_asked(packet, read, awaited, control.flatten());
    }

    pub(super) fn asked_awaited(&mut self, packet: Packet, read: Read) {
        let client = tuple(&read);
        let owner = self.owner_of_tuple(&client);
        let mut awaited = None;
        if let Some((known, control)) = self.who_waits(&client) {
            let control_at = self.taken.controls.pop_front();
            if let (Some(name), Some(control)) = (control_at, control) {
                self.team.shared().name_control(name, control);
            }
            awaited = Some(Awaited { control_at, ..known });
        }
        self.hand_over(owner, packet, Steer::Expected(awaited));
    }

    pub(super) fn answered_awaited(&mut self, packet: Packet, read: Read, awaited: Option<Awaited>) {
        if let Some((at, direction)) = self.flows.find(&tuple(&read)) {
            self.counters.flows.found.add(1);
            return self.established(packet, read, at, direction);
        }
        let name = awaited.and_then(|awaited| awaited.control_at);
        let control = name.and_then(|name| self.team.shared().control_named(name));
        self.first_asked(packet, read, awaited, control);
    }

    /// The real server that waits for this client, at this port; and who told of it.
    fn who_waits(&mut self, client: &Tuple) -> Option<(Awaited, Option<Serial>)> {
        let (at, _) = self.flows.find(&Tuple { sport: 0, protocol: AWAITED, ..*client })?;
        self.comes(at);
        let Connection { server, reply, controlled_by, .. } = *self.flows.get(at);
        let local = (reply.dst != client.src).then_some(reply.dst);
        Some((Awaited { server, local, mark: 0, control_at: None }, controlled_by))
    }

    fn first_asked(&mut self, packet: Packet, read: Read, awaited: Option<Awaited>, control: Option<Serial>) {
        // Tables may have come meanwhile with which no service is looked at.
        if !self.tables.serves(read.is_ipv6()) {
            return self.route(packet, read);
        }
        match awaited {
            Some(awaited) => self.begin_awaited(packet, read, awaited, control),
            None => self.first_unexpected(packet, read),
        }
    }

    fn begin_awaited(&mut self, packet: Packet, read: Read, awaited: Awaited, control: Option<Serial>) {
        let (tables, original) = (self.tables.clone(), tuple(&read));
        let Some(server) = tables.services.server(awaited.server) else {
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        };
        let after = Tuple { dst: server.address, ..original };
        let left = match awaited.local {
            None => Some((after, Method::Masq)),
            Some(src) => self
                .take_local_port(Tuple { src, sport: 0, ..after })
                .map(|after| (after, method_of(original.src, after.dst))),
        };
        let Some((after, method)) = left else { return self.drop(DropReason::NoLocalPort, Hook::Input) };
        let Some(at) = self.bind(original, after.reversed(), method, server.id) else {
            return self.drop(DropReason::FlowTableFull, Hook::Input);
        };
        // Who told of it nobody asks any more.
        let told = Told { control: (0, 0), has_come: false };
        self.flows.change(at, |connection| connection.told = Some(told));
        self.keep_control(at, control);
        self.established(packet, read, at, Direction::Original);
    }

    /// After a restart: the real server of a data connection, for whose port there is no service.
    pub(super) fn told_by_service_of(&self, connection: &Connection) -> Option<ServerId> {
        let Connection { original, reply, .. } = connection;
        let is_its = |service: &&std::sync::Arc<lb_core::tables::Service>| {
            service.options.helper == Some(Helper::Ftp)
                && (service.key.mark().is_some() || service.key.prefix().contains(original.dst))
        };
        let told = connection.told?;
        debug_assert!(connection.state != State::Awaited || !told.has_come);
        let mut servers = self.tables.services.iter().filter(is_its).flat_map(|service| &service.servers);
        let id = servers.find(|server| server.address == reply.src)?.id;
        (id.index() < self.counters.server_capacity()).then_some(id)
    }
}

/// A segment in which the other end hears what it must. What was said is remembered.
pub(super) fn say(
    packet: Packet,
    read: Read,
    edit: &mut Edit,
    direction: Direction,
    heard: &Heard,
) -> Result<(Packet, Read), DropReason> {
    let Some(segment) = Segment::of(&packet, &read) else { return Ok((packet, read)) };
    let is_clients = direction == Direction::Original;
    let local = heard.expect.and_then(|expect| expect.local);
    let end = heard.expect.map(|expect| match is_clients {
        true => local.unwrap_or(expect.client),
        false => expect.virtual_,
    });
    let words = match (heard.instead, end) {
        (Instead::Nothing, _) => None,
        (Instead::Form(form), Some(end)) => Some(said_as(form, end)),
        (Instead::Form(_), None) => unreachable!("who waits waits for a connection"),
        (Instead::Line(says), end) => says.line(end.unwrap_or(([0; 4].into(), 0))),
    };
    let (mut packet, mut read) = (packet, read);
    if let Some(words) = words.map(String::into_bytes) {
        let stream = &mut edit.streams[direction.index()];
        let (from, len) = heard.place;
        let seq = segment.seq.wrapping_add(from as u32);
        let is_again =
            stream.taken == len && stream.holds(segment.seq, segment.data.len()) == Holds::All(from);
        if !is_again && words.len() != len && stream.has_passed(seq) {
            // A part of it has gone on as it was.
            return Ok((packet, read));
        }
        if !stream.may_exchange(seq) {
            return Err(DropReason::EditUnacknowledged);
        }
        if stream.taken > 0 && stream.at == seq && stream.put != words.len() {
            return Err(DropReason::EditInPart);
        }
        (packet, read) = put_in_place(packet, read, from, len, &words);
        stream.exchange(seq, len, words.len());
    }
    edit.asked = heard.asked;
    if let Some((_, port)) = local.filter(|_| is_clients) {
        edit.local_port = port;
    }
    Ok((packet, read))
}

/// A server waits, at its own address.
fn passive(connection: &Connection, port: u16) -> Expect {
    let Connection { original, server, .. } = connection;
    Expect {
        server: *server,
        client: (original.src, 0),
        virtual_: (original.dst, port),
        port,
        local: connection.local().map(|(address, _)| (address, 0)),
        mark: 0,
        control: (original.sport, original.dport),
        control_at: TemplateId::default(),
    }
}
