//! First packets of clients that are made up: none comes twice, and none goes on.

use super::LEN;
use super::recipe::{Recipe, SYN, Transport, template};

pub struct Flood {
    transport: Transport,
    next: u32,
    template: [u8; LEN],
}

impl Flood {
    /// From the `first` client on.
    pub fn new(transport: Transport, first: u32) -> Flood {
        Flood { transport, next: first, template: template(transport) }
    }

    /// Writes the next one.
    #[inline]
    pub fn write(&mut self, frame: &mut [u8; LEN]) {
        Recipe::request(self.transport, self.next).write(&self.template, self.transport, SYN, frame);
        self.next = self.next.wrapping_add(1);
    }
}
