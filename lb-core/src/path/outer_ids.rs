//! Identifications of the IPv4 headers that a worker writes before a packet: a tunnel's, and of what is translated into IPv4.
//!
//! Whoever puts pieces together takes those with the same ends, protocol and identification for one packet's (RFC 791 §3.2, RFC 6864 §4.2). All workers send to the
//! same real servers from the same addresses, so that each has a part of the numbers for itself. Where a worker begins depends on the
//! time, so that a process does not write once more what the one before it has just written.

use crate::ids::WorkerId;
use crate::time::Tick;

pub(super) struct OuterIds {
    first: u16,
    last: u16,
    /// The one given last.
    given: u16,
}

impl OuterIds {
    /// The part of one of so many workers.
    pub(super) fn new(worker: WorkerId, workers: usize, now: Tick) -> OuterIds {
        let begins = |worker: u32| worker * (1 << u16::BITS) / workers as u32;
        let (first, end) = (begins(worker.0.into()), begins(u32::from(worker.0) + 1));
        let given = first + now.0 % (end - first);
        OuterIds { first: first as u16, last: (end - 1) as u16, given: given as u16 }
    }

    /// None is given a second time before all others were.
    #[inline]
    pub(super) fn next(&mut self) -> u16 {
        self.given = if self.given == self.last { self.first } else { self.given + 1 };
        self.given
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_worker_gives_all_of_its_own_before_one_again_and_none_of_anothers() {
        for workers in [1, 2, 5, 16] {
            let mut all = BTreeSet::new();
            for worker in 0..workers {
                let mut ids = OuterIds::new(WorkerId(worker), workers.into(), Tick(12_345_678));
                let first = ids.next();
                assert!(all.insert(first), "{workers} workers: {first} is another's");
                while let id = ids.next()
                    && id != first
                {
                    assert!(all.insert(id), "{workers} workers: {id} was given before");
                }
            }
            assert_eq!(all.len(), 1 << 16, "{workers} workers");
        }
    }

    #[test]
    fn a_later_process_begins_elsewhere() {
        let first = |now| OuterIds::new(WorkerId(1), 4, Tick(now)).next();
        assert_ne!(first(1000), first(2000));
    }
}
