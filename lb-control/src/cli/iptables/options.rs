//! A command line of iptables: what it asks for, and the words of the rule in it, which [`Rule::read`](lb_core::rule::Rule::read)
//! reads.

use lb_core::rule::{Family, option_has_value, text};

use super::{Program, Stop, VERSION};

/// What is to be done; numbers of rules begin at 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Append,
    Check,
    Delete,
    DeleteAt(usize),
    Insert(usize),
    Replace(usize),
    List(Option<usize>),
    ListRules(Option<usize>),
    Flush,
    Zero(Option<usize>),
    NewChain,
    DeleteChain,
    Rename(String),
    Policy(String),
    Version,
    Help,
    /// None is given: what else stands there is read all the same, and may be wrong by itself.
    Missing,
}

/// A line as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) action: Action,
    /// With `-L` or `-S`: counts begin anew after it, of one rule if `-Z` has its number.
    pub(super) zeroes: Option<Option<usize>>,
    pub(super) chain: Option<String>,
    pub(super) table: String,
    pub(super) is_numeric: bool,
    pub(super) is_verbose: bool,
    pub(super) is_exact: bool,
    pub(super) is_numbered: bool,
    /// The rule's.
    pub(super) words: Vec<String>,
    /// What is told first.
    pub(super) warnings: Vec<&'static str>,
}

impl Request {
    pub(super) fn lists(&self) -> bool {
        matches!(self.action, Action::List(_) | Action::ListRules(_))
    }
}

/// Options that are not the rule's: letter, long name.
const OPTIONS: &[(char, &str)] = &[
    ('A', "append"),
    ('C', "check"),
    ('D', "delete"),
    ('I', "insert"),
    ('R', "replace"),
    ('L', "list"),
    ('S', "list-rules"),
    ('F', "flush"),
    ('Z', "zero"),
    ('N', "new-chain"),
    ('X', "delete-chain"),
    ('E', "rename-chain"),
    ('P', "policy"),
    ('t', "table"),
    ('n', "numeric"),
    ('v', "verbose"),
    ('x', "exact"),
    ('w', "wait"),
    ('W', "wait-interval"),
    ('M', "modprobe"),
    ('V', "version"),
    ('h', "help"),
    ('4', "ipv4"),
    ('6', "ipv6"),
    ('0', "line-numbers"),
];

/// The rule's own options that take a value whatever it looks like: short ones by letter, long ones by name.
const WITH_VALUE: &[(char, &str)] = &[
    ('s', "source"),
    ('s', "src"),
    ('d', "destination"),
    ('d', "dst"),
    ('p', "protocol"),
    ('p', "proto"),
    ('i', "in-interface"),
    ('o', "out-interface"),
    ('m', "match"),
    ('j', "jump"),
    ('g', "goto"),
];

struct Words<'w> {
    words: &'w [String],
    at: usize,
}

impl<'w> Words<'w> {
    fn next(&mut self) -> Option<&'w String> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    /// The next word, if it is no option.
    fn value(&mut self) -> Option<&'w String> {
        self.words.get(self.at).filter(|word| !word.starts_with(['-', '!']))?;
        self.next()
    }

    fn number(&mut self) -> Result<Option<usize>, Stop> {
        self.value().map(|word| number(word)).transpose()
    }
}

fn number(word: &str) -> Result<usize, Stop> {
    let at = text::number(word).filter(|at| (1..=i32::MAX as u64).contains(at));
    at.map(|at| at as usize).ok_or_else(|| Stop::parameter(format!("Invalid rule number `{word}'")))
}

/// Reads a line without the program's name. `table`: of a restore, which allows no other.
pub(super) fn parse(program: Program, words: &[String], table: Option<&str>) -> Result<Request, Stop> {
    let mut reader = Reader {
        program,
        words: Words { words, at: 0 },
        action: None,
        is_waiting: false,
        has_interval: false,
        request: Request {
            action: Action::Help,
            zeroes: None,
            chain: None,
            table: table.unwrap_or("filter").to_owned(),
            is_numeric: false,
            is_verbose: false,
            is_exact: false,
            is_numbered: false,
            words: Vec::new(),
            warnings: Vec::new(),
        },
        is_restore: table.is_some(),
    };
    reader.read()?;
    let Reader { action, mut request, is_waiting, has_interval, .. } = reader;
    if has_interval && !is_waiting {
        let mut stop = Stop::parameter("--wait-interval only makes sense with --wait\n");
        stop.warnings = request.warnings;
        return Err(stop);
    }
    request.action = action.map_or(Action::Missing, |(_, action)| action);
    check_listing(&request)?;
    Ok(request)
}

/// A rule's options, in the order in which iptables looks for those that a command has no use for.
const OF_RULES: &[(char, &[&str])] = &[
    ('s', &["source", "src"]),
    ('d', &["destination", "dst"]),
    ('p', &["protocol", "proto"]),
    ('j', &["jump", "goto"]),
    ('i', &["in-interface"]),
    ('o', &["out-interface"]),
    ('f', &["fragments"]),
];

/// Whether the rule's options go with the command, once they are read. A match does with each, as in iptables, though it says nothing.
pub(super) fn check_rule(request: &Request, has_counts: bool) -> Result<(), Stop> {
    let illegal =
        |letter: char| Err(Stop::parameter(format!("Illegal option `-{letter}' with this command")));
    let (is_of_rule, takes_counts) = match request.action {
        Action::Missing => return Err(Stop::parameter("no command specified")),
        Action::Append | Action::Insert(_) | Action::Replace(_) => (true, true),
        Action::Check | Action::Delete => (true, false),
        Action::Policy(_) => (false, true),
        _ => (false, false),
    };
    let is_given = |letter: char, names: &[&str]| {
        request.words.iter().any(|word| match (word.strip_prefix("--"), word.strip_prefix('-')) {
            (Some(long), _) => names.contains(&long.split('=').next().unwrap_or_default()),
            (None, Some(short)) => short.starts_with(letter) || letter == 'j' && short.starts_with('g'),
            (None, None) => false,
        })
    };
    let found = OF_RULES.iter().find(|(letter, names)| !is_of_rule && is_given(*letter, names));
    match found {
        Some((letter, _)) if *letter != 'f' || !has_counts || takes_counts => illegal(*letter),
        _ if has_counts && !takes_counts => illegal('c'),
        _ => Ok(()),
    }
}

/// Whether what says how rules are listed goes with the command.
fn check_listing(request: &Request) -> Result<(), Stop> {
    if matches!(request.action, Action::List(_) | Action::Help | Action::Version | Action::Missing) {
        return Ok(());
    }
    let given = [('n', request.is_numeric), ('x', request.is_exact), ('0', request.is_numbered)];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((letter, _)) => Err(Stop::parameter(format!("Illegal option `-{letter}' with this command"))),
        None => Ok(()),
    }
}

struct Reader<'w> {
    program: Program,
    words: Words<'w>,
    action: Option<(char, Action)>,
    request: Request,
    is_waiting: bool,
    has_interval: bool,
    is_restore: bool,
}

impl<'w> Reader<'w> {
    fn read(&mut self) -> Result<(), Stop> {
        while let Some(word) = self.words.next() {
            if word == "--" {
                // Here options end, and there is nothing else to be said.
                return match self.words.next() {
                    None => Ok(()),
                    Some(_) => Err(Stop::parameter("unknown arguments found on commandline")),
                };
            }
            if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
                self.long(word, long)?;
            } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                self.short(word, letters)?;
            } else {
                self.request.words.push(word.clone());
            }
        }
        Ok(())
    }

    fn long(&mut self, word: &'w str, long: &'w str) -> Result<(), Stop> {
        let (name, inline) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        match OPTIONS.iter().find(|(_, known)| *known == name) {
            Some((letter, _)) => self.option(*letter, inline, word),
            None => {
                let family = if self.program.is_ipv6 { Family::Ipv6 } else { Family::Ipv4 };
                let has_value = WITH_VALUE.iter().any(|(_, known)| *known == name)
                    || option_has_value(name, &self.request.words, family);
                self.request.words.push(word.to_owned());
                if inline.is_none() && has_value {
                    self.request.words.extend(self.words.next().cloned());
                }
                Ok(())
            }
        }
    }

    /// Letters may stand together: `-nvL`.
    fn short(&mut self, word: &'w str, letters: &'w str) -> Result<(), Stop> {
        for (at, letter) in letters.char_indices() {
            let rest = &letters[at + letter.len_utf8()..];
            let of_rule = WITH_VALUE.iter().any(|(known, _)| *known == letter);
            if of_rule || matches!(letter, 'c' | 'f') {
                // A restore's rule may not be more than one option a word either.
                self.request.words.push(format!("-{}", &letters[at..]));
                if of_rule && rest.is_empty() {
                    self.request.words.extend(self.words.next().cloned());
                }
                return Ok(());
            }
            if letter == '0' || !OPTIONS.iter().any(|(known, _)| *known == letter) {
                return Err(Stop::parameter(format!("unknown option \"{word}\"")));
            }
            if ends_word(letter) && !rest.is_empty() {
                return self.option(letter, Some(rest), word);
            }
            self.option(letter, None, word)?;
        }
        Ok(())
    }

    fn must(&mut self, inline: Option<&str>, word: &str) -> Result<String, Stop> {
        let value = inline.map(str::to_owned).or_else(|| self.words.next().cloned());
        value.ok_or_else(|| Stop::parameter(format!("option \"{word}\" requires an argument")))
    }

    fn act(&mut self, letter: char, action: Action) -> Result<(), Stop> {
        match (&self.action, action) {
            (None, action) => self.action = Some((letter, action)),
            (Some(('L' | 'S', _)), Action::Zero(at)) => self.request.zeroes = Some(at),
            (Some((_, Action::Zero(at))), action @ (Action::List(_) | Action::ListRules(_))) => {
                self.request.zeroes = Some(*at);
                self.action = Some((letter, action));
            }
            (Some((other, _)), _) => {
                return Err(Stop::parameter(format!("Cannot use -{letter} with -{other}\n").trim_end()));
            }
        }
        Ok(())
    }

    fn option(&mut self, letter: char, inline: Option<&str>, word: &str) -> Result<(), Stop> {
        match letter {
            'A' | 'C' | 'D' | 'I' | 'R' => {
                let chain = self.must(inline, word)?;
                let at = if matches!(letter, 'D' | 'I' | 'R') { self.words.number()? } else { None };
                self.act(
                    letter,
                    match (letter, at) {
                        ('A', _) => Action::Append,
                        ('C', _) => Action::Check,
                        ('D', None) => Action::Delete,
                        ('D', Some(at)) => Action::DeleteAt(at),
                        ('I', at) => Action::Insert(at.unwrap_or(1)),
                        (_, Some(at)) => Action::Replace(at),
                        (_, None) => return Err(Stop::parameter("-R requires a rule number")),
                    },
                )?;
                self.request.chain = Some(chain);
            }
            'L' | 'S' | 'F' | 'Z' | 'X' => {
                let chain = inline.map(str::to_owned).or_else(|| self.words.value().cloned());
                let at = if chain.is_some() && matches!(letter, 'L' | 'S' | 'Z') {
                    self.words.number()?
                } else {
                    None
                };
                self.act(
                    letter,
                    match letter {
                        'L' => Action::List(at),
                        'S' => Action::ListRules(at),
                        'F' => Action::Flush,
                        'Z' => Action::Zero(at),
                        _ => Action::DeleteChain,
                    },
                )?;
                if chain.is_some() {
                    self.request.chain = chain;
                }
            }
            'N' => {
                let name = self.must(inline, word)?;
                check_name(&name)?;
                self.act(letter, Action::NewChain)?;
                self.request.chain = Some(name);
            }
            'E' | 'P' => {
                let chain = self.must(inline, word)?;
                let what =
                    if letter == 'E' { "old-chain-name and new-chain-name" } else { "a chain and a policy" };
                let value = self.words.value().cloned();
                let value = value.ok_or_else(|| Stop::parameter(format!("-{letter} requires {what}")))?;
                if letter == 'E' {
                    check_name(&value)?;
                }
                self.act(letter, if letter == 'E' { Action::Rename(value) } else { Action::Policy(value) })?;
                self.request.chain = Some(chain);
            }
            't' => {
                let table = self.must(inline, word)?;
                if self.is_restore {
                    let option = "The -t option cannot be used in iptables-restore.\n";
                    return Err(Stop::parameter(option));
                }
                self.request.table = table;
            }
            'n' => self.request.is_numeric = true,
            'v' => self.request.is_verbose = true,
            'x' => self.request.is_exact = true,
            '0' => self.request.is_numbered = true,
            // The daemon does one thing after the other: nobody waits for a lock.
            'w' => {
                let seconds = inline.map(str::to_owned).or_else(|| self.words.value().cloned());
                seconds.map_or(Ok(()), |seconds| check_seconds(&seconds))?;
                self.is_waiting = true;
            }
            'W' => {
                self.must(inline, word)?;
                self.request.warnings.push("Ignoring deprecated --wait-interval option.");
                self.has_interval = true;
            }
            // There is no module to load.
            'M' => drop(self.must(inline, word)?),
            '4' | '6' => {
                if (letter == '6') != self.program.is_ipv6 {
                    // In a restore it is a line for the other program.
                    return Err(Stop::bare());
                }
            }
            'V' => self.action = Some((letter, Action::Version)),
            'h' => self.action = Some((letter, Action::Help)),
            _ => return Err(Stop::parameter(format!("unknown option \"{word}\""))),
        }
        Ok(())
    }
}

/// Whether what follows in a word of letters is the option's value: it has one, or may have.
fn ends_word(letter: char) -> bool {
    !matches!(letter, 'n' | 'v' | 'x' | '4' | '6' | 'V')
}

fn check_seconds(text: &str) -> Result<(), Stop> {
    text.parse::<u32>().map(drop).map_err(|_| Stop::parameter("wait seconds not numeric"))
}

fn check_name(name: &str) -> Result<(), Stop> {
    if name.starts_with(['-', '!']) {
        let first = &name[..1];
        return Err(Stop::parameter(format!("chain name not allowed to start with `{first}'")));
    }
    if name.len() > 28 {
        return Err(Stop::parameter(format!("chain name `{name}' too long (must be under 29 chars)")));
    }
    if super::is_target(name) {
        return Err(Stop::parameter("chain name may not clash with target name"));
    }
    if name.contains(char::is_whitespace) {
        return Err(Stop::parameter(format!("Invalid chain name `{name}'")));
    }
    Ok(())
}

/// Our own words.
pub(super) fn help(program: Program) -> String {
    let name = program.name;
    format!(
        "{name} v{VERSION} (legacy)

Usage: {name} [-t table] command [options]

One of these commands, each with a chain:
  -A, --append CHAIN rule            put a rule at the end
  -I, --insert CHAIN [N] rule        put a rule before the first or the Nth
  -R, --replace CHAIN N rule         put a rule in the Nth one's place
  -D, --delete CHAIN rule | N        take a rule out
  -C, --check CHAIN rule             is there such a rule?
  -L, --list [CHAIN [N]]             show rules in columns
  -S, --list-rules [CHAIN [N]]       show rules as command lines
  -F, --flush [CHAIN]                take all rules out
  -Z, --zero [CHAIN [N]]             let counts begin anew
  -N, --new-chain CHAIN              make a chain
  -X, --delete-chain [CHAIN]         remove an unused chain, or all
  -E, --rename-chain OLD NEW         give a chain another name
  -P, --policy CHAIN ACCEPT|DROP     what a built-in chain does at its end

What every rule may say, with ! before it for the opposite:
  -s, -d ADDRESS[/MASK][,...]  -p PROTOCOL  -i, -o INTERFACE[+]  -f
  -m MATCH  -j TARGET  -g CHAIN  -c PACKETS BYTES

Besides:
  -t TABLE   raw, mangle, nat, filter (when left out) or security
  -n  no names   -v  more   -x  exact counts   --line-numbers
  -w [SECONDS]   accepted: changes never wait for a lock
  -4, -6   fail unless this is the program for the family
  -V  version    -h  this text
"
    )
}
