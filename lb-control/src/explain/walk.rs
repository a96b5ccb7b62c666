//! Which rules of a table a packet was compared with and did not match: all that stand between those that it met, since rules are asked as they are
//! written.

use crate::api::explain::MetRule;
use crate::model::rules::Place;

/// A packet's way through the chains of one table.
#[derive(Default)]
pub(super) struct Walk<'r> {
    /// Those that it is in, the one that called the others first.
    chains: Vec<Inside<'r>>,
}

struct Inside<'r> {
    /// The place that it met last there; at first any.
    met: Place<'r>,
    /// The next rule, from 0.
    next: usize,
}

impl<'r> Walk<'r> {
    /// What it did not match before it met this.
    pub(super) fn meet(&mut self, place: &Place<'r>) -> Vec<MetRule> {
        let mut missed = Vec::new();
        if self.chains.iter().any(|inside| inside.met.is_in_chain_of(place)) {
            while let Some(last) = self.chains.pop_if(|inside| !inside.met.is_in_chain_of(place)) {
                // Its end is not met where none called it: a built-in chain's rule went to it.
                missed.extend(last.rest(None));
            }
        } else {
            self.chains.push(Inside { met: *place, next: 0 });
        }
        let Some(inside) = self.chains.last_mut() else { return missed };
        missed.extend(inside.rest(place.rule));
        inside.met = *place;
        match place.rule {
            Some(rule) => inside.next = rule + 1,
            None => _ = self.chains.pop(),
        }
        self.chains.extend(place.entered().map(|met| Inside { met, next: 0 }));
        missed
    }
}

impl Inside<'_> {
    /// The rules from the next one up to this one, or to the chain's end.
    fn rest(&self, to: Option<usize>) -> Vec<MetRule> {
        if self.next > 0 && self.met.leaves() {
            return Vec::new();
        }
        self.met.rules(self.next..to.unwrap_or(usize::MAX)).collect()
    }
}
