//! What would have to be said to make what there is: the way back from tables to commands.

use std::net::SocketAddr;
use std::sync::Arc;

use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::quic_lb::QuicServerId;
use lb_core::rule::fingerprint::Fingerprints;
use lb_core::tables::{
    ConnRate, Forward, Protocol, Server, Service, ServiceKey, ServiceOptions, Sysctl, Sysctls,
};

use super::quic::{configs_of as quic_configs_of, configs_spec as quic_configs_spec};
use crate::api::types::{
    Command, Counts, ForwardMethod, Persistence, Rates, ServerSpec, ServerView, ServiceAddress, ServiceSpec,
    ServiceView, SyncDaemon, SysctlValue, Timeouts, Transport, Tunnel,
};
use crate::endpoint::Endpoint;

/// What would have to be said to an empty model to make these services, with these timeouts.
pub fn commands<'s>(
    timeouts: Timeouts,
    sysctls: Sysctls,
    services: impl Iterator<Item = &'s Arc<Service>>,
    daemons: impl Iterator<Item = &'s SyncDaemon>,
    fingerprints: &'s Fingerprints,
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
        .chain(fingerprints.iter().map(|one| Command::AddFingerprint { line: one.to_string() }))
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
    let (kind, port, checksum) = tunnel.parts();
    let checksum = checksum.map(|checksum| checksum.name().to_owned());
    (ForwardMethod::Tunnel, Some(Tunnel { encapsulation: kind.to_owned(), port, checksum }))
}
