//! `recent`: addresses that were seen, and when.

use super::Match;
use crate::rule::header::prefix_mask;
use crate::rule::options::ip;
use crate::rule::prelude::*;
use crate::rule::state::{MOST_STAMPS, Recent, shared};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Mode {
    #[default]
    Unsaid,
    Set,
    Check,
    Update,
    Remove,
}

#[derive(Clone, PartialEq, Debug)]
pub struct RecentMatch {
    mode: Mode,
    is_not: bool,
    seconds: u32,
    is_reaping: bool,
    hits: u32,
    has_ttl: bool,
    name: String,
    /// `None`: all bits.
    mask: Option<u128>,
    family: Family,
    is_destination: bool,
    list: Kept<Recent>,
}

impl Default for RecentMatch {
    fn default() -> RecentMatch {
        RecentMatch {
            mode: Mode::Unsaid,
            is_not: false,
            seconds: 0,
            is_reaping: false,
            hits: 0,
            has_ttl: false,
            name: "DEFAULT".to_owned(),
            mask: None,
            family: Family::Ipv4,
            is_destination: false,
            list: Kept::default(),
        }
    }
}

const MODES: u32 = 0b1111;

impl Extension for RecentMatch {
    const NAME: &'static str = "recent";
    const OPTIONS: &'static [Opt] = &[
        flag("set", 0).negatable().not_with(MODES & !1),
        flag("rcheck", 1).negatable().not_with(MODES & !2),
        flag("update", 2).negatable().not_with(MODES & !4),
        flag("remove", 3).negatable().not_with(MODES & !8),
        opt("seconds", 4),
        flag("reap", 5).with(1 << 4),
        opt("hitcount", 6),
        flag("rttl", 7).not_with(1 << 0 | 1 << 3),
        opt("name", 8),
        flag("rsource", 9),
        flag("rdest", 10),
        opt("mask", 11),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            id @ 0..=3 => {
                self.mode = [Mode::Set, Mode::Check, Mode::Update, Mode::Remove][usize::from(id)];
                self.is_not = given.is_negated;
            }
            4 => self.seconds = given.number(1, u32::MAX.into())? as u32,
            5 => self.is_reaping = true,
            6 => self.hits = given.u32()?,
            7 => self.has_ttl = true,
            8 => self.name = given.text(0, 199)?,
            9 => self.is_destination = false,
            10 => self.is_destination = true,
            _ => self.mask = Some(given.host(given.value)?),
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, around: &Around<'_>) -> Result<(), Error> {
        // Without a mask it is the same rule as with all of it.
        (self.mask, self.family) = (Some(self.mask(around.family)), around.family);
        if seen & MODES == 0 {
            return Err(Error::parameter("recent: you must specify one of `--set', `--rcheck' `--update' or `--remove'"));
        }
        if self.name.is_empty() { Err(Error::invalid()) } else { Ok(()) }
    }

    fn check(&self, _: &Place<'_>) -> Result<(), Refused> {
        let asks = matches!(self.mode, Mode::Check | Mode::Update);
        if self.hits as usize >= MOST_STAMPS || self.name.contains('/') {
            return Err(Refused::Invalid);
        }
        if (self.seconds != 0 || self.hits != 0) && !asks { Err(Refused::Invalid) } else { Ok(()) }
    }

    fn bind(&mut self, named: &mut Named) -> Result<(), Refused> {
        let keys = named.keys();
        let list = shared(&mut named.recents, &self.name, || {
            Recent::new(keys, self.hits, self.mask(self.family), self.family)
        });
        if !list.holds(self.hits) {
            return Err(Refused::Invalid);
        }
        self.list.set(list);
        Ok(())
    }

    fn save(&self, out: &mut String, family: Family) {
        put!(out, "{} --{}", not(self.is_not), self.word().to_ascii_lowercase());
        if self.seconds != 0 {
            put!(out, " --seconds {}", self.seconds);
        }
        if self.is_reaping {
            out.push_str(" --reap");
        }
        if self.hits != 0 {
            put!(out, " --hitcount {}", self.hits);
        }
        if self.has_ttl {
            out.push_str(" --rttl");
        }
        put!(out, " --name {} --mask {}", self.name, ip(self.mask(family), family));
        out.push_str(if self.is_destination { " --rdest" } else { " --rsource" });
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        let word = if self.mode == Mode::Check { "CHECK" } else { self.word() };
        put!(out, "{} recent: {word}", not(self.is_not));
        if self.seconds != 0 {
            put!(out, " seconds: {}", self.seconds);
        }
        if self.is_reaping {
            out.push_str(" reap");
        }
        if self.hits != 0 {
            put!(out, " hit_count: {}", self.hits);
        }
        if self.has_ttl {
            out.push_str(" TTL-Match");
        }
        let side = if self.is_destination { "dest" } else { "source" };
        put!(out, " name: {} side: {side} mask: {}", self.name, ip(self.mask(style.family), style.family));
    }
}

impl RecentMatch {
    fn word(&self) -> &'static str {
        match self.mode {
            Mode::Unsaid => "",
            Mode::Set => "SET",
            Mode::Check => "RCHECK",
            Mode::Update => "UPDATE",
            Mode::Remove => "REMOVE",
        }
    }

    fn mask(&self, family: Family) -> u128 {
        self.mask.unwrap_or(prefix_mask(family.bits(), family))
    }

    /// As [`matches`](Match::matches) but for the negation, and the list stays as it is.
    fn would_match(&self, list: &Recent, key: u64, view: &View<'_>) -> bool {
        match self.mode {
            Mode::Unsaid => false,
            Mode::Set => true,
            Mode::Remove => list.knows(key),
            Mode::Check | Mode::Update => {
                let ttl = self.has_ttl.then_some(view.headers.ttl);
                list.check(key, self.seconds, self.hits, ttl, view.now)
            }
        }
    }

}

impl Match for RecentMatch {
    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(list) = self.list.get() else { return false };
        let key = list.key(if self.is_destination { view.tuple.dst } else { view.tuple.src });
        if view.is_dry {
            return self.would_match(list, key, view) != self.is_not;
        }
        // As it came, also where a hop is taken off by now.
        let came = view.headers.ttl;
        let ttl = self.has_ttl.then_some(came);
        let is = match self.mode {
            Mode::Unsaid => false,
            Mode::Set => {
                list.note(key, came, view.now);
                true
            }
            Mode::Remove => list.remove(key),
            Mode::Check | Mode::Update => list.check(key, self.seconds, self.hits, ttl, view.now),
        };
        let matches = is != self.is_not;
        if self.mode == Mode::Update && matches && list.check(key, 0, 0, ttl, view.now) {
            list.note(key, came, view.now);
        } else if self.is_reaping {
            // What has been looked at, and is not noted again.
            list.reap(key, self.seconds, view.now);
        }
        matches
    }
}
