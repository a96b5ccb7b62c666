//! `policy`: what IPsec policy a packet came by, or goes by. There is none here: nothing is decrypted or encrypted on the packet path, so that each packet
//! is one of `--pol none`, and of no other.
//!
//! Source of the facts: Linux, `net/netfilter/xt_policy.c`.

use super::Match;
use crate::rule::names;
use crate::rule::options::Prefix;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Policy {
    is_out: bool,
    is_none: bool,
    is_strict: bool,
    /// At least one, unless it is of none.
    elements: Vec<Element>,
}

/// A transformation; each value with whether it is not to be that.
#[derive(Clone, PartialEq, Debug, Default)]
struct Element {
    request: Option<(u32, bool)>,
    index: Option<(u32, bool)>,
    protocol: Option<(u8, bool)>,
    is_tunnel: Option<(bool, bool)>,
    destination: Option<(Prefix, bool)>,
    source: Option<(Prefix, bool)>,
}

/// Elements that a rule may have.
const MOST: usize = 4;

/// What is transformed by.
const PROTOCOLS: [(u8, &str); 3] = [(50, "esp"), (51, "ah"), (108, "ipcomp")];

fn wrong(text: impl std::fmt::Display) -> Error {
    Error::parameter(format!("policy match: {text}"))
}

/// Says what was not said of the element so far.
fn say<T>(place: &mut Option<T>, value: T, option: &str) -> Result<(), Error> {
    match place.replace(value) {
        Some(_) => Err(wrong(format!("double --{option} option"))),
        None => Ok(()),
    }
}

impl Policy {
    fn put(&self, out: &mut String, dashes: &str, has_names: bool, family: Family) {
        put!(out, " {dashes}dir {}", if self.is_out { "out" } else { "in" });
        put!(out, " {dashes}pol {}", if self.is_none { "none" } else { "ipsec" });
        if self.is_strict {
            put!(out, " {dashes}strict");
        }
        let is_saved = !dashes.is_empty();
        let elements = if self.is_none { &[][..] } else { &self.elements };
        for (at, element) in elements.iter().enumerate() {
            if is_saved && at > 0 {
                out.push_str(" --next");
            } else if !is_saved && elements.len() > 1 {
                put!(out, " [{at}]");
            }
            element.put(out, dashes, has_names, family);
        }
    }
}

impl Element {
    fn put(&self, out: &mut String, dashes: &str, has_names: bool, family: Family) {
        if let Some((request, is_not)) = self.request {
            put!(out, "{} {dashes}reqid {request}", not(is_not));
        }
        if let Some((index, is_not)) = self.index {
            put!(out, "{} {dashes}spi {index:#x}", not(is_not));
        }
        if let Some((protocol, is_not)) = self.protocol {
            let known = PROTOCOLS.iter().find(|(number, _)| *number == protocol && has_names);
            let name = known.map_or(protocol.to_string(), |(_, name)| (*name).to_owned());
            put!(out, "{} {dashes}proto {name}", not(is_not));
        }
        if let Some((is_tunnel, is_not)) = self.is_tunnel {
            put!(out, "{} {dashes}mode {}", not(is_not), if is_tunnel { "tunnel" } else { "transport" });
        }
        for (name, end) in [("tunnel-dst", self.destination), ("tunnel-src", self.source)] {
            let Some((prefix, is_not)) = end else { continue };
            let shown = prefix.shown(family).to_string();
            let all = format!("/{}", family.bits());
            put!(out, "{} {dashes}{name} {}", not(is_not), shown.strip_suffix(&all).unwrap_or(&shown));
        }
    }

    /// Reads an option about it.
    fn take(&mut self, given: &Given<'_, '_>) -> Result<(), Error> {
        let is_not = given.is_negated;
        let name = given.option.name;
        match name {
            "reqid" => say(&mut self.request, (given.u32()?, is_not), name),
            "spi" => say(&mut self.index, (given.u32()?, is_not), name),
            "proto" => {
                let unknown = || Error::parameter(format!("unknown protocol \"{}\" specified", given.value));
                let by_name = PROTOCOLS.iter().find(|(_, name)| *name == given.value).map(|(number, _)| *number);
                let number = by_name.or_else(|| names::protocol(given.value, given.around.names));
                let number = number.ok_or_else(unknown)?;
                match PROTOCOLS.iter().any(|(known, _)| *known == number) {
                    true => say(&mut self.protocol, (number, is_not), name),
                    false => Err(wrong("protocol must be ah/esp/ipcomp")),
                }
            }
            "mode" => match given.value {
                "tunnel" => say(&mut self.is_tunnel, (true, is_not), name),
                "transport" => say(&mut self.is_tunnel, (false, is_not), name),
                other => Err(wrong(format_args!("invalid mode \"{other}\""))),
            },
            "tunnel-dst" => say(&mut self.destination, (given.prefix()?, is_not), name),
            _ => say(&mut self.source, (given.prefix()?, is_not), name),
        }
    }

    fn is_of_tunnels(&self) -> bool {
        self.is_tunnel == Some((true, false))
    }

    fn has_ends(&self) -> bool {
        self.source.is_some() || self.destination.is_some()
    }
}

impl Extension for Policy {
    const NAME: &'static str = "policy";
    const OPTIONS: &'static [Opt] = &[
        opt("dir", 0),
        opt("pol", 1),
        flag("strict", 2),
        opt("reqid", 3).negatable().repeats(),
        opt("spi", 4).negatable().repeats(),
        opt("proto", 5).negatable().repeats(),
        opt("mode", 6).negatable().repeats(),
        opt("tunnel-dst", 7).negatable().repeats(),
        opt("tunnel-src", 8).negatable().repeats(),
        flag("next", 9).repeats().with(1 << 2),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match (given.option.name, given.value) {
            ("dir", "in") => self.is_out = false,
            ("dir", "out") => self.is_out = true,
            ("dir", other) => {
                return Err(Error::parameter(format!("policy_match: invalid dir \"{other}\"")));
            }
            ("pol", "ipsec") => self.is_none = false,
            ("pol", "none") => self.is_none = true,
            ("pol", other) => return Err(wrong(format_args!("invalid policy \"{other}\""))),
            ("strict", _) => self.is_strict = true,
            ("next", _) if self.elements.len() >= MOST => return Err(wrong("maximum policy depth reached")),
            ("next", _) => {
                self.elements.resize(self.elements.len().max(1), Element::default());
                self.elements.push(Element::default());
            }
            _ => {
                self.elements.resize(self.elements.len().max(1), Element::default());
                if let Some(element) = self.elements.last_mut() {
                    element.take(given)?;
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen & 1 == 0 {
            return Err(wrong("neither --dir in nor --dir out specified"));
        }
        if self.is_none && self.is_strict {
            return Err(wrong("policy none but --strict given"));
        }
        if self.is_none {
            self.elements.clear();
            return Ok(());
        }
        self.elements.resize(self.elements.len().max(1), Element::default());
        for (at, element) in self.elements.iter().enumerate() {
            if self.is_strict && *element == Element::default() {
                return Err(wrong(format_args!(
                    "empty policy element {at}. --strict is in effect, but at least one of reqid, spi, tunnel-src, tunnel-dst, proto or mode is required."
                )));
            }
            if element.has_ends() && !element.is_of_tunnels() {
                return Err(wrong("--tunnel-src/--tunnel-dst is only valid in tunnel mode"));
            }
        }
        Ok(())
    }

    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        /// PREROUTING and INPUT; OUTPUT and POSTROUTING.
        const IN: u8 = 1 | 2;
        const OUT: u8 = 8 | 16;
        let others = if self.is_out { IN } else { OUT };
        if place.hooks & others == 0 { Ok(()) } else { Err(Refused::Invalid) }
    }

    fn save(&self, out: &mut String, family: Family) {
        self.put(out, "--", true, family);
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        out.push_str(" policy match");
        self.put(out, "", !style.is_numeric, style.family);
    }
}

impl Match for Policy {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, _: &mut View<'_>) -> bool {
        self.is_none
    }
}
