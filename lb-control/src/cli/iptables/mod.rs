//! `iptables` as of version 1.8.9 (legacy): the same command lines, messages, exit codes, listings and files, over `lbd`'s rules.
//!
//! [`run`], [`run_save`] and [`run_restore`] are the commands. `options` reads a line, the rule in it is read by
//! [`Rule::read`](lb_core::rule::Rule::read) as everywhere, with names as this machine knows them; `lbd` gets it in numbers. What is the
//! same, what differs and what is not there is listed in `docs/iptables.md`.

mod list;
mod names;
mod options;
mod restore;
mod so_far;
#[cfg(test)]
mod tests;
mod verbose;

use std::io::{BufRead, Write};
use std::time::SystemTime;

use lb_core::rule::names::{Names, Numeric};
use lb_core::rule::{Around, Error, Family, Jump, Kind, Rule, Style, Table, text};

pub use names::System;

use super::client::Client;
use super::director::DirectorError;
use crate::api::rules::{
    RuleBatch, RuleCommand, RuleCounts, RuleError, RuleFamily, RuleReply, RulesReply, TableChange, TableView,
};
use crate::model::rules::family;
use options::{Action, Request};

/// Whose syntax and output this is.
const VERSION: &str = "1.8.9";
/// Anything but a wrong line.
const OTHER: u8 = 1;
const PARAMETER: u8 = 2;
const NO_TABLE: u8 = 3;
/// `lbd` does not answer.
const NO_ANSWER: u8 = 4;

/// Who keeps rules: the daemon over its socket, or a model in a test.
pub trait RuleKeeper {
    /// # Errors
    /// None of the commands' own: those are in the reply.
    fn change(&mut self, batch: &RuleBatch) -> Result<RuleReply, DirectorError>;

    /// # Errors
    /// When there is no answer.
    fn rules(&mut self, family: RuleFamily, table: Option<Table>) -> Result<RulesReply, DirectorError>;
}

impl RuleKeeper for Client {
    fn change(&mut self, batch: &RuleBatch) -> Result<RuleReply, DirectorError> {
        self.post("/v1/rules", batch)
    }

    fn rules(&mut self, family: RuleFamily, table: Option<Table>) -> Result<RulesReply, DirectorError> {
        let family = match family {
            RuleFamily::Ipv4 => "ipv4",
            RuleFamily::Ipv6 => "ipv6",
        };
        match table {
            Some(table) => self.get(&format!("/v1/rules?family={family}&table={}", table.name())),
            None => self.get(&format!("/v1/rules?family={family}")),
        }
    }
}

/// What a command has to do with besides the keeper of rules.
pub struct Surroundings<'a> {
    pub names: &'a dyn Names,
    pub input: &'a mut dyn BufRead,
    pub output: &'a mut dyn Write,
    pub errors: &'a mut dyn Write,
}

/// The program that is played.
#[derive(Clone, Copy, Debug)]
struct Program {
    name: &'static str,
    is_ipv6: bool,
}

impl Program {
    fn named(name: &'static str) -> Program {
        Program { name, is_ipv6: name.starts_with("ip6") }
    }

    fn family(self) -> RuleFamily {
        if self.is_ipv6 { RuleFamily::Ipv6 } else { RuleFamily::Ipv4 }
    }

    fn reads_file(self) -> bool {
        self.name.ends_with("-restore")
    }

    /// Without `-save` or `-restore`.
    fn tables(self) -> &'static str {
        if self.is_ipv6 { "ip6tables" } else { "iptables" }
    }
}

/// Why a line is not done.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stop {
    code: u8,
    /// With its last line's end, or none at all.
    message: String,
    warnings: Vec<&'static str>,
}

impl Stop {
    fn parameter(message: impl Into<String>) -> Stop {
        Stop { code: PARAMETER, message: message.into(), warnings: Vec::new() }
    }

    /// Nothing is said but where help is.
    fn bare() -> Stop {
        Stop::parameter("")
    }

    fn other(message: impl Into<String>) -> Stop {
        Stop { code: OTHER, ..Stop::parameter(message) }
    }

    /// In full, behind the name of the program; `line`: of a restore.
    fn text(&self, program: Program, line: Option<usize>) -> String {
        let Program { name, .. } = program;
        let Stop { code, message, .. } = self;
        match *code {
            PARAMETER => {
                let is_own = message.starts_with("Bad argument");
                let head = match message.as_str() {
                    "" => String::new(),
                    text if is_own => format!("{text}\n"),
                    text => format!("{name} v{VERSION} (legacy): {text}\n"),
                };
                let line = line.map(|line| format!("Error occurred at line: {line}\n")).unwrap_or_default();
                format!("{head}{line}Try `{name} -h' or '{name} --help' for more information.\n")
            }
            NO_TABLE => format!("{name} v{VERSION} (legacy): {message}\n"),
            _ => format!("{name}: {message}\n"),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        match error.kind {
            Kind::Parameter | Kind::Usage => Stop::parameter(error.text),
            Kind::Other => Stop::other(error.text),
            Kind::Version => Stop { code: NO_TABLE, ..Stop::parameter(error.text) },
        }
    }
}

impl From<DirectorError> for Stop {
    fn from(error: DirectorError) -> Stop {
        match error {
            DirectorError::Output(error) => error.into(),
            error => Stop { code: NO_ANSWER, ..Stop::parameter(error.to_string()) },
        }
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::other(error.to_string())
    }
}

/// What the daemon refused, as the kernel's refusals are told.
fn refusal(error: RuleError, message: &str) -> Stop {
    match error {
        RuleError::NotARule => Stop::parameter(message),
        RuleError::NoSuchSet => Stop::parameter(format!("{message}\n")),
        _ => Stop::other(format!("{error}.")),
    }
}

/// Words that the daemon gave. It has read them itself; what cannot be read is from another version and shown empty.
fn read_back(words: &[String], family: Family) -> Rule {
    let read = Rule::read(words, &mut Around::new(family, &Numeric));
    read.ok().and_then(|(rules, _)| rules.into_iter().next()).unwrap_or_default()
}

/// Whether `-j` takes this for a target and not for a chain, if only of the other family.
fn is_target(name: &str) -> bool {
    let words = ["-j".to_owned(), name.to_owned()];
    Family::ALL.iter().any(|&family| {
        let read = Rule::read(&words, &mut Around::new(family, &Numeric));
        !read.is_ok_and(|(rules, _)| rules.iter().all(|rule| matches!(rule.jump, Jump::Chain { .. })))
    })
}

/// Does one command line (without the program's name) and returns its exit code. `name`: iptables or ip6tables.
pub fn run(
    name: &'static str,
    words: &[String],
    keeper: &mut dyn RuleKeeper,
    around: &mut Surroundings<'_>,
) -> u8 {
    let program = Program::named(name);
    finish(program, do_line(program, words, keeper, around), None, around)
}

/// Says why a command ended, and gives its exit code.
fn finish(
    program: Program,
    done: Result<(), Stop>,
    line: Option<usize>,
    around: &mut Surroundings<'_>,
) -> u8 {
    let Err(stop) = done else { return 0 };
    // Nobody is left to tell when standard error is closed.
    for warning in &stop.warnings {
        let _ = writeln!(around.errors, "{warning}");
    }
    let _ = around.errors.write_all(stop.text(program, line).as_bytes());
    stop.code
}

fn do_line(
    program: Program,
    words: &[String],
    keeper: &mut dyn RuleKeeper,
    around: &mut Surroundings<'_>,
) -> Result<(), Stop> {
    let request = options::parse(program, words, None)?;
    for warning in &request.warnings {
        writeln!(around.errors, "{warning}")?;
    }
    match request.action {
        Action::Help => return Ok(around.output.write_all(options::help(program).as_bytes())?),
        Action::Version => return Ok(writeln!(around.output, "{} v{VERSION} (legacy)", program.name)?),
        Action::Missing => return read(program, &request, around, &mut |_| Ok(true)).map(drop),
        _ => {}
    }
    let table = Table::named(&request.table).ok_or_else(|| no_table(program, &request.table))?;
    let mut has_chain =
        |name: &str| Ok(table_view(program, table, keeper)?.chains.iter().any(|chain| chain.name == name));
    if request.lists() {
        read(program, &request, around, &mut has_chain)?;
        let view = table_view(program, table, keeper)?;
        let zero = show(program, &request, &view, around)?;
        return zero.map_or(Ok(()), |zero| change(program, table, vec![zero], keeper));
    }
    let commands = commands(program, &request, around, &mut has_chain)?;
    if request.is_verbose {
        let view = table_view(program, table, keeper)?;
        let all: Vec<_> = view.chains.into_iter().map(|chain| (chain.name, chain.policy.is_none())).collect();
        let said: String = commands.iter().map(|command| verbose::chains(command, &all)).collect();
        around.output.write_all(said.as_bytes())?;
    }
    change(program, table, commands, keeper)
}

fn no_table(program: Program, name: &str) -> Stop {
    let tables = program.tables();
    let message = format!(
        "can't initialize {tables} table `{name}': {}\nPerhaps {tables} or your kernel needs to be upgraded.",
        RuleError::NoSuchTable
    );
    Stop { code: NO_TABLE, ..Stop::parameter(message) }
}

fn table_view(program: Program, table: Table, keeper: &mut dyn RuleKeeper) -> Result<TableView, Stop> {
    let reply = keeper.rules(program.family(), Some(table))?;
    reply.tables.into_iter().next().ok_or_else(|| no_table(program, table.name()))
}

fn change(
    program: Program,
    table: Table,
    commands: Vec<RuleCommand>,
    keeper: &mut dyn RuleKeeper,
) -> Result<(), Stop> {
    let change = TableChange { table: table.name().to_owned(), empty: false, commands };
    let batch = RuleBatch { family: program.family(), tables: vec![change], test: false };
    match keeper.change(&batch)?.failed {
        None => Ok(()),
        Some(failure) => Err(refusal(failure.error, &failure.message)),
    }
}

/// Lists a table; what is to be done to it then.
fn show(
    program: Program,
    request: &Request,
    view: &TableView,
    around: &mut Surroundings<'_>,
) -> Result<Option<RuleCommand>, Stop> {
    if let Some(name) = &request.chain
        && view.chains.iter().all(|chain| chain.name != *name)
    {
        return Err(refusal(RuleError::NoSuchChain, ""));
    }
    let style =
        Style { family: family(program.family()), is_numeric: request.is_numeric, names: around.names };
    let of_zero = request.zeroes.flatten();
    let text = match request.action {
        Action::ListRules(only) => list::lines(view, request, only.or(of_zero), &style),
        Action::List(only) => list::columns(view, request, only.or(of_zero), &style),
        _ => String::new(),
    };
    around.output.write_all(text.as_bytes())?;
    Ok(request.zeroes.map(|at| RuleCommand::Zero { chain: request.chain.clone(), at }))
}

/// Packets and bytes that a line says.
type Counts = (u64, u64);

/// The rules in a line, and their counters. `has_chain`: whether there is one, asked when a rule leads to it.
fn read(
    program: Program,
    request: &Request,
    around: &mut Surroundings<'_>,
    has_chain: &mut dyn FnMut(&str) -> Result<bool, Stop>,
) -> Result<(Vec<Rule>, Option<Counts>), Stop> {
    let mut told = Around::new(family(program.family()), around.names);
    told.are_typed = !program.reads_file();
    let read = Rule::read(&request.words, &mut told);
    for warning in told.warnings.take() {
        writeln!(around.errors, "{}", warning.trim_end())?;
    }
    if let Err(error) = &read
        && error.text.starts_with("unknown option")
    {
        // Its options are as unknown as the target.
        let jump = request.words.windows(2).find(|pair| matches!(pair[0].as_str(), "-j" | "--jump"));
        if let Some([_, name]) = jump
            && !is_target(name)
            && !has_chain(name)?
        {
            return Err(no_target(name));
        }
    }
    let (rules, counters) = read?;
    options::check_rule(request, counters.is_some())?;
    Ok((rules, counters))
}

/// What a line changes. `has_chain`: whether there is one, asked when a rule leads to it.
fn commands(
    program: Program,
    request: &Request,
    around: &mut Surroundings<'_>,
    has_chain: &mut dyn FnMut(&str) -> Result<bool, Stop>,
) -> Result<Vec<RuleCommand>, Stop> {
    let family = family(program.family());
    let chain = request.chain.clone();
    let has_rule = matches!(
        request.action,
        Action::Append | Action::Check | Action::Delete | Action::Insert(_) | Action::Replace(_)
    );
    let (rules, counters) = read(program, request, around, has_chain)?;
    let drops = |rule: &Rule| match &rule.jump {
        Jump::Drop => true,
        Jump::Chain { name, .. } => name == "DROP",
        _ => false,
    };
    let is_policy = matches!(&request.action, Action::Policy(policy) if policy == "DROP");
    if request.table == Table::Nat.name() && (is_policy || rules.iter().any(drops)) {
        let message =
            "\nThe \"nat\" table is not intended for filtering, the use of DROP is therefore inhibited.\n\n";
        return Err(Stop::parameter(message));
    }
    let (packets, bytes) = counters.unwrap_or_default();
    let counts = RuleCounts { packets, bytes };
    let named = chain.clone().unwrap_or_default();
    if !has_rule {
        return Ok(vec![match request.action.clone() {
            Action::DeleteAt(at) => RuleCommand::DeleteAt { chain: named, at },
            Action::Flush => RuleCommand::Flush { chain },
            Action::Zero(at) => RuleCommand::Zero { chain, at },
            Action::NewChain => RuleCommand::NewChain { chain: named },
            Action::DeleteChain => RuleCommand::DeleteChain { chain },
            Action::Rename(to) => RuleCommand::RenameChain { chain: named, to },
            Action::Policy(policy) => {
                RuleCommand::SetPolicy { chain: named, policy, counts: counters.map(|_| counts) }
            }
            _ => return Err(Stop::parameter("no command specified")),
        }]);
    }
    for rule in &rules {
        check_rule(rule, &named, has_chain)?;
    }
    if matches!(request.action, Action::Replace(_)) && rules.len() > 1 {
        return Err(Stop::parameter("Replacement rule does not specify a unique address"));
    }
    if request.is_verbose {
        let style = Style { family, is_numeric: true, names: around.names };
        let said: String = rules.iter().map(|rule| verbose::rule(rule, &style)).collect();
        around.output.write_all(said.as_bytes())?;
    }
    let command = |rule: &Rule| {
        let (chain, rule) = (named.clone(), text::split(&rule.save(family, &Numeric))?);
        Ok(match request.action {
            Action::Append => RuleCommand::Append { chain, rule, counts },
            Action::Insert(at) => RuleCommand::Insert { chain, at, rule, counts },
            Action::Replace(at) => RuleCommand::Replace { chain, at, rule, counts },
            Action::Check => RuleCommand::Check { chain, rule },
            _ => RuleCommand::Delete { chain, rule },
        })
    };
    rules.iter().map(command).collect()
}

/// What iptables itself looks at, before the kernel does.
fn check_rule(
    rule: &Rule,
    chain: &str,
    has_chain: &mut dyn FnMut(&str) -> Result<bool, Stop>,
) -> Result<(), Stop> {
    let (input, output) = (&rule.header.input.name, &rule.header.output.name);
    let (letter, is_given) = match chain {
        "PREROUTING" | "INPUT" => ('o', !output.is_empty()),
        "OUTPUT" | "POSTROUTING" => ('i', !input.is_empty()),
        _ => ('i', false),
    };
    if is_given {
        return Err(Stop::parameter(format!("Can't use -{letter} with {chain}\n")));
    }
    match &rule.jump {
        Jump::Chain { name, is_goto } if !has_chain(name)? => Err(match is_goto {
            true => Stop::parameter(format!("goto '{name}' is not a chain")),
            false => no_target(name),
        }),
        _ => Ok(()),
    }
}

fn no_target(name: &str) -> Stop {
    Stop::parameter(format!("Couldn't load target `{name}':No such file or directory\n"))
}

/// As iptables-save dates its output; UTC.
fn now() -> String {
    // Sat, 21 Nov 2026 02:49:20 GMT
    let date = httpdate::fmt_http_date(SystemTime::now());
    let words: Vec<&str> = date.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    match words[..] {
        [weekday, day, month, year, time, ..] => format!("{weekday} {month} {day} {time} {year}"),
        _ => date,
    }
}

/// `iptables-save`: `-c` with counts, `-t` one table, `-f` into a file.
pub fn run_save(
    name: &'static str,
    words: &[String],
    keeper: &mut dyn RuleKeeper,
    around: &mut Surroundings<'_>,
) -> u8 {
    let program = Program::named(name);
    finish(program, save(program, words, keeper, around), None, around)
}

fn save(
    program: Program,
    words: &[String],
    keeper: &mut dyn RuleKeeper,
    around: &mut Surroundings<'_>,
) -> Result<(), Stop> {
    let (mut only, mut has_counts, mut file) = (None, false, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            let missing = || Stop::parameter(format!("option \"{word}\" requires an argument"));
            words.next().cloned().ok_or_else(missing)
        };
        match word.as_str() {
            "-c" | "--counters" => has_counts = true,
            "-t" | "--table" => only = Some(value()?),
            "-f" | "--file" => file = Some(value()?),
            // There is no module to load.
            "-M" | "--modprobe" => drop(value()?),
            "-V" | "--version" => {
                return Ok(writeln!(around.output, "{} v{VERSION} (legacy)", program.name)?);
            }
            "-h" | "--help" => {
                let usage = "Usage: {} [-c] [-t TABLE] [-f FILE]".replace("{}", program.name);
                return Ok(writeln!(around.output, "{usage}")?);
            }
            _ => return Err(Stop::parameter(format!("unknown option \"{word}\""))),
        }
    }
    let only = only.map(|name| Table::named(&name).ok_or_else(|| no_table(program, &name))).transpose()?;
    let style = Style { family: family(program.family()), is_numeric: true, names: around.names };
    let mut out = String::new();
    for view in keeper.rules(program.family(), only)?.tables {
        // As a kernel that never loaded it.
        if only.is_none() && view.table == Table::Security.name() && is_untouched(&view) {
            continue;
        }
        out += &format!("# Generated by {} v{VERSION} on {}\n", program.name, now());
        out += &list::save(&view, has_counts, &style);
        out += &format!("# Completed on {}\n", now());
    }
    match file {
        Some(path) => Ok(std::fs::write(path, out)?),
        None => Ok(around.output.write_all(out.as_bytes())?),
    }
}

fn is_untouched(view: &TableView) -> bool {
    let is_new = |policy: &Option<String>| policy.as_deref() == Some("ACCEPT");
    view.chains.iter().all(|chain| chain.rules.is_empty() && is_new(&chain.policy))
}

/// `iptables-restore`: tables from standard input or a file, all of them or nothing.
pub fn run_restore(
    name: &'static str,
    words: &[String],
    keeper: &mut dyn RuleKeeper,
    around: &mut Surroundings<'_>,
) -> u8 {
    let program = Program::named(name);
    match restore::run(program, words, keeper, around) {
        Ok(()) => 0,
        Err((line, stop)) => finish(program, Err(stop), line, around),
    }
}
