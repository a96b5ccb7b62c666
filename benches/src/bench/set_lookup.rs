//! IP sets: what a look-up costs among few addresses and among many, how long `ipset restore` of many takes,
//! and one `ipset add` to them.

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use lb_control::sets::IpSets;
use lb_core::path::BURST;
use lb_core::set::{Asking, Facts, SetId, Sets, Side};
use lb_core::time::Tick;

use super::restore::feed;
use super::{Context, Found, succeeded};
use crate::lbd::{Lbd, missing};
use crate::results::{NS_PER_LOOKUP, Row, SECONDS};

/// Addresses in the sets that are compared.
const SIZES: [u32; 2] = [1_000, 1_000_000];
/// So that neither neighbours nor the order of the additions help.
const SCATTER: u32 = 0x9e37_79b1;

pub(super) fn run(context: &Context) -> Result<Found> {
    let mut found = Found::default();
    let (lookups, runs) = context.choose((1_000_000, 5), (5_000_000, 11));
    for size in SIZES {
        let (sets, set) = of(size)?;
        let ns = (0..runs).map(|_| look_up(&sets, set, size, lookups)).collect();
        found.rows.push(Row::new(&format!("set-lookup {size}"), 0, NS_PER_LOOKUP, ns));
    }
    if let [few, many] = &found.rows[..] {
        let more = format!("{} over {}", many.name(), SIZES[0]);
        let more = Row::new(&more, 0, NS_PER_LOOKUP, vec![many.median - few.median]);
        found.rows.push(Row { runs: many.runs, ..more });
    }
    found.notes.push(
        "set-lookup N: hash:ip of N IPv4 addresses, asked as a rule asks it, half of the addresses are in it, at random; fetched and asked for \
         bursts of 32, as packets come."
            .to_owned(),
    );
    if let Some(why) = missing(context) {
        found.notes.push(format!("set-lookup by ipset was left out: {why}"));
        return Ok(found);
    }
    by_ipset(context, &mut found)?;
    Ok(found)
}

/// Each another one; hash:ip has no place for 0.0.0.0.
fn address(n: u32) -> u32 {
    (n + 1).wrapping_mul(SCATTER)
}

/// A set of the first `size` addresses, as `lbd` makes it.
fn of(size: u32) -> Result<(Arc<Sets>, SetId)> {
    let mut sets = IpSets::new(0x5851_f42d_4c95_7f2d);
    let adds = (0..size).map(|n| format!("add addresses {}", Ipv4Addr::from(address(n))));
    let create = format!("create addresses hash:ip maxelem {size}");
    for line in std::iter::once(create).chain(adds) {
        sets.begin();
        sets.line(&line, false, Tick(0)).map_err(|refusal| anyhow!("{line}: {}", refusal.message))?;
    }
    Ok((sets.take_change().context("no sets")?, sets.id("addresses").context("no set")?))
}

/// Nanoseconds that one takes.
fn look_up(sets: &Sets, set: SetId, size: u32, lookups: u32) -> f64 {
    let facts = |source: Ipv4Addr| Facts {
        source: source.into(),
        destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        protocol: 6,
        ports: Some((4000, 80)),
        mark: 0,
        in_interface: "",
        out_interface: "",
        macs: ([0; 6], [0; 6]),
        len: 60,
    };
    let (mut random, mut hits) = (1_u64, 0);
    let begun = Instant::now();
    for _ in 0..lookups / BURST as u32 {
        let burst: [Facts<'_>; BURST] = std::array::from_fn(|_| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            facts(address((((random >> 32) * u64::from(size * 2)) >> 32) as u32).into())
        });
        for facts in &burst {
            sets.prefetch(set, black_box(facts), &[Side::Source]);
        }
        for facts in &burst {
            let found = sets.matches(set, black_box(facts), &[Side::Source], Tick(0), &Asking::default());
            hits += u32::from(found.is_some());
        }
    }
    let ns = begun.elapsed().as_secs_f64() * 1e9 / f64::from(lookups);
    assert!(hits.abs_diff(lookups / 2) < lookups / 50, "{hits} of {lookups}");
    ns
}

/// `ipset restore` of a million addresses, and one more by `ipset add`, under a worker that uses the set at
/// once.
fn by_ipset(context: &Context, found: &mut Found) -> Result<()> {
    let most = SIZES[1];
    let lbd = Lbd::start(context, 0)?;
    let mut file = format!("create addresses hash:ip maxelem {}\n", most * 2);
    for n in 0..most {
        writeln!(file, "add addresses {}", Ipv4Addr::from(address(n)))?;
    }
    let ipset = |words: &[&str]| {
        let mut command = lbd.lbctl(context)?;
        command.arg("ipset").args(words);
        Ok::<_, anyhow::Error>(command)
    };
    let (mut restored, mut added, mut renewed) = (Vec::new(), Vec::new(), 0);
    for _ in context.rounds(context.choose(3, 7), 1) {
        let mut command = ipset(&["restore"])?;
        command.stdin(std::process::Stdio::piped());
        let before = lbd.generation()?;
        let begun = Instant::now();
        feed(&mut command, &file)?;
        lbd.until_newer(before)?;
        restored.push(begun.elapsed().as_secs_f64());
        for n in most..most + 10 {
            let before = lbd.generation()?;
            let mut command = ipset(&["add", "addresses", &Ipv4Addr::from(address(n)).to_string()])?;
            let begun = Instant::now();
            succeeded(&mut command)?;
            added.push(begun.elapsed().as_secs_f64());
            renewed += u32::from(lbd.generation()? != before);
        }
        let listed = succeeded(&mut ipset(&["list", "-t"])?)?;
        ensure!(listed.contains(&format!("Number of entries: {}", most + 10)), "{listed}");
        succeeded(&mut ipset(&["destroy"])?)?;
    }
    // Once the host may have changed something meanwhile, as when a link of the twin comes up.
    ensure!(renewed <= 1, "{renewed} of {} addresses made new tables", added.len());
    lbd.stop();
    found.rows.push(Row::new(&format!("set-lookup load {most}"), 0, SECONDS, restored));
    found.rows.push(Row::new(&format!("set-lookup add to {most}"), 0, SECONDS, added));
    found.notes.push(
        "set-lookup load, add: `lbctl ipset restore` of 1,000,000 lines from its start until the worker uses the set; `lbctl ipset add` of one \
         address more, the start of its process included, which makes no new tables."
            .to_owned(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_looked_up_is_there() {
        let (sets, set) = of(1_000).unwrap();
        assert!(look_up(&sets, set, 1_000, 100_000) > 0.0);
    }
}
