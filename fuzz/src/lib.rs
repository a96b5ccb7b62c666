//! Coverage-guided fuzzing: bytes that a fuzzer makes up go through a part of the load balancer, and what must hold
//! for any bytes is checked.
//!
//! [`targets`] has one file a target. The binary `fuzz` puts LLVM's libFuzzer around one of them (`make fuzz`);
//! `tests/corpus.rs` replays the inputs that are kept, in `corpus/<target>/`. How to add a target, and what becomes of
//! a find: `docs/fuzzing.md`.

mod daemon;
mod director;
mod rules;
mod scene;
pub mod targets;
mod workers;
