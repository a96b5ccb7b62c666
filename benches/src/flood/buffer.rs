//! A frame that goes back to a stock when it is dropped, as a packet buffer does.

use std::cell::RefCell;

use lb_core::ids::PortId;
use lb_core::packet::{NoRoom, Packet, RxChecksums};

use crate::frame::BenchFrame;

thread_local! {
    static STOCK: RefCell<Vec<BenchFrame>> = const { RefCell::new(Vec::new()) };
}

/// There is a frame until it is dropped.
pub(super) struct Buffer(Option<BenchFrame>);

impl Buffer {
    /// As a port fills one.
    pub(super) fn new(port: PortId) -> Buffer {
        let mut frame = STOCK.with_borrow_mut(Vec::pop).unwrap_or_else(BenchFrame::new);
        frame.reset(port);
        Buffer(Some(frame))
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        STOCK.with_borrow_mut(|stock| stock.extend(self.0.take()));
    }
}

impl Packet for Buffer {
    #[inline]
    fn data(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], BenchFrame::data)
    }
    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], BenchFrame::data_mut)
    }
    #[inline]
    fn frame_len(&self) -> usize {
        self.0.as_ref().map_or(0, BenchFrame::frame_len)
    }
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        self.0.as_mut().ok_or(NoRoom)?.set_len(len)
    }
    fn move_start(&mut self, by: isize) -> Result<(), NoRoom> {
        self.0.as_mut().ok_or(NoRoom)?.move_start(by)
    }
    #[inline]
    fn port(&self) -> PortId {
        self.0.as_ref().map_or(PortId(0), BenchFrame::port)
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
        if let Some(frame) = &self.0 {
            frame.prefetch();
        }
    }
}
