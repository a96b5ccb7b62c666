//! Connections of one packet, each ended by its timeout, at a rate that keeps the number of live ones the same.

use lb_core::ids::PortId;
use lb_core::path::{BURST, FlowView};
use lb_core::time::Tick;

use super::recipe::{Recipe, SYN, Transport, templates};
use super::{Counted, LEN, Traffic, WAN};

/// What IPVS gives a UDP connection.
const TIMEOUT: u64 = 300 * Tick::PER_SECOND as u64;

pub struct Fresh {
    alive: u32,
    begun: u64,
    template: [u8; LEN],
}

impl Fresh {
    /// `alive` connections at a time.
    pub fn new(alive: u32) -> Fresh {
        Fresh { alive, begun: 0, template: templates(Transport::Udp)[WAN.index()] }
    }
}

impl Traffic for Fresh {
    fn count(&mut self, port: PortId) -> usize {
        if port == WAN { BURST } else { 0 }
    }

    #[inline]
    fn write(&mut self, _: PortId, frame: &mut [u8; LEN]) {
        // A client comes again long after its connection has ended.
        let recipe = Recipe::request(Transport::Udp, (self.begun % 100_000_000) as u32);
        self.begun += 1;
        recipe.write(&self.template, Transport::Udp, SYN, frame);
    }

    fn now(&self) -> Tick {
        Tick((self.begun * TIMEOUT / u64::from(self.alive)) as u32)
    }

    fn is_open(&self) -> bool {
        true
    }

    fn learn(&mut self, _: FlowView) {}

    /// Until connections end as fast as they begin; a fifth more, as the timer wheel is not exact.
    fn warm_up(&self) -> u64 {
        u64::from(self.alive) * 6 / 5
    }

    fn check(&self, counted: &Counted) -> Result<(), String> {
        counted.is_turnover(1)
    }
}
