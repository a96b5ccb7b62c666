//! As many connections as a large table is for: opened, looked up, listed, expired; and what that does to others.

use anyhow::Result;
use lb_benches::team::size::Size;

use super::{Context, Found, own};
use crate::results::{COST, LISTED, LONGEST_CPU_US, LONGEST_US, NS, RESIDENT, Row, TO_A_TENTH};

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
    let classes: Vec<String> = many
        .stalls
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(class, count)| format!("{count} below {} µs", 1u64 << class))
        .collect();
    let rows = vec![
        row("size", RESIDENT, vec![many.resident_bytes as f64]),
        row("size open", NS, vec![many.open_ns]),
        row("size open", LONGEST_CPU_US, vec![many.longest_of_cpu_us]),
        row("size open", LONGEST_US, vec![many.longest_us]),
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
                 came in took while the table was filled, by the wall's clock and by the CPU time of the worker, which was put aside {} times: {}.",
                many.put_aside,
                classes.join(", ")
            ),
            format!(
                "size list, search, expire: by how much a packet costs more, as a share, while connections are listed in JSON as the API does, while such are sought as there \
                 are none of, and while {:.0} connections expire a second that are not the packets'; listed_per_second: when no packets come.",
                many.expired_a_second
            ),
        ],
    })
}
