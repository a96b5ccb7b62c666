//! `addrtype`: what kind of address source and destination are to this host.

use std::net::IpAddr;

use super::Match;
use crate::rule::prelude::*;
use crate::tables::{Tables, Way};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct AddrType {
    source: Types,
    destination: Types,
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

impl Types {
    fn take(&mut self, given: &Given<'_, '_>) -> Result<(), Error> {
        for word in given.value.split(',') {
            let upper = word.to_ascii_uppercase();
            let found = TYPES.iter().position(|name| !upper.is_empty() && name.starts_with(&*upper));
            self.bits |= 1 << found.ok_or_else(|| Error::parameter(format!("addrtype: bad type `{}'", given.value)))?;
        }
        self.is_not = given.is_negated;
        Ok(())
    }

    fn put(&self, out: &mut String, before: &str) {
        if self.bits == 0 {
            return;
        }
        put!(out, "{}{before} ", not(self.is_not));
        let mut comma = "";
        for (_, name) in TYPES.iter().enumerate().filter(|(bit, _)| self.bits & (1 << bit) != 0) {
            put!(out, "{comma}{name}");
            comma = ",";
        }
    }

    fn hold(&self, address: IpAddr, tables: &Tables) -> bool {
        self.bits == 0 || (self.bits & (1 << kind(address, tables)) != 0) != self.is_not
    }
}

/// Index into [`TYPES`].
fn kind(address: IpAddr, tables: &Tables) -> usize {
    match address {
        IpAddr::V4(address) if address.is_unspecified() => 0,
        IpAddr::V4(address) if address.is_broadcast() => 3,
        _ if address.is_multicast() => 5,
        _ => match tables.way(address) {
            Way::Local => 2,
            Way::Forbidden => 8,
            _ => 1,
        },
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
            _ => return Err(Error::other(format!("addrtype: --{} is not built yet", given.option.name))),
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen & 3 == 0 {
            return Err(Error::parameter("addrtype: you must specify --src-type or --dst-type"));
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.source.put(out, " --src-type");
        self.destination.put(out, " --dst-type");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" ADDRTYPE match");
        self.source.put(out, " src-type");
        self.destination.put(out, " dst-type");
    }
}

impl Match for AddrType {
    fn matches(&self, view: &mut View<'_>) -> bool {
        self.source.hold(view.tuple.src, view.tables) && self.destination.hold(view.tuple.dst, view.tables)
    }
}
