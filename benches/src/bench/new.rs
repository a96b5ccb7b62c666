//! How many connections a core begins and ends in a second.

use anyhow::Result;
use lb_benches::measure::Scenario;
use lb_benches::traffic::Transport;

use super::{Context, Found};
use crate::results::{PER_SECOND, Row};

/// Connections that are alive at a time.
const ALIVE: u32 = 1_000_000;
const RULES: u32 = 100;

pub(super) fn run(context: &Context) -> Result<Found> {
    let (connections, runs) = context.choose((300_000, 3), (2_000_000, 7));
    let mut found = Found::default();
    let transports = [Transport::Udp, Transport::Tcp];
    let cases = transports.into_iter().flat_map(|transport| [0, RULES].map(|rules| (transport, rules)));
    for ((transport, rules), left) in cases.zip((1..=4).rev()) {
        let scenario = Scenario::New(transport);
        let runs = context.time.part(runs, left);
        let each = scenario.packets_each();
        let measured = context.worker_with_rules(scenario, rules, ALIVE, connections * each, runs)?;
        let per_second = measured.ns.iter().map(|ns| 1e9 / (ns * each as f64)).collect();
        let name = format!("{}{}", scenario.name(), if rules > 0 { " ruled" } else { "" });
        found.rows.push(Row { rules, ..Row::new(&name, ALIVE, PER_SECOND, per_second) });
    }
    found.notes.push(
        "new-udp: connections of one packet, each ended by its timeout, 1,000,000 alive. new-tcp: whole lives of 8 packets (SYN, \
         SYN/ACK, ACK, data, ACK, FIN, FIN, ACK) up to the end of TIME_WAIT, about 1,000,000 alive. Time is virtual, so that as \
         many end as begin; the worker and the buffers are those of masq-udp. Ruled: with 100 rules, as masq-udp ruled."
            .to_owned(),
    );
    Ok(found)
}
