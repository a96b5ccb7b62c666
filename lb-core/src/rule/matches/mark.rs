//! `mark`: the packet's mark, in the bits of a mask.

use super::Match;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Mark {
    value: u32,
    mask: u32,
    is_not: bool,
}

impl Mark {
    /// `0x1` or `0x1/0xff`.
    fn put(&self, out: &mut String) {
        put!(out, " {:#x}", self.value);
        if self.mask != u32::MAX {
            put!(out, "/{:#x}", self.mask);
        }
    }

    fn holds(&self, mark: u32) -> bool {
        (mark & self.mask == self.value) != self.is_not
    }
}

impl Extension for Mark {
    const NAME: &'static str = "mark";
    const OPTIONS: &'static [Opt] = &[opt("mark", 0).must().negatable()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        (self.value, self.mask) = given.marked()?;
        self.is_not = given.is_negated;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --mark", not(self.is_not));
        self.put(out);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " mark match{}", not(self.is_not));
        self.put(out);
    }
}

impl Match for Mark {
    fn matches(&self, view: &mut View<'_>) -> bool {
        self.holds(view.mark)
    }
}
