//! What is done to connections that whoever lists them chose: orders come to the worker through a bounded ring, and it follows a few a turn.

use std::time::{Duration, Instant};

use lb_core::flow::Tuple;
use lb_core::path::Order;
use rtrb::{Consumer, Producer, RingBuffer};

/// Orders that wait to be followed.
const RING: usize = 256;
/// Orders that a worker follows in a turn.
const BUDGET: usize = 32;
/// The chooser's pause when nothing moves.
const PAUSE: Duration = Duration::from_micros(200);

/// The worker's end.
pub(crate) struct Follower {
    orders: Consumer<(Tuple, Order)>,
}

/// The end of whoever chooses.
pub(crate) struct Chooser {
    orders: Producer<(Tuple, Order)>,
}

/// A worker took nothing for too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stalled;

/// Makes both ends between one worker and whoever chooses.
pub(crate) fn orders() -> (Follower, Chooser) {
    let (gives, orders) = RingBuffer::new(RING);
    (Follower { orders }, Chooser { orders: gives })
}

impl Follower {
    /// Follows what was ordered, a turn's part. Returns whether there was anything.
    #[inline]
    pub(crate) fn turn(&mut self, mut follow: impl FnMut(&(Tuple, Order))) -> bool {
        if self.orders.is_empty() {
            return false;
        }
        for _ in 0..BUDGET {
            let Ok(order) = self.orders.pop() else { break };
            follow(&order);
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
        wait(patience, || self.orders.push((original, order)).is_ok())
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
                follower.turn(|(tuple, _)| ended.push(*tuple));
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
        assert!(follower.turn(|_| count += 1));
        assert_eq!(count, BUDGET);
        while follower.turn(|_| {}) {}
        assert_eq!(chooser.settle(patience), Ok(()));
    }
}
