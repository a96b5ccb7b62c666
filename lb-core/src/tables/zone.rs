//! The host's time zone, for rules that ask what time it is here.

/// How far its clocks are ahead of UTC, and from when on; the default is UTC.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Zone {
    /// Seconds, east of Greenwich positive.
    first: i32,
    /// From these seconds after 1970 (UTC) on; oldest first.
    changes: Vec<(u64, i32)>,
}

impl Zone {
    /// `first` until the first of `changes`, which are in their order.
    pub fn new(first: i32, changes: Vec<(u64, i32)>) -> Zone {
        Zone { first, changes }
    }

    /// What clocks show at `utc`, both in seconds after 1970.
    pub fn local(&self, utc: u64) -> u64 {
        let begun = self.changes.partition_point(|(from, _)| *from <= utc);
        let ahead = self.changes[..begun].last().map_or(self.first, |(_, ahead)| *ahead);
        utc.saturating_add_signed(ahead.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_ahead_by_what_began_last() {
        let zone = Zone::new(3600, vec![(1000, 7200), (2000, -60)]);
        assert_eq!([0, 999, 1000, 1999, 2000].map(|utc| zone.local(utc)), [3600, 4599, 8200, 9199, 1940]);
        assert_eq!(Zone::new(-7200, Vec::new()).local(60), 0);
        assert_eq!(Zone::default().local(60), 60);
    }
}
