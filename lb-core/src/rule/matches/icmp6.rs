//! `icmp6`: type and code of ICMPv6 messages.

use super::Match;
use crate::rule::prelude::*;

use crate::rule::icmp::{ICMPV6, Message};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Icmp6(Message);

impl Extension for Icmp6 {
    const NAME: &'static str = "icmp6";
    const ALIASES: &'static [&'static str] = &["icmpv6", "ipv6-icmp"];
    const OPTIONS: &'static [Opt] = &[opt("icmpv6-type", 0).must().negatable()];
    const FAMILY: Option<Family> = Some(Family::Ipv6);
    const PROTOCOL: Option<u8> = Some(58);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.0 = Message::read(given, ICMPV6, "ICMPv6")?;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.0.save(out, "icmpv6-type");
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        out.push_str(" ipv6-icmp");
        self.0.list(out, ICMPV6, style);
    }
}

impl Match for Icmp6 {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        self.0.holds(view, false)
    }
}
