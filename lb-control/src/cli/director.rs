//! Who does what a command line asks for: the daemon over its socket, or a model in a test.

use std::io;
use std::path::PathBuf;

use crate::api::connections::ConnectionFilter;
use crate::api::types::{
    Batch, BatchReply, Connection, ErrorBody, ServiceAddress, ServiceView, SyncDaemon, Timeouts,
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DirectorError {
    #[error("no lbd at {}: {reason}", socket.display())]
    Unreachable { socket: PathBuf, reason: String },
    /// The daemon says no.
    #[error("{0}")]
    Refused(ErrorBody),
    /// The daemon says something that is not in the API.
    #[error("lbd at {}: {reason}", socket.display())]
    BadAnswer { socket: PathBuf, reason: String },
    /// What was read could not be passed on.
    #[error("output: {0}")]
    Output(#[from] io::Error),
}

/// What the kernel is to ipvsadm.
pub trait Director {
    /// # Errors
    /// None of the commands' own: those are in the reply.
    fn run(&mut self, batch: Batch) -> Result<BatchReply, DirectorError>;

    /// All services, or one. Sorted by protocol, address, port; real servers newest first.
    ///
    /// # Errors
    /// `Refused` with `NoSuchService`.
    fn services(&mut self, only: Option<ServiceAddress>) -> Result<Vec<ServiceView>, DirectorError>;

    /// As [`services`](Self::services), with keys: to be made again.
    ///
    /// # Errors
    /// As there.
    fn whole_services(&mut self, only: Option<ServiceAddress>) -> Result<Vec<ServiceView>, DirectorError> {
        self.services(only)
    }

    /// # Errors
    /// When there is no answer.
    fn timeouts(&mut self) -> Result<Timeouts, DirectorError>;

    /// The sync daemons, the master first.
    ///
    /// # Errors
    /// When there is no answer.
    fn sync_daemons(&mut self) -> Result<Vec<SyncDaemon>, DirectorError>;

    /// Gives each connection that fits to `each` as it comes.
    ///
    /// # Errors
    /// The first one of `each`, or no answer.
    fn connections(
        &mut self,
        filter: &ConnectionFilter,
        each: &mut dyn FnMut(Connection) -> io::Result<()>,
    ) -> Result<(), DirectorError>;
}
