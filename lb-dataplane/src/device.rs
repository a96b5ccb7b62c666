//! What a worker needs around it: ports, packet buffers. DPDK is one such backend, memory another.

use std::os::fd::BorrowedFd;

use lb_core::packet::Packet;
use lb_core::path::Burst;

/// One receive and one transmit queue of a port, both the worker's own.
pub trait Device<P> {
    /// Adds what came in to `burst`, which is empty, without waiting.
    fn receive(&mut self, burst: &mut Burst<P>);

    /// Takes packets from `burst` in their order; what is left in it found no room, or is nothing that the device sends.
    fn transmit(&mut self, burst: &mut Burst<P>);

    /// The receive interrupt: a file that becomes readable, again each time, when a packet comes to the queue while it is [armed](Device::arm).
    /// `None`: it has none.
    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Has packets that come from now on raise the interrupt. For those that are there already nobody calls.
    fn arm(&mut self) {}

    /// Has them raise it no more.
    fn disarm(&mut self) {}
}

/// Where new packet buffers come from.
pub trait Pool<P> {
    /// A new, empty buffer; `None` when all are in use.
    fn allocate(&mut self) -> Option<P>;
}

/// A family of devices and the packets that go through them.
pub trait Backend: 'static {
    type Packet: Packet + Send + 'static;
    type Device: Device<Self::Packet> + Send + 'static;
    type Pool: Pool<Self::Packet> + Send + 'static;

    /// Called first on each worker's thread, already on its CPU.
    ///
    /// # Errors
    /// One line with the reason.
    fn enter_thread() -> Result<(), String>;

    /// Called last on a thread that entered, when it holds no packet any more.
    fn leave_thread();
}
