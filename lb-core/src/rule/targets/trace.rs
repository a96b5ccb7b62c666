//! `TRACE`: each rule and policy that the packet meets from here on is told to the log.
//!
//! Source of the facts: Linux, `net/netfilter/xt_TRACE.c`, and `trace_packet` of `net/ipv4/netfilter/ip_tables.c`.

use super::Target;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Trace;

impl Extension for Trace {
    const NAME: &'static str = "TRACE";
    const OPTIONS: &'static [Opt] = &[];
    const TABLES: &'static [Table] = &[Table::Raw];

    fn take(&mut self, _: &mut Given<'_, '_>) -> Result<(), Error> {
        Ok(())
    }

    fn save(&self, _: &mut String, _: Family) {}

    fn list(&self, _: &mut String, _: &Style<'_>, _: &Header) {}
}

impl Target for Trace {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        view.is_traced = view.is_traced || view.events.may_trace(view.now);
        None
    }
}
