//! The control plane: what the operator wrote, how it gets to the daemon, and the commands that speak to it.
//!
//! [`config`] is what the file says, [`model`] holds the operator's wishes, [`api`] says how they travel, [`twin`] brings
//! what Linux knows, [`daemon`] puts it all together, [`cli`] asks it, [`sync`] shares connections with other directors. Nothing here links DPDK: the daemon's binary puts
//! it behind [`plane::Plane`].

pub mod api;
pub mod arguments;
pub mod cli;
pub mod compile;
pub mod config;
pub mod daemon;
mod endpoint;
mod explain;
pub mod metrics;
pub mod model;
#[cfg(test)]
mod netns;
mod nflog;
mod one_line;
pub mod packet_log;
pub mod pcapng;
pub mod plane;
pub mod relief;
mod sandbox;
pub mod sets;
pub mod stats;
pub mod sync;
pub mod twin;
mod zone;
