//! Hand-over between workers: one bounded single-producer ring for each ordered pair of them.
//!
//! A place of a ring is a packet and one word: what for. What was found out about the few packets that more is to be said of is in a
//! second ring beside it, in their order. What a worker gives and takes goes in and out many packets at a time, so that the lines that
//! both workers write go from one core to the other once for many packets, and the packets' own all at once.

use std::sync::Arc;

use arrayvec::ArrayVec;
use lb_core::ids::PortId;
use lb_core::path::{BURST, Steer};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::bell::Bell;

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

/// An errand, as it stands beside a packet.
#[derive(Clone, Copy)]
enum Mark {
    Plain,
    /// Own, with the next of what was found out.
    Told,
    Transmit(PortId),
    ToTwin(PortId),
}

/// Where a worker puts packets for another one.
pub(crate) struct Outgoing<P> {
    packets: Producer<(P, Mark)>,
    /// As long as the other, so that it has room for who finds room there.
    told: Producer<Steer>,
    /// Not in the ring yet. Places are kept for them.
    staged: ArrayVec<(P, Mark), BURST>,
    /// Places of the ring that are known to be free, besides.
    room: usize,
    /// Of the other worker, when it is one that sleeps.
    bell: Option<Arc<Bell>>,
}

impl<P> Outgoing<P> {
    /// Takes a packet, or returns it if there is no room. It is on its way with the next [`Outgoing::send`].
    #[inline(always)]
    pub(crate) fn put(&mut self, packet: P, errand: Errand) -> Result<(), P> {
        if (self.room == 0 && !self.has_room()) || self.staged.is_full() && !self.send() {
            return Err(packet);
        }
        let mark = match errand {
            Errand::Own(Steer::Plain) => Mark::Plain,
            Errand::Own(steer) => match self.told.push(steer) {
                Ok(()) => Mark::Told,
                Err(_) => return Err(packet),
            },
            Errand::Transmit(port) => Mark::Transmit(port),
            Errand::ToTwin(port) => Mark::ToTwin(port),
        };
        self.room -= 1;
        self.staged.push((packet, mark));
        Ok(())
    }

    /// Looks how far the other worker got.
    #[inline(never)]
    fn has_room(&mut self) -> bool {
        self.room = self.packets.slots() - self.staged.len();
        self.room > 0
    }

    /// Lets the other worker have what was put. Returns whether it has all.
    #[inline]
    pub(crate) fn send(&mut self) -> bool {
        if self.staged.is_empty() {
            return true;
        }
        if let Ok(chunk) = self.packets.write_chunk_uninit(self.staged.len()) {
            chunk.fill_from_iter(self.staged.drain(..));
        }
        if let Some(bell) = &self.bell {
            bell.ring();
        }
        self.staged.is_empty()
    }
}

/// Where a worker finds what another one put.
pub(crate) struct Incoming<P> {
    packets: Consumer<(P, Mark)>,
    told: Consumer<Steer>,
}

impl<P> Incoming<P> {
    /// How many packets are there.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.packets.slots()
    }

    /// Takes the next packets, so many at most.
    #[inline]
    pub(crate) fn take(&mut self, most: usize, mut each: impl FnMut(P, Errand)) {
        let Ok(chunk) = self.packets.read_chunk(most.min(self.packets.cached_slots())) else { return };
        for (packet, mark) in chunk {
            match mark {
                Mark::Plain => each(packet, Errand::Own(Steer::Plain)),
                Mark::Told => match self.told.pop() {
                    Ok(steer) => each(packet, Errand::Own(steer)),
                    Err(_) => debug_assert!(false, "it was put before its packet"),
                },
                Mark::Transmit(port) => each(packet, Errand::Transmit(port)),
                Mark::ToTwin(port) => each(packet, Errand::ToTwin(port)),
            }
        }
    }
}

/// A worker's ends of the rings, by the index of the other worker; its own place is empty.
pub(crate) struct RingEnds<P> {
    pub(crate) outgoing: Vec<Option<Outgoing<P>>>,
    pub(crate) incoming: Vec<Option<Incoming<P>>>,
}

impl<P> RingEnds<P> {
    /// Has each other worker woken by its bell, where it has one, to what it is sent.
    pub(crate) fn wake_by(&mut self, bells: &[Option<Arc<Bell>>]) {
        for (ring, bell) in self.outgoing.iter_mut().zip(bells) {
            if let Some(ring) = ring {
                ring.bell.clone_from(bell);
            }
        }
    }
}

/// Makes the rings between `workers` workers.
pub(crate) fn mesh<P>(workers: usize, capacity: usize) -> Vec<RingEnds<P>> {
    let mut ends: Vec<_> = (0..workers)
        .map(|_| RingEnds {
            outgoing: (0..workers).map(|_| None).collect(),
            incoming: (0..workers).map(|_| None).collect(),
        })
        .collect();
    for from in 0..workers {
        for to in (0..workers).filter(|&to| to != from) {
            let (packets, taken) = RingBuffer::new(capacity);
            let (told, heard) = RingBuffer::new(capacity);
            ends[from].outgoing[to] =
                Some(Outgoing { packets, told, staged: ArrayVec::new(), room: 0, bell: None });
            ends[to].incoming[from] = Some(Incoming { packets: taken, told: heard });
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: Errand = Errand::Own(Steer::AskExpected);

    fn pair(capacity: usize) -> (Outgoing<u32>, Incoming<u32>) {
        let mut ends = mesh(2, capacity);
        (ends[0].outgoing[1].take().unwrap(), ends[1].incoming[0].take().unwrap())
    }

    fn taken(from: &mut Incoming<u32>, most: usize) -> Vec<(u32, Errand)> {
        let mut taken = Vec::new();
        let waiting = from.waiting();
        from.take(most.min(waiting), |packet, errand| taken.push((packet, errand)));
        taken
    }

    #[test]
    fn each_ordered_pair_of_workers_has_a_ring_of_its_own() {
        let mut ends = mesh::<u32>(3, 4);
        for from in 0..3u16 {
            for to in (0..3u16).filter(|&to| to != from) {
                let ring = ends[from as usize].outgoing[to as usize].as_mut().unwrap();
                ring.put(u32::from(from * 10 + to), Errand::Own(Steer::Plain)).unwrap();
                assert!(ring.send());
            }
        }
        for (to, end) in ends.iter_mut().enumerate() {
            assert!(end.outgoing[to].is_none() && end.incoming[to].is_none());
            for from in (0..3).filter(|&from| from != to) {
                let ring = end.incoming[from].as_mut().unwrap();
                let plain = Errand::Own(Steer::Plain);
                assert_eq!(taken(ring, 9), [((from * 10 + to) as u32, plain)]);
            }
        }
    }

    #[test]
    fn packets_come_out_in_the_order_that_they_went_in_whatever_their_errand() {
        const ERRANDS: [Errand; 4] =
            [Errand::Own(Steer::Plain), FOUND, Errand::Transmit(PortId(3)), Errand::ToTwin(PortId(1))];
        let (mut to, mut from) = pair(64);
        let (mut put, mut got) = (0u32, 0u32);
        // Chunks of all lengths, around the ring's end many times, by an order without a short period.
        for round in 0..2000u32 {
            for _ in 0..round % 41 {
                put += u32::from(to.put(put, ERRANDS[put.count_ones() as usize % 4]).is_ok());
            }
            if round % 3 > 0 {
                assert!(to.send());
            }
            for (packet, errand) in taken(&mut from, round as usize % 47) {
                assert_eq!((packet, errand), (got, ERRANDS[got.count_ones() as usize % 4]));
                got += 1;
            }
        }
        assert!(got > 10_000);
    }

    #[test]
    fn a_ring_takes_what_it_has_places_for_and_no_more_sent_or_not() {
        for capacity in [1, 5, 32, 40, 100] {
            let (mut to, mut from) = pair(capacity);
            for again in 0..3 {
                let put = (0..200).take_while(|&n| to.put(n, FOUND).is_ok()).count();
                assert_eq!(put, capacity, "time {again}");
                assert!(to.send() && from.waiting() == capacity);
                assert_eq!(taken(&mut from, 3).len(), capacity.min(3));
                let put = (0..200).take_while(|&n| to.put(n, Errand::Own(Steer::Plain)).is_ok()).count();
                assert_eq!(put, capacity.min(3), "time {again}");
                assert!(to.send());
                assert_eq!(taken(&mut from, 200).len(), capacity);
            }
        }
    }

    #[test]
    fn nothing_is_there_before_it_is_sent() {
        let (mut to, mut from) = pair(64);
        to.put(7, FOUND).unwrap();
        assert_eq!(from.waiting(), 0);
        assert!(to.send());
        assert_eq!(taken(&mut from, 9), [(7, FOUND)]);
    }
}
