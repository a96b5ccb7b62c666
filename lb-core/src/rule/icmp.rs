//! Types and codes of ICMP messages, by number and by name.

use super::prelude::*;
use super::text::number;

/// (name, type, first code, last code). Names of one type and code follow the one that is printed.
pub(super) type Known = (&'static str, u8, u8, u8);

pub(super) const ICMP: &[Known] = &[
    ("any", 255, 0, 255),
    ("echo-reply", 0, 0, 255),
    ("pong", 0, 0, 255),
    ("destination-unreachable", 3, 0, 255),
    ("network-unreachable", 3, 0, 0),
    ("host-unreachable", 3, 1, 1),
    ("protocol-unreachable", 3, 2, 2),
    ("port-unreachable", 3, 3, 3),
    ("fragmentation-needed", 3, 4, 4),
    ("source-route-failed", 3, 5, 5),
    ("network-unknown", 3, 6, 6),
    ("host-unknown", 3, 7, 7),
    ("network-prohibited", 3, 9, 9),
    ("host-prohibited", 3, 10, 10),
    ("TOS-network-unreachable", 3, 11, 11),
    ("TOS-host-unreachable", 3, 12, 12),
    ("communication-prohibited", 3, 13, 13),
    ("host-precedence-violation", 3, 14, 14),
    ("precedence-cutoff", 3, 15, 15),
    ("source-quench", 4, 0, 255),
    ("redirect", 5, 0, 255),
    ("network-redirect", 5, 0, 0),
    ("host-redirect", 5, 1, 1),
    ("TOS-network-redirect", 5, 2, 2),
    ("TOS-host-redirect", 5, 3, 3),
    ("echo-request", 8, 0, 255),
    ("ping", 8, 0, 255),
    ("router-advertisement", 9, 0, 255),
    ("router-solicitation", 10, 0, 255),
    ("time-exceeded", 11, 0, 255),
    ("ttl-exceeded", 11, 0, 255),
    ("ttl-zero-during-transit", 11, 0, 0),
    ("ttl-zero-during-reassembly", 11, 1, 1),
    ("parameter-problem", 12, 0, 255),
    ("ip-header-bad", 12, 0, 0),
    ("required-option-missing", 12, 1, 1),
    ("timestamp-request", 13, 0, 255),
    ("timestamp-reply", 14, 0, 255),
    ("address-mask-request", 17, 0, 255),
    ("address-mask-reply", 18, 0, 255),
];

pub(super) const ICMPV6: &[Known] = &[
    ("destination-unreachable", 1, 0, 255),
    ("no-route", 1, 0, 0),
    ("communication-prohibited", 1, 1, 1),
    ("beyond-scope", 1, 2, 2),
    ("address-unreachable", 1, 3, 3),
    ("port-unreachable", 1, 4, 4),
    ("failed-policy", 1, 5, 5),
    ("reject-route", 1, 6, 6),
    ("packet-too-big", 2, 0, 255),
    ("time-exceeded", 3, 0, 255),
    ("ttl-exceeded", 3, 0, 255),
    ("ttl-zero-during-transit", 3, 0, 0),
    ("ttl-zero-during-reassembly", 3, 1, 1),
    ("parameter-problem", 4, 0, 255),
    ("bad-header", 4, 0, 0),
    ("unknown-header-type", 4, 1, 1),
    ("unknown-option", 4, 2, 2),
    ("echo-request", 128, 0, 255),
    ("ping", 128, 0, 255),
    ("echo-reply", 129, 0, 255),
    ("pong", 129, 0, 255),
    ("mld-listener-query", 130, 0, 255),
    ("mld-listener-report", 131, 0, 255),
    ("mld-listener-done", 132, 0, 255),
    ("mld-listener-reduction", 132, 0, 255),
    ("router-solicitation", 133, 0, 255),
    ("router-advertisement", 134, 0, 255),
    ("neighbour-solicitation", 135, 0, 255),
    ("neighbor-solicitation", 135, 0, 255),
    ("neighbour-advertisement", 136, 0, 255),
    ("neighbor-advertisement", 136, 0, 255),
    ("redirect", 137, 0, 255),
];

#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Message {
    kind: u8,
    codes: (u8, u8),
    is_not: bool,
}

impl Message {
    pub(super) fn read(given: &Given<'_, '_>, known: &[Known], what: &str) -> Result<Message, Error> {
        let text = given.value;
        let is_not = given.is_negated;
        let lower = text.to_ascii_lowercase();
        let fits: Vec<&Known> =
            known.iter().filter(|(name, ..)| name.to_ascii_lowercase().starts_with(&lower)).collect();
        let exact = fits.iter().find(|(name, ..)| name.eq_ignore_ascii_case(text));
        if let Some(&&(_, kind, from, to)) = exact {
            return Ok(Message { kind, codes: (from, to), is_not });
        }
        match fits[..] {
            [&(_, kind, from, to)] => return Ok(Message { kind, codes: (from, to), is_not }),
            [(first, ..), (second, ..), ..] => {
                return Err(Error::parameter(format!(
                    "Ambiguous {what} type `{text}': `{first}' or `{second}'?"
                )));
            }
            [] => {}
        }
        let (kind, codes) = match text.split_once('/') {
            Some((kind, codes)) => (kind, Some(codes)),
            None => (text, None),
        };
        let byte = |text: &str| number(text).and_then(|value| u8::try_from(value).ok());
        let Some(kind) = byte(kind) else {
            return Err(Error::parameter(format!("Unknown {what} type `{text}'")));
        };
        let codes = match codes {
            None => (0, 255),
            Some(codes) => {
                let bad = || Error::parameter(format!("Unknown {what} code `{text}'"));
                match codes.split_once(':') {
                    None => byte(codes).map(|code| (code, code)).ok_or_else(bad)?,
                    Some((from, to)) => (byte(from).ok_or_else(bad)?, byte(to).ok_or_else(bad)?),
                }
            }
        };
        Ok(Message { kind, codes, is_not })
    }

    /// ICMP's 255 is all types, whatever the code.
    pub(super) fn is_any(&self) -> bool {
        self.kind == 255
    }

    pub(super) fn sign(&self) -> &'static str {
        not(self.is_not)
    }

    pub(super) fn save(&self, out: &mut String, option: &str) {
        put!(out, "{} --{option} {}", not(self.is_not), self.kind);
        match self.codes {
            (0, 255) => {}
            (from, to) if from == to => put!(out, "/{from}"),
            (from, to) => put!(out, "/{from}:{to}"),
        }
    }

    pub(super) fn list(&self, out: &mut String, known: &[Known], style: &Style<'_>) {
        let bang = if self.is_not { "!" } else { "" };
        let name = known.iter().find(|(_, kind, from, to)| *kind == self.kind && self.codes == (*from, *to));
        match name {
            Some((name, ..)) if !style.is_numeric => {
                put!(out, " {bang}{name}");
                return;
            }
            _ => {}
        }
        // As iptables has it: `icmptype 8`, `icmp !type 8`.
        if self.is_not {
            out.push(' ');
        }
        put!(out, "{bang}type {}", self.kind);
        match self.codes {
            (0, 255) => {}
            (from, to) if from == to => put!(out, " code {from}"),
            (from, to) => put!(out, " codes {from}-{to}"),
        }
    }

    pub(super) fn holds(&self, view: &View<'_>, is_any: bool) -> bool {
        let Some(&[kind, code, ..]) = view.transport().first_chunk::<4>() else { return false };
        let is_same = is_any || kind == self.kind && (self.codes.0..=self.codes.1).contains(&code);
        is_same != self.is_not
    }
}
