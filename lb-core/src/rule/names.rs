//! Names of protocols, services, hosts, realms and labels of connections: asked of the system by a command, of nobody by the daemon.

use std::net::IpAddr;

use super::Family;

/// Who knows names. Not for the packet path.
pub trait Names {
    /// `/etc/protocols`.
    fn protocol(&self, name: &str) -> Option<u8>;
    fn protocol_name(&self, number: u8) -> Option<String>;
    /// `/etc/services`; `protocol` empty: of any.
    fn service(&self, name: &str, protocol: &str) -> Option<u16>;
    fn service_name(&self, port: u16, protocol: &str) -> Option<String>;
    /// All addresses of a host.
    fn resolve(&self, host: &str, family: Family) -> Vec<IpAddr>;
    fn host_name(&self, address: IpAddr) -> Option<String>;
    /// `/etc/xtables/connlabel.conf`; a number that is no label's is refused later.
    fn label(&self, _name: &str) -> Option<u16> {
        None
    }
    fn label_name(&self, _bit: u16) -> Option<String> {
        None
    }
    /// A network of `/etc/networks`, by its first address.
    fn network_name(&self, _address: IpAddr) -> Option<String> {
        None
    }
    /// `/etc/iproute2/rt_realms`.
    fn realm(&self, _name: &str) -> Option<u32> {
        None
    }
    fn realm_name(&self, _realm: u32) -> Option<String> {
        None
    }
}

/// Knows the protocols that iptables itself knows, and nothing else.
pub struct Numeric;

/// (name, number); of two names of a number the first is printed.
const PROTOCOLS: [(&str, u8); 12] = [
    ("tcp", 6),
    ("sctp", 132),
    ("udp", 17),
    ("udplite", 136),
    ("icmp", 1),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("esp", 50),
    ("ah", 51),
    ("mobility-header", 135),
    ("ipv6-mh", 135),
    ("mh", 135),
];

impl Names for Numeric {
    fn protocol(&self, name: &str) -> Option<u8> {
        if name == "all" {
            return Some(0);
        }
        PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
    }

    fn protocol_name(&self, number: u8) -> Option<String> {
        PROTOCOLS.iter().find(|(_, known)| *known == number).map(|(name, _)| (*name).to_owned())
    }

    fn service(&self, _: &str, _: &str) -> Option<u16> {
        None
    }

    fn service_name(&self, _: u16, _: &str) -> Option<String> {
        None
    }

    fn resolve(&self, _: &str, _: Family) -> Vec<IpAddr> {
        Vec::new()
    }

    fn host_name(&self, _: IpAddr) -> Option<String> {
        None
    }
}

/// A protocol by number or name, as `-p` takes it.
pub(crate) fn protocol(text: &str, names: &dyn Names) -> Option<u8> {
    match super::text::number(text) {
        Some(number) => u8::try_from(number).ok(),
        None => {
            let lower = text.to_ascii_lowercase();
            Numeric.protocol(&lower).or_else(|| names.protocol(&lower))
        }
    }
}

/// A protocol's name, if it has one.
pub(crate) fn protocol_name(number: u8, names: &dyn Names) -> Option<String> {
    names.protocol_name(number).or_else(|| Numeric.protocol_name(number))
}
