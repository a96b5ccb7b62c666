//! `TTL`: writes the TTL. Of IPv6 it is the hop limit, and `HL`.

use super::Target;
use crate::rule::edit;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

/// `TTL`, or `HL`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HopsLeftTarget<const IS_IPV6: bool> {
    change: Change,
}

pub(super) type TtlTarget = HopsLeftTarget<false>;
pub(super) type HopLimitTarget = HopsLeftTarget<true>;

#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum Change {
    #[default]
    Unsaid,
    Set(u8),
    Less(u8),
    More(u8),
}

const ALL: u32 = 0b111;

const TTL: &[Opt] = &[
    opt("ttl-set", 0).not_with(ALL & !1),
    opt("ttl-dec", 1).not_with(ALL & !2),
    opt("ttl-inc", 2).not_with(ALL & !4),
];

const HL: &[Opt] = &[
    opt("hl-set", 0).not_with(ALL & !1),
    opt("hl-dec", 1).not_with(ALL & !2),
    opt("hl-inc", 2).not_with(ALL & !4),
];

impl<const IS_IPV6: bool> Extension for HopsLeftTarget<IS_IPV6> {
    const NAME: &'static str = if IS_IPV6 { "HL" } else { "TTL" };
    const OPTIONS: &'static [Opt] = if IS_IPV6 { HL } else { TTL };
    const FAMILY: Option<Family> = Some(if IS_IPV6 { Family::Ipv6 } else { Family::Ipv4 });
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
        match seen {
            0 => Err(Error::parameter(format!("{}: You must specify an action", Self::NAME))),
            _ => Ok(()),
        }
    }

    fn save(&self, out: &mut String, _: Family) {
        let option = if IS_IPV6 { "--hl" } else { "--ttl" };
        match self.change {
            Change::Unsaid => {}
            Change::Set(value) => put!(out, " {option}-set {value}"),
            Change::Less(by) => put!(out, " {option}-dec {by}"),
            Change::More(by) => put!(out, " {option}-inc {by}"),
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        let name = Self::NAME;
        match self.change {
            Change::Unsaid => {}
            Change::Set(value) => put!(out, " {name} set to {value}"),
            Change::Less(by) => put!(out, " {name} decrement by {by}"),
            Change::More(by) => put!(out, " {name} increment by {by}"),
        }
    }
}

impl<const IS_IPV6: bool> Target for HopsLeftTarget<IS_IPV6> {
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
