//! A rule as a line of words: read, checked, printed.

use std::fmt::Write;

use super::extension::{About, Place};
use super::header::{self, Header};
use super::list::Style;
use super::matches::AnyMatch;
use super::names::Names;
use super::options::{Around, Cursor, Given, Opt};
use super::prelude::put;
use super::set_use::SetUse;
use super::state::Named;
use super::targets::AnyTarget;
use super::text::{Error, leading_decimal, name_to};
use super::{Family, Refused, Table};

/// Of IPv6, which are no packet's protocol here: routing, fragment, authentication, destination options.
const EXTENSION_HEADERS: [u8; 4] = [43, 44, 51, 60];

/// Where a rule sends what it matches.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Jump {
    /// On, to the next rule.
    #[default]
    Nowhere,
    Accept,
    Drop,
    Return,
    /// To a chain of the operator's; `is_goto`: what it returns goes on where this chain was called.
    Chain {
        name: String,
        is_goto: bool,
    },
    Target(AnyTarget),
}

/// Packets and bytes.
pub type Counts = (u64, u64);

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rule {
    pub header: Header,
    pub matches: Vec<AnyMatch>,
    pub jump: Jump,
}

/// What stands in a line besides the rule.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Line<'w> {
    /// What `-s` and `-d` say, and whether it is negated: one rule for each pair of a source and a destination.
    sources: Option<(&'w str, bool)>,
    destinations: Option<(&'w str, bool)>,
    /// `-c packets bytes`.
    counters: Option<Counts>,
}

impl Rule {
    /// Reads all words: matches, targets and what every rule has (`-s`, `-d`, `-i`, `-o`, `-p`, `-f`, `-m`, `-j`, `-g`, `-c`). The rules that they make: one for each
    /// source and destination; and `-c`'s counters.
    ///
    /// # Errors
    /// As iptables says it.
    pub fn read(words: &[String], around: &mut Around<'_>) -> Result<(Vec<Rule>, Option<Counts>), Error> {
        Reader::new(words).read(around)
    }

    /// Whether it may stand in a chain of this table that is reached from these hooks.
    ///
    /// # Errors
    /// The kernel's.
    pub fn check(&self, table: Table, hooks: u8) -> Result<(), Refused> {
        let is_of_syns =
            self.matches.iter().any(|found| matches!(found, AnyMatch::Tcp(tcp) if tcp.asks_for_syn()));
        let place = Place { table, hooks, header: &self.header, is_of_syns };
        self.matches.iter().try_for_each(|found| found.check(&place))?;
        match &self.jump {
            Jump::Target(target) => target.check(&place),
            _ => Ok(()),
        }
    }

    /// Gives matches and targets the state that they keep.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bind(&mut self, named: &mut Named) -> Result<(), Refused> {
        self.matches.iter_mut().try_for_each(|found| found.bind(named))?;
        match &mut self.jump {
            Jump::Target(target) => target.bind(named),
            _ => Ok(()),
        }
    }

    /// The IP sets that it names, each as often as it does.
    pub fn sets(&self) -> impl Iterator<Item = &SetUse> {
        let target = match &self.jump {
            Jump::Target(target) => target.sets(),
            _ => Vec::new(),
        };
        self.asked_sets().chain(target)
    }

    /// The accounts that it names, each as often as it does.
    pub fn accounts(&self) -> impl Iterator<Item = &str> {
        self.matches.iter().filter_map(|found| match found {
            AnyMatch::NfAcct(found) => Some(found.name()),
            _ => None,
        })
    }

    /// Those that it asks for a packet.
    pub(crate) fn asked_sets(&self) -> impl Iterator<Item = &SetUse> {
        self.matches.iter().flat_map(AnyMatch::sets)
    }

    /// The chain that it jumps or goes to.
    pub fn chain(&self) -> Option<&str> {
        match &self.jump {
            Jump::Chain { name, .. } => Some(name),
            _ => None,
        }
    }

    /// Whether a packet that it matches goes no further: DROP, REJECT.
    pub fn drops(&self) -> bool {
        matches!(self.jump, Jump::Drop | Jump::Target(AnyTarget::Reject(_)))
    }

    /// Jumps or goes to the chain of this name instead of another.
    pub fn lead_to(&mut self, chain: &str) {
        if let Jump::Chain { name, .. } = &mut self.jump {
            chain.clone_into(name);
        }
    }

    /// As `-S` prints it behind `-A chain`, each word after a space.
    pub fn save(&self, family: Family, names: &dyn Names) -> String {
        let mut out = String::new();
        self.header.save(&mut out, family, names);
        for found in &self.matches {
            put!(out, " -m {}", found.about().name);
            found.save(&mut out, family, names);
        }
        match &self.jump {
            Jump::Nowhere => {}
            Jump::Accept => out.push_str(" -j ACCEPT"),
            Jump::Drop => out.push_str(" -j DROP"),
            Jump::Return => out.push_str(" -j RETURN"),
            Jump::Chain { name, is_goto } => {
                out.push_str(if *is_goto { " -g" } else { " -j" });
                name_to(&mut out, name);
            }
            Jump::Target(target) => {
                put!(out, " -j {}", target.about().name);
                target.save(&mut out, family, names);
            }
        }
        out
    }

    /// [`Target::hides_owner`](super::targets::Target::hides_owner) of its target.
    pub(super) fn hides_owner(&self, hooks: u8) -> bool {
        matches!(&self.jump, Jump::Target(target) if target.hides_owner(hooks))
    }

    /// Whether it says of packets that they are in a zone.
    pub(super) fn sets_zone(&self) -> bool {
        matches!(&self.jump, Jump::Target(AnyTarget::Ct(ct)) if ct.sets_zone())
    }

    /// Whether it gives connections a helper.
    pub(super) fn gives_helper(&self) -> bool {
        matches!(&self.jump, Jump::Target(AnyTarget::Ct(ct)) if ct.gives_helper())
    }

    /// [`Target::copies`](super::targets::Target::copies) of its target.
    pub(super) fn copies(&self) -> bool {
        matches!(&self.jump, Jump::Target(target) if target.copies())
    }

    /// [`Match::counts_connections`](super::matches::Match::counts_connections) of its matches.
    pub(super) fn counts_connections(&self) -> bool {
        self.matches.iter().any(AnyMatch::counts_connections)
    }

    /// The target's column of a listing.
    pub fn target_name(&self) -> &str {
        match &self.jump {
            Jump::Nowhere => "",
            Jump::Accept => "ACCEPT",
            Jump::Drop => "DROP",
            Jump::Return => "RETURN",
            Jump::Chain { name, .. } => name,
            Jump::Target(AnyTarget::NoTrack(_)) => "CT",
            Jump::Target(target) => target.about().name,
        }
    }

    /// What stands in a listing behind the columns, each part after a space.
    pub fn details(&self, style: &Style<'_>) -> String {
        let mut out = String::new();
        if matches!(self.jump, Jump::Chain { is_goto: true, .. }) {
            out.push_str("[goto] ");
        }
        for found in &self.matches {
            found.list(&mut out, style, &self.header);
        }
        if let Jump::Target(target) = &self.jump {
            target.list(&mut out, style, &self.header);
        }
        out
    }

    /// A source's or destination's column of a listing.
    pub fn address(net: &header::Net, style: &Style<'_>) -> String {
        header::list_net(net, style)
    }
}

/// One extension that a line has named, and which of its options it was given.
struct Open {
    about: About,
    seen: u32,
}

struct Reader<'w> {
    cursor: Cursor<'w>,
    rule: Rule,
    opened: Vec<Open>,
    target_seen: u32,
    line: Line<'w>,
    is_negated: bool,
    /// Letters of the options of every rule that were given.
    given: Vec<char>,
}

/// What every rule may be given: letter, long name, and whether a value follows.
const COMMON: &[(char, &str, bool)] = &[
    ('s', "source", true),
    ('s', "src", true),
    ('d', "destination", true),
    ('d', "dst", true),
    ('p', "protocol", true),
    ('p', "proto", true),
    ('i', "in-interface", true),
    ('o', "out-interface", true),
    ('f', "fragments", false),
    ('m', "match", true),
    ('j', "jump", true),
    ('g', "goto", true),
    ('c', "set-counters", true),
];

impl<'w> Reader<'w> {
    fn new(words: &'w [String]) -> Reader<'w> {
        Reader {
            cursor: Cursor { words, at: 0 },
            rule: Rule::default(),
            opened: Vec::new(),
            target_seen: 0,
            line: Line::default(),
            is_negated: false,
            given: Vec::new(),
        }
    }

    fn read(mut self, around: &mut Around<'_>) -> Result<(Vec<Rule>, Option<Counts>), Error> {
        while let Some(word) = self.cursor.next() {
            if word == "!" {
                if self.is_negated {
                    return Err(Error::parameter("multiple consecutive ! not allowed"));
                }
                self.is_negated = true;
                continue;
            }
            self.word(word, around)?;
            self.is_negated = false;
        }
        if self.is_negated {
            return Err(Error::parameter("no argument following `!'"));
        }
        for (found, open) in self.rule.matches.iter_mut().zip(&self.opened) {
            found.finish(open.seen, around)?;
        }
        if let Jump::Target(target) = &mut self.rule.jump {
            target.finish(self.target_seen, around)?;
        }
        // Hosts are asked for when all else is well.
        let nets = |said: Option<(&str, bool)>| match said {
            Some((text, is_not)) => header::nets(text, is_not, around),
            None => Ok(vec![header::Net::default()]),
        };
        let (sources, destinations) = (nets(self.line.sources)?, nets(self.line.destinations)?);
        let mut rules = Vec::new();
        for &source in &sources {
            for &destination in &destinations {
                let mut rule = self.rule.clone();
                (rule.header.source, rule.header.destination) = (source, destination);
                rules.push(rule);
            }
        }
        Ok((rules, self.line.counters))
    }

    fn word(&mut self, word: &'w str, around: &mut Around<'_>) -> Result<(), Error> {
        if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
            let (name, inline) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            if self.extension_option(name, inline, around)? {
                return Ok(());
            }
            if let Some(&(letter, _, has_value)) = COMMON.iter().find(|(_, long, _)| *long == name) {
                return self.common(letter, has_value, inline, word, around);
            }
            if self.load_by_protocol(around) && self.extension_option(name, inline, around)? {
                return Ok(());
            }
            return Err(Error::parameter(format!("unknown option \"{word}\"")));
        }
        if let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) {
            let letter = short.chars().next().unwrap_or_default();
            let rest = &short[letter.len_utf8()..];
            if let Some(&(letter, _, has_value)) = COMMON.iter().find(|(known, ..)| *known == letter) {
                return self.common(letter, has_value, (!rest.is_empty()).then_some(rest), word, around);
            }
            return Err(Error::parameter(format!("unknown option \"{word}\"")));
        }
        Err(Error::parameter(format!("Bad argument `{word}'")))
    }

    fn value(&mut self, inline: Option<&'w str>, word: &str) -> Result<&'w str, Error> {
        match inline.or_else(|| self.cursor.next()) {
            Some(value) => Ok(value),
            None => Err(Error::parameter(format!("option \"{word}\" requires an argument"))),
        }
    }

    fn common(
        &mut self,
        letter: char,
        has_value: bool,
        inline: Option<&'w str>,
        word: &str,
        around: &mut Around<'_>,
    ) -> Result<(), Error> {
        let value = if has_value { self.value(inline, word)? } else { "" };
        if matches!(letter, 'm' | 'j' | 'g' | 'c') && self.is_negated {
            return Err(Error::parameter("unexpected ! flag before --".to_owned() + long_name(letter)));
        }
        if letter != 'm' {
            let both = if letter == 'g' { 'j' } else { letter };
            if self.given.contains(&both) {
                return Err(Error::parameter(format!("multiple -{letter} flags not allowed")));
            }
            self.given.push(both);
        }
        let is_not = self.is_negated;
        match letter {
            's' => self.line.sources = Some((value, is_not)),
            'd' => self.line.destinations = Some((value, is_not)),
            'i' => self.rule.header.input = interface(value, is_not)?,
            'o' => self.rule.header.output = interface(value, is_not)?,
            'f' if around.family == Family::Ipv6 => {
                return Err(Error::parameter("`-f' is not supported in IPv6, use -m frag instead"));
            }
            'f' => self.rule.header.fragment = Some(!is_not),
            'p' => {
                let lower = value.to_ascii_lowercase();
                let found = super::names::protocol(&lower, around.names)
                    .ok_or_else(|| Error::parameter(format!("unknown protocol \"{value}\" specified")))?;
                if found == 0 && is_not {
                    return Err(Error::parameter("rule would never match protocol"));
                }
                (self.rule.header.protocol, self.rule.header.is_not_protocol) = (found, is_not);
                (around.protocol, around.is_not_protocol) = (found, is_not);
                if around.family == Family::Ipv6 && !is_not && EXTENSION_HEADERS.contains(&found) {
                    around.warn(format!(
                        "Warning: never matched protocol: {lower}. use extension match instead."
                    ));
                }
            }
            'm' => self.load(value, around)?,
            'j' | 'g' => self.jump(value, letter == 'g', around)?,
            _ => {
                let comma = value.char_indices().skip(1).find(|&(_, c)| c == ',');
                let bytes = match comma {
                    Some((at, _)) => Some(&value[at + 1..]),
                    None => self.cursor.next_value(),
                };
                let number = |text: Option<&str>| text.and_then(leading_decimal);
                let bytes = bytes.ok_or_else(|| Error::parameter("-c requires packet and byte counter"))?;
                let packets =
                    number(Some(value)).ok_or_else(|| Error::parameter("-c packet counter not numeric"))?;
                let bytes =
                    number(Some(bytes)).ok_or_else(|| Error::parameter("-c byte counter not numeric"))?;
                self.line.counters = Some((packets, bytes));
            }
        }
        Ok(())
    }

    fn load(&mut self, name: &str, around: &Around<'_>) -> Result<(), Error> {
        let about = AnyMatch::ALL.iter().find(|about| about.is_called(name, around.family));
        let found = about.and_then(|about| AnyMatch::begin(about.name).map(|found| (*about, found)));
        let Some((about, found)) = found else {
            return Err(Error::parameter(format!(
                "Couldn't load match `{name}':No such file or directory\n"
            )));
        };
        self.rule.matches.push(found);
        self.opened.push(Open { about, seen: 0 });
        Ok(())
    }

    /// An option that no match so far has may be of the match that is called as the protocol.
    fn load_by_protocol(&mut self, around: &Around<'_>) -> bool {
        let name = match around.protocol {
            _ if around.is_not_protocol => return false,
            1 => "icmp",
            6 => "tcp",
            17 => "udp",
            33 => "dccp",
            50 => "esp",
            51 => "ah",
            58 => "icmp6",
            108 => "ipcomp",
            132 => "sctp",
            135 => "mh",
            _ => return false,
        };
        if self.opened.iter().any(|open| open.about.name == name) {
            return false;
        }
        self.load(name, around).is_ok()
    }

    fn jump(&mut self, name: &str, is_goto: bool, around: &Around<'_>) -> Result<(), Error> {
        if is_goto {
            self.rule.jump = Jump::Chain { name: name.to_owned(), is_goto };
            return Ok(());
        }
        if name.is_empty() {
            return Err(Error::parameter("Invalid target name (too short)"));
        }
        if name.len() > 28 {
            return Err(Error::parameter(format!("Invalid target name `{name}' (28 chars max)")));
        }
        self.rule.jump = match name {
            "ACCEPT" => Jump::Accept,
            "DROP" => Jump::Drop,
            "RETURN" => Jump::Return,
            _ => {
                let about = AnyTarget::ALL.iter().find(|about| about.is_called(name, around.family));
                match about.and_then(|about| AnyTarget::begin(about.name)) {
                    Some(target) => Jump::Target(target),
                    None => Jump::Chain { name: name.to_owned(), is_goto },
                }
            }
        };
        Ok(())
    }

    /// An option of a match or of the target, the last named first. False: of none.
    fn extension_option(
        &mut self,
        name: &str,
        inline: Option<&'w str>,
        around: &Around<'_>,
    ) -> Result<bool, Error> {
        let of_target = match &self.rule.jump {
            Jump::Target(target) => find(target.about().options, name).map(|option| (target.about(), option)),
            _ => None,
        };
        let of_match = self.opened.iter().enumerate().rev().find_map(|(index, open)| {
            find(open.about.options, name).map(|option| (index, open.about, option))
        });
        let (about, option) = match (&of_target, &of_match) {
            (Some((about, option)), _) => (*about, *option),
            (None, Some((_, about, option))) => (*about, *option),
            (None, None) => return Ok(false),
        };
        // Of two names of an option messages say the first.
        let option = about.options.iter().find(|first| first.id == option.id).unwrap_or(option);
        let value = if option.has_value { self.value(inline, &format!("--{name}"))? } else { "" };
        if self.is_negated && !option.may_be_negated {
            return Err(Error::parameter(format!(
                "{}: option \"--{}\" cannot be inverted.\n",
                about.name, option.name
            )));
        }
        let seen = match &of_match {
            _ if of_target.is_some() => &mut self.target_seen,
            Some((index, ..)) => &mut self.opened[*index].seen,
            None => return Ok(false),
        };
        if *seen & (1 << option.id) != 0 && !option.may_repeat {
            return Err(Error::parameter(format!(
                "{}: option \"--{}\" can only be used once.\n",
                about.name, option.name
            )));
        }
        *seen |= 1 << option.id;
        let mut given = Given {
            of: about.name,
            option,
            value,
            is_negated: self.is_negated,
            around,
            more: &mut self.cursor,
        };
        match (&mut self.rule.jump, &of_match) {
            (Jump::Target(target), _) if of_target.is_some() => target.take(&mut given)?,
            (_, Some((index, ..))) => self.rule.matches[*index].take(&mut given)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Whether the option is one that takes a value, of a match or target that these words name: the next word, whatever that looks like.
pub fn option_has_value(name: &str, words: &[String], family: Family) -> bool {
    let named = |word: &String, about: &&About| {
        let glued = ["-m", "-j", "-p"].iter().find_map(|option| word.strip_prefix(option));
        about.is_called(glued.unwrap_or(word), family)
    };
    let mut options = words.iter().rev().filter_map(|word| {
        let about = AnyMatch::ALL.iter().chain(AnyTarget::ALL).find(|about| named(word, about))?;
        find(about.options, name)
    });
    options.next().is_some_and(|option| option.has_value)
}

/// By its whole name, or by the beginning of one that no other has.
fn find(options: &'static [Opt], name: &str) -> Option<&'static Opt> {
    if let Some(option) = options.iter().find(|option| option.name == name) {
        return Some(option);
    }
    let mut like = options.iter().filter(|option| option.name.starts_with(name));
    let first = like.next()?;
    like.all(|other| other.id == first.id).then_some(first)
}

fn long_name(letter: char) -> &'static str {
    COMMON.iter().find(|(known, ..)| *known == letter).map_or("", |(_, long, _)| long)
}

fn interface(name: &str, is_not: bool) -> Result<header::Interface, Error> {
    if name.len() > 15 {
        return Err(Error::parameter(format!("interface name `{name}' must be shorter than IFNAMSIZ (15)")));
    }
    if name.is_empty() {
        return Err(Error::parameter("Empty interface is likely to be undesired"));
    }
    Ok(header::Interface { name: name.to_owned(), is_not })
}
