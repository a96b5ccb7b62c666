//! What a client's packet costs by the method that it gets to its real server by, beside masquerading.
//!
//! In turns with masquerading, and held against the run beside it: what else the machine does meanwhile is in
//! both.

use anyhow::Result;
use lb_benches::measure::Scenario;
use lb_benches::runs::Runs;
use lb_benches::traffic::Transport;

use super::{Context, FLOWS, Found};
use crate::results::{NS, OVER_MASQ, Row};

/// In each round.
const RUNS: u32 = 3;

pub(super) fn run(context: &Context) -> Result<Found> {
    let (packets, rounds) = context.choose((500_000, 3), (2_000_000, 5));
    // A quick run does without the others.
    let numbers = &FLOWS[context.choose(FLOWS.len() - 1, 0)..];
    let is_method = |s: &Scenario| matches!(s, Scenario::OneWay(_) | Scenario::FullNat | Scenario::Snat);
    let scenarios: Vec<Scenario> = Scenario::all().filter(is_method).collect();
    let mut found = Found::default();
    for (n, &flows) in numbers.iter().enumerate() {
        let mut costs = vec![(Vec::new(), Vec::new()); scenarios.len()];
        for _ in context.rounds(rounds, numbers.len() - n) {
            let measure = |scenario| -> Result<Vec<f64>> {
                Ok(context.worker(scenario, flows, packets, Runs::of(RUNS))?.ns)
            };
            let masq = median(measure(Scenario::Masq(Transport::Udp))?);
            for (&scenario, (ns, over)) in scenarios.iter().zip(&mut costs) {
                let cost = measure(scenario)?;
                ns.extend_from_slice(&cost);
                over.push(median(cost) - masq);
            }
        }
        for (scenario, (ns, over)) in scenarios.iter().zip(costs) {
            found.rows.push(Row::new(scenario.name(), flows, NS, ns));
            found.rows.push(Row::new(scenario.name(), flows, OVER_MASQ, over));
        }
    }
    found.notes.push(
        "fullnat-udp: as masq-udp, in both directions, from four local addresses. snat-udp: so as well, of no virtual service: by `nat POSTROUTING -o lan -j SNAT`. direct-udp, tunnel-udp, gue-udp, gre-udp: as masq-udp, of packets from clients alone, since real servers answer by another \
         way; the other port is asked in vain. tunnel-udp: IPIP. Tunnels over IPv4, without checksums of their own. Over masquerading: the \
         difference of the medians of each round, in which all of them are measured one after the other."
            .to_owned(),
    );
    Ok(found)
}

fn median(runs: Vec<f64>) -> f64 {
    Row::new("", 0, NS, runs).median
}
