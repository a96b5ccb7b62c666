//! `rt`: IPv6's routing header (RFC 8200 §4.4), and the addresses of its type 0.

use super::Match;
use crate::rule::chain6::{Chain6, ROUTING};
use crate::rule::options::{address, ip};
use crate::rule::prelude::*;
use crate::rule::span::Span;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Routing {
    /// Each with whether it is not to be that; the length in bytes.
    kind: Option<(u32, bool)>,
    len: Option<(u32, bool)>,
    left: Span,
    has_no_reserved: bool,
    addresses: Vec<u128>,
    /// Others may stand between the addresses.
    is_loose: bool,
}

/// Addresses that a rule may have.
const MOST: usize = 16;

impl Routing {
    fn put_addresses(&self, out: &mut String) {
        for (at, address) in self.addresses.iter().enumerate() {
            put!(out, "{}{}", if at == 0 { " " } else { "," }, ip(*address, Family::Ipv6));
        }
    }

    fn are_there(&self, found: &[u8]) -> bool {
        let mut found = found.as_chunks().0.iter().map(|address| u128::from_be_bytes(*address));
        match self.is_loose {
            // Each is sought behind the one before.
            true => self.addresses.iter().all(|wanted| found.any(|address| address == *wanted)),
            false => self.addresses.is_empty() || found.eq(self.addresses.iter().copied()),
        }
    }
}

impl Extension for Routing {
    const NAME: &'static str = "rt";
    const OPTIONS: &'static [Opt] = &[
        opt("rt-type", 0).negatable(),
        opt("rt-segsleft", 1).negatable(),
        opt("rt-len", 2).negatable(),
        flag("rt-0-res", 3),
        opt("rt-0-addrs", 4),
        flag("rt-0-not-strict", 5),
    ];
    const FAMILY: Option<Family> = Some(Family::Ipv6);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let name = given.option.name;
        if given.id() >= 3 && self.kind != Some((0, false)) {
            return Err(Error::parameter(format!("`--rt-type 0' required before `--{name}'")));
        }
        match given.id() {
            0 => self.kind = Some((given.u32()?, given.is_negated)),
            1 => self.left = Span::take(given)?,
            2 => self.len = Some((given.u32()?, given.is_negated)),
            3 => self.has_no_reserved = true,
            4 => {
                for text in given.value.split(',') {
                    if self.addresses.len() == MOST {
                        return Err(Error::parameter("too many addresses specified"));
                    }
                    let address = address(text, Family::Ipv6);
                    self.addresses
                        .push(address.ok_or_else(|| Error::parameter(format!("bad address: {text}")))?);
                }
            }
            _ if self.addresses.is_empty() => {
                return Err(Error::parameter("`--rt-0-addr ...' required before `--rt-0-not-strict'"));
            }
            _ => self.is_loose = true,
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        if let Some((kind, is_not)) = self.kind {
            put!(out, "{} --rt-type {kind}", not(is_not));
        }
        self.left.save(out, "rt-segsleft");
        if let Some((len, is_not)) = self.len {
            put!(out, "{} --rt-len {len}", not(is_not));
        }
        out.push_str(if self.has_no_reserved { " --rt-0-res" } else { "" });
        if !self.addresses.is_empty() {
            out.push_str(" --rt-0-addrs");
            self.put_addresses(out);
        }
        out.push_str(if self.is_loose { " --rt-0-not-strict" } else { "" });
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        let sign = |is_not| if is_not { "!" } else { "" };
        out.push_str(" rt");
        if let Some((kind, is_not)) = self.kind {
            put!(out, " type:{}{kind}", sign(is_not));
        }
        if self.left != Span::default() {
            out.push(' ');
            self.left.list(out, "segsleft");
        }
        if let Some((len, is_not)) = self.len {
            put!(out, " length:{}{len}", sign(is_not));
        }
        out.push_str(if self.has_no_reserved { " reserved" } else { "" });
        if !self.addresses.is_empty() {
            out.push_str(" 0-addrs");
            self.put_addresses(out);
        }
        out.push_str(if self.is_loose { " 0-not-strict" } else { "" });
    }
}

impl Match for Routing {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(header) = Chain6::find(view, ROUTING) else { return false };
        let Some((&[_, _, kind, left, ref reserved @ ..], addresses)) = header.split_first_chunk::<8>()
        else {
            return false;
        };
        self.kind.is_none_or(|(wanted, is_not)| (u32::from(kind) == wanted) != is_not)
            && self.left.holds(left.into())
            && self.len.is_none_or(|(len, is_not)| (header.len() == len as usize) != is_not)
            && !(self.has_no_reserved && *reserved != [0; 4])
            && self.are_there(addresses)
    }
}
