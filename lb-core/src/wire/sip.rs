//! SIP messages over UDP: here their Call-ID (RFC 3261 §20.8), what a persistence engine knows calls by; in [`message`] and [`sdp`] the
//! ends that they name, for the helper of tracked connections.

pub mod message;
mod part;
#[cfg(test)]
mod reading;
pub mod sdp;

pub use part::{Place, Words, words_of_address, words_of_end, words_of_host, words_of_number};

/// Longest Call-ID that names a call, as in the kernel.
const LONGEST: usize = 255;

/// The Call-ID that a message names first. `None`: it names none, or none that is well-formed and at most 255 bytes long.
///
/// Its header has a short name too, `i` (§7.3.3); lines may end with CR or LF alone, as in RFC 2543. A value may begin on a
/// continuation line, and ends with its line. The body is not looked at. Takes one pass through the message.
pub fn call_id(message: &[u8]) -> Option<&[u8]> {
    // The first line is the request's or the answer's own.
    let mut rest = after_line(message);
    while !matches!(rest, [] | [b'\r' | b'\n', ..]) {
        if let Some(value) = value(rest) {
            return Some(value);
        }
        rest = after_line(rest);
    }
    None
}

/// What follows the line that these bytes begin with.
fn after_line(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| is_end(byte)).unwrap_or(bytes.len());
    match &bytes[end..] {
        [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
        [] => &[],
    }
}

/// The Call-ID, if these bytes begin with its header.
fn value(line: &[u8]) -> Option<&[u8]> {
    let is_named = |name: &str| {
        let (start, rest) = line.split_at_checked(name.len())?;
        let rest = without_blanks(rest);
        (start.eq_ignore_ascii_case(name.as_bytes()) && rest.first() == Some(&b':')).then(|| &rest[1..])
    };
    let mut value = without_blanks(is_named("call-id").or_else(|| is_named("i"))?);
    while value.first().is_some_and(|&byte| is_end(byte)) {
        let next = after_line(value);
        if !next.first().is_some_and(|&byte| is_blank(byte)) {
            return None;
        }
        value = without_blanks(next);
    }
    // A line without an end was cut off.
    let end = value.iter().position(|&byte| is_end(byte))?;
    let value = value[..end].trim_ascii_end();
    (value.len() <= LONGEST && is_call_id(value)).then_some(value)
}

/// `callid = word [ "@" word ]` (RFC 3261 §25.1).
fn is_call_id(value: &[u8]) -> bool {
    let mut words = value.splitn(2, |&byte| byte == b'@');
    words.all(|word| !word.is_empty() && word.iter().all(|&byte| is_of_word(byte)))
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~()<>:\\\"/[]?{}".contains(&byte)
}

/// These bytes from the first on that is neither a space nor a tab.
fn without_blanks(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().position(|&byte| !is_blank(byte)).unwrap_or(bytes.len())..]
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(message: &str) -> Option<&str> {
        call_id(message.as_bytes()).map(|found| std::str::from_utf8(found).expect("text"))
    }

    #[test]
    fn the_first_well_formed_call_id_of_the_header_is_found() {
        for (message, expected) in [
            (
                "INVITE sip:bob@b.com SIP/2.0\r\nVia: x\r\nCall-ID: a84b4c76e66710@pc33.a.com\r\n\r\n",
                "a84b4c76e66710@pc33.a.com",
            ),
            ("SIP/2.0 200 OK\r\ni:abc\r\n\r\n", "abc"),
            ("OPTIONS x\nCALL-id \t: \t12\nTo: y\n", "12"),
            ("OPTIONS x\rcall-id:1 \t\r", "1"),
            ("OPTIONS x\r\nCall-ID:\r\n \r\n\tonce-more\r\n", "once-more"),
            ("OPTIONS x\r\nCall-IDs: no\r\niv: no\r\nCall-ID: yes\r\n", "yes"),
            ("OPTIONS x\r\nCall-ID: a@\r\ni: b c\r\nCall-ID: d@e\r\n", "d@e"),
            ("\r\nCall-ID: after-an-empty-first-line\r\n", "after-an-empty-first-line"),
        ] {
            assert_eq!(found(message), Some(expected), "{message:?}");
        }
        for message in [
            "",
            "Call-ID: first-line\r\n",
            "OPTIONS x\r\n Call-ID: continued\r\n",
            "OPTIONS x\r\n\r\nCall-ID: body\r\n",
            "OPTIONS x\r\nCall-ID: cut",
            "OPTIONS x\r\nCall-ID:\r\nTo: y\r\n",
            "OPTIONS x\r\nCall-ID: a@b@c\r\n",
            "OPTIONS x\r\nCall-ID\r\n",
        ] {
            assert_eq!(found(message), None, "{message:?}");
        }
        let message = |len: usize| format!("A b\r\nCall-ID: {}\r\n", "x".repeat(len));
        assert_eq!(found(&message(LONGEST)).map(str::len), Some(LONGEST));
        assert_eq!(found(&message(LONGEST + 1)), None);
    }

    proptest! {
        #[test]
        fn what_is_found_stands_in_the_message_whatever_that_is(message in "[iI:@a \t\r\n]{0,60}") {
            if let Some(found) = found(&message) {
                prop_assert!(message.contains(found) && !found.is_empty());
            }
        }

        #[test]
        fn no_bytes_do_harm(message in proptest::collection::vec(any::<u8>(), 0..300)) {
            call_id(&message);
        }
    }
}
