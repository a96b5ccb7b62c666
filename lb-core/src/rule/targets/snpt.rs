//! `SNPT` and `DNPT`: the prefix of a packet's source, or destination, becomes another, packet by packet (RFC 6296). A packet of a connection that is tracked
//! is translated as the first one was, and its answers back.
//!
//! Source of the facts: Linux, `net/ipv6/netfilter/ip6t_NPT.c`; what is printed and refused: recorded from iptables 1.8.9.

use std::net::IpAddr;

use super::{Refusal, Target};
use crate::npt::{LONGEST, Translation};
use crate::rule::options::{Prefix, ip};
use crate::rule::prelude::*;
use crate::rule::view::Verdict;
use crate::wire::ipv6;

/// What both say. `DESTINATION`: which end is translated.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PrefixTranslation<const DESTINATION: bool>(Translation);

pub(super) type SourcePrefix = PrefixTranslation<false>;
pub(super) type DestinationPrefix = PrefixTranslation<true>;

const OPTIONS: &[Opt] = &[opt("src-pfx", 0).must(), opt("dst-pfx", 1).must()];

impl<const DESTINATION: bool> Extension for PrefixTranslation<DESTINATION> {
    const NAME: &'static str = if DESTINATION { "DNPT" } else { "SNPT" };
    const OPTIONS: &'static [Opt] = OPTIONS;
    const FAMILY: Option<Family> = Some(Family::Ipv6);
    const TABLES: &'static [Table] = &[Table::Mangle];
    /// PREROUTING, OUTPUT; INPUT, POSTROUTING.
    const HOOKS: u8 = if DESTINATION { 1 | 8 } else { 2 | 16 };

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let Prefix { address, len } = given.prefix()?;
        match given.id() {
            0 => (self.0.from, self.0.from_len) = (address, len),
            _ => (self.0.to, self.0.to_len) = (address, len),
        }
        Ok(())
    }

    fn check(&self, _: &Place<'_>) -> Result<(), Refused> {
        let is_prefix = |prefix: u128, len: u8| {
            len <= LONGEST && prefix.checked_shl(len.into()).unwrap_or(0) == 0
        };
        let is_fine = is_prefix(self.0.from, self.0.from_len) && is_prefix(self.0.to, self.0.to_len);
        if is_fine { Ok(()) } else { Err(Refused::Invalid) }
    }

    fn save(&self, out: &mut String, family: Family) {
        self.put(out, family, " --");
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        put!(out, " {}", Self::NAME);
        self.put(out, style.family, " ");
    }
}

impl<const DESTINATION: bool> PrefixTranslation<DESTINATION> {
    fn put(&self, out: &mut String, family: Family, dashes: &str) {
        let Translation { from, from_len, to, to_len } = self.0;
        put!(out, "{dashes}src-pfx {}/{from_len}", ip(from, family));
        put!(out, "{dashes}dst-pfx {}/{to_len}", ip(to, family));
    }

    /// Writes what a packet of no connection becomes: its end, and of the packet that an ICMPv6 error quotes the other one, so that who is told knows it.
    fn write(&self, view: &mut View<'_>, mapped: u128) {
        const ERRORS: std::ops::RangeInclusive<u8> = 1..=4;
        let l3 = usize::from(view.headers.l3);
        let (end, other) = if DESTINATION { (24, 8) } else { (8, 24) };
        let is_error = !view.is_later_fragment() && view.headers.protocol == crate::tables::Protocol::ICMPV6;
        let quoted = usize::from(view.headers.l4) + 8 + other;
        if let Some(bytes) = view.frame.get_mut(l3 + end..).and_then(<[u8]>::first_chunk_mut) {
            *bytes = mapped.to_be_bytes();
        }
        let is_error = is_error && view.transport().len() >= 8 + ipv6::LEN && ERRORS.contains(&view.headers.icmp_type);
        let quoted = view.frame.get_mut(quoted..).and_then(<[u8]>::first_chunk_mut).filter(|_| is_error);
        if let Some(bytes) = quoted
            && let address = u128::from_be_bytes(*bytes)
            && self.0.has(address)
            && let Some(mapped) = self.0.map(address)
        {
            *bytes = mapped.to_be_bytes();
        }
    }
}

impl<const DESTINATION: bool> Target for PrefixTranslation<DESTINATION> {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        let end = if DESTINATION { &mut view.tuple.dst } else { &mut view.tuple.src };
        let IpAddr::V6(address) = *end else { return None };
        let Some(mapped) = self.0.map(address.into()) else {
            // Where that end is in the IPv6 header.
            return Some(Verdict::Reject(Refusal::Field(if DESTINATION { 24 } else { 8 })));
        };
        view.effects.has_tuple |= mapped != u128::from(address);
        *end = IpAddr::V6(mapped.into());
        // Another's frame is written when its connection says what it becomes.
        if view.connection.is_none() && view.service.is_none() {
            self.write(view, mapped);
        }
        None
    }

    /// What a connection becomes is said once, by its first packet.
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn hides_owner(&self, _: u8) -> bool {
        true
    }
}
