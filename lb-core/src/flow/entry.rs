//! A flow's entry: one cache line for a connection, both its tuples in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::course::CourseId;
use super::template::{self, templated};
use super::tuple::{Addresses, Direction, Ends, Tuple};
use super::{FlowHash, Hasher};
use crate::conntrack::Zones;
use crate::ids::ServerId;
use crate::tables::{HopId, Protocol};
use crate::time::{Tick, Timeout};

/// A connection's entry, by its place in the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowId(pub u32);

/// A connection and a direction: what the index refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowRef(pub(super) u32);

impl FlowRef {
    /// Of no connection.
    pub const NONE: FlowRef = FlowRef(u32::MAX);

    #[inline]
    pub fn new(id: FlowId, direction: Direction) -> FlowRef {
        FlowRef(id.0 << 1 | direction as u32)
    }

    #[inline]
    pub fn id(self) -> FlowId {
        FlowId(self.0 >> 1)
    }

    #[inline]
    pub fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Original } else { Direction::Reply }
    }

    /// The same connection, the other way.
    #[must_use]
    pub fn opposite(self) -> FlowRef {
        FlowRef(self.0 ^ 1)
    }
}

/// How a connection's packets get to the real server: as when it began, whatever the real server's method is
/// now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Method {
    #[default]
    Masq = 0,
    Direct = 1,
    Tunnel = 2,
    /// As masqueraded, and into the other address family: the answers' tuple is of the one that the client's
    /// is not.
    Translated = 3,
}

impl Method {
    /// The real server answers the client by another way than through us. Its answers could not be told from
    /// those of others: it may have many virtual services' addresses.
    #[inline]
    pub const fn is_one_way(self) -> bool {
        matches!(self, Method::Direct | Method::Tunnel)
    }
}

/// How a packet of one direction is changed, worked out once: what is added to its checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Deltas {
    /// For the IPv4 header's checksum: addresses.
    pub ip: u16,
    /// For the transport checksum: addresses (pseudo-header) and ports.
    pub l4: u16,
}

/// New source and destination of an IPv4 packet that goes one way, and what that changes in its checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite {
    pub addresses: (u32, u32),
    pub ports: (u16, u16),
    pub deltas: Deltas,
}

/// A connection, whole: 64 bytes for IPv4, 64 more for IPv6 addresses.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(64))]
pub struct Entry {
    pub(super) ends: [Ends; 2],
    deltas: [Deltas; 2],
    /// Index of the IPv6 addresses; [`Entry::NO_ADDRESSES`] when there are none.
    pub(super) addresses: u32,
    /// Time of the last packet, in ticks.
    seen: u32,
    /// Ticks after `seen` when it ends.
    timeout: u32,
    server: u32,
    /// Of the tables that `hops` are from.
    generation: u32,
    hops: [u32; 2],
    protocol: u8,
    state: u8,
    flags: u8,
    /// 0 when it is free; else [`Entry::IN_USE`], and what it is to other directors.
    in_use: u8,
}

/// What [`Entry::is_plainly`] reads is the end.
const _: () = assert!(std::mem::offset_of!(Entry, protocol) + 4 == size_of::<Entry>());

impl Entry {
    pub(super) const NO_ADDRESSES: u32 = u32::MAX;
    const NO_HOP: u32 = u32::MAX;
    /// From here on `hops` have a [`CourseId`] in the place of a hop, or [`NO_HOP`](Self::NO_HOP): no era has
    /// so many courses.
    const COURSE: u32 = 1 << 31;
    /// Counted as inactive at its real server.
    const INACTIVE: u8 = 1;
    /// The real server was removed (under this generation of the tables).
    const SERVER_REMOVED: u8 = 2;
    /// IPVS is off for this family (under this generation of the tables).
    const IPVS_OFF: u8 = 4;
    /// Client and virtual service are IPv6.
    const IPV6: u8 = 8;
    /// The [`Method`], and where it begins.
    const METHOD: u8 = 0b11 << Self::METHOD_AT;
    const METHOD_AT: u8 = 4;
    const IN_USE: u8 = 1;
    /// Another director told of it, and no packet came here since.
    const HEARSAY: u8 = 2;
    /// A walk of those that [tell](crate::path::Path::walk) other directors came by.
    const WALKED: u8 = 4;
    /// It has an [`Edit`](super::edit::Edit).
    const EDITED: u8 = 8;
    /// In `in_use`: it is of no virtual service, and tracked.
    const TRACKED: u8 = 0x80;
    /// In `in_use`: rules look at each of its packets, or it is counted (under this generation of the
    /// tables).
    const RULED: u8 = 0x40;
    /// In `in_use`: it is tracked, and one of its directions at least in a zone that is not 0.
    const ZONED: u8 = 0x10;
    /// In `in_use`: what is beside it of tracking is its own, and not that of the connection that had its
    /// place before.
    const KNOWN: u8 = 0x20;
    /// The connection is counted at its persistence template.
    const COUNTED: u8 = 0x40;
    /// A packet may change more than the connection's own state: of a virtual service's the first answer
    /// assures its template (TCP has a state for that); of a tracked one each, what tracking knows.
    const UNSETTLED: u8 = 0x80;

    /// Not in use yet.
    pub(super) fn new(new: &NewFlow, addresses: u32) -> Entry {
        Entry {
            ends: [Ends::of(&new.original), Ends::of(&new.reply)],
            deltas: new.deltas,
            addresses,
            seen: new.now.0,
            timeout: new.timeout.0,
            server: new.server.0,
            generation: 0,
            hops: [Self::NO_HOP; 2],
            protocol: new.original.protocol.0,
            state: new.state,
            flags: (new.method as u8) << Self::METHOD_AT
                | if new.original.dst.is_ipv6() { Self::IPV6 } else { 0 },
            in_use: 0,
        }
    }

    #[inline]
    pub fn protocol(&self) -> Protocol {
        Protocol(self.protocol)
    }

    #[inline]
    pub fn is_ipv6(&self) -> bool {
        self.flags & Self::IPV6 != 0
    }

    #[inline]
    pub fn method(&self) -> Method {
        match (self.flags & Self::METHOD) >> Self::METHOD_AT {
            0 => Method::Masq,
            1 => Method::Direct,
            2 => Method::Tunnel,
            _ => Method::Translated,
        }
    }

    /// Whether packets that come this way are IPv6.
    #[inline]
    pub(super) fn comes_as_ipv6(&self, direction: Direction) -> bool {
        let is_other = direction == Direction::Reply && self.method() == Method::Translated;
        self.is_ipv6() != is_other
    }

    /// Not a connection: see [`template`].
    pub fn is_template(&self) -> bool {
        templated(self.protocol()).is_some()
    }

    /// The directions whose tuples are in the index: of a template the client's alone, of one that binds no
    /// more none.
    #[inline]
    pub(super) fn indexed(&self) -> &'static [Direction] {
        if self.is_invalid() { &[] } else { indexed(self.method(), self.is_template()) }
    }

    /// A template that binds no more: its real server was removed.
    pub fn is_invalid(&self) -> bool {
        self.is_template() && self.state & template::INVALID != 0
    }

    /// A template that binds no more has the ports that the kernel gives it.
    pub(super) fn invalidate(&mut self) {
        self.state |= template::INVALID;
        self.ends[0].dport = u16::MAX;
        self.ends[1].sport = u16::MAX;
    }

    /// The protocol's own state (see [`crate::ipvs::state`]); it may be any number.
    #[inline]
    pub fn state(&self) -> u8 {
        self.state
    }

    #[inline]
    pub fn set_state(&mut self, state: u8) {
        self.state = state;
    }

    #[inline]
    pub fn server(&self) -> ServerId {
        ServerId(self.server)
    }

    #[inline]
    pub fn deltas(&self, direction: Direction) -> Deltas {
        self.deltas[direction.index()]
    }

    /// How a packet that goes this way is changed: to the other direction's ends, swapped.
    #[inline(always)]
    pub fn rewrite(&self, direction: Direction) -> Rewrite {
        let other = &self.ends[direction.index() ^ 1];
        Rewrite {
            addresses: (other.dst, other.src),
            ports: (other.dport, other.sport),
            deltas: self.deltas(direction),
        }
    }

    /// Exchanges what answers look like; IPv6 addresses are the caller's to exchange.
    pub(super) fn set_reply(&mut self, reply: &Tuple, deltas: [Deltas; 2]) {
        self.ends[Direction::Reply.index()] = Ends::of(reply);
        self.deltas = deltas;
    }

    /// A packet came: it ends a timeout after `now`.
    #[inline]
    pub fn touch(&mut self, now: Tick) {
        self.seen = now.0;
    }

    /// Time of the last packet.
    pub fn seen(&self) -> Tick {
        Tick(self.seen)
    }

    pub fn expires(&self) -> Tick {
        Tick(self.seen).after(Timeout(self.timeout))
    }

    #[inline]
    pub fn timeout(&self) -> Timeout {
        Timeout(self.timeout)
    }

    /// The tables' generation that the cached next hops and flags are from.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Forgets what was cached, and caches under `generation` from now on. `is_ruled`: something looks at
    /// each packet then.
    pub fn renew(&mut self, generation: u32, is_ruled: bool) {
        self.generation = generation;
        self.hops = [Self::NO_HOP; 2];
        self.flags &= !(Self::SERVER_REMOVED | Self::IPVS_OFF);
        self.in_use &= !(Self::HEARSAY | Self::RULED);
        self.in_use |= if is_ruled { Self::RULED } else { 0 };
        self.set_followed();
    }

    /// Tracking looks at each of its packets.
    #[inline]
    pub fn is_followed(&self) -> bool {
        self.is_tracked() && self.flags & Self::UNSETTLED != 0
    }

    /// Tracking looks at its next packets, if it is tracked.
    pub fn set_followed(&mut self) {
        if self.is_tracked() {
            self.set_flag(Self::UNSETTLED, true);
        }
    }

    /// Its packets change nothing any more of what tracking knows, until it is
    /// [`set_followed`](Entry::set_followed).
    pub fn set_settled(&mut self) {
        debug_assert!(self.is_tracked(), "a virtual service's says something else by this");
        self.set_flag(Self::UNSETTLED, false);
    }

    #[inline]
    pub fn is_hearsay(&self) -> bool {
        self.in_use & Self::HEARSAY != 0
    }

    /// Until its next packet, for which everything will be looked up anew: no tables have generation 0.
    pub fn set_hearsay(&mut self) {
        self.renew(0, false);
        self.in_use |= Self::HEARSAY;
    }

    /// Returns whether it was noted before.
    pub fn note_walk(&mut self) -> bool {
        let was_there = self.in_use & Self::WALKED != 0;
        self.in_use |= Self::WALKED;
        was_there
    }

    #[inline]
    pub fn hop(&self, direction: Direction) -> Option<HopId> {
        let hop = self.hops[direction.index()];
        (hop < Self::COURSE).then_some(HopId(hop))
    }

    /// The same; one that no table has where it is not kept.
    #[inline]
    pub fn hop_or_none(&self, direction: Direction) -> HopId {
        HopId(self.hops[direction.index()])
    }

    pub fn set_hop(&mut self, direction: Direction, hop: HopId) {
        self.hops[direction.index()] = hop.0;
    }

    /// What its packets that go this way meet of rules, and their next hop; where it is not kept, a course
    /// that there is not.
    #[inline]
    pub fn course_or_none(&self, direction: Direction) -> CourseId {
        CourseId(self.hops[direction.index()])
    }

    pub fn set_course(&mut self, direction: Direction, course: CourseId) {
        self.hops[direction.index()] = course.0;
    }

    /// Its packets that go this way are walked past the rules again.
    pub fn forget_course(&mut self, direction: Direction) {
        self.hops[direction.index()] = Self::NO_HOP;
    }

    #[inline]
    pub fn is_inactive(&self) -> bool {
        self.flags & Self::INACTIVE != 0
    }

    pub fn set_inactive(&mut self, is: bool) {
        self.set_flag(Self::INACTIVE, is);
    }

    #[inline]
    pub fn is_server_removed(&self) -> bool {
        self.flags & Self::SERVER_REMOVED != 0
    }

    pub fn set_server_removed(&mut self) {
        self.set_flag(Self::SERVER_REMOVED, true);
    }

    #[inline]
    pub fn is_ipvs_off(&self) -> bool {
        self.flags & Self::IPVS_OFF != 0
    }

    pub fn set_ipvs_off(&mut self) {
        self.set_flag(Self::IPVS_OFF, true);
    }

    /// True when none of the two is set, it is masqueraded, no answer is waited for, and nothing looks at
    /// each packet: it goes the ordinary way.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.turned_off_by() == 0
    }

    /// As [`Entry::is_plain`], but that rules look at each packet. A tracked connection too that has settled.
    #[inline]
    pub fn is_only_ruled(&self) -> bool {
        self.turned_off_by() & !u16::from_le_bytes([0, Entry::TRACKED])
            == u16::from_le_bytes([0, Entry::RULED])
    }

    /// What turns its packets off the ordinary way: bits of `flags`, and above them of `in_use`.
    #[inline]
    fn turned_off_by(&self) -> u16 {
        const FLAGS: u8 = Entry::SERVER_REMOVED | Entry::IPVS_OFF | Entry::METHOD | Entry::UNSETTLED;
        const IN_USE: u8 = Entry::TRACKED | Entry::RULED | Entry::EDITED;
        // Both are read at once.
        let has = self.as_bytes().last_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes));
        has & u16::from_le_bytes([FLAGS, IN_USE])
    }

    /// By direct routing or a tunnel, and nothing besides turns its packets off their way.
    #[inline]
    pub fn is_only_one_way(&self) -> bool {
        self.turned_off_one_way_by() == 0 && self.method().is_one_way()
    }

    /// The same, but that rules look at each packet.
    #[inline]
    pub fn is_only_ruled_one_way(&self) -> bool {
        self.turned_off_one_way_by() == u16::from_le_bytes([0, Entry::RULED]) && self.method().is_one_way()
    }

    /// What turns packets by direct routing or a tunnel off their way: as [`turned_off_by`](Self::turned_off_by).
    #[inline]
    fn turned_off_one_way_by(&self) -> u16 {
        const FLAGS: u8 = Entry::SERVER_REMOVED | Entry::IPVS_OFF;
        const IN_USE: u8 = Entry::TRACKED | Entry::RULED | Entry::EDITED;
        const TURNS_OFF: u16 = u16::from_le_bytes([FLAGS, IN_USE]);
        u16::from_le_bytes([self.flags, self.in_use]) & TURNS_OFF
    }

    /// Of no virtual service: its state is conntrack's.
    #[inline]
    pub fn is_tracked(&self) -> bool {
        self.in_use & Self::TRACKED != 0
    }

    #[inline]
    pub fn is_ruled(&self) -> bool {
        self.in_use & Self::RULED != 0
    }

    #[inline]
    pub(super) fn is_known(&self) -> bool {
        self.in_use & Self::KNOWN != 0
    }

    #[inline]
    pub(super) fn set_known(&mut self) {
        self.in_use |= Self::KNOWN;
    }

    /// Its zones are beside it.
    #[inline]
    pub(super) fn is_zoned(&self) -> bool {
        self.in_use & Self::ZONED != 0
    }

    /// Whether what the index finds by a tuple of zone 0 can be this: of such a protocol and family, and in
    /// no zone.
    #[inline(always)]
    pub(super) fn is_plainly(&self, protocol: u16, is_ipv6: bool) -> bool {
        const FAMILY: u32 = u32::from_le_bytes([0, 0, Entry::IPV6, 0]);
        const COMPARED: u32 = u32::from_le_bytes([u8::MAX, 0, Entry::IPV6, Entry::ZONED]);
        // Read at once, where four fields would be read one by one.
        let has = self.as_bytes().last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        has & COMPARED == u32::from(protocol) | if is_ipv6 { FAMILY } else { 0 }
    }

    #[inline]
    pub fn is_edited(&self) -> bool {
        self.in_use & Self::EDITED != 0
    }

    pub(super) fn set_edited(&mut self, is: bool) {
        self.in_use = if is { self.in_use | Self::EDITED } else { self.in_use & !Self::EDITED };
    }

    #[inline]
    pub fn is_counted(&self) -> bool {
        self.flags & Self::COUNTED != 0
    }

    pub fn set_counted(&mut self) {
        self.set_flag(Self::COUNTED, true);
    }

    pub fn is_unanswered(&self) -> bool {
        self.flags & Self::UNSETTLED != 0
    }

    pub fn set_unanswered(&mut self, is: bool) {
        self.set_flag(Self::UNSETTLED, is);
    }

    fn set_flag(&mut self, flag: u8, is: bool) {
        self.flags = if is { self.flags | flag } else { self.flags & !flag };
    }

    /// A free entry remembers the next free one where a used one has its server.
    pub(super) fn next_free(&self) -> u32 {
        self.server
    }

    pub(super) fn set_next_free(&mut self, next: u32) {
        // A look-up that began before it was freed must not take it for what it was: no packet has protocol
        // 0.
        self.protocol = 0;
        self.server = next;
    }

    /// Whether its flags are some that a connection can have.
    pub(super) fn has_sound_flags(&self) -> bool {
        (self.addresses != Self::NO_ADDRESSES || !self.is_ipv6() && self.method() != Method::Translated)
            && (!self.is_zoned() || self.is_tracked() && !self.is_counted())
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.in_use & Self::IN_USE != 0
    }

    /// Whether it has one of the places for IPv6 addresses.
    pub fn has_addresses(&self) -> bool {
        self.addresses != Self::NO_ADDRESSES
    }

    /// Neither in use nor anything that it could never be.
    pub(super) fn is_free(&self) -> bool {
        self.in_use == 0
    }

    pub(super) fn set_in_use(&mut self, is_zoned: bool) {
        let is_tracked = self.server() == ServerId::NONE && !self.is_template();
        let zoned = if is_zoned { Self::ZONED } else { 0 };
        self.in_use = Self::IN_USE | zoned | if is_tracked { Self::TRACKED } else { 0 };
    }

    pub(super) fn set_free(&mut self) {
        self.in_use = 0;
    }

    /// Free for whoever reads it, until it is given back what this returns.
    pub(super) fn hide(&mut self) -> u8 {
        std::mem::take(&mut self.in_use)
    }

    pub(super) fn show(&mut self, in_use: u8) {
        self.in_use = in_use;
    }

    pub(super) fn set_timeout(&mut self, timeout: Timeout) {
        self.timeout = timeout.0;
    }

    /// The hash of this direction's tuple, of an IPv4 connection in no zone.
    #[inline]
    pub(super) fn plain_hash(&self, direction: Direction, hasher: Hasher) -> Option<FlowHash> {
        let ends = &self.ends[direction.index()];
        let is_plain = self.addresses == Self::NO_ADDRESSES && !self.is_zoned();
        is_plain.then(|| hasher.ipv4(ends.src, ends.dst, ends.sport, ends.dport, self.protocol))
    }

    /// The hash of this direction's tuple.
    #[inline]
    pub(super) fn hash(
        &self,
        direction: Direction,
        addresses: Option<&Addresses>,
        hasher: Hasher,
    ) -> FlowHash {
        let ends = &self.ends[direction.index()];
        match addresses.filter(|_| self.comes_as_ipv6(direction)) {
            None => hasher.ipv4(ends.src, ends.dst, ends.sport, ends.dport, self.protocol),
            Some(addresses) => {
                let [src, dst] = &addresses.ends[direction.index()];
                hasher.ipv6(src, dst, ends.sport, ends.dport, self.protocol)
            }
        }
    }

    /// This direction's tuple.
    #[inline]
    pub(super) fn tuple(&self, direction: Direction, addresses: Option<&Addresses>) -> Tuple {
        let ends = &self.ends[direction.index()];
        let (src, dst) = match addresses {
            None => (Ipv4Addr::from(ends.src).into(), Ipv4Addr::from(ends.dst).into()),
            Some(addresses) => self.wide_addresses(direction, addresses),
        };
        Tuple { src, dst, sport: ends.sport, dport: ends.dport, protocol: Protocol(self.protocol) }
    }

    #[inline(never)]
    fn wide_addresses(&self, direction: Direction, addresses: &Addresses) -> (IpAddr, IpAddr) {
        let ends = &self.ends[direction.index()];
        let [src, dst] = addresses.ends[direction.index()].map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
        match direction {
            Direction::Original if self.is_ipv6() => (src, dst),
            Direction::Original => (Ipv4Addr::from(ends.src).into(), Ipv4Addr::from(ends.dst).into()),
            // The real server, and what it answers to, may be of the other family; a mapped address is on no
            // wire.
            Direction::Reply => (src.to_canonical(), dst.to_canonical()),
        }
    }
}

/// A connection to be entered.
#[derive(Clone, Debug)]
pub struct NewFlow {
    pub original: Tuple,
    /// As the answers come in: not yet translated. Its source is the real server, also where no answer comes
    /// in.
    pub reply: Tuple,
    pub method: Method,
    /// What translating a packet of each direction adds to its checksums.
    pub deltas: [Deltas; 2],
    pub server: ServerId,
    pub state: u8,
    pub timeout: Timeout,
    pub now: Tick,
    /// Other than none of a tracked connection alone.
    pub zones: Zones,
}

/// The directions whose tuples are in the index. A real server that answers by itself stays out of it: it has
/// one address for many virtual services; and of a template it is the client's alone.
#[inline]
pub(super) const fn indexed(method: Method, is_template: bool) -> &'static [Direction] {
    if is_template || method.is_one_way() {
        &[Direction::Original]
    } else {
        &[Direction::Original, Direction::Reply]
    }
}

/// What a later process relies on, in words.
#[cfg(test)]
pub(super) fn layout() -> String {
    use std::mem::offset_of;

    format!(
        "entry of {}: ends at {}, addresses at {} (none: {:#x}), seen at {}, timeout at {}, protocol at {}, state at {}, \
         flags at {} (IPv6: {}, method: {} for direct routing, {} for a tunnel, {} translated), in_use at {} (bit 0, edited: {}, in a zone: {}, known: {}, tracked: {})\nends of {}: src at {}, dst at {}, sport at {}, dport at {}\naddresses of {}: ends at {}",
        size_of::<Entry>(),
        offset_of!(Entry, ends),
        offset_of!(Entry, addresses),
        Entry::NO_ADDRESSES,
        offset_of!(Entry, seen),
        offset_of!(Entry, timeout),
        offset_of!(Entry, protocol),
        offset_of!(Entry, state),
        offset_of!(Entry, flags),
        Entry::IPV6,
        (Method::Direct as u8) << Entry::METHOD_AT,
        (Method::Tunnel as u8) << Entry::METHOD_AT,
        (Method::Translated as u8) << Entry::METHOD_AT,
        offset_of!(Entry, in_use),
        Entry::EDITED,
        Entry::ZONED,
        Entry::KNOWN,
        Entry::TRACKED,
        size_of::<Ends>(),
        offset_of!(Ends, src),
        offset_of!(Ends, dst),
        offset_of!(Ends, sport),
        offset_of!(Ends, dport),
        size_of::<Addresses>(),
        offset_of!(Addresses, ends),
    )
}
