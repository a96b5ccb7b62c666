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

    /// Whether it asks how many packets, or bytes, a connection has had.
    fn counts_connections(&self) -> bool {
        false
    }
}

extensions! {
    /// A match of a rule.
    pub enum AnyMatch: Match {
        AddrType = addrtype,
        Ah = ah,
        Bpf = bpf,
        Cluster = cluster,
        Comment = comment,
        ConnBytes = connbytes,
        ConnLabel = connlabel,
        ConnLimit = connlimit,
        ConnMark = connmark,
        ConnTrack = conntrack,
        Cpu = cpu,
        Dccp = dccp,
        DevGroup = devgroup,
        Dscp = dscp,
        Destination = dst,
        Ecn = ecn,
        Esp = esp,
        Eui64 = eui64,
        Frag = frag,
        HashLimit = hashlimit,
        HopByHop = hbh,
        HelperMatch = helper,
        HopLimit = hl,
        Icmp = icmp,
        Icmp6 = icmp6,
        IpComp = ipcomp,
        IpRange = iprange,
        Ipv6Header = ipv6header,
        Ipvs = ipvs,
        Length = length,
        Limit = limit,
        Mac = mac,
        Mark = mark,
        Mobility = mh,
        MultiPort = multiport,
        NfAcct = nfacct,
        Osf = osf,
        PhysDev = physdev,
        PktType = pkttype,
        Policy = policy,
        Quota = quota,
        RateMatch = rateest,
        Realm = realm,
        RecentMatch = recent,
        RpFilter = rpfilter,
        Routing = rt,
        Sctp = sctp,
        SetMatch = set,
        SegmentRouting = srh,
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

    pub(crate) fn counts_connections(&self) -> bool {
        dispatch!(self, found => found.counts_connections())
    }
}
