//! The control plane: what the operator wrote, how it gets to the daemon, and the commands that speak to it.
//!
//! [`model`] holds the operator's wishes; [`api`] says how they travel.

pub mod api;
pub mod cli;
pub mod model;
