//! `ecn`: what a packet says of congestion (RFC 3168): the codepoint in the IP header, two flags of TCP.

use super::Match;
use crate::rule::prelude::*;

const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// For each whether it is asked for, and then whether it is not to be so.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ecn {
    ece: Option<bool>,
    cwr: Option<bool>,
    codepoint: Option<(u8, bool)>,
}

impl Extension for Ecn {
    const NAME: &'static str = "ecn";
    const OPTIONS: &'static [Opt] = &[
        flag("ecn-tcp-ece", 0).negatable(),
        flag("ecn-tcp-cwr", 1).negatable(),
        opt("ecn-ip-ect", 2).negatable(),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.ece = Some(given.is_negated),
            1 => self.cwr = Some(given.is_negated),
            _ => self.codepoint = Some((given.number(0, 3)? as u8, given.is_negated)),
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen == 0 { Err(Error::parameter("ECN match: some option required")) } else { Ok(()) }
    }

    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        let is_tcp = place.header.protocol == 6 && !place.header.is_not_protocol;
        if is_tcp || (self.ece, self.cwr) == (None, None) { Ok(()) } else { Err(Refused::Invalid) }
    }

    fn save(&self, out: &mut String, _: Family) {
        if let Some(is_not) = self.ece {
            put!(out, "{} --ecn-tcp-ece", not(is_not));
        }
        if let Some(is_not) = self.cwr {
            put!(out, "{} --ecn-tcp-cwr", not(is_not));
        }
        if let Some((codepoint, is_not)) = self.codepoint {
            put!(out, "{} --ecn-ip-ect {codepoint}", not(is_not));
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        let sign = |is_not| if is_not { "!" } else { "" };
        out.push_str(" ECN match");
        if let Some(is_not) = self.ece {
            put!(out, " {}ECE", sign(is_not));
        }
        if let Some(is_not) = self.cwr {
            put!(out, " {}CWR", sign(is_not));
        }
        if let Some((codepoint, is_not)) = self.codepoint {
            put!(out, " {}ECT={codepoint}", sign(is_not));
        }
    }
}

impl Match for Ecn {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let is = |wanted: Option<bool>, bit: u8| {
            wanted.is_none_or(|is_not| {
                !view.is_later_fragment() && (view.headers.tcp_flags & bit != 0) != is_not
            })
        };
        is(self.ece, ECE)
            && is(self.cwr, CWR)
            && self.codepoint.is_none_or(|(codepoint, is_not)| (view.tos() & 3 == codepoint) != is_not)
    }
}
