//! The commands of `ipset`: how they may be written, and how many words go with each.

use super::text::Refusal;

/// Without an end that is known here.
const ANY: usize = usize::MAX;

/// Commands by name, with their old letter, and how many words must and may follow. Of a name its beginning will do: the first one that
/// begins so.
const COMMANDS: &[(&str, char, usize, usize)] = &[
    ("create", 'N', 2, ANY),
    ("add", 'A', 2, ANY),
    ("del", 'D', 2, ANY),
    ("test", 'T', 2, ANY),
    ("destroy", 'X', 0, 1),
    ("list", 'L', 0, 1),
    ("save", 'S', 0, 1),
    ("restore", 'R', 0, 0),
    ("flush", 'F', 0, 1),
    ("rename", 'E', 2, 2),
    ("swap", 'W', 2, 2),
    ("help", 'H', 0, ANY),
    ("version", 'V', 0, ANY),
];

/// The command that a word names: by its name or the beginning of it, also behind two dashes, or by its letter, in upper case behind one dash.
pub fn command(word: &str) -> Option<&'static str> {
    if let Some((name, ..)) = COMMANDS.iter().find(|(name, ..)| *name == word) {
        return Some(name);
    }
    let long = word.strip_prefix("--").unwrap_or(word);
    if !long.is_empty() && "new".starts_with(long) {
        return Some("create");
    }
    if let "-h" | "-v" = word {
        return Some(if word == "-h" { "help" } else { "version" });
    }
    let is_it = |(name, letter, ..): &&(&str, char, usize, usize)| {
        let is_letter = |text: &str, letter: char| text.chars().eq([letter]);
        let is_short = word.strip_prefix('-').is_some_and(|short| is_letter(short, *letter))
            || is_letter(long, letter.to_ascii_lowercase());
        is_short || !long.is_empty() && name.starts_with(long)
    };
    COMMANDS.iter().find(is_it).map(|(name, ..)| *name)
}

/// Whether a command has as many words, itself among them, as it must and may have.
///
/// # Errors
/// In ipset's words.
pub fn check_count(command: &str, words: &[impl AsRef<str>]) -> Result<(), Refusal> {
    let known = COMMANDS.iter().find(|(name, ..)| *name == command);
    let (least, most) = known.map_or((0, ANY), |&(_, _, least, most)| (least, most));
    if words.len() <= least {
        let which = if words.len() == 1 { "" } else { "second " };
        let message = format!("Missing {which}mandatory argument to command {command}");
        return Err(Refusal::parameter(message));
    }
    match words.get(most.saturating_add(1)) {
        Some(word) => Err(Refusal::parameter(format!("Unknown argument {}", word.as_ref()))),
        None => Ok(()),
    }
}
