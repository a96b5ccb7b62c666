//! Why something was not done.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::one_line::one_line;

/// Body of every answer that is not 2xx.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ErrorBody {
    pub error: ErrorKind,
    /// One line: the object as it was given, the value, what is allowed.
    pub message: String,
}

impl ErrorBody {
    pub fn new(error: ErrorKind, message: impl Into<String>) -> ErrorBody {
        ErrorBody { error, message: one_line(message.into()) }
    }
}

/// What went wrong; the first group are the kernel's own errors.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    ServiceExists,
    /// A command about a service itself names one that is not there.
    NoSuchService,
    /// A command about a real server names a service that is not there.
    ServiceNotDefined,
    ServerExists,
    /// A tracked connection with such ends is there already.
    ConnectionExists,
    NoSuchServer,
    /// A weight or threshold that cannot be.
    OutOfRange,
    UnknownScheduler,
    /// For example an address that is not unicast.
    InvalidOperation,
    /// There is a sync daemon of this role already.
    SyncRuns,
    /// There is no sync daemon of this role.
    NoSync,
    /// A sync daemon's interface is not there.
    NoSuchDevice,
    /// There is no room for one more.
    Full,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    /// The body is longer than the daemon takes.
    TooLarge,
    /// The daemon cannot answer now: it is starting, stopping, or a worker does not answer.
    Unavailable,
    Internal,
}

impl ErrorKind {
    /// HTTP status of an answer with this error.
    pub const fn status(self) -> u16 {
        match self {
            ErrorKind::ServiceExists
            | ErrorKind::ServerExists
            | ErrorKind::ConnectionExists
            | ErrorKind::SyncRuns => 409,
            ErrorKind::NoSuchService
            | ErrorKind::ServiceNotDefined
            | ErrorKind::NoSuchServer
            | ErrorKind::NoSync
            | ErrorKind::NoSuchDevice
            | ErrorKind::NotFound => 404,
            ErrorKind::OutOfRange | ErrorKind::UnknownScheduler | ErrorKind::InvalidOperation => 422,
            ErrorKind::Full => 507,
            ErrorKind::BadRequest => 400,
            ErrorKind::MethodNotAllowed => 405,
            ErrorKind::TooLarge => 413,
            ErrorKind::Unavailable => 503,
            ErrorKind::Internal => 500,
        }
    }
}
