//! What a packet of an open connection costs a core, all in all: the headline.
//!
//! A worker on DPDK's null ports, with real packet buffers; only the generator's time is taken off.

use anyhow::Result;
use lb_benches::measure::Scenario;
use lb_benches::traffic::Transport;

use super::{Context, FLOWS, Found};
use crate::results::{NS, Row};

/// Connections that a table is large for.
const MANY_FLOWS: u32 = 10_000_000;
const RULES: u32 = 100;

pub(super) fn run(context: &Context) -> Result<Found> {
    let (packets, runs) = context.choose((2_000_000, 5), (8_000_000, 11));
    let mut found = Found::default();
    for scenario in [Scenario::Masq(Transport::Udp), Scenario::Masq(Transport::Tcp)] {
        for flows in FLOWS {
            let measured = context.worker(scenario, flows, packets, runs)?;
            found.rows.push(Row::new(scenario.name(), flows, NS, measured.ns));
        }
    }
    let scenario = Scenario::Masq(Transport::Udp);
    for flows in FLOWS.into_iter().chain((!context.is_quick).then_some(MANY_FLOWS)) {
        let measured = context.worker_with_rules(scenario, RULES, flows, packets, runs)?;
        let name = format!("{} ruled", scenario.name());
        found.rows.push(Row { rules: RULES, ..Row::new(&name, flows, NS, measured.ns) });
    }
    found.notes.push(
        "masq-udp, masq-tcp (the headline): a worker on two null ports, DPDK's packet buffers taken and given back, bursts of \
         32 from each port, both directions in equal parts, connections in random order, 64-byte packets, a table for \
         1,000,000 connections; the generator's own time is taken off. Ruled: with 100 rules in chain INPUT of table filter, that take all \
         packets in the end; a table for as many connections as are open, where these are more."
            .to_owned(),
    );
    Ok(found)
}
