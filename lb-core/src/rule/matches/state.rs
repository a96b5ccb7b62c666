//! `state`: what connection tracking says of the packet. The older word for `conntrack --ctstate`.

use super::Match;
use crate::conntrack::CtState;
use crate::rule::prelude::*;
use crate::rule::view::View;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    states: u8,
    is_not: bool,
}

/// In the order in which they are printed.
pub(super) const STATES: [CtState; 5] =
    [CtState::Invalid, CtState::New, CtState::Related, CtState::Established, CtState::Untracked];

pub(super) fn bit(state: CtState) -> u8 {
    1 << state as u8
}

/// What the packet is: one of no connection that is not said to be untracked is invalid.
pub(super) fn of(view: &View<'_>) -> CtState {
    match view.connection {
        Some(connection) => connection.state,
        None if view.effects.untracked || view.is_untracked => CtState::Untracked,
        None => CtState::Invalid,
    }
}

impl Extension for State {
    const NAME: &'static str = "state";
    const OPTIONS: &'static [Opt] = &[opt("state", 0).must().negatable()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        for (word, rest) in given.words() {
            if rest.is_empty() {
                let message = "\"--state\" requires a list of states with no spaces, e.g. ESTABLISHED,RELATED";
                return Err(Error::parameter(message));
            }
            let upper = word.to_ascii_uppercase();
            let found = STATES.iter().find(|state| !upper.is_empty() && state.name().starts_with(&upper));
            let bad = || Error::parameter(format!("Bad state \"{rest}\""));
            self.states |= bit(*found.ok_or_else(bad)?);
        }
        self.is_not = given.is_negated;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --state ", not(self.is_not));
        self.put(out);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, "{} state ", not(self.is_not));
        self.put(out);
    }
}

impl State {
    fn put(&self, out: &mut String) {
        let mut comma = "";
        for state in STATES.into_iter().filter(|state| self.states & bit(*state) != 0) {
            put!(out, "{comma}{}", state.name());
            comma = ",";
        }
    }
}

impl Match for State {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        (self.states & bit(of(view)) != 0) != self.is_not
    }
}
