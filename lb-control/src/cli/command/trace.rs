//! `lbctl trace`: what becomes of real packets.

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Context, Failure, OwnCommand, road};
use crate::api::explain::{TraceLine, TraceQuery};

pub(super) struct Trace;

impl OwnCommand for Trace {
    fn command(&self) -> Command {
        let value = |name: &'static str, what: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(what).help(help)
        };
        let port = |name, help| value(name, "PORT", help).value_parser(clap::value_parser!(u16));
        let number = |name, what, help: &'static str, unsaid: &'static str| {
            value(name, what, help).value_parser(clap::value_parser!(u32)).default_value(unsaid)
        };
        let flag = |name: &'static str, help: &'static str| {
            Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
        };
        Command::new("trace")
            .about(
                "What becomes of real packets that fit: hooks, tables, rules, real server, way out or drop",
            )
            .args([
                value("in", "INTERFACE", "They come in by this one").short('i'),
                value("out", "INTERFACE", "The host itself sends them by this one").short('o'),
                value("protocol", "PROTOCOL", "tcp, udp, sctp, icmp, icmpv6, or a number").short('p'),
                value("source", "ADDRESS[/LENGTH]", "Who sends them").short('s'),
                port("sport", "Source port"),
                value("destination", "ADDRESS[/LENGTH]", "To whom they are sent").short('d'),
                port("dport", "Destination port"),
                flag("dropped", "Only those that are dropped"),
                number("count", "PACKETS", "Ends after so many", "20").short('c'),
                number("rate", "PACKETS", "At most so many a second", "10"),
                number("time", "SECONDS", "Ends after so long", "60"),
                flag("json", "Print one JSON object a line"),
            ])
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let port = |name: &str| matches.get_one::<u16>(name).copied();
        let number = |name: &str| matches.get_one::<u32>(name).copied();
        let query = TraceQuery {
            input: text("in"),
            from_host: text("out"),
            protocol: text("protocol"),
            source: text("source"),
            destination: text("destination"),
            source_port: port("sport"),
            destination_port: port("dport"),
            dropped: matches.get_flag("dropped").then_some(true),
            count: number("count"),
            rate: number("rate"),
            seconds: number("time"),
        };
        let json = matches.get_flag("json");
        let mut client = context.client()?;
        let out = &mut *context.output;
        client.trace(&query, &mut |line| {
            match &line {
                _ if json => {
                    serde_json::to_writer(&mut *out, &line)?;
                    writeln!(out)?;
                }
                TraceLine::Road(found) => {
                    road::print(out, found)?;
                    writeln!(out)?;
                }
                TraceLine::Skipped { packets } => {
                    writeln!(out, "{packets} packets more that fit are not shown: beyond the rate")?;
                }
            }
            // Whoever looks on sees each as it comes.
            out.flush()
        })?;
        Ok(0)
    }
}
