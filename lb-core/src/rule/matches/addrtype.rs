//! `addrtype`: what kind of address source and destination are to this host.
//!
//! An IPv4 address is of one kind, and is to be of one of those that are named. It goes by the host's own addresses alone: where routes forbid an address it is
//! UNICAST, so that no address is BLACKHOLE, UNREACHABLE, PROHIBIT or THROW. An IPv6 address may be of several kinds: it is to be of all that are
//! named of UNSPEC, UNICAST and MULTICAST, and of one of those of LOCAL, ANYCAST and UNREACHABLE, which routes decide: what no route leads to, or one
//! forbids, is UNREACHABLE.
//!
//! Source of the facts: Linux 6.18, asked; `net/netfilter/xt_addrtype.c`, `inet_dev_addr_type` in `net/ipv4/fib_frontend.c`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Match;
use crate::rule::prelude::*;
use crate::tables::{InterfaceId, Route, Tables};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct AddrType {
    source: Types,
    destination: Types,
    /// Local are the addresses of this interface alone, and it is the one by which others are reached.
    of: Option<Side>,
    is_ipv6: bool,
}

/// The interface by which the packet came, or leaves.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Side {
    In,
    Out,
}

#[derive(Clone, PartialEq, Debug, Default)]
struct Types {
    bits: u16,
    is_not: bool,
}

const TYPES: [&str; 12] = [
    "UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW",
    "NAT", "XRESOLVE",
];

const UNSPECIFIED: usize = 0;
const UNICAST: usize = 1;
const LOCAL: usize = 2;
const BROADCAST: usize = 3;
const ANYCAST: usize = 4;
const MULTICAST: usize = 5;
const BLACKHOLE: usize = 6;
const UNREACHABLE: usize = 7;
const PROHIBIT: usize = 8;

impl Types {
    fn take(&mut self, given: &Given<'_, '_>) -> Result<(), Error> {
        for word in given.value.split(',') {
            let upper = word.to_ascii_uppercase();
            let found = TYPES.iter().position(|name| !upper.is_empty() && name.starts_with(&*upper));
            self.bits |= 1 << found.ok_or_else(|| Error::parameter(format!("addrtype: bad type \"{}\"", given.value)))?;
        }
        self.is_not = given.is_negated;
        Ok(())
    }

    /// `before` and `behind` the option's name.
    fn put(&self, out: &mut String, before: &str, behind: &str) {
        if self.bits == 0 {
            return;
        }
        put!(out, "{before} {behind}");
        let mut comma = "";
        for (_, name) in TYPES.iter().enumerate().filter(|(bit, _)| self.bits & (1 << bit) != 0) {
            put!(out, "{comma}{name}");
            comma = ",";
        }
    }

    fn hold(&self, address: IpAddr, tables: &Tables, of: Option<InterfaceId>) -> bool {
        let is_one = match address {
            IpAddr::V4(address) => self.name(ipv4_kind(address, tables, of)),
            IpAddr::V6(address) => self.hold_ipv6(address, tables, of),
        };
        self.bits == 0 || is_one != self.is_not
    }

    fn name(&self, kind: usize) -> bool {
        self.bits & (1 << kind) != 0
    }

    fn hold_ipv6(&self, address: Ipv6Addr, tables: &Tables, of: Option<InterfaceId>) -> bool {
        const ROUTED: u16 = 1 << LOCAL | 1 << ANYCAST | 1 << UNREACHABLE;
        let is_unicast =
            !address.is_multicast() && !address.is_unspecified() && address.to_ipv4_mapped().is_none();
        let is_other = self.name(MULTICAST) && !address.is_multicast()
            || self.name(UNICAST) && !is_unicast
            || self.name(UNSPECIFIED) && !address.is_unspecified();
        !is_other && (self.bits & ROUTED == 0 || ipv6_kind(address, tables, of).is_some_and(|kind| self.name(kind)))
    }
}

/// Of an address; `of`: as seen from this interface alone. Index into [`TYPES`].
fn ipv4_kind(address: Ipv4Addr, tables: &Tables, of: Option<InterfaceId>) -> usize {
    let own = tables.interfaces.own();
    if address.octets()[0] == 0 || address.is_broadcast() {
        BROADCAST
    } else if address.is_multicast() {
        MULTICAST
    } else if tables.routes.is_broadcast(address) {
        if of.is_none_or(|of| own.has_broadcast(of, address)) { BROADCAST } else { UNICAST }
    } else if !tables.routes.is_local(address.into()) || of.is_some_and(|of| !own.has(of, address.into())) {
        UNICAST
    } else if tables.routes.is_anycast(address.into()) {
        ANYCAST
    } else {
        LOCAL
    }
}

/// The same of IPv6 by its route: `None` where it is a neighbour's, or somebody's behind one.
fn ipv6_kind(address: Ipv6Addr, tables: &Tables, of: Option<InterfaceId>) -> Option<usize> {
    let is_own = |of| tables.interfaces.own().has(of, address.into());
    if address.is_multicast() {
        return None;
    }
    if let (Some(of), true) = (of, address.is_unicast_link_local()) {
        // Each link has a route to these.
        return is_own(of).then_some(LOCAL);
    }
    let is_anycast = tables.routes.is_anycast(address.into());
    match (tables.routes.lookup(address.into()), of) {
        (None | Some(Route::Forbidden), _) => Some(UNREACHABLE),
        (Some(Route::Local), _) if is_anycast => Some(ANYCAST),
        (Some(Route::Local), None) => Some(LOCAL),
        (Some(Route::Local), Some(of)) => Some(if is_own(of) { LOCAL } else { UNREACHABLE }),
        (Some(Route::Via { interface, .. }), Some(of)) if interface != of => Some(UNREACHABLE),
        (Some(Route::Linux), Some(_)) => Some(UNREACHABLE),
        (Some(Route::Via { .. } | Route::Linux), _) => is_anycast.then_some(ANYCAST),
    }
}

impl Extension for AddrType {
    const NAME: &'static str = "addrtype";
    const OPTIONS: &'static [Opt] = &[
        opt("src-type", 0).negatable(),
        opt("dst-type", 1).negatable(),
        flag("limit-iface-in", 2).not_with(1 << 3),
        flag("limit-iface-out", 3).not_with(1 << 2),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.source.take(given)?,
            1 => self.destination.take(given)?,
            id => self.of = Some(if id == 2 { Side::In } else { Side::Out }),
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, around: &Around<'_>) -> Result<(), Error> {
        self.is_ipv6 = around.family == Family::Ipv6;
        if seen & 3 == 0 {
            return Err(Error::parameter("addrtype: you must specify --src-type or --dst-type"));
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.source.put(out, &format!("{} --src-type", not(self.source.is_not)), "");
        self.destination.put(out, &format!("{} --dst-type", not(self.destination.is_not)), "");
        out.push_str(match self.of {
            Some(Side::In) => " --limit-iface-in",
            Some(Side::Out) => " --limit-iface-out",
            None => "",
        });
    }

    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        /// INPUT and PREROUTING, OUTPUT and POSTROUTING.
        const COMES: u8 = 1 | 2;
        const LEAVES: u8 = 8 | 16;
        /// What IPv6 has not.
        const IPV4_ALONE: u16 = 1 << BROADCAST | 1 << BLACKHOLE | !((1 << PROHIBIT) - 1);
        let is_elsewhere = match self.of {
            Some(Side::In) => place.hooks & LEAVES != 0,
            Some(Side::Out) => place.hooks & COMES != 0,
            None => false,
        };
        let is_other = self.is_ipv6 && (self.source.bits | self.destination.bits) & IPV4_ALONE != 0;
        if is_elsewhere || is_other { Err(Refused::Invalid) } else { Ok(()) }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" ADDRTYPE match");
        let sign = |types: &Types| if types.is_not { "!" } else { "" };
        self.source.put(out, " src-type", sign(&self.source));
        self.destination.put(out, " dst-type", sign(&self.destination));
        out.push_str(match self.of {
            Some(Side::In) => " limit-in",
            Some(Side::Out) => " limit-out",
            None => "",
        });
    }
}

impl Match for AddrType {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let of = match self.of {
            Some(Side::In) => view.input,
            Some(Side::Out) => view.output,
            None => None,
        };
        self.source.hold(view.tuple.src, view.tables, of) && self.destination.hold(view.tuple.dst, view.tables, of)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::PortId;
    use crate::tables::{Interface, Interfaces, OwnAddress, Prefix, Routes};

    const WAN: InterfaceId = InterfaceId(0);
    const LAN: InterfaceId = InterfaceId(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn tables() -> Tables {
        let interface = |name: &str, port| Interface {
            name: name.into(),
            port: PortId(port),
            vlan: 0,
            mac: [2; 6],
            mtu: 1500,
            outside: false,
            group: 0,
            ipv4: None,
            ipv6: None,
        };
        let own = |text: &str, len, of| OwnAddress::plain(ip(text), len, Some(of));
        let interfaces = Interfaces::new(vec![interface("wan", 0), interface("lan", 1)]).with_addresses([
            own("192.0.2.1", 24, WAN),
            own("192.0.2.9", 24, WAN),
            own("10.0.0.1", 24, LAN),
            own("2001:db8::1", 64, WAN),
            own("fe80::1", 64, WAN),
            own("fd00::1", 64, LAN),
        ]);
        let via = |interface, gateway: Option<&str>| Route::Via { interface, gateway: gateway.map(ip) };
        let local = [
            "192.0.2.1", "192.0.2.9", "192.0.2.255", "10.0.0.1", "10.0.0.255", "192.0.2.77", "2001:db8::1", "fd00::1",
            "2001:db8::", "fe80::1",
        ];
        let local = local.map(|address| (address, Prefix::longest(address.contains(':')), Route::Local));
        let others = [
            ("192.0.2.0", 24, via(WAN, None)),
            ("10.9.0.0", 16, Route::Forbidden),
            ("2001:db8::", 64, via(WAN, None)),
            ("fd00::", 64, via(LAN, None)),
            ("fe80::", 64, via(LAN, None)),
            ("2001:db8:5::", 48, via(WAN, Some("2001:db8::2"))),
            ("2001:db8:9::", 48, Route::Forbidden),
            ("2001:db8:a::", 48, Route::Linux),
        ];
        let routes = local.into_iter().chain(others);
        let routes = Routes::new(routes.map(|(address, len, route)| (Prefix { address: ip(address), len }, route)))
            .with_broadcasts(["192.0.2.255", "10.0.0.255"].map(|address| address.parse().unwrap()))
            .with_anycasts([ip("2001:db8::"), ip("192.0.2.77")]);
        Tables { interfaces: Arc::new(interfaces), routes: Arc::new(routes), ..Tables::default() }
    }

    fn types(names: &str, is_not: bool) -> Types {
        let bit = |name: &str| 1 << TYPES.iter().position(|known| *known == name).expect(name);
        Types { bits: names.split(',').map(bit).sum(), is_not }
    }

    /// Of these lists of kinds, those that an address is of; after `!` those that it is of by negation.
    fn of_all<'n>(names: &[&'n str], address: &str, of: Option<InterfaceId>) -> Vec<&'n str> {
        let tables = tables();
        let holds = |names: &str, is_not| types(names, is_not).hold(ip(address), &tables, of);
        names.iter().for_each(|names| assert_ne!(holds(names, false), holds(names, true), "{names} of {address}"));
        names.iter().copied().filter(|names| holds(names, false)).collect()
    }

    #[test]
    fn an_ipv4_address_is_of_one_kind_and_routes_that_forbid_it_make_it_none() {
        for (address, kind) in [
            ("192.0.2.1", "LOCAL"),
            ("192.0.2.7", "UNICAST"),
            ("10.9.0.1", "UNICAST"),
            ("203.0.113.1", "UNICAST"),
            ("192.0.2.77", "ANYCAST"),
            ("192.0.2.255", "BROADCAST"),
            ("255.255.255.255", "BROADCAST"),
            ("0.0.0.0", "BROADCAST"),
            ("0.0.0.9", "BROADCAST"),
            ("224.0.0.1", "MULTICAST"),
        ] {
            assert_eq!(of_all(&TYPES, address, None), [kind], "{address}");
        }
        for (address, of, kind) in [
            ("192.0.2.9", WAN, "LOCAL"),
            ("192.0.2.9", LAN, "UNICAST"),
            ("192.0.2.255", WAN, "BROADCAST"),
            ("192.0.2.255", LAN, "UNICAST"),
            ("255.255.255.255", LAN, "BROADCAST"),
        ] {
            assert_eq!(of_all(&TYPES, address, Some(of)), [kind], "{address} from {of:?}");
        }
    }

    /// As asked of Linux with the same addresses and routes.
    #[test]
    fn an_ipv6_address_is_to_be_of_all_that_say_what_it_is_and_of_one_that_its_route_says() {
        const NAMES: [&str; 11] = [
            "UNICAST", "LOCAL", "ANYCAST", "UNREACHABLE", "MULTICAST", "UNSPEC", "UNICAST,LOCAL", "UNICAST,UNREACHABLE",
            "LOCAL,UNREACHABLE", "MULTICAST,LOCAL", "UNICAST,ANYCAST",
        ];
        const LOCAL: &[&str] = &["UNICAST", "LOCAL", "UNICAST,LOCAL", "LOCAL,UNREACHABLE"];
        const LOST: &[&str] = &["UNICAST", "UNREACHABLE", "UNICAST,UNREACHABLE", "LOCAL,UNREACHABLE"];
        const ANY: &[&str] = &["UNICAST", "ANYCAST", "UNICAST,ANYCAST"];
        for (address, of, expected) in [
            ("2001:db8::1", None, LOCAL),
            ("2001:db8::1", Some(WAN), LOCAL),
            ("2001:db8::1", Some(LAN), LOST),
            ("2001:db8::", None, ANY),
            ("2001:db8::", Some(WAN), ANY),
            ("fd00::", None, ANY),
            ("2001:db8::99", None, &["UNICAST"]),
            ("2001:db8:5::5", Some(WAN), &["UNICAST"]),
            ("2001:db8:5::", None, &["UNICAST"]),
            ("2001:db8:a::5", None, &["UNICAST"]),
            ("2001:db8:9::5", None, LOST),
            ("2001:db8:4::5", None, LOST),
            ("2001:db8:4::5", Some(WAN), LOST),
            ("fe80::1", Some(WAN), LOCAL),
            ("fe80::1", Some(LAN), &["UNICAST"]),
            ("fe80::77", Some(WAN), &["UNICAST"]),
            ("ff02::1", None, &["MULTICAST"]),
            ("ff02::1", Some(WAN), &["MULTICAST"]),
            ("::", None, &["UNREACHABLE", "UNSPEC", "LOCAL,UNREACHABLE"]),
            ("::ffff:1.2.3.4", None, &["UNREACHABLE", "LOCAL,UNREACHABLE"]),
        ] {
            assert_eq!(of_all(&NAMES, address, of), expected, "{address} from {of:?}");
        }
    }
}
