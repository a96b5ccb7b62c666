//! What a client's packet costs by the method that it gets to its real server by, beside masquerading.

use anyhow::Result;
use lb_benches::measure::Scenario;

use super::{Context, FLOWS, Found};
use crate::results::{NS, Row};

pub(super) fn run(context: &Context) -> Result<Found> {
    let (packets, runs) = context.choose((2_000_000, 5), (8_000_000, 11));
    let mut found = Found::default();
    for scenario in Scenario::all().filter(|scenario| matches!(scenario, Scenario::OneWay(_))) {
        for flows in FLOWS {
            let measured = context.worker(scenario, flows, packets, runs)?;
            found.rows.push(Row::new(scenario.name(), flows, NS, measured.ns));
        }
    }
    found.notes.push(
        "direct-udp, ipip-udp, gue-udp, gre-udp: as masq-udp, of packets from clients alone, since real servers answer by another \
         way; the other port is asked in vain. Tunnels over IPv4, without checksums of their own."
            .to_owned(),
    );
    Ok(found)
}
