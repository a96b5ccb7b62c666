//! `ipv6header`: which extension headers an IPv6 packet has.
//!
//! Source of the facts: Linux, `net/ipv6/netfilter/ip6t_ipv6header.c`.

use super::Match;
use crate::rule::chain6::{AUTHENTICATION, Chain6, DESTINATION, ESP, FRAGMENT, HOP_BY_HOP, NOTHING, ROUTING};
use crate::rule::prelude::*;
use crate::rule::text::number;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ipv6Header {
    bits: u8,
    is_not: bool,
    /// There may be others.
    is_soft: bool,
}

/// A header that is none: of a protocol above.
const PROTOCOL: u8 = 255;

/// (long name, other names, kind, bit), in the order in which they are printed.
const HEADERS: [(&str, &[&str], u8, u8); 8] = [
    ("hop-by-hop", &["hop"], HOP_BY_HOP, 0x80),
    ("ipv6-opts", &["dst"], DESTINATION, 0x40),
    ("ipv6-route", &["route"], ROUTING, 0x20),
    ("ipv6-frag", &["frag"], FRAGMENT, 0x10),
    ("ah", &["auth"], AUTHENTICATION, 0x08),
    ("esp", &[], ESP, 0x04),
    ("ipv6-nonxt", &["none"], NOTHING, 0x02),
    ("protocol", &["prot"], PROTOCOL, 0x01),
];

/// Of a kind of header; what is no extension header is a protocol.
fn bit(kind: u8) -> u8 {
    HEADERS.iter().find(|(_, _, known, _)| *known == kind).map_or(0x01, |(.., bit)| *bit)
}

impl Ipv6Header {
    fn put(&self, out: &mut String) {
        let mut comma = "";
        for (name, ..) in HEADERS.iter().filter(|(.., bit)| self.bits & bit != 0) {
            put!(out, "{comma}{name}");
            comma = ",";
        }
    }
}

impl Extension for Ipv6Header {
    const NAME: &'static str = "ipv6header";
    const OPTIONS: &'static [Opt] = &[opt("header", 0).must().negatable(), flag("soft", 1)];
    const FAMILY: Option<Family> = Some(Family::Ipv6);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        if given.id() == 1 {
            self.is_soft = true;
            return Ok(());
        }
        for text in given.value.split(',') {
            let lower = text.to_ascii_lowercase();
            let found = HEADERS.iter().find(|(name, others, kind, _)| {
                *name == lower || others.contains(&&*lower) || number(text) == Some((*kind).into())
            });
            let unknown = || Error::parameter(format!("unknown header `{text}' specified"));
            self.bits |= found.ok_or_else(unknown)?.3;
        }
        self.is_not = given.is_negated;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --header ", not(self.is_not));
        self.put(out);
        out.push_str(if self.is_soft { " --soft" } else { "" });
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        put!(out, " ipv6header flags:{}", if self.is_not { "!" } else { "" });
        if style.is_numeric {
            put!(out, "0x{:02X}", self.bits);
        } else {
            self.put(out);
        }
        out.push_str(if self.is_soft { " soft" } else { "" });
    }
}

impl Match for Ipv6Header {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(mut chain) = Chain6::of(view) else { return false };
        let headers = chain.by_ref().fold(0, |bits, (kind, _)| bits | bit(kind));
        let found = headers | bit(chain.kind);
        match (self.is_soft, self.is_not) {
            (false, is_not) => (found == self.bits) != is_not,
            (true, false) => found & self.bits == self.bits,
            // Soft and not: none of them.
            (true, true) => found & self.bits == 0,
        }
    }
}
