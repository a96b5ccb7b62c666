//! `esp`: the security parameters index of ESP (RFC 4303 §2).

use super::Match;
use crate::rule::prelude::*;
use crate::rule::span::Span;
use crate::wire::array;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Esp {
    spi: Span,
}

impl Extension for Esp {
    const NAME: &'static str = "esp";
    const OPTIONS: &'static [Opt] = &[opt("espspi", 0).negatable()];
    const PROTOCOL: Option<u8> = Some(50);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.spi = Span::take(given)?;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.spi.save(out, "espspi");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" esp");
        if self.spi != Span::default() {
            out.push(' ');
            self.spi.list(out, "spi");
        }
    }
}

impl Match for Esp {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        array(view.transport(), 0).is_some_and(|spi| self.spi.holds(u32::from_be_bytes(*spi)))
    }
}
