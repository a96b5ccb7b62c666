//! `limit`: so many packets in a time, of all that come here.

use super::Match;
use crate::rule::prelude::*;

use crate::rule::bucket::Bucket;
use crate::rule::rate::{self, Rate};
use crate::time::Tick;

#[derive(Clone, PartialEq, Debug)]
pub struct Limit {
    rate: Rate,
    burst: u32,
    bucket: Kept<Bucket>,
}

const DEFAULT_BURST: u32 = 5;
/// Units of credit that a tick brings.
const PER_TICK: u64 = rate::SCALE as u64 / Tick::PER_SECOND as u64;

impl Default for Limit {
    fn default() -> Limit {
        Limit { rate: Rate { packets: 3, unit: rate::HOUR }, burst: DEFAULT_BURST, bucket: Kept::default() }
    }
}

impl Limit {
    fn cap(&self) -> u64 {
        u64::from(self.rate.cost()) * u64::from(self.burst)
    }
}

impl Extension for Limit {
    const NAME: &'static str = "limit";
    const OPTIONS: &'static [Opt] = &[opt("limit", 0), opt("limit-burst", 1)];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => {
                let Some(rate) = Rate::read(given.value) else {
                    return Err(Error::parameter(format!("bad rate \"{}\"'", given.value)));
                };
                if rate.cost() == 0 {
                    return Err(Error::parameter(format!("Rate too fast \"{}\"", given.value)));
                }
                self.rate = rate;
            }
            _ => self.burst = given.number(0, 10_000)? as u32,
        }
        Ok(())
    }

    fn check(&self, _: &Place<'_>) -> Result<(), Refused> {
        let is_fine = self.burst > 0 && self.rate.cost().checked_mul(self.burst).is_some();
        if is_fine { Ok(()) } else { Err(Refused::OutOfRange) }
    }

    fn bind(&mut self, _: &mut Named) -> Result<(), Refused> {
        self.bucket.set(std::sync::Arc::new(Bucket::new(self.cap(), Tick(0))));
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, " --limit {}", self.rate.shown());
        if self.burst != DEFAULT_BURST {
            put!(out, " --limit-burst {}", self.burst);
        }
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " limit: avg {} burst {}", self.rate.shown(), self.burst);
    }
}

impl Match for Limit {
    fn matches(&self, view: &mut View<'_>) -> bool {
        let (cost, cap) = (self.rate.cost().into(), self.cap());
        self.bucket.get().is_some_and(|bucket| match view.is_dry {
            true => bucket.copy().take(cost, PER_TICK, cap, view.now),
            false => bucket.take(cost, PER_TICK, cap, view.now),
        })
    }
}
