//! `NETMAP`: one network becomes another, host by host: destinations where connections come in, sources where they leave.

use super::Target;
use crate::hook::Hook;
use crate::nat::{Manip, Range};
use crate::rule::header;
use crate::rule::options::{Prefix, ip};
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct NetMap {
    address: u128,
    mask: u128,
}

impl Extension for NetMap {
    const NAME: &'static str = "NETMAP";
    const OPTIONS: &'static [Opt] = &[opt("to", 0).must()];
    const TABLES: &'static [Table] = &[Table::Nat];
    /// PREROUTING, INPUT, OUTPUT, POSTROUTING.
    const HOOKS: u8 = 1 | 2 | 8 | 16;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let family = given.around.family;
        let Prefix { address, len } = given.prefix()?;
        let mask = header::prefix_mask(len.into(), family);
        (self.address, self.mask) = (address & mask, mask);
        Ok(())
    }

    fn save(&self, out: &mut String, family: Family) {
        out.push_str(" --to ");
        self.put(out, family);
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        out.push_str(" to:");
        self.put(out, style.family);
    }
}

impl NetMap {
    fn put(&self, out: &mut String, family: Family) {
        put!(out, "{}", ip(self.address, family));
        match header::prefix_len(self.mask, family) {
            Some(len) => put!(out, "/{len}"),
            None => put!(out, "/{}", ip(self.mask, family)),
        }
    }
}

impl Target for NetMap {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        let family = view.family();
        let last = self.address | (header::prefix_mask(family.bits(), family) & !self.mask);
        let manip = match view.hook {
            Hook::Prerouting | Hook::Output => Manip::Destination,
            _ => Manip::Source,
        };
        let addresses = Some((ip(self.address, family), ip(last, family)));
        Some(Verdict::Nat(manip, Range { addresses, is_netmap: true, ..Range::KEEP }))
    }

    fn hides_owner(&self, _: u8) -> bool {
        true
    }
}
