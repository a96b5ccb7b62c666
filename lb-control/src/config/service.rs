//! `[[virtual_service]]` of the config file.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use toml::de::DeTable;

use lb_core::flow::Method;
use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::quic_lb;
use lb_core::ipvs::scheduler::{
    DEFAULT_TABLE_SIZE, MAX_TABLE_SIZE, Scheduler, SchedulerFlags, is_table_size,
};
use lb_core::tables::{
    ClientMask, ConnLimits, ConnRate, Engine, Forward, GueChecksum, Helper, Persistence, Prefix, Protocol,
    ProxyVersion, ServiceKey, ServiceOptions, SynCookies, Tunnel,
};
use lb_core::time::Timeout;

use super::read::{Errors, Found, Table};
use super::{PROTOCOLS, keys, quic, sections};
use crate::api::types::ForwardMethod;
use crate::endpoint::{BadEndpoint, Endpoint};
use crate::model::check::{NEEDS_SOURCE, Unfit, local_address, rate_forms, unfit};
use crate::model::{MAX_LOCAL_ADDRESSES, MAX_WARMUP, forward_spec};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VirtualService {
    pub key: ServiceKey,
    pub scheduler: Scheduler,
    pub options: ServiceOptions,
    pub local_addresses: Vec<IpAddr>,
    pub quic_lb: Vec<quic_lb::Config>,
    /// In the file's order: the one that is added first stands first. Each address once.
    pub servers: Vec<RealServer>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RealServer {
    pub address: SocketAddr,
    /// 0..=65535
    pub weight: u32,
    pub forward: Forward,
    pub upper_threshold: u32,
    /// At most `upper_threshold`.
    pub lower_threshold: u32,
    pub quic_server_ids: Vec<quic_lb::QuicServerId>,
}

/// In the file a weight is a share that somebody thought of. Commands take all that `ipvsadm` does
/// ([`MAX_WEIGHT`](crate::model::MAX_WEIGHT)), since what a director had saved must come back.
const MAX_FILE_WEIGHT: u32 = 65_535;
/// The kernel keeps thresholds in 32 bits and ipvsadm takes them as a signed number.
const MAX_THRESHOLD: u32 = i32::MAX as u32;

/// `max_servers`: what there is room for, of services and of real servers of all of them.
pub(super) fn services(
    errors: &mut Errors<'_>,
    document: &DeTable<'_>,
    max_servers: u32,
) -> Vec<VirtualService> {
    let mut room = Room { max_servers: max_servers as usize, services: 0, servers: 0 };
    let mut known = hashbrown::HashMap::new();
    let mut services = Vec::new();
    let schedulers: Vec<_> = SchedulerKind::ALL.iter().map(|&kind| (kind.name(), kind)).collect();
    for table in sections(errors, document, &keys::VIRTUAL_SERVICE, "address") {
        let protocol = table.choice(errors, "protocol", PROTOCOLS, &[]).unwrap_or(Protocol::TCP);
        let scheduler = table.choice(errors, "scheduler", &schedulers, &[]).unwrap_or(SchedulerKind::Wlc);
        let flags = scheduler_flags(errors, &table, scheduler);
        let table_size = table_size(errors, &table, scheduler);
        let warmup = table.integer(errors, "warmup", 0..=MAX_WARMUP).unwrap_or(0);
        let seconds = table.integer(errors, "persistence", 1..=Timeout::MAX_SECS);
        let is_by_mark = table.get("fwmark").is_some();
        let Some(Found { value: key, at }) =
            (if is_by_mark { by_mark(errors, &table) } else { by_address(errors, &table, protocol) })
        else {
            servers(errors, &table, None, None);
            continue;
        };
        if let Some(other) = known.insert(key, at.start) {
            let other = errors.line(other);
            let (name, what) = match key.mark() {
                Some(mark) => ("fwmark", mark.to_string()),
                None => ("address", Endpoint { prefix: key.prefix(), port: key.port }.to_string()),
            };
            table.error(errors, &at, name, format!("{what} stands twice: also in line {other}"));
        }
        room.take(errors, &table, &at);
        let quic_lb = quic::configs(errors, &table, key.protocol);
        let servers = servers(errors, &table, Some(key), quic_lb.as_deref());
        let one_packet = one_packet(errors, &table, key.protocol);
        let edits = edits(errors, &table, key.protocol, &servers);
        let limits = limits(errors, &table, key.address.is_ipv6());
        let local_addresses = local_addresses(errors, &table);
        if one_packet
            && let Some(server) = servers.iter().find(|server| server.forward == Forward::FullNat)
            && let Some(value) = table.get("one_packet")
        {
            let text = format!("does not go with forward = \"fullnat\" of real server {}", server.address);
            table.error(errors, &value.span(), "one_packet", text);
        }
        let mixed = servers.iter().find(|server| {
            server.forward == Forward::FullNat && server.address.is_ipv4() != key.address.is_ipv4()
        });
        let has_cookies = edits.syn_cookies != SynCookies::Off;
        if let (Some(value), Some(server), true) = (table.get("syn_cookies"), mixed, has_cookies) {
            let text = format!(
                "is for real servers of the service's address family, which {} is not",
                server.address
            );
            table.error(errors, &value.span(), "syn_cookies", text);
        }
        let engines = Engine::ALL.map(|engine| (engine.name(), engine));
        let engine = table.choice(errors, "persistence_engine", &engines, &[]);
        let mask = client_mask(errors, &table, key.address.is_ipv6());
        let persistence = seconds.map(|seconds| Persistence { timeout: Timeout::from_secs(seconds), mask });
        services.push(VirtualService {
            key,
            scheduler: Scheduler { kind: scheduler, flags, table_size, warmup },
            options: ServiceOptions { persistence, engine, one_packet, limits, ..edits },
            local_addresses,
            quic_lb: quic_lb.unwrap_or_default(),
            servers,
        });
    }
    services
}

/// What the services up to here take of `dataplane.max_servers`.
struct Room {
    max_servers: usize,
    services: usize,
    servers: usize,
}

impl Room {
    /// Takes one service's; the first of each kind for which there is no room is an error.
    fn take(&mut self, errors: &mut Errors<'_>, table: &Table<'_>, service: &Range<usize>) {
        let Room { max_servers, services, servers } = *self;
        let listed = table.get("real_servers").and_then(|list| list.get_ref().as_array());
        let listed = listed.map_or(&[][..], |list| &list[..]);
        (self.services, self.servers) = (services + 1, servers + listed.len());
        let full = |what: &str| format!("there is room for {max_servers} {what} (dataplane.max_servers)");
        if services == max_servers {
            table.error(errors, service, "address", full("virtual services"));
        }
        if servers <= max_servers
            && let Some(first) = listed.get(max_servers - servers)
        {
            table.error(errors, &first.span(), "real_servers", full("real servers of all services"));
        }
    }
}

fn table_size(errors: &mut Errors<'_>, table: &Table<'_>, kind: SchedulerKind) -> u32 {
    let Some(value) = table.get("table_size") else { return DEFAULT_TABLE_SIZE };
    let sizes = DEFAULT_TABLE_SIZE..=MAX_TABLE_SIZE;
    let Some(size) = table.integer(errors, "table_size", sizes) else { return DEFAULT_TABLE_SIZE };
    if !is_table_size(size) {
        table.error(errors, &value.span(), "table_size", format!("{size} is not a prime"));
    }
    if kind != SchedulerKind::Maglev {
        let text = format!("is for scheduler maglev, not {}", kind.name());
        table.error(errors, &value.span(), "table_size", text);
    }
    size
}

fn scheduler_flags(errors: &mut Errors<'_>, table: &Table<'_>, kind: SchedulerKind) -> SchedulerFlags {
    let typed = table.strings(errors, "scheduler_flags");
    for flag in &typed {
        if SchedulerFlags::from_names(kind, [flag.value]).is_err() {
            let text = format!("\"{}\" is no flag of scheduler {}", flag.value, kind.name());
            table.error(errors, &flag.at, "scheduler_flags", text);
        }
    }
    SchedulerFlags::from_names(kind, typed.iter().map(|flag| flag.value)).unwrap_or_default()
}

fn one_packet(errors: &mut Errors<'_>, table: &Table<'_>, protocol: Protocol) -> bool {
    let is_wanted = table.boolean(errors, "one_packet").unwrap_or(false);
    let is_right = matches!(protocol, Protocol::UDP | Protocol::ANY);
    if let Some(value) = table.get("one_packet").filter(|_| is_wanted && !is_right) {
        table.error(errors, &value.span(), "one_packet", "is for protocol \"udp\" and for `fwmark`");
    }
    is_wanted
}

/// What is put into the streams of a service's connections.
fn edits(
    errors: &mut Errors<'_>,
    table: &Table<'_>,
    protocol: Protocol,
    servers: &[RealServer],
) -> ServiceOptions {
    let versions = ProxyVersion::ALL.map(|version| (version.name(), version));
    let helpers = Helper::ALL.map(|helper| (helper.name(), helper));
    let options = ServiceOptions {
        proxy_protocol: table.choice(errors, "proxy_protocol", &versions, &[]),
        toa: table.boolean(errors, "toa").unwrap_or(false),
        clamp_mss: table.boolean(errors, "clamp_mss").unwrap_or(false),
        helper: table.choice(errors, "helper", &helpers, &[]),
        syn_cookies: syn_cookies(errors, table),
        ..ServiceOptions::default()
    };
    for (key, is_wanted) in [
        ("proxy_protocol", options.proxy_protocol.is_some()),
        ("toa", options.toa),
        ("clamp_mss", options.clamp_mss),
        ("helper", options.helper.is_some()),
        ("syn_cookies", options.syn_cookies != SynCookies::Off),
    ] {
        let is_right = matches!(protocol, Protocol::TCP | Protocol::ANY);
        if let Some(value) = table.get(key).filter(|_| is_wanted && !is_right) {
            table.error(errors, &value.span(), key, "is for protocol \"tcp\" and for `fwmark`");
        }
    }
    let other = servers.iter().find(|server| server.forward.method() != Method::Masq);
    for (key, is_wanted) in [
        ("proxy_protocol", options.proxy_protocol.is_some()),
        ("syn_cookies", options.syn_cookies != SynCookies::Off),
    ] {
        if let (Some(value), Some(other), true) = (table.get(key), other, is_wanted) {
            let text = format!("is for masqueraded real servers, which {} is not", other.address);
            table.error(errors, &value.span(), key, text);
        }
    }
    options
}

fn syn_cookies(errors: &mut Errors<'_>, table: &Table<'_>) -> SynCookies {
    let Some(text) = table.string(errors, "syn_cookies") else { return SynCookies::Off };
    SynCookies::parse(text.value).unwrap_or_else(|| {
        let what = format!("\"{}\" is none of off, on, auto, auto:SYNS_A_SECOND", text.value);
        table.error(errors, &text.at, "syn_cookies", what);
        SynCookies::Off
    })
}

/// How many connections it may have, and how many new ones in a second.
fn limits(errors: &mut Errors<'_>, table: &Table<'_>, is_ipv6: bool) -> ConnLimits {
    let mut limit = |name| table.integer(errors, name, 0..=ConnLimits::MOST).unwrap_or(0);
    let (connections, source_connections) = (limit("conn_limit"), limit("source_conn_limit"));
    let mut rate = |name| {
        let text = table.string(errors, name)?;
        let rate = ConnRate::parse(text.value);
        if rate.is_none() {
            table.error(errors, &text.at, name, format!("\"{}\" is none of {}", text.value, rate_forms()));
        }
        rate
    };
    let (rate, source_rate) = (rate("conn_rate"), rate("source_conn_rate"));
    let longest = Prefix::longest(is_ipv6);
    let source_prefix = table.integer(errors, "source_prefix", 1..=u32::from(longest)).map(|len| len as u8);
    let limits = ConnLimits { connections, rate, source_connections, source_rate, source_prefix };
    if let Some(value) = table.get("source_prefix").filter(|_| !limits.are_by_source()) {
        table.error(errors, &value.span(), "source_prefix", NEEDS_SOURCE);
    }
    limits
}

fn local_addresses(errors: &mut Errors<'_>, table: &Table<'_>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for Found { value, at } in table.strings(errors, "local_addresses") {
        let Ok(address) = value.parse::<IpAddr>() else {
            table.error(errors, &at, "local_addresses", format!("\"{value}\" is no address"));
            continue;
        };
        if let Err(what) = local_address(address) {
            table.error(errors, &at, "local_addresses", format!("{address} {what}"));
        } else if addresses.contains(&address) {
            table.error(errors, &at, "local_addresses", format!("{address} stands twice"));
        } else if addresses.len() == MAX_LOCAL_ADDRESSES {
            let text = format!("{address} is one more than {MAX_LOCAL_ADDRESSES}");
            table.error(errors, &at, "local_addresses", text);
        } else {
            addresses.push(address);
        }
    }
    addresses
}

/// `persistence_mask`, which says nothing without `persistence`.
fn client_mask(errors: &mut Errors<'_>, table: &Table<'_>, is_ipv6: bool) -> ClientMask {
    let Some(Found { value, at }) = table.string(errors, "persistence_mask") else {
        return ClientMask::WHOLE;
    };
    if table.get("persistence").is_none() {
        table.error(errors, &at, "persistence_mask", "there is no persistence");
    }
    ClientMask::parse(value, is_ipv6).unwrap_or_else(|| {
        let form = if is_ipv6 {
            "a prefix length in 1..=128, such as \"64\""
        } else {
            "a mask such as \"255.255.255.0\""
        };
        table.error(errors, &at, "persistence_mask", format!("\"{value}\" is not {form}"));
        ClientMask::WHOLE
    })
}

/// `fwmark` and `family`: the mark says nothing of addresses.
fn by_mark(errors: &mut Errors<'_>, table: &Table<'_>) -> Option<Found<ServiceKey>> {
    let at = table.get("fwmark").map_or(0..0, |value| value.span());
    for key in ["address", "protocol"] {
        if let Some(value) = table.get(key) {
            table.error(errors, &value.span(), key, "does not go with `fwmark`");
        }
    }
    let is_ipv6 = table.choice(errors, "family", &[("ipv4", false), ("ipv6", true)], &[]).unwrap_or(false);
    let mark = table.integer(errors, "fwmark", 1..=u32::MAX)?;
    Some(Found { value: ServiceKey::of_mark(mark, is_ipv6), at })
}

fn by_address(errors: &mut Errors<'_>, table: &Table<'_>, protocol: Protocol) -> Option<Found<ServiceKey>> {
    if let Some(value) = table.get("family") {
        table.error(errors, &value.span(), "family", "goes with `fwmark` alone");
    }
    let Found { value, at } = table.required_string(errors, "address")?;
    let is_persistent = table.get("persistence").is_some();
    let wrong = match value.parse::<Endpoint>() {
        Ok(at) if at.port == 0 && !is_persistent => "port 0 (every port) needs persistence".to_owned(),
        Ok(Endpoint { prefix, .. }) if prefix.address.is_multicast() => {
            format!("{} is no unicast address", prefix.address)
        }
        Ok(at) if at.prefix.address.is_unspecified() && !at.is_prefix() => {
            format!("{} is no unicast address", at.prefix.address)
        }
        Ok(Endpoint { prefix, port }) => {
            let key = ServiceKey { protocol, address: prefix.address, prefix_len: prefix.len, port };
            return Some(Found { value: key, at });
        }
        Err(BadEndpoint::Malformed) => format!(
            "\"{value}\" is no address with port, such as \"192.0.2.10:80\" or \"[2001:db8::10]:80\", and no prefix with one, such \
             as \"192.0.2.0/24:80\""
        ),
        Err(error) => format!("\"{value}\" {error}"),
    };
    table.error(errors, &at, "address", wrong);
    None
}

/// `service` is `None` when its own address is wrong: the servers are checked all the same.
fn servers(
    errors: &mut Errors<'_>,
    table: &Table<'_>,
    service: Option<ServiceKey>,
    quic_configs: Option<&[quic_lb::Config]>,
) -> Vec<RealServer> {
    let mut servers: Vec<RealServer> = Vec::new();
    let mut known = hashbrown::HashSet::new();
    let mut known_ids = hashbrown::HashMap::new();
    for (index, value) in table.list(errors, "real_servers").unwrap_or_default().iter().enumerate() {
        let typed = value.get_ref().get("address").and_then(|address| address.get_ref().as_str());
        let name = match typed {
            Some(address) => format!("{}: real server {address}", table.name),
            None => format!("{}: real server number {}", table.name, index + 1),
        };
        let Some(server) = Table::new(errors, value, &keys::REAL_SERVER, name) else { continue };
        let weight = server.integer(errors, "weight", 0..=MAX_FILE_WEIGHT).unwrap_or(1);
        let forward = forward(errors, &server);
        let upper_threshold = server.integer(errors, "upper_threshold", 0..=MAX_THRESHOLD).unwrap_or(0);
        let lower_threshold = server.integer(errors, "lower_threshold", 0..=upper_threshold).unwrap_or(0);
        let address = typed.unwrap_or_default();
        let quic_server_ids = quic::server_ids(errors, &server, address, quic_configs, &mut known_ids);
        let Some(found) = server.required_string(errors, "address") else { continue };
        let port = service.map_or(1, |service| service.port);
        let Some(address) = server_address(found.value, port) else {
            let text = format!(
                "\"{}\" is no address, alone or with port, such as \"10.0.0.11\", \"10.0.0.11:8080\" or \"[2001:db8::11]:8080\"",
                found.value
            );
            server.error(errors, &found.at, "address", text);
            continue;
        };
        let is_ipv6 = service.map_or(address.is_ipv6(), |service| service.address.is_ipv6());
        let its_port = service.filter(|service| service.mark().is_none()).map(|service| service.port);
        for unfit in unfit(is_ipv6, its_port, address, forward_spec(forward).0) {
            let why = match unfit {
                Unfit::OtherFamily => {
                    let family = if is_ipv6 { "IPv6" } else { "IPv4" };
                    format!("is not {family} as its service is: only a tunnel or FullNAT leads there")
                }
                Unfit::NotUnicast => "is not unicast".to_owned(),
                Unfit::HasZone => {
                    "has a zone: it cannot be told from the same one on another link".to_owned()
                }
                Unfit::OtherPort => {
                    format!(
                        "does not have its service's port {port}, which only masquerading and FullNAT change"
                    )
                }
            };
            server.error(errors, &found.at, "address", format!("{address} {why}"));
        }
        if !known.insert(address) {
            server.error(errors, &found.at, "address", format!("{address} stands twice in this service"));
        }
        servers.push(RealServer {
            address,
            weight,
            forward,
            upper_threshold,
            lower_threshold,
            quic_server_ids,
        });
    }
    servers
}

/// The method and, of a tunnel, its kind.
fn forward(errors: &mut Errors<'_>, server: &Table<'_>) -> Forward {
    let forwards = ForwardMethod::ALL.map(|method| (method.name(), method));
    let tunnels = Tunnel::ALL.map(|tunnel| (tunnel.name(), tunnel));
    let checksums = GueChecksum::ALL.map(|checksum| (checksum.name(), checksum));
    let method = server.choice(errors, "forward", &forwards, &[]).unwrap_or_default();
    let kind = server.choice(errors, "tunnel", &tunnels, &[]);
    let port = server.integer(errors, "tunnel_port", 1..=u32::from(u16::MAX));
    let checksum = server.choice(errors, "tunnel_checksum", &checksums, &[]);
    let mut misplaced = |key: &str, what: &str| {
        if let Some(value) = server.get(key) {
            server.error(errors, &value.span(), key, what);
        }
    };
    let kind = match method {
        ForwardMethod::Masq | ForwardMethod::Direct | ForwardMethod::FullNat => {
            for key in ["tunnel", "tunnel_port", "tunnel_checksum"] {
                misplaced(key, "goes with forward = \"tunnel\" alone");
            }
            return match method {
                ForwardMethod::Direct => Forward::Direct,
                ForwardMethod::FullNat => Forward::FullNat,
                _ => Forward::Masq,
            };
        }
        ForwardMethod::Tunnel => kind.unwrap_or(Tunnel::Ipip),
    };
    if !matches!(kind, Tunnel::Gue { .. }) {
        misplaced("tunnel_port", "goes with tunnel = \"gue\" alone");
    }
    Forward::Tunnel(match kind {
        Tunnel::Ipip => {
            misplaced("tunnel_checksum", "goes with tunnel = \"gue\" and \"gre\" alone");
            kind
        }
        Tunnel::Gue { .. } => {
            if server.get("tunnel_port").is_none() {
                let at = server.get("tunnel").map_or(0..0, |value| value.span());
                server.error(errors, &at, "tunnel", "\"gue\" needs a tunnel_port");
            }
            let port = port.map_or(0, |port| port as u16);
            Tunnel::Gue { port, checksum: checksum.unwrap_or(GueChecksum::No) }
        }
        Tunnel::Gre { .. } => {
            if checksum == Some(GueChecksum::Remote) {
                misplaced("tunnel_checksum", "\"remote\" goes with tunnel = \"gue\" alone");
            }
            Tunnel::Gre { checksum: checksum == Some(GueChecksum::Yes) }
        }
    })
}

/// Without a port: that of the service. Port 0, of a service of every port or by mark, is the one that the client asked for.
fn server_address(typed: &str, service_port: u16) -> Option<SocketAddr> {
    let address = match typed.parse::<SocketAddr>() {
        Ok(address) => address,
        Err(_) => {
            let bare = typed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let address = match bare {
                Some(bare) => IpAddr::V6(bare.parse().ok()?),
                None => typed.parse().ok()?,
            };
            SocketAddr::new(address, service_port)
        }
    };
    (address.port() != 0 || service_port == 0).then_some(address)
}
