//! Routes by mark: packets for other hosts that are for this one because of the firewall mark that they have.
//!
//! A transparent cache has `ip rule add fwmark 1 lookup 100` and `ip route add local 0.0.0.0/0 dev lo table 100`: what is marked comes to the host itself, whoever
//! has the address that it is bound for. Here a virtual service takes it; what none takes is routed by its destination, as if it had no mark.
//!
//! They are asked for the first packet of a connection alone, and only where its destination is no address of this host.
//!
//! Source of the facts: Linux, `fib_rule_match` in `net/core/fib_rules.c`, `__fib_lookup` in `net/ipv4/fib_rules.c`; ip-rule(8).

use std::net::IpAddr;

use super::Prefix;
use super::route::{Ranges, stretch};

/// What a rule by mark says of a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marked {
    /// It is for this host.
    Local,
    /// Its mark changes nothing: a table that all packets are looked up in comes before and knows it, or the rule's own leads elsewhere.
    AsUnmarked,
    /// The next rule is asked.
    Next,
}

/// The routes of one rule, in one family.
#[derive(Clone, Debug)]
pub struct MarkedRoutes {
    mark: u32,
    mask: u32,
    ipv4: Ranges<u32, Marked>,
    ipv6: Ranges<u128, Marked>,
}

impl MarkedRoutes {
    /// For packets whose mark is this one in the bits of `mask`. The longest prefix counts; what is in none has [`Marked::Next`].
    pub fn new(mark: u32, mask: u32, prefixes: impl IntoIterator<Item = (Prefix, Marked)>) -> MarkedRoutes {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for (prefix, said) in prefixes {
            let list = if prefix.address.is_ipv6() { &mut ipv6 } else { &mut ipv4 };
            list.push(stretch(prefix, said));
        }
        MarkedRoutes { mark, mask, ipv4: Ranges::new(ipv4).narrow(), ipv6: Ranges::new(ipv6) }
    }

    pub(super) fn are_for(&self, mark: u32) -> bool {
        (mark ^ self.mark) & self.mask == 0
    }

    pub(super) fn say(&self, to: IpAddr) -> Marked {
        let said = match to {
            IpAddr::V4(to) => self.ipv4.lookup(to.into()),
            IpAddr::V6(to) => self.ipv6.lookup(to.into()),
        };
        said.copied().unwrap_or(Marked::Next)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Routes;
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), len: len.parse().unwrap() }
    }

    #[test]
    fn the_first_rule_of_the_mark_that_knows_a_destination_says_whose_it_is() {
        let routes = |mark, mask, said: &[(&str, Marked)]| {
            MarkedRoutes::new(mark, mask, said.iter().map(|&(text, said)| (prefix(text), said)))
        };
        let routes = Routes::default().with_marked([
            routes(1, 0xff, &[("10.0.0.0/8", Marked::Local), ("10.9.0.0/16", Marked::Next)]),
            routes(1, u32::MAX, &[("10.9.1.0/24", Marked::AsUnmarked), ("10.0.0.0/8", Marked::Local)]),
            routes(1, u32::MAX, &[("10.9.1.0/24", Marked::Local), ("2001:db8::/32", Marked::Local)]),
        ]);
        let is_local = |to: &str, mark| routes.is_local_by_mark(to.parse().unwrap(), mark);
        assert!(is_local("10.1.1.1", 1) && is_local("10.1.1.1", 0x101), "the mask leaves bits out");
        assert!(!is_local("10.1.1.1", 2) && !is_local("10.1.1.1", 0) && !is_local("11.1.1.1", 1));
        assert!(is_local("10.9.9.9", 1), "the second rule");
        assert!(!is_local("10.9.9.9", 0x101), "which is for its mark alone");
        assert!(!is_local("10.9.1.1", 1), "the third is not asked");
        assert!(is_local("2001:db8::1", 1) && !is_local("2001:db9::1", 1));
        assert!(routes.have_marked() && !Routes::default().have_marked());
        let may_be = |to: &str| routes.may_be_local_by_mark(to.parse().unwrap());
        assert!(may_be("10.9.1.1") && may_be("2001:db8::1") && !may_be("11.1.1.1"));
    }
}
