//! The same packets through the path alone, without worker, ports and DPDK's buffers: what `lb-core` itself
//! costs.

use anyhow::Result;
use lb_benches::measure::Scenario;
use lb_benches::traffic::{Spread, Transport};

use super::{Context, FLOWS, Found};
use crate::results::{NS, Row};

pub(super) fn run(context: &Context) -> Result<Found> {
    let (packets, runs) = context.choose((1_000_000, 5), (4_000_000, 11));
    let mut found = Found::default();
    let mut left = 2 * FLOWS.len();
    for (name, transport) in [("path-udp", Transport::Udp), ("path-tcp", Transport::Tcp)] {
        for flows in FLOWS {
            let runs = context.time.part(runs, left);
            left -= 1;
            let measured =
                context.road(Scenario::Masq(transport), Spread::default(), flows, packets, runs)?;
            found.rows.push(Row::new(name, flows, NS, measured.ns));
        }
    }
    found.notes.push(
        "path-udp, path-tcp: the same without worker, ports and DPDK's packet buffers, on transparent huge pages: what \
         lb-core itself costs."
            .to_owned(),
    );
    Ok(found)
}
