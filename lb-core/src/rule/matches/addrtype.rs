//! `addrtype`: what kind of address source and destination are to this host.

use std::net::IpAddr;

use super::Match;
use crate::rule::prelude::*;
use crate::tables::{InterfaceId, Tables, Way};

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
const MULTICAST: usize = 5;
const BLACKHOLE: usize = 6;
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

    fn hold(&self, address: IpAddr, view: &View<'_>, of: Option<InterfaceId>) -> bool {
        self.bits == 0 || (self.bits & (1 << kind(address, view.tables, of)) != 0) != self.is_not
    }
}

/// Of an address; `of`: as seen from this interface alone. Index into [`TYPES`].
fn kind(address: IpAddr, tables: &Tables, of: Option<InterfaceId>) -> usize {
    match address {
        IpAddr::V4(address) if address.is_unspecified() => UNSPECIFIED,
        IpAddr::V4(address) if tables.routes.is_broadcast(address) => BROADCAST,
        _ if address.is_multicast() => MULTICAST,
        _ => match tables.way(address) {
            Way::Local if of.is_some_and(|of| !has(tables, of, address)) => UNICAST,
            Way::Local => LOCAL,
            Way::Forbidden => PROHIBIT,
            _ => UNICAST,
        },
    }
}

/// Whether it is an interface's own address.
fn has(tables: &Tables, of: InterfaceId, address: IpAddr) -> bool {
    tables.interfaces.get(of).is_some_and(|interface| match address {
        IpAddr::V4(address) => interface.ipv4 == Some(address),
        IpAddr::V6(address) => interface.ipv6 == Some(address),
    })
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
        self.source.hold(view.tuple.src, view, of) && self.destination.hold(view.tuple.dst, view, of)
    }
}
