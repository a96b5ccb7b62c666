//! `TCPOPTSTRIP`: has TCP options of some kinds say nothing.

use super::Target;
use crate::rule::edit;
use crate::rule::prelude::*;
use crate::rule::text::number;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct TcpOptStrip {
    /// A bit a kind.
    kinds: [u64; 4],
}

/// (name, kind).
const NAMES: [(&str, u8); 6] =
    [("wscale", 3), ("mss", 2), ("sack-permitted", 4), ("sack", 5), ("timestamp", 8), ("md5", 19)];

impl TcpOptStrip {
    fn has(&self, kind: u8) -> bool {
        self.kinds[usize::from(kind) / 64] >> (kind % 64) & 1 != 0
    }

    fn put(&self, out: &mut String, before: &str, is_numeric: bool) {
        let mut between = before;
        for kind in (0..=u8::MAX).filter(|kind| self.has(*kind)) {
            match NAMES.iter().find(|(_, known)| *known == kind) {
                Some((name, _)) if !is_numeric => put!(out, "{between}{name}"),
                _ => put!(out, "{between}{kind}"),
            }
            between = ",";
        }
    }
}

impl Extension for TcpOptStrip {
    const NAME: &'static str = "TCPOPTSTRIP";
    const OPTIONS: &'static [Opt] = &[opt("strip-options", 0)];
    const PROTOCOL: Option<u8> = Some(6);
    const TABLES: &'static [Table] = &[Table::Mangle];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        for text in given.value.split(',') {
            let kind = match NAMES.iter().find(|(name, _)| *name == text) {
                Some((_, kind)) => Some(*kind),
                None => number(text).and_then(|kind| u8::try_from(kind).ok()),
            };
            let kind = kind.ok_or_else(|| Error::parameter(format!("Bad TCP option value \"{text}\"")))?;
            if kind < 2 {
                return Err(Error::parameter("Option value may not be 0 or 1"));
            }
            if self.has(kind) {
                return Err(Error::parameter(format!("Option \"{text}\" already specified")));
            }
            self.kinds[usize::from(kind) / 64] |= 1 << (kind % 64);
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put(out, " --strip-options ", true);
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        self.put(out, " TCPOPTSTRIP options ", style.is_numeric);
    }
}

impl Target for TcpOptStrip {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        edit::strip_tcp_options(view, |kind| self.has(kind));
        None
    }
}
