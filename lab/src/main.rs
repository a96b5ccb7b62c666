//! `lab`: the demo and the end-to-end benchmark from the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use lab::demo::{self, Through};
use lab::end_to_end;

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
    /// Measures HTTP through lbd, and through its peers on the same machine
    EndToEnd {
        /// Length of one run, seconds
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=3600))]
        seconds: u16,
        /// Runs of each measure
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
        runs: u16,
        /// Where the results go, as JSON
        #[arg(long)]
        json: Option<PathBuf>,
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
        Command::EndToEnd { seconds, runs, json } => end_to_end::run(seconds, runs, json.as_deref()),
        Command::Stop => demo::stop(),
    };
    lab::cleanup::let_signal_finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
