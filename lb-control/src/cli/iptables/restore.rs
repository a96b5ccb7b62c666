//! `iptables-restore`: reads a whole file, then has all of it done at one moment. An error in any line changes nothing.

use std::fs::File;
use std::io::{BufReader, Read};

use hashbrown::HashSet;
use lb_core::rule::{Table, text};

use super::options::{self, Action};
use super::{NO_ANSWER, PARAMETER, Program, RuleKeeper, Stop, Surroundings, VERSION, refusal, table_view};
use crate::api::rules::{RuleBatch, RuleCommand, RuleCounts, RuleError, TableChange};

/// Bytes of a file that are read.
const LONGEST: u64 = 64 << 20;

/// What the command line says.
#[derive(Default)]
struct Wishes {
    has_counts: bool,
    keeps: bool,
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
    let mut content = String::new();
    let read = match &wishes.file {
        Some(path) => File::open(path)
            .and_then(|file| BufReader::new(file).take(LONGEST).read_to_string(&mut content))
            .map_err(|error| Stop::other(format!("{path}: {error}"))),
        None => (&mut *around.input).take(LONGEST).read_to_string(&mut content).map_err(Stop::from),
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

/// `None`: all is said.
fn wishes(program: Program, words: &[String], around: &mut Surroundings<'_>) -> Result<Option<Wishes>, Stop> {
    let mut wishes = Wishes::default();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-c" | "--counters" => wishes.has_counts = true,
            "-n" | "--noflush" => wishes.keeps = true,
            "-t" | "--test" => wishes.is_test = true,
            "-v" | "--verbose" => {}
            // Nobody waits for a lock.
            "-w" | "--wait" => drop(words.next_if(|next| next.parse::<u32>().is_ok())),
            "-T" | "--table" => {
                let name = words.next().cloned();
                wishes.only = Some(
                    name.ok_or_else(|| Stop::parameter(format!("option \"{word}\" requires an argument")))?,
                );
            }
            "-W" | "--wait-interval" | "-M" | "--modprobe" => drop(words.next()),
            "-V" | "--version" => {
                writeln!(around.output, "{} v{VERSION} (legacy)", program.name)?;
                return Ok(None);
            }
            "-h" | "--help" => {
                let name = program.name;
                writeln!(
                    around.output,
                    "Usage: {name} [-c] [-n] [-t] [-v] [-w [SECONDS]] [-T TABLE] [FILE]"
                )?;
                return Ok(None);
            }
            _ if word.starts_with('-') => {
                return Err(Stop::parameter(format!("unknown option \"{word}\"")));
            }
            _ => wishes.file = Some(word.clone()),
        }
    }
    Ok(Some(wishes))
}

fn parts(
    program: Program,
    wishes: &Wishes,
    content: &str,
    keeper: &mut dyn RuleKeeper,
    around: &mut Surroundings<'_>,
) -> Result<Vec<Part>, Blamed> {
    let mut parts: Vec<Part> = Vec::new();
    let mut open: Option<Part> = None;
    let mut last = 0;
    for (line, number) in content.lines().zip(1..) {
        last = number;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match &mut open {
            None => {
                let name = line.strip_prefix('*').ok_or_else(|| failed(number))?.trim();
                open = Some(begin(program, wishes, name, keeper).map_err(|stop| (Some(number), stop))?);
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
                    None => rule(program, part, line, wishes, around),
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

fn begin(program: Program, wishes: &Wishes, name: &str, keeper: &mut dyn RuleKeeper) -> Result<Part, Stop> {
    let unknown =
        || Stop::parameter(format!("{}: unable to initialize table '{name}'\n", program.name).trim_end());
    let table = Table::named(name).ok_or_else(unknown)?;
    let is_skipped = wishes.only.as_ref().is_some_and(|only| only != name);
    let chains = if wishes.keeps && !is_skipped {
        table_view(program, table, keeper)?.chains.into_iter().map(|chain| chain.name).collect()
    } else {
        table.hooks().iter().map(|&hook| lb_core::rule::chain_name(hook).to_owned()).collect()
    };
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
        let is_new = part.chains.insert(chain.clone());
        return Ok(vec![match is_new {
            true => RuleCommand::NewChain { chain },
            false => RuleCommand::Flush { chain: Some(chain) },
        }]);
    }
    let counts = match words.next().map(counts) {
        Some(None) if wishes.has_counts => {
            return Err(Stop::parameter(format!("invalid policy counters for chain '{chain}'")));
        }
        Some(Some(counts)) if wishes.has_counts => counts,
        _ => RuleCounts::default(),
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
    wishes: &Wishes,
    around: &mut Surroundings<'_>,
) -> Result<Vec<RuleCommand>, Stop> {
    let (begin, line) = match line.starts_with('[').then(|| line.split_once(']')).flatten() {
        Some((begin, rest)) => (counts(&format!("{begin}]")), rest),
        None => (None, line),
    };
    let mut words = text::split(line)?;
    if let Some(RuleCounts { packets, bytes }) = begin.filter(|_| wishes.has_counts) {
        words.extend(["-c".to_owned(), packets.to_string(), bytes.to_string()]);
    }
    let request = match options::parse(program, &words, Some(&part.change.table)) {
        // A line for the other family.
        Err(stop) if stop == Stop::bare() => return Ok(Vec::new()),
        parsed => parsed?,
    };
    let mut has_chain = |name: &str| Ok(part.chains.contains(name));
    let commands = super::commands(program, &request, around, &mut has_chain)?;
    match (&request.action, &request.chain) {
        (Action::NewChain, Some(chain)) => _ = part.chains.insert(chain.clone()),
        (Action::Rename(to), _) => _ = part.chains.insert(to.clone()),
        _ => {}
    }
    Ok(commands)
}
