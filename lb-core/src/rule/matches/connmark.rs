//! `connmark`: the mark of the connection, in the bits of a mask.

use super::Match;
use super::mark::Wanted;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConnMark(Wanted);

impl Extension for ConnMark {
    const NAME: &'static str = "connmark";
    const OPTIONS: &'static [Opt] = Wanted::OPTIONS;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.0 = Wanted::read(given)?;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.0.save(out);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " connmark match{}", if self.0.not().is_empty() { " " } else { self.0.not() });
        self.0.put(out);
    }
}

impl Match for ConnMark {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        view.connection.is_some_and(|connection| self.0.is(connection.mark))
    }
}
