//! The road of a packet that stays: of a connection, of one to be, or through.

use std::net::IpAddr;

use hashbrown::HashMap;
use lb_core::drop::DropReason;
use lb_core::flow::{Direction, Method, Tuple};
use lb_core::hook::Hook;
use lb_core::ids::ServerId;
use lb_core::tables::{Forward, Protocol, Service, SynCookies, Way};
use lb_core::time::Timeout;

use super::answer::Problem;
use super::by_hash::picks_alike;
use super::by_mark::comes_here;
use super::connection::{State, is_answered};
use super::cookies::Becomes;
use super::flows::{Connection, Number, is_wide};
use super::ftp::Heard;
use super::one_packet::Choice;
use super::output::Before;
use super::parse::{ABORT, AH, ESP, INIT, Piece, RST, Read, SCTP, SYN, TCP, UDP};
use super::persistent::service_of;
use super::steer::{ISAKMP, Kind, Staying};
use super::{Packet, Reference, rewrite, schedule};

/// Where an FTP server's data connections come from: none is begun from there, lest a real server's own is taken for a client's.
pub(super) const FTP_DATA: u16 = 20;

impl Reference {
    /// Those that stay of a burst, and then the fragments that waited for one of them.
    pub(super) fn go(&mut self, staying: Vec<Staying>) {
        self.take_roads(staying);
        self.release_fragments();
    }

    pub(super) fn take_roads(&mut self, staying: Vec<Staying>) {
        for Staying { packet, kind } in staying {
            // Whose a packet is that may be of a connection is asked when there is none.
            let staying = match kind {
                Kind::Flow(_) => Some(packet),
                _ => self.stay_or_go(packet, kind),
            };
            let Some(packet) = staying else { continue };
            match kind {
                Kind::Flow(read) => match self.flows.find(&tuple(&read)) {
                    Some((number, direction)) if self.is_ours(number) => {
                        self.counters.flows.found.add(1);
                        self.established(packet, read, number, direction);
                    }
                    _ => self.newcomer(packet, read),
                },
                Kind::Ipsec(read) => match self.flows.find(&exchange(read.src, read.dst)) {
                    // Its answer would have no port to come back to.
                    Some((number, _)) if self.flows.get(number).local().is_some() => {
                        self.drop(DropReason::Unsupported, Hook::Postrouting);
                    }
                    Some((number, direction)) => {
                        self.counters.flows.found.add(1);
                        self.established(packet, read, number, direction);
                    }
                    None => self.route(packet, read),
                },
                Kind::IcmpError(read) => self.related(packet, read),
                Kind::Routed(read) => self.route(packet, read),
                Kind::Host => self.up_the_twin(packet),
                Kind::Dropped(reason) => self.drop(reason, Hook::Ingress),
            }
        }
    }

    /// A packet of no connection: its owner begins one, unless it is behind.
    pub(super) fn newcomer(&mut self, packet: Packet, read: Read) {
        match self.stay_or_go(packet, Kind::Flow(read)) {
            Some(packet) if self.lets_in(&read) => self.first(packet, read),
            Some(_) => self.drop(DropReason::WorkerBehind, Hook::Prerouting),
            None => {}
        }
    }

    /// A packet of no connection, at its owner: PREROUTING, the routing decision, INPUT.
    pub(super) fn first(&mut self, packet: Packet, read: Read) {
        let Some(packet) = self.stay_or_go(packet, Kind::Flow(read)) else { return };
        self.counters.flows.missed.add(1);
        let tables = self.tables.clone();
        let is_link_local = matches!(read.src, std::net::IpAddr::V6(src) if src.is_unicast_link_local());
        if read.piece == Piece::Later {
            return self.first_is_on_its_way(packet, read);
        }
        if is_link_local || !tables.serves(read.is_ipv6()) {
            return self.route(packet, read);
        }
        if tables.routes.is_local(read.src) {
            // A "land" attack.
            return self.drop(DropReason::MartianAddress, Hook::Prerouting);
        }
        if self.may_be_awaited(&read) {
            return self.first_awaited(packet, read);
        }
        self.first_unexpected(packet, read);
    }

    /// What no control connection told of.
    pub(super) fn first_unexpected(&mut self, packet: Packet, read: Read) {
        let (tables, original) = (self.tables.clone(), tuple(&read));
        if tables.settings.sysctls.nat_icmp_send == 1 {
            let sends = |service: &Service| {
                service.key.protocol == original.protocol
                    && service.servers.iter().any(|server| {
                        server.forward == Forward::Masq
                            && (server.address, server.port) == (original.src, original.sport)
                            && server.port != 0
                    })
            };
            let is_end = match read.protocol {
                TCP => read.tcp_flags & RST != 0,
                SCTP => read.chunk == Some(ABORT),
                _ => false,
            };
            if !is_end && tables.services.iter().any(|service| sends(service)) {
                let (problem, reason) = (Problem::PortUnreachable, DropReason::NoConnection);
                return self.answer(packet, read, problem, reason, Hook::Forward);
            }
        }
        let service = service_of(&tables, &original).filter(|_| comes_here(&tables, &original));
        let Some(service) = service else { return self.route(packet, read) };
        let (mut packet, mut read, mut opening) = (packet, read, None);
        if service.options.syn_cookies != SynCookies::Off {
            match self.by_cookie(packet, read, service) {
                Some(left) => (packet, read, opening) = left,
                None => return,
            }
        }
        let sysctls = tables.settings.sysctls;
        let begins = match read.protocol {
            TCP => (read.tcp_flags & SYN != 0 || sysctls.sloppy_tcp == 1) && read.tcp_flags & RST == 0,
            SCTP => read.chunk == Some(INIT) || read.chunk.is_some() && sysctls.sloppy_sctp == 1,
            AH | ESP => false,
            _ => true,
        };
        if !begins || read.sport == FTP_DATA {
            if !begins && self.may_go_by_hash(service, &read) {
                return self.take_up(packet, read, service);
            }
            return self.not_begun(packet, read);
        }
        if tables.settings.draining {
            return self.drop(DropReason::Draining, Hook::Input);
        }
        if self.is_shed() {
            return self.drop(DropReason::Shed, Hook::Input);
        }
        if let Some(reason) = self.exceeds(service, read.src) {
            return self.drop(reason, Hook::Input);
        }
        if let Some(server) = self.named_server(&packet, &read, service) {
            return self.begin_held(packet, read, service, server, None);
        }
        if service.options.persistence.is_some() {
            return self.first_persistent(packet, read, service);
        }
        let picked =
            self.places.pick(&self.team, service, &original, self.now).map(|index| &service.servers[index]);
        let Some(server) = picked.filter(|server| server.id.index() < self.counters.server_capacity()) else {
            return self.without_server(packet, read, service, opening.is_some());
        };
        let dport = if server.port == 0 { original.dport } else { server.port };
        let after = Tuple { dst: server.address, dport, ..original };
        let id = server.id;
        let (after, method) = match server.forward {
            Forward::FullNat => match self.take_local_endpoint(service, after) {
                Some(taken) => taken,
                None => return self.drop(DropReason::NoLocalPort, Hook::Input),
            },
            forward => (after, forward.method()),
        };
        if service.options.one_packet && read.protocol == UDP {
            return self.one_packet(packet, read, after, method, id);
        }
        if self.is_short && picks_alike(service) && !is_answered(method) {
            return self.go_by_hash(packet, read, Choice { after, method, server: id }, service.id);
        }
        match self.bind(original, after.reversed(), method, id) {
            Some(number) => {
                if !self.begin_edits(number, service, &read, opening) {
                    return self.refuse_unedited(number);
                }
                self.established(packet, read, number, Direction::Original);
            }
            None => self.drop(DropReason::FlowTableFull, Hook::Input),
        }
    }

    /// Whether sysctl `drop_packet` says that this connection does not begin: the last one of each so many does not.
    pub(super) fn is_shed(&mut self) -> bool {
        let sysctls = self.tables.settings.sysctls;
        let places = self.places_left();
        let threshold = u64::from(sysctls.amemthresh);
        let of = match sysctls.drop_packet {
            3 if sysctls.am_droprate > 0 => u64::from(sysctls.am_droprate),
            1 | 2 if places < threshold => threshold / (threshold - places),
            _ => return false,
        };
        self.begun_since_shed += 1;
        if u64::from(self.begun_since_shed) < of {
            return false;
        }
        self.begun_since_shed = 0;
        true
    }

    /// Enters a connection, if there is room. Older ones that look the same to the client or to the real server go.
    pub(super) fn bind(
        &mut self,
        original: Tuple,
        reply: Tuple,
        method: Method,
        server: ServerId,
    ) -> Option<Number> {
        let is_tcp = original.protocol == Protocol::TCP;
        let connection = self.unbound(original, reply, method, server);
        while let Some(older) = self.flows.holder(&connection) {
            self.end(older);
        }
        if !self.has_room(is_wide(&original, &reply)) {
            return None;
        }
        let number = self.flows.insert(connection);
        self.touch(server);
        let cell = self.counters.server(server);
        if is_tcp { &cell.active } else { &cell.inactive }.add(1);
        cell.connections.add(1);
        self.counters.flows.inserted.add(1);
        self.count_towards_limits(number);
        if let Some(server) = self.tables.services.server(server) {
            schedule::after_bind(&self.team, server);
        }
        Some(number)
    }

    /// A connection that begins, not entered yet.
    pub(super) fn unbound(
        &self,
        original: Tuple,
        reply: Tuple,
        method: Method,
        server: ServerId,
    ) -> Connection {
        let state = State::new(original.protocol);
        Connection {
            original,
            reply,
            method,
            server,
            state,
            is_active: original.protocol == Protocol::TCP,
            seen: self.now,
            timeout: state.timeout(&self.tables.settings),
            renewed: self.tables.generation,
            template: None,
            bound_by: None,
            controls: None,
            controlled_by: None,
            edit: None,
            told: None,
            counts_in: Vec::new(),
        }
    }

    /// Whether one more can be entered, perhaps in the place of one with which nothing is lost, as the path chose it; counts when not.
    pub(super) fn has_room(&mut self, is_wide: bool) -> bool {
        while self.flows.is_full(is_wide)
            && let Some(number) =
                self.flows.find_early(&self.taken.gone, is_wide, |template| self.is_idle(template, 0))
        {
            self.counters.flows.early_drop.add(1);
            match self.flows.get(number).template {
                Some(_) => self.end_idle(number),
                None => self.end(number),
            }
        }
        if self.flows.is_full(is_wide) {
            self.counters.flows.full.add(1);
            return false;
        }
        if self.taken.index_full.front() == Some(&self.expected.len()) {
            self.taken.index_full.pop_front();
            self.counters.flows.index_full.add(1);
            return false;
        }
        true
    }

    /// Ends a connection.
    pub(super) fn end(&mut self, number: Number) {
        self.await_no_more(number);
        let connection = self.flows.remove(number);
        self.count_no_more(connection.counts_in);
        self.touch(connection.server);
        if let Some(serial) = connection.bound_by {
            self.team.shared().give_template_back(serial);
        }
        if let Some(serial) = connection.controlled_by {
            self.team.shared().give_control_back(serial);
        }
        if let Some(serial) = connection.controls {
            self.team.shared().end_control(serial);
        }
        // Who is awaited has left by that.
        if connection.state != State::Awaited {
            self.lose_one(connection.server, connection.is_active);
        }
    }

    /// The real server has one connection less.
    pub(super) fn lose_one(&mut self, server: ServerId, is_active: bool) {
        self.touch(server);
        let cell = self.counters.server(server);
        if is_active { &cell.active } else { &cell.inactive }.sub(1);
        if let Some(server) = self.tables.services.server(server) {
            schedule::after_unbind(&self.team, server);
        }
    }

    /// A packet of a connection.
    pub(super) fn established(&mut self, packet: Packet, read: Read, number: Number, direction: Direction) {
        self.renew(number);
        let connection = self.flows.get(number).clone();
        let services = &self.tables.services;
        if !self.tables.serves(connection.original.dst.is_ipv6()) {
            // Without a service of its family IPVS looks at nothing.
            return self.route(packet, read);
        }
        let is_from_client = direction == Direction::Original;
        let sysctls = self.tables.settings.sysctls;
        let is_told = self.is_told(&connection);
        let starts_anew = connection.starts_anew(&read, is_told, &sysctls);
        if is_from_client && connection.lacks_server(services) {
            let is_ended = match sysctls.expire_nodest_conn {
                1 => read.piece != Piece::Later,
                2 => read.piece != Piece::Later && read.protocol == UDP,
                _ => false,
            };
            if starts_anew || is_ended {
                self.end(number);
                return self.first(packet, read);
            }
            // Silently, and the timer runs on: adding the server again resumes.
            return self.drop(DropReason::ServerRemoved, Hook::Input);
        }
        let is_quiesced = || services.server(connection.server).is_some_and(|server| server.weight == 0);
        if is_from_client && sysctls.expire_nodest_conn == 1 && connection.may_be_left(&read) && is_quiesced()
        {
            self.end(number);
            return self.first(packet, read);
        }
        match self.before(packet, read, number, direction) {
            Becomes::Goes(packet, read) => self.go_on(packet, read, number, direction),
            Becomes::Opens(packet, read, is_first) => {
                let state = connection.state.next(connection.column(), is_from_client, self.is_secure, &read);
                self.enter_state(number, state);
                self.opened(packet, read, number, is_first);
            }
            Becomes::Gone => {}
        }
    }

    /// A packet of a connection that is translated, or sent on to its real server.
    pub(super) fn go_on(&mut self, packet: Packet, read: Read, number: Number, direction: Direction) {
        match self.flows.get(number).edit {
            Some(edit) if edit.ftp => self.hear_and_send(packet, read, number, direction),
            _ => self.go_on_heard(packet, read, number, direction, None),
        }
    }

    /// The same, of one that says this of data connections.
    pub(super) fn go_on_heard(
        &mut self,
        packet: Packet,
        read: Read,
        number: Number,
        direction: Direction,
        heard: Option<&Heard>,
    ) {
        let connection = self.flows.get(number).clone();
        let is_from_client = direction == Direction::Original;
        let sysctls = self.tables.settings.sysctls;
        let is_told = self.is_told(&connection);
        let starts_anew = connection.starts_anew(&read, is_told, &sysctls);
        let state = connection.state.next(connection.column(), is_from_client, self.is_secure, &read);
        // A SYN that is an RST as well leaves a closed connection as it is.
        if state != connection.state && is_from_client && starts_anew {
            self.end(number);
            return self.first(packet, read);
        }
        self.enter_state(number, state);
        self.assure_template(number, direction);
        if is_answered(connection.method) && read.protocol == SCTP {
            let ports = match direction {
                Direction::Original => (connection.reply.dport, connection.reply.sport),
                Direction::Reply => (connection.original.dport, connection.original.sport),
            };
            if read.piece == Piece::First && ports != (read.sport, read.dport) {
                return self.wait_for_last(packet, read);
            }
            if read.piece == Piece::Later
                && let Some((first, read)) = self.completed(&packet, &read)
            {
                self.masquerade(first, read, number, direction);
            }
        }
        if let Some((packet, read)) = self.edit(packet, read, number, direction, heard) {
            self.masquerade(packet, read, number, direction);
        }
    }

    pub(super) fn masquerade(&mut self, packet: Packet, read: Read, number: Number, direction: Direction) {
        let connection = self.flows.get(number).clone();
        let is_from_client = direction == Direction::Original;
        let now = self.now;
        self.flows.change(number, |connection| connection.seen = now);
        if !is_answered(connection.method) {
            return self.onward(packet, read, &connection);
        }
        self.count(connection.server, direction, &read);

        let (before, after) = match direction {
            Direction::Original => (connection.original, connection.reply.reversed()),
            Direction::Reply => (connection.reply, connection.original.reversed()),
        };
        if connection.method == Method::Translated {
            return self.translate(packet, read, after);
        }
        self.send_as(packet, read, before, after, is_from_client);
    }

    /// Sends a packet that is `before` as `after`.
    pub(super) fn send_as(
        &mut self,
        packet: Packet,
        read: Read,
        before: Tuple,
        after: Tuple,
        is_from_client: bool,
    ) {
        match self.check(&read, after.dst) {
            Ok(Way::Local | Way::Linux) => self.drop(DropReason::Unsupported, Hook::Postrouting),
            Ok(way) => {
                let mut packet = packet;
                rewrite::to(&mut packet.bytes, &read, &after);
                rewrite::lower_ttl(&mut packet.bytes, &read);
                self.leave(packet, read, after.dst, way, Before::Rewritten(before));
            }
            Err(refusal) => {
                let mut packet = packet;
                if is_from_client && read.ttl > 1 {
                    // The kernel quotes a client's packet as it would have left.
                    rewrite::lower_ttl(&mut packet.bytes, &read);
                }
                self.refuse(packet, read, refusal);
            }
        }
    }

    /// Lets those go that the path let go, if their time is over.
    pub(super) fn expire(
        &mut self,
        expired: u64,
        is_left: impl FnOnce() -> Vec<(Tuple, Timeout)>,
    ) -> Result<(), String> {
        let mut due: Vec<_> = self.flows.due().collect();
        let may_be_kept = |due: &(Number, bool)| self.flows.get(due.0).may_be_kept();
        let is_left: Box<dyn FnOnce() -> Vec<(Tuple, Timeout)>> = if due.iter().any(may_be_kept) {
            let left = is_left();
            let numbers: Vec<Number> = due.iter().map(|due| due.0).collect();
            let prolonged = self.prolong_templates(&numbers, &left)?;
            due.retain(|(number, _)| !prolonged.contains(number));
            Box::new(|| left)
        } else {
            Box::new(is_left)
        };
        let over: Vec<Number> = due.iter().filter(|due| due.1).map(|due| due.0).collect();
        let gone = if expired == over.len() as u64 {
            (self.turns_behind, self.most_behind) = (0, 0);
            over
        } else {
            // Of templates that bind no more several may look the same: those without connections are gone, the longest over first.
            let uses = |number: Number| {
                let template = self.flows.get(number).template;
                template.map_or(0, |template| self.team.shared().template_use(template.serial).connections)
            };
            due.sort_by_key(|&(number, _)| uses(number) > 0);
            let mut left: HashMap<Tuple, usize> = HashMap::new();
            for (original, _) in is_left() {
                *left.entry(original).or_default() += 1;
            }
            let mut missing: HashMap<Tuple, usize> = HashMap::new();
            for connection in self.flows.iter() {
                match left.get_mut(&connection.original) {
                    Some(count) if *count > 0 => *count -= 1,
                    _ => *missing.entry(connection.original).or_default() += 1,
                }
            }
            let mut is_gone = |number: &Number| {
                let count = missing.get_mut(&self.flows.get(*number).original);
                count.filter(|count| **count > 0).map(|count| *count -= 1).is_some()
            };
            let gone: Vec<Number> = due.iter().map(|due| due.0).filter(|number| is_gone(number)).collect();
            if gone.len() as u64 != expired {
                return Err(format!(
                    "{expired} connections ended, of those whose time is over {}",
                    gone.len()
                ));
            }
            self.turns_behind += 1;
            // A wheel that is behind has visited as many timers as it may in each turn; no timer twice, and now and then one that is not due.
            self.most_behind = self.most_behind.max(self.flows.len().0);
            let enough = 4 * (self.most_behind / super::VISITS + 1);
            if self.turns_behind > enough {
                let late =
                    over.iter().find(|number| !gone.contains(number)).map(|&number| self.flows.get(number));
                return Err(format!(
                    "after {} turns this connection has not ended: {late:?}",
                    self.turns_behind
                ));
            }
            gone
        };
        self.counters.flows.expired.add(gone.len() as u64);
        // A template's last connection may have ended before it.
        let (templates, connections): (Vec<Number>, Vec<Number>) =
            gone.into_iter().partition(|&number| self.flows.get(number).template.is_some());
        // As may a control connection's.
        let (controls, connections): (Vec<Number>, Vec<Number>) =
            connections.into_iter().partition(|&number| self.flows.get(number).controls.is_some());
        connections.into_iter().for_each(|number| self.end(number));
        for number in controls {
            let serial = self.flows.get(number).kept_as().expect("it is a control connection");
            if self.team.shared().template_use(serial).connections > 0 {
                return Err(format!("its data connections live: {:?}", self.flows.get(number)));
            }
            self.end(number);
        }
        for number in templates {
            let Connection { original, server, template, counts_in, .. } = self.flows.remove(number);
            self.count_no_more(counts_in);
            let left = template.map(|template| self.team.shared().end_template(template.serial).connections);
            if left != Some(0) {
                return Err(format!("a template ends that has {left:?} connections: {original:?}"));
            }
            self.touch(server);
            self.counters.server(server).persistent.sub(1);
        }
        Ok(())
    }
}

/// What negotiates the AH and ESP packets that go from `src` to `dst`.
pub(super) fn exchange(src: IpAddr, dst: IpAddr) -> Tuple {
    Tuple { src, dst, sport: ISAKMP, dport: ISAKMP, protocol: Protocol::UDP }
}

/// What a packet carries.
pub(super) fn tuple(read: &Read) -> Tuple {
    Tuple {
        src: read.src,
        dst: read.dst,
        sport: read.sport,
        dport: read.dport,
        protocol: Protocol(read.protocol),
    }
}
