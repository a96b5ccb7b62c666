//! `statistic`: one packet in so many, by chance or by counting.

use std::sync::Arc;

use super::Match;
use crate::rule::prelude::*;
use crate::rule::state::Number;
use crate::rule::text::is_blank;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Statistic {
    mode: Mode,
    is_not: bool,
    /// In 2⁻³¹.
    chance: u32,
    /// The `packet`th of `every`, from 0.
    every: u32,
    packet: u32,
    state: Kept<Number>,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum Mode {
    #[default]
    Random,
    Nth,
}

const SCALE: f64 = 2_147_483_648.0;

impl Extension for Statistic {
    const NAME: &'static str = "statistic";
    const OPTIONS: &'static [Opt] = &[
        opt("mode", 0).must(),
        opt("probability", 1).negatable().with(1).not_with(1 << 2 | 1 << 3),
        opt("every", 2).negatable().with(1 | 1 << 3),
        opt("packet", 3).with(1 << 2),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            0 => {
                self.mode = match given.value {
                    "random" => Mode::Random,
                    "nth" => Mode::Nth,
                    other => return Err(Error::parameter(format!("Bad mode \"{other}\""))),
                }
            }
            1 => {
                let value = given.value.trim_start_matches(is_blank).parse::<f64>().ok();
                // No number is none of them, as in iptables.
                let value = value.filter(|value| value.is_nan() || (0.0..=1.0).contains(value));
                self.chance = (value.ok_or_else(|| given.out_of_range(0, 1))? * SCALE).round() as u32;
                self.is_not = given.is_negated;
            }
            2 => {
                self.every = given.number(1, u32::MAX.into())? as u32;
                self.is_not = given.is_negated;
            }
            _ => self.packet = given.u32()?,
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        match self.mode {
            Mode::Random if seen & 1 << 1 == 0 => {
                Err(Error::parameter("--probability must be specified when using random mode"))
            }
            Mode::Nth if seen & (1 << 2 | 1 << 3) == 0 => {
                Err(Error::parameter("--every and --packet must be specified when using nth mode"))
            }
            Mode::Nth if self.packet >= self.every => {
                Err(Error::parameter("the --packet p must be 0 <= p <= n-1"))
            }
            _ => Ok(()),
        }
    }

    fn bind(&mut self, _: &mut Named) -> Result<(), Refused> {
        let start = match self.mode {
            // So that the wanted one comes up when it is counted to 0.
            Mode::Nth => u64::from((self.every - self.packet) % self.every),
            Mode::Random => std::ptr::from_ref(self).addr() as u64,
        };
        self.state.set(Arc::new(Number::new(start)));
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        self.put(out, " --");
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" statistic");
        self.put(out, " ");
    }
}

impl Statistic {
    fn put(&self, out: &mut String, dashes: &str) {
        let (is_not, Statistic { every, packet, .. }) = (not(self.is_not), self);
        match self.mode {
            Mode::Random => {
                let chance = f64::from(self.chance) / SCALE;
                put!(out, "{dashes}mode random{is_not}{dashes}probability {chance:.11}");
            }
            Mode::Nth => {
                put!(out, "{dashes}mode nth{is_not}{dashes}every {every}");
                if *packet != 0 || dashes == " --" {
                    put!(out, "{dashes}packet {packet}");
                }
            }
        }
    }
}

impl Match for Statistic {
    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(state) = self.state.get() else { return false };
        let copy = state.copy();
        let state = if view.is_dry { &copy } else { state };
        let is = match self.mode {
            Mode::Random => state.random() >> 1 < self.chance,
            Mode::Nth => state.turn(self.every.into()) == 0,
        };
        is != self.is_not
    }
}
