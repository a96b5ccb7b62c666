//! `cluster`: whether this node of a cluster without a load balancer in front is the one for a connection, by the address that it comes from. Nodes that
//! are kernels agree with us.
//!
//! Source of the facts: Linux, `net/netfilter/xt_cluster.c`.

use std::net::IpAddr;

use super::Match;
use crate::rule::jhash;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Cluster {
    nodes: u32,
    /// Which of them this one is, as bits.
    mask: u32,
    is_not: bool,
    seed: u32,
}

const MOST: u64 = 32;

impl Cluster {
    fn sign(&self, sign: &'static str) -> &'static str {
        if self.is_not { sign } else { "" }
    }

    fn node(&self, source: IpAddr) -> u32 {
        // As the kernel has it: of IPv6 the first word alone, and words as they lie in memory.
        let word = match source {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.octets();
                [a, b, c, d]
            }
        };
        jhash::below(jhash::of_words(&[u32::from_ne_bytes(word)], self.seed), self.nodes)
    }
}

impl Extension for Cluster {
    const NAME: &'static str = "cluster";
    const OPTIONS: &'static [Opt] = &[
        opt("cluster-total-nodes", 0).must(),
        opt("cluster-local-node", 1).negatable().not_with(1 << 2),
        opt("cluster-local-nodemask", 2).negatable().not_with(1 << 1),
        opt("cluster-hash-seed", 3).must(),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => self.nodes = given.number(1, MOST)? as u32,
            3 => self.seed = given.u32()?,
            1 => (self.mask, self.is_not) = (1 << (given.number(1, MOST)? - 1), given.is_negated),
            _ => {
                // iptables takes none above 32, and so not all that it saves.
                let most = if given.around.are_typed { MOST as u32 } else { u32::MAX };
                let mask = given.u32().ok().filter(|mask| (1..=most).contains(mask));
                self.mask = mask.ok_or_else(|| given.out_of_range(1, MOST))?;
                self.is_not = given.is_negated;
            }
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        let missing = "cluster match: `--cluster-local-node' or`--cluster-local-nodemask' is missing";
        let option = match seen >> 1 & 3 {
            0 => return Err(Error::parameter(missing)),
            1 => "`--cluster-local-node' must be <=",
            _ => "`--cluster-local-nodemask' too big for",
        };
        if seen & 1 != 0 && u64::from(self.mask) >= 1 << self.nodes {
            return Err(Error::parameter(format!("cluster match: {option} `--cluster-total-nodes'")));
        }
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(
            out,
            "{} --cluster-local-nodemask {:#010x} --cluster-total-nodes {} --cluster-hash-seed {:#010x}",
            self.sign(" !"),
            self.mask,
            self.nodes,
            self.seed
        );
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(
            out,
            " cluster {}node_mask={:#010x} total_nodes={} hash_seed={:#010x}",
            self.sign("!"),
            self.mask,
            self.nodes,
            self.seed
        );
    }
}

impl Match for Cluster {
    fn depends(&self) -> Depends {
        Depends::Flow
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        view.connection.is_some_and(|connection| {
            let node = self.node(connection.original.src);
            (1_u32.checked_shl(node).unwrap_or(0) & self.mask != 0) != self.is_not
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_the_node_that_it_has_in_a_cluster_of_kernels() {
        // Seen on Linux 6.18.
        for (source, of_one, of_another) in [
            ("192.0.2.1", [1, 2, 27], [1, 2, 27]),
            ("192.0.2.100", [1, 1, 18], [1, 2, 27]),
            ("10.0.0.11", [0, 0, 1], [1, 1, 16]),
            ("203.0.113.77", [1, 2, 27], [0, 0, 6]),
            ("2001:db8::1", [1, 2, 25], [1, 1, 18]),
            ("2001:db8::100", [1, 2, 25], [1, 1, 18]),
            ("fd00::11", [1, 1, 16], [0, 0, 10]),
        ] {
            for (seed, expected) in [(1, of_one), (0xdead_beef, of_another)] {
                let node = |nodes| Cluster { nodes, seed, ..Cluster::default() }.node(source.parse().unwrap());
                assert_eq!([2, 3, 32].map(node), expected, "{source} {seed:#x}");
            }
        }
    }
}
