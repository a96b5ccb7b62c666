//! DPDK's packet buffers.

use std::ffi::CString;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys as sys;
use lb_core::ids::PortId;
use lb_core::packet::{NoRoom, Packet, RxChecksum, RxChecksums};

use super::{last_error, socket};
use crate::device::Pool;
use crate::error::StartError;

/// A packet buffer that this value owns; dropping it gives it back to its pool.
///
/// All of them must be dropped before their pool is freed, which the order of [`crate::Dataplane`]'s fields sees to.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an mbuf has one owner, and its pool takes it back on any thread.
unsafe impl Send for Mbuf {}

/// Whether all ports write UDP and TCP checksums. Set while no worker runs.
static PORTS_WRITE_L4: AtomicBool = AtomicBool::new(false);

pub(crate) fn set_ports_write_l4(all_do: bool) {
    PORTS_WRITE_L4.store(all_do, Ordering::Relaxed);
}

impl Mbuf {
    /// A field of the mbuf, by its offset.
    ///
    /// # Safety
    /// `T` is the type of the field at that offset.
    #[inline]
    unsafe fn field<T>(&self, offset: usize) -> *mut T {
        // SAFETY: the offset is one of rte_mbuf's own (LB_MBUF_*), so it stays within it.
        unsafe { self.0.as_ptr().byte_add(offset).cast() }
    }

    #[inline]
    fn get<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: private, and called with the field's type only; the mbuf is ours to read.
        unsafe { self.field::<T>(offset).read() }
    }

    #[inline]
    fn set<T: Copy>(&mut self, offset: usize, value: T) {
        // SAFETY: as for `get`, and `&mut self` makes it the only access.
        unsafe { self.field::<T>(offset).write(value) }
    }

    #[inline]
    fn start(&self) -> *mut u8 {
        let buffer: *mut u8 = self.get(sys::LB_MBUF_BUF_ADDR);
        let offset: u16 = self.get(sys::LB_MBUF_DATA_OFF);
        // SAFETY: DPDK and `move_start` keep the data offset within the buffer.
        unsafe { buffer.add(usize::from(offset)) }
    }

    #[inline]
    fn data_len(&self) -> u16 {
        self.get(sys::LB_MBUF_DATA_LEN)
    }

    #[inline]
    fn is_chained(&self) -> bool {
        self.get::<u16>(sys::LB_MBUF_NB_SEGS) > 1
    }

    #[inline]
    fn set_lengths(&mut self, len: u16) {
        self.set(sys::LB_MBUF_DATA_LEN, len);
        self.set(sys::LB_MBUF_PKT_LEN, u32::from(len));
    }

    /// Says by which port it came in; drivers know their own numbers, and some say nothing.
    #[inline]
    pub(crate) fn set_port(&mut self, port: PortId) {
        self.set(sys::LB_MBUF_PORT, port.0);
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: owned, so freed once, here.
        unsafe { sys::lb_mbuf_free(self.0.as_ptr()) }
    }
}

impl Packet for Mbuf {
    #[inline]
    fn data(&self) -> &[u8] {
        // SAFETY: DPDK and `set_len` keep data_len within the buffer, which was initialised when the pool was made.
        unsafe { std::slice::from_raw_parts(self.start(), usize::from(self.data_len())) }
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `data`, and `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start(), usize::from(self.data_len())) }
    }

    #[inline]
    fn frame_len(&self) -> usize {
        self.get::<u32>(sys::LB_MBUF_PKT_LEN) as usize
    }

    fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        let buffer: u16 = self.get(sys::LB_MBUF_BUF_LEN);
        let offset: u16 = self.get(sys::LB_MBUF_DATA_OFF);
        if self.is_chained() || len > usize::from(buffer - offset) {
            return Err(NoRoom);
        }
        self.set_lengths(len as u16);
        Ok(())
    }

    fn move_start(&mut self, by: isize) -> Result<(), NoRoom> {
        let offset: u16 = self.get(sys::LB_MBUF_DATA_OFF);
        let moved = (offset as isize).checked_add(by).ok_or(NoRoom)?;
        let len = (self.data_len() as isize).checked_sub(by).ok_or(NoRoom)?;
        let (Ok(moved), Ok(len)) = (u16::try_from(moved), u16::try_from(len)) else { return Err(NoRoom) };
        if by > 0 && by as usize > usize::from(self.data_len()) {
            return Err(NoRoom);
        }
        let whole = self.frame_len() as isize - by;
        self.set(sys::LB_MBUF_DATA_OFF, moved);
        self.set(sys::LB_MBUF_DATA_LEN, len);
        self.set(sys::LB_MBUF_PKT_LEN, whole as u32);
        Ok(())
    }

    #[inline]
    fn port(&self) -> PortId {
        PortId(self.get(sys::LB_MBUF_PORT))
    }

    #[inline]
    fn rx_checksums(&self) -> RxChecksums {
        let flags: u64 = self.get(sys::LB_MBUF_OL_FLAGS);
        let ip = match flags & sys::LB_RX_IP_CKSUM_MASK {
            sys::LB_RX_IP_CKSUM_GOOD => RxChecksum::Good,
            sys::LB_RX_IP_CKSUM_BAD => RxChecksum::Bad,
            _ => RxChecksum::Unknown,
        };
        let l4 = match flags & sys::LB_RX_L4_CKSUM_MASK {
            sys::LB_RX_L4_CKSUM_GOOD => RxChecksum::Good,
            sys::LB_RX_L4_CKSUM_BAD => RxChecksum::Bad,
            _ => RxChecksum::Unknown,
        };
        RxChecksums { ip, l4 }
    }

    fn offload_l4_checksum(
        &mut self,
        l3_offset: usize,
        l4_offset: usize,
        is_ipv6: bool,
        is_udp: bool,
    ) -> bool {
        if !PORTS_WRITE_L4.load(Ordering::Relaxed) {
            return false;
        }
        let (l2, l3) = (l3_offset as u64, (l4_offset - l3_offset) as u64);
        // l2_len has 7 bits, l3_len 9.
        if l2 >= 1 << 7 || l3 >= 1 << 9 {
            return false;
        }
        self.set(sys::LB_MBUF_TX_OFFLOAD, l2 | l3 << sys::LB_TX_L3_LEN_SHIFT);
        let family = if is_ipv6 { sys::LB_TX_IPV6 } else { sys::LB_TX_IPV4 };
        let protocol = if is_udp { sys::LB_TX_UDP_CKSUM } else { sys::LB_TX_TCP_CKSUM };
        let flags: u64 = self.get(sys::LB_MBUF_OL_FLAGS);
        self.set(sys::LB_MBUF_OL_FLAGS, flags & !sys::LB_TX_L4_MASK | family | protocol);
        true
    }

    #[inline]
    fn prefetch(&self) {
        lb_core::mem::prefetch(self.start());
    }
}

/// How buffers lie in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layout {
    /// On huge pages.
    Huge,
    /// On small pages, none across two: what shares the memory with the kernel or a device. It costs: buffers that all
    /// start on a page compete for the same few sets of the CPU's cache (36 instead of 8 ns a packet in a bare loop).
    WithinPages,
    /// On small pages, wherever they fit.
    Dense,
}

/// A pool of buffers, freed with its last handle.
struct OwnedPool(NonNull<sys::rte_mempool>);

// SAFETY: DPDK's pools serve any thread; a pool is freed once, by the last owner.
unsafe impl Send for OwnedPool {}
// SAFETY: as above.
unsafe impl Sync for OwnedPool {}

impl Drop for OwnedPool {
    fn drop(&mut self) {
        // SAFETY: made in `MbufPool::new`; all its buffers are back (see `Mbuf`).
        unsafe { sys::rte_mempool_free(self.0.as_ptr()) }
    }
}

/// Where packet buffers come from: one for each NUMA node that has a port. A buffer can go out by any port, and goes back to its own.
#[derive(Clone)]
pub(crate) struct MbufPool(Arc<OwnedPool>);

impl MbufPool {
    /// Buffers that a thread keeps for itself.
    const CACHE: u32 = 256;

    /// Makes `count` buffers with `data_room` bytes each, headroom included, in the memory of a node (`None`: of any). `number` tells the pool from
    /// others.
    pub(crate) fn new(
        number: usize,
        count: u32,
        data_room: u16,
        layout: Layout,
        node: Option<u32>,
    ) -> Result<MbufPool, StartError> {
        let name = CString::new(format!("packets{number}")).expect("it has no zero byte");
        let failed = || StartError::Buffers { count, reason: last_error() };
        let flags = match layout {
            Layout::Dense => sys::LB_MEMPOOL_NO_IOVA_CONTIG,
            Layout::Huge | Layout::WithinPages => 0,
        };
        let mut private =
            sys::rte_pktmbuf_pool_private { mbuf_data_room_size: data_room, ..Default::default() };
        // SAFETY: the EAL is up; names end in a zero byte, and DPDK copies them and `private`. The
        // steps are those of rte_pktmbuf_pool_create, which takes no flags.
        unsafe {
            let pool = sys::rte_mempool_create_empty(
                name.as_ptr(),
                count,
                (sys::LB_MBUF_SIZE + usize::from(data_room)) as u32,
                Self::CACHE,
                size_of::<sys::rte_pktmbuf_pool_private>() as u32,
                socket(node),
                flags,
            );
            // From here on an error frees it.
            let pool = OwnedPool(NonNull::new(pool).ok_or_else(failed)?);
            let raw = pool.0.as_ptr();
            let ops = sys::rte_mbuf_best_mempool_ops();
            if sys::rte_mempool_set_ops_byname(raw, ops, null_mut()) != 0 {
                return Err(failed());
            }
            sys::rte_pktmbuf_pool_init(raw, (&raw mut private).cast());
            if sys::rte_mempool_populate_default(raw) < 0 {
                return Err(failed());
            }
            sys::rte_mempool_obj_iter(raw, Some(sys::rte_pktmbuf_init), null_mut());
            Ok(MbufPool(Arc::new(pool)))
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.0.0.as_ptr()
    }

    /// Buffers in use now: in queues, rings, caches.
    pub(crate) fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as this handle.
        unsafe { sys::rte_mempool_in_use_count(self.as_ptr()) }
    }

    /// Bytes that one buffer takes in all.
    pub(crate) const fn bytes_each(data_room: u16, layout: Layout) -> usize {
        const PAGE: usize = 4096;
        // An object's header, and some cache lines by which DPDK spreads objects over memory channels.
        let object = (data_room as usize + sys::LB_MBUF_SIZE + 64 + 191) & !63;
        match (layout, PAGE / object) {
            (Layout::Huge | Layout::Dense, _) => object,
            (Layout::WithinPages, 0) => object.next_multiple_of(PAGE),
            (Layout::WithinPages, fitting) => PAGE / fitting,
        }
    }

    /// The room that frames with this MTU need, headroom included: an Ethernet header and two VLAN tags before the IP
    /// packet, and what any driver asks for at least.
    pub(crate) const fn data_room(mtu: u16) -> u16 {
        let frame = (mtu as usize + 14 + 8 + 4).next_multiple_of(64);
        let frame = if frame < 2048 { 2048 } else { frame };
        let room = frame + sys::LB_MBUF_HEADROOM;
        if room > u16::MAX as usize { u16::MAX } else { room as u16 }
    }
}

impl Pool<Mbuf> for MbufPool {
    #[inline]
    fn allocate(&mut self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as this handle.
        NonNull::new(unsafe { sys::lb_mbuf_alloc(self.as_ptr()) }).map(Mbuf)
    }
}
