//! The path and the reference side by side, under traffic and changes drawn from a seed; and what the comparison must not let pass.

mod frames;
mod world;

use lb_core::drop::DropReason;
use lb_core::time::Tick;
use world::World;

/// Steps of a run, and what they are drawn from.
fn run(seed: u64, steps: usize) -> World {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
        if let Some(mismatch) = world.verdict.mismatch() {
            panic!("seed {seed}: {mismatch}");
        }
    }
    world.settle();
    if let Some(mismatch) = world.verdict.mismatch() {
        panic!("seed {seed}, at the end: {mismatch}");
    }
    world
}

#[test]
fn the_path_does_what_the_reference_says() {
    let seeds: std::ops::Range<u64> = match std::env::var("SEEDS") {
        Ok(seeds) => {
            let (from, to) = seeds.split_once("..").expect("SEEDS=from..to");
            from.parse().unwrap()..to.parse().unwrap()
        }
        Err(_) => 0..24,
    };
    let mut seen = world::Seen::default();
    for seed in seeds {
        seen.add(&run(seed, 1500));
    }
    eprintln!("{seen:?}");
    assert!(Tick::default() == Tick(0) && !DropReason::ALL.is_empty());
}
