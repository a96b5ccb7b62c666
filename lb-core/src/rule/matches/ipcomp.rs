//! `ipcomp`: the parameters index of compressed packets (RFC 3173 §3.3).

use super::Match;
use crate::rule::prelude::*;
use crate::rule::span::Span;
use crate::wire::array;

#[derive(Clone, PartialEq, Debug)]
pub struct IpComp {
    cpi: Span,
    has_no_flags: bool,
}

impl Default for IpComp {
    fn default() -> IpComp {
        IpComp { cpi: Span::one(0), has_no_flags: false }
    }
}

impl Extension for IpComp {
    const NAME: &'static str = "ipcomp";
    const OPTIONS: &'static [Opt] = &[opt("ipcompspi", 0).negatable(), flag("compres", 1)];
    const PROTOCOL: Option<u8> = Some(108);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.cpi = Span::take(given)?,
            _ => self.has_no_flags = true,
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.cpi.save(out, "ipcompspi");
        out.push_str(if self.has_no_flags { " --compres" } else { "" });
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" comp ");
        self.cpi.list(out, "spi");
        out.push_str(if self.has_no_flags { " reserved" } else { "" });
    }
}

impl Match for IpComp {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(&[_, flags, high, low]) = array(view.transport(), 0) else { return false };
        self.cpi.holds(u16::from_be_bytes([high, low]).into()) && !(self.has_no_flags && flags != 0)
    }
}
