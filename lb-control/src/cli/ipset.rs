//! `ipset` as of version 7.17: the same command lines, messages, exit codes and listings.
//!
//! Lines are read where the sets are, by the daemon; here are the options that stand anywhere, and what is printed. What is the same,
//! what is better and what is not there is listed in `docs/ipset.md`.

use std::io::{BufRead, Write};

use super::client::Client;
use super::director::DirectorError;
use crate::api::query::escaped;
use crate::api::types::SetsReply;
use crate::sets::{check_count, command};

const VERSION: &str = "ipset v7.17";
/// Lines of a restore that go to the daemon together.
const TOGETHER: usize = 50_000;
/// And bytes: less than the daemon takes.
const TOGETHER_BYTES: usize = 8 << 20;

/// What the command has to do with besides the daemon.
pub struct Surroundings<'a> {
    pub input: &'a mut dyn BufRead,
    pub output: &'a mut dyn Write,
    pub errors: &'a mut dyn Write,
}

/// Why the command ends: its exit code and what it says.
struct Stop(u8, String);

impl Stop {
    /// With ipset's name, and where to look when the line has the wrong parts.
    fn new(code: u8, place: &str, message: &str) -> Stop {
        let help = if code == 2 { "\nTry `ipset help' for more information." } else { "" };
        Stop(code, format!("{VERSION}: {place}{message}{help}"))
    }
}

impl From<DirectorError> for Stop {
    fn from(error: DirectorError) -> Stop {
        match error {
            DirectorError::Refused(body) => Stop::new(1, "", &body.message),
            other => Stop(1, format!("ipset: {other}")),
        }
    }
}

#[derive(Clone, Default)]
struct Options {
    exist: bool,
    quiet: bool,
    sorted: bool,
    terse: bool,
    names: bool,
    format: Option<&'static str>,
    file: Option<String>,
}

impl Options {
    /// How to list, where nothing else is said in this form. What makes sets again does so whole.
    fn listing(&self, usual: &'static str) -> &'static str {
        match (self.format.unwrap_or(usual), self.names) {
            ("plain", true) => "names",
            ("xml", true) => "namesxml",
            (format, _) => format,
        }
    }
}

/// Does one command line (without the program's name) and returns its exit code.
pub fn run(words: &[String], client: &mut Client, around: &mut Surroundings<'_>) -> u8 {
    let mut options = Options::default();
    let done = read_options(words, &mut options).and_then(|words| do_words(&words, &options, client, around));
    match done {
        Ok(()) => 0,
        Err(Stop(code, message)) => {
            if !options.quiet && !message.is_empty() {
                // Nobody is left to tell when standard error is closed.
                let _ = writeln!(around.errors, "{message}");
            }
            code
        }
    }
}

/// Takes the options out of a line, wherever they stand.
fn read_options(words: &[String], options: &mut Options) -> Result<Vec<String>, Stop> {
    let mut left = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix('-') else {
            left.push(word.clone());
            continue;
        };
        let mut value = || {
            let missing = || Stop::new(2, "", &format!("Missing mandatory argument to option {word}"));
            words.next().ok_or_else(missing)
        };
        match name.strip_prefix('-').unwrap_or(name) {
            "exist" | "!" => options.exist = true,
            "quiet" | "q" => options.quiet = true,
            "sorted" | "s" => options.sorted = true,
            "terse" | "t" => options.terse = true,
            "name" | "n" => options.names = true,
            "resolve" | "r" => {
                return Err(Stop::new(1, "", "-resolve is not built: addresses are listed as numbers"));
            }
            "file" | "f" => options.file = Some(value()?.clone()),
            "output" | "o" => {
                options.format = Some(match value()?.as_str() {
                    "plain" => "plain",
                    "save" => "save",
                    "xml" => "xml",
                    other => {
                        let message = format!("Syntax error: unknown output mode '{other}'");
                        return Err(Stop::new(1, "", &message));
                    }
                });
            }
            _ => left.push(word.clone()),
        }
    }
    Ok(left)
}

fn do_words(
    words: &[String],
    options: &Options,
    client: &mut Client,
    around: &mut Surroundings<'_>,
) -> Result<(), Stop> {
    let Some(first) = words.first() else { return Err(Stop::new(2, "", "No command specified.")) };
    let Some(command) = command(first) else {
        let message = format!("No command specified: unknown argument {first}");
        return Err(Stop::new(2, "", &message));
    };
    check_count(command, words).map_err(|refusal| Stop::new(refusal.code, "", &refusal.message))?;
    let name = words.get(1).map(String::as_str);
    match command {
        "version" => write(around, &format!("{VERSION}, protocol version: 7\n")),
        "help" => write(around, HELP),
        "list" => list(name, options.listing("plain"), options, client, around),
        "save" => {
            let whole = Options { terse: false, ..options.clone() };
            list(name, whole.listing("save"), &whole, client, around)
        }
        "restore" => match &options.file {
            None => restore(around.input, options, client, &mut *around.errors),
            Some(path) => {
                let file = std::fs::File::open(path);
                let file = file
                    .map_err(|error| Stop::new(1, "", &format!("Cannot open {path}: {}", text_of(&error))))?;
                let mut input = std::io::BufReader::new(file);
                restore(&mut input, options, client, &mut *around.errors)
            }
        },
        _ => {
            let quoted = |word: &String| {
                if word.contains(char::is_whitespace) || word.is_empty() {
                    format!("\"{word}\"")
                } else {
                    word.clone()
                }
            };
            // What cannot stand in a line.
            let is_none = |word: &&String| {
                word.contains('\n')
                    || word.starts_with('"')
                    || word.contains('"') && word.contains(char::is_whitespace)
            };
            if words.iter().any(|word| is_none(&word)) {
                let message = "Syntax error: \" character is not permitted in comments";
                return Err(Stop::new(1, "", message));
            }
            let line = words.iter().map(quoted).collect::<Vec<_>>().join(" ");
            let reply = send(client, line, options)?;
            tell(&reply, options, around.errors);
            match reply.failed {
                None => Ok(()),
                Some(failed) if failed.code == 0 => Err(Stop(1, failed.message)),
                Some(failed) => Err(Stop::new(failed.code, "", &failed.message)),
            }
        }
    }
}

/// As strerror(3) says it, without its number.
fn text_of(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn write(around: &mut Surroundings<'_>, text: &str) -> Result<(), Stop> {
    around.output.write_all(text.as_bytes()).map_err(|error| Stop(1, format!("ipset: output: {error}")))
}

fn send(client: &mut Client, lines: String, options: &Options) -> Result<SetsReply, Stop> {
    Ok(client.post_text(&format!("/v1/sets?exist={}", options.exist), lines)?)
}

/// What tests found.
fn tell(reply: &SetsReply, options: &Options, errors: &mut dyn Write) {
    if !options.quiet {
        for line in &reply.said {
            let _ = writeln!(errors, "{line}");
        }
    }
}

fn list(
    name: Option<&str>,
    format: &str,
    options: &Options,
    client: &mut Client,
    around: &mut Surroundings<'_>,
) -> Result<(), Stop> {
    let terse = options.terse && format != "save";
    let mut path = format!("/v1/sets/list?format={format}&terse={terse}&sorted={}", options.sorted);
    if let Some(name) = name {
        path += &format!("&name={}", escaped(name));
    }
    match &options.file {
        None => Ok(client.copy(&path, around.output)?),
        Some(file) => {
            let failed = |error: std::io::Error| {
                Stop::new(1, "", &format!("Cannot open {file} for writing: {}", text_of(&error)))
            };
            Ok(client.copy(&path, &mut std::fs::File::create(file).map_err(failed)?)?)
        }
    }
}

/// Sends lines as they come, many at a time, up to the first that cannot be done.
fn restore(
    input: &mut dyn BufRead,
    options: &Options,
    client: &mut Client,
    errors: &mut dyn Write,
) -> Result<(), Stop> {
    let mut before = 0;
    loop {
        let (mut lines, mut count, mut bad) = (String::new(), 0, None);
        let mut line = Vec::new();
        while count < TOGETHER && lines.len() < TOGETHER_BYTES && bad.is_none() {
            line.clear();
            let read = input.read_until(b'\n', &mut line);
            if read.map_err(|error| Stop(1, format!("ipset: standard input: {error}")))? == 0 {
                break;
            }
            count += 1;
            match std::str::from_utf8(&line) {
                Ok(line) => lines += line,
                // Only its number counts.
                Err(_) if line.trim_ascii_start().starts_with(b"#") => lines.push('\n'),
                Err(_) => bad = Some(before + count),
            }
        }
        if count == 0 {
            return Ok(());
        }
        let reply = send(client, lines, options)?;
        tell(&reply, options, errors);
        if let Some(failed) = reply.failed {
            let place = format!("Error in line {}: ", before + failed.line);
            return Err(match failed.code {
                // What a test says, and what is wrong with the parts of a line, is said without its place.
                0 => Stop(1, failed.message),
                2 => Stop::new(2, "", &failed.message),
                code => Stop::new(code, &place, &failed.message),
            });
        }
        if let Some(number) = bad {
            let why = "Syntax error: bytes that are no UTF-8 are for comments of the file alone";
            return Err(Stop::new(1, &format!("Error in line {number}: "), why));
        }
        before += count;
    }
}

const HELP: &str = "ipset v7.17

Usage: ipset [options] COMMAND

Commands:
  create SET TYPE [options]     make a set (-N)
  add SET ENTRY [options]       add to it (-A)
  del SET ENTRY [options]       take away from it (-D)
  test SET ENTRY                is it in there? (-T)
  destroy [SET]                 remove a set, or all (-X)
  list [SET]                    show sets (-L)
  save [SET]                    show them as lines for restore (-S)
  restore                       do the lines of standard input (-R)
  flush [SET]                   empty a set, or all (-F)
  rename FROM TO                (-E)
  swap A B                      exchange what two sets hold (-W)
  help, version

Options:
  -exist, -!                    what is there already, or is gone already, is no error
  -quiet, -q                    say nothing
  -output, -o plain|save|xml    how to list
  -sorted, -s                   by address
  -terse, -t                    without the elements
  -name, -n                     names alone
  -file, -f FILE                instead of standard input and output

Types:
  hash:ip hash:net hash:ip,port hash:net,port hash:ip,port,ip hash:ip,port,net hash:net,net
  hash:net,port,net hash:net,iface hash:mac hash:ip,mac hash:ip,mark bitmap:ip bitmap:ip,mac
  bitmap:port list:set
";
