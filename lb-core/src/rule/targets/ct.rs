//! `CT`: whether, and how, the packet's connection is tracked.

use super::Target;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ct {
    is_untracked: bool,
}

impl Extension for Ct {
    const NAME: &'static str = "CT";
    const OPTIONS: &'static [Opt] = &[
        flag("notrack", 0),
        opt("helper", 1),
        opt("ctevents", 2),
        opt("expevents", 3),
        opt("zone", 4),
        opt("zone-orig", 5),
        opt("zone-reply", 6),
        opt("timeout", 7),
    ];
    const TABLES: &'static [Table] = &[Table::Raw];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        if given.id() != 0 {
            return Err(Error::other(format!("CT: --{} is not built yet", given.option.name)));
        }
        self.is_untracked = true;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        if self.is_untracked {
            out.push_str(" --notrack");
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" CT");
        if self.is_untracked {
            out.push_str(" notrack");
        }
    }
}

impl Target for Ct {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        if self.is_untracked {
            view.effects.untracked = true;
            view.connection = None;
        }
        None
    }
}
