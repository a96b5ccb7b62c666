//! `cpu`: the CPU that handles the packet: that of its worker.

use super::Match;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Cpu {
    number: u32,
    is_not: bool,
}

impl Extension for Cpu {
    const NAME: &'static str = "cpu";
    const OPTIONS: &'static [Opt] = &[opt("cpu", 0).must().negatable()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        *self = Cpu { number: given.u32()?, is_not: given.is_negated };
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --cpu {}", not(self.is_not), self.number);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " cpu{} {}", not(self.is_not), self.number);
    }
}

impl Match for Cpu {
    /// A connection is one worker's.
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        (view.cpu == self.number) != self.is_not
    }
}
