//! Listing a worker's connections: it streams them, a few entries a turn, into a bounded queue that another thread
//! empties. A list may be of millions, and neither side may hold them all or wait for the other.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use lb_core::path::FlowView;

/// Connections on their way.
const QUEUE: usize = 1024;
/// Entries that a worker looks at in a turn.
const BUDGET: usize = 128;
/// The reader's pause when nothing has come.
const PAUSE: Duration = Duration::from_micros(200);

/// Between one worker and whoever lists. One list at a time: the reader holds a lock.
pub(crate) struct Listing {
    /// Number of the list that is asked for; 0: none.
    wanted: AtomicU64,
    /// Number of the last list that was given to its end.
    ended: AtomicU64,
    views: ArrayQueue<(u64, FlowView)>,
}

impl Default for Listing {
    fn default() -> Listing {
        Listing { wanted: AtomicU64::new(0), ended: AtomicU64::new(0), views: ArrayQueue::new(QUEUE) }
    }
}

/// The worker's place in the list that it is giving.
#[derive(Default)]
pub(crate) struct ListCursor {
    number: u64,
    /// `None`: at the end.
    next: Option<u32>,
}

/// A worker gave nothing for too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stalled;

impl Listing {
    /// The worker's part: goes on with the list that is asked for, if any. `list` looks at up to so many entries from a
    /// cursor on and returns the next cursor. Returns whether there was anything to do.
    #[inline]
    pub(crate) fn give(
        &self,
        cursor: &mut ListCursor,
        list: impl FnOnce(u32, u32, &mut dyn FnMut(FlowView)) -> Option<u32>,
    ) -> bool {
        let wanted = self.wanted.load(Ordering::Acquire);
        if wanted != cursor.number {
            *cursor = ListCursor { number: wanted, next: (wanted != 0).then_some(0) };
        }
        let Some(at) = cursor.next else { return false };
        let room = QUEUE - self.views.len();
        // An entry gives one view at most, and only this worker adds views.
        let budget = room.min(BUDGET);
        if budget == 0 {
            return false;
        }
        cursor.next = list(at, budget as u32, &mut |view| {
            let _ = self.views.push((wanted, view));
        });
        if cursor.next.is_none() {
            self.ended.store(wanted, Ordering::Release);
        }
        true
    }

    /// The reader's part: asks for list `number` (never used before, not 0) and visits it to its end, or until
    /// `visit` says to break.
    ///
    /// # Errors
    /// [`Stalled`] when the worker gives nothing for `patience`.
    pub(crate) fn read(
        &self,
        number: u64,
        patience: Duration,
        visit: &mut dyn FnMut(FlowView) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Stalled> {
        self.wanted.store(number, Ordering::Release);
        let result = self.read_all(number, patience, visit);
        self.wanted.store(0, Ordering::Release);
        result
    }

    fn read_all(
        &self,
        number: u64,
        patience: Duration,
        visit: &mut dyn FnMut(FlowView) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Stalled> {
        let mut last = Instant::now();
        loop {
            // Read before the queue: what was queued before the end is then seen.
            let ended = self.ended.load(Ordering::Acquire) == number;
            let mut came = false;
            while let Some((of, view)) = self.views.pop() {
                came = true;
                // Others are left over from a list that was broken off.
                if of == number && visit(view).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if ended {
                return Ok(ControlFlow::Continue(()));
            }
            if came {
                last = Instant::now();
            } else if last.elapsed() > patience {
                return Err(Stalled);
            } else {
                std::thread::sleep(PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use lb_core::ids::ServerId;
    use lb_core::tables::Protocol;
    use lb_core::time::Timeout;

    use super::*;

    fn view(n: u32) -> FlowView {
        let address = (IpAddr::V4(Ipv4Addr::from(n)), 1);
        FlowView {
            protocol: Protocol::UDP,
            client: address,
            virtual_: address,
            server: address,
            server_id: ServerId(n),
            state: "UDP",
            expires_in: Timeout::from_secs(1),
        }
    }

    /// A worker whose table has `entries` entries, of which every third is in use; runs until `stop`.
    fn worker(listing: Arc<Listing>, entries: u32, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u32> {
        std::thread::spawn(move || {
            let (mut cursor, mut most) = (ListCursor::default(), 0);
            while !stop.load(Ordering::Relaxed) {
                listing.give(&mut cursor, |from, budget, visit| {
                    let end = (from + budget).min(entries);
                    (from..end).filter(|n| n % 3 == 0).for_each(|n| visit(view(n)));
                    (end < entries).then_some(end)
                });
                most = most.max(listing.views.len() as u32);
            }
            most
        })
    }

    #[test]
    fn a_list_much_longer_than_the_queue_comes_whole_and_in_order() {
        let (listing, stop) = (Arc::new(Listing::default()), Arc::new(AtomicBool::new(false)));
        let thread = worker(listing.clone(), 30_000, stop.clone());
        for number in 1..3 {
            let mut got = Vec::new();
            let end = listing.read(number, Duration::from_secs(20), &mut |view| {
                got.push(view.server_id.0);
                ControlFlow::Continue(())
            });
            assert_eq!(end, Ok(ControlFlow::Continue(())));
            assert_eq!(got, (0..30_000).step_by(3).collect::<Vec<_>>());
        }
        stop.store(true, Ordering::Relaxed);
        assert!(thread.join().unwrap() as usize <= QUEUE);
    }

    #[test]
    fn a_list_after_one_that_was_broken_off_has_nothing_of_it() {
        let (listing, stop) = (Arc::new(Listing::default()), Arc::new(AtomicBool::new(false)));
        let thread = worker(listing.clone(), 30_000, stop.clone());
        let broken = listing.read(1, Duration::from_secs(20), &mut |_| ControlFlow::Break(()));
        assert_eq!(broken, Ok(ControlFlow::Break(())));
        let mut count = 0;
        let whole = listing.read(2, Duration::from_secs(20), &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        });
        assert_eq!((whole, count), (Ok(ControlFlow::Continue(())), 10_000));
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }

    #[test]
    fn a_worker_that_stands_still_is_reported() {
        let listing = Listing::default();
        let result = listing.read(1, Duration::from_millis(5), &mut |_| ControlFlow::Continue(()));
        assert_eq!(result, Err(Stalled));
    }
}
