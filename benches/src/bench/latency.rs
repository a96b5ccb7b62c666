//! How long a packet is in the worker when it has 70 % of what it can do.

use anyhow::Result;
use lb_benches::measure::{Scenario, Waited};
use lb_benches::traffic::Transport;

use super::{Context, Found};
use crate::results::{P50_US, P999_US, Row};

const FLOWS: u32 = 1_000_000;

pub(super) fn run(context: &Context) -> Result<Found> {
    let (packets, runs) = context.choose((1_000_000, 3), (4_000_000, 7));
    let waited: Waited =
        context.road_with(Scenario::Masq(Transport::Udp), FLOWS, packets, runs, &["--load", "0.7"])?;
    Ok(Found {
        rows: vec![
            Row::new("latency-udp", FLOWS, P50_US, waited.p50_us),
            Row::new("latency-udp", FLOWS, P999_US, waited.p999_us),
        ],
        notes: vec![
            "latency-udp: from a packet's coming to its leaving the path, packets one by one at equal distances at 70 % of the rate at which the generator and \
             path-udp together can do them; what the machine does meanwhile is in it."
                .to_owned(),
        ],
    })
}
