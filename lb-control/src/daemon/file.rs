//! Files by which something outlives the process: they are read when they are ours, and replaced at one moment.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::geteuid;

/// Longest file that is read, bytes: some ten times the largest config and model.
const MAX_FILE: u64 = 4 << 30;
/// How the sets' file is called beside the model's, and a file that is being written beside the one whose place it takes.
pub(super) const SETS: &str = ".sets";
const BESIDE: &str = ".new";
/// What could not be written is tried again after so long.
pub(super) const RETRY: Duration = Duration::from_secs(2);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    #[error("it is no regular file of the user that lbd runs as")]
    Foreign,
    #[error("it is longer than {MAX_FILE} bytes")]
    TooLong,
}

/// What the run before left; `None`: nothing. The directory may be one where everybody writes (`/dev/shm`): what is a link, or
/// another user's, may have been put there to be taken for ours, and a FIFO so that we wait.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Unreadable> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.uid() != geteuid().as_raw() {
        return Err(Unreadable::Foreign);
    }
    if metadata.len() > MAX_FILE {
        return Err(Unreadable::TooLong);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Puts `bytes` in the file's place at one moment. Nothing is forced to a disk: the file is to outlive the process, not
/// the machine's run.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = with_ending(path, BESIDE);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    fs::rename(&beside, path)
}

pub(super) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// Removes what a stopped daemon left in files, model and sets, and what one that was killed had begun to write of them; names each.
///
/// # Errors
/// One line for each that cannot be removed.
pub fn forget(model: &Path) -> impl Iterator<Item = Result<PathBuf, String>> + use<> {
    let files = [model.to_owned(), with_ending(model, SETS)];
    let files = files.into_iter().flat_map(|file| [with_ending(&file, BESIDE), file]);
    files.filter_map(|file| match fs::remove_file(&file) {
        Ok(()) => Some(Ok(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(format!("cannot remove {}: {error}", file.display()))),
    })
}

/// Gives the files of a stopped daemon, model and sets, the names that another one looks for; not in place of what is there.
///
/// # Errors
/// One line: the first that cannot be renamed.
pub fn rename(old: &Path, new: &Path) -> Result<(), String> {
    if fs::symlink_metadata(new).is_ok() {
        return Ok(());
    }
    // The model last: whoever has it has all.
    [(with_ending(old, SETS), with_ending(new, SETS)), (old.to_owned(), new.to_owned())].iter().try_for_each(
        |(old, new)| match fs::rename(old, new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("cannot rename {} to {}: {error}", old.display(), new.display()))
            }
            _ => Ok(()),
        },
    )
}

pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_file_of_ours_is_not_read_and_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("left");
        let empty_again = || fs::remove_file(&path).expect("it is there");
        assert!(read(&path).expect("nothing is wrong").is_none());

        fs::write(&path, "ours").expect("written");
        assert_eq!(read(&path).expect("nothing is wrong").as_deref(), Some(&b"ours"[..]));
        if geteuid().is_root() {
            chown(&path, Some(65_534), None).expect("root may");
            assert!(matches!(read(&path), Err(Unreadable::Foreign)));
        }
        empty_again();

        let file = fs::File::create(&path).expect("made");
        file.set_len(MAX_FILE + 1).expect("a hole");
        assert!(matches!(read(&path), Err(Unreadable::TooLong)));
        empty_again();

        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        assert!(matches!(read(&path), Err(Unreadable::Foreign)));
        empty_again();

        symlink("/etc/hostname", &path).expect("a link");
        assert!(matches!(read(&path), Err(Unreadable::Read(_))));
    }

    #[test]
    fn what_was_kept_under_another_name_gets_the_new_one_and_replaces_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        rename(&old, &new).expect("there is nothing");
        fs::write(&old, "model").expect("written");
        fs::write(with_ending(&old, SETS), "sets").expect("written");
        rename(&old, &new).expect("renamed");
        assert_eq!((read(&new).as_str(), read(&with_ending(&new, SETS)).as_str()), ("model", "sets"));
        assert!(!old.exists());
        fs::write(&old, "older").expect("written");
        rename(&old, &new).expect("nothing to do");
        assert_eq!(read(&new), "model");
    }
}
