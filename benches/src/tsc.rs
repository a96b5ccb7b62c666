//! The time-stamp counter: what a burst costs, in cycles that become nanoseconds.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

/// The counter's value now. Where there is none that can be read so cheaply, the system's clock in nanoseconds.
#[inline]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction; it reads a counter and nothing else.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// Counts a nanosecond, measured against the system's clock for 50 ms.
pub fn per_nanosecond() -> f64 {
    let (start, from) = (Instant::now(), now());
    while start.elapsed() < Duration::from_millis(50) {}
    (now() - from) as f64 / start.elapsed().as_nanos() as f64
}
