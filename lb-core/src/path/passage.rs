//! What rules know of a packet besides its bytes, while it is on its road, and the tables that it meets there.

use super::Path;
use super::helped::Expected;
use super::output::Refusal as Refused;
use crate::conntrack::helper::HelperId;
use crate::conntrack::{CtState, Labels, Told, Zones};
use crate::flow::{FlowId, FlowRef, Tuple};
use crate::hook::Hook;
use crate::ids::PortId;
use crate::packet::Packet;
use crate::rule::{Service, Table, Verdict};
use crate::tables::{InterfaceId, Way};
use crate::time::Tick;
use crate::wire::parse::Headers;

/// What rules know of a packet besides its bytes, while it is on its road.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    pub(super) input: Option<InterfaceId>,
    pub(super) output: Option<InterfaceId>,
    /// Where rules see it first: PREROUTING, or OUTPUT.
    pub(super) begins_at: Hook,
    /// With what TTL the packet is routed: rules at PREROUTING, and at INPUT of what a virtual service takes, may have written it.
    pub(super) ttl: u8,
    /// A virtual service has taken a hop off it: what the kernel does before OUTPUT.
    pub(super) is_sent_on: bool,
    pub(super) state: CtState,
    /// The connection that it is of.
    pub(super) at: Option<FlowRef>,
    /// The same, also before conntrack has looked at the packet.
    pub(super) of: Option<FlowId>,
    /// Of what begins one: how it came, and how it goes on by what the table `nat` has said.
    pub(super) original: Option<Tuple>,
    pub(super) after: Option<Tuple>,
    /// It answers one that was to, of so many bytes.
    pub(super) answers: Option<u32>,
    /// Its connection ended with the first packet, of so many bytes.
    pub(super) ended: Option<u32>,
    /// What a rule of table mangle that was asked last made of its ends (SNPT, DNPT).
    pub(super) renumbered: Option<Tuple>,
    /// The connection that it begins is masqueraded.
    pub(super) is_masqueraded: bool,
    /// The packet's mark, and that of the connection that it begins.
    pub(super) mark: u32,
    pub(super) connection_mark: u32,
    /// And the labels of the latter.
    pub(super) labels: Labels,
    /// A rule of table raw says that it is of no connection.
    pub(super) is_untracked: bool,
    /// Or in which zones its connection is.
    pub(super) zones: Zones,
    /// One says that what it meets is told to the log.
    pub(super) is_traced: bool,
    /// And what of one that it begins is not told.
    pub(super) untold: Told,
    /// Of a packet that a virtual service has scheduled for itself alone.
    pub(super) service: Option<Service>,
    /// What table raw says, for a connection that it begins.
    pub(super) helper: HelperId,
    /// Another connection announced the one that it begins.
    pub(super) expected: Option<Expected>,
    /// Of a datagram's first fragment: which tables it has passed at which hooks.
    pub(super) walked: u64,
    /// Why it goes no further than to the routing decision: what is behind was not asked.
    pub(super) refused: Option<Refused>,
    pub(super) now: Tick,
}

impl Passage {
    /// The packet's headers, as it is routed.
    pub(super) fn as_routed(&self, headers: &Headers) -> Headers {
        Headers { ttl: self.ttl, ..*headers }
    }

    /// What a packet that was `tuple` is behind tables that were asked: if it begins a connection, that is translated so.
    pub(super) fn become_renumbered(&mut self, tuple: Tuple) -> Tuple {
        let Some(after) = self.renumbered.take() else { return tuple };
        self.after = Some(after);
        after
    }
}

/// A table at a hook.
pub(super) type Stop = (Table, Hook);

/// Why a packet goes no further, and where: also a translation for which no port was free.
pub(super) type Stopped = (Verdict, Hook);

/// PREROUTING before conntrack.
pub(super) const RAW: [Stop; 1] = [(Table::Raw, Hook::Prerouting)];

/// PREROUTING between conntrack and what `nat` translates.
pub(super) const PREROUTING: [Stop; 1] = [(Table::Mangle, Hook::Prerouting)];

pub(super) const INPUT: [Stop; 3] =
    [(Table::Mangle, Hook::Input), (Table::Filter, Hook::Input), (Table::Security, Hook::Input)];

pub(super) const FORWARD: [Stop; 3] =
    [(Table::Mangle, Hook::Forward), (Table::Filter, Hook::Forward), (Table::Security, Hook::Forward)];

/// Both behind the routing decision.
pub(super) const ONWARD: [Stop; 4] = {
    let [mangle, filter, security] = FORWARD;
    [mangle, filter, security, POSTROUTING[0]]
};

/// What of POSTROUTING each packet passes.
pub(super) const POSTROUTING: [Stop; 1] = [(Table::Mangle, Hook::Postrouting)];

/// OUTPUT for what a virtual service sends on, with what of POSTROUTING each packet passes.
pub(super) const OUTPUT: [Stop; 5] = [
    (Table::Raw, Hook::Output),
    (Table::Mangle, Hook::Output),
    (Table::Filter, Hook::Output),
    (Table::Security, Hook::Output),
    (Table::Mangle, Hook::Postrouting),
];

impl<P: Packet> Path<P> {
    /// A packet's, when it comes.
    pub(super) fn passage(&mut self, port: PortId, headers: &Headers, state: CtState, now: Tick) -> Passage {
        self.counted.forget();
        Passage {
            input: self.tables.interfaces.find(port, headers.vlan),
            output: None,
            begins_at: Hook::Prerouting,
            ttl: headers.ttl,
            is_sent_on: false,
            state,
            at: None,
            of: None,
            original: None,
            after: None,
            answers: None,
            ended: None,
            renumbered: None,
            is_masqueraded: false,
            mark: 0,
            connection_mark: 0,
            labels: Labels::NONE,
            is_untracked: false,
            zones: Zones::NONE,
            is_traced: false,
            untold: Told::NONE,
            service: None,
            helper: HelperId::NONE,
            expected: None,
            walked: 0,
            refused: None,
            now,
        }
    }

    pub(super) fn output(&self, way: Way) -> Option<InterfaceId> {
        match way {
            Way::Hop(hop) => self.tables.neighbours.get(hop).map(|hop| hop.interface),
            Way::Unresolved(interface, _) => Some(interface),
            _ => None,
        }
    }
}
