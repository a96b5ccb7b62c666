//! What the first stages find out about a packet, for those that follow: what it is, its hash, and where its connection may be.

use super::ipsec::is_ipsec;
use super::{BURST, Path};
use crate::drop::DropReason;
use crate::flow::{FlowHash, FlowRef};
use crate::icmp::is_translatable;
use crate::ids::PortId;
use crate::packet::Packet;
use crate::tables::{Mac, Protocol};
use crate::wire::ethernet;
use crate::wire::parse::Headers;

/// What the stages find out about one packet.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) headers: Headers,
    pub(super) hash: FlowHash,
    /// [`FlowRef::NONE`] for what the index does not have, and of what is no [`Kind::Flow`]: an `Option` would be a second word.
    pub(super) guess: FlowRef,
    pub(super) kind: Kind,
}

impl Seen {
    pub(super) const NOTHING: Seen =
        Seen { headers: Headers::NONE, hash: FlowHash::NONE, guess: FlowRef::NONE, kind: Kind::Twin };
}

/// Of each packet of a burst.
pub(super) type Sight = [Seen; BURST];

pub(super) fn new_sight() -> Box<Sight> {
    Box::new([Seen::NOTHING; BURST])
}

/// Which turning a packet takes after the parser.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// TCP, UDP or SCTP: it may belong to a connection.
    Flow,
    /// AH or ESP: it may belong to the connection that negotiated it.
    Ipsec,
    /// An ICMP error: its embedded packet may belong to one.
    IcmpError,
    /// Any other IP packet.
    Routed,
    /// Not IP, multicast, broadcast, link-local: Linux's, whatever a route says.
    Twin,
    Dropped(DropReason),
}

impl<P: Packet> Path<P> {
    /// A tag must name a VLAN that is an interface of this host; one within another never does.
    #[cold]
    pub(super) fn check_vlan(&self, port: PortId, seen: &mut Seen) {
        let is_known = self.tables.interfaces.find(port, seen.headers.vlan).is_some();
        if !is_known || seen.headers.inner_vlan != 0 {
            seen.kind = Kind::Dropped(DropReason::UnknownVlan);
        }
    }

    #[inline]
    pub(super) fn hash(&self, frame: &[u8], headers: &Headers) -> FlowHash {
        let (sport, dport, protocol) = (headers.sport, headers.dport, headers.protocol.0);
        if headers.is_ipv6 {
            let (src, dst) = (headers.ipv6_source(frame), headers.ipv6_destination(frame));
            self.flows.hasher().ipv6(&src, &dst, sport, dport, protocol)
        } else {
            self.flows.hasher().ipv4(headers.src, headers.dst, sport, dport, protocol)
        }
    }

    /// Stage 3: is it the flow that it seems to be? Of IPv4; IPv6 is looked at by [`Path::find`].
    #[inline(always)]
    pub(super) fn find_as_guessed(&self, seen: &Seen) -> Option<FlowRef> {
        self.flows.is_ipv4(seen.guess, &seen.headers).then_some(seen.guess)
    }

    /// Is it any of those that it may be?
    pub(super) fn find(&self, packet: &P, seen: &Seen) -> Option<FlowRef> {
        let h = &seen.headers;
        if h.is_ipv6 {
            return self.find_ipv6(packet.data(), seen);
        }
        if seen.guess == FlowRef::NONE {
            return None;
        }
        self.flows.find_ipv4(seen.hash, h.src, h.dst, h.sport, h.dport, h.protocol.0)
    }

    /// Looks a second time: an earlier packet of the same burst may have begun the connection.
    #[cold]
    pub(super) fn find_begun(&self, packet: &P, seen: &Seen) -> Option<FlowRef> {
        let guess = self.flows.guess(seen.hash)?;
        self.find(packet, &Seen { guess, ..*seen })
    }

    fn find_ipv6(&self, frame: &[u8], seen: &Seen) -> Option<FlowRef> {
        let h = &seen.headers;
        let (src, dst) = (h.ipv6_source(frame), h.ipv6_destination(frame));
        if seen.guess == FlowRef::NONE {
            return None;
        }
        if self.flows.is_ipv6(seen.guess, &src, &dst, h.sport, h.dport, h.protocol.0) {
            return Some(seen.guess);
        }
        self.flows.find_ipv6(seen.hash, &src, &dst, h.sport, h.dport, h.protocol.0)
    }

    /// A port's own MAC address, which its VLANs share.
    #[inline]
    pub(super) fn own_mac(&self, port: PortId) -> OwnMac {
        let interface = self.tables.interfaces.find(port, 0).and_then(|id| self.tables.interfaces.get(id));
        interface.map_or(OwnMac::ANY, |interface| OwnMac::new(interface.mac))
    }
}

/// Which turning an IP packet takes.
#[inline(always)]
pub(super) fn kind(frame: &[u8], headers: &Headers, mac: OwnMac) -> Kind {
    if !mac.is_of(frame) {
        // Broadcast and multicast frames are Linux's, whatever is in them.
        let is_group = ethernet::is_group(&ethernet::destination(frame));
        return if is_group { Kind::Twin } else { Kind::Dropped(DropReason::OtherHost) };
    }
    match headers.protocol {
        _ if headers.is_for_twin => Kind::Twin,
        Protocol::TCP | Protocol::UDP => Kind::Flow,
        _ => kind_of_other(headers),
    }
}

/// The same of a packet that is neither TCP nor UDP.
#[inline(never)]
fn kind_of_other(headers: &Headers) -> Kind {
    match headers.protocol {
        Protocol::SCTP => Kind::Flow,
        protocol if is_ipsec(protocol) => Kind::Ipsec,
        _ if is_translatable(headers) => Kind::IcmpError,
        _ => Kind::Routed,
    }
}

/// A port's MAC address, with which frames' destination is compared at once.
#[derive(Clone, Copy)]
pub(super) struct OwnMac {
    word: u64,
    mask: u64,
}

impl OwnMac {
    /// Of a port that has none: all frames are for it.
    pub(super) const ANY: OwnMac = OwnMac { word: 0, mask: 0 };

    fn new([a, b, c, d, e, f]: Mac) -> OwnMac {
        OwnMac { word: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), mask: 0xffff_ffff_ffff }
    }

    /// Whether a frame is for it; one that is shorter than eight bytes is not.
    #[inline(always)]
    pub(super) fn is_of(self, frame: &[u8]) -> bool {
        let word = frame.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        (word ^ self.word) & self.mask == 0
    }
}
