//! Connections between the workers and whoever shares them with other directors: a ring each way, a worker, both bounded.
//! A worker looks a few entries a turn into what is asked for, and never waits; what it is given goes to the workers that
//! have to do with it. While nobody shares anything, it costs a worker one look a turn.
//! `lb-models` checks it under every schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lb_core::ids::ServerId;
use lb_core::path::{SharedFlow, Walk};
use lb_core::time::Tick;
use rtrb::{Consumer, Producer, RingBuffer};

/// Connections on their way, each way.
const RING: usize = 4096;
/// Entries that a worker looks at in a turn, and connections that it takes over.
const BUDGET: usize = 64;

/// Which walk is asked for, and which was done: see [`asked`]. 0: none.
#[derive(Default)]
struct Walks {
    is_on: AtomicBool,
    wanted: AtomicU64,
    ended: AtomicU64,
}

/// A walk in one word: its number in the upper half, then whether it is whole, then the tick since when.
fn asked(number: u32, walk: Walk) -> u64 {
    let (is_whole, since) = match walk {
        Walk::Whole => (1, 0),
        Walk::Since(Tick(since)) => (0, since >> 1),
    };
    u64::from(number) << 32 | is_whole << 31 | u64::from(since)
}

fn walk(asked: u64) -> Walk {
    if asked >> 31 & 1 == 1 { Walk::Whole } else { Walk::Since(Tick((asked as u32) << 1)) }
}

/// The worker's end.
pub(crate) struct Sharer {
    walks: Arc<Walks>,
    told: Producer<SharedFlow>,
    taken: Consumer<(SharedFlow, ServerId)>,
    /// The walk that is under way, or was last.
    walk: u64,
    /// Where it goes on. `None`: at the end.
    next: Option<u32>,
}

/// The other end.
pub(crate) struct ShareReader {
    walks: Arc<Walks>,
    told: Consumer<SharedFlow>,
    taken: Producer<(SharedFlow, ServerId)>,
}

/// What a worker does with connections that are shared.
pub(crate) trait Shares {
    /// See [`Path::tell_changed`](lb_core::path::Path::tell_changed).
    fn tell_changed(&mut self, budget: u32, tell: &mut dyn FnMut(SharedFlow)) -> bool;
    /// See [`Path::walk`](lb_core::path::Path::walk).
    fn walk(&mut self, cursor: u32, budget: u32, walk: Walk, tell: &mut dyn FnMut(SharedFlow))
    -> Option<u32>;
    fn take_over(&mut self, told: &SharedFlow, server: ServerId);
}

/// Makes both ends for one worker.
pub(crate) fn sharing() -> (Sharer, ShareReader) {
    let (told, reads) = RingBuffer::new(RING);
    let (gives, taken) = RingBuffer::new(RING);
    let walks = Arc::<Walks>::default();
    let sharer = Sharer { walks: walks.clone(), told, taken, walk: 0, next: None };
    (sharer, ShareReader { walks, told: reads, taken: gives })
}

impl Sharer {
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.walks.is_on.load(Ordering::Relaxed)
    }

    /// A turn's part of what is to be done. Returns whether there was anything.
    pub(crate) fn turn(&mut self, shares: &mut impl Shares) -> bool {
        let mut had_work = false;
        for _ in 0..BUDGET {
            let Ok((told, server)) = self.taken.pop() else { break };
            had_work = true;
            shares.take_over(&told, server);
        }
        // One entry is told of once at most, and only this worker tells.
        let ring = &mut self.told;
        let room = ring.slots().min(BUDGET) as u32;
        had_work |= shares.tell_changed(room, &mut |flow| {
            let _ = ring.push(flow);
        });
        let wanted = self.walks.wanted.load(Ordering::Acquire);
        if wanted != self.walk {
            (self.walk, self.next) = (wanted, Some(0));
        }
        let room = self.told.slots().min(BUDGET) as u32;
        if let Some(at) = self.next.filter(|_| room > 0) {
            had_work = true;
            let ring = &mut self.told;
            self.next = shares.walk(at, room, walk(wanted), &mut |flow| {
                let _ = ring.push(flow);
            });
            if self.next.is_none() {
                self.walks.ended.store(wanted, Ordering::Release);
            }
        }
        had_work
    }
}

impl ShareReader {
    pub(crate) fn set_on(&self, is_on: bool) {
        self.walks.is_on.store(is_on, Ordering::Relaxed);
    }

    /// Asks for a walk; `number` is another one than before.
    pub(crate) fn ask(&self, number: u32, walk: Walk) {
        self.walks.wanted.store(asked(number, walk), Ordering::Release);
    }

    /// Whether the walk that was asked for last is over and all of it has been read.
    pub(crate) fn is_over(&self) -> bool {
        // In this order: what was told before the end is then seen.
        let ended = self.walks.ended.load(Ordering::Acquire);
        ended == self.walks.wanted.load(Ordering::Relaxed) && self.told.is_empty()
    }

    /// The next connection that was told of.
    pub(crate) fn next(&mut self) -> Option<SharedFlow> {
        self.told.pop().ok()
    }

    /// Gives the worker a connection. False: it has no room now.
    pub(crate) fn give(&mut self, flow: SharedFlow, server: ServerId) -> bool {
        self.taken.push((flow, server)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use lb_core::flow::{Method, Tuple};
    use lb_core::tables::Protocol;
    use lb_core::time::Timeout;

    use super::*;

    fn flow(n: u32) -> SharedFlow {
        let src = IpAddr::V4(Ipv4Addr::from(n));
        SharedFlow {
            original: Tuple { src, dst: src, sport: 1, dport: 2, protocol: Protocol::UDP },
            is_template: false,
            is_past: false,
            server: (src, 3),
            local: (src, 1),
            mark: 0,
            method: Method::Masq,
            state: 0,
            is_active: false,
            timeout: Timeout(1),
            is_hearsay: false,
            edit: None,
        }
    }

    /// A table of so many places, each with a connection; it notes what it is told.
    struct Table {
        places: u32,
        changed: u32,
        walks: Vec<Walk>,
        taken: Vec<u32>,
    }

    impl Shares for Table {
        fn tell_changed(&mut self, budget: u32, tell: &mut dyn FnMut(SharedFlow)) -> bool {
            let count = self.changed.min(budget);
            self.changed -= count;
            (0..count).for_each(|n| tell(flow(n)));
            count > 0
        }

        fn walk(
            &mut self,
            cursor: u32,
            budget: u32,
            walk: Walk,
            tell: &mut dyn FnMut(SharedFlow),
        ) -> Option<u32> {
            self.walks.push(walk);
            let end = (cursor + budget).min(self.places);
            (cursor..end).for_each(|n| tell(flow(n)));
            (end < self.places).then_some(end)
        }

        fn take_over(&mut self, _: &SharedFlow, server: ServerId) {
            self.taken.push(server.0);
        }
    }

    fn table(places: u32, changed: u32) -> Table {
        Table { places, changed, walks: Vec::new(), taken: Vec::new() }
    }

    fn read_all(reader: &mut ShareReader) -> usize {
        std::iter::from_fn(|| reader.next()).count()
    }

    #[test]
    fn a_walk_comes_whole_however_slowly_it_is_read() {
        let ((mut sharer, mut reader), mut table) = (sharing(), table(10_000, 0));
        reader.set_on(true);
        assert!(sharer.is_on());
        assert!(reader.is_over(), "none was asked for");
        for (number, asked) in [(1, Walk::Whole), (2, Walk::Since(Tick(1001))), (3, Walk::Whole)] {
            reader.ask(number, asked);
            let mut count = 0;
            while !reader.is_over() {
                while sharer.turn(&mut table) {}
                let now = read_all(&mut reader);
                assert!(now <= RING);
                count += now;
            }
            assert_eq!(count, 10_000);
        }
        table.walks.dedup();
        assert_eq!(table.walks, [Walk::Whole, Walk::Since(Tick(1000)), Walk::Whole]);
        assert!(!sharer.turn(&mut table));
    }

    #[test]
    fn changes_wait_for_room_and_connections_go_the_other_way() {
        let ((mut sharer, mut reader), mut table) = (sharing(), table(0, RING as u32 + 10));
        while sharer.turn(&mut table) {}
        assert_eq!((table.changed, read_all(&mut reader)), (10, RING));
        assert!(sharer.turn(&mut table));
        assert_eq!(read_all(&mut reader), 10);
        let given = (0..).take_while(|&n| reader.give(flow(n), ServerId(n))).count();
        assert_eq!(given, RING);
        assert!(sharer.turn(&mut table));
        assert!(reader.give(flow(0), ServerId(0)), "there is room again");
        while sharer.turn(&mut table) {}
        assert_eq!(table.taken[..given], (0..RING as u32).collect::<Vec<_>>());
    }
}
