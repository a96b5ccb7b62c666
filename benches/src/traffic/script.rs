//! Packets of given clients, over and over in their order: both directions in equal parts, of one real server, so that nobody need
//! learn which one a client got.

use std::sync::Arc;

use lb_core::ids::PortId;

use super::director::server;
use super::established::shuffle;
use super::recipe::{ACK, Recipe, Transport, client, templates};
use super::{LEN, WAN};

#[derive(Clone)]
pub(crate) struct Script {
    clients: Arc<[u32]>,
    at: [usize; 2],
    templates: [[u8; LEN]; 2],
}

impl Script {
    /// UDP packets of these clients, at least one.
    pub(crate) fn new(clients: Arc<[u32]>) -> Script {
        Script { clients, at: [0; 2], templates: templates(Transport::Udp) }
    }

    /// Begins again with the first client.
    pub(crate) fn rewind(&mut self) {
        self.at = [0; 2];
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Writes the next packet that comes by a port.
    #[inline]
    pub(crate) fn write(&mut self, port: PortId, frame: &mut [u8; LEN]) {
        let at = &mut self.at[port.index()];
        let n = self.clients[*at];
        *at += 1;
        let recipe = match port == WAN {
            true => Recipe::request(Transport::Udp, n),
            false => Recipe::reply(Transport::Udp, (server(0).into(), 8080), client(n)),
        };
        recipe.write(&self.templates[port.index()], Transport::Udp, ACK, frame);
        if *at == self.clients.len() {
            *at = 0;
        }
    }
}

/// The numbers below `count` in random order.
pub(crate) fn shuffled(count: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..count).collect();
    shuffle(&mut all, 1);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::LAN;

    #[test]
    fn each_client_sends_and_is_answered_in_its_turn() {
        let mut script = Script::new([7, 60_000].into());
        let ports = |script: &mut Script, port: PortId, at: usize| {
            let mut frame = [0; LEN];
            script.write(port, &mut frame);
            u16::from_be_bytes([frame[at], frame[at + 1]])
        };
        assert_eq!([0; 3].map(|_| ports(&mut script, WAN, 34)), [1031, 11_024, 1031]);
        assert_eq!([0; 3].map(|_| ports(&mut script, LAN, 36)), [1031, 11_024, 1031]);
        script.rewind();
        assert_eq!((ports(&mut script, WAN, 34), script.clients()), (1031, 2));
    }
}
