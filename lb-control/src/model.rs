//! What the operator wrote: virtual services, their real servers, timeouts. Which commands are right, and what do
//! they make of it?
//!
//! Pure: no I/O, no clock. The daemon applies [`Command`]s here, then publishes [`Model::services`] to the workers and
//! resets the statistics that [`Change`] names. Errors come in the kernel's order and kinds
//! (net/netfilter/ipvs/ip_vs_ctl.c of Linux 6.1 is the source of the facts below; behaviour recorded from it is the
//! test).
//!
//! A service is kept as its compiled form, shared with the tables in use, so that a change rebuilds that service alone.

pub(crate) mod check;
mod fingerprints;
mod quic;
pub mod rules;
mod servers;
mod spec;
mod sync;
mod trash;
mod warmup;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use check::{check_one_packet, check_service, full, no_such_service};
use hashbrown::{HashMap, HashSet};
use lb_core::ids::{ServerId, ServiceId};
use lb_core::ipvs::limiter::Limiters;
use lb_core::ipvs::scheduler::{Scheduler, SchedulerFlags};
use lb_core::rule::fingerprint::Fingerprints;
use lb_core::tables::{Forward, Protocol, Server, Service, ServiceKey, ServiceOptions, Settings, Sysctls};
use lb_core::time::Timeout;
pub(crate) use quic::{configs_of as quic_configs_of, configs_spec as quic_configs_spec};
pub use spec::{
    address, commands, forward_spec, key, options_spec, server_spec, service_spec, service_view, transport,
};
use trash::ServerIds;
use warmup::Warming;

use crate::api::types::{
    Command, ErrorBody, ErrorKind, ServiceAddress, ServiceSpec, SyncDaemon, SyncRole, SysctlValue, Timeouts,
};

/// Weights are signed 32-bit numbers in the kernel.
pub const MAX_WEIGHT: u32 = i32::MAX as u32;

/// Seconds of slow start.
pub const MAX_WARMUP: u32 = 3600;

/// Local addresses of one service.
pub const MAX_LOCAL_ADDRESSES: usize = 64;

/// How much there is room for in the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bounds [`ServiceId`].
    pub services: usize,
    /// Bounds [`ServerId`] by [twice as many](lb_core::counters::server_ids): removed ones keep theirs while they have connections.
    pub servers: usize,
}

/// What else a command changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// Services whose statistics start at 0 from here on.
    pub zeroed_services: HashSet<ServiceId>,
    /// Real servers whose statistics start at 0 from here on (their connections live on).
    pub zeroed_servers: HashSet<ServerId>,
    /// Removed real servers that are known no more.
    pub forgotten_servers: HashSet<ServerId>,
    /// Services that came, went, or are others now.
    pub services: HashSet<ServiceKey>,
    /// Tables have to be built and published.
    pub publish: bool,
}

impl Change {
    fn of(service: ServiceKey) -> Change {
        Change { services: HashSet::from([service]), publish: true, ..Change::default() }
    }

    pub(crate) fn add(&mut self, other: Change) {
        self.zeroed_services.extend(other.zeroed_services);
        self.zeroed_servers.extend(other.zeroed_servers);
        self.forgotten_servers.extend(other.forgotten_servers);
        self.services.extend(other.services);
        self.publish |= other.publish;
    }
}

/// Numbers from 0 that are given and taken back.
#[derive(Clone, Debug)]
struct Ids {
    next: u32,
    free: Vec<u32>,
    limit: u32,
}

impl Ids {
    fn new(limit: usize) -> Ids {
        Ids { next: 0, free: Vec::new(), limit: u32::try_from(limit).unwrap_or(u32::MAX) }
    }

    fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            (self.next < self.limit).then(|| {
                self.next += 1;
                self.next - 1
            })
        })
    }

    fn give_back(&mut self, id: u32) {
        self.free.push(id);
    }

    fn in_use(&self) -> usize {
        self.next as usize - self.free.len()
    }
}

/// Services sort by protocol, address, length of the prefix, port.
pub(crate) type Place = (u8, IpAddr, u8, u16);

pub(crate) fn place(key: &ServiceKey) -> Place {
    (key.protocol.0, key.address, key.prefix_len, key.port)
}

#[derive(Clone, Debug)]
struct Entry {
    service: Arc<Service>,
    /// Unlike that of every other service that ever was, also under the same key.
    incarnation: u64,
    warming: Warming,
}

/// The operator's wishes.
#[derive(Clone, Debug)]
pub struct Model {
    services: BTreeMap<Place, Entry>,
    timeouts: Timeouts,
    sysctls: Sysctls,
    sync: BTreeMap<SyncRole, SyncDaemon>,
    fingerprints: Arc<Fingerprints>,
    service_ids: Ids,
    server_ids: ServerIds,
    limits: Limits,
    limiters: Limiters,
    incarnations: u64,
    versions: u32,
    /// Since some moment.
    now: Duration,
    /// The services of which a real server warms up.
    warming: BTreeSet<Place>,
}

impl Model {
    pub fn new(limits: Limits) -> Model {
        let default = Settings::default();
        Model {
            services: BTreeMap::new(),
            timeouts: Timeouts {
                tcp: default.tcp.as_secs(),
                tcp_fin: default.tcp_fin.as_secs(),
                udp: default.udp.as_secs(),
            },
            sync: BTreeMap::new(),
            fingerprints: Arc::default(),
            sysctls: Sysctls::default(),
            service_ids: Ids::new(limits.services),
            server_ids: ServerIds::new(limits.servers),
            limits,
            limiters: Limiters::default(),
            incarnations: 0,
            versions: 0,
            now: Duration::ZERO,
            warming: BTreeSet::new(),
        }
    }

    /// Keys the hashes of clients' addresses by which services' limits know them. To be done before any of it is published.
    pub fn key_limits(&mut self, seed: u64) {
        self.limiters = Limiters::new(seed);
        for entry in self.services.values_mut().filter(|entry| entry.service.limiter.is_some()) {
            let mut service = Service::clone(&entry.service);
            service.limiter = self.limiters.make(None, service.options.limits);
            entry.service = Arc::new(service);
        }
    }

    /// Says what time it is, since any moment that stays the same; never less than before. Real servers that warm up get the
    /// weights of this moment.
    pub fn pass(&mut self, now: Duration) -> Change {
        self.now = now;
        let mut change = Change::default();
        for place in self.warming.clone() {
            if let Some(key) = self.warm_up(place) {
                change.add(Change::of(key));
            }
        }
        change
    }

    /// Sorted by protocol, address and port; unchanged ones are the same `Arc` as before.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.values().map(|entry| &entry.service)
    }

    pub fn find(&self, address: &ServiceAddress) -> Option<&Arc<Service>> {
        Some(&self.entry(address)?.service)
    }

    /// The service with this key.
    pub fn at(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        Some(&self.services.get(&place(key))?.service)
    }

    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// `settings` with the operator's timeouts, and whether connections are shared.
    pub fn settings(&self, settings: Settings) -> Settings {
        Settings {
            tcp: Timeout::from_secs(self.timeouts.tcp),
            tcp_fin: Timeout::from_secs(self.timeouts.tcp_fin),
            udp: Timeout::from_secs(self.timeouts.udp),
            is_sharing: self.sync.contains_key(&SyncRole::Master),
            is_standby: self.sysctls.backup_only == 1 && self.sync.contains_key(&SyncRole::Backup),
            sysctls: self.sysctls,
            ..settings
        }
    }

    /// What would have to be said to an empty model to make this one. Removed real servers are not in it.
    pub fn commands(&self) -> impl Iterator<Item = Command> {
        commands(self.timeouts, self.sysctls, self.services(), self.sync_daemons(), &self.fingerprints)
    }

    /// Real servers, those that were removed and are still known included.
    pub fn server_ids_in_use(&self) -> usize {
        self.server_ids.in_use()
    }

    /// Real servers that were removed and may have connections left.
    pub fn removed_servers(&self) -> impl Iterator<Item = ServerId> {
        let removed = self.server_ids.removed().map(|(_, removed)| removed);
        removed.filter(|removed| removed.rests_since.is_none()).map(|removed| removed.id)
    }

    /// Whether any is known that was removed.
    pub fn has_removed_servers(&self) -> bool {
        self.server_ids.removed().next().is_some()
    }

    /// Which service each real server is of; those included that were removed and are still known.
    pub fn services_by_server(&self) -> HashMap<ServerId, ServiceAddress> {
        let of_service = |service: &Arc<Service>| {
            let address = address(&service.key);
            service.servers.iter().map(move |server| (server.id, address)).collect::<Vec<_>>()
        };
        let removed = self.server_ids.removed().map(|(&((protocol, of, prefix_len, port), ..), removed)| {
            let key = ServiceKey { protocol: Protocol(protocol), address: of, prefix_len, port };
            (removed.id, address(&key))
        });
        self.services().flat_map(of_service).chain(removed).collect()
    }

    /// Does one command, wholly or not at all.
    ///
    /// # Errors
    /// The kernel's, in the kernel's order; `Full` when there is no room.
    pub fn apply(&mut self, command: &Command) -> Result<Change, ErrorBody> {
        match command {
            Command::AddService(spec) => self.add_service(spec),
            Command::EditService(spec) => self.edit_service(spec),
            Command::DeleteService { service } => self.delete_service(service),
            Command::AddServer { .. } => {
                let mut failed = None;
                let change = self.apply_each(std::slice::from_ref(command), |_, error| {
                    failed = Some(error);
                    ControlFlow::Break(())
                });
                failed.map_or(Ok(change), Err)
            }
            Command::EditServer { service, server } => self.edit_server(service, server),
            Command::DeleteServer { service, server } => self.delete_server(service, *server),
            Command::Flush => Ok(self.flush()),
            Command::Zero { service } => self.zero(service.as_ref()),
            Command::SetTimeouts(timeouts) => self.set_timeouts(*timeouts),
            Command::SetSysctl(sysctl) => self.set_sysctl(sysctl),
            Command::StartSync(daemon) => self.start_sync(daemon),
            Command::StopSync { role } => self.stop_sync(*role),
            Command::AddFingerprint { line } => self.add_fingerprint(line),
            Command::RemoveFingerprint { line } => self.remove_fingerprint(line),
        }
    }

    /// Does all commands or none.
    ///
    /// # Errors
    /// The place of the first command that fails, and its error.
    pub fn apply_all(&mut self, commands: &[Command]) -> Result<Change, (usize, ErrorBody)> {
        // One is done wholly or not at all anyway.
        if let [command] = commands {
            return self.apply(command).map_err(|error| (0, error));
        }
        let mut trial = self.clone();
        let mut failed = None;
        let change = trial.apply_each(commands, |index, error| {
            failed = Some((index, error));
            ControlFlow::Break(())
        });
        if let Some(failed) = failed {
            return Err(failed);
        }
        *self = trial;
        Ok(change)
    }

    /// Does one command after the other, each wholly or not at all. `failed` gets the place of one that fails and its
    /// error, and says whether the others are done. Real servers that are added to one service in turn cost one
    /// build of it.
    pub fn apply_each(
        &mut self,
        commands: &[Command],
        mut failed: impl FnMut(usize, ErrorBody) -> ControlFlow<()>,
    ) -> Change {
        let mut change = Change::default();
        let is_same_run = |a: &Command, b: &Command| match (a, b) {
            (Command::AddServer { service: a, .. }, Command::AddServer { service: b, .. }) => a == b,
            _ => false,
        };
        let mut first = 0;
        for run in commands.chunk_by(is_same_run) {
            let is_broken = match &run[0] {
                Command::AddServer { service, .. } => {
                    let servers = run.iter().filter_map(|command| match command {
                        Command::AddServer { server, .. } => Some(server),
                        _ => None,
                    });
                    let failed = |index, error| failed(first + index, error);
                    self.add_servers(service, servers, &mut change, failed).is_break()
                }
                command => match self.apply(command) {
                    Ok(done) => {
                        change.add(done);
                        false
                    }
                    Err(error) => failed(first, error).is_break(),
                },
            };
            if is_broken {
                break;
            }
            first += run.len();
        }
        change
    }

    /// Forgets the removed real servers of which `has_connections` says that none is left; their ids, which are returned, may be
    /// given again. Must be asked only after all workers have adopted tables without the server: before, one may still bind.
    pub fn release(&mut self, mut has_connections: impl FnMut(ServerId) -> bool) -> Vec<ServerId> {
        self.server_ids.release(|removed| has_connections(removed.id))
    }

    /// Takes note of removed real servers of which `is_idle` says that they have no connections; to be asked as [`Model::release`] is. They are known for
    /// two minutes more, or until their ids are needed. Returns those that are forgotten.
    pub fn rest(&mut self, is_idle: impl FnMut(ServerId) -> bool) -> Vec<ServerId> {
        self.server_ids.rest(self.now, is_idle)
    }

    fn add_service(&mut self, spec: &ServiceSpec) -> Result<Change, ErrorBody> {
        let key = key(&spec.service);
        if self.services.contains_key(&place(&key)) {
            return Err(ErrorBody::new(
                ErrorKind::ServiceExists,
                format!("virtual service {}: already exists", spec.service),
            ));
        }
        let (scheduler, options) = check_service(spec)?;
        let quic_configs = quic::configs(spec)?;
        let Some(id) = self.service_ids.take() else {
            return Err(full(
                format!("virtual service {}", spec.service),
                "virtual services",
                self.limits.services,
            ));
        };
        self.incarnations += 1;
        let version = self.new_version();
        let mut service = Service::new(None, ServiceId(id), key, scheduler, Vec::new(), version);
        service.options = options;
        service.limiter = self.limiters.make(None, options.limits);
        service.local_addresses.clone_from(&spec.local_addresses);
        self.services.insert(
            place(&key),
            Entry { service: Arc::new(service), incarnation: self.incarnations, warming: Warming::default() },
        );
        if !quic_configs.is_empty() {
            self.set_quic_configs(&spec.service, quic_configs);
        }
        Ok(Change { zeroed_services: HashSet::from([ServiceId(id)]), ..Change::of(key) })
    }

    fn edit_service(&mut self, spec: &ServiceSpec) -> Result<Change, ErrorBody> {
        let Some(entry) = self.entry(&spec.service) else { return Err(no_such_service(&spec.service)) };
        let key = entry.service.key;
        let (scheduler, options) = check_service(spec)?;
        let quic_configs = quic::configs(spec)?;
        for server in &entry.service.servers {
            let at = SocketAddr::new(server.address, server.port);
            check::check_method(&spec.service, at, &options, server.forward)?;
        }
        if options.one_packet {
            check_one_packet(&spec.service, entry.service.servers.iter().map(full_nat))?;
        }
        let is_same_quic = quic_configs == quic_configs_of(&entry.service);
        if (scheduler, options) == (entry.service.scheduler(), entry.service.options)
            && spec.local_addresses == entry.service.local_addresses
            && is_same_quic
        {
            // The kernel keeps the scheduler's state too.
            return Ok(Change::default());
        }
        if (Scheduler { flags: entry.service.scheduler_flags, ..scheduler }) != entry.service.scheduler() {
            self.change(&spec.service, scheduler, |_| ());
        }
        self.set(spec, scheduler.flags, options);
        if !is_same_quic {
            self.set_quic_configs(&spec.service, quic_configs);
        }
        Ok(Change::of(key))
    }

    fn delete_service(&mut self, address: &ServiceAddress) -> Result<Change, ErrorBody> {
        let gone = self.services.remove(&place(&key(address)));
        let Some(gone) = gone else { return Err(no_such_service(address)) };
        let change = Change::of(gone.service.key);
        self.discard(gone);
        Ok(change)
    }

    fn flush(&mut self) -> Change {
        let mut change = Change::default();
        for gone in std::mem::take(&mut self.services).into_values() {
            change.add(Change::of(gone.service.key));
            self.discard(gone);
        }
        change
    }

    fn discard(&mut self, gone: Entry) {
        self.warming.remove(&place(&gone.service.key));
        self.service_ids.free.push(gone.service.id.0);
        for server in &gone.service.servers {
            self.throw_away(gone.service.key, server, gone.incarnation);
        }
    }

    fn zero(&self, address: Option<&ServiceAddress>) -> Result<Change, ErrorBody> {
        let mut change = Change::default();
        let mut zero = |service: &Service| {
            change.zeroed_services.insert(service.id);
            change.zeroed_servers.extend(service.servers.iter().map(|server| server.id));
        };
        match address {
            None => self.services().for_each(|service| zero(service)),
            Some(address) => zero(self.find(address).ok_or_else(|| no_such_service(address))?),
        }
        Ok(change)
    }

    fn set_timeouts(&mut self, new: Timeouts) -> Result<Change, ErrorBody> {
        for (name, seconds) in [("tcp", new.tcp), ("tcp_fin", new.tcp_fin), ("udp", new.udp)] {
            if seconds > Timeout::MAX_SECS {
                let message =
                    format!("timeout {name}: {seconds} is outside 0..={} seconds", Timeout::MAX_SECS);
                return Err(ErrorBody::new(ErrorKind::InvalidOperation, message));
            }
        }
        let or_old = |new: u32, old: u32| if new == 0 { old } else { new };
        let timeouts = Timeouts {
            tcp: or_old(new.tcp, self.timeouts.tcp),
            tcp_fin: or_old(new.tcp_fin, self.timeouts.tcp_fin),
            udp: or_old(new.udp, self.timeouts.udp),
        };
        let publish = timeouts != self.timeouts;
        self.timeouts = timeouts;
        Ok(Change { publish, ..Change::default() })
    }

    pub fn sysctls(&self) -> Sysctls {
        self.sysctls
    }

    fn set_sysctl(&mut self, new: &SysctlValue) -> Result<Change, ErrorBody> {
        let SysctlValue { name, value } = new;
        if let Some(fixed) = Sysctls::fixed_named(name) {
            return match *value == fixed.value {
                true => Ok(Change::default()),
                false => {
                    let message = format!("sysctl {name}: {value}: {}", fixed.refusal());
                    Err(ErrorBody::new(ErrorKind::OutOfRange, message))
                }
            };
        }
        let Some(sysctl) = Sysctls::named(name) else {
            let message = format!("no sysctl {name:?}; {}", Sysctls::why_not(name));
            return Err(ErrorBody::new(ErrorKind::InvalidOperation, message));
        };
        if *value > sysctl.max {
            let message = format!("sysctl {name}: {value} is outside 0..={}", sysctl.max);
            return Err(ErrorBody::new(ErrorKind::OutOfRange, message));
        }
        let before = std::mem::replace((sysctl.value)(&mut self.sysctls), *value);
        Ok(Change { publish: before != *value, ..Change::default() })
    }

    fn entry(&self, address: &ServiceAddress) -> Option<&Entry> {
        self.services.get(&place(&key(address)))
    }

    /// Puts another service in the place of one, with real servers that `edit` has changed, so that its scheduler sees a
    /// new version.
    fn change(
        &mut self,
        address: &ServiceAddress,
        scheduler: Scheduler,
        edit: impl FnOnce(&mut Vec<Server>),
    ) {
        let version = self.new_version();
        let entry = self.services.get_mut(&place(&key(address)));
        if let Some(entry) = entry {
            let old = &entry.service;
            let mut servers = wanted(old);
            edit(&mut servers);
            entry.warming.follow(old, scheduler, &servers, self.now);
            let wanted_weights = entry.warming.weigh(scheduler, &mut servers, self.now);
            let mut new = Service::new(Some(old), old.id, old.key, scheduler, servers, version);
            new.wanted_weights = wanted_weights;
            let place = place(&old.key);
            entry.service = Arc::new(new);
            if entry.warming.is_empty() {
                self.warming.remove(&place);
            } else {
                self.warming.insert(place);
            }
        }
    }

    /// Gives the real servers of a service the weights of this moment; returns its key if they are others.
    fn warm_up(&mut self, place: Place) -> Option<ServiceKey> {
        let version = self.new_version();
        let entry = self.services.get_mut(&place)?;
        let old = &entry.service;
        let (scheduler, mut servers) = (old.scheduler(), wanted(old));
        let wanted_weights = entry.warming.weigh(scheduler, &mut servers, self.now);
        if entry.warming.is_empty() {
            self.warming.remove(&place);
        }
        if servers.iter().map(|server| server.weight).eq(old.servers.iter().map(|server| server.weight)) {
            return None;
        }
        let mut new = Service::new(Some(old), old.id, old.key, scheduler, servers, version);
        new.wanted_weights = wanted_weights;
        let key = old.key;
        entry.service = Arc::new(new);
        Some(key)
    }

    /// These change nothing of what the scheduler has made or remembers.
    fn set(&mut self, spec: &ServiceSpec, flags: SchedulerFlags, options: ServiceOptions) {
        let entry = self.services.get_mut(&place(&key(&spec.service)));
        if let Some(entry) = entry {
            let mut service = Service::clone(&entry.service);
            service.scheduler_flags = flags;
            service.options = options;
            service.limiter = self.limiters.make(service.limiter.as_ref(), options.limits);
            service.local_addresses.clone_from(&spec.local_addresses);
            entry.service = Arc::new(service);
        }
    }

    /// Unlike every version before, of any service: a service that gets the id of a deleted one does not inherit its
    /// scheduler's state.
    fn new_version(&mut self) -> u32 {
        self.versions = self.versions.wrapping_add(1);
        self.versions
    }
}

/// Its real servers, with the weights that the operator gave.
fn wanted(service: &Service) -> Vec<Server> {
    let wanted = |server: &Server| Server { weight: service.wanted_weight(server), ..server.clone() };
    service.servers.iter().map(wanted).collect()
}

fn full_nat(server: &Server) -> (SocketAddr, bool) {
    (SocketAddr::new(server.address, server.port), server.forward == Forward::FullNat)
}

#[cfg(test)]
mod tests;
