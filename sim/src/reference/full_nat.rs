//! FullNAT: which address and port of the director a real server sees as its client, and whose an answer to them is.

use std::net::IpAddr;

use lb_core::flow::{Hasher, Method, Tuple};
use lb_core::ids::WorkerId;
use lb_core::tables::{Forward, Route, Service, Tables};
use lb_core::time::Tick;

use super::Reference;
use super::flows::Connection;
use super::persistent::service_of;

/// Endpoints that are tried for one connection.
const TRIES: usize = 64;
const FIRST_PORT: u16 = 1024;
/// Above it Linux takes ports for itself, on an address of its own.
const LAST_PORT_BESIDE_LINUX: u16 = 32_767;

/// A number's bits from the last to the first.
fn backwards(number: u16) -> u16 {
    (0..16).filter(|bit| number >> bit & 1 == 1).map(|bit| 1 << (15 - bit)).sum()
}

/// What comes next of a worker's numbers.
pub(super) struct Draw {
    hasher: Hasher,
    drawn: u64,
}

impl Draw {
    pub(super) fn new(hasher: Hasher, worker: WorkerId, now: Tick) -> Draw {
        Draw { hasher, drawn: (u64::from(worker.0) << 48) ^ (u64::from(now.0) << 16) }
    }

    /// Two numbers below 2³².
    fn next(&mut self) -> (u64, u64) {
        self.drawn += 1;
        let random = self.hasher.random(self.drawn);
        (random % (1 << 32), random / (1 << 32))
    }
}

impl Connection {
    /// What the real server sees is not the client.
    pub(super) fn local(&self) -> Option<(IpAddr, u16)> {
        let seen = (self.reply.dst, self.reply.dport);
        let is_other = seen != (self.original.src, self.original.sport);
        (is_other && self.template.is_none()).then_some(seen)
    }
}

impl Reference {
    /// The worker that a local port is of.
    pub(super) fn worker_of_port(&self, port: u16) -> WorkerId {
        let workers = self.team.counters.len();
        WorkerId((usize::from(backwards(port)) * workers / 65_536) as u16)
    }

    /// A packet as it leaves for a real server, from a local endpoint that no other connection to it has; and by what method.
    pub(super) fn take_local_endpoint(&mut self, service: &Service, after: Tuple) -> Option<(Tuple, Method)> {
        let tables = self.tables.clone();
        let mut list = service.local_addresses.clone();
        list.retain(|address| address.is_ipv4() == after.dst.is_ipv4());
        let own = if list.is_empty() { Some(address_towards(&tables, after.dst)?) } else { None };
        let address =
            |which: u64| own.unwrap_or_else(|| list[(which * list.len() as u64 / (1 << 32)) as usize]);
        let endpoint = self.draw_endpoint(after, own.is_some(), address)?;
        Some((endpoint, method_of(after.src, after.dst)))
    }

    /// The same from the address that `after` has; and from its port, if it has one.
    pub(super) fn take_local_port(&mut self, after: Tuple) -> Option<Tuple> {
        if after.sport != 0 {
            return self.is_free(&after).then_some(after);
        }
        let is_interfaces = address_towards(&self.tables, after.dst) == Some(after.src);
        self.draw_endpoint(after, is_interfaces, |_| after.src)
    }

    /// One of those that are drawn; `is_beside_linux`: Linux has connections from this address as well.
    fn draw_endpoint(
        &mut self,
        after: Tuple,
        is_beside_linux: bool,
        address: impl Fn(u64) -> IpAddr,
    ) -> Option<Tuple> {
        let workers = self.team.counters.len() as u64;
        // The worker's ports are those that begin, backwards, within its part of all numbers of 16 bits.
        let begin = |worker: u64| (worker * 65_536).div_ceil(workers);
        let (first, end) = (begin(self.worker.0.into()), begin(u64::from(self.worker.0) + 1));
        for _ in 0..TRIES {
            let (which, where_) = self.draw.next();
            let drawn = first + where_ * (end - first) / (1 << 32);
            let mut sport = backwards(drawn as u16);
            if is_beside_linux && sport > LAST_PORT_BESIDE_LINUX {
                sport -= LAST_PORT_BESIDE_LINUX + 1;
            }
            let endpoint = Tuple { src: address(which), sport, ..after };
            let is_mine = self.worker_of_port(sport) == self.worker;
            if sport >= FIRST_PORT && is_mine && self.is_free(&endpoint) {
                return Some(endpoint);
            }
        }
        None
    }

    fn is_free(&self, endpoint: &Tuple) -> bool {
        self.tables.routes.is_local(endpoint.src)
            && service_of(&self.tables, &endpoint.reversed()).is_none()
            && self.flows.find(&endpoint.reversed()).is_none()
    }

    /// Whether it may answer a connection from a local endpoint.
    pub(super) fn may_answer_local_endpoint(&self, packet: &Tuple) -> bool {
        let servers = || self.tables.services.iter().flat_map(|service| &service.servers);
        packet.dport >= FIRST_PORT
            && self.tables.routes.is_local(packet.dst)
            && (self.tables.settings.sysctls.source_nat == 1
                || servers().any(|server| server.forward == Forward::FullNat))
            && servers().any(|server| server.address == packet.src)
            && service_of(&self.tables, packet).is_none()
    }
}

/// How a client's packets go to a real server that sees a local endpoint.
pub(super) fn method_of(client: IpAddr, server: IpAddr) -> Method {
    if client.is_ipv6() == server.is_ipv6() { Method::Masq } else { Method::Translated }
}

/// That of the interface by which packets to `to` leave.
fn address_towards(tables: &Tables, to: IpAddr) -> Option<IpAddr> {
    let Some(Route::Via { interface, .. }) = tables.routes.lookup(to) else { return None };
    let interface = tables.interfaces.get(interface)?;
    if to.is_ipv4() { interface.ipv4.map(IpAddr::from) } else { interface.ipv6.map(IpAddr::from) }
}
