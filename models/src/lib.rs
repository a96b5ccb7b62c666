//! What threads share, checked by [loom](https://docs.rs/loom) under every schedule and every outcome that the memory model
//! allows: hand-over rings, publishing of tables, listing and sharing of connections, the bells of those who sleep, counters, thresholds,
//! token buckets, the elements of IP sets.
//!
//! The sources are those that run in production, the ring of the crate `rtrb` among them: `build.rs` takes them as they are,
//! with loom's atomics, and makes rings so short that they are full and wrap. So a model says: with two
//! threads and so few steps, no schedule breaks what it asserts. It says nothing of longer histories (the stress tests
//! beside the sources run those), of DPDK's own rings and pools, or of `parking_lot` and tokio, which only the control
//! plane uses.
#![cfg(test)]
// The sources are linted where they stand; loom's cells may not be shared between real threads, and are not.
#![allow(dead_code, unused_imports, unreachable_pub, clippy::needless_borrow, clippy::arc_with_non_send_sync)]

mod bell;
mod bucket;
mod counters;
mod listing;
mod mailbox;
mod ring;
mod set;
mod sharing;
mod threshold;

/// The crate of this name, as linked, on loom's atomics.
#[allow(unsafe_code, clippy::all)]
mod rtrb {
    include!(concat!(env!("OUT_DIR"), "/rtrb.rs"));
}

/// A ring's places: loom reports two accesses of which neither happens before the other.
#[derive(Debug)]
struct Places(Vec<loom::cell::UnsafeCell<()>>);

impl Places {
    fn new(places: usize) -> Places {
        Places((0..places).map(|_| loom::cell::UnsafeCell::new(())).collect())
    }

    fn access(&self, place: usize) {
        self.0[place].with_mut(|_| ());
    }
}

/// Tries all schedules.
fn check(model: impl Fn() + Sync + Send + 'static) {
    loom::model::Builder::new().check(model);
}

/// Tries all schedules with at most `preemptions` moments at which a thread is stopped though it could go on.
fn check_with(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}
