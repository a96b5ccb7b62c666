//! `mh`: the type of a message of Mobile IPv6 (RFC 6275 §6.1.1).

use super::Match;
use crate::rule::prelude::*;
use crate::rule::text::number;
use crate::wire::array;

#[derive(Clone, PartialEq, Debug)]
pub struct Mobility {
    from: u8,
    to: u8,
    is_not: bool,
}

impl Default for Mobility {
    fn default() -> Mobility {
        Mobility { from: 0, to: u8::MAX, is_not: false }
    }
}

/// By type; long and short.
const TYPES: [(&str, &str); 8] = [
    ("binding-refresh-request", "brr"),
    ("home-test-init", "hoti"),
    ("careof-test-init", "coti"),
    ("home-test", "hot"),
    ("careof-test", "cot"),
    ("binding-update", "bu"),
    ("binding-acknowledgement", "ba"),
    ("binding-error", "be"),
];

/// A name may be cut off where no other begins so.
fn read(text: &str) -> Result<u8, Error> {
    let lower = text.to_ascii_lowercase();
    let whole = TYPES.iter().position(|(long, short)| *long == lower || *short == lower);
    let begun = || {
        let mut begun = TYPES.iter().enumerate().filter(|(_, (long, _))| long.starts_with(&lower));
        begun.next().filter(|_| begun.next().is_none()).map(|(at, _)| at)
    };
    let found = match number(text) {
        Some(number) => u8::try_from(number).ok(),
        None => whole.or_else(begun).map(|at| at as u8),
    };
    found.ok_or_else(|| Error::parameter(format!("Invalid MH type `{text}'")))
}

fn put(out: &mut String, kind: u8, style: &Style<'_>) {
    match TYPES.get(usize::from(kind)) {
        Some((name, _)) if !style.is_numeric => out.push_str(name),
        _ => put!(out, "{kind}"),
    }
}

impl Extension for Mobility {
    const NAME: &'static str = "mh";
    const ALIASES: &'static [&'static str] = &["mobility-header"];
    const OPTIONS: &'static [Opt] = &[opt("mh-type", 0).negatable()];
    const FAMILY: Option<Family> = Some(Family::Ipv6);
    const PROTOCOL: Option<u8> = Some(135);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let (from, to) = match given.value.split_once(':') {
            None => (read(given.value)?, read(given.value)?),
            Some((from, to)) => (
                if from.is_empty() { 0 } else { read(from)? },
                if to.is_empty() { u8::MAX } else { read(to)? },
            ),
        };
        if from > to {
            return Err(Error::parameter("Invalid MH type range (min > max)"));
        }
        *self = Mobility { from, to, is_not: given.is_negated };
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        if *self != Mobility::default() {
            put!(out, "{} --mh-type {}", not(self.is_not), self.from);
            if self.to != self.from {
                put!(out, ":{}", self.to);
            }
        }
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        out.push_str(" mh");
        if *self != Mobility::default() {
            out.push_str(if self.is_not { " !" } else { " " });
            put(out, self.from, style);
            if self.to != self.from {
                out.push(':');
                put(out, self.to, style);
            }
        }
    }
}

impl Match for Mobility {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(&[_, _, kind]) = array(view.transport(), 0) else { return false };
        (self.from..=self.to).contains(&kind) != self.is_not
    }
}
