//! Connections of a director that is dead, taken over by the workers of the next one.

use std::net::IpAddr;

use hashbrown::HashSet;
use lb_core::flow::Tuple;
use lb_core::flow::carry::Salvaged;
use lb_core::flow::template::templated;
use lb_core::ids::{ServerId, WorkerId};
use lb_core::ipvs::sctp::SctpState;
use lb_core::ipvs::state::TcpState;
use lb_core::path::CarriedOver;
use lb_core::tables::{Prefix, Protocol, Service, ServiceKey};
use lb_core::time::Tick;

use super::connection::State;
use super::flows::{self, Connection};
use super::persistent::{Template, is_within, service_of};
use super::steer::number;
use super::{Reference, Taken, schedule};

/// A connection as a director left it.
#[derive(Clone, Debug)]
pub struct Left(Connection);

/// The next director numbers its servers anew.
impl PartialEq for Left {
    fn eq(&self, other: &Left) -> bool {
        self.0 == Connection { server: self.0.server, ..other.0.clone() }
    }
}

/// What damaged memory says, where nobody else can say it. The server's id means nothing.
impl From<&Salvaged> for Left {
    fn from(found: &Salvaged) -> Left {
        let is_template = templated(found.original.protocol).is_some();
        let template =
            Template { serial: 0, was_assured: found.state & 1 != 0, is_invalid: found.state & 2 != 0 };
        let state = match found.original.protocol {
            Protocol::TCP => State::Tcp(TcpState::from_u8(found.state)),
            Protocol::SCTP => State::Sctp(SctpState::from_u8(found.state)),
            _ => State::Udp,
        };
        Left(Connection {
            original: found.original,
            reply: found.reply,
            method: found.method,
            server: ServerId(0),
            state,
            is_active: state == State::Tcp(TcpState::None) || state.is_active(),
            seen: found.seen,
            timeout: found.timeout,
            renewed: 0,
            template: is_template.then_some(template),
            bound_by: None,
            controls: None,
            controlled_by: None,
            edit: None,
            told: None,
            counts_in: Vec::new(),
        })
    }
}

impl Reference {
    /// What this director's worker leaves.
    pub fn left(&self) -> impl Iterator<Item = Left> {
        let forget = |mut connection: Connection| {
            (connection.bound_by, connection.renewed) = (None, 0);
            (connection.controls, connection.controlled_by) = (None, None);
            connection.counts_in = Vec::new();
            if let Some(template) = &mut connection.template {
                template.serial = 0;
            }
            Left(connection)
        };
        // Who is awaited is forgotten.
        self.flows.iter().filter(|connection| connection.state != State::Awaited).cloned().map(forget)
    }

    /// Takes this worker's connections of those that all workers of the one before left. Which of them find room the path chooses: it `has` them.
    ///
    /// # Errors
    /// A connection is missing though there is room for it.
    pub fn carry_over(
        &mut self,
        left: &[Vec<Left>],
        has: &HashSet<Tuple>,
        now: Tick,
    ) -> Result<CarriedOver, String> {
        self.begin(now, Taken::default());
        let mut done = CarriedOver::default();
        let mut missing = Vec::new();
        for Left(connection) in left.iter().flatten() {
            let Connection { original, reply, method, .. } = *connection;
            if self.owner_of(&original) != self.worker {
                continue;
            }
            if now.is_at_or_after(connection.due()) {
                done.expired += 1;
                continue;
            }
            let is_invalid = connection.template.is_some_and(|template| template.is_invalid);
            let named = self.named(&original, reply.src, reply.sport);
            let named = named.or_else(|| self.told_by_service_of(connection));
            let Some(server) = named.filter(|_| !is_invalid) else {
                done.no_server += 1;
                continue;
            };
            // Where no service has local endpoints any more, answers go by the real server's end.
            let is_answered_here =
                |port| self.worker_of_port(port) == self.worker || self.owner_of_tuple(&reply) == self.worker;
            if connection.local().is_some_and(|(_, port)| !is_answered_here(port)) {
                done.no_port += 1;
                continue;
            }
            if self.flows.holder(connection).is_some() {
                done.damaged += 1;
                continue;
            }
            if !has.contains(&original) {
                done.no_room += 1;
                missing.push((original, flows::is_wide(&original, &reply)));
                continue;
            }
            done.connections += 1;
            if let Some(template) = connection.template {
                let serial = self.team.shared().new_template();
                let Connection { timeout, seen, .. } = *connection;
                let template = Template { serial, ..template };
                self.enter_template(original, reply, method, server, timeout, seen, template);
                continue;
            }
            let number = self.flows.insert(Connection { server, ..connection.clone() });
            self.count_towards_limits(number);
            self.counters.flows.expect_create.add(connection.is_awaited().into());
            self.touch(server);
            let cell = self.counters.server(server);
            if connection.is_active { &cell.active } else { &cell.inactive }.add(1);
            if let Some(server) = self.tables.services.server(server) {
                schedule::after_bind(&self.team, server);
            }
        }
        self.counters.flows.carried_over.add(done.connections);
        self.count_fill();
        match missing.iter().find(|&&(_, is_wide)| !self.flows.is_full(is_wide)) {
            Some((original, _)) => Err(format!("{original:?} was not carried over, though there is room")),
            None => Ok(done),
        }
    }

    fn owner_of(&self, original: &Tuple) -> WorkerId {
        self.hashed(number(original.src), original.sport)
    }

    /// The real server that the operator knows by this address and port, in the service that the client speaks to.
    fn named(&self, original: &Tuple, address: IpAddr, port: u16) -> Option<ServerId> {
        let service = match templated(original.protocol) {
            // Its tuple is the service's own.
            Some(protocol) => {
                // FTP's stand under port 0 too.
                let ports = [Some(original.dport), (original.dport == 0).then_some(21)];
                return ports.into_iter().flatten().find_map(|port_of_service| {
                    let holds = |key: &ServiceKey| {
                        key.protocol == protocol
                            && key.port == port_of_service
                            && is_within(Prefix { address: key.address, len: key.prefix_len }, original.dst)
                    };
                    let all = self.tables.services.iter().filter(|service| holds(&service.key));
                    let service = all.max_by_key(|service| service.key.prefix_len)?;
                    self.named_in(service, original, address, port)
                });
            }
            None => service_of(&self.tables, original)?,
        };
        self.named_in(service, original, address, port)
    }

    fn named_in(&self, service: &Service, original: &Tuple, address: IpAddr, port: u16) -> Option<ServerId> {
        let there = || service.servers.iter().filter(|server| server.address == address);
        let is_of_any_port = service.key.port == 0 || service.key.port == 21 && original.dport != 21;
        let of_any_port = || there().next().filter(|_| is_of_any_port);
        let server = there().find(|server| server.port == port).or_else(of_any_port)?;
        (server.id.index() < self.counters.server_capacity()).then_some(server.id)
    }
}
