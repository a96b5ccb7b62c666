//! The addresses of this host, and which of them is the source of what leaves by an interface: for rules that masquerade.
//!
//! Of IPv4 it is, among the primary addresses that count everywhere, the first one of the interface in whose network the next hop is, else its first
//! one, else the first one of any interface. Of IPv6 it is the best one of all interfaces by RFC 6724 §5, towards a multicast or link-local
//! destination the best one of the interface; which prefixes have the same label is §2.1, and ORCHIDs (RFC 4843) keep among themselves.
//!
//! Source of the facts: Linux, `inet_select_addr` in `net/ipv4/devinet.c`, `ipv6_dev_get_saddr` in `net/ipv6/addrconf.c`, `net/ipv6/addrlabel.c`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::{HashMap, HashSet};

use super::{InterfaceId, Prefix};

/// An address of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnAddress {
    pub address: IpAddr,
    /// Its network; of a point-to-point link that of the other end.
    pub network: Prefix,
    /// `None`: it is on an interface that is Linux's alone.
    pub interface: Option<InterfaceId>,
    /// It may be chosen: of IPv4 a primary one that counts everywhere (scope `global`), of IPv6 none that is not known yet to be nobody else's.
    pub is_eligible: bool,
    /// IPv6 (RFC 4862 §5.5.4, RFC 4429, RFC 8981).
    pub is_deprecated: bool,
    pub is_optimistic: bool,
    pub is_temporary: bool,
}

impl OwnAddress {
    /// One that is nothing but there.
    pub fn plain(address: IpAddr, len: u8, interface: Option<InterfaceId>) -> OwnAddress {
        OwnAddress {
            address,
            network: Prefix { address, len },
            interface,
            is_eligible: true,
            is_deprecated: false,
            is_optimistic: false,
            is_temporary: false,
        }
    }
}

/// One of IPv6 that may be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Candidate {
    address: Ipv6Addr,
    len: u8,
    interface: Option<InterfaceId>,
    is_avoided: bool,
    is_optimistic: bool,
    is_temporary: bool,
    scope: u8,
    label: u8,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OwnAddresses {
    all: HashSet<(InterfaceId, IpAddr)>,
    /// Of each interface, in the kernel's order; without those that no next hop can be a neighbour of, but for the first.
    ipv4: HashMap<InterfaceId, Vec<(Ipv4Addr, Prefix)>>,
    /// The first of IPv4 of all interfaces.
    first: Option<Ipv4Addr>,
    ipv6: Vec<Candidate>,
}

impl OwnAddresses {
    /// In the kernel's order: by interface, and of each as the kernel has them.
    pub fn new(addresses: impl IntoIterator<Item = OwnAddress>) -> OwnAddresses {
        let mut own = OwnAddresses::default();
        for its in addresses {
            if let Some(interface) = its.interface {
                own.all.insert((interface, its.address));
            }
            match its.address {
                _ if !its.is_eligible => {}
                IpAddr::V4(address) => own.add_ipv4(address, &its),
                IpAddr::V6(address) => own.ipv6.push(Candidate::new(address, &its)),
            }
        }
        own
    }

    fn add_ipv4(&mut self, address: Ipv4Addr, its: &OwnAddress) {
        self.first.get_or_insert(address);
        let Some(interface) = its.interface else { return };
        let list = self.ipv4.entry(interface).or_default();
        let is_alone = its.network.len == 32 && its.network.address == its.address;
        if list.is_empty() || !is_alone {
            list.push((address, its.network));
        }
    }

    /// Whether it is an address of this interface.
    pub fn has(&self, interface: InterfaceId, address: IpAddr) -> bool {
        self.all.contains(&(interface, address))
    }

    /// Whether by it all of a network are meant that this interface has an address in.
    pub fn has_broadcast(&self, interface: InterfaceId, address: Ipv4Addr) -> bool {
        let its = self.ipv4.get(&interface).map(Vec::as_slice).unwrap_or_default();
        its.iter().any(|(_, network)| {
            let hosts = u32::MAX.checked_shr(network.len.into()).unwrap_or(0);
            network.len < 31 && network.contains(address.into()) && u32::from(address) & hosts == hosts
        })
    }

    /// That of what leaves by this interface for `to`, by the neighbour `next_hop`.
    pub fn source(&self, output: InterfaceId, to: IpAddr, next_hop: IpAddr) -> Option<IpAddr> {
        match to {
            IpAddr::V4(_) => self.ipv4_source(output, next_hop).map(IpAddr::V4),
            IpAddr::V6(to) => self.ipv6_source(output, to).map(IpAddr::V6),
        }
    }

    fn ipv4_source(&self, output: InterfaceId, next_hop: IpAddr) -> Option<Ipv4Addr> {
        let its = self.ipv4.get(&output).map(Vec::as_slice).unwrap_or_default();
        let near = its.iter().find(|(_, network)| network.contains(next_hop));
        near.or(its.first()).map(|&(address, _)| address).or(self.first)
    }

    fn ipv6_source(&self, output: InterfaceId, to: Ipv6Addr) -> Option<Ipv6Addr> {
        let (scope, label) = (scope(to), label(to));
        let is_near = to.is_multicast() || scope <= LINK_LOCAL;
        let mut best: Option<(Score, Ipv6Addr)> = None;
        for candidate in self.ipv6.iter().filter(|its| !is_near || its.interface == Some(output)) {
            let score = candidate.score(output, to, scope, label);
            if best.is_none_or(|(found, _)| score > found) {
                best = Some((score, candidate.address));
            }
        }
        best.map(|(_, address)| address)
    }
}

/// How good a candidate is, by the rules of RFC 6724 §5 in their order; of two that are as good the first one is taken.
type Score = (bool, i16, bool, bool, bool, bool, bool, u8, bool);

impl Candidate {
    fn new(address: Ipv6Addr, its: &OwnAddress) -> Candidate {
        Candidate {
            address,
            len: its.network.len,
            interface: its.interface,
            is_avoided: its.is_deprecated || its.is_optimistic,
            is_optimistic: its.is_optimistic,
            is_temporary: its.is_temporary,
            scope: scope(address),
            label: label(address),
        }
    }

    fn score(&self, output: InterfaceId, to: Ipv6Addr, scope: u8, label: u8) -> Score {
        // One that reaches far enough, and no farther than it must; else the one that reaches farthest.
        let reach = i16::from(self.scope);
        (
            self.address == to,
            if self.scope >= scope { -reach } else { reach - 128 },
            !self.is_avoided || self.address.is_loopback(),
            self.interface == Some(output),
            self.label == label,
            !self.is_temporary,
            is_orchid(self.address) == is_orchid(to),
            common_bits(self.address, to).min(self.len),
            !self.is_optimistic,
        )
    }
}

const LINK_LOCAL: u8 = 2;
const SITE_LOCAL: u8 = 5;
const GLOBAL: u8 = 14;

/// RFC 4291 §2.7, RFC 6724 §3.1.
fn scope(address: Ipv6Addr) -> u8 {
    match address.octets() {
        [0xff, second, ..] => second & 15,
        [0xfe, 0x80..=0xbf, ..] => LINK_LOCAL,
        [0xfe, 0xc0..=0xff, ..] => SITE_LOCAL,
        _ if address.is_loopback() => LINK_LOCAL,
        _ => GLOBAL,
    }
}

/// By the prefixes of RFC 6724 §2.1; what is compared is whether two are the same.
fn label(address: Ipv6Addr) -> u8 {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => 0,
        [0, 0, 0, 0, 0, 0xffff, ..] => 4,
        [0, 0, 0, 0, 0, 0, ..] => 3,
        [0x2001, 0, ..] => 6,
        [0x2001, 0x10..=0x1f, ..] => 7,
        [0x2002, ..] => 2,
        [0x3ffe, ..] => 12,
        [0xfec0..=0xfeff, ..] => 11,
        [0xfc00..=0xfdff, ..] => 5,
        _ => 1,
    }
}

/// 2001:10::/28.
fn is_orchid(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [0x2001, 0x10..=0x1f, ..])
}

fn common_bits(one: Ipv6Addr, other: Ipv6Addr) -> u8 {
    (u128::from(one) ^ u128::from(other)).leading_zeros() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAN: InterfaceId = InterfaceId(0);
    const LAN: InterfaceId = InterfaceId(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn own(text: &str, interface: Option<InterfaceId>) -> OwnAddress {
        let (address, len) = text.split_once('/').expect("an address and a length");
        OwnAddress::plain(ip(address), len.parse().expect(len), interface)
    }

    fn source(all: &[OwnAddress], output: InterfaceId, to: &str) -> Option<String> {
        let own = OwnAddresses::new(all.iter().copied());
        own.source(output, ip(to), ip(to)).map(|address| address.to_string())
    }

    #[test]
    fn of_ipv4_it_is_the_one_in_whose_network_the_next_hop_is_else_the_interfaces_first_else_any() {
        let all = [
            own("203.0.113.9/32", None),
            own("192.0.2.1/24", Some(WAN)),
            own("192.0.2.10/32", Some(WAN)),
            own("198.51.100.1/24", Some(WAN)),
            // To 198.51.100.7 these two are as near, and the first one counts.
            own("198.51.100.2/28", Some(WAN)),
            OwnAddress {
                network: Prefix { address: ip("172.16.0.9"), len: 32 },
                ..own("172.16.0.1/32", Some(WAN))
            },
            OwnAddress { is_eligible: false, ..own("10.0.0.1/24", Some(LAN)) },
        ];
        let of = |output, to| source(&all, output, to);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of(WAN, "192.0.2.7"), some("192.0.2.1"));
        assert_eq!(of(WAN, "198.51.100.7"), some("198.51.100.1"));
        assert_eq!(of(WAN, "172.16.0.9"), some("172.16.0.1"), "a point-to-point link's other end");
        assert_eq!(of(WAN, "10.9.9.9"), some("192.0.2.1"));
        assert_eq!(of(LAN, "10.0.0.7"), some("203.0.113.9"), "an interface without one that may be chosen");
        assert_eq!(source(&all[6..], LAN, "10.0.0.7"), None);
        let own = OwnAddresses::new(all);
        assert!(own.has(LAN, ip("10.0.0.1")) && own.has(WAN, ip("192.0.2.10")));
        assert!(!own.has(WAN, ip("10.0.0.1")));
    }

    #[test]
    fn of_ipv6_each_rule_counts_where_those_before_it_say_nothing() {
        let to = "2001:db8:1:2::99";
        let [far, near] = [own("2001:db8:f::1/64", Some(WAN)), own("2001:db8:1:2::1/64", Some(WAN))];
        let (other, link) = (own("2001:db8:1:2::5/64", Some(LAN)), own("fe80::1/64", Some(WAN)));
        let (local, site) = (own("fd00::1/64", Some(WAN)), own("fec0::1/64", Some(WAN)));
        let better = |worse: OwnAddress, better: OwnAddress, to| {
            for all in [[worse, better], [better, worse]] {
                assert_eq!(source(&all, WAN, to), Some(better.address.to_string()), "{all:?}");
            }
        };
        better(near, own("2001:db8:1:2::99/128", Some(LAN)), to);
        better(link, other, to);
        better(link, site, to);
        better(near, link, "fe80::9");
        better(near, site, "fec0::9");
        better(OwnAddress { is_deprecated: true, ..near }, other, to);
        better(OwnAddress { is_optimistic: true, ..near }, other, to);
        better(other, far, to);
        better(local, far, to);
        better(far, local, "fd77::1");
        better(OwnAddress { is_temporary: true, ..near }, far, to);
        better(far, near, to);
        assert_eq!(source(&[far, far], WAN, to).as_deref(), Some("2001:db8:f::1"));
        // As many bits as its prefix has count.
        let [long, short] = [own("2001:db8:1:2::98/64", Some(WAN)), own("2001:db8:1:2::1/64", Some(WAN))];
        assert_eq!(source(&[short, long], WAN, to).as_deref(), Some("2001:db8:1:2::1"), "the first");
    }

    #[test]
    fn near_destinations_have_a_source_of_their_link_alone() {
        let all = [own("2001:db8::1/64", Some(LAN)), own("fe80::2/64", Some(LAN))];
        assert_eq!(source(&all, WAN, "fe80::9"), None);
        assert_eq!(source(&all, WAN, "ff0e::9"), None);
        assert_eq!(source(&all, WAN, "2001:db8:9::9").as_deref(), Some("2001:db8::1"));
        assert_eq!(source(&[own("fd00::1/64", None)], WAN, "2001:db8:9::9").as_deref(), Some("fd00::1"));
    }

    #[test]
    fn prefixes_have_the_labels_of_the_rfc() {
        let of = |text: &str| label(text.parse().expect(text));
        let all = [
            "::1",
            "::",
            "::ffff:1.2.3.4",
            "2001:db8::1",
            "2002::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "fd00::1",
            "fec0::1",
            "3ffe::1",
        ];
        assert_eq!(all.map(of), [0, 3, 4, 1, 2, 6, 7, 1, 5, 11, 12]);
    }
}
