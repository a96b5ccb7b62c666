//! `-R FILE`, or `--load-file FILE`: changes, a line each as of the command line. All are read before the first is done; the first that fails
//! is the last.
//!
//! Recorded from conntrack 1.4.7: which commands a file may have, what is said of others, how words are quoted, and that nothing to delete is no failure.

use std::fs;
use std::io::{self, Read, Write};

use super::options::{VERBS, Verb};
use super::request::{self, Request, Table};
use super::{Done, SILENT, Stop, Tracker, USAGE, done, finish};
use crate::cli::labels::LabelNames;

/// The file that a command line is about, `-` for standard input. The option must be the first word; what stands behind the name says nothing.
pub fn file(words: &[String]) -> Option<&str> {
    match words {
        [option, name, ..] if matches!(option.as_str(), "-R" | "--load-file") => Some(name),
        _ => None,
    }
}

/// Does what the file says, and returns the exit code.
pub fn load(
    name: &str,
    input: &mut dyn Read,
    tracker: &mut dyn Tracker,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> u8 {
    let names = LabelNames::of_system();
    let done = read(name, input).and_then(|text| {
        let mut requests = Vec::new();
        for words in text.lines().map(split).filter(|words| !words.is_empty()) {
            let request = request::parse(&words, names, &mut |warning| {
                let _ = writeln!(errors, "{warning}");
            })?;
            requests.push(allowed(request)?);
        }
        requests.iter().try_for_each(|request| {
            let Done { message, .. } = done(request, names, tracker, output)?;
            if request.verb == Verb::Flush {
                finish(Ok(Done { code: 0, message }), output, errors);
            }
            Ok(())
        })
    });
    finish(done.map(|()| SILENT), output, errors)
}

fn read(name: &str, input: &mut dyn Read) -> Result<String, Stop> {
    let mut bytes = Vec::new();
    let done = match name {
        "-" => input.read_to_end(&mut bytes).map(drop),
        name => fs::File::open(name).and_then(|mut file| file.read_to_end(&mut bytes)).map(drop),
    };
    done.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::IsADirectory => Stop::usage(format!("{name}: {error}")),
        _ => Stop::usage(format!("Failed to open file {name} for reading")),
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Changes of connections are, and nothing else.
fn allowed(request: Request) -> Result<Request, Stop> {
    let changes = [Verb::Create, Verb::Add, Verb::Update, Verb::Delete, Verb::Flush];
    if changes.contains(&request.verb) && request.table == Table::Connections {
        return Ok(request);
    }
    let letter = VERBS.iter().find(|row| row.verb == request.verb && request.has_verb).map(|row| row.short);
    let command = match (letter, request.table) {
        (None, _) => "unknown".to_owned(),
        (Some(letter), Table::Expectations) => format!("-{letter} expect"),
        (Some(letter), _) => format!("-{letter}"),
    };
    let message = format!("Cannot use command `{command}' with --load-file");
    Err(Stop { code: USAGE, message, has_hint: true })
}

/// The words of a line, parted by blanks; those in double quotes may have some, and a backslash there takes the next character as it is.
/// None of a comment.
fn split(line: &str) -> Vec<String> {
    let line = line.trim_start_matches([' ', '\t']);
    let mut words = Vec::new();
    if line.starts_with('#') {
        return words;
    }
    let (mut word, mut is_quoted) = (None::<String>, false);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '\\' if is_quoted => word.get_or_insert_default().extend(characters.next()),
            ' ' | '\t' if !is_quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_by_blanks_outside_double_quotes() {
        for (line, words) in [
            ("-D -s 192.0.2.1", &["-D", "-s", "192.0.2.1"][..]),
            (" \t-D\t-s  192.0.2.1 \t", &["-D", "-s", "192.0.2.1"]),
            ("-D \"\" -l \"a b\" 'c d'", &["-D", "", "-l", "a b", "'c", "d'"]),
            ("-l \"a\\\"b\" c\"d\"e", &["-l", "a\"b", "cde"]),
            ("-l \"open", &["-l", "open"]),
            ("\t# -D", &[]),
            ("-D # all", &["-D", "#", "all"]),
            (" \t", &[]),
        ] {
            assert_eq!(split(line), words, "{line}");
        }
    }

    #[test]
    fn the_option_is_the_first_word_whole() {
        let named = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            file(&words).map(str::to_owned)
        };
        assert_eq!(named("-R - -x"), Some("-".to_owned()));
        assert_eq!(named("--load-file a"), Some("a".to_owned()));
        for line in ["-R", "--load-file=a", "--load-fil a", "-Ra", "-s 192.0.2.1 -R a"] {
            assert_eq!(named(line), None, "{line}");
        }
    }
}
