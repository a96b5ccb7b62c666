//! Flow memory that outlives the process: a file in memory, which the next process reads.
//!
//! The file is never used in place. The next process makes a new one beside it, its workers take over what
//! they find in the old one, and then the new one gets the old one's name: a process that is killed at any
//! moment before leaves the old one as it was. Where there is no room for two, the old one's content is in
//! the new process alone meanwhile: a start that fails puts it back, one that is killed loses it. Whoever
//! uses a file holds its lock.
//!
//! ```text
//! 0          a page of text: what the file is, of which boot, how many workers, how much each has; with a sum
//! 2 MB       the flow memory of worker 0 (`lb_core::flow`), then that of worker 1 …, each beginning at 2 MB
//! ```

use std::fmt::Write;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lb_core::flow::carry::Salvage;
use lb_core::mem::Region;

use crate::config::FlowMemory;
use crate::cpu;
use crate::error::StartError;
use crate::memory::{self, FileMapping, FileSystem, HUGE_PAGE};

/// Of what is around the workers' memory; that has a version of its own.
const FILE_VERSION: u32 = 1;
const FIRST_LINE: &str = "flow memory of lbd";
/// Bytes of the text at most.
const TEXT: usize = 4096;
/// More than a data plane may have.
const MOST_WORKERS: usize = 1024;
/// Times that a file which its owner replaces meanwhile is opened anew.
const ATTEMPTS: usize = 16;

/// The files of one data plane, locked.
pub(crate) struct Keep {
    /// Where the new file will be.
    path: PathBuf,
    /// With a lock each; the first is at `path`, be it empty.
    found: Vec<Found>,
    /// The new file, until it has its name.
    new: Option<File>,
    is_committed: bool,
    /// There will be none: who serves has other memory.
    is_forgone: bool,
    /// What the operator should know.
    pub(crate) notices: Vec<String>,
}

pub(crate) struct Found {
    pub(crate) path: PathBuf,
    file: File,
    is_new: bool,
    content: Content,
    /// What was in it, where it had to make room.
    copied: Option<Arc<[u8]>>,
}

enum Content {
    Nothing,
    Mapped(FileMapping),
    /// Where there was no room for two.
    Copied(Arc<[u8]>),
}

/// What dead workers left, one piece each.
#[derive(Default)]
pub(crate) struct Legacy {
    pieces: Vec<(Content, Vec<std::ops::Range<usize>>)>,
}

impl Legacy {
    /// What can be read, by worker.
    pub(crate) fn salvages(&self) -> Vec<Salvage<'_>> {
        let pieces = self.pieces.iter().flat_map(|(content, ranges)| {
            ranges.iter().filter_map(|range| Salvage::of(content.bytes().get(range.clone())?).ok())
        });
        pieces.collect()
    }

    /// What keyed the hashes of the process that served last.
    pub(crate) fn hash_seed(&self) -> Option<u64> {
        Some(self.salvages().first()?.hash_seed())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

impl Content {
    fn bytes(&self) -> &[u8] {
        match self {
            Content::Nothing => &[],
            Content::Mapped(mapping) => mapping.bytes(),
            Content::Copied(bytes) => bytes,
        }
    }
}

impl Keep {
    /// Finds and locks the files; `None` when nothing is to be kept, or nothing can.
    ///
    /// # Errors
    /// `FlowMemory`: another process uses one, or the file that the operator named cannot be.
    pub(crate) fn open(
        wanted: &FlowMemory,
        huge_pages: bool,
    ) -> Result<(Option<Keep>, Vec<String>), StartError> {
        let mut notices = Vec::new();
        let places = places(wanted, huge_pages, &mut notices)?;
        let Some((path, first)) = make_one(&places, wanted, &mut notices)? else {
            return Ok((None, notices));
        };
        let mut found = vec![first];
        for other in places.iter().filter(|&place| *place != path) {
            match lock(other, false) {
                Ok(old) => found.extend(old),
                Err(StartError::FlowMemory { path, reason }) if is_skipped(wanted, &reason) => {
                    notices.push(format!("flow memory {} is not carried over: {reason}", path.display()));
                }
                Err(error) => return Err(error),
            }
        }
        remove_unfinished(found.iter().map(|found| &found.path));
        Ok((
            Some(Keep {
                path,
                found,
                new: None,
                is_committed: false,
                is_forgone: false,
                notices: Vec::new(),
            }),
            notices,
        ))
    }

    /// The files that there are, without making any.
    pub(crate) fn existing(wanted: &FlowMemory) -> Result<Vec<(PathBuf, File)>, StartError> {
        let mut found = Vec::new();
        for place in places(wanted, true, &mut Vec::new())? {
            found.extend(lock(&place, false)?.map(|found| (found.path, found.file)));
        }
        remove_unfinished(found.iter().map(|(path, _)| path));
        Ok(found)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Files of another name, whose connections are carried over as well.
    pub(crate) fn inherit(&mut self, left: Vec<Found>) {
        self.found.extend(left);
    }

    pub(crate) fn has(&self, path: &Path) -> bool {
        let there = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        there(path).is_some_and(|file| self.found.iter().any(|found| there(&found.path) == Some(file)))
    }

    /// Huge pages that old files hold.
    pub(crate) fn huge_pages_held(&self) -> usize {
        self.found.iter().map(Found::huge_pages).sum()
    }

    pub(crate) fn is_on_huge_pages(&self) -> bool {
        memory::file_system(&self.path) == Some(FileSystem::Huge)
    }

    /// Makes the new file with `bytes` for each worker, zeroed and all of it given by the kernel, near the
    /// worker's CPU; reads what the old ones are.
    ///
    /// # Errors
    /// `Memory` when there is no room.
    pub(crate) fn create(&mut self, cpus: &[u32], bytes: usize) -> Result<(Vec<Region>, Legacy), StartError> {
        let workers = cpus.len();
        let stride = bytes.next_multiple_of(HUGE_PAGE);
        let len = HUGE_PAGE + workers * stride;
        for found in &mut self.found {
            found.read(&mut self.notices);
        }
        let failed = |error| StartError::Memory { bytes: len, error };
        let mapping = match self.create_file(cpus, stride) {
            Err(error) if memory::is_no_room(&error) && self.has_legacy() => {
                self.notices.push(format!(
                    "flow memory {}: there is no room for a second file of {} MB beside the old one, whose connections \
                     are in this process alone until it serves",
                    self.path.display(),
                    len >> 20
                ));
                for found in &mut self.found {
                    found.copy().map_err(failed)?;
                }
                self.create_file(cpus, stride).map_err(failed)?
            }
            outcome => outcome.map_err(failed)?,
        };
        let mut mapping = mapping;
        let text = describe(workers, bytes);
        mapping.bytes_mut()[..text.len()].copy_from_slice(text.as_bytes());
        let regions = mapping.into_regions((0..workers).map(|worker| HUGE_PAGE + worker * stride), stride);
        Ok((regions, self.take_legacy()))
    }

    /// Whoever serves has other memory: what is in the files must not come back after it.
    pub(crate) fn forgo(&mut self) {
        self.is_forgone = true;
    }

    /// With `stride` bytes for the worker of each CPU.
    fn create_file(&mut self, cpus: &[u32], stride: usize) -> io::Result<FileMapping> {
        let path = unfinished(&self.path);
        let file = options().create_new(true).open(&path)?;
        file.try_lock().map_err(io::Error::from)?;
        let place = |worker| HUGE_PAGE + worker * stride;
        let mut made = memory::allocate(&file, 0, HUGE_PAGE);
        for (worker, &cpu) in cpus.iter().enumerate() {
            made = made.and_then(|()| cpu::at(cpu, || memory::allocate(&file, place(worker), stride)));
        }
        let made = made.and_then(|()| FileMapping::writable(&file, place(cpus.len())));
        match made {
            Ok(mapping) => {
                self.new = Some(file);
                Ok(mapping)
            }
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn has_legacy(&self) -> bool {
        self.found.iter().any(|found| !matches!(found.content, Content::Nothing))
    }

    /// Finds the workers' pieces in what [`Keep::create`] read; what is refused is said and left out.
    pub(crate) fn take_legacy(&mut self) -> Legacy {
        let mut legacy = Legacy::default();
        for found in &mut self.found {
            let content = std::mem::replace(&mut found.content, Content::Nothing);
            if let Content::Nothing = content {
                continue;
            }
            let name = found.path.display();
            let pieces = match pieces(content.bytes()) {
                Ok(pieces) => pieces,
                Err(reason) => {
                    self.notices.push(format!("flow memory {name} is not carried over: {reason}"));
                    continue;
                }
            };
            let refused = pieces.iter().enumerate().filter_map(|(worker, piece)| {
                let reason = Salvage::of(&content.bytes()[piece.clone()]).err()?;
                Some(format!("flow memory {name}, worker {worker}, is not carried over: {reason}"))
            });
            self.notices.extend(refused);
            legacy.pieces.push((content, pieces));
        }
        legacy
    }

    /// Gives the new file its name; from now on it is what the next process finds. Frees the old ones, or all
    /// if there is [to be none](Keep::forgo).
    ///
    /// # Errors
    /// The file and the kernel's reason.
    pub(crate) fn commit(&mut self) -> Result<(), String> {
        if self.new.is_some() {
            let said = |error| format!("flow memory {}: {error}", self.path.display());
            fs::rename(unfinished(&self.path), &self.path).map_err(said)?;
        }
        self.is_committed = true;
        for other in self.found.iter().skip(usize::from(!self.is_forgone)) {
            let _ = fs::remove_file(&other.path);
        }
        self.found.clear();
        Ok(())
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        if self.new.take().is_some() {
            let _ = fs::remove_file(unfinished(&self.path));
        }
        for found in &self.found {
            if let Err(error) = found.restore() {
                eprintln!("flow memory {} is lost: {error}", found.path.display());
            }
        }
        for made in self.found.iter().filter(|found| found.is_new) {
            let _ = fs::remove_file(&made.path);
        }
    }
}

impl Found {
    pub(crate) fn huge_pages(&self) -> usize {
        match memory::file_system(&self.path) {
            Some(FileSystem::Huge) => self.file.metadata().map_or(0, |file| file.len() as usize / HUGE_PAGE),
            _ => 0,
        }
    }

    /// Whether it begins as flow memory does.
    fn is_flow_memory(&self) -> bool {
        let mut line = [0; FIRST_LINE.len()];
        self.file.read_exact_at(&mut line, 0).is_ok() && line == FIRST_LINE.as_bytes()
    }

    fn read(&mut self, notices: &mut Vec<String>) {
        let Ok(metadata) = self.file.metadata() else { return };
        if metadata.len() == 0 {
            return;
        }
        let name = self.path.display();
        // A hole would be filled by looking at it.
        if metadata.blocks().saturating_mul(512) < metadata.len() {
            return notices.push(format!("flow memory {name} is not carried over: it has holes"));
        }
        match FileMapping::readable(&self.file, metadata.len() as usize) {
            Ok(mapping) => self.content = Content::Mapped(mapping),
            Err(error) => notices.push(format!("flow memory {name} is not carried over: {error}")),
        }
    }

    /// Frees the file, for which there is no room; its content stays in ordinary memory.
    fn copy(&mut self) -> io::Result<()> {
        if let Content::Mapped(mapping) = &self.content {
            let bytes: Arc<[u8]> = mapping.bytes().into();
            self.copied = Some(bytes.clone());
            self.content = Content::Copied(bytes);
            self.file.set_len(0)?;
        }
        Ok(())
    }

    /// Puts back what was [copied](Found::copy).
    fn restore(&self) -> io::Result<()> {
        if let Some(bytes) = &self.copied {
            memory::allocate(&self.file, 0, bytes.len())?;
            FileMapping::writable(&self.file, bytes.len())?.bytes_mut().copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// The files that an lbd with other flow memory left, but those that `keep` has. What is there besides is
/// left alone: only the alias of an interface says that it is flow memory.
///
/// # Errors
/// `FlowMemory`: a process uses one.
pub(crate) fn left(memory: &FlowMemory, keep: Option<&Keep>) -> Result<Vec<Found>, StartError> {
    let mut left = Vec::new();
    // Where there can be no such file, there is none.
    for place in places(memory, true, &mut Vec::new()).unwrap_or_default() {
        if keep.is_some_and(|keep| keep.has(&place)) {
            continue;
        }
        match lock(&place, false) {
            Ok(found) => left.extend(found.filter(Found::is_flow_memory)),
            Err(StartError::FlowMemory { reason, .. }) if reason != IN_USE => {}
            Err(error) => return Err(error),
        }
    }
    remove_unfinished(left.iter().map(|found| &found.path));
    Ok(left)
}

/// Where the file that is to take this one's place is made.
fn unfinished(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".new");
    path.into()
}

/// Frees what a process left that was killed before it served. Whoever makes such a file has the lock of the
/// one beside it.
fn remove_unfinished<'p>(locked: impl Iterator<Item = &'p PathBuf>) {
    for path in locked {
        // Mostly there is none.
        let _ = fs::remove_file(unfinished(path));
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    options.read(true).write(true).mode(0o600).custom_flags(flags);
    options
}

fn refused(path: &Path, reason: impl Into<String>) -> StartError {
    StartError::FlowMemory { path: path.to_owned(), reason: reason.into() }
}

/// The unit of systemd lets lbd write in few places.
fn unwritable(path: &Path, error: &io::Error) -> StartError {
    let hint = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "; under systemd the unit says where lbd may write: ReadWritePaths= in a drop-in (docs/operation.md)"
        }
        _ => "",
    };
    refused(path, format!("{error}{hint}"))
}

/// Where the file may be, the best place first.
fn places(
    wanted: &FlowMemory,
    huge_pages: bool,
    notices: &mut Vec<String>,
) -> Result<Vec<PathBuf>, StartError> {
    match wanted {
        FlowMemory::Forgotten => Ok(Vec::new()),
        FlowMemory::File(path) => {
            // On a disk the kernel would stop the workers to write their memory back.
            match path.parent().and_then(memory::file_system) {
                Some(FileSystem::Huge | FileSystem::Memory) => Ok(vec![path.clone()]),
                Some(FileSystem::Other) => Err(refused(path, "it is on no tmpfs and no hugetlbfs")),
                None => Err(refused(path, "there is no such directory")),
            }
        }
        FlowMemory::Named(name) => {
            let mut places = memory::huge_page_mounts();
            if huge_pages && places.is_empty() {
                notices.push(
                    "no hugetlbfs of 2 MB pages is mounted, flow memory is on /dev/shm; run: mount -t hugetlbfs \
                     -o pagesize=2M none /dev/hugepages"
                        .to_owned(),
                );
            }
            let shm = PathBuf::from("/dev/shm");
            if memory::file_system(&shm) == Some(FileSystem::Memory) {
                places.insert(if huge_pages { places.len() } else { 0 }, shm);
            }
            Ok(places.into_iter().map(|place| place.join(name)).collect())
        }
    }
}

/// Opens the file at the first place where there can be one.
fn make_one(
    places: &[PathBuf],
    wanted: &FlowMemory,
    notices: &mut Vec<String>,
) -> Result<Option<(PathBuf, Found)>, StartError> {
    for place in places {
        match lock(place, true) {
            Ok(Some(found)) => return Ok(Some((place.clone(), found))),
            Ok(None) => {}
            Err(StartError::FlowMemory { path, reason }) if is_skipped(wanted, &reason) => {
                notices.push(format!("flow memory {}: {reason}", path.display()));
            }
            Err(error) => return Err(error),
        }
    }
    if !matches!(wanted, FlowMemory::Forgotten) {
        notices.push("no place for flow memory: no connection is carried over to the next start".to_owned());
    }
    Ok(None)
}

const IN_USE: &str = "another lbd uses it";
const FOREIGN: &str = "it is no regular file that the user whom lbd runs as has and nobody else can write";

/// A place of our own choice that does not do leaves the next one; but never past another process.
fn is_skipped(wanted: &FlowMemory, reason: &str) -> bool {
    matches!(wanted, FlowMemory::Named(_)) && reason != IN_USE
}

/// Opens and locks a file; `None` when it is not there and is not to be made.
fn lock(path: &Path, make: bool) -> Result<Option<Found>, StartError> {
    for _ in 0..ATTEMPTS {
        let (file, is_new) = match options().open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
                match options().create_new(true).open(path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    made => (made.map_err(|error| unwritable(path, &error))?, true),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // Not followed: whoever may write the directory can put a link there.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(refused(path, FOREIGN)),
            opened => (opened.map_err(|error| unwritable(path, &error))?, false),
        };
        // Before its lock is looked at, which somebody else could hold for ever.
        let metadata = file.metadata().map_err(|error| refused(path, error.to_string()))?;
        if !metadata.is_file() || metadata.uid() != memory::user() || metadata.mode() & 0o022 != 0 {
            return Err(refused(path, FOREIGN));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(refused(path, IN_USE)),
            Err(TryLockError::Error(error)) => return Err(refused(path, error.to_string())),
        }
        // Its last owner may have replaced it since it was opened here.
        let inode = |metadata: io::Result<fs::Metadata>| metadata.map(|file| (file.dev(), file.ino())).ok();
        if inode(file.metadata()) == inode(fs::symlink_metadata(path)) {
            return Ok(Some(Found {
                path: path.to_owned(),
                file,
                is_new,
                content: Content::Nothing,
                copied: None,
            }));
        }
    }
    Err(refused(path, IN_USE))
}

/// The text at the beginning of a file.
fn describe(workers: usize, bytes: usize) -> String {
    let mut text = format!(
        "{FIRST_LINE}\nversion {FILE_VERSION}\nboot {}\nworkers {workers}\nbytes {bytes}\n",
        memory::boot()
    );
    let sum = sum(&text);
    // A string takes all that is written to it.
    let _ = writeln!(text, "sum {sum:016x}");
    text
}

/// FNV-1a.
fn sum(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Where the workers' pieces are in a file.
fn pieces(file: &[u8]) -> Result<Vec<std::ops::Range<usize>>, String> {
    let page = &file[..file.len().min(TEXT)];
    let end = page.iter().position(|&byte| byte == 0).unwrap_or(page.len());
    let text = std::str::from_utf8(&page[..end]).ok().filter(|text| text.starts_with(FIRST_LINE));
    let text = text.ok_or("it does not begin as flow memory does")?;
    let damaged = || "its header is damaged".to_owned();
    let (said, rest) = text.split_at(text.find("sum ").ok_or_else(damaged)?);
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    match value("version") {
        Some(version) if version == FILE_VERSION.to_string() => {}
        Some(version) => return Err(format!("its version is {version}, this program's is {FILE_VERSION}")),
        None => return Err(damaged()),
    }
    if rest.trim_end() != format!("sum {:016x}", sum(said)) {
        return Err(damaged());
    }
    if value("boot") != Some(memory::boot().as_str()) {
        return Err("it is of an earlier boot".to_owned());
    }
    let number = |key| value(key).and_then(|number| number.parse::<usize>().ok()).ok_or_else(damaged);
    let (workers, bytes) = (number("workers")?, number("bytes")?);
    let stride = bytes.checked_next_multiple_of(HUGE_PAGE).ok_or_else(damaged)?;
    let needed =
        stride.checked_mul(workers).and_then(|all| all.checked_add(HUGE_PAGE)).ok_or_else(damaged)?;
    if workers > MOST_WORKERS || file.len() < needed {
        return Err(format!("it has {} bytes, its header says {needed}", file.len()));
    }
    let piece = |worker| HUGE_PAGE + worker * stride..HUGE_PAGE + worker * stride + bytes;
    Ok((0..workers).map(piece).collect())
}

#[cfg(test)]
mod tests;
