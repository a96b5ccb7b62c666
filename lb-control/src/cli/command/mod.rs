//! `lbctl`'s own commands: one file each, one row in [`COMMANDS`]. Help, man pages and completions follow from it.

mod completions;
mod connections;
mod drops;
mod explain;
mod foreign;
mod hooks;
mod idletimers;
mod man;
mod metrics;
mod ports;
mod road;
mod services;
mod set;
mod status;
mod sysctl;
mod trace;
mod workers;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::foreign::{Foreign, Speaker};
use self::man::Section;
use super::client::Client;
use super::director::DirectorError;
use super::{iptables, ipvsadm};

/// In the order of the help.
pub(super) const COMMANDS: &[&dyn OwnCommand] = &[
    &status::Status,
    &services::Services,
    &connections::Connections,
    &ports::Ports,
    &workers::Workers,
    &drops::Drops,
    &explain::Explain,
    &trace::Trace,
    &hooks::Hooks,
    &idletimers::IdleTimers,
    &set::Set,
    &sysctl::Sysctl,
    &metrics::Metrics,
    &Foreign(
        "ipvsadm",
        "Services, real servers, connections in ipvsadm's syntax",
        Speaker::Ipvsadm(ipvsadm::run),
    ),
    &Foreign(
        "ipvsadm-save",
        "Print command lines that make the services again",
        Speaker::Ipvsadm(ipvsadm::run_save),
    ),
    &Foreign(
        "ipvsadm-restore",
        "Do the command lines that standard input holds",
        Speaker::Ipvsadm(ipvsadm::run_restore),
    ),
    &Foreign("iptables", "Rules for IPv4 in iptables' syntax", Speaker::Iptables(iptables::run)),
    &Foreign("iptables-save", "Print tables of rules as a file", Speaker::Iptables(iptables::run_save)),
    &Foreign(
        "iptables-restore",
        "Make tables of rules of a file, all or nothing",
        Speaker::Iptables(iptables::run_restore),
    ),
    &Foreign("ip6tables", "Rules for IPv6 in ip6tables' syntax", Speaker::Iptables(iptables::run)),
    &Foreign("ip6tables-save", "Print tables of rules as a file", Speaker::Iptables(iptables::run_save)),
    &Foreign(
        "ip6tables-restore",
        "Make tables of rules of a file, all or nothing",
        Speaker::Iptables(iptables::run_restore),
    ),
    &Foreign("ipset", "IP sets in ipset's syntax", Speaker::Ipset),
    &Foreign("nfnl_osf", "Load fingerprints of operating systems in nfnl_osf's syntax", Speaker::NfnlOsf),
    &Foreign("conntrack", "Connections in conntrack's syntax", Speaker::Conntrack),
    &Foreign("nfacct", "What rules count under a name in nfacct's syntax", Speaker::Nfacct),
    &completions::Completions,
    &man::Man,
];

pub(super) const DEFAULT_SOCKET: &str = "/run/lb/api.sock";

/// One command of `lbctl`.
pub(super) trait OwnCommand: Sync {
    /// Name, help, arguments.
    fn command(&self) -> Command;

    /// What its man page has besides.
    fn manual(&self) -> Vec<Section> {
        Vec::new()
    }

    /// Returns the exit code.
    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure>;
}

/// What a command works with.
pub(super) struct Context<'a> {
    pub(super) socket: PathBuf,
    pub(super) output: &'a mut dyn Write,
}

impl Context<'_> {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.socket)?)
    }

    /// Prints an answer as it is, indented.
    pub(super) fn print_json<T: DeserializeOwned + Serialize>(&mut self, answer: &T) -> Result<u8, Failure> {
        serde_json::to_writer_pretty(&mut *self.output, answer).map_err(io::Error::from)?;
        writeln!(self.output)?;
        Ok(0)
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Director(#[from] DirectorError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Failure {
    /// The reader of our output went away: nobody to tell.
    pub(super) fn is_broken_pipe(&self) -> bool {
        match self {
            Failure::Io(error) | Failure::Director(DirectorError::Output(error)) => {
                error.kind() == io::ErrorKind::BrokenPipe
            }
            Failure::Director(_) => false,
        }
    }
}

/// `lbctl` with all its commands.
pub(super) fn lbctl() -> Command {
    Command::new("lbctl")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Asks and tells lbd, the load balancer's daemon")
        .after_help(
            "Called by a link named conntrack, ipset, nfacct, nfnl_osf, ipvsadm, iptables or ip6tables, or one of the last three with -save or -restore, it speaks that command's syntax.",
        )
        .arg(
            Arg::new("socket")
                .long("socket")
                .value_name("PATH")
                .value_parser(clap::value_parser!(PathBuf))
                .value_hint(clap::ValueHint::FilePath)
                .env("LB_SOCKET")
                .default_value(DEFAULT_SOCKET)
                .help("Where lbd listens"),
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(COMMANDS.iter().map(|command| command.command()))
}

fn json() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON as the API gives it")
}

/// Columns as wide as they must be; columns of numbers to the right.
fn table(out: &mut dyn Write, titles: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let is_number = |cell: &str| !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit());
    let widths: Vec<usize> = (0..titles.len())
        .map(|column| {
            let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            longest.max(titles[column].len())
        })
        .collect();
    let right: Vec<bool> = (0..titles.len())
        .map(|column| {
            rows.iter().all(|row| row[column].is_empty() || is_number(&row[column])) && !rows.is_empty()
        })
        .collect();
    let mut line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (column, cell) in cells.into_iter().enumerate() {
            let width = widths[column];
            text += &if right[column] { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(titles.to_vec())?;
    rows.iter().try_for_each(|row| line(row.iter().map(String::as_str).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_its_row() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/command");
        for file in std::fs::read_dir(folder).expect("the folder of commands") {
            let name = file.expect("a file").file_name().into_string().expect("text");
            let name = name.trim_end_matches(".rs");
            let has_row = COMMANDS.iter().any(|row| row.command().get_name() == name);
            assert!(
                has_row || matches!(name, "mod" | "foreign" | "road"),
                "{name}.rs has no row in COMMANDS"
            );
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        lbctl().debug_assert();
    }

    #[test]
    fn tables_align_numbers_to_the_right() {
        let mut out = Vec::new();
        let rows = [vec!["wan".to_owned(), "5".to_owned()], vec!["lan0".to_owned(), "12345".to_owned()]];
        table(&mut out, &["port", "rx"], &rows).expect("memory");
        assert_eq!(String::from_utf8_lossy(&out), "port     rx\nwan       5\nlan0  12345\n");
    }
}
