//! What the region of a flow table begins with: what it is, for what sizes, and the heads of its pools.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::edit::Edit;
use super::entry::Entry;
use super::hash::Hasher;
use super::index::Index;
use super::store::max_sets;
use super::tuple::Addresses;
use crate::conntrack::{Labels, Tracked};
use crate::mem::Region;

/// Changes with every change of what is in the region, or of what its values mean.
pub const LAYOUT_VERSION: u32 = 17;

/// One in so many connections may be edited.
const CONNECTIONS_AN_EDIT: u32 = 5;
/// One in so many connections may be counted.
pub(super) const CONNECTIONS_A_COUNT: u32 = 4;

/// What the region begins with: that it is ours, for what sizes, and the few values that are not in an array.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Header {
    pub(super) sizes: Sizes,
    /// Entries and IPv6 addresses in use.
    pub(super) entries: PoolHead,
    pub(super) addresses: PoolHead,
    pub(super) edits: PoolHead,
    pub(super) counts: PoolHead,
}

/// The part of the header that stays as it was written, and that a later process goes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Sizes {
    pub(super) magic: u64,
    pub(super) version: u32,
    pub(super) max_connections: u32,
    pub(super) max_ipv6: u32,
    /// Of all others: a header that was damaged is not believed.
    pub(super) checksum: u32,
    pub(super) hash_seed: u64,
}

impl Sizes {
    pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"lbflows\0");
    /// A flow's reference has 31 bits.
    pub(super) const MOST_CONNECTIONS: u32 = (1 << 31) - 1;

    pub(super) fn new(max_connections: u32, max_ipv6: u32, hash_seed: u64) -> Sizes {
        let (magic, version) = (Self::MAGIC, LAYOUT_VERSION);
        let sizes = Sizes { magic, version, max_connections, max_ipv6, checksum: 0, hash_seed };
        Sizes { checksum: sizes.sum(), ..sizes }
    }

    /// What the checksum should be.
    pub(super) fn sum(&self) -> u32 {
        let low = u64::from(self.version) << 32 | u64::from(self.max_connections);
        Hasher::new(self.magic ^ self.hash_seed).checksum(low, self.max_ipv6.into())
    }

    /// Connections that may be edited at one time.
    pub(super) fn max_edits(&self) -> u32 {
        self.max_connections.div_ceil(CONNECTIONS_AN_EDIT)
    }

    /// Where the entries, the IPv6 addresses, the places of more, the edits, what tracking knows, and the sets
    /// of labels begin in the region, and where the latter end.
    pub(super) fn places(&self) -> [usize; 7] {
        let entries = Region::bytes_for::<Header>(1) + Index::bytes_for(self.max_connections);
        let addresses = entries + Region::bytes_for::<Entry>(self.max_connections as usize);
        let more = addresses + Region::bytes_for::<Addresses>(self.max_ipv6 as usize);
        let edits = more + Region::bytes_for::<u32>(self.max_connections as usize);
        let tracked = edits + Region::bytes_for::<Edit>(self.max_edits() as usize);
        let labels = tracked + Region::bytes_for::<Tracked>(self.max_connections as usize);
        let end = labels + Region::bytes_for::<Labels>(max_sets(self.max_connections) as usize);
        [entries, addresses, more, edits, tracked, labels, end]
    }
}

/// A pool of numbered places: those once used and free now are a list, the rest was never used.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct PoolHead {
    free: u32,
    pub(super) never_used: u32,
    pub(super) used: u32,
}

const NONE: u32 = u32::MAX;

impl PoolHead {
    pub(super) const EMPTY: PoolHead = PoolHead { free: NONE, never_used: 0, used: 0 };

    pub(super) fn take(&mut self, capacity: u32, next: impl Fn(u32) -> u32) -> Option<u32> {
        let place = if self.free != NONE {
            let place = self.free;
            self.free = next(place);
            place
        } else if self.never_used < capacity {
            self.never_used += 1;
            self.never_used - 1
        } else {
            return None;
        };
        self.used += 1;
        Some(place)
    }

    /// Returns what the freed place must remember: the next free one.
    pub(super) fn give(&mut self, place: u32) -> u32 {
        self.used -= 1;
        std::mem::replace(&mut self.free, place)
    }

    /// Whether the list of free places and the counts agree; marks in `is_free` those that are not in use.
    pub(super) fn check(
        &self,
        capacity: u32,
        is_free: &mut [bool],
        next: impl Fn(u32) -> u32,
    ) -> Result<(), String> {
        if self.never_used > capacity {
            return Err(format!("{} of {capacity} places were used", self.never_used));
        }
        is_free[self.never_used as usize..].fill(true);
        let mut place = self.free;
        while place != NONE {
            if place >= self.never_used || std::mem::replace(&mut is_free[place as usize], true) {
                return Err(format!("free place {place} is listed twice, or was never used"));
            }
            place = next(place);
        }
        let used = is_free.iter().filter(|&&is_free| !is_free).count();
        if used != self.used as usize {
            Err(format!("{used} places are in use, not {}", self.used))
        } else {
            Ok(())
        }
    }
}

/// What a later process relies on, in words.
#[cfg(test)]
pub(super) fn layout() -> String {
    use std::mem::offset_of;

    use super::template;
    use crate::ipvs::state::TcpState;
    use crate::tables::Protocol;

    let [entries, addresses, more, edits, tracked, labels, end] = Sizes::new(1000, 100, 0).places();
    let templates: Vec<_> = [Protocol::SCTP, Protocol::TCP, Protocol::UDP, Protocol::ANY]
        .map(|protocol| format!("{}={}", protocol.0, template::template_protocol(protocol).0))
        .into();
    let states: Vec<_> =
        TcpState::ALL.iter().map(|&state| format!("{}={}", state.name(), state as u8)).collect();
    format!(
        "header of {}: magic at {}, version at {}, max_connections at {}, max_ipv6 at {}, checksum at {}, hash_seed at {}\n\
         for 1000 connections and 100 IPv6 ones: entries at {entries}, addresses at {addresses}, more at {more}, edits at {edits}, tracked at {tracked}, sets of labels at {labels}, up to {end}\n\
         {}\n{}\n{}\nstates: {}\ntemplates: protocols {}, assured={}, invalid={}",
        size_of::<Header>(),
        offset_of!(Sizes, magic),
        offset_of!(Sizes, version),
        offset_of!(Sizes, max_connections),
        offset_of!(Sizes, max_ipv6),
        offset_of!(Sizes, checksum),
        offset_of!(Sizes, hash_seed),
        super::entry::layout(),
        super::edit::layout(),
        crate::conntrack::layout(),
        states.join(", "),
        templates.join(", "),
        template::ASSURED,
        template::INVALID,
    )
}
