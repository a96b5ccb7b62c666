//! Telnet's commands in a line of text: an FTP control connection is Telnet's (RFC 959 §2.2), so that options may be offered and refused in it, and a
//! client says IP and a data mark before ABOR (RFC 959 §4.1.3). They are none of the line's words, and are skipped where it is read.
//!
//! Source of the facts: RFC 854 ("TELNET command structure"), RFC 855.

use arrayvec::ArrayVec;

/// The byte that each of them begins with. Twice, it is one of the text.
pub const IAC: u8 = 255;
const END_OF_PARAMETERS: u8 = 240;
const PARAMETERS: u8 = 250;
/// WILL, WONT, DO and DONT, with the option that they mean.
const WILL: u8 = 251;
const DONT: u8 = 254;

/// Longest text.
pub const MOST: usize = 256;

pub type Text = ArrayVec<u8, MOST>;

/// Bytes of the commands that a line begins with.
pub fn leading(line: &[u8]) -> usize {
    let mut at = 0;
    while let Some(rest) = line.get(at..).filter(|rest| command(rest) > 0) {
        at += command(rest);
    }
    at
}

/// A line without commands, as far as it is not longer than [`MOST`].
pub fn plain(line: &[u8]) -> Text {
    bytes(line).map(|(_, byte)| byte).take(MOST).collect()
}

/// Where words of [`plain`] stand in the line, from where on and how many bytes.
pub fn place_in(line: &[u8], (from, len): (usize, usize)) -> (usize, usize) {
    let at = |n| bytes(line).nth(n).map_or(line.len(), |(at, _)| at);
    let (begin, last) = (at(from), at(from + len.saturating_sub(1)));
    (begin, (last + len.min(1)).saturating_sub(begin))
}

/// The bytes of the text, and where each stands.
fn bytes(line: &[u8]) -> impl Iterator<Item = (usize, u8)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += leading(&line[at..]);
        let &byte = line.get(at)?;
        let place = at;
        at += if byte == IAC { 2 } else { 1 };
        Some((place, byte))
    })
}

/// How long the command is that `text` begins with, as far as it is there; 0: it begins with none.
fn command(text: &[u8]) -> usize {
    match text {
        [IAC, IAC, ..] => 0,
        [IAC, PARAMETERS, rest @ ..] => 2 + parameters(rest),
        [IAC, WILL..=DONT, _, ..] => 3,
        [IAC, _, ..] => 2,
        [IAC] => 1,
        _ => 0,
    }
}

/// With their end.
fn parameters(text: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match text.get(at..) {
            Some([IAC, END_OF_PARAMETERS, ..]) => return at + 2,
            Some([IAC, _, ..]) => at += 2,
            Some([_, ..]) => at += 1,
            _ => return text.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_are_none_of_the_text() {
        for (line, text) in [
            (&b"PORT 1"[..], &b"PORT 1"[..]),
            (b"\xff\xf4\xff\xf2ABOR", b"ABOR"),
            (b"PO\xff\xf1RT\xff\xfd\x18 1\xff\xfc\x01", b"PORT 1"),
            (b"\xff\xfa\x18\x01x\xff\xff\xf0y\xff\xf0PASV", b"PASV"),
            (b"CWD \xff\xff", b"CWD \xff"),
            (b"PASV\xff", b"PASV"),
            (b"PASV\xff\xfd", b"PASV"),
            (b"PASV\xff\xfanever ends", b"PASV"),
            (b"\xff\xff\xf4", b"\xff\xf4"),
        ] {
            assert_eq!(&plain(line)[..], text, "{line:?}");
        }
        assert_eq!(leading(b"\xff\xf4\xff\xfb\x03ABOR\xff\xf1"), 5);
    }

    #[test]
    fn words_are_found_in_the_line_that_has_them() {
        let line = b"\xff\xf1PO\xff\xf1RT 1,\xff\xfd\x182\xff\xf1";
        assert_eq!(&plain(line)[..], b"PORT 1,2");
        assert_eq!(place_in(line, (5, 3)), (9, 6));
        assert_eq!(place_in(line, (0, 4)), (2, 6));
        assert_eq!(place_in(b"PORT 1", (5, 1)), (5, 1));
    }

    proptest! {
        #[test]
        fn no_line_is_too_odd(line in proptest::collection::vec(prop_oneof![
            any::<u8>(), prop::sample::select(vec![255u8, 250, 240, 251])
        ], 0..300)) {
            let text = plain(&line);
            prop_assert!(text.len() <= line.len() && leading(&line) <= line.len());
            for (from, len) in [(0, text.len()), (text.len() / 2, text.len() / 3)] {
                let (begin, raw) = place_in(&line, (from, len));
                prop_assert!(begin + raw <= line.len());
                if !text[from..from + len].contains(&IAC) {
                    prop_assert_eq!(&plain(&line[begin..begin + raw])[..], &text[from..from + len]);
                }
            }
        }
    }
}
