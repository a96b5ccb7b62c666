//! `lab`: the demo from the command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use lab::demo::{self, Through};

/// Real clients, a director and real servers in network namespaces on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sends real HTTP traffic through a director and shows who served what
    Demo {
        /// Leave everything running and print the commands to try
        #[arg(long)]
        keep: bool,
        /// What directs
        #[arg(long, value_enum, default_value = "lbd")]
        through: Peer,
        /// Seconds of load
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=3600))]
        seconds: u16,
    },
    /// Ends what `demo --keep` left running, and sweeps what killed labs left
    Stop,
}

#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    /// The load balancer, on AF_XDP
    Lbd,
    /// The load balancer, on packet sockets
    LbdAfPacket,
    /// The kernel's NAT, for comparison
    Nft,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo { keep, through, seconds } => {
            let through = match through {
                Peer::Lbd => Through::Lbd(lab::Driver::AfXdp),
                Peer::LbdAfPacket => Through::Lbd(lab::Driver::AfPacket),
                Peer::Nft => Through::Nft,
            };
            demo::run(through, keep, seconds)
        }
        Command::Stop => demo::stop(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
