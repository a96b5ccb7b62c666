//! Whose an endpoint's connections are: the one rule that all workers, and whoever gives them connections, go by.
//!
//! Where ports spread packets by the client's end alone it is [their rule](crate::rss), so that nothing is handed over. Else it is a hash of the
//! client's endpoint under a secret seed, and a local endpoint is the worker's that its port names: a port's bits, read backwards, are a number of
//! which each worker has an equal part.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::flow::Hasher;
use crate::ids::WorkerId;
use crate::rss::Rss;

#[derive(Clone, Debug)]
pub struct Owners {
    hasher: Hasher,
    workers: u16,
    rss: Option<Arc<Rss>>,
}

impl Owners {
    /// Of so many workers, whose tables all have this hasher.
    pub fn new(hasher: Hasher, workers: usize, rss: Option<Arc<Rss>>) -> Owners {
        Owners { hasher, workers: workers as u16, rss }
    }

    /// The worker that has the connections of an outside endpoint.
    #[inline]
    pub fn of(&self, outside: IpAddr, port: u16) -> WorkerId {
        match &self.rss {
            None => self.hashed(number(outside), port),
            Some(rss) => rss.owner(outside, port),
        }
    }

    /// The same, of an IPv4 address.
    #[inline(always)]
    pub(super) fn of_ipv4(&self, outside: u32, port: u16) -> WorkerId {
        match &self.rss {
            None => self.hashed(outside.into(), port),
            Some(rss) => rss.owner(Ipv4Addr::from(outside).into(), port),
        }
    }

    /// The worker that has the connections from a local endpoint: the one that answers to it come to.
    #[inline]
    pub fn of_local(&self, local: IpAddr, port: u16) -> WorkerId {
        match &self.rss {
            None => WorkerId(((u32::from(port.reverse_bits()) * u32::from(self.workers)) >> 16) as u16),
            Some(rss) => rss.owner(local, port),
        }
    }

    /// One of the worker's ports at a local address, in the lower half of all if need be, as `random` will have it. `None`: look for another.
    pub(super) fn local_port(
        &self,
        worker: WorkerId,
        local: IpAddr,
        is_low: bool,
        random: u32,
    ) -> Option<u16> {
        if let Some(rss) = &self.rss {
            let near = (random >> 16) as u16 >> u32::from(is_low);
            return Some(rss.port_of(worker, local, near, random as u16));
        }
        let begin = |worker: u32| (worker << 16).div_ceil(u32::from(self.workers));
        let (first, end) = (begin(worker.0.into()), begin(u32::from(worker.0) + 1));
        let mut reversed = first + ((u64::from(random) * u64::from(end - first)) >> 32) as u32;
        if is_low {
            reversed &= !1;
        }
        (reversed >= first).then(|| (reversed as u16).reverse_bits())
    }

    /// The worker that such a number falls to.
    #[inline]
    pub(super) fn hashed(&self, number: u128, port: u16) -> WorkerId {
        WorkerId(self.hasher.owner(number, port, self.workers))
    }
}

pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}
