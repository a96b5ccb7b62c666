//! The workers' clock: the CPU's time-stamp counter, turned into [`Tick`]s without a system call.
//!
//! Ticks count from the machine's boot, so that what one process wrote down means the same to the next one.
#![allow(unsafe_code)]

use std::mem::zeroed;
use std::time::Duration;

use lb_core::time::Tick;

/// Turns counter readings into time. All workers share one, so that their ticks agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: u64,
    /// At `start`.
    tick: Tick,
    hz: u64,
    /// 2⁶⁴ ticks a cycle.
    scale: u64,
}

impl Clock {
    /// Measures the counter against the system's clock, which takes 20 ms.
    pub(crate) fn calibrate() -> Clock {
        let (before, from) = reading();
        std::thread::sleep(Duration::from_millis(20));
        let (now, to) = reading();
        let hz = u128::from(now.wrapping_sub(before)) * 1_000_000_000 / (to - from).as_nanos().max(1);
        Clock::new(now, tick_of(to), (hz as u64).max(1_000_000))
    }

    fn new(start: u64, tick: Tick, hz: u64) -> Clock {
        let scale = (u128::from(Tick::PER_SECOND) << 64) / u128::from(hz);
        Clock { start, tick, hz, scale: scale as u64 }
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
        Tick(self.tick.0.wrapping_add(((u128::from(elapsed) * u128::from(self.scale)) >> 64) as u32))
    }
}

/// Times that both clocks are read to get them at one moment.
const READINGS: usize = 16;

/// The counter and the time since boot, of one moment: of several readings the one that took the least time, as the thread
/// may be interrupted between the two.
fn reading() -> (u64, Duration) {
    let read = |_| {
        let before = cycles();
        let time = since_boot();
        (cycles().wrapping_sub(before), before, time)
    };
    let (_, at, time) = (0..READINGS).map(read).min().expect("several");
    (at, time)
}

/// Now, for who has no [`Clock`].
pub(crate) fn now() -> Tick {
    tick_of(since_boot())
}

fn tick_of(since_boot: Duration) -> Tick {
    // Ticks wrap.
    Tick((since_boot.as_millis() / u128::from(1000 / Tick::PER_SECOND)) as u32)
}

/// Also of the time that the machine slept.
fn since_boot() -> Duration {
    // SAFETY: a timespec is two numbers, for which zero is valid.
    let mut time: libc::timespec = unsafe { zeroed() };
    // SAFETY: the kernel writes one timespec; it knows this clock since 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
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
        since_boot().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_a_hundredth_of_a_second_for_years() {
        let clock = Clock::new(1000, Tick(7), 2_100_000_000);
        assert_eq!(clock.tick(1000), Tick(7));
        assert_eq!(clock.tick(1000 + 2_100_000_000), Tick(7 + 99), "rounded down");
        let year = 365 * 86_400;
        let wanted = year as u32 * Tick::PER_SECOND;
        let got = clock.tick(1000 + 2_100_000_000 * year).0 - 7;
        assert!(wanted - got <= 1, "{got} is not {wanted}");
        assert_eq!(clock.tick(900), Tick(7), "a counter that lags");
    }

    #[test]
    fn all_clocks_of_a_boot_agree() {
        let (one, other) = (Clock::calibrate(), Clock::calibrate());
        let at = cycles();
        let apart = |a: Tick, b: Tick| a.since(b).max(b.since(a));
        assert!(apart(one.tick(at), other.tick(at)) <= 1);
        assert!(apart(one.tick(at), now()) < 1000, "now is within ten seconds of a moment ago");
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
