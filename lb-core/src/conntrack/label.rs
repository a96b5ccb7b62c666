//! Labels of a connection: 128 bits that rules and operators set, each of which may have a name (`/etc/xtables/connlabel.conf`).
//!
//! Source of the facts: Linux, `net/netfilter/nf_conntrack_labels.c`; iptables-extensions(8), conntrack(8).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Which of them a connection has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Labels([u64; 2]);

impl Labels {
    pub const NONE: Labels = Labels([0; 2]);
    /// Bits are below this.
    pub const BITS: u8 = 128;

    /// Those of these bits; what is no bit is left out.
    pub fn of(bits: impl IntoIterator<Item = u8>) -> Labels {
        bits.into_iter().fold(Labels::NONE, Labels::with)
    }

    /// By number, the smallest first.
    pub fn bits(self) -> impl Iterator<Item = u8> {
        (0..Labels::BITS).filter(move |&bit| self.has(bit))
    }

    #[inline]
    pub const fn has(self, bit: u8) -> bool {
        bit < Labels::BITS && self.0[bit as usize / 64] >> (bit % 64) & 1 == 1
    }

    #[must_use]
    pub const fn with(mut self, bit: u8) -> Labels {
        if bit < Labels::BITS {
            self.0[bit as usize / 64] |= 1 << (bit % 64);
        }
        self
    }

    pub fn has_all(self, others: Labels) -> bool {
        self.and(others) == self
    }

    #[must_use]
    pub const fn and(self, Labels([low, high]): Labels) -> Labels {
        Labels([self.0[0] | low, self.0[1] | high])
    }

    #[must_use]
    pub const fn without(self, Labels([low, high]): Labels) -> Labels {
        Labels([self.0[0] & !low, self.0[1] & !high])
    }

    pub(crate) const fn halves(self) -> [u64; 2] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_is_one_of_its_own_and_there_are_no_others() {
        for bit in 0..Labels::BITS {
            let one = Labels::NONE.with(bit);
            assert_eq!(one.bits().collect::<Vec<_>>(), [bit]);
            assert_eq!(one.without(one), Labels::NONE);
        }
        assert_eq!(Labels::of([128, 255]), Labels::NONE);
        assert!(!Labels::of(0..=255).has(128));
        let (some, more) = (Labels::of([3, 127]), Labels::of([3, 64, 127]));
        assert!(more.has_all(some) && !some.has_all(more) && some.has_all(Labels::NONE));
        assert_eq!(some.and(Labels::of([64])), more);
    }
}
