//! The listings of ipvsadm 1.31, to the byte. Widths, titles and the order are recorded behaviour; how large numbers are
//! abbreviated and long names cut is from ipvsadm.c.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use super::names::Names;
use super::request::Format;
use super::words::{NO_HELPER, default_helper, quic_lb_text};
use crate::api::types::{
    Connection, ForwardMethod, ServerView, ServiceAddress, ServiceSpec, ServiceView, SyncDaemon, Timeouts,
    Transport,
};
use crate::endpoint::Endpoint;
use lb_core::ipvs::scheduler::DEFAULT_TABLE_SIZE;
use lb_core::tables::{Engine, GueChecksum, Prefix, Tunnel};

/// Longest name of an IPv4 service and of its real servers.
const SERVICE_WIDTH: usize = 33;
const SERVER_WIDTH: usize = 28;

pub(super) fn version(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "IP Virtual Server version 1.2.1 (size=4096)")
}

pub(super) fn timeouts(out: &mut dyn Write, timeouts: Timeouts) -> io::Result<()> {
    let Timeouts { tcp, tcp_fin, udp } = timeouts;
    writeln!(out, "Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}")
}

pub(super) fn sync_daemons(out: &mut dyn Write, daemons: &[SyncDaemon]) -> io::Result<()> {
    daemons.iter().try_for_each(|daemon| {
        let SyncDaemon { role, interface, syncid, maxlen, group, port, ttl } = daemon;
        writeln!(
            out,
            "{} sync daemon (mcast={interface}, syncid={syncid}, maxlen={maxlen}, group={group}, port={port}, ttl={ttl})",
            role.name()
        )
    })
}

/// Of several looks the first one counts, in this order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    TunInfo,
    Plain,
}

impl Look {
    fn of(format: Format) -> Look {
        if format.stats {
            Look::Stats
        } else if format.rate {
            Look::Rate
        } else if format.thresholds {
            Look::Thresholds
        } else if format.persistent_conn {
            Look::PersistentConn
        } else if format.tun_info {
            Look::TunInfo
        } else {
            Look::Plain
        }
    }

    fn title(self, out: &mut dyn Write) -> io::Result<()> {
        let first = "Prot LocalAddress:Port";
        let mut columns = |names: [&str; 5]| {
            write!(out, "{first:<SERVICE_WIDTH$}")?;
            names.iter().try_for_each(|name| write!(out, " {name:>8}"))?;
            writeln!(out, "\n  -> RemoteAddress:Port")
        };
        match self {
            Look::Stats => columns(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
            Look::Rate => columns(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
            Look::Thresholds => writeln!(
                out,
                "{first:<SERVICE_WIDTH$} {:<10} {:<10} {:<10} {:<10}\n  -> RemoteAddress:Port",
                "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
            ),
            Look::PersistentConn => writeln!(
                out,
                "{first:<SERVICE_WIDTH$} {:<9} {:<11} {:<10} {:<10}\n  -> RemoteAddress:Port",
                "Weight", "PersistConn", "ActiveConn", "InActConn"
            ),
            Look::TunInfo => writeln!(
                out,
                "{first} Scheduler Flags\n  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn"
            ),
            Look::Plain => writeln!(
                out,
                "{first} Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn"
            ),
        }
    }
}

/// Titles, services, real servers.
pub(super) fn services(
    out: &mut dyn Write,
    mut services: Vec<ServiceView>,
    format: Format,
    names: &Names<'_>,
) -> io::Result<()> {
    let look = Look::of(format);
    look.title(out)?;
    if !format.nosort {
        services = sorted(services, |a, b| compare_services(&a.spec.service, &b.spec.service));
    }
    for service in services {
        let mut name = service_name(&service.spec.service, format.numeric, names);
        if !service.spec.service.is_ipv6() {
            name = cut(&name, SERVICE_WIDTH);
        }
        match look {
            Look::Stats | Look::Rate => {
                write!(out, "{name:<SERVICE_WIDTH$}")?;
                let ServiceView { counts, rates, .. } = &service;
                let numbers = if look == Look::Stats {
                    [
                        counts.connections,
                        counts.in_packets,
                        counts.out_packets,
                        counts.in_bytes,
                        counts.out_bytes,
                    ]
                } else {
                    [rates.connections, rates.in_packets, rates.out_packets, rates.in_bytes, rates.out_bytes]
                };
                large_numbers(out, numbers, format.exact)?;
            }
            _ => {
                write!(out, "{name} {}", service.spec.scheduler)?;
                let listed = listed_flags(&service.spec);
                flags(out, &service.spec, listed, &[" (", ")"], [" persistent ", " mask ", " pe ", " ops"])?;
            }
        }
        writeln!(out)?;
        let transport = transport(&service.spec.service);
        for server in in_order(service.servers, format) {
            self::server(out, &server, look, transport, format, names)?;
        }
    }
    Ok(())
}

fn server(
    out: &mut dyn Write,
    server: &ServerView,
    look: Look,
    transport: Option<Transport>,
    format: Format,
    names: &Names<'_>,
) -> io::Result<()> {
    let mut name = names.endpoint(server.spec.server, transport, format.numeric);
    if !server.spec.server.is_ipv6() {
        name = cut(&name, SERVER_WIDTH);
    }
    write!(out, "  -> {name:<SERVER_WIDTH$}")?;
    let ServerView { spec, active, inactive, persistent, counts, rates, .. } = server;
    match look {
        Look::Stats => {
            let numbers = [
                counts.connections,
                counts.in_packets,
                counts.out_packets,
                counts.in_bytes,
                counts.out_bytes,
            ];
            large_numbers(out, numbers, format.exact)?;
            writeln!(out)
        }
        Look::Rate => {
            let numbers =
                [rates.connections, rates.in_packets, rates.out_packets, rates.in_bytes, rates.out_bytes];
            large_numbers(out, numbers, format.exact)?;
            writeln!(out)
        }
        Look::Thresholds => {
            let (upper, lower) = (spec.upper_threshold, spec.lower_threshold);
            writeln!(out, " {upper:<10} {lower:<10} {active:<10} {inactive:<10}")
        }
        Look::PersistentConn => {
            writeln!(out, " {:<9} {persistent:<11} {active:<10} {inactive:<10}", spec.weight)
        }
        Look::TunInfo => {
            let tunnel = tunnel_info(server);
            let forward = forward_name(spec.forward);
            writeln!(out, " {forward:<7} {tunnel:<13} {:<6} {active:<10} {inactive:<10}", spec.weight)
        }
        Look::Plain => {
            let forward = forward_name(spec.forward);
            writeln!(out, " {forward:<7} {:<6} {active:<10} {inactive:<10}", spec.weight)
        }
    }
}

/// The command lines that make what is there. ipvsadm's own have no thresholds, and marks as signed numbers; those that are
/// whole have both as they are.
pub(super) fn save(
    out: &mut dyn Write,
    services: Vec<ServiceView>,
    format: Format,
    names: &Names<'_>,
    is_whole: bool,
) -> io::Result<()> {
    let services = sorted(services, |a, b| compare_services(&a.spec.service, &b.spec.service));
    for service in services {
        let at = &service.spec.service;
        let name = match at {
            ServiceAddress::FwMark { mark, is_ipv6 } => {
                let mark = if is_whole { mark.to_string() } else { (*mark as i32).to_string() };
                format!("-f {mark}{}", if *is_ipv6 { " -6" } else { "" })
            }
            &ServiceAddress::Endpoint { transport, address, prefix_len, port } => {
                let option = match transport {
                    Transport::Tcp => "-t",
                    Transport::Udp => "-u",
                    Transport::Sctp => "--sctp-service",
                };
                let at = Endpoint { prefix: Prefix { address, len: prefix_len }, port };
                format!("{option} {}", names.service(at, transport, format.numeric))
            }
        };
        write!(out, "-A {name} -s {}", service.spec.scheduler)?;
        let list = if is_whole { whole_flags(&service.spec) } else { listed_flags(&service.spec) };
        flags(out, &service.spec, list, &[" -b ", ""], [" -p ", " -M ", " --pe ", " -o"])?;
        edits(out, &service.spec)?;
        let local: Vec<_> = service.spec.local_addresses.iter().map(ToString::to_string).collect();
        if !local.is_empty() {
            write!(out, " --laddr {}", local.join(","))?;
        }
        writeln!(out)?;
        let transport = transport(at);
        for server in in_order(service.servers, format) {
            let option = match server.spec.forward {
                ForwardMethod::Masq => "-m",
                ForwardMethod::Direct => "-g",
                ForwardMethod::Tunnel => "-i",
                ForwardMethod::FullNat => "--fullnat",
            };
            let real = names.endpoint(server.spec.server, transport, format.numeric);
            write!(out, "-a {name} -r {real} {option} -w {}", server.spec.weight)?;
            if let Some(tunnel) = &server.spec.tunnel {
                write!(out, " --tun-type {}", tunnel.encapsulation)?;
                if tunnel.port != 0 {
                    write!(out, " --tun-port {}", tunnel.port)?;
                }
                let checksum = match tunnel.checksum.as_deref() {
                    Some("none") => " --tun-nocsum",
                    Some("checksum") => " --tun-csum",
                    Some("remote") => " --tun-remcsum",
                    _ => "",
                };
                write!(out, "{checksum}")?;
            }
            if is_whole && server.spec.upper_threshold != 0 {
                write!(out, " -x {} -y {}", server.spec.upper_threshold, server.spec.lower_threshold)?;
            }
            if !server.spec.quic_server_ids.is_empty() {
                write!(out, " --quic-server-id {}", server.spec.quic_server_ids.join(","))?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

/// A scheduler's flags; `None`: there is none.
fn whole_flags(spec: &ServiceSpec) -> Option<String> {
    (!spec.scheduler_flags.is_empty()).then(|| spec.scheduler_flags.join(","))
}

/// The same as ipvsadm has it, which has no word for the third flag of these schedulers, but brackets or `-b` for it.
fn listed_flags(spec: &ServiceSpec) -> Option<String> {
    let has_no_word = |flag: &str| flag == "flag-3" && matches!(spec.scheduler.as_str(), "sh" | "mh");
    let named: Vec<_> =
        spec.scheduler_flags.iter().map(String::as_str).filter(|flag| !has_no_word(flag)).collect();
    (!spec.scheduler_flags.is_empty()).then(|| named.join(","))
}

/// What stands behind a scheduler. The rule form has its flags after persistence, the listing before.
fn flags(
    out: &mut dyn Write,
    spec: &ServiceSpec,
    list: Option<String>,
    brackets: &[&str; 2],
    words: [&str; 4],
) -> io::Result<()> {
    let [persistent, mask, engine, one_packet] = words;
    let [open, close] = brackets;
    let is_rule = close.is_empty();
    if let Some(list) = list.as_ref().filter(|_| !is_rule) {
        write!(out, "{open}{list}{close}")?;
    }
    if let Some(persistence) = &spec.persistence {
        write!(out, "{persistent}{}", persistence.timeout)?;
        if let Some(netmask) = &persistence.netmask {
            write!(out, "{mask}{netmask}")?;
        }
    }
    // The kernel's tool lists it of a persistent service alone.
    if let Some(name) = spec.persistence_engine.as_ref().filter(|_| is_rule || spec.persistence.is_some()) {
        write!(out, "{engine}{name}")?;
    }
    if spec.one_packet {
        write!(out, "{one_packet}")?;
    }
    if let Some(list) = list.filter(|_| is_rule) {
        write!(out, "{open}{list}")?;
    }
    Ok(())
}

/// What the kernel has no words for, and a listing does not show.
fn edits(out: &mut dyn Write, spec: &ServiceSpec) -> io::Result<()> {
    if let Some(size) = spec.table_size.filter(|&size| size != DEFAULT_TABLE_SIZE) {
        write!(out, " --table-size {size}")?;
    }
    if spec.warmup != 0 {
        write!(out, " --warmup {}", spec.warmup)?;
    }
    if let Some(version) = &spec.proxy_protocol {
        write!(out, " --proxy-protocol {version}")?;
    }
    if spec.toa {
        write!(out, " --toa")?;
    }
    if spec.clamp_mss {
        write!(out, " --clamp-mss")?;
    }
    if let Some(when) = &spec.syn_cookies {
        write!(out, " --syn-cookies {when}")?;
    }
    for (option, limit) in [("conn-limit", spec.conn_limit), ("source-conn-limit", spec.source_conn_limit)] {
        if limit != 0 {
            write!(out, " --{option} {limit}")?;
        }
    }
    for (option, rate) in [("conn-rate", &spec.conn_rate), ("source-conn-rate", &spec.source_conn_rate)] {
        if let Some(rate) = rate {
            write!(out, " --{option} {rate}")?;
        }
    }
    if let Some(len) = spec.source_prefix {
        write!(out, " --source-prefix {len}")?;
    }
    if !spec.quic_lb.is_empty() {
        let configs: Vec<_> = spec.quic_lb.iter().map(quic_lb_text).collect();
        write!(out, " --quic-lb {}", configs.join(","))?;
    }
    let helper = spec.helper.as_deref();
    if helper != default_helper(&spec.service) {
        write!(out, " --helper {}", helper.unwrap_or(NO_HELPER))?;
    }
    Ok(())
}

pub(super) fn connections_title(out: &mut dyn Write, format: Format) -> io::Result<()> {
    writeln!(out, "IPVS connection entries")?;
    write!(out, "pro expire {:<11} {:<18} {:<18} ", "state", "source", "virtual")?;
    if format.persistent_conn {
        writeln!(out, "{:<18} {:<16} pe_data", "destination", "pe name")
    } else {
        writeln!(out, "destination")
    }
}

pub(super) fn connection(
    out: &mut dyn Write,
    connection: &Connection,
    format: Format,
    names: &Names<'_>,
) -> io::Result<()> {
    let Connection { protocol, expires, state, client, virtual_, destination, local: _, call, service: _ } =
        connection;
    let name = |at: SocketAddr| names.endpoint(at, protocol.transport(), format.numeric);
    write!(
        out,
        "{:<3} {:<6} {state:<11} {:<18} {:<18} ",
        protocol.name().to_ascii_uppercase(),
        format!("{:02}:{:02}", expires / 60, expires % 60),
        name(*client),
        name(*virtual_),
    )?;
    let destination = name(*destination);
    match call {
        Some(call) if format.persistent_conn => {
            writeln!(out, "{destination:<18} {:<16} {call}", Engine::Sip.name())
        }
        _ => writeln!(out, "{destination}"),
    }
}

fn transport(service: &ServiceAddress) -> Option<Transport> {
    match service {
        ServiceAddress::Endpoint { transport, .. } => Some(*transport),
        ServiceAddress::FwMark { .. } => None,
    }
}

fn service_name(service: &ServiceAddress, numeric: bool, names: &Names<'_>) -> String {
    match service {
        // The kernel's tool prints marks as signed numbers.
        ServiceAddress::FwMark { mark, is_ipv6 } => {
            format!("FWM  {}{}", *mark as i32, if *is_ipv6 { " IPv6" } else { "" })
        }
        &ServiceAddress::Endpoint { transport, address, prefix_len, port } => {
            let at = Endpoint { prefix: Prefix { address, len: prefix_len }, port };
            let at = names.service(at, transport, numeric);
            format!("{:<4} {at}", transport.name().to_ascii_uppercase())
        }
    }
}

const fn forward_name(forward: ForwardMethod) -> &'static str {
    match forward {
        ForwardMethod::Masq => "Masq",
        ForwardMethod::Direct => "Route",
        ForwardMethod::Tunnel => "Tunnel",
        ForwardMethod::FullNat => "FullNat",
    }
}

fn tunnel_info(server: &ServerView) -> String {
    let Some(tunnel) = &server.spec.tunnel else { return "n/a".to_owned() };
    let checksum = match tunnel.checksum.as_deref().and_then(GueChecksum::named) {
        Some(GueChecksum::Yes) => "+c",
        Some(GueChecksum::Remote) => "r+c",
        Some(GueChecksum::No) | None => "-c",
    };
    let kind = &tunnel.encapsulation;
    match Tunnel::named(kind) {
        Some(Tunnel::Ipip) => kind.clone(),
        Some(Tunnel::Gue { .. }) => format!("{kind}:{}:{checksum}", tunnel.port),
        Some(Tunnel::Gre { .. }) | None => format!("{kind}:{checksum}"),
    }
}

fn cut(name: &str, width: usize) -> String {
    name.chars().take(width).collect()
}

/// Nine columns each: 100 million and more are abbreviated unless they shall be exact.
fn large_numbers(out: &mut dyn Write, numbers: [u64; 5], exact: bool) -> io::Result<()> {
    const BILLION: u64 = 1_000_000_000;
    numbers.into_iter().try_for_each(|number| match number {
        number if exact => {
            let digits = number.to_string();
            let width = if digits.len() <= 8 { 9 } else { digits.len() + 1 };
            write!(out, "{digits:>width$}")
        }
        0..100_000_000 => write!(out, "{number:>9}"),
        100_000_000..BILLION => write!(out, "{:>8}K", number / 1_000),
        BILLION..100_000_000_000 => write!(out, "{:>8}M", number / 1_000_000),
        100_000_000_000..100_000_000_000_000 => write!(out, "{:>8}G", number / BILLION),
        _ => write!(out, "{:>8}T", number / (1_000 * BILLION)),
    })
}

fn in_order(servers: Vec<ServerView>, format: Format) -> Vec<ServerView> {
    if format.nosort {
        return servers;
    }
    sorted(servers, |a, b| compare_addresses(a.spec.server, b.spec.server))
}

/// Firewall marks, families, protocols, addresses, ports: differences as signed 32-bit numbers, so that 192.0.2.1
/// stands before 1.2.0.3, and mark 4294967295 before all.
fn compare_services(a: &ServiceAddress, b: &ServiceAddress) -> i32 {
    let head = |service: &ServiceAddress| match service {
        ServiceAddress::FwMark { mark, is_ipv6 } => [*mark, u32::from(*is_ipv6), 0],
        ServiceAddress::Endpoint { transport, address, .. } => {
            let protocol = match transport {
                Transport::Tcp => 6,
                Transport::Udp => 17,
                Transport::Sctp => 132,
            };
            [0, u32::from(address.is_ipv6()), protocol]
        }
    };
    let order = first_difference(head(a), head(b));
    match (a, b) {
        _ if order != 0 => order,
        (
            &ServiceAddress::Endpoint { address: a, port: a_port, prefix_len: a_len, .. },
            &ServiceAddress::Endpoint { address: b, port: b_port, prefix_len: b_len, .. },
        ) => match compare_addresses(SocketAddr::new(a, a_port), SocketAddr::new(b, b_port)) {
            0 => i32::from(a_len) - i32::from(b_len),
            order => order,
        },
        _ => order,
    }
}

fn compare_addresses(a: SocketAddr, b: SocketAddr) -> i32 {
    let words = |at: SocketAddr| match at.ip() {
        IpAddr::V4(address) => [u32::from(address), 0, 0, 0, u32::from(at.port())],
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            [(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32, u32::from(at.port())]
        }
    };
    first_difference(words(a), words(b))
}

fn first_difference<const N: usize>(a: [u32; N], b: [u32; N]) -> i32 {
    a.into_iter()
        .zip(b)
        .map(|(a, b)| a.wrapping_sub(b) as i32)
        .find(|&difference| difference != 0)
        .unwrap_or(0)
}

/// A merge sort that stands any `compare`: ipvsadm's has cycles (10 < 127 < 192 < 10), which the library's sort may
/// refuse. What it makes of them there depends on the kernel's hash table.
fn sorted<T>(mut items: Vec<T>, compare: impl Fn(&T, &T) -> i32 + Copy) -> Vec<T> {
    if items.len() < 2 {
        return items;
    }
    let back = items.split_off(items.len() / 2);
    let mut front = sorted(items, compare).into_iter().peekable();
    let mut back = sorted(back, compare).into_iter().peekable();
    let mut merged = Vec::with_capacity(front.len() + back.len());
    while let (Some(a), Some(b)) = (front.peek(), back.peek()) {
        merged.extend(if compare(a, b) <= 0 { front.next() } else { back.next() });
    }
    merged.extend(front);
    merged.extend(back);
    merged
}

#[cfg(test)]
mod tests {
    use super::super::names::System;
    use super::*;
    use crate::api::types::ConnectionProtocol;
    use crate::api::types::{Counts, ServerSpec};

    fn text(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn large_numbers_are_abbreviated_unless_exact() {
        let numbers = [99_999_999, 100_000_000, 1_000_000_000, 100_000_000_000, u64::MAX];
        let short = text(|out| large_numbers(out, numbers, false));
        assert_eq!(short, " 99999999  100000K    1000M     100G18446744T");
        let exact = text(|out| large_numbers(out, numbers, true));
        assert_eq!(exact, " 99999999 100000000 1000000000 100000000000 18446744073709551615");
    }

    #[test]
    fn connections_look_as_recorded() {
        let at = |text: &str| text.parse().expect(text);
        let connection = Connection {
            protocol: ConnectionProtocol::Tcp,
            expires: 834,
            state: "ESTABLISHED".to_owned(),
            client: at("172.20.7.2:4650"),
            virtual_: at("10.9.0.1:2017"),
            destination: at("10.2.0.11:8080"),
            local: None,
            call: None,
            service: None,
        };
        let numeric = Format { numeric: true, ..Format::default() };
        assert_eq!(
            text(|out| self::connection(out, &connection, numeric, &Names::new(&System))),
            "TCP 13:54  ESTABLISHED 172.20.7.2:4650    10.9.0.1:2017      10.2.0.11:8080\n"
        );
        let template = Connection {
            expires: 49,
            state: "ASSURED".to_owned(),
            client: at("172.20.1.1:0"),
            virtual_: at("10.9.0.1:0"),
            destination: at("10.2.0.13:0"),
            local: None,
            call: None,
            ..connection.clone()
        };
        assert_eq!(
            text(|out| self::connection(out, &template, numeric, &Names::new(&System))),
            "TCP 00:49  ASSURED     172.20.1.1:0       10.9.0.1:0         10.2.0.13:0\n"
        );
        let ipv6 = Connection {
            client: at("[fd10::9]:5700"),
            virtual_: at("[fd09::1]:2030"),
            destination: at("[fd02::11]:8080"),
            local: None,
            call: None,
            expires: 879,
            ..connection
        };
        assert_eq!(
            text(|out| self::connection(out, &ipv6, numeric, &Names::new(&System))),
            "TCP 14:39  ESTABLISHED [fd10::9]:5700     [fd09::1]:2030     [fd02::11]:8080\n"
        );
    }

    #[test]
    fn statistics_look_as_recorded() {
        let counts = Counts { connections: 1, in_packets: 1, in_bytes: 68, ..Counts::default() };
        let server = ServerView {
            spec: ServerSpec::new("10.2.0.13:53".parse().expect("valid")),
            active: 0,
            inactive: 1,
            persistent: 0,
            overloaded: false,
            counts,
            rates: Default::default(),
        };
        let service = ServiceView {
            spec: ServiceSpec::new("udp/10.9.0.1:2009".parse().expect("valid"), "rr"),
            counts,
            rates: Default::default(),
            cookies: None,
            limited: None,
            servers: vec![server],
        };
        let format = Format { numeric: true, stats: true, ..Format::default() };
        assert_eq!(
            text(|out| services(out, vec![service], format, &Names::new(&System))),
            "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n  \
             -> RemoteAddress:Port\n\
             UDP  10.9.0.1:2009                       1        1        0       68        0\n  \
             -> 10.2.0.13:53                        1        1        0       68        0\n"
        );
    }

    #[test]
    fn the_order_is_that_of_signed_differences() {
        let addresses = ["192.0.2.1:80", "1.2.0.3:80", "192.0.2.1:8080"];
        let parsed = addresses.map(|text| text.parse::<SocketAddr>().expect(text)).to_vec();
        let order: Vec<_> =
            sorted(parsed, |a, b| compare_addresses(*a, *b)).iter().map(SocketAddr::to_string).collect();
        assert_eq!(order, ["192.0.2.1:80", "192.0.2.1:8080", "1.2.0.3:80"]);
    }
}
