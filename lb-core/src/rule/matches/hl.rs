//! `hl`: the hop-limit field.

use super::Match;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct HopLimit {
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

impl Extension for HopLimit {
    const NAME: &'static str = "hl";
    const OPTIONS: &'static [Opt] = &[
        opt("hl-lt", 1).not_with(ALL & !2),
        opt("hl-gt", 2).not_with(ALL & !4),
        opt("hl-eq", 0).negatable().not_with(ALL & !1),
        opt("hl", 0).negatable().not_with(ALL & !1),
    ];
    const FAMILY: Option<Family> = Some(Family::Ipv6);

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
                "HL match: You must specify one of `--hl-eq', `--hl-lt', `--hl-gt'",
            ));
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        let option = match self.test {
            Test::Is => "--hl-eq",
            Test::IsNot => "! --hl-eq",
            Test::Below => "--hl-lt",
            Test::Above => "--hl-gt",
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
        put!(out, " HL match HL {test} {}", self.value);
    }
}

impl Match for HopLimit {
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
