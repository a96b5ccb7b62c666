//! `tcp`: ports, flags, one option.

use super::Match;
use crate::rule::prelude::*;

use crate::rule::ports::Ports;
use crate::rule::text::number;
use crate::wire::tcp;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tcp {
    source: Ports,
    destination: Ports,
    flags: Flags,
    /// Kind of a TCP option; 0: none asked for.
    option: u8,
    is_not_option: bool,
    seen: u8,
}

/// Of the flags in a mask those that must be set, and no others.
#[derive(Clone, PartialEq, Debug, Default)]
struct Flags {
    mask: u8,
    set: u8,
    is_not: bool,
}

/// In the order in which they are printed.
const FLAGS: [(&str, u8); 6] = [("FIN", 1), ("SYN", 2), ("RST", 4), ("PSH", 8), ("ACK", 16), ("URG", 32)];
/// SYN, RST, ACK and FIN.
const SYN_MASK: u8 = 0x17;

fn read_flags(text: &str) -> Result<u8, Error> {
    let mut flags = 0;
    for name in text.split(',').filter(|name| !name.is_empty()) {
        flags |= match name.to_ascii_uppercase().as_str() {
            "ALL" => 0x3f,
            "NONE" => 0,
            upper => FLAGS
                .iter()
                .find(|(known, _)| *known == upper)
                .map(|(_, bit)| *bit)
                .ok_or_else(|| Error::parameter(format!("Unknown TCP flag `{name}'")))?,
        };
    }
    Ok(flags)
}

fn put_flags(out: &mut String, flags: u8) {
    if flags == 0 {
        out.push_str("NONE");
    }
    let mut comma = "";
    for (name, _) in FLAGS.iter().filter(|(_, bit)| flags & bit != 0) {
        put!(out, "{comma}{name}");
        comma = ",";
    }
}

impl Tcp {
    pub(crate) fn asks_for_syn(&self) -> bool {
        self.flags.set & tcp::SYN != 0 && !self.flags.is_not
    }
}

impl Extension for Tcp {
    const NAME: &'static str = "tcp";
    const OPTIONS: &'static [Opt] = &[
        opt("source-port", 0).negatable().repeats(),
        opt("sport", 0).negatable().repeats(),
        opt("destination-port", 1).negatable().repeats(),
        opt("dport", 1).negatable().repeats(),
        flag("syn", 2).negatable().repeats(),
        opt("tcp-flags", 3).negatable().repeats(),
        opt("tcp-option", 4).negatable().repeats(),
    ];
    const PROTOCOL: Option<u8> = Some(6);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let bit = match given.id() {
            2 | 3 => 1 << 2,
            id => 1 << id,
        };
        let is_second = self.seen & bit != 0;
        self.seen |= bit;
        match given.id() {
            0 => self.source.take(given, "tcp", is_second, "source-port")?,
            1 => self.destination.take(given, "tcp", is_second, "destination-port")?,
            2 | 3 if is_second => {
                return Err(Error::parameter("Only one of `--syn' or `--tcp-flags'  allowed"));
            }
            2 => self.flags = Flags { mask: SYN_MASK, set: 2, is_not: given.is_negated },
            3 => {
                let set = given.more.next_value().ok_or_else(|| Error::parameter("--tcp-flags requires two args."))?;
                self.flags =
                    Flags { mask: read_flags(given.value)?, set: read_flags(set)?, is_not: given.is_negated };
            }
            _ if is_second => return Err(Error::parameter("Only one `--tcp-option' allowed")),
            _ => {
                let kind = number(given.value).filter(|kind| (1..=255).contains(kind));
                self.option =
                    kind.ok_or_else(|| Error::parameter(format!("Bad TCP option \"{}\"", given.value)))? as u8;
                self.is_not_option = given.is_negated;
            }
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.source.save(out, "sport");
        self.destination.save(out, "dport");
        if self.option != 0 {
            put!(out, "{} --tcp-option {}", not(self.is_not_option), self.option);
        }
        if self.flags.mask != 0 || self.flags.is_not {
            put!(out, "{} --tcp-flags ", not(self.flags.is_not));
            if self.flags.mask == 0xff { out.push_str("ALL") } else { put_flags(out, self.flags.mask) }
            out.push(' ');
            put_flags(out, self.flags.set);
        }
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        out.push_str(" tcp");
        self.source.list(out, "spt", style, "tcp");
        self.destination.list(out, "dpt", style, "tcp");
        if self.option != 0 {
            put!(out, " option={}{}", if self.is_not_option { "!" } else { "" }, self.option);
        }
        if self.flags.mask != 0 || self.flags.is_not {
            put!(out, " flags:{}", if self.flags.is_not { "!" } else { "" });
            if style.is_numeric {
                put!(out, "0x{:02X}/0x{:02X}", self.flags.mask, self.flags.set);
            } else {
                put_flags(out, self.flags.mask);
                out.push('/');
                put_flags(out, self.flags.set);
            }
        }
    }
}

impl Match for Tcp {
    fn depends(&self) -> Depends {
        let is_of_ports = self.flags == Flags::default() && self.option == 0;
        if is_of_ports { Depends::Flow } else { Depends::Packet }
    }

    fn narrow(&self, to: &mut Narrowed<'_>) {
        self.source.narrow(Field::SourcePort, to);
        self.destination.narrow(Field::DestinationPort, to);
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some((source, destination)) = view.ports() else { return false };
        if !self.source.holds(source) || !self.destination.holds(destination) {
            return false;
        }
        let Flags { mask, set, is_not } = self.flags;
        if (view.headers.tcp_flags & mask == set) == is_not {
            return false;
        }
        self.option == 0
            || view.tcp().is_some_and(|header| has_option(header, self.option) != self.is_not_option)
    }
}

/// Whether a header has an option of this kind. Where options end says nothing here, as in the kernel.
///
/// Source: Linux, `net/netfilter/xt_tcpudp.c`, and packets given to it (`tests/oracle/matches.txt`).
fn has_option(header: &[u8], kind: u8) -> bool {
    let mut at = tcp::LEN;
    while let Some(&found) = header.get(at) {
        if found == kind {
            return true;
        }
        let len = header.get(at + 1).copied().unwrap_or_default();
        at += if found < 2 { 1 } else { usize::from(len).max(1) };
    }
    false
}
