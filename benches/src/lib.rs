//! Benchmarks of the packet path and the harness that compares it with its peers.
//!
//! [`road`] drives `lb_core::path::Path` on one core with a generator whose own cost is measured and subtracted.

pub mod road;
pub mod tsc;
