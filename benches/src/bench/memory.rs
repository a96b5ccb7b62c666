//! What an IPv4 connection takes of memory: entry, index and timers.

use anyhow::Result;
use lb_benches::measure::Scenario;
use lb_benches::runs::Runs;
use lb_benches::traffic::{Spread, Transport};
use lb_core::flow::memory_needed;

use super::{Context, Found};
use crate::results::{BYTES, BYTES_RESIDENT, Row};

const NAME: &str = "masq-udp";
const CONNECTIONS: u32 = 1_000_000;

pub(super) fn run(context: &Context) -> Result<Found> {
    let each = |bytes: u64| bytes as f64 / f64::from(CONNECTIONS);
    // Measured, so that nothing is forgotten: a process with that many connections open.
    let measured =
        context.road(Scenario::Masq(Transport::Udp), Spread::default(), CONNECTIONS, 1, Runs::of(1))?;
    Ok(Found {
        rows: vec![
            Row::new(NAME, CONNECTIONS, BYTES, vec![each(memory_needed(CONNECTIONS, 0) as u64)]),
            Row::new(NAME, CONNECTIONS, BYTES_RESIDENT, vec![each(measured.resident_bytes)]),
        ],
        notes: vec![
            "bytes_per_connection: what is taken at the start for so many IPv4 connections, index and timers included; …_resident: by how \
             much a process grew that has as many open."
                .to_owned(),
        ],
    })
}
