//! Zones: in which of several worlds of connections a packet is looked up. Two connections with one tuple in different zones are two.
//!
//! Source of the facts: Linux, `include/net/netfilter/nf_conntrack_zones.h`, `net/netfilter/xt_CT.c`.

use super::Told;
use super::helper::HelperId;
use crate::flow::Direction;

/// The zone of each direction of a connection, or that a packet is looked up in, should it go that way. They are the same, or one is 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Zones {
    by_direction: [u16; 2],
}

impl Zones {
    /// What all packets are in of which no rule says otherwise.
    pub const NONE: Zones = Zones { by_direction: [0; 2] };

    /// `only`: the other direction is in zone 0.
    pub const fn new(id: u16, only: Option<Direction>) -> Zones {
        Zones {
            by_direction: match only {
                None => [id; 2],
                Some(Direction::Original) => [id, 0],
                Some(Direction::Reply) => [0, id],
            },
        }
    }

    #[inline]
    pub const fn of(self, direction: Direction) -> u16 {
        self.by_direction[direction as usize]
    }

    /// The number, whichever direction it is of.
    #[inline]
    pub const fn id(self) -> u16 {
        self.by_direction[0] | self.by_direction[1]
    }

    /// The direction that alone is in a zone.
    pub const fn only(self) -> Option<Direction> {
        match self.by_direction {
            [0, 0] => None,
            [_, 0] => Some(Direction::Original),
            [0, _] => Some(Direction::Reply),
            _ => None,
        }
    }

    pub(crate) const fn to_bits(self) -> u32 {
        let [original, reply] = self.by_direction;
        (original as u32) << 16 | reply as u32
    }

    /// `None`: they differ, and none is 0.
    pub(crate) const fn from_bits(bits: u32) -> Option<Zones> {
        let by_direction = [(bits >> 16) as u16, bits as u16];
        match by_direction {
            [original, reply] if original != reply && original != 0 && reply != 0 => None,
            _ => Some(Zones { by_direction }),
        }
    }
}

/// What the first `CT` target that a packet meets says of its connection.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Template {
    pub zone: u16,
    /// The zone is in the low half of the packet's mark.
    pub is_marked: bool,
    /// One direction alone is in the zone.
    pub only: Option<Direction>,
    /// What of the connection is not told to those who read events.
    pub untold: Told,
    pub helper: HelperId,
}

impl Template {
    /// The zones of a packet with such a mark.
    pub const fn zones(&self, mark: u32) -> Zones {
        Zones::new(if self.is_marked { mark as u16 } else { self.zone }, self.only)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn zones_come_back_from_their_bits(id: u16, only in prop_oneof![
            Just(None), Just(Some(Direction::Original)), Just(Some(Direction::Reply))
        ]) {
            let zones = Zones::new(id, only);
            prop_assert_eq!(Zones::from_bits(zones.to_bits()), Some(zones));
            prop_assert_eq!((zones.id(), zones.only()), (id, only.filter(|_| id != 0)));
        }

        #[test]
        fn bits_that_no_zones_have_are_none(bits: u32) {
            if let Some(zones) = Zones::from_bits(bits) {
                prop_assert_eq!(Zones::new(zones.id(), zones.only()), zones);
            }
        }
    }
}
