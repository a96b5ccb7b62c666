//! A lab of network namespaces: a client, a director, a switch and real servers, on one machine, with nothing
//! left behind.
//!
//! ```text
//!   client ── access ─┐                      ┌─ s1 10.0.0.11
//!   (a router, only   ├─ wan  director  lan ─┤─ s2 10.0.0.12   (switch: a bridge in a namespace
//!    when planned)    │                      └─ s3 10.0.0.13    of its own)
//!   client ───────────┘
//! ```
//!
//! The demo (`lab demo`) and the tests in `lab/tests` are its users. It sits outside the program under test: it
//! drives `lbd` and `lbctl` as an operator would, by their command lines, config file, socket and metrics.
//!
//! Everything that a lab makes has a name that carries its [`Tag`]; [`cleanup`] removes by that name on drop, on
//! panic, on SIGINT and SIGTERM, and sweeps what a killed run left when the next one starts.

pub mod cleanup;
pub mod client;
pub mod crowd;
pub mod decapsulate;
pub mod demo;

pub mod director;
pub mod end_to_end;
pub mod kernel_director;
pub mod metrics;
pub mod namespace;
pub mod process;
pub mod raw;
pub mod scene;
pub mod sctp;
pub mod server;
pub mod topology;
pub mod wait;
pub mod wire;
mod wiring;

pub use cleanup::Tag;
pub use director::{Director, Driver, LbdPlan};
pub use kernel_director::KernelDirector;
pub use namespace::Namespace;
pub use scene::Scene;
pub use topology::{Lab, Plan};
pub use wait::{PATIENCE, until};
