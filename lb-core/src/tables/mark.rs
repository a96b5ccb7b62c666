//! Firewall marks: which new connections have which, as the operator says. A virtual service may take its packets by mark, so that
//! it has many addresses, ports and protocols.

use std::ops::RangeInclusive;

use super::{Prefix, Protocol};
use crate::flow::Tuple;
use crate::set::{Asking, Facts, SetId, Sets, Side, Threshold};
use crate::time::Tick;

/// One wish. What is not said matches anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MarkRule {
    /// Not 0.
    pub mark: u32,
    pub protocol: Option<Protocol>,
    pub source: Option<Prefix>,
    pub destination: Option<Prefix>,
    pub destination_ports: RangeInclusive<u16>,
    /// The client is in this set: its addresses are clients', its ports those that the client asks for.
    pub source_set: Option<SetId>,
    /// What the client asks for is in this set.
    pub destination_set: Option<SetId>,
}

impl MarkRule {
    /// For whatever comes.
    pub fn any(mark: u32) -> MarkRule {
        MarkRule {
            mark,
            protocol: None,
            source: None,
            destination: None,
            destination_ports: 0..=u16::MAX,
            source_set: None,
            destination_set: None,
        }
    }

    fn matches(&self, packet: &Tuple, sets: &Sets, now: Tick) -> bool {
        self.protocol.is_none_or(|protocol| protocol == packet.protocol)
            && self.source.is_none_or(|source| source.contains(packet.src))
            && self.destination.is_none_or(|destination| destination.contains(packet.dst))
            && self.destination_ports.contains(&packet.dport)
            && self.source_set.is_none_or(|set| is_in(set, packet, &OF_CLIENT, sets, now))
            && self.destination_set.is_none_or(|set| is_in(set, packet, &OF_DESTINATION, sets, now))
    }
}

/// Which ends of a packet the parts of a set's type are taken from.
const OF_CLIENT: [Side; 3] = [Side::Source, Side::Destination, Side::Destination];
const OF_DESTINATION: [Side; 3] = [Side::Destination, Side::Destination, Side::Source];

/// They do not count.
const UNCOUNTED: Asking = Asking {
    skips_counters: true,
    skips_members: true,
    wants_nomatch: false,
    packets: Threshold::Any,
    bytes: Threshold::Any,
    keeps_macs: true,
};

fn is_in(set: SetId, packet: &Tuple, sides: &[Side], sets: &Sets, now: Tick) -> bool {
    let facts = Facts {
        source: packet.src,
        destination: packet.dst,
        protocol: packet.protocol.0,
        ports: Some((packet.sport, packet.dport)),
        mark: 0,
        in_interface: "",
        out_interface: "",
        macs: ([0; 6], [0; 6]),
        len: 0,
    };
    sets.matches(set, &facts, sides, now, &UNCOUNTED).is_some()
}

/// All of them. They are asked for the first packet of a connection alone, one after the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Marks(pub Vec<MarkRule>);

impl Marks {
    /// The mark of a connection that begins with such a packet: the first rule that matches says it.
    pub fn mark(&self, packet: &Tuple, sets: &Sets, now: Tick) -> Option<u32> {
        self.0.iter().find(|rule| rule.matches(packet, sets, now)).map(|rule| rule.mark)
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
        let any = MarkRule::any(1);
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
        let mark = |src, dst, dport, protocol| {
            marks.mark(&packet(src, dst, dport, protocol), &Sets::default(), Tick(0))
        };
        assert_eq!(mark("192.0.2.1", "10.9.0.1", 80, Protocol::TCP), Some(7));
        assert_eq!(mark("2001:db8::1", "2001:db8::2", 81, Protocol::TCP), Some(7));
        assert_eq!(mark("192.0.2.1", "10.9.0.1", 80, Protocol::UDP), Some(8));
        assert_eq!(mark("192.0.2.127", "10.9.255.1", 82, Protocol::TCP), Some(8));
        assert_eq!(mark("192.0.2.128", "10.9.0.1", 82, Protocol::TCP), Some(10), "not of that network");
        assert_eq!(mark("192.0.2.1", "10.8.255.255", 82, Protocol::TCP), Some(10), "not to that network");
        assert_eq!(mark("fd00::1", "2001:db8::2", 79, Protocol::TCP), Some(9));
        assert_eq!(mark("fd00::1", "fd00::2", 79, Protocol::TCP), None, "0.0.0.0/0 is IPv4's");
    }

    #[test]
    fn a_rule_with_sets_wants_both_ends_in_them() {
        use std::sync::Arc;

        use crate::set::{Element, Extensions, Family, Place, Set, SetType, Shape, Store};

        let hash = |name: &str, elements: &[Element]| {
            let kind = SetType::named(name).unwrap();
            let key = Element::key_words(kind, Family::Ipv4);
            let shape = Shape {
                key,
                value: 0,
                has_timeout: true,
                has_counters: false,
                has_comment: false,
                has_skbinfo: false,
                counts_interfaces: false,
            };
            let store = Store::new(shape, Place::Hashed(5), 8);
            for element in elements {
                let until = (element.second == 0).then_some(Tick(100));
                let extensions = Extensions { until, ..Extensions::default() };
                let element = Element { second: 0, ..*element };
                assert!(store.pen().unwrap().put(
                    &element.key(kind, Family::Ipv4),
                    0,
                    false,
                    &extensions,
                    element.lens(kind)
                ));
            }
            Some(Arc::new(Set::with(kind, Family::Ipv4, store)))
        };
        let address = |text: &str| crate::set::bits(text.parse().unwrap());
        let clients = [Element { address: address("192.0.2.0"), len: 24, ..Element::default() }];
        let asked = [Element {
            address: address("10.9.0.1"),
            protocol: 6,
            port: 80,
            second: 1,
            ..Element::default()
        }];
        let sets = vec![hash("hash:net", &clients), hash("hash:ip,port", &asked)];
        let sets = Sets { sets, ..Sets::default() };
        let marks = Marks(vec![MarkRule {
            source_set: Some(SetId(0)),
            destination_set: Some(SetId(1)),
            ..MarkRule::any(7)
        }]);
        let mark =
            |src, dst, dport, now| marks.mark(&packet(src, dst, dport, Protocol::TCP), &sets, Tick(now));
        assert_eq!(mark("192.0.2.77", "10.9.0.1", 80, 99), Some(7));
        assert_eq!(mark("192.0.2.77", "10.9.0.1", 80, 100), None, "the network's time is over");
        assert_eq!(mark("192.0.3.77", "10.9.0.1", 80, 99), None);
        assert_eq!(mark("192.0.2.77", "10.9.0.1", 81, 99), None);
        assert_eq!(mark("2001:db8::1", "2001:db8::2", 80, 99), None);
    }
}
