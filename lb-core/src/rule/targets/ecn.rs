//! `ECN`: writes what an IPv4 packet says of congestion (RFC 3168), mostly so that TCP does not use it towards who cannot bear it.

use super::Target;
use crate::rule::edit;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct EcnTarget {
    ece: Option<bool>,
    cwr: Option<bool>,
    codepoint: Option<u8>,
}

/// Options for TCP's flags one by one.
const FLAGS: u32 = 1 << 1 | 1 << 2;

impl EcnTarget {
    /// It is what `--ecn-tcp-remove` says.
    fn removes(&self) -> bool {
        (self.ece, self.cwr, self.codepoint) == (Some(false), Some(false), None)
    }
}

impl Extension for EcnTarget {
    const NAME: &'static str = "ECN";
    const OPTIONS: &'static [Opt] = &[
        flag("ecn-tcp-remove", 0).not_with(FLAGS),
        opt("ecn-tcp-cwr", 1).not_with(1),
        opt("ecn-tcp-ece", 2).not_with(1),
        opt("ecn-ip-ect", 3),
    ];
    const FAMILY: Option<Family> = Some(Family::Ipv4);
    const TABLES: &'static [Table] = &[Table::Mangle];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => (self.ece, self.cwr) = (Some(false), Some(false)),
            1 => self.cwr = Some(given.number(0, 1)? == 1),
            2 => self.ece = Some(given.number(0, 1)? == 1),
            _ => self.codepoint = Some(given.number(0, 3)? as u8),
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen == 0 { Err(Error::parameter("ECN target: An operation is required")) } else { Ok(()) }
    }

    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        let is_tcp = place.header.protocol == 6 && !place.header.is_not_protocol;
        let is_of_tcp = self.ece.is_some() || self.cwr.is_some();
        if is_of_tcp && !is_tcp { Err(Refused::Invalid) } else { Ok(()) }
    }

    fn save(&self, out: &mut String, _: Family) {
        if self.removes() {
            out.push_str(" --ecn-tcp-remove");
            return;
        }
        if let Some(ece) = self.ece {
            put!(out, " --ecn-tcp-ece {}", u8::from(ece));
        }
        if let Some(cwr) = self.cwr {
            put!(out, " --ecn-tcp-cwr {}", u8::from(cwr));
        }
        if let Some(codepoint) = self.codepoint {
            put!(out, " --ecn-ip-ect {codepoint}");
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" ECN");
        if self.removes() {
            out.push_str(" TCP remove");
            return;
        }
        if let Some(ece) = self.ece {
            put!(out, " ECE={}", u8::from(ece));
        }
        if let Some(cwr) = self.cwr {
            put!(out, " CWR={}", u8::from(cwr));
        }
        if let Some(codepoint) = self.codepoint {
            put!(out, " ECT codepoint={codepoint}");
        }
    }
}

impl Target for EcnTarget {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        if let Some(codepoint) = self.codepoint {
            edit::set_tos(view, codepoint, 3);
        }
        let flags = [(ECE, self.ece), (CWR, self.cwr)];
        let written = flags.iter().filter(|(_, is)| is.is_some()).fold(0, |all, (bit, _)| all | bit);
        let set = flags.iter().filter(|(_, is)| *is == Some(true)).fold(0, |all, (bit, _)| all | bit);
        if written != 0 {
            edit::set_tcp_flags(view, set, written);
        }
        None
    }
}
