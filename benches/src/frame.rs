//! A frame in memory that the path may own, laid out as DPDK does.

use std::cell::RefCell;
use std::sync::Mutex;

use lb_core::ids::PortId;
use lb_core::packet::{NoRoom, Packet, RxChecksums};
use lb_core::path::Burst;

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

/// Frames that nobody has, as DPDK's pools keep them: each thread has some of its own, and gives to all, or takes from there, what it has
/// too many or too few of, in bulk.
static COMMON: Mutex<Vec<Vec<BenchFrame>>> = Mutex::new(Vec::new());

thread_local! {
    static OWN: RefCell<Vec<BenchFrame>> = const { RefCell::new(Vec::new()) };
}

/// Frames that go from a thread to all at once, and back.
const BULK: usize = 512;

/// A frame that the path may own. It has its slot until it is dropped.
pub(crate) struct BenchFrame(Option<Box<Slot>>);

impl BenchFrame {
    pub(crate) fn new() -> BenchFrame {
        let mut frame = OWN.with_borrow_mut(Vec::pop).unwrap_or_else(BenchFrame::made);
        frame.reset(WAN);
        frame
    }

    fn made() -> BenchFrame {
        BenchFrame(Some(Box::new(Slot { port: WAN, start: 0, len: 0, rest: [0; 122], bytes: [0; 320] })))
    }

    /// Fills a burst with frames that came by `port`.
    #[inline]
    pub(crate) fn fill(burst: &mut Burst<BenchFrame>, port: PortId) {
        OWN.with_borrow_mut(|own| {
            if own.len() < burst.remaining_capacity() {
                BenchFrame::fetch(own);
            }
            for mut frame in own.drain(own.len() - burst.remaining_capacity()..) {
                frame.reset(port);
                burst.push(frame);
            }
        });
    }

    #[cold]
    fn fetch(own: &mut Vec<BenchFrame>) {
        let bulk = COMMON.lock().ok().and_then(|mut common| common.pop());
        own.extend(bulk.unwrap_or_else(|| std::iter::repeat_with(BenchFrame::made).take(BULK).collect()));
    }

    /// Takes frames back.
    #[inline]
    pub(crate) fn take_back(frames: impl Iterator<Item = BenchFrame>) {
        OWN.with_borrow_mut(|own| BenchFrame::keep(own, frames));
    }

    #[inline]
    fn keep(own: &mut Vec<BenchFrame>, frames: impl Iterator<Item = BenchFrame>) {
        own.extend(frames);
        if own.len() > 2 * BULK {
            BenchFrame::release(own);
        }
    }

    #[cold]
    fn release(own: &mut Vec<BenchFrame>) {
        // Those that were longest out of use.
        let bulk = own.drain(..BULK).collect();
        if let Ok(mut common) = COMMON.lock() {
            common.push(bulk);
        }
    }

    #[inline(always)]
    fn slot(&self) -> &Slot {
        self.0.as_deref().expect("it is not dropped")
    }

    #[inline(always)]
    fn slot_mut(&mut self) -> &mut Slot {
        self.0.as_deref_mut().expect("it is not dropped")
    }

    /// As a port fills one.
    #[inline]
    pub(crate) fn reset(&mut self, port: PortId) {
        let slot = self.slot_mut();
        (slot.port, slot.start, slot.len) = (port, HEADROOM, LEN as u16);
    }
}

impl Drop for BenchFrame {
    fn drop(&mut self) {
        let Some(slot) = self.0.take() else { return };
        // A thread that ends has none any more.
        let _ = OWN.try_with(|own| {
            BenchFrame::keep(&mut own.borrow_mut(), std::iter::once(BenchFrame(Some(slot))));
        });
    }
}

impl Packet for BenchFrame {
    #[inline]
    fn data(&self) -> &[u8] {
        let slot = self.slot();
        let start = usize::from(slot.start);
        &slot.bytes[start..start + usize::from(slot.len)]
    }
    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        let slot = self.slot_mut();
        let start = usize::from(slot.start);
        &mut slot.bytes[start..start + usize::from(slot.len)]
    }
    #[inline]
    fn frame_len(&self) -> usize {
        usize::from(self.slot().len)
    }
    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        let slot = self.slot_mut();
        if usize::from(slot.start) + len > slot.bytes.len() {
            return Err(NoRoom);
        }
        slot.len = len as u16;
        Ok(())
    }
    fn move_start(&mut self, by: isize) -> Result<(), NoRoom> {
        let slot = self.slot_mut();
        let start = usize::from(slot.start).checked_add_signed(by).ok_or(NoRoom)?;
        let len = usize::from(slot.len).checked_add_signed(-by).ok_or(NoRoom)?;
        if start + len > slot.bytes.len() {
            return Err(NoRoom);
        }
        (slot.start, slot.len) = (start as u16, len as u16);
        Ok(())
    }
    #[inline]
    fn port(&self) -> PortId {
        self.slot().port
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
        let slot = self.slot();
        lb_core::mem::prefetch(slot.bytes.as_ptr().wrapping_add(usize::from(slot.start)));
    }
}
