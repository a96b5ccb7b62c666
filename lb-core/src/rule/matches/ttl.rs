//! `ttl`: the TTL. Of IPv6 it is the hop limit, and `hl`.

use super::Match;
use crate::rule::prelude::*;

/// `ttl`, or `hl`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HopsLeft<const IS_IPV6: bool> {
    test: Test,
    value: u8,
}

pub(super) type Ttl = HopsLeft<false>;
pub(super) type HopLimit = HopsLeft<true>;

#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum Test {
    #[default]
    Is,
    IsNot,
    Below,
    Above,
}

const ALL: u32 = 0b111;

const TTL: &[Opt] = &[
    opt("ttl-lt", 1).not_with(ALL & !2),
    opt("ttl-gt", 2).not_with(ALL & !4),
    opt("ttl-eq", 0).negatable().not_with(ALL & !1),
    opt("ttl", 0).negatable().not_with(ALL & !1),
];

const HL: &[Opt] = &[
    opt("hl-lt", 1).not_with(ALL & !2),
    opt("hl-gt", 2).not_with(ALL & !4),
    opt("hl-eq", 0).negatable().not_with(ALL & !1),
    opt("hl", 0).negatable().not_with(ALL & !1),
];

impl<const IS_IPV6: bool> Extension for HopsLeft<IS_IPV6> {
    const NAME: &'static str = if IS_IPV6 { "hl" } else { "ttl" };
    const OPTIONS: &'static [Opt] = if IS_IPV6 { HL } else { TTL };
    const FAMILY: Option<Family> = Some(if IS_IPV6 { Family::Ipv6 } else { Family::Ipv4 });

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.value = given.u8()?;
        self.test = match given.id() {
            1 => Test::Below,
            2 => Test::Above,
            _ if given.is_negated => Test::IsNot,
            _ => Test::Is,
        };
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        match seen {
            0 if IS_IPV6 => Err(Error::parameter(
                "HL match: You must specify one of `--hl-eq', `--hl-lt', `--hl-gt'",
            )),
            // As recorded: without the last quote.
            0 => Err(Error::parameter(
                "TTL match: You must specify one of `--ttl-eq', `--ttl-lt', `--ttl-gt",
            )),
            _ => Ok(()),
        }
    }

    fn save(&self, out: &mut String, _: Family) {
        let (not, test) = match self.test {
            Test::Is => ("", "eq"),
            Test::IsNot => ("! ", "eq"),
            Test::Below => ("", "lt"),
            Test::Above => ("", "gt"),
        };
        put!(out, " {not}--{}-{test} {}", Self::NAME, self.value);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        let name = if IS_IPV6 { "HL" } else { "TTL" };
        let test = match self.test {
            Test::Is => "==",
            Test::IsNot => "!=",
            Test::Below => "<",
            Test::Above => ">",
        };
        put!(out, " {name} match {name} {test} {}", self.value);
    }
}

impl<const IS_IPV6: bool> Match for HopsLeft<IS_IPV6> {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let found = view.ttl();
        match self.test {
            Test::Is => found == self.value,
            Test::IsNot => found != self.value,
            Test::Below => found < self.value,
            Test::Above => found > self.value,
        }
    }
}
