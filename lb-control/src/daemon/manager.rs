//! What the service manager (systemd) is told, in the words of `sd_notify(3)`.
//!
//! A manager that does not read holds nobody up: what changes waits for it in a short queue, in a task of its own, and
//! what is said again soon is left out while something waits.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

/// Changes that wait for a manager to read: more than a start, some reloads and the end are.
const QUEUE: usize = 16;
/// A manager that takes longer to read is named in the log.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the end of the process waits for it.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The way to the service manager. Without one it leads nowhere.
pub(super) struct Manager {
    queue: mpsc::Sender<String>,
    is_sending: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Manager {
    /// `at` is `NOTIFY_SOCKET`: a path, or `@` and an abstract name. To be called within a runtime.
    pub(super) fn start(at: Option<OsString>) -> Manager {
        let (queue, told) = mpsc::channel(QUEUE);
        let is_sending = Arc::<AtomicBool>::default();
        let task = tokio::spawn(pass_on(told, at, is_sending.clone()));
        Manager { queue, is_sending, task }
    }

    /// Tells of a change. It is lost, and the log says so, when [`QUEUE`] others wait.
    pub(super) fn tell(&self, state: &NotifyState<'_>) {
        if let Err(mpsc::error::TrySendError::Full(state)) = self.queue.try_send(state.to_string()) {
            warn!(state, "the service manager does not read: it is not told");
        }
    }

    /// Tells what will be told again soon, unless something waits.
    pub(super) fn remind(&self, state: &NotifyState<'_>) {
        if self.queue.capacity() == QUEUE && !self.is_sending.load(Relaxed) {
            self.tell(state);
        }
    }

    /// What was told last still goes out, if the manager reads.
    pub(super) async fn end(self) {
        let Manager { queue, mut task, .. } = self;
        drop(queue);
        if timeout(LAST_WORDS, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// Sends what is told, in its order, one at a time.
async fn pass_on(mut told: mpsc::Receiver<String>, at: Option<OsString>, is_sending: Arc<AtomicBool>) {
    let mut is_deaf = false;
    while let Some(state) = told.recv().await {
        // Without systemd there is nobody to tell.
        let Some(at) = &at else { continue };
        is_sending.store(true, Relaxed);
        let mut sending = std::pin::pin!(send(at, &state));
        let mut sent = timeout(PATIENCE, &mut sending).await;
        if sent.is_err() {
            if !is_deaf {
                warn!("the service manager does not read what it is told");
                is_deaf = true;
            }
            sent = Ok(sending.await);
        } else if is_deaf {
            info!("the service manager reads again");
            is_deaf = false;
        }
        if let Ok(Err(error)) = sent {
            warn!(%error, "cannot notify the service manager");
        }
        is_sending.store(false, Relaxed);
    }
}

/// By a socket of its own, as a manager that was started again has another one by this name.
async fn send(at: &OsStr, state: &str) -> io::Result<()> {
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&match at.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(at)?,
    })?;
    UnixDatagram::from_std(socket)?.send(state.as_bytes()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A service manager's socket, and what leads to it.
    fn listen() -> (UnixDatagram, OsString, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("notify.sock");
        let socket = UnixDatagram::bind(&at).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (socket, at.into(), dir)
    }

    fn read(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    /// Tells until nothing more goes out: the socket's queue is full.
    async fn fill(manager: &Manager) -> usize {
        let mut sent = 0;
        loop {
            manager.tell(&NotifyState::Status("before"));
            let all_sent = async {
                while manager.is_sending.load(Relaxed) || manager.queue.capacity() < QUEUE {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            if timeout(Duration::from_millis(300), all_sent).await.is_err() {
                return sent;
            }
            sent += 1;
            assert!(sent < 100_000, "the kernel's queue of a socket is bounded");
        }
    }

    #[tokio::test]
    async fn a_manager_that_does_not_read_holds_nobody_up_and_is_told_of_changes_when_it_reads() {
        let (socket, at, _dir) = listen();
        let manager = Manager::start(Some(at));
        let sent = fill(&manager).await;
        // Were any of these to wait, this only thread would stand still: nobody reads yet.
        for _ in 0..1000 {
            manager.remind(&NotifyState::Watchdog);
        }
        manager.tell(&NotifyState::Ready);
        manager.tell(&NotifyState::Stopping);
        for _ in 0..1000 {
            manager.tell(&NotifyState::Status("too many"));
        }
        let reader = tokio::task::spawn_blocking(move || {
            let before: Vec<_> = (0..=sent).map(|_| read(&socket)).collect();
            let after: Vec<_> = (0..QUEUE).map(|_| read(&socket)).collect();
            (before, after)
        });
        let (before, after) = reader.await.unwrap();
        assert!(before.iter().all(|state| state == "STATUS=before"), "{before:?}");
        assert_eq!(after[..2], ["READY=1", "STOPPING=1"]);
        assert!(after[2..].iter().all(|state| state == "STATUS=too many"), "no reminder waited: {after:?}");
    }

    #[tokio::test]
    async fn the_end_waits_a_little_for_the_last_words_and_no_longer() {
        let (socket, at, _dir) = listen();
        let manager = Manager::start(Some(at));
        manager.tell(&NotifyState::Stopping);
        manager.end().await;
        assert_eq!(read(&socket), "STOPPING=1");

        let (_socket, at, _dir) = listen();
        let manager = Manager::start(Some(at));
        fill(&manager).await;
        manager.end().await;
    }

    #[tokio::test]
    async fn an_abstract_name_and_no_manager_at_all() {
        let name = format!("lb-manager-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let manager = Manager::start(Some(format!("@{name}").into()));
        manager.tell(&NotifyState::Ready);
        manager.end().await;
        assert_eq!(read(&socket), "READY=1");

        let nobody = Manager::start(None);
        nobody.tell(&NotifyState::Ready);
        nobody.end().await;
    }
}
