//! Reads typed values out of a TOML document and collects every error with its line.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Section, nearest};
use crate::one_line::one_line;

/// One thing that is wrong with a config file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// From 1 on.
    pub line: usize,
    /// Names the key, the value, and what is allowed.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Where errors go while a document is read.
pub(super) struct Errors<'t> {
    text: &'t str,
    /// With their places in the text.
    list: Vec<(usize, ConfigError)>,
}

impl<'t> Errors<'t> {
    pub(super) fn new(text: &'t str) -> Errors<'t> {
        Errors { text, list: Vec::new() }
    }

    pub(super) fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    pub(super) fn add(&mut self, at: &Range<usize>, message: impl Into<String>) {
        let line = self.line(at.start);
        self.list.push((at.start, ConfigError { line, message: one_line(message.into()) }));
    }

    /// In the order of the text.
    pub(super) fn into_sorted(mut self) -> Vec<ConfigError> {
        self.list.sort_by_key(|&(at, _)| at);
        self.list.into_iter().map(|(_, error)| error).collect()
    }
}

/// A value as the operator typed it, cut to a length that fits into a message.
pub(super) fn typed(errors: &Errors<'_>, at: &Range<usize>) -> String {
    let text = errors.text.get(at.clone()).unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(60) {
        None if line.len() == text.len() => line.to_owned(),
        None => format!("{line}…"),
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// One table of the document.
#[derive(Clone)]
pub(super) struct Table<'d> {
    table: &'d DeTable<'d>,
    section: &'static Section,
    /// How messages name it: `dataplane`, `port "wan"`, `virtual_service 192.0.2.10:80`.
    pub(super) name: String,
    /// Where it stands in the text.
    pub(super) at: Range<usize>,
}

/// A value that was found, and where.
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) at: Range<usize>,
}

impl<'d> Table<'d> {
    /// Takes `value` as a table and reports keys that `section` does not have.
    pub(super) fn new(
        errors: &mut Errors<'_>,
        value: &'d Spanned<DeValue<'d>>,
        section: &'static Section,
        name: String,
    ) -> Option<Table<'d>> {
        let DeValue::Table(table) = value.get_ref() else {
            let found = kind(value.get_ref());
            errors.add(&value.span(), format!("{name}: expected a table, found {found}"));
            return None;
        };
        for key in table.keys() {
            let typed: &str = key.get_ref();
            if !section.keys.iter().any(|known| known.name == typed) {
                let known = section.keys.iter().map(|key| key.name);
                errors.add(&key.span(), unknown_key(&name, typed, known));
            }
        }
        Some(Table { table, section, name, at: value.span() })
    }

    fn message(&self, key: &str, text: impl fmt::Display) -> String {
        format!("{}: {key}: {text}", self.name)
    }

    pub(super) fn error(
        &self,
        errors: &mut Errors<'_>,
        at: &Range<usize>,
        key: &str,
        text: impl fmt::Display,
    ) {
        errors.add(at, self.message(key, text));
    }

    pub(super) fn get(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        debug_assert!(
            self.section.keys.iter().any(|known| known.name == key),
            "{key} is not in the table of keys"
        );
        self.table.get(key)
    }

    fn wrong_kind(&self, errors: &mut Errors<'_>, value: &Spanned<DeValue<'_>>, key: &str, expected: &str) {
        let (typed, found) = (typed(errors, &value.span()), kind(value.get_ref()));
        self.error(errors, &value.span(), key, format!("expected {expected}, found {found}: {typed}"));
    }

    pub(super) fn integer(
        &self,
        errors: &mut Errors<'_>,
        key: &str,
        allowed: RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = self.get(key)?;
        self.integer_in(errors, value, key, allowed)
    }

    fn integer_in(
        &self,
        errors: &mut Errors<'_>,
        value: &Spanned<DeValue<'_>>,
        key: &str,
        allowed: RangeInclusive<u32>,
    ) -> Option<u32> {
        let DeValue::Integer(digits) = value.get_ref() else {
            self.wrong_kind(errors, value, key, &format!("an integer in {allowed:?}"));
            return None;
        };
        match i128::from_str_radix(digits.as_str(), digits.radix()).map(u32::try_from) {
            Ok(Ok(number)) if allowed.contains(&number) => Some(number),
            _ => {
                let typed = typed(errors, &value.span());
                self.error(errors, &value.span(), key, format!("{typed} is outside {allowed:?}"));
                None
            }
        }
    }

    pub(super) fn boolean(&self, errors: &mut Errors<'_>, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        if let DeValue::Boolean(fact) = value.get_ref() {
            return Some(*fact);
        }
        self.wrong_kind(errors, value, key, "true or false");
        None
    }

    pub(super) fn string(&self, errors: &mut Errors<'_>, key: &str) -> Option<Found<&'d str>> {
        let value = self.get(key)?;
        if let DeValue::String(text) = value.get_ref() {
            return Some(Found { value: text, at: value.span() });
        }
        self.wrong_kind(errors, value, key, "a string");
        None
    }

    /// As [`Table::string`]; its absence is an error.
    pub(super) fn required_string(&self, errors: &mut Errors<'_>, key: &str) -> Option<Found<&'d str>> {
        if self.get(key).is_none() {
            self.missing(errors, key);
        }
        self.string(errors, key)
    }

    pub(super) fn missing(&self, errors: &mut Errors<'_>, key: &str) {
        let holds =
            self.section.keys.iter().find(|known| known.name == key).map_or("", |known| &*known.allowed);
        self.error(errors, &self.at, key, format!("missing; required: {holds}"));
    }

    /// The values of a list; `None` when the key is absent or no list.
    pub(super) fn list(&self, errors: &mut Errors<'_>, key: &str) -> Option<&'d [Spanned<DeValue<'d>>]> {
        let value = self.get(key)?;
        if let DeValue::Array(list) = value.get_ref() {
            return Some(list);
        }
        self.wrong_kind(errors, value, key, "a list");
        None
    }

    pub(super) fn strings(&self, errors: &mut Errors<'_>, key: &str) -> Vec<Found<&'d str>> {
        let mut found = Vec::new();
        for value in self.list(errors, key).unwrap_or_default() {
            match value.get_ref() {
                DeValue::String(text) => found.push(Found { value: text.as_ref(), at: value.span() }),
                _ => self.wrong_kind(errors, value, key, "a list of strings"),
            }
        }
        found
    }

    pub(super) fn integers(
        &self,
        errors: &mut Errors<'_>,
        key: &str,
        allowed: RangeInclusive<u32>,
    ) -> Vec<Found<u32>> {
        let mut found = Vec::new();
        for value in self.list(errors, key).unwrap_or_default() {
            if let Some(number) = self.integer_in(errors, value, key, allowed.clone()) {
                found.push(Found { value: number, at: value.span() });
            }
        }
        found
    }

    /// Takes one of `allowed` by name.
    pub(super) fn choice<T: Copy>(
        &self,
        errors: &mut Errors<'_>,
        key: &str,
        allowed: &[(&'static str, T)],
        not_built: &[&str],
    ) -> Option<T> {
        let found = self.string(errors, key)?;
        if let Some(&(_, value)) = allowed.iter().find(|(name, _)| *name == found.value) {
            return Some(value);
        }
        let names = allowed.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let value = found.value;
        let text = if not_built.contains(&value) {
            format!("\"{value}\" is not built yet; allowed: {names}")
        } else {
            let meant =
                nearest(value, allowed.iter().map(|(name, _)| *name).chain(not_built.iter().copied()));
            let hint = meant.map_or(String::new(), |name| format!(" (did you mean \"{name}\"?)"));
            format!("\"{value}\" is unknown{hint}; allowed: {names}")
        };
        self.error(errors, &found.at, key, text);
        None
    }
}

pub(super) fn unknown_key<'k>(
    table: &str,
    typed: &str,
    known: impl Iterator<Item = &'k str> + Clone,
) -> String {
    let hint = nearest(typed, known.clone()).map_or(String::new(), |name| format!(" (did you mean {name}?)"));
    let all = known.collect::<Vec<_>>().join(", ");
    if table.is_empty() {
        format!("{typed}: unknown key{hint}; allowed: {all}")
    } else {
        format!("{table}: {typed}: unknown key{hint}; allowed: {all}")
    }
}
