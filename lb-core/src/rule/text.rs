//! Words of a line, and what is said of one that is wrong.

/// Why a line is not done, in iptables' words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    pub kind: Kind,
    pub text: String,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

impl std::error::Error for Error {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Of a value or an option (exit code 2): told where help is.
    Parameter,
    /// As [`Kind::Parameter`], without the program's name before it.
    Usage,
    /// Anything else (exit code 1).
    Other,
    /// No such table (exit code 3).
    Version,
}

impl Error {
    pub fn parameter(text: impl Into<String>) -> Error {
        Error { kind: Kind::Parameter, text: text.into() }
    }

    pub fn other(text: impl Into<String>) -> Error {
        Error { kind: Kind::Other, text: text.into() }
    }

    /// The kernel's "Invalid argument", of what cannot be written down to be refused later.
    pub(crate) fn invalid() -> Error {
        Error::other("Invalid argument. Run `dmesg' for more information.")
    }

    /// What the program returns.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Other => 1,
            Kind::Parameter | Kind::Usage => 2,
            Kind::Version => 3,
        }
    }
}

/// Appends a space and `text`, quoted where a shell or a restore would split it.
pub fn quote_to(out: &mut String, text: &str) {
    out.push(' ');
    if !text.is_empty() && text.bytes().all(is_plain) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// Appends a space and the name of a chain or set, which iptables never quotes; here it is where it must be.
pub(crate) fn name_to(out: &mut String, name: &str) {
    if name.contains([' ', '"', '\\', '\'']) {
        return quote_to(out, name);
    }
    out.push(' ');
    out.push_str(name);
}

/// Bytes that need no quotes.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// The words of a line of a restore file: parted by blanks, but for those in quotes; a backslash within double quotes takes the
/// next character as it is.
///
/// # Errors
/// A quote that does not end.
pub fn split(line: &str) -> Result<Vec<String>, Error> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quote, mut is_word, mut is_escaped) = (None, false, false);
    for c in line.chars() {
        match quote {
            Some(_) if is_escaped => {
                word.push(c);
                is_escaped = false;
            }
            Some(_) if c == '\\' => is_escaped = true,
            Some(end) if c == end => quote = None,
            Some(_) => word.push(c),
            None if matches!(c, '"' | '\'') => {
                quote = Some(c);
                is_word = true;
            }
            None if matches!(c, ' ' | '\t' | '\n') => {
                if is_word {
                    words.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            None => {
                word.push(c);
                is_word = true;
            }
        }
    }
    if quote.is_some() {
        return Err(Error::parameter("Unterminated quote"));
    }
    if is_word {
        words.push(word);
    }
    Ok(words)
}

/// A number as C reads it (`strtoul`): decimal, `0x…` or `0…`, blanks before it; and what follows it.
pub(crate) fn leading_number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim_start_matches(is_blank);
    let text = text.strip_prefix('+').unwrap_or(text);
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hex {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_hexdigit()) => (digits, 16),
        _ if text.starts_with('0') => (text, 8),
        _ => (text, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let value = u64::from_str_radix(digits.get(..end)?, radix).ok()?;
    Some((value, digits.get(end..)?))
}

/// The decimal number that a word begins with, blanks and a plus before it (`scanf`).
pub(crate) fn leading_decimal(text: &str) -> Option<u64> {
    let text = text.trim_start_matches(is_blank);
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// C's `isspace`.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// A decimal number with a sign, as C's `atoi` reads it: blanks before and what follows are passed over, and without a digit it is 0. Beyond `i64` it is the largest or least.
pub(crate) fn atoi(text: &str) -> i64 {
    let text = text.trim_start_matches(is_blank);
    let (is_negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let value = digits.bytes().map_while(|byte| char::from(byte).to_digit(10));
    let value = value.fold(0_i64, |value, digit| value.saturating_mul(10).saturating_add(digit.into()));
    if is_negative { -value } else { value }
}

/// An IPv4 address of one to four numbers, of which the last one fills the rest: `10.1` is 10.0.0.1 (POSIX `inet_aton`).
pub fn aton(text: &str) -> Option<u32> {
    let part = |part: &str| number(part).filter(|_| part.starts_with(|c: char| c.is_ascii_digit()));
    let parts: Vec<u64> = text.split('.').map(part).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    let rest = 4_u32.checked_sub(first.len() as u32)?;
    let is_fine = rest > 0 && first.iter().all(|part| *part < 256) && *last < 1 << (8 * rest);
    let head = first.iter().fold(0, |head, part| head << 8 | part);
    is_fine.then_some((head << (8 * rest) | last) as u32)
}

/// A whole word that is a number as C reads it.
pub fn number(text: &str) -> Option<u64> {
    leading_number(text).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        assert_eq!(number("10"), Some(10));
        assert_eq!(number("0x1f"), Some(31));
        assert_eq!(number("010"), Some(8));
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("09"), None);
        assert_eq!(leading_number("5/sec"), Some((5, "/sec")));
        assert_eq!(leading_number("sec"), None);
        assert_eq!(number("18446744073709551616"), None);
        assert_eq!([" 80", "\t+80", " \n0x50"].map(number), [Some(80); 3]);
        assert_eq!(["80 ", " ", "", " -80", "+ 80", "\u{a0}80"].map(number), [None; 6]);
    }

    #[test]
    fn counts_are_the_digits_that_a_word_begins_with() {
        assert_eq!(
            ["6x", " +6", "06", "x", "", "-6"].map(leading_decimal),
            [Some(6), Some(6), Some(6), None, None, None]
        );
    }

    #[test]
    fn short_numbers_and_addresses_are_read_as_c_reads_them() {
        assert_eq!(["5x", "0x10", "010", "-3", "+3", "", "x", " 7"].map(atoi), [5, 0, 10, -3, 3, 0, 0, 7]);
        assert_eq!(
            ["24", "1.2", "1.2.3", "1.2.3.4", "0x7f.1"].map(aton),
            [24, 0x0100_0002, 0x0102_0003, 0x0102_0304, 0x7f00_0001].map(Some)
        );
        assert_eq!(
            ["", "1.", "256.1", "1.2.3.256", "1.2.3.4.5", "4294967296", "x", " 1.2", "+1"].map(aton),
            [None; 9]
        );
    }

    proptest! {
        #[test]
        fn a_quoted_word_is_split_as_one(words in prop::collection::vec("[ -~]{0,12}", 0..6)) {
            let mut line = String::new();
            words.iter().for_each(|word| quote_to(&mut line, word));
            prop_assert_eq!(split(&line).unwrap(), words);
        }
    }
}
