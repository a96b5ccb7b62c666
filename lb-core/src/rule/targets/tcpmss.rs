//! `TCPMSS`: lowers the maximum segment size that a SYN asks for. One that asks for none is made to.
//!
//! Source of the facts: Linux, `net/netfilter/xt_TCPMSS.c`.

use super::Target;
use crate::rule::prelude::*;
use crate::rule::view::Verdict;
use crate::wire::tcp::{self, SYN};

/// What is sent in a segment to who has said nothing (RFC 9293 §3.7.1): more is never said for it.
const UNSAID_IPV4: u16 = 536;
const UNSAID_IPV6: u16 = 1220;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct TcpMssTarget {
    /// `None`: what the next hop takes.
    mss: Option<u16>,
}

impl Extension for TcpMssTarget {
    const NAME: &'static str = "TCPMSS";
    const OPTIONS: &'static [Opt] = &[opt("set-mss", 0), flag("clamp-mss-to-pmtu", 1)];
    const PROTOCOL: Option<u8> = Some(6);

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        // Of both the last one counts.
        let headers = match given.around.family {
            Family::Ipv4 => 20,
            Family::Ipv6 => 40,
        };
        let most = u64::from(u16::MAX) - headers;
        self.mss = if given.id() == 0 { Some(given.number(0, most)? as u16) } else { None };
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        match seen {
            0 => Err(Error::parameter("TCPMSS target: At least one parameter is required")),
            _ => Ok(()),
        }
    }

    fn check(&self, place: &Place<'_>) -> Result<(), Refused> {
        /// FORWARD, OUTPUT and POSTROUTING, where the way is known.
        const ROUTED: u8 = 4 | 8 | 16;
        let is_routed = self.mss.is_some() || place.hooks & !ROUTED == 0;
        if place.is_of_syns && is_routed { Ok(()) } else { Err(Refused::Invalid) }
    }

    fn save(&self, out: &mut String, _: Family) {
        match self.mss {
            Some(mss) => put!(out, " --set-mss {mss}"),
            None => out.push_str(" --clamp-mss-to-pmtu"),
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        match self.mss {
            Some(mss) => put!(out, " TCPMSS set {mss}"),
            None => out.push_str(" TCPMSS clamp to PMTU"),
        }
    }
}

impl TcpMssTarget {
    /// What fits: towards the next hop, and back to the sender.
    fn fitting(view: &View<'_>) -> Option<u16> {
        let headers = if view.headers.is_ipv6 { 60 } else { 40 };
        let ways = [view.tuple.dst, view.tuple.src].map(|end| view.tables.mtu_towards(end));
        ways.into_iter().flatten().min()?.checked_sub(headers)
    }
}

impl Target for TcpMssTarget {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        let mss = self.mss.or_else(|| TcpMssTarget::fitting(view)).filter(|_| !view.is_later_fragment())?;
        let says_one = tcp::lower_mss(view.frame, view.headers.l4.into(), mss);
        if !says_one && view.headers.tcp_flags & SYN != 0 {
            view.effects.mss = Some(mss.min(if view.headers.is_ipv6 { UNSAID_IPV6 } else { UNSAID_IPV4 }));
        }
        None
    }
}
