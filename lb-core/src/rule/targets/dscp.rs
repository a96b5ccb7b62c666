//! `DSCP`: writes the class of differentiated services.

use super::Target;
use crate::rule::edit;
use crate::rule::prelude::*;
use crate::rule::tos;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct DscpTarget {
    /// Below 64.
    class: u8,
}

impl Extension for DscpTarget {
    const NAME: &'static str = "DSCP";
    const OPTIONS: &'static [Opt] = &[opt("set-dscp", 0).not_with(2), opt("set-dscp-class", 1).not_with(1)];
    const TABLES: &'static [Table] = &[Table::Mangle];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.class = match given.id() {
            0 => given.number(0, 63)? as u8,
            _ => tos::class(given.value)?,
        };
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        match seen {
            0 => Err(Error::parameter("DSCP target: Parameter --set-dscp is required")),
            _ => Ok(()),
        }
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, " --set-dscp 0x{:02x}", self.class);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " DSCP set 0x{:02x}", self.class);
    }
}

impl Target for DscpTarget {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        edit::set_tos(view, self.class << 2, 0xfc);
        None
    }
}
