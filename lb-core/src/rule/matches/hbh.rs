//! `hbh` and `dst`: IPv6's headers with options for each hop, and for the destination (RFC 8200 §4.3, §4.6).

use super::Match;
use crate::rule::chain6::{Chain6, DESTINATION, HOP_BY_HOP};
use crate::rule::prelude::*;
use crate::rule::text::leading_number;

/// `hbh`, or `dst`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Options6<const IS_DST: bool> {
    /// In bytes, and whether it is not to be that.
    len: Option<(u32, bool)>,
    /// Those that are to be the first ones, in their order: type, and length where one is asked for.
    options: Vec<(u8, Option<u8>)>,
}

pub(super) type HopByHop = Options6<false>;
pub(super) type Destination = Options6<true>;

/// Options that a rule may have.
const MOST: usize = 16;

const HBH: &[Opt] = &[opt("hbh-len", 0).negatable(), opt("hbh-opts", 1)];
const DST: &[Opt] = &[opt("dst-len", 0).negatable(), opt("dst-opts", 1)];

impl<const IS_DST: bool> Options6<IS_DST> {
    /// `type[:length]`. Of numbers above 255 the low byte counts, and a length of 255 is none, as with iptables.
    fn option(text: &str) -> Result<(u8, Option<u8>), Error> {
        let name = Self::NAME;
        let none =
            |what: &str, of: &str| Error::parameter(format!("{name}: no valid digits in {what} `{of}'"));
        let (kind, len) = text.split_once(':').map_or((text, None), |(kind, len)| (kind, Some(len)));
        let number = |what: &str, of: &str| {
            let (value, rest) = leading_number(of).ok_or_else(|| none(what, of))?;
            match rest {
                "" => Ok(value as u8),
                _ => Err(Error::parameter(format!("{name}: error parsing {what} `{of}'"))),
            }
        };
        let kind = number("opt", kind)?;
        let len = len.map(|len| number("length", len)).transpose()?;
        Ok((kind, len.filter(|len| *len != 0xff)))
    }

    fn put_options(&self, out: &mut String) {
        for (at, (kind, len)) in self.options.iter().enumerate() {
            put!(out, "{}{kind}", if at == 0 { "" } else { "," });
            if let Some(len) = len {
                put!(out, ":{len}");
            }
        }
    }

    /// Whether the options of a header begin with those.
    fn begin(&self, mut found: &[u8]) -> bool {
        self.options.iter().all(|&(kind, len)| {
            let (is_it, rest) = match *found {
                // Pad1 has no length.
                [0, ref rest @ ..] => (kind == 0, Some(rest)),
                [is, has, ref rest @ ..] => {
                    (is == kind && len.is_none_or(|len| len == has), rest.get(usize::from(has)..))
                }
                _ => return false,
            };
            found = rest.unwrap_or_default();
            is_it
        })
    }
}

impl<const IS_DST: bool> Extension for Options6<IS_DST> {
    const NAME: &'static str = if IS_DST { "dst" } else { "hbh" };
    const OPTIONS: &'static [Opt] = if IS_DST { DST } else { HBH };
    const FAMILY: Option<Family> = Some(Family::Ipv6);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        if given.id() == 0 {
            self.len = Some((given.u32()?, given.is_negated));
            return Ok(());
        }
        for text in given.value.split(',') {
            if self.options.len() == MOST {
                return Err(Error::parameter("too many addresses specified"));
            }
            self.options.push(Self::option(text)?);
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        let name = Self::NAME;
        if let Some((len, is_not)) = self.len {
            put!(out, "{} --{name}-len {len}", not(is_not));
        }
        if !self.options.is_empty() {
            put!(out, " --{name}-opts ");
            self.put_options(out);
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " {}", Self::NAME);
        if let Some((len, is_not)) = self.len {
            put!(out, " length:{}{len}", if is_not { "!" } else { "" });
        }
        if !self.options.is_empty() {
            out.push_str(" opts ");
            self.put_options(out);
        }
    }
}

impl<const IS_DST: bool> Match for Options6<IS_DST> {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let kind = if IS_DST { DESTINATION } else { HOP_BY_HOP };
        Chain6::find(view, kind).is_some_and(|header| {
            self.len.is_none_or(|(len, is_not)| (header.len() == len as usize) != is_not)
                && self.begin(header.get(2..).unwrap_or_default())
        })
    }
}
