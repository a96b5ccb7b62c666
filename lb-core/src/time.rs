//! Time as an argument: the packet path never reads a clock, its caller says what time it is.

/// A moment, in hundredths of a second since the machine was booted, so that it means the same to the next process. It wraps
/// after 497 days, so two moments are compared by their distance, which must stay below 248 days.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Tick(pub u32);

impl Tick {
    pub const PER_SECOND: u32 = 100;

    /// The moment `timeout` after this one.
    #[inline]
    #[must_use]
    pub fn after(self, timeout: Timeout) -> Tick {
        Tick(self.0.wrapping_add(timeout.0))
    }

    /// Ticks from `earlier` to this moment; 0 when `earlier` is in fact later.
    #[inline]
    pub fn since(self, earlier: Tick) -> u32 {
        let distance = self.0.wrapping_sub(earlier.0);
        if distance > u32::MAX / 2 { 0 } else { distance }
    }

    /// True when this moment is `other` or later.
    #[inline]
    pub fn is_at_or_after(self, other: Tick) -> bool {
        self.0.wrapping_sub(other.0) <= u32::MAX / 2
    }
}

/// A span of time, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(transparent)]
pub struct Timeout(pub u32);

impl Timeout {
    /// `seconds` must be at most [`Timeout::MAX_SECS`]; more is cut to it.
    pub const fn from_secs(seconds: u32) -> Timeout {
        let seconds = if seconds > Self::MAX_SECS { Self::MAX_SECS } else { seconds };
        Timeout(seconds * Tick::PER_SECOND)
    }

    /// 31 days: the kernel's own limit for `ipvsadm --set` and `-p`.
    pub const MAX_SECS: u32 = 2_678_400;

    pub const fn as_secs(self) -> u32 {
        self.0 / Tick::PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_compare_across_the_wrap() {
        let before = Tick(u32::MAX - 10);
        let after = before.after(Timeout(20));
        assert!(after.is_at_or_after(before));
        assert!(!before.is_at_or_after(after));
        assert_eq!(after.since(before), 20);
        assert_eq!(before.since(after), 0);
    }
}
