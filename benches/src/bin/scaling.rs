//! Prints `docs/scaling.md`: how far workers scale, calculated; or measures what it is calculated from.

use clap::Parser;
use lb_benches::{hand_over, lines, scaling};

#[derive(Parser)]
struct Arguments {
    /// Measures what giving a packet to another worker costs, and taking it, on one core; and what cache lines of another core cost
    #[arg(long)]
    measure: bool,
}

fn main() {
    if Arguments::parse().measure {
        println!("{}", hand_over::measure());
        match lines::measure() {
            Ok(lines) => println!("{lines}"),
            Err(reason) => println!("cache lines of another core: {reason}"),
        }
    } else {
        print!("{}", scaling::page(&scaling::Costs::default()));
    }
}
