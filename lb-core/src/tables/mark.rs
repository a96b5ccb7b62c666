//! Firewall marks: which new connections have which, as the operator says. A virtual service may take its packets by mark, so that
//! it has many addresses, ports and protocols.

use std::ops::RangeInclusive;

use super::{Prefix, Protocol};
use crate::flow::Tuple;

/// One wish. What is not said matches anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MarkRule {
    /// Not 0.
    pub mark: u32,
    pub protocol: Option<Protocol>,
    pub source: Option<Prefix>,
    pub destination: Option<Prefix>,
    pub destination_ports: RangeInclusive<u16>,
}

impl MarkRule {
    fn matches(&self, packet: &Tuple) -> bool {
        self.protocol.is_none_or(|protocol| protocol == packet.protocol)
            && self.source.is_none_or(|source| source.contains(packet.src))
            && self.destination.is_none_or(|destination| destination.contains(packet.dst))
            && self.destination_ports.contains(&packet.dport)
    }
}

/// All of them. They are asked for the first packet of a connection alone, one after the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Marks(pub Vec<MarkRule>);

impl Marks {
    /// The mark of a connection that begins with such a packet: the first rule that matches says it.
    pub fn mark(&self, packet: &Tuple) -> Option<u32> {
        self.0.iter().find(|rule| rule.matches(packet)).map(|rule| rule.mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), len: len.parse().unwrap() }
    }

    fn packet(src: &str, dst: &str, dport: u16, protocol: Protocol) -> Tuple {
        Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), sport: 4000, dport, protocol }
    }

    #[test]
    fn the_first_rule_that_matches_in_all_that_it_says_gives_the_mark() {
        let any = MarkRule {
            mark: 1,
            protocol: None,
            source: None,
            destination: None,
            destination_ports: 0..=u16::MAX,
        };
        let marks = Marks(vec![
            MarkRule { mark: 7, protocol: Some(Protocol::TCP), destination_ports: 80..=81, ..any.clone() },
            MarkRule {
                mark: 8,
                source: Some(prefix("192.0.2.0/25")),
                destination: Some(prefix("10.9.0.0/16")),
                ..any.clone()
            },
            MarkRule { mark: 9, destination: Some(prefix("2001:db8::/32")), ..any.clone() },
            MarkRule { mark: 10, source: Some(prefix("0.0.0.0/0")), ..any },
        ]);
        let mark = |src, dst, dport, protocol| marks.mark(&packet(src, dst, dport, protocol));
        assert_eq!(mark("192.0.2.1", "10.9.0.1", 80, Protocol::TCP), Some(7));
        assert_eq!(mark("2001:db8::1", "2001:db8::2", 81, Protocol::TCP), Some(7));
        assert_eq!(mark("192.0.2.1", "10.9.0.1", 80, Protocol::UDP), Some(8));
        assert_eq!(mark("192.0.2.127", "10.9.255.1", 82, Protocol::TCP), Some(8));
        assert_eq!(mark("192.0.2.128", "10.9.0.1", 82, Protocol::TCP), Some(10), "not of that network");
        assert_eq!(mark("192.0.2.1", "10.8.255.255", 82, Protocol::TCP), Some(10), "not to that network");
        assert_eq!(mark("fd00::1", "2001:db8::2", 79, Protocol::TCP), Some(9));
        assert_eq!(mark("fd00::1", "fd00::2", 79, Protocol::TCP), None, "0.0.0.0/0 is IPv4's");
    }
}
