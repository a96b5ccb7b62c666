//! What the targets of table `nat` have in common: a range of addresses and ports, read and printed.

use std::net::IpAddr;

use super::options::ip;
use super::prelude::*;
use super::text::{leading_number, number};
use crate::nat::{PortChoice, Range};

/// Addresses, ports and flags, as a target says them.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Translation {
    pub(super) addresses: Option<(u128, u128)>,
    pub(super) ports: Option<(u16, u16)>,
    pub(super) base_port: Option<u16>,
    pub(super) is_random: bool,
    pub(super) is_fully_random: bool,
    pub(super) is_persistent: bool,
}

/// What becomes of the base of a range of ports (`1000-2000/BASE`), by target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Base {
    Kept,
    /// It is 0, whatever it was: the kernel has no room for it there.
    Lost,
    Refused,
}

/// Of what ports may be said: ICMP, whose identifiers are meant, TCP, UDP, DCCP, SCTP. Also where the rule says `! -p`, as iptables does.
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 1 | 6 | 17 | 33 | 132)
}

impl Translation {
    /// `address[-address][:port[-port][/base]]`, IPv6 with ports in brackets.
    pub(super) fn take(&mut self, given: &Given<'_, '_>, base: Base) -> Result<(), Error> {
        let text = given.value;
        let (addresses, ports) = match given.around.family {
            Family::Ipv6 => match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((addresses, "")) => (addresses, None),
                Some((addresses, rest)) => (
                    addresses,
                    Some(
                        rest.strip_prefix(':')
                            .ok_or_else(|| Error::parameter("Invalid port:port syntax - use dash\n"))?,
                    ),
                ),
                // One colon is no address's.
                None => match text.split_once(':').filter(|(_, rest)| !rest.contains(':')) {
                    Some((addresses, ports)) => (addresses, Some(ports)),
                    None => (text, None),
                },
            },
            Family::Ipv4 => match text.split_once(':') {
                Some((addresses, ports)) => (addresses, Some(ports)),
                None => (text, None),
            },
        };
        if let Some(ports) = ports {
            self.take_ports(ports, given.around, base)?;
        }
        if !addresses.is_empty() || ports.is_none() {
            let (first, last) = addresses.split_once('-').unwrap_or((addresses, addresses));
            let address = |text: &str| {
                super::options::address(text, given.around.family)
                    .ok_or_else(|| Error::parameter(format!("Bad IP address \"{text}\"")))
            };
            let (first, last) = (address(first)?, address(last)?);
            self.addresses = Some((first, last));
        }
        Ok(())
    }

    /// `port[-port][/base]`.
    pub(super) fn take_ports(&mut self, text: &str, around: &Around<'_>, wanted: Base) -> Result<(), Error> {
        if !has_ports(around.protocol) {
            return Err(Error::parameter("Need TCP, UDP, SCTP or DCCP with port specification"));
        }
        if text.contains(':') {
            return Err(Error::parameter("Invalid port:port syntax - use dash\n"));
        }
        let bad = |text: &str| Error::parameter(format!("Port `{text}' not valid"));
        let port = |text: &str| number(text).and_then(|port| u16::try_from(port).ok());
        let named = |text: &str| around.names.service(text, around.port_protocol().unwrap_or_default());
        // A name stands alone: it may have dashes itself.
        let Some((first, rest)) = leading_number(text) else {
            let named = named(text).ok_or_else(|| bad(text))?;
            (self.ports, self.base_port) = (Some((named, named)), None);
            return Ok(());
        };
        let first = u16::try_from(first).map_err(|_| bad(text))?;
        let Some(rest) = rest.strip_prefix('-') else {
            if !rest.is_empty() {
                return Err(Error::parameter(format!("Garbage after port value: `{rest}'")));
            }
            (self.ports, self.base_port) = (Some((first, first)), None);
            return Ok(());
        };
        let (last, base) = rest.split_once('/').map_or((rest, None), |(last, base)| (last, Some(base)));
        if let Some((_, garbage)) = leading_number(last).filter(|(_, garbage)| !garbage.is_empty()) {
            return Err(Error::parameter(format!("Garbage after port range: `{garbage}'")));
        }
        let last = port(last).ok_or_else(|| bad(last))?;
        if first > last {
            return Err(Error::parameter(format!("Port range `{last}' funky")));
        }
        let base = match base {
            Some(text) => {
                let found = if number(text).is_some() { port(text) } else { named(text) };
                // A 0 is what was saved of any, which iptables does not take.
                let is_saved = !around.are_typed && wanted == Base::Lost;
                let found = found.filter(|found| *found > 0 || is_saved).ok_or_else(|| bad(text))?;
                match wanted {
                    Base::Refused => {
                        return Err(Error::parameter(
                            "Shifted portmap ranges not supported with this kernel",
                        ));
                    }
                    Base::Lost => Some(0),
                    Base::Kept => Some(found),
                }
            }
            None => None,
        };
        (self.ports, self.base_port) = (Some((first, last)), base);
        Ok(())
    }

    /// The flags by their options' identifiers, which are the same for all targets.
    pub(super) fn take_flag(&mut self, id: u8) {
        match id {
            1 => self.is_random = true,
            2 => self.is_fully_random = true,
            _ => self.is_persistent = true,
        }
    }

    /// Ports alone, if there are any: `before` them.
    pub(super) fn put_ports(&self, out: &mut String, before: &str) {
        if let Some((first, last)) = self.ports {
            put!(out, "{before}{first}");
            if last != first {
                put!(out, "-{last}");
            }
        }
        if let Some(base) = self.base_port {
            put!(out, "/{base}");
        }
    }

    /// As `--to-…` has it.
    pub(super) fn shown(&self, family: Family) -> String {
        let mut out = String::new();
        let is_bracketed = family == Family::Ipv6 && self.ports.is_some();
        if let Some((first, last)) = self.addresses {
            if is_bracketed {
                out.push('[');
            }
            put!(out, "{}", ip(first, family));
            if last != first {
                put!(out, "-{}", ip(last, family));
            }
            if is_bracketed {
                out.push(']');
            }
        }
        self.put_ports(&mut out, ":");
        out
    }

    /// Each after a space; `dashes` before each.
    pub(super) fn put_flags(&self, out: &mut String, dashes: &str) {
        for (is_set, name) in [
            (self.is_random, "random"),
            (self.is_fully_random, "random-fully"),
            (self.is_persistent, "persistent"),
        ] {
            if is_set {
                put!(out, " {dashes}{name}");
            }
        }
    }

    pub(super) fn range(&self, family: Family) -> Range {
        Range {
            // Better: one that ends before it begins is the same as the other way round; the kernel leaves both behind.
            addresses: self
                .addresses
                .map(|(one, other)| (ip(one.min(other), family), ip(one.max(other), family))),
            ports: self.ports,
            base_port: self.base_port,
            choice: if self.is_random || self.is_fully_random {
                PortChoice::Random
            } else {
                PortChoice::Near
            },
            is_persistent: self.is_persistent,
            is_netmap: false,
        }
    }
}

/// The address of ours by which packets leave or come in at an interface.
pub(super) fn interface_address(
    view: &View<'_>,
    interface: Option<crate::tables::InterfaceId>,
) -> Option<IpAddr> {
    let interface = view.tables.interfaces.get(interface?)?;
    match view.family() {
        Family::Ipv4 => interface.ipv4.map(IpAddr::V4),
        Family::Ipv6 => interface.ipv6.map(IpAddr::V6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_ends_before_it_begins_is_printed_so_and_is_the_same_range() {
        let backwards = Translation { addresses: Some((9, 3)), ..Translation::default() };
        assert_eq!(backwards.shown(Family::Ipv4), "0.0.0.9-0.0.0.3");
        assert_eq!(backwards.range(Family::Ipv4).addresses, Some((ip(3, Family::Ipv4), ip(9, Family::Ipv4))));
    }
}
