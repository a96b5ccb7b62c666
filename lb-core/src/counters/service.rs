//! What one worker knows of a virtual service under a flood: how many SYNs come where clients may be answered with SYN cookies, what became of these, what went by
//! hash alone, and what was not let in.

use super::Counter;
use crate::ipvs::limiter::Limit;
use crate::time::{Tick, Timeout};

#[derive(Debug, Default)]
pub struct ServiceCell {
    /// The second since boot that is counted, and SYNs in it.
    second: Counter,
    syns: Counter,
    /// The tick, and one more, up to which they are answered with cookies; 0: there was no need.
    until: Counter,
    /// SYNs that were answered with a cookie, acknowledgements of one, and of none.
    pub cookies_sent: Counter,
    pub cookies_accepted: Counter,
    pub cookies_rejected: Counter,
    /// Packets that went by hash alone; the tick of the last one, and one more. 0: there was none.
    pub hashed: Counter,
    hashed_at: Counter,
    /// New connections that were not let in, by the limit that they would have exceeded, in the order of [`Limit::ALL`].
    pub limited: [Counter; Limit::ALL.len()],
}

impl ServiceCell {
    /// Cookies are made for so long after the last second that was one of a flood.
    const STAYS: Timeout = Timeout::from_secs(10);

    /// Counts a SYN. Returns whether it is to be answered with a cookie: from `most` a second on, or while there `is_no_room`, until there is no second
    /// with half of that.
    pub fn count_syn(&self, most: u32, is_no_room: bool, now: Tick) -> bool {
        let second = u64::from(now.0 / Tick::PER_SECOND);
        if second != self.second.get() {
            self.second.set(second);
            self.syns.set(0);
        }
        self.syns.add(1);
        let is_on = self.is_flooded(now);
        let enough = if is_on { most.div_ceil(2) } else { most };
        let is_flood = is_no_room || self.syns.get() >= enough.into();
        if is_flood {
            self.until.set(u64::from(now.after(Self::STAYS).0) + 1);
        }
        is_on || is_flood
    }

    /// Counts a packet that goes by hash alone.
    pub fn count_hashed(&self, now: Tick) {
        self.hashed.add(1);
        self.hashed_at.set(u64::from(now.0) + 1);
    }

    /// Whether one went so within the time before `now`.
    pub fn was_hashed(&self, within: Timeout, now: Tick) -> bool {
        let at = self.hashed_at.get();
        at != 0 && !now.is_at_or_after(Tick((at - 1) as u32).after(within))
    }

    /// Whether SYNs are answered with cookies now, where that is by need.
    pub fn is_flooded(&self, now: Tick) -> bool {
        let until = self.until.get();
        until != 0 && !now.is_at_or_after(Tick((until - 1) as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u32) -> Tick {
        Tick(n * Tick::PER_SECOND)
    }

    #[test]
    fn a_flood_begins_at_its_rate_and_is_over_when_ten_seconds_have_less_than_half_of_it() {
        let cell = ServiceCell::default();
        let syns = |count: u32, at: u32| {
            (0..count).map(|_| cell.count_syn(10, false, second(at))).collect::<Vec<_>>()
        };
        assert_eq!(syns(9, 100), [false; 9]);
        assert_eq!(syns(10, 101), [vec![false; 9], vec![true]].concat());
        // Half of it is enough to go on.
        for at in 102..130 {
            assert_eq!(syns(5, at), [true; 5], "{at}");
        }
        for at in 130..139 {
            assert_eq!(syns(4, at), [true; 4], "{at}");
        }
        assert_eq!(syns(4, 139), [false; 4]);
        assert_eq!(syns(10, 140)[9..], [true]);
    }

    #[test]
    fn each_syn_is_one_of_a_flood_while_there_is_no_room() {
        let cell = ServiceCell::default();
        assert!(!cell.count_syn(10, false, second(1)));
        assert!(cell.count_syn(10, true, second(2)));
        assert!(cell.count_syn(10, false, second(11)));
        assert!(!cell.count_syn(10, false, second(12)));
    }
}
