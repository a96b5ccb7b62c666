//! All packet logic of the load balancer: wire formats, flows, IPVS, rules, IP sets, connection tracking,
//! NAT, routes, tables.
//!
//! No DPDK, no thread, no clock, no I/O. [`path`] is the page to read first.

pub mod conntrack;
pub mod counters;
pub mod drop;
pub mod flow;
pub mod hook;
pub mod icmp;
pub mod ids;
pub mod ipvs;
pub mod mem;
pub mod nat;
pub mod npt;
pub mod packet;
pub mod path;
pub mod probe;
pub mod reset;
pub mod rss;
pub mod rule;
pub mod set;
pub mod syn_cookie;
pub mod tables;
pub mod time;
pub mod toeplitz;
pub mod trace;
pub mod trail;
pub mod wire;

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    #[test]
    #[should_panic(expected = "attempt to add with overflow")]
    fn arithmetic_that_overflows_fails_a_test() {
        black_box(black_box(u8::MAX) + black_box(1));
    }
}
