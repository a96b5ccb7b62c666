//! `NFLOG`: a copy of the packet goes into the file of a group, and the packet on to the next rule.
//!
//! Source of the facts: Linux, `net/netfilter/xt_NFLOG.c` and `nfnetlink_log.c`; recorded lines.

use arrayvec::ArrayVec;

use super::Target;
use crate::rule::capture::{self, Captured, Captures, Wanted};
use crate::rule::event;
use crate::rule::prelude::*;
use crate::rule::text::quote_to;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct NfLog {
    wanted: Wanted,
    /// What the kernel has never gone by; 0: unsaid.
    range: u32,
    captures: Kept<Captures>,
}

impl NfLog {
    fn put_options(&self, out: &mut String, dashes: &str) {
        let Wanted { group, prefix, size, threshold } = &self.wanted;
        if !prefix.is_empty() {
            put!(out, " {dashes}nflog-prefix");
            quote_to(out, prefix);
        }
        if *group != 0 {
            put!(out, " {dashes}nflog-group {group}");
        }
        match size {
            Some(size) => put!(out, " {dashes}nflog-size {size}"),
            None if self.range != 0 => put!(out, " {dashes}nflog-range {}", self.range),
            None => {}
        }
        if *threshold != 0 {
            put!(out, " {dashes}nflog-threshold {threshold}");
        }
    }
}

impl Extension for NfLog {
    const NAME: &'static str = "NFLOG";
    const OPTIONS: &'static [Opt] = &[
        opt("nflog-group", 0),
        opt("nflog-prefix", 1),
        opt("nflog-range", 2).not_with(1 << 3),
        opt("nflog-size", 3).not_with(1 << 2),
        opt("nflog-threshold", 4),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.wanted.group = given.u16()?,
            1 => {
                if given.value.contains('\n') {
                    return Err(Error::parameter("Newlines not allowed in --nflog-prefix"));
                }
                // iptables cuts it off too.
                self.wanted.prefix = event::prefix(&given.text(1, usize::MAX)?);
            }
            2 => {
                self.range = given.u32()?;
                given.around.warn(
                    "warn: --nflog-range has never worked and is no longer supported, please use --nflog-size instead",
                );
            }
            3 => self.wanted.size = Some(given.u32()?),
            _ => self.wanted.threshold = given.u16()?,
        }
        Ok(())
    }

    fn bind(&mut self, named: &mut Named) -> Result<(), Refused> {
        self.captures.set(named.captures());
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put_options(out, "--");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        self.put_options(out, "");
    }
}

impl Target for NfLog {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        let captures = self.captures.get().filter(|_| !view.is_dry)?;
        let kept = view.frame.len().min(capture::KEPT);
        captures.put(Captured {
            wanted: self.wanted,
            hook: view.hook,
            input: view.input,
            output: view.output,
            mark: view.mark,
            tuple: view.tuple,
            hops: view.hops,
            at: view.now,
            frame: ArrayVec::try_from(&view.frame[..kept]).ok()?,
            headers: *view.headers,
        });
        None
    }
}
