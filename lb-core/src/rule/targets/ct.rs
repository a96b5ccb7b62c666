//! `CT`: whether, and how, the packet's connection is tracked. The first one that a packet meets counts.
//!
//! Source of the facts: Linux, `net/netfilter/xt_CT.c`; what is printed: recorded from iptables 1.8.9.

use super::Target;
use crate::conntrack::helper::HelperId;
use crate::conntrack::{Template, Told};
use crate::flow::Direction;
use crate::rule::prelude::*;
use crate::rule::text::number;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ct {
    is_untracked: bool,
    /// The events that are told, where it says so.
    told: Option<Told>,
    template: Template,
    /// `--expevents new`: without `--ctevents` nothing is told of the connection, but of those that it announces.
    has_expected: bool,
    /// As written: only when the rule is entered it must be there.
    helper: String,
}

impl Ct {
    pub(crate) fn sets_zone(&self) -> bool {
        !self.is_untracked && self.has_zone()
    }

    pub(crate) fn gives_helper(&self) -> bool {
        self.template.helper != HelperId::NONE
    }

    fn has_zone(&self) -> bool {
        self.template.is_marked || self.template.zone != 0
    }

    fn zone(&mut self, text: &str, only: Option<Direction>, is_first: bool) -> Result<(), Error> {
        let id = number(text).and_then(|id| u16::try_from(id).ok());
        let template = &mut self.template;
        match id {
            Some(id) => template.zone = id,
            None if text == "mark" => template.is_marked = true,
            None => return Err(Error::parameter(format!("Cannot parse {text} as a zone ID"))),
        }
        // The zone of one direction and then of the other is that of both.
        if only.is_some() {
            template.only = if is_first { only } else { None };
        }
        Ok(())
    }

    fn events(&mut self, text: &str) -> Result<(), Error> {
        let mut told = Told::NONE;
        for name in text.split(',') {
            let found = Told::NAMES.iter().find(|(known, _)| *known == name);
            let &(_, kind) =
                found.ok_or_else(|| Error::parameter(format!("Unknown event type \"{name}\"")))?;
            told = told.and(kind);
        }
        self.told = Some(told);
        self.leave_untold();
        Ok(())
    }

    fn expected_events(&mut self, text: &str) -> Result<(), Error> {
        if let Some(other) = text.split(',').find(|name| *name != "new") {
            return Err(Error::parameter(format!("Unknown event type \"{other}\"")));
        }
        self.has_expected = true;
        self.leave_untold();
        Ok(())
    }

    /// All that is named in neither.
    fn leave_untold(&mut self) {
        let expected = if self.has_expected { Told::EXPECT_NEW } else { Told::NONE };
        self.template.untold = self.told.unwrap_or(Told::NONE).and(expected).others();
    }

    /// What of it is printed, with `dashes` before names.
    fn put(&self, out: &mut String, dashes: &str) {
        if self.is_untracked {
            put!(out, " {dashes}notrack");
        }
        if !self.helper.is_empty() {
            put!(out, " {dashes}helper {}", self.helper);
        }
        if let Some(told) = self.told {
            let names = Told::NAMES.iter().filter(|(_, kind)| told.has(*kind));
            let names: Vec<&str> = names.map(|&(name, _)| name).collect();
            put!(out, " {dashes}ctevents {}", names.join(","));
        }
        if self.has_expected {
            put!(out, " {dashes}expevents new");
        }
        if self.has_zone() {
            let of = match self.template.only {
                None => "",
                Some(Direction::Original) => "-orig",
                Some(Direction::Reply) => "-reply",
            };
            put!(out, " {dashes}zone{of} ");
            match self.template.is_marked {
                true => out.push_str("mark"),
                false => put!(out, "{}", self.template.zone),
            }
        }
    }
}

impl Extension for Ct {
    const NAME: &'static str = "CT";
    const OPTIONS: &'static [Opt] = &[
        flag("notrack", 0),
        opt("helper", 1),
        opt("ctevents", 2),
        opt("expevents", 3),
        opt("zone", 4),
        opt("zone-orig", 5),
        opt("zone-reply", 6),
        opt("timeout", 7),
    ];
    const TABLES: &'static [Table] = &[Table::Raw];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let is_first = self.template.only.is_none();
        match given.id() {
            0 => self.is_untracked = true,
            1 => {
                self.template.helper = HelperId::named(given.value).unwrap_or_default();
                given.value.clone_into(&mut self.helper);
            }
            2 => self.events(given.value)?,
            3 => self.expected_events(given.value)?,
            4 => self.zone(given.value, None, is_first)?,
            5 => self.zone(given.value, Some(Direction::Original), is_first)?,
            6 => self.zone(given.value, Some(Direction::Reply), is_first)?,
            _ => return Err(Error::other("CT: --timeout: there are no timeout policies")),
        }
        Ok(())
    }

    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        let helper = self.template.helper.get();
        let is_its_protocol = helper.is_some_and(|helper| {
            helper.protocols.iter().any(|its| its.0 == place.header.protocol) && !place.header.is_not_protocol
        });
        if self.helper.is_empty() || is_its_protocol { Ok(()) } else { Err(Refused::NotThere) }
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put(out, "--");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" CT");
        self.put(out, "");
    }
}

impl Target for Ct {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        match self.is_untracked {
            true => view.track_not(),
            false => view.track_as(&self.template),
        }
        None
    }

    /// What a helper reads of is expected at the worker of the connection that it reads.
    fn hides_owner(&self, _: u8) -> bool {
        self.gives_helper()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::names::Numeric;
    use crate::rule::{Around, Rule, text};

    fn read(line: &str) -> Result<String, String> {
        let words = text::split(line).unwrap();
        let read = Rule::read(&words, &mut Around::new(Family::Ipv4, &Numeric));
        read.map(|(rules, _)| rules[0].save(Family::Ipv4, &Numeric)).map_err(|error| error.text)
    }

    #[test]
    fn zones_are_printed_as_recorded() {
        for (given, printed) in [
            ("--zone 5", " --zone 5"),
            ("--zone 0", ""),
            ("--zone 0x10", " --zone 16"),
            ("--zone mark", " --zone mark"),
            ("--zone-orig 7", " --zone-orig 7"),
            ("--zone-reply mark", " --zone-reply mark"),
            ("--zone-orig 7 --zone-reply 8", " --zone 8"),
            ("--zone 5 --zone-orig 5", " --zone-orig 5"),
            ("--zone 5 --notrack", " --notrack --zone 5"),
        ] {
            assert_eq!(read(&format!("-j CT {given}")), Ok(format!(" -j CT{printed}")), "{given}");
        }
    }

    #[test]
    fn events_are_printed_as_recorded() {
        for (given, printed) in [
            ("--ctevents new,destroy", " --ctevents new,destroy"),
            (
                "--ctevents mark,natseqinfo,secmark,helper,protoinfo,assured,reply,related",
                " --ctevents related,reply,assured,protoinfo,helper,mark,natseqinfo,secmark",
            ),
            ("--notrack --ctevents new", " --notrack --ctevents new"),
            ("--zone 3 --ctevents new", " --ctevents new --zone 3"),
            ("--expevents new", " --expevents new"),
            ("--expevents new --ctevents new", " --ctevents new --expevents new"),
        ] {
            assert_eq!(read(&format!("-j CT {given}")), Ok(format!(" -j CT{printed}")), "{given}");
        }
        for (given, bad) in [("NEW", "NEW"), ("new,,destroy", ""), ("new,all", "all")] {
            let refused = Err(format!("Unknown event type \"{bad}\""));
            assert_eq!(read(&format!("-j CT --ctevents {given}")), refused);
            assert_eq!(read(&format!("-j CT --expevents {given}")), refused);
        }
    }

    #[test]
    fn what_is_no_zone_is_refused_as_recorded() {
        for bad in ["65536", "x", "-", "5x"] {
            assert_eq!(read(&format!("-j CT --zone {bad}")), Err(format!("Cannot parse {bad} as a zone ID")));
        }
    }
}
