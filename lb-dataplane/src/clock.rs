//! The workers' clock: the CPU's time-stamp counter, turned into [`Tick`]s without a system call.
//!
//! Ticks count from the machine's boot, so that what one process wrote down means the same to the next one: a worker sets its
//! clock by the system's once a second, as the counter's speed is known to some millionths only, which are minutes in a year.
#![allow(unsafe_code)]

use std::mem::zeroed;
use std::time::Duration;

use lb_core::time::Tick;

/// Turns counter readings into time. Each worker has a copy of the same one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// A reading of the counter, and the time then. Not yet reached when the clock was ahead: it stands until then.
    start: u64,
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

    /// The tick of a reading of [`cycles`] that was taken just now. Never less than before, when the readings are one CPU's.
    #[inline]
    pub(crate) fn tick(&mut self, cycles: u64) -> Tick {
        if self.since_start(cycles).unsigned_abs() > self.hz {
            self.set(cycles, now());
        }
        self.counted(cycles)
    }

    /// Goes on from what the system's clock says.
    #[cold]
    fn set(&mut self, cycles: u64, system: Tick) {
        let ahead = self.counted(cycles).since(system);
        self.tick = Tick(system.0.wrapping_add(ahead));
        self.start = cycles.wrapping_add(u64::from(ahead) * (self.hz / u64::from(Tick::PER_SECOND)));
    }

    #[inline]
    fn counted(&self, cycles: u64) -> Tick {
        let elapsed = u128::from(self.since_start(cycles).max(0).unsigned_abs());
        Tick(self.tick.0.wrapping_add(((elapsed * u128::from(self.scale)) >> 64) as u32))
    }

    /// In cycles. A CPU's counter may lag behind the one that was read at the start, or begin anew when the machine slept.
    #[inline]
    fn since_start(&self, cycles: u64) -> i64 {
        cycles.wrapping_sub(self.start).cast_signed()
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

/// The time-stamp counter. Where there is none that can be read so cheaply, the system's clock in nanoseconds.
#[inline]
pub fn cycles() -> u64 {
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
    fn a_tick_is_a_hundredth_of_a_second() {
        let hz = 2_100_000_000;
        let mut clock = Clock::new(1000, Tick(7), hz);
        assert_eq!(clock.tick(1000), Tick(7));
        assert_eq!(clock.tick(1000 + hz), Tick(7 + 99), "rounded down");
        assert_eq!(clock.tick(900), Tick(7), "a counter that lags");
    }

    #[test]
    fn a_clock_of_a_wrong_speed_is_right_after_a_year_and_never_goes_back() {
        for error in [-200_000_i64, -2, 0, 2, 200_000] {
            let true_hz = 2_100_000_000_u64;
            let mut clock = Clock::new(0, Tick(0), true_hz.wrapping_add_signed(error));
            let mut last = Tick(0);
            for second in 1..=365 * 86_400 / 10 {
                let at = second * 10 * (true_hz + 1);
                let system = Tick((u128::from(at) * 100 / u128::from(true_hz)) as u32);
                clock.set(at, system);
                let got = clock.counted(at);
                assert!(
                    got.is_at_or_after(last) && got.since(system).max(system.since(got)) <= 1,
                    "{got:?} {system:?}"
                );
                last = got;
            }
        }
    }

    #[test]
    fn a_clock_that_is_ahead_stands_until_the_time_has_come() {
        let mut clock = Clock::new(0, Tick(0), 1024);
        clock.set(1024, Tick(95));
        assert_eq!([1024, 1050, 1074].map(|at| clock.counted(at)), [Tick(100); 3]);
        assert_eq!(clock.counted(1074 + 1024), Tick(200));
    }

    #[test]
    fn a_counter_that_begins_anew_is_followed() {
        let mut clock = Clock::calibrate();
        let at = cycles();
        clock.start = at.wrapping_add(1 << 50);
        let tick = clock.tick(at);
        assert!(clock.tick(at + clock.hz() / 2).since(tick) >= 40);
    }

    #[test]
    fn all_clocks_of_a_boot_agree() {
        let (mut one, mut other) = (Clock::calibrate(), Clock::calibrate());
        let at = cycles();
        let apart = |a: Tick, b: Tick| a.since(b).max(b.since(a));
        assert!(apart(one.tick(at), other.tick(at)) <= 1);
        assert!(apart(one.tick(at), now()) < 1000, "now is within ten seconds of a moment ago");
    }

    #[test]
    fn the_counter_counts_with_the_measured_speed() {
        let mut clock = Clock::calibrate();
        assert!(clock.hz() >= 1_000_000);
        let before = clock.tick(cycles());
        std::thread::sleep(Duration::from_millis(60));
        assert!(clock.tick(cycles()).since(before) >= 5);
    }
}
