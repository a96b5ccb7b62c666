//! What a virtual service is told besides its scheduler.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ConnLimits;
use crate::time::Timeout;
use crate::wire::proxy::Version as ProxyVersion;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceOptions {
    /// A client keeps its real server (`ipvsadm -p`).
    pub persistence: Option<Persistence>,
    /// What else tells the clients of a persistent service apart (`ipvsadm --pe`). Without persistence it has no effect.
    pub engine: Option<Engine>,
    /// Each datagram of a UDP service is scheduled anew (`ipvsadm -o`).
    pub one_packet: bool,
    /// The real server is told who the client is by a header in front of the stream. Of TCP, masqueraded.
    pub proxy_protocol: Option<ProxyVersion>,
    /// As `proxy_protocol`, by a TCP option.
    pub toa: bool,
    /// The maximum segment size that a client asks for in its SYN is lowered to what fits the tunnel to the real server.
    pub clamp_mss: bool,
    /// What reads along for further connections. Of TCP.
    pub helper: Option<Helper>,
    /// Whether clients are answered with SYN cookies. Of TCP, masqueraded.
    pub syn_cookies: SynCookies,
    /// How many connections it may have, and how many new ones in a second.
    pub limits: ConnLimits,
}

/// When a service's clients are answered with a SYN cookie, so that its real servers hear of those alone that acknowledge it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SynCookies {
    #[default]
    Off,
    On,
    /// While so many SYNs a second come, of all workers together.
    Auto(u32),
}

impl SynCookies {
    /// SYNs a second above which `auto` says that it is a flood.
    pub const ABOVE: u32 = 1000;

    /// `off`, `on`, `auto`, `auto:RATE`; `None`: it is none of these, or the rate is 0.
    pub fn parse(text: &str) -> Option<SynCookies> {
        match text {
            "off" => Some(SynCookies::Off),
            "on" => Some(SynCookies::On),
            "auto" => Some(SynCookies::Auto(SynCookies::ABOVE)),
            _ => {
                let rate = text.strip_prefix("auto:")?;
                let is_number = rate.bytes().all(|byte| byte.is_ascii_digit());
                rate.parse().ok().filter(|&rate| is_number && rate > 0).map(SynCookies::Auto)
            }
        }
    }

    /// The opposite of [`SynCookies::parse`]; `None` when they are off, as where nothing is said.
    pub fn text(self) -> Option<String> {
        match self {
            SynCookies::Off => None,
            SynCookies::On => Some("on".to_owned()),
            SynCookies::Auto(SynCookies::ABOVE) => Some("auto".to_owned()),
            SynCookies::Auto(rate) => Some(format!("auto:{rate}")),
        }
    }
}

/// Reads along in a connection for others that belong to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Helper {
    Ftp,
}

impl Helper {
    pub const ALL: [Helper; 1] = [Helper::Ftp];

    pub const fn name(self) -> &'static str {
        match self {
            Helper::Ftp => "ftp",
        }
    }

    pub fn from_name(name: &str) -> Option<Helper> {
        Helper::ALL.into_iter().find(|helper| helper.name() == name)
    }
}

/// A persistence engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Engine {
    /// Each call, by its Call-ID, is a client of its own.
    Sip,
}

impl Engine {
    pub const ALL: [Engine; 1] = [Engine::Sip];

    pub const fn name(self) -> &'static str {
        match self {
            Engine::Sip => "sip",
        }
    }

    pub fn from_name(name: &str) -> Option<Engine> {
        Engine::ALL.into_iter().find(|engine| engine.name() == name)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Persistence {
    /// After its last connection began; at least a second.
    pub timeout: Timeout,
    pub mask: ClientMask,
}

/// Which bits of their addresses tell clients apart (`ipvsadm -M`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientMask(u128);

impl ClientMask {
    /// Each address is a client.
    pub const WHOLE: ClientMask = ClientMask(u128::MAX);

    /// Any bits, as the kernel takes them.
    pub fn ipv4(mask: Ipv4Addr) -> ClientMask {
        ClientMask(u128::MAX << 32 | u128::from(u32::from(mask)))
    }

    /// `None`: not within 1..=128.
    pub fn ipv6(prefix: u8) -> Option<ClientMask> {
        (1..=128).contains(&prefix).then(|| ClientMask(u128::MAX << (128 - prefix)))
    }

    /// The client that this address is.
    pub fn client(self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(a) => Ipv4Addr::from(u32::from(a) & self.0 as u32).into(),
            IpAddr::V6(a) => Ipv6Addr::from(u128::from(a) & self.0).into(),
        }
    }

    /// As `ipvsadm -M` takes it: a mask for IPv4, a prefix length for IPv6. `None`: no such mask.
    pub fn parse(text: &str, is_ipv6: bool) -> Option<ClientMask> {
        if is_ipv6 {
            ClientMask::ipv6(text.parse().ok()?)
        } else {
            Some(ClientMask::ipv4(text.parse().ok()?))
        }
    }

    /// The opposite of [`ClientMask::parse`]; `None` when each address is a client.
    pub fn text(self, is_ipv6: bool) -> Option<String> {
        if self == ClientMask::WHOLE {
            None
        } else if is_ipv6 {
            Some(self.0.leading_ones().to_string())
        } else {
            Some(Ipv4Addr::from(self.0 as u32).to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_cookies_are_made_reads_as_it_is_written() {
        for text in ["on", "auto", "auto:1", "auto:4294967295"] {
            assert_eq!(SynCookies::parse(text).and_then(SynCookies::text).as_deref(), Some(text));
        }
        assert_eq!(SynCookies::parse("auto:1000").and_then(SynCookies::text).as_deref(), Some("auto"));
        assert_eq!(SynCookies::parse("off").map(SynCookies::text), Some(None));
        for text in ["", "yes", "auto:", "auto:0", "auto:+5", "auto:4294967296", "auto:x"] {
            assert_eq!(SynCookies::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_mask_reads_as_it_is_written_and_makes_clients_of_addresses() {
        for (text, address, client) in [
            ("255.255.255.0", "192.0.2.77", "192.0.2.0"),
            ("255.0.255.0", "10.1.2.3", "10.0.2.0"),
            ("0.0.0.24", "10.1.2.31", "0.0.0.24"),
            ("64", "2001:db8::1:2:3:4", "2001:db8::"),
            ("1", "c000::1", "8000::"),
        ] {
            let address: IpAddr = address.parse().expect(address);
            let mask = ClientMask::parse(text, address.is_ipv6()).expect(text);
            assert_eq!(mask.client(address).to_string(), client, "{text}");
            assert_eq!(mask.text(address.is_ipv6()).as_deref(), Some(text));
        }
        for (text, is_ipv6) in [("255.255.255.255", false), ("128", true)] {
            assert_eq!(ClientMask::parse(text, is_ipv6), Some(ClientMask::WHOLE));
        }
        assert_eq!(ClientMask::WHOLE.text(false), None);
        for (text, is_ipv6) in
            [("0", true), ("129", true), ("255.255.255.0", true), ("24", false), ("", false)]
        {
            assert_eq!(ClientMask::parse(text, is_ipv6), None, "{text}");
        }
    }
}
