//! What a packet of an open connection costs a core, all in all: the headline.
//!
//! A worker on DPDK's null ports, with real packet buffers; only the generator's time is taken off.

use anyhow::Result;
use lb_benches::measure::Scenario;
use lb_benches::traffic::Transport;
use lb_core::tables::Forward;

use super::{Context, FLOWS, Found};
use crate::results::{NS, Row};

/// Connections that a table is large for.
const MANY_FLOWS: u32 = 10_000_000;
const RULES: u32 = 100;

pub(super) fn run(context: &Context) -> Result<Found> {
    let (packets, runs) = context.choose((1_000_000, 5), (4_000_000, 11));
    let mut found = Found::default();
    let udp = Scenario::Masq(Transport::Udp);
    let mut cases = Vec::new();
    for (scenario, rules) in [(udp, 0), (Scenario::Masq(Transport::Tcp), 0), (udp, RULES)] {
        cases.extend(FLOWS.map(|flows| (scenario, rules, flows)));
    }
    cases.extend(
        [Scenario::Masq(Transport::Tcp), Scenario::OneWay(Forward::Direct)]
            .map(|scenario| (scenario, RULES, 1_000_000)),
    );
    cases.extend((!context.is_quick).then_some((udp, RULES, MANY_FLOWS)));
    for (n, &(scenario, rules, flows)) in cases.iter().enumerate() {
        let runs = context.time.part(runs, cases.len() - n);
        let measured = context.worker_with_rules(scenario, rules, flows, packets, runs)?;
        let ruled = if rules > 0 { " ruled" } else { "" };
        let name = format!("{}{ruled}", scenario.name());
        found.rows.push(Row { rules, ..Row::new(&name, flows, NS, measured.ns) });
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
