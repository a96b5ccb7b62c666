//! Packets of connections that are open: random order, both directions in equal parts, or the clients' alone where real servers
//! answer by another way.

use std::net::IpAddr;
use std::sync::Arc;

use lb_core::ids::PortId;
use lb_core::path::{BURST, FlowView};
use lb_core::rule::Rules;
use lb_core::tables::Forward;
use lb_core::time::Tick;

use super::recipe::{ACK, Recipe, SYN, Transport, templates};
use super::{Counted, LEN, Traffic, WAN, ruleset};

pub struct Established {
    transport: Transport,
    forward: Forward,
    /// Of no virtual service: a rule exchanges their source.
    is_snat: bool,
    flows: u32,
    opened: u32,
    templates: [[u8; LEN]; 2],
    /// By port, in the order in which they are sent again and again.
    recipes: [Vec<Recipe>; 2],
    at: [usize; 2],
    has_begun: bool,
}

impl Established {
    pub fn new(transport: Transport, forward: Forward, flows: u32) -> Established {
        Established {
            transport,
            forward,
            is_snat: false,
            flows,
            opened: 0,
            templates: templates(transport),
            recipes: [Vec::new(), Vec::new()],
            at: [0; 2],
            has_begun: false,
        }
    }

    pub fn snat(flows: u32) -> Established {
        Established { is_snat: true, ..Established::new(Transport::Udp, Forward::Masq, flows) }
    }

    fn request(&self, n: u32) -> Recipe {
        match self.is_snat {
            true => Recipe::past_the_service(self.transport, n),
            false => Recipe::request(self.transport, n),
        }
    }
}

impl Traffic for Established {
    fn count(&mut self, port: PortId) -> usize {
        if self.has_begun && (port == WAN || !self.forward.method().is_one_way()) {
            BURST
        } else if port == WAN && !self.has_begun {
            BURST.min((self.flows - self.opened) as usize)
        } else {
            0
        }
    }

    #[inline]
    fn write(&mut self, port: PortId, frame: &mut [u8; LEN]) {
        let (way, transport) = (port.index(), self.transport);
        if !self.has_begun {
            let recipe = self.request(self.opened);
            self.opened += 1;
            return recipe.write(&self.templates[way], transport, SYN, frame);
        }
        let (recipes, at) = (&self.recipes[way], &mut self.at[way]);
        let recipe = &recipes[*at];
        *at += 1;
        if *at == recipes.len() {
            *at = 0;
        }
        recipe.write(&self.templates[way], transport, ACK, frame);
    }

    fn forward(&self) -> Forward {
        self.forward
    }

    /// Those that are open are no longer young: tracked as streams.
    fn now(&self) -> Tick {
        Tick(if self.has_begun { 3 * Tick::PER_SECOND } else { 0 })
    }

    fn rules(&self, count: u32) -> Arc<Rules> {
        let rules = ruleset::rules(count);
        Arc::new(if self.is_snat { ruleset::with_snat(&rules, count) } else { rules })
    }

    fn is_open(&self) -> bool {
        self.opened == self.flows
    }

    fn learn(&mut self, flow: FlowView) {
        // Whom the real server answers.
        let (answered, port) = flow.local.unwrap_or(flow.client);
        let (IpAddr::V4(answered), IpAddr::V4(server)) = (answered, flow.server.0) else { return };
        let n = self.recipes[0].len() as u32;
        self.recipes[0].push(self.request(n));
        self.recipes[1].push(Recipe::reply(
            self.transport,
            (server.into(), flow.server.1),
            (answered.into(), port),
        ));
    }

    fn begin(&mut self) {
        for (recipes, seed) in self.recipes.iter_mut().zip([1, 2]) {
            assert_eq!(recipes.len(), self.flows as usize, "every connection was opened");
            shuffle(recipes, seed);
        }
        self.has_begun = true;
    }

    /// Each connection twice in each direction, which establishes those of TCP, and has rules let by both directions for good; and a while for
    /// small numbers.
    fn warm_up(&self) -> u64 {
        u64::from(4 * self.flows.next_multiple_of(BURST as u32)).max(200_000)
    }

    fn check(&self, counted: &Counted) -> Result<(), String> {
        if counted.missed + counted.dropped + counted.expired > 0 || !counted.is_all_sent() {
            return Err(format!("packets of open connections alone were to go through, but: {counted:?}"));
        }
        Ok(())
    }
}

/// Fisher–Yates.
pub(super) fn shuffle<T>(list: &mut [T], seed: u64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
    for i in (1..list.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        list.swap(i, (state % (i as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_loses_none() {
        let mut list: Vec<Recipe> = (0..100).map(|n| Recipe::request(Transport::Udp, n)).collect();
        let ordered = list.clone();
        shuffle(&mut list, 1);
        assert_ne!(list, ordered);
        assert!(ordered.iter().all(|recipe| list.contains(recipe)));
    }
}
