//! Names of hosts and ports, as the system knows them (`/etc/hosts`, DNS, `/etc/services`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dns_lookup::{AddrFamily, AddrInfoHints, SockType, getaddrinfo, getnameinfo};

use crate::api::types::Transport;

/// The IPv4 address of a host: ipvsadm does not ask for IPv6.
pub(crate) fn host_address(name: &str) -> Option<Ipv4Addr> {
    let hints = AddrInfoHints {
        address: AddrFamily::Inet.into(),
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    getaddrinfo(Some(name), None, Some(hints)).ok()?.flatten().find_map(|info| match info.sockaddr.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

/// The port of a service by name; numbers are no names.
pub(crate) fn service_port(name: &str, transport: Transport) -> Option<u16> {
    if name.trim_start().trim_start_matches(['+', '-']).bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let hints = AddrInfoHints {
        address: AddrFamily::Inet.into(),
        socktype: socket_type(transport)?.into(),
        ..AddrInfoHints::default()
    };
    getaddrinfo(None, Some(name), Some(hints)).ok()?.flatten().map(|info| info.sockaddr.port()).next()
}

/// `host:port` for a listing. As with ipvsadm, an IPv6 host stays a number, and so does a port of SCTP.
pub(crate) fn endpoint(at: SocketAddr, transport: Transport, numeric: bool) -> String {
    if numeric {
        return at.to_string();
    }
    let host = match at.ip() {
        IpAddr::V4(_) => {
            getnameinfo(&at, libc::NI_NUMERICSERV).map_or_else(|_| at.ip().to_string(), |(host, _)| host)
        }
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let datagram = if transport == Transport::Udp { libc::NI_DGRAM } else { 0 };
    let port = match socket_type(transport) {
        Some(_) if at.port() != 0 => {
            getnameinfo(&at, libc::NI_NUMERICHOST | datagram).map(|(_, port)| port).ok()
        }
        _ => None,
    };
    format!("{host}:{}", port.unwrap_or_else(|| at.port().to_string()))
}

fn socket_type(transport: Transport) -> Option<SockType> {
    match transport {
        Transport::Tcp => Some(SockType::Stream),
        Transport::Udp => Some(SockType::DGram),
        Transport::Sctp => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_no_names() {
        let at = "[2001:db8::1]:80".parse().expect("valid");
        assert_eq!(endpoint(at, Transport::Tcp, true), "[2001:db8::1]:80");
    }

    #[test]
    fn ports_have_names_by_protocol() {
        let at = "192.0.2.1:53".parse().expect("valid");
        assert_eq!(endpoint(at, Transport::Udp, false).rsplit(':').next(), Some("domain"));
        assert_eq!(service_port("domain", Transport::Udp), Some(53));
        assert_eq!(service_port("nosuchservice", Transport::Tcp), None);
        assert_eq!(service_port("domain", Transport::Sctp), None);
    }
}
