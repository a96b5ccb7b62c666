//! `sim`: runs the simulation from the command line.

fn main() {}
