//! `lbctl connections`: the connections there are, as they come.

use std::io::{self, Write};
use std::net::SocketAddr;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Context, Failure, OwnCommand};
use crate::api::connections::{ConnectionFilter, Shown};
use crate::api::conntrack::Net;
use crate::api::types::{Connection, ConnectionProtocol, ServiceAddress};
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
            .value_parser(|text: &str| text.parse::<Shown>())
            .help("Only those in this state, such as ESTABLISHED");
        let protocol = Arg::new("protocol")
            .long("protocol")
            .value_name("PROTOCOL")
            .value_parser(["tcp", "udp", "sctp", "ip"])
            .help("Only those over it; ip: persistence templates of firewall marks");
        let client = Arg::new("client")
            .long("client")
            .value_name("ADDRESS[/LENGTH]")
            .value_parser(|text: &str| text.parse::<Net>())
            .help("Only those of this client, or of one of this network");
        let virtual_ = Arg::new("virtual")
            .long("virtual")
            .value_name("ADDRESS[/LENGTH]")
            .value_parser(|text: &str| text.parse::<Net>())
            .help("Only those to this virtual address, or to one of this network");
        let count = Arg::new("count").long("count").action(ArgAction::SetTrue).help("Print only how many");
        let json = Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .conflicts_with("count")
            .help("Print one JSON object a line");
        Command::new("connections")
            .about("Connections that lbd knows")
            .args([service, server, state, protocol, client, virtual_, count, json])
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let filter = filter(matches);
        let json = matches.get_flag("json");
        let mut client = context.client()?;
        let out = &mut *context.output;
        if matches.get_flag("count") {
            writeln!(out, "{}", client.count_connections(&filter)?)?;
            return Ok(0);
        }
        let mut is_first = true;
        client.connections(&filter, &mut |connection| {
            if std::mem::take(&mut is_first) && !json {
                line(
                    out,
                    ["protocol", "expires", "state", "client", "virtual", "real server            local"],
                )?;
            }
            if json {
                serde_json::to_writer(&mut *out, &connection)?;
                return writeln!(out);
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
        Ok(0)
    }
}

fn filter(matches: &ArgMatches) -> ConnectionFilter {
    let protocol = matches.get_one::<String>("protocol").map(|name| match name.as_str() {
        "udp" => ConnectionProtocol::Udp,
        "sctp" => ConnectionProtocol::Sctp,
        "ip" => ConnectionProtocol::Ip,
        _ => ConnectionProtocol::Tcp,
    });
    ConnectionFilter {
        service: matches.get_one::<ServiceAddress>("service").copied(),
        server: matches.get_one::<SocketAddr>("server").copied(),
        state: matches.get_one::<Shown>("state").copied(),
        protocol,
        client: matches.get_one::<Net>("client").copied(),
        virtual_: matches.get_one::<Net>("virtual").copied(),
    }
}

/// Fixed widths: the lines are printed as they come.
fn line(
    out: &mut dyn Write,
    [protocol, expires, state, client, virtual_, server]: [&str; 6],
) -> io::Result<()> {
    writeln!(out, "{protocol:<8}  {expires:<7}  {state:<11}  {client:<21}  {virtual_:<21}  {server}")
}
