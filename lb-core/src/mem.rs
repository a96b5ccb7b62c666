//! The one audited module with `unsafe` code: memory regions, typed arrays in them, prefetch.
//!
//! Flow tables live in a [`Region`] taken at start, with a versioned layout and no pointers in it, so that a later
//! process can read the memory of a dead one (decision 0005). A region is carved into [`Slab`]s: arrays of plain data.
#![allow(unsafe_code)]

use std::any::Any;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, madvise};
use zerocopy::{FromBytes, IntoBytes};

/// A block of zeroed memory that starts on a page and belongs to this value and the slabs
/// taken from it.
pub struct Region {
    start: NonNull<u8>,
    len: usize,
    taken: usize,
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the part of the memory that is not taken yet is reached through this value alone; the owner may be sent.
unsafe impl Send for Region {}

const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;

/// Ordinary memory, as the allocator gave it.
struct Heap {
    block: NonNull<u8>,
    layout: std::alloc::Layout,
}

// SAFETY: `Heap` itself never reads or writes the block, it only frees it.
unsafe impl Send for Heap {}
// SAFETY: as above.
unsafe impl Sync for Heap {}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated in `Region::heap` with this layout, freed once, here.
        unsafe { std::alloc::dealloc(self.block.as_ptr(), self.layout) }
    }
}

impl Region {
    /// Ordinary zeroed memory; the system gives pages when they are first touched.
    ///
    /// # Panics
    /// When the address space has no room (at start-up).
    pub fn heap(len: usize) -> Region {
        let len = len.next_multiple_of(PAGE);
        // A page more, to begin at one: of an allocator that is asked to align, the memory is written to become zero.
        let layout = std::alloc::Layout::array::<u8>(len + PAGE).expect("fits an isize");
        // SAFETY: the layout is at least one page long.
        let block = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(block) = NonNull::new(block) else { std::alloc::handle_alloc_error(layout) };
        let before = block.as_ptr().addr().next_multiple_of(PAGE) - block.as_ptr().addr();
        // SAFETY: less than a page, and the block is a page longer than the region.
        let start = unsafe { block.add(before) };
        Region { start, len, taken: 0, owner: Arc::new(Heap { block, layout }) }
    }

    /// As [`Region::heap`], with what outlives the region: as a file does that a process had mapped.
    pub fn heap_with_remains(len: usize) -> (Region, Remains) {
        let region = Region::heap(len);
        let remains = Remains { start: region.start, len: region.len, owner: region.owner.clone() };
        (region, remains)
    }

    /// A region over memory that `owner` keeps mapped until it is dropped.
    ///
    /// # Safety
    /// `start` is aligned to a page and valid for reads and writes of `len` initialised bytes, which nobody else
    /// uses, as long as `owner` lives.
    pub unsafe fn from_raw(start: NonNull<u8>, len: usize, owner: Arc<dyn Any + Send + Sync>) -> Region {
        assert!(start.as_ptr().addr().is_multiple_of(PAGE), "a region starts on a page");
        Region { start, len, taken: 0, owner }
    }

    /// Bytes of a region that a slab of `count` `T` takes.
    pub const fn bytes_for<T>(count: usize) -> usize {
        (count * size_of::<T>()).next_multiple_of(PAGE)
    }

    /// Splits off the next slab, in the state that the memory is in.
    ///
    /// # Panics
    /// When there is no such room left: its size was computed with other figures (a programmer's error).
    pub fn take<T: Plain>(&mut self, count: usize) -> Slab<T> {
        const { assert!(align_of::<T>() <= PAGE) };
        let bytes = Self::bytes_for::<T>(count);
        assert!(bytes <= self.len - self.taken, "a region of {} bytes is too small", self.len);
        // SAFETY: taken + bytes is within the region; `taken` stays a multiple of a page, so it is aligned for T.
        let start = unsafe { self.start.add(self.taken) }.cast::<T>();
        self.taken += bytes;
        Slab { start, len: count, _owner: self.owner.clone() }
    }
}

/// Memory of a [`Region`], for when that is gone with all that was taken from it.
pub struct Remains {
    start: NonNull<u8>,
    len: usize,
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the memory is reached only by who is the last owner; the owner may be sent.
unsafe impl Send for Remains {}

impl Remains {
    /// The bytes as they were left; `None` while the region or a slab of it is there.
    pub fn bytes(&mut self) -> Option<&mut [u8]> {
        Arc::get_mut(&mut self.owner)?;
        // SAFETY: the memory is valid and initialised as long as the owner lives; region and slabs hold the owner, so that
        // there are none, and the borrow of `self` makes this the only access.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) })
    }
}

/// Plain data: any bytes are a valid value, there is no padding and no pointer.
pub trait Plain: FromBytes + IntoBytes + Copy + Send + 'static {}
impl<T: FromBytes + IntoBytes + Copy + Send + 'static> Plain for T {}

/// An array of plain data in a [`Region`], the only access to its part of it.
pub struct Slab<T> {
    start: NonNull<T>,
    len: usize,
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: a slab is the only access to its memory, like a Box<[T]>.
unsafe impl<T: Send> Send for Slab<T> {}

impl<T> Deref for Slab<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `take` made start..start+len valid, aligned and exclusive; any bytes are a valid T (Plain).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Slab<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Slab<T> {
    /// Fetches element `index` (its first cache line) into the cache; nothing when there is none.
    #[inline]
    pub fn prefetch(&self, index: usize) {
        prefetch(self.start.as_ptr().wrapping_add(index));
    }
}

/// Asks the system for huge pages under memory that is about to be filled, where that is so large that they fit. It may go without.
pub fn prefer_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    let begin = memory.as_mut_ptr().addr();
    let first = begin.next_multiple_of(PAGE);
    let len = ((begin + size_of_val(memory)) & !(PAGE - 1)).saturating_sub(first);
    if len < HUGE_PAGE {
        return;
    }
    let start = memory.as_mut_ptr().cast::<u8>().wrapping_add(first - begin);
    // SAFETY: whole pages within `memory`; this advice changes nothing of what is in them.
    let advised = unsafe { madvise(start.cast(), len, Advice::LinuxHugepage) };
    // A kernel without huge pages says so.
    let _ = advised;
}

/// Bit i: `list[i]` is `wanted`.
#[inline]
pub fn equal_u16x8(list: &[u16; 8], wanted: u16) -> u8 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            __m128i, _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
        };
        // SAFETY: SSE2 belongs to x86-64; 16 bytes are read from an array of 16 bytes, at any alignment.
        unsafe {
            let list = _mm_loadu_si128(list.as_ptr().cast::<__m128i>());
            let equal = _mm_cmpeq_epi16(list, _mm_set1_epi16(wanted as i16));
            _mm_movemask_epi8(_mm_packs_epi16(equal, equal)) as u8
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    list.iter().enumerate().fold(0, |mask, (i, &have)| mask | u8::from(have == wanted) << i)
}

/// Fetches the cache line at `address`, which need not be valid.
#[inline]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_of_a_region_are_zeroed_apart_and_outlive_it() {
        let mut region = Region::heap(Region::bytes_for::<u64>(3) + Region::bytes_for::<u32>(5000));
        let mut a = region.take::<u64>(3);
        let mut b = region.take::<u32>(5000);
        drop(region);
        assert!(a.iter().all(|&n| n == 0) && b.iter().all(|&n| n == 0));
        a.fill(u64::MAX);
        b[4999] = 7;
        assert_eq!((a[2], b[0], b[4999]), (u64::MAX, 0, 7));
        a.prefetch(1 << 60);
    }

    #[test]
    fn remains_are_read_when_nobody_can_write_them_any_more() {
        let (mut region, mut remains) = Region::heap_with_remains(4096);
        let mut slab = region.take::<u32>(2);
        slab[1] = 7;
        assert!(remains.bytes().is_none());
        drop(region);
        assert!(remains.bytes().is_none());
        drop(slab);
        assert_eq!(remains.bytes().unwrap()[..8], [0, 0, 0, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn equal_words_are_found_wherever_they_stand() {
        for places in 0..=255u8 {
            let list = std::array::from_fn(|i| if places >> i & 1 == 1 { 0xfffe } else { i as u16 });
            assert_eq!(equal_u16x8(&list, 0xfffe), places);
        }
    }

    #[test]
    fn memory_with_huge_pages_is_filled_as_any_other() {
        for len in [0, 1, 1000, 3 << 20] {
            let mut bytes = Vec::with_capacity(len);
            prefer_huge_pages(bytes.spare_capacity_mut());
            bytes.resize(len, 7_u8);
            assert!(bytes.iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    #[should_panic(expected = "too small")]
    fn a_slab_beyond_the_region_is_refused() {
        Region::heap(4096).take::<u8>(4097);
    }
}
