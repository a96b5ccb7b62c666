//! `set`: whether an IP set holds the packet.

use super::Match;
use crate::rule::prelude::*;
use crate::rule::set_use::{SetUse, facts};
use crate::rule::text::number;
use crate::set::{Asking, Threshold};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct SetMatch {
    set: SetUse,
    is_not: bool,
    asking: Asking,
}

/// What a count is compared by, and the same negated where that can be.
const EQUAL: u8 = 0;
const BELOW: u8 = 1;

impl Extension for SetMatch {
    const NAME: &'static str = "set";
    const OPTIONS: &'static [Opt] = &[
        opt("match-set", 0).negatable().repeats(),
        opt("set", 1).negatable().repeats(),
        flag("return-nomatch", 2).negatable().repeats(),
        flag("update-counters", 3).negatable().repeats(),
        flag("update-subcounters", 4).negatable().repeats(),
        opt("packets-eq", 5).negatable().repeats(),
        opt("packets-lt", 6).negatable().repeats(),
        opt("packets-gt", 7).negatable().repeats(),
        opt("bytes-eq", 8).negatable().repeats(),
        opt("bytes-lt", 9).negatable().repeats(),
        opt("bytes-gt", 10).negatable().repeats(),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let is_not = given.is_negated;
        match given.id() {
            id @ 0..=1 => {
                if id == 1 {
                    given.around.warn("--set option deprecated, please use --match-set");
                }
                self.set.take(given, "match-set")?;
                self.is_not = is_not;
            }
            2 if is_not => {
                return Err(Error::parameter("--return-nomatch flag cannot be inverted\n"));
            }
            2 => self.asking.wants_nomatch = true,
            3 => self.asking.skips_counters |= is_not,
            4 => self.asking.skips_members |= is_not,
            id => {
                let (threshold, what) = match id {
                    5..=7 => (&mut self.asking.packets, "packets"),
                    _ => (&mut self.asking.bytes, "bytes"),
                };
                if *threshold != Threshold::Any {
                    return Err(Error::parameter(format!("only one of the --{what}-[eq|lt|gt] is allowed\n")));
                }
                let comparison = (id - 5) % 3;
                if is_not && comparison != EQUAL {
                    let name = given.option.name;
                    return Err(Error::parameter(format!("--{name} option cannot be inverted\n")));
                }
                let value = number(given.value).ok_or_else(|| {
                    Error::parameter(format!("Cannot parse {} as a counter value\n", given.value))
                })?;
                *threshold = match comparison {
                    EQUAL if is_not => Threshold::Not(value),
                    EQUAL => Threshold::Equal(value),
                    BELOW => Threshold::Below(value),
                    _ => Threshold::Above(value),
                };
            }
        }
        Ok(())
    }

    fn finish(&mut self, _: u32, _: &Around<'_>) -> Result<(), Error> {
        match self.set.is_named() {
            true => Ok(()),
            false => Err(Error::parameter("You must specify `--match-set' with proper arguments")),
        }
    }

    fn sets(&self) -> Vec<&SetUse> {
        vec![&self.set]
    }

    fn bind(&mut self, named: &mut Named) -> Result<(), Refused> {
        self.set.bind(named)
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put(out, "--");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        self.put(out, "");
    }
}

impl SetMatch {
    fn put(&self, out: &mut String, dashes: &str) {
        out.push_str(not(self.is_not));
        self.set.put(out, &format!("{dashes}match-set"));
        let Asking { skips_counters, skips_members, wants_nomatch, packets, bytes, .. } = self.asking;
        if wants_nomatch {
            put!(out, " {dashes}return-nomatch");
        }
        if skips_counters {
            put!(out, " ! {dashes}update-counters");
        }
        if skips_members {
            put!(out, " ! {dashes}update-subcounters");
        }
        for (threshold, what) in [(packets, "packets"), (bytes, "bytes")] {
            match threshold {
                Threshold::Any => {}
                Threshold::Equal(value) => put!(out, " {dashes}{what}-eq {value}"),
                Threshold::Not(value) => put!(out, " ! {dashes}{what}-eq {value}"),
                Threshold::Below(value) => put!(out, " {dashes}{what}-lt {value}"),
                Threshold::Above(value) => put!(out, " {dashes}{what}-gt {value}"),
            }
        }
    }
}

impl Match for SetMatch {
    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(id) = self.set.id() else { return false };
        let asking = self.asking.of(view.is_dry);
        let found = view.tables.sets.matches(id, &facts(view), &self.set.sides, view.now, &asking);
        found.is_some() != self.is_not
    }
}
