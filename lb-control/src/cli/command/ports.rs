//! `lbctl ports`: are the links up, what passed them, and how does it get to the workers?

use clap::{ArgMatches, Command};

use super::{Context, Failure, OwnCommand, json, table};
use crate::api::types::PortView;

pub(super) struct Ports;

impl OwnCommand for Ports {
    fn command(&self) -> Command {
        Command::new("ports")
            .about("Ports, their Linux twins, what passed them, and how it gets to the workers")
            .arg(json())
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let ports: Vec<PortView> = context.client()?.get("/v1/ports")?;
        if matches.get_flag("json") {
            return context.print_json(&ports);
        }
        let titles = [
            "port",
            "device",
            "mac",
            "mtu",
            "link",
            "rx pkts",
            "rx bytes",
            "rx missed",
            "tx pkts",
            "tx bytes",
            "to twin",
            "from twin",
            "handed over",
        ];
        let steering: Vec<_> = ports.iter().map(|port| (port.name.clone(), port.steering.clone())).collect();
        let rows: Vec<_> = ports
            .into_iter()
            .map(|port| {
                vec![
                    port.name,
                    port.device,
                    port.mac,
                    port.mtu.to_string(),
                    if port.link_up { "up" } else { "down" }.to_owned(),
                    port.rx_packets.to_string(),
                    port.rx_bytes.to_string(),
                    port.rx_missed.to_string(),
                    port.tx_packets.to_string(),
                    port.tx_bytes.to_string(),
                    port.to_twin.to_string(),
                    port.from_twin.to_string(),
                    port.handed_over.to_string(),
                ]
            })
            .collect();
        table(context.output, &titles, &rows)?;
        for (port, steering) in steering {
            writeln!(context.output, "{port}: {steering}")?;
        }
        Ok(0)
    }
}
