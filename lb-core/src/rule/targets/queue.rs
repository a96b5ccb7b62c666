//! `QUEUE`: the name that `NFQUEUE` of queue 0 had before.

use super::Target;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Queue;

impl Extension for Queue {
    const NAME: &'static str = "QUEUE";
    const OPTIONS: &'static [Opt] = &[];

    fn take(&mut self, _: &mut Given<'_, '_>) -> Result<(), Error> {
        Ok(())
    }

    fn save(&self, _: &mut String, _: Family) {}

    fn list(&self, _: &mut String, _: &Style<'_>, _: &Header) {}
}

impl Target for Queue {
    fn act(&self, _: &mut View<'_>, _: u32) -> Option<Verdict> {
        Some(Verdict::Queue)
    }

    fn depends(&self) -> Depends {
        Depends::Flow
    }
}
