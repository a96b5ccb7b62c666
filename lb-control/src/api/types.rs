//! What goes over the API: one Rust type for each JSON object, used by the daemon and by `lbctl` alike.
//!
//! Commands are what the operator may ask for, in full and as it was typed: the model ([`crate::model`]) refuses by name what
//! cannot be, instead of a parser dropping it.

pub use super::address::{BadServiceAddress, ConnectionProtocol, ServiceAddress, Transport};
pub use super::command::{
    Batch, BatchReply, Command, Failure, OnError, SyncDaemon, SyncRole, SysctlValue, Timeouts,
};
pub use super::error::{ErrorBody, ErrorKind};
pub use super::spec::{
    DEFAULT_SCHEDULER, ForwardMethod, Persistence, QuicKey, QuicLb, ServerSpec, ServiceSpec, Tunnel,
};
pub use super::view::{
    Connection, CookieView, Counts, DropView, FingerprintView, LimitedView, PortView, Rates, ServerView,
    ServiceView, ServicesReply, SetFailure, SetsReply, Status, WorkerView,
};
