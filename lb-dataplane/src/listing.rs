//! Listing a worker's connections: it streams them, a few entries a turn, into a bounded ring that another thread
//! empties. A list may be of millions, and neither side may hold them all; the worker never waits for the reader, and gives on only what the
//! list is of ([`Sought`]).
//! `lb-models` checks it under every schedule.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lb_core::path::{FlowView, Sought};
use rtrb::{Consumer, Producer, RingBuffer};

/// Connections on their way.
const RING: usize = 1024;
/// Entries that a worker looks at in a turn.
const BUDGET: usize = 32;
/// Lists that were asked for and that the worker has not seen.
const ASKED: usize = 4;
/// The reader's pause when nothing has come.
const PAUSE: Duration = Duration::from_micros(200);

/// Which list is asked for, and which was given.
#[derive(Default)]
struct Lists {
    /// Number of the list that is asked for; 0: none.
    wanted: AtomicU64,
    /// Number of the last list that was given to its end.
    ended: AtomicU64,
    /// Where the worker is: what does not fit does not come, though it goes on.
    reached: AtomicU32,
}

/// The worker's end.
pub(crate) struct Lister {
    lists: Arc<Lists>,
    asked: Consumer<(u64, Sought)>,
    views: Producer<(u64, FlowView)>,
    /// The list that is being given.
    number: u64,
    sought: Sought,
    /// Where it goes on. `None`: at the end.
    next: Option<u32>,
}

/// The end of whoever lists: one list at a time.
pub(crate) struct ListReader {
    lists: Arc<Lists>,
    asking: Producer<(u64, Sought)>,
    views: Consumer<(u64, FlowView)>,
}

/// A worker gave nothing for too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stalled;

/// Makes both ends between one worker and whoever lists.
pub(crate) fn listing() -> (Lister, ListReader) {
    let ((given, views), (asking, asked)) = (RingBuffer::new(RING), RingBuffer::new(ASKED));
    let lists = Arc::<Lists>::default();
    let sought = Sought::default();
    let lister = Lister { lists: lists.clone(), asked, views: given, number: 0, sought, next: None };
    (lister, ListReader { lists, asking, views })
}

impl Lister {
    /// Whether there is a list to be given, or to be begun or broken off.
    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.next.is_some() || self.lists.wanted.load(Ordering::Relaxed) != self.number
    }

    /// Goes on with the list that is asked for, if any. `list` looks at up to so many entries from a cursor on and
    /// returns the next cursor. Returns whether there was anything to do.
    pub(crate) fn give(
        &mut self,
        list: impl FnOnce(u32, u32, &mut dyn FnMut(FlowView)) -> Option<u32>,
    ) -> bool {
        let wanted = self.lists.wanted.load(Ordering::Acquire);
        if wanted != self.number {
            self.begin(wanted);
        }
        let Some(at) = self.next else { return false };
        // An entry gives one view at most, and only this worker adds views.
        let budget = self.views.slots().min(BUDGET);
        if budget == 0 {
            return false;
        }
        self.next = list(at, budget as u32, &mut |view| {
            if self.sought.fits(&view) {
                let _ = self.views.push((wanted, view));
            }
        });
        match self.next {
            Some(next) => self.lists.reached.store(next, Ordering::Relaxed),
            None => self.lists.ended.store(wanted, Ordering::Release),
        }
        true
    }

    /// What list is asked for, of what. 0 is none: what is in the ring then belongs to the next one.
    fn begin(&mut self, wanted: u64) {
        (self.number, self.next) = (wanted, None);
        while wanted != 0
            && self.next.is_none()
            && let Ok((number, sought)) = self.asked.pop()
        {
            // Others were broken off before they were seen.
            if number == wanted {
                (self.sought, self.next) = (sought, Some(0));
            }
        }
    }
}

impl ListReader {
    /// Asks for list `number` (never used before, not 0) of what is sought, and visits it to its end, or until `visit` says to break.
    ///
    /// # Errors
    /// [`Stalled`] when the worker does not go on for `patience`, or did not see the lists before.
    pub(crate) fn read(
        &mut self,
        number: u64,
        sought: &Sought,
        patience: Duration,
        visit: &mut dyn FnMut(FlowView) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Stalled> {
        self.asking.push((number, *sought)).map_err(|_| Stalled)?;
        self.lists.wanted.store(number, Ordering::Release);
        let result = self.read_all(number, patience, visit);
        self.lists.wanted.store(0, Ordering::Release);
        result
    }

    fn read_all(
        &mut self,
        number: u64,
        patience: Duration,
        visit: &mut dyn FnMut(FlowView) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Stalled> {
        let (mut last, mut reached) = (Instant::now(), 0);
        loop {
            // Read before the ring: what was put in before the end is then seen.
            let ended = self.lists.ended.load(Ordering::Acquire) == number;
            let mut came = false;
            while let Ok((of, view)) = self.views.pop() {
                came = true;
                // Others are left over from a list that was broken off.
                if of == number && visit(view).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if ended {
                return Ok(ControlFlow::Continue(()));
            }
            let at = self.lists.reached.load(Ordering::Relaxed);
            if came || at != reached {
                (last, reached) = (Instant::now(), at);
            } else if last.elapsed() > patience {
                return Err(Stalled);
            }
            if !came {
                std::thread::sleep(PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::AtomicBool;

    use lb_core::flow::Method;
    use lb_core::ids::ServerId;
    use lb_core::path::Known;
    use lb_core::tables::Protocol;
    use lb_core::time::Timeout;

    use super::*;

    fn view(n: u32) -> FlowView {
        let address = (IpAddr::V4(Ipv4Addr::from(n)), 1);
        FlowView {
            is_template: false,
            is_tracked: false,
            known: Known::default(),
            protocol: Protocol::UDP,
            client: address,
            virtual_: address,
            server: address,
            local: None,
            call: None,
            server_id: ServerId(n),
            method: Method::Masq,
            state: "UDP",
            expires_in: Timeout::from_secs(1),
        }
    }

    /// A worker whose table has `entries` entries, of which every third is in use; runs until `stop`.
    fn worker(mut lister: Lister, entries: u32, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                lister.give(|from, budget, visit| {
                    let end = (from + budget).min(entries);
                    (from..end).filter(|n| n % 3 == 0).for_each(|n| visit(view(n)));
                    (end < entries).then_some(end)
                });
            }
        })
    }

    #[test]
    fn a_list_much_longer_than_the_ring_comes_whole_and_in_order() {
        let ((lister, mut reader), stop) = (listing(), Arc::new(AtomicBool::new(false)));
        let thread = worker(lister, 30_000, stop.clone());
        for number in 1..3 {
            let mut got = Vec::new();
            let end = reader.read(number, &Sought::default(), Duration::from_secs(20), &mut |view| {
                got.push(view.server_id.0);
                ControlFlow::Continue(())
            });
            assert_eq!(end, Ok(ControlFlow::Continue(())));
            assert_eq!(got, (0..30_000).step_by(3).collect::<Vec<_>>());
        }
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }

    #[test]
    fn a_list_after_one_that_was_broken_off_has_nothing_of_it() {
        let ((lister, mut reader), stop) = (listing(), Arc::new(AtomicBool::new(false)));
        let thread = worker(lister, 30_000, stop.clone());
        let broken =
            reader.read(1, &Sought::default(), Duration::from_secs(20), &mut |_| ControlFlow::Break(()));
        assert_eq!(broken, Ok(ControlFlow::Break(())));
        let mut count = 0;
        let whole = reader.read(2, &Sought::default(), Duration::from_secs(20), &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        });
        assert_eq!((whole, count), (Ok(ControlFlow::Continue(())), 10_000));
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }

    #[test]
    fn what_is_not_sought_does_not_come_and_a_worker_that_finds_nothing_is_not_given_up() {
        let ((lister, mut reader), stop) = (listing(), Arc::new(AtomicBool::new(false)));
        let thread = worker(lister, 30_000, stop.clone());
        let host = |n: u32| Some((IpAddr::from(Ipv4Addr::from(n)), IpAddr::from(Ipv4Addr::BROADCAST)));
        let mut listed = |number, n| {
            let mut sought = Sought::default();
            sought.original[0].net = host(n);
            let mut got = Vec::new();
            let end = reader.read(number, &sought, Duration::from_secs(20), &mut |view| {
                got.push(view.server_id.0);
                ControlFlow::Continue(())
            });
            assert_eq!(end, Ok(ControlFlow::Continue(())));
            got
        };
        assert_eq!(listed(1, 29_997), [29_997]);
        assert_eq!(listed(2, 29_998), [0; 0]);
        assert_eq!(listed(3, 0), [0]);
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }

    #[test]
    fn a_worker_that_stands_still_is_reported() {
        let (_lister, mut reader) = listing();
        let result =
            reader.read(1, &Sought::default(), Duration::from_millis(5), &mut |_| ControlFlow::Continue(()));
        assert_eq!(result, Err(Stalled));
    }
}
