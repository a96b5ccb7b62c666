//! Memory of the tables: anonymous, on huge pages where there are any, all of it given by the kernel at start.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use lb_core::mem::Region;

use crate::error::StartError;

/// The huge pages that are used.
pub(crate) const HUGE_PAGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// A mapping, ended when it is dropped.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: `Mapping` never reads or writes the memory, it only unmaps it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length; whoever uses it holds this value (Region's owner).
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Takes `bytes` of zeroed memory that no first touch on the packet path has to wait for.
///
/// # Errors
/// `Memory` when the kernel has none.
pub(crate) fn take_region(bytes: usize, huge_pages: bool) -> Result<Region, StartError> {
    let len = bytes.max(1).next_multiple_of(HUGE_PAGE);
    let mapping = map(len, huge_pages).map_err(|error| StartError::Memory { bytes, error })?;
    let start = mapping.start;
    // SAFETY: the mapping is new, zeroed, starts on a page, and lives as long as its owner.
    Ok(unsafe { Region::from_raw(start, len, Arc::new(mapping)) })
}

fn map(len: usize, huge_pages: bool) -> io::Result<Mapping> {
    let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    if huge_pages {
        flags |= libc::MAP_HUGETLB | libc::MAP_HUGE_2MB | libc::MAP_POPULATE;
    }
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe { libc::mmap(null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = NonNull::new(start.cast::<u8>()).expect("the kernel maps nothing at 0");
    let mapping = Mapping { start, len };
    if !huge_pages {
        populate(&mapping)?;
    }
    Ok(mapping)
}

/// Asks for transparent huge pages, then has the kernel give every page.
fn populate(mapping: &Mapping) -> io::Result<()> {
    let start = mapping.start.as_ptr();
    // SAFETY: advice on our own whole mapping.
    unsafe { libc::madvise(start.cast(), mapping.len, libc::MADV_HUGEPAGE) };
    // SAFETY: as above.
    if unsafe { libc::madvise(start.cast(), mapping.len, libc::MADV_POPULATE_WRITE) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EINVAL) {
        return Err(error);
    }
    // Before Linux 5.14: by touching.
    for offset in (0..mapping.len).step_by(PAGE) {
        // SAFETY: within the mapping, which nobody else uses yet.
        unsafe { start.add(offset).write_volatile(0) };
    }
    Ok(())
}

/// Huge pages of 2 MB of this machine: free and in all.
pub(crate) fn huge_pages() -> (usize, usize) {
    let read = |file: &str| {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{file}");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0usize)
    };
    (read("free_hugepages").saturating_sub(read("resv_hugepages")), read("nr_hugepages"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_zeroed_and_outlives_its_taker() {
        let mut region = take_region(Region::bytes_for::<u64>(600_000), false).unwrap();
        let mut slab = region.take::<u64>(600_000);
        drop(region);
        assert!(slab.iter().all(|&n| n == 0));
        slab[599_999] = 1;
        assert_eq!(slab[599_999], 1);
    }

    #[test]
    fn memory_that_the_machine_does_not_have_is_an_error_with_its_size() {
        let bytes = 1 << 46;
        let error = take_region(bytes, false).err().unwrap();
        assert!(error.to_string().starts_with("no memory: 70368744177664 bytes"), "{error}");
    }
}
