//! `MARK`: writes the packet's mark.

use super::Target;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

/// `mark = mark & !mask ^ value`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MarkTarget {
    value: u32,
    mask: u32,
    is_set: bool,
}

const ALL: u32 = 0b11111;

impl Extension for MarkTarget {
    const NAME: &'static str = "MARK";
    const OPTIONS: &'static [Opt] = &[
        opt("set-xmark", 0).not_with(ALL & !1),
        opt("set-mark", 1).not_with(ALL & !2),
        opt("and-mark", 2).not_with(ALL & !4),
        opt("or-mark", 3).not_with(ALL & !8),
        opt("xor-mark", 4).not_with(ALL & !16),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.is_set = true;
        (self.value, self.mask) = match given.id() {
            0 => given.marked()?,
            1 => {
                let (value, mask) = given.marked()?;
                (value, value | mask)
            }
            2 => (0, !given.u32()?),
            3 => {
                let bits = given.u32()?;
                (bits, bits)
            }
            _ => (given.u32()?, 0),
        };
        Ok(())
    }

    fn finish(&mut self, _: u32, _: &Around<'_>) -> Result<(), Error> {
        match self.is_set {
            true => Ok(()),
            false => Err(Error::parameter("MARK: One of the --set-xmark, --{and,or,xor,set}-mark options is required")),
        }
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, " --set-xmark {:#x}/{:#x}", self.value, self.mask);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        match (self.value, self.mask) {
            (0, mask) => put!(out, " MARK and {:#x}", !mask),
            (value, mask) if value == mask => put!(out, " MARK or {value:#x}"),
            (value, 0) => put!(out, " MARK xor {value:#x}"),
            (value, u32::MAX) => put!(out, " MARK set {value:#x}"),
            (value, mask) => put!(out, " MARK xset {value:#x}/{mask:#x}"),
        }
    }
}

impl Target for MarkTarget {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        view.mark = view.mark & !self.mask ^ self.value;
        view.effects.has_mark = true;
        None
    }
}
