//! The time-stamp counter: what a burst costs, in cycles that become nanoseconds.

use std::time::{Duration, Instant};

pub use lb_dataplane::cycles as now;

/// Counts a nanosecond, measured against the system's clock for 50 ms.
pub fn per_nanosecond() -> f64 {
    let (start, from) = (Instant::now(), now());
    while start.elapsed() < Duration::from_millis(50) {}
    (now() - from) as f64 / start.elapsed().as_nanos() as f64
}
