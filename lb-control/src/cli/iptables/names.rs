//! Names of protocols, services, hosts, realms and labels, as this machine knows them (`/etc/protocols`, `/etc/services`, `/etc/hosts`, DNS,
//! `/etc/iproute2/rt_realms`, `/etc/xtables/connlabel.conf`).

use std::fs;
use std::net::{IpAddr, SocketAddr};

use dns_lookup::{AddrFamily, AddrInfoHints, SockType, getaddrinfo, getnameinfo};
use lb_core::rule::Family;
use lb_core::rule::names::Names;

use crate::api::types::Transport;
use crate::cli::ipvsadm::{self, Lookup};
use crate::cli::labels::LabelNames;

const PROTOCOLS: &str = "/etc/protocols";
const NETWORKS: &str = "/etc/networks";
/// Where iproute2 has them; the second where the operator has said nothing.
const REALMS: [&str; 2] = ["/etc/iproute2/rt_realms", "/usr/share/iproute2/rt_realms"];

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

/// The first of these (number, name) that is wanted.
fn realm<T>(find: impl Fn(u32, &str) -> Option<T>) -> Option<T> {
    let text = REALMS.iter().find_map(|path| fs::read_to_string(path).ok())?;
    realms(&text).find_map(|(realm, name)| find(realm, name))
}

/// A number up to 255, decimal or with `0x`, and a name; what else stands in a line does not count.
fn realms(text: &str) -> impl Iterator<Item = (u32, &str)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let number = words.next()?;
        let realm = match number.strip_prefix("0x") {
            Some(hex) => u8::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        let name = words.next().filter(|name| !name.starts_with('#'))?;
        Some((realm.into(), name))
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

    fn label(&self, name: &str) -> Option<u16> {
        LabelNames::of_system().bit(name)
    }

    fn label_name(&self, bit: u16) -> Option<String> {
        LabelNames::of_system().name(bit).map(str::to_owned)
    }

    fn network_name(&self, address: IpAddr) -> Option<String> {
        let text = fs::read_to_string(NETWORKS).unwrap_or_default();
        text.lines().find_map(|line| {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let name = words.next()?;
            (words.next()?.parse() == Ok(address)).then(|| name.to_owned())
        })
    }

    fn realm(&self, name: &str) -> Option<u32> {
        realm(|realm, known| (known == name).then_some(realm))
    }

    fn realm_name(&self, number: u32) -> Option<String> {
        realm(|realm, name| (realm == number).then(|| name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn realms_are_numbers_with_a_name_and_nothing_else_is() {
        let text =
            "# reserved\n0\tcosmos\n#1 no\n 0x2a  hex # more\n256 large\n-1 less\n7\n8 #none\nx y\n9 last";
        let found: Vec<_> = realms(text).collect();
        assert_eq!(found, [(0, "cosmos"), (42, "hex"), (9, "last")]);
    }
}
