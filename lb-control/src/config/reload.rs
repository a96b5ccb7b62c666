//! From one config file to the next: which commands make the difference, and what needs a restart?
//!
//! The difference is taken between what the file said and what it says, not between the file and what runs: what was
//! made or changed by other means stays (`docs/decisions/0004-reload-by-difference.md`). What runs only decides whether an
//! object has to be added or edited.

use std::fmt::{self, Debug};
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

/// What else a service is told, as its log lines end.
fn options(spec: &ServiceSpec) -> String {
    let engine =
        spec.persistence_engine.as_ref().map_or(String::new(), |name| format!(", persistence engine {name}"));
    let one_packet = if spec.one_packet { ", one packet" } else { "" };
    let persistence = spec.persistence.as_ref().map_or(String::new(), |persistence| {
        let mask = persistence.netmask.as_ref().map_or(String::new(), |mask| format!(" mask {mask}"));
        format!(", persistent {} s{mask}", persistence.timeout)
    });
    let proxy = spec.proxy_protocol.as_ref().map_or(String::new(), |name| format!(", PROXY protocol {name}"));
    let toa = if spec.toa { ", TOA" } else { "" };
    let clamp = if spec.clamp_mss { ", MSS clamp" } else { "" };
    let cookies = spec.syn_cookies.as_ref().map_or(String::new(), |when| format!(", SYN cookies {when}"));
    let helper = spec.helper.as_ref().map_or(String::new(), |name| format!(", helper {name}"));
    let limits = limits(spec);
    let local: Vec<_> = spec.local_addresses.iter().map(ToString::to_string).collect();
    let local = if local.is_empty() { String::new() } else { format!(", from {}", local.join(" ")) };
    let quic: Vec<_> = spec.quic_lb.iter().map(|config| config.config_id.to_string()).collect();
    let quic =
        if quic.is_empty() { String::new() } else { format!(", QUIC-LB configuration {}", quic.join(" ")) };
    persistence + &engine + one_packet + &proxy + toa + clamp + &helper + &cookies + &limits + &local + &quic
}

/// Its limits, as they are configured.
fn limits(spec: &ServiceSpec) -> String {
    let number = |limit: u32| (limit != 0).then(|| limit.to_string());
    let said = [
        ("conn_limit", number(spec.conn_limit)),
        ("conn_rate", spec.conn_rate.clone()),
        ("source_conn_limit", number(spec.source_conn_limit)),
        ("source_conn_rate", spec.source_conn_rate.clone()),
        ("source_prefix", spec.source_prefix.map(|len| len.to_string())),
    ];
    said.into_iter().filter_map(|(name, value)| Some(format!(", {name} {}", value?))).collect()
}

/// The QUIC server IDs of a real server, as its log lines end.
fn server_ids(spec: &ServerSpec) -> String {
    if spec.quic_server_ids.is_empty() {
        return String::new();
    }
    format!(", QUIC server ID {}", spec.quic_server_ids.join(" "))
}

/// A command in the words of the log.
pub struct Said<'c>(pub &'c Command);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Command::AddService(spec) => {
                write!(
                    f,
                    "virtual service {} added, scheduler {}{}",
                    spec.service,
                    spec.scheduler,
                    options(spec)
                )
            }
            Command::EditService(spec) => {
                write!(
                    f,
                    "virtual service {}: scheduler is {}{}",
                    spec.service,
                    spec.scheduler,
                    options(spec)
                )
            }
            Command::DeleteService { service } => write!(f, "virtual service {service} removed"),
            Command::AddServer { service, server } => {
                write!(
                    f,
                    "real server {} of {service} added, forward {}, weight {}{}",
                    server.server,
                    server.forward.name(),
                    server.weight,
                    server_ids(server)
                )
            }
            Command::EditServer { service, server } => write!(
                f,
                "real server {} of {service}: forward is {}, weight is {}, thresholds are {} and {}{}",
                server.server,
                server.forward.name(),
                server.weight,
                server.upper_threshold,
                server.lower_threshold,
                server_ids(server)
            ),
            Command::DeleteServer { service, server } => {
                write!(f, "real server {server} of {service} removed")
            }
            Command::Flush => f.write_str("all virtual services removed"),
            Command::Zero { service: Some(service) } => write!(f, "statistics of {service} set to 0"),
            Command::Zero { service: None } => f.write_str("all statistics set to 0"),
            Command::StartSync(daemon) => {
                write!(f, "sync {} started on {}", daemon.role.name(), daemon.interface)
            }
            Command::SetSysctl(SysctlValue { name, value }) => write!(f, "sysctl {name} is {value}"),
            Command::StopSync { role } => write!(f, "sync {} stopped", role.name()),
            Command::SetTimeouts(t) => {
                let mut separator = "timeouts:";
                for (name, seconds) in [("tcp", t.tcp), ("tcp_fin", t.tcp_fin), ("udp", t.udp)] {
                    if seconds != 0 {
                        write!(f, "{separator} {name} is {seconds} s")?;
                        separator = ",";
                    }
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for PortAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{ForwardMethod, Persistence};
    use crate::model::Limits;

    const HEAD: &str = "[dataplane]\nworkers = [1]\n[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n";

    fn config(more: &str) -> Config {
        Config::parse(&format!("{HEAD}{more}")).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    fn service(servers: &str) -> Config {
        config(&format!(
            "[[virtual_service]]\naddress = \"192.0.2.1:80\"\nscheduler = \"rr\"\nreal_servers = [{servers}]\n"
        ))
    }

    fn started(config: &Config) -> Model {
        let mut model = Model::new(Limits { services: 100, servers: 100 });
        let first = Reload::first(config, &model);
        model.apply_all(&first.commands).expect("right");
        model
    }

    /// The commands of a reload, in words; that they can be done is part of the test.
    fn said(old: &Config, new: &Config, model: &mut Model) -> Vec<String> {
        let reload = Reload::between(old, new, model);
        model.apply_all(&reload.commands).expect("a reload that can be done");
        reload.commands.iter().map(|command| Said(command).to_string()).collect()
    }

    fn by_hand(model: &mut Model, command: Command) {
        model.apply(&command).expect("right");
    }

    fn address() -> ServiceAddress {
        "tcp/192.0.2.1:80".parse().expect("an address")
    }

    #[test]
    fn a_first_file_makes_its_services_with_the_servers_in_the_order_of_ipvsadm() {
        let model = started(&service(r#"{ address = "10.0.0.1" }, { address = "10.0.0.2", weight = 7 }"#));
        let service = model.find(&address()).expect("it is there");
        let servers: Vec<_> = service.servers.iter().map(|s| (s.address.to_string(), s.weight)).collect();
        assert_eq!(servers, [("10.0.0.2".to_owned(), 7), ("10.0.0.1".to_owned(), 1)], "newest first");
    }

    #[test]
    fn an_unchanged_file_changes_nothing_whatever_was_done_by_hand() {
        let file = service(r#"{ address = "10.0.0.1" }"#);
        let mut model = started(&file);
        by_hand(&mut model, Command::DeleteService { service: address() });
        let reload = Reload::between(&file, &file.clone(), &model);
        assert!(reload.is_empty(), "{reload:?}");
    }

    #[test]
    fn only_what_differs_between_the_files_is_changed() {
        let old = service(r#"{ address = "10.0.0.1" }, { address = "10.0.0.2" }, { address = "10.0.0.3" }"#);
        let new = service(
            r#"{ address = "10.0.0.1" }, { address = "10.0.0.2", weight = 5 }, { address = "10.0.0.4" }"#,
        );
        let mut model = started(&old);
        assert_eq!(
            said(&old, &new, &mut model),
            [
                "real server 10.0.0.3:80 of tcp/192.0.2.1:80 removed",
                "real server 10.0.0.2:80 of tcp/192.0.2.1:80: forward is masq, weight is 5, thresholds are 0 and 0",
                "real server 10.0.0.4:80 of tcp/192.0.2.1:80 added, forward masq, weight 1",
            ]
        );
    }

    #[test]
    fn what_the_file_never_named_stays() {
        let old = service(r#"{ address = "10.0.0.1" }"#);
        let mut model = started(&old);
        let other: ServiceAddress = "udp/192.0.2.9:53".parse().expect("an address");
        by_hand(&mut model, Command::AddService(ServiceSpec::new(other, "rr")));
        let by_hand_server = ServerSpec::new("10.0.0.9:80".parse().expect("an address"));
        by_hand(&mut model, Command::AddServer { service: address(), server: by_hand_server });
        assert_eq!(
            said(&old, &service(""), &mut model),
            ["real server 10.0.0.1:80 of tcp/192.0.2.1:80 removed"]
        );
        assert!(model.find(&other).is_some());
        assert_eq!(model.find(&address()).expect("it is there").servers.len(), 1);
        assert_eq!(said(&service(""), &config(""), &mut model), ["virtual service tcp/192.0.2.1:80 removed"]);
        assert_eq!(model.services().len(), 1);
    }

    #[test]
    fn a_weight_set_by_hand_outlives_a_change_of_thresholds_in_the_file() {
        let old = service(r#"{ address = "10.0.0.1", weight = 3 }"#);
        let mut model = started(&old);
        let server = ServerSpec { weight: 0, ..ServerSpec::new("10.0.0.1:80".parse().expect("an address")) };
        by_hand(&mut model, Command::EditServer { service: address(), server });
        let new =
            service(r#"{ address = "10.0.0.1", weight = 3, upper_threshold = 9, lower_threshold = 4 }"#);
        assert_eq!(
            said(&old, &new, &mut model),
            [
                "real server 10.0.0.1:80 of tcp/192.0.2.1:80: forward is masq, weight is 0, thresholds are 9 and 4"
            ]
        );
    }

    #[test]
    fn what_was_set_by_hand_outlives_a_change_of_other_words_in_the_file() {
        let file = |persistence: u32, weight: u32| {
            config(&format!(
                "[[virtual_service]]\naddress = \"192.0.2.1:80\"\npersistence = {persistence}\n\
                 real_servers = [{{ address = \"10.0.0.1\", weight = {weight} }}]\n"
            ))
        };
        let (old, new) = (file(300, 5), file(600, 6));
        let mut model = started(&old);
        let spec = ServiceSpec {
            syn_cookies: Some("on".to_owned()),
            conn_limit: 1000,
            warmup: 30,
            ..model::service_spec(model.find(&address()).expect("it is there"))
        };
        by_hand(&mut model, Command::EditService(spec.clone()));
        let server = ServerSpec {
            forward: ForwardMethod::FullNat,
            weight: 5,
            ..ServerSpec::new("10.0.0.1:80".parse().expect("an address"))
        };
        by_hand(&mut model, Command::EditServer { service: address(), server: server.clone() });
        said(&old, &new, &mut model);
        let service = model.find(&address()).expect("it is there");
        let persistence = spec.persistence.clone().map(|it| Persistence { timeout: 600, ..it });
        assert_eq!(model::service_spec(service), ServiceSpec { persistence, ..spec });
        let of_server = model::server_spec(service, &service.servers[0]);
        assert_eq!(of_server, ServerSpec { weight: 6, ..server });
    }

    #[test]
    fn a_service_made_by_hand_becomes_what_a_new_file_says_of_it() {
        let mut model = started(&config(""));
        by_hand(&mut model, Command::AddService(ServiceSpec::new(address(), "lc")));
        let server = ServerSpec { weight: 9, ..ServerSpec::new("10.0.0.1:80".parse().expect("an address")) };
        by_hand(&mut model, Command::AddServer { service: address(), server });
        let new = service(r#"{ address = "10.0.0.1" }, { address = "10.0.0.2" }"#);
        assert_eq!(
            said(&config(""), &new, &mut model),
            [
                "virtual service tcp/192.0.2.1:80: scheduler is rr",
                "real server 10.0.0.1:80 of tcp/192.0.2.1:80: forward is masq, weight is 1, thresholds are 0 and 0",
                "real server 10.0.0.2:80 of tcp/192.0.2.1:80 added, forward masq, weight 1",
            ]
        );
    }

    #[test]
    fn real_servers_may_exchange_their_quic_server_ids_and_what_was_set_by_hand_stays() {
        let file = |key: &str, ids: [&str; 2]| {
            config(&format!(
                "[[virtual_service]]\naddress = \"192.0.2.1:443\"\nprotocol = \"udp\"\n\
                 quic_lb = [{{ config_id = 1, server_id_length = 1, nonce_length = 4, key = \"{key}\" }}]\n\
                 real_servers = [{{ address = \"10.0.0.1\", quic_server_ids = [\"{}\"] }}, \
                 {{ address = \"10.0.0.2\", quic_server_ids = [\"{}\"] }}]\n",
                ids[0], ids[1]
            ))
        };
        let (key, other_key) = ("0".repeat(32), "f".repeat(32));
        let (old, new) = (file(&key, ["0a", "0b"]), file(&key, ["0b", "0a"]));
        let mut model = started(&old);
        let server = |n: u8, ids: &str| {
            format!(
                "real server 10.0.0.{n}:443 of udp/192.0.2.1:443: forward is masq, weight is 1, thresholds are 0 and 0{ids}"
            )
        };
        assert_eq!(
            said(&old, &new, &mut model),
            [
                server(2, ""),
                server(1, ""),
                server(1, ", QUIC server ID 0b"),
                server(2, ", QUIC server ID 0a"),
            ]
        );
        assert_eq!(said(&new, &new, &mut model), [""; 0]);
        let spec = ServerSpec {
            quic_server_ids: vec!["0c".to_owned()],
            ..ServerSpec::new(new.services[0].servers[0].address)
        };
        by_hand(
            &mut model,
            Command::EditServer { service: "udp/192.0.2.1:443".parse().expect("valid"), server: spec },
        );
        let newer = file(&other_key, ["0b", "0a"]);
        assert_eq!(
            said(&new, &newer, &mut model),
            ["virtual service udp/192.0.2.1:443: scheduler is wlc, QUIC-LB configuration 1"]
        );
        let service = model.find(&"udp/192.0.2.1:443".parse().expect("valid")).expect("there");
        let ids: Vec<_> = service
            .servers
            .iter()
            .map(|server| model::server_spec(service, server).quic_server_ids.concat())
            .collect();
        assert_eq!(ids, ["0a", "0c"]);
    }

    #[test]
    fn what_was_deleted_by_hand_comes_back_when_the_file_changes_it() {
        let old = service(r#"{ address = "10.0.0.1" }"#);
        let mut model = started(&old);
        by_hand(&mut model, Command::DeleteService { service: address() });
        let new = service(r#"{ address = "10.0.0.1", weight = 2 }"#);
        assert_eq!(
            said(&old, &new, &mut model),
            [
                "virtual service tcp/192.0.2.1:80 added, scheduler rr",
                "real server 10.0.0.1:80 of tcp/192.0.2.1:80 added, forward masq, weight 2",
            ]
        );
    }

    #[test]
    fn a_changed_timeout_leaves_the_others_as_they_are() {
        let old = config("[timeouts]\ntcp = 100\nudp = 10\n");
        let mut model = started(&old);
        by_hand(&mut model, Command::SetTimeouts(Timeouts { tcp: 0, tcp_fin: 0, udp: 77 }));
        assert_eq!(
            said(&old, &config("[timeouts]\ntcp = 200\nudp = 10\n"), &mut model),
            ["timeouts: tcp is 200 s"]
        );
        assert_eq!(model.timeouts(), Timeouts { tcp: 200, tcp_fin: 120, udp: 77 });
    }

    #[test]
    fn what_needs_a_restart_is_named_with_both_values() {
        let old = config("mtu = 1500\naddresses = [\"192.0.2.1/24\", \"192.0.2.2/24\"]\n");
        let text = HEAD.replace("[1]", "[1, 2]").replace("net_null0", "net_null1");
        let new = Config::parse(&format!("{text}addresses = [\"192.0.2.2/24\", \"192.0.2.3/24\"]\n"))
            .expect("valid");
        let reload = Reload::between(&old, &new, &started(&old));
        assert_eq!(
            reload.restart,
            [
                "dataplane.workers: [1] is in use, the file says [1, 2]",
                "port wan: device: \"net_null0\" is in use, the file says \"net_null1\"",
            ]
        );
        let words = text.replace("workers", "idle = \"pause\"\nflow_memory = \"/dev/shm/x\"\nworkers")
            + "[api]\nhttp = \"127.0.0.1:9477\"\n";
        let restart = Reload::between(&old, &Config::parse(&words).expect("valid"), &started(&old)).restart;
        for line in [
            "dataplane.flow_memory: \"named after api.socket\" is in use, the file says \"/dev/shm/x\"",
            "dataplane.idle: \"auto\" is in use, the file says \"pause\"",
            "api.http: \"none\" is in use, the file says \"127.0.0.1:9477\"",
        ] {
            assert!(restart.iter().any(|said| said == line), "{restart:?}");
        }
        let changes: Vec<_> = reload.addresses.iter().map(|c| (c.address.to_string(), c.is_added)).collect();
        assert_eq!(changes, [("192.0.2.1/24".to_owned(), false), ("192.0.2.3/24".to_owned(), true)]);
        assert!(reload.commands.is_empty());
    }
}
