//! A port's Linux twin: frames for this host go up to the kernel, frames from this host come down.
//!
//! A thread for each port, the pump, carries frames between the TAP device and two bounded rings of the worker that
//! serves the twin, so that the worker makes no system call for a frame.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use lb_core::counters::Counter;
use lb_core::packet::Packet;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::bell::Bell;
use crate::device::Pool;
use crate::tap;

/// Frames that wait each way.
pub(crate) const TWIN_RING: usize = 512;
/// Frames moved one way before the other way has its turn.
const ROUND: usize = 64;
/// The pump looks at least so often whether it is to end.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// The pump's pause when the worker does not take what the host sends.
const FULL_PAUSE: Duration = Duration::from_micros(100);

/// What the pump counts.
#[derive(Debug, Default)]
pub(crate) struct TwinCounters {
    /// Frames that the kernel took.
    pub given: Counter,
    /// Refused by the kernel: the twin is down, for example.
    pub refused: Counter,
    /// Left in the kernel's queue for a while because no packet buffer was free.
    pub no_buffer: Counter,
    /// From the kernel, dropped: longer than the port sends. The twin's MTU was raised above the port's.
    pub too_long: Counter,
}

/// What a twin did not carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TwinTroubles {
    /// Frames that the kernel refused: the twin is down, for example.
    pub refused: u64,
    /// How often frames from the kernel had to wait because no packet buffer was free.
    pub no_buffer: u64,
    /// Frames from the kernel that were dropped, as they are longer than the port sends.
    pub too_long: u64,
}

/// The bell of the worker that serves a twin, when it is one that sleeps.
type WorkersBell = Arc<OnceLock<Arc<Bell>>>;

/// Wakes the worker to what came down.
fn wake(worker: &WorkersBell) {
    if let Some(bell) = worker.get() {
        bell.ring();
    }
}

/// The worker's end.
pub struct TwinEnd<P> {
    pub(crate) up: Producer<P>,
    pub(crate) down: Consumer<P>,
    /// None of a twin in memory, where nobody sleeps.
    bell: Option<Arc<Bell>>,
    has_rung: bool,
    counters: Arc<TwinCounters>,
    worker: WorkersBell,
}

/// The host's end of a twin in memory.
pub struct Host<P> {
    up: Consumer<P>,
    down: Producer<P>,
    counters: Arc<TwinCounters>,
    worker: WorkersBell,
}

/// Makes a twin whose ways hold `capacity` frames each, for tests and simulation: no kernel, no thread.
pub fn memory_twin<P>(capacity: usize) -> (TwinEnd<P>, Host<P>) {
    let (up, up_end) = RingBuffer::new(capacity);
    let (down_end, down) = RingBuffer::new(capacity);
    let counters = Arc::new(TwinCounters::default());
    let worker = WorkersBell::default();
    let end =
        TwinEnd { up, down, bell: None, has_rung: true, counters: counters.clone(), worker: worker.clone() };
    (end, Host { up: up_end, down: down_end, counters, worker })
}

impl<P> Host<P> {
    /// Takes the next frame that the worker sent up.
    pub fn take(&mut self) -> Option<P> {
        let packet = self.up.pop().ok()?;
        self.counters.given.add(1);
        Some(packet)
    }

    /// Frames on their way up.
    pub fn waiting(&self) -> usize {
        self.up.slots()
    }

    /// Sends a frame down.
    ///
    /// # Errors
    /// Gives the frame back when the way down is full.
    pub fn put(&mut self, packet: P) -> Result<(), P> {
        self.down.push(packet).map_err(|rtrb::PushError::Full(packet)| packet)?;
        wake(&self.worker);
        Ok(())
    }
}

impl<P> TwinEnd<P> {
    /// Has what comes down wake the worker that has this end.
    pub(crate) fn wake_by(&self, bell: Arc<Bell>) {
        let is_first = self.worker.set(bell).is_ok();
        debug_assert!(is_first, "an end has one worker");
    }

    /// Puts a frame into the way up.
    #[inline]
    pub(crate) fn push(&mut self, packet: P) -> Result<(), P> {
        self.has_rung = false;
        self.up.push(packet).map_err(|rtrb::PushError::Full(packet)| packet)
    }

    /// How many frames the kernel has taken.
    #[inline]
    pub(crate) fn given(&self) -> u64 {
        self.counters.given.get()
    }

    /// Wakes the pump when it sleeps and frames were pushed. One call a turn.
    #[inline]
    pub(crate) fn flush(&mut self) {
        if !self.has_rung {
            self.has_rung = true;
            if let Some(bell) = &self.bell {
                bell.ring();
            }
        }
    }
}

/// The thread of one twin. Ends when dropped, and the file (so the TAP device) with it; ends by itself when the TAP device
/// was deleted, after which what goes up fills the ring and is dropped there.
pub(crate) struct Pump {
    stop: Arc<AtomicBool>,
    is_gone: Arc<AtomicBool>,
    bell: Arc<Bell>,
    counters: Arc<TwinCounters>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Starts the pump of the twin `name` on `file`, which never waits, for frames of up to `longest` bytes.
    pub(crate) fn start<P: Packet + Send + 'static>(
        name: &str,
        file: File,
        pool: impl Pool<P> + Send + 'static,
        longest: usize,
    ) -> io::Result<(Pump, TwinEnd<P>)> {
        let bell = Arc::new(Bell::new(tap::event()?));
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(TwinCounters::default());
        let (up, up_end) = RingBuffer::new(TWIN_RING);
        let (down_end, down) = RingBuffer::new(TWIN_RING);
        let worker = WorkersBell::default();
        let carrier = Carrier {
            file,
            up: up_end,
            down: down_end,
            pool,
            longest,
            spare: None,
            bell: bell.clone(),
            counters: counters.clone(),
            worker: worker.clone(),
        };
        let is_gone = Arc::new(AtomicBool::new(false));
        let (stopped, gone) = (stop.clone(), is_gone.clone());
        let thread = std::thread::Builder::new()
            .name(format!("twin {name}"))
            .spawn(move || gone.store(carrier.run(&stopped) == Ending::Gone, Ordering::Relaxed))?;
        let end = TwinEnd {
            up,
            down,
            bell: Some(bell.clone()),
            has_rung: true,
            counters: counters.clone(),
            worker,
        };
        Ok((Pump { stop, is_gone, bell, counters, thread: Some(thread) }, end))
    }

    /// Whether somebody deleted the TAP device: the twin carries nothing any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    pub(crate) fn troubles(&self) -> TwinTroubles {
        let TwinCounters { refused, no_buffer, too_long, .. } = &*self.counters;
        TwinTroubles { refused: refused.get(), no_buffer: no_buffer.get(), too_long: too_long.get() }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.bell.wake();
        if let Some(thread) = self.thread.take() {
            // A pump that panicked has already said so.
            let _ = thread.join();
        }
    }
}

/// What a pump's thread holds.
struct Carrier<P, A> {
    file: File,
    up: Consumer<P>,
    down: Producer<P>,
    pool: A,
    longest: usize,
    /// A buffer for the next frame from the host.
    spare: Option<P>,
    bell: Arc<Bell>,
    counters: Arc<TwinCounters>,
    worker: WorkersBell,
}

/// How carrying frames down ended.
#[derive(PartialEq, Eq)]
enum Down {
    /// The host has sent no more.
    Empty,
    /// There is more: the round was over.
    More,
    /// The ring is full, or no buffer is free.
    Stuck,
    /// The file cannot be read and never will be.
    Gone,
}

/// Why a pump ended.
#[derive(PartialEq, Eq)]
enum Ending {
    Stopped,
    /// The TAP device was deleted.
    Gone,
}

impl<P: Packet, A: Pool<P>> Carrier<P, A> {
    fn run(mut self, stop: &AtomicBool) -> Ending {
        while !stop.load(Ordering::Relaxed) {
            let went_up = self.carry_up();
            match self.carry_down() {
                Down::More => {}
                Down::Stuck => std::thread::sleep(FULL_PAUSE),
                Down::Empty if went_up => {}
                Down::Empty => {
                    if self.sleep() {
                        return Ending::Gone;
                    }
                }
                Down::Gone => return Ending::Gone,
            }
        }
        Ending::Stopped
    }

    /// Returns whether the file is one that nothing comes from any more.
    fn sleep(&mut self) -> bool {
        let Carrier { up, file, bell, .. } = self;
        let wait = |event: &File| tap::wait_readable([file.as_fd(), event.as_fd()], LONGEST_SLEEP);
        bell.sleep(|| !up.is_empty(), wait).unwrap_or(false)
    }

    /// Returns whether there were any.
    fn carry_up(&mut self) -> bool {
        for moved in 0..ROUND {
            let Ok(packet) = self.up.pop() else { return moved > 0 };
            let frame = packet.data();
            // Buffers hold a whole frame, so a chained one is longer than the port's MTU.
            let is_given = frame.len() == packet.frame_len() && (&self.file).write(frame).is_ok();
            let counter = if is_given { &self.counters.given } else { &self.counters.refused };
            counter.add(1);
        }
        true
    }

    fn carry_down(&mut self) -> Down {
        for _ in 0..ROUND {
            if self.down.is_full() {
                return Down::Stuck;
            }
            let Some(mut packet) = self.spare.take().or_else(|| self.pool.allocate()) else {
                self.counters.no_buffer.add(1);
                return Down::Stuck;
            };
            // A byte more than is carried, as the kernel cuts what does not fit and does not say so.
            if packet.set_len(self.longest + 1).is_err() {
                self.counters.no_buffer.add(1);
                return Down::Stuck;
            }
            match (&self.file).read(packet.data_mut()) {
                Ok(len) if len > self.longest => {
                    self.counters.too_long.add(1);
                    self.spare = Some(packet);
                }
                Ok(len) if len > 0 && packet.set_len(len).is_ok() => {
                    // Only this end pushes, and the ring was not full.
                    let _ = self.down.push(packet);
                    wake(&self.worker);
                }
                outcome => {
                    self.spare = Some(packet);
                    match outcome.map_err(|error| error.kind()) {
                        Err(io::ErrorKind::Interrupted) => {}
                        Ok(_) | Err(io::ErrorKind::WouldBlock) => return Down::Empty,
                        // EBADFD, of a TAP device that was deleted.
                        Err(_) => return Down::Gone,
                    }
                }
            }
        }
        Down::More
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;
    use std::time::Instant;

    use lb_core::ids::PortId;
    use lb_core::packet::Frame;

    use super::*;
    use crate::memory_port::HeapFrames;

    /// Waits for something that the pump does.
    fn until(mut is_done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_done() {
            assert!(Instant::now() < deadline, "it never came");
            std::thread::yield_now();
        }
    }

    fn start() -> (Pump, TwinEnd<Frame>, UnixDatagram) {
        let (host, file) = UnixDatagram::pair().unwrap();
        file.set_nonblocking(true).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (pump, end) = Pump::start("t", File::from(OwnedFd::from(file)), HeapFrames, 1600).unwrap();
        (pump, end, host)
    }

    fn next(end: &mut TwinEnd<Frame>) -> Frame {
        until(|| !end.down.is_empty());
        end.down.pop().unwrap()
    }

    #[test]
    fn frames_go_up_and_come_down_whole_also_when_the_pump_was_asleep() {
        let (_pump, mut end, host) = start();
        for n in 1..200usize {
            if n % 50 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            end.push(Frame::new(PortId(0), &vec![n as u8; n])).unwrap();
            end.flush();
            let mut bytes = [0; 2000];
            assert_eq!(host.recv(&mut bytes).unwrap(), n);
            until(|| end.given() == n as u64);
            assert!(bytes[..n].iter().all(|&b| b == n as u8));
            host.send(&vec![n as u8; n + 1]).unwrap();
            assert_eq!(next(&mut end).data(), vec![n as u8; n + 1]);
        }
    }

    #[test]
    fn a_twin_in_memory_carries_both_ways_and_counts_what_the_host_took() {
        let (mut end, mut host) = memory_twin(1);
        end.push(Frame::new(PortId(0), &[1])).unwrap();
        assert!(end.push(Frame::new(PortId(0), &[2])).is_err(), "full");
        end.flush();
        assert_eq!((host.waiting(), end.given()), (1, 0));
        assert_eq!(host.take().unwrap().data(), [1]);
        assert_eq!((host.waiting(), end.given()), (0, 1));
        host.put(Frame::new(PortId(0), &[3])).unwrap();
        assert_eq!(next(&mut end).data(), [3]);
    }

    #[test]
    fn frames_that_the_kernel_refuses_are_counted() {
        let (pump, mut end, host) = start();
        drop(host);
        end.push(Frame::new(PortId(0), &[1; 60])).unwrap();
        end.flush();
        until(|| pump.troubles().refused == 1);
        assert_eq!(end.given(), 0);
    }

    #[test]
    fn a_frame_too_long_for_the_port_is_dropped_and_counted_and_the_longest_one_passes() {
        let (pump, mut end, host) = start();
        for len in [1601, 1600, 9000] {
            host.send(&vec![7; len]).unwrap();
        }
        assert_eq!(next(&mut end).data(), [7; 1600]);
        until(|| pump.troubles().too_long == 2);
        assert!(end.down.is_empty());
    }

    #[test]
    fn a_pump_ends_and_says_so_when_its_device_is_gone() {
        let (_host, file) = UnixDatagram::pair().unwrap();
        file.set_nonblocking(true).unwrap();
        let device = file.try_clone().unwrap();
        let (pump, mut end) =
            Pump::start::<Frame>("t", File::from(OwnedFd::from(file)), HeapFrames, 1600).unwrap();
        assert!(!pump.is_gone());
        device.shutdown(std::net::Shutdown::Both).unwrap();
        until(|| pump.is_gone());
        for _ in 0..TWIN_RING {
            end.push(Frame::new(PortId(0), &[1; 60])).unwrap();
            end.flush();
        }
        assert!(end.push(Frame::new(PortId(0), &[1; 60])).is_err(), "full, so that the worker counts it");
    }

    #[test]
    fn a_pump_whose_worker_stands_still_ends_and_closes_its_file() {
        let (pump, end, host) = start();
        host.set_nonblocking(true).unwrap();
        while host.send(&[0; 100]).is_ok() {}
        drop(pump);
        assert!(end.down.slots() <= TWIN_RING);
        assert!(host.send(&[0; 100]).is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock));
    }
}
