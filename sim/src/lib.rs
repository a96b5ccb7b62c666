//! The whole system in one process: the real workers, path and control plane on ports in memory and virtual time, between
//! clients and servers that check every byte, under faults drawn from a seed.

mod arrivals;
pub mod conn;
pub mod control;
pub mod director;
pub mod draw;
mod egress;
pub mod events;
mod hosts;
pub mod invariants;
pub mod ledger;
pub mod map;
pub mod netfilter;
pub mod network;
pub mod reference;
pub mod run;
pub mod shape;
pub mod tags;
pub mod tcp;
pub mod violation;
pub mod watched;
pub mod wire;
pub mod world;
