//! Nothing waits in a ring while who takes it sleeps: a twin's pump, a worker.

use std::sync::Arc;

use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{AcqRel, Acquire};
use loom::thread;

use super::check_with;
use crate::rtrb::RingBuffer;

pub(crate) mod source {
    include!(concat!(env!("OUT_DIR"), "/bell.rs"));
}
use source::Bell;

/// Stands for the eventfd.
#[derive(Default)]
pub(crate) struct Event {
    is_rung: AtomicBool,
}

impl Event {
    fn write(&self, _: &[u8]) -> std::io::Result<usize> {
        self.is_rung.swap(true, AcqRel);
        Ok(8)
    }

    fn read(&self, _: &mut [u8]) -> std::io::Result<usize> {
        self.is_rung.swap(false, AcqRel);
        Ok(8)
    }

    /// Without the limit of time that the pump has: with a bell that is not heard it never ends, which loom reports.
    fn wait(&self) {
        while !self.is_rung.load(Acquire) {
            thread::yield_now();
        }
    }
}

#[test]
fn a_pump_that_goes_to_sleep_hears_of_every_frame() {
    check_with(4, || {
        let bell = Arc::new(Bell::new(Event::default()));
        let (mut up, mut frames) = RingBuffer::new(2);
        let pumps = bell.clone();
        let pump = thread::spawn(move || {
            let mut carried = 0;
            while carried < 2 {
                match frames.pop() {
                    Ok(frame) => {
                        assert_eq!(frame, carried);
                        carried += 1;
                    }
                    Err(_) => {
                        pumps.sleep(|| !frames.is_empty(), Event::wait);
                    }
                }
            }
        });
        for frame in 0..2 {
            up.push(frame).unwrap();
            bell.ring();
        }
        pump.join().unwrap();
    });
}

#[test]
fn a_worker_that_goes_to_sleep_hears_of_each_that_puts_something_down_for_it() {
    check_with(3, || {
        let bell = Arc::new(Bell::new(Event::default()));
        let (mut from_one, mut to_one) = RingBuffer::new(1);
        let (mut from_other, mut to_other) = RingBuffer::new(1);
        let (ones, others) = (bell.clone(), bell.clone());
        let threads = [
            thread::spawn(move || {
                from_one.push(1).unwrap();
                ones.ring();
            }),
            thread::spawn(move || {
                from_other.push(2).unwrap();
                others.ring();
            }),
        ];
        let mut got = 0;
        while got < 3 {
            let before = got;
            got += to_one.pop().unwrap_or(0) + to_other.pop().unwrap_or(0);
            if got == before {
                bell.sleep(|| !(to_one.is_empty() && to_other.is_empty()), Event::wait);
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
