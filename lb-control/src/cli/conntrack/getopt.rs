//! Splits a command line into options as conntrack's option library (GNU getopt) does: long names may be cut short as long as
//! they mean one option, other words may stand between options, and a protocol's options count from its `-p` on.
//!
//! Source: getopt(3); messages recorded from conntrack 1.4.7.

use super::Stop;
use super::options::{Family, Field, Opt, Row, TABLE, Takes, VERBS, Verb};

/// An option, with its argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Given<'a> {
    Verb(Verb),
    Opt(Opt, Option<&'a str>),
    /// Of the protocol.
    Field(Field, &'a str),
}

/// What a name means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Verb(Verb),
    Opt(Opt, Takes),
    Field(Field, &'static str),
}

pub(crate) struct Words<'a> {
    words: &'a [String],
    next: usize,
    /// What is left of a word of short options.
    cluster: Option<&'a str>,
    /// `--` was seen: nothing more is an option.
    is_over: bool,
    /// Of the protocol that was named.
    pub(crate) protocol: Option<&'static Family>,
}

impl<'a> Words<'a> {
    pub(crate) fn new(words: &'a [String]) -> Words<'a> {
        Words { words, next: 0, cluster: None, is_over: false, protocol: None }
    }

    /// Takes the next word as an argument that may be there.
    pub(crate) fn optional(&mut self) -> Option<&'a str> {
        if self.cluster.is_some() || self.is_over {
            return None;
        }
        let word = self.words.get(self.next).filter(|word| !word.starts_with('-'))?;
        self.next += 1;
        Some(word)
    }

    /// The next option and its argument; `None` at the end.
    pub(crate) fn next_option(&mut self) -> Result<Option<Given<'a>>, Stop> {
        if let Some(rest) = self.cluster.take() {
            return self.short(rest).map(Some);
        }
        while let Some(word) = self.words.get(self.next).filter(|_| !self.is_over) {
            self.next += 1;
            if word == "--" {
                self.is_over = true;
            } else if let Some(long) = word.strip_prefix("--") {
                return self.long(long).map(Some);
            } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                return self.short(letters).map(Some);
            }
        }
        Ok(None)
    }

    fn word(&self) -> &'a str {
        self.next.checked_sub(1).and_then(|at| self.words.get(at)).map_or("", String::as_str)
    }

    fn unknown(&self) -> Stop {
        Stop::usage(format!("unknown option `{}'", self.word()))
    }

    fn short(&mut self, cluster: &'a str) -> Result<Given<'a>, Stop> {
        let mut letters = cluster.chars();
        let letter = letters.next().unwrap_or_default();
        let rest = letters.as_str();
        if let Some(row) = VERBS.iter().find(|row| row.short == letter) {
            if matches!(row.verb, Verb::Help | Verb::Version | Verb::Statistics) {
                self.cluster = (!rest.is_empty()).then_some(rest);
            }
            // What else stands in the word is an argument that means nothing.
            return Ok(Given::Verb(row.verb));
        }
        let row: &Row = TABLE.iter().find(|row| row.short == letter).ok_or_else(|| self.unknown())?;
        if row.takes == Takes::Nothing {
            self.cluster = (!rest.is_empty()).then_some(rest);
            return Ok(Given::Opt(row.opt, None));
        }
        let attached = (!rest.is_empty()).then_some(rest);
        let argument = self.argument(row.takes, attached)?;
        Ok(Given::Opt(row.opt, argument))
    }

    fn long(&mut self, long: &'a str) -> Result<Given<'a>, Stop> {
        let (name, attached) = match long.split_once('=') {
            Some((name, attached)) => (name, Some(attached)),
            None => (long, None),
        };
        match self.named(name).ok_or_else(|| self.unknown())? {
            Name::Verb(Verb::Help | Verb::Version | Verb::Statistics) if attached.is_some() => {
                Err(self.unknown())
            }
            Name::Verb(verb) => Ok(Given::Verb(verb)),
            Name::Opt(_, Takes::Nothing) if attached.is_some() => Err(self.unknown()),
            Name::Opt(opt, takes) => Ok(Given::Opt(opt, self.argument(takes, attached)?)),
            Name::Field(field, _) => {
                let argument = self.argument(Takes::Argument, attached)?.unwrap_or_default();
                Ok(Given::Field(field, argument))
            }
        }
    }

    /// What a long name means, whole or cut short.
    fn named(&self, name: &str) -> Option<Name> {
        let verbs = VERBS.iter().flat_map(|row| row.long.iter().map(|&long| (long, Name::Verb(row.verb))));
        let options =
            TABLE.iter().flat_map(|row| row.long.iter().map(|&long| (long, Name::Opt(row.opt, row.takes))));
        let fields = self.protocol.into_iter().flat_map(|family| family.options).copied().flatten();
        let fields = fields.map(|&(long, field)| (long, Name::Field(field, long)));
        let mut begun = verbs.chain(options).chain(fields).filter(|(long, _)| long.starts_with(name));
        let mut found: Option<Name> = None;
        while let Some((long, means)) = begun.next() {
            if long == name {
                return Some(means);
            }
            // Several names of one option are no doubt; those of others are, unless one is whole.
            if found.is_some_and(|before| before != means) {
                return begun.find(|(long, _)| *long == name).map(|(_, means)| means);
            }
            found = Some(means);
        }
        found
    }

    fn argument(&mut self, takes: Takes, attached: Option<&'a str>) -> Result<Option<&'a str>, Stop> {
        if attached.is_some() {
            return Ok(attached);
        }
        if takes == Takes::Optional {
            return Ok(self.optional());
        }
        let option = self.word();
        let Some(word) = self.words.get(self.next) else {
            return Err(Stop::usage(format!("option `{option}' requires an argument")));
        };
        self.next += 1;
        Ok(Some(word))
    }
}
