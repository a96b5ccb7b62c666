//! Names of protocols, services and hosts, as this machine knows them (`/etc/protocols`, `/etc/services`, `/etc/hosts`, DNS).

use std::fs;
use std::net::{IpAddr, SocketAddr};

use dns_lookup::{AddrFamily, AddrInfoHints, SockType, getaddrinfo, getnameinfo};
use lb_core::rule::Family;
use lb_core::rule::names::Names;

use crate::api::types::Transport;
use crate::cli::ipvsadm::{self, Lookup};

const PROTOCOLS: &str = "/etc/protocols";
const NETWORKS: &str = "/etc/networks";

/// What the C library knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

/// Whose ports have names.
fn transports(protocol: &str) -> &'static [Transport] {
    match protocol {
        "tcp" => &[Transport::Tcp],
        "udp" => &[Transport::Udp],
        "" => &[Transport::Tcp, Transport::Udp],
        _ => &[],
    }
}

/// (number, official name, other names) of each line.
fn protocols<T>(find: impl Fn(u8, &[&str]) -> Option<T>) -> Option<T> {
    let text = fs::read_to_string(PROTOCOLS).unwrap_or_default();
    text.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if words.len() < 2 {
            return None;
        }
        let number = words.remove(1).parse().ok()?;
        find(number, &words)
    })
}

impl Names for System {
    fn protocol(&self, name: &str) -> Option<u8> {
        protocols(|number, names| names.contains(&name).then_some(number))
    }

    fn protocol_name(&self, number: u8) -> Option<String> {
        protocols(|known, names| (known == number).then(|| names[0].to_owned()))
    }

    fn service(&self, name: &str, protocol: &str) -> Option<u16> {
        transports(protocol).iter().find_map(|&transport| ipvsadm::System.port(name, transport))
    }

    fn service_name(&self, port: u16, protocol: &str) -> Option<String> {
        let name =
            transports(protocol).iter().find_map(|&transport| ipvsadm::System.service(port, transport))?;
        // The C library gives the number where there is no name.
        (name.parse() != Ok(port)).then_some(name)
    }

    fn resolve(&self, host: &str, family: Family) -> Vec<IpAddr> {
        let address = match family {
            Family::Ipv4 => AddrFamily::Inet,
            Family::Ipv6 => AddrFamily::Inet6,
        };
        let hints = AddrInfoHints {
            address: address.into(),
            socktype: SockType::Stream.into(),
            ..AddrInfoHints::default()
        };
        let found = getaddrinfo(Some(host), None, Some(hints)).into_iter().flatten().flatten();
        found.map(|info| info.sockaddr.ip()).collect()
    }

    fn host_name(&self, address: IpAddr) -> Option<String> {
        let at = SocketAddr::new(address, 0);
        getnameinfo(&at, libc::NI_NUMERICSERV | libc::NI_NAMEREQD).ok().map(|(host, _)| host)
    }

    fn network_name(&self, address: IpAddr) -> Option<String> {
        let text = fs::read_to_string(NETWORKS).unwrap_or_default();
        text.lines().find_map(|line| {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let name = words.next()?;
            (words.next()?.parse() == Ok(address)).then(|| name.to_owned())
        })
    }
}
