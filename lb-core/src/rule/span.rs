//! A range of numbers that may be negated, as SPIs and identifiers are taken and printed.

use super::prelude::*;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Span {
    from: u32,
    to: u32,
    is_not: bool,
}

impl Default for Span {
    fn default() -> Span {
        Span { from: 0, to: u32::MAX, is_not: false }
    }
}

impl Span {
    pub(super) const fn one(value: u32) -> Span {
        Span { from: value, to: value, is_not: false }
    }

    pub(super) fn take(given: &Given<'_, '_>) -> Result<Span, Error> {
        let (from, to) = given.range(u32::MAX.into())?;
        Ok(Span { from: from as u32, to: to as u32, is_not: given.is_negated })
    }

    pub(super) fn holds(&self, value: u32) -> bool {
        (self.from..=self.to).contains(&value) != self.is_not
    }

    pub(super) fn save(&self, out: &mut String, option: &str) {
        if *self != Span::default() {
            put!(out, "{} --{option} {}", not(self.is_not), self.from);
            if self.to != self.from {
                put!(out, ":{}", self.to);
            }
        }
    }

    /// Without a space before it.
    pub(super) fn list(&self, out: &mut String, name: &str) {
        let not = if self.is_not { "!" } else { "" };
        match *self {
            span if span == Span::default() => {}
            Span { from, to, .. } if from == to => put!(out, "{name}:{not}{from}"),
            Span { from, to, .. } => put!(out, "{name}s:{not}{from}:{to}"),
        }
    }
}
