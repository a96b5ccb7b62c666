//! Prints `docs/scaling.md`: how far workers scale, calculated; or measures what it is calculated from.

use clap::Parser;
use lb_benches::{hand_over, scaling};

#[derive(Parser)]
struct Arguments {
    /// Measures what giving a packet to another worker costs, and taking it: on one core
    #[arg(long)]
    measure: bool,
}

fn main() {
    if Arguments::parse().measure {
        println!("{}", hand_over::measure());
    } else {
        print!("{}", scaling::page(&scaling::Costs::default()));
    }
}
