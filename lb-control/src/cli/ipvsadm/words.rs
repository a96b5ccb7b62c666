//! What arguments of options say, and how a save writes them.

use std::net::IpAddr;

use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::scheduler::SchedulerFlags;

use super::{Stop, address};
use crate::api::types::{QuicKey, QuicLb, ServiceAddress, Transport};

/// Longest timeout, in seconds: 31 days.
const MAX_TIMEOUT: i64 = 2_678_400;

pub(super) fn timeout(text: &str, min: i64) -> Result<u32, Stop> {
    match address::number(text, min, MAX_TIMEOUT).map(u32::try_from) {
        Some(Ok(seconds)) => Ok(seconds),
        _ => Err(Stop::usage(format!("invalid timeout value `{text}' specified"))),
    }
}

/// A number from `min` to `max`, or the message that it is none.
pub(super) fn number(text: &str, min: i64, max: u32, message: &str) -> Result<u32, Stop> {
    address::number(text, min, max.into())
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| Stop::usage(message))
}

/// One configuration, as `--quic-lb` takes it.
pub(super) fn quic_lb_text(config: &QuicLb) -> String {
    let QuicLb { config_id, server_id_length, nonce_length, key } = config;
    let key = key.as_ref().map_or(String::new(), |QuicKey(key)| format!(":{key}"));
    format!("{config_id}:{server_id_length}:{nonce_length}{key}")
}

/// The opposite of [`quic_lb_text`].
pub(super) fn quic_lb(text: &str) -> Option<QuicLb> {
    let mut parts = text.splitn(4, ':');
    let mut number = || parts.next()?.parse().ok();
    let (config_id, server_id_length, nonce_length) = (number()?, number()?, number()?);
    let key = parts.next().map(|key| QuicKey(key.to_owned()));
    Some(QuicLb { config_id, server_id_length, nonce_length, key })
}

/// Says that there is no helper where there would be one.
pub(super) const NO_HELPER: &str = "none";

/// What a service has that names no helper: as with the kernel, once its module for FTP is loaded.
pub(super) fn default_helper(service: &ServiceAddress) -> Option<&'static str> {
    let is_ftp = matches!(service, ServiceAddress::Endpoint { transport: Transport::Tcp, port: 21, .. });
    is_ftp.then_some("ftp")
}

/// Flags by name, `flag-1` to `flag-3` for any scheduler.
pub(super) fn sched_flags(flags: Option<&str>, scheduler: &str) -> Result<Vec<String>, Stop> {
    let Some(flags) = flags else { return Ok(Vec::new()) };
    let check = |flag: &str| {
        let is_of = |kind: &SchedulerKind| kind.flag_names().contains(&flag);
        let is_plain = SchedulerFlags::PLAIN.contains(&flag);
        if is_plain || SchedulerKind::from_name(scheduler).is_some_and(|kind| is_of(&kind)) {
            return Ok(flag.to_owned());
        }
        let what = if SchedulerKind::ALL.iter().any(is_of) { "incompatible" } else { "invalid" };
        Err(Stop::usage(format!("{what} scheduler flag `{flag}'")))
    };
    flags.split(',').filter(|flag| !flag.is_empty()).map(check).collect()
}

pub(super) fn multicast_group(text: &str) -> Result<IpAddr, Stop> {
    let group = text.parse();
    let family = match group {
        Ok(group) if IpAddr::is_multicast(&group) => return Ok(group),
        Ok(IpAddr::V4(_)) => "IPv4 ",
        Ok(IpAddr::V6(_)) => "IPv6 ",
        Err(_) if text.contains(':') => "IPv6 ",
        Err(_) => "IPv4 ",
    };
    Err(Stop::usage(format!("invalid {family}mcast-group `{text}'")))
}
