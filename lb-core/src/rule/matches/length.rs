//! `length`: bytes of the IP packet, from its header on.

use super::Match;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Length {
    min: u16,
    max: u16,
    is_not: bool,
}

impl Length {
    fn put(&self, out: &mut String) {
        if self.min == self.max { put!(out, "{}", self.min) } else { put!(out, "{}:{}", self.min, self.max) }
    }
}

impl Extension for Length {
    const NAME: &'static str = "length";
    const OPTIONS: &'static [Opt] = &[opt("length", 0).must().negatable()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let (min, max) = given.range(u16::MAX.into())?;
        *self = Length { min: min as u16, max: max as u16, is_not: given.is_negated };
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --length ", not(self.is_not));
        self.put(out);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " length {}", if self.is_not { "!" } else { "" });
        self.put(out);
    }
}

impl Match for Length {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        (u32::from(self.min)..=u32::from(self.max)).contains(&view.headers.ip_len) != self.is_not
    }
}
