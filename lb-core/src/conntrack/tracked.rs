//! What a tracked connection needs beside its flow's entry.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::helper::HelperId;
use super::{CtState, Told};
use crate::flow::Direction;

/// What is known of a connection, with netfilter's bits and names (`enum ip_conntrack_status`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Status(pub u16);

impl Status {
    pub const NONE: Status = Status(0);
    /// Another connection announced it.
    pub const EXPECTED: Status = Status(1);
    /// Packets of both directions were seen.
    pub const SEEN_REPLY: Status = Status(1 << 1);
    /// Not to be dropped early.
    pub const ASSURED: Status = Status(1 << 2);
    /// Its first packet left.
    pub const CONFIRMED: Status = Status(1 << 3);
    pub const SRC_NAT: Status = Status(1 << 4);
    pub const DST_NAT: Status = Status(1 << 5);
    /// It was ended.
    pub const DYING: Status = Status(1 << 9);
    /// No packet prolongs it.
    pub const FIXED_TIMEOUT: Status = Status(1 << 10);
    /// Ours: it has labels.
    pub const LABELLED: Status = Status(1 << 12);
    pub const HELPER: Status = Status(1 << 13);
    /// Ours: its source is an address of this host that goes with the interface by which it leaves, and it ends where that goes.
    pub const MASQUERADED: Status = Status(1 << 14);
    /// Ours: its packets are counted.
    pub const COUNTED: Status = Status(1 << 15);

    #[inline]
    pub const fn has(self, all: Status) -> bool {
        self.0 & all.0 == all.0
    }

    #[inline]
    pub const fn has_any(self, bits: Status) -> bool {
        self.0 & bits.0 != 0
    }

    #[inline]
    pub fn set(&mut self, bits: Status) {
        self.0 |= bits.0;
    }

    #[inline]
    pub fn clear(&mut self, bits: Status) {
        self.0 &= !bits.0;
    }
}

/// A tracked connection, beside its flow's entry: one cache line. All zero: nothing is known.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Tracked {
    /// `CONNMARK`.
    pub mark: u32,
    /// What is not told of it to those who read events.
    pub untold: Told,
    pub status: Status,
    /// The protocol's own; the last byte is the helper's, and the first two of the same word say which labels it has.
    pub(super) private: [u32; PRIVATE],
}

/// Words that a protocol has.
pub(super) const PRIVATE: usize = 14;

impl Tracked {
    pub const NOTHING: Tracked =
        Tracked { mark: 0, untold: Told::NONE, status: Status::NONE, private: [0; PRIVATE] };

    /// It reads along in the connection: also in one that it read of itself, if that says so.
    #[inline]
    pub fn helper(&self) -> HelperId {
        let is_only_told = self.status.has(Status::EXPECTED) && !self.status.has(Status::HELPER);
        if is_only_told { HelperId::NONE } else { self.last_byte() }
    }

    /// The helper that read of the connection in another one.
    #[inline]
    pub fn told_by(&self) -> HelperId {
        if self.status.has(Status::EXPECTED) { self.last_byte() } else { HelperId::NONE }
    }

    /// It reads along, or has read of the connection if that was expected.
    pub(crate) fn set_helper(&mut self, helper: HelperId) {
        let [a, b, c, _] = self.private[PRIVATE - 1].to_ne_bytes();
        self.private[PRIVATE - 1] = u32::from_ne_bytes([a, b, c, helper.0]);
    }

    /// Where the set of labels stands that it has.
    #[inline]
    pub(crate) fn label_set(&self) -> Option<u16> {
        let [a, b, ..] = self.private[PRIVATE - 1].to_ne_bytes();
        self.status.has(Status::LABELLED).then(|| u16::from_ne_bytes([a, b]))
    }

    pub(crate) fn set_label_set(&mut self, place: Option<u16>) {
        let ([a, b], [_, _, c, d]) =
            (place.unwrap_or_default().to_ne_bytes(), self.private[PRIVATE - 1].to_ne_bytes());
        self.private[PRIVATE - 1] = u32::from_ne_bytes([a, b, c, d]);
        match place {
            Some(_) => self.status.set(Status::LABELLED),
            None => self.status.clear(Status::LABELLED),
        }
    }

    /// Of a virtual service's connection that is expected: the ports of the first packet of the one that told of it.
    pub fn masters_ports(&self) -> (u16, u16) {
        let [a, b, c, d] = self.private[0].to_ne_bytes();
        (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))
    }

    pub(crate) fn set_masters_ports(&mut self, (source, destination): (u16, u16)) {
        let ([a, b], [c, d]) = (source.to_ne_bytes(), destination.to_ne_bytes());
        self.private[0] = u32::from_ne_bytes([a, b, c, d]);
    }

    /// Of a virtual service's connection that is [counted](crate::flow::template::Uses) at the control connection that told of it: the age of that.
    pub(crate) fn masters_age(&self) -> Option<u8> {
        let [age, is_known, ..] = self.private[1].to_ne_bytes();
        (is_known == 1).then_some(age)
    }

    pub(crate) fn set_masters_age(&mut self, age: u8) {
        self.private[1] = u32::from_ne_bytes([age, 1, 0, 0]);
    }

    #[inline]
    fn last_byte(&self) -> HelperId {
        let [.., last] = self.private[PRIVATE - 1].to_ne_bytes();
        HelperId(last)
    }

    /// What a connection's packet is to rules that goes this way, before it is looked at.
    #[inline]
    pub fn is(&self, direction: Direction) -> CtState {
        if direction == Direction::Reply || self.status.has(Status::SEEN_REPLY) {
            CtState::Established
        } else if self.status.has(Status::EXPECTED) {
            CtState::Related
        } else {
            CtState::New
        }
    }
}

/// What a later process relies on, in words; of the protocols' own words the source has the meaning.
#[cfg(test)]
pub(crate) fn layout() -> String {
    use std::mem::offset_of;

    use super::helper::HELPERS;

    format!(
        "tracked of {}: mark at {}, untold at {}, status at {} (counted: {}, labelled: {}), private at {}, set of labels in the first half of its last word, helper in its last byte ({})",
        size_of::<Tracked>(),
        offset_of!(Tracked, mark),
        offset_of!(Tracked, untold),
        offset_of!(Tracked, status),
        Status::COUNTED.0,
        Status::LABELLED.0,
        offset_of!(Tracked, private),
        HELPERS.iter().map(|helper| helper.name).collect::<Vec<_>>().join(", "),
    )
}

/// Packets and bytes of a connection, where `nf_conntrack_acct` is on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(32))]
pub struct Accounting {
    /// By direction.
    pub packets: [u64; 2],
    /// Of IP packets, headers included.
    pub bytes: [u64; 2],
}

impl Accounting {
    /// Of a connection that such a packet begins.
    pub(crate) fn of_first(bytes: u32) -> Accounting {
        Accounting { packets: [1, 0], bytes: [bytes.into(), 0] }
    }

    /// A place that is free, and knows the next one.
    pub(crate) fn free(next: u32) -> Accounting {
        Accounting { packets: [next.into(), 0], bytes: [0; 2] }
    }

    pub(crate) fn next_free(&self) -> u32 {
        self.packets[0] as u32
    }

    #[inline]
    pub fn count(&mut self, direction: Direction, bytes: u32) {
        let at = direction.index();
        self.packets[at] = self.packets[at].wrapping_add(1);
        self.bytes[at] = self.bytes[at].wrapping_add(u64::from(bytes));
    }

    /// More of the packet that was counted last.
    pub fn lengthen(&mut self, direction: Direction, bytes: u32) {
        let at = direction.index();
        self.bytes[at] = self.bytes[at].wrapping_add(u64::from(bytes));
    }
}
