//! `sctp`: ports, and the chunks of a packet with their flags.

use super::Match;
use crate::rule::prelude::*;

use crate::rule::ports::Ports;
use crate::wire::array;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sctp {
    source: Ports,
    destination: Ports,
    chunks: Option<Chunks>,
    seen: u8,
}

/// Of which types a packet's chunks are to be.
#[derive(Clone, PartialEq, Debug)]
struct Chunks {
    how: How,
    types: Vec<Chunk>,
    /// Said as `ALL`.
    is_all: bool,
    is_not: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum How {
    /// Each of the types is there.
    All,
    /// One of them is.
    Any,
    /// There are no others.
    Only,
}

/// A type, and its flags that must be set (upper case) or not (lower case).
#[derive(Clone, PartialEq, Debug)]
struct Chunk {
    kind: u8,
    mask: u8,
    set: u8,
}

/// (name, type, its flags from bit 7 down to bit 0).
const TYPES: [(&str, u8, &str); 22] = [
    ("DATA", 0, "----IUBE"),
    ("INIT", 1, ""),
    ("INIT_ACK", 2, ""),
    ("SACK", 3, ""),
    ("HEARTBEAT", 4, ""),
    ("HEARTBEAT_ACK", 5, ""),
    ("ABORT", 6, "-------T"),
    ("SHUTDOWN", 7, ""),
    ("SHUTDOWN_ACK", 8, ""),
    ("ERROR", 9, ""),
    ("COOKIE_ECHO", 10, ""),
    ("COOKIE_ACK", 11, ""),
    ("ECN_ECNE", 12, ""),
    ("ECN_CWR", 13, ""),
    ("SHUTDOWN_COMPLETE", 14, "-------T"),
    ("ASCONF", 193, ""),
    ("ASCONF_ACK", 128, ""),
    ("FORWARD_TSN", 192, ""),
    ("I_DATA", 64, "----IUBE"),
    ("RE_CONFIG", 130, ""),
    ("PAD", 132, ""),
    ("I_FORWARD_TSN", 194, ""),
];

/// Chunks of a packet that are looked at.
const MAX_CHUNKS: usize = 64;

impl Chunks {
    fn read(how: &str, types: &str, is_not: bool) -> Result<Chunks, Error> {
        let how = match how.to_ascii_lowercase().as_str() {
            "all" => How::All,
            "any" => How::Any,
            "only" => How::Only,
            _ => {
                return Err(Error::parameter("Match type has to be one of \"ALL\", \"ANY\" or \"ONLY\""));
            }
        };
        let mut chunks = Chunks { how, types: Vec::new(), is_all: types.eq_ignore_ascii_case("ALL"), is_not };
        if chunks.is_all || types.eq_ignore_ascii_case("NONE") {
            return Ok(chunks);
        }
        for part in types.split(',') {
            let (name, flags) = part.split_once(':').unwrap_or((part, ""));
            let Some(&(_, kind, known)) = TYPES.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name)) else {
                return Err(Error::parameter(format!("Unknown sctp chunk `{name}'")));
            };
            let mut chunk = Chunk { kind, mask: 0, set: 0 };
            for letter in flags.chars() {
                let at = known.find(letter.to_ascii_uppercase()).filter(|_| letter.is_ascii_alphabetic());
                let Some(at) = at else {
                    return Err(Error::parameter(format!("Invalid flags for chunk type {kind}")));
                };
                let bit = 0x80 >> at;
                chunk.mask |= bit;
                chunk.set = if letter.is_ascii_uppercase() { chunk.set | bit } else { chunk.set & !bit };
            }
            chunks.types.retain(|other| other.kind != kind);
            chunks.types.push(chunk);
        }
        chunks.types.sort_by_key(|chunk| chunk.kind);
        Ok(chunks)
    }

    fn put(&self, out: &mut String, is_numeric: bool) {
        out.push_str(match self.how {
            How::All => " all ",
            How::Any => " any ",
            How::Only => " only ",
        });
        if self.is_all || self.types.is_empty() {
            out.push_str(if self.is_all { "ALL" } else { "NONE" });
        }
        for (at, chunk) in self.types.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let known = TYPES.iter().find(|(_, kind, _)| *kind == chunk.kind);
            match known {
                Some((name, ..)) if !is_numeric => put!(out, "{comma}{name}"),
                _ => put!(out, "{comma}0x{:04X}", chunk.kind),
            }
            let letters = known.map_or("", |(.., letters)| *letters);
            let mut colon = ":";
            for (at, letter) in letters.chars().enumerate().filter(|(at, _)| chunk.mask & 0x80 >> at != 0) {
                let letter = if chunk.set & 0x80 >> at == 0 { letter.to_ascii_lowercase() } else { letter };
                put!(out, "{colon}{letter}");
                colon = "";
            }
        }
    }

    fn has(&self, kind: u8, flags: u8) -> Option<usize> {
        self.types.iter().position(|chunk| chunk.kind == kind && flags & chunk.mask == chunk.set)
    }

    fn holds(&self, packet: &[u8]) -> bool {
        let (mut found, mut is_other) = (0u64, false);
        let mut at = 12;
        for _ in 0..MAX_CHUNKS {
            let Some(&[kind, flags, high, low]) = array::<4>(packet, at) else { break };
            match self.has(kind, flags) {
                Some(which) => found |= 1 << which,
                None => is_other = true,
            }
            let len = usize::from(u16::from_be_bytes([high, low])).max(4);
            at += len.next_multiple_of(4);
        }
        let all = (1u64 << self.types.len()) - 1;
        match self.how {
            // Of all types there are no packet has every one.
            How::All => !self.is_all && found == all,
            How::Any => self.is_all || found != 0,
            How::Only => self.is_all || !is_other,
        }
    }
}

impl Extension for Sctp {
    const NAME: &'static str = "sctp";
    const OPTIONS: &'static [Opt] = &[
        opt("source-port", 0).negatable().repeats(),
        opt("sport", 0).negatable().repeats(),
        opt("destination-port", 1).negatable().repeats(),
        opt("dport", 1).negatable().repeats(),
        opt("chunk-types", 2).negatable().repeats(),
    ];
    const PROTOCOL: Option<u8> = Some(132);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let is_second = self.seen & 1 << given.id() != 0;
        self.seen |= 1 << given.id();
        match given.id() {
            0 => self.source.take(given, "sctp", is_second, "source-port"),
            1 => self.destination.take(given, "sctp", is_second, "destination-port"),
            _ if is_second => Err(Error::parameter("Only one `--chunk-types' allowed")),
            _ => {
                let types =
                    given.more.next_value().ok_or_else(|| Error::parameter("--chunk-types requires two args"))?;
                self.chunks = Some(Chunks::read(given.value, types, given.is_negated)?);
                Ok(())
            }
        }
    }

    fn save(&self, out: &mut String, _: Family) {
        self.source.save(out, "sport");
        self.destination.save(out, "dport");
        if let Some(chunks) = &self.chunks {
            put!(out, "{} --chunk-types", not(chunks.is_not));
            chunks.put(out, false);
        }
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        out.push_str(" sctp");
        self.source.list(out, "spt", style, "sctp");
        self.destination.list(out, "dpt", style, "sctp");
        if let Some(chunks) = &self.chunks {
            out.push_str(not(chunks.is_not));
            chunks.put(out, style.is_numeric);
        }
    }
}

impl Match for Sctp {
    fn depends(&self) -> Depends {
        if self.chunks.is_none() { Depends::Flow } else { Depends::Packet }
    }

    fn narrow(&self, to: &mut Narrowed<'_>) {
        self.source.narrow(Field::SourcePort, to);
        self.destination.narrow(Field::DestinationPort, to);
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some((source, destination)) = view.ports() else { return false };
        self.source.holds(source)
            && self.destination.holds(destination)
            && self.chunks.as_ref().is_none_or(|chunks| chunks.holds(view.transport()) != chunks.is_not)
    }
}
