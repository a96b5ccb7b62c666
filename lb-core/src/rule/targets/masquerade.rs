//! `MASQUERADE`: the connection comes from the address of this host that goes with the interface by which it leaves, and its next hop there
//! ([`OwnAddresses`](crate::tables::OwnAddresses)). It is known as masqueraded from then on: where that address or interface goes, it ends.
//!
//! Source of the facts: Linux, `net/netfilter/nf_nat_masquerade.c`; iptables-extensions(8).

use super::Target;
use crate::nat::{Manip, Range};
use crate::rule::prelude::*;
use crate::rule::translation::{Base, Translation};
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Masquerade {
    to: Translation,
}

impl Extension for Masquerade {
    const NAME: &'static str = "MASQUERADE";
    const OPTIONS: &'static [Opt] = &[opt("to-ports", 0), flag("random", 1), flag("random-fully", 2)];
    const TABLES: &'static [Table] = &[Table::Nat];
    /// POSTROUTING.
    const HOOKS: u8 = 16;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.to.take_ports(given.value, given.around, Base::Lost)?,
            flag => self.to.take_flag(flag),
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.to.put_ports(out, " --to-ports ");
        self.to.put_flags(out, "--");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        self.to.put_ports(out, " masq ports: ");
        self.to.put_flags(out, "");
    }
}

impl Target for Masquerade {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        let source = view.output.and_then(|output| view.tables.source_towards(output, view.tuple.dst));
        let Some(address) = source else { return Some(Verdict::Drop) };
        view.effects.masquerades = true;
        let range = Range { addresses: Some((address, address)), ..self.to.range(view.family()) };
        Some(Verdict::Nat(Manip::Source, range))
    }
}
