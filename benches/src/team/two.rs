//! Two workers' throughput over one's: when each gets what it owns, and when each gets what the other owns.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use lb_core::flow::Hasher;
use lb_core::path::Owners;
use serde::{Deserialize, Serialize};

use super::{Crew, HASH_SEED};
use crate::runs::Runs;
use crate::traffic::{Script, client, shuffled};

/// Connections, of all workers together.
pub const FLOWS: u32 = 100_000;
const WINDOW: Duration = Duration::from_millis(100);

/// By round, two workers' throughput over what one has, and what share of their packets was handed over.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Two {
    pub own: Vec<f64>,
    pub handed: Vec<f64>,
    /// Of the packets that were to be handed over.
    pub handed_share: f64,
}

/// Measures rounds on CPUs 0 and 1: each CPU's worker alone, both with their own packets, both with the
/// other's.
///
/// # Errors
/// When workers do not start or do not get on.
pub fn measure(flows: u32, rounds: Runs, huge_pages: bool) -> Result<Two, String> {
    const CPUS: [u32; 2] = [0, 1];
    const OWN: u32 = 0;
    const OTHERS: u32 = 1;
    let all = shuffled(flows);
    let owners = Owners::new(Hasher::new(HASH_SEED), CPUS.len(), None);
    let owner = |&n: &u32| {
        let (address, port) = client(n);
        owners.of(IpAddr::V4(Ipv4Addr::from(address)), port).index()
    };
    let owned =
        [0, 1].map(|worker| -> Arc<[u32]> { all.iter().copied().filter(|n| owner(n) == worker).collect() });
    let all: Arc<[u32]> = all.into();
    let alone = |cpu| -> Result<Crew, String> {
        let crew = Crew::start(&[cpu], flows, huge_pages, vec![vec![Script::new(all.clone())]])?;
        crew.orders[0].pass(OWN, flows, |_| Default::default())?;
        Ok(crew)
    };
    let singles = [alone(CPUS[0])?, alone(CPUS[1])?];
    let scripts =
        [0, 1].map(|worker| vec![Script::new(owned[worker].clone()), Script::new(owned[1 - worker].clone())]);
    let both = Crew::start(&CPUS, flows, huge_pages, scripts.into())?;
    for (orders, owned) in both.orders.iter().zip(&owned) {
        orders.pass(OWN, owned.len() as u32, |_| Default::default())?;
    }
    let rate = |crew: &Crew, script| {
        crew.run(script);
        // Both are under way.
        std::thread::sleep(WINDOW / 10);
        let rate = crew.rate(WINDOW);
        crew.rest();
        rate
    };
    let moved = || both.team.counters().iter().map(|counters| counters.turns.handed_over.get()).sum::<u64>();
    let made = || both.orders.iter().map(|orders| orders.made.get()).sum::<u64>();
    let mut two = Two::default();
    let (mut handed, mut of) = (0, 0);
    let mut round = || {
        let one = singles.iter().map(|crew| rate(crew, OWN)).sum::<f64>() / 2.0;
        let own = rate(&both, OWN) / one;
        let (before, made_before) = (moved(), made());
        let others = rate(&both, OTHERS) / one;
        handed += moved() - before;
        of += made() - made_before;
        (own, others)
    };
    let _warms_up = round();
    (two.own, two.handed) = rounds.each().map(|_| round()).unzip();
    two.handed_share = handed as f64 / of.max(1) as f64;
    Ok(two)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_handed_over_or_is_not() {
        if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
            return;
        }
        let two = measure(2000, Runs::of(1), false).unwrap();
        assert!(two.own.iter().chain(&two.handed).all(|ratio| *ratio > 0.0), "{two:?}");
    }
}
