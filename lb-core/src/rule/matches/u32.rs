//! `u32`: words of the packet as it is at this hook, by a small language: `start [& mask | << n | >> n | @ n] … = from[:to],… [&& …]`.

use super::Match;
use crate::rule::prelude::*;
use crate::rule::seen::Seen;
use crate::rule::text::leading_number;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct U32 {
    tests: Vec<Test>,
    is_not: bool,
}

/// A word and where it may lie.
#[derive(Clone, PartialEq, Debug)]
struct Test {
    start: u32,
    steps: Vec<(Step, u32)>,
    ranges: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    And,
    Left,
    Right,
    At,
}

/// Steps, ranges and tests that a rule may have.
const MOST: usize = 10;

impl Extension for U32 {
    const NAME: &'static str = "u32";
    const OPTIONS: &'static [Opt] = &[opt("u32", 0).must().negatable()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.tests = read(given.value)?;
        self.is_not = given.is_negated;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --u32 ", not(self.is_not));
        self.put(out);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " u32{} ", not(self.is_not));
        self.put(out);
    }
}

fn read(text: &str) -> Result<Vec<Test>, Error> {
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let at = |rest: &str| compact.len() - rest.len();
    let bad = |rest: &str, what: &str| Error::parameter(format!("u32: at char {}: {what}", at(rest)));
    let value = |rest: &str| -> Result<(u32, usize), Error> {
        let read = leading_number(rest).and_then(|(value, after)| Some((u32::try_from(value).ok()?, after)));
        let (value, after) = read.ok_or_else(|| bad(rest, "not a number or out of range"))?;
        Ok((value, rest.len() - after.len()))
    };
    let word = |rest: &str| match rest {
        "" => Err(Error::parameter("u32: abrupt end of input after location specifier")),
        _ => value(rest),
    };
    let mut tests = Vec::new();
    let mut rest = compact.as_str();
    loop {
        if rest.starts_with('=') {
            return Err(bad(rest, "location spec missing"));
        }
        let (start, used) = word(rest)?;
        rest = &rest[used..];
        let (mut steps, mut ranges) = (Vec::new(), Vec::new());
        loop {
            let (step, len) = match rest {
                _ if rest.starts_with("&&") => return Err(bad(rest, "operator expected")),
                _ if rest.starts_with('&') => (Step::And, 1),
                _ if rest.starts_with("<<") => (Step::Left, 2),
                _ if rest.starts_with(">>") => (Step::Right, 2),
                _ if rest.starts_with('@') => (Step::At, 1),
                _ => break,
            };
            rest = &rest[len..];
            let (value, used) = word(rest)?;
            rest = &rest[used..];
            steps.push((step, value));
        }
        if rest.is_empty() {
            return Err(Error::parameter("u32: abrupt end of input after location specifier"));
        }
        rest = rest.strip_prefix('=').ok_or_else(|| bad(rest, "operator expected"))?;
        if rest.is_empty() {
            return Err(Error::parameter("u32: test ended with no value specified"));
        }
        loop {
            let (from, used) = value(rest)?;
            rest = &rest[used..];
            let mut to = from;
            if let Some(after) = rest.strip_prefix(':') {
                let (value, used) = value(after)?;
                (to, rest) = (value, &after[used..]);
            }
            ranges.push((from, to));
            match rest.strip_prefix(',') {
                Some(after) => rest = after,
                None => break,
            }
        }
        if tests.len() == MOST {
            return Err(bad(rest, "too many \"&&\"s"));
        }
        if steps.len() > MOST {
            return Err(bad(rest, "too many operators"));
        }
        if ranges.len() > MOST {
            return Err(bad(rest, "too many \",\"s"));
        }
        tests.push(Test { start, steps, ranges });
        match rest.strip_prefix("&&") {
            Some(after) => rest = after,
            None if rest.is_empty() => return Ok(tests),
            None => return Err(bad(rest, "operator expected")),
        }
    }
}

impl U32 {
    fn put(&self, out: &mut String) {
        out.push('"');
        let mut and = "";
        for Test { start, steps, ranges } in &self.tests {
            put!(out, "{and}{start:#x}");
            for (step, value) in steps {
                let sign = match step {
                    Step::And => "&",
                    Step::Left => "<<",
                    Step::Right => ">>",
                    Step::At => "@",
                };
                put!(out, "{sign}{value:#x}");
            }
            let mut before = "=";
            for (from, to) in ranges {
                put!(out, "{before}{from:#x}");
                if to != from {
                    put!(out, ":{to:#x}");
                }
                before = ",";
            }
            and = "&&";
        }
        out.push('"');
    }
}

impl Test {
    /// `None`: it looks beyond the packet.
    fn holds(&self, packet: &Seen<'_>) -> Option<bool> {
        let word = |at: usize| packet.word(at);
        // Where the offsets count from: `@` moves it by the word.
        let mut base = 0_usize;
        let mut value = word(self.start as usize)?;
        for &(step, number) in &self.steps {
            value = match step {
                Step::And => value & number,
                Step::Left => value.checked_shl(number).unwrap_or(0),
                Step::Right => value.checked_shr(number).unwrap_or(0),
                Step::At => {
                    base = base.checked_add(value as usize)?;
                    word(base.checked_add(number as usize)?)?
                }
            };
        }
        Some(self.ranges.iter().any(|(from, to)| (from..=to).contains(&&value)))
    }
}

impl Match for U32 {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let packet = Seen::of(view);
        let all = self.tests.iter().all(|test| test.holds(&packet) == Some(true));
        all != self.is_not
    }
}
