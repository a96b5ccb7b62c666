//! Whole lives of TCP connections: handshake, data, both FINs, TIME_WAIT and its timeout.
//!
//! Many are under way at a time: a stage of a life comes up to [`DEPTH`] bursts of other connections after the one before it, so
//! that nothing of a connection is in the nearest caches by chance.

use std::net::IpAddr;

use lb_core::ids::PortId;
use lb_core::path::{BURST, FlowView};
use lb_core::time::Tick;

use super::director::SERVERS;
use super::recipe::{ACK, FIN, Recipe, SYN, Transport, client, templates};
use super::{Counted, LEN, Traffic, WAN};

/// What the clients send, and the servers, in turn: the server closes first, as with HTTP/1.0.
const STAGES: [[u8; 4]; 2] = [[SYN, ACK, ACK, FIN | ACK], [SYN | ACK, ACK, FIN | ACK, ACK]];
/// Packets of one life.
pub const PACKETS_A_LIFE: u64 = 8;
/// Bursts of the same stage between two stages of one connection, at most.
const DEPTH: u64 = 256;
/// What IPVS gives a connection in TIME_WAIT.
const TIMEOUT: u64 = 120 * Tick::PER_SECOND as u64;

/// Connections by which the order of the servers is found out.
const PROBES: u32 = SERVERS;

pub struct Lives {
    alive: u32,
    depth: u64,
    templates: [[u8; LEN]; 2],
    probes: u32,
    has_begun: bool,
    /// Address and port of the server of each connection, by its number modulo their number.
    order: Vec<(u32, u16)>,
    /// Turns taken, by port.
    turns: [u64; 2],
    /// The next packet: of which connection, with which flags.
    next: u32,
    flags: u8,
    begun: u64,
}

impl Lives {
    /// About `alive` connections at a time.
    pub fn new(alive: u32) -> Lives {
        Lives {
            alive,
            // So few that what is under way is a small part of what is alive, most of which is in TIME_WAIT.
            depth: (u64::from(alive) / (64 * BURST as u64)).clamp(1, DEPTH),
            templates: templates(Transport::Tcp),
            probes: 0,
            has_begun: false,
            order: vec![(0, 0); PROBES as usize],
            turns: [0; 2],
            next: 0,
            flags: 0,
            begun: 0,
        }
    }
}

impl Traffic for Lives {
    fn count(&mut self, port: PortId) -> usize {
        if !self.has_begun {
            self.next = self.probes;
            self.flags = SYN;
            return if port == WAN { (PROBES - self.probes) as usize } else { 0 };
        }
        let way = port.index();
        let (round, stage) = (self.turns[way] / 4, self.turns[way] % 4);
        self.turns[way] += 1;
        let Some(wave) = round.checked_sub(self.depth * (2 * stage + way as u64)) else { return 0 };
        if port == WAN && stage == 0 {
            self.begun += BURST as u64;
        }
        self.flags = STAGES[way][stage as usize];
        self.next = PROBES + (wave * BURST as u64 % 100_000_000) as u32;
        BURST
    }

    #[inline]
    fn write(&mut self, port: PortId, frame: &mut [u8; LEN]) {
        let n = self.next;
        self.next += 1;
        let recipe = if port == WAN {
            self.probes += u32::from(!self.has_begun);
            Recipe::request(Transport::Tcp, n)
        } else {
            Recipe::reply(Transport::Tcp, self.order[(n % PROBES) as usize], client(n))
        };
        recipe.write(&self.templates[port.index()], Transport::Tcp, self.flags, frame);
    }

    fn now(&self) -> Tick {
        Tick((self.begun * TIMEOUT / u64::from(self.alive)) as u32)
    }

    fn is_open(&self) -> bool {
        self.probes == PROBES
    }

    fn learn(&mut self, flow: FlowView) {
        let IpAddr::V4(server) = flow.server.0 else { return };
        let probe = (0..PROBES).find(|&n| client(n).1 == flow.client.1).expect("a connection of ours");
        self.order[probe as usize] = (server.into(), flow.server.1);
    }

    fn begin(&mut self) {
        self.has_begun = true;
    }

    fn warm_up(&self) -> u64 {
        (u64::from(self.alive) * 6 / 5 + 8 * self.depth * BURST as u64) * PACKETS_A_LIFE
    }

    fn check(&self, counted: &Counted) -> Result<(), String> {
        counted.is_turnover(PACKETS_A_LIFE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::LAN;

    #[test]
    fn each_connection_lives_its_stages_in_order() {
        let mut lives = Lives::new(20_000);
        lives.probes = PROBES;
        lives.begin();
        let mut seen = Vec::new();
        for _ in 0..4 * 8 * lives.depth {
            for port in [WAN, LAN] {
                let count = lives.count(port);
                let wanted = PROBES + 5;
                if (lives.next..lives.next + count as u32).contains(&wanted) {
                    seen.push((port, lives.flags));
                }
            }
        }
        let wanted: Vec<_> =
            (0..4).flat_map(|stage| [(WAN, STAGES[0][stage]), (LAN, STAGES[1][stage])]).collect();
        assert_eq!(seen, wanted);
    }
}
