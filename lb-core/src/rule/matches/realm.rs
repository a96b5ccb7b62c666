//! `realm`: the realms of the routes that an IPv4 packet is routed by (`ip route … realm 5`).
//!
//! Which that is differs by hook, as in the kernel: at INPUT it is the source's way that counts, at OUTPUT the destination's, at FORWARD both. POSTROUTING sees what the packet was routed by
//! last: what a virtual service sends on, and its answers, have had their route looked up again by the destination alone.
//!
//! Source of the facts: Linux 6.18, asked; `net/netfilter/xt_realm.c`; of IPVS `net/netfilter/ipvs/ip_vs_core.c` (`ip_vs_route_me_harder`) and `ip_vs_xmit.c`. What is printed and refused:
//! recorded from iptables 1.8.9.

use std::net::IpAddr;

use super::Match;
use crate::flow::Method;
use crate::hook::Hook;
use crate::rule::names::{Names, Numeric};
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Realm {
    value: u32,
    mask: u32,
    is_not: bool,
}

impl Realm {
    fn put(&self, out: &mut String, name: &str, names: &dyn Names) {
        put!(out, "{} {name} ", not(self.is_not));
        match (names.realm_name(self.value), self.mask) {
            (Some(known), u32::MAX) => out.push_str(&known),
            (None, u32::MAX) => put!(out, "{:#x}", self.value),
            (_, mask) => put!(out, "{:#x}/{mask:#x}", self.value),
        }
    }
}

/// The packet's, as the kernel puts them together.
fn realms(view: &View<'_>) -> u32 {
    let routes = &view.tables.routes;
    let is_forwarded = view.input.is_some() && view.service.is_none();
    match view.hook {
        Hook::Input => routes.realms(view.tuple.src).of_received(),
        Hook::Forward => routes.realms(view.tuple.dst).of_forwarded(routes.realms(view.tuple.src)),
        Hook::Postrouting if is_forwarded => {
            routes.realms(view.tuple.dst).of_forwarded(routes.realms(view.tuple.src))
        }
        Hook::Output | Hook::Postrouting => routes.realms(routed_to(view)).of_sent(),
        _ => 0,
    }
}

/// By direct routing it is not the address that the packet has.
fn routed_to(view: &View<'_>) -> IpAddr {
    let is_request = view.input.is_none();
    let direct = view.service.filter(|service| service.method == Method::Direct && is_request);
    let server = direct.and_then(|service| view.tables.services.server(service.server));
    server.map_or(view.tuple.dst, |server| server.address)
}

impl Extension for Realm {
    const NAME: &'static str = "realm";
    const OPTIONS: &'static [Opt] = &[opt("realm", 0).negatable().must()];
    const FAMILY: Option<Family> = Some(Family::Ipv4);
    /// All but PREROUTING.
    const HOOKS: u8 = 2 | 4 | 8 | 16;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let names = given.around.names;
        (self.value, self.mask) = given.marked_or(|name| names.realm(name))?;
        self.is_not = given.is_negated;
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put(out, "--realm", &Numeric);
    }

    fn save_named(&self, out: &mut String, _: Family, names: &dyn Names) {
        self.put(out, "--realm", names);
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        self.put(out, "realm", if style.is_numeric { &Numeric } else { style.names });
    }
}

impl Match for Realm {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        (realms(view) & self.mask == self.value) != self.is_not
    }
}
