//! The path and the reference side by side, under traffic and changes drawn from a seed; and what the comparison must not let pass.

mod bites;
mod frames;
mod world;

use lb_core::drop::DropReason;
use lb_core::packet::Frame;
use lb_dataplane::Logic;
use world::{Seen, World};

/// Steps of a run.
const STEPS: usize = 1500;

/// # Panics
/// With the first mismatch.
fn run<L: Logic<Frame>>(seed: u64, world: &mut World<L>) {
    for _ in 0..STEPS {
        world.step();
        if let Some(mismatch) = world.verdict.mismatch() {
            panic!("seed {seed}: {mismatch}");
        }
    }
    world.settle();
    world.verdict.assert_agreement();
}

#[test]
fn the_path_does_what_the_reference_says() {
    // SEEDS=a..b searches further.
    let seeds = std::env::var("SEEDS").ok().map_or(0..40, |seeds| {
        let (from, to) = seeds.split_once("..").expect("SEEDS=from..to");
        from.parse().unwrap()..to.parse().unwrap()
    });
    let mut seen = Seen::default();
    for seed in seeds {
        let mut world = World::new(seed);
        run(seed, &mut world);
        seen.add(&world);
    }
    // What did not come to pass was not compared.
    let at_least = |what: &str, seen: u64, least: u64| assert!(seen >= least, "{what}: {seen}");
    at_least("packets", seen.packets, 100_000);
    at_least("sent", seen.sent, 30_000);
    at_least("up the twin", seen.to_twin, 10_000);
    at_least("handed over", seen.handed_over, 10_000);
    at_least("asked for a neighbour", seen.asked, 1000);
    at_least("connections", seen.connections, 3000);
    at_least("connections ended by time", seen.expired, 2000);
    at_least("ICMP errors", seen.icmp_sent, 1000);
    at_least("ICMP errors not sent", seen.icmp_suppressed, 100);
    // Only the worker drops for these, which is not here, or a port whose buffers are chained.
    let elsewhere =
        [DropReason::HandOverFull, DropReason::TwinFull, DropReason::TxFull, DropReason::BadIcmpPayload];
    for reason in DropReason::ALL.iter().filter(|reason| !elsewhere.contains(reason)) {
        at_least(reason.label(), seen.drops[reason], 1);
    }
}
