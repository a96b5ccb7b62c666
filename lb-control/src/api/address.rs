//! What virtual services are known by, and what they and connections are over.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use lb_core::tables::Prefix;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::endpoint::{BadEndpoint, Endpoint};

/// A transport protocol that a virtual service can be over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    pub const ALL: [Transport; 3] = [Transport::Tcp, Transport::Udp, Transport::Sctp];

    /// As in the config file, in URLs and in the services database.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        }
    }
}

/// What a connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionProtocol {
    Tcp,
    Udp,
    Sctp,
    /// Of a firewall mark's persistence template: all of them.
    Ip,
}

impl ConnectionProtocol {
    pub const fn name(self) -> &'static str {
        match self.transport() {
            Some(transport) => transport.name(),
            None => "ip",
        }
    }

    pub const fn transport(self) -> Option<Transport> {
        match self {
            ConnectionProtocol::Tcp => Some(Transport::Tcp),
            ConnectionProtocol::Udp => Some(Transport::Udp),
            ConnectionProtocol::Sctp => Some(Transport::Sctp),
            ConnectionProtocol::Ip => None,
        }
    }
}

/// What a virtual service is known by, written `tcp/192.0.2.1:80`, `udp/[2001:db8::1]:53`, `tcp/192.0.2.0/24:80`, `fwmark/7` or
/// `fwmark6/7`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ServiceAddress {
    /// All addresses of a prefix, which has no host bits; a single one is `prefix_len` 32 or 128.
    Endpoint {
        transport: Transport,
        address: IpAddr,
        prefix_len: u8,
        port: u16,
    },
    FwMark {
        mark: u32,
        is_ipv6: bool,
    },
}

impl utoipa::PartialSchema for ServiceAddress {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some(
                "tcp/ADDRESS:PORT, tcp/ADDRESS/LENGTH:PORT, udp/…, sctp/…, fwmark/MARK or fwmark6/MARK",
            ))
            .examples([serde_json::json!("tcp/192.0.2.1:80")])
            .into()
    }
}

impl ToSchema for ServiceAddress {}

impl ServiceAddress {
    pub const fn new(transport: Transport, address: IpAddr, port: u16) -> ServiceAddress {
        let prefix_len = Prefix::longest(address.is_ipv6());
        ServiceAddress::Endpoint { transport, address, prefix_len, port }
    }

    pub fn at(transport: Transport, at: Endpoint) -> ServiceAddress {
        let Endpoint { prefix: Prefix { address, len: prefix_len }, port } = at;
        ServiceAddress::Endpoint { transport, address, prefix_len, port }
    }

    pub fn is_ipv6(&self) -> bool {
        match self {
            ServiceAddress::Endpoint { address, .. } => address.is_ipv6(),
            ServiceAddress::FwMark { is_ipv6, .. } => *is_ipv6,
        }
    }

    /// 0 for a firewall mark.
    pub fn port(&self) -> u16 {
        match self {
            ServiceAddress::Endpoint { port, .. } => *port,
            ServiceAddress::FwMark { .. } => 0,
        }
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ServiceAddress::Endpoint { transport, address, prefix_len, port } => {
                let at = Endpoint { prefix: Prefix { address, len: prefix_len }, port };
                write!(f, "{}/{at}", transport.name())
            }
            ServiceAddress::FwMark { mark, is_ipv6: false } => write!(f, "fwmark/{mark}"),
            ServiceAddress::FwMark { mark, is_ipv6: true } => write!(f, "fwmark6/{mark}"),
        }
    }
}

impl From<ServiceAddress> for String {
    fn from(address: ServiceAddress) -> String {
        address.to_string()
    }
}

impl TryFrom<String> for ServiceAddress {
    type Error = BadServiceAddress;

    fn try_from(text: String) -> Result<ServiceAddress, BadServiceAddress> {
        text.parse()
    }
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadServiceAddress {
    #[error(
        "virtual service {0:?}: expected tcp/ADDRESS:PORT, udp/ADDRESS:PORT, sctp/ADDRESS:PORT, fwmark/MARK or fwmark6/MARK; \
         ADDRESS may be ADDRESS/LENGTH"
    )]
    Malformed(String),
    #[error("virtual service {0:?}: {1}")]
    HostBits(String, BadEndpoint),
}

impl FromStr for ServiceAddress {
    type Err = BadServiceAddress;

    fn from_str(text: &str) -> Result<ServiceAddress, BadServiceAddress> {
        let bad = || BadServiceAddress::Malformed(text.to_owned());
        let (kind, rest) = text.split_once('/').ok_or_else(bad)?;
        if let Some(transport) = Transport::ALL.into_iter().find(|transport| transport.name() == kind) {
            let at = rest.parse().map_err(|error| match error {
                BadEndpoint::HostBits(_) => BadServiceAddress::HostBits(text.to_owned(), error),
                _ => bad(),
            })?;
            return Ok(ServiceAddress::at(transport, at));
        }
        let is_ipv6 = match kind {
            "fwmark" => false,
            "fwmark6" => true,
            _ => return Err(bad()),
        };
        match rest.parse() {
            Ok(mark @ 1..) => Ok(ServiceAddress::FwMark { mark, is_ipv6 }),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_addresses_read_as_they_are_written() {
        for text in [
            "tcp/192.0.2.1:80",
            "udp/[2001:db8::1]:53",
            "sctp/192.0.2.1:9000",
            "tcp/192.0.2.0/24:80",
            "udp/[2001:db8::/64]:0",
            "fwmark/7",
            "fwmark6/4294967295",
        ] {
            assert_eq!(text.parse::<ServiceAddress>().expect(text).to_string(), text);
        }
        for text in [
            "",
            "tcp",
            "tcp/",
            "tcp/192.0.2.1",
            "icmp/192.0.2.1:1",
            "fwmark/0",
            "fwmark/-1",
            "fwmark/4294967296",
            "tcp/2001:db8::1:80",
            "tcp/[fe80::1%3]:80",
            "tcp/192.0.2.1/24:80",
            "tcp/192.0.2.0/33:80",
        ] {
            let error = text.parse::<ServiceAddress>().expect_err(text);
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
