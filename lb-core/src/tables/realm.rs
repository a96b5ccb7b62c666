//! Realms: numbers of 16 bits that Linux's IPv4 routes have (`ip route … realm FROM/TO`), and what comes of them for a packet.
//!
//! The kernel puts two of them into a number of a packet, which the match `realm` compares: below, the realm that the packet goes to, above, the one that it comes from. The route to its
//! destination says the first, and may say the second too; if it does not, the route to its source says that. Where neither does, rules do (`ip rule … realms FROM/TO`):
//! that of the route to the destination, then that of the route to the source, turned round.
//!
//! Source of the facts: Linux 6.18, asked; `set_class_tag` in `net/ipv4/route.c`, `fib_combine_itag` in `include/net/ip_fib.h`.

/// What the way to an address says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Realms {
    /// Of the addresses that it leads to; 0: none.
    to: u16,
    /// Of those that send there.
    from: u16,
    /// The second of these as a rule says it, whatever the route says.
    from_by_rule: u16,
}

impl Realms {
    pub const NONE: Realms = Realms { to: 0, from: 0, from_by_rule: 0 };

    /// Of a route (`RTA_FLOW`): the realm that it leads to in the low 16 bits, the other above.
    pub fn of_route(said: u32) -> Realms {
        Realms { to: said as u16, from: (said >> 16) as u16, from_by_rule: 0 }
    }

    /// The same in a table that a rule with realms (`FRA_FLOW`) has led to.
    #[must_use]
    pub fn by_rule(self, said: u32) -> Realms {
        let rule = Realms::of_route(said);
        Realms { to: or(self.to, rule.to), from: or(self.from, rule.from), from_by_rule: rule.from }
    }

    /// Of a packet that is routed by its destination alone, which these are of.
    pub fn of_sent(self) -> u32 {
        u32::from(self.from) << 16 | u32::from(self.to)
    }

    /// Of one that is for this host, from a source that these are of.
    pub fn of_received(self) -> u32 {
        u32::from(self.to) << 16 | u32::from(self.from_by_rule)
    }

    /// Of one that is forwarded from such a source.
    pub fn of_forwarded(self, source: Realms) -> u32 {
        let (from, to) = (or(self.from, source.to), or(self.to, source.from_by_rule));
        u32::from(from) << 16 | u32::from(to)
    }
}

fn or(realm: u16, other: u16) -> u16 {
    if realm == 0 { other } else { realm }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As asked of Linux 6.18: routes with these realms, rules with those, `-m realm` with a mask for each bit.
    #[test]
    fn a_packets_realms_are_put_together_as_in_the_kernel() {
        let route = Realms::of_route;
        let by_rule = |said| Realms::of_route(said).by_rule(0x11_0012);
        for (destination, source, forwarded, sent, received) in [
            (route(5), route(0), 0x5, 0x5, 0),
            (route(5), route(0x9_0007), 0x7_0005, 0x5, 0x7_0000),
            (route(0x9_0007), route(5), 0x9_0007, 0x9_0007, 0x5_0000),
            (route(0), route(5), 0x5_0000, 0, 0x5_0000),
            (by_rule(0), route(0), 0x11_0012, 0x11_0012, 0),
            (route(0), by_rule(0), 0x12_0011, 0, 0x12_0011),
            (by_rule(5), route(0), 0x11_0005, 0x11_0005, 0),
            (route(0), by_rule(5), 0x5_0011, 0, 0x5_0011),
            (by_rule(0x4_0005), route(0), 0x4_0005, 0x4_0005, 0),
            (route(0), by_rule(0x4_0005), 0x5_0011, 0, 0x5_0011),
        ] {
            assert_eq!(
                (destination.of_forwarded(source), destination.of_sent(), source.of_received()),
                (forwarded, sent, received),
                "to {destination:?} from {source:?}"
            );
        }
    }
}
