//! A range of ports that may be negated, as `tcp`, `udp`, `dccp` and `sctp` take and print it.

use super::list::Style;
use super::prelude::*;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Ports {
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) is_not: bool,
}

impl Default for Ports {
    fn default() -> Ports {
        Ports { from: 0, to: u16::MAX, is_not: false }
    }
}

impl Ports {
    pub(super) fn holds(&self, port: u16) -> bool {
        (self.from..=self.to).contains(&port) != self.is_not
    }

    /// Packets have one of these ports.
    pub(super) fn narrow(&self, field: Field, to: &mut Narrowed<'_>) {
        if !self.is_not && *self != Ports::default() {
            to.one_of_ports(field, &[(self.from, self.to)]);
        }
    }

    /// `is_second`: the option was there already.
    pub(super) fn take(
        &mut self,
        given: &Given<'_, '_>,
        protocol: &str,
        is_second: bool,
        long_name: &str,
    ) -> Result<(), Error> {
        if is_second {
            return Err(Error::parameter(format!("Only one `--{long_name}' allowed")));
        }
        let (from, to) = super::options::ports(given.value, protocol, given.around.names)?;
        *self = Ports { from, to, is_not: given.is_negated };
        Ok(())
    }

    /// As [`take`](Self::take), of `udp` and `dccp`.
    pub(super) fn take_any(&mut self, given: &Given<'_, '_>, protocol: &str) -> Result<(), Error> {
        let (from, to) = super::options::any_ports(given, protocol)?;
        *self = Ports { from, to, is_not: given.is_negated };
        Ok(())
    }

    pub(super) fn save(&self, out: &mut String, option: &str) {
        if self.from == 0 && self.to == u16::MAX && !self.is_not {
            return;
        }
        put!(out, "{} --{option} {}", not(self.is_not), self.from);
        if self.to != self.from {
            put!(out, ":{}", self.to);
        }
    }

    pub(super) fn list(&self, out: &mut String, name: &str, style: &Style<'_>, protocol: &str) {
        if self.from == 0 && self.to == u16::MAX && !self.is_not {
            return;
        }
        let bang = if self.is_not { "!" } else { "" };
        let from = style.port(self.from, protocol);
        if self.from == self.to {
            put!(out, " {name}:{bang}{from}");
        } else {
            put!(out, " {name}s:{bang}{from}:{}", style.port(self.to, protocol));
        }
    }
}
