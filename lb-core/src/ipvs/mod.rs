//! IPVS: virtual services, their schedulers, the states of their connections.

mod cheapest;
mod destinations;
pub mod limiter;
pub mod quic_lb;
pub mod scheduler;
pub mod sctp;
pub mod state;
mod threshold;

pub use scheduler::SchedulerKind;
