//! One worker with as many connections as a table is for: opened, looked up, listed, expired.
//!
//! Time is virtual while connections are opened, a million in a second of it; while they expire it is the real one, so that as
//! many end in each second.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use lb_control::api::conntrack::Tracked;
use lb_core::path::Sought;
use lb_core::tables::Protocol;
use lb_core::time::Tick;
use serde::{Deserialize, Serialize};

use super::Crew;
use crate::measure::resident_bytes;
use crate::traffic::{Script, shuffled};
use crate::tsc;

/// What IPVS gives a UDP connection, in ticks.
const TIMEOUT: u32 = 300 * Tick::PER_SECOND;
/// Connections that are opened, and expire, in a second.
const A_SECOND: u32 = 1_000_000;

/// How long turns took.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Turns {
    /// How many took so long, in the CPU's time: from below 1 microsecond on, each class to twice as many as the one before.
    pub by_length: Vec<u64>,
    pub longest_us: f64,
    /// Those before or in which the worker had to wait for its CPU, which are not among the others.
    pub put_aside: u64,
    pub longest_put_aside_us: f64,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Size {
    /// By how much the process grew for the table.
    pub resident_bytes: u64,
    /// A new connection, the generator not counted.
    pub open_ns: f64,
    /// How long a burst and the turn that it came in took, while connections were opened.
    pub turns: Turns,
    /// The same of turns in which nothing was done for 10 microseconds, for as long: what the machine does by itself.
    pub idle_turns: Turns,
    /// How often the worker had to wait for a page of memory meanwhile.
    pub page_faults: u64,
    /// Packets of all connections, a figure a window.
    pub lookup_ns: Vec<f64>,
    /// By how much a packet costs more while connections are listed: all, and such as there are none of.
    pub list_cost: Vec<f64>,
    pub search_cost: Vec<f64>,
    /// Connections that are listed a second while no packets come.
    pub listed_a_second: f64,
    /// By how much a packet of other connections costs more while a million expire a second.
    pub expire_cost: Vec<f64>,
    /// Connections that expired in those windows, a second.
    pub expired_a_second: f64,
}

/// How long each step takes.
#[derive(Clone, Copy)]
pub struct Plan {
    pub flows: u32,
    pub windows: u32,
    pub window: Duration,
    /// Otherwise what comes after the look-ups is left out.
    pub is_whole: bool,
    pub cpu: u32,
    pub huge_pages: bool,
}

const ALL: u32 = 0;
const FEW: u32 = 1;

/// Measures in this process, whose other threads are best elsewhere than on the worker's CPU.
///
/// # Errors
/// When the worker does not start, or something else became of the connections than was to be measured.
pub fn measure(plan: Plan) -> Result<Size, String> {
    let Plan { flows, windows, window, is_whole, cpu, huge_pages } = plan;
    let order: Arc<[u32]> = shuffled(flows).into();
    let few: Arc<[u32]> = order[..flows as usize / 10].into();
    let resident = resident_bytes();
    let crew = Crew::start(&[cpu], flows, huge_pages, vec![vec![Script::new(order), Script::new(few)]])?;
    let mut size = Size { resident_bytes: resident_bytes().saturating_sub(resident), ..Size::default() };
    let (orders, counters) = (&*crew.orders[0], crew.team.counters()[0].clone());
    let per_ns = tsc::per_nanosecond();
    let second_of = |made: u64| Tick((made * u64::from(Tick::PER_SECOND) / u64::from(A_SECOND)) as u32);

    let faults = page_faults();
    let (before, begun) = (crew.done()[0], Instant::now());
    orders.pass(ALL, flows, second_of)?;
    let (after, took) = (crew.done()[0], begun.elapsed());
    size.page_faults = page_faults() - faults;
    let opened = counters.flows.inserted.get();
    if opened != u64::from(flows) {
        return Err(format!("{flows} connections were to be opened, but {opened} were"));
    }
    size.open_ns =
        ((after.at - before.at) - (after.making - before.making)) as f64 / f64::from(flows) / per_ns;
    size.turns = orders.stalls.seen();
    orders.spin(took)?;
    size.idle_turns = orders.spins.seen();

    let ns = || 1.0 / crew.rate(window) / per_ns;
    orders.run(ALL);
    std::thread::sleep(window);
    size.lookup_ns = (0..windows).map(|_| ns()).collect();
    if !is_whole {
        return Ok(size);
    }

    let none = Sought { protocol: Some(Protocol::SCTP), ..Sought::default() };
    for (sought, costs) in [(Sought::default(), &mut size.list_cost), (none, &mut size.search_cost)] {
        for _ in 0..windows {
            let plain = ns();
            let is_over = AtomicBool::new(false);
            let listing = std::thread::scope(|scope| {
                scope.spawn(|| list(&crew, &sought, || is_over.load(Relaxed)));
                std::thread::sleep(window / 10);
                let ns = ns();
                is_over.store(true, Relaxed);
                // One that finds nothing comes to its end soon.
                crew.rest();
                ns
            });
            orders.run(ALL);
            std::thread::sleep(window / 10);
            costs.push(listing / plain - 1.0);
        }
    }
    crew.rest();
    let begun = Instant::now();
    let lines = list(&crew, &Sought::default(), || false)?;
    if lines != flows {
        return Err(format!("{flows} connections were to be listed, but {lines} were"));
    }
    size.listed_a_second = f64::from(lines) / begun.elapsed().as_secs_f64();

    // Each is a second younger than the million before it.
    let young = second_of(flows.into());
    orders.pass(ALL, flows, |made| Tick(young.0 + second_of(made).0))?;
    let soon = Tick(young.0 + TIMEOUT - Tick::PER_SECOND);
    orders.now.store(soon.0, Relaxed);
    orders.run(FEW);
    std::thread::sleep(2 * window);
    let plain = median((0..windows).map(|_| ns()).collect());
    let (expired, begun) = (counters.flows.expired.get(), Instant::now());
    let tick = || {
        let ticks = begun.elapsed().as_millis() * u128::from(Tick::PER_SECOND) / 1000;
        orders.now.store(soon.0 + ticks as u32, Relaxed);
    };
    let ahead = |until: Duration| {
        while begun.elapsed() < until {
            tick();
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    // A second after `soon` the first one is due, and those that are not refreshed a tenth of all later; the wheel is late by a sixth of a second
    // at most.
    let second =
        |connections: u32| Duration::from_secs_f64(1.0 + f64::from(connections) / f64::from(A_SECOND));
    ahead(second(flows / 10) + Duration::from_millis(200));
    let (first, from) = (counters.flows.expired.get(), begun.elapsed());
    while begun.elapsed() + window < second(flows) {
        let before = crew.done()[0];
        ahead(begun.elapsed() + window);
        size.expire_cost.push(crew.done()[0].cycles_since(&before) / per_ns / plain - 1.0);
    }
    let gone = counters.flows.expired.get();
    size.expired_a_second = (gone - first) as f64 / (begun.elapsed() - from).as_secs_f64();
    ahead(second(flows) + Duration::from_secs(1));
    crew.rest();
    let (gone, all) = (counters.flows.expired.get() - expired, u64::from(flows - flows / 10));
    if gone != all {
        return Err(format!("{all} connections were to expire, but {gone} did"));
    }
    Ok(size)
}

/// Lists as the API does, a line each, until it is over or enough. Returns how many lines there were.
fn list(crew: &Crew, sought: &Sought, is_enough: impl Fn() -> bool) -> Result<u32, String> {
    let (mut lines, mut text) = (0, Vec::new());
    let listed = crew.team.list_flows(sought, &mut |_, view| {
        if is_enough() {
            return ControlFlow::Break(());
        }
        if let Some(tracked) = Tracked::of(&view)
            && serde_json::to_writer(&mut text, &tracked).is_ok()
        {
            lines += 1;
        }
        if text.len() > 1 << 16 {
            text.clear();
        }
        ControlFlow::Continue(())
    });
    listed.map_err(|stalled| stalled.to_string())?;
    Ok(lines)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How many accesses of the worker's to memory had to wait for a page.
fn page_faults() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |task: std::fs::DirEntry| -> Option<u64> {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        // Minor and major ones: fields 10 and 12 of proc_pid_stat(5), of which the name is the second.
        let field = |number: usize| rest.split(' ').nth(number - 3)?.parse::<u64>().ok();
        name.starts_with("worker").then(|| Some(field(10)? + field(12)?)).flatten()
    };
    tasks.filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_opened_looked_up_listed_and_expire() {
        let window = Duration::from_millis(20);
        let plan = Plan { flows: 5000, windows: 2, window, is_whole: true, cpu: 0, huge_pages: false };
        let size = measure(plan).unwrap();
        let noted = |turns: &Turns| turns.by_length.iter().sum::<u64>() + turns.put_aside;
        assert_eq!([&size.lookup_ns, &size.list_cost, &size.search_cost].map(Vec::len), [2; 3]);
        assert!(size.open_ns > 0.0 && noted(&size.turns) >= 5000 / 32 && noted(&size.idle_turns) > 0);
    }
}
