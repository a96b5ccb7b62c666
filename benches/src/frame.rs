//! A frame in memory that the path may own, laid out as DPDK does.

use lb_core::ids::PortId;
use lb_core::packet::{NoRoom, Packet, RxChecksums};

use crate::traffic::{LEN, WAN};

/// What DPDK leaves free before a frame.
const HEADROOM: u16 = 128;

/// A frame as DPDK lays one out: two lines of metadata, headroom, data from a line's start on.
#[repr(C, align(64))]
struct Slot {
    port: PortId,
    start: u16,
    len: u16,
    rest: [u8; 122],
    bytes: [u8; 320],
}

/// A frame that the path may own.
pub(crate) struct BenchFrame(Box<Slot>);

impl BenchFrame {
    pub(crate) fn new() -> BenchFrame {
        BenchFrame(Box::new(Slot {
            port: WAN,
            start: HEADROOM,
            len: LEN as u16,
            rest: [0; 122],
            bytes: [0; 320],
        }))
    }

    /// As a port fills one.
    #[inline]
    pub(crate) fn reset(&mut self, port: PortId) {
        (self.0.port, self.0.start, self.0.len) = (port, HEADROOM, LEN as u16);
    }
}

impl Packet for BenchFrame {
    #[inline]
    fn data(&self) -> &[u8] {
        let start = usize::from(self.0.start);
        &self.0.bytes[start..start + usize::from(self.0.len)]
    }
    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        let start = usize::from(self.0.start);
        &mut self.0.bytes[start..start + usize::from(self.0.len)]
    }
    #[inline]
    fn frame_len(&self) -> usize {
        usize::from(self.0.len)
    }
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        if usize::from(self.0.start) + len > self.0.bytes.len() {
            return Err(NoRoom);
        }
        self.0.len = len as u16;
        Ok(())
    }
    fn move_start(&mut self, by: isize) -> Result<(), NoRoom> {
        let start = usize::from(self.0.start).checked_add_signed(by).ok_or(NoRoom)?;
        let len = usize::from(self.0.len).checked_add_signed(-by).ok_or(NoRoom)?;
        if start + len > self.0.bytes.len() {
            return Err(NoRoom);
        }
        (self.0.start, self.0.len) = (start as u16, len as u16);
        Ok(())
    }
    #[inline]
    fn port(&self) -> PortId {
        self.0.port
    }
    #[inline]
    fn rx_checksums(&self) -> RxChecksums {
        RxChecksums::default()
    }
    fn offload_l4_checksum(&mut self, _: usize, _: usize, _: bool, _: bool) -> bool {
        false
    }
    #[inline]
    fn prefetch(&self) {
        // Where it begins is in the metadata, which are so fetched too, as an mbuf's are.
        lb_core::mem::prefetch(self.0.bytes.as_ptr().wrapping_add(usize::from(self.0.start)));
    }
}
