//! Benchmarks of the packet path and the harness that compares it with its peers.
//!
//! [`traffic`] says what is sent, [`road`] sends it through the path alone, [`team`] through workers,
//! [`flood`] more than one can take. The program `bench` (`main.rs`) runs every measure of its list and
//! writes the results down.

pub mod flood;
mod frame;
pub mod hand_over;
pub mod lines;
pub mod measure;
pub mod road;
pub mod runs;
pub mod scaling;
pub mod team;
pub mod traffic;
pub mod tsc;
mod waits;
