//! `comment`: says something to people.

use super::Match;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Comment(String);

/// Bytes of the text, with the zero at its end.
const MAX: usize = 256;

impl Extension for Comment {
    const NAME: &'static str = "comment";
    const OPTIONS: &'static [Opt] = &[opt("comment", 0).must()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.0 = given.text(0, MAX - 1)?;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        out.push_str(" --comment");
        crate::rule::text::quote_to(out, &self.0);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " /* {} */", self.0);
    }
}

impl Match for Comment {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, _: &mut View<'_>) -> bool {
        true
    }
}
