//! The command line of `lbd`. Help and man page follow from it.

use std::path::PathBuf;

use clap::Parser;

/// The variable that says how much `lbd` logs.
pub const LOG_VARIABLE: &str = "LBD_LOG";

/// Layer-4 load balancer: IPVS-style virtual services on DPDK poll-mode workers.
///
/// SIGHUP reloads the config file, SIGTERM and SIGINT stop.
#[derive(Parser)]
#[command(name = "lbd", version)]
pub struct Arguments {
    /// The config file (TOML).
    // The default stands for none, where none is looked at.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "drivers",
        default_value = "-",
        hide_default_value = true
    )]
    pub config: PathBuf,
    /// Only check the config file, for this machine: prints what is wrong with it, exits 0 or 1.
    #[arg(long)]
    pub check: bool,
    /// Removes what a stopped lbd left for its next start: connections, services, rules, IP sets and twins. Refused while one runs.
    #[arg(long, conflicts_with = "check")]
    pub forget: bool,
    /// Prints the drivers of ports that are linked in, of DPDK's.
    #[arg(long, exclusive = true)]
    pub drivers: bool,
}
