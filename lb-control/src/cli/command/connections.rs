//! `lbctl connections`: the connections there are, as they come.

use std::io::{self, Write};
use std::net::SocketAddr;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Context, Failure, OwnCommand};
use crate::api::types::{Connection, ServiceAddress};
use crate::cli::director::Director;

pub(super) struct Connections;

impl OwnCommand for Connections {
    fn command(&self) -> Command {
        let service = Arg::new("service")
            .long("service")
            .value_name("SERVICE")
            .value_parser(|text: &str| text.parse::<ServiceAddress>())
            .help("Only those that tcp/ADDRESS:PORT, udp/ADDRESS:PORT …, fwmark/MARK has; ADDRESS may be ADDRESS/LENGTH");
        let server = Arg::new("server")
            .long("server")
            .value_name("ADDRESS:PORT")
            .value_parser(clap::value_parser!(SocketAddr))
            .help("Only those of this real server");
        let state = Arg::new("state")
            .long("state")
            .value_name("STATE")
            .help("Only those in this state, such as ESTABLISHED");
        let count = Arg::new("count").long("count").action(ArgAction::SetTrue).help("Print only how many");
        let json = Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .conflicts_with("count")
            .help("Print one JSON object a line");
        Command::new("connections")
            .about("Connections that lbd knows")
            .args([service, server, state, count, json])
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let service = matches.get_one::<ServiceAddress>("service").copied();
        let server = matches.get_one::<SocketAddr>("server").copied();
        let state = matches.get_one::<String>("state").map(String::as_str);
        let (count, json) = (matches.get_flag("count"), matches.get_flag("json"));
        let mut client = context.client()?;
        let out = &mut *context.output;
        let mut found = 0u64;
        client.connections(&mut |connection| {
            if service.is_some_and(|service| connection.service != Some(service))
                || server.is_some_and(|server| server != connection.destination)
                || state.is_some_and(|state| !state.eq_ignore_ascii_case(&connection.state))
            {
                return Ok(());
            }
            found += 1;
            if found == 1 && !count && !json {
                line(
                    out,
                    ["protocol", "expires", "state", "client", "virtual", "real server            local"],
                )?;
            }
            if json {
                serde_json::to_writer(&mut *out, &connection)?;
                return writeln!(out);
            }
            if count {
                return Ok(());
            }
            let Connection { protocol, expires, state, client, virtual_, destination, local, .. } =
                connection;
            let [expires, client, virtual_, destination] =
                [format!("{expires} s"), client.to_string(), virtual_.to_string(), destination.to_string()];
            let destination = match local {
                Some(local) => format!("{destination:<21}  {local}"),
                None => destination,
            };
            line(out, [protocol.name(), &expires, &state, &client, &virtual_, &destination])
        })?;
        if count {
            writeln!(out, "{found}")?;
        }
        Ok(0)
    }
}

/// Fixed widths: the lines are printed as they come.
fn line(
    out: &mut dyn Write,
    [protocol, expires, state, client, virtual_, server]: [&str; 6],
) -> io::Result<()> {
    writeln!(out, "{protocol:<8}  {expires:<7}  {state:<11}  {client:<21}  {virtual_:<21}  {server}")
}
