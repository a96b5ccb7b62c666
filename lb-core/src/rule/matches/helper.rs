//! `helper`: the packet's connection was announced by another one, which this helper reads.
//!
//! Source of the facts: Linux, `net/netfilter/xt_helper.c`: a name fits the helper that it begins with; an empty one fits all.

use super::Match;
use crate::rule::prelude::*;
use crate::rule::text::quote_to;

/// Longest name.
const LONGEST: usize = 29;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct HelperMatch {
    name: String,
    is_not: bool,
}

impl Extension for HelperMatch {
    const NAME: &'static str = "helper";
    const OPTIONS: &'static [Opt] = &[opt("helper", 0).must().negatable()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.name = given.text(0, LONGEST)?;
        self.is_not = given.is_negated;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --helper", not(self.is_not));
        quote_to(out, &self.name);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " helper match{} \"{}\"", not(self.is_not), self.name);
    }
}

impl Match for HelperMatch {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let told_by = view.connection.and_then(|connection| connection.told_by.name());
        told_by.is_some_and(|helper| self.name.is_empty() || self.name.starts_with(helper)) != self.is_not
    }
}
