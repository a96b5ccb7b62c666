//! A packet goes from worker to worker exactly once, in its order, also when the ring is full and when an end goes first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use lb_core::path::Steer;
use loom::thread;

use super::check;

mod source {
    include!(concat!(env!("OUT_DIR"), "/ring.rs"));
}
use source::{Errand, RingEnds, mesh};

/// A buffer that counts how often it was freed.
struct Packet {
    number: u32,
    freed: Arc<AtomicU32>,
    /// Written by the sender, read by the receiver: the ring must order the two.
    bytes: loom::cell::UnsafeCell<u32>,
}

impl Drop for Packet {
    fn drop(&mut self) {
        self.bytes.with_mut(|_| ());
        self.freed.fetch_add(1, Relaxed);
    }
}

/// Of every other packet there is something to be told.
fn errand(number: u32) -> Errand {
    Errand::Own(if number.is_multiple_of(2) { Steer::Plain } else { Steer::AskExpected })
}

fn ends() -> (RingEnds<Packet>, RingEnds<Packet>) {
    let mut ends = mesh::<Packet>(2, 2).into_iter();
    (ends.next().unwrap(), ends.next().unwrap())
}

/// Sends so many packets from worker 0, two at a time; returns how many found no room.
fn send(from: &mut RingEnds<Packet>, packets: u32, freed: &Arc<AtomicU32>) -> u32 {
    let ring = from.outgoing[1].as_mut().unwrap();
    let send = |number: u32| {
        let packet = Packet { number, freed: freed.clone(), bytes: loom::cell::UnsafeCell::new(0) };
        packet.bytes.with_mut(|bytes| {
            // SAFETY: nobody else has the packet yet; loom checks it.
            #[allow(unsafe_code)]
            unsafe {
                *bytes = number + 100;
            }
        });
        let is_put = ring.put(packet, errand(number)).is_ok();
        if number % 2 == 1 {
            assert!(ring.send());
        }
        is_put
    };
    (0..packets).map(send).filter(|is_sent| !is_sent).count() as u32
}

/// A worker's look at its ring, as in a turn; the packets' numbers.
fn receive(to: &mut RingEnds<Packet>, got: &mut Vec<u32>) {
    let ring = to.incoming[0].as_mut().unwrap();
    let waiting = ring.waiting();
    ring.take(waiting, |packet, found| {
        assert_eq!(found, errand(packet.number));
        packet.bytes.with(|bytes| {
            // SAFETY: the packet is ours now; loom checks it.
            #[allow(unsafe_code)]
            let bytes = unsafe { *bytes };
            assert_eq!(bytes, packet.number + 100);
        });
        got.push(packet.number);
    });
}

#[test]
fn each_packet_arrives_once_and_in_order_or_is_refused() {
    check(|| {
        let freed = Arc::new(AtomicU32::new(0));
        let (mut from, mut to) = ends();
        let count = freed.clone();
        let sender = thread::spawn(move || {
            let refused = send(&mut from, 4, &count);
            (from, refused)
        });
        let mut got = Vec::new();
        receive(&mut to, &mut got);
        receive(&mut to, &mut got);
        let (_from, refused) = sender.join().unwrap();
        receive(&mut to, &mut got);
        assert!(got.is_sorted_by(|a, b| a < b), "{got:?}");
        assert_eq!(got.len() as u32 + refused, 4);
        assert_eq!(freed.load(Relaxed), 4);
    });
}

#[test]
fn what_is_left_in_a_ring_is_freed_once_whoever_ends_first() {
    check(|| {
        let freed = Arc::new(AtomicU32::new(0));
        let (mut from, mut to) = ends();
        let count = freed.clone();
        let sender = thread::spawn(move || {
            send(&mut from, 2, &count);
        });
        let mut got = Vec::new();
        receive(&mut to, &mut got);
        drop(to);
        sender.join().unwrap();
        assert_eq!(freed.load(Relaxed), 2);
    });
}
