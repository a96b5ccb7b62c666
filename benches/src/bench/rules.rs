//! What rules cost the path: packets of open connections and connections that begin, with none and with many.
//!
//! All are measured one after the other in each round, and held against the same round's: what else the
//! machine does meanwhile is in all of them.

use anyhow::Result;
use lb_benches::measure::Scenario;
use lb_benches::runs::Runs;
use lb_benches::traffic::Transport;

use super::{Context, Found};
use crate::results::{NS, OVER_NONE, RATIO_TO_10_RULES, Row};

const FLOWS: u32 = 1_000;
/// Connections that are alive while others begin.
const ALIVE: u32 = 100_000;
const MANY: u32 = 10_000;

pub(super) fn run(context: &Context) -> Result<Found> {
    let rounds = context.choose(3, 5);
    let mut found = Found::default();
    let mut add = |bench: &str, flows, rules, metric: &str, figures: Vec<f64>| {
        found.rows.push(Row { rules, ..Row::new(bench, flows, metric, figures) });
    };
    // Packets of a run, and runs. A connection that begins takes as long as twenty packets.
    let length = context.choose((1_000_000, 3), (2_000_000, 5));
    let length_of_new = context.choose((100_000, 3), (500_000, 3));
    let cases = [
        ("ruled-udp", Scenario::Masq(Transport::Udp), FLOWS, [0, 10, MANY], length),
        ("ruled-new-udp", Scenario::New(Transport::Udp), ALIVE, [10, 1_000, MANY], length_of_new),
    ];
    for ((bench, scenario, flows, counts, (packets, runs)), left) in cases.into_iter().zip([2, 1]) {
        let mut costs = counts.map(|_| (Vec::new(), Vec::new()));
        let is_new = matches!(scenario, Scenario::New(_));
        for _ in context.rounds(rounds, left) {
            let mut first = None;
            for (&rules, (ns, against)) in counts.iter().zip(&mut costs) {
                let measured = context.road_with_rules(scenario, rules, flows, packets, Runs::of(runs))?.ns;
                let median = Row::new("", 0, NS, measured.clone()).median;
                ns.extend(measured);
                let first = *first.get_or_insert(median);
                against.push(if is_new { median / first } else { median - first });
            }
        }
        let metric = if is_new { RATIO_TO_10_RULES } else { OVER_NONE };
        for ((rules, (ns, against)), place) in counts.into_iter().zip(costs).zip(0..) {
            add(bench, flows, rules, NS, ns);
            if place > 0 {
                add(&format!("{bench} {rules}"), flows, rules, metric, against);
            }
        }
    }
    found.notes.push(format!(
        "ruled-udp: as path-udp with so many rules in chain INPUT of table filter, half of them `-s HOST -j DROP`, half `-s NET -p tcp --dport PORT -j ACCEPT`, and \
         a last one that takes the packets; over none: the difference of the medians of each round. ruled-new-udp: as new-udp, the path alone, {ALIVE} \
         alive; to 10 rules: the quotient of the medians of each round."
    ));
    Ok(found)
}
