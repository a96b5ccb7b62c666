//! Connections of a director that is dead, taken over by the workers of the next one.

use std::net::IpAddr;

use hashbrown::HashSet;
use lb_core::flow::Tuple;
use lb_core::flow::carry::Salvaged;
use lb_core::ids::{ServerId, WorkerId};
use lb_core::ipvs::state::TcpState;
use lb_core::path::CarriedOver;
use lb_core::tables::{Protocol, ServiceKey};
use lb_core::time::Tick;

use super::flows::{self, Connection};
use super::steer::number;
use super::{Reference, Taken, schedule, tcp};

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
        let state = TcpState::from_u8(found.state);
        let is_tcp = found.original.protocol == Protocol::TCP;
        Left(Connection {
            original: found.original,
            reply: found.reply,
            method: found.method,
            server: ServerId(0),
            state,
            is_active: is_tcp && (state == TcpState::None || tcp::is_active(state)),
            seen: found.seen,
            timeout: found.timeout,
        })
    }
}

impl Reference {
    /// What this director's worker leaves.
    pub fn left(&self) -> impl Iterator<Item = Left> {
        self.flows.iter().cloned().map(Left)
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
            let Some(server) = self.named(&original, reply.src, reply.sport) else {
                done.no_server += 1;
                continue;
            };
            if self.flows.holder(&original, &reply, method).is_some() {
                done.damaged += 1;
                continue;
            }
            if !has.contains(&original) {
                done.no_room += 1;
                missing.push((original, flows::is_wide(&original, &reply)));
                continue;
            }
            done.connections += 1;
            self.flows.insert(Connection { server, ..connection.clone() });
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
        let key = ServiceKey { protocol: original.protocol, address: original.dst, port: original.dport };
        let service = self.tables.services.find(&key)?;
        let server =
            service.servers.iter().find(|server| (server.address, server.port) == (address, port))?;
        (server.id.index() < self.counters.server_capacity()).then_some(server.id)
    }
}
