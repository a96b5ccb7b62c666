//! `SET`: puts the packet into an IP set, takes it out of one, or takes a mark from one.

use super::Target;
use crate::rule::prelude::*;
use crate::rule::set_use::{SetUse, facts};
use crate::rule::text::number;
use crate::rule::view::Verdict;
use crate::set::{Adding, Asking, SkbInfo};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct SetTarget {
    add: SetUse,
    adding: Adding,
    del: SetUse,
    map: SetUse,
}

const EXIST: u32 = 1 << 3;
const TIMEOUT: u32 = 1 << 4;
const MAP_MARK: u32 = 1 << 5;

impl Extension for SetTarget {
    const NAME: &'static str = "SET";
    const OPTIONS: &'static [Opt] = &[
        opt("add-set", 0).repeats(),
        opt("del-set", 1).repeats(),
        opt("map-set", 2).repeats(),
        flag("exist", 3).repeats(),
        opt("timeout", 4).repeats(),
        flag("map-mark", 5).repeats(),
        flag("map-prio", 6),
        flag("map-queue", 7),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.add.take(given, "add-set"),
            1 => self.del.take(given, "del-set"),
            2 => self.map.take(given, "map-set"),
            3 => {
                self.adding.exist = true;
                Ok(())
            }
            4 => {
                let most = u32::MAX - 1;
                let bad =
                    || Error::parameter(format!("Invalid value for option --timeout or out of range 0-{most}"));
                let seconds = number(given.value).filter(|&seconds| seconds <= most.into()).ok_or_else(bad)?;
                self.adding.timeout = Some(seconds as u32);
                Ok(())
            }
            5 => Ok(()),
            _ => Err(Error::parameter(format!(
                "SET: option \"--{}\" is not built: nothing here has a packet's priority, or asks for a queue",
                given.option.name
            ))),
        }
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        let [adds, removes, maps] = [&self.add, &self.del, &self.map].map(SetUse::is_named);
        let wrong = if !adds && !removes && !maps {
            "You must specify either `--add-set' or `--del-set' or `--map-set'"
        } else if !adds && seen & EXIST != 0 {
            "Flag `--exist' can be used with `--add-set' only"
        } else if !adds && seen & TIMEOUT != 0 {
            "Option `--timeout' can be used with `--add-set' only"
        } else if !maps && seen & MAP_MARK != 0 {
            "Flag `--map-mark' can be used with `--map-set' only"
        } else if maps && seen & MAP_MARK == 0 {
            "You must specify flags `--map-mark' or `--map-prio` or `--map-queue'"
        } else {
            return Ok(());
        };
        Err(Error::parameter(wrong))
    }

    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        if self.map.is_named() && place.table != Table::Mangle { Err(Refused::Invalid) } else { Ok(()) }
    }

    fn sets(&self) -> Vec<&SetUse> {
        [&self.add, &self.del, &self.map].into_iter().filter(|set| set.is_named()).collect()
    }

    fn bind(&mut self, named: &mut Named) -> Result<(), Refused> {
        [&mut self.add, &mut self.del, &mut self.map].into_iter().try_for_each(|set| set.bind(named))
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put(out, "--");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        self.put(out, "");
    }
}

impl SetTarget {
    fn put(&self, out: &mut String, dashes: &str) {
        self.add.put(out, &format!("{dashes}add-set"));
        if self.adding.exist {
            put!(out, " {dashes}exist");
        }
        if let Some(seconds) = self.adding.timeout {
            put!(out, " {dashes}timeout {seconds}");
        }
        self.del.put(out, &format!("{dashes}del-set"));
        self.map.put(out, &format!("{dashes}map-set"));
        if self.map.is_named() {
            put!(out, " {dashes}map-mark");
        }
    }
}

impl Target for SetTarget {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        let (sets, facts, now) = (&view.tables.sets, facts(view), view.now);
        if let Some(id) = self.add.id().filter(|_| !view.is_dry) {
            sets.add(id, &facts, &self.add.sides, now, self.adding);
        }
        if let Some(id) = self.del.id().filter(|_| !view.is_dry) {
            sets.remove(id, &facts, &self.del.sides, now);
        }
        let mapped = self.map.id().and_then(|id| {
            sets.matches(id, &facts, &self.map.sides, now, &Asking::default().of(view.is_dry))
        });
        if let Some(SkbInfo { mark, mask, .. }) = mapped.map(|found| found.skb) {
            view.mark = view.mark & !mask ^ mark;
            view.effects.has_mark = true;
        }
        None
    }
}
