//! Splits a command line into options as ipvsadm's option library (popt) does. What are the options, what are their
//! arguments, which words are left over?
//!
//! Not a general parser: an optional argument that is the next word unless that starts with `-`, and errors that name
//! the word as typed, are what scripts see of popt. Source: popt(3); messages recorded from ipvsadm 1.31.

use super::options::{Opt, Row, TABLE, Takes};

/// A word that cannot be read; ends the line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BadOption {
    word: String,
    reason: &'static str,
}

impl std::fmt::Display for BadOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.word, self.reason)
    }
}

pub(crate) struct Words<'a> {
    words: &'a [String],
    next: usize,
    /// What is left of a word of short options.
    cluster: Option<&'a str>,
    /// `--` was seen.
    only_words: bool,
    left_over: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub(crate) fn new(words: &'a [String]) -> Words<'a> {
        Words { words, next: 0, cluster: None, only_words: false, left_over: Vec::new() }
    }

    /// The word that the last option was taken from.
    pub(crate) fn current(&self) -> &'a str {
        self.next.checked_sub(1).map_or("", |at| &self.words[at])
    }

    /// Words that belong to no option, of the part that was read.
    pub(crate) fn left_over(self) -> Vec<&'a str> {
        self.left_over
    }

    /// The next option and its argument; `None` at the end.
    pub(crate) fn next_option(&mut self) -> Result<Option<(Opt, Option<String>)>, BadOption> {
        if let Some(rest) = self.cluster.take() {
            return self.short(rest).map(Some);
        }
        while let Some(word) = self.words.get(self.next) {
            self.next += 1;
            if self.only_words || !word.starts_with('-') || word == "-" {
                self.left_over.push(word);
            } else if word == "--" {
                self.only_words = true;
            } else if let Some(long) = word.strip_prefix("--") {
                let (name, argument) = match long.split_once('=') {
                    Some((name, argument)) => (name, Some(argument)),
                    None => (long, None),
                };
                let row =
                    TABLE.iter().find(|row| row.long == name).ok_or_else(|| self.bad("unknown option"))?;
                return self.with_argument(row, argument).map(Some);
            } else {
                return self.short(&word[1..]).map(Some);
            }
        }
        Ok(None)
    }

    fn short(&mut self, cluster: &'a str) -> Result<(Opt, Option<String>), BadOption> {
        let mut letters = cluster.chars();
        let letter = letters.next();
        let rest = letters.as_str();
        let row = TABLE
            .iter()
            .find(|row| letter.is_some() && row.short == letter)
            .ok_or_else(|| self.bad("unknown option"))?;
        if row.takes != Takes::Nothing && !rest.is_empty() {
            return Ok((row.opt, Some(rest.strip_prefix('=').unwrap_or(rest).to_owned())));
        }
        if rest.starts_with('=') {
            return Err(self.bad("option does not take an argument"));
        }
        self.cluster = (!rest.is_empty()).then_some(rest);
        self.with_argument(row, None)
    }

    fn with_argument(
        &mut self,
        row: &Row,
        attached: Option<&str>,
    ) -> Result<(Opt, Option<String>), BadOption> {
        if row.takes == Takes::Nothing {
            return match attached {
                None => Ok((row.opt, None)),
                Some(_) => Err(self.bad("option does not take an argument")),
            };
        }
        if let Some(attached) = attached {
            return Ok((row.opt, Some(attached.to_owned())));
        }
        match self.words.get(self.next) {
            None if row.takes == Takes::Optional => Ok((row.opt, None)),
            None => Err(self.bad("missing argument")),
            Some(word) if row.takes == Takes::Optional && word.starts_with('-') => Ok((row.opt, None)),
            Some(word) => {
                self.next += 1;
                Ok((row.opt, Some(word.clone())))
            }
        }
    }

    fn bad(&self, reason: &'static str) -> BadOption {
        BadOption { word: self.current().to_owned(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Options = Vec<(Opt, Option<String>)>;

    /// Options, the error that ended them, words left over.
    fn read(line: &str) -> (Options, Option<String>, Vec<String>) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut reader = Words::new(&words);
        let mut options = Vec::new();
        let error = loop {
            match reader.next_option() {
                Ok(Some(option)) => options.push(option),
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        (options, error, reader.left_over().into_iter().map(str::to_owned).collect())
    }

    fn with(opt: Opt, argument: &str) -> (Opt, Option<String>) {
        (opt, Some(argument.to_owned()))
    }

    #[test]
    fn short_options_combine_and_take_what_is_left() {
        let (options, ..) = read("-Lnc -At192.0.2.1:80 -w=3");
        let expected = [
            (Opt::List, None),
            (Opt::Numeric, None),
            (Opt::Connection, None),
            (Opt::AddService, None),
            with(Opt::TcpService, "192.0.2.1:80"),
            with(Opt::Weight, "3"),
        ];
        assert_eq!(options, expected);
    }

    #[test]
    fn an_optional_argument_is_no_option() {
        assert_eq!(
            read("-p 60 -p -M 24 --persistent").0,
            [
                with(Opt::Persistent, "60"),
                (Opt::Persistent, None),
                with(Opt::Netmask, "24"),
                (Opt::Persistent, None),
            ]
        );
        assert_eq!(
            read("-f -1").0,
            [with(Opt::FwMark, "-1")],
            "an argument that must be there may look like one"
        );
    }

    #[test]
    fn errors_name_the_word_as_typed() {
        assert_eq!(read("-A -t").1.as_deref(), Some("-t: missing argument"));
        assert_eq!(read("-Lnq").1.as_deref(), Some("-Lnq: unknown option"));
        assert_eq!(read("-L --nosuch=3").1.as_deref(), Some("--nosuch=3: unknown option"));
        assert_eq!(
            read("-L --numeric=3").1.as_deref(),
            Some("--numeric=3: option does not take an argument")
        );
        assert_eq!(read("-L -n=3").1.as_deref(), Some("-n=3: option does not take an argument"));
        assert_eq!(read("-Lnc=").1.as_deref(), Some("-Lnc=: option does not take an argument"));
        assert_eq!(read("-L -=").1.as_deref(), Some("-=: unknown option"));
    }

    #[test]
    fn other_words_are_left_over() {
        let (options, error, left_over) = read("a -L b -- -n");
        assert_eq!((options.len(), error, left_over), (1, None, vec!["a".into(), "b".into(), "-n".into()]));
        assert_eq!(read("-A -p - -o").2, ["-"]);
    }
}
