//! The control plane: everything that is not a packet.

pub mod twin;
