//! What goes with a packet that one worker hands over to another.

use std::net::IpAddr;

use super::expected::{Awaited, Expect};
use super::persistent::Held;
use super::related::Search;
use super::syn_proxy::Opening;
use super::zoned::FromRaw;
use crate::conntrack::{CtState, Labels};
use crate::flow::Tuple;
use crate::ids::PortId;
use crate::rule::counted::Ticket;
use crate::tables::Protocol;

/// What a worker that hands a packet over found out about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steer {
    /// The owner finds all in the packet itself.
    Plain,
    /// A first packet for a persistent service, at the worker that has its client's template; and the fragments that follow
    /// on it, so that they do not overtake it. With what rules made of it, if there are any.
    Ask(Ports, Option<Passed>),
    /// Back, with what the template says; `None`: that worker knows of no persistent service, or of no template of its own.
    Answer(Ports, Option<Passed>, Option<Held>),
    /// A fragment.
    Fragment(Ports),
    /// A packet that tells of a connection, at the worker that must know of it.
    Announce(Expect),
    /// Back: it knows, and the real server may come by this local port, if it is to have one (else 0). `None`: there is no room.
    Announced(Option<u16>),
    /// A first packet for no service, at the worker that knows whether its client is expected.
    AskExpected,
    /// Back, with what is known of it if it is.
    Expected(Option<Awaited>),
    /// Of no connection at its owner; one that is only routed through us may be at its other end's worker. With what the table `raw` said, where
    /// that was asked before.
    Elsewhere(Ports, Option<FromRaw>),
    /// Back: it is not there either.
    Nowhere(Ports, Option<FromRaw>),
    /// A fragment of an ICMP error, with what a packet looks like that answers the quoted one; and how far the search for its connection is.
    Quoted(Tuple, Search),
    /// A first packet for another host that rules let pass and a service takes by its mark, at its client's worker: with what rules made of it.
    Brought(Ports, Passed),
    /// Of a connection that another worker has than the one that its packets of this way lead to; and that is told of at the latter.
    Pointed(Ports),
    /// Sent by the host, by the twin of this port.
    FromHost(PortId),
    /// The same, of no connection at its owner; another worker may have one.
    FromHostElsewhere(PortId, Option<FromRaw>),
}

/// What stands in the first fragment of a datagram and not in the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    pub sport: u16,
    pub dport: u16,
    pub protocol: Protocol,
}

/// What rules made of a first packet at PREROUTING and INPUT, where they let it pass: as IPVS sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    pub destination: (IpAddr, u16),
    /// What it is to conntrack, which may be nothing (UNTRACKED, INVALID).
    pub state: CtState,
    /// The packet's mark, and that of the connection to be.
    pub mark: u32,
    pub connection_mark: u32,
    /// The labels of the latter.
    pub labels: Labels,
    /// It is for another host: its mark has brought it to this one.
    pub is_by_mark: bool,
    /// What it meets is told to the log.
    pub is_traced: bool,
    /// For what its connection is to count in, at its owner.
    pub ticket: Ticket,
    /// How its connection was opened with the client, who was answered with a SYN cookie.
    pub opening: Option<Opening>,
}

impl Passed {
    pub(super) fn seen(&self, original: Tuple) -> Tuple {
        Tuple { dst: self.destination.0, dport: self.destination.1, ..original }
    }
}
