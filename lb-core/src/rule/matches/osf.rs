//! `osf`: which operating system sends such a SYN, by the fingerprints that `nfnl_osf` has loaded ([`fingerprint`](crate::rule::fingerprint), where it
//! is said what that costs).
//!
//! As in the kernel, `!` before `--genre` is kept and changes nothing, and with `--log` any genre will do: then it matches whatever system is known. No genre means
//! that a system is not known: what fits no fingerprint matches no rule.
//!
//! Source of the facts: Linux, `net/netfilter/nfnetlink_osf.c`, and packets given to Linux 6.18 (`tests/oracle/osf.txt`).

use super::Match;
use crate::rule::event::Said;
use crate::rule::fingerprint::{Fingerprint, LONGEST_NAME, Syn};
use crate::rule::prelude::*;
use crate::rule::text::quote_to;

/// Lines that one packet may leave for the log.
const MOST_LINES: usize = 8;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Osf {
    genre: String,
    is_not: bool,
    /// How a TTL is compared: exactly (0, and where nothing is said), as one from which hops are taken off (1), not at all (2).
    ttl: Option<u8>,
    /// Told is of each system that fits (0, 2), or of the first (1), and that none does.
    log: Option<u8>,
}

impl Osf {
    fn fits_ttl(&self, fingerprint: &Fingerprint, ttl: u8) -> bool {
        match self.ttl {
            None | Some(0) => ttl == fingerprint.ttl(),
            Some(1) => ttl <= fingerprint.ttl(),
            Some(_) => true,
        }
    }

    /// Tells of the systems that it may be; false: of none.
    fn tell<'f>(&self, systems: impl Iterator<Item = &'f Fingerprint>, view: &View<'_>) -> bool {
        const FIRST_ALONE: u8 = 1;
        let most = if self.log == Some(FIRST_ALONE) { 1 } else { MOST_LINES };
        let mut is_known = false;
        for system in systems.take(most) {
            is_known = true;
            let hops = i16::from(system.ttl()) - i16::from(view.ttl());
            view.say_of_system(Said::System { name: system.system(), hops });
        }
        if !is_known {
            view.say_of_system(Said::NoSystem);
        }
        is_known
    }
}

impl Extension for Osf {
    const NAME: &'static str = "osf";
    const OPTIONS: &'static [Opt] = &[opt("genre", 0).must().negatable(), opt("ttl", 1), opt("log", 2)];
    const FAMILY: Option<Family> = Some(Family::Ipv4);
    const PROTOCOL: Option<u8> = Some(6);
    /// PREROUTING, INPUT, FORWARD.
    const HOOKS: u8 = 7;

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => {
                // iptables cuts it off too.
                self.genre = given.text(0, LONGEST_NAME)?;
                self.is_not = given.is_negated;
            }
            1 => self.ttl = Some(given.number(0, 2)? as u8),
            _ => self.log = Some(given.number(0, 2)? as u8),
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --genre", not(self.is_not));
        // iptables never quotes it; here it is where it must be.
        if self.genre.is_empty() || self.genre.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\')) {
            quote_to(out, &self.genre);
        } else {
            put!(out, " {}", self.genre);
        }
        for (name, value) in [("ttl", self.ttl), ("log", self.log)] {
            if let Some(value) = value {
                put!(out, " --{name} {value}");
            }
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " OS fingerprint match {}{}", if self.is_not { "! " } else { "" }, self.genre);
    }
}

impl Match for Osf {
    /// What is told is told once.
    fn depends(&self) -> Depends {
        if self.log.is_some() { Depends::Memory } else { Depends::Packet }
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(syn) = Syn::of(view) else { return false };
        let (tables, ttl) = (view.tables, view.ttl());
        let mut systems = tables.fingerprints.fitting(&syn).filter(|system| self.fits_ttl(system, ttl));
        match self.log {
            None => systems.any(|system| system.genre() == self.genre),
            Some(_) => self.tell(systems, view),
        }
    }
}
