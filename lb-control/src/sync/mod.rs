//! Connections shared with other directors, as the kernel's IPVS sync daemons do it: `docs/sync.md`.
//!
//! ```text
//! workers ─(changes, walks)→ master ─→ multicast group ─→ backup ─(owner)→ workers
//! ```
//!
//! [`run`] keeps the daemons that the model has; `master` and `backup` are their lives, [`message`] what they say.

mod backup;
mod link;
mod master;
pub mod message;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lb_core::tables::{Settings, Tables};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::api::types::{SyncDaemon, SyncRole};
use crate::plane::Plane;

/// What the daemons go by. Each change of it is whole.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// One a role at most.
    pub daemons: Vec<SyncDaemon>,
    /// How often a master tells of a connection that goes on.
    pub refresh: Duration,
    /// As published.
    pub tables: Arc<Tables>,
}

/// The persistence engine that there is, in the kernel's words.
const ENGINE: &[u8] = b"sip";

/// How often a master tells of a connection that goes on: twice in the shortest timeout at least, lest a backup forgets it
/// meanwhile.
pub fn refresh(settings: &Settings) -> Duration {
    let period = settings.sysctls.sync_refresh_period.max(1);
    Duration::from_secs((settings.shortest().as_secs() / 2).clamp(1, period).into())
}

/// What came and went, and what became of it.
#[derive(Debug, Default)]
pub struct SyncCounters {
    pub messages_sent: AtomicU64,
    pub connections_sent: AtomicU64,
    pub send_errors: AtomicU64,
    pub messages_received: AtomicU64,
    pub connections_received: AtomicU64,
    /// Given to their owners.
    pub connections_given: AtomicU64,
    /// Messages that are none, or not to their end.
    pub malformed: AtomicU64,
    pub other_syncid: AtomicU64,
    /// Connections whose virtual service or real server is not here.
    pub no_server: AtomicU64,
    /// Connections of a protocol, or in a state, that is not known here.
    pub unknown: AtomicU64,
    /// Connections for which their worker had no room.
    pub no_room: AtomicU64,
    /// Times that all connections were asked for, and sent.
    pub asked: AtomicU64,
    pub answered: AtomicU64,
}

/// What all else may know of the daemons.
#[derive(Debug, Default)]
pub struct SyncState {
    pub counters: SyncCounters,
    problems: Mutex<BTreeMap<SyncRole, String>>,
}

impl SyncState {
    /// What keeps the daemon of a role from its work, in one line. The director forwards all the same, and is ready: two
    /// that lose each other must not both give up their addresses.
    pub fn problem(&self, role: SyncRole) -> Option<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).get(&role).cloned()
    }

    /// `None`: all is well. What is new is logged.
    fn set_problem(&self, daemon: &SyncDaemon, why: Option<&std::io::Error>) {
        let SyncDaemon { role, interface, .. } = daemon;
        let problem = why.map(|why| format!("sync {} on {interface}: {why}", role.name()));
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &problem {
            Some(problem) => problems.insert(*role, problem.clone()),
            None => problems.remove(role),
        };
        match (problem, before) {
            (Some(problem), before) if before.as_ref() != Some(&problem) => warn!("{problem}"),
            (None, Some(_)) => info!("sync {} on {interface} works again", role.name()),
            _ => {}
        }
    }
}

/// A daemon that runs until this is dropped.
struct Running {
    daemon: SyncDaemon,
    life: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.life.abort();
    }
}

/// Keeps the daemons that are wanted, until nobody wants any.
pub async fn run(mut wanted: watch::Receiver<Wanted>, plane: Arc<dyn Plane>, state: Arc<SyncState>) {
    let mut running: Vec<Running> = Vec::new();
    loop {
        let daemons = wanted.borrow_and_update().daemons.clone();
        running.retain(|running| {
            let stays = daemons.contains(&running.daemon);
            if !stays {
                state.set_problem(&running.daemon, None);
                info!(role = running.daemon.role.name(), "sync daemon is stopped");
            }
            stays
        });
        plane.set_sharing(!daemons.is_empty());
        for daemon in daemons {
            if running.iter().any(|running| running.daemon == daemon) {
                continue;
            }
            let SyncDaemon { role, interface, syncid, group, port, .. } = &daemon;
            info!(role = role.name(), %interface, syncid, %group, port, "sync daemon is started");
            let (wanted, plane, state) = (wanted.clone(), plane.clone(), state.clone());
            let life = match daemon.role {
                SyncRole::Master => tokio::spawn(master::live(daemon.clone(), wanted, plane, state)),
                SyncRole::Backup => tokio::spawn(backup::live(daemon.clone(), wanted, plane, state)),
            };
            running.push(Running { daemon, life });
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod netns_tests;
#[cfg(test)]
mod tests;
