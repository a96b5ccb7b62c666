//! What an FTP control connection says of data connections: PORT, EPRT, 227 and 229 (RFC 959 §4.1.2, §4.2; RFC 2428).
//!
//! Only whole lines are read, as many as one segment has and not more than [`MOST_LINES`]: a line that comes in two
//! segments is passed over, as the kernel's helper does. Behind `AUTH TLS` (RFC 4217) nothing can be read.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;

use super::proxy::write_number;

/// Lines of one segment that are looked at, and bytes of each.
const MOST_LINES: usize = 8;
const MOST_BYTES: usize = 256;
/// Longest `h1,h2,h3,h4,p1,p2`.
const LONGEST: usize = 23;

/// Where a server waits for the client's data connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passive {
    pub port: u16,
    /// Where `h1,h2,h3,h4,p1,p2` is in the data, and its length. `None`: 229 names no address.
    pub words: Option<(usize, usize)>,
}

/// Finds the first 227 or 229 in a server's data.
pub fn passive(data: &[u8]) -> Option<Passive> {
    lines(data).find_map(|(at, line)| {
        if line.starts_with(b"227 ") {
            let (from, len, [.., high, low]) = numbers(line, 4)?;
            return Some(Passive { port: u16::from_be_bytes([high, low]), words: Some((at + from, len)) });
        }
        let rest = line.strip_prefix(b"229 ")?;
        let open = rest.iter().position(|&byte| byte == b'(')?;
        let [delimiter, second, third, rest @ ..] = &rest[open + 1..] else { return None };
        // RFC 2428 §3: the delimiter is any of 33 to 126.
        if !(33..=126).contains(delimiter) || second != delimiter || third != delimiter {
            return None;
        }
        let (port, end) = number(rest)?;
        (rest.get(end) == Some(delimiter) && port != 0).then_some(Passive { port, words: None })
    })
}

/// The port in `h1,h2,h3,h4,p1,p2`, which is all of `words`.
pub fn port_of(words: &[u8]) -> Option<u16> {
    let (from, len, [.., high, low]) = numbers(words, 0)?;
    (from == 0 && len == words.len()).then(|| u16::from_be_bytes([high, low]))
}

/// Finds the first PORT or EPRT in a client's data: where it waits for the server's data connection.
pub fn active(data: &[u8]) -> Option<(IpAddr, u16)> {
    lines(data).find_map(|(_, line)| {
        let (verb, rest) = line.split_at_checked(5)?;
        if verb.eq_ignore_ascii_case(b"PORT ") {
            let (_, _, [a, b, c, d, high, low]) = numbers(line, 5).filter(|&(from, ..)| from == 5)?;
            return Some((Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])));
        }
        if !verb.eq_ignore_ascii_case(b"EPRT ") {
            return None;
        }
        let (delimiter, rest) = rest.split_first()?;
        let mut fields = rest.split(|byte| byte == delimiter);
        let (family, address, port) = (fields.next()?, fields.next()?, fields.next()?);
        let address: IpAddr = std::str::from_utf8(address).ok()?.parse().ok()?;
        let is_right = matches!((family, address), (b"1", IpAddr::V4(_)) | (b"2", IpAddr::V6(_)));
        let (number, end) = number(port)?;
        (is_right && end == port.len() && number != 0).then_some((address, number))
    })
}

/// An address and port as 227 says them.
pub fn words(address: Ipv4Addr, port: u16) -> ArrayVec<u8, LONGEST> {
    let mut words = ArrayVec::new();
    let [a, b, c, d] = address.octets();
    let [high, low] = port.to_be_bytes();
    for (n, byte) in [a, b, c, d, high, low].into_iter().enumerate() {
        // The longest that there is fits.
        let _ = if n > 0 { words.write_all(b",") } else { Ok(()) };
        let _ = write_number(&mut words, byte.into());
    }
    words
}

/// Whole lines, without their ends, and where each begins.
fn lines(data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = data.get(at..)?;
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let line = &rest[..end];
        let begin = at;
        at += end + 1;
        Some((begin, line.strip_suffix(b"\r").unwrap_or(line)))
    })
    .take(MOST_LINES)
    .filter(|(_, line)| line.len() <= MOST_BYTES)
}

/// The first six numbers of a byte each, with commas between them, from `from` on: where, how long, and which.
fn numbers(line: &[u8], from: usize) -> Option<(usize, usize, [u8; 6])> {
    let is_digit = |at: usize| line.get(at).is_some_and(u8::is_ascii_digit);
    (from..line.len()).filter(|&at| is_digit(at) && (at == from || !is_digit(at - 1))).find_map(|begin| {
        let mut found = [0; 6];
        let mut at = begin;
        for (n, byte) in found.iter_mut().enumerate() {
            if n > 0 {
                if line.get(at) != Some(&b',') {
                    return None;
                }
                at += 1;
            }
            let (number, len) = number(&line[at..])?;
            *byte = u8::try_from(number).ok()?;
            at += len;
        }
        Some((begin, at - begin, found))
    })
}

/// The number that `text` begins with, and how many digits it has.
fn number(text: &[u8]) -> Option<(u16, usize)> {
    let len = text.iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
    let value = text[..len].iter().fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    if len == 0 { None } else { Some((u16::try_from(value).ok()?, len)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_server_says_where_it_waits() {
        let said = |text: &str| passive(text.as_bytes());
        let vsftpd = "227 Entering Passive Mode (10,0,0,11,156,64).\r\n";
        assert_eq!(said(vsftpd), Some(Passive { port: 40000, words: Some((27, 16)) }));
        assert_eq!(said("227 =10,0,0,11,0,21\r\n"), Some(Passive { port: 21, words: Some((5, 14)) }));
        assert_eq!(
            said("150 Here it comes\r\n229 Entering Extended Passive Mode (|||6446|)\r\n"),
            Some(Passive { port: 6446, words: None })
        );
        for nothing in [
            "227 Entering Passive Mode (10,0,0,11,156,64).",
            "227 Entering Passive Mode (10,0,0,11,156).\r\n",
            "227 Entering Passive Mode (10,0,0,11,156,256).\r\n",
            "227-Entering (10,0,0,11,156,64)\r\n",
            "229 Entering Extended Passive Mode (|||65536|)\r\n",
            "229 Entering Extended Passive Mode (|||0|)\r\n",
            "229 Entering Extended Passive Mode (||6446|)\r\n",
            "200 (10,0,0,11,156,64)\r\n",
            "",
        ] {
            assert_eq!(said(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_client_says_where_it_waits() {
        let said = |text: &str| active(text.as_bytes()).map(|(address, port)| format!("{address} {port}"));
        assert_eq!(said("PORT 192,0,2,100,195,80\r\n").as_deref(), Some("192.0.2.100 50000"));
        assert_eq!(said("port 192,0,2,100,195,80\n").as_deref(), Some("192.0.2.100 50000"));
        assert_eq!(said("NOOP\r\nEPRT |1|132.235.1.2|6275|\r\n").as_deref(), Some("132.235.1.2 6275"));
        assert_eq!(
            said("EPRT |2|1080::8:800:200C:417A|5282|\r\n").as_deref(),
            Some("1080::8:800:200c:417a 5282")
        );
        for nothing in
            ["PORT 1,2,3,4,5\r\n", "EPRT |2|1.2.3.4|5|\r\n", "EPRT |1|1.2.3.4|x|\r\n", "PORT", "STOR a\r\n"]
        {
            assert_eq!(said(nothing), None, "{nothing:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_it_was_meant(address: [u8; 4], port: u16) {
            let text = words(address.into(), port);
            prop_assert_eq!(port_of(&text), Some(port));
            let line = [b"227 Entering Passive Mode (", &text[..], b").\r\n"].concat();
            prop_assert_eq!(passive(&line), Some(Passive { port, words: Some((27, text.len())) }));
            let line = [b"PORT ", &text[..], b"\r\n"].concat();
            prop_assert_eq!(active(&line), Some((Ipv4Addr::from(address).into(), port)));
        }

        #[test]
        fn no_line_is_too_odd(data in proptest::collection::vec(prop_oneof![
            any::<u8>(), prop::sample::select(b"0123456789,|()\r\n 227229PORTEPRT".to_vec())
        ], 0..300)) {
            for begin in [&b""[..], b"227 ", b"229 (|||", b"PORT ", b"EPRT |2|"] {
                let data = [begin, &data[..], b"\r\n"].concat();
                if let Some(Passive { words: Some((at, len)), port }) = passive(&data) {
                    prop_assert_eq!(port_of(&data[at..at + len]), Some(port));
                }
                active(&data);
            }
        }
    }
}
