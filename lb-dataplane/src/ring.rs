//! Hand-over between workers: one bounded single-producer ring for each ordered pair of them.

use lb_core::ids::PortId;
use lb_core::path::Steer;
use rtrb::{Consumer, Producer, RingBuffer};

/// Packets that one such ring holds.
pub(crate) const HAND_OVER_RING: usize = 1024;

/// Why a packet goes to another worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Errand {
    /// It owns the packet's flow.
    Own(Steer),
    /// It owns the queue of that port, and sends the packet as it is.
    Transmit(PortId),
    /// It serves the twin of that port.
    ToTwin(PortId),
}

/// Where a worker puts packets for another one, and where that one finds them.
pub(crate) type Outgoing<P> = Producer<(P, Errand)>;
pub(crate) type Incoming<P> = Consumer<(P, Errand)>;

/// A worker's ends of the rings, by the index of the other worker; its own place is empty.
pub(crate) struct RingEnds<P> {
    pub(crate) outgoing: Vec<Option<Outgoing<P>>>,
    pub(crate) incoming: Vec<Option<Incoming<P>>>,
}

/// Makes the rings between `workers` workers.
pub(crate) fn mesh<P>(workers: usize, capacity: usize) -> Vec<RingEnds<P>> {
    let empty = || (0..workers).map(|_| None).collect();
    let mut ends: Vec<_> = (0..workers)
        .map(|_| RingEnds { outgoing: empty(), incoming: (0..workers).map(|_| None).collect() })
        .collect();
    for from in 0..workers {
        for to in (0..workers).filter(|&to| to != from) {
            let (producer, consumer) = RingBuffer::new(capacity);
            ends[from].outgoing[to] = Some(producer);
            ends[to].incoming[from] = Some(consumer);
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ordered_pair_of_workers_has_a_ring_of_its_own() {
        let mut ends = mesh::<u32>(3, 4);
        for from in 0..3u16 {
            for to in (0..3u16).filter(|&to| to != from) {
                let ring = ends[from as usize].outgoing[to as usize].as_mut().unwrap();
                ring.push((u32::from(from * 10 + to), Errand::Own(Steer::Plain))).unwrap();
            }
        }
        for (to, end) in ends.iter_mut().enumerate() {
            assert!(end.outgoing[to].is_none() && end.incoming[to].is_none());
            for from in (0..3).filter(|&from| from != to) {
                let ring = end.incoming[from].as_mut().unwrap();
                assert_eq!(ring.pop().unwrap().0 as usize, from * 10 + to);
                assert!(ring.pop().is_err());
            }
        }
    }
}
