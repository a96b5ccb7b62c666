//! IPVS: virtual services, their schedulers, the states of their connections.

pub mod scheduler;
pub mod state;
mod threshold;

pub use scheduler::SchedulerKind;
