//! `TEE`: a copy of the packet goes to another host of the network, and the packet on to the next rule.
//!
//! Source of the facts: Linux, `net/netfilter/xt_TEE.c`, `net/ipv4/netfilter/nf_dup_ipv4.c`, `net/ipv6/netfilter/nf_dup_ipv6.c`; recorded lines.

use std::net::{IpAddr, Ipv4Addr};

use super::Target;
use crate::hook::Hook;
use crate::rule::copies::Copy;
use crate::rule::options::ip;
use crate::rule::prelude::*;
use crate::rule::text::name_to;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug)]
pub struct Tee {
    gateway: IpAddr,
    /// The interface that it must be behind; empty: any.
    output: String,
}

/// Longest name of an interface.
const NAME: usize = 15;

impl Default for Tee {
    fn default() -> Tee {
        Tee { gateway: Ipv4Addr::UNSPECIFIED.into(), output: String::new() }
    }
}

impl Extension for Tee {
    const NAME: &'static str = "TEE";
    const OPTIONS: &'static [Opt] = &[opt("gateway", 0).must(), opt("oif", 1)];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        if given.id() == 1 {
            self.output = given.text(1, NAME)?;
            return Ok(());
        }
        self.gateway = ip(given.host(given.value)?, given.around.family);
        Ok(())
    }

    fn check(&self, _: &Place<'_>) -> Result<(), Refused> {
        if self.gateway.is_unspecified() { Err(Refused::Invalid) } else { Ok(()) }
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, " --gateway {}", self.gateway);
        if !self.output.is_empty() {
            out.push_str(" --oif");
            name_to(out, &self.output);
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " TEE gw:{}", self.gateway);
        if !self.output.is_empty() {
            put!(out, " oif={}", self.output);
        }
    }
}

impl Target for Tee {
    fn copies(&self) -> bool {
        true
    }

    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        // Of a copy, and of what nobody sent, there are none.
        let Some(copies) = &mut view.copies else { return None };
        let mut interfaces = view.tables.interfaces.iter();
        let output = match self.output.as_str() {
            "" => None,
            name => match interfaces.find(|(_, interface)| interface.name == name) {
                Some((id, _)) => Some(id),
                // The kernel makes none either, as long as it is not there.
                None => return None,
            },
        };
        let copy = Copy {
            headers: *view.headers,
            tuple: view.tuple,
            hops: view.hops,
            is_received: matches!(view.hook, Hook::Prerouting | Hook::Input),
            mark: view.mark,
            gateway: self.gateway,
            output,
        };
        copies.put(copy, view.frame);
        None
    }
}
