//! Network prefix translation for IPv6 (NPTv6, RFC 6296): one prefix of an address becomes another, host by host and without any state, and another 16 bits
//! of it take up what that would change in a checksum: nobody's checksum changes.

use crate::wire::checksum::{self, Delta};

/// Longest prefix that has an address of its own for each host: the interface identifier stays free (RFC 6296 §3.5).
pub const LONGEST: u8 = 64;

/// Which prefix becomes which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Translation {
    pub from: u128,
    pub from_len: u8,
    pub to: u128,
    pub to_len: u8,
}

impl Translation {
    /// What an address becomes. `None`: it is one of those that nothing maps, whose interface identifier is all ones (RFC 6296 §3.5).
    ///
    /// The 16 bits that take up the difference are those of the subnet where prefixes leave these free (§3.4), else the first of the interface identifier that are
    /// not all ones. As in the kernel the address need not be of the prefix; better: also then, and where prefixes are not equally long, checksums stay.
    pub fn map(&self, address: u128) -> Option<u128> {
        const SUBNET: u8 = 48;
        let len = self.from_len.max(self.to_len);
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        let moved = address & !mask | self.to & mask;
        let shift_of = |word: u32| 112 - 16 * word;
        let word_of = |word: u32| (moved >> shift_of(word)) as u16;
        let word = match len {
            ..=SUBNET => 3,
            _ => (4..8).find(|word| word_of(*word) != u16::MAX)?,
        };
        let Delta(change) = Delta::address(&address.to_be_bytes(), &moved.to_be_bytes());
        let adjusted = match checksum::add(word_of(word), !change) {
            // The other zero (§3.1).
            u16::MAX => 0,
            adjusted => adjusted,
        };
        let cleared = moved & !(u128::from(u16::MAX) << shift_of(word));
        Some(cleared | u128::from(adjusted) << shift_of(word))
    }

    /// Whether it is of the prefix that is translated.
    pub fn has(&self, address: u128) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.from_len)).unwrap_or(0);
        (address ^ self.from) & mask == 0
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn number(text: &str) -> u128 {
        text.parse::<Ipv6Addr>().unwrap().into()
    }

    fn prefix(text: &str) -> (u128, u8) {
        let (address, len) = text.split_once('/').unwrap();
        (number(address), len.parse().unwrap())
    }

    fn translation(from: &str, to: &str) -> Translation {
        let ((from, from_len), (to, to_len)) = (prefix(from), prefix(to));
        Translation { from, from_len, to, to_len }
    }

    #[test]
    fn addresses_become_what_they_do_in_the_kernel() {
        // Seen on Linux 6.18: prefixes, an address and what it became; `problem`: nothing maps it.
        let lines = include_str!("../tests/oracle/npt.txt").lines().filter(|line| !line.starts_with('#'));
        let mut seen = 0;
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let became = Some(words[3]).filter(|word| *word != "problem").map(number);
            assert_eq!(translation(words[0], words[1]).map(number(words[2])), became, "{line}");
            seen += 1;
        }
        assert!(seen > 100, "{seen}");
    }

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 6296 §3.4 and its appendix B.
        let there = translation("fd01:203:405::/48", "2001:db8:1::/48");
        assert_eq!(there.map(number("fd01:203:405:1::1234")), Some(number("2001:db8:1:d550::1234")));
    }

    #[test]
    fn the_word_that_takes_up_the_difference_is_the_subnets_or_one_of_the_interface_identifier() {
        // To /48 the fourth word; beyond that the first of the fifth to the eighth that is not all ones (RFC 6296 §3.4, §3.5).
        for (from, to, address, expected) in [
            ("fd00::/48", "fd01::/48", "fd00::1:2:3:4:5", 3),
            ("fd00::/49", "fd01::/49", "fd00:0:0:7:2:3:4:5", 4),
            ("fd00::/64", "fd01::/64", "fd00:0:0:7:ffff:3:4:5", 5),
            ("fd00::/64", "fd01::/64", "fd00:0:0:7:ffff:ffff:4:5", 6),
            ("fd00::/64", "fd01::/64", "fd00:0:0:7:ffff:ffff:ffff:5", 7),
        ] {
            let change = translation(from, to);
            let address = number(address);
            let got = change.map(address).unwrap();
            let sums = [address, got].map(|address| checksum::sum(&address.to_be_bytes()) % u16::MAX);
            assert_eq!(sums[0], sums[1], "{from} {to}");
            let moved = address & u128::MAX >> change.from_len | change.to;
            assert_eq!((moved ^ got).leading_zeros() / 16, expected, "{}", Ipv6Addr::from(got));
        }
        assert_eq!(translation("fd00::/64", "fd01::/64").map(number("fd00::ffff:ffff:ffff:ffff")), None);
        assert_eq!(LONGEST, 64);
    }

    #[test]
    fn an_address_is_of_a_prefix_by_that_ones_bits() {
        let there = translation("2001:db8:8000::/33", "fd00::/48");
        let has = ["2001:db8:8000::1", "2001:db8:ffff::1", "2001:db8:7fff::1"]
            .map(|address| there.has(number(address)));
        assert_eq!(has, [true, true, false]);
        assert!(translation("::/0", "fd00::/48").has(u128::MAX));
    }

    proptest::proptest! {
        #[test]
        fn what_comes_back_is_what_went_and_no_checksum_changes(address: u128, from: u128, to: u128, len in 0..=64_u8) {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            let there = Translation { from: from & mask, from_len: len, to: to & mask, to_len: len };
            let back = Translation { from: to & mask, from_len: len, to: from & mask, to_len: len };
            let own = address & !mask | from & mask;
            if let Some(outside) = there.map(own) {
                let sums = [own, outside].map(|address| checksum::sum(&address.to_be_bytes()) % u16::MAX);
                proptest::prop_assert_eq!(sums[0], sums[1]);
                proptest::prop_assert!(there.has(own) && back.has(outside));
                let word = |address: u128| (address >> 64) as u16 == u16::MAX;
                // All ones and all zeros of the subnet are one (RFC 6296 §3.1).
                if !word(own) || len > 48 {
                    proptest::prop_assert_eq!(back.map(outside), Some(own));
                }
            }
        }
    }
}
