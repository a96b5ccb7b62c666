//! What is done to connections that whoever lists them chose, or begun: orders come to the worker through a bounded ring, and it follows a few a
//! turn. Of one that asks it says what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lb_core::flow::Tuple;
use lb_core::path::{Order, Outcome};
use rtrb::{Consumer, Producer, RingBuffer};

/// Orders that wait to be followed.
const RING: usize = 256;
/// Orders that a worker follows in a turn.
const BUDGET: usize = 32;
/// The chooser's pause when nothing moves.
const PAUSE: Duration = Duration::from_micros(200);

/// An order about the connection whose client's packets have this tuple.
struct Given {
    original: Tuple,
    order: Order,
    /// Under which the outcome is to be left; 0: nobody waits for that.
    number: u32,
}

/// The outcome of the last order that asked for one, behind its number.
#[derive(Default)]
struct Answer(AtomicU64);

impl Answer {
    fn put(&self, number: u32, outcome: Outcome) {
        self.0.store(u64::from(number) << 8 | outcome as u64, Ordering::Release);
    }

    fn of(&self, number: u32) -> Option<Outcome> {
        let answer = self.0.load(Ordering::Acquire);
        let outcome = Outcome::ALL.get(usize::from(answer as u8)).copied();
        outcome.filter(|_| answer >> 8 == u64::from(number))
    }
}

/// The worker's end.
pub(crate) struct Follower {
    orders: Consumer<Given>,
    answer: Arc<Answer>,
}

/// The end of whoever chooses.
pub(crate) struct Chooser {
    orders: Producer<Given>,
    answer: Arc<Answer>,
    last: u32,
}

/// A worker took nothing for too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stalled;

/// Makes both ends between one worker and whoever chooses.
pub(crate) fn orders() -> (Follower, Chooser) {
    let (gives, orders) = RingBuffer::new(RING);
    let answer = Arc::<Answer>::default();
    (Follower { orders, answer: answer.clone() }, Chooser { orders: gives, answer, last: 0 })
}

impl Follower {
    /// Follows what was ordered, a turn's part. Returns whether there was anything.
    #[inline]
    pub(crate) fn turn(&mut self, mut follow: impl FnMut(&Tuple, &Order) -> Outcome) -> bool {
        if self.orders.is_empty() {
            return false;
        }
        for _ in 0..BUDGET {
            let Ok(Given { original, order, number }) = self.orders.pop() else { break };
            let outcome = follow(&original, &order);
            if number != 0 {
                self.answer.put(number, outcome);
            }
        }
        true
    }
}

impl Chooser {
    /// Waits for room, and has the worker do this to the connection whose client's packets have this tuple.
    ///
    /// # Errors
    /// [`Stalled`] when there is no room for `patience`.
    pub(crate) fn give(&mut self, original: Tuple, order: Order, patience: Duration) -> Result<(), Stalled> {
        wait(patience, || self.orders.push(Given { original, order, number: 0 }).is_ok())
    }

    /// The same, and waits for what came of it.
    ///
    /// # Errors
    /// [`Stalled`] when it has not been followed for `patience`; it may be yet.
    pub(crate) fn ask(
        &mut self,
        original: Tuple,
        order: Order,
        patience: Duration,
    ) -> Result<Outcome, Stalled> {
        self.last = self.last.wrapping_add(1).max(1);
        let number = self.last;
        wait(patience, || self.orders.push(Given { original, order, number }).is_ok())?;
        let mut outcome = None;
        wait(patience, || {
            outcome = self.answer.of(number);
            outcome.is_some()
        })?;
        outcome.ok_or(Stalled)
    }

    /// Waits until the worker has taken all orders: lists that are asked for after that show what they did.
    ///
    /// # Errors
    /// [`Stalled`] when it has not for `patience`.
    pub(crate) fn settle(&self, patience: Duration) -> Result<(), Stalled> {
        wait(patience, || self.orders.slots() == RING)
    }
}

fn wait(patience: Duration, mut is_done: impl FnMut() -> bool) -> Result<(), Stalled> {
    let began = Instant::now();
    while !is_done() {
        if began.elapsed() > patience {
            return Err(Stalled);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use lb_core::path::Deed;
    use lb_core::tables::Protocol;

    use super::*;

    fn tuple(n: u32) -> Tuple {
        let address = IpAddr::V4(Ipv4Addr::from(n));
        Tuple { src: address, dst: address, sport: 1, dport: 2, protocol: Protocol::UDP }
    }

    #[test]
    fn all_orders_come_to_the_worker_in_order() {
        let (mut follower, mut chooser) = orders();
        let worker = std::thread::spawn(move || {
            let mut ended = Vec::new();
            while ended.len() < 10_000 {
                follower.turn(|tuple, _| {
                    ended.push(*tuple);
                    Outcome::Done
                });
            }
            ended
        });
        for n in 0..10_000 {
            assert_eq!(chooser.give(tuple(n), Order::plain(Deed::End), Duration::from_secs(20)), Ok(()));
        }
        assert_eq!(chooser.settle(Duration::from_secs(20)), Ok(()));
        assert_eq!(worker.join().unwrap(), (0..10_000).map(tuple).collect::<Vec<_>>());
    }

    #[test]
    fn a_turn_follows_a_few_and_a_worker_that_stands_still_is_reported() {
        let (mut follower, mut chooser) = orders();
        let patience = Duration::from_millis(5);
        let room =
            (0..).take_while(|&n| chooser.give(tuple(n), Order::plain(Deed::End), patience).is_ok()).count();
        assert_eq!(room, RING);
        assert_eq!(chooser.settle(patience), Err(Stalled));
        let mut count = 0;
        let mut follow = |_: &Tuple, _: &Order| {
            count += 1;
            Outcome::Done
        };
        assert!(follower.turn(&mut follow));
        assert_eq!(count, BUDGET);
        while follower.turn(|_, _| Outcome::Done) {}
        assert_eq!(chooser.settle(patience), Ok(()));
    }

    #[test]
    fn who_asks_hears_what_came_of_that_order() {
        let (mut follower, mut chooser) = orders();
        let worker = std::thread::spawn(move || {
            let mut followed = 0;
            while followed < 200 {
                follower.turn(|tuple, _| {
                    followed += 1;
                    match tuple.src {
                        IpAddr::V4(n) if u32::from(n) % 2 == 0 => Outcome::Exists,
                        _ => Outcome::Absent,
                    }
                });
            }
        });
        let (seek, patience) = (Order::plain(Deed::Seek), Duration::from_secs(20));
        for n in 0..100 {
            // One that nobody asks of in between.
            chooser.give(tuple(n + 1), Order::plain(Deed::End), patience).unwrap();
            let expected = if n % 2 == 0 { Outcome::Exists } else { Outcome::Absent };
            assert_eq!(chooser.ask(tuple(n), seek, patience), Ok(expected));
        }
        worker.join().unwrap();
        assert_eq!(chooser.ask(tuple(0), seek, Duration::from_millis(5)), Err(Stalled));
    }
}
