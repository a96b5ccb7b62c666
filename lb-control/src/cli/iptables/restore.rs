//! `iptables-restore`: reads a whole file, then has all of it done at one moment. An error in any line changes nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};

use hashbrown::HashSet;
use lb_core::rule::{Table, text};

use super::options::{self, Action};
use super::{
    NO_ANSWER, PARAMETER, Program, RuleKeeper, Stop, Surroundings, VERSION, refusal, so_far, table_view,
    verbose,
};
use crate::api::rules::{RuleBatch, RuleCommand, RuleCounts, RuleError, TableChange};

const NOT_UTF8: &str = "bytes that are no UTF-8 are for comments of the file alone";
/// Bytes of a file that are read.
const LONGEST: u64 = 64 << 20;

/// What the command line says.
#[derive(Default)]
struct Wishes {
    has_counts: bool,
    keeps: bool,
    is_verbose: bool,
    is_test: bool,
    only: Option<String>,
    file: Option<String>,
}

/// One table of the file.
struct Part {
    change: TableChange,
    /// Of each command, and of its COMMIT.
    lines: Vec<usize>,
    chains: HashSet<String>,
    is_skipped: bool,
}

impl Part {
    /// In the order of a listing, and whether they are the operator's.
    fn all_chains(&self) -> Vec<(String, bool)> {
        let hooks = Table::named(&self.change.table).map_or(&[][..], |table| table.hooks());
        let built_in: Vec<&str> = hooks.iter().map(|&hook| lb_core::rule::chain_name(hook)).collect();
        let own = self.chains.iter().filter(|name| !built_in.contains(&name.as_str()));
        let own: BTreeSet<&String> = own.collect();
        let built_in = built_in.iter().map(|&name| (name.to_owned(), false));
        built_in.chain(own.into_iter().map(|name| (name.clone(), true))).collect()
    }
}

/// A number of a line, if one is to blame.
pub(super) type Blamed = (Option<usize>, Stop);

fn failed(line: usize) -> Blamed {
    (None, Stop::other(format!("line {line} failed")))
}

pub(super) fn run(
    program: Program,
    words: &[String],
    keeper: &mut dyn RuleKeeper,
    around: &mut Surroundings<'_>,
) -> Result<(), Blamed> {
    let nowhere = |stop: Stop| (None, stop);
    let Some(wishes) = wishes(program, words, around).map_err(nowhere)? else { return Ok(()) };
    let mut content = Vec::new();
    let read = match &wishes.file {
        Some(path) => File::open(path)
            .and_then(|file| BufReader::new(file).take(LONGEST).read_to_end(&mut content))
            .map_err(|error| Stop::other(format!("{path}: {error}"))),
        None => (&mut *around.input).take(LONGEST).read_to_end(&mut content).map_err(Stop::from),
    };
    read.map_err(nowhere)?;
    let parts = parts(program, &wishes, &content, keeper, around)?;
    let (changes, lines): (Vec<_>, Vec<_>) =
        parts.into_iter().filter(|part| !part.is_skipped).map(|part| (part.change, part.lines)).unzip();
    if changes.is_empty() {
        return Ok(());
    }
    let batch = RuleBatch { family: program.family(), tables: changes, test: wishes.is_test };
    match keeper.change(&batch).map_err(|error| (None, error.into()))?.failed {
        None => Ok(()),
        Some(failure) => {
            let line = lines.get(failure.table).and_then(|lines| lines.get(failure.command)).copied();
            match failure.error {
                RuleError::NoSuchSet => Err((line, refusal(failure.error, &failure.message))),
                _ => Err(failed(line.unwrap_or_default())),
            }
        }
    }
}

/// Letter and name of an option, and whether a value follows it: always, never, or only in the same word, or as the next word of digits.
const OPTIONS: [(char, &str, Value); 12] = [
    ('c', "counters", Value::No),
    ('n', "noflush", Value::No),
    ('t', "test", Value::No),
    ('v', "verbose", Value::No),
    ('4', "ipv4", Value::No),
    ('6', "ipv6", Value::No),
    ('V', "version", Value::No),
    ('h', "help", Value::No),
    ('w', "wait", Value::Maybe),
    ('W', "wait-interval", Value::Must),
    ('T', "table", Value::Must),
    ('M', "modprobe", Value::Must),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    No,
    Maybe,
    Must,
}

/// An option's letter and its value; the file has no letter.
type Said<'a> = (Option<char>, Option<&'a str>);

/// The options of a command line in their order.
fn options(words: &[String]) -> Result<Vec<Said<'_>>, Stop> {
    let mut found = Vec::new();
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        let unknown = || Stop::parameter(format!("unknown option \"{word}\""));
        let (letters, attached) = if let Some(long) = word.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            let is_it = |(_, known, kind): &&(char, &str, Value)| {
                *known == name && (*kind != Value::No || value.is_none())
            };
            (OPTIONS.iter().find(is_it).ok_or_else(unknown)?.0.to_string(), value)
        } else if let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) {
            let takes =
                |letter: char| OPTIONS.iter().any(|(known, _, kind)| *known == letter && *kind != Value::No);
            let end = short.find(takes).map_or(short.len(), |at| at + 1);
            (short[..end].to_owned(), Some(&short[end..]).filter(|rest| !rest.is_empty()))
        } else {
            found.push((None, Some(word)));
            continue;
        };
        for letter in letters.chars() {
            let (_, _, kind) = OPTIONS.iter().find(|(known, ..)| *known == letter).ok_or_else(unknown)?;
            let value = match kind {
                Value::No => None,
                Value::Maybe => attached.or_else(|| words.next_if(|next| next.parse::<u32>().is_ok())),
                Value::Must => {
                    let missing = || Stop::parameter(format!("option \"{word}\" requires an argument"));
                    Some(attached.or_else(|| words.next()).ok_or_else(missing)?)
                }
            };
            found.push((Some(letter), value));
        }
    }
    Ok(found)
}

/// `None`: all is said.
fn wishes(program: Program, words: &[String], around: &mut Surroundings<'_>) -> Result<Option<Wishes>, Stop> {
    let mut wishes = Wishes::default();
    for (letter, value) in options(words)? {
        match letter {
            None => wishes.file = value.map(str::to_owned),
            Some('c') => wishes.has_counts = true,
            Some('n') => wishes.keeps = true,
            Some('t') => wishes.is_test = true,
            Some('v') => wishes.is_verbose = true,
            Some('T') => wishes.only = value.map(str::to_owned),
            Some('V') => {
                writeln!(around.output, "{} v{VERSION} (legacy)", program.name)?;
                return Ok(None);
            }
            Some('h') => {
                let name = program.name;
                writeln!(
                    around.output,
                    "Usage: {name} [-c] [-n] [-t] [-v] [-w [SECONDS]] [-T TABLE] [FILE]"
                )?;
                return Ok(None);
            }
            // Nobody waits for a lock, and there is no module to load.
            Some(_) => {}
        }
    }
    // As iptables has it.
    wishes.is_verbose &= !wishes.keeps;
    Ok(Some(wishes))
}

fn parts(
    program: Program,
    wishes: &Wishes,
    content: &[u8],
    keeper: &mut dyn RuleKeeper,
    around: &mut Surroundings<'_>,
) -> Result<Vec<Part>, Blamed> {
    let mut parts: Vec<Part> = Vec::new();
    let mut open: Option<Part> = None;
    let mut last = 0;
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    for (line, number) in content.split(|&byte| byte == b'\n').zip(1..) {
        last = number;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        // What is passed over may be anything.
        let read = std::str::from_utf8(line).ok().or(is_passed_over(open.as_ref(), line).then_some(""));
        let line = read.ok_or_else(|| (Some(number), Stop::parameter(NOT_UTF8)))?;
        match &mut open {
            None => {
                let name = line.strip_prefix('*').ok_or_else(|| failed(number))?.trim();
                let part = begin(program, wishes, name, keeper, around);
                open = Some(part.map_err(|stop| (Some(number), stop))?);
            }
            Some(part) if line.trim_end() == "COMMIT" => {
                part.lines.push(number);
                if let Some(part) = open.take() {
                    put(&mut parts, part);
                }
            }
            Some(part) if part.is_skipped => {}
            Some(part) => {
                let read = match line.strip_prefix(':') {
                    Some(chain) => begin_chain(part, chain, wishes),
                    None => rule(program, part, line, (wishes, number), keeper, around),
                };
                match read {
                    Ok(commands) => {
                        part.lines.extend(commands.iter().map(|_| number));
                        part.change.commands.extend(commands);
                    }
                    Err(stop) if stop.code == PARAMETER => return Err((Some(number), stop)),
                    Err(stop) if stop.code == NO_ANSWER => return Err((None, stop)),
                    Err(_) => return Err(failed(number)),
                }
            }
        }
    }
    match open {
        None => Ok(parts),
        Some(_) => Err((None, Stop::other(format!("COMMIT expected at line {}", last + 1)))),
    }
}

fn is_passed_over(open: Option<&Part>, line: &[u8]) -> bool {
    open.is_some_and(|part| part.is_skipped) && line.trim_ascii_end() != b"COMMIT"
}

/// A table that comes again goes on, or, where tables are emptied first, begins anew.
fn put(parts: &mut Vec<Part>, part: Part) {
    let before = parts.iter_mut().find(|before| before.change.table == part.change.table);
    match before {
        None => parts.push(part),
        Some(before) if part.change.empty => *before = part,
        Some(before) => {
            before.lines.pop();
            before.lines.extend(part.lines);
            before.change.commands.extend(part.change.commands);
        }
    }
}

fn begin(
    program: Program,
    wishes: &Wishes,
    name: &str,
    keeper: &mut dyn RuleKeeper,
    around: &mut Surroundings<'_>,
) -> Result<Part, Stop> {
    let unknown =
        || Stop::parameter(format!("{}: unable to initialize table '{name}'\n", program.name).trim_end());
    let table = Table::named(name).ok_or_else(unknown)?;
    let is_skipped = wishes.only.as_ref().is_some_and(|only| only != name);
    let chains = if wishes.keeps && !is_skipped {
        table_view(program, table, keeper)?.chains.into_iter().map(|chain| chain.name).collect()
    } else {
        table.hooks().iter().map(|&hook| lb_core::rule::chain_name(hook).to_owned()).collect()
    };
    if wishes.is_verbose && !is_skipped {
        let view = table_view(program, table, keeper)?;
        let all: Vec<_> = view.chains.into_iter().map(|chain| (chain.name, chain.policy.is_none())).collect();
        for command in [RuleCommand::Flush { chain: None }, RuleCommand::DeleteChain { chain: None }] {
            around.output.write_all(verbose::chains(&command, &all).as_bytes())?;
        }
    }
    let change = TableChange { table: name.to_owned(), empty: !wishes.keeps, commands: Vec::new() };
    Ok(Part { change, lines: Vec::new(), chains, is_skipped })
}

/// `CHAIN POLICY [PACKETS:BYTES]`; of a chain of the operator's the policy is `-`.
fn begin_chain(part: &mut Part, line: &str, wishes: &Wishes) -> Result<Vec<RuleCommand>, Stop> {
    let mut words = line.split_whitespace();
    let bad = || Stop::other("");
    let chain = words.next().ok_or_else(bad)?.to_owned();
    let policy = words.next().ok_or_else(bad)?.to_owned();
    if chain.len() > 28 {
        return Err(Stop::parameter(format!("Invalid chain name `{chain}' (28 chars max)")));
    }
    if policy == "-" {
        let hooks = Table::named(&part.change.table).map_or(&[][..], |table| table.hooks());
        let is_built_in = hooks.iter().any(|&hook| lb_core::rule::chain_name(hook) == chain);
        if !part.chains.insert(chain.clone()) && !wishes.keeps && !is_built_in {
            return Err(Stop::parameter(format!("error creating chain '{chain}':File exists")));
        }
        return Ok(vec![RuleCommand::BeginChain { chain }]);
    }
    let counts = match words.next().and_then(counts) {
        _ if !wishes.has_counts => RuleCounts::default(),
        Some(counts) => counts,
        None => return Err(Stop::parameter(format!("invalid policy counters for chain '{chain}'"))),
    };
    Ok(vec![RuleCommand::SetPolicy { chain, policy, counts: Some(counts) }])
}

/// `[PACKETS:BYTES]`
fn counts(text: &str) -> Option<RuleCounts> {
    let (packets, bytes) = text.strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
    Some(RuleCounts { packets: packets.parse().ok()?, bytes: bytes.parse().ok()? })
}

fn rule(
    program: Program,
    part: &mut Part,
    line: &str,
    (wishes, number): (&Wishes, usize),
    keeper: &mut dyn RuleKeeper,
    around: &mut Surroundings<'_>,
) -> Result<Vec<RuleCommand>, Stop> {
    // [PACKETS:BYTES]
    let (counts, line) = match line.strip_prefix('[') {
        Some(line) => {
            let bad = || Stop::parameter(format!("Bad line {number}: need ]"));
            let (counts, line) = line.split_once(']').ok_or_else(bad)?;
            let (packets, bytes) = counts.split_once(':').ok_or_else(bad)?;
            if packets.is_empty() || bytes.is_empty() {
                return Err(bad());
            }
            (vec!["-c".to_owned(), packets.to_owned(), bytes.to_owned()], line)
        }
        None => (Vec::new(), line),
    };
    let mut words = if wishes.has_counts { counts } else { Vec::new() };
    words.extend(text::split(line)?);
    let mut request = match options::parse(program, &words, Some(&part.change.table)) {
        // A line for the other family.
        Err(stop) if stop == Stop::bare() => return Ok(Vec::new()),
        parsed => parsed?,
    };
    request.is_verbose |= wishes.is_verbose;
    let mut has_chain = |name: &str| Ok(part.chains.contains(name));
    if request.lists() {
        super::read(program, &request, around, &mut has_chain)?;
        let view = so_far::view(program, &part.change, keeper)?;
        return Ok(super::show(program, &request, &view, around)?.into_iter().collect());
    }
    let commands = super::commands(program, &request, around, &mut has_chain)?;
    if request.is_verbose {
        let all = part.all_chains();
        let said: String = commands.iter().map(|command| verbose::chains(command, &all)).collect();
        around.output.write_all(said.as_bytes())?;
    }
    match (&request.action, &request.chain) {
        (Action::NewChain, Some(chain)) => _ = part.chains.insert(chain.clone()),
        (Action::DeleteChain, Some(chain)) => _ = part.chains.remove(chain),
        (Action::DeleteChain, None) => {
            let built_in = part.all_chains().into_iter().filter(|(_, is_own)| !is_own);
            part.chains = built_in.map(|(name, _)| name).collect();
        }
        (Action::Rename(to), from) => {
            from.iter().for_each(|from| _ = part.chains.remove(from));
            part.chains.insert(to.clone());
        }
        _ => {}
    }
    Ok(commands)
}
