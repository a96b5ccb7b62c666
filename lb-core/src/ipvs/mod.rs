//! IPVS: virtual services, their schedulers, the states of their connections.

pub mod scheduler;

pub use scheduler::SchedulerKind;
