//! As many connections as a large table is for: opened, looked up, listed, expired; and what that does to others.

use anyhow::Result;
use lb_benches::team::size::{Size, Turns};

use super::{Context, Found, own};
use crate::results::{COST, LISTED, LONGEST_CPU_US, NS, RESIDENT, Row, TO_A_TENTH};

pub(super) fn run(context: &Context) -> Result<Found> {
    let flows: u32 = context.choose(1_000_000, 10_000_000);
    let (windows, window) = context.choose(("3", "200"), ("3", "300"));
    let (cpu, huge_pages) = (context.cpu.to_string(), context.huge_pages.to_string());
    let size = |flows: u32, is_whole: &str| -> Result<Size> {
        own(&["table", &flows.to_string(), windows, window, is_whole, &cpu, &huge_pages])
    };
    let (few, many) = (size(flows / 10, "false")?, size(flows, "true")?);
    let row = |name: &str, metric, runs| Row::new(name, flows, metric, runs);
    let tenth = Row::new("size", flows / 10, NS, few.lookup_ns);
    let all = row("size", NS, many.lookup_ns);
    let ratio = row("size", TO_A_TENTH, vec![all.median / tenth.median]);
    let rows = vec![
        row("size", RESIDENT, vec![many.resident_bytes as f64]),
        row("size open", NS, vec![many.open_ns]),
        row("size open", LONGEST_CPU_US, vec![many.turns.longest_us]),
        row("size idle", LONGEST_CPU_US, vec![many.idle_turns.longest_us]),
        tenth,
        all,
        ratio,
        row("size list", COST, many.list_cost),
        row("size search", COST, many.search_cost),
        row("size list", LISTED, vec![many.listed_a_second]),
        row("size expire", COST, many.expire_cost),
    ];
    Ok(Found {
        rows,
        notes: vec![
            format!(
                "size: one worker, ports in memory, a table for as many UDP connections as are opened; the generator's time is taken off; resident_bytes: by \
                 how much the process grows for it; to_a_tenth: over a table for a tenth of them, as full. longest: the longest that a burst and the turn it \
                 came in took while the table was filled, in the CPU time of the worker, which waited for {} pages of memory meanwhile (its ports' frames among them): {}. \
                 size idle: the same of turns of 10 µs in which the worker did nothing, for as long, which is the machine's: {}.",
                many.page_faults,
                histogram(&many.turns),
                histogram(&many.idle_turns)
            ),
            format!(
                "size list, search, expire: by how much a packet costs more, as a share, while connections are listed in JSON as the API does, while such are sought as there \
                 are none of, and while {:.0} connections expire a second that are not the packets'; listed_per_second: when no packets come.",
                many.expired_a_second
            ),
        ],
    })
}

fn histogram(turns: &Turns) -> String {
    let counts = turns.by_length.iter().enumerate().filter(|(_, count)| **count > 0);
    let classes: Vec<String> =
        counts.map(|(class, count)| format!("{count} below {} µs", 1u64 << class)).collect();
    let (put_aside, longest) = (turns.put_aside, turns.longest_put_aside_us);
    format!(
        "{}; and {put_aside} in or before which others had its CPU, of up to {longest:.0} µs",
        classes.join(", ")
    )
}
