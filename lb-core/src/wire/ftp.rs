//! What an FTP control connection says of data connections: PORT, EPRT, 227 and 229 (RFC 959 §4.1.2, §4.2; RFC 2428).
//!
//! Only whole lines are read, as many as one segment has and not more than [`MOST_LINES`]: a line that comes in two
//! segments is passed over, as the kernel's helper does. Telnet's commands in a line are none of its words. Behind `AUTH TLS` (RFC 4217) nothing
//! can be read.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;

use super::proxy::{write_address, write_number};
use super::telnet::{self, IAC};

/// Lines of one segment that are looked at, and bytes of each.
const MOST_LINES: usize = 8;
const MOST_BYTES: usize = telnet::MOST;
/// Longest words: a whole 227, or EPRT with an IPv6 address.
pub(super) const LONGEST: usize = 56;

/// Other words than were said.
pub type Words = ArrayVec<u8, LONGEST>;

/// An end at which somebody waits for a data connection, as a control connection says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said {
    /// `None`: that of who says it.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub form: Form,
    /// Where the words are in the data that say both, and their length.
    pub place: (usize, usize),
}

/// How it is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// `h1,h2,h3,h4,p1,p2`, of PORT and 227.
    Numbers,
    /// `address|port`, of EPRT, with a delimiter of its sender's choice.
    Fields(u8),
    /// A port alone, of 229.
    Port,
}

/// Finds the first 227 or 229 in a server's data: where it waits for the client's data connection.
pub fn passive(data: &[u8]) -> Option<Said> {
    lines(data).find_map(|(at, line)| plainly(line, at, passive_in))
}

/// The same of a line that begins `at` in the data.
pub(super) fn passive_in(line: &[u8], at: usize) -> Option<Said> {
    if line.starts_with(b"227 ") {
        return said_in_numbers(line, 4, at);
    }
    let rest = line.strip_prefix(b"229 ")?;
    let open = rest.iter().position(|&byte| byte == b'(')?;
    let [delimiter, second, third, port @ ..] = &rest[open + 1..] else { return None };
    if !is_delimiter(*delimiter) || second != delimiter || third != delimiter {
        return None;
    }
    let (number, len) = number(port)?;
    let from = at + (line.len() - port.len());
    (port.get(len) == Some(delimiter) && number != 0).then_some(Said {
        address: None,
        port: number,
        form: Form::Port,
        place: (from, len),
    })
}

/// Finds the first PORT or EPRT in a client's data: where it waits for the server's data connection.
pub fn active(data: &[u8]) -> Option<Said> {
    lines(data).find_map(|(at, line)| plainly(line, at, active_in))
}

/// Reads a line that begins `at` in the data without Telnet's commands.
fn plainly(line: &[u8], at: usize, read: fn(&[u8], usize) -> Option<Said>) -> Option<Said> {
    if !line.contains(&IAC) {
        return read(line, at);
    }
    let said = read(&telnet::plain(line), 0)?;
    let (from, len) = telnet::place_in(line, said.place);
    Some(Said { place: (at + from, len), ..said })
}

/// The same of a line that begins `at` in the data.
pub(super) fn active_in(line: &[u8], at: usize) -> Option<Said> {
    let (verb, rest) = line.split_at_checked(5)?;
    if verb.eq_ignore_ascii_case(b"PORT ") {
        return said_in_numbers(line, 5, at).filter(|said| said.place.0 == at + 5);
    }
    if !verb.eq_ignore_ascii_case(b"EPRT ") {
        return None;
    }
    let [delimiter, family, second, words @ ..] = rest else { return None };
    if !is_delimiter(*delimiter) || second != delimiter {
        return None;
    }
    let end = words.iter().enumerate().filter(|(_, byte)| *byte == delimiter).nth(1)?.0;
    let (address, port) = fields(&words[..end], *delimiter)?;
    let is_right = matches!((family, address), (b'1', IpAddr::V4(_)) | (b'2', IpAddr::V6(_)));
    let place = (at + line.len() - words.len(), end);
    let form = Form::Fields(*delimiter);
    is_right.then_some(Said { address: Some(address), port, form, place })
}

/// What words say that were found before, and stand alone now.
pub fn again(words: &[u8]) -> Option<Said> {
    let place = (0, words.len());
    if words.contains(&IAC) {
        let text = telnet::plain(words);
        let said = if text.contains(&IAC) { None } else { again(&text) };
        return said.map(|said| Said { place, ..said });
    }
    if let Some((port, len)) = number(words)
        && len == words.len()
    {
        return Some(Said { address: None, port, form: Form::Port, place });
    }
    if let Some(said) = said_in_numbers(words, 0, 0) {
        return Some(said).filter(|said| said.place == place);
    }
    let digits = words.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let &delimiter = words.get(words.len().checked_sub(digits + 1)?)?;
    let (address, port) = fields(words, delimiter)?;
    Some(Said { address: Some(address), port, form: Form::Fields(delimiter), place })
}

/// An address and a port in other words.
pub fn words(form: Form, address: IpAddr, port: u16) -> Words {
    let mut words = Words::new();
    // The longest that there is fits.
    let _ = match (form, address) {
        (Form::Numbers, IpAddr::V4(address)) => write_numbers(&mut words, address, port),
        (Form::Numbers | Form::Port, _) => write_number(&mut words, port),
        (Form::Fields(delimiter), _) => write_address(&mut words, address)
            .and_then(|()| words.write_all(&[delimiter]))
            .and_then(|()| write_number(&mut words, port)),
    };
    words
}

pub(super) fn write_numbers(words: &mut Words, address: Ipv4Addr, port: u16) -> std::io::Result<()> {
    let [a, b, c, d] = address.octets();
    let [high, low] = port.to_be_bytes();
    for (n, byte) in [a, b, c, d, high, low].into_iter().enumerate() {
        if n > 0 {
            words.write_all(b",")?;
        }
        write_number(words, byte.into())?;
    }
    Ok(())
}

/// RFC 2428 §2, §3: any of these, and what is between two of them has none.
pub(super) fn is_delimiter(byte: u8) -> bool {
    (33..=126).contains(&byte) && !byte.is_ascii_hexdigit() && byte != b'.' && byte != b':'
}

/// `address|port`.
fn fields(words: &[u8], delimiter: u8) -> Option<(IpAddr, u16)> {
    let between = words.iter().position(|&byte| byte == delimiter)?;
    let address: IpAddr = std::str::from_utf8(&words[..between]).ok()?.parse().ok()?;
    let port = &words[between + 1..];
    let (number, len) = number(port)?;
    (len == port.len() && number != 0 && is_delimiter(delimiter)).then_some((address, number))
}

/// The first six numbers of a line that begins `at` in the data.
fn said_in_numbers(line: &[u8], from: usize, at: usize) -> Option<Said> {
    let (begin, len, [a, b, c, d, high, low]) = numbers(line, from)?;
    let port = u16::from_be_bytes([high, low]);
    let address = Some(Ipv4Addr::new(a, b, c, d).into());
    (port != 0).then_some(Said { address, port, form: Form::Numbers, place: (at + begin, len) })
}

/// Whole lines, without their ends and the commands of Telnet's before them, and where each begins.
pub fn lines(data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = data.get(at..)?;
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let line = &rest[..end];
        let (begin, skipped) = (at, telnet::leading(line));
        at += end + 1;
        let line = line.get(skipped..).unwrap_or_default();
        Some((begin + skipped, line.strip_suffix(b"\r").unwrap_or(line)))
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

    fn said(port: u16, address: Option<&str>, form: Form, place: (usize, usize)) -> Option<Said> {
        let address = address.map(|text| text.parse().expect("an address"));
        Some(Said { address, port, form, place })
    }

    #[test]
    fn a_server_says_where_it_waits() {
        let found = |text: &str| passive(text.as_bytes());
        let vsftpd = "227 Entering Passive Mode (10,0,0,11,156,64).\r\n";
        assert_eq!(found(vsftpd), said(40000, Some("10.0.0.11"), Form::Numbers, (27, 16)));
        assert_eq!(found("227 =10,0,0,11,0,21\r\n"), said(21, Some("10.0.0.11"), Form::Numbers, (5, 14)));
        assert_eq!(
            found("150 Here it comes\r\n229 Entering Extended Passive Mode (|||6446|)\r\n"),
            said(6446, None, Form::Port, (19 + 36 + 3, 4))
        );
        for nothing in [
            "227 Entering Passive Mode (10,0,0,11,156,64).",
            "227 Entering Passive Mode (10,0,0,11,156).\r\n",
            "227 Entering Passive Mode (10,0,0,11,156,256).\r\n",
            "227 Entering Passive Mode (10,0,0,11,0,0).\r\n",
            "227-Entering (10,0,0,11,156,64)\r\n",
            "229 Entering Extended Passive Mode (|||65536|)\r\n",
            "229 Entering Extended Passive Mode (|||0|)\r\n",
            "229 Entering Extended Passive Mode (||6446|)\r\n",
            "200 (10,0,0,11,156,64)\r\n",
            "",
        ] {
            assert_eq!(found(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn telnets_commands_are_skipped_and_go_with_the_words_that_they_stand_in() {
        let port = |place| said(50000, Some("192.0.2.100"), Form::Numbers, place);
        let synch = b"\xff\xf4\xff\xf2PORT 192,0,2,100,195,80\r\n";
        assert_eq!(active(synch), port((9, 18)));
        let within = b"PO\xff\xf1RT 192,0,\xff\xfd\x182,100,195,80\xff\xf1\r\n";
        assert_eq!(active(within), port((7, 21)));
        assert_eq!(again(&within[7..28]), port((0, 21)));
        let two = b"ABOR\r\n\xff\xf1227 =10,0,0,11,0,21\r\n";
        assert_eq!(passive(two), said(21, Some("10.0.0.11"), Form::Numbers, (13, 14)));
        assert_eq!(again(b"\xff\xff\xff\xff"), None);
    }

    #[test]
    fn a_client_says_where_it_waits() {
        let found = |text: &str| active(text.as_bytes());
        let port = said(50000, Some("192.0.2.100"), Form::Numbers, (5, 18));
        assert_eq!(found("PORT 192,0,2,100,195,80\r\n"), port);
        assert_eq!(found("port 192,0,2,100,195,80\n"), port);
        let bar = Form::Fields(b'|');
        assert_eq!(
            found("NOOP\r\nEPRT |1|132.235.1.2|6275|\r\n"),
            said(6275, Some("132.235.1.2"), bar, (14, 16))
        );
        assert_eq!(
            found("EPRT |2|1080::8:800:200C:417A|5282|\r\n"),
            said(5282, Some("1080::8:800:200c:417a"), bar, (8, 26))
        );
        for nothing in [
            "PORT 1,2,3,4,5\r\n",
            "EPRT |2|1.2.3.4|5|\r\n",
            "EPRT |1|1.2.3.4|x|\r\n",
            "EPRT |1|1.2.3.4|0|\r\n",
            "EPRT |1|1.2.3.4|5\r\n",
            "PORT",
            "STOR a\r\n",
        ] {
            assert_eq!(found(nothing), None, "{nothing:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_it_was_meant(v4: [u8; 4], v6: u128, port in 1u16..) {
            let (v4, v6) = (IpAddr::from(v4), IpAddr::from(v6.to_be_bytes()));
            let bar = Form::Fields(b'|');
            for (form, address, begin, end) in [
                (Form::Numbers, v4, "227 Entering Passive Mode (", ").\r\n"),
                (Form::Numbers, v4, "PORT ", "\r\n"),
                (bar, v4, "EPRT |1|", "|\r\n"),
                (bar, v6, "EPRT |2|", "|\r\n"),
                (Form::Port, v4, "229 Extended Passive Mode Entered (|||", "|)\r\n"),
            ] {
                let text = words(form, address, port);
                let line = [begin.as_bytes(), &text[..], end.as_bytes()].concat();
                let address = Some(address).filter(|_| form != Form::Port);
                let said = Said { address, port, form, place: (begin.len(), text.len()) };
                prop_assert_eq!(passive(&line).or(active(&line)), Some(said));
                prop_assert_eq!(again(&text), Some(Said { place: (0, text.len()), ..said }));
            }
        }

        #[test]
        fn no_line_is_too_odd(data in proptest::collection::vec(prop_oneof![
            any::<u8>(), prop::sample::select(b"0123456789,|()\r\n 227229PORTEPRT".to_vec())
        ], 0..300)) {
            for begin in [&b""[..], b"227 ", b"229 (|||", b"PORT ", b"EPRT |2|"] {
                let data = [begin, &data[..], b"\r\n"].concat();
                for said in [passive(&data), active(&data)].into_iter().flatten() {
                    let (at, len) = said.place;
                    prop_assert_eq!(again(&data[at..at + len]), Some(Said { place: (0, len), ..said }));
                }
                again(&data);
            }
        }
    }
}
