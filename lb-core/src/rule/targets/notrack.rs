//! `NOTRACK`: the packet is of no connection. Short for `CT --notrack`, and listed so by the kernel.

use super::Target;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct NoTrack;

impl Extension for NoTrack {
    const NAME: &'static str = "NOTRACK";
    const OPTIONS: &'static [Opt] = &[];
    const TABLES: &'static [Table] = &[Table::Raw];

    fn take(&mut self, _: &mut Given<'_, '_>) -> Result<(), Error> {
        Ok(())
    }

    fn save(&self, _: &mut String, _: Family) {}

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" NOTRACK");
    }
}

impl Target for NoTrack {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        view.track_not();
        None
    }
}
