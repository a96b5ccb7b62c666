//! `frag`: the fragment header of IPv6 (RFC 8200 §4.5).

use super::Match;
use crate::rule::chain6::{Chain6, FRAGMENT};
use crate::rule::prelude::*;
use crate::rule::span::Span;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Frag {
    id: Span,
    /// In bytes, of the header, and whether it is not to be that.
    len: Option<(u32, bool)>,
    flags: u8,
}

const RESERVED: u8 = 1;
const FIRST: u8 = 1 << 1;
const MORE: u8 = 1 << 2;
const LAST: u8 = 1 << 3;

const FLAGS: [(&str, u8, &str); 4] = [
    ("fragres", RESERVED, "reserved"),
    ("fragfirst", FIRST, "first"),
    ("fragmore", MORE, "more"),
    ("fraglast", LAST, "last"),
];

impl Frag {
    fn flags(&self) -> impl Iterator<Item = &(&str, u8, &str)> {
        FLAGS.iter().filter(|(_, bit, _)| self.flags & bit != 0)
    }
}

impl Extension for Frag {
    const NAME: &'static str = "frag";
    const OPTIONS: &'static [Opt] = &[
        opt("fragid", 0).negatable(),
        opt("fraglen", 1).negatable(),
        flag("fragres", 2),
        flag("fragfirst", 3),
        flag("fragmore", 4).not_with(1 << 5),
        flag("fraglast", 5).not_with(1 << 4),
    ];
    const FAMILY: Option<Family> = Some(Family::Ipv6);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.id = Span::take(given)?,
            1 => self.len = Some((given.u32()?, given.is_negated)),
            id => self.flags |= FLAGS[usize::from(id) - 2].1,
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.id.save(out, "fragid");
        if let Some((len, is_not)) = self.len {
            put!(out, "{} --fraglen {len}", not(is_not));
        }
        self.flags().for_each(|(name, ..)| put!(out, " --{name}"));
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" frag ");
        self.id.list(out, "id");
        if let Some((len, is_not)) = self.len {
            put!(out, " length:{}{len}", if is_not { "!" } else { "" });
        }
        self.flags().for_each(|(.., shown)| put!(out, " {shown}"));
    }
}

impl Match for Frag {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(header) = Chain6::find(view, FRAGMENT) else { return false };
        let &[_, reserved, high, low, a, b, c, d] = header else { return false };
        let place = u16::from_be_bytes([high, low]);
        let is_unless = |flag: u8, is: bool| self.flags & flag == 0 || is;
        self.id.holds(u32::from_be_bytes([a, b, c, d]))
            && self.len.is_none_or(|(len, is_not)| (len == 8) != is_not)
            && is_unless(RESERVED, reserved == 0 && place & 6 == 0)
            && is_unless(FIRST, place < 8)
            && is_unless(MORE, place & 1 != 0)
            && is_unless(LAST, place & 1 == 0)
    }
}
