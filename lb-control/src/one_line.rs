//! A message is one line, whatever it quotes.

/// The text with its control characters escaped, as in Rust's strings.
pub(crate) fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let mut line = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if letter.is_control() { line.extend(letter.escape_default()) } else { line.push(letter) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_nothing_else_is() {
        assert_eq!(one_line("port a\n\u{1b}[2J\u{85}b".to_owned()), "port a\\n\\u{1b}[2J\\u{85}b");
        assert_eq!(one_line("port \"ä\"\\".to_owned()), "port \"ä\"\\");
    }
}
