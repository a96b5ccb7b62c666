//! Ports in memory, for tests and simulation: two bounded queues each, of [`Frame`]s.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use lb_core::ids::PortId;
use lb_core::packet::Frame;
use lb_core::path::{BURST, Burst};

use crate::device::{Backend, Device, Pool};

/// The backend of which the ports are in memory.
pub struct InMemory;

impl Backend for InMemory {
    type Packet = Frame;
    type Device = MemoryPort;
    type Pool = HeapFrames;

    fn enter_thread() -> Result<(), String> {
        Ok(())
    }

    fn leave_thread() {}
}

/// The worker's end of a port.
pub struct MemoryPort {
    wire: Wire,
}

/// The other end: what is put in is received, what was sent is taken out.
#[derive(Clone)]
pub struct Wire {
    to_worker: Arc<ArrayQueue<Frame>>,
    from_worker: Arc<ArrayQueue<Frame>>,
}

/// Makes a port whose queues hold `capacity` frames each way.
pub fn memory_port(capacity: usize) -> (MemoryPort, Wire) {
    let wire = Wire {
        to_worker: Arc::new(ArrayQueue::new(capacity)),
        from_worker: Arc::new(ArrayQueue::new(capacity)),
    };
    (MemoryPort { wire: wire.clone() }, wire)
}

impl Wire {
    /// Sends a frame to the worker.
    ///
    /// # Errors
    /// Gives the frame back when the queue is full.
    pub fn put(&self, frame: Frame) -> Result<(), Frame> {
        self.to_worker.push(frame)
    }

    /// Frames that the worker has not taken yet, and frames that it sent and nobody took yet.
    pub fn waiting(&self) -> (usize, usize) {
        (self.to_worker.len(), self.from_worker.len())
    }

    /// Takes the next frame that the worker sent.
    pub fn take(&self) -> Option<Frame> {
        self.from_worker.pop()
    }
}

impl Device<Frame> for MemoryPort {
    fn receive(&mut self, burst: &mut Burst<Frame>) {
        while burst.len() < BURST
            && let Some(frame) = self.wire.to_worker.pop()
        {
            burst.push(frame);
        }
    }

    fn transmit(&mut self, burst: &mut Burst<Frame>) {
        let room = self.wire.from_worker.capacity() - self.wire.from_worker.len();
        for frame in burst.drain(..room.min(burst.len())) {
            // Only this end puts frames in, so there is still room.
            let _ = self.wire.from_worker.push(frame);
        }
    }
}

/// Frames from the heap.
pub struct HeapFrames;

impl Pool<Frame> for HeapFrames {
    fn allocate(&mut self) -> Option<Frame> {
        Some(Frame::new(PortId::NONE, &[]))
    }
}

#[cfg(test)]
mod tests {
    use lb_core::packet::Packet;

    use super::*;

    #[test]
    fn a_full_port_leaves_what_it_cannot_send_in_the_burst() {
        let (mut port, wire) = memory_port(2);
        let mut burst: Burst<Frame> = (0..3u8).map(|n| Frame::new(PortId(0), &[n])).collect();
        port.transmit(&mut burst);
        assert_eq!(burst.iter().map(|f| f.data()[0]).collect::<Vec<_>>(), [2]);
        assert_eq!(wire.take().unwrap().data(), [0]);
        assert_eq!(wire.take().unwrap().data(), [1]);
        assert_eq!(wire.take(), None);
    }
}
