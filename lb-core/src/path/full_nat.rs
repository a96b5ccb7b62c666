//! FullNAT: the local endpoint, an address and port of the director, that a connection's real server sees as its client.
//!
//! Once it is chosen the connection is a masqueraded one whose answers name the local endpoint instead of the client; nothing else on
//! the road knows of it, but for [steering](super::steer): answers do not name the client, so the local endpoint says which worker they
//! are for ([`Owners::of_local`]), and each worker has the same part of any range of ports.
//!
//! A real server may be of the other address family: its connections are [translated](super::translate).
//!
//! A port is free for a real server when no connection to it has it. Connections that have ended keep theirs for as long as the
//! real server may remember them (`TIME_WAIT`: 120 s, where a server's is 60 s).

use std::net::IpAddr;

use super::{Owners, signpost};
use crate::flow::{Hasher, Method, Store, Tuple};
use crate::ids::WorkerId;
use crate::tables::{FIRST_LOCAL_PORT, Service, Tables};
use crate::time::Tick;

/// Endpoints tried for one connection. Of a pool that is used up to nine tenths, one connection in 850 finds none.
const PROBES: usize = 64;

/// A worker's share of the local ports, and the order in which it tries them.
pub(super) struct LocalPorts {
    hasher: Hasher,
    worker: WorkerId,
    owners: Owners,
    count: u64,
    /// Other workers may have connections from one of them, too.
    pub(super) has_signposts: bool,
}

impl LocalPorts {
    pub(super) fn new(hasher: Hasher, worker: WorkerId, owners: Owners, now: Tick) -> LocalPorts {
        // Each worker and each process begins at another place.
        let count = u64::from(worker.0) << 48 ^ u64::from(now.0) << 16;
        LocalPorts { hasher, worker, owners, count, has_signposts: false }
    }

    /// `after`, a connection's packet as it shall leave, from a free local endpoint, and by what method it does; `None`: none was found.
    pub(super) fn choose(
        &mut self,
        flows: &Store,
        tables: &Tables,
        service: &Service,
        after: Tuple,
        now: Tick,
    ) -> Option<(Tuple, Method)> {
        let is_ipv6 = after.dst.is_ipv6();
        let stated = || service.local_addresses.iter().filter(|address| address.is_ipv6() == is_ipv6);
        let count = stated().count();
        let own = if count == 0 { Some(interface_address(tables, after.dst)?) } else { None };
        let place = |random: u32| ((u64::from(random) * count as u64) >> 32) as usize;
        let address = |random| own.or_else(|| stated().nth(place(random)).copied());
        let chosen = self.draw(flows, tables, after, own.is_some(), address, now)?;
        Some((chosen, method(after.src, after.dst)))
    }

    /// The same from the address that `after` comes from; also from its port, if that is not 0.
    pub(super) fn choose_at(
        &mut self,
        flows: &Store,
        tables: &Tables,
        after: Tuple,
        now: Tick,
    ) -> Option<Tuple> {
        if after.sport != 0 {
            return self.is_free(flows, tables, &after, now).then_some(after);
        }
        let is_low = interface_address(tables, after.dst) == Some(after.src);
        self.draw(flows, tables, after, is_low, |_| Some(after.src), now)
    }

    /// The first free one of those that are drawn; `is_low`: of the lower half of ports alone.
    fn draw(
        &mut self,
        flows: &Store,
        tables: &Tables,
        after: Tuple,
        is_low: bool,
        address: impl Fn(u32) -> Option<IpAddr>,
        now: Tick,
    ) -> Option<Tuple> {
        for _ in 0..PROBES {
            self.count = self.count.wrapping_add(1);
            let random = self.hasher.random(self.count);
            let Some(src) = address(random as u32) else { continue };
            // The upper half of the ports are Linux's own on its own address.
            let drawn = self.owners.local_port(self.worker, src, is_low, (random >> 32) as u32);
            let Some(sport) = drawn.filter(|&sport| sport >= FIRST_LOCAL_PORT) else { continue };
            let after = Tuple { src, sport, ..after };
            if self.is_free(flows, tables, &after, now) {
                return Some(after);
            }
        }
        None
    }

    /// Whether answers to it would be nobody else's.
    fn is_free(&self, flows: &Store, tables: &Tables, after: &Tuple, now: Tick) -> bool {
        let answer = after.reversed();
        flows.find(&answer).is_none()
            && !(self.has_signposts && signpost::find(flows, &answer).is_some())
            && tables.service_for(&answer, now).is_none()
            && tables.routes.is_local(after.src)
    }
}

/// By what method a client's packets go to a real server that sees a local endpoint.
pub(super) fn method(client: IpAddr, server: IpAddr) -> Method {
    if client.is_ipv6() == server.is_ipv6() { Method::Masq } else { Method::Translated }
}

/// The address of the interface by which packets to `to` leave.
fn interface_address(tables: &Tables, to: IpAddr) -> Option<IpAddr> {
    let (interface, _) = tables.neighbour_towards(to)?;
    let interface = tables.interfaces.get(interface)?;
    if to.is_ipv6() { interface.ipv6.map(IpAddr::V6) } else { interface.ipv4.map(IpAddr::V4) }
}
