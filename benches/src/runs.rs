//! How often something is measured: as often as it is to be, or until its time is over.

use std::time::{Duration, Instant};

/// So many there are in any case: of fewer, one that is far off could be the median.
pub const LEAST: u32 = 3;

/// The runs, or rounds, of a measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runs {
    pub most: u32,
    /// None begins after so long, once there are [`LEAST`].
    pub time: Duration,
}

impl Runs {
    /// So many, however long they take.
    pub fn of(most: u32) -> Runs {
        Runs { most, time: Duration::MAX }
    }

    /// Whether another one is to begin after `done`, the first of which began so long ago.
    pub fn goes_on(self, done: u32, passed: Duration) -> bool {
        done < self.most && (done < LEAST || passed < self.time)
    }

    /// Their numbers, from 0 on; the time begins now.
    pub fn each(self) -> impl Iterator<Item = u32> {
        let begun = Instant::now();
        (0..).take_while(move |&done| self.goes_on(done, begun.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_at_their_number_or_with_their_time_but_there_are_some_whatever_it_takes() {
        let runs = Runs { most: 11, time: Duration::from_secs(10) };
        // Each takes as many seconds.
        let done = |seconds: u64| {
            (0..).find(|&done| !runs.goes_on(done, Duration::from_secs(seconds * u64::from(done))))
        };
        assert_eq!([0, 1, 2, 5, 60].map(done), [11, 10, 5, LEAST, LEAST].map(Some));
        assert_eq!(Runs { most: 2, ..runs }.each().count(), 2);
        assert_eq!(Runs { time: Duration::ZERO, ..runs }.each().count() as u32, LEAST);
        assert_eq!(Runs::of(7).each().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
    }
}
