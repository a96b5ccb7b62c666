//! `nfnl_osf` as of iptables 1.8.9: loads fingerprints of operating systems from a file, for rules that ask `osf`, or takes them away.
//!
//! The same options, exit codes and order of what is said; without the time of day before each line. What is the same and what is not is listed in
//! `docs/iptables.md`.

use std::io::{self, Write};

use super::director::{Director, DirectorError};
use crate::api::types::{Batch, Command, ErrorKind, OnError};

/// Lines that go to the daemon together.
const TOGETHER: usize = 10_000;
const USAGE: &str = "Usage: nfnl_osf -f fingerprints [-d]";

/// Exit codes, which are -1, -2 (`ENOENT`) and -22 (`EINVAL`) there.
const FAILED: u8 = 255;
const NO_FILE: u8 = 254;
const BAD_LINE: u8 = 234;

#[derive(Default, Debug, PartialEq, Eq)]
struct Options {
    file: Option<String>,
    removes: bool,
}

impl Options {
    /// As `getopt` reads `f:dh`: letters may stand together, and what is no option is passed over.
    fn read(words: &[String]) -> Result<Options, String> {
        let mut options = Options::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let letters = match word.strip_prefix('-') {
                Some("-") => break,
                Some(letters) if !letters.is_empty() => letters,
                _ => continue,
            };
            for (at, letter) in letters.char_indices() {
                match letter {
                    'd' => options.removes = true,
                    'f' => {
                        let rest = &letters[at + 1..];
                        let value =
                            if rest.is_empty() { words.next().map(String::as_str) } else { Some(rest) };
                        let missing = || format!("nfnl_osf: option requires an argument -- 'f'\n{USAGE}");
                        options.file = Some(value.ok_or_else(missing)?.to_owned());
                        break;
                    }
                    'h' => return Err(USAGE.to_owned()),
                    other => return Err(format!("nfnl_osf: invalid option -- '{other}'\n{USAGE}")),
                }
            }
        }
        Ok(options)
    }
}

/// The lines of a file that are fingerprints, or should be, each with its number.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines());
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(['#', '\r']))
}

/// Does one command line (without the program's name) and returns its exit code.
pub fn run(
    words: &[String],
    director: &mut dyn Director,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> u8 {
    let done = Options::read(words).map(|options| load(&options, director, output));
    match done {
        Ok(Ok(code)) => code,
        Ok(Err(DirectorError::Output(error))) if error.kind() == io::ErrorKind::BrokenPipe => FAILED,
        Ok(Err(error)) => say(errors, &format!("nfnl_osf: {error}")),
        Err(usage) => say(errors, &usage),
    }
}

fn say(errors: &mut dyn Write, text: &str) -> u8 {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(errors, "{text}");
    FAILED
}

fn load(options: &Options, director: &mut dyn Director, output: &mut dyn Write) -> Result<u8, DirectorError> {
    let Some(file) = &options.file else {
        writeln!(output, "Missing fingerprints file argument.")?;
        return Ok(NO_FILE);
    };
    // What is no UTF-8 may stand in comments.
    let text = match std::fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            writeln!(output, "Failed to open file '{file}': {error}.")?;
            return Ok(FAILED);
        }
    };
    let command = |&(_, line): &(usize, &str)| {
        let line = line.to_owned();
        if options.removes { Command::RemoveFingerprint { line } } else { Command::AddFingerprint { line } }
    };
    let lines: Vec<(usize, &str)> = lines(&text).collect();
    let mut code = 0;
    for lines in lines.chunks(TOGETHER) {
        let commands = lines.iter().map(command).collect();
        let mut failed =
            director.run(Batch { commands, on_error: OnError::Continue })?.failed.into_iter().peekable();
        for (index, (number, line)) in lines.iter().enumerate() {
            writeln!(output, "Loading '{line}'.")?;
            let Some(failure) = failed.next_if(|failure| failure.index == index) else { continue };
            code = match failure.error.error {
                // As there: what is to go and is not there is gone.
                ErrorKind::NotFound if options.removes => continue,
                ErrorKind::InvalidOperation => BAD_LINE,
                _ => FAILED,
            };
            writeln!(output, "Failed to load line {number}: {}.", failure.error.message)?;
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        Options::read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_as_getopt_reads_them() {
        let options = |file: &str, removes| Ok(Options { file: Some(file.to_owned()), removes });
        for (line, expected) in [
            ("-f pf.os", options("pf.os", false)),
            ("-fpf.os -d", options("pf.os", true)),
            ("-df pf.os more words", options("pf.os", true)),
            ("-f a -f b", options("b", false)),
            ("-f -d", options("-d", false)),
            ("-f a -- -d", options("a", false)),
            ("-d", Ok(Options { file: None, removes: true })),
            ("", Ok(Options::default())),
            ("-h", Err(USAGE.to_owned())),
            ("-f a -x", Err(format!("nfnl_osf: invalid option -- 'x'\n{USAGE}"))),
            ("--help", Err(format!("nfnl_osf: invalid option -- '-'\n{USAGE}"))),
            ("-df", Err(format!("nfnl_osf: option requires an argument -- 'f'\n{USAGE}"))),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
    }

    #[test]
    fn comments_and_empty_lines_are_no_fingerprints_and_count_as_lines() {
        let text = "# a\n\nS4:…\r\n  \n\r\nlast";
        assert_eq!(lines(text).collect::<Vec<_>>(), [(3, "S4:…"), (4, "  "), (6, "last")]);
    }
}
