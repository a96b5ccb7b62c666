//! `dscp`: the upper six bits of the TOS or traffic class (RFC 2474).

use super::Match;
use crate::rule::prelude::*;

use crate::rule::tos;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Dscp {
    value: u8,
    is_not: bool,
}

impl Extension for Dscp {
    const NAME: &'static str = "dscp";
    const OPTIONS: &'static [Opt] =
        &[opt("dscp", 0).negatable().not_with(2), opt("dscp-class", 1).negatable().not_with(1)];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.value = match given.id() {
            0 => given.number(0, 63)? as u8,
            _ => tos::class(given.value)?,
        };
        self.is_not = given.is_negated;
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen == 0 { Err(Error::parameter("DSCP match: Parameter --dscp is required")) } else { Ok(()) }
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --dscp 0x{:02x}", not(self.is_not), self.value);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " DSCP match {}0x{:02x}", if self.is_not { "!" } else { "" }, self.value);
    }
}

impl Match for Dscp {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        (view.tos() >> 2 == self.value) != self.is_not
    }
}
