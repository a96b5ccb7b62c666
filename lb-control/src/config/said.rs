//! Commands in the words of the log.

use std::fmt;

use super::PortAddress;
use crate::api::types::{Command, ServerSpec, ServiceSpec, SysctlValue};

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
            Command::AddFingerprint { line } => write!(f, "fingerprint {line} added"),
            Command::RemoveFingerprint { line } => write!(f, "fingerprint {line} removed"),
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
