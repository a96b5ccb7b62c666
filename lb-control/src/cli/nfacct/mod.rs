//! `nfacct` as of version 1.0.2: the same command lines, messages, exit codes and listings.
//!
//! Words are read here, by their beginnings as there. What is the same, what is better and what is not there is listed in `docs/iptables.md`.
//!
//! Source of the facts: nfacct(8), and recorded command lines.

mod print;
#[cfg(test)]
mod tests;

use std::io::{BufRead, Read, Write};

use lb_core::rule::LONGEST_ACCOUNT_NAME;

use self::print::Format;
use super::client::Client;
use super::director::DirectorError;
use crate::api::accounts::{
    AccountBatch, AccountCommand, AccountQuota, AccountReply, AccountView, AccountsReply, QuotaUnit,
};
use crate::api::query::escaped;
use crate::api::rules::RuleCounts;
use crate::api::types::{ErrorBody, ErrorKind};

const VERSION: &str = "nfacct v1.0.2";
const USAGE: &str = "Usage: nfacct command [parameters]...";
/// Bytes of a restore: no more than the daemon takes.
const MOST_RESTORED: u64 = 4 << 20;

/// What the command has to do with besides the daemon.
pub struct Surroundings<'a> {
    pub input: &'a mut dyn BufRead,
    pub output: &'a mut dyn Write,
    pub errors: &'a mut dyn Write,
}

/// Who has the accounts: the daemon, or a model in a test.
pub trait AccountKeeper {
    /// # Errors
    /// When there is no answer.
    fn accounts(&mut self) -> Result<Vec<AccountView>, DirectorError>;

    /// Has all, or one, begin anew; what they had counted. `None`: there is none of this name.
    ///
    /// # Errors
    /// When there is no answer.
    fn reset_accounts(&mut self, only: Option<&str>) -> Result<Option<Vec<AccountView>>, DirectorError>;

    /// # Errors
    /// When there is no answer.
    fn change_accounts(&mut self, batch: &AccountBatch) -> Result<AccountReply, DirectorError>;
}

impl AccountKeeper for Client {
    fn accounts(&mut self) -> Result<Vec<AccountView>, DirectorError> {
        Ok(self.get::<AccountsReply>("/v1/nfacct")?.accounts)
    }

    fn reset_accounts(&mut self, only: Option<&str>) -> Result<Option<Vec<AccountView>>, DirectorError> {
        let query = only.map_or(String::new(), |name| format!("?name={}", escaped(name)));
        match self.post::<AccountsReply>(&format!("/v1/nfacct/reset{query}"), &()) {
            Ok(reply) => Ok(Some(reply.accounts)),
            Err(DirectorError::Refused(ErrorBody { error: ErrorKind::NotFound, .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn change_accounts(&mut self, batch: &AccountBatch) -> Result<AccountReply, DirectorError> {
        self.post("/v1/nfacct", batch)
    }
}

/// Why the command ends with exit code 1: what it says.
struct Stop(String);

impl Stop {
    fn new(message: &str) -> Stop {
        Stop(format!("{VERSION}: {message}"))
    }
}

impl From<DirectorError> for Stop {
    fn from(error: DirectorError) -> Stop {
        match error {
            DirectorError::Refused(body) => Stop::new(&format!("error: {}", body.message)),
            other => Stop(format!("nfacct: {other}")),
        }
    }
}

type Done = Result<(), Stop>;

#[derive(Clone, Copy)]
enum Command {
    List,
    Add,
    Delete,
    Get,
    Flush,
    Version,
    Help,
    Restore,
    Monitor,
}

/// The first one that a word is the beginning of is meant; no letter at all is one of the first.
const COMMANDS: [(&str, Command); 9] = [
    ("list", Command::List),
    ("add", Command::Add),
    ("delete", Command::Delete),
    ("get", Command::Get),
    ("flush", Command::Flush),
    ("version", Command::Version),
    ("help", Command::Help),
    ("restore", Command::Restore),
    ("monitor", Command::Monitor),
];

/// Does one command line (without the program's name) and returns its exit code.
pub fn run(words: &[String], keeper: &mut dyn AccountKeeper, around: &mut Surroundings<'_>) -> u8 {
    match do_words(words, keeper, around) {
        Ok(()) => 0,
        Err(Stop(message)) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(around.errors, "{message}");
            1
        }
    }
}

fn do_words(words: &[String], keeper: &mut dyn AccountKeeper, around: &mut Surroundings<'_>) -> Done {
    let Some((first, rest)) = words.split_first() else { return Err(Stop(USAGE.to_owned())) };
    let Some((_, command)) = COMMANDS.iter().find(|(name, _)| name.starts_with(first.as_str())) else {
        return Err(Stop::new(&format!("Unknown command: {first}\n{USAGE}")));
    };
    match command {
        Command::List => list(rest, keeper, around),
        Command::Add => add(rest, keeper),
        Command::Delete => {
            let [name] = one(rest)?;
            change(keeper, vec![AccountCommand::Delete { name }])
        }
        Command::Get => get(rest, keeper, around),
        Command::Flush if rest.is_empty() => change(keeper, vec![AccountCommand::Flush {}]),
        Command::Flush => Err(too_many()),
        Command::Version => say(around, &format!("{VERSION}: accounts of lbd's rules in nfacct's syntax\n")),
        Command::Help => say(around, HELP),
        Command::Restore => restore(keeper, around),
        Command::Monitor => Err(Stop::new(
            "monitor is not built: nothing here tells that a quota is used up. Ask for it: list, or lb_nfacct_over_quota of /metrics",
        )),
    }
}

fn too_many() -> Stop {
    Stop::new("too many arguments")
}

fn no_name() -> Stop {
    Stop::new("missing object name")
}

fn not_there() -> Stop {
    Stop::new("error: No such file or directory")
}

/// The name that is all.
fn one(words: &[String]) -> Result<[String; 1], Stop> {
    match words {
        [] => Err(no_name()),
        [name] => Ok([name_of(name)]),
        _ => Err(too_many()),
    }
}

/// As much of a name as is kept.
fn name_of(word: &str) -> String {
    let end = (0..=LONGEST_ACCOUNT_NAME.min(word.len())).rev().find(|&end| word.is_char_boundary(end));
    word[..end.unwrap_or_default()].to_owned()
}

fn say(around: &mut Surroundings<'_>, text: &str) -> Done {
    around.output.write_all(text.as_bytes()).map_err(|error| Stop(format!("nfacct: output: {error}")))
}

fn change(keeper: &mut dyn AccountKeeper, commands: Vec<AccountCommand>) -> Done {
    match keeper.change_accounts(&AccountBatch { commands })?.failed {
        None => Ok(()),
        Some(failed) => Err(Stop::new(&format!("error: {}", failed.error))),
    }
}

/// What is asked of a listing: reset, and how it looks.
#[derive(Default)]
struct Asked {
    resets: bool,
    format: Option<Format>,
}

impl Asked {
    /// `is_strict`: no option twice, nor two formats.
    fn read(words: &[String], is_strict: bool) -> Result<Asked, Stop> {
        let mut asked = Asked::default();
        for word in words {
            let is = |name: &str| !word.is_empty() && name.starts_with(word.as_str());
            let twice =
                |name| Err(Stop(format!("Error: duplicate \"{name}\" or collision with another option ")));
            let (name, format) = match word {
                _ if is("reset") => {
                    if is_strict && asked.resets {
                        return twice("reset");
                    }
                    asked.resets = true;
                    continue;
                }
                _ if is("xml") => ("xml", Format::Xml),
                _ if is("json") => ("json", Format::Json),
                _ => return Err(Stop::new("unknown argument")),
            };
            if is_strict && asked.format.is_some() {
                return twice(name);
            }
            asked.format = Some(format);
        }
        Ok(asked)
    }

    fn print(&self, accounts: &[AccountView], around: &mut Surroundings<'_>) -> Done {
        say(around, &print::listing(accounts, self.format.unwrap_or_default(), print::now()))
    }
}

fn list(words: &[String], keeper: &mut dyn AccountKeeper, around: &mut Surroundings<'_>) -> Done {
    let asked = Asked::read(words, true)?;
    let accounts = if asked.resets { keeper.reset_accounts(None)? } else { Some(keeper.accounts()?) };
    asked.print(&accounts.unwrap_or_default(), around)
}

fn get(words: &[String], keeper: &mut dyn AccountKeeper, around: &mut Surroundings<'_>) -> Done {
    let (name, rest) = words.split_first().ok_or_else(no_name)?;
    let (name, asked) = (name_of(name), Asked::read(rest, false)?);
    let found = match asked.resets {
        true => keeper.reset_accounts(Some(&name))?.ok_or_else(not_there)?,
        false => keeper.accounts()?.into_iter().filter(|account| account.name == name).collect(),
    };
    if found.is_empty() {
        return Err(not_there());
    }
    asked.print(&found, around)
}

fn add(words: &[String], keeper: &mut dyn AccountKeeper) -> Done {
    let (name, quota) = match words {
        [] => return Err(no_name()),
        [name] => (name, None),
        [_, _] => return Err(Stop::new("missing quota value")),
        [name, unit, limit] => (name, Some(quota(unit, limit)?)),
        _ => return Err(too_many()),
    };
    change(keeper, vec![AccountCommand::Add { name: name_of(name), quota, counts: RuleCounts::default() }])
}

fn quota(unit: &str, limit: &str) -> Result<AccountQuota, Stop> {
    let unit = unit_of(unit)?;
    let (limit, _) = leading(limit).ok_or_else(|| Stop::new("error reading quota"))?;
    Ok(AccountQuota { unit, limit })
}

fn unit_of(word: &str) -> Result<QuotaUnit, Stop> {
    match word {
        "byte" => Ok(QuotaUnit::Bytes),
        "packet" => Ok(QuotaUnit::Packets),
        _ => Err(Stop::new("argument must \"byte\" or \"packet\"")),
    }
}

/// The decimal number that a text begins with, as C's `scanf` reads it: blanks and a sign before it, less than 0 counted from the largest on, too large the largest; and what follows.
fn leading(text: &str) -> Option<(u64, &str)> {
    let text = text.trim_start();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    let value = match digits.parse::<u64>() {
        Ok(value) if text.starts_with('-') => value.wrapping_neg(),
        Ok(value) => value,
        Err(_) if digits.is_empty() => return None,
        Err(_) => u64::MAX,
    };
    Some((value, rest))
}

/// Makes the accounts that a listing names, all of them or none.
fn restore(keeper: &mut dyn AccountKeeper, around: &mut Surroundings<'_>) -> Done {
    let mut text = String::new();
    let read = Read::take(&mut *around.input, MOST_RESTORED + 1).read_to_string(&mut text);
    read.map_err(|error| Stop(format!("nfacct: input: {error}")))?;
    if text.len() as u64 > MOST_RESTORED {
        return Err(Stop::new(&format!("error reading input: more than {MOST_RESTORED} bytes")));
    }
    let commands = text.lines().map(restored).collect::<Result<Vec<_>, Stop>>()?;
    if commands.is_empty() { Ok(()) } else { change(keeper, commands) }
}

/// A line such as `{ pkts = 1, bytes = 20, quota = 30, mode = byte, overquota = no } = name;`: blanks are as one likes, but for those of the name.
fn restored(line: &str) -> Result<AccountCommand, Stop> {
    let (line, _) = line.rsplit_once(';').ok_or_else(|| Stop::new("invalid line"))?;
    let bad = || Stop::new("error reading input");
    let (fields, name) = line.strip_prefix('{').and_then(|line| line.split_once('}')).ok_or_else(bad)?;
    let name = name.trim_start().strip_prefix('=').ok_or_else(bad)?;
    // More of them are the name's.
    let name = name.strip_prefix(' ').unwrap_or(name);
    let mut values = Vec::new();
    for field in fields.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(bad)?;
        values.push((key.trim(), value.trim()));
    }
    let number = |text: &str| leading(text).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value);
    let number = |text| number(text).ok_or_else(bad);
    let (packets, bytes, quota) = match values[..] {
        [("pkts", packets), ("bytes", bytes)] => (packets, bytes, None),
        [("pkts", packets), ("bytes", bytes), ("quota", limit), ("mode", unit), ("overquota", _)] => {
            (packets, bytes, Some(AccountQuota { unit: unit_of(unit)?, limit: number(limit)? }))
        }
        _ => return Err(bad()),
    };
    let counts = RuleCounts { packets: number(packets)?, bytes: number(bytes)? };
    Ok(AccountCommand::Add { name: name_of(name), quota, counts })
}

const HELP: &str = "\
nfacct v1.0.2: what lbd's rules count under a name
Usage: nfacct command [parameters]...

Commands, or the beginning of one:
  add NAME [byte|packet LIMIT]  Make an account; with a limit rules match behind it alone
  list [reset] [xml|json]       Print all, and have them count from 0 on
  get NAME [reset] [xml|json]   Print one
  delete NAME                   Remove one that no rule names
  flush                         Remove all that no rule names
  restore                       Make those that standard input lists
  version                       Print which syntax this is
  help                          Print this
";
