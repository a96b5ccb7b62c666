//! `lbctl explain`: what would become of a packet.

use std::io::{self, Write};
use std::net::IpAddr;

use clap::builder::EnumValueParser;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

use super::{Context, Failure, OwnCommand, json, road};
use crate::api::explain::{ConnectionView, Explanation, Probe, State};

pub(super) struct Explain;

impl OwnCommand for Explain {
    fn command(&self) -> Command {
        let value = |name: &'static str, what: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(what).help(help)
        };
        let port = |name, help| value(name, "PORT", help).value_parser(clap::value_parser!(u16));
        let address = |name, short, help| {
            let address = value(name, "ADDRESS", help).short(short);
            address.value_parser(clap::value_parser!(IpAddr)).required(true)
        };
        let syn = Arg::new("syn")
            .long("syn")
            .action(ArgAction::SetTrue)
            .conflicts_with("tcp-flags")
            .help("A TCP packet that begins a connection: as without");
        Command::new("explain")
            .about("What would become of a packet: hooks, tables, rules, translation, real server, way out")
            .args([
                value("in", "INTERFACE", "It comes in by this one").short('i'),
                value("out", "INTERFACE", "The host itself sends it by this one").short('o'),
                value("protocol", "PROTOCOL", "tcp, udp, sctp, icmp, icmpv6, or a number")
                    .short('p')
                    .default_value("tcp"),
                address("source", 's', "Who sends it"),
                port("sport", "Source port; of an echo, its identifier"),
                address("destination", 'd', "To whom it is sent"),
                port("dport", "Destination port"),
                value(
                    "tcp-flags",
                    "FLAGS",
                    "Such as SYN,ACK; without, SYN, of an established connection ACK",
                )
                .value_delimiter(','),
                syn,
                value("icmp-type", "TYPE[/CODE]", "Numbers; without, an echo request").value_parser(icmp),
                value("ttl", "HOPS", "TTL or hop limit; without, 64").value_parser(clap::value_parser!(u8)),
                value("data", "BYTES", "Bytes behind the transport header")
                    .value_parser(clap::value_parser!(u16)),
                value(
                    "state",
                    "STATE",
                    "What it is to connection tracking; without, what its first packet is",
                )
                .value_parser(EnumValueParser::<State>::new())
                .ignore_case(true),
                Arg::new("all")
                    .long("all")
                    .short('a')
                    .action(ArgAction::SetTrue)
                    .help("Show the rules too that do not match"),
                json(),
            ])
            .group(ArgGroup::new("interface").args(["in", "out"]).required(true))
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
        let number = |name: &str| matches.get_one::<u16>(name).copied().unwrap_or_default();
        let ends = ["source", "destination"].map(|name| matches.get_one::<IpAddr>(name).copied());
        let [Some(source), Some(destination)] = ends else {
            // They are required.
            return Ok(2);
        };
        let probe = Probe {
            interface: text("in") + &text("out"),
            from_host: matches.contains_id("out"),
            protocol: text("protocol"),
            source,
            destination,
            source_port: number("sport"),
            destination_port: number("dport"),
            flags: matches.get_many("tcp-flags").into_iter().flatten().cloned().collect(),
            icmp: matches.get_one("icmp-type").copied(),
            ttl: matches.get_one("ttl").copied(),
            data: number("data"),
            state: matches.get_one("state").copied(),
            all: matches.get_flag("all"),
        };
        let explanation: Explanation = context.client()?.post("/v1/explain", &probe)?;
        if matches.get_flag("json") {
            return context.print_json(&explanation);
        }
        if explanation.cannot_begin {
            writeln!(
                context.output,
                "There can be no such connection. This is the road of its first packet:"
            )?;
            writeln!(context.output)?;
        }
        road::print(context.output, &explanation.road)?;
        if let Some(existing) = &explanation.existing {
            print_existing(context.output, existing)?;
        }
        Ok(0)
    }
}

/// Two numbers, the second one 0 when it is not said.
fn icmp(text: &str) -> Result<(u8, u8), String> {
    let (kind, code) = text.split_once('/').unwrap_or((text, "0"));
    match (kind.parse(), code.parse()) {
        (Ok(kind), Ok(code)) => Ok((kind, code)),
        _ => Err("expected TYPE or TYPE/CODE, numbers from 0 to 255".to_owned()),
    }
}

fn print_existing(out: &mut dyn Write, existing: &ConnectionView) -> io::Result<()> {
    let ConnectionView { state, source, destination, server, .. } = existing;
    writeln!(out)?;
    writeln!(out, "This is the answer for a first packet. There is a connection that such a packet is of:")?;
    writeln!(out, "  {source} > {destination}, {state}, with {server}")
}
