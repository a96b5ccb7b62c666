//! `icmp`: type and code of ICMP messages.

use super::Match;
use crate::rule::prelude::*;

use crate::rule::icmp::{ICMP, Message};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Icmp(Message);

impl Extension for Icmp {
    const NAME: &'static str = "icmp";
    const OPTIONS: &'static [Opt] = &[opt("icmp-type", 0).must().negatable()];
    const FAMILY: Option<Family> = Some(Family::Ipv4);
    const PROTOCOL: Option<u8> = Some(1);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.0 = Message::read(given, ICMP, "ICMP")?;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        if self.0.is_any() {
            put!(out, "{} --icmp-type any", self.0.sign());
        } else {
            self.0.save(out, "icmp-type");
        }
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        out.push_str(" icmp");
        self.0.list(out, ICMP, style);
    }
}

impl Match for Icmp {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        self.0.holds(view, self.0.is_any())
    }
}
