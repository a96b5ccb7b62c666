//! Names of hosts and ports: as the system knows them (`/etc/hosts`, DNS, `/etc/services`), each asked for once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dns_lookup::{AddrFamily, AddrInfoHints, SockType, getaddrinfo, getnameinfo};

use super::address::ipv6_text;
use crate::api::types::Transport;
use crate::endpoint::Endpoint;
use lb_core::tables::Prefix;

/// Who knows names.
pub trait Lookup {
    /// The IPv4 address of a host: ipvsadm does not ask for IPv6.
    fn address(&self, host: &str) -> Option<Ipv4Addr>;
    fn host(&self, address: Ipv4Addr) -> Option<String>;
    /// `service` is not a number.
    fn port(&self, service: &str, transport: Transport) -> Option<u16>;
    /// `port` is not 0.
    fn service(&self, port: u16, transport: Transport) -> Option<String>;
}

/// What the C library knows. Of SCTP ipvsadm does not ask it.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Lookup for System {
    fn address(&self, host: &str) -> Option<Ipv4Addr> {
        let hints = AddrInfoHints { address: AddrFamily::Inet.into(), ..stream() };
        getaddrinfo(Some(host), None, Some(hints)).ok()?.flatten().find_map(|info| match info.sockaddr.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    fn host(&self, address: Ipv4Addr) -> Option<String> {
        let at = SocketAddr::new(address.into(), 0);
        getnameinfo(&at, libc::NI_NUMERICSERV | libc::NI_NAMEREQD).ok().map(|(host, _)| host)
    }

    fn port(&self, service: &str, transport: Transport) -> Option<u16> {
        let hints = match transport {
            Transport::Tcp => stream(),
            Transport::Udp => AddrInfoHints { socktype: SockType::DGram.into(), ..AddrInfoHints::default() },
            Transport::Sctp => return None,
        };
        getaddrinfo(None, Some(service), Some(hints)).ok()?.flatten().map(|info| info.sockaddr.port()).next()
    }

    fn service(&self, port: u16, transport: Transport) -> Option<String> {
        let datagram = match transport {
            Transport::Tcp => 0,
            Transport::Udp => libc::NI_DGRAM,
            Transport::Sctp => return None,
        };
        let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        getnameinfo(&at, libc::NI_NUMERICHOST | datagram).ok().map(|(_, service)| service)
    }
}

fn stream() -> AddrInfoHints {
    AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() }
}

/// Names for one run of the command.
pub(crate) struct Names<'a> {
    lookup: &'a dyn Lookup,
    hosts: RefCell<HashMap<Ipv4Addr, Option<String>>>,
    services: RefCell<HashMap<(u16, Transport), Option<String>>>,
}

impl<'a> Names<'a> {
    pub(crate) fn new(lookup: &'a dyn Lookup) -> Names<'a> {
        Names { lookup, hosts: RefCell::default(), services: RefCell::default() }
    }

    pub(crate) fn address(&self, host: &str) -> Option<Ipv4Addr> {
        self.lookup.address(host)
    }

    /// The port of a service by name; numbers are no names.
    pub(crate) fn port(&self, service: &str, transport: Transport) -> Option<u16> {
        let digits = service.trim_start().trim_start_matches(['+', '-']);
        if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        self.lookup.port(service, transport)
    }

    /// `host:port` for a listing. As with ipvsadm, an IPv6 host stays a number, and a port of no protocol.
    pub(crate) fn endpoint(&self, at: SocketAddr, transport: Option<Transport>, numeric: bool) -> String {
        let host = match at.ip() {
            IpAddr::V4(address) if numeric => address.to_string(),
            IpAddr::V4(address) => {
                let mut hosts = self.hosts.borrow_mut();
                let name = hosts.entry(address).or_insert_with(|| self.lookup.host(address));
                name.clone().unwrap_or_else(|| address.to_string())
            }
            IpAddr::V6(address) => format!("[{}]", ipv6_text(address)),
        };
        let transport = transport.filter(|_| !numeric);
        format!("{host}:{}", self.port_name(at.port(), transport))
    }

    fn port_name(&self, port: u16, transport: Option<Transport>) -> String {
        let Some(transport) = transport.filter(|_| port != 0) else { return port.to_string() };
        let mut services = self.services.borrow_mut();
        let service =
            services.entry((port, transport)).or_insert_with(|| self.lookup.service(port, transport));
        service.clone().unwrap_or_else(|| port.to_string())
    }

    /// The same of a virtual service; a prefix has no name.
    pub(crate) fn service(&self, at: Endpoint, transport: Transport, numeric: bool) -> String {
        let Endpoint { prefix: Prefix { address, len }, port } = at;
        match address {
            _ if !at.is_prefix() => self.endpoint(SocketAddr::new(address, port), Some(transport), numeric),
            _ if numeric => at.to_string(),
            IpAddr::V4(_) => format!("{address}/{len}:{}", self.port_name(port, Some(transport))),
            IpAddr::V6(_) => format!("[{address}/{len}]:{}", self.port_name(port, Some(transport))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(at: &str, numeric: bool) -> String {
        Names::new(&System).endpoint(at.parse().expect(at), Some(Transport::Udp), numeric)
    }

    #[test]
    fn numbers_need_no_names() {
        assert_eq!(endpoint("[2001:db8::1]:53", true), "[2001:db8::1]:53");
        assert_eq!(endpoint("127.0.0.1:0", true), "127.0.0.1:0");
        assert_eq!(endpoint("[::127.0.0.1]:53", true), "[::127.0.0.1]:53");
    }

    #[test]
    fn the_system_knows_localhost_and_domain() {
        assert_eq!(endpoint("127.0.0.1:53", false), "localhost:domain");
        assert_eq!(endpoint("[2001:db8::1]:53", false), "[2001:db8::1]:domain");
        assert_eq!(System.address("localhost"), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(System.port("domain", Transport::Udp), Some(53));
        assert_eq!(System.port("nosuchservice", Transport::Tcp), None);
        assert_eq!(System.service(53, Transport::Sctp), None);
    }

    #[test]
    fn numbers_are_no_names() {
        let names = Names::new(&System);
        assert_eq!(names.port("domain", Transport::Tcp), Some(53));
        for number in ["", "80", "-80", " 99999"] {
            assert_eq!(names.port(number, Transport::Tcp), None, "{number:?}");
        }
    }
}
