//! What may be: checks of a service or real server before the model takes it, and the errors that name it.

use std::net::{IpAddr, SocketAddr};

use lb_core::flow::Method;
use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::scheduler::{
    DEFAULT_TABLE_SIZE, MAX_TABLE_SIZE, Scheduler, SchedulerFlags, is_table_size,
};
use lb_core::tables::{
    ClientMask, ConnLimits, ConnRate, Engine, Forward, Helper, Persistence, Prefix, ProxyVersion,
    ServiceOptions, SynCookies, Tunnel,
};
use lb_core::time::Timeout;

use super::{MAX_LOCAL_ADDRESSES, MAX_WARMUP, MAX_WEIGHT};
use crate::api::types::{
    self as api, ErrorBody, ErrorKind, ForwardMethod, ServerSpec, ServiceAddress, ServiceSpec, Transport,
};

/// Everything about a service but whether it exists.
pub(super) fn check_service(spec: &ServiceSpec) -> Result<(Scheduler, ServiceOptions), ErrorBody> {
    let service = &spec.service;
    let Some(kind) = SchedulerKind::from_name(&spec.scheduler) else {
        let known: Vec<_> = SchedulerKind::ALL.iter().map(|kind| kind.name()).collect();
        let message = format!(
            "virtual service {service}: no scheduler {:?}; there are {}",
            spec.scheduler,
            known.join(", ")
        );
        return Err(ErrorBody::new(ErrorKind::UnknownScheduler, message));
    };
    let engine = spec.persistence_engine.as_deref().map(|name| {
        Engine::from_name(name).ok_or_else(|| {
            let message = format!("virtual service {service}: no persistence engine {name:?}; there is sip");
            ErrorBody::new(ErrorKind::UnknownScheduler, message)
        })
    });
    let engine = engine.transpose()?;
    let flags = SchedulerFlags::from_names(kind, spec.scheduler_flags.iter().map(String::as_str)).map_err(
        |flag| {
            let message =
                format!("virtual service {service}: scheduler {} has no flag {flag:?}", kind.name());
            ErrorBody::new(ErrorKind::InvalidOperation, message)
        },
    )?;
    let persistence = spec.persistence.as_ref().map(|asked| check_persistence(service, asked)).transpose()?;
    let is_mark = matches!(service, ServiceAddress::FwMark { .. });
    let is_udp = matches!(service, ServiceAddress::Endpoint { transport: Transport::Udp, .. });
    if spec.one_packet && !is_udp && !is_mark {
        let message = format!("virtual service {service}: one-packet scheduling is for UDP");
        return Err(ErrorBody::new(ErrorKind::InvalidOperation, message));
    }
    if service.port() == 0 && persistence.is_none() && !is_mark {
        let message = format!("virtual service {service}: port 0 is for persistent services only");
        return Err(ErrorBody::new(ErrorKind::InvalidOperation, message));
    }
    let table_size = spec.table_size.unwrap_or(DEFAULT_TABLE_SIZE);
    if spec.table_size.is_some() && kind != SchedulerKind::Maglev {
        let message =
            format!("virtual service {service}: table_size is for scheduler maglev, not {}", kind.name());
        return Err(ErrorBody::new(ErrorKind::InvalidOperation, message));
    }
    if !is_table_size(table_size) {
        let message = format!(
            "virtual service {service}: table_size {table_size} is not a prime in {DEFAULT_TABLE_SIZE}..={MAX_TABLE_SIZE}"
        );
        return Err(ErrorBody::new(ErrorKind::InvalidOperation, message));
    }
    if spec.warmup > MAX_WARMUP {
        let message =
            format!("virtual service {service}: warmup {} is outside 0..={MAX_WARMUP} seconds", spec.warmup);
        return Err(ErrorBody::new(ErrorKind::InvalidOperation, message));
    }
    check_local_addresses(service, &spec.local_addresses)?;
    let scheduler = Scheduler { kind, flags, table_size, warmup: spec.warmup };
    let edits = check_edits(spec)?;
    let limits = check_limits(spec)?;
    Ok((scheduler, ServiceOptions { persistence, engine, one_packet: spec.one_packet, limits, ..edits }))
}

/// How many connections a service may have.
fn check_limits(spec: &ServiceSpec) -> Result<ConnLimits, ErrorBody> {
    let service = &spec.service;
    let invalid = |what: String| {
        let message = format!("virtual service {service}: {what}");
        ErrorBody::new(ErrorKind::InvalidOperation, message)
    };
    for (name, limit) in [("conn_limit", spec.conn_limit), ("source_conn_limit", spec.source_conn_limit)] {
        if limit > ConnLimits::MOST {
            return Err(invalid(format!("{name} {limit} is outside 0..={}", ConnLimits::MOST)));
        }
    }
    let rate = |name: &str, text: &Option<String>| {
        let wrong = |text| invalid(format!("{name} {text:?} is none of {}", rate_forms()));
        text.as_deref().map(|text| ConnRate::parse(text).ok_or_else(|| wrong(text))).transpose()
    };
    let limits = ConnLimits {
        connections: spec.conn_limit,
        rate: rate("conn_rate", &spec.conn_rate)?,
        source_connections: spec.source_conn_limit,
        source_rate: rate("source_conn_rate", &spec.source_conn_rate)?,
        source_prefix: spec.source_prefix,
    };
    if let Some(len) = limits.source_prefix {
        let longest = Prefix::longest(service.is_ipv6());
        if !(1..=longest).contains(&len) {
            return Err(invalid(format!("source_prefix {len} is outside 1..={longest}")));
        }
        if !limits.are_by_source() {
            return Err(invalid(format!("source_prefix {NEEDS_SOURCE}")));
        }
    }
    Ok(limits)
}

/// How a rate of connections is written.
pub(crate) fn rate_forms() -> String {
    format!("RATE, RATE:BURST, in 1..={} each", ConnRate::MOST)
}

/// Of a net that nothing is limited for.
pub(crate) const NEEDS_SOURCE: &str = "is for source_conn_limit and source_conn_rate";

/// What is put into the streams of a service's connections.
fn check_edits(spec: &ServiceSpec) -> Result<ServiceOptions, ErrorBody> {
    let service = &spec.service;
    let invalid = |what: String| {
        let message = format!("virtual service {service}: {what}");
        ErrorBody::new(ErrorKind::InvalidOperation, message)
    };
    let is_tcp = matches!(
        service,
        ServiceAddress::Endpoint { transport: Transport::Tcp, .. } | ServiceAddress::FwMark { .. }
    );
    let proxy_protocol = spec.proxy_protocol.as_deref().map(|name| {
        ProxyVersion::from_name(name)
            .ok_or_else(|| invalid(format!("no PROXY protocol {name:?}; there are v1, v2")))
    });
    let helper = spec.helper.as_deref().map(|name| {
        Helper::from_name(name).ok_or_else(|| invalid(format!("no helper {name:?}; there is ftp")))
    });
    for (name, is_given) in [
        ("proxy_protocol", spec.proxy_protocol.is_some()),
        ("toa", spec.toa),
        ("clamp_mss", spec.clamp_mss),
        ("helper", spec.helper.is_some()),
        ("syn_cookies", spec.syn_cookies.is_some()),
    ] {
        if is_given && !is_tcp {
            return Err(invalid(format!("{name} is for TCP")));
        }
    }
    let syn_cookies = spec.syn_cookies.as_deref().map(|text| {
        SynCookies::parse(text).ok_or_else(|| {
            invalid(format!("syn_cookies {text:?} is none of off, on, auto, auto:SYNS_A_SECOND"))
        })
    });
    Ok(ServiceOptions {
        proxy_protocol: proxy_protocol.transpose()?,
        toa: spec.toa,
        clamp_mss: spec.clamp_mss,
        helper: helper.transpose()?,
        syn_cookies: syn_cookies.transpose()?.unwrap_or_default(),
        ..ServiceOptions::default()
    })
}

/// A real server to which nothing can be said in the stream would take a client's for one without header; one whose answers do not come by would
/// not be understood by a client that was answered with a cookie.
pub(super) fn check_method(
    service: &ServiceAddress,
    server: SocketAddr,
    options: &ServiceOptions,
    forward: Forward,
) -> Result<(), ErrorBody> {
    let is_mixed = server.is_ipv6() != service.is_ipv6();
    let what = if options.proxy_protocol.is_some() && forward.method() != Method::Masq {
        "proxy_protocol is for masqueraded real servers"
    } else if options.syn_cookies != SynCookies::Off && forward.method() != Method::Masq {
        "syn_cookies are for masqueraded real servers"
    } else if options.syn_cookies != SynCookies::Off && is_mixed {
        "syn_cookies are for real servers of the service's address family"
    } else {
        return Ok(());
    };
    let message = format!("{}: {what}", name(service, server));
    Err(ErrorBody::new(ErrorKind::InvalidOperation, message))
}

/// Addresses that real servers may see as their clients.
fn check_local_addresses(service: &ServiceAddress, addresses: &[IpAddr]) -> Result<(), ErrorBody> {
    let invalid = |what: String| {
        let message = format!("virtual service {service}: {what}");
        Err(ErrorBody::new(ErrorKind::InvalidOperation, message))
    };
    if addresses.len() > MAX_LOCAL_ADDRESSES {
        let count = addresses.len();
        return invalid(format!("{count} local addresses are more than {MAX_LOCAL_ADDRESSES}"));
    }
    for (index, address) in addresses.iter().enumerate() {
        if let Err(what) = local_address(*address) {
            return invalid(format!("local address {address} {what}"));
        }
        if addresses[..index].contains(address) {
            return invalid(format!("local address {address} stands twice"));
        }
    }
    Ok(())
}

/// Whether a service may have this local address, or why not. It may be of either family, as its real servers.
pub(crate) fn local_address(address: IpAddr) -> Result<(), &'static str> {
    if is_unicast(address) && !address.is_loopback() { Ok(()) } else { Err("is not unicast") }
}

/// One-packet scheduling keeps no connection, so that nobody would know whose answer came to a local endpoint.
pub(super) fn check_one_packet(
    service: &ServiceAddress,
    mut servers: impl Iterator<Item = (SocketAddr, bool)>,
) -> Result<(), ErrorBody> {
    match servers.find(|&(_, is_full_nat)| is_full_nat) {
        Some((server, _)) => {
            let message =
                format!("{}: fullnat does not go with one-packet scheduling", name(service, server));
            Err(ErrorBody::new(ErrorKind::InvalidOperation, message))
        }
        None => Ok(()),
    }
}

fn check_persistence(service: &ServiceAddress, asked: &api::Persistence) -> Result<Persistence, ErrorBody> {
    let invalid = |what: String| {
        let message = format!("virtual service {service}: {what}");
        Err(ErrorBody::new(ErrorKind::InvalidOperation, message))
    };
    let seconds = asked.timeout;
    if !(1..=Timeout::MAX_SECS).contains(&seconds) {
        return invalid(format!("persistence {seconds} is outside 1..={} seconds", Timeout::MAX_SECS));
    }
    let mask = match &asked.netmask {
        None => ClientMask::WHOLE,
        Some(text) => match ClientMask::parse(text, service.is_ipv6()) {
            Some(mask) => mask,
            None => {
                let form = if service.is_ipv6() {
                    "a prefix length in 1..=128"
                } else {
                    "a mask such as 255.255.255.0"
                };
                return invalid(format!("persistence mask {text:?} is not {form}"));
            }
        },
    };
    Ok(Persistence { timeout: Timeout::from_secs(seconds), mask })
}

pub(super) fn check_ranges(service: &ServiceAddress, spec: &ServerSpec) -> Result<(), ErrorBody> {
    let out_of_range = |what: String| {
        let message = format!("{}: {what}", name(service, spec.server));
        Err(ErrorBody::new(ErrorKind::OutOfRange, message))
    };
    if spec.weight > MAX_WEIGHT {
        return out_of_range(format!("weight {} is outside 0..={MAX_WEIGHT}", spec.weight));
    }
    if spec.lower_threshold > spec.upper_threshold {
        let (lower, upper) = (spec.lower_threshold, spec.upper_threshold);
        return out_of_range(format!("lower threshold {lower} is above the upper threshold {upper}"));
    }
    Ok(())
}

/// Why a virtual service cannot have a real server at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unfit {
    OtherFamily,
    NotUnicast,
    /// `fe80::1%eth0`: link-local addresses are the same on every link, and the tables do not tell links apart.
    HasZone,
    OtherPort,
}

/// All that is wrong with a real server of a service of this family and port; `None`: it is one by mark.
pub(crate) fn unfit(
    is_ipv6: bool,
    port: Option<u16>,
    server: SocketAddr,
    method: ForwardMethod,
) -> impl Iterator<Item = Unfit> {
    let has_zone = matches!(server, SocketAddr::V6(v6) if v6.scope_id() != 0);
    let is_other_port = port.is_some_and(|port| port != server.port());
    let all = [
        (Unfit::OtherFamily, server.is_ipv6() != is_ipv6 && !method.changes_family()),
        (Unfit::NotUnicast, !is_unicast(server.ip())),
        (Unfit::HasZone, has_zone),
        (Unfit::OtherPort, is_other_port && !method.changes_port()),
    ];
    all.into_iter().filter(|(_, is_so)| *is_so).map(|(unfit, _)| unfit)
}

pub(super) fn check_server(service: &ServiceAddress, spec: &ServerSpec) -> Result<(), ErrorBody> {
    let is_mark = matches!(service, ServiceAddress::FwMark { .. });
    let port = (!is_mark).then(|| service.port());
    let Some(unfit) = unfit(service.is_ipv6(), port, spec.server, spec.forward).next() else { return Ok(()) };
    let what = match unfit {
        Unfit::OtherFamily => "only a tunnel or FullNAT leads to another address family".to_owned(),
        Unfit::NotUnicast => "the address is not unicast".to_owned(),
        Unfit::HasZone => {
            "an address with a zone cannot be told from the same one on another link".to_owned()
        }
        Unfit::OtherPort => {
            let (method, port) = (spec.forward.name(), service.port());
            format!("{method} does not change the port: it must be the virtual service's, {port}")
        }
    };
    let message = format!("{}: {what}", name(service, spec.server));
    Err(ErrorBody::new(ErrorKind::InvalidOperation, message))
}

/// How packets get to the real server: the tunnel must go with the method, and its parts with each other.
pub(super) fn forward(service: &ServiceAddress, spec: &ServerSpec) -> Result<Forward, ErrorBody> {
    let invalid = |what: String| {
        let message = format!("{}: {what}", name(service, spec.server));
        Err(ErrorBody::new(ErrorKind::InvalidOperation, message))
    };
    let tunnel = match (spec.forward, &spec.tunnel) {
        (ForwardMethod::Masq, None) => return Ok(Forward::Masq),
        (ForwardMethod::FullNat, None) => return Ok(Forward::FullNat),
        (ForwardMethod::Direct, None) => return Ok(Forward::Direct),
        (ForwardMethod::Tunnel, None) => return Ok(Forward::Tunnel(Tunnel::Ipip)),
        (ForwardMethod::Tunnel, Some(tunnel)) => tunnel,
        (method, Some(_)) => return invalid(format!("a tunnel is asked for with forward {}", method.name())),
    };
    let made = Tunnel::from_parts(&tunnel.encapsulation, tunnel.port, tunnel.checksum.as_deref());
    made.map(Forward::Tunnel).or_else(invalid)
}

/// What the kernel takes for a real server: not "this network" (0/8), multicast or broadcast (`inet_addr_type`);
/// not ::, multicast, link-local or IPv4-mapped (`__ipv6_addr_type`).
fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] != 0 && !address.is_multicast() && !address.is_broadcast(),
        IpAddr::V6(address) => {
            !address.is_unspecified()
                && !address.is_multicast()
                && !address.is_unicast_link_local()
                && address.to_ipv4_mapped().is_none()
        }
    }
}

pub(super) fn name(service: &ServiceAddress, server: SocketAddr) -> String {
    format!("real server {server} of {service}")
}

pub(super) fn no_such_service(service: &ServiceAddress) -> ErrorBody {
    ErrorBody::new(ErrorKind::NoSuchService, format!("virtual service {service}: no such service"))
}

pub(super) fn service_not_defined(service: &ServiceAddress) -> ErrorBody {
    ErrorBody::new(ErrorKind::ServiceNotDefined, format!("virtual service {service}: no such service"))
}

pub(super) fn no_such_server(service: &ServiceAddress, server: SocketAddr) -> ErrorBody {
    ErrorBody::new(ErrorKind::NoSuchServer, format!("{}: no such real server", name(service, server)))
}

pub(super) fn full(who: String, what: &str, limit: usize) -> ErrorBody {
    ErrorBody::new(
        ErrorKind::Full,
        format!("{who}: there is room for {limit} {what} (dataplane.max_servers)"),
    )
}
