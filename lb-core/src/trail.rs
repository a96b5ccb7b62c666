//! What one packet meets on its road, written down step by step: for those who ask why it went where it went (`explain`, `trace`).
//!
//! Nobody writes while nobody asks. A trail has room for so many steps and allocates nothing.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::conntrack::CtState;
use crate::drop::DropReason;
use crate::flow::Tuple;
use crate::hook::{Function, Hook};
use crate::ids::{PortId, ServerId, ServiceId, WorkerId};
use crate::ipvs::quic_lb::Fallback;
use crate::rule::{Table, Verdict};
use crate::tables::{InterfaceId, Mac, Protocol, Way};
use crate::wire::parse::{Fragment, Headers};

/// Steps of one packet that there is room for: more than the tables have places, thrice.
pub const STEPS: usize = 96;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Step {
    /// It is of a connection that is known.
    Known(Known),
    /// A function that has no rules has it.
    At { hook: Hook, function: Function },
    /// A table is asked, which sees the packet so.
    Asked(Asked),
    /// A rule matched, or a chain's end was met: the number under which it counts.
    Met(u32),
    /// What the table says.
    Said(Verdict),
    /// It is translated: its ends from here on.
    Becomes(Tuple),
    /// The routing decision.
    Routed(Way),
    /// It is for another host, and for this one by its mark.
    ByMark(u32),
    /// A virtual service has it.
    Service(ServiceId),
    /// Whether its QUIC connection ID names a real server.
    Quic(Result<(), Fallback>),
    /// Its client is answered with a SYN cookie, or acknowledges one.
    Cookie { is_made: bool },
    /// The real server that its connection goes to; `None`: none takes it.
    Server(Option<ServerId>),
    /// Without one it goes on to the destination that it has.
    Bypass,
}

/// A packet's connection.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Known {
    pub is_reply: bool,
    /// Of no virtual service.
    pub is_tracked: bool,
    pub server: ServerId,
    /// What its packets come as, in both directions.
    pub original: Tuple,
    pub reply: Tuple,
    /// As listed: `ESTABLISHED` …
    pub state: &'static str,
}

/// A packet as a table sees it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Asked {
    pub table: Table,
    pub hook: Hook,
    pub tuple: Tuple,
    pub state: CtState,
    pub mark: u32,
    pub input: Option<InterfaceId>,
    pub output: Option<InterfaceId>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Trail {
    steps: ArrayVec<Step, STEPS>,
    /// Steps that there was no room for.
    left_out: u32,
}

impl Trail {
    #[cold]
    pub(crate) fn put(&mut self, step: Step) {
        if self.steps.try_push(step).is_err() {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub fn left_out(&self) -> u32 {
        self.left_out
    }

    pub(crate) fn clear(&mut self) {
        self.steps.clear();
        self.left_out = 0;
    }
}

/// Ends of one packet that there is room for: it may be split, and its sender be told something.
pub const ENDS: usize = 4;

/// One packet's road, from end to end.
#[derive(Clone, PartialEq, Debug)]
pub struct Observed {
    pub worker: WorkerId,
    /// Where it came in, or by whose twin the host sent it.
    pub port: PortId,
    pub is_from_host: bool,
    /// `None`: no IP packet, or one that cannot be read.
    pub came: Option<Glimpse>,
    pub trail: Trail,
    /// Where it went. With none of these and not dropped, it waits: for a next hop, or for its datagram's first fragment.
    pub ends: ArrayVec<End, ENDS>,
    /// What is sent then is an answer to its sender.
    pub dropped: Option<(DropReason, Hook)>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum End {
    Sent {
        port: PortId,
        to: Mac,
        is: Option<Glimpse>,
    },
    /// To the host, as received on this port.
    ToTwin(PortId),
    HandedOver(WorkerId),
    /// It waits for this neighbour to be resolved.
    Unresolved(InterfaceId, IpAddr),
}

/// What is seen of a packet from outside.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Glimpse {
    pub tuple: Tuple,
    pub vlan: u16,
    pub tcp_flags: u8,
    /// Type and code.
    pub icmp: Option<(u8, u8)>,
    pub ttl: u8,
    /// Of the IP packet, bytes.
    pub len: u32,
    pub is_later_fragment: bool,
}

impl Glimpse {
    pub(crate) fn of(frame: &[u8], headers: &Headers) -> Glimpse {
        let is_icmp = matches!(headers.protocol, Protocol::ICMP | Protocol::ICMPV6);
        let is_later_fragment = headers.fragment == Fragment::Later;
        let code = frame.get(usize::from(headers.l4) + 1).copied().unwrap_or_default();
        Glimpse {
            tuple: Tuple::of_packet(frame, headers),
            vlan: headers.vlan,
            tcp_flags: headers.tcp_flags,
            icmp: (is_icmp && !is_later_fragment).then_some((headers.icmp_type, code)),
            ttl: headers.ttl,
            len: headers.ip_len,
            is_later_fragment,
        }
    }
}

/// The pen of whoever watches packets.
#[derive(Default)]
pub(crate) struct Watch {
    trail: Option<Box<Trail>>,
    is_on: bool,
}

impl Watch {
    /// What makes room for a trail. Allocates: not for the packet path.
    pub(crate) fn make_room(&mut self) {
        self.trail.get_or_insert_default();
    }

    /// The packet at hand is watched from here on; what was written about another is gone.
    pub(crate) fn begin(&mut self) {
        if let Some(trail) = &mut self.trail {
            trail.clear();
            self.is_on = true;
        }
    }

    pub(crate) fn end(&mut self) -> Trail {
        self.is_on = false;
        self.trail.as_deref().cloned().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    #[inline]
    pub(crate) fn note(&mut self, step: impl FnOnce() -> Step) {
        if self.is_on
            && let Some(trail) = &mut self.trail
        {
            trail.put(step());
        }
    }

    /// For the walk through rules.
    #[inline]
    pub(crate) fn trail(&mut self) -> Option<&mut Trail> {
        if self.is_on { self.trail.as_deref_mut() } else { None }
    }
}
