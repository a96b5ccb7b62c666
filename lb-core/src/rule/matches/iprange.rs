//! `iprange`: addresses from one to another.

use super::Match;
use crate::rule::prelude::*;

use crate::rule::header::short_ipv4;
use crate::rule::options::{address, ip};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct IpRange {
    source: Option<Range>,
    destination: Option<Range>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Range {
    from: u128,
    to: u128,
    is_not: bool,
}

impl Range {
    fn holds(&self, address: u128) -> bool {
        (self.from..=self.to).contains(&address) != self.is_not
    }

    fn put(&self, out: &mut String, family: Family) {
        put!(out, " {}-{}", ip(self.from, family), ip(self.to, family));
    }
}

impl Extension for IpRange {
    const NAME: &'static str = "iprange";
    const OPTIONS: &'static [Opt] = &[opt("src-range", 0).negatable(), opt("dst-range", 1).negatable()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let family = given.around.family;
        let read = |text: &str| {
            // As of `-s`, 10.1 is 10.1.0.0.
            let short = || short_ipv4(text).filter(|_| family == Family::Ipv4).map(u128::from);
            address(text, family).or_else(short).ok_or_else(|| {
                Error::parameter(format!(
                    "iprange: Bad value for \"--{}\" option: \"{text}\"",
                    given.option.name
                ))
            })
        };
        let (from, to) = given.value.split_once('-').unwrap_or((given.value, given.value));
        let range = Range { from: read(from)?, to: read(to)?, is_not: given.is_negated };
        if range.from > range.to {
            given.around.warn(format!(
                "xt_iprange: range {}-{} is reversed and will never match\n",
                ip(range.from, family),
                ip(range.to, family)
            ));
        }
        match given.id() {
            0 => self.source = Some(range),
            _ => self.destination = Some(range),
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen == 0 {
            return Err(Error::parameter("iprange match: You must specify `--src-range' or `--dst-range'"));
        }
        Ok(())
    }

    fn save(&self, out: &mut String, family: Family) {
        for (range, option) in [(&self.source, "src"), (&self.destination, "dst")] {
            if let Some(range) = range {
                put!(out, "{} --{option}-range", not(range.is_not));
                range.put(out, family);
            }
        }
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        for (range, which) in [(&self.source, "source"), (&self.destination, "destination")] {
            if let Some(range) = range {
                put!(out, " {which} IP range{}", not(range.is_not));
                range.put(out, style.family);
            }
        }
    }
}

impl Match for IpRange {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn narrow(&self, to: &mut Narrowed<'_>) {
        for (range, field) in [(self.source, Field::Source), (self.destination, Field::Destination)] {
            if let Some(Range { from, to: last, is_not: false }) = range {
                to.one_of(field, vec![(from, last)]);
            }
        }
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        self.source.is_none_or(|range| range.holds(view.source()))
            && self.destination.is_none_or(|range| range.holds(view.destination()))
    }
}
