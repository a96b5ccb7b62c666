//! Netfilter beside a slow, obvious one: workers with rules, NAT and connections of no virtual service, and hosts that talk through
//! them and to them, packet by packet.
//!
//! Each step a packet comes, or the operator changes a rule, or time passes. A packet goes to any worker, and from worker to worker until all is
//! done with it; then the [model](model::Netfilter) says what had to become of it, with one list of rules and one map of connections for
//! all workers. Compared are the bytes that left, the hook at which it was dropped, how it was refused; and now and then what each rule
//! counted and which connections there are. Rules are written as an operator writes them and go through the daemon's model, one command at a
//! time, while traffic flows.
//!
//! In one world of three there is a virtual service: masqueraded, where the table `nat` exchanges the sources of its clients
//! (`net.ipv4.vs.conntrack`), by FullNAT, by direct routing, or through a tunnel. Its real servers may be of the other family.
//!
//! In one of four TCP is followed by its windows: ends say what they should, and much else (`talk.rs`), and a model of its own says what conntrack makes of it
//! (`tcp.rs`).
//!
//! What is not here: fragments of TCP and of what the host sends; packets that are too big; other virtual services. Worlds with the service have no
//! errors, pieces and exchanged prefixes, and nothing comes in pieces while rules exchange prefixes.

mod answer;
mod error;
mod fragments;
mod hash;
mod model;
mod net;
mod npt;
mod packet;
mod rule;
mod segment;
mod sets;
mod talk;
mod tcp;
mod traffic;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::invariants::name;
use crate::run::message;
use crate::violation::Violation;
use world::World;

/// Runs `steps` steps of the world of `seed`. Returns the packets that came.
///
/// # Errors
/// The step, what was wrong in it, and what [there was then](World::shown).
pub fn run(seed: u64, steps: u64) -> Result<u64, (u64, Violation, String)> {
    let mut world = World::new(seed);
    for step in 1..=steps {
        let outcome = catch_unwind(AssertUnwindSafe(|| world.step()));
        let violation = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(what)) => Violation { name: name::AS_NETFILTER_DOES, what },
            Err(panic) => Violation { name: "nothing_panics", what: message(panic.as_ref()) },
        };
        return Err((step, violation, world.shown()));
    }
    Ok(world.packets())
}

#[cfg(test)]
mod tests {
    use super::run;

    fn all_hold(seeds: std::ops::Range<u64>) {
        for seed in seeds {
            if let Err((step, violation, shown)) = run(seed, 2000) {
                panic!("seed {seed}, step {step}: {violation:?}\n{shown}");
            }
        }
    }

    #[test]
    fn known_seeds_hold() {
        // SEEDS=a..b searches further.
        all_hold(std::env::var("SEEDS").ok().map_or(0..5, |seeds| {
            let (from, to) = seeds.split_once("..").expect("SEEDS=from..to");
            from.parse().unwrap()..to.parse().unwrap()
        }));
    }
}
