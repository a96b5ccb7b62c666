//! `pkttype`: whom the frame was sent to.

use super::Match;
use crate::rule::prelude::*;

use crate::wire::array;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct PktType {
    kind: Kind,
    is_not: bool,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) enum Kind {
    #[default]
    Unicast,
    Broadcast,
    Multicast,
    /// Not to us: no such frame comes to a rule.
    OtherHost,
}

impl Kind {
    pub(super) fn of(view: &View<'_>) -> Kind {
        match array::<6>(view.frame, 0) {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => Kind::Broadcast,
            Some([first, ..]) if first & 1 != 0 => Kind::Multicast,
            _ => Kind::Unicast,
        }
    }
}

/// The first name of each is the one that is printed.
const KINDS: [(&str, Kind); 7] = [
    ("unicast", Kind::Unicast),
    ("broadcast", Kind::Broadcast),
    ("multicast", Kind::Multicast),
    ("otherhost", Kind::OtherHost),
    ("bcast", Kind::Broadcast),
    ("mcast", Kind::Multicast),
    ("host", Kind::Unicast),
];

impl PktType {
    fn name(&self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(name, _)| name)
    }
}

impl Extension for PktType {
    const NAME: &'static str = "pkttype";
    const OPTIONS: &'static [Opt] = &[opt("pkt-type", 0).must().negatable()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        let found = KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(given.value));
        let Some((_, kind)) = found else {
            return Err(Error::parameter(format!("Bad packet type '{}'", given.value)));
        };
        *self = PktType { kind: *kind, is_not: given.is_negated };
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        put!(out, "{} --pkt-type {}", not(self.is_not), self.name());
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        put!(out, " PKTTYPE {}= {}", if self.is_not { "!" } else { "" }, self.name());
    }
}

impl Match for PktType {
    fn depends(&self) -> Depends {
        Depends::Packet
    }

    fn matches(&self, view: &mut View<'_>) -> bool {
        (Kind::of(view) == self.kind) != self.is_not
    }
}
