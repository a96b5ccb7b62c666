//! The workers' clock: the CPU's time-stamp counter, turned into [`Tick`]s without a system call.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use lb_core::time::Tick;

/// Turns counter readings into time. All workers share one, so that their ticks agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: u64,
    hz: u64,
    /// 2⁶⁴ ticks a cycle.
    scale: u64,
}

impl Clock {
    /// Measures the counter against the system's monotonic clock, which takes 20 ms. Tick 0 is now.
    pub(crate) fn calibrate() -> Clock {
        let (from, before) = (Instant::now(), cycles());
        std::thread::sleep(Duration::from_millis(20));
        let (elapsed, counted) = (from.elapsed(), cycles().wrapping_sub(before));
        let hz = u128::from(counted) * 1_000_000_000 / elapsed.as_nanos().max(1);
        Clock::new(cycles(), (hz as u64).max(1_000_000))
    }

    fn new(start: u64, hz: u64) -> Clock {
        let scale = (u128::from(Tick::PER_SECOND) << 64) / u128::from(hz);
        Clock { start, hz, scale: scale as u64 }
    }

    /// Counter cycles a second.
    pub(crate) fn hz(&self) -> u64 {
        self.hz
    }

    /// The tick of a reading of [`cycles`].
    #[inline]
    pub(crate) fn tick(&self, cycles: u64) -> Tick {
        let elapsed = cycles.wrapping_sub(self.start);
        // A CPU's counter may lag behind the one that was read at the start.
        let elapsed = if elapsed > u64::MAX / 2 { 0 } else { elapsed };
        Tick(((u128::from(elapsed) * u128::from(self.scale)) >> 64) as u32)
    }
}

/// The time-stamp counter.
#[inline]
pub(crate) fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction, and Linux lets user space use it.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_a_hundredth_of_a_second_for_years() {
        let clock = Clock::new(1000, 2_100_000_000);
        assert_eq!(clock.tick(1000), Tick(0));
        assert_eq!(clock.tick(1000 + 2_100_000_000), Tick(99), "rounded down");
        let year = 365 * 86_400;
        let wanted = year as u32 * Tick::PER_SECOND;
        let got = clock.tick(1000 + 2_100_000_000 * year).0;
        assert!(wanted - got <= 1, "{got} is not {wanted}");
        assert_eq!(clock.tick(900), Tick(0), "a counter that lags");
    }

    #[test]
    fn the_counter_counts_with_the_measured_speed() {
        let clock = Clock::calibrate();
        assert!(clock.hz() >= 1_000_000);
        let before = clock.tick(cycles());
        std::thread::sleep(Duration::from_millis(60));
        assert!(clock.tick(cycles()).since(before) >= 5);
    }
}
