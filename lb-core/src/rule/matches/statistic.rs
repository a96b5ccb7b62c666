//! `statistic`: one packet in so many, by chance or by counting.

use std::sync::Arc;

use super::Match;
use crate::rule::prelude::*;
use crate::rule::state::Number;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Statistic {
    mode: Mode,
    is_not: bool,
    state: Kept<Number>,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum Mode {
    #[default]
    Unsaid,
    /// In 2⁻³¹.
    Random { chance: u32 },
    /// The `packet`th of `every`, from 0.
    Nth { every: u32, packet: u32 },
}

const SCALE: f64 = 2_147_483_648.0;

impl Extension for Statistic {
    const NAME: &'static str = "statistic";
    const OPTIONS: &'static [Opt] = &[
        opt("mode", 0),
        opt("probability", 1).negatable().with(1),
        opt("every", 2).negatable().with(1 | 1 << 3),
        opt("packet", 3).with(1 << 2),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match (given.id(), &mut self.mode) {
            (0, mode) => {
                *mode = match given.value {
                    "random" => Mode::Random { chance: 0 },
                    "nth" => Mode::Nth { every: 0, packet: 0 },
                    other => return Err(Error::parameter(format!("Bad mode \"{other}\""))),
                }
            }
            (1, Mode::Random { chance }) => {
                let value = given.value.parse::<f64>().ok().filter(|value| (0.0..=1.0).contains(value));
                *chance = (value.ok_or_else(|| given.out_of_range(0, 1))? * SCALE).round() as u32;
                self.is_not = given.is_negated;
            }
            (2, Mode::Nth { every, .. }) => {
                *every = given.number(1, u32::MAX.into())? as u32;
                self.is_not = given.is_negated;
            }
            (3, Mode::Nth { packet, .. }) => *packet = given.u32()?,
            _ => return Err(Error::parameter(format!("statistic: --{} is of another mode", given.option.name))),
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, _: &Around<'_>) -> Result<(), Error> {
        match self.mode {
            Mode::Unsaid | Mode::Random { .. } if seen & 2 == 0 => {
                Err(Error::parameter("--probability must be specified when using random mode"))
            }
            Mode::Nth { .. } if seen & (1 << 2 | 1 << 3) == 0 => {
                Err(Error::parameter("--every and --packet must be specified when using nth mode"))
            }
            Mode::Nth { every, packet } if packet >= every => {
                Err(Error::parameter("the --packet p must be 0 <= p <= n-1"))
            }
            _ => Ok(()),
        }
    }

    fn bind(&mut self, _: &mut Named) -> Result<(), Refused> {
        let start = match self.mode {
            // So that the wanted one comes up when it is counted to 0.
            Mode::Nth { every, packet } => u64::from((every - packet) % every),
            _ => std::ptr::from_ref(self).addr() as u64,
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
        match self.mode {
            Mode::Unsaid => {}
            Mode::Random { chance } => {
                put!(out, "{dashes}mode random{}{dashes}probability {:.11}", not(self.is_not), f64::from(chance) / SCALE);
            }
            Mode::Nth { every, packet } => {
                put!(out, "{dashes}mode nth{}{dashes}every {every}", not(self.is_not));
                if packet != 0 || dashes == " --" {
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
            Mode::Unsaid => false,
            Mode::Random { chance } => state.random() >> 1 < chance,
            Mode::Nth { every, .. } => state.turn(every.into()) == 0,
        };
        is != self.is_not
    }
}
