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
mod quic;
pub mod rules;
mod sync;
mod trash;
mod warmup;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use check::{
    check_one_packet, check_ranges, check_server, check_service, full, name, no_such_server, no_such_service,
    service_not_defined,
};
use hashbrown::{HashMap, HashSet};
use lb_core::ids::{ServerId, ServiceId};
use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::limiter::Limiters;
use lb_core::ipvs::quic_lb::QuicServerId;
use lb_core::ipvs::scheduler::{Scheduler, SchedulerFlags};
use lb_core::tables::{
    self, ConnRate, Forward, GueChecksum, Protocol, Server, Service, ServiceKey, ServiceOptions, Settings,
    Sysctl, Sysctls,
};
use lb_core::time::Timeout;
pub(crate) use quic::{configs_of as quic_configs_of, configs_spec as quic_configs_spec};
use trash::{Removed, ServerIds};
use warmup::Warming;

use crate::api::types::{
    Command, Counts, ErrorBody, ErrorKind, ForwardMethod, Persistence, Rates, ServerSpec, ServerView,
    ServiceAddress, ServiceSpec, ServiceView, SyncDaemon, SyncRole, SysctlValue, Timeouts, Transport, Tunnel,
};
use crate::endpoint::Endpoint;

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
        commands(self.timeouts, self.sysctls, self.services(), self.sync_daemons())
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

    fn throw_away(&mut self, key: ServiceKey, server: &Server, incarnation: u64) {
        let &Server { id, upper_threshold, ref overloaded, .. } = server;
        let overloaded = overloaded.clone();
        let removed = Removed { id, incarnation, overloaded, upper_threshold, rests_since: None };
        self.server_ids.throw_away((place(&key), server.address, server.port), removed);
    }

    /// `failed` gets the place among `specs` and says whether the others are added.
    fn add_servers<'s>(
        &mut self,
        address: &ServiceAddress,
        specs: impl Iterator<Item = &'s ServerSpec>,
        change: &mut Change,
        mut failed: impl FnMut(usize, ErrorBody) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(Entry { service, incarnation, .. }) = self.entry(address).cloned() else {
            return specs.enumerate().try_for_each(|(index, _)| failed(index, service_not_defined(address)));
        };
        let mut known: HashSet<SocketAddr> =
            service.servers.iter().map(|server| SocketAddr::new(server.address, server.port)).collect();
        let mut added = Vec::new();
        let mut quic = service.quic_lb.as_deref().cloned().unwrap_or_default();
        let mut names_more = false;
        let mut flow = ControlFlow::Continue(());
        for (index, spec) in specs.enumerate() {
            let ids = quic::ids(address, spec, &service, &quic, None);
            match self.new_server(address, &service, incarnation, spec, &mut known, ids, change) {
                Ok((server, ids)) => {
                    names_more |= !ids.is_empty();
                    quic.set_ids(server.id, ids);
                    added.push(server);
                }
                Err(error) => flow = failed(index, error),
            }
            if flow.is_break() {
                break;
            }
        }
        if !added.is_empty() {
            change.add(Change::of(service.key));
            self.change(address, service.scheduler(), |servers| {
                servers.splice(..0, added.into_iter().rev());
            });
            if names_more {
                self.change_quic(address, |now| *now = quic);
            }
        }
        flow
    }

    /// A real server with an id. `known`: those of the service.
    fn new_server(
        &mut self,
        address: &ServiceAddress,
        service: &Service,
        incarnation: u64,
        spec: &ServerSpec,
        known: &mut HashSet<SocketAddr>,
        quic_ids: Result<Vec<QuicServerId>, ErrorBody>,
        change: &mut Change,
    ) -> Result<(Server, Vec<QuicServerId>), ErrorBody> {
        self.check_families(address, spec)?;
        check_ranges(address, spec)?;
        if known.contains(&spec.server) {
            let message = format!("{}: already exists", name(address, spec.server));
            return Err(ErrorBody::new(ErrorKind::ServerExists, message));
        }
        check_server(address, spec)?;
        if service.options.one_packet {
            check_one_packet(address, [spec].into_iter().map(asks_for_full_nat))?;
        }
        let forward = check::forward(address, spec)?;
        check::check_method(address, spec.server, &service.options, forward)?;
        let quic_ids = quic_ids?;
        if !self.server_ids.has_room() {
            return Err(full(name(address, spec.server), "real servers", self.limits.servers));
        }
        let (id, before) =
            match self.server_ids.bring_back(&(place(&service.key), spec.server.ip(), spec.server.port())) {
                Some(removed) => {
                    // Its counts come back, unless it was removed with its service.
                    if removed.incarnation != incarnation {
                        change.zeroed_servers.insert(removed.id);
                    }
                    (removed.id, Some((removed.overloaded, removed.upper_threshold)))
                }
                None => {
                    let Some(id) = self.server_ids.take(&mut change.forgotten_servers) else {
                        let what = "real servers, and as many removed ones that have connections";
                        return Err(full(name(address, spec.server), what, self.limits.servers));
                    };
                    change.zeroed_servers.insert(id);
                    (id, None)
                }
            };
        known.insert(spec.server);
        // Connections that ended while it was away cleared nothing: the daemon looks at that ([`relief`](crate::relief)).
        let (overloaded, old_upper) = before.unwrap_or_default();
        let mut server = Server {
            id,
            address: spec.server.ip(),
            port: spec.server.port(),
            weight: spec.weight,
            last_weight: spec.weight,
            forward,
            upper_threshold: spec.upper_threshold,
            lower_threshold: spec.lower_threshold,
            overloaded,
        };
        server.after_edit(old_upper);
        Ok((server, quic_ids))
    }

    fn edit_server(&mut self, address: &ServiceAddress, spec: &ServerSpec) -> Result<Change, ErrorBody> {
        let Some(entry) = self.entry(address) else { return Err(service_not_defined(address)) };
        self.check_families(address, spec)?;
        check_ranges(address, spec)?;
        let Some(position) = position(&entry.service, spec.server) else {
            return Err(no_such_server(address, spec.server));
        };
        check_server(address, spec)?;
        if entry.service.options.one_packet {
            check_one_packet(address, [spec].into_iter().map(asks_for_full_nat))?;
        }
        let forward = check::forward(address, spec)?;
        check::check_method(address, spec.server, &entry.service.options, forward)?;
        let (service, server) = (&entry.service, &entry.service.servers[position]);
        let quic = service.quic_lb.as_deref().cloned().unwrap_or_default();
        let ids = quic::ids(address, spec, service, &quic, Some(server))?;
        let changed_ids = (ids != quic.ids(server.id)).then_some((server.id, ids));
        let (old_upper, scheduler, key) =
            (entry.service.servers[position].upper_threshold, entry.service.scheduler(), entry.service.key);
        self.change(address, scheduler, |servers| {
            let server = &mut servers[position];
            server.set_weight(spec.weight);
            server.forward = forward;
            server.upper_threshold = spec.upper_threshold;
            server.lower_threshold = spec.lower_threshold;
            server.after_edit(old_upper);
        });
        if let Some((id, ids)) = changed_ids {
            self.change_quic(address, |quic| quic.set_ids(id, ids));
        }
        Ok(Change::of(key))
    }

    fn delete_server(&mut self, address: &ServiceAddress, server: SocketAddr) -> Result<Change, ErrorBody> {
        let Some(entry) = self.entry(address) else { return Err(service_not_defined(address)) };
        let Some(position) = position(&entry.service, server) else {
            return Err(no_such_server(address, server));
        };
        let (service, incarnation) = (entry.service.clone(), entry.incarnation);
        self.change(address, service.scheduler(), |servers| drop(servers.remove(position)));
        if service.quic_lb.is_some() {
            self.change_quic(address, |quic| quic.set_ids(service.servers[position].id, Vec::new()));
        }
        self.throw_away(service.key, &service.servers[position], incarnation);
        Ok(Change::of(service.key))
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

/// What would have to be said to an empty model to make these services, with these timeouts.
pub fn commands<'s>(
    timeouts: Timeouts,
    sysctls: Sysctls,
    services: impl Iterator<Item = &'s Arc<Service>>,
    daemons: impl Iterator<Item = &'s SyncDaemon>,
) -> impl Iterator<Item = Command> {
    let of_service = |service: &Arc<Service>| {
        let spec = service_spec(service);
        let address = spec.service;
        // The one that is added last stands first.
        let servers: Vec<_> =
            service.servers.iter().rev().map(|server| server_spec(service, server)).collect();
        let add = move |server| Command::AddServer { service: address, server };
        std::iter::once(Command::AddService(spec)).chain(servers.into_iter().map(add))
    };
    let set = |(sysctl, value): (&Sysctl, u32)| {
        Command::SetSysctl(SysctlValue { name: sysctl.name.to_owned(), value })
    };
    std::iter::once(Command::SetTimeouts(timeouts))
        .chain(sysctls.values().map(set))
        .chain(services.flat_map(of_service))
        .chain(daemons.cloned().map(Command::StartSync))
}

/// The key of a service.
pub fn key(address: &ServiceAddress) -> ServiceKey {
    let (transport, address, prefix_len, port) = match *address {
        ServiceAddress::Endpoint { transport, address, prefix_len, port } => {
            (transport, address, prefix_len, port)
        }
        ServiceAddress::FwMark { mark, is_ipv6 } => return ServiceKey::of_mark(mark, is_ipv6),
    };
    let protocol = match transport {
        Transport::Tcp => Protocol::TCP,
        Transport::Udp => Protocol::UDP,
        Transport::Sctp => Protocol::SCTP,
    };
    ServiceKey { protocol, address, prefix_len, port }
}

/// The address of an existing service.
pub fn address(key: &ServiceKey) -> ServiceAddress {
    match key.mark() {
        Some(mark) => ServiceAddress::FwMark { mark, is_ipv6: key.address.is_ipv6() },
        None => {
            let transport = transport(key.protocol);
            ServiceAddress::at(transport, Endpoint { prefix: key.prefix(), port: key.port })
        }
    }
}

/// What a protocol is called that services and connections are of.
pub fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::UDP => Transport::Udp,
        Protocol::SCTP => Transport::Sctp,
        _ => Transport::Tcp,
    }
}

/// Its real servers, with the weights that the operator gave.
fn wanted(service: &Service) -> Vec<Server> {
    let wanted = |server: &Server| Server { weight: service.wanted_weight(server), ..server.clone() };
    service.servers.iter().map(wanted).collect()
}

/// What a command would have to say to make this service.
pub fn service_spec(service: &Service) -> ServiceSpec {
    let mut spec = ServiceSpec::new(address(&service.key), service.scheduler.name());
    spec.scheduler_flags = service.scheduler_flags.names(service.scheduler).map(str::to_owned).collect();
    spec.table_size = (service.scheduler == SchedulerKind::Maglev).then_some(service.table_size);
    spec.warmup = service.warmup;
    spec.local_addresses.clone_from(&service.local_addresses);
    spec.quic_lb = quic_configs_spec(quic_configs_of(service));
    options_spec(&mut spec, &service.options);
    spec
}

/// Says these options.
pub fn options_spec(spec: &mut ServiceSpec, options: &ServiceOptions) {
    let is_ipv6 = spec.service.is_ipv6();
    spec.one_packet = options.one_packet;
    spec.proxy_protocol = options.proxy_protocol.map(|version| version.name().to_owned());
    spec.toa = options.toa;
    spec.clamp_mss = options.clamp_mss;
    spec.persistence_engine = options.engine.map(|engine| engine.name().to_owned());
    spec.syn_cookies = options.syn_cookies.text();
    spec.conn_limit = options.limits.connections;
    spec.conn_rate = options.limits.rate.map(ConnRate::text);
    spec.source_conn_limit = options.limits.source_connections;
    spec.source_conn_rate = options.limits.source_rate.map(ConnRate::text);
    spec.source_prefix = options.limits.source_prefix;
    spec.helper = options.helper.map(|helper| helper.name().to_owned());
    spec.persistence = options.persistence.map(|persistence| Persistence {
        timeout: persistence.timeout.as_secs(),
        netmask: persistence.mask.text(is_ipv6),
    });
}

/// A service as it is shown where no packets come.
pub fn service_view(service: &Service) -> ServiceView {
    let server = |server| ServerView {
        spec: server_spec(service, server),
        active: 0,
        inactive: 0,
        persistent: 0,
        overloaded: false,
        counts: Counts::default(),
        rates: Rates::default(),
    };
    ServiceView {
        spec: service_spec(service),
        counts: Counts::default(),
        rates: Rates::default(),
        cookies: None,
        limited: None,
        servers: service.servers.iter().map(server).collect(),
    }
}

/// What a command would have to say to make this real server of a service.
pub fn server_spec(service: &Service, server: &Server) -> ServerSpec {
    let (forward, tunnel) = forward_spec(server.forward);
    ServerSpec {
        server: SocketAddr::new(server.address, server.port),
        weight: service.wanted_weight(server),
        forward,
        upper_threshold: server.upper_threshold,
        lower_threshold: server.lower_threshold,
        tunnel,
        quic_server_ids: service
            .quic_lb
            .iter()
            .flat_map(|quic| quic.ids(server.id))
            .map(QuicServerId::to_string)
            .collect(),
    }
}

/// What a command would have to say to have this method.
pub fn forward_spec(forward: Forward) -> (ForwardMethod, Option<Tunnel>) {
    let tunnel = match forward {
        Forward::Masq => return (ForwardMethod::Masq, None),
        Forward::FullNat => return (ForwardMethod::FullNat, None),
        Forward::Direct => return (ForwardMethod::Direct, None),
        Forward::Tunnel(tunnel) => tunnel,
    };
    let (encapsulation, port, checksum) = match tunnel {
        tables::Tunnel::Ipip => ("ipip", 0, None),
        tables::Tunnel::Gue { port, checksum: GueChecksum::No } => ("gue", port, Some("none")),
        tables::Tunnel::Gue { port, checksum: GueChecksum::Yes } => ("gue", port, Some("checksum")),
        tables::Tunnel::Gue { port, checksum: GueChecksum::Remote } => ("gue", port, Some("remote")),
        tables::Tunnel::Gre { checksum: false } => ("gre", 0, Some("none")),
        tables::Tunnel::Gre { checksum: true } => ("gre", 0, Some("checksum")),
    };
    let (encapsulation, checksum) = (encapsulation.to_owned(), checksum.map(str::to_owned));
    (ForwardMethod::Tunnel, Some(Tunnel { encapsulation, port, checksum }))
}

fn full_nat(server: &Server) -> (SocketAddr, bool) {
    (SocketAddr::new(server.address, server.port), server.forward == Forward::FullNat)
}

fn asks_for_full_nat(spec: &ServerSpec) -> (SocketAddr, bool) {
    (spec.server, spec.forward == ForwardMethod::FullNat)
}

fn position(service: &Service, at: SocketAddr) -> Option<usize> {
    service.servers.iter().position(|server| server.port == at.port() && server.address == at.ip())
}

#[cfg(test)]
mod tests;
