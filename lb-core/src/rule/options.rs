//! Options of matches and targets: what each takes, which exclude each other, and how their values are read.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Family;
use super::header;
use super::names::Names;
use super::text::{Error, aton, is_blank, leading_number, number};

/// One option of a match or target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt {
    /// Without its dashes.
    pub name: &'static str,
    /// Below 32: its bit in masks.
    pub id: u8,
    pub has_value: bool,
    pub may_be_negated: bool,
    pub must_be_given: bool,
    pub may_repeat: bool,
    /// Bits of the options that may not be given with it.
    pub excludes: u32,
    /// Bits of the options that it needs.
    pub needs: u32,
}

/// An option with a value.
pub(crate) const fn opt(name: &'static str, id: u8) -> Opt {
    Opt {
        name,
        id,
        has_value: true,
        may_be_negated: false,
        must_be_given: false,
        may_repeat: false,
        excludes: 0,
        needs: 0,
    }
}

/// An option without a value.
pub(crate) const fn flag(name: &'static str, id: u8) -> Opt {
    Opt { has_value: false, ..opt(name, id) }
}

impl Opt {
    pub(crate) const fn negatable(self) -> Opt {
        Opt { may_be_negated: true, ..self }
    }

    pub(crate) const fn must(self) -> Opt {
        Opt { must_be_given: true, ..self }
    }

    pub(crate) const fn repeats(self) -> Opt {
        Opt { may_repeat: true, ..self }
    }

    pub(crate) const fn not_with(self, excludes: u32) -> Opt {
        Opt { excludes, ..self }
    }

    pub(crate) const fn with(self, needs: u32) -> Opt {
        Opt { needs, ..self }
    }
}

/// What a rule's words are read in the light of.
pub struct Around<'a> {
    pub family: Family,
    pub names: &'a dyn Names,
    /// The protocol that the line has named so far; 0: none.
    pub protocol: u8,
    pub is_not_protocol: bool,
    /// Whether somebody typed the words. Of what iptables saves it does not read all again; what was saved is read here.
    pub are_typed: bool,
    /// What is told, though the line is done.
    pub warnings: RefCell<Vec<String>>,
}

impl<'a> Around<'a> {
    /// Of words as a rule is saved.
    pub fn new(family: Family, names: &'a dyn Names) -> Around<'a> {
        let warnings = RefCell::default();
        Around { family, names, protocol: 0, is_not_protocol: false, are_typed: false, warnings }
    }

    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.warnings.borrow_mut().push(text.into());
    }

    /// The name of the protocol that has ports, if the line has named one.
    pub(crate) fn port_protocol(&self) -> Option<&'static str> {
        match self.protocol {
            _ if self.is_not_protocol => None,
            6 => Some("tcp"),
            17 => Some("udp"),
            33 => Some("dccp"),
            132 => Some("sctp"),
            136 => Some("udplite"),
            _ => None,
        }
    }
}

/// Words yet to be read.
pub struct Cursor<'w> {
    pub words: &'w [String],
    pub at: usize,
}

impl<'w> Cursor<'w> {
    pub(crate) fn peek(&self) -> Option<&'w str> {
        self.words.get(self.at).map(String::as_str)
    }

    pub(crate) fn next(&mut self) -> Option<&'w str> {
        let word = self.peek()?;
        self.at += 1;
        Some(word)
    }

    /// The next word, if it is a value and not an option.
    pub(crate) fn next_value(&mut self) -> Option<&'w str> {
        self.peek().filter(|word| !word.starts_with('-') && *word != "!")?;
        self.next()
    }
}

/// One option as given.
pub(crate) struct Given<'g, 'w> {
    /// Name of the match or target.
    pub of: &'static str,
    pub option: &'static Opt,
    /// Its value; empty when it takes none.
    pub value: &'w str,
    pub is_negated: bool,
    pub around: &'g Around<'g>,
    pub more: &'g mut Cursor<'w>,
}

impl Given<'_, '_> {
    pub(crate) fn id(&self) -> u8 {
        self.option.id
    }

    /// A number within bounds, both included.
    pub(crate) fn number(&self, min: u64, max: u64) -> Result<u64, Error> {
        number(self.value)
            .filter(|value| (min..=max).contains(value))
            .ok_or_else(|| self.out_of_range(min, max))
    }

    pub(crate) fn out_of_range(&self, min: u64, max: u64) -> Error {
        Error::parameter(format!(
            "{}: bad value for option \"--{}\", or out of range ({min}-{max}).\n",
            self.of, self.option.name
        ))
    }

    pub(crate) fn u32(&self) -> Result<u32, Error> {
        self.number(0, u32::MAX.into()).map(|value| value as u32)
    }

    pub(crate) fn u16(&self) -> Result<u16, Error> {
        self.number(0, u16::MAX.into()).map(|value| value as u16)
    }

    pub(crate) fn u8(&self) -> Result<u8, Error> {
        self.number(0, u8::MAX.into()).map(|value| value as u8)
    }

    /// `from:to`, where either may be left out; one number is both.
    pub(crate) fn range(&self, max: u64) -> Result<(u64, u64), Error> {
        let mut values = Vec::new();
        let mut rest = self.value;
        loop {
            let (value, after) = match leading_number(rest) {
                Some(read) => read,
                None if rest.is_empty() || rest.starts_with(':') => {
                    (if values.is_empty() { 0 } else { max }, rest)
                }
                None => return Err(self.bad_range(rest, max)),
            };
            if value > max {
                return Err(self.bad_range(rest, max));
            }
            values.push(value);
            match after.strip_prefix(':') {
                Some(more) if values.len() < 2 => rest = more,
                Some(_) => return Err(self.too_many()),
                None if after.is_empty() => break,
                None => {
                    return Err(Error::parameter(format!(
                        "{}: Argument to \"--{}\" has unexpected characters near \"{after}\".\n",
                        self.of, self.option.name
                    )));
                }
            }
        }
        let first = values[0];
        Ok((first, values.get(1).copied().unwrap_or(first)))
    }

    fn too_many(&self) -> Error {
        Error::parameter(format!(
            "{}: Too many components for option \"--{}\" (max: 2)\n",
            self.of, self.option.name
        ))
    }

    fn bad_range(&self, near: &str, max: u64) -> Error {
        Error::parameter(format!(
            "{}: bad value for option \"--{}\" near \"{near}\", or out of range (0-{max}).\n",
            self.of, self.option.name
        ))
    }

    /// `value[/mask]`; without a mask all bits.
    pub(crate) fn marked(&self) -> Result<(u32, u32), Error> {
        let bad = || {
            Error::parameter(format!(
                "{}: bad integer value for option \"--{}\", or out of range.\n",
                self.of, self.option.name
            ))
        };
        let read = |text| {
            let (value, rest) = leading_number(text).ok_or_else(bad)?;
            Ok((u32::try_from(value).map_err(|_| bad())?, rest))
        };
        let (value, rest) = read(self.value)?;
        let (mask, rest) = match rest.strip_prefix('/') {
            Some(mask) => read(mask)?,
            None => (u32::MAX, rest),
        };
        match rest {
            "" => Ok((value, mask)),
            _ => Err(Error::parameter(format!(
                "{}: trailing garbage after value for option \"--{}\".\n",
                self.of, self.option.name
            ))),
        }
    }

    /// The same, or a name that stands for a number of all bits.
    pub(crate) fn marked_or(&self, named: impl Fn(&str) -> Option<u32>) -> Result<(u32, u32), Error> {
        let is_number = leading_number(self.value).is_some_and(|(value, rest)| {
            u32::try_from(value).is_ok() && (rest.is_empty() || rest.starts_with('/'))
        });
        if is_number {
            return self.marked();
        }
        let number = named(self.value).ok_or_else(|| {
            Error::parameter(format!(
                "{}: could not map name {} to an integer value for option \"--{}\".\n",
                self.of, self.value, self.option.name
            ))
        })?;
        Ok((number, u32::MAX))
    }

    /// How many bits of an address count: as their number, or as a mask.
    pub(crate) fn prefix_len(&self, text: &str) -> Result<u8, Error> {
        let family = self.around.family;
        // As in iptables a mask with holes is one of all bits: also 33, which is 0.0.0.33.
        let as_mask = || {
            let mask = address(text, family).or_else(|| of_ipv4(text, family))?;
            Some(header::prefix_len(mask, family).unwrap_or(family.bits()))
        };
        let as_len = number(text).filter(|len| *len <= family.bits().into()).map(|len| len as u32);
        let len = as_len.or_else(as_mask).ok_or_else(|| {
            Error::parameter(format!(
                "{}: bad value for option \"--{}\", neither a valid network mask nor valid CIDR (0-{}).\n",
                self.of,
                self.option.name,
                family.bits()
            ))
        })?;
        Ok(len.min(family.bits()) as u8)
    }

    /// `host[/prefix]`.
    pub(crate) fn prefix(&self) -> Result<Prefix, Error> {
        let family = self.around.family;
        let (host, len) = match self.value.split_once('/') {
            Some((host, len)) => (host, self.prefix_len(len)?),
            None => (self.value, family.bits() as u8),
        };
        Ok(Prefix { address: self.host(host)?, len })
    }

    /// The first address of a host. IPv4 may be short: `10.1` is 10.0.0.1.
    pub(crate) fn host(&self, text: &str) -> Result<u128, Error> {
        let family = self.around.family;
        let by_name = || self.around.names.resolve(text, family).first().map(|found| bits(*found));
        address(text, family).or_else(|| of_ipv4(text, family)).or_else(by_name).ok_or_else(|| {
            let is_of_other = text.parse::<IpAddr>().is_ok() || aton(text).is_some();
            let why = if is_of_other {
                "Address family for hostname not supported"
            } else {
                "Name or service not known"
            };
            Error::parameter(format!("getaddrinfo: {why}\n"))
        })
    }

    /// Words between commas, each with all that follows: what a complaint repeats.
    pub(crate) fn words(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = Some(self.value);
        std::iter::from_fn(move || {
            let from = rest?;
            let (word, after) = match from.split_once(',') {
                Some((word, after)) => (word, Some(after)),
                None => (from, None),
            };
            rest = after;
            Some((word, from))
        })
    }

    /// A text, of which the first `max` bytes count.
    pub(crate) fn text(&self, min: usize, max: usize) -> Result<String, Error> {
        if self.value.len() < min {
            return Err(Error::parameter(format!(
                "Argument must have a minimum length of {min} characters\n"
            )));
        }
        let end = (0..=max.min(self.value.len())).rev().find(|&end| self.value.is_char_boundary(end));
        Ok(self.value[..end.unwrap_or_default()].to_owned())
    }
}

/// An address, of which the first bits count. It is printed with all of them, as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Prefix {
    pub(crate) address: u128,
    pub(crate) len: u8,
}

impl Prefix {
    pub(crate) fn has(&self, address: u128, family: Family) -> bool {
        (address ^ self.address) & header::prefix_mask(self.len.into(), family) == 0
    }

    pub(crate) fn shown(&self, family: Family) -> impl std::fmt::Display {
        format!("{}/{}", ip(self.address, family), self.len)
    }
}

/// A port by number or name.
pub(crate) fn port(text: &str, protocol: &str, names: &dyn Names) -> Result<u16, Error> {
    number(text)
        .and_then(|port| u16::try_from(port).ok())
        .or_else(
            || if number(text).is_some() || text.is_empty() { None } else { names.service(text, protocol) },
        )
        .ok_or_else(|| Error::parameter(format!("invalid port/service `{text}' specified")))
}

/// `port[:port]`, either of which may be left out.
pub(crate) fn ports(text: &str, protocol: &str, names: &dyn Names) -> Result<(u16, u16), Error> {
    let Some((from, to)) = text.split_once(':') else {
        let port = port(text, protocol, names)?;
        return Ok((port, port));
    };
    let from = if from.is_empty() { 0 } else { port(from, protocol, names)? };
    let to = if to.is_empty() { u16::MAX } else { port(to, protocol, names)? };
    if from > to {
        return Err(Error::parameter("invalid portrange (min > max)"));
    }
    Ok((from, to))
}

/// As [`ports`], where iptables reads them by its table of options (`udp`, `dccp`, `conntrack`): a range may end before it begins, and holds nothing then; of a
/// number the low 16 bits count.
pub(crate) fn any_ports(given: &Given<'_, '_>, protocol: &str) -> Result<(u16, u16), Error> {
    let read = |text: &str, unsaid: u16| {
        if text.is_empty() {
            return Ok(unsaid);
        }
        // As `getaddrinfo` reads it: blanks and a sign may stand before it, and it is always decimal.
        let by_number = text.trim_start_matches(is_blank).parse::<u64>().ok();
        let found = by_number.map(|port| port as u16).or_else(|| given.around.names.service(text, protocol));
        found.ok_or_else(|| Error::parameter(format!("Port \"{text}\" does not resolve to anything.\n")))
    };
    let (from, to) = given.value.split_once(':').map_or((given.value, None), |(from, to)| (from, Some(to)));
    if to.is_some_and(|to| to.contains(':')) {
        return Err(given.too_many());
    }
    let from = read(from, 0)?;
    Ok((from, to.map_or(Ok(from), |to| read(to, u16::MAX))?))
}

/// An address of a family as a number: IPv4 in the low 32 bits.
pub(crate) fn address(text: &str, family: Family) -> Option<u128> {
    match family {
        Family::Ipv4 => text.parse::<Ipv4Addr>().ok().map(|address| u32::from(address).into()),
        Family::Ipv6 => text.parse::<Ipv6Addr>().ok().map(u128::from),
    }
}

/// A short IPv4 address, where it is one of the family.
fn of_ipv4(text: &str, family: Family) -> Option<u128> {
    aton(text).filter(|_| family == Family::Ipv4).map(u128::from)
}

pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// [`bits`] backwards.
pub(crate) fn ip(bits: u128, family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::from(bits as u32)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::from(bits)),
    }
}
