//! What a flood of new connections leaves to open ones.

use anyhow::Result;
use lb_benches::measure::{Kept, Scenario};
use lb_benches::traffic::Transport;

use super::{Context, Found};
use crate::results::{KEPT, PER_SECOND, Row};

const FLOWS: u32 = 100_000;
/// Places in the table: the flood has the others.
const CAPACITY: &str = "200000";
/// As many new connections as the worker can take, if nothing else came.
const TIMES: &str = "5";

pub(super) fn run(context: &Context) -> Result<Found> {
    let (packets, runs) = context.choose((300_000, 5), (1_000_000, 11));
    let mut found = Found::default();
    for (transport, left) in [(Transport::Tcp, 2), (Transport::Udp, 1)] {
        let runs = context.time.part(runs, left);
        let scenario = Scenario::Masq(transport);
        let more = ["--capacity", CAPACITY, "--flood", TIMES];
        let kept: Kept = context.road_with(scenario, FLOWS, packets, runs, &more)?;
        let name = scenario.name().replace("masq", "flood");
        let share = |rates: &[f64]| rates.iter().zip(&kept.alone).map(|(rate, alone)| rate / alone).collect();
        let row = |name: &str, metric, runs| Row::new(name, FLOWS, metric, runs);
        found.rows.push(row(&format!("{name} alone"), PER_SECOND, kept.alone.clone()));
        found.rows.push(row(&name, PER_SECOND, kept.flooded.clone()));
        found.rows.push(row(&name, KEPT, share(&kept.flooded)));
        found.rows.push(row(&format!("{name} undefended"), KEPT, share(&kept.undefended)));
        found.notes.push(format!(
            "{name}: a worker on ports in memory with rings of 1,024 packets. Alone: packets of open connections at 30 % of the rate that it can do ({:.0} ns each); then with {TIMES} \
             times as many first packets of clients that are made up as it can take if nothing else comes ({:.0} ns each, the table being full, {:.0} ns where it gives way), to the clients' port; undefended: the same with \
             drop_newcomers = 0. In turns; share_kept: over alone. Time is the worker's, without the generator's and what the machine does meanwhile.",
            kept.known_ns, kept.new_ns, kept.dropped_ns
        ));
    }
    Ok(found)
}
