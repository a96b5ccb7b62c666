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
        let method = if after.src.is_ipv6() == is_ipv6 { Method::Masq } else { Method::Translated };
        let stated = || service.local_addresses.iter().filter(|address| address.is_ipv6() == is_ipv6);
        let count = stated().count();
        let own = if count == 0 { Some(interface_address(tables, after.dst)?) } else { None };
        for _ in 0..PROBES {
            self.count = self.count.wrapping_add(1);
            let random = self.hasher.random(self.count);
            let place = |of: usize| ((u64::from(random as u32) * of as u64) >> 32) as usize;
            let Some(src) = own.or_else(|| stated().nth(place(count)).copied()) else { continue };
            // The upper half of the ports are Linux's own on its own address.
            let drawn = self.owners.local_port(self.worker, src, own.is_some(), (random >> 32) as u32);
            let Some(sport) = drawn.filter(|&sport| sport >= FIRST_LOCAL_PORT) else { continue };
            let after = Tuple { src, sport, ..after };
            let answer = after.reversed();
            let is_free = flows.find(&answer).is_none()
                && !(self.has_signposts && signpost::find(flows, &answer).is_some())
                && tables.service_for(&answer, now).is_none()
                && tables.routes.is_local(src);
            if is_free {
                return Some((after, method));
            }
        }
        None
    }
}

/// The address of the interface by which packets to `to` leave.
fn interface_address(tables: &Tables, to: IpAddr) -> Option<IpAddr> {
    let (interface, _) = tables.neighbour_towards(to)?;
    let interface = tables.interfaces.get(interface)?;
    if to.is_ipv6() { interface.ipv6.map(IpAddr::V6) } else { interface.ipv4.map(IpAddr::V4) }
}
