//! How many connections a virtual service may have, and how many new ones in a second.

use std::net::IpAddr;

use super::ClientMask;

/// What of a virtual service is limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnLimits {
    /// Connections at once, at most [`ConnLimits::MOST`]; 0: any number.
    pub connections: u32,
    /// New connections. `None`: any number.
    pub rate: Option<ConnRate>,
    /// The same of each source.
    pub source_connections: u32,
    pub source_rate: Option<ConnRate>,
    /// Leading bits of clients' addresses that tell one source from another, 1..=32 or 1..=128. `None`: all.
    pub source_prefix: Option<u8>,
}

impl ConnLimits {
    pub const NONE: ConnLimits = ConnLimits {
        connections: 0,
        rate: None,
        source_connections: 0,
        source_rate: None,
        source_prefix: None,
    };
    /// As many connections can be counted.
    pub const MOST: u32 = 16_000_000;

    /// Whether each source is limited.
    pub fn are_by_source(&self) -> bool {
        self.source_connections != 0 || self.source_rate.is_some()
    }

    /// The source that this address is of.
    pub(crate) fn source(&self, client: IpAddr) -> IpAddr {
        let Some(len) = self.source_prefix else { return client };
        let bits = if client.is_ipv6() { len } else { len.saturating_add(96) };
        ClientMask::ipv6(bits).unwrap_or(ClientMask::WHOLE).client(client)
    }
}

/// New connections in a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnRate {
    /// In a second, 1..=[`ConnRate::MOST`].
    pub per_second: u32,
    /// At once, after a time of none, 1..=[`ConnRate::MOST`].
    pub burst: u32,
}

impl ConnRate {
    pub const MOST: u32 = 10_000_000;

    /// `RATE`, whose burst is a second's worth, or `RATE:BURST`; `None`: it is neither, or one is outside its range.
    pub fn parse(text: &str) -> Option<ConnRate> {
        let number = |text: &str| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number| is_number && (1..=Self::MOST).contains(number))
        };
        let (rate, burst) = text.split_once(':').unwrap_or((text, text));
        Some(ConnRate { per_second: number(rate)?, burst: number(burst)? })
    }

    /// The opposite of [`ConnRate::parse`].
    pub fn text(self) -> String {
        let ConnRate { per_second, burst } = self;
        if per_second == burst { per_second.to_string() } else { format!("{per_second}:{burst}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_reads_as_it_is_written() {
        for (text, per_second, burst) in [("5", 5, 5), ("5:1", 5, 1), ("1:10000000", 1, 10_000_000)] {
            assert_eq!(ConnRate::parse(text), Some(ConnRate { per_second, burst }), "{text}");
            assert_eq!(ConnRate { per_second, burst }.text(), text);
        }
        assert_eq!(ConnRate::parse("7:7").map(ConnRate::text).as_deref(), Some("7"));
        for text in ["", "0", "5:", ":5", "5:0", "+5", "5:+5", "10000001", "5:5:5", "5/s"] {
            assert_eq!(ConnRate::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_source_is_as_many_bits_of_an_address() {
        for (prefix, client, source) in [
            (None, "192.0.2.77", "192.0.2.77"),
            (Some(24), "192.0.2.77", "192.0.2.0"),
            (Some(1), "192.0.2.77", "128.0.0.0"),
            (Some(32), "192.0.2.77", "192.0.2.77"),
            (Some(64), "2001:db8::1:2:3:4", "2001:db8::"),
            (Some(128), "2001:db8::1", "2001:db8::1"),
        ] {
            let limits = ConnLimits { source_prefix: prefix, ..ConnLimits::default() };
            assert_eq!(limits.source(client.parse().unwrap()).to_string(), source, "{prefix:?}");
        }
    }
}
