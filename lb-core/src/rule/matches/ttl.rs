//! `ttl`: the ttl field.

use super::Match;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ttl {
    test: Test,
    value: u8,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum Test {
    #[default]
    Is,
    IsNot,
    Below,
    Above,
}

const ALL: u32 = 0b111;

impl Extension for Ttl {
    const NAME: &'static str = "ttl";
    const OPTIONS: &'static [Opt] = &[
        opt("ttl-lt", 1).not_with(ALL & !2),
        opt("ttl-gt", 2).not_with(ALL & !4),
        opt("ttl-eq", 0).negatable().not_with(ALL & !1),
    ];
    const FAMILY: Option<Family> = Some(Family::Ipv4);

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
        if seen == 0 {
            return Err(Error::parameter(
                "TTL match: You must specify one of `--ttl-eq', `--ttl-lt', `--ttl-gt",
            ));
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        let option = match self.test {
            Test::Is => "--ttl-eq",
            Test::IsNot => "! --ttl-eq",
            Test::Below => "--ttl-lt",
            Test::Above => "--ttl-gt",
        };
        put!(out, " {option} {}", self.value);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        let test = match self.test {
            Test::Is => "==",
            Test::IsNot => "!=",
            Test::Below => "<",
            Test::Above => ">",
        };
        put!(out, " TTL match TTL {test} {}", self.value);
    }
}

impl Match for Ttl {
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
