//! `string`: bytes somewhere in the packet.

use super::Match;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug)]
pub struct StringMatch {
    pattern: Vec<u8>,
    algorithm: String,
    /// Offsets in the IP packet between which it is, whole: so Linux has it since 6.7.
    from: u16,
    to: u16,
    is_not: bool,
    ignores_case: bool,
}

impl Default for StringMatch {
    fn default() -> StringMatch {
        StringMatch {
            pattern: Vec::new(),
            algorithm: String::new(),
            from: 0,
            to: u16::MAX,
            is_not: false,
            ignores_case: false,
        }
    }
}

const LONGEST: usize = 128;

impl Extension for StringMatch {
    const NAME: &'static str = "string";
    const OPTIONS: &'static [Opt] = &[
        opt("from", 0),
        opt("to", 1),
        opt("algo", 2).must(),
        opt("string", 3).negatable().not_with(1 << 4),
        opt("hex-string", 4).negatable().not_with(1 << 3),
        flag("icase", 5),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.from = given.u16()?,
            1 => self.to = given.u16()?,
            2 => self.algorithm = given.text(0, 15)?,
            3 => {
                if given.value.len() > LONGEST {
                    return Err(Error::parameter(format!("STRING too long \"{}\"", given.value)));
                }
                self.pattern = given.value.as_bytes().to_vec();
                self.is_not = given.is_negated;
            }
            4 => {
                self.pattern = hex(given.value)?;
                self.is_not = given.is_negated;
            }
            _ => self.ignores_case = true,
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen & (1 << 3 | 1 << 4) == 0 {
            return Err(Error::parameter("STRING match: You must specify `--string' or `--hex-string'"));
        }
        Ok(())
    }

    fn check(&self, _: &Place<'_>) -> Result<(), Refused> {
        if !matches!(self.algorithm.as_str(), "bm" | "kmp") {
            return Err(Refused::NotThere);
        }
        if self.from > self.to || self.pattern.is_empty() { Err(Refused::Invalid) } else { Ok(()) }
    }

    fn save(&self, out: &mut String, _: Family) {
        let is_hex = self.is_hex();
        put!(out, "{} --{} ", not(self.is_not), if is_hex { "hex-string" } else { "string" });
        self.put(out, is_hex);
        put!(out, " --algo {}", self.algorithm);
        if self.from != 0 {
            put!(out, " --from {}", self.from);
        }
        if self.to != u16::MAX {
            put!(out, " --to {}", self.to);
        }
        if self.ignores_case {
            out.push_str(" --icase");
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        let is_hex = self.is_hex();
        out.push_str(if self.is_not { " STRING match ! " } else { " STRING match  " });
        self.put(out, is_hex);
        put!(out, " ALGO name {}", self.algorithm);
        if self.from != 0 {
            put!(out, " FROM {}", self.from);
        }
        if self.to != u16::MAX {
            put!(out, " TO {}", self.to);
        }
        if self.ignores_case {
            out.push_str(" ICASE");
        }
    }
}

impl StringMatch {
    /// Whether it is printed in hexadecimal.
    fn is_hex(&self) -> bool {
        !self.pattern.iter().all(|byte| (0x20..0x7f).contains(byte)) || self.pattern.last() == Some(&b'\\')
    }

    fn put(&self, out: &mut String, is_hex: bool) {
        if is_hex {
            out.push_str("\"|");
            self.pattern.iter().for_each(|byte| put!(out, "{byte:02x}"));
            out.push_str("|\"");
            return;
        }
        out.push('"');
        for byte in &self.pattern {
            if matches!(byte, b'"' | b'\\') {
                out.push('\\');
            }
            out.push(char::from(*byte));
        }
        out.push('"');
    }
}

/// `GET |20 2f|x`: bytes in hexadecimal between bars. What follows a backslash, or a bar that ends such bytes, stands for itself.
fn hex(text: &str) -> Result<Vec<u8>, Error> {
    if text.is_empty() {
        return Err(Error::parameter("STRING must contain at least one char"));
    }
    let digit = |byte: u8| {
        let bad = || Error::parameter(format!("Invalid hex char '{}'", char::from(byte)));
        char::from(byte).to_digit(16).map(|digit| digit as u8).ok_or_else(bad)
    };
    let (mut bytes, mut is_hex, mut rest) = (Vec::new(), false, text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let is_bar = first == b'|';
        if is_bar {
            is_hex = !is_hex;
            rest = if is_hex { after.trim_ascii_start() } else { after };
        }
        rest = match rest {
            [] => rest,
            [_] if is_hex => return Err(Error::parameter("Odd number of hex digits")),
            [_, _] if is_hex => return Err(Error::parameter("Invalid hex block")),
            [high, low, after @ ..] if is_hex => {
                bytes.push(digit(*high)? << 4 | digit(*low)?);
                after.strip_prefix(b" ").unwrap_or(after)
            }
            [b'\\'] if !is_bar => return Err(Error::parameter("Bad literal placement at end of string")),
            [b'\\', byte, after @ ..] if !is_bar => {
                bytes.push(*byte);
                after
            }
            [byte, after @ ..] => {
                bytes.push(*byte);
                after
            }
        };
    }
    if bytes.len() > LONGEST {
        return Err(Error::parameter(format!("STRING too long \"{text}\"")));
    }
    Ok(bytes)
}

impl Match for StringMatch {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let packet = view.packet();
        let to = usize::from(self.to).min(packet.len());
        let part = packet.get(usize::from(self.from)..to).unwrap_or_default();
        let is = part.windows(self.pattern.len().max(1)).any(|window| match self.ignores_case {
            true => window.eq_ignore_ascii_case(&self.pattern),
            false => window == self.pattern,
        });
        is != self.is_not
    }
}
