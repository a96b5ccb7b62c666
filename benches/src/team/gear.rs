//! The backend: ports that give frames as they are ordered, and take them back.

use std::sync::Arc;

use lb_core::ids::PortId;
use lb_core::path::{BURST, Burst};
use lb_dataplane::{Backend, Device, Pool};

use super::Orders;
use crate::frame::BenchFrame;

/// Frames that a port keeps at most.
const FREE: usize = 4096;

pub(super) struct Gear;

impl Backend for Gear {
    type Packet = BenchFrame;
    type Device = Line;
    type Pool = NoFrames;

    fn enter_thread() -> Result<(), String> {
        Ok(())
    }

    fn leave_thread() {}
}

/// A port of one worker: a stock of frames.
pub(super) struct Line {
    port: PortId,
    orders: Arc<Orders>,
    free: Vec<BenchFrame>,
}

impl Line {
    pub(super) fn new(port: PortId, orders: Arc<Orders>) -> Line {
        // As many as rings between workers may keep are in stock, so that none is made anew on the way.
        let mut free = Vec::with_capacity(FREE + BURST);
        free.extend((0..FREE / 2).map(|_| BenchFrame::new()));
        Line { port, orders, free }
    }
}

impl Device<BenchFrame> for Line {
    #[inline]
    fn receive(&mut self, burst: &mut Burst<BenchFrame>) {
        if !self.orders.is_given(self.port) {
            return;
        }
        for _ in 0..BURST {
            let mut frame = self.free.pop().unwrap_or_else(BenchFrame::new);
            frame.reset(self.port);
            burst.push(frame);
        }
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<BenchFrame>) {
        self.free.extend(burst.drain(..));
        self.free.truncate(FREE);
    }
}

pub(super) struct NoFrames;

impl Pool<BenchFrame> for NoFrames {
    fn allocate(&mut self) -> Option<BenchFrame> {
        None
    }
}
