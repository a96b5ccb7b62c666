//! Connections of a process that is dead, entered into this one's tables before the first packet comes.
//!
//! Seed, number of workers and sizes may be others than they were: each worker reads all of the old memory
//! and takes what is its own. A real server is found again by what the operator calls it: the virtual
//! service, and its address and port there. Ids of the dead process mean nothing.

use std::iter::Sum;
use std::net::IpAddr;
use std::ops::Add;

use arrayvec::ArrayVec;
use hashbrown::HashMap;

use super::expected::is_awaited;
use super::on_link::is_on_link;
use super::{BURST, Path, rewrite};
use crate::conntrack::helper::HelperId;
use crate::conntrack::{Status, Tracked};
use crate::flow::carry::{Salvage, Salvaged};
use crate::flow::edit::Edit;
use crate::flow::template::{INVALID, templated};
use crate::flow::{Direction, FlowId, InsertError, Method, NewFlow, Tuple};
use crate::ids::{ServerId, WorkerId};
use crate::ipvs::state::{self, TcpState};
use crate::packet::Packet;
use crate::tables::{Helper, Protocol, Service, ServiceKey, Services};
use crate::time::Tick;

/// What became of the connections that were found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CarriedOver {
    /// These go on, persistence templates among them.
    pub connections: u64,
    /// Their time was over while nobody ran.
    pub expired: u64,
    /// Their virtual service or real server is not there any more.
    pub no_server: u64,
    /// The table is smaller than it was.
    pub no_room: u64,
    /// By FullNAT or source NAT, from a local port that is another worker's now: there are more or fewer
    /// workers than there were.
    pub no_port: u64,
    /// Entries that no connection could have, or a second one with the same addresses and ports.
    pub damaged: u64,
}

impl Add for CarriedOver {
    type Output = CarriedOver;

    fn add(self, other: CarriedOver) -> CarriedOver {
        CarriedOver {
            connections: self.connections + other.connections,
            expired: self.expired + other.expired,
            no_server: self.no_server + other.no_server,
            no_room: self.no_room + other.no_room,
            no_port: self.no_port + other.no_port,
            damaged: self.damaged + other.damaged,
        }
    }
}

impl Sum for CarriedOver {
    fn sum<I: Iterator<Item = CarriedOver>>(all: I) -> CarriedOver {
        all.fold(CarriedOver::default(), Add::add)
    }
}

/// Real servers by virtual service, address and port; of a service of every port, of FTP, or by mark, also by
/// address alone, port 0.
type Servers = HashMap<(ServiceKey, IpAddr, u16), ServerId>;

impl<P: Packet> Path<P> {
    /// Takes this worker's connections out of the memory of all workers of a dead process. Each worker is to
    /// be called, with the same memory and tables, before its first packet: the tables that name the real
    /// servers must be [adopted](Path::adopt). Added over the workers, each entry of the memory is counted
    /// once.
    pub fn carry_over(&mut self, memory: &[Salvage<'_>], now: Tick) -> CarriedOver {
        let servers = servers(&self.tables.services, self.mine.server_capacity());
        let mut done = CarriedOver::default();
        let mut burst = ArrayVec::<Salvaged, BURST>::new();
        for found in memory.iter().flat_map(|salvage| salvage.connections(now)) {
            match found {
                Ok(found) if self.carrier(&found) == self.worker => {
                    // What is needed of the index is on its way while others are entered.
                    for (way, tuple) in
                        [(Direction::Original, &found.original), (Direction::Reply, &found.reply)]
                    {
                        let hash = tuple.hash(self.flows.hasher());
                        self.flows.prefetch_bucket(hash.in_zone(found.zones.of(way)));
                    }
                    burst.push(found);
                }
                Ok(_) => {}
                // Nobody's: the first worker counts it.
                Err(_) => done.damaged += u64::from(self.worker == WorkerId(0)),
            }
            if burst.is_full() {
                self.carry_all(&mut burst, &servers, now, &mut done);
            }
        }
        self.carry_all(&mut burst, &servers, now, &mut done);
        self.mine.flows.carried_over.add(done.connections);
        self.count_fill();
        done
    }

    /// The worker that a connection's packets come to.
    fn carrier(&self, found: &Salvaged) -> WorkerId {
        let Tuple { src, dst, sport, dport, .. } = found.original;
        if is_on_link(&found.original) {
            return self.owner_on_link(&found.original);
        }
        match found.is_tracked && !self.tables.routes.is_local(dst) {
            true => self.owner_of(dst, dport),
            false => self.owner_of(src, sport),
        }
    }

    fn carry_all(
        &mut self,
        burst: &mut ArrayVec<Salvaged, BURST>,
        servers: &Servers,
        now: Tick,
        done: &mut CarriedOver,
    ) {
        for found in burst.drain(..) {
            *self.carry(&found, servers, now, done) += 1;
        }
    }

    /// Enters one connection. Returns the count of what became of it.
    fn carry<'d>(
        &mut self,
        found: &Salvaged,
        servers: &Servers,
        now: Tick,
        done: &'d mut CarriedOver,
    ) -> &'d mut u64 {
        let Salvaged {
            original,
            reply,
            method,
            state,
            timeout,
            seen,
            edit,
            is_tracked,
            known,
            labels,
            zones,
        } = *found;
        if now.is_at_or_after(seen.after(timeout)) {
            return &mut done.expired;
        }
        let template_of = templated(original.protocol);
        let services = &self.tables.services;
        let service = template_of.is_none().then(|| self.tables.service_for(&original, now)).flatten();
        let is_invalid = template_of.is_some() && state & INVALID != 0;
        let find = |key: ServiceKey| {
            let at = |port| servers.get(&(key, reply.src, port));
            let is_of_all = key.port == 0 || key.is_ftp() && original.dport != key.port;
            at(reply.sport).or_else(|| if is_of_all { at(0) } else { None })
        };
        let of_template = || {
            let key = ServiceKey::of(&Tuple { protocol: template_of?, ..original });
            services.templated(&key).find_map(|service| find(service.key)).filter(|_| !is_invalid)
        };
        let of_a_mark = || {
            let may_be_marked = template_of.is_none() && self.tables.rules.are_active();
            may_be_marked.then(|| find(any_mark(original.dst.is_ipv6()))).flatten()
        };
        let server = service.and_then(|service| find(service.key)).or_else(of_template).or_else(of_a_mark);
        let server = match server {
            _ if is_tracked => Some(ServerId::NONE),
            Some(&server) => Some(server),
            None if self.went_past(found) => Some(ServerId::BYPASS),
            None => known.and_then(|known| self.awaited_by(&known, &original, reply.src)),
        };
        let Some(server) = server else {
            return &mut done.no_server;
        };
        let is_full_nat = !is_tracked
            && template_of.is_none()
            && (original.src, original.sport) != (reply.dst, reply.dport);
        let is_anothers = || {
            // Addresses that the host does not have yet may be told apart by their ports too.
            self.owners.of_local(reply.dst, reply.dport) != self.worker
                && self.owner_of_flow(&reply) != self.worker
        };
        if is_full_nat && is_anothers() {
            return &mut done.no_port;
        }
        let after = reply.reversed();
        let new = NewFlow {
            original,
            reply,
            method,
            deltas: rewrite::deltas_both_ways(&original, &after),
            server,
            state,
            timeout,
            now: seen,
            zones,
        };
        let inserted = self.flows.insert(&new);
        if let (Ok(id), Some(known)) = (&inserted, known) {
            *self.flows.tracked_mut(*id) = known;
            self.label(*id, labels);
        }
        match inserted {
            Ok(_) if is_tracked => {
                self.mine.flows.tracked.add(1);
                &mut done.connections
            }
            Ok(id) if !self.bind_entered(id, edit) => {
                self.flows.remove(id);
                &mut done.no_room
            }
            Ok(id) => {
                self.mine.flows.expect_create.add(is_awaited(&self.flows, id).into());
                &mut done.connections
            }
            Err(InsertError::Taken(_)) => &mut done.damaged,
            Err(InsertError::Full | InsertError::IndexFull) => &mut done.no_room,
        }
    }
}

impl<P: Packet> Path<P> {
    /// Whether a connection of no real server went straight on to its own destination.
    fn went_past(&self, &Salvaged { original, reply, method, .. }: &Salvaged) -> bool {
        method == Method::Direct
            && templated(original.protocol).is_none()
            && reply == original.reversed()
            && !self.tables.routes.is_local(original.dst)
    }

    /// A connection, or a template, that began elsewhere and was entered here is counted at its real server,
    /// and its streams are edited on. False: there is no room for the latter.
    #[must_use]
    pub(super) fn bind_entered(&mut self, id: FlowId, edit: Option<Edit>) -> bool {
        let entry = self.flows.entry(id);
        let (server, is_active) = (entry.server(), is_active(entry.protocol(), entry.state()));
        if entry.is_template() {
            self.uses.begin(self.worker, id.0);
            self.mine.server(server).persistent.add(1);
            return true;
        }
        if edit.is_some_and(|edit| !self.flows.begin_edit(id, edit)) {
            return false;
        }
        self.flows.entry_mut(id).set_inactive(!is_active);
        self.count_bound(id, server, is_active);
        true
    }

    /// One of FTP's data connections, for whose port there is no service, is its control connection's real
    /// server's.
    fn awaited_by(&self, known: &Tracked, original: &Tuple, server: IpAddr) -> Option<ServerId> {
        let is_awaited = known.status.has(Status::EXPECTED) && known.told_by() == HelperId::FTP;
        let is_its = |service: &Service| {
            service.options.helper == Some(Helper::Ftp)
                && (service.key.mark().is_some() || service.key.prefix().contains(original.dst))
        };
        let services = self.tables.services.iter().filter(|service| is_awaited && is_its(service));
        let mut servers = services.flat_map(|service| &service.servers);
        let found = servers.find(|its| its.address == server)?.id;
        (found.index() < self.mine.server_capacity()).then_some(found)
    }
}

/// A TCP connection is active from its beginning on, before its first state.
fn is_active(protocol: Protocol, state: u8) -> bool {
    state::is_active(protocol, state) || protocol == Protocol::TCP && state == TcpState::None as u8
}

/// The services by mark, of which rules may have chosen one: nobody knows which. None has this key.
fn any_mark(is_ipv6: bool) -> ServiceKey {
    ServiceKey::of_mark(0, is_ipv6)
}

fn servers(services: &Services, capacity: usize) -> Servers {
    let mut servers = Servers::new();
    for service in services.iter() {
        for server in service.servers.iter().filter(|server| server.id.index() < capacity) {
            servers.insert((service.key, server.address, server.port), server.id);
            if service.key.template_port() == 0 {
                servers.entry((service.key, server.address, 0)).or_insert(server.id);
            }
            if service.key.mark().is_some() {
                let of_any = any_mark(service.key.address.is_ipv6());
                servers.entry((of_any, server.address, server.port)).or_insert(server.id);
            }
        }
    }
    servers
}

#[cfg(test)]
mod tests;
