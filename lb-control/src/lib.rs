//! The control plane: what `lbd` and `lbctl` are made of. Nothing here links DPDK.

pub mod config;
