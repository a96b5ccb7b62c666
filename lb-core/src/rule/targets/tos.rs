//! `TOS`: writes the type of service, or traffic class, in the bits of a mask.

use super::Target;
use crate::rule::edit;
use crate::rule::prelude::*;
use crate::rule::text::number;
use crate::rule::tos;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct TosTarget {
    value: u8,
    mask: u8,
}

const ALL: u32 = 0b1_1111;

impl Extension for TosTarget {
    const NAME: &'static str = "TOS";
    const OPTIONS: &'static [Opt] = &[
        opt("set-tos", 0).not_with(ALL & !1),
        opt("set-xtos", 1).not_with(ALL & !2),
        opt("and-tos", 2).not_with(ALL & !4),
        opt("or-tos", 3).not_with(ALL & !8),
        opt("xor-tos", 4).not_with(ALL & !16),
    ];
    const TABLES: &'static [Table] = &[Table::Mangle];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let byte = |given: &Given<'_, '_>| {
            let value = number(given.value).and_then(|value| u8::try_from(value).ok());
            value.ok_or_else(|| given.out_of_range(0, 255))
        };
        (self.value, self.mask) = match given.id() {
            0 | 1 => tos::read(given, 0x3f)?,
            2 => (0, !byte(given)?),
            3 => (byte(given)?, byte(given)?),
            _ => (byte(given)?, 0),
        };
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen == 0 { Err(Error::parameter("TOS: An action is required")) } else { Ok(()) }
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, " --set-tos 0x{:02x}/0x{:02x}", self.value, self.mask);
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        let TosTarget { value, mask } = *self;
        match tos::name(value).filter(|_| mask == 0x3f) {
            _ if style.is_numeric => put!(out, " TOS set 0x{value:02x}/0x{mask:02x}"),
            // As iptables has its spaces.
            Some(name) => put!(out, "  TOS set{name}"),
            None if value == 0 => put!(out, " TOS and 0x{:02x}", !mask),
            None if value == mask => put!(out, " TOS or 0x{value:02x}"),
            None if mask == 0 => put!(out, " TOS xor 0x{value:02x}"),
            None => put!(out, " TOS set 0x{value:02x}/0x{mask:02x}"),
        }
    }
}

impl Target for TosTarget {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        edit::set_tos(view, self.value, self.mask);
        None
    }
}
