//! `mark`: the packet's mark, in the bits of a mask.

use super::Match;
use crate::rule::prelude::*;

/// What a mark must be, or not: `0x1` or `0x1/0xff`.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Wanted {
    value: u32,
    mask: u32,
    is_not: bool,
}

impl Wanted {
    pub(super) const OPTIONS: &'static [Opt] = &[opt("mark", 0).must().negatable()];

    pub(super) fn read(given: &Given<'_, '_>) -> Result<Wanted, Error> {
        let (value, mask) = given.marked()?;
        Ok(Wanted { value, mask, is_not: given.is_negated })
    }

    pub(super) fn is(&self, mark: u32) -> bool {
        (mark & self.mask == self.value) != self.is_not
    }

    pub(super) fn not(&self) -> &'static str {
        not(self.is_not)
    }

    pub(super) fn put(&self, out: &mut String) {
        put!(out, " {:#x}", self.value);
        if self.mask != u32::MAX {
            put!(out, "/{:#x}", self.mask);
        }
    }

    pub(super) fn save(&self, out: &mut String) {
        put!(out, "{} --mark", self.not());
        self.put(out);
    }
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Mark(Wanted);

impl Extension for Mark {
    const NAME: &'static str = "mark";
    const OPTIONS: &'static [Opt] = Wanted::OPTIONS;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.0 = Wanted::read(given)?;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.0.save(out);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " mark match{}", self.0.not());
        self.0.put(out);
    }
}

impl Match for Mark {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        self.0.is(view.mark)
    }
}
