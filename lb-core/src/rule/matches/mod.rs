//! Matches: one file each, one row in the table below. A file holds what its match says, how it is written, printed and asked.

use super::extension::{Depends, Extension, extensions};
use super::index::Narrowed;
use super::view::View;

/// What a match is besides an [`Extension`].
pub(crate) trait Match: Extension {
    fn matches(&self, view: &mut View<'_>) -> bool;

    /// What [`matches`](Self::matches) hangs on.
    fn depends(&self) -> Depends {
        Depends::Memory
    }

    /// Says what every packet that it matches has, as far as an index of rules asks that. Nothing that it does not match may hang on its being asked.
    fn narrow(&self, _to: &mut Narrowed<'_>) {}
}

extensions! {
    /// A match of a rule.
    pub enum AnyMatch: Match {
        AddrType = addrtype,
        Comment = comment,
        ConnLimit = connlimit,
        ConnMark = connmark,
        ConnTrack = conntrack,
        Dscp = dscp,
        HashLimit = hashlimit,
        HelperMatch = helper,
        HopLimit = hl,
        Icmp = icmp,
        Icmp6 = icmp6,
        IpRange = iprange,
        Ipvs = ipvs,
        Length = length,
        Limit = limit,
        Mac = mac,
        Mark = mark,
        MultiPort = multiport,
        PktType = pkttype,
        Quota = quota,
        RateMatch = rateest,
        RecentMatch = recent,
        Sctp = sctp,
        SetMatch = set,
        State = state,
        Statistic = statistic,
        StringMatch = string,
        Tcp = tcp,
        TcpMss = tcpmss,
        Time = time,
        Tos = tos,
        Ttl = ttl,
        U32 = u32,
        Udp = udp,
    }
}

impl AnyMatch {
    #[inline]
    pub(crate) fn matches(&self, view: &mut View<'_>) -> bool {
        dispatch!(self, found => found.matches(view))
    }

    pub(crate) fn depends(&self) -> Depends {
        dispatch!(self, found => found.depends())
    }

    pub(crate) fn narrow(&self, to: &mut Narrowed<'_>) {
        dispatch!(self, found => found.narrow(to));
    }
}
