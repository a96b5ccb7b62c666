//! What a new connection costs by scheduler, with few real servers and with many.

use anyhow::Result;
use lb_benches::measure::Scenario;
use lb_benches::traffic::{Spread, Transport};
use lb_core::ipvs::SchedulerKind;

use super::{Context, Found};
use crate::results::{NS, RATIO_TO_10, Row};

/// Connections that are alive at a time.
const ALIVE: u32 = 100_000;
const SERVERS: [u32; 3] = [10, 100, 1_000];

pub(super) fn run(context: &Context) -> Result<Found> {
    let (connections, runs) = context.choose((50_000, 3), (500_000, 5));
    let mut found = Found::default();
    let kinds = SchedulerKind::ALL.iter().filter(|&&kind| kind != SchedulerKind::NoScheduler);
    // A quick run does without the one in the middle.
    let numbers: Vec<u32> = SERVERS.into_iter().step_by(context.choose(2, 1)).collect();
    let mut left = kinds.clone().count() * numbers.len();
    for &scheduler in kinds {
        let mut with_ten = None;
        for &servers in &numbers {
            let runs = context.time.part(runs, left);
            left -= 1;
            let name = format!("new-udp {} {servers}", scheduler.name());
            let spread = Spread { scheduler, servers };
            let measured = context.road(Scenario::New(Transport::Udp), spread, ALIVE, connections, runs)?;
            let row = Row::new(&name, ALIVE, NS, measured.ns);
            let few = *with_ten.get_or_insert(row.median);
            if servers != SERVERS[0] {
                let ratio = Row::new(&name, ALIVE, RATIO_TO_10, vec![row.median / few]);
                found.rows.push(Row { runs: row.runs, ..ratio });
            }
            found.rows.push(row);
        }
    }
    found.notes.push(
        "new-udp SCHEDULER SERVERS: the path alone (no port, no worker around it), connections of one packet, each ended by its timeout, 100,000 \
         alive, real servers of equal weight. UDP connections are inactive: to sed and nq all servers are idle."
            .to_owned(),
    );
    Ok(found)
}
