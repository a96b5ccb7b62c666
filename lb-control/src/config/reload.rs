//! From one config file to the next: which commands make the difference, and what needs a restart?
//!
//! The difference is taken between what the file said and what it says, not between the file and what runs: what was
//! made or changed by other means stays (`docs/decisions/0004-reload-by-difference.md`). What runs only decides whether an
//! object has to be added or edited.

use std::fmt::Debug;
use std::net::SocketAddr;

use hashbrown::HashMap;

use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::quic_lb::QuicServerId;
use lb_core::ipvs::scheduler::Scheduler;
use lb_core::tables::{Marks, Service, Sysctls};

use super::merge::Merge;
use super::{Config, PortAddress, RealServer, VirtualService};
use crate::api::types::{Command, ServerSpec, ServiceAddress, ServiceSpec, SyncRole, SysctlValue, Timeouts};
use crate::model::{self, Model};

/// What a new config file asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reload {
    /// For the model, in this order; nothing in them when the files say the same.
    pub commands: Vec<Command>,
    /// For the twins: put there, or taken away.
    pub addresses: Vec<AddressChange>,
    /// `dataplane.forwarding`, when it changed.
    pub forwarding: Option<bool>,
    /// All `[[mark]]` rules, when one changed.
    pub marks: Option<Marks>,
    /// Keys that changed and are taken at start only, with both values.
    pub restart: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressChange {
    pub port: String,
    pub address: PortAddress,
    pub is_added: bool,
}

impl Reload {
    /// What a first file asks for.
    pub fn first(new: &Config, model: &Model) -> Reload {
        let mut reload = Reload {
            forwarding: Some(new.dataplane.forwarding),
            marks: Some(new.marks.clone()),
            ..Reload::default()
        };
        reload.commands.push(Command::SetTimeouts(new.timeouts));
        sysctls(&mut reload.commands, &Sysctls::default(), &new.sysctls);
        for service in &new.services {
            add_service(&mut reload.commands, service, model);
        }
        reload.commands.extend(new.sync.daemons.iter().cloned().map(Command::StartSync));
        for port in &new.ports {
            let add = |&address| AddressChange { port: port.name.clone(), address, is_added: true };
            reload.addresses.extend(port.addresses.iter().map(add));
        }
        reload
    }

    /// What the difference between two files asks for.
    pub fn between(old: &Config, new: &Config, model: &Model) -> Reload {
        let mut reload = Reload { restart: restarts(old, new), ..Reload::default() };
        if old.dataplane.forwarding != new.dataplane.forwarding {
            reload.forwarding = Some(new.dataplane.forwarding);
        }
        sysctls(&mut reload.commands, &old.sysctls, &new.sysctls);
        if (&old.marks, &old.mark_sets) != (&new.marks, &new.mark_sets) {
            reload.marks = Some(new.marks.clone());
        }
        if old.timeouts != new.timeouts {
            // 0 leaves a timeout as it is.
            let changed = |old, new| if old == new { 0 } else { new };
            reload.commands.push(Command::SetTimeouts(Timeouts {
                tcp: changed(old.timeouts.tcp, new.timeouts.tcp),
                tcp_fin: changed(old.timeouts.tcp_fin, new.timeouts.tcp_fin),
                udp: changed(old.timeouts.udp, new.timeouts.udp),
            }));
        }
        addresses(&mut reload.addresses, old, new);
        // Before the real servers: one of another address family does not go with a daemon.
        stop_sync(&mut reload.commands, old, new, model);

        let before: HashMap<_, _> = old.services.iter().map(|service| (service.key, service)).collect();
        let after: HashMap<_, _> = new.services.iter().map(|service| (service.key, service)).collect();
        for service in old.services.iter().filter(|service| !after.contains_key(&service.key)) {
            let address = model::address(&service.key);
            if model.find(&address).is_some() {
                reload.commands.push(Command::DeleteService { service: address });
            }
        }
        for service in &new.services {
            let running = model.find(&model::address(&service.key));
            match (before.get(&service.key), running) {
                (Some(&old), _) if old == service => {}
                (Some(old), Some(running)) => change_service(&mut reload.commands, old, service, running),
                _ => add_service(&mut reload.commands, service, model),
            }
        }
        let is_new = |role| old.sync.daemon(role) != new.sync.daemon(role);
        let started = new.sync.daemons.iter().filter(|daemon| is_new(daemon.role));
        reload.commands.extend(started.cloned().map(Command::StartSync));
        reload
    }

    pub fn is_empty(&self) -> bool {
        *self == Reload::default()
    }
}

/// Stops the sync daemons of which the file says something else now.
fn stop_sync(commands: &mut Vec<Command>, old: &Config, new: &Config, model: &Model) {
    for role in SyncRole::ALL {
        let runs = model.sync_daemons().any(|daemon| daemon.role == role);
        if runs && old.sync.daemon(role) != new.sync.daemon(role) {
            commands.push(Command::StopSync { role });
        }
    }
}

fn sysctls(commands: &mut Vec<Command>, old: &Sysctls, new: &Sysctls) {
    let changed = old.values().zip(new.values()).filter(|((_, old), (_, new))| old != new);
    commands.extend(
        changed.map(|(_, (sysctl, value))| {
            Command::SetSysctl(SysctlValue { name: sysctl.name.to_owned(), value })
        }),
    );
}

/// Makes a service that the file did not name, or that is not there any more.
fn add_service(commands: &mut Vec<Command>, wanted: &VirtualService, model: &Model) {
    let address = model::address(&wanted.key);
    let spec = service_spec(wanted);
    let running = model.find(&address);
    match running {
        None => commands.push(Command::AddService(spec)),
        Some(service)
            if (service.scheduler(), service.options) != (wanted.scheduler, wanted.options)
                || service.local_addresses != wanted.local_addresses
                || model::quic_configs_of(service) != wanted.quic_lb =>
        {
            commands.push(Command::EditService(spec));
        }
        Some(_) => {}
    }
    for server in &wanted.servers {
        put_server(commands, address, None, server, running.map(|service| &**service));
    }
}

fn service_spec(service: &VirtualService) -> ServiceSpec {
    let Scheduler { kind, flags, table_size, warmup } = service.scheduler;
    let mut spec = ServiceSpec {
        scheduler_flags: flags.names(kind).map(str::to_owned).collect(),
        table_size: (kind == SchedulerKind::Maglev).then_some(table_size),
        warmup,
        ..ServiceSpec::new(model::address(&service.key), kind.name())
    };
    model::options_spec(&mut spec, &service.options);
    spec.local_addresses.clone_from(&service.local_addresses);
    spec.quic_lb = model::quic_configs_spec(&service.quic_lb);
    spec
}

fn change_service(
    commands: &mut Vec<Command>,
    old: &VirtualService,
    new: &VirtualService,
    running: &Service,
) {
    let address = model::address(&new.key);
    // What the file did not change stays as it runs.
    let mut wanted = new.clone();
    wanted.scheduler =
        Merge { old: old.scheduler, new: new.scheduler, running: running.scheduler() }.scheduler();
    wanted.options = Merge { old: old.options, new: new.options, running: running.options }.options();
    if old.local_addresses == new.local_addresses {
        wanted.local_addresses.clone_from(&running.local_addresses);
    }
    if old.quic_lb == new.quic_lb {
        wanted.quic_lb = model::quic_configs_of(running).to_vec();
    }
    if (wanted.scheduler, wanted.options) != (running.scheduler(), running.options)
        || wanted.local_addresses != running.local_addresses
        || wanted.quic_lb != model::quic_configs_of(running)
    {
        commands.push(Command::EditService(service_spec(&wanted)));
    }
    let before: HashMap<_, _> = old.servers.iter().map(|server| (server.address, server)).collect();
    let after: HashMap<_, _> = new.servers.iter().map(|server| (server.address, server)).collect();
    for gone in old.servers.iter().filter(|server| !after.contains_key(&server.address)) {
        if find_server(running, gone).is_some() {
            commands.push(Command::DeleteServer { service: address, server: gone.address });
        }
    }
    give_up_ids(commands, address, &new.servers, running);
    for server in &new.servers {
        let old = before.get(&server.address).copied();
        if old != Some(server) {
            put_server(commands, address, old, server, Some(running));
        }
    }
}

/// QUIC server IDs that shall be another real server's are nobody's first.
fn give_up_ids(
    commands: &mut Vec<Command>,
    service: ServiceAddress,
    wanted: &[RealServer],
    running: &Service,
) {
    let Some(quic) = &running.quic_lb else { return };
    for server in &running.servers {
        let address = SocketAddr::new(server.address, server.port);
        let is_anothers = |id: &QuicServerId| {
            wanted.iter().any(|other| other.address != address && other.quic_server_ids.contains(id))
        };
        if quic.ids(server.id).iter().any(is_anothers) {
            let server = ServerSpec { quic_server_ids: Vec::new(), ..model::server_spec(running, server) };
            commands.push(Command::EditServer { service, server });
        }
    }
}

/// Adds or edits a real server; of one that runs, only what differs from `old` is changed.
fn put_server(
    commands: &mut Vec<Command>,
    service: ServiceAddress,
    old: Option<&RealServer>,
    new: &RealServer,
    running: Option<&Service>,
) {
    let wanted = spec(new);
    let Some(server) = running.and_then(|service| find_server(service, new)) else {
        commands.push(Command::AddServer { service, server: wanted });
        return;
    };
    let mut merged = server.clone();
    if old.is_none_or(|old| old.forward != new.forward) {
        (merged.forward, merged.tunnel) = (wanted.forward, wanted.tunnel.clone());
    }
    let old = old.map(spec);
    let differs = |value: fn(&ServerSpec) -> u32| old.as_ref().is_none_or(|old| value(old) != value(&wanted));
    if differs(|spec| spec.weight) {
        merged.weight = wanted.weight;
    }
    if differs(|spec| spec.upper_threshold) || differs(|spec| spec.lower_threshold) {
        // Together: one bounds the other.
        merged.upper_threshold = wanted.upper_threshold;
        merged.lower_threshold = wanted.lower_threshold;
    }
    if old.as_ref().is_none_or(|old| old.quic_server_ids != wanted.quic_server_ids) {
        merged.quic_server_ids = wanted.quic_server_ids;
    }
    if merged != server {
        commands.push(Command::EditServer { service, server: merged });
    }
}

fn find_server(service: &Service, wanted: &RealServer) -> Option<ServerSpec> {
    service
        .servers
        .iter()
        .map(|server| model::server_spec(service, server))
        .find(|spec| spec.server == wanted.address)
}

fn spec(server: &RealServer) -> ServerSpec {
    let (forward, tunnel) = model::forward_spec(server.forward);
    ServerSpec {
        weight: server.weight,
        forward,
        tunnel,
        upper_threshold: server.upper_threshold,
        lower_threshold: server.lower_threshold,
        quic_server_ids: server.quic_server_ids.iter().map(QuicServerId::to_string).collect(),
        ..ServerSpec::new(server.address)
    }
}

fn addresses(changes: &mut Vec<AddressChange>, old: &Config, new: &Config) {
    for port in &new.ports {
        let Some(before) = old.ports.iter().find(|before| before.name == port.name) else { continue };
        let change = |&address, is_added| AddressChange { port: port.name.clone(), address, is_added };
        let gone = before.addresses.iter().filter(|address| !port.addresses.contains(address));
        changes.extend(gone.map(|address| change(address, false)));
        let added = port.addresses.iter().filter(|address| !before.addresses.contains(address));
        changes.extend(added.map(|address| change(address, true)));
    }
}

fn restarts(old: &Config, new: &Config) -> Vec<String> {
    let mut list = Vec::new();
    let mut compare = |key: String, old: &dyn Debug, new: &dyn Debug| {
        let (old, new) = (format!("{old:?}"), format!("{new:?}"));
        if old != new {
            list.push(format!("{key}: {old} is in use, the file says {new}"));
        }
    };
    let (a, b) = (&old.dataplane, &new.dataplane);
    compare("dataplane.workers".into(), &a.workers, &b.workers);
    compare("dataplane.driver_args".into(), &a.driver_args, &b.driver_args);
    compare("dataplane.memory_mb".into(), &a.memory_mb, &b.memory_mb);
    compare("dataplane.huge_pages".into(), &a.huge_pages, &b.huge_pages);
    compare("dataplane.flow_memory".into(), &a.flow_memory.text(), &b.flow_memory.text());
    compare("dataplane.max_connections".into(), &a.max_connections, &b.max_connections);
    compare("dataplane.max_ipv6_connections".into(), &a.max_ipv6_connections, &b.max_ipv6_connections);
    compare("dataplane.max_servers".into(), &a.max_servers, &b.max_servers);
    compare("dataplane.idle".into(), &a.idle.name(), &b.idle.name());
    compare("api.socket".into(), &old.api.socket, &new.api.socket);
    let http = |config: &Config| config.api.http.map_or("none".to_owned(), |http| http.to_string());
    compare("api.http".into(), &http(old), &http(new));
    let names = |config: &Config| config.ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
    compare("port".into(), &names(old), &names(new));
    for port in &new.ports {
        let Some(before) = old.ports.iter().find(|before| before.name == port.name) else { continue };
        compare(format!("port {}: device", port.name), &before.device, &port.device);
        compare(format!("port {}: outside", port.name), &before.outside, &port.outside);
        compare(format!("port {}: mtu", port.name), &before.mtu, &port.mtu);
    }
    list
}

#[cfg(test)]
mod tests;
