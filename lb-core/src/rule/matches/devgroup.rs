//! `devgroup`: the group that an interface is of in Linux (`ip link set wan group 7`).
//!
//! Source of the facts: Linux, `net/netfilter/xt_devgroup.c`; what is printed and refused: recorded from iptables 1.8.9.

use super::Match;
use crate::rule::prelude::*;
use crate::tables::InterfaceId;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct DevGroup {
    source: Option<Group>,
    destination: Option<Group>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Group {
    value: u32,
    mask: u32,
    is_not: bool,
}

/// The one name of a group that is known: iproute2's of the group that every interface is of at first.
const DEFAULT: (&str, u32) = ("default", 0);
/// PREROUTING, INPUT, FORWARD; FORWARD, OUTPUT, POSTROUTING.
const WITH_INPUT: u8 = 1 | 2 | 4;
const WITH_OUTPUT: u8 = 4 | 8 | 16;

impl Group {
    /// `number[/mask]`, or a name.
    fn read(given: &Given<'_, '_>) -> Result<Group, Error> {
        let (value, mask) = given.marked_or(|name| (name == DEFAULT.0).then_some(DEFAULT.1))?;
        Ok(Group { value, mask, is_not: given.is_negated })
    }

    fn put(&self, out: &mut String, name: &str, has_names: bool) {
        put!(out, "{} {name} ", not(self.is_not));
        match (self.value, self.mask) {
            (value, u32::MAX) if value == DEFAULT.1 && has_names => out.push_str(DEFAULT.0),
            (value, u32::MAX) => put!(out, "{value:#x}"),
            (value, mask) => put!(out, "{value:#x}/{mask:#x}"),
        }
    }

    fn holds(&self, view: &View<'_>, interface: Option<InterfaceId>) -> bool {
        let found = interface.and_then(|id| view.tables.interfaces.get(id));
        let group = found.map_or(DEFAULT.1, |interface| interface.group);
        ((group ^ self.value) & self.mask == 0) != self.is_not
    }
}

impl Extension for DevGroup {
    const NAME: &'static str = "devgroup";
    const OPTIONS: &'static [Opt] = &[opt("src-group", 0).negatable(), opt("dst-group", 1).negatable()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let group = Some(Group::read(given)?);
        match given.id() {
            0 => self.source = group,
            _ => self.destination = group,
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen == 0 {
            return Err(Error::parameter(
                "devgroup match: You must specify either '--src-group' or '--dst-group'",
            ));
        }
        Ok(())
    }

    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        let is_fine = |group: Option<Group>, hooks: u8| group.is_none() || place.hooks & !hooks == 0;
        let is_fine = is_fine(self.source, WITH_INPUT) && is_fine(self.destination, WITH_OUTPUT);
        if is_fine { Ok(()) } else { Err(Refused::Invalid) }
    }

    fn save(&self, out: &mut String, _: Family) {
        self.source.iter().for_each(|group| group.put(out, "--src-group", true));
        self.destination.iter().for_each(|group| group.put(out, "--dst-group", true));
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        self.source.iter().for_each(|group| group.put(out, "src-group", !style.is_numeric));
        self.destination.iter().for_each(|group| group.put(out, "dst-group", !style.is_numeric));
    }
}

impl Match for DevGroup {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        self.source.is_none_or(|group| group.holds(view, view.input))
            && self.destination.is_none_or(|group| group.holds(view, view.output))
    }
}
