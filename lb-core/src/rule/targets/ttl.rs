//! `TTL`: writes the TTL.

use super::Target;
use crate::rule::edit;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum Change {
    #[default]
    Unsaid,
    Set(u8),
    Less(u8),
    More(u8),
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct TtlTarget {
    change: Change,
}

const ALL: u32 = 0b111;

impl Extension for TtlTarget {
    const NAME: &'static str = "TTL";
    const OPTIONS: &'static [Opt] = &[
        opt("ttl-set", 0).not_with(ALL & !1),
        opt("ttl-dec", 1).not_with(ALL & !2),
        opt("ttl-inc", 2).not_with(ALL & !4),
    ];
    const FAMILY: Option<Family> = Some(Family::Ipv4);
    const TABLES: &'static [Table] = &[Table::Mangle];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.change = match given.id() {
            0 => Change::Set(given.u8()?),
            1 => Change::Less(given.number(1, 255)? as u8),
            _ => Change::More(given.number(1, 255)? as u8),
        };
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen == 0 { Err(Error::parameter("TTL: You must specify an action")) } else { Ok(()) }
    }

    fn save(&self, out: &mut String, _: Family) {
        match self.change {
            Change::Unsaid => {}
            Change::Set(value) => put!(out, " --ttl-set {value}"),
            Change::Less(by) => put!(out, " --ttl-dec {by}"),
            Change::More(by) => put!(out, " --ttl-inc {by}"),
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        match self.change {
            Change::Unsaid => {}
            Change::Set(value) => put!(out, " TTL set to {value}"),
            Change::Less(by) => put!(out, " TTL decrement by {by}"),
            Change::More(by) => put!(out, " TTL increment by {by}"),
        }
    }
}

impl Target for TtlTarget {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        let ttl = match self.change {
            Change::Unsaid => return None,
            Change::Set(value) => value,
            Change::Less(by) => view.ttl().saturating_sub(by),
            Change::More(by) => view.ttl().saturating_add(by),
        };
        edit::set_ttl(view, ttl);
        None
    }
}
