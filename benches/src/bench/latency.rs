//! How long a packet is in the worker when it has 70 % of what it can do.

use anyhow::Result;
use lb_benches::measure::{Scenario, Waited};
use lb_benches::traffic::Transport;

use super::{Context, Found};
use crate::results::{P50_US, P999_US, Row};

const FLOWS: u32 = 1_000_000;

pub(super) fn run(context: &Context) -> Result<Found> {
    let (packets, runs) = context.choose((1_000_000, 3), (2_000_000, 7));
    let runs = context.time.part(runs, 1);
    let waited: Waited =
        context.road_with(Scenario::Masq(Transport::Udp), FLOWS, packets, runs, &["--load", "0.7"])?;
    let Waited { passed, own, control, switched } = waited;
    let rows = [("latency-udp", passed), ("latency-udp cpu", own), ("latency-udp control", control)];
    let rows = rows.into_iter().flat_map(|(name, waits)| {
        [(P50_US, waits.p50_us), (P999_US, waits.p999_us)]
            .map(|(metric, runs)| Row::new(name, FLOWS, metric, runs))
    });
    let [of_turns, of_control] = switched.map(|share| share * 1e6);
    Ok(Found {
        rows: rows.collect(),
        notes: vec![
            "latency-udp: from a packet's coming to its leaving the path, packets one by one at equal distances at 70 % of the rate at which the generator and \
             path-udp together can do them; what the machine does meanwhile is in it."
                .to_owned(),
            format!(
                "latency-udp cpu: the same packets through the same path, at 70 % of the rate of full bursts measured in this way, waiting calculated by Lindley's recursion from what each turn cost, generator and path: the cycles that passed or, in \
                 turns in which the thread had to leave its CPU for more than 3 µs ({of_turns:.0} of a million), those of its CPU time. No turn is left out. What takes the CPU from a virtual machine without the \
                 kernel's seeing it is still in it. latency-udp control: the same of a loop that waits for as long as the path and its generator take in the mean and does \
                 nothing else ({of_control:.0} of a million): what of it is the machine's."
            ),
        ],
    })
}
