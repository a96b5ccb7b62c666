//! `REDIRECT`: the connection comes to this host, at the interface that its first packet came in by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Target;
use crate::nat::{Manip, Range};
use crate::rule::prelude::*;
use crate::rule::translation::{Base, Translation, interface_address};
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Redirect {
    to: Translation,
}

impl Extension for Redirect {
    const NAME: &'static str = "REDIRECT";
    const OPTIONS: &'static [Opt] = &[opt("to-ports", 0), flag("random", 1)];
    const TABLES: &'static [Table] = &[Table::Nat];
    /// PREROUTING and OUTPUT.
    const HOOKS: u8 = 1 | 8;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.to.take_ports(given.value, given.around, Base::Refused)?,
            flag => self.to.take_flag(flag),
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.to.put_ports(out, " --to-ports ");
        self.to.put_flags(out, "--");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        self.to.put_ports(out, " redir ports ");
        self.to.put_flags(out, "");
    }
}

impl Target for Redirect {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        let address = match view.input {
            Some(input) => interface_address(view, Some(input)),
            None => Some(match view.family() {
                Family::Ipv4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
                Family::Ipv6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
            }),
        };
        let Some(address) = address else { return Some(Verdict::Drop) };
        let range = Range { addresses: Some((address, address)), ..self.to.range(view.family()) };
        Some(Verdict::Nat(Manip::Destination, range))
    }

    fn hides_owner(&self, _: u8) -> bool {
        true
    }
}
