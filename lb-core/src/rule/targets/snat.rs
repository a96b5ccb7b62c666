//! `SNAT`: the connection comes from another source.

use super::Target;
use crate::hook::Hook;
use crate::nat::Manip;
use crate::rule::hook_bit;
use crate::rule::prelude::*;
use crate::rule::translation::{Base, Translation};
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snat {
    to: Translation,
}

impl Extension for Snat {
    const NAME: &'static str = "SNAT";
    const OPTIONS: &'static [Opt] =
        &[opt("to-source", 0).must(), flag("random", 1), flag("random-fully", 2), flag("persistent", 3)];
    const TABLES: &'static [Table] = &[Table::Nat];
    /// INPUT and POSTROUTING.
    const HOOKS: u8 = 2 | 16;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.to.take(given, Base::Lost)?,
            flag => self.to.take_flag(flag),
        }
        Ok(())
    }

    fn save(&self, out: &mut String, family: Family) {
        put!(out, " --to-source {}", self.to.shown(family));
        self.to.put_flags(out, "--");
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        put!(out, " to:{}", self.to.shown(style.family));
        self.to.put_flags(out, "");
    }
}

impl Target for Snat {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        Some(Verdict::Nat(Manip::Source, self.to.range(view.family())))
    }

    fn hides_owner(&self, hooks: u8) -> bool {
        hooks & hook_bit(Hook::Input) != 0
    }
}
