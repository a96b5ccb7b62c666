//! `AUDIT`: says in the log, as the kernel in its audit log, that there was such a packet; it goes on to the next rule.

use super::Target;
use crate::rule::event::Said;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Audit {
    /// Index into [`TYPES`]: what the rules behind do with the packet. The record does not tell it, as the kernel's does not.
    kind: usize,
}

const TYPES: [&str; 3] = ["accept", "drop", "reject"];

impl Extension for Audit {
    const NAME: &'static str = "AUDIT";
    const OPTIONS: &'static [Opt] = &[opt("type", 0).must()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let kind = TYPES.iter().position(|name| name.eq_ignore_ascii_case(given.value));
        self.kind =
            kind.ok_or_else(|| Error::parameter(format!("Bad action type value \"{}\"", given.value)))?;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, " --type {}", TYPES[self.kind]);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " AUDIT {}", TYPES[self.kind]);
    }
}

impl Target for Audit {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        view.say(Said::Audit, "", 5);
        None
    }
}
