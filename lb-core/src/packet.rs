//! What the packet path needs of a packet buffer, and one plain implementation of it.
//!
//! In production a packet is a DPDK mbuf (`lb-dataplane`); in tests and simulation it is a [`Frame`].

use crate::ids::PortId;

/// A packet buffer that the path owns, from receipt to transmission. The whole frame, or for a chained
/// buffer its first segment, is in one piece; the headers always are.
pub trait Packet: Sized {
    /// The frame from its Ethernet header on.
    fn data(&self) -> &[u8];
    fn data_mut(&mut self) -> &mut [u8];

    /// Length of the whole frame: more than `data().len()` when it is chained.
    fn frame_len(&self) -> usize;

    /// Makes the frame `len` bytes long, at the tail. Bytes gained hold anything.
    ///
    /// # Errors
    /// `NoRoom` when the buffer is too small or chained; the frame is as it was.
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom>;

    /// Moves the frame's start by `by` bytes: forward drops bytes (positive), backward (negative) gains
    /// bytes that hold anything.
    ///
    /// # Errors
    /// `NoRoom` when there is no such headroom, or not so many bytes; the frame is as it was.
    fn move_start(&mut self, by: isize) -> Result<(), NoRoom>;

    /// The port on which the frame came in.
    fn port(&self) -> PortId;

    /// What the port found out about the checksums.
    fn rx_checksums(&self) -> RxChecksums;

    /// Asks the port to write the UDP or TCP checksum (with the pseudo-header's sum already in the field).
    /// Returns false when this buffer's ports cannot: then software writes it.
    fn offload_l4_checksum(
        &mut self,
        l3_offset: usize,
        l4_offset: usize,
        is_ipv6: bool,
        is_udp: bool,
    ) -> bool;

    /// Fetches the first bytes of the frame into the cache.
    fn prefetch(&self);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

/// A port's word on the checksums of a frame that it received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RxChecksums {
    pub ip: RxChecksum,
    pub l4: RxChecksum,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RxChecksum {
    /// The port did not look: software does, where it matters.
    #[default]
    Unknown,
    Good,
    Bad,
}

/// A packet in ordinary memory, for tests, the simulation and in-memory ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    bytes: Vec<u8>,
    start: usize,
    port: PortId,
    tag: u64,
}

impl Frame {
    const HEADROOM: usize = 128;
    /// Longest frame that a `Frame` can become.
    pub const MAX: usize = 9216;

    pub fn new(port: PortId, frame: &[u8]) -> Frame {
        let mut bytes = Vec::with_capacity(Self::HEADROOM + frame.len());
        bytes.resize(Self::HEADROOM, 0);
        bytes.extend_from_slice(frame);
        Frame { bytes, start: Self::HEADROOM, port, tag: 0 }
    }

    /// With a number that stays with the buffer, so that a packet can be told from others whatever is written into it.
    #[must_use]
    pub fn tagged(self, tag: u64) -> Frame {
        Frame { tag, ..self }
    }

    /// 0 of a frame that nobody tagged.
    pub fn tag(&self) -> u64 {
        self.tag
    }
}

impl Packet for Frame {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    fn frame_len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        if len > Self::MAX {
            return Err(NoRoom);
        }
        self.bytes.resize(self.start + len, 0);
        Ok(())
    }

    fn move_start(&mut self, by: isize) -> Result<(), NoRoom> {
        let start = self.start.checked_add_signed(by).ok_or(NoRoom)?;
        if start > self.bytes.len() {
            return Err(NoRoom);
        }
        self.start = start;
        Ok(())
    }

    fn port(&self) -> PortId {
        self.port
    }

    fn rx_checksums(&self) -> RxChecksums {
        RxChecksums::default()
    }

    fn offload_l4_checksum(&mut self, _: usize, _: usize, _: bool, _: bool) -> bool {
        false
    }

    fn prefetch(&self) {}
}
