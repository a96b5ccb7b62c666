//! Where a virtual service is, as operators write it: `192.0.2.1:80`, `[2001:db8::1]:80`, and of all addresses of a prefix
//! `192.0.2.0/24:80`, `[2001:db8::/64]:80`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use lb_core::tables::Prefix;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Without host bits.
    pub prefix: Prefix,
    pub port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadEndpoint {
    #[error("no address or prefix with port")]
    Malformed,
    /// `fe80::1%eth0`: link-local addresses are the same on every link, and the tables do not tell links apart.
    #[error("has a zone, which is not built yet")]
    Zone,
    /// With the prefix that may be meant.
    #[error("has bits behind the prefix: {0} is one without")]
    HostBits(Endpoint),
}

impl Endpoint {
    pub fn of(at: SocketAddr) -> Endpoint {
        Endpoint { prefix: whole(at.ip()), port: at.port() }
    }

    /// Whether it is more than one address.
    pub fn is_prefix(&self) -> bool {
        self.prefix != whole(self.prefix.address)
    }
}

fn whole(address: IpAddr) -> Prefix {
    Prefix { address, len: Prefix::longest(address.is_ipv6()) }
}

/// `192.0.2.0/24` or `2001:db8::/64`; `None`: it is no prefix.
pub(crate) fn prefix(text: &str) -> Option<Prefix> {
    let (address, len) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let is_number = !len.is_empty() && len.bytes().all(|byte| byte.is_ascii_digit());
    let len = len.parse().ok().filter(|&len| is_number && len <= Prefix::longest(address.is_ipv6()))?;
    Some(Prefix { address, len })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { prefix: Prefix { address, len }, port } = *self;
        match address {
            _ if !self.is_prefix() => SocketAddr::new(address, port).fmt(f),
            IpAddr::V4(_) => write!(f, "{address}/{len}:{port}"),
            IpAddr::V6(_) => write!(f, "[{address}/{len}]:{port}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Endpoint, BadEndpoint> {
        if let Ok(at) = text.parse::<SocketAddr>() {
            let has_zone = matches!(at, SocketAddr::V6(v6) if v6.scope_id() != 0);
            return if has_zone { Err(BadEndpoint::Zone) } else { Ok(Endpoint::of(at)) };
        }
        let (network, port) = text.rsplit_once(':').ok_or(BadEndpoint::Malformed)?;
        let inner = network.strip_prefix('[').map(|rest| rest.strip_suffix(']'));
        let found = prefix(inner.unwrap_or(Some(network)).ok_or(BadEndpoint::Malformed)?);
        let found = found.filter(|prefix| prefix.address.is_ipv6() == inner.is_some());
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| is_number).ok_or(BadEndpoint::Malformed)?;
        Endpoint::new(found.ok_or(BadEndpoint::Malformed)?, port)
    }
}

impl Endpoint {
    /// # Errors
    /// `HostBits`.
    pub fn new(prefix: Prefix, port: u16) -> Result<Endpoint, BadEndpoint> {
        let network = prefix.network();
        let found = Endpoint { prefix: Prefix { address: network, ..prefix }, port };
        if network == prefix.address { Ok(found) } else { Err(BadEndpoint::HostBits(found)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_reads_as_it_is_written() {
        for text in [
            "192.0.2.1:80",
            "192.0.2.0/24:80",
            "192.0.2.1:0",
            "0.0.0.0/0:53",
            "128.0.0.0/1:0",
            "[2001:db8::1]:80",
            "[2001:db8::/64]:80",
            "[::/0]:65535",
        ] {
            let read: Endpoint = text.parse().expect(text);
            assert_eq!(read.to_string(), text);
            assert_eq!(read.is_prefix(), text.contains('/'));
        }
        let whole = [("192.0.2.1/32:80", "192.0.2.1:80"), ("[2001:db8::1/128]:80", "[2001:db8::1]:80")];
        for (text, same) in whole {
            assert_eq!(text.parse::<Endpoint>(), same.parse(), "{text}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            ":80",
            "192.0.2.1",
            "192.0.2.0/24",
            "192.0.2.0/33:80",
            "192.0.2.0/:80",
            "192.0.2.0/+8:80",
            "192.0.2.0/24:",
            "192.0.2.0/24:+80",
            "192.0.2.0/24:65536",
            "[192.0.2.0/24]:80",
            "2001:db8::/64:80",
            "[2001:db8::/129]:80",
            "[2001:db8::/64:80",
            "localhost/8:80",
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(BadEndpoint::Malformed), "{text:?}");
        }
        assert_eq!("[fe80::1%2]:80".parse::<Endpoint>(), Err(BadEndpoint::Zone));
        let error = "192.0.2.7/24:80".parse::<Endpoint>().expect_err("host bits").to_string();
        assert_eq!(error, "has bits behind the prefix: 192.0.2.0/24:80 is one without");
    }
}
