//! Two workers' throughput over one's.

use anyhow::Result;
use lb_benches::team::two::{FLOWS, Two};

use super::{Context, Found, milliseconds, own};
use crate::results::{Row, TO_ONE};

pub(super) fn run(context: &Context) -> Result<Found> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Ok(Found::left_out("two-workers", "there is one CPU"));
    }
    let rounds = context.time.part(context.choose(7, 21), 1);
    let (most, time) = (rounds.most.to_string(), milliseconds(rounds));
    let two: Two = own(&["pair", &most, &time, if context.huge_pages { "true" } else { "false" }])?;
    let Two { own: owned, handed, handed_share } = two;
    context.time.had(owned.len() as u32, rounds);
    let row = |name, runs| Row { workers: 2, ..Row::new(name, FLOWS, TO_ONE, runs) };
    Ok(Found {
        rows: vec![row("two-workers own", owned), row("two-workers handed", handed)],
        notes: vec![format!(
            "two-workers: workers on CPUs 0 and 1, ports in memory, 64-byte UDP packets of {FLOWS} connections; what both send a second over the mean of \
             what a worker on either CPU sends alone, each round one after the other; the generator's time is taken off. Own: each gets its own \
             connections' packets; handed: the other's, of which {:.1} % were handed over.",
            100.0 * handed_share
        )],
    })
}
