//! Copies of packets that rules want sent elsewhere (`TEE`), from the moment when the rule sees the packet until the worker's turn ends.

use std::net::IpAddr;

use crate::flow::Tuple;
use crate::tables::InterfaceId;
use crate::wire::parse::Headers;

/// Copies of one turn, and bytes of them.
const MOST: usize = 128;
const ROOM: usize = 256 << 10;

/// One of them, besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub(crate) headers: Headers,
    /// Its ends as the rule saw them, and the hops that are yet to be taken off its TTL.
    pub(crate) tuple: Tuple,
    pub(crate) hops: u8,
    /// Made before it was known where the packet goes: with a hop less, so that two hosts that copy to each other come to an end.
    pub(crate) is_received: bool,
    pub(crate) mark: u32,
    pub(crate) gateway: IpAddr,
    /// The interface that it must leave by.
    pub(crate) output: Option<InterfaceId>,
}

/// Those that wait.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    copies: Vec<(Copy, usize)>,
    /// What they consist of, one behind the other.
    bytes: Vec<u8>,
    /// Those for which there was no room.
    lost: u64,
}

impl Copies {
    /// Allocates: not for the packet path.
    pub(crate) fn make_room(&mut self) {
        self.copies.reserve_exact(MOST.saturating_sub(self.copies.len()));
        self.bytes.reserve_exact(ROOM.saturating_sub(self.bytes.len()));
    }

    pub(crate) fn put(&mut self, copy: Copy, frame: &[u8]) {
        // A chained packet is not in one piece.
        let is_whole = frame.len() >= copy.headers.end();
        let is_full = self.copies.len() >= MOST.min(self.copies.capacity());
        let has_room = !is_full && self.bytes.len() + frame.len() <= self.bytes.capacity();
        if is_whole && has_room {
            self.copies.push((copy, frame.len()));
            self.bytes.extend_from_slice(frame);
        } else {
            self.lost += 1;
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.copies.is_empty() && self.lost == 0
    }

    /// The copy that was put in as this one, counted from 0, and its frame, if there is one that begins at `from`.
    pub(crate) fn get(&self, number: usize, from: usize) -> Option<(Copy, &[u8])> {
        let &(copy, len) = self.copies.get(number)?;
        Some((copy, self.bytes.get(from..from + len)?))
    }

    /// Forgets all; how many were lost.
    pub(crate) fn clear(&mut self) -> u64 {
        self.copies.clear();
        self.bytes.clear();
        std::mem::take(&mut self.lost)
    }
}
