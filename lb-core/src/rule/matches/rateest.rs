//! `rateest`: what an estimator (`RATEEST`) says, compared with a rate or with another one.

use super::Match;
use crate::rule::estimator::{Estimator, LONGEST_NAME};
use crate::rule::prelude::*;
use crate::rule::text::is_blank;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct RateMatch {
    names: [String; 2],
    /// `None`: unsaid.
    order: Option<Wanted>,
    is_not: bool,
    /// Not rates, but how much of a given one is left, are compared.
    is_delta: bool,
    bytes: Rates,
    packets: Rates,
    estimators: [Kept<Estimator>; 2],
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Wanted {
    Less,
    Greater,
    Equal,
}

/// Whether they are compared, and the rates given for either side.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Rates {
    is_asked: bool,
    given: [u32; 2],
}

impl Extension for RateMatch {
    const NAME: &'static str = "rateest";
    const OPTIONS: &'static [Opt] = &[
        opt("rateest", 0),
        opt("rateest1", 0),
        opt("rateest2", 1),
        flag("rateest-lt", 2).negatable().repeats(),
        flag("rateest-gt", 3).negatable().repeats(),
        flag("rateest-eq", 4).negatable().repeats(),
        flag("rateest-bps", 5),
        flag("rateest-pps", 6),
        opt("rateest-bps1", 7),
        opt("rateest-bps2", 8),
        opt("rateest-pps1", 9),
        opt("rateest-pps2", 10),
        flag("rateest-delta", 11),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            id @ (0 | 1) => self.names[usize::from(id)] = given.value.chars().take(LONGEST_NAME).collect(),
            id @ 2..=4 => {
                let wanted = [Wanted::Less, Wanted::Greater, Wanted::Equal][usize::from(id) - 2];
                self.order = Some(wanted);
                // Each of a rule's orders is negated that one is.
                self.is_not |= given.is_negated;
            }
            5 => {
                let value = given.more.next_value().map(bytes).transpose()?;
                (self.bytes.is_asked, self.bytes.given[1]) = (true, value.unwrap_or_default());
            }
            6 => {
                let value = given.more.next_value().map(packets).transpose()?;
                (self.packets.is_asked, self.packets.given[1]) = (true, value.unwrap_or_default());
            }
            id @ (7 | 8) => {
                self.bytes.is_asked = true;
                self.bytes.given[usize::from(id) - 7] = bytes(given.value)?;
            }
            id @ (9 | 10) => {
                self.packets.is_asked = true;
                self.packets.given[usize::from(id) - 9] = packets(given.value)?;
            }
            _ => self.is_delta = true,
        }
        Ok(())
    }

    fn finish(&mut self, _: u32, _: &Around<'_>) -> Result<(), Error> {
        // The kernel is the one that asks this.
        if self.order.is_none() || !(self.bytes.is_asked || self.packets.is_asked) {
            return Err(Error::invalid());
        }
        if self.names[0].is_empty() {
            return Err(Error::other("No chain/target/match by that name."));
        }
        // What is not compared with is not said.
        for rates in [&mut self.bytes, &mut self.packets] {
            if !self.is_delta {
                rates.given[0] = 0;
            }
            if !self.is_delta && !self.names[1].is_empty() {
                rates.given[1] = 0;
            }
        }
        Ok(())
    }

    fn bind(&mut self, named: &mut Named) -> Result<(), Refused> {
        let sides = self.sides();
        for (name, kept) in self.names.iter().zip(&mut self.estimators).take(sides) {
            kept.set(named.estimators.get(name).ok_or(Refused::NotThere)?.clone());
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        if self.is_delta {
            out.push_str(" --rateest-delta");
        }
        put!(out, " --rateest{} {}", if self.sides() == 2 { "1" } else { "" }, self.names[0]);
        for (unit, rates, shown) in self.asked(true) {
            if self.is_delta {
                put!(out, " --rateest-{unit}1 {}", shown(rates.given[0]));
            }
            put!(out, "{} --rateest-{}", not(self.is_not), self.word());
            match (self.is_delta, self.sides()) {
                (true, _) => put!(out, " --rateest-{unit}2 {}", shown(rates.given[1])),
                (false, 1) => put!(out, " --rateest-{unit} {}", shown(rates.given[1])),
                (false, _) => put!(out, " --rateest-{unit}"),
            }
        }
        if self.sides() == 2 {
            put!(out, " --rateest2 {}", self.names[1]);
        }
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        put!(out, " rateest match {}", self.names[0]);
        if self.is_delta {
            out.push_str(" delta");
        }
        let order = format!("{} {}", not(self.is_not), self.word());
        let rate = |unit: &str, rate: u32| match unit {
            "bps" if !style.is_numeric => shown_bits(rate),
            _ => rate.to_string(),
        };
        let given = |unit: &str, given| if self.is_delta { format!(" {}", rate(unit, given)) } else { String::new() };
        if self.sides() == 2 {
            for (unit, rates, _) in self.asked(false) {
                put!(out, " {unit}{}", given(unit, rates.given[0]));
            }
            put!(out, "{order} {}", self.names[1]);
            for (unit, rates, _) in self.asked(false) {
                put!(out, " {unit}{}", given(unit, rates.given[1]));
            }
            return;
        }
        for (unit, rates, _) in self.asked(false) {
            let (first, second) = (given(unit, rates.given[0]), rate(unit, rates.given[1]));
            match unit {
                "bps" => put!(out, " bps{first} {second}{order}"),
                _ => put!(out, " pps{first}{order} {second}"),
            }
        }
    }
}

type Shown = fn(u32) -> String;

impl RateMatch {
    fn sides(&self) -> usize {
        if self.names[1].is_empty() { 1 } else { 2 }
    }

    fn word(&self) -> &'static str {
        match self.order {
            Some(Wanted::Less) => "lt",
            Some(Wanted::Greater) => "gt",
            Some(Wanted::Equal) => "eq",
            None => "",
        }
    }

    fn asked(&self, has_unit: bool) -> impl Iterator<Item = (&'static str, Rates, Shown)> {
        let shown: Shown = if has_unit { shown_bits } else { |rate| rate.to_string() };
        let all = [("bps", self.bytes, shown), ("pps", self.packets, |rate: u32| rate.to_string())];
        all.into_iter().filter(|(_, rates, _)| rates.is_asked)
    }
}

/// Bits a second in tc(8)'s units, as bytes.
fn bytes(text: &str) -> Result<u32, Error> {
    const UNITS: [(&str, f64); 15] = [
        ("", 1.0),
        ("bit", 1.0),
        ("kibit", 1024.0),
        ("kbit", 1e3),
        ("mibit", 1_048_576.0),
        ("mbit", 1e6),
        ("gibit", 1_073_741_824.0),
        ("gbit", 1e9),
        ("bps", 8.0),
        ("kibps", 8192.0),
        ("kbps", 8e3),
        ("mibps", 8_388_608.0),
        ("mbps", 8e6),
        ("gibps", 8_589_934_592.0),
        ("gbps", 8e9),
    ];
    let text = text.trim_start_matches(is_blank);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| factor);
    let rate = number.parse::<f64>().ok().zip(factor).map(|(number, factor)| number * factor / 8.0);
    let rate = rate.filter(|rate| *rate <= u32::MAX.into());
    rate.map(|rate| rate as u32)
        .ok_or_else(|| Error::parameter(format!("rateest: could not parse rate `{text}'")))
}

fn packets(text: &str) -> Result<u32, Error> {
    let rate = crate::rule::text::number(text).and_then(|rate| u32::try_from(rate).ok());
    rate.ok_or_else(|| Error::parameter(format!("rateest: could not parse pps `{text}'")))
}

fn shown_bits(bytes: u32) -> String {
    match u64::from(bytes) * 8 {
        bits @ 1_000_000_000.. => format!("{:.0}Mbit", bits as f64 / 1e6),
        bits @ 1_000_000.. => format!("{:.0}Kbit", bits as f64 / 1e3),
        bits => format!("{bits}bit"),
    }
}

impl Match for RateMatch {
    /// Who looks makes up for the time that has passed, as whoever looks next would: that changes nothing, also when
    /// [`View::is_dry`](crate::rule::View::is_dry).
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let [first, second] = &self.estimators;
        let Some(first) = first.get().map(|first| first.rates(view.now)) else { return false };
        let second = second.get().map(|second| second.rates(view.now));
        let holds = |rates: Rates, first: u64, second: Option<u64>| {
            let [given, limit] = rates.given.map(u64::from);
            let left = |given: u64, is: u64| if self.is_delta { given.saturating_sub(is) } else { is };
            let (first, second) = (left(given, first), second.map_or(limit, |second| left(limit, second)));
            match self.order {
                _ if !rates.is_asked => true,
                Some(Wanted::Less) => first < second,
                Some(Wanted::Greater) => first > second,
                Some(Wanted::Equal) => first == second,
                None => false,
            }
        };
        let is = holds(self.bytes, first.0, second.map(|second| second.0))
            && holds(self.packets, first.1, second.map(|second| second.1));
        is != self.is_not
    }
}
