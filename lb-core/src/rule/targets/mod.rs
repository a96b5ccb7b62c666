//! Targets: one file each, one row in the table below. A file holds what its target says, how it is written, printed and done.

use super::extension::{Depends, Extension, extensions};
use super::view::{Verdict, View};

/// How a rejected packet's sender is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// An ICMP or ICMPv6 error: type and code.
    Icmp(u8, u8),
    /// An ICMPv6 parameter problem: this byte of the IPv6 header cannot be (RFC 4443 §3.4).
    Field(u8),
    TcpReset,
}

/// What a target is besides an [`Extension`].
pub(crate) trait Target: Extension {
    /// `None`: on to the next rule. `counter` is the rule's.
    fn act(&self, view: &mut View<'_>, counter: u32) -> Option<Verdict>;

    /// What [`act`](Self::act) hangs on.
    fn depends(&self) -> Depends {
        Depends::Memory
    }

    /// Whether answers to a connection that it translates may come to another worker than the connection's: where the destination is exchanged,
    /// and where the source is of what is for the host. `hooks`: from which the rule is reached, as bits.
    fn hides_owner(&self, _hooks: u8) -> bool {
        false
    }

    /// Whether it makes copies of packets that are sent.
    fn copies(&self) -> bool {
        false
    }
}

extensions! {
    /// A target of a rule.
    pub enum AnyTarget: Target {
        Audit = audit,
        Checksum = checksum,
        ConnMarkTarget = connmark,
        Ct = ct,
        Dnat = dnat,
        DestinationPrefix = dnpt,
        DscpTarget = dscp,
        EcnTarget = ecn,
        HopLimitTarget = hl,
        HashMark = hmark,
        IdleTimerTarget = idletimer,
        Log = log,
        MarkTarget = mark,
        Masquerade = masquerade,
        NetMap = netmap,
        NfLog = nflog,
        NfQueue = nfqueue,
        NoTrack = notrack,
        Queue = queue,
        RateEst = rateest,
        Redirect = redirect,
        Reject = reject,
        SetTarget = set,
        Snat = snat,
        SourcePrefix = snpt,
        SynProxy = synproxy,
        TcpMssTarget = tcpmss,
        TcpOptStrip = tcpoptstrip,
        Tee = tee,
        TosTarget = tos,
        Trace = trace,
        TtlTarget = ttl,
    }
}

impl AnyTarget {
    #[inline]
    pub(crate) fn act(&self, view: &mut View<'_>, counter: u32) -> Option<Verdict> {
        dispatch!(self, found => found.act(view, counter))
    }

    pub(crate) fn depends(&self) -> Depends {
        dispatch!(self, found => found.depends())
    }

    pub(crate) fn hides_owner(&self, hooks: u8) -> bool {
        dispatch!(self, found => found.hides_owner(hooks))
    }

    pub(crate) fn copies(&self) -> bool {
        dispatch!(self, found => found.copies())
    }
}
