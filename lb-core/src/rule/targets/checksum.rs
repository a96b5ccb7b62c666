//! `CHECKSUM`: the packet's checksum is complete. It is that here, with or without such a rule: packets of the host come with it filled in, and none leaves
//! without.

use super::Target;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Checksum;

impl Extension for Checksum {
    const NAME: &'static str = "CHECKSUM";
    const OPTIONS: &'static [Opt] = &[flag("checksum-fill", 0).must()];
    const TABLES: &'static [Table] = &[Table::Mangle];

    fn take(&mut self, _: &mut Given<'_, '_>) -> Result<(), Error> {
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        out.push_str(" --checksum-fill");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" CHECKSUM fill");
    }
}

impl Target for Checksum {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn act(&self, _: &mut View<'_>, _: u32) -> Option<Verdict> {
        None
    }
}
