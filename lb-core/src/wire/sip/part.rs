//! Parts of a message that know where they stand in it, and the words for addresses and ports.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use crate::wire::proxy::{write_address, write_number};

/// Longest words: an IPv6 address in brackets, a colon, a port.
const LONGEST: usize = 47;
pub type Words = ArrayVec<u8, LONGEST>;

/// Where words stand in a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub at: usize,
    pub len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part<'a> {
    at: usize,
    pub(super) text: &'a [u8],
}

impl<'a> Part<'a> {
    /// `from` and `to` lie within the message.
    pub(super) fn of(message: &'a [u8], from: usize, to: usize) -> Part<'a> {
        Part { at: from, text: message.get(from..to).unwrap_or_default() }
    }

    pub(super) fn place(self) -> Place {
        Place { at: self.at, len: self.text.len() }
    }

    pub(super) fn begin(self, len: usize) -> Part<'a> {
        Part { text: &self.text[..len.min(self.text.len())], ..self }
    }

    pub(super) fn rest(self, from: usize) -> Part<'a> {
        let from = from.min(self.text.len());
        Part { at: self.at + from, text: &self.text[from..] }
    }

    /// Without white space, line ends of continued lines included, on both sides.
    pub(super) fn trimmed(self) -> Part<'a> {
        let start = self.text.len() - self.text.trim_ascii_start().len();
        self.rest(start).begin(self.text.trim_ascii().len())
    }

    /// Behind these words, in small letters or capitals.
    pub(super) fn behind(self, words: &str) -> Option<Part<'a>> {
        let (start, _) = self.text.split_at_checked(words.len())?;
        start.eq_ignore_ascii_case(words.as_bytes()).then(|| self.rest(words.len()))
    }

    /// What is before the first of these bytes, and what is behind it.
    pub(super) fn split(self, byte: u8) -> (Part<'a>, Option<Part<'a>>) {
        match self.text.iter().position(|&found| found == byte) {
            Some(at) => (self.begin(at), Some(self.rest(at + 1))),
            None => (self, None),
        }
    }

    /// The same of one that stands neither in quotes nor in angle brackets.
    pub(super) fn split_outside(self, byte: u8) -> (Part<'a>, Option<Part<'a>>) {
        let (mut is_quoted, mut is_bracketed, mut is_escaped) = (false, false, false);
        for (at, &found) in self.text.iter().enumerate() {
            match found {
                _ if is_escaped => is_escaped = false,
                b'\\' if is_quoted => is_escaped = true,
                b'"' if !is_bracketed => is_quoted = !is_quoted,
                _ if is_quoted => {}
                _ if found == byte && !is_bracketed => return (self.begin(at), Some(self.rest(at + 1))),
                b'<' => is_bracketed = true,
                b'>' => is_bracketed = false,
                _ => {}
            }
        }
        (self, None)
    }

    /// The number that it begins with, at most the largest that there is; and how many digits it has.
    pub(super) fn number(self) -> Option<(u32, usize)> {
        let len = self.text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digits = self.text[..len].iter().map(|digit| u32::from(digit - b'0'));
        let value = digits.fold(0u32, |value, digit| value.saturating_mul(10).saturating_add(digit));
        (len > 0).then_some((value, len))
    }

    /// The address that it begins with, and how long that is: in a URI and a Via IPv6 in brackets.
    pub(super) fn host(self) -> Option<(IpAddr, usize)> {
        match self.behind("[") {
            Some(inner) => {
                let (inner, _) = Some(inner.split(b']')).filter(|(_, behind)| behind.is_some())?;
                let address: Ipv6Addr = text(inner.text)?.parse().ok()?;
                Some((address.into(), inner.text.len() + 2))
            }
            None => self.literal(|byte| byte.is_ascii_digit() || byte == b'.').and_then(|(address, len)| {
                let address: Ipv4Addr = text(address)?.parse().ok()?;
                Some((address.into(), len))
            }),
        }
    }

    /// The same without brackets, as in SDP.
    pub(super) fn address(self) -> Option<(IpAddr, usize)> {
        let is_of_address = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':');
        let (address, len) = self.literal(is_of_address)?;
        Some((text(address)?.parse().ok()?, len))
    }

    /// What it begins with of such bytes, unless a name goes on there.
    fn literal(self, is_of_it: impl Fn(u8) -> bool) -> Option<(&'a [u8], usize)> {
        let len = self.text.iter().take(LONGEST).take_while(|&&byte| is_of_it(byte)).count();
        let goes_on = |&byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'%');
        let is_whole = !self.text.get(len).is_some_and(goes_on);
        is_whole.then(|| (&self.text[..len], len))
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// An address and its port, as in a URI.
pub fn words_of_end(address: IpAddr, port: u16) -> Words {
    let mut words = words_of_host(address);
    // The longest that there is fits.
    let _ = words.write_all(b":").and_then(|()| write_number(&mut words, port));
    words
}

/// An address as in a URI.
pub fn words_of_host(address: IpAddr) -> Words {
    let mut words = Words::new();
    let _ = match address {
        IpAddr::V4(_) => write_address(&mut words, address),
        IpAddr::V6(_) => words
            .write_all(b"[")
            .and_then(|()| write_address(&mut words, address))
            .and_then(|()| words.write_all(b"]")),
    };
    words
}

/// An address as in SDP.
pub fn words_of_address(address: IpAddr) -> Words {
    let mut words = Words::new();
    let _ = write_address(&mut words, address);
    words
}

pub fn words_of_number(number: u16) -> Words {
    let mut words = Words::new();
    let _ = write_number(&mut words, number);
    words
}
