//! The backend: ports that give frames as they are ordered, and take them back.

use std::sync::Arc;

use lb_core::ids::PortId;
use lb_core::path::Burst;
use lb_dataplane::{Backend, Device, Pool};

use super::Orders;
use crate::frame::BenchFrame;

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

/// A port of one worker.
pub(super) struct Line {
    port: PortId,
    orders: Arc<Orders>,
}

impl Line {
    pub(super) fn new(port: PortId, orders: Arc<Orders>) -> Line {
        Line { port, orders }
    }
}

impl Device<BenchFrame> for Line {
    #[inline]
    fn receive(&mut self, burst: &mut Burst<BenchFrame>) {
        if self.orders.is_given(self.port) {
            BenchFrame::fill(burst, self.port);
        }
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<BenchFrame>) {
        BenchFrame::take_back(burst.drain(..));
    }
}

pub(super) struct NoFrames;

impl Pool<BenchFrame> for NoFrames {
    fn allocate(&mut self) -> Option<BenchFrame> {
        None
    }
}
