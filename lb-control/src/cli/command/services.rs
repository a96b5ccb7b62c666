//! `lbctl services`: services and real servers with what they carry; `--save` as lines for `ipvsadm -R`, thresholds
//! included.

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Context, Failure, OwnCommand, json, table};
use crate::api::types::{CookieView, Counts, Rates, ServerView, ServiceAddress, ServiceView, ServicesReply};
use crate::cli::director::Director;
use crate::cli::ipvsadm;

pub(super) struct Services;

impl OwnCommand for Services {
    fn command(&self) -> Command {
        let service = Arg::new("service")
            .value_name("SERVICE")
            .value_parser(|text: &str| text.parse::<ServiceAddress>())
            .help("This one only: tcp/ADDRESS:PORT or udp/ADDRESS:PORT");
        let save = Arg::new("save")
            .long("save")
            .action(ArgAction::SetTrue)
            .conflicts_with("json")
            .help("Print lines for `ipvsadm -R` that make all of it again, thresholds and keys included");
        Command::new("services").about("Virtual services and their real servers").args([
            service,
            save,
            json(),
        ])
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let only = matches.get_one::<ServiceAddress>("service").copied();
        if matches.get_flag("save") {
            let services = context.client()?.whole_services(only)?;
            ipvsadm::save_all(context.output, services)?;
            return Ok(0);
        }
        let services = context.client()?.services(only)?;
        if matches.get_flag("json") {
            return context.print_json(&ServicesReply { services });
        }
        let titles = [
            "service / real server",
            "scheduler",
            "weight",
            "active",
            "inactive",
            "limits",
            "connections",
            "conn/s",
            "in pkt/s",
            "out pkt/s",
            "state",
        ];
        let rows: Vec<_> = services.iter().flat_map(rows).collect();
        table(context.output, &titles, &rows)?;
        Ok(0)
    }
}

fn rows(service: &ServiceView) -> impl Iterator<Item = Vec<String>> {
    let active: u64 = service.servers.iter().map(|server| server.active).sum();
    let inactive: u64 = service.servers.iter().map(|server| server.inactive).sum();
    let takes = service.servers.iter().any(|server| server.spec.weight > 0 && !server.overloaded);
    let connections = service.limited.map_or(0, |limited| limited.connections);
    let is_full = service.spec.conn_limit != 0 && connections >= service.spec.conn_limit;
    let head = row(
        service.spec.service.to_string(),
        service.spec.scheduler.clone(),
        String::new(),
        (active, inactive),
        if service.spec.conn_limit == 0 {
            String::new()
        } else {
            format!("{connections}/{}", service.spec.conn_limit)
        },
        (&service.counts, &service.rates),
        match service.cookies {
            _ if !takes => "no real server takes connections",
            _ if is_full => "as many connections as it may have",
            Some(CookieView { on: true, .. }) => "answers with SYN cookies",
            _ => "",
        },
    );
    std::iter::once(head).chain(service.servers.iter().map(|server| {
        row(
            format!("  {}", server.spec.server),
            server.spec.forward.name().to_owned(),
            server.spec.weight.to_string(),
            (server.active, server.inactive),
            limits(server),
            (&server.counts, &server.rates),
            match server {
                _ if server.overloaded => "overloaded",
                _ if server.spec.weight == 0 => "quiesced",
                _ => "",
            },
        )
    }))
}

/// Lower and upper threshold.
fn limits(server: &ServerView) -> String {
    match (server.spec.lower_threshold, server.spec.upper_threshold) {
        (_, 0) => String::new(),
        (lower, upper) => format!("{lower}..{upper}"),
    }
}

fn row(
    name: String,
    scheduler: String,
    weight: String,
    (active, inactive): (u64, u64),
    limits: String,
    (counts, rates): (&Counts, &Rates),
    state: &str,
) -> Vec<String> {
    vec![
        name,
        scheduler,
        weight,
        active.to_string(),
        inactive.to_string(),
        limits,
        counts.connections.to_string(),
        rates.connections.to_string(),
        rates.in_packets.to_string(),
        rates.out_packets.to_string(),
        state.to_owned(),
    ]
}
