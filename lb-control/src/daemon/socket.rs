//! The API's UNIX socket: one daemon a socket, nothing left behind, and what a killed one left is cleaned up.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::umask;
use tracing::warn;

use crate::sandbox;

/// Owner and group may speak to the daemon.
const MODE: u32 = 0o660;
/// Times that a lock file which its owner removes meanwhile is opened anew.
const ATTEMPTS: usize = 16;

/// The socket and the lock beside it (`<socket>.lock`); both files go when this is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("api.socket {}: another lbd{} serves it", .path.display(), .pid.as_ref().map_or(String::new(), |pid| format!(" (process {pid})")))]
    Taken { path: PathBuf, pid: Option<u32> },
    #[error("api.socket {}: another program listens on it", .0.display())]
    Foreign(PathBuf),
    #[error("api.socket {}: there is a file that is no socket", .0.display())]
    NoSocket(PathBuf),
    #[error("api.socket {}: {step}: {error}{}", .path.display(), sandbox::hint(.error))]
    Io { path: PathBuf, step: String, error: io::Error },
}

impl Socket {
    /// Takes the lock, removes what a killed daemon left, and listens. The directory is made when it is missing.
    ///
    /// # Errors
    /// One line that names the socket.
    pub fn listen(path: &Path) -> Result<(Socket, UnixListener), SocketError> {
        let failed = |step: &str| {
            let (path, step) = (path.to_owned(), step.to_owned());
            move |error| SocketError::Io { path, step, error }
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed("cannot make its directory"))?;
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = take_lock(path, &lock_path)?;
        // From here on the drop of `socket` cleans up; it must not remove what belongs to another program.
        remove_stale(path).inspect_err(|_| drop(fs::remove_file(&lock_path)))?;
        let socket = Socket { path: path.to_owned(), lock_path, _lock: lock };
        // The mode holds from the first moment on. Nothing else makes files meanwhile.
        let before = umask(!Mode::from_raw_mode(MODE) & Mode::from_raw_mode(0o777));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(failed("cannot listen"))?;
        fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed("cannot set its mode"))?;
        Ok((socket, listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The socket first: whoever gets the lock then finds nothing stale.
        for path in [&self.path, &self.lock_path] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                warn!(file = %path.display(), %error, "cannot remove");
            }
        }
    }
}

fn take_lock(path: &Path, lock_path: &Path) -> Result<File, SocketError> {
    let failed = |error| SocketError::Io {
        path: path.to_owned(),
        step: format!("cannot lock {}", lock_path.display()),
        error,
    };
    for _ in 0..ATTEMPTS {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(lock_path).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = lock.read_to_string(&mut pid);
                return Err(SocketError::Taken { path: path.to_owned(), pid: pid.trim().parse().ok() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        // Its last owner may have removed the file after it was opened here: then the lock is worth nothing.
        let ours = lock.metadata().map_err(failed)?.ino();
        if fs::metadata(lock_path).is_ok_and(|there| there.ino() == ours) {
            lock.set_len(0).map_err(failed)?;
            writeln!(lock, "{}", std::process::id()).map_err(failed)?;
            return Ok(lock);
        }
    }
    Err(SocketError::Taken { path: path.to_owned(), pid: None })
}

/// With the lock in hand, a socket that nobody answers on was left by a daemon that was killed.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(there) if !there.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    if UnixStream::connect(path).is_ok() {
        return Err(SocketError::Foreign(path.to_owned()));
    }
    fs::remove_file(path).map_err(|error| SocketError::Io {
        path: path.to_owned(),
        step: "cannot remove what a killed lbd left".to_owned(),
        error,
    })?;
    warn!(socket = %path.display(), "removed the socket that a killed lbd left");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty directory of its own.
    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("lb-socket-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn the_socket_is_for_owner_and_group_and_leaves_nothing_behind() {
        let directory = directory("mode");
        let path = directory.join("deep/api.sock");
        let (socket, _listener) = Socket::listen(&path).expect("free");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o660);
        drop(socket);
        assert_eq!(fs::read_dir(directory.join("deep")).expect("there").count(), 0);
        fs::remove_dir_all(directory).expect("removable");
    }

    #[test]
    fn a_second_daemon_is_told_who_has_the_socket_and_harms_nothing() {
        let directory = directory("second");
        let path = directory.join("api.sock");
        let (socket, _listener) = Socket::listen(&path).expect("free");
        let error = Socket::listen(&path).expect_err("taken").to_string();
        let pid = std::process::id();
        assert_eq!(error, format!("api.socket {}: another lbd (process {pid}) serves it", path.display()));
        assert!(UnixStream::connect(&path).is_ok(), "the first one still serves");
        drop(socket);
        drop(Socket::listen(&path).expect("free again"));
        fs::remove_dir_all(directory).expect("removable");
    }

    #[test]
    fn what_a_killed_daemon_left_is_replaced() {
        let directory = directory("stale");
        fs::create_dir_all(&directory).expect("makable");
        let path = directory.join("api.sock");
        drop(UnixListener::bind(&path).expect("free"));
        fs::write(directory.join("api.sock.lock"), "1\n").expect("writable");
        assert!(path.exists(), "a listener that is closed leaves its file");
        let (socket, _listener) = Socket::listen(&path).expect("stale");
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        fs::remove_dir_all(directory).expect("removable");
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let directory = directory("foreign");
        fs::create_dir_all(&directory).expect("makable");
        let path = directory.join("api.sock");
        fs::write(&path, "precious").expect("writable");
        assert!(matches!(Socket::listen(&path), Err(SocketError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
        fs::remove_file(&path).expect("removable");
        let _other = UnixListener::bind(&path).expect("free");
        assert!(matches!(Socket::listen(&path), Err(SocketError::Foreign(_))));
        assert!(UnixStream::connect(&path).is_ok(), "it still listens");
        assert!(!directory.join("api.sock.lock").exists());
        fs::remove_dir_all(directory).expect("removable");
    }
}
