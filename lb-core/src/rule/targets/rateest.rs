//! `RATEEST`: counts packets for an estimator that `rateest` asks; each goes on to the next rule.

use super::Target;
use crate::rule::estimator::{Estimator, LONGEST_NAME};
use crate::rule::prelude::*;
use crate::rule::state::shared;
use crate::rule::text::is_blank;
use crate::rule::view::Verdict;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct RateEst {
    name: String,
    /// 2 to this power quarters of a second.
    interval_log: u8,
    ewma_log: u8,
    /// In microseconds, as given.
    interval: u64,
    time: u64,
    estimator: Kept<Estimator>,
}

const SECOND: u64 = 1_000_000;
const QUARTER: u64 = SECOND / 4;
/// 8 seconds.
const MOST_INTERVAL_LOG: u8 = 5;

impl Extension for RateEst {
    const NAME: &'static str = "RATEEST";
    const OPTIONS: &'static [Opt] =
        &[opt("rateest-name", 0).must(), opt("rateest-interval", 1), opt("rateest-ewmalog", 2)];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let bad = |what| Error::parameter(format!("RATEEST: bad {what} value \"{}\"", given.value));
        match given.id() {
            0 => self.name = given.value.chars().take(LONGEST_NAME).collect(),
            1 => self.interval = microseconds(given.value).ok_or_else(|| bad("interval"))?,
            _ => self.time = microseconds(given.value).ok_or_else(|| bad("ewmalog"))?,
        }
        Ok(())
    }

    fn finish(&mut self, _: u32, _: &Around<'_>) -> Result<(), Error> {
        let log = (0..=MOST_INTERVAL_LOG).find(|log| self.interval <= QUARTER << log);
        self.interval_log = log.ok_or_else(|| Error::parameter("RATEEST: interval value is too large"))?;
        // After the wanted time a rate is to have risen to what an interval's share makes of it in that time (tc(8)'s estimator).
        let takes = |log: u8| self.interval as f64 / -(1.0 - 0.5_f64.powi(log.into())).ln();
        let above = (1..32).find(|&log| takes(log) > self.time as f64).unwrap_or(32);
        if !(2..32).contains(&above) {
            return Err(Error::parameter("RATEEST: ewmalog value is out of range"));
        }
        self.ewma_log = above - 1;
        // Rules are the same that have the same estimator.
        (self.interval, self.time) = (0, 0);
        Ok(())
    }

    fn bind(&mut self, named: &mut Named) -> Result<(), Refused> {
        let (interval, ewma) = (self.interval_log, self.ewma_log);
        let estimator = shared(&mut named.estimators, &self.name, || Estimator::new(interval, ewma));
        if !estimator.is(interval, ewma) {
            return Err(Refused::Invalid);
        }
        self.estimator.set(estimator);
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, " --rateest-name {}", self.name);
        self.put_times(out, " --rateest-");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " name {}", self.name);
        self.put_times(out, " ");
    }
}

impl RateEst {
    fn put_times(&self, out: &mut String, dashes: &str) {
        let interval = QUARTER << self.interval_log;
        put!(out, "{dashes}interval {}{dashes}ewmalog {}", shown(interval), shown(interval << self.ewma_log));
    }
}

/// `250ms`, `0.5s`, `8000us`; without a unit microseconds.
fn microseconds(text: &str) -> Option<u64> {
    let text = text.trim_start_matches(is_blank);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "s" | "sec" | "secs" => 1e6,
        "ms" | "msec" | "msecs" => 1e3,
        "" | "us" | "usec" | "usecs" => 1.0,
        _ => return None,
    };
    // As in iptables 32 bits of it count.
    number.parse::<f64>().ok().map(|value| u64::from((value * factor) as u64 as u32))
}

fn shown(microseconds: u64) -> String {
    match microseconds {
        SECOND.. => format!("{:.1}s", microseconds as f64 / 1e6),
        1000.. => format!("{:.1}ms", microseconds as f64 / 1e3),
        _ => format!("{microseconds}us"),
    }
}

impl Target for RateEst {
    fn act(&self, view: &mut View<'_>, _: u32) -> Option<Verdict> {
        if let Some(estimator) = self.estimator.get().filter(|_| !view.is_dry) {
            estimator.count(view.headers.ip_len, view.now);
        }
        None
    }
}
