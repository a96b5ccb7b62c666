//! `ipvs`: the virtual service that has a packet's connection.
//!
//! As in the kernel a packet is one of IPVS from where IPVS has looked at it: a request at OUTPUT and POSTROUTING, an answer at POSTROUTING.
//!
//! Source of the facts: Linux, `net/netfilter/xt_ipvs.c`; recorded lines.

use super::Match;
use crate::flow::Method;
use crate::hook::Hook;
use crate::rule::header::{prefix_len, prefix_mask};
use crate::rule::names;
use crate::rule::options::{Prefix, bits, ip, port};
use crate::rule::prelude::*;
use crate::rule::view::Service;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ipvs {
    /// Whether a packet is one of IPVS at all.
    is_any: Option<Not>,
    protocol: Option<(u8, Not)>,
    /// Address as written, and the mask of what counts of it.
    address: Option<((u128, u128), Not)>,
    port: Option<(u16, Not)>,
    is_reply: Option<(bool, Not)>,
    method: Option<(Method, Not)>,
    /// Virtual port of the persistence template of the connection.
    control: Option<(u16, Not)>,
}

/// Written with `!`.
type Not = bool;

const METHODS: [(&str, Method); 3] = [("GATE", Method::Direct), ("IPIP", Method::Tunnel), ("MASQ", Method::Masq)];

impl Extension for Ipvs {
    const NAME: &'static str = "ipvs";
    const OPTIONS: &'static [Opt] = &[
        flag("ipvs", 0).negatable(),
        opt("vproto", 1).negatable(),
        opt("vaddr", 2).negatable(),
        opt("vport", 3).negatable(),
        opt("vdir", 4),
        opt("vmethod", 5).negatable(),
        opt("vportctl", 6).negatable(),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let (text, is_not, around) = (given.value, given.is_negated, given.around);
        let bad = || {
            Error::parameter(format!("ipvs: Bad value for \"--{}\" option: \"{text}\"\n", given.option.name))
        };
        match given.id() {
            0 => self.is_any = Some(is_not),
            1 => {
                let protocol = names::protocol(text, around.names);
                let unknown = || Error::parameter(format!("unknown protocol \"{text}\" specified"));
                self.protocol = Some((protocol.ok_or_else(unknown)?, is_not));
            }
            2 => {
                let Prefix { address, len } = given.prefix()?;
                self.address = Some(((address, prefix_mask(len.into(), around.family)), is_not));
            }
            3 => self.port = Some((port(text, "", around.names)?, is_not)),
            4 => {
                let is_reply = match text.to_ascii_uppercase().as_str() {
                    "ORIGINAL" => false,
                    "REPLY" => true,
                    _ => return Err(bad()),
                };
                self.is_reply = Some((is_reply, is_not));
            }
            5 => {
                let known = METHODS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
                self.method = Some((known.ok_or_else(bad)?.1, is_not));
            }
            _ => self.control = Some((port(text, "", around.names)?, is_not)),
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        if seen == 0 { Err(Error::parameter("IPVS: At least one option is required")) } else { Ok(()) }
    }

    fn save(&self, out: &mut String, family: Family) {
        self.put(out, " --", family);
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        self.put(out, " ", style.family);
    }
}

impl Ipvs {
    fn put(&self, out: &mut String, dashes: &str, family: Family) {
        let address = |(address, mask): (u128, u128)| match prefix_len(mask, family) {
            Some(len) if len == family.bits() => ip(address, family).to_string(),
            Some(len) => format!("{}/{len}", ip(address, family)),
            None => format!("{}/{}", ip(address, family), ip(mask, family)),
        };
        let direction = |is_reply| if is_reply { "REPLY" } else { "ORIGINAL" };
        let method = |method| METHODS.iter().find(|(_, known)| *known == method).map_or("", |(name, _)| name);
        let words = [
            ("vproto", self.protocol.map(|(number, is_not)| (number.to_string(), is_not))),
            ("vaddr", self.address.map(|(net, is_not)| (address(net), is_not))),
            ("vport", self.port.map(|(port, is_not)| (port.to_string(), is_not))),
            ("vdir", self.is_reply.map(|(is_reply, is_not)| (direction(is_reply).to_owned(), is_not))),
            ("vmethod", self.method.map(|(is, is_not)| (method(is).to_owned(), is_not))),
            ("vportctl", self.control.map(|(port, is_not)| (port.to_string(), is_not))),
        ];
        if let Some(is_not) = self.is_any {
            put!(out, "{}{dashes}ipvs", not(is_not));
        }
        for (name, word) in words {
            if let Some((word, is_not)) = word {
                put!(out, "{}{dashes}{name} {word}", not(is_not));
            }
        }
    }

    /// Everything but [`is_any`](Self::is_any).
    fn is_of(&self, service: &Service, view: &View<'_>) -> bool {
        let is_reply = view.connection.is_some_and(|connection| connection.is_reply);
        holds(self.protocol, |is| is == view.protocol())
            && holds(self.address, |(address, mask)| (bits(service.address) ^ address) & mask == 0)
            && holds(self.port, |is| is == service.port)
            && holds(self.is_reply, |is| is == is_reply)
            && holds(self.method, |is| is == service.method)
            && holds(self.control, |is| service.held_by == Some(is))
    }

    fn has_more(&self) -> bool {
        self.protocol.is_some()
            || self.address.is_some()
            || self.port.is_some()
            || self.is_reply.is_some()
            || self.method.is_some()
            || self.control.is_some()
    }
}

/// What was not asked for holds.
fn holds<T>(wanted: Option<(T, Not)>, is: impl Fn(T) -> bool) -> bool {
    wanted.is_none_or(|(wanted, is_not)| is(wanted) != is_not)
}

impl Match for Ipvs {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let is_behind = matches!(view.hook, Hook::Output | Hook::Postrouting);
        match view.service.filter(|_| is_behind) {
            Some(service) if self.has_more() => self.is_of(&service, view),
            None if self.has_more() => false,
            service => service.is_some() != self.is_any.unwrap_or_default(),
        }
    }
}
