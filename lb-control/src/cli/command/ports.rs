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
            "handed %",
        ];
        let words: Vec<_> = ports.iter().flat_map(in_words).collect();
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
                    share(port.handed_over, port.rx_packets),
                ]
            })
            .collect();
        table(context.output, &titles, &rows)?;
        for line in words {
            writeln!(context.output, "{line}")?;
        }
        Ok(0)
    }
}

/// In percent, to a tenth.
fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "0.0".to_owned() } else { format!("{:.1}", part as f64 * 100.0 / whole as f64) }
}

/// How a port's packets get to the workers, and what the port does for them.
fn in_words(port: &PortView) -> [String; 2] {
    let queues = if port.queues == 1 { "1 queue".to_owned() } else { format!("{} queues", port.queues) };
    let does = std::iter::once(queues).chain(port.offloads.iter().cloned());
    let bursts = [("receives", &port.rx_burst), ("sends", &port.tx_burst)];
    let said = bursts.into_iter().filter(|(_, by)| !by.is_empty());
    let all: Vec<String> = does.chain(said.map(|(what, by)| format!("{what} by {by}"))).collect();
    [format!("{}: {}", port.name, port.steering), format!("{}: {}", port.name, all.join(", "))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_says_in_words_what_it_does_and_what_its_driver_does() {
        let json = serde_json::json!({
            "name": "wan", "device": "0000:3b:00.0", "mac": "02:00:00:00:00:01", "mtu": 1500, "link_up": true,
            "rx_packets": 8, "rx_bytes": 1, "tx_packets": 1, "tx_bytes": 1, "rx_missed": 0, "tx_errors": 0, "to_twin": 0,
            "from_twin": 0, "twin_refused": 0, "twin_waits": 0, "queues": 2, "offloads": ["rss"], "rx_burst": "Vector AVX2",
            "tx_burst": "", "handed_over": 1, "steering": "one worker has all",
        });
        let port: PortView = serde_json::from_value(json).expect("a port");
        assert_eq!(
            in_words(&port),
            ["wan: one worker has all", "wan: 2 queues, rss, receives by Vector AVX2"]
        );
        assert_eq!([share(1, 8), share(0, 0)], ["12.5", "0.0"]);
    }
}
