//! `connlimit`: how many connections there are from, or to, the addresses of a net.

use std::sync::Arc;

use super::Match;
use crate::rule::counted::Alive;
use crate::rule::header::prefix_mask;
use crate::rule::options::bits;
use crate::rule::prelude::*;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConnLimit {
    limit: u32,
    /// So many or fewer; else more.
    is_upto: bool,
    /// Bits of the address that tell one from another; `None`: all.
    prefix: Option<u8>,
    is_destination: bool,
    alive: Kept<Of>,
}

/// The numbers, and which of them are this rule's.
pub(crate) struct Of {
    alive: Arc<Alive>,
    rule: u64,
}

impl ConnLimit {
    fn prefix(&self, family: Family) -> u8 {
        self.prefix.unwrap_or(family.bits() as u8)
    }

    fn side(&self) -> &'static str {
        if self.is_destination { "dst" } else { "src" }
    }
}

impl Extension for ConnLimit {
    const NAME: &'static str = "connlimit";
    const OPTIONS: &'static [Opt] = &[
        opt("connlimit-upto", 0).negatable().not_with(1 << 1),
        opt("connlimit-above", 1).negatable().not_with(1 << 0),
        opt("connlimit-mask", 2),
        flag("connlimit-saddr", 3).not_with(1 << 4),
        flag("connlimit-daddr", 4).not_with(1 << 3),
    ];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        match given.id() {
            id @ (0 | 1) => {
                self.limit = given.u32()?;
                self.is_upto = (id == 0) != given.is_negated;
            }
            2 => self.prefix = Some(given.prefix_len(given.value)?),
            id => self.is_destination = id == 4,
        }
        Ok(())
    }

    fn finish(&mut self, seen: u32, around: &Around<'_>) -> Result<(), Error> {
        if seen & 3 == 0 {
            return Err(Error::parameter(
                "You must specify \"--connlimit-above\" or \"--connlimit-upto\".",
            ));
        }
        // Without a mask it is the same rule as with all of it.
        self.prefix = Some(self.prefix(around.family));
        Ok(())
    }

    fn bind(&mut self, named: &mut Named) -> Result<(), Refused> {
        let (alive, rule) = named.alive();
        self.alive.set(Arc::new(Of { alive, rule }));
        Ok(())
    }

    fn save(&self, out: &mut String, family: Family) {
        let how = if self.is_upto { "upto" } else { "above" };
        put!(out, " --connlimit-{how} {} --connlimit-mask {}", self.limit, self.prefix(family));
        out.push_str(if self.is_destination { " --connlimit-daddr" } else { " --connlimit-saddr" });
    }

    fn list(&self, out: &mut String, style: &Style<'_>, _: &Header) {
        let how = if self.is_upto { "<=" } else { ">" };
        put!(out, " #conn {}/{} {how} {}", self.side(), self.prefix(style.family), self.limit);
    }
}

impl Match for ConnLimit {
    fn matches(&self, view: &mut View<'_>) -> bool {
        let Some(of) = self.alive.get() else { return false };
        let family = view.family();
        let address = bits(if self.is_destination { view.tuple.dst } else { view.tuple.src });
        let net = address & prefix_mask(self.prefix(family).into(), family);
        let zone = view.connection.map_or(0, |connection| connection.zones.id());
        let key = of.alive.keys().of([net, zone.into()], of.rule);
        let is_above = match view.is_dry {
            true => of.alive.total(key) >= self.limit,
            false => view.counted.is_above(&of.alive, view.flow, key, self.limit),
        };
        is_above != self.is_upto
    }
}
