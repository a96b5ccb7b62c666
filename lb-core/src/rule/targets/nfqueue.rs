//! `NFQUEUE`: a program is asked about the packet. No program can listen here, so that is done what the kernel does where none does: the packet is
//! dropped, or with `--queue-bypass` let pass.
//!
//! Source of the facts: Linux, `net/netfilter/xt_NFQUEUE.c`, and `nf_queue` of `net/netfilter/nf_queue.c`; recorded lines.

use super::Target;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct NfQueue {
    first: u16,
    /// How many, one for each connection; 0: the first alone.
    balanced: u16,
    is_bypassed: bool,
    /// By the CPU instead of the connection.
    by_cpu: bool,
}

const NUMBER: u8 = 0;
const BALANCE: u8 = 1;
const BYPASS: u8 = 2;

impl Extension for NfQueue {
    const NAME: &'static str = "NFQUEUE";
    const OPTIONS: &'static [Opt] = &[
        opt("queue-num", NUMBER).not_with(1 << BALANCE),
        opt("queue-balance", BALANCE).not_with(1 << NUMBER),
        flag("queue-bypass", BYPASS),
        flag("queue-cpu-fanout", 3).with(1 << BALANCE),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            NUMBER => self.first = given.u16()?,
            BALANCE => {
                let (first, last) = given.range(u16::MAX.into())?;
                if first >= last {
                    return Err(Error::parameter(format!("{first} should be less than {last}")));
                }
                let count = last + 1 - first;
                if count > u16::MAX.into() {
                    return Err(Error::invalid());
                }
                (self.first, self.balanced) = (first as u16, count as u16);
            }
            BYPASS => self.is_bypassed = true,
            _ => self.by_cpu = true,
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        match self.balanced {
            0 => put!(out, " --queue-num {}", self.first),
            count => put!(out, " --queue-balance {}:{}", self.first, self.first + (count - 1)),
        }
        out.push_str(if self.is_bypassed { " --queue-bypass" } else { "" });
        out.push_str(if self.by_cpu { " --queue-cpu-fanout" } else { "" });
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        match self.balanced {
            0 => put!(out, " NFQUEUE num {}", self.first),
            count => put!(out, " NFQUEUE balance {}:{}", self.first, self.first + (count - 1)),
        }
        out.push_str(if self.is_bypassed { " bypass" } else { "" });
        out.push_str(if self.by_cpu { " cpu-fanout" } else { "" });
    }
}

impl Target for NfQueue {
    fn act(&self, _: &mut View<'_>, _: u32) -> Option<Verdict> {
        Some(if self.is_bypassed { Verdict::Accept } else { Verdict::Queue })
    }

    fn depends(&self) -> Depends {
        Depends::Flow
    }
}
