//! Memory of the tables: anonymous or of a file in memory, on huge pages where there are any, all of it given by the
//! kernel at start.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::mem::zeroed;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
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
pub fn take_region(bytes: usize, huge_pages: bool) -> Result<Region, StartError> {
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

/// A whole file, mapped and shared with it.
pub(crate) struct FileMapping(Mapping);

impl FileMapping {
    /// The first `len` bytes of a file to be read, by who holds its lock.
    pub(crate) fn readable(file: &File, len: usize) -> io::Result<FileMapping> {
        map_file(file, len, libc::PROT_READ).map(FileMapping)
    }

    /// `len` bytes of a file whose memory is [`allocate`]d, every page of them mapped.
    pub(crate) fn writable(file: &File, len: usize) -> io::Result<FileMapping> {
        let mapping = map_file(file, len, libc::PROT_READ | libc::PROT_WRITE)?;
        populate(&mapping)?;
        Ok(FileMapping(mapping))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped readable with this length as long as `self` lives. Who else has the file does not write it: it is
        // locked, and a mapping that is written is given away by `into_regions`.
        unsafe { std::slice::from_raw_parts(self.0.start.as_ptr(), self.0.len) }
    }

    /// Only of a writable one.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and mapped writable.
        unsafe { std::slice::from_raw_parts_mut(self.0.start.as_ptr(), self.0.len) }
    }

    /// Regions of `len` bytes at these places, which are apart and on pages. Only of a writable one.
    pub(crate) fn into_regions(self, places: impl Iterator<Item = usize>, len: usize) -> Vec<Region> {
        let mapping = Arc::new(self.0);
        let mut end = 0;
        places
            .map(|place| {
                assert!(place >= end && place + len <= mapping.len, "regions are apart and within the file");
                end = place + len;
                // SAFETY: within the mapping, which the region keeps; apart from all other regions, as just checked.
                unsafe { Region::from_raw(mapping.start.add(place), len, mapping.clone()) }
            })
            .collect()
    }
}

fn map_file(file: &File, len: usize, protection: libc::c_int) -> io::Result<Mapping> {
    // SAFETY: a mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe { libc::mmap(null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(Mapping { start: NonNull::new(start.cast::<u8>()).expect("the kernel maps nothing at 0"), len })
}

/// Gives `len` bytes of a file from `start` on memory, zeroed where there was none. It ends there at least.
pub(crate) fn allocate(file: &File, start: usize, len: usize) -> io::Result<()> {
    // SAFETY: no memory is involved.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, start as libc::off_t, len as libc::off_t) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether it says that a file system in memory, or the machine, is full.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::ENOMEM))
}

/// What kind of file system a file is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileSystem {
    /// hugetlbfs.
    Huge,
    /// tmpfs.
    Memory,
    Other,
}

/// `None`: there is no such file.
pub(crate) fn file_system(path: &Path) -> Option<FileSystem> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: `statfs` is plain numbers, for which zero is valid.
    let mut found: libc::statfs = unsafe { zeroed() };
    // SAFETY: the path ends in a zero byte, and the kernel writes one `statfs`.
    if unsafe { libc::statfs(path.as_ptr(), &mut found) } != 0 {
        return None;
    }
    Some(match found.f_type {
        libc::HUGETLBFS_MAGIC => FileSystem::Huge,
        libc::TMPFS_MAGIC => FileSystem::Memory,
        _ => FileSystem::Other,
    })
}

/// Where hugetlbfs with pages of 2 MB is mounted.
pub(crate) fn huge_page_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (path, kind, options) = (words.next()?, words.next()?, words.next()?);
        let is_ours = kind == "hugetlbfs" && options.split(',').any(|option| option == "pagesize=2M");
        is_ours.then(|| PathBuf::from(path))
    };
    mounts.lines().filter_map(mount).collect()
}

/// The user whose files are ours.
pub(crate) fn user() -> u32 {
    // SAFETY: no memory is involved, and it cannot fail.
    unsafe { libc::geteuid() }
}

/// Names this boot of the machine.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
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
