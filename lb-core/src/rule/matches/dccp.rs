//! `dccp`: ports, types of packets and an option (RFC 4340 §5).

use super::Match;
use crate::rule::ports::Ports;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Dccp {
    source: Ports,
    destination: Ports,
    /// A bit a type, and whether it is to be none of them.
    types: Option<(u16, bool)>,
    option: Option<(u8, bool)>,
}

/// By number; those behind them are the last one too.
const TYPES: [&str; 11] = [
    "REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC", "SYNCACK",
    "INVALID",
];
const INVALID: usize = 10;

fn bits(kind: usize) -> u16 {
    if kind < INVALID { 1 << kind } else { u16::MAX << INVALID }
}

fn read_types(text: &str) -> Result<u16, Error> {
    text.split(',').filter(|name| !name.is_empty()).try_fold(0, |all, name| {
        let found = TYPES.iter().position(|known| known.eq_ignore_ascii_case(name));
        let kind = found.ok_or_else(|| Error::parameter(format!("Unknown DCCP type `{name}'")))?;
        Ok(all | bits(kind))
    })
}

fn put_types(out: &mut String, types: u16, is_numeric: bool) {
    let kinds = if is_numeric { 16 } else { TYPES.len() };
    let mut comma = "";
    for kind in (0..kinds).filter(|kind| types & 1 << kind != 0) {
        match TYPES.get(kind) {
            Some(name) if !is_numeric => put!(out, "{comma}{name}"),
            _ => put!(out, "{comma}{kind}"),
        }
        comma = ",";
    }
}

/// A packet's options; `None`: there is no whole header.
fn options(packet: &[u8]) -> Option<&[u8]> {
    let (len, kind, is_long) =
        (usize::from(*packet.get(4)?) * 4, packet.get(8)? >> 1 & 0xf, packet.get(8)? & 1 != 0);
    let acknowledgement = if is_long { 8 } else { 4 };
    // RFC 4340 §5.1 to §5.6: what stands between the generic header and the options.
    let between = match kind {
        0 => 4,
        2 => 0,
        1 | 7 => acknowledgement + 4,
        _ => acknowledgement,
    };
    packet.get(if is_long { 16 } else { 12 } + between..len)
}

/// Whether an option is there (RFC 4340 §5.8: those below 32 are one byte long).
fn has_option(mut options: &[u8], wanted: u8) -> bool {
    while let [kind, rest @ ..] = options {
        if *kind == wanted {
            return true;
        }
        options = match kind {
            0..32 => rest,
            _ => rest.first().and_then(|len| options.get(usize::from(*len).max(2)..)).unwrap_or_default(),
        };
    }
    false
}

impl Extension for Dccp {
    const NAME: &'static str = "dccp";
    const OPTIONS: &'static [Opt] = &[
        opt("source-port", 0).negatable(),
        opt("sport", 0).negatable(),
        opt("destination-port", 1).negatable(),
        opt("dport", 1).negatable(),
        opt("dccp-types", 2).negatable(),
        opt("dccp-option", 3).negatable(),
    ];
    const PROTOCOL: Option<u8> = Some(33);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.source.take_any(given, "dccp")?,
            1 => self.destination.take_any(given, "dccp")?,
            2 => self.types = Some((read_types(given.value)?, given.is_negated)),
            _ => self.option = Some((given.number(1, 255)? as u8, given.is_negated)),
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.source.save(out, "sport");
        self.destination.save(out, "dport");
        if let Some((types, is_not)) = self.types {
            put!(out, "{} --dccp-types ", not(is_not));
            put_types(out, types, false);
        }
        if let Some((option, is_not)) = self.option {
            put!(out, "{} --dccp-option {option}", not(is_not));
        }
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        out.push_str(" dccp");
        self.source.list(out, "spt", style, "dccp");
        self.destination.list(out, "dpt", style, "dccp");
        if let Some((types, is_not)) = self.types {
            put!(out, "{} ", not(is_not));
            put_types(out, types, style.is_numeric);
        }
        if let Some((option, is_not)) = self.option {
            put!(out, " option={}{option}", if is_not { "!" } else { "" });
        }
    }
}

impl Match for Dccp {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some((source, destination)) = view.ports() else { return false };
        let packet = view.transport();
        let Some(&kind) = packet.get(8) else { return false };
        self.source.holds(source)
            && self.destination.holds(destination)
            && self.types.is_none_or(|(types, is_not)| (types >> (kind >> 1 & 0xf) & 1 != 0) != is_not)
            && self.option.is_none_or(|(wanted, is_not)| {
                options(packet).is_some_and(|options| has_option(options, wanted) != is_not)
            })
    }
}
