//! All virtual services, to be found by what a packet is for and by real server.
//!
//! The control plane changes a copy and publishes it. What a change of one service costs does not grow with the number of
//! services ([`shared`](super::shared)): the copy shares all but a few pieces with the one before.

use std::net::IpAddr;
use std::sync::Arc;

use super::shared::{Keyed, SharedList, SharedSet};
use super::{Forward, Helper, Protocol, Server, Service, ServiceKey};
use crate::ids::{ServerId, ServiceId};

/// Where an FTP server's data connections come from (RFC 959 §8).
const FTP_DATA: u16 = 20;
/// Ports from here on are anybody's.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// All virtual services.
#[derive(Clone, Debug, Default)]
pub struct Services {
    by_key: SharedSet<Arc<Service>>,
    by_id: SharedList<Option<Arc<Service>>>,
    by_server: SharedList<Option<Place>>,
    addresses: SharedSet<Address>,
    sources: SharedSet<Source>,
    ipv4: usize,
    ipv6: usize,
    /// Services that take every port of their address.
    of_every_port: usize,
    /// Services of FTP's port: they have a say about data connections, with or without a helper.
    of_ftp_port: usize,
    of_marks: usize,
    /// How long the prefixes are of services that are for one, and how many services have that length: the longest first. IPv4's,
    /// then IPv6's.
    prefix_lens: [Vec<(u8, usize)>; 2],
    /// Services with FTP's helper.
    of_ftp: usize,
    /// Services whose scheduler remembers destinations.
    with_destinations: usize,
    with_full_nat: usize,
    with_limits: usize,
}

/// Where a real server is.
#[derive(Clone, Copy, Debug)]
struct Place {
    service: ServiceId,
    index: u32,
}

/// A real server's address, and how many real servers have it.
#[derive(Clone, Copy, Debug)]
struct Address {
    address: IpAddr,
    servers: u32,
}

/// Where masqueraded real servers send from, and how many there are.
#[derive(Clone, Copy, Debug)]
struct Source {
    key: ServiceKey,
    servers: u32,
}

impl Source {
    /// `None`: it may send from any port, or as it is.
    fn of(service: &Service, server: &Server) -> Option<ServiceKey> {
        let is_known = service.key.mark().is_none() && server.port != 0 && server.forward == Forward::Masq;
        is_known.then(|| ServiceKey::new(service.key.protocol, server.address, server.port))
    }
}

impl Keyed for Source {
    type Key = ServiceKey;
    #[inline]
    fn key(&self) -> &ServiceKey {
        &self.key
    }
}

impl Keyed for Arc<Service> {
    type Key = ServiceKey;
    #[inline]
    fn key(&self) -> &ServiceKey {
        &self.key
    }
}

impl Keyed for Address {
    type Key = IpAddr;
    #[inline]
    fn key(&self) -> &IpAddr {
        &self.address
    }
}

impl Services {
    pub fn new(services: impl IntoIterator<Item = Arc<Service>>) -> Services {
        let mut all = Services::default();
        for service in services {
            all.put(service);
        }
        all
    }

    /// Puts a service in the place of the one with its key, if there is one. A number that another service had is its own
    /// from here on, as are the numbers of its real servers.
    pub fn put(&mut self, service: Arc<Service>) {
        let old = self.by_key.insert(service.clone());
        if let Some(old) = old {
            let is_same = |(before, now): (&Server, &Server)| {
                (before.id, before.address) == (now.id, now.address)
                    && Source::of(&old, before) == Source::of(&service, now)
            };
            if old.id == service.id
                && old.servers.len() == service.servers.len()
                && old.servers.iter().zip(&service.servers).all(is_same)
            {
                self.count(&old, usize::wrapping_sub);
                self.count(&service, usize::wrapping_add);
                return self.by_id.set(service.id.index(), Some(service));
            }
            self.leave(&old);
        }
        for (index, server) in (0..).zip(&service.servers) {
            self.by_server.set(server.id.index(), Some(Place { service: service.id, index }));
            let address = server.address;
            let servers = self.addresses.get(&address).map_or(0, |known| known.servers);
            self.addresses.insert(Address { address, servers: servers + 1 });
            if let Some(key) = Source::of(&service, server) {
                let servers = self.sources.get(&key).map_or(0, |known| known.servers);
                self.sources.insert(Source { key, servers: servers + 1 });
            }
        }
        self.count(&service, usize::wrapping_add);
        self.by_id.set(service.id.index(), Some(service));
    }

    /// Removes the service with this key, if there is one.
    pub fn remove(&mut self, key: &ServiceKey) {
        if let Some(gone) = self.by_key.remove(key) {
            self.leave(&gone);
        }
    }

    /// Its numbers may be another's by now.
    fn leave(&mut self, gone: &Arc<Service>) {
        for server in &gone.servers {
            if let Some(&Source { key, servers }) =
                Source::of(gone, server).and_then(|key| self.sources.get(&key))
            {
                if servers > 1 {
                    self.sources.insert(Source { key, servers: servers - 1 });
                } else {
                    self.sources.remove(&key);
                }
            }
            let place = self.by_server.get(server.id.index());
            if place.is_some_and(|place| place.is_some_and(|place| place.service == gone.id)) {
                self.by_server.set(server.id.index(), None);
            }
            let Some(&Address { address, servers }) = self.addresses.get(&server.address) else { continue };
            if servers > 1 {
                self.addresses.insert(Address { address, servers: servers - 1 });
            } else {
                self.addresses.remove(&address);
            }
        }
        let of_its_id = self.by_id.get(gone.id.index()).and_then(Option::as_ref);
        if of_its_id.is_some_and(|service| Arc::ptr_eq(service, gone)) {
            self.by_id.set(gone.id.index(), None);
        }
        self.count(gone, usize::wrapping_sub);
    }

    fn count(&mut self, service: &Service, step: fn(usize, usize) -> usize) {
        let of_family = if service.key.address.is_ipv6() { &mut self.ipv6 } else { &mut self.ipv4 };
        *of_family = step(*of_family, 1);
        self.of_every_port = step(self.of_every_port, usize::from(service.key.port == 0));
        self.of_ftp_port = step(self.of_ftp_port, usize::from(service.key.is_ftp()));
        self.of_marks = step(self.of_marks, usize::from(service.key.mark().is_some()));
        if service.key.is_prefix() {
            let lens = &mut self.prefix_lens[usize::from(service.key.address.is_ipv6())];
            match lens.binary_search_by(|(len, _)| service.key.prefix_len.cmp(len)) {
                Ok(at) => lens[at].1 = step(lens[at].1, 1),
                Err(at) => lens.insert(at, (service.key.prefix_len, step(0, 1))),
            }
            lens.retain(|&(_, services)| services > 0);
        }
        self.of_ftp = step(self.of_ftp, usize::from(service.options.helper == Some(Helper::Ftp)));
        let keeps_destinations = service.scheduler.keeps_destinations();
        self.with_destinations = step(self.with_destinations, keeps_destinations.into());
        self.with_full_nat = step(self.with_full_nat, service.has_full_nat().into());
        self.with_limits = step(self.with_limits, service.limiter.is_some().into());
    }

    #[inline]
    pub fn find(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.by_key.get(key)
    }

    /// The service that takes a packet to this address and port: the longest prefix that the address is in, which is the address itself
    /// at first; of one length the one of that port, then FTP's for what may be a data connection of it, then the one of every port.
    ///
    /// FTP's that is not persistent takes no data connections, and leaves them to nobody but the host (`ip_vs_leave`).
    #[inline]
    pub fn taking(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.by_key.get(key).or_else(|| self.taking_more(key))
    }

    /// The same among those that are for more than this address and port.
    #[inline(never)]
    fn taking_more(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        let is_data = self.of_ftp_port > 0 && may_be_ftp_data(key);
        let is_asked = is_data || self.of_every_port > 0;
        is_asked
            .then(|| self.of_more_ports(key, is_data))
            .flatten()
            .or_else(|| self.prefixes(key).find_map(|key| self.of_prefix(&key, is_data)))
            .flatten()
    }

    /// Services whose persistence template, or one of whose, stands under this key.
    pub fn templated(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Service>> {
        let of_ftp = (key.port == 0).then(|| key.of_ftp());
        let keys = std::iter::once(*key).chain(of_ftp);
        keys.filter_map(|key| {
            self.by_key.get(&key).or_else(|| self.prefixes(&key).find_map(|key| self.by_key.get(&key)))
        })
    }

    /// `Some(None)`: no service, and none of a shorter prefix either.
    #[cold]
    fn of_prefix(&self, key: &ServiceKey, is_data: bool) -> Option<Option<&Arc<Service>>> {
        self.by_key.get(key).map(Some).or_else(|| self.of_more_ports(key, is_data))
    }

    fn of_more_ports(&self, key: &ServiceKey, is_data: bool) -> Option<Option<&Arc<Service>>> {
        match is_data.then(|| self.by_key.get(&key.of_ftp())).flatten() {
            Some(ftp) => Some(Some(ftp).filter(|ftp| ftp.options.persistence.is_some())),
            None => self.by_key.get(&ServiceKey { port: 0, ..*key }).map(Some),
        }
    }

    /// Of prefixes that the key's address is in, as long as there are services for. As many as there are lengths.
    #[inline]
    fn prefixes(&self, key: &ServiceKey) -> impl Iterator<Item = ServiceKey> {
        let lens = &self.prefix_lens[usize::from(key.address.is_ipv6())];
        let key = *key;
        lens.iter().map(move |&(len, _)| key.of_len(len))
    }

    /// Whether data connections of FTP may be expected.
    #[inline]
    pub fn has_ftp(&self) -> bool {
        self.of_ftp > 0
    }

    /// Whether there are services by firewall mark.
    #[inline]
    pub fn has_marks(&self) -> bool {
        self.of_marks > 0
    }

    /// The server with this id, unless it was removed.
    #[inline]
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        let place = self.by_server.get(id.index())?.as_ref()?;
        let service = self.by_id.get(place.service.index())?.as_ref()?;
        service.servers.get(place.index as usize)
    }

    /// Whether a real server of `before` is not here.
    pub fn lack_servers_of(&self, before: &Services) -> bool {
        before
            .by_server
            .apart_from(&self.by_server)
            .any(|(index, place)| place.is_some() && self.by_server.get(index).is_none_or(Option::is_none))
    }

    /// The service whose server this is, unless it was removed.
    pub fn of_server(&self, id: ServerId) -> Option<&Arc<Service>> {
        let place = self.by_server.get(id.index())?.as_ref()?;
        self.by_id.get(place.service.index())?.as_ref()
    }

    /// The server with this id, if it is one of this service's.
    #[inline]
    pub fn server_of(&self, service: &Service, id: ServerId) -> Option<&Server> {
        let place = self.by_server.get(id.index())?.as_ref()?;
        if place.service == service.id { self.server(id) } else { None }
    }

    /// Whether a real server has this address.
    pub fn is_server(&self, address: IpAddr) -> bool {
        self.addresses.get(&address).is_some()
    }

    /// Whether a masqueraded real server of a service with this protocol sends from this address and port.
    pub fn sends_from(&self, source: &ServiceKey) -> bool {
        self.sources.get(source).is_some()
    }

    /// The addresses of the real servers, each once.
    pub fn server_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|known| known.address)
    }

    /// Whether the real servers' addresses are known to be those of `other`: a copy that was changed without them.
    pub fn has_addresses_of(&self, other: &Services) -> bool {
        self.addresses.is_shared_with(&other.addresses)
    }

    /// With no service of a family the kernel's IPVS does not look at its packets at all: connections that are
    /// left over are not translated any more.
    #[inline]
    pub fn is_active(&self, is_ipv6: bool) -> bool {
        if is_ipv6 { self.ipv6 > 0 } else { self.ipv4 > 0 }
    }

    /// All [`ServiceId`]s are below this.
    pub fn id_bound(&self) -> usize {
        self.by_id.bound()
    }

    /// Whether a scheduler among them remembers destinations.
    pub fn keep_destinations(&self) -> bool {
        self.with_destinations > 0
    }

    /// Whether a real server is reached by FullNAT.
    #[inline]
    pub fn have_full_nat(&self) -> bool {
        self.with_full_nat > 0
    }

    /// Whether connections of a service are limited.
    #[inline]
    pub fn have_limits(&self) -> bool {
        self.with_limits > 0
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_key.iter()
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.len() == 0
    }
}

/// Whether FTP's service at this address has a say, where this port has no service: active data connections are from port 20, passive ones to any
/// that needs no privilege (`ip_vs_service_find`).
fn may_be_ftp_data(key: &ServiceKey) -> bool {
    key.protocol == Protocol::TCP && (key.port == FTP_DATA || key.port >= FIRST_UNPRIVILEGED)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::ipvs::SchedulerKind;

    /// Some are of every port, some for prefixes that the addresses are in.
    const KEYS: u8 = 10;
    const ADDRESSES: u8 = 4;
    const SERVERS: u8 = 5;

    fn key(n: u8) -> ServiceKey {
        let host = n % ADDRESSES;
        let address =
            if host.is_multiple_of(2) { IpAddr::from([192, 0, 2, host]) } else { [host.into(); 8].into() };
        let key = ServiceKey::new(Protocol::TCP, address, if n < ADDRESSES { 80 } else { 0 });
        match n {
            6 => ServiceKey { port: 80, ..key.of_len(31) },
            7 => ServiceKey { port: 80, ..key.of_len(14) },
            8 => key.of_len(24),
            9 => key.of_len(0),
            _ => key,
        }
    }

    /// Of the services with this key: their numbers are theirs alone, their addresses are not.
    fn server(n: u8, server: u8) -> Server {
        Server::new(
            ServerId(u32::from(n) * 200 + u32::from(server)),
            ([10, 0, 0, server].into(), 80),
            1,
            if (n + server).is_multiple_of(3) { Forward::Direct } else { Forward::Masq },
        )
    }

    /// The service's key, number, real servers in their order, whether its scheduler remembers destinations.
    type Spec = (u8, u32, Vec<u8>, bool);

    fn service((n, id, servers, keeps): &Spec) -> Arc<Service> {
        let servers = servers.iter().map(|&number| server(*n, number)).collect();
        let kind = if *keeps { SchedulerKind::Lblc } else { SchedulerKind::Rr };
        Arc::new(Service::new(None, ServiceId(*id), key(*n), kind, servers, 1))
    }

    /// What there is of a key after a change, but for its number.
    fn of_key(n: u8) -> impl Strategy<Value = Option<Spec>> {
        let servers = prop::sample::subsequence((0..SERVERS).collect::<Vec<_>>(), 0..=5);
        let servers = (servers, any::<bool>()).prop_map(|(mut servers, is_turned)| {
            if is_turned {
                servers.reverse();
            }
            servers
        });
        prop::option::of((Just(n), Just(0), servers, any::<bool>()))
    }

    /// What there is after a change: some keys, each with a number of its own.
    fn state() -> impl Strategy<Value = Vec<Spec>> {
        let ids = Just((0..u32::from(KEYS)).collect::<Vec<_>>()).prop_shuffle();
        let keys = (0..KEYS).map(of_key).collect::<Vec<_>>();
        (ids, keys).prop_map(|(ids, keys)| {
            let specs = keys.into_iter().zip(ids);
            specs
                .filter_map(|(spec, id)| spec.map(|(n, _, servers, keeps)| (n, id * 100, servers, keeps)))
                .collect()
        })
    }

    proptest! {
        /// Against tables that are made anew, in whatever order the services are changed; and what was copied before
        /// stays as it was.
        #[test]
        fn changed_services_are_what_new_ones_would_be(
            states in prop::collection::vec(state(), 1..6),
            order in Just((0..KEYS).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut all = Services::default();
            let mut copies: Vec<(Services, BTreeMap<u8, Arc<Service>>)> = Vec::new();
            for state in &states {
                let now: BTreeMap<u8, Arc<Service>> = state.iter().map(|spec| (spec.0, service(spec))).collect();
                for n in &order {
                    match now.get(n) {
                        Some(service) => all.put(service.clone()),
                        None => all.remove(&key(*n)),
                    }
                }
                copies.push((all.clone(), now));
            }
            for (all, now) in copies {
                prop_assert_eq!((all.len(), all.is_empty()), (now.len(), now.is_empty()));
                let listed: BTreeSet<ServiceId> = all.iter().map(|service| service.id).collect();
                prop_assert_eq!(listed, now.values().map(|service| service.id).collect::<BTreeSet<_>>());
                for n in 0..KEYS {
                    let (found, expected) = (all.find(&key(n)), now.get(&n));
                    prop_assert_eq!(found.map(Arc::as_ptr), expected.map(Arc::as_ptr));
                    let asked = ServiceKey::new(Protocol::TCP, key(n % ADDRESSES).address, 80 + u16::from(n / ADDRESSES));
                    let takes = |its: &&Arc<Service>| {
                        its.key.prefix().contains(asked.address) && [0, asked.port].contains(&its.key.port)
                    };
                    let taking = now.values().filter(takes).max_by_key(|its| (its.key.prefix_len, its.key.port));
                    prop_assert_eq!(all.taking(&asked).map(Arc::as_ptr), taking.map(Arc::as_ptr));
                    let holds = |its: &&Arc<Service>| {
                        its.key.prefix().contains(asked.address) && its.key.port == asked.port
                    };
                    let templated = now.values().filter(holds).max_by_key(|its| its.key.prefix_len);
                    prop_assert_eq!(all.templated(&asked).next().map(Arc::as_ptr), templated.map(Arc::as_ptr));
                    for number in 0..SERVERS {
                        let id = server(n, number).id;
                        let expected = expected.and_then(|s| s.servers.iter().find(|server| server.id == id));
                        prop_assert_eq!(all.server(id).map(std::ptr::from_ref), expected.map(std::ptr::from_ref));
                        for service in now.values() {
                            let of = expected.filter(|_| service.key == key(n)).map(std::ptr::from_ref);
                            prop_assert_eq!(all.server_of(service, id).map(std::ptr::from_ref), of);
                        }
                    }
                }
                let servers = || now.values().flat_map(|service| &service.servers);
                let addresses: BTreeSet<IpAddr> = servers().map(|server| server.address).collect();
                for number in 0..SERVERS {
                    let address = server(0, number).address;
                    prop_assert_eq!(all.is_server(address), addresses.contains(&address));
                }
                for number in 0..SERVERS {
                    let source = ServiceKey::new(Protocol::TCP, server(0, number).address, 80);
                    let is_masqueraded = |its: &Server| its.address == source.address && its.forward == Forward::Masq;
                    prop_assert_eq!(all.sends_from(&source), servers().any(is_masqueraded));
                }
                let mut of_all: Vec<IpAddr> = all.server_addresses().collect();
                of_all.sort();
                prop_assert_eq!(of_all, addresses.into_iter().collect::<Vec<_>>());
                for is_ipv6 in [false, true] {
                    let expected = now.values().any(|service| service.key.address.is_ipv6() == is_ipv6);
                    prop_assert_eq!(all.is_active(is_ipv6), expected);
                }
                let keeps = now.values().any(|service| service.scheduler.keeps_destinations());
                prop_assert_eq!(all.keep_destinations(), keeps);
                prop_assert!(now.values().all(|service| service.id.index() < all.id_bound()));
            }
        }
    }
}
