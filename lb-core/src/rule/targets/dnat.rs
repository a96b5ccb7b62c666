//! `DNAT`: the connection goes to another destination.

use super::Target;
use crate::nat::Manip;
use crate::rule::prelude::*;
use crate::rule::translation::{Base, Translation};
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Dnat {
    to: Translation,
}

impl Extension for Dnat {
    const NAME: &'static str = "DNAT";
    const OPTIONS: &'static [Opt] =
        &[opt("to-destination", 0).must(), flag("random", 1), flag("random-fully", 2), flag("persistent", 3)];
    const TABLES: &'static [Table] = &[Table::Nat];
    /// PREROUTING and OUTPUT.
    const HOOKS: u8 = 1 | 8;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.to.take(given, Base::Kept)?,
            flag => self.to.take_flag(flag),
        }
        Ok(())
    }

    fn save(&self, out: &mut String, family: Family) {
        put!(out, " --to-destination {}", self.to.shown(family));
        self.to.put_flags(out, "--");
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        put!(out, " to:{}", self.to.shown(style.family));
        self.to.put_flags(out, "");
    }
}

impl Target for Dnat {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        Some(Verdict::Nat(Manip::Destination, self.to.range(view.family())))
    }

    fn hides_owner(&self, _: u8) -> bool {
        true
    }
}
