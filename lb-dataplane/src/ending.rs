//! Ending connections that whoever lists them chose: their tuples come to the worker through a bounded ring, and it takes a few a turn.

use std::time::{Duration, Instant};

use lb_core::flow::Tuple;
use rtrb::{Consumer, Producer, RingBuffer};

/// Connections that wait to be ended.
const RING: usize = 256;
/// Connections that a worker ends in a turn.
const BUDGET: usize = 32;
/// The chooser's pause when nothing moves.
const PAUSE: Duration = Duration::from_micros(200);

/// The worker's end.
pub(crate) struct Ender {
    chosen: Consumer<Tuple>,
}

/// The end of whoever chooses.
pub(crate) struct Chooser {
    chosen: Producer<Tuple>,
}

/// A worker took nothing for too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stalled;

/// Makes both ends between one worker and whoever chooses.
pub(crate) fn ending() -> (Ender, Chooser) {
    let (chooses, chosen) = RingBuffer::new(RING);
    (Ender { chosen }, Chooser { chosen: chooses })
}

impl Ender {
    /// Ends what was chosen, a turn's part. Returns whether there was anything.
    #[inline]
    pub(crate) fn turn(&mut self, mut end: impl FnMut(&Tuple)) -> bool {
        if self.chosen.is_empty() {
            return false;
        }
        for _ in 0..BUDGET {
            let Ok(tuple) = self.chosen.pop() else { break };
            end(&tuple);
        }
        true
    }
}

impl Chooser {
    /// Waits for room, and has the worker end this connection.
    ///
    /// # Errors
    /// [`Stalled`] when there is no room for `patience`.
    pub(crate) fn choose(&mut self, original: Tuple, patience: Duration) -> Result<(), Stalled> {
        wait(patience, || self.chosen.push(original).is_ok())
    }

    /// Waits until the worker has taken all that was chosen: lists that are asked for after that have none of it.
    ///
    /// # Errors
    /// [`Stalled`] when it has not for `patience`.
    pub(crate) fn settle(&self, patience: Duration) -> Result<(), Stalled> {
        wait(patience, || self.chosen.slots() == RING)
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

    use lb_core::tables::Protocol;

    use super::*;

    fn tuple(n: u32) -> Tuple {
        let address = IpAddr::V4(Ipv4Addr::from(n));
        Tuple { src: address, dst: address, sport: 1, dport: 2, protocol: Protocol::UDP }
    }

    #[test]
    fn all_that_is_chosen_comes_to_the_worker_in_order() {
        let (mut ender, mut chooser) = ending();
        let worker = std::thread::spawn(move || {
            let mut ended = Vec::new();
            while ended.len() < 10_000 {
                ender.turn(|tuple| ended.push(*tuple));
            }
            ended
        });
        for n in 0..10_000 {
            assert_eq!(chooser.choose(tuple(n), Duration::from_secs(20)), Ok(()));
        }
        assert_eq!(chooser.settle(Duration::from_secs(20)), Ok(()));
        assert_eq!(worker.join().unwrap(), (0..10_000).map(tuple).collect::<Vec<_>>());
    }

    #[test]
    fn a_turn_ends_a_few_and_a_worker_that_stands_still_is_reported() {
        let (mut ender, mut chooser) = ending();
        let patience = Duration::from_millis(5);
        let room = (0..).take_while(|&n| chooser.choose(tuple(n), patience).is_ok()).count();
        assert_eq!(room, RING);
        assert_eq!(chooser.settle(patience), Err(Stalled));
        let mut count = 0;
        assert!(ender.turn(|_| count += 1));
        assert_eq!(count, BUDGET);
        while ender.turn(|_| {}) {}
        assert_eq!(chooser.settle(patience), Ok(()));
    }
}
