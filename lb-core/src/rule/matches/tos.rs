//! `tos`: the type of service, or traffic class, in the bits of a mask.

use super::Match;
use crate::rule::prelude::*;

use crate::rule::tos;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tos {
    value: u8,
    mask: u8,
    is_not: bool,
}

impl Extension for Tos {
    const NAME: &'static str = "tos";
    const OPTIONS: &'static [Opt] = &[opt("tos", 0).must().negatable()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        (self.value, self.mask) = tos::read(given, 0x3f)?;
        self.is_not = given.is_negated;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --tos 0x{:02x}/0x{:02x}", not(self.is_not), self.value, self.mask);
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        out.push_str(" tos match");
        out.push_str(if self.is_not { "!" } else { "" });
        match tos::name(self.value).filter(|_| !style.is_numeric && self.mask == 0x3f) {
            Some(name) => put!(out, " {name}"),
            None => put!(out, "0x{:02x}/0x{:02x}", self.value, self.mask),
        }
    }
}

impl Match for Tos {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        (view.tos() & self.mask == self.value) != self.is_not
    }
}
