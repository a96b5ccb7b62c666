//! `lbctl set`: timeouts, each by name.

use clap::{Arg, ArgGroup, ArgMatches, Command};

use super::{Context, Failure, OwnCommand};
use crate::api::types::{Batch, Command as Change, OnError, Timeouts};
use crate::cli::director::{Director, DirectorError};

pub(super) struct Set;

const NAMES: [(&str, &str); 3] = [
    ("tcp", "Of an established TCP connection"),
    ("tcp-fin", "Of a TCP connection after the server's FIN"),
    ("udp", "Of UDP"),
];

impl OwnCommand for Set {
    fn command(&self) -> Command {
        let timeout = |(name, help): (&'static str, &'static str)| {
            Arg::new(name)
                .long(name)
                .value_name("SECONDS")
                .value_parser(clap::value_parser!(u32).range(1..=2_678_400))
                .help(help)
        };
        Command::new("set")
            .about("Set idle timeouts, 1 to 2678400 seconds; those not named stay, and all are printed")
            .args(NAMES.map(timeout))
            .group(ArgGroup::new("timeouts").args(NAMES.map(|(name, _)| name)).required(true).multiple(true))
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let [tcp, tcp_fin, udp] = NAMES.map(|(name, _)| matches.get_one(name).copied().unwrap_or(0));
        let mut client = context.client()?;
        let commands = vec![Change::SetTimeouts(Timeouts { tcp, tcp_fin, udp })];
        let reply = client.run(Batch { commands, on_error: OnError::Continue })?;
        if let Some(failure) = reply.failed.into_iter().next() {
            return Err(DirectorError::Refused(failure.error).into());
        }
        let Timeouts { tcp, tcp_fin, udp } = client.timeouts()?;
        writeln!(context.output, "tcp {tcp} s, tcp-fin {tcp_fin} s, udp {udp} s")?;
        Ok(0)
    }
}
