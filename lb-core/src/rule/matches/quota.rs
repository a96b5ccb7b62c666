//! `quota`: so many bytes, and none from then on.

use std::sync::Arc;

use super::Match;
use crate::rule::prelude::*;
use crate::rule::state::Number;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Quota {
    bytes: u64,
    is_not: bool,
    left: Kept<Number>,
}

impl Extension for Quota {
    const NAME: &'static str = "quota";
    const OPTIONS: &'static [Opt] = &[opt("quota", 0).must().negatable()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.bytes = given.number(0, u64::MAX)?;
        self.is_not = given.is_negated;
        Ok(())
    }

    fn bind(&mut self, _: &mut Named) -> Result<(), Refused> {
        self.left.set(Arc::new(Number::new(self.bytes)));
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --quota {}", not(self.is_not), self.bytes);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " quota: {} bytes", self.bytes);
    }
}

impl Match for Quota {
    fn matches(&self, view: &mut View<'_>) -> bool {
        let bytes = u64::from(view.headers.ip_len);
        self.left.get().is_some_and(|left| {
            let is_left = if view.is_dry { left.copy().spend(bytes) } else { left.spend(bytes) };
            is_left != self.is_not
        })
    }
}
